#include "launcher/plan.h"
#include "launcher/spec.h"
#include "proto/base.h"

#include <stdio.h>

#define UNDO_MS 5000 /* the guest has hardly seen a device that is undone */

static const struct {
	const char *add, *del, *key;
} commands[] = {
	[VM_OBJECT] = {"object-add", "object-del", "id"},
	[VM_BLOCKDEV] = {"blockdev-add", "blockdev-del", "node-name"},
	[VM_NETDEV] = {"netdev_add", "netdev_del", "id"},
	[VM_DEVICE] = {"device_add", "device_del", "id"},
};

/* {"execute": *_del, "arguments": ..., "wait"?} for an object. */
static json_t *del_step(const struct vm_object *o, uint64_t timeout_ms)
{
	const char *id = vm_object_id(o);
	json_t *step = json_pack("{s:s, s:{s:s}}", "execute", commands[o->kind].del, "arguments",
				 commands[o->kind].key, id);

	if (step && o->kind == VM_DEVICE)
		json_object_set_new(step, "wait",
				    json_pack("{s:s, s:{s:s}, s:I}", "event", "DEVICE_DELETED", "match", "device", id,
					      "timeout", (json_int_t)timeout_ms));
	return step;
}

/* {"execute": *_add, "arguments": ...}. */
static json_t *add_step(const struct vm_object *o)
{
	return json_pack("{s:s, s:O, s:s*}", "execute", commands[o->kind].add, "arguments", o->args, 
			 o->secret_is_line ? "secret-line" : "secret", o->secret_file);
}

static int append_consume(json_t *plan, json_t *step, const char *item, struct qmp_error *err)
{
	if (!step || json_object_set_new(step, "item", json_string(item)) < 0 || json_array_append_new(plan, step) < 0)
		return qmp_error_errno(err, -ENOMEM, "making a plan");
	return 0;
}

static json_t *getfd_step(const char *name)
{
	return json_pack("{s:s, s:{s:s}, s:s}", "execute", "getfd", "arguments", "fdname", name, "fd", name);
}

int vm_plan_add(json_t *plan, const struct vm_fragment *fragment, struct qmp_error *err)
{
	int r = 0;

	for (size_t i = 0; i < fragment->n_objects && r == 0; i++) {
		const struct vm_object *o = &fragment->objects[i];
		json_t *step;
		if (o->fd_name) {
			step = getfd_step(o->fd_name);
			json_object_set_new(step, "undo",
					    json_pack("{s:s, s:{s:s}, s:b}", "execute", "closefd", "arguments", "fdname",
						      o->fd_name, "optional", 1));
			r = append_consume(plan, step, fragment->item, err);
		}
		step = add_step(o);
		json_object_set_new(step, "undo", del_step(o, UNDO_MS));
		if (r == 0)
			r = append_consume(plan, step, fragment->item, err);
		else
			json_decref(step);
	}
	return r;
}

int vm_plan_remove(json_t *plan, const struct vm_fragment *fragment, uint64_t timeout_ms, struct qmp_error *err)
{
	int r = 0;

	for (size_t i = fragment->n_objects; i > 0 && r == 0; i--) {
		const struct vm_object *o = &fragment->objects[i - 1];
		json_t *step = del_step(o, timeout_ms), *undo = add_step(o);
		if (o->fd_name)
			json_object_set_new(undo, "fd", json_string(o->fd_name));
		json_object_set_new(step, "undo", undo);
		r = append_consume(plan, step, fragment->item, err);
	}
	return r;
}

json_t *vm_plan_undo(const json_t *plan)
{
	json_t *all = json_array();
	int r = all ? 0 : -ENOMEM;

	for (size_t i = json_array_size(plan); i > 0 && r == 0; i--) {
		const json_t *step = json_array_get(plan, i - 1);
		json_t *undo = json_copy(json_object_get(step, "undo"));
		const char *item = text_of(step, "item"), *fd = text_of(undo, "fd");
		if (!undo)
			continue;
		if (fd)
			r = append_consume(all, getfd_step(fd), item, NULL);
		json_object_del(undo, "fd");
		if (r == 0)
			r = append_consume(all, undo, item, NULL);
		else
			json_decref(undo);
	}
	if (r < 0) {
		json_decref(all);
		return NULL;
	}
	return all;
}

