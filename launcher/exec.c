/*
 * The way it goes well:   send() ... on_reply() ... [on_event()] ... finish(DONE)
 * A step is refused:      on_reply(error) -> drain what is in flight -> undo() in reverse -> finish(FAILED)
 * The guest is silent:    on_deadline() -> finish(PENDING) with the steps that are left
 * The session ends:       every reply is an error -> undo is refused, too -> finish(FAILED)
 */
#include "launcher/exec.h"
#include "proto/base.h"

struct vm_exec {
	struct vm_exec_options opts;
	struct qmp_session *session;
	uv_timer_t timer;
	json_t *plan;
	bool *succeeded; /* of each step */
	size_t n, next;  /* next to send */
	size_t in_flight, done;
	bool waiting;    /* for the event of step next - 1 */
	bool came;
	uint64_t subscription, refusal;
	bool undoing;
	bool finished;
	bool session_gone;
	struct qmp_error error;
};

struct step_call {
	struct vm_exec *x;
	size_t index;
};

static void send_steps(struct vm_exec *x);

static const char *text_of(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

static void on_timer_closed(uv_handle_t *h)
{
	struct vm_exec *x = h->data;

	json_decref(x->plan);
	free(x->succeeded);
	free(x);
}

static void unsubscribe(struct vm_exec *x)
{
	if (x->subscription && !x->session_gone) {
		qmp_session_unsubscribe(x->session, x->subscription);
		qmp_session_unsubscribe(x->session, x->refusal);
	}
	x->subscription = x->refusal = 0;
}

static json_t *rest_from(const struct vm_exec *x, size_t first)
{
	json_t *rest = json_array();

	for (size_t i = first; i < x->n; i++)
		json_array_append(rest, json_array_get(x->plan, i));
	return rest;
}

static void finish(struct vm_exec *x, enum vm_exec_outcome outcome, json_t *rest)
{
	if (x->finished)
		return;
	x->finished = true;
	unsubscribe(x);
	uv_timer_stop(&x->timer);
	x->opts.done(x->opts.data, outcome, rest, outcome == VM_EXEC_DONE ? NULL : &x->error);
	uv_close((uv_handle_t *)&x->timer, on_timer_closed);
}

/* ---- Undo, one after the other, the last first ---- */

static void undo_next(struct vm_exec *x);

static void on_undone(void *data, const struct qmp_reply *reply)
{
	struct vm_exec *x = data;

	x->session_gone |= reply->status == -ECANCELED || reply->status == -ECONNRESET;
	undo_next(x);
}

static void undo_next(struct vm_exec *x)
{
	while (x->n > 0) {
		const json_t *step = json_array_get(x->plan, --x->n);
		json_t *undo = json_object_get(step, "undo");
		struct qmp_command c = {.name = text_of(undo, "execute"), .arguments = json_object_get(undo, "arguments")};

		/* An fd that netdev_add has taken is no longer there to close: that refusal is expected. */
		if (!x->succeeded[x->n] || !undo || x->session_gone)
			continue;
		if (qmp_session_execute(x->session, &c, on_undone, x, NULL, NULL) == 0)
			return;
	}
	finish(x, VM_EXEC_FAILED, NULL);
}

static void failed(struct vm_exec *x, const struct qmp_error *why)
{
	if (x->error.kind == QMP_ERR_NONE)
		x->error = *why;
}

/* Everything that was sent has been answered, and something went wrong. */
static void begin_undo(struct vm_exec *x)
{
	if (x->undoing || x->in_flight > 0)
		return;
	x->undoing = true;
	unsubscribe(x);
	uv_timer_stop(&x->timer);
	x->n = x->next;
	undo_next(x);
}

/* ---- Waits ---- */

static bool matches(const json_t *wait, const struct qmp_event *event)
{
	const char *key;
	json_t *want;

	json_object_foreach(json_object_get(wait, "match"), key, want)
		if (!event->data || !json_equal(want, json_object_get(event->data, key)))
			return false;
	return true;
}

static void proceed(struct vm_exec *x)
{
	if (x->error.kind != QMP_ERR_NONE) {
		begin_undo(x);
		return;
	}
	if (x->waiting && x->came && x->in_flight == 0) {
		x->waiting = x->came = false;
		unsubscribe(x);
		uv_timer_stop(&x->timer);
	}
	if (x->waiting)
		return;
	if (x->next < x->n)
		send_steps(x);
	else if (x->in_flight == 0)
		finish(x, VM_EXEC_DONE, NULL);
}

static void on_wait_event(void *data, const struct qmp_event *event)
{
	struct vm_exec *x = data;

	if (!x->waiting || !matches(json_object_get(json_array_get(x->plan, x->next - 1), "wait"), event))
		return;
	x->came = true;
	proceed(x);
}

static void on_guest_refusal(void *data, const struct qmp_event *event)
{
	struct vm_exec *x = data;
	struct qmp_error why = {0};

	if (!x->waiting || !matches(json_object_get(json_array_get(x->plan, x->next - 1), "wait"), event))
		return;
	qmp_error_set(&why, QMP_ERR_REFUSED, -EBUSY, "%s: the guest refused to let go of it; free it in the guest first",
		      text_of(json_array_get(x->plan, x->next - 1), "item"));
	failed(x, &why);
	proceed(x);
}

static void on_deadline(uv_timer_t *t)
{
	struct vm_exec *x = t->data;
	const json_t *step = json_array_get(x->plan, x->next - 1);
	json_t *wait = json_object_get(step, "wait");

	qmp_error_set(&x->error, QMP_ERR_PENDING, -EINPROGRESS,
		      "%s: the guest has not answered within %lld ms; it is finished as soon as the guest lets go (a reset "
		      "of the guest does that, too)",
		      text_of(step, "item"), (long long)json_integer_value(json_object_get(wait, "timeout")));
	finish(x, VM_EXEC_PENDING, rest_from(x, x->next - 1));
}

static void begin_wait(struct vm_exec *x, const json_t *wait)
{
	x->waiting = true;
	x->came = false;
	x->subscription = qmp_session_subscribe(x->session, text_of(wait, "event"), on_wait_event, x);
	x->refusal = qmp_session_subscribe(x->session, "DEVICE_UNPLUG_GUEST_ERROR", on_guest_refusal, x);
	uv_timer_start(&x->timer, on_deadline,
		       (uint64_t)json_integer_value(json_object_get(wait, "timeout")), 0);
}

/* ---- Sending ---- */

static void on_reply(void *data, const struct qmp_reply *reply)
{
	struct step_call *call = data;
	struct vm_exec *x = call->x;
	size_t i = call->index;

	free(call);
	x->in_flight--;
	if (x->finished)
		return;
	x->session_gone |= reply->status == -ECANCELED || reply->status == -ECONNRESET;
	if (reply->status == 0) {
		x->succeeded[i] = true;
		x->done++;
		if (x->opts.progress)
			x->opts.progress(x->opts.data, x->done, x->n);
	} else if (x->waiting && i == x->next - 1 && reply->error_class && streq(reply->error_class, "DeviceNotFound")) {
		x->came = true; /* gone already: what was wanted */
	} else {
		failed(x, &reply->error);
	}
	proceed(x);
}

static int send_step(struct vm_exec *x, size_t i)
{
	const json_t *step = json_array_get(x->plan, i);
	const char *fd_name = text_of(step, "fd");
	int fd = fd_name && x->opts.fd ? x->opts.fd(x->opts.data, fd_name) : -1;
	struct qmp_command c = {
		.name = text_of(step, "execute"),
		.arguments = json_object_get(step, "arguments"),
		.fds = &fd,
		.n_fds = fd >= 0,
	};
	struct step_call *call = malloc(sizeof *call);
	struct qmp_error why = {0};
	int r;

	if (!call)
		return -ENOMEM;
	*call = (struct step_call){x, i};
	r = qmp_session_execute(x->session, &c, on_reply, call, NULL, &why);
	if (r < 0) {
		free(call);
		failed(x, &why);
		return r;
	}
	x->in_flight++;
	return 0;
}

static void send_steps(struct vm_exec *x)
{
	while (x->next < x->n && !x->waiting && x->error.kind == QMP_ERR_NONE) {
		json_t *wait = json_object_get(json_array_get(x->plan, x->next), "wait");
		if (wait && x->in_flight > 0)
			return; /* a removal is sent when what stands before it is known to be done */
		x->next++;
		if (wait)
			begin_wait(x, wait);
		if (send_step(x, x->next - 1) < 0)
			break;
	}
}

static void on_first_turn(uv_timer_t *t)
{
	struct vm_exec *x = t->data;

	proceed(x);
}

int vm_exec_run(uv_loop_t *loop, struct qmp_session *session, json_t *plan, const struct vm_exec_options *o,
		struct vm_exec **ret, struct qmp_error *err)
{
	struct vm_exec *x = calloc(1, sizeof *x);

	if (x)
		x->succeeded = calloc(json_array_size(plan) + 1, sizeof *x->succeeded);
	if (!x || !x->succeeded) {
		free(x);
		return qmp_error_errno(err, -ENOMEM, "running a plan");
	}
	x->opts = *o;
	x->session = session;
	x->plan = json_incref(plan);
	x->n = json_array_size(plan);
	uv_timer_init(loop, &x->timer);
	x->timer.data = x;
	if (x->n == 0)
		uv_timer_start(&x->timer, on_first_turn, 0, 0);
	else
		send_steps(x);
	if (x->error.kind != QMP_ERR_NONE)
		uv_timer_start(&x->timer, on_first_turn, 0, 0);
	*ret = x;
	return 0;
}

void vm_exec_abandon(struct vm_exec *x)
{
	if (x->finished)
		return;
	x->session_gone = true;
	qmp_error_set(&x->error, QMP_ERR_CLOSED, -ECONNRESET,
		      "QEMU went away while the change was made; its outcome is unknown");
	x->waiting = false;
	proceed(x);
}
