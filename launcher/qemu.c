#include "launcher/qemu.h"
#include "proto/base.h"

#include <signal.h>

#define UP_MS    30000
#define DRAIN_MS 1000
#define GONE_MS  200 /* the socket of a QEMU that ends closes before its exit is known */
#define PULSE_MS 2000 /* a QEMU that hangs is noticed within two turns */
/* That wait for an answer; the other half of its places is for others. */
#define ASKED_MAX (QMP_IN_FLIGHT / 2)

struct vm_qemu {
	uv_loop_t *loop;
	struct vm_qemu_options opts;
	struct vm_child *child;
	struct qmp_session *session;
	uv_timer_t drain; /* the process is gone, its last words may not be read yet; or the socket, and not yet the process */
	uv_timer_t pulse;
	bool exited, up;
	bool heard; /* it has said how it is, over this session */
	unsigned asked; /* query-status that are on their way */
	bool silent; /* none was answered for longer than a turn */
	bool ends;   /* it has said SHUTDOWN, and not that it stays */
	struct vm_exit how;
	struct qmp_error lost;
};

/* Nobody finds it any more when those who use it are told. */
static void end_session(struct vm_qemu *q)
{
	struct qmp_session *s = take_ptr(q->session);

	if (s && q->opts.on_session_end)
		q->opts.on_session_end(q->opts.data);
	qmp_session_free(s);
}

static void finish(struct vm_qemu *q)
{
	uv_timer_stop(&q->pulse);
	uv_timer_stop(&q->drain);
	q->opts.on_exit(q->opts.data, &q->how);
}

static void on_drained(uv_timer_t *t)
{
	struct vm_qemu *q = t->data;

	end_session(q);
	finish(q);
}

static void on_child_exit(void *data, const struct vm_exit *how)
{
	struct vm_qemu *q = data;

	q->exited = true;
	q->how = *how;
	if (q->session)
		uv_timer_start(&q->drain, on_drained, DRAIN_MS, 0);
	else
		uv_timer_start(&q->drain, on_drained, 0, 0);
}

static void on_still_there(uv_timer_t *t)
{
	struct vm_qemu *q = t->data;

	q->opts.on_lost(q->opts.data, &q->lost);
}

static void on_session_close(void *data, const struct qmp_error *why)
{
	struct vm_qemu *q = data;

	q->lost = *why; /* it lies in the session */
	end_session(q);
	if (q->exited)
		uv_timer_start(&q->drain, on_drained, 0, 0);
	else
		uv_timer_start(&q->drain, on_still_there, GONE_MS, 0);
}

/* Whether a command that has failed did so alone; else its session has ended, which is told elsewhere. */
static bool goes_on(const struct vm_qemu *q)
{
	return q->session && qmp_session_is_ready(q->session);
}

/* What query-status returns. */
static bool is_status(const json_t *value)
{
	return json_is_string(json_object_get(value, "status")) && json_is_boolean(json_object_get(value, "running"));
}

/*
 * ---- The pulse ----
 *
 * Without a deadline of its own, because a slot of QEMU's stays taken until it answers. An answer may be lost for good, so
 * one that is silent is asked again: the session ends what a later answer has overtaken. An event is no answer: QEMU's
 * threads tell some while its main loop hangs.
 *
 * One that ends may hang in that for good (7.2 and 10.0, where a command came in that moment: monitor_cleanup waits for
 * the dispatcher, and sleeps through what would wake it). A SIGTERM, by which it would end as well, gets it on. One that is
 * to stay (-no-shutdown) says STOP behind its SHUTDOWN. Nobody is at its monitor then for who takes it over.
 */

/* It negotiates, and does not say how it is: another connection may find it better. */
static void lose(struct vm_qemu *q, const struct qmp_reply *reply)
{
	q->lost = reply->error;
	if (reply->status == 0)
		qmp_error_set(&q->lost, QMP_ERR_PROTOCOL, -EPROTO, "query-status returned no status");
	qmp_session_free(take_ptr(q->session));
	q->opts.on_lost(q->opts.data, &q->lost);
}

static void start_pulse(struct vm_qemu *q);

static void take_status(struct vm_qemu *q, json_t *status)
{
	bool was_heard = q->heard, was_silent = q->silent;

	q->up = q->heard = true;
	q->silent = false;
	if (was_heard && was_silent) {
		q->opts.on_answers(q->opts.data, status);
	} else if (!was_heard) {
		start_pulse(q);
		q->opts.on_up(q->opts.data, status);
	}
}

static void on_status(void *data, const struct qmp_reply *reply)
{
	struct vm_qemu *q = data;

	if (reply->status < 0 && !goes_on(q))
		return;
	q->asked--;
	if (reply->status == 0 && is_status(reply->value))
		take_status(q, reply->value);
	else if (!q->heard && q->asked == 0)
		lose(q, reply); /* later, it says nothing: it is asked again at the next turn */
}

