#include "qmpctl/agent.h"
#include "qmpctl/keeper.h"
#include "qmpctl/drift.h"
#include "qmpctl/pending.h"
#include "qmpctl/restart.h"
#include "images/answer.h"
#include "images/chain.h"
#include "images/clone.h"
#include "images/head.h"
#include "images/seed.h"
#include "images/share.h"
#include "launcher/pool.h"
#include "launcher/spec.h"
#include "proto/base.h"

#include <stdio.h>
#include <sys/time.h>

void keeper_init(struct keeper *k, uv_loop_t *loop, const struct vm_dirs *dirs)
{
	*k = (struct keeper){.loop = loop, .dirs = dirs};
	uv_timer_init(loop, &k->idle);
	uv_timer_init(loop, &k->drift);
	k->idle.data = k->drift.data = k;
}

/* ---- What the VM tells ---- */

/* An operation that is told may end, and be taken out of the list. */
#define tell_calls(g, hook, ...)                                                                                     \
	do {                                                                                                         \
		if ((g)->running && (g)->running->hook)                                                              \
			(g)->running->hook((g)->running, ##__VA_ARGS__);                                             \
		for (struct op_call *c_ = (g)->watching, *next_; c_; c_ = next_) {                                   \
			next_ = c_->next;                                                                            \
			if (c_->hook)                                                                                \
				c_->hook(c_, ##__VA_ARGS__);                                                         \
		}                                                                                                    \
	} while (0)

void guest_send_event(struct guest *g, const char *name, json_t *data_consume)
{
	struct timeval now;
	json_auto_t *event = NULL;
	_cleanup_free_ char *text = NULL;
	struct qmp_event told;
	size_t len;

	gettimeofday(&now, NULL);
	event = json_pack("{s:{s:I, s:I}, s:s, s:o}", "timestamp", "seconds", (json_int_t)now.tv_sec, "microseconds",
			  (json_int_t)now.tv_usec, "event", name, "data", data_consume);
	text = event ? qmp_json_encode(event, JSON_COMPACT | JSON_ENSURE_ASCII, &len) : NULL;
	if (!text)
		return;
	guest_send(g, text, len);
	told = (struct qmp_event){name, text, len, &event};
	tell_calls(g, on_event, &told);
}

void guest_tell_agent(struct guest *g)
{
	tell_calls(g, on_agent);
}

bool keeper_is_idle(const struct keeper *k)
{
	for (const struct guest *g = k->guests; g; g = g->next)
		if (g->vm->state != VM_STOPPED || g->running || g->queue || g->awaits_start || g->restarting ||
		    restart_is_due(g->restart))
			return false;
	return true;
}

static void on_idle(uv_timer_t *t)
{
	struct keeper *k = t->data;

	if (k->on_idle && keeper_is_idle(k))
		k->on_idle(k);
}

void guest_stopped(struct guest *g)
{
	uv_timer_start(&g->keeper->idle, on_idle, 0, 0);
}

static void on_state(void *data, struct vm *vm)
{
	struct guest *g = data;

	guest_send_event(g, "QMPCTL_STATE", json_pack("{s:s, s:s}", "name", vm->name, "state", vm_state_name(vm->state)));
	pending_resume(g);
	if (vm->state == VM_STOPPED) {
		img_heads_cancel(g->looking);
		pending_clear(g);
		agent_leave(g->agent);
	} else if (vm->state == VM_RUNNING) {
		agent_look(g->agent);
	}
	drift_on_state(g);
	ops_go_on(g);
	tell_calls(g, on_state);
	if (vm->state == VM_STOPPED) {
		restart_consider(g->restart);
		guest_stopped(g);
	}
}

/* A QEMU that is merely silent has its session, and may still carry out what it was told. */
static void on_session_end(void *data, struct vm *vm)
{
	struct guest *g = data;

	UNUSED(vm);
	change_abandon(g);
	pending_rest(g);
}

static void on_event(void *data, struct vm *vm, const struct qmp_event *event)
{
	struct guest *g = data;

	UNUSED(vm);
	guest_send(g, event->raw, event->raw_len);
	agent_on_event(g->agent, event);
	drift_on_event(g, event);
	tell_calls(g, on_event, event);
}

static void on_console(void *data, struct vm *vm, const char *console, const char *text, size_t len)
{
	struct guest *g = data;

	UNUSED(vm);
	UNUSED(text);
	tell_calls(g, on_console, console, len);
}

static void on_start_heads(void *data, const struct qmp_error *why)
{
	struct guest *g = data;

	g->starting = NULL;
	vm_start_ready(g->vm, why);
}

/* Of what the VM has on servers. 1: nothing is to be waited for. */
static int fetch_heads(struct guest *g, struct qmp_error *err)
{
	const struct vm *vm = g->vm;
	json_auto_t *spec = vm_spec_effective(vm->spec), *located = NULL;
	struct img_heads_options o = {.spec = spec, .done = on_start_heads, .data = g};
	int r = spec ? vm_pools_locate_disks(vm_known_pools(vm), spec, false, &located, err) : -ENOMEM;

	json_decref(g->start_heads);
	o.heads = g->start_heads = json_object();
	o.disks = json_object_get(located, "disks");
	if (r == 0)
		r = g->start_heads ? img_heads_fetch(vm->loop, &o, &g->starting, err) : -ENOMEM;
	return r < 0 ? qmp_error_errno(err, r, "starting %s", vm->name) : r;
}

static void on_seed(void *data, const struct qmp_error *why)
{
	struct guest *g = data;
	struct qmp_error err = {0};
	int r;

	g->seed = NULL;
	r = why ? 1 : fetch_heads(g, &err);
	if (r != 0)
		vm_start_ready(g->vm, r < 0 ? &err : why);
}

/* The seed is as its section says, also where that was changed by hand; then what servers have is looked at. */
static int make_ready(void *data, struct vm *vm, struct qmp_error *err)
{
	struct guest *g = data;
	json_auto_t *spec = json_deep_copy(vm->spec);
	int r = spec ? img_seed_attach(vm->dirs, NULL, spec) : -ENOMEM;

	if (r > 0 && (r = vm_spec_complete(spec, err)) >= 0)
		r = vm_save_spec(vm, spec, err);
	if (r < 0)
		return qmp_error_errno(err, r, "%s", vm->name);
	r = img_seed_make(vm->loop, vm->dirs, spec, false, on_seed, g, &g->seed, err);
	return r == 1 ? fetch_heads(g, err) : r;
}

static void take_back(void *data)
{
	struct guest *g = data;

	img_seed_cancel(g->seed);
	img_heads_cancel(g->starting);
}

/* QEMU opens what the spec names, not what an image names, and nothing that somebody else has. */
static int may_start(void *data, const struct vm *vm, const json_t *spec, struct qmp_error *err)
{
	struct guest *g = data;
	json_auto_t *located = NULL, *heads = take_ptr(g->start_heads);
	int r = vm_pools_locate_disks(vm_known_pools(vm), spec, false, &located, err);

	if (r == 0)
		r = img_chains_check(located, NULL, heads, false, err);
	if (r == 0)
		r = img_protect_check(located, NULL, err);
	return r < 0 ? r : img_share_check(vm->dirs, vm->name, located, NULL, err);
}

static char *path_from(int directory, const char *path)
{
	return *path == '/' ? strdup(path) : qmp_asprintf("/proc/self/fd/%d/%s", directory, path);
}

/* What does not answer is not waited for. */
static unsigned file_type(int directory, const char *path)
{
	_cleanup_free_ char *whole = path_from(directory, path);
	struct stat st;

	return whole && img_answer_stat(whole, &st) == 0 ? st.st_mode & S_IFMT : 0;
}

static char *fifo_behind(int directory, const char *path)
{
	_cleanup_free_ char *whole = path_from(directory, path);

	return whole ? img_chain_fifo(whole) : NULL;
}

/* ---- Guests ---- */

/* Whoever cannot look then is no reason to let go of a QEMU that runs. */
static int share(struct guest *g, struct qmp_error *err)
{
	struct qmp_error why = {0};
	int r = listener_share(g, g->vm->spec, &why);

	if (r < 0 && vm_qemu_lives(g->vm)) {
		fprintf(stderr, "qmpctl: %s: %s\n", g->vm->name, why.message);
		return 0;
	}
	return r < 0 ? qmp_error_set(err, why.kind, r, "the VM %s: %s", g->vm->name, why.message) : 0;
}

static void close_sockets(struct guest *g)
{
	if (g->control)
		(void)unlinkat(g->vm->run_dir, "control.sock", 0);
	if (g->observe)
		(void)unlinkat(g->vm->run_dir, "observe.sock", 0);
	listener_free(g->control);
	listener_free(g->observe);
}

int keeper_add(struct keeper *k, const char *name, bool serve, struct guest **ret, struct qmp_error *err)
{
	struct guest *g = calloc(1, sizeof *g);
	struct vm_handlers h = {make_ready, take_back, may_start, on_state, on_session_end, on_event, on_console, file_type, fifo_behind, g};
	int r;

	if (!g)
		return qmp_error_errno(err, -ENOMEM, "%s", name);
	g->keeper = k;
	g->restart = restart_new(g);
	g->agent = agent_new(g);
	if (!g->restart || !g->agent) {
		restart_free(g->restart);
		agent_free(g->agent);
		free(g);
		return qmp_error_errno(err, -ENOMEM, "%s", name);
	}
	r = vm_open(k->loop, k->dirs, name, &h, &g->vm, err);
	if (r == 0 && serve) {
		r = listener_new(g, "control.sock", false, &g->control, err);
		if (r == 0)
			r = listener_new(g, "observe.sock", true, &g->observe, err);
		if (r == 0)
			r = share(g, err);
	}
	if (r < 0) {
		close_sockets(g);
		vm_close(g->vm);
		restart_free(g->restart);
		agent_free(g->agent);
		free(g);
		return r;
	}
	pending_open(g);
	g->next = k->guests;
	k->guests = g;
	*ret = g;
	return 0;
}

static void fail_calls(struct guest *g)
{
	struct qmp_error err = {0};

	qmp_error_set(&err, QMP_ERR_CLOSED, -ESHUTDOWN, "the keeper of %s ends", g->vm->name);
	while (g->queue) {
		struct op_call *call = g->queue;
		g->queue = call->next;
		op_fail(call, &err);
	}
	if (g->running)
		op_fail(g->running, &err);
	while (g->watching)
		op_fail(g->watching, &err);
}

void keeper_close(struct keeper *k)
{
	while (k->guests) {
		struct guest *g = k->guests;
		k->guests = g->next;
		close_sockets(g);
		g->closing = true;
		img_heads_abandon(take_ptr(g->looking));
		change_abandon(g);
		pending_clear(g);
		fail_calls(g);
		img_seed_abandon(take_ptr(g->seed));
		img_heads_abandon(take_ptr(g->starting));
		vm_close(g->vm); /* answers what is in flight */
		agent_free(g->agent);
		clients_free(g);
		json_decref(g->drift);
		json_decref(g->start_heads);
		json_decref(g->others);
		restart_free(g->restart);
		free(g);
	}
	uv_timer_stop(&k->idle);
	uv_timer_stop(&k->drift);
	uv_close((uv_handle_t *)&k->drift, NULL);
	uv_close((uv_handle_t *)&k->idle, NULL);
}
