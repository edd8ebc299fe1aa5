/*
 * The operations that control.sock has beside QEMU's commands, one entry each in the table at the end.
 */
#include "qmpctl/agent.h"
#include "qmpctl/console.h"
#include "qmpctl/keeper.h"
#include "qmpctl/drift.h"
#include "qmpctl/pending.h"
#include "qmpctl/ready.h"
#include "qmpctl/restart.h"
#include "images/answer.h"
#include "images/chain.h"
#include "images/head.h"
#include "launcher/location.h"
#include "launcher/pool.h"
#include "launcher/security.h"
#include "launcher/spec.h"
#include "proto/base.h"

#include <stdio.h>
#include <time.h>

/* ---- status, show, schema ---- */

static void start_status(struct op_call *call)
{
	const struct guest *g = call->guest;
	const struct vm *vm = g->vm;
	struct qmp_error why = {0};
	json_auto_t *spec = vm_spec_on_disk(vm, &why);
	json_t *s = json_pack("{s:s, s:s, s:O?, s:o, s:i}", "name", vm->name, "state", vm_state_name(vm->state), "uuid",
			      json_object_get(vm->spec, "uuid"), "pending", pending_status(g), "keeper-pid",
			      (int)getpid());

	if (vm->qemu) {
		json_object_set_new(s, "pid", json_integer(vm_child_pid(vm_qemu_child(vm->qemu))));
		json_object_set_new(s, "uptime", json_integer(vm_uptime(vm)));
		json_object_update_missing(s, vm->host_facts);
		json_object_set_new(s, "agent", agent_status(g->agent));
	}
	if (!spec)
		json_object_set_new(s, "spec-error", qmp_json_text(why.message));
	if (vm->state == VM_UNRESPONSIVE) {
		_cleanup_free_ char *silence = vm_why_unresponsive(vm);
		json_object_set_new(s, "unresponsive",
				    json_pack("{s:I, s:s?}", "since", (json_int_t)(time(NULL) - (vm_seconds() - vm->since)), "why",
					      silence));
	}
	if (g->running)
		json_object_set_new(s, "operation", json_string(g->running->op->name));
	if (g->running && stop_stage(g->running))
		json_object_set_new(s, "how", json_string(stop_stage(g->running)));
	if (drift_status(g))
		json_object_set(s, "differences", (json_t *)drift_status(g));
	if (drift_others(g))
		json_object_set(s, "others", (json_t *)drift_others(g));
	if (vm->last_end)
		json_object_set(s, "last-end", vm->last_end);
	json_object_set_new(s, "restart", restart_status(g->restart));
	op_return(call, s);
}

static void start_show(struct op_call *call)
{
	const struct vm *vm = call->guest->vm;
	struct qmp_error why = {0};
	json_auto_t *spec = vm_spec_on_disk(vm, &why);
	json_t *r = json_pack("{s:O}", "spec", spec ? spec : vm->spec);

	if (!spec)
		json_object_set_new(r, "spec-error", qmp_json_text(why.message));
	if (vm->running) {
		json_object_set(r, "running", vm->running);
		json_object_set(r, "host", vm->host_facts);
		json_object_set(r, "argv", vm->argv);
	}
	op_return(call, r);
}

/* What the kernel says of QEMU, and beside it what was to be. */
static void start_security(struct op_call *call)
{
	const struct vm *vm = call->guest->vm;
	struct qmp_error err = {0};
	json_t *r;

	if (!vm->qemu) {
		op_fail_not_running(call);
		return;
	}
	r = vm_security_of(vm_child_pid(vm_qemu_child(vm->qemu)), &err);
	if (!r) {
		op_fail(call, &err);
		return;
	}
	json_object_set_new(r, "name", json_string(vm->name));
	if (json_object_get(vm->host_facts, "sandbox-note"))
		json_object_set(r, "sandbox-note", json_object_get(vm->host_facts, "sandbox-note"));
	op_return(call, r);
}

static void start_schema(struct op_call *call)
{
	op_return(call, op_schema());
}

/* ---- Items: disks and NICs ---- */

static int edit_append(json_t *spec, const char *kind, const json_t *item, struct qmp_error *err)
{
	json_t *list = json_object_get(spec, kind);
	const char *id = text_of(item, "id");

	if (vm_spec_find(spec, "disks", id) || vm_spec_find(spec, "nics", id) || vm_spec_find(spec, "consoles", id))
		return qmp_error_set(err, QMP_ERR_EXISTS, -EEXIST, "the VM %s has \"%s\" already", text_of(spec, "name"), id);
	if (!list) {
		list = json_array();
		json_object_set_new(spec, kind, list);
	}
	return json_array_append_new(list, json_deep_copy(item)) < 0 ? -ENOMEM : 0;
}

