/*
 * The way it goes well:   send_steps() ... on_reply() ... [unplug ... on_unplugged()] ... finish(DONE)
 * A step is refused:      on_reply(error) -> what is in flight comes in -> begin_undo(): the plan is its undo now, and
 *                         goes on as before -> finish(FAILED)
 * The guest is silent:    on_unplugged(SILENT) -> finish(PENDING), or of the undo finish(FAILED), with the steps left
 * The session ends:       every reply is an error -> finish(FAILED)
 */
#include "launcher/exec.h"
#include "launcher/fdset.h"
#include "launcher/plan.h"
#include "launcher/secret.h"
#include "launcher/unplug.h"
#include "proto/base.h"

#define AGAIN_MS    100
#define AGAIN_TIMES 20
#define KEY_MS      300000

enum step_outcome { STEP_NOT_DONE, STEP_DONE, STEP_UNKNOWN, STEP_AGAIN };

struct vm_exec {
	struct vm_exec_options opts;
	struct qmp_session *session;
	uv_loop_t *loop;
	uv_timer_t timer;    /* the first turn; steps to be sent again */
	json_t *plan;
	enum step_outcome *outcomes; /* of each step */
	size_t n, next;  /* next to send */
	size_t in_flight, done;
	size_t again, times; /* so many steps are to be sent again; that often it was done */
	struct vm_unplug *unplug; /* of step next - 1; nothing behind it is sent */
	bool handing_over;        /* a file of step next - 1: likewise */
	json_t *loose;            /* names of nodes whose sets of fds, if they have any, are to go; NULL: no image is handed over */
	bool undoing;
	bool finished, closed;
	bool session_gone;
	struct qmp_error error;
	struct qmp_error undo_error; /* the first step of the undo that was refused */
};

struct step_call {
	struct vm_exec *x;
	size_t index;
};

static void proceed(struct vm_exec *x);
static bool must_stop(const struct vm_exec *x);
static void on_timer(uv_timer_t *t);

static void release(struct vm_exec *x)
{
	if (!x->closed || x->in_flight > 0)
		return;
	json_decref(x->plan);
	json_decref(x->loose);
	free(x->outcomes);
	free(x);
}

static void on_closed(uv_handle_t *h)
{
	struct vm_exec *x = h->data;

	x->closed = true;
	release(x);
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
	if (!x->session_gone && json_array_size(x->loose) > 0)
		vm_fdset_drop(x->session, x->loose);
	uv_timer_stop(&x->timer);
	x->opts.done(x->opts.data, outcome, rest, outcome == VM_EXEC_DONE ? NULL : &x->error);
	uv_close((uv_handle_t *)&x->timer, on_closed);
}

static void failed(struct vm_exec *x, const json_t *step, const struct qmp_error *why)
{
	struct qmp_error *slot = x->undoing ? &x->undo_error : &x->error;

	x->session_gone |= !qmp_session_is_ready(x->session);
	if (slot->kind != QMP_ERR_NONE || (x->undoing && json_is_true(json_object_get(step, "optional"))))
		return;
	*slot = *why;
	qmp_error_wrap(slot, "%s", text_of(step, "item"));
}

/* ---- Undo ---- */

/* QEMU may still carry it out, in its turn; what undoes it comes after that, and does no harm if it did not. */
static json_t *with_optional_undo(const json_t *step)
{
	json_t *copy = json_deep_copy(step), *undo = json_object_get(copy, "undo");

	if (undo)
		json_object_set_new(undo, "optional", json_true());
	return copy;
}

/* The plan is what undoes the steps that were done, or may have been. */
static void begin_undo(struct vm_exec *x)
{
	json_auto_t *done = json_array();
	json_t *undo;

	for (size_t i = 0; i < x->n; i++)
		if (x->outcomes[i] == STEP_DONE)
			json_array_append(done, json_array_get(x->plan, i));
		else if (x->outcomes[i] == STEP_UNKNOWN)
			json_array_append_new(done, with_optional_undo(json_array_get(x->plan, i)));
	undo = vm_plan_undo(done);
	x->undoing = true;
	json_decref(x->plan);
	free(x->outcomes);
	x->plan = undo;
	x->n = json_array_size(undo);
	x->next = x->done = x->again = x->times = 0;
	x->outcomes = calloc(x->n + 1, sizeof *x->outcomes);
	if (!x->outcomes)
		x->n = 0;
}

