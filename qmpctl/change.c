/*
 * A change of a VM: its spec on disk, and QEMU where it runs.
 *
 * The way it goes well: edit copies of both specs -> check -> diff -> plan -> run -> keep.
 * The plan fails: it was undone, nothing is kept. The guest is silent: the spec on disk is kept as wanted, what is left of the
 * plan waits in guest->pending for the guest's answer.
 */
#include "qmpctl/keeper.h"
#include "launcher/exec.h"
#include "launcher/hostnet.h"
#include "launcher/plan.h"
#include "launcher/spec.h"
#include "proto/base.h"

#include <stdio.h>
#include <time.h>

struct change {
	struct op_call *call;
	json_t *config;  /* the spec to keep on disk; NULL: not wanted */
	json_t *want;    /* effective, to be had by QEMU; NULL: it does not run, or not wanted */
	json_t *plan, *next_start, *result;
	struct vm_exec *exec;
	int fds[8];
	size_t n_fds;
};

static const char *text_of(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

static void change_free(struct change *c)
{
	for (size_t i = 0; i < c->n_fds; i++)
		(void)close(c->fds[i]);
	json_decref(c->config);
	json_decref(c->want);
	json_decref(c->plan);
	json_decref(c->next_start);
	json_decref(c->result);
	free(c);
}

static void change_fail(struct change *c, const struct qmp_error *why)
{
	struct op_call *call = c->call;

	change_free(c);
	op_fail(call, why);
}

/* ---- What QEMU has afterwards ---- */

static bool is_later(const struct change *c, const char *kind, const char *id)
{
	char path[64];
	json_t *entry;
	size_t i;

	snprintf(path, sizeof path, "%s.%s", kind, id);
	json_array_foreach(c->next_start, i, entry)
		if (streq(text_of(entry, "path"), path))
			return true;
	return false;
}

static json_t *items_after(const struct change *c, const json_t *have, const char *kind)
{
	json_t *list = json_array(), *item;
	size_t i;

	json_array_foreach(json_object_get(have, kind), i, item)
		if (is_later(c, kind, text_of(item, "id")))
			json_array_append(list, item);
	json_array_foreach(json_object_get(c->want, kind), i, item)
		if (!is_later(c, kind, text_of(item, "id")))
			json_array_append(list, item);
	return list;
}

static json_t *running_after(const struct change *c, const json_t *have)
{
	json_t *running = json_copy((json_t *)have);

	json_object_set_new(running, "disks", items_after(c, have, "disks"));
	json_object_set_new(running, "nics", items_after(c, have, "nics"));
	if (json_object_get(c->want, "scsi-port"))
		json_object_set(running, "scsi-port", json_object_get(c->want, "scsi-port"));
	return running;
}

static void finish(struct change *c, const char *outcome)
{
	struct op_call *call = c->call;
	struct vm *vm = call->guest->vm;
	struct qmp_error err = {0};
	json_t *result;

	if (c->config && vm_save_spec(vm, c->config, &err) < 0) {
		qmp_error_wrap(&err, "the change is made in the running VM, but keeping it failed");
		change_fail(c, &err);
		return;
	}
	json_object_set_new(c->result, "outcome", json_string(outcome));
	json_object_set(c->result, "next-start", c->next_start);
	result = json_incref(c->result);
	change_free(c);
	op_return(call, result);
}

/* ---- Plans under way ---- */

static struct vm_exec **exec_slot(struct guest *g, const struct vm_exec *x)
{
	for (size_t i = 0; i < ARRAY_SIZE(g->execs); i++)
		if (g->execs[i] == x)
			return &g->execs[i];
	return NULL;
}

void change_abandon(struct guest *g)
{
	for (size_t i = 0; i < ARRAY_SIZE(g->execs); i++)
		if (g->execs[i])
			vm_exec_abandon(take_ptr(g->execs[i]));
}

/* ---- Running the plan ---- */

static int open_fd(void *data, const char *name)
{
	struct change *c = data;
	json_t *nic;
	size_t i;

	json_array_foreach(json_object_get(c->want, "nics"), i, nic)
	{
		char tap[32];
		snprintf(tap, sizeof tap, "%.16s-tap", text_of(nic, "id"));
		if (streq(tap, name) && c->n_fds < ARRAY_SIZE(c->fds) &&
		    vm_hostnet_open(nic, &c->fds[c->n_fds], NULL) == 0)
			return c->fds[c->n_fds++];
	}
	return -1;
}

static void on_progress(void *data, size_t step, size_t total)
{
	struct change *c = data;

	guest_send_event(c->call->guest, "QMPCTL_PROGRESS",
			 json_pack("{s:s, s:I, s:I}", "operation", c->call->op->name, "step", (json_int_t)step, "total",
				   (json_int_t)total));
}

static void keep_pending(struct change *c, json_t *rest, const struct qmp_error *why)
{
	json_t *step = json_array_get(rest, 0);

	json_array_append_new(c->call->guest->pending,
			      json_pack("{s:s, s:s, s:I, s:O, s:O}", "item", text_of(step, "item"), "operation",
					c->call->op->name, "since", (json_int_t)time(NULL), "waits-for",
					json_object_get(step, "wait"), "rest", rest));
	json_object_set(c->result, "waits-for", json_object_get(step, "wait"));
	json_object_set_new(c->result, "why", json_string(why->message));
}

static void on_done(void *data, enum vm_exec_outcome outcome, json_t *rest, const struct qmp_error *why)
{
	struct change *c = data;
	struct vm *vm = c->call->guest->vm;
	json_auto_t *running = NULL;
	struct vm_exec **slot = exec_slot(c->call->guest, c->exec);

	if (slot && c->exec)
		*slot = NULL;
	if (outcome == VM_EXEC_FAILED) {
		change_fail(c, why);
		return;
	}
	if (outcome == VM_EXEC_PENDING) {
		keep_pending(c, rest, why);
		json_decref(rest);
		finish(c, "pending");
		return;
	}
	if (vm->running) {
		running = running_after(c, vm->running);
		(void)vm_save_running(vm, running, NULL);
	}
	finish(c, "done");
}

static void run_plan(struct change *c)
{
	struct op_call *call = c->call;
	struct qmp_error err = {0};
	struct vm_exec **slot;
	struct qmp_session *s;
	struct vm_exec_options o = {open_fd, call->op->waits ? on_progress : NULL, on_done, c};

	if (json_array_size(c->plan) == 0) {
		finish(c, "done");
		return;
	}
	s = vm_session(call->guest->vm, &err);
	slot = exec_slot(call->guest, NULL);
	if (!slot)
		qmp_error_set(&err, QMP_ERR_BUSY, -EBUSY, "too many changes wait for the guest");
	if (!s || !slot || vm_exec_run(call->guest->keeper->loop, s, c->plan, &o, &c->exec, &err) < 0)
		change_fail(c, &err);
	else
		*slot = c->exec;
}

/* ---- Making it ---- */

static int edit_config(struct change *c, spec_edit edit, const json_t *item, struct qmp_error *err)
{
	int r;

	c->config = json_deep_copy(c->call->guest->vm->spec);
	r = c->config ? edit(c->config, item, err) : -ENOMEM;
	if (r == 0)
		r = vm_spec_check(c->config, err);
	return r < 0 ? r : vm_spec_complete(c->config, err);
}

static int edit_running(struct change *c, spec_edit edit, const json_t *item, struct qmp_error *err)
{
	struct vm *vm = c->call->guest->vm;
	struct vm_host host = vm_host_of(vm);
	json_auto_t *spec = json_deep_copy(vm->running);
	int r = spec ? edit(spec, item, err) : -ENOMEM;

	if (r == 0)
		r = vm_spec_check(spec, err);
	if (r == 0)
		r = vm_spec_complete(spec, err);
	if (r < 0)
		return r;
	c->want = vm_spec_effective(spec);
	return c->want ? vm_diff(vm->running, c->want, &host,
				 (uint64_t)op_int(c->call, "timeout", 30) * 1000, c->plan, c->next_start, err)
		       : -ENOMEM;
}

void change_run(struct op_call *call, spec_edit edit, json_t *item_consume, json_t *result_consume)
{
	json_auto_t *item = item_consume;
	struct vm *vm = call->guest->vm;
	bool live = op_flag(call, "live", true), config = op_flag(call, "config", true);
	struct qmp_error err = {0};
	struct change *c = calloc(1, sizeof *c);
	int r = c ? 0 : -ENOMEM;

	if (!c) {
		json_decref(result_consume);
		qmp_error_errno(&err, r, "%s", call->op->name);
		op_fail(call, &err);
		return;
	}
	c->call = call;
	c->result = result_consume;
	c->plan = json_array();
	c->next_start = json_array();
	if (!vm->running && !config)
		r = qmp_error_set(&err, QMP_ERR_STATE, -ENOTCONN,
				  "the VM %s is not running, so there is nothing to change live", vm->name);
	if (r == 0 && config)
		r = edit_config(c, edit, item, &err);
	if (r >= 0 && live && vm->running)
		r = edit_running(c, edit, item, &err);
	if (r < 0) {
		qmp_error_errno(&err, r, "%s", call->op->name);
		change_fail(c, &err);
	} else if (op_flag(call, "dry-run", false)) {
		json_t *result = json_pack("{s:O, s:O, s:s}", "plan", c->plan, "next-start", c->next_start, "outcome",
					   "dry-run");
		change_free(c);
		op_return(call, result);
	} else {
		run_plan(c);
	}
}

/* ---- What was pending ---- */

struct rest {
	struct guest *guest;
	char *item; /* "disks.vda" */
	struct vm_exec *exec;
};

static void forget_running(struct guest *g, const char *item)
{
	json_auto_t *running = g->vm->running ? json_deep_copy(g->vm->running) : NULL;
	const char *dot = strchr(item, '.');
	char kind[16];

	if (!running || !dot)
		return;
	snprintf(kind, sizeof kind, "%.*s", (int)(dot - item), item);
	if (vm_spec_remove(running, kind, dot + 1) == 0)
		(void)vm_save_running(g->vm, running, NULL);
}

static void on_rest_done(void *data, enum vm_exec_outcome outcome, json_t *left, const struct qmp_error *why)
{
	struct rest *rest = data;

	struct vm_exec **slot = exec_slot(rest->guest, rest->exec);

	if (slot && rest->exec)
		*slot = NULL;
	json_decref(left);
	UNUSED(why);
	if (outcome == VM_EXEC_DONE)
		forget_running(rest->guest, rest->item);
	guest_send_event(rest->guest, "QMPCTL_SETTLED",
			 json_pack("{s:s, s:s}", "item", rest->item, "outcome",
				   outcome == VM_EXEC_DONE ? "done" : "failed"));
	free(rest->item);
	free(rest);
}

static void settle(struct guest *g, json_t *entry)
{
	json_auto_t *plan = json_copy(json_object_get(entry, "rest"));
	struct qmp_session *s = vm_session(g->vm, NULL);
	struct rest *rest = calloc(1, sizeof *rest);
	struct vm_exec_options o = {NULL, NULL, on_rest_done, rest};

	struct vm_exec **slot = exec_slot(g, NULL);

	if (!rest || !s || !slot) {
		free(rest);
		return;
	}
	json_array_remove(plan, 0); /* the device_del that has now been answered */
	*rest = (struct rest){g, strdup(text_of(entry, "item")), NULL};
	if (vm_exec_run(g->keeper->loop, s, plan, &o, &rest->exec, NULL) < 0) {
		free(rest->item);
		free(rest);
	} else {
		*slot = rest->exec;
	}
}

void change_reconcile(struct guest *g, const struct qmp_event *event)
{
	json_t *entry;
	size_t i;

	if (!streq(event->name, "DEVICE_DELETED"))
		return;
	json_array_foreach(g->pending, i, entry)
	{
		json_t *match = json_object_get(json_object_get(entry, "waits-for"), "match");
		if (!event->data ||
		    !json_equal(json_object_get(match, "device"), json_object_get(event->data, "device")))
			continue;
		settle(g, entry);
		json_array_remove(g->pending, i);
		return;
	}
}