static int edit_add_disk(json_t *spec, const json_t *item, struct qmp_error *err)
{
	return edit_append(spec, "disks", item, err);
}

static int edit_add_nic(json_t *spec, const json_t *item, struct qmp_error *err)
{
	return edit_append(spec, "nics", item, err);
}

/* What both specs have, in one: ids, ports and MACs are chosen so that they fit either. */
static json_t *both_specs(const struct vm *vm)
{
	static const char *const kinds[] = {"disks", "nics"};
	json_t *both = json_deep_copy(vm->spec), *item;
	size_t i;

	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++)
		json_array_foreach(json_object_get(vm->running, kinds[k]), i, item)
			if (!vm_spec_find(both, kinds[k], text_of(item, "id")))
				(void)edit_append(both, kinds[k], item, NULL);
	return both;
}

/* ITEM with what is chosen once; NULL on failure. */
static json_t *complete_item(const struct op_call *call, const char *kind, json_t *item, struct qmp_error *err)
{
	json_auto_t *both = both_specs(call->guest->vm), *taken = change_taken_ports(call);
	json_t *list = json_object_get(both, kind), *last;

	if (!list) {
		list = json_array();
		json_object_set_new(both, kind, list);
	}
	json_array_append_new(list, json_deep_copy(item));
	if (vm_spec_check(both, err) < 0 || vm_spec_complete_beside(both, taken, err) < 0)
		return NULL;
	last = json_array_get(list, json_array_size(list) - 1);
	return json_incref(last);
}

json_t *disk_located(const struct vm_dirs *dirs, json_t *disk, struct qmp_error *err)
{
	json_auto_t *one = json_pack("{s:[O]}", "disks", disk), *pools = NULL, *located = NULL;

	if (!one || vm_pools_read(dirs, one, NULL, NULL, &pools, err) < 0 || vm_pools_locate_disks(pools, one, false, &located, err) < 0) {
		qmp_error_errno(err, -ENOMEM, "looking where a disk is");
		return NULL;
	}
	return json_incref(json_object_get(located, "disks"));
}

/* The format is decided by us, once, and then stands in the spec. */
int disk_decide_format(const struct vm_dirs *dirs, json_t *disk, const json_t *heads, json_t *result, struct qmp_error *err)
{
	json_auto_t *located = NULL;
	const char *path;
	struct img_header h;

	if (!text_of(disk, "path") || text_of(disk, "format"))
		return 0;
	located = disk_located(dirs, disk, err);
	if (!located)
		return err->code;
	path = text_of(json_array_get(located, 0), "path");
	if (vm_location_is_file(path) && img_answer_check(path, err) < 0)
		return err->code;
	if (img_head_of(heads, path, &h, err) < 0) {
		if (err->code != -ENOENT)
			return err->code;
		*err = (struct qmp_error){0};
		return qmp_error_set(err, QMP_ERR_HOST, -ENOENT, "there is no image %s; \"size\" in place of a path makes one, "
				     "as in size=10G", path);
	}
	json_object_set_new(disk, "format", json_string(h.format));
	json_object_set(json_array_get(located, 0), "format", json_object_get(disk, "format"));
	if (img_chain_check(json_array_get(located, 0), heads, err) < 0)
		return err->code;
	if (result)
		json_object_set_new(result, "format-note",
			    json_string(streq(h.format, "raw") ? "nothing that looks like a format: taken as raw; pass "
								 "format=... to say otherwise"
							       : "read from the image's header"));
	return 0;
}

/* 1: the header of a disk whose format was not given is there; as change_look. */
static int look_for_format(struct op_call *call, json_t *disk, struct qmp_error *err)
{
	json_auto_t *located = NULL;

	if (!text_of(disk, "path") || text_of(disk, "format"))
		return 1;
	located = disk_located(call->guest->vm->dirs, disk, err);
	return located ? change_look(call, located, err) : err->code;
}