/* Puts after the reason what became of the undo. */
static void add_words(struct vm_exec *x, const char *what, const struct qmp_error *why)
{
	struct qmp_error both = {.kind = QMP_ERR_NONE};

	qmp_error_set(&both, x->error.kind, x->error.code, "%.900s; %s: %.900s", x->error.message, what, why->message);
	x->error = both;
}

static void finish_undo(struct vm_exec *x)
{
	if (x->undo_error.kind != QMP_ERR_NONE && !x->session_gone)
		add_words(x, "undoing what was done before it failed, too, and leaves something in QEMU", &x->undo_error);
	finish(x, VM_EXEC_FAILED, NULL);
}

/* ---- Steps ---- */

static void step_is_done(struct vm_exec *x, size_t i)
{
	x->outcomes[i] = STEP_DONE;
	x->done++;
	if (x->opts.progress && !x->undoing)
		x->opts.progress(x->opts.data, x->done, x->n);
}

/* Whether step I removes something, and (KIND) what. */
static bool removes(const struct vm_exec *x, size_t i, enum vm_object_kind *kind)
{
	const char *id;
	bool adds;

	return vm_step_object(json_array_get(x->plan, i), kind, &id, &adds) && !adds;
}

/*
 * A device holds its backend for a moment after its name has gone. Where DEVICE_DELETED was not seen here (the plan
 * goes on from where another was cut short), what is removed behind it may be refused in that moment.
 */
static bool comes_too_early(const struct vm_exec *x, size_t i, const struct qmp_reply *reply)
{
	const char *item = text_of(json_array_get(x->plan, i), "item");
	enum vm_object_kind kind;

	if (x->undoing || reply->status != -EREMOTEIO || x->times >= AGAIN_TIMES || !removes(x, i, &kind) || kind == VM_DEVICE)
		return false;
	while (i-- > 0)
		if (removes(x, i, &kind) && kind == VM_DEVICE && streq(text_of(json_array_get(x->plan, i), "item"), item))
			return false;
	return true;
}

/* Its node is gone, or has not come. */
static void note_set(struct vm_exec *x, size_t i, int status)
{
	const json_t *step = json_array_get(x->plan, i);
	const char *command = text_of(step, "execute"), *node = text_of(json_object_get(step, "arguments"), "node-name");

	if (x->loose && node && streq(command, status == 0 ? "blockdev-del" : "blockdev-add"))
		json_array_append_new(x->loose, json_string(node));
}

static void on_reply(void *data, const struct qmp_reply *reply)
{
	struct step_call *call = data;
	struct vm_exec *x = call->x;
	size_t i = call->index;

	free(call);
	x->in_flight--;
	if (x->finished) {
		release(x);
		return;
	}
	if (comes_too_early(x, i, reply)) {
		x->outcomes[i] = STEP_AGAIN;
		if (x->again++ == 0)
			uv_timer_start(&x->timer, on_timer, AGAIN_MS, 0);
		return;
	}
	note_set(x, i, reply->status);
	if (reply->status < 0) {
		x->outcomes[i] = reply->status == -ETIMEDOUT ? STEP_UNKNOWN : STEP_NOT_DONE;
		failed(x, json_array_get(x->plan, i), &reply->error);
	} else {
		step_is_done(x, i);
	}
	proceed(x);
}

static void on_unplugged(void *data, enum vm_unplug_outcome outcome, const struct qmp_error *why)
{
	struct vm_exec *x = data;
	const json_t *step = json_array_get(x->plan, x->next - 1);

	x->unplug = NULL;
	if (outcome == VM_UNPLUG_GONE) {
		step_is_done(x, x->next - 1);
	} else if (outcome == VM_UNPLUG_REFUSED) {
		failed(x, step, why);
	} else if (x->undoing) {
		add_words(x, "what was done before it is being undone", why);
		finish(x, VM_EXEC_FAILED, rest_from(x, x->next - 1));
		return;
	} else {
		x->error = *why;
		qmp_error_wrap(&x->error, "%s", text_of(step, "item"));
		finish(x, VM_EXEC_PENDING, rest_from(x, x->next - 1));
		return;
	}
	proceed(x);
}

static int send_unplug(struct vm_exec *x, const json_t *step, const json_t *wait)
{
	struct qmp_error why = {0};
	uint64_t timeout = x->opts.patient ? UINT64_MAX : (uint64_t)json_integer_value(json_object_get(wait, "timeout"));
	int r = vm_unplug_run(x->loop, x->session, text_of(json_object_get(step, "arguments"), "id"), timeout, on_unplugged,
			      x, &x->unplug, &why);

	if (r < 0)
		failed(x, step, &why);
	return r;
}