bool vm_plan_touches(const json_t *plan, const char *item)
{
	json_t *step;
	size_t i;

	json_array_foreach(plan, i, step)
		if (streq(text_of(step, "item"), item))
			return true;
	return false;
}

bool vm_step_object(const json_t *step, enum vm_object_kind *ret_kind, const char **ret_id, bool *ret_adds)
{
	const char *command = text_of(step, "execute");

	for (size_t k = 0; command && k < ARRAY_SIZE(commands); k++) {
		bool adds = streq(command, commands[k].add);
		if (!adds && !streq(command, commands[k].del))
			continue;
		*ret_kind = (enum vm_object_kind)k;
		*ret_id = text_of(json_object_get(step, "arguments"), commands[k].key);
		*ret_adds = adds;
		return true;
	}
	return false;
}

static void take_item(json_t *result, const json_t *want, const char *kind, const char *id)
{
	json_t *item = vm_spec_find(want, kind, id), *before = vm_spec_find(result, kind, id);
	json_t *list = json_object_get(result, kind);
	size_t at = 0;

	if (before)
		while (json_array_get(list, at) != before)
			at++;
	if (before && item)
		json_array_set(list, at, item);
	else if (before)
		json_array_remove(list, at);
	else if (item && list)
		json_array_append(list, item);
	else if (item)
		json_object_set_new(result, kind, json_pack("[O]", item));
}

json_t *vm_plan_result(const json_t *have, const json_t *want, const json_t *plan)
{
	json_t *result = json_deep_copy(have), *step;
	size_t i;

	json_array_foreach(plan, i, step)
	{
		const char *item = text_of(step, "item"), *dot = item ? strchr(item, '.') : NULL;
		char kind[16];
		snprintf(kind, sizeof kind, "%.*s", dot ? (int)(dot - item) : 0, item ? item : "");
		if (item && streq(item, "scsi"))
			json_object_set(result, "scsi-port", json_object_get(want, "scsi-port"));
		else if (streq(kind, "disks") || streq(kind, "nics"))
			take_item(result, want, kind, dot + 1);
	}
	return result;
}

/* ---- The difference ---- */

struct diff {
	const json_t *have, *want;
	const struct vm_host *host;
	uint64_t timeout_ms;
	json_t *plan, *next_start;
	struct qmp_error *err;
	bool scsi_planned; /* the controller is in the plan already */
};

static void later(const struct diff *d, const char *path, json_t *from, json_t *to, const char *why)
{
	json_t *entry = json_pack("{s:s, s:s}", "path", path, "why", why);

	json_object_set(entry, "from", from ? from : json_null());
	json_object_set(entry, "to", to ? to : json_null());
	json_array_append_new(d->next_start, entry);
}

static int build(const struct diff *d, const json_t *spec, const char *kind, const json_t *item,
		 struct vm_fragment *ret)
{
	return streq(kind, "disks") ? vm_fragment_disk(spec, item, d->host, ret, d->err)
				    : vm_fragment_nic(spec, item, d->host, ret, d->err);
}

static bool is_cold_only(const json_t *item)
{
	const char *bus = text_of(item, "bus");

	return bus && (streq(bus, "sata") || streq(bus, "ide"));
}

/* The controller comes with the first disk that needs it. */
static int add_scsi(struct diff *d, const json_t *item)
{
	const char *bus = text_of(item, "bus");
	struct vm_fragment f;
	int r;

	if (!bus || !streq(bus, "scsi") || json_object_get(d->have, "scsi-port") || d->scsi_planned)
		return 0;
	r = vm_fragment_scsi(d->want, d->host, &f, d->err);
	if (r < 0)
		return r;
	r = vm_plan_add(d->plan, &f, d->err);
	vm_fragment_deinit(&f);
	d->scsi_planned = true;
	return r;
}

static int add_item(struct diff *d, const char *kind, json_t *item, const char *path)
{
	struct vm_fragment f;
	int r;

	if (is_cold_only(item)) {
		later(d, path, NULL, item, "a disk on the sata or ide bus cannot be hot-plugged");
		return 0;
	}
	r = add_scsi(d, item);
	if (r < 0)
		return r;
	r = build(d, d->want, kind, item, &f);
	if (r < 0)
		return r;
	r = vm_plan_add(d->plan, &f, d->err);
	vm_fragment_deinit(&f);
	return r;
}