static void add_item(struct op_call *call, const char *kind, const char *key, spec_edit edit)
{
	json_auto_t *given = json_deep_copy(json_object_get(call->args, key));
	json_t *result = json_object(), *item;
	struct qmp_error err = {0};
	int r;

	if (text_of(given, "id")) {
		char path[64];
		snprintf(path, sizeof path, "%s.%s", kind, text_of(given, "id"));
		if (pending_has(call->guest, path)) {
			json_decref(result);
			op_failf(call, QMP_ERR_BUSY, -EBUSY,
			     "an earlier %s is pending: the guest has not let go of it; wait for that, or reset the guest", path);
			return;
		}
	}
	r = streq(kind, "disks") ? look_for_format(call, given, &err) : 1;
	if (r == 1 && streq(kind, "disks"))
		r = disk_decide_format(call->guest->vm->dirs, given, call->heads, result, &err) < 0 ? err.code : 1;
	if (r != 1) {
		json_decref(result);
		if (r < 0)
			op_fail(call, &err);
		return;
	}
	item = complete_item(call, kind, given, &err);
	if (!item) {
		json_decref(result);
		op_fail(call, &err);
		return;
	}
	json_object_set(result, "id", json_object_get(item, "id"));
	json_object_set(result, key, item);
	change_run(call, edit, item, result);
}

static int edit_remove(json_t *spec, const char *kind, const json_t *item)
{
	/* Where it is in one of the two specs alone, the other is fine as it is. */
	(void)vm_spec_remove(spec, kind, text_of(item, "id"));
	return 0;
}

static int edit_remove_disk(json_t *spec, const json_t *item, struct qmp_error *err)
{
	UNUSED(err);
	return edit_remove(spec, "disks", item);
}

static int edit_remove_nic(json_t *spec, const json_t *item, struct qmp_error *err)
{
	UNUSED(err);
	return edit_remove(spec, "nics", item);
}

static void list_ids(const json_t *spec, const char *kind, char *out, size_t size)
{
	json_t *item;
	size_t i, n = 0;

	out[0] = '\0';
	json_array_foreach(json_object_get(spec, kind), i, item)
		if (n < size)
			n += (size_t)snprintf(out + n, size - n, "%s%s", i ? ", " : "", text_of(item, "id"));
}

static void remove_item(struct op_call *call, const char *kind, const char *noun, spec_edit edit)
{
	const struct vm *vm = call->guest->vm;
	const char *id = op_text(call, "id");
	char ids[400], path[64];

	snprintf(path, sizeof path, "%s.%s", kind, id);
	if (pending_has(call->guest, path)) {
		op_return(call, json_pack("{s:s, s:s, s:{s:s, s:{s:s}}, s:s}", "id", id, "outcome", "pending", "waits-for", "event",
					  "DEVICE_DELETED", "match", "device", id, "why",
					  "it has been asked for already; the guest has not let go yet"));
		return;
	}
	if (!vm_spec_find(vm->spec, kind, id) && !(vm->running && vm_spec_find(vm->running, kind, id))) {
		list_ids(vm->running ? vm->running : vm->spec, kind, ids, sizeof ids);
		op_failf(call, QMP_ERR_NOT_FOUND, -ENOENT, "the VM %s has no %s \"%s\"; it has %s", vm->name, noun, id,
		     *ids ? ids : "none");
		return;
	}
	change_run(call, edit, json_pack("{s:s}", "id", id), json_pack("{s:s}", "id", id));
}

static void start_disk_add(struct op_call *call)
{
	add_item(call, "disks", "disk", edit_add_disk);
}

static void start_disk_remove(struct op_call *call)
{
	remove_item(call, "disks", "disk", edit_remove_disk);
}

static void start_nic_add(struct op_call *call)
{
	add_item(call, "nics", "nic", edit_add_nic);
}

static void start_nic_remove(struct op_call *call)
{
	remove_item(call, "nics", "NIC", edit_remove_nic);
}

/* ---- set, apply ---- */

static int edit_replace(json_t *spec, const json_t *item, struct qmp_error *err)
{
	UNUSED(err);
	json_object_clear(spec);
	return json_object_update(spec, (json_t *)item);
}

static int check_name(const struct vm *vm, const json_t *spec, struct qmp_error *err)
{
	const char *name = text_of(spec, "name");

	if (name && streq(name, vm->name))
		return 0;
	return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL, "the spec is for \"%s\", not for \"%s\"; use rename to rename",
			     name ? name : "(no name)", vm->name);
}

