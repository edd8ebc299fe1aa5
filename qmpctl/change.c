/*
 * A change of a VM: its spec on disk, and QEMU where it runs.
 *
 * The way it goes well: edit copies of both specs -> check -> diff -> plan -> journal -> run -> keep -> out of the journal.
 * The plan fails: it was undone, nothing is kept. The guest is silent: the spec on disk is kept as wanted, what is left (of
 * the plan, or of its undoing) goes on as pending (pending.h). It is cut short: it is settled by whoever reaches QEMU next.
 */
#include "qmpctl/keeper.h"
#include "qmpctl/pending.h"
#include "images/chain.h"
#include "images/clone.h"
#include "images/head.h"
#include "images/seed.h"
#include "images/share.h"
#include "launcher/exec.h"
#include "launcher/hostnet.h"
#include "launcher/inventory.h"
#include "launcher/plan.h"
#include "launcher/pool.h"
#include "launcher/spec.h"
#include "proto/base.h"

#include <stdio.h>
#include <time.h>

struct change {
	struct op_call *call;
	json_t *config;  /* the spec to keep on disk; NULL: not wanted */
	struct vm_draft draft; /* of CONFIG, written while QEMU works */
	json_t *want;    /* effective, to be had by QEMU; NULL: it does not run, or not wanted */
	json_t *plan, *next_start, *result;
	json_t *steps;   /* of the plan, those that are still to be done */
	json_t *taken;   /* PCI ports; may be NULL */
	struct qmp_error error; /* while it is undone */
};

static void change_free(struct change *c)
{
	vm_discard_spec(c->call->guest->vm, &c->draft);
	json_decref(c->config);
	json_decref(c->steps);
	json_decref(c->taken);
	json_decref(c->want);
	json_decref(c->plan);
	json_decref(c->next_start);
	json_decref(c->result);
	free(c);
}

static void change_fail(struct change *c, const struct qmp_error *why)
{
	struct op_call *call = c->call;
	struct qmp_error copy = *why;

	change_free(c);
	op_fail(call, &copy);
}

/* ---- What QEMU has afterwards ---- */

int change_keep_running(struct vm *vm, const json_t *want, const json_t *plan, const json_t *rest, struct qmp_error *err)
{
	json_auto_t *done = json_array(), *running = NULL;
	json_t *step;
	size_t i;

	json_array_foreach(plan, i, step)
		if (!vm_plan_touches(rest, text_of(step, "item")))
			json_array_append(done, step);
	if (!vm->running || (done && json_array_size(done) == 0))
		return 0;
	running = done ? vm_plan_result(vm->running, want, done) : NULL;
	if (running)
		(void)vm_know_pools(vm, running, NULL); /* of a change that was cut short they may not be known yet */
	return running ? vm_save_running(vm, running, err) : qmp_error_errno(err, -ENOMEM, "%s", vm->name);
}

static int keep_config(struct change *c, struct qmp_error *err)
{
	struct vm *vm = c->call->guest->vm;

	if (!c->config)
		return 0;
	return c->draft.fd >= 0 ? vm_publish_spec(vm, c->config, &c->draft, err) : vm_save_spec(vm, c->config, err);
}

/* Both specs, or neither. */
static int keep(struct change *c, const json_t *rest, struct qmp_error *err)
{
	struct vm *vm = c->call->guest->vm;
	json_auto_t *config = json_incref(vm->spec), *running = json_incref(vm->running);
	int r = c->config ? listener_share(c->call->guest, c->config, err) : 0;

	if (r < 0)
		return r;
	r = keep_config(c, err);
	if (r == 0)
		r = change_keep_running(vm, c->want, c->plan, rest, err);
	if (r < 0) {
		(void)listener_share(c->call->guest, config, NULL);
		if (c->config)
			(void)vm_save_spec(vm, config, NULL);
		(void)vm_save_running(vm, running, NULL);
	}
	return r;
}

static void succeed(struct change *c, const char *outcome)
{
	struct op_call *call = c->call;
	json_t *result;

	json_object_set_new(c->result, "outcome", json_string(outcome));
	json_object_set(c->result, "next-start", c->next_start);
	result = json_incref(c->result);
	change_free(c);
	op_return(call, result);
}

/* ---- Running the plan ---- */

void change_abandon(struct guest *g)
{
	if (g->exec)
		vm_exec_abandon(g->exec);
}

int change_open_fd(const json_t *spec, const char *name, struct qmp_error *err)
{
	json_t *nic;
	size_t i;

	json_array_foreach(json_object_get(spec, "nics"), i, nic)
	{
		char tap[32];
		int fd = -1, r;
		snprintf(tap, sizeof tap, "%.16s-tap", text_of(nic, "id"));
		if (!streq(tap, name))
			continue;
		r = vm_hostnet_open(nic, &fd, err);
		return r < 0 ? r : fd;
	}
	return qmp_error_set(err, QMP_ERR_INTERNAL, -ENOENT, "no NIC is for the fd %s", name);
}

