/*
 * The client session: one connection to a QMP server.
 *
 * The way it goes well:
 *   greeting comes -> qmp_capabilities goes out -> its reply comes -> ready -> commands and replies, events.
 * Every way it fails ends in fail(): end of file, a system call's error, bytes that are not QMP, an error
 * without an id, no negotiation within its deadline. Each waiter is answered, then on_close is called, from the loop.
 *
 * A call is in one place at a time: queued (not written), in a slot (written, no reply), or ended (its callback
 * fires from the loop). The slot of a call that timed out or was cancelled stays taken, without its call, until
 * QEMU's late reply: QEMU's place for it is still taken, too.
 *
 * Does not own: the socket's readiness and output (link.h), callbacks of commands (call.h), of events (events.h).
 */
#include "proto/base.h"
#include "proto/call.h"
#include "proto/events.h"
#include "proto/framer.h"
#include "proto/greeting.h"
#include "proto/link.h"
#include "proto/qmp.h"
#include "proto/trace.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/socket.h>

#define DEFAULT_COMMAND_MS  30000
#define DEFAULT_GREETING_MS 10000
#define DEFAULT_QUEUED      4096
#define READS_PER_TURN      16
#define TOKENS_MAX          ((size_t)2 << 20) /* of a command; as the other limits: QEMU qobject/json-streamer.c */
/* Of a message that is shown in an error. */
#define EXCERPT 120
/*
 * An id is the random epoch, then the serial, in characters of 6 bits. QEMU reads a command byte by byte and each costs it
 * microseconds, so the whole epoch is only in the id of qmp_capabilities: see "crossing" in the header.
 */
#define EPOCH_CHARS 11
#define SHORT_EPOCH 3
#define ID_SIZE     (EPOCH_CHARS + 11 + 1)

/* A command that QEMU has. Serial 0: the slot is free. */
struct slot {
	uint64_t serial;
	struct qmp_call *call; /* NULL: nobody waits any more */
	bool with_fds;
};

/* In-band and out-of-band commands have slots and queues apart: what is out of band never waits for the rest. */
struct lane {
	struct slot slots[QMP_IN_FLIGHT];
	struct qmp_calls queued;
};

enum state { GREETING, NEGOTIATING, READY };
enum { IN_BAND, OUT_OF_BAND, LANES };

struct qmp_session {
	struct qmp_link link;
	enum state state;
	bool has_oob;
	bool other_side_left; /* as writing has found; there may be something to read */
	struct qmp_session_options opts;
	struct qmp_framer *framer;
	struct lane lanes[LANES];
	struct qmp_calls ended;
	uint64_t epoch, last_serial;
	uint64_t negotiation; /* the serial of qmp_capabilities */
	uint64_t greeting_deadline;
	struct qmp_events events;
	json_t *greeting;
	char *refusal; /* an error without an id that came before we were taken; NULL: none */
	struct qmp_session_stats stats;
};

static bool is_alive(const struct qmp_session *s)
{
	return qmp_link_is_alive(&s->link);
}

/* ---- Failing as a whole ---- */

static void fail_errno(struct qmp_session *s, int code, const char *what)
{
	struct qmp_error err = {0};

	if ((code == -EPIPE || code == -ECONNRESET) && s->refusal && s->state != READY)
		qmp_error_set(&err, QMP_ERR_CLOSED, -ECONNRESET, "QMP: the other side took no command of ours; it said: %s",
			      s->refusal);
	else if (code == -EPIPE || code == -ECONNRESET)
		qmp_error_set(&err, QMP_ERR_CLOSED, -ECONNRESET, "%s: the other side closed the connection%s", what,
			      qmp_framer_is_inside(s->framer) ? " in the middle of a message" : "");
	else
		qmp_error_errno(&err, code, "%s", what);
	qmp_link_fail(&s->link, &err);
}

static void fail_protocol(struct qmp_session *s, const char *what, const char *text, size_t len)
{
	struct qmp_error err = {0};
	char excerpt[4 * EXCERPT + 1];

	qmp_excerpt(excerpt, sizeof excerpt, text, len);
	qmp_error_set(&err, QMP_ERR_PROTOCOL, -EPROTO, "QMP: %s: %s", what, excerpt);
	qmp_link_fail(&s->link, &err);
}