/* Whether the versioned machine type TYPE is one of what ALIAS stands for. */
static bool is_version_of(const char *type, const char *alias)
{
	return (streq(alias, "q35") && strncmp(type, "pc-q35-", 7) == 0) ||
	       (streq(alias, "pc") && strncmp(type, "pc-i440fx-", 10) == 0);
}

/*
 * The machine type that the first start chose stays where the new spec names none, or only an alias of it: another
 * version is other hardware for the guest.
 */
static void carry_machine(const json_t *old, json_t *spec, json_t *result)
{
	const char *before = text_of(json_object_get(old, "machine"), "type");
	json_t *machine = json_object_get(spec, "machine");
	const char *now = text_of(machine, "type");

	if (!before || (now && !is_version_of(before, now)))
		return;
	if (now) {
		_cleanup_free_ char *note = qmp_asprintf("machine.type stays %s, which an earlier start chose for %s; "
							 "\"qmpctl set %s machine.type=%s\" has the next start choose anew",
							 before, now, text_of(spec, "name"), now);
		json_object_set_new(result, "machine-note", json_string(note));
	}
	if (!machine) {
		machine = json_object();
		json_object_set_new(spec, "machine", machine);
	}
	json_object_set_new(machine, "type", json_string(before));
}

/* With another one the guest would take its next boot for its first. */
static void carry_instance(const json_t *old, json_t *seed)
{
	static const char *const others[] = {"instance-id", "meta-data", "url", "ignition"};

	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		if (json_object_get(seed, others[i]))
			return;
	if (seed && json_object_get(old, "instance-id"))
		json_object_set(seed, "instance-id", json_object_get(old, "instance-id"));
}

/* What the new spec leaves open but was chosen once is kept: the machine type, uuid, MACs and ports by id. */
static void carry_over(const json_t *old, json_t *spec, json_t *result)
{
	static const struct {
		const char *kind, *key;
	} kept[] = {{"disks", "port"}, {"nics", "port"}, {"nics", "mac"}};
	static const char *const top[] = {"uuid", "scsi-port"};
	json_t *item;
	size_t i;

	carry_machine(old, spec, result);
	carry_instance(json_object_get(old, "seed"), json_object_get(spec, "seed"));
	for (size_t k = 0; k < ARRAY_SIZE(top); k++)
		if (!json_object_get(spec, top[k]) && json_object_get(old, top[k]))
			json_object_set(spec, top[k], json_object_get(old, top[k]));
	for (size_t k = 0; k < ARRAY_SIZE(kept); k++)
		json_array_foreach(json_object_get(spec, kept[k].kind), i, item)
		{
			const char *id = text_of(item, "id");
			json_t *before = id ? vm_spec_find(old, kept[k].kind, id) : NULL;
			if (before && !json_object_get(item, kept[k].key) && json_object_get(before, kept[k].key))
				json_object_set(item, kept[k].key, json_object_get(before, kept[k].key));
		}
}

/* Who changed the VM since the spec was taken to be edited, must not lose that. */
static int check_base(const struct op_call *call, struct qmp_error *err)
{
	const json_t *base = json_object_get(call->args, "base");

	if (!base || json_equal(base, call->guest->vm->spec))
		return 0;
	return qmp_error_set(err, QMP_ERR_STATE, -ESTALE,
			     "the spec of %s was changed by somebody else meanwhile; nothing was changed now", call->guest->vm->name);
}

static void start_apply(struct op_call *call)
{
	const struct vm *vm = call->guest->vm;
	json_t *spec = json_deep_copy(json_object_get(call->args, "spec")), *result = json_object();
	json_auto_t *taken = change_taken_ports(call);
	struct qmp_error err = {0};

	if (vm_spec_check(spec, &err) == 0 && check_name(vm, spec, &err) == 0 && check_base(call, &err) == 0) {
		carry_over(vm->spec, spec, result);
		if (vm_spec_complete_beside(spec, taken, &err) >= 0) {
			change_run(call, edit_replace, spec, result);
			return;
		}
	}
	json_decref(spec);
	json_decref(result);
	op_fail(call, &err);
}

static int edit_set(json_t *spec, const json_t *item, struct qmp_error *err)
{
	const char *path;
	json_t *value;

	json_object_foreach((json_t *)item, path, value)
	{
		int r = vm_spec_set(spec, path, json_string_value(value), err);
		if (r < 0)
			return r;
	}
	return 0;
}