static void ask(struct vm_qemu *q, uint64_t timeout_ms)
{
	struct qmp_command c = {.name = "query-status", .timeout_ms = timeout_ms};

	if (qmp_session_execute(q->session, &c, on_status, q, NULL, NULL) == 0)
		q->asked++;
}

static void feel(struct vm_qemu *q)
{
	if (q->asked > 0 && !q->silent) {
		q->silent = true;
		q->opts.on_silent(q->opts.data);
	} else if (q->asked < ASKED_MAX) {
		ask(q, UINT64_MAX);
	}
}

static void on_pulse(uv_timer_t *t)
{
	struct vm_qemu *q = t->data;
	bool reached = goes_on(q);

	if (q->opts.on_turn)
		q->opts.on_turn(q->opts.data);
	if (q->exited)
		return;
	if (reached)
		feel(q);
	if (q->ends && (q->silent || !reached))
		vm_child_signal(q->child, SIGTERM);
}

static void on_end(void *data, const struct qmp_event *event)
{
	struct vm_qemu *q = data;

	q->ends = streq(event->name, "SHUTDOWN");
}

static void start_pulse(struct vm_qemu *q)
{
	if (q->opts.on_silent)
		uv_timer_start(&q->pulse, on_pulse, PULSE_MS, PULSE_MS);
}

static void on_ready(void *data, json_t *greeting)
{
	struct vm_qemu *q = data;
	bool starts = q->opts.child.argv && !q->up;

	UNUSED(greeting);
	q->asked = 0;
	q->heard = q->silent = q->ends = false;
	/* One that was up before, or was taken over, may be in the middle of a long command. */
	ask(q, starts ? 0 : UINT64_MAX);
	if (!starts)
		start_pulse(q);
}

int vm_qemu_reconnect(struct vm_qemu *q, int qmp_fd, struct qmp_error *err)
{
	struct qmp_session_options so = {
		.greeting_timeout_ms = q->opts.up_timeout_ms ? q->opts.up_timeout_ms : UP_MS,
		.in_order = true,
		.on_ready = on_ready,
		.on_close = on_session_close,
		.data = q,
	};
	int r = qmp_session_new(q->loop, qmp_fd, &so, &q->session, err);

	if (r < 0)
		return r;
	qmp_session_subscribe(q->session, "SHUTDOWN", on_end, q);
	qmp_session_subscribe(q->session, "STOP", on_end, q);
	if (q->opts.on_event)
		qmp_session_subscribe(q->session, NULL, q->opts.on_event, q->opts.data);
	return 0;
}

int vm_qemu_new(uv_loop_t *loop, const struct vm_qemu_options *o, struct vm_qemu **ret, struct qmp_error *err)
{
	struct vm_qemu *q = calloc(1, sizeof *q);
	int r;

	if (!q)
		return qmp_error_errno(err, -ENOMEM, "starting QEMU");
	q->loop = loop;
	q->opts = *o;
	if (o->child.argv)
		r = vm_child_spawn(loop, &o->child, on_child_exit, q, &q->child, err);
	else
		r = vm_child_watch(loop, o->pid, on_child_exit, q, &q->child, err);
	if (r < 0) {
		free(q);
		return r;
	}
	uv_timer_init(loop, &q->drain);
	uv_timer_init(loop, &q->pulse);
	q->drain.data = q->pulse.data = q;
	*ret = q;
	q->ends = o->ends;
	if (q->ends)
		start_pulse(q);
	r = o->qmp_fd < 0 ? 0 : vm_qemu_reconnect(q, o->qmp_fd, err);
	if (r < 0) {
		if (o->child.argv)
			vm_child_signal(q->child, 9); /* ours, and nobody has seen it yet */
		vm_qemu_free(q);
		*ret = NULL;
	}
	return r;
}

struct qmp_session *vm_qemu_session(const struct vm_qemu *q)
{
	return q->session;
}

const struct vm_child *vm_qemu_child(const struct vm_qemu *q)
{
	return q->child;
}

static void on_drain_closed(uv_handle_t *h)
{
	free(h->data);
}

static void on_pulse_closed(uv_handle_t *h)
{
	struct vm_qemu *q = h->data;

	uv_close((uv_handle_t *)&q->drain, on_drain_closed);
}

void vm_qemu_free(struct vm_qemu *q)
{
	if (!q)
		return;
	end_session(q);
	vm_child_free(take_ptr(q->child));
	uv_timer_stop(&q->drain);
	uv_close((uv_handle_t *)&q->pulse, on_pulse_closed);
}