/* Of a NIC that is added; or that was removed, and is added again because something else failed. */
static int open_fd(void *data, const char *name, struct qmp_error *err)
{
	const struct change *c = data;
	int fd = change_open_fd(c->want, name, NULL);

	return fd >= 0 ? fd : change_open_fd(c->call->guest->vm->running, name, err);
}

int change_open_image(const struct guest *g, const json_t *step, int *ret_fd, struct qmp_error *err)
{
	return vm_open_image(g->vm, text_of(step, "item"), json_object_get(step, "arguments"), ret_fd, err);
}

static int open_image(void *data, const json_t *step, int *ret_fd, struct qmp_error *err)
{
	const struct change *c = data;

	return change_open_image(c->call->guest, step, ret_fd, err);
}

static void on_progress(void *data, size_t step, size_t total)
{
	struct change *c = data;

	guest_send_event(c->call->guest, "QMPCTL_PROGRESS",
			 json_pack("{s:s, s:I, s:I}", "operation", c->call->op->name, "step", (json_int_t)step, "total",
				   (json_int_t)total));
}

/* QEMU's answers are missed; what it was sent it may still do. */
static bool is_cut_short(const struct change *c, const struct qmp_error *why)
{
	return why->kind == QMP_ERR_CLOSED || why->kind == QMP_ERR_CANCELLED || !vm_session(c->call->guest->vm, NULL);
}

static void undo(struct change *c, const struct qmp_error *why);

static void on_done(void *data, enum vm_exec_outcome outcome, json_t *rest_consume, const struct qmp_error *why)
{
	struct change *c = data;
	struct guest *g = c->call->guest;
	json_auto_t *rest = rest_consume;
	struct qmp_error err = {0};

	g->exec = NULL;
	if (outcome == VM_EXEC_FAILED) {
		if (rest)
			pending_leave(g, rest, why);
		else if (!is_cut_short(c, why) || !pending_cut_short(g))
			pending_end(g);
		change_fail(c, why);
		return;
	}
	if (keep(c, rest, &err) < 0 && !rest) {
		undo(c, &err);
		return;
	}
	if (rest) {
		json_object_set(c->result, "waits-for", json_object_get(json_array_get(rest, 0), "wait"));
		json_object_set_new(c->result, "why", qmp_json_text(why->message));
		pending_leave(g, rest, NULL);
	} else {
		pending_end(g);
	}
	succeed(c, rest ? "pending" : "done");
}

static int run_steps(struct change *c, json_t *steps, void (*done)(void *, enum vm_exec_outcome, json_t *, const struct qmp_error *),
		     struct qmp_error *err)
{
	struct guest *g = c->call->guest;
	struct vm_exec_options o = {
		.fd = open_fd, .image = vm_has_user(g->vm) ? open_image : NULL, .progress = c->call->op->waits ? on_progress : NULL, .done = done, .data = c};
	struct qmp_session *s = vm_session(g->vm, err);

	return s ? vm_exec_run(g->keeper->loop, s, steps, &o, &g->exec, err) : err->code;
}

static void on_undone(void *data, enum vm_exec_outcome outcome, json_t *rest_consume, const struct qmp_error *why)
{
	struct change *c = data;
	struct guest *g = c->call->guest;
	json_auto_t *rest = rest_consume, *undoing = vm_plan_undo(c->steps);
	struct qmp_error err = {0};

	g->exec = NULL;
	if (outcome == VM_EXEC_PENDING)
		pending_leave(g, rest, &c->error);
	else if (outcome == VM_EXEC_FAILED && is_cut_short(c, why))
		pending_leave(g, undoing, &c->error);
	else
		pending_end(g);
	qmp_error_set(&err, c->error.kind, c->error.code, "%.900s%s%.900s", c->error.message,
		      why ? "; undoing it: " : ", and was undone", why ? why->message : "");
	change_fail(c, &err);
}

/* The plan ran, and could not be kept. */
static void undo(struct change *c, const struct qmp_error *why)
{
	json_auto_t *steps = vm_plan_undo(c->steps);
	struct qmp_error err = {0};

	c->error = *why;
	qmp_error_wrap(&c->error, "the change could not be kept");
	if (run_steps(c, steps, on_undone, &err) < 0)
		on_undone(c, VM_EXEC_FAILED, NULL, &err);
}