static void start_set(struct op_call *call)
{
	json_t *values = json_object_get(call->args, "values"), *value;
	const char *path;

	json_object_foreach(values, path, value)
		if (streq(path, "name") || (!json_is_string(value) && !json_is_null(value))) {
			op_failf(call, QMP_ERR_USAGE, -EINVAL, "%s: %s", path,
			     streq(path, "name") ? "use rename" : "values are strings (JSON text), or null to remove");
			return;
		}
	change_run(call, edit_set, json_incref(values), json_object());
}

/* ---- start: of a VM that this keeper holds and that is stopped ---- */

static void on_start_done(void *data, const struct qmp_error *why)
{
	struct op_call *call = data;

	if (why)
		op_fail(call, why);
	else
		op_return(call, json_pack("{s:s}", "outcome", "done"));
}

static void start_start(struct op_call *call)
{
	struct guest *g = call->guest;
	struct qmp_error err = {0};

	if (!g->control) {
		op_failf(call, QMP_ERR_STATE, -ENOTCONN, "no keeper holds the VM %s", g->vm->name);
		return;
	}
	(void)restart_cancel(g->restart);
	if (vm_start(g->vm, op_flag(call, "paused", false), on_start_done, call, &err) < 0)
		op_fail(call, &err);
}

/* ---- wait ---- */

static bool wait_holds(const struct op_call *call)
{
	const struct vm *vm = call->guest->vm;
	const char *what = op_text(call, "for"), *text = op_text(call, "text"), *said;
	size_t len;

	if (streq(what, "running") || streq(what, "stopped") || streq(what, "paused"))
		return streq(what, vm_state_name(vm->state));
	if (!streq(what, "console"))
		return false;
	said = vm_console_recent(vm, op_text(call, "console"), &len);
	return said && memmem(said, len, text, strlen(text));
}

static void wait_check(struct op_call *call)
{
	if (wait_holds(call))
		op_return(call, json_pack("{s:s}", "outcome", "done"));
}

static void on_wait_state(struct op_call *call)
{
	const char *what = op_text(call, "for");

	if (wait_holds(call))
		wait_check(call);
	else if (call->guest->vm->state == VM_STOPPED && !streq(what, "running"))
		op_failf(call, QMP_ERR_STATE, -ESRCH, "the VM %s stopped before \"%s\" came", call->guest->vm->name, what);
}

static void on_wait_event(struct op_call *call, const struct qmp_event *event)
{
	const char *name = op_text(call, "event");

	if (streq(op_text(call, "for"), "event") && streq(name, event->name))
		op_return(call, json_pack("{s:s, s:O?}", "outcome", "done", "data", qmp_event_member(event, "data")));
	else
		wait_check(call);
}

static void on_wait_console(struct op_call *call, const char *console, size_t len)
{
	UNUSED(console);
	UNUSED(len);
	if (streq(op_text(call, "for"), "console"))
		wait_check(call);
}

/* What it answered before tells nothing of now: a fresh answer counts. */
static void on_wait_agent(struct op_call *call)
{
	op_return(call, json_pack("{s:s}", "outcome", "done"));
}

static void on_wait_timeout(uv_timer_t *t)
{
	struct op_call *call = container_of(t, struct op_call, timer);

	const char *what = op_text(call, "for"), *which = NULL;

	if (streq(what, "console"))
		which = op_text(call, "text");
	else if (streq(what, "event"))
		which = op_text(call, "event");
	op_failf(call, QMP_ERR_TIMEOUT, -ETIMEDOUT, "%s: \"%s%s%s\" did not come within %lld s; the VM is %s",
		 call->guest->vm->name, what, which ? "=" : "", which ? which : "",
		 (long long)op_int(call, "timeout", 60), vm_state_name(call->guest->vm->state));
}

static void start_wait(struct op_call *call)
{
	const char *what = op_text(call, "for");
	struct qmp_error err = {0};

	if ((streq(what, "console") && !op_text(call, "text")) || (streq(what, "event") && !op_text(call, "event"))) {
		op_failf(call, QMP_ERR_USAGE, -EINVAL, "waiting for \"%s\": the argument \"%s\" is missing", what,
			 streq(what, "console") ? "text" : "event");
		return;
	}
	if (streq(what, "ready")) {
		ready_start(call);
		return;
	}
	call->on_state = on_wait_state;
	call->on_event = on_wait_event;
	call->on_console = on_wait_console;
	uv_timer_start(&call->timer, on_wait_timeout, (uint64_t)op_int(call, "timeout", 60) * 1000, 0);
	if (streq(what, "agent")) {
		if (call->guest->vm->running && agent_has_channel(call->guest->agent, &err) < 0) {
			op_fail(call, &err);
			return;
		}
		call->on_agent = on_wait_agent;
		agent_probe(call->guest->agent);
	}
	wait_check(call);
}

