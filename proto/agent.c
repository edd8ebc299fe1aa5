/*
 * The guest agent's dialect of QMP: no greeting, no events, no ids, one command at a time, over a serial channel
 * whose far end may have been replaced between any two bytes.
 *
 * The way an exchange goes well:
 *   0xFF and guest-sync-delimited with a random id go out -> what comes is dropped up to a 0xFF -> that id comes
 *   -> the command goes out -> its reply comes.
 * Each command has a sync of its own: a reply that is late, or comes from an agent of before a restart, stands in
 * front of the delimiter, and nothing that has an effect is sent to an agent that is not there to read it.
 *
 * The ways one fails: no answer to the sync, no reply to the command, a reply that is no JSON, too long or has too
 * many values, an error of the agent's. The next exchange starts from nothing all the same. The connection as a whole
 * ends by end of file, a system call's error, or an agent that does not even read.
 *
 * Everything here is in the guest's hands, so: between exchanges nothing is read (the guest is held back by its full
 * channel), what is dropped is not kept, and every exchange has a deadline.
 */
#include "proto/base.h"
#include "proto/call.h"
#include "proto/framer.h"
#include "proto/link.h"
#include "proto/qmp.h"
#include "proto/trace.h"

#include <sys/random.h>
#include <sys/socket.h>

#define DEFAULT_SYNC_MS    5000
#define DEFAULT_COMMAND_MS 30000
#define DEFAULT_QUEUED     64
#define READS_PER_TURN     16
/* More than the reply to a sync ever has. */
#define SYNC_REPLY_MAX 256
/* Ids that a double holds exactly: not every agent keeps integers as such. */
#define SYNC_ID_MASK (((uint64_t)1 << 53) - 1)

enum state { IDLE, SYNCING, ASKED };

struct qmp_agent {
	struct qmp_link link;
	enum state state;
	bool other_side_left;
	struct qmp_agent_options opts;
	struct qmp_calls queued, ended;
	struct qmp_call *call;     /* of the exchange; its text is NULL where the sync is all that is wanted */
	struct qmp_framer *framer; /* of what the exchange reads now */
	uint64_t sync_id, sync_deadline, last_serial;
};

static bool is_alive(const struct qmp_agent *a)
{
	return qmp_link_is_alive(&a->link);
}