/* CB has the outcome of C, or of the first half of it, of step I. WHY: what went wrong before, or {0}. */
static int send_call(struct vm_exec *x, size_t i, const struct qmp_command *c, qmp_reply_cb cb, struct qmp_error *why)
{
	struct step_call *call = why->kind == QMP_ERR_NONE ? malloc(sizeof *call) : NULL;
	int r = call ? 0 : qmp_error_errno(why, -ENOMEM, "running a plan");

	if (r == 0) {
		*call = (struct step_call){x, i};
		r = qmp_session_execute(x->session, c, cb, call, NULL, why);
	}
	if (r < 0) {
		free(call);
		failed(x, json_array_get(x->plan, i), why);
		return r;
	}
	x->in_flight++;
	return 0;
}

/* ---- Files that are handed over ---- */

/*
 * add-fd puts a file into a set of QEMU's, and says which, and which number it has there.
 *
 * A secret, in memory, is read by that number: so it stands in no message, and nothing tells it to who asks. add-fd -> object-add,
 * remove-fd. An image that QEMU may not open is opened as "/dev/fdset/SET", again when it is reopened: add-fd -> blockdev-add. Its
 * set goes with its node (loose). What is left of a set by a keeper that ends in between, goes with its connection; but for an
 * add-fd that QEMU carries out when that has gone already: such a set of this name goes before its image is handed over again.
 */

static void on_removed_fd(void *data, const struct qmp_reply *reply)
{
	UNUSED(data);
	UNUSED(reply);
}

static const char *node_of(const json_t *step)
{
	return text_of(json_object_get(step, "arguments"), "node-name");
}

static void on_handed_over(struct vm_exec *x, size_t i, const json_t *fdset)
{
	const json_t *step = json_array_get(x->plan, i);
	json_int_t number = json_integer_value(json_object_get(fdset, "fd"));
	json_int_t id = json_integer_value(json_object_get(fdset, "fdset-id"));
	json_auto_t *args = json_copy(json_object_get(step, "arguments")), *set = json_pack("{s:I}", "fdset-id", id);
	struct qmp_command add = {.name = text_of(step, "execute"), .arguments = args};
	struct qmp_command remove = {.name = "remove-fd", .arguments = set};
	struct qmp_error why = {0};
	bool secret = !node_of(step);

	if (!args || json_object_set_new(args, secret ? "file" : "filename",
					 secret ? json_sprintf("/proc/self/fd/%lld", (long long)number)
						: json_sprintf("/dev/fdset/%lld", (long long)id)) < 0)
		qmp_error_errno(&why, -ENOMEM, "running a plan");
	if (must_stop(x) || send_call(x, i, &add, on_reply, &why) < 0 || secret)
		(void)qmp_session_execute(x->session, &remove, on_removed_fd, NULL, NULL, NULL);
}

static void on_added_fd(void *data, const struct qmp_reply *reply)
{
	struct step_call *call = data;
	struct vm_exec *x = call->x;
	size_t i = call->index;

	free(call);
	x->in_flight--;
	x->handing_over = false;
	if (x->finished) {
		release(x);
		return;
	}
	if (reply->status < 0)
		failed(x, json_array_get(x->plan, i), &reply->error);
	else
		on_handed_over(x, i, reply->value);
	proceed(x);
}

/* FD, or WHY there is none. What it is for is told by query-fdsets. */
static int hand_over(struct vm_exec *x, size_t i, int fd, struct qmp_error *why)
{
	const char *node = node_of(json_array_get(x->plan, i));
	json_auto_t *args = json_pack("{s:s*}", "opaque", node);
	struct qmp_command c = {.name = "add-fd", .arguments = args, .fds = &fd, .n_fds = 1};
	int r = send_call(x, i, &c, on_added_fd, why);

	x->handing_over = r == 0;
	return r;
}

/* What QEMU is asked comes before the set that is made next, and is answered before it. */
static void drop_set_of(const struct vm_exec *x, const char *node)
{
	json_auto_t *names = json_pack("[s]", node);

	if (names)
		vm_fdset_drop(x->session, names);
}

/* 1: its image is handed over. */
static int send_image(struct vm_exec *x, size_t i, const json_t *step)
{
	_cleanup_fd_ int fd = -1;
	struct qmp_error why = {0};
	int r = x->loose && node_of(step) && streq(text_of(step, "execute"), "blockdev-add")
			? x->opts.image(x->opts.data, step, &fd, &why) : 0;

	if (r == 0)
		return 0;
	if (r > 0)
		drop_set_of(x, node_of(step));
	r = hand_over(x, i, fd, &why);
	return r < 0 ? r : 1;
}