/* ---- leave ---- */

static void start_leave(struct op_call *call)
{
	struct keeper *k = call->guest->keeper;

	k->leaving = true;
	op_return(call, NULL);
	uv_stop(k->loop);
}

/* ---- The table ---- */

static const struct op_arg no_args[] = {{0}};
#define CHANGE_ARGS                                                                                                  \
	{"live", "bool", "change the running VM (default: true)", false},                                            \
	{"config", "bool", "change the spec on disk (default: true)", false},                                        \
	{"dry-run", "bool", "return the plan, change nothing", false},                                               \
	{"timeout", "int", "seconds to wait for the guest (default: 30)", false}
static const struct op_arg disk_add_args[] = {{"disk", "object", "as in the spec", true}, CHANGE_ARGS, {0}};
static const struct op_arg nic_add_args[] = {{"nic", "object", "as in the spec", true}, CHANGE_ARGS, {0}};
static const struct op_arg remove_args[] = {{"id", "string", "its id", true}, CHANGE_ARGS, {0}};
static const struct op_arg apply_args[] = {
	{"spec", "object", "the whole spec", true},
	{"base", "object", "the spec that it was made from: refused where the VM has another by now", false},
	CHANGE_ARGS,
	{0},
};
static const struct op_arg set_args[] = {{"values", "object", "path: JSON text or null", true}, CHANGE_ARGS, {0}};
static const struct op_arg start_args[] = {{"paused", "bool", "do not let the guest run yet (default: false)", false}, {0}};
static const struct op_arg wait_args[] = {
	{"for", "string", "what must hold", true, "running|stopped|paused|agent|ready|console|event"},
	{"text", "string", "console: what it must say", false},
	{"console", "string", "console: its id (default: the first)", false},
	{"event", "string", "event: its name", false},
	{"timeout", "int", "seconds (default: 60; ready: 600)", false},
	{0},
};

const struct op *const all_ops[] = {
	&(const struct op){"qmpctl-status", "what the VM does", no_args, false, .waits = false, .start = start_status},
	&(const struct op){"qmpctl-security", "how QEMU is confined, as the kernel says", no_args, false, .waits = false,
			   .start = start_security},
	&(const struct op){"qmpctl-show", "its spec, and what QEMU has", no_args, false, .waits = false, .start = start_show},
	&(const struct op){"qmpctl-schema", "these operations", no_args, false, .waits = false, .start = start_schema},
	&(const struct op){"qmpctl-disk-add", "add a disk", disk_add_args, true, .asks = OP_ASKS_WHEN_REFUSED, .waits = true, .start = start_disk_add},
	&(const struct op){"qmpctl-disk-remove", "remove a disk", remove_args, true, .asks = OP_ASKS_FIRST, .waits = true, .start = start_disk_remove},
	&op_disk_resize,
	&(const struct op){"qmpctl-nic-add", "add a NIC", nic_add_args, true, .asks = OP_ASKS_WHEN_REFUSED, .waits = true, .start = start_nic_add},
	&(const struct op){"qmpctl-nic-remove", "remove a NIC", remove_args, true, .asks = OP_ASKS_FIRST, .waits = true, .start = start_nic_remove},
	&(const struct op){"qmpctl-apply", "make the VM what a spec says", apply_args, true, .asks = OP_ASKS_FIRST, .waits = true, .start = start_apply},
	&(const struct op){"qmpctl-set", "change values of the spec", set_args, true, .asks = OP_ASKS_FIRST, .waits = true, .start = start_set},
	&(const struct op){"qmpctl-start", "start it, where a keeper holds it and it is stopped", start_args, true, .waits = true,
			   .start = start_start},
	&op_stop,
	&op_kill,
	&op_reboot,
	&(const struct op){"qmpctl-wait", "wait for something", wait_args, false, .waits = true, .start = start_wait},
	&op_agent,
	&op_console,
	&op_type,
	&(const struct op){"qmpctl-leave", "end the keeper, leave the VM running", no_args, true, .urgent = true, .waits = false, .start = start_leave},
	NULL,
};