static void run_plan(struct change *c)
{
	struct guest *g = c->call->guest;
	struct qmp_error err = {0};

	if (json_array_size(c->steps) == 0) {
		if (keep(c, NULL, &err) == 0) {
			succeed(c, "done");
			return;
		}
		qmp_error_wrap(&err, "nothing was changed");
		change_fail(c, &err);
	} else if (!vm_session(g->vm, &err) || pending_begin(g, c->call->op->name, c->steps, c->want, c->config, &err) < 0) {
		change_fail(c, &err);
	} else if (run_steps(c, c->steps, on_done, &err) < 0) {
		pending_end(g);
		change_fail(c, &err);
	} else if (c->config) {
		/* QEMU has the commands; one that cannot be written is tried again, and told, when they are done. */
		(void)vm_draft_spec(g->vm, c->config, &c->draft, NULL);
	}
}

/* ---- Making it ---- */

static void leave_out(json_t *ports, const json_t *port)
{
	char key[24];

	snprintf(key, sizeof key, "%lld", (long long)json_integer_value(port));
	json_object_del(ports, key);
}

json_t *change_taken_ports(const struct op_call *call)
{
	static const char *const kinds[] = {"disks", "nics"};
	const struct vm *vm = call->guest->vm;
	json_t *taken, *item;
	size_t i;

	if (!call->inventory || !op_flag(call, "live", true))
		return NULL;
	taken = json_copy(call->inventory->ports);
	/* Those of the spec are its own affair: they may be freed by this very change. */
	leave_out(taken, json_object_get(vm->running, "scsi-port"));
	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++)
		json_array_foreach(json_object_get(vm->running, kinds[k]), i, item)
		{
			char path[64];
			snprintf(path, sizeof path, "%s.%s", kinds[k], text_of(item, "id"));
			if (!pending_has(call->guest, path))
				leave_out(taken, json_object_get(item, "port"));
		}
	return taken;
}

static int locate(const struct vm *vm, const json_t *want, const json_t *have, json_t **ret_want, json_t **ret_have,
		  struct qmp_error *err)
{
	json_auto_t *pools = NULL;
	int r = vm_pools_read(vm->dirs, want, vm->running, vm_known_pools(vm), &pools, err);

	if (r == 0)
		r = vm_pools_locate_disks(pools, want, false, ret_want, err);
	return r < 0 ? r : vm_pools_locate_disks(pools, have, true, ret_have, err);
}

/* The images of WANT that are not in HAVE just the same; LIVE: QEMU is to open them now. */
static int check_images(const struct op_call *call, const json_t *want, const json_t *have, bool live, struct qmp_error *err)
{
	const struct vm *vm = call->guest->vm;
	json_auto_t *located = NULL, *before = NULL;
	int r = locate(vm, want, have, &located, &before, err);

	if (r == 0)
		r = img_chains_check(located, before, call->heads, !live, err);
	if (r == 0 && live)
		r = img_protect_check(located, before, err);
	return r == 0 && live ? img_share_check(vm->dirs, vm->name, located, before, err) : r;
}

/* ---- What servers have is looked at before ---- */

static void on_heads(void *data, const struct qmp_error *why)
{
	struct op_call *call = data;

	call->guest->looking = NULL;
	if (why)
		op_fail(call, why);
	else
		call->op->start(call);
}

int change_look(struct op_call *call, const json_t *disks, struct qmp_error *err)
{
	const struct vm *vm = call->guest->vm;
	struct img_heads_options o = {.disks = disks, .spec = vm->running ? vm->running : vm->spec, .done = on_heads, .data = call};

	if (!call->heads)
		call->heads = json_object();
	o.heads = call->heads;
	return o.heads ? img_heads_fetch(vm->loop, &o, &call->guest->looking, err) : qmp_error_errno(err, -ENOMEM, "%s", vm->name);
}

/* At those that QEMU would be given by EDIT; as change_look. What is wrong with the edit is told by what follows. */
static int look_at_new(struct op_call *call, spec_edit edit, const json_t *item, struct qmp_error *err)
{
	const struct vm *vm = call->guest->vm;
	json_auto_t *want = json_deep_copy(vm->running), *located = NULL, *before = NULL, *disks = json_array();
	struct qmp_error why = {0};
	json_t *disk;
	size_t i;

	if (!want || !disks || edit(want, item, &why) < 0 || vm_spec_check(want, &why) < 0 ||
	    locate(vm, want, vm->running, &located, &before, &why) < 0)
		return 1;
	json_array_foreach(json_object_get(located, "disks"), i, disk)
	{
		const json_t *same = text_of(disk, "id") ? vm_spec_find(before, "disks", text_of(disk, "id")) : NULL;
		if (!same || !json_equal(same, disk))
			json_array_append(disks, disk);
	}
	return change_look(call, disks, err);
}

/* ---- Making it, once that is known ---- */