/*
 * Each call that is under way has ended in this way. All of them are moved before any callback fires: a callback
 * that cancels another call then finds it ended.
 */
static void end_all(struct qmp_session *s, int status, enum qmp_error_kind kind, const char *why)
{
	for (int i = 0; i < LANES; i++) {
		struct qmp_call *c;
		for (size_t k = 0; k < QMP_IN_FLIGHT; k++)
			if ((c = take_ptr(s->lanes[i].slots[k].call)))
				qmp_calls_append_ended(&s->ended, c, status, kind, why);
		qmp_calls_end_all(&s->lanes[i].queued, &s->ended, status, kind, why);
	}
}

/* ---- Writing ---- */

static const char id_chars[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static void format_id(const struct qmp_session *s, uint64_t serial, char id[ID_SIZE])
{
	int epoch_chars = serial == s->negotiation ? EPOCH_CHARS : SHORT_EPOCH, shift = 60;

	for (int i = 0; i < epoch_chars; i++)
		*id++ = id_chars[(s->epoch >> (6 * i)) & 63];
	while (shift > 0 && serial >> shift == 0)
		shift -= 6;
	for (; shift >= 0; shift -= 6)
		*id++ = id_chars[(serial >> shift) & 63];
	*id = '\0';
}

static struct slot *find_slot(struct lane *lane, uint64_t serial)
{
	for (size_t i = 0; i < QMP_IN_FLIGHT; i++)
		if (lane->slots[i].serial == serial)
			return &lane->slots[i];
	return NULL;
}

static size_t in_flight(const struct lane *lane)
{
	size_t n = 0;

	for (size_t i = 0; i < QMP_IN_FLIGHT; i++)
		n += lane->slots[i].serial != 0;
	return n;
}

static int write_call(struct qmp_session *s, struct slot *slot, struct qmp_call *c)
{
	size_t n_fds = c->n_fds;

	*slot = (struct slot){c->serial, c, n_fds > 0};
	qmp_trace(s, true, c->text, c->len);
	c->n_fds = 0;
	return qmp_link_add_consume(&s->link, take_ptr(c->text), c->len, take_ptr(c->fds), n_fds);
}

static bool has_fds_in_flight(const struct lane *lane)
{
	for (size_t i = 0; i < QMP_IN_FLIGHT; i++)
		if (lane->slots[i].serial != 0 && lane->slots[i].with_fds)
			return true;
	return false;
}

/*
 * The slot for the next command of LANE; NULL: it has to wait. One with fds waits until QEMU has answered everything: QEMU
 * keeps the fds that came last, for whichever command asks for some first. What follows waits until that one is answered:
 * with each byte that it reads QEMU makes the fds that it keeps block, and it reads beside the command that makes use of them.
 */
static struct slot *slot_for_next(struct qmp_session *s, struct lane *lane)
{
	const struct qmp_call *c = lane->queued.head;

	if (!c || has_fds_in_flight(lane) ||
	    (c->n_fds > 0 && in_flight(&s->lanes[IN_BAND]) + in_flight(&s->lanes[OUT_OF_BAND]) > 0))
		return NULL;
	return find_slot(lane, 0);
}

/* Moves what may go from the queues to the socket. */
static void pump(struct qmp_session *s)
{
	bool wrote = false;

	for (int i = LANES - 1; i >= 0; i--) {
		struct lane *lane = &s->lanes[i];
		struct slot *slot;
		while (s->state == READY && is_alive(s) && (slot = slot_for_next(s, lane))) {
			int r = write_call(s, slot, qmp_calls_pop(&lane->queued));
			if (r < 0)
				fail_errno(s, r, "sending a command");
			wrote = true;
		}
	}
	if (wrote && is_alive(s))
		qmp_link_flush(&s->link);
}

/* ---- What comes ---- */

enum { M_RETURN, M_ERROR, M_ID, M_EVENT, M_DATA, M_QMP, M_COUNT };

static bool is_id_of(const struct qmp_session *s, uint64_t serial, const struct qmp_span *id)
{
	char own[ID_SIZE];

	format_id(s, serial, own);
	return id->len == strlen(own) + 2 && memcmp(id->text + 1, own, id->len - 2) == 0;
}

/* The serial of one of our ids (with its quotes); 0 for any other. */
static uint64_t own_serial(const struct qmp_session *s, const struct qmp_span *id)
{
	uint64_t serial = 0;

	if (!id->text || id->text[0] != '"')
		return 0;
	if (s->negotiation && is_id_of(s, s->negotiation, id))
		return s->negotiation;
	for (size_t i = 1 + SHORT_EPOCH; i + 1 < id->len; i++) {
		const char *c = strchr(id_chars, id->text[i]);
		if (!c)
			return 0;
		serial = serial << 6 | (uint64_t)(c - id_chars);
	}
	return is_id_of(s, serial, id) ? serial : 0;
}

static void take_greeting(struct qmp_session *s, const struct qmp_span *qmp)
{
	json_auto_t *enable = NULL;
	struct qmp_command negotiate = {.name = "qmp_capabilities"};
	char id[ID_SIZE];
	char *text;
	size_t len = 0;

	s->greeting = qmp_json_decode(qmp->text, qmp->len, NULL);
	if (!json_is_object(s->greeting)) {
		fail_protocol(s, "the greeting is no object", qmp->text, qmp->len);
		return;
	}
	s->has_oob = qmp_greeting_offers_oob(s->greeting);
	s->state = NEGOTIATING;
	s->negotiation = ++s->last_serial;
	if (s->has_oob)
		negotiate.arguments = enable = json_pack("{s:[s]}", "enable", "oob");
	format_id(s, s->negotiation, id);
	text = qmp_call_encode(&negotiate, id, &len);
	if (text)
		qmp_trace(s, true, text, len);
	if (!text || qmp_link_add_consume(&s->link, text, len, NULL, 0) < 0)
		fail_errno(s, -ENOMEM, "negotiating");
	else
		qmp_link_flush(&s->link);
}

/* Commands queued before the greeting was known. */
static void refuse_oob(struct qmp_session *s)
{
	struct qmp_call *c;

	while ((c = qmp_calls_pop(&s->lanes[OUT_OF_BAND].queued)))
		qmp_calls_append_ended(&s->ended, c, -EOPNOTSUPP, QMP_ERR_UNSUPPORTED,
				       "this QEMU takes no out-of-band commands");
}

static void take_negotiation(struct qmp_session *s, const struct qmp_span *m)
{
	s->negotiation = 0;
	if (!m[M_RETURN].text) {
		fail_protocol(s, "qmp_capabilities was refused", m[M_ERROR].text, m[M_ERROR].len);
		return;
	}
	s->state = READY;
	if (!s->has_oob)
		refuse_oob(s);
	if (s->opts.on_ready)
		s->opts.on_ready(s->opts.data, s->greeting);
}

/* Said to us, if the connection ends now; else to an earlier client, and nothing to us. */
static void keep_refusal(struct qmp_session *s, const struct qmp_span *error)
{
	json_auto_t *value = qmp_json_decode(error->text, error->len, NULL);
	const char *desc = json_string_value(json_object_get(value, "desc"));
	char excerpt[4 * EXCERPT + 1];

	qmp_excerpt(excerpt, sizeof excerpt, desc ? desc : error->text, desc ? strlen(desc) : error->len);
	free(s->refusal);
	s->refusal = strdup(excerpt);
}

/* Their replies are lost, and their slots would be. */
static void end_overtaken(struct qmp_session *s, struct lane *lane, uint64_t serial)
{
	for (size_t i = 0; i < QMP_IN_FLIGHT; i++) {
		struct slot *slot = &lane->slots[i];
		struct qmp_call *c;
		if (slot->serial == 0 || slot->serial >= serial)
			continue;
		c = slot->call;
		*slot = (struct slot){0};
		if (c)
			qmp_calls_append_ended(&s->ended, c, -ETIMEDOUT, QMP_ERR_TIMEOUT,
					       "QEMU has answered a later command and not this one; whether it was done is "
					       "unknown until QEMU is asked");
	}
}

static void take_reply(struct qmp_session *s, const struct qmp_span *m, const char *text, size_t len)
{
	uint64_t serial = own_serial(s, &m[M_ID]);
	struct slot *slot = NULL;
	struct qmp_call *c;

	if (serial && serial == s->negotiation) {
		take_negotiation(s, m);
		return;
	}
	/* Before that reply, whatever comes was meant for an earlier client: see "crossing" in the header. */
	if (!m[M_ID].text && m[M_ERROR].text && s->state == READY) {
		fail_protocol(s, "an error without an id, the stream is suspect", m[M_ERROR].text, m[M_ERROR].len);
		return;
	}
	if (!m[M_ID].text && m[M_ERROR].text)
		keep_refusal(s, &m[M_ERROR]);
	for (int i = 0; i < LANES && serial && !slot; i++)
		slot = find_slot(&s->lanes[i], serial);
	if (!slot) {
		s->stats.stray_replies++;
		return;
	}
	c = slot->call;
	*slot = (struct slot){0};
	if (s->opts.in_order && slot < s->lanes[IN_BAND].slots + QMP_IN_FLIGHT)
		end_overtaken(s, &s->lanes[IN_BAND], serial);
	s->stats.replies++;
	if (!c)
		s->stats.late_replies++;
	else if (qmp_call_answer_consume(c, &m[M_RETURN], &m[M_ERROR]) < 0)
		fail_protocol(s, "a reply that is not JSON", text, len);
}

static void take_event(struct qmp_session *s, const struct qmp_span *m, const char *text, size_t len)
{
	const struct qmp_span *name = &m[M_EVENT], *data = &m[M_DATA];
	_cleanup_free_ char *copy = NULL;
	json_auto_t *message = NULL;

	s->stats.events++;
	if (*name->text != '"' || memchr(name->text, '\\', name->len) || (data->text && *data->text != '{')) {
		fail_protocol(s, "an event that is not one", text, len);
		return;
	}
	if (s->events.n == 0)
		return;
	copy = strndup(name->text + 1, name->len - 2);
	if (!copy) {
		fail_errno(s, -ENOMEM, "taking an event");
		return;
	}
	qmp_events_dispatch(&s->events, &(struct qmp_event){copy, text, len, &message});
	if (message && !json_is_object(message))
		fail_protocol(s, "an event that is not JSON", text, len);
}

static void take_message(struct qmp_session *s, const char *text, size_t len)
{
	static const char *const names[M_COUNT] = {"return", "error", "id", "event", "data", "QMP"};
	struct qmp_span m[M_COUNT];

	qmp_trace(s, false, text, len);
	if (!qmp_scan_members(text, len, names, m, M_COUNT))
		fail_protocol(s, "a message that is not JSON", text, len);
	else if (s->state == GREETING && m[M_QMP].text)
		take_greeting(s, &m[M_QMP]);
	else if (m[M_EVENT].text)
		take_event(s, m, text, len);
	else if (m[M_RETURN].text || m[M_ERROR].text)
		take_reply(s, m, text, len);
	else
		fail_protocol(s, s->state == GREETING ? "no greeting, this is not a QMP server"
						      : "neither a reply nor an event",
			      text, len);
}

static void take_messages(struct qmp_session *s)
{
	struct qmp_error err = {0};
	const char *text;
	size_t len;
	int r = 0;

	while (is_alive(s) && (r = qmp_framer_next(s->framer, &text, &len, &err)) == 1)
		take_message(s, text, len);
	if (r < 0) {
		qmp_error_wrap(&err, "QMP");
		qmp_link_fail(&s->link, &err);
	}
}

enum { READ_NOTHING, READ_SOME, READ_ALL_THE_PLACE };

static int read_once(struct qmp_session *s)
{
	size_t size;
	void *place = qmp_framer_reserve(s->framer, &size);
	ssize_t n;

	if (!place) {
		fail_errno(s, -ENOMEM, "reading from QMP");
		return READ_NOTHING;
	}
	while ((n = recv(s->link.fd, place, size, MSG_DONTWAIT)) < 0 && errno == EINTR)
		;
	if (n > 0) {
		qmp_framer_commit(s->framer, (size_t)n);
		take_messages(s);
		return (size_t)n == size ? READ_ALL_THE_PLACE : READ_SOME;
	}
	if (n == 0)
		fail_errno(s, -ECONNRESET, "reading from QMP");
	else if (errno != EAGAIN)
		fail_errno(s, -errno, "reading from QMP");
	return READ_NOTHING;
}

/* ---- What the link tells ---- */

static struct qmp_session *session_of(struct qmp_link *l)
{
	return container_of(l, struct qmp_session, link);
}

static void on_readable(struct qmp_link *l)
{
	struct qmp_session *s = session_of(l);

	for (int i = 0; i < READS_PER_TURN && is_alive(s); i++)
		if (read_once(s) != READ_ALL_THE_PLACE)
			break;
}

/* A QEMU that ends at start-up never reads what we sent, but what it had to say comes before that. */
static void on_hung_up(struct qmp_link *l)
{
	struct qmp_session *s = session_of(l);

	while (is_alive(s) && read_once(s) != READ_NOTHING)
		;
	fail_errno(s, -ECONNRESET, "reading from QMP");
}

/*
 * Where the other side has left, its last words (SHUTDOWN, replies) are taken first: from the loop, since this may be
 * inside of execute.
 */
static void on_write_failed(struct qmp_link *l, int code)
{
	if (code != -EPIPE && code != -ECONNRESET) {
		fail_errno(session_of(l), code, "writing to QMP");
		return;
	}
	qmp_wire_deinit(&l->wire);
	session_of(l)->other_side_left = true;
	qmp_link_wake_at(l, 0);
}

static uint64_t expire_slots(struct qmp_session *s, struct lane *lane, uint64_t now)
{
	uint64_t next = UINT64_MAX;

	for (size_t i = 0; i < QMP_IN_FLIGHT; i++) {
		struct qmp_call *c = lane->slots[i].call;
		if (c && c->deadline <= now)
			qmp_calls_append_ended(
				&s->ended, take_ptr(lane->slots[i].call), -ETIMEDOUT, QMP_ERR_TIMEOUT,
				"no reply within its deadline; whether it was done is unknown until QEMU is asked");
		else if (c && c->deadline < next)
			next = c->deadline;
	}
	return next;
}

static void check_greeting(struct qmp_session *s, uint64_t now)
{
	struct qmp_error err = {0};

	if (s->state == READY)
		return;
	if (now < s->greeting_deadline) {
		qmp_link_wake_at(&s->link, s->greeting_deadline);
		return;
	}
	qmp_error_set(&err, QMP_ERR_TIMEOUT, -ETIMEDOUT, "QMP: %s",
		      s->state == GREETING
			      ? "no greeting within its deadline; another client may hold the monitor"
			      : "greeted, but qmp_capabilities was not answered within its deadline");
	qmp_link_fail(&s->link, &err);
}

static void on_tick(struct qmp_link *l)
{
	struct qmp_session *s = session_of(l);
	uint64_t now = qmp_now_ms();

	if (s->other_side_left) {
		on_hung_up(l);
		return;
	}
	check_greeting(s, now);
	for (int i = 0; i < LANES; i++) {
		uint64_t flight = expire_slots(s, &s->lanes[i], now);
		uint64_t queued = qmp_calls_expire(&s->lanes[i].queued, now, &s->ended,
						   "not sent within its deadline, QEMU has not answered what was sent before");
		uint64_t next = flight < queued ? flight : queued;
		if (next != UINT64_MAX)
			qmp_link_wake_at(l, next);
	}
}

static void on_settle(struct qmp_link *l)
{
	pump(session_of(l));
	qmp_calls_fire(&session_of(l)->ended);
}

static void on_ended(struct qmp_link *l)
{
	struct qmp_session *s = session_of(l);

	end_all(s, l->error.code, l->error.kind, l->error.message);
	qmp_calls_fire(&s->ended);
	if (qmp_link_is_open(l) && s->opts.on_close)
		s->opts.on_close(s->opts.data, &l->error);
}

static void session_free(struct qmp_session *s)
{
	qmp_events_deinit(&s->events);
	qmp_framer_free(s->framer);
	json_decref(s->greeting);
	free(s->refusal);
	free(s);
}

static void on_gone(struct qmp_link *l)
{
	session_free(session_of(l));
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

int qmp_session_new(uv_loop_t *loop, int fd_consume, const struct qmp_session_options *opts,
		    struct qmp_session **ret, struct qmp_error *err)
{
	struct qmp_session *s = calloc(1, sizeof *s);
	int r = -ENOMEM;

	if (!s)
		return qmp_error_errno(err, -ENOMEM, "opening a QMP session");
	s->opts = *opts;
	for (int i = 0; i < LANES; i++)
		qmp_calls_init(&s->lanes[i].queued);
	qmp_calls_init(&s->ended);
	s->framer = qmp_framer_new(opts->max_message);
	if (s->framer)
		r = getrandom(&s->epoch, sizeof s->epoch, 0) == sizeof s->epoch ? 0 : -EIO;
	if (r == 0)
		r = qmp_link_init(&s->link, loop, fd_consume, &link_ops);
	if (r < 0) {
		session_free(s);
		return qmp_error_errno(err, r, "opening a QMP session");
	}
	s->greeting_deadline =
		qmp_deadline_in(opts->greeting_timeout_ms ? opts->greeting_timeout_ms : DEFAULT_GREETING_MS);
	qmp_link_wake_at(&s->link, s->greeting_deadline);
	*ret = s;
	return 0;
}

void qmp_session_free(struct qmp_session *s)
{
	if (!s || !qmp_link_is_open(&s->link))
		return;
	qmp_events_mute(&s->events);
	qmp_link_close(&s->link);
	end_all(s, -ECANCELED, QMP_ERR_CANCELLED, "the session was closed");
	qmp_calls_fire(&s->ended);
}

static int refuse_execute(const struct qmp_session *s, const struct qmp_command *command, struct qmp_error *err)
{
	size_t limit = s->opts.max_queued ? s->opts.max_queued : DEFAULT_QUEUED;

	if (!command->name || command->n_fds > QMP_COMMAND_FDS ||
	    (command->arguments && !json_is_object(command->arguments)))
		return qmp_error_set(err, QMP_ERR_INTERNAL, -EINVAL,
				     "%s: a command needs a name, an object of arguments, %d fds at most",
				     command->name ? command->name : "(no name)", QMP_COMMAND_FDS);
	if (!is_alive(s))
		return qmp_error_set(err, QMP_ERR_CLOSED, -ENOTCONN, "%s: the connection to QEMU has ended",
				     command->name);
	if (command->oob && s->state == READY && !s->has_oob)
		return qmp_error_set(err, QMP_ERR_UNSUPPORTED, -EOPNOTSUPP,
				     "%s: this QEMU takes no out-of-band commands", command->name);
	if (s->lanes[IN_BAND].queued.n + s->lanes[OUT_OF_BAND].queued.n >= limit)
		return qmp_error_set(err, QMP_ERR_BUSY, -EBUSY, "%s: %zu commands wait for QEMU already",
				     command->name, limit);
	return 0;
}

/* How many tokens QEMU's lexer makes of TEXT, which is JSON, and how deep it nests. */
static size_t count_tokens(const char *text, size_t len, size_t *ret_depth)
{
	size_t n = 0, depth = 0;
	bool in_string = false, in_word = false;

	for (size_t i = 0; i < len; i++) {
		bool is_structural = strchr("{}[]:, \n", text[i]) != NULL;
		if (in_string && text[i] == '\\')
			i++;
		else if (text[i] == '"')
			n += in_string = !in_string;
		else if (!in_string)
			n += is_structural ? text[i] > ' ' : !in_word;
		in_word = !in_string && !is_structural && text[i] != '"';
		if (!in_string && (text[i] == '{' || text[i] == '[')) {
			if (++depth > *ret_depth)
				*ret_depth = depth;
		} else if (!in_string && (text[i] == '}' || text[i] == ']')) {
			depth--;
		}
	}
	return n;
}

/* QEMU answers what exceeds its limits without an id, and all who use this session would lose it. */
static bool is_too_large(const struct qmp_call *c)
{
	size_t depth = 0;

	if (c->len <= (size_t)2 * QMP_JSON_DEPTH) /* too short for either */
		return false;
	return c->len > QMP_MESSAGE_MAX || count_tokens(c->text, c->len, &depth) > TOKENS_MAX || depth > QMP_JSON_DEPTH;
}

static uint64_t deadline_of(const struct qmp_session *s, const struct qmp_command *command)
{
	if (command->timeout_ms)
		return qmp_deadline_in(command->timeout_ms);
	return qmp_deadline_in(s->opts.command_timeout_ms ? s->opts.command_timeout_ms : DEFAULT_COMMAND_MS);
}

int qmp_session_execute(struct qmp_session *s, const struct qmp_command *command, qmp_reply_cb cb, void *data,
			uint64_t *ret_serial, struct qmp_error *err)
{
	struct qmp_call *c;
	char id[ID_SIZE];
	int r = refuse_execute(s, command, err);

	if (r < 0)
		return r;
	c = qmp_call_new(command, cb, data);
	if (!c)
		return qmp_error_errno(err, -errno, "%s", command->name);
	c->serial = ++s->last_serial;
	format_id(s, c->serial, id);
	c->text = qmp_call_encode(command, id, &c->len);
	if (!c->text) {
		qmp_call_free(c);
		return qmp_error_set(err, QMP_ERR_INTERNAL, -EINVAL, "%s: its arguments cannot be encoded",
				     command->name);
	}
	if (is_too_large(c)) {
		qmp_call_free(c);
		return qmp_error_set(err, QMP_ERR_LIMIT, -EMSGSIZE, "%s: its arguments are larger than QEMU takes", command->name);
	}
	c->deadline = deadline_of(s, command);
	qmp_link_wake_at(&s->link, c->deadline);
	s->stats.commands++;
	qmp_calls_append(&s->lanes[command->oob ? OUT_OF_BAND : IN_BAND].queued, c);
	if (ret_serial)
		*ret_serial = c->serial;
	pump(s);
	return 0;
}

void qmp_session_cancel(struct qmp_session *s, uint64_t serial)
{
	struct qmp_call *c = NULL;
	const char *why = "cancelled before it was sent";

	for (int i = 0; i < LANES && serial && !c; i++) {
		struct slot *slot = find_slot(&s->lanes[i], serial);
		if (slot)
			why = "cancelled; QEMU may still do it";
		c = slot ? take_ptr(slot->call) : qmp_calls_take(&s->lanes[i].queued, serial);
	}
	if (!c)
		return;
	qmp_calls_append_ended(&s->ended, c, -ECANCELED, QMP_ERR_CANCELLED, why);
	qmp_link_wake_at(&s->link, 0);
}

uint64_t qmp_session_subscribe(struct qmp_session *s, const char *name, qmp_event_cb cb, void *data)
{
	return qmp_events_subscribe(&s->events, name, cb, data);
}

void qmp_session_unsubscribe(struct qmp_session *s, uint64_t subscription)
{
	qmp_events_unsubscribe(&s->events, subscription);
}

bool qmp_session_is_ready(const struct qmp_session *s)
{
	return s->state == READY && is_alive(s);
}

bool qmp_session_has_oob(const struct qmp_session *s)
{
	return s->has_oob;
}

json_t *qmp_session_greeting(const struct qmp_session *s)
{
	return s->greeting;
}

void qmp_session_stats(const struct qmp_session *s, struct qmp_session_stats *ret)
{
	*ret = s->stats;
	ret->in_flight = in_flight(&s->lanes[IN_BAND]);
	ret->queued = s->lanes[IN_BAND].queued.n + s->lanes[OUT_OF_BAND].queued.n;
}