/* They answer on success with silence alone. Source: "success-response": false in QEMU's qga/qapi-schema.json. */
static bool has_no_reply(const char *command)
{
	static const char *const names[] = {"guest-shutdown", "guest-suspend-disk", "guest-suspend-ram",
					    "guest-suspend-hybrid"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (streq(names[i], command))
			return true;
	return false;
}

/* ---- Failing as a whole ---- */

/* All commands under way have ended so; each callback then finds it so, whatever the others do. */
static void end_all(struct qmp_agent *a, int status, enum qmp_error_kind kind, const char *why)
{
	if (a->call)
		qmp_calls_append_ended(&a->ended, take_ptr(a->call), status, kind, why);
	qmp_calls_end_all(&a->queued, &a->ended, status, kind, why);
	qmp_calls_fire(&a->ended);
}

/* Everything went out, and silence, or a closed channel, is how a guest that powers off looks. */
static bool silence_is_success(const struct qmp_agent *a)
{
	return a->call && a->call->no_reply && a->state == ASKED && !a->link.wire.head;
}

static void fail_errno(struct qmp_agent *a, int code, const char *what)
{
	struct qmp_error err = {0};

	if (code == -EPIPE || code == -ECONNRESET)
		qmp_error_set(&err, QMP_ERR_CLOSED, -ECONNRESET, "%s: its channel was closed", what);
	else
		qmp_error_errno(&err, code, "%s", what);
	qmp_link_fail(&a->link, &err);
}

/* ---- One exchange ---- */

static void tell_answers(struct qmp_agent *a, bool answers)
{
	if (a->opts.on_answer)
		a->opts.on_answer(a->opts.data, answers);
}

/* Ends the exchange; what still comes of it is dropped by the next one's sync. */
static struct qmp_call *take_call(struct qmp_agent *a)
{
	struct qmp_call *c = take_ptr(a->call);
	struct qmp_error err = {0};

	a->state = IDLE;
	qmp_framer_free(take_ptr(a->framer));
	qmp_link_set_reading(&a->link, false);
	if (a->link.wire.head) {
		qmp_error_set(&err, QMP_ERR_CLOSED, -ECONNRESET,
			      "the guest agent does not even read what is sent to it; its channel is given up");
		qmp_link_fail(&a->link, &err);
	}
	return c;
}

static void end_exchange(struct qmp_agent *a, int status, enum qmp_error_kind kind, const char *why)
{
	qmp_calls_append_ended(&a->ended, take_call(a), status, kind, why);
}

static int expect_replies(struct qmp_agent *a, size_t max)
{
	qmp_framer_free(a->framer);
	a->framer = qmp_framer_new(max);
	return a->framer ? 0 : -ENOMEM;
}

static int add_text(struct qmp_agent *a, char *text_consume, size_t len)
{
	if (!text_consume)
		return -ENOMEM;
	qmp_trace(a, true, text_consume, len);
	return qmp_link_add_consume(&a->link, text_consume, len, NULL, 0);
}

/* RESYNC: with the 0xFF, on which the agent drops what it has half read; it complains of that with an error, too. */
static int add_sync(struct qmp_agent *a, bool resync)
{
	json_auto_t *arguments = NULL;
	struct qmp_command sync = {.name = "guest-sync-delimited"};
	_cleanup_free_ char *line = NULL;
	size_t len = 0;

	if (getrandom(&a->sync_id, sizeof a->sync_id, 0) != sizeof a->sync_id)
		return -EIO;
	a->sync_id &= SYNC_ID_MASK;
	sync.arguments = arguments = json_pack("{s:I}", "id", (json_int_t)a->sync_id);
	line = arguments ? qmp_call_encode(&sync, NULL, &len) : NULL;
	if (line && resync)
		return add_text(a, qmp_asprintf("%c%s", 0xff, line), len + 1);
	return add_text(a, take_ptr(line), len);
}

static void begin_exchange(struct qmp_agent *a, struct qmp_call *c)
{
	uint64_t limit = qmp_deadline_in(a->opts.sync_timeout_ms ? a->opts.sync_timeout_ms : DEFAULT_SYNC_MS);
	int r = expect_replies(a, SYNC_REPLY_MAX);

	a->call = c;
	a->state = SYNCING;
	a->sync_deadline = c->deadline < limit ? c->deadline : limit;
	if (r == 0)
		r = add_sync(a, true);
	if (r < 0) {
		fail_errno(a, r, "asking the guest agent");
		return;
	}
	qmp_framer_skip_to_resync(a->framer);
	qmp_link_wake_at(&a->link, a->sync_deadline);
	qmp_link_set_reading(&a->link, true);
	qmp_link_flush(&a->link);
}

static void ask(struct qmp_agent *a)
{
	struct qmp_call *c = a->call;
	int r = expect_replies(a, a->opts.max_message ? a->opts.max_message : QMP_AGENT_MESSAGE_MAX);

	a->state = ASKED;
	if (r == 0)
		r = add_text(a, take_ptr(c->text), c->len);
	/* A sync behind it is answered as soon as the agent has taken it. */
	if (r == 0 && c->no_reply)
		r = add_sync(a, false);
	if (r < 0) {
		fail_errno(a, r, "sending to the guest agent");
		return;
	}
	qmp_link_wake_at(&a->link, c->deadline);
	qmp_link_flush(&a->link);
}

/* ---- What comes ---- */

static bool is_sync_reply(const struct qmp_agent *a, const char *text, size_t len)
{
	json_auto_t *message = qmp_json_decode(text, len, NULL);
	const json_t *id = json_object_get(message, "return");

	return json_is_integer(id) && (uint64_t)json_integer_value(id) == a->sync_id;
}

static void take_sync(struct qmp_agent *a, const char *text, size_t len)
{
	const struct qmp_call *c = a->call;

	if (!text || !is_sync_reply(a, text, len)) {
		qmp_framer_skip_to_resync(a->framer); /* late: of an earlier sync, or not a reply at all */
		return;
	}
	tell_answers(a, true);
	if (!is_alive(a) || a->call != c)
		return;
	if (c->text)
		ask(a);
	else
		end_exchange(a, 0, QMP_ERR_NONE, NULL);
}

/* Each value of a hostile reply costs fifty times the bytes that it has on the wire. */
static bool has_too_many_values(const struct qmp_span *value)
{
	size_t n = 0;

	for (size_t i = 0; value->text && i < value->len; i++)
		n += value->text[i] == ',' || value->text[i] == '[' || value->text[i] == '{';
	return n > QMP_AGENT_VALUES_MAX;
}

static void take_reply(struct qmp_agent *a, const char *text, size_t len)
{
	static const char *const names[] = {"return", "error"};
	struct qmp_span m[2] = {{0}};
	bool scanned = qmp_scan_members(text, len, names, m, 2);
	struct qmp_framer *framer = take_ptr(a->framer); /* TEXT is in it */
	struct qmp_call *c = take_call(a);

	if (!scanned || !m[0].text == !m[1].text)
		qmp_call_end_consume(c, -EPROTO, QMP_ERR_PROTOCOL, "the guest agent's reply has neither a result nor an error");
	else if (has_too_many_values(&m[0]) || has_too_many_values(&m[1]))
		qmp_call_end_consume(c, -EMSGSIZE, QMP_ERR_LIMIT, "the guest agent's reply has more values than allowed");
	else if (c->no_reply && m[0].text)
		qmp_call_end_consume(c, 0, QMP_ERR_NONE, NULL);
	else
		(void)qmp_call_answer_consume(c, &m[0], &m[1]);
	qmp_framer_free(framer);
}

static void take_messages(struct qmp_agent *a)
{
	int r;

	do {
		struct qmp_error err = {0};
		const char *text = NULL;
		size_t len = 0;

		r = a->framer ? qmp_framer_next(a->framer, &text, &len, &err) : 0;
		if (r == 1)
			qmp_trace(a, false, text, len);
		if (r != 0 && a->state == SYNCING)
			take_sync(a, r == 1 ? text : NULL, len);
		else if (r == 1)
			take_reply(a, text, len);
		else if (r == -EMSGSIZE)
			end_exchange(a, r, QMP_ERR_LIMIT, "the guest agent's reply is larger than allowed");
		else if (r < 0)
			end_exchange(a, r, QMP_ERR_PROTOCOL, "the guest agent's reply is not JSON");
	} while (r != 0 && is_alive(a));
}

/* Reads once. False: there was nothing (more) to read, or nothing more is wanted. */
static bool read_once(struct qmp_agent *a)
{
	size_t size;
	void *place = qmp_framer_reserve(a->framer, &size);
	ssize_t n = place ? recv(a->link.fd, place, size, MSG_DONTWAIT) : -1;

	if (!place) {
		fail_errno(a, -ENOMEM, "reading from the guest agent");
	} else if (n == 0) {
		fail_errno(a, -ECONNRESET, "reading from the guest agent");
	} else if (n > 0) {
		qmp_framer_commit(a->framer, (size_t)n);
		take_messages(a);
		return (size_t)n == size;
	} else if (errno != EAGAIN && errno != EINTR) {
		fail_errno(a, -errno, "reading from the guest agent");
	}
	return n < 0 && errno == EINTR;
}

/* ---- What the link tells ---- */

static struct qmp_agent *agent_of(struct qmp_link *l)
{
	return container_of(l, struct qmp_agent, link);
}

static void on_readable(struct qmp_link *l)
{
	struct qmp_agent *a = agent_of(l);

	for (int i = 0; i < READS_PER_TURN && is_alive(a) && a->framer; i++)
		if (!read_once(a))
			break;
}

static void on_hung_up(struct qmp_link *l)
{
	on_readable(l); /* its last words */
	fail_errno(agent_of(l), -ECONNRESET, "reading from the guest agent");
}

static void on_write_failed(struct qmp_link *l, int code)
{
	fail_errno(agent_of(l), code, "writing to the guest agent");
}

static void give_up(struct qmp_agent *a)
{
	if (silence_is_success(a)) {
		end_exchange(a, 0, QMP_ERR_NONE, NULL);
		return;
	}
	if (a->state == SYNCING)
		end_exchange(a, -ETIMEDOUT, QMP_ERR_TIMEOUT,
			     "the guest agent does not answer (guest-sync-delimited had no reply in time); nothing else "
			     "was sent to it");
	else
		end_exchange(a, -ETIMEDOUT, QMP_ERR_TIMEOUT,
			     "no reply of the guest agent within the deadline; whether it was done is unknown");
	tell_answers(a, false);
}

static void on_tick(struct qmp_link *l)
{
	struct qmp_agent *a = agent_of(l);
	uint64_t now = qmp_now_ms(), due;

	if (a->other_side_left)
		on_hung_up(l);
	due = qmp_calls_expire(&a->queued, now, &a->ended,
			       "not sent within its deadline, the guest agent is busy with another command");
	if (due != UINT64_MAX)
		qmp_link_wake_at(l, due);
	if (!is_alive(a) || !a->call)
		return;
	due = a->state == SYNCING ? a->sync_deadline : a->call->deadline;
	if (now >= due)
		give_up(a);
	else if (due != UINT64_MAX)
		qmp_link_wake_at(l, due);
}

static void on_settle(struct qmp_link *l)
{
	struct qmp_agent *a = agent_of(l);
	struct qmp_call *c;

	qmp_calls_fire(&a->ended);
	if (is_alive(a) && a->state == IDLE && (c = qmp_calls_pop(&a->queued)))
		begin_exchange(a, c);
}

static void on_ended(struct qmp_link *l)
{
	struct qmp_agent *a = agent_of(l);

	if (silence_is_success(a))
		qmp_calls_append_ended(&a->ended, take_ptr(a->call), 0, QMP_ERR_NONE, NULL);
	end_all(a, l->error.code, l->error.kind, l->error.message);
	if (qmp_link_is_open(l) && a->opts.on_close)
		a->opts.on_close(a->opts.data, &l->error);
}

static void on_gone(struct qmp_link *l)
{
	struct qmp_agent *a = agent_of(l);

	qmp_framer_free(a->framer);
	free(a);
}

static const struct qmp_link_ops link_ops = {
	.readable = on_readable,
	.hung_up = on_hung_up,
	.write_failed = on_write_failed,
	.tick = on_tick,
	.settle = on_settle,
	.ended = on_ended,
	.gone = on_gone,
};

/* ---- The public operations ---- */

int qmp_agent_new(uv_loop_t *loop, int fd_consume, const struct qmp_agent_options *opts, struct qmp_agent **ret,
		  struct qmp_error *err)
{
	struct qmp_agent *a = calloc(1, sizeof *a);
	int r = -ENOMEM;

	if (a) {
		a->opts = *opts;
		qmp_calls_init(&a->queued);
		qmp_calls_init(&a->ended);
		r = qmp_link_init(&a->link, loop, fd_consume, &link_ops);
	}
	if (r < 0) {
		free(a);
		return qmp_error_errno(err, r, "opening the guest agent's channel");
	}
	qmp_link_set_reading(&a->link, false);
	*ret = a;
	return 0;
}

void qmp_agent_free(struct qmp_agent *a)
{
	if (!a || !qmp_link_is_open(&a->link))
		return;
	qmp_link_close(&a->link);
	end_all(a, -ECANCELED, QMP_ERR_CANCELLED, "the guest agent's channel was closed");
}

void qmp_agent_hang_up(struct qmp_agent *a)
{
	a->other_side_left = true;
	qmp_link_wake_at(&a->link, 0);
}

static int refuse(const struct qmp_agent *a, const char *name, struct qmp_error *err)
{
	size_t limit = a->opts.max_queued ? a->opts.max_queued : DEFAULT_QUEUED;

	if (!is_alive(a))
		return qmp_error_set(err, QMP_ERR_CLOSED, -ENOTCONN, "%s: the guest agent's channel has been closed", name);
	if (a->queued.n >= limit)
		return qmp_error_set(err, QMP_ERR_BUSY, -EBUSY, "%s: %zu commands wait for the guest agent already", name,
				     limit);
	return 0;
}

/* COMMAND->arguments is encoded, unless a sync is all that is wanted. */
static int enqueue(struct qmp_agent *a, const struct qmp_command *command, bool sync_only, qmp_reply_cb cb, void *data,
		   uint64_t *ret_serial, struct qmp_error *err)
{
	uint64_t timeout = command->timeout_ms;
	struct qmp_call *c;
	int r = refuse(a, command->name, err);

	if (r < 0)
		return r;
	c = qmp_call_new(command, cb, data);
	if (!c)
		return qmp_error_errno(err, -ENOMEM, "%s", command->name);
	if (!sync_only && !(c->text = qmp_call_encode(command, NULL, &c->len)))
		r = qmp_error_set(err, QMP_ERR_INTERNAL, -EINVAL, "%s: its arguments cannot be encoded", command->name);
	else if (c->len > QMP_AGENT_MESSAGE_MAX)
		r = qmp_error_set(err, QMP_ERR_LIMIT, -EMSGSIZE, "%s: more than %zu bytes for the guest agent",
				  command->name, QMP_AGENT_MESSAGE_MAX);
	if (r < 0) {
		qmp_call_free(c);
		return r;
	}
	if (timeout == 0)
		timeout = a->opts.command_timeout_ms ? a->opts.command_timeout_ms : DEFAULT_COMMAND_MS;
	c->serial = ++a->last_serial;
	c->no_reply = !sync_only && has_no_reply(command->name);
	c->deadline = qmp_deadline_in(timeout);
	qmp_calls_append(&a->queued, c);
	qmp_link_wake_at(&a->link, 0);
	if (ret_serial)
		*ret_serial = c->serial;
	return 0;
}

int qmp_agent_execute(struct qmp_agent *a, const struct qmp_command *command, qmp_reply_cb cb, void *data,
		      uint64_t *ret_serial, struct qmp_error *err)
{
	if (!command->name || command->n_fds > 0 || command->oob ||
	    (command->arguments && !json_is_object(command->arguments)))
		return qmp_error_set(err, QMP_ERR_INTERNAL, -EINVAL,
				     "%s: a guest agent's command has a name, an object of arguments, no fds",
				     command->name ? command->name : "(no name)");
	return enqueue(a, command, false, cb, data, ret_serial, err);
}

int qmp_agent_sync(struct qmp_agent *a, uint64_t timeout_ms, qmp_reply_cb cb, void *data, uint64_t *ret_serial,
		   struct qmp_error *err)
{
	struct qmp_command sync = {.name = "guest-sync-delimited", .timeout_ms = timeout_ms};

	return enqueue(a, &sync, true, cb, data, ret_serial, err);
}

void qmp_agent_cancel(struct qmp_agent *a, uint64_t serial)
{
	struct qmp_call *c = qmp_calls_take(&a->queued, serial);
	const char *why = "cancelled before it was sent";

	if (!c && a->call && a->call->serial == serial) {
		why = a->state == ASKED ? "cancelled; the guest agent may still do it" : why;
		c = take_call(a);
	}
	if (!c)
		return;
	qmp_calls_append_ended(&a->ended, c, -ECANCELED, QMP_ERR_CANCELLED, why);
	qmp_link_wake_at(&a->link, 0);
}

/* ---- guest-info ---- */

json_t *qmp_agent_info(const json_t *guest_info)
{
	const json_t *list = json_object_get(guest_info, "supported_commands");
	const char *version = json_string_value(json_object_get(guest_info, "version"));
	json_t *commands = json_object(), *entry;
	char cut[QMP_AGENT_NAME_MAX + 1];
	size_t i;

	json_array_foreach(list, i, entry)
	{
		const char *name = json_string_value(json_object_get(entry, "name"));
		if (json_object_size(commands) >= QMP_AGENT_COMMANDS_MAX)
			break;
		if (name && strlen(name) <= QMP_AGENT_NAME_MAX)
			json_object_set(commands, name, json_object_get(entry, "enabled"));
	}
	qmp_excerpt(cut, sizeof cut, version ? version : "", version ? strlen(version) : 0);
	return json_pack("{s:s, s:o}", "version", cut, "commands", commands);
}