static int edit_config(struct change *c, spec_edit edit, const json_t *item, struct qmp_error *err)
{
	const json_t *have = c->call->guest->vm->spec;
	int r;

	c->config = json_deep_copy(have);
	r = c->config ? edit(c->config, item, err) : -ENOMEM;
	if (r == 0)
		r = vm_spec_check(c->config, err);
	/* One that has not changed may have files that are gone. */
	if (r == 0 && !json_equal(json_object_get(c->config, "seed"), json_object_get(have, "seed")))
		r = img_seed_check(c->config, err);
	if (r == 0)
		r = img_seed_attach(c->call->guest->vm->dirs, NULL, c->config) < 0 ? -ENOMEM : 0;
	if (r == 0)
		r = check_images(c->call, c->config, have, false, err);
	return r < 0 ? r : vm_spec_complete_beside(c->config, c->taken, err);
}

static int edit_running(struct change *c, spec_edit edit, const json_t *item, struct qmp_error *err)
{
	struct vm *vm = c->call->guest->vm;
	struct vm_host host;
	json_auto_t *spec = json_deep_copy(vm->running);
	int r = spec ? edit(spec, item, err) : -ENOMEM;

	if (r == 0)
		r = vm_spec_check(spec, err);
	/* A new one's image is made before the next start. */
	if (r == 0 && vm_spec_find(vm->running, "disks", IMG_SEED_DISK))
		r = img_seed_attach(vm->dirs, NULL, spec) < 0 ? -ENOMEM : 0;
	if (r == 0)
		r = vm_spec_complete_beside(spec, c->taken, err);
	if (r < 0)
		return r;
	c->want = vm_spec_effective(spec);
	if (c->want && (vm_know_pools(vm, c->want, err) < 0 || check_images(c->call, c->want, vm->running, true, err) < 0))
		return err->code;
	host = vm_host_of(vm);
	r = c->want ? vm_diff(vm->running, c->want, &host, (uint64_t)op_int(c->call, "timeout", 30) * 1000, c->plan,
			      c->next_start, err)
		    : -ENOMEM;
	if (r == 0)
		r = vm_may_open(vm, c->plan, err);
	if (r == 0 && !op_flag(c->call, "dry-run", false))
		r = vm_limit_io(vm, c->plan, err);
	if (r == 0 && c->call->inventory)
		c->steps = vm_inventory_skip_gone(c->call->inventory, c->plan);
	return r;
}

void change_run(struct op_call *call, spec_edit edit, json_t *item_consume, json_t *result_consume)
{
	json_auto_t *item = item_consume;
	struct vm *vm = call->guest->vm;
	bool live = op_flag(call, "live", true), config = op_flag(call, "config", true);
	struct qmp_error err = {0};
	struct change *c;
	int r = live && vm->running ? look_at_new(call, edit, item, &err) : 1;

	if (r != 1) {
		json_decref(result_consume);
		if (r < 0)
			op_fail(call, &err);
		return;
	}
	c = calloc(1, sizeof *c);
	r = c ? 0 : -ENOMEM;
	if (!c) {
		json_decref(result_consume);
		qmp_error_errno(&err, r, "%s", call->op->name);
		op_fail(call, &err);
		return;
	}
	c->call = call;
	c->draft.fd = -1;
	c->result = result_consume;
	c->plan = json_array();
	c->next_start = json_array();
	c->taken = change_taken_ports(call);
	if (pending_unsettled(call->guest))
		r = qmp_error_set(&err, QMP_ERR_STATE, -EBUSY,
				  "a change of %s was cut short, and QEMU does not answer yet: it is settled first; nothing was "
				  "changed", vm->name);
	if (r == 0 && !vm->running && !config)
		r = qmp_error_set(&err, QMP_ERR_STATE, -ENOTCONN,
				  "the VM %s is not running, so there is nothing to change live; without --live the spec is changed",
				  vm->name);
	if (r == 0 && config)
		r = edit_config(c, edit, item, &err);
	if (r >= 0 && live && vm->running)
		r = edit_running(c, edit, item, &err);
	if (r >= 0 && !config && json_array_size(c->next_start) > 0)
		r = qmp_error_set(&err, QMP_ERR_STATE, -EBUSY,
				  "%s cannot change while the VM %s runs; without --live (over the socket: without \"config\": false) it "
				  "is kept for the next start. Nothing was changed",
				  text_of(json_array_get(c->next_start, 0), "path"), vm->name);
	if (!c->steps)
		c->steps = json_incref(c->plan);
	if (r < 0) {
		qmp_error_errno(&err, r, "%s", call->op->name);
		change_fail(c, &err);
	} else if (op_flag(call, "dry-run", false)) {
		json_t *result = json_pack("{s:O, s:O, s:s}", "plan", c->steps, "next-start", c->next_start, "outcome",
					   "dry-run");
		change_free(c);
		op_return(call, result);
	} else {
		run_plan(c);
	}
}