static int remove_item(const struct diff *d, const char *kind, json_t *item, const char *path)
{
	struct vm_fragment f;
	int r;

	if (is_cold_only(item)) {
		later(d, path, item, NULL, "a disk on the sata or ide bus cannot be unplugged");
		return 0;
	}
	r = build(d, d->have, kind, item, &f);
	if (r < 0)
		return r;
	r = vm_plan_remove(d->plan, &f, d->timeout_ms, d->err);
	vm_fragment_deinit(&f);
	return r;
}

/* QEMU keeps a limit that a qom-set does not name, so every one is named: 0 is none. */
static json_t *all_limits(const json_t *limits)
{
	static const char *const names[] = {"bps-total",     "bps-read",     "bps-write",     "iops-total",
					    "iops-read",     "iops-write",   "bps-total-max", "bps-read-max",
					    "bps-write-max", "iops-total-max", "iops-read-max", "iops-write-max"};
	json_t *all = json_object();

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		json_t *value = json_object_get(limits, names[i]);
		json_object_set_new(all, names[i], value ? json_incref(value) : json_integer(0));
	}
	return all;
}

/* Limits change in place when nothing else differs and there was a throttle before. */
static int change_item(const struct diff *d, json_t *have, json_t *want, const char *path)
{
	json_auto_t *a = json_copy(have), *b = json_copy(want);
	json_t *limits = json_object_get(want, "throttle"), *before = json_object_get(have, "throttle");
	_cleanup_free_ char *group = qmp_asprintf("/objects/%s-limits", text_of(have, "id"));
	json_t *step;

	json_object_del(a, "throttle");
	json_object_del(b, "throttle");
	if (!limits || !before || !json_equal(a, b)) {
		later(d, path, have, want, "this cannot change while the VM runs");
		return 0;
	}
	step = json_pack("{s:s, s:{s:s, s:s, s:o}, s:{s:s, s:{s:s, s:s, s:o}}}", "execute", "qom-set", "arguments",
			 "path", group, "property", "limits", "value", all_limits(limits), "undo", "execute", "qom-set", "arguments",
			 "path", group, "property", "limits", "value", all_limits(before));
	return append_consume(d->plan, step, path, d->err);
}

/* Removals come first: they free ports. */
static int diff_items(struct diff *d, const char *kind, bool removals)
{
	const json_t *list = json_object_get(removals ? d->have : d->want, kind);
	json_t *item;
	size_t i;

	json_array_foreach(list, i, item)
	{
		json_t *other = vm_spec_find(removals ? d->want : d->have, kind, text_of(item, "id"));
		_cleanup_free_ char *path = qmp_asprintf("%s.%s", kind, text_of(item, "id"));
		int r = 0;
		if (!other)
			r = removals ? remove_item(d, kind, item, path) : add_item(d, kind, item, path);
		else if (!removals && !json_equal(item, other))
			r = change_item(d, other, item, path);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Items have steps of their own; the rest is the keeper's or people's, not QEMU's. */
static bool is_not_qemus(const char *key)
{
	static const char *const keys[] = {"disks", "nics", "scsi-port", "restart", "observe-group", "description", "log-limit"};

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (streq(key, keys[i]))
			return true;
	return false;
}

static void diff_rest(const struct diff *d)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)d->want, key, value)
		if (!is_not_qemus(key) && !json_equal(value, json_object_get(d->have, key)))
			later(d, key, json_object_get(d->have, key), value, "this counts from the next start");
	json_object_foreach((json_t *)d->have, key, value)
		if (!json_object_get(d->want, key) && !is_not_qemus(key))
			later(d, key, value, NULL, "this counts from the next start");
}

int vm_diff(const json_t *have, const json_t *want, const struct vm_host *host, uint64_t timeout_ms, json_t *plan,
	    json_t *next_start, struct qmp_error *err)
{
	struct diff d = {have, want, host, timeout_ms, plan, next_start, err};
	static const char *const kinds[] = {"disks", "nics"};

	for (int removals = 1; removals >= 0; removals--)
		for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
			int r = diff_items(&d, kinds[k], removals);
			if (r < 0)
				return r;
		}
	diff_rest(&d);
	return 0;
}