static int send_secret(struct vm_exec *x, size_t i, const char *file, bool is_line)
{
	_cleanup_fd_ int fd = -1;
	struct qmp_error why = {0};

	(void)vm_secret_open(file, is_line, &fd, &why);
	return hand_over(x, i, fd, &why);
}

/* ---- Sending ---- */

/* Then QEMU tries the key on each of the image's slots, which is made to cost seconds. */
static bool opens_by_key(const json_t *step)
{
	const json_t *args = json_object_get(step, "arguments");

	return json_object_get(args, "key-secret") || json_object_get(args, "encrypt");
}

static int send_command(struct vm_exec *x, size_t i, const json_t *step)
{
	const char *fd_name = text_of(step, "fd"), *secret = text_of(step, "secret"), *line = text_of(step, "secret-line");
	struct qmp_error why = {0};
	_cleanup_fd_ int fd = fd_name ? x->opts.fd(x->opts.data, fd_name, &why) : -1;
	struct qmp_command c = {
		.name = text_of(step, "execute"),
		.arguments = json_object_get(step, "arguments"),
		.fds = &fd,
		.n_fds = fd >= 0,
		.timeout_ms = opens_by_key(step) ? KEY_MS : 0,
	};
	int r;

	if (secret || line)
		return send_secret(x, i, secret ? secret : line, !secret);
	r = send_image(x, i, step);
	if (r != 0)
		return r < 0 ? r : 0;
	return send_call(x, i, &c, on_reply, &why);
}

static bool must_stop(const struct vm_exec *x)
{
	return x->session_gone || (!x->undoing && x->error.kind != QMP_ERR_NONE);
}

static void send_steps(struct vm_exec *x)
{
	while (x->next < x->n && !x->unplug && !x->handing_over && !must_stop(x)) {
		const json_t *step = json_array_get(x->plan, x->next);
		const json_t *wait = json_object_get(step, "wait");
		if (wait && x->in_flight + x->again > 0)
			return; /* a removal is sent when what stands before it is known to be done */
		x->next++;
		(void)(wait ? send_unplug(x, step, wait) : send_command(x, x->next - 1, step));
	}
}

static void proceed(struct vm_exec *x)
{
	send_steps(x);
	if (x->finished || x->unplug || x->in_flight > 0 || x->again > 0)
		return;
	if (must_stop(x) && !x->undoing && !x->session_gone) {
		begin_undo(x);
		proceed(x);
	} else if (x->undoing || must_stop(x)) {
		finish_undo(x);
	} else if (x->next == x->n) {
		finish(x, VM_EXEC_DONE, NULL);
	}
}

static void send_again(struct vm_exec *x)
{
	x->again = 0;
	x->times++;
	for (size_t i = 0; i < x->next; i++)
		if (x->outcomes[i] == STEP_AGAIN) {
			x->outcomes[i] = STEP_NOT_DONE;
			if (!must_stop(x))
				(void)send_command(x, i, json_array_get(x->plan, i));
		}
}

static void on_timer(uv_timer_t *t)
{
	struct vm_exec *x = t->data;

	if (x->again > 0)
		send_again(x);
	proceed(x);
}

int vm_exec_run(uv_loop_t *loop, struct qmp_session *session, json_t *plan, const struct vm_exec_options *o,
		struct vm_exec **ret, struct qmp_error *err)
{
	struct vm_exec *x = calloc(1, sizeof *x);

	if (x)
		x->outcomes = calloc(json_array_size(plan) + 1, sizeof *x->outcomes);
	if (!x || !x->outcomes) {
		free(x);
		return qmp_error_errno(err, -ENOMEM, "running a plan");
	}
	x->opts = *o;
	x->loop = loop;
	x->session = session;
	x->plan = json_incref(plan);
	x->n = json_array_size(plan);
	x->loose = o->image ? json_array() : NULL;
	uv_timer_init(loop, &x->timer);
	x->timer.data = x;
	uv_timer_start(&x->timer, on_timer, 0, 0);
	*ret = x;
	return 0;
}

void vm_exec_abandon(struct vm_exec *x)
{
	struct qmp_error why = {0};

	if (x->finished)
		return;
	x->session_gone = true;
	vm_unplug_free(take_ptr(x->unplug), true);
	qmp_error_set(&why, QMP_ERR_CLOSED, -ECONNRESET,
		      "QEMU went away while the change was made; its outcome is unknown");
	if (x->error.kind == QMP_ERR_NONE)
		x->error = why;
	finish(x, VM_EXEC_FAILED, NULL);
}
