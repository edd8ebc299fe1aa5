/*
 * The client session: one connection to a QMP server.
 *
 * The way it goes well:
 *   greeting comes -> qmp_capabilities goes out -> its reply comes -> ready -> commands and replies, events.
 * Every way it fails ends in fail(): end of file, a system call's error, bytes that are not QMP, an error
 * without an id, no negotiation within its deadline. Each waiter is answered, then on_close is called, from the loop.
 *
 * A call is on one list at a time: QUEUED (not written), FLIGHT (written, no reply), ENDED (its completion
 * waits to be delivered from the loop). A call that timed out or was cancelled in flight stays in FLIGHT without
 * its callback: the slot in QEMU is still taken.
 *
 * libuv handles are embedded; the memory goes in the last close callback, so that callbacks may free the session.
 */
#include "proto/base.h"
#include "proto/qmp.h"
#include "proto/scan.h"
#include "proto/wire.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdarg.h>
#include <sys/random.h>
#include <sys/socket.h>

#define DEFAULT_COMMAND_MS  30000
#define DEFAULT_GREETING_MS 10000
#define DEFAULT_QUEUED      4096
#define READS_PER_TURN      16
#define EPOCH_CHARS         11
#define ID_MAX              (EPOCH_CHARS + 24)

struct call {
	struct call *next;
	uint64_t serial;
	uint64_t deadline; /* ms of uv_hrtime; UINT64_MAX: none */
	char *name;
	char *text; /* until it is written */
	size_t len;
	qmp_reply_cb cb; /* NULL once it has been answered */
	void *data;
	int *fds;
	size_t n_fds;
	bool oob, raw;
	int status; /* on the ENDED list */
	enum qmp_error_kind kind;
	const char *why;
};

struct calls {
	struct call *head;
	size_t n;
};

struct subscription {
	uint64_t id;
	char *name; /* NULL: all */
	qmp_event_cb cb; /* NULL: unsubscribed during a dispatch */
	void *data;
};

enum state { GREETING, NEGOTIATING, READY, FAILED };

struct qmp_session {
	uv_poll_t poll;
	uv_timer_t timer;
	int open_handles;
	int fd;
	int poll_events;
	enum state state;
	bool dead; /* freed: nothing may be called any more */
	bool has_oob;
	struct qmp_session_options opts;
	struct qmp_framer *framer;
	struct qmp_wire wire;
	struct calls queued, flight, ended;
	struct call **queued_tail;
	uint64_t epoch, next_serial, negotiation;
	uint64_t greeting_deadline;
	uint64_t timer_due; /* UINT64_MAX: not set */
	struct subscription *subs;
	size_t n_subs;
	uint64_t next_sub;
	int dispatching;
	json_t *greeting;
	struct qmp_error error; /* why it FAILED */
	struct qmp_session_stats stats;
};

static qmp_trace_cb trace_cb;
static void *trace_data;

void qmp_set_trace(qmp_trace_cb cb, void *data)
{
	trace_cb = cb;
	trace_data = data;
}

static void trace(const struct qmp_session *s, bool sent, const char *text, size_t len)
{
	if (trace_cb)
		trace_cb(trace_data, s, sent, text, len);
}

static uint64_t now_ms(void)
{
	return uv_hrtime() / 1000000;
}

static uint64_t deadline_in(uint64_t ms)
{
	uint64_t now = now_ms();

	return ms > UINT64_MAX - now ? UINT64_MAX : now + ms;
}

/* ---- Calls and their lists ---- */

static void call_free(struct call *c)
{
	for (size_t i = 0; i < c->n_fds; i++)
		(void)close(c->fds[i]);
	free(c->fds);
	free(c->name);
	free(c->text);
	free(c);
}

static struct call *calls_pop(struct calls *l)
{
	struct call *c = l->head;

	if (c) {
		l->head = c->next;
		l->n--;
		c->next = NULL;
	}
	return c;
}

static void calls_append(struct calls *l, struct call *c)
{
	struct call **p = &l->head;

	while (*p)
		p = &(*p)->next;
	c->next = NULL;
	*p = c;
	l->n++;
}

static struct call *calls_take(struct calls *l, uint64_t serial)
{
	for (struct call **p = &l->head; *p; p = &(*p)->next) {
		struct call *c = *p;
		if (c->serial != serial)
			continue;
		*p = c->next;
		c->next = NULL;
		l->n--;
		return c;
	}
	return NULL;
}

/* The queue keeps its tail, since it may be long. */
static void queue_append(struct qmp_session *s, struct call *c)
{
	*s->queued_tail = c;
	s->queued_tail = &c->next;
	s->queued.n++;
}

static void queue_fix_tail(struct qmp_session *s)
{
	s->queued_tail = &s->queued.head;
	while (*s->queued_tail)
		s->queued_tail = &(*s->queued_tail)->next;
}

static struct call *queue_pop(struct qmp_session *s)
{
	struct call *c = calls_pop(&s->queued);

	if (!s->queued.head)
		s->queued_tail = &s->queued.head;
	return c;
}

/* ---- Deadlines and deferral: one timer ---- */

static void on_timer(uv_timer_t *t);

static void timer_at(struct qmp_session *s, uint64_t due)
{
	uint64_t now = now_ms();

	if (s->dead || due >= s->timer_due)
		return;
	s->timer_due = due;
	uv_update_time(s->timer.loop);
	uv_timer_start(&s->timer, on_timer, due > now ? due - now : 0, 0);
}

static void end_later(struct qmp_session *s, struct call *c, int status, enum qmp_error_kind kind, const char *why)
{
	c->status = status;
	c->kind = kind;
	c->why = why;
	calls_append(&s->ended, c);
	timer_at(s, 0);
}

/* ---- Delivering ---- */

static void deliver(struct call *c, struct qmp_reply *reply)
{
	qmp_reply_cb cb = c->cb;

	c->cb = NULL;
	if (cb)
		cb(c->data, reply);
}

static void deliver_failure(struct call *c, int status, enum qmp_error_kind kind, const char *why)
{
	struct qmp_reply reply = {.status = status};

	qmp_error_set(&reply.error, kind, status, "%s: %s", c->name, why);
	deliver(c, &reply);
}

static void deliver_ended(struct qmp_session *s)
{
	struct call *c;

	while (!s->dead && (c = calls_pop(&s->ended))) {
		deliver_failure(c, c->status, c->kind, c->why);
		call_free(c);
	}
}

/* ---- Failing as a whole ---- */

static void stop_polling(struct qmp_session *s)
{
	if (s->poll_events >= 0)
		uv_poll_stop(&s->poll);
	s->poll_events = -1;
}

/* The connection is over; waiters and on_close hear of it from the loop. */
static void fail(struct qmp_session *s, const struct qmp_error *why)
{
	if (s->state == FAILED)
		return;
	s->state = FAILED;
	s->error = *why;
	stop_polling(s);
	timer_at(s, 0);
}

static void fail_errno(struct qmp_session *s, int code, const char *what)
{
	struct qmp_error err = {0};

	if (code == -EPIPE || code == -ECONNRESET)
		qmp_error_set(&err, QMP_ERR_CLOSED, -ECONNRESET, "%s: the other side closed the connection", what);
	else
		qmp_error_errno(&err, code, "%s", what);
	fail(s, &err);
}

static void finish_failure(struct qmp_session *s)
{
	struct calls *lists[] = {&s->flight, &s->queued};
	int status = s->error.kind == QMP_ERR_CLOSED ? -ECONNRESET : s->error.code;

	for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
		struct call *c;
		while (!s->dead && (c = calls_pop(lists[i]))) {
			deliver_failure(c, status, s->error.kind, s->error.message);
			call_free(c);
		}
	}
	s->queued_tail = &s->queued.head;
	if (!s->dead && s->opts.on_close) {
		void (*on_close)(void *, const struct qmp_error *) = s->opts.on_close;
		s->opts.on_close = NULL;
		on_close(s->opts.data, &s->error);
	}
}

/* ---- Writing ---- */

static void on_poll(uv_poll_t *handle, int status, int events);

static void poll_for(struct qmp_session *s, int events)
{
	if (s->state == FAILED || s->poll_events == events)
		return;
	s->poll_events = events;
	uv_poll_start(&s->poll, events, on_poll);
}

static void flush(struct qmp_session *s)
{
	int r = qmp_wire_flush(&s->wire, s->fd);

	if (r < 0)
		fail_errno(s, r, "writing to QMP");
	else
		poll_for(s, UV_READABLE | (r == 0 ? UV_WRITABLE : 0));
}

static size_t in_flight(const struct qmp_session *s)
{
	size_t n = 0;

	for (const struct call *c = s->flight.head; c; c = c->next)
		n += !c->oob;
	return n;
}

static int write_call(struct qmp_session *s, struct call *c)
{
	char *text = take_ptr(c->text);
	int r;

	trace(s, true, text, c->len);
	r = qmp_wire_add_consume(&s->wire, text, c->len, c->fds, c->n_fds);
	for (size_t i = 0; i < c->n_fds; i++)
		(void)close(c->fds[i]);
	c->n_fds = 0;
	calls_append(&s->flight, c);
	return r;
}

/* Moves what may go from the queue to the wire. */
static void pump(struct qmp_session *s)
{
	size_t n = in_flight(s);
	bool wrote = false;

	while (s->state == READY && s->queued.head && (n < QMP_IN_FLIGHT || s->queued.head->oob)) {
		struct call *c = queue_pop(s);
		int r;
		n += !c->oob;
		r = write_call(s, c);
		if (r < 0) {
			fail_errno(s, r, "sending a command");
			return;
		}
		wrote = true;
	}
	if (wrote)
		flush(s);
}

/* ---- Reading ---- */

static void fail_protocol(struct qmp_session *s, const char *fmt, ...) _printf_(2, 3);
static void fail_protocol(struct qmp_session *s, const char *fmt, ...)
{
	struct qmp_error err = {0};
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	qmp_error_set(&err, QMP_ERR_PROTOCOL, -EPROTO, "QMP: %s", text);
	fail(s, &err);
}

/*
 * An id is the epoch in 11 characters of 6 bits, then the serial. Short, since QEMU reads a command byte by byte and
 * each costs it microseconds.
 */
static void write_id(char *to, uint64_t epoch, uint64_t serial)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

	for (int i = 0; i < EPOCH_CHARS; i++, epoch >>= 6)
		*to++ = digits[epoch & 63];
	sprintf(to, "%" PRIu64, serial);
}

/* The serial of one of our ids; 0 for any other. */
static uint64_t own_serial(const struct qmp_session *s, const struct qmp_span *id)
{
	char ours[ID_MAX];
	uint64_t serial = 0;

	if (!id->text || id->len < EPOCH_CHARS + 3 || id->len > ID_MAX || *id->text != '"')
		return 0;
	write_id(ours, s->epoch, 0);
	if (memcmp(id->text + 1, ours, EPOCH_CHARS) != 0)
		return 0;
	for (size_t i = 1 + EPOCH_CHARS; i < id->len - 1; i++) {
		if (id->text[i] < '0' || id->text[i] > '9')
			return 0;
		serial = serial * 10 + (uint64_t)(id->text[i] - '0');
	}
	return serial;
}

static void reply_error(struct call *c, const struct qmp_span *error)
{
	json_auto_t *value = qmp_json_decode(error->text, error->len, NULL);
	const char *class = json_string_value(json_object_get(value, "class"));
	const char *desc = json_string_value(json_object_get(value, "desc"));
	struct qmp_reply reply = {
		.status = -EREMOTEIO,
		.raw = error->text,
		.raw_len = error->len,
		.error_class = class ? class : "GenericError",
		.error_desc = desc ? desc : "(no description)",
	};

	qmp_error_set(&reply.error, QMP_ERR_REFUSED, -EREMOTEIO, "%s: %s", c->name, reply.error_desc);
	deliver(c, &reply);
}

static int reply_return(struct call *c, const struct qmp_span *value)
{
	struct qmp_error err = {0};
	json_auto_t *decoded = NULL;
	struct qmp_reply reply = {.raw = value->text, .raw_len = value->len};

	if (!c->raw) {
		decoded = qmp_json_decode(value->text, value->len, &err);
		if (!decoded) {
			reply.status = -EPROTO;
			reply.error = err;
			qmp_error_wrap(&reply.error, "%s: the reply", c->name);
		}
		reply.value = decoded;
	}
	deliver(c, &reply);
	return reply.status;
}

static void negotiated(struct qmp_session *s, bool ok)
{
	if (!ok) {
		fail_protocol(s, "qmp_capabilities was refused");
		return;
	}
	s->state = READY;
	if (s->opts.on_ready)
		s->opts.on_ready(s->opts.data, s->greeting);
}

enum { M_RETURN, M_ERROR, M_ID, M_EVENT, M_QMP, M_COUNT };

static void take_reply(struct qmp_session *s, const struct qmp_span *m)
{
	uint64_t serial = own_serial(s, &m[M_ID]);
	struct call *c;

	if (!m[M_ID].text && m[M_ERROR].text) {
		fail_protocol(s, "an error without an id, the stream is suspect: %.*s", (int)m[M_ERROR].len,
			      m[M_ERROR].text);
		return;
	}
	if (serial && serial == s->negotiation) {
		s->negotiation = 0;
		negotiated(s, m[M_RETURN].text != NULL);
		return;
	}
	c = serial ? calls_take(&s->flight, serial) : NULL;
	if (!c) {
		s->stats.stray_replies++;
		return;
	}
	s->stats.replies++;
	if (!c->cb) {
		s->stats.late_replies++;
	} else if (m[M_ERROR].text) {
		reply_error(c, &m[M_ERROR]);
	} else if (reply_return(c, &m[M_RETURN]) < 0 && !s->dead) {
		fail_protocol(s, "a reply that is not JSON");
	}
	call_free(c);
}

static void dispatch_event(struct qmp_session *s, struct qmp_event *event)
{
	size_t n = s->n_subs;

	s->dispatching++;
	for (size_t i = 0; i < n && !s->dead; i++) {
		struct subscription sub = s->subs[i];
		if (sub.cb && (!sub.name || streq(sub.name, event->name)))
			sub.cb(sub.data, event);
	}
	s->dispatching--;
}

/* Forgets what was unsubscribed while an event was dispatched. */
static void sweep_subscriptions(struct qmp_session *s)
{
	size_t to = 0;

	if (s->dispatching)
		return;
	for (size_t i = 0; i < s->n_subs; i++) {
		if (s->subs[i].cb)
			s->subs[to++] = s->subs[i];
		else
			free(s->subs[i].name);
	}
	s->n_subs = to;
}

static void take_event(struct qmp_session *s, const char *text, size_t len)
{
	struct qmp_error err = {0};
	json_auto_t *message = NULL;
	json_t *stamp;
	struct qmp_event event;

	s->stats.events++;
	if (s->n_subs == 0)
		return;
	message = qmp_json_decode(text, len, &err);
	if (!message || !json_is_string(json_object_get(message, "event"))) {
		fail_protocol(s, "an event that is not one: %s", message ? "its name is no string" : err.message);
		return;
	}
	stamp = json_object_get(message, "timestamp");
	event = (struct qmp_event){
		.name = json_string_value(json_object_get(message, "event")),
		.data = json_object_get(message, "data"),
		.seconds = json_integer_value(json_object_get(stamp, "seconds")),
		.microseconds = json_integer_value(json_object_get(stamp, "microseconds")),
		.raw = text,
		.raw_len = len,
	};
	dispatch_event(s, &event);
	if (!s->dead)
		sweep_subscriptions(s);
}

static void take_greeting(struct qmp_session *s, const struct qmp_span *qmp)
{
	char text[160], id[ID_MAX];
	json_t *capability;
	size_t i;
	int n;

	s->greeting = qmp->text ? qmp_json_decode(qmp->text, qmp->len, NULL) : NULL;
	if (!json_is_object(s->greeting)) {
		fail_protocol(s, "no greeting, this is not a QMP server");
		return;
	}
	json_array_foreach(json_object_get(s->greeting, "capabilities"), i, capability)
		if (json_is_string(capability) && streq(json_string_value(capability), "oob"))
			s->has_oob = true;
	s->state = NEGOTIATING;
	s->negotiation = s->next_serial++;
	write_id(id, s->epoch, s->negotiation);
	n = snprintf(text, sizeof text,
		     "{\"execute\":\"qmp_capabilities\"%s,\"id\":\"%s\"}\n",
		     s->has_oob ? ",\"arguments\":{\"enable\":[\"oob\"]}" : "", id);
	trace(s, true, text, (size_t)n);
	if (qmp_wire_add_consume(&s->wire, strdup(text), (size_t)n, NULL, 0) < 0)
		fail_errno(s, -ENOMEM, "negotiating");
	else
		flush(s);
}

static void take_message(struct qmp_session *s, const char *text, size_t len)
{
	static const char *const names[M_COUNT] = {"return", "error", "id", "event", "QMP"};
	struct qmp_span m[M_COUNT];

	trace(s, false, text, len);
	if (!qmp_scan_members(text, len, names, m, M_COUNT))
		fail_protocol(s, "a message that is not JSON: %.*s", (int)(len > 80 ? 80 : len), text);
	else if (s->state == GREETING)
		take_greeting(s, &m[M_QMP]);
	else if (m[M_EVENT].text)
		take_event(s, text, len);
	else if (m[M_RETURN].text || m[M_ERROR].text)
		take_reply(s, m);
	else
		fail_protocol(s, "neither a reply nor an event: %.*s", (int)(len > 80 ? 80 : len), text);
}

static void take_messages(struct qmp_session *s)
{
	struct qmp_error err = {0};
	const char *text;
	size_t len;
	int r = 0;

	while (!s->dead && s->state != FAILED && (r = qmp_framer_next(s->framer, &text, &len, &err)) == 1)
		take_message(s, text, len);
	if (!s->dead && r < 0) {
		qmp_error_wrap(&err, "QMP");
		fail(s, &err);
	}
}

/* TO_THE_END: nothing more will come; what there is is read, then the session fails. */
static void read_some(struct qmp_session *s, bool to_the_end)
{
	for (int i = 0; (to_the_end || i < READS_PER_TURN) && !s->dead && s->state != FAILED; i++) {
		size_t size;
		void *place = qmp_framer_reserve(s->framer, &size);
		ssize_t n = place ? recv(s->fd, place, size, MSG_DONTWAIT) : -1;

		if (!place) {
			fail_errno(s, -ENOMEM, "reading from QMP");
		} else if (n == 0) {
			fail_errno(s, -ECONNRESET, "reading from QMP");
		} else if (n > 0) {
			qmp_framer_commit(s->framer, (size_t)n);
			take_messages(s);
			if ((size_t)n < size && !to_the_end)
				return;
		} else if (errno == EAGAIN && to_the_end) {
			fail_errno(s, -ECONNRESET, "reading from QMP");
		} else if (errno == EAGAIN) {
			return;
		} else if (errno != EINTR) {
			fail_errno(s, -errno, "reading from QMP");
		}
	}
}

/* What every turn of the loop ends with. */
static void settle(struct qmp_session *s)
{
	if (!s->dead)
		pump(s);
	if (!s->dead)
		deliver_ended(s);
	if (!s->dead && s->state == FAILED)
		finish_failure(s);
}

static void on_poll(uv_poll_t *handle, int status, int events)
{
	struct qmp_session *s = handle->data;

	if (status < 0) {
		/*
		 * libuv makes EBADF of every POLLERR, and stops polling. The other side left without reading all that we
		 * sent (a QEMU that ends at start-up never does); what it had to say comes before the error.
		 */
		read_some(s, true);
	} else if (events & UV_READABLE) {
		read_some(s, false);
	}
	if (!s->dead && s->state != FAILED && s->wire.head)
		flush(s);
	settle(s);
}

/* ---- The timer ---- */

static void expire(struct qmp_session *s, struct call *c)
{
	/* A copy stands in for the call, which keeps its slot until QEMU's late reply. */
	struct call *notice = calloc(1, sizeof *notice);

	if (!notice)
		return;
	notice->name = strdup(c->name);
	notice->cb = c->cb;
	notice->data = c->data;
	c->cb = NULL;
	c->deadline = UINT64_MAX;
	end_later(s, notice, -ETIMEDOUT, QMP_ERR_TIMEOUT,
		  "no reply within its deadline; whether it was done is unknown until QEMU is asked");
}

static uint64_t check_list(struct qmp_session *s, struct calls *l, uint64_t now)
{
	uint64_t next = UINT64_MAX;

	for (struct call *c = l->head; c; c = c->next) {
		if (c->cb && c->deadline <= now)
			expire(s, c);
		else if (c->cb && c->deadline < next)
			next = c->deadline;
	}
	return next;
}

/* What expired in the queue was never sent: it goes for good. */
static void drop_expired_queued(struct qmp_session *s)
{
	for (struct call **p = &s->queued.head; *p;) {
		struct call *c = *p;
		if (c->cb) {
			p = &c->next;
			continue;
		}
		*p = c->next;
		s->queued.n--;
		call_free(c);
	}
	queue_fix_tail(s);
}

static void on_timer(uv_timer_t *t)
{
	struct qmp_session *s = t->data;
	uint64_t now = now_ms(), flight, queued, next;

	s->timer_due = UINT64_MAX;
	flight = check_list(s, &s->flight, now);
	queued = check_list(s, &s->queued, now);
	next = flight < queued ? flight : queued;
	drop_expired_queued(s);
	if (s->state < READY) {
		if (s->greeting_deadline <= now) {
			struct qmp_error err = {0};
			qmp_error_set(&err, QMP_ERR_TIMEOUT, -ETIMEDOUT, "QMP: %s",
				      s->state == GREETING
					      ? "no greeting within its deadline; another client may hold the monitor"
					      : "greeted, but qmp_capabilities was not answered within its deadline");
			fail(s, &err);
		} else if (s->greeting_deadline < next) {
			next = s->greeting_deadline;
		}
	}
	if (next != UINT64_MAX)
		timer_at(s, next);
	settle(s);
}

/* ---- The public operations ---- */

int qmp_session_new(uv_loop_t *loop, int fd_consume, const struct qmp_session_options *opts,
		    struct qmp_session **ret, struct qmp_error *err)
{
	struct qmp_session *s = calloc(1, sizeof *s);
	int r;

	if (!s)
		return qmp_error_errno(err, -ENOMEM, "opening a QMP session");
	s->opts = *opts;
	s->fd = fd_consume;
	s->poll_events = -1;
	s->next_serial = s->next_sub = 1;
	s->timer_due = UINT64_MAX;
	s->queued_tail = &s->queued.head;
	qmp_wire_init(&s->wire);
	if (getrandom(&s->epoch, sizeof s->epoch, 0) != sizeof s->epoch) {
		r = -errno;
		goto fail;
	}
	s->framer = qmp_framer_new(opts->max_message);
	r = s->framer ? uv_poll_init(loop, &s->poll, s->fd) : -ENOMEM;
	if (r < 0)
		goto fail;
	uv_timer_init(loop, &s->timer);
	s->open_handles = 2;
	s->poll.data = s->timer.data = s;
	poll_for(s, UV_READABLE);
	s->greeting_deadline =
		deadline_in(opts->greeting_timeout_ms ? opts->greeting_timeout_ms : DEFAULT_GREETING_MS);
	timer_at(s, s->greeting_deadline);
	*ret = s;
	return 0;
fail:
	qmp_framer_free(s->framer);
	free(s);
	return qmp_error_errno(err, r, "opening a QMP session");
}

static void on_handle_closed(uv_handle_t *h)
{
	struct qmp_session *s = h->data;

	if (--s->open_handles > 0)
		return;
	for (size_t i = 0; i < s->n_subs; i++)
		free(s->subs[i].name);
	free(s->subs);
	qmp_framer_free(s->framer);
	json_decref(s->greeting);
	free(s);
}

void qmp_session_free(struct qmp_session *s)
{
	struct calls *lists[3];
	struct call *c;

	if (!s || s->dead)
		return;
	s->dead = true;
	lists[0] = &s->ended;
	lists[1] = &s->flight;
	lists[2] = &s->queued;
	for (size_t i = 0; i < ARRAY_SIZE(lists); i++)
		while ((c = calls_pop(lists[i]))) {
			deliver_failure(c, -ECANCELED, QMP_ERR_CANCELLED, "the session was closed");
			call_free(c);
		}
	qmp_wire_deinit(&s->wire);
	stop_polling(s);
	uv_close((uv_handle_t *)&s->poll, on_handle_closed);
	uv_close((uv_handle_t *)&s->timer, on_handle_closed);
	(void)close(s->fd);
	s->fd = -1;
}

/* The command's line, with its id. */
static char *encode(const struct qmp_session *s, const struct qmp_command *command, uint64_t serial, size_t *ret_len)
{
	_cleanup_free_ char *name = NULL, *arguments = NULL;
	json_auto_t *name_value = json_string(command->name);
	char id[ID_MAX], *text;

	name = name_value ? json_dumps(name_value, JSON_ENCODE_ANY) : NULL;
	if (command->arguments)
		arguments = qmp_json_encode(command->arguments, JSON_COMPACT | JSON_ENSURE_ASCII, NULL);
	if (!name || (command->arguments && !arguments))
		return NULL;
	write_id(id, s->epoch, serial);
	text = qmp_asprintf("{\"%s\":%s%s%s,\"id\":\"%s\"}\n", command->oob ? "exec-oob" : "execute", name,
			    arguments ? ",\"arguments\":" : "", arguments ? arguments : "", id);
	if (text)
		*ret_len = strlen(text);
	return text;
}

static int dup_fds(struct call *c, const struct qmp_command *command)
{
	if (command->n_fds == 0)
		return 0;
	c->fds = calloc(command->n_fds, sizeof *c->fds);
	if (!c->fds)
		return -ENOMEM;
	for (; c->n_fds < command->n_fds; c->n_fds++) {
		c->fds[c->n_fds] = fcntl(command->fds[c->n_fds], F_DUPFD_CLOEXEC, 0);
		if (c->fds[c->n_fds] < 0)
			return -errno;
	}
	return 0;
}

static int refuse_execute(const struct qmp_session *s, const struct qmp_command *command, struct qmp_error *err)
{
	size_t limit = s->opts.max_queued ? s->opts.max_queued : DEFAULT_QUEUED;

	if (s->dead || s->state == FAILED)
		return qmp_error_set(err, QMP_ERR_CLOSED, -ENOTCONN, "%s: the connection to QEMU has ended",
				     command->name);
	if (command->n_fds > QMP_COMMAND_FDS || (command->arguments && !json_is_object(command->arguments)))
		return qmp_error_set(err, QMP_ERR_INTERNAL, -EINVAL, "%s: bad arguments or too many fds",
				     command->name);
	if (command->oob && s->state == READY && !s->has_oob)
		return qmp_error_set(err, QMP_ERR_UNSUPPORTED, -EOPNOTSUPP,
				     "%s: this QEMU takes no out-of-band commands", command->name);
	if (s->queued.n >= limit)
		return qmp_error_set(err, QMP_ERR_BUSY, -EBUSY, "%s: %zu commands wait for QEMU already",
				     command->name, limit);
	return 0;
}

int qmp_session_execute(struct qmp_session *s, const struct qmp_command *command, qmp_reply_cb cb, void *data,
			uint64_t *ret_serial, struct qmp_error *err)
{
	struct call *c;
	int r = refuse_execute(s, command, err);

	if (r < 0)
		return r;
	c = calloc(1, sizeof *c);
	if (!c)
		return qmp_error_errno(err, -ENOMEM, "%s", command->name);
	c->serial = s->next_serial;
	c->cb = cb;
	c->data = data;
	c->oob = command->oob;
	c->raw = command->raw;
	c->name = strdup(command->name);
	c->text = encode(s, command, c->serial, &c->len);
	r = c->name && c->text ? dup_fds(c, command) : -ENOMEM;
	if (r < 0) {
		call_free(c);
		return qmp_error_errno(err, r, "%s", command->name);
	}
	c->deadline = deadline_in(command->timeout_ms		? command->timeout_ms
				  : s->opts.command_timeout_ms ? s->opts.command_timeout_ms
							       : DEFAULT_COMMAND_MS);
	s->next_serial++;
	s->stats.commands++;
	queue_append(s, c);
	timer_at(s, c->deadline);
	if (ret_serial)
		*ret_serial = c->serial;
	pump(s);
	return 0;
}

void qmp_session_cancel(struct qmp_session *s, uint64_t serial)
{
	struct call *c = calls_take(&s->queued, serial);

	if (c) {
		queue_fix_tail(s);
		end_later(s, c, -ECANCELED, QMP_ERR_CANCELLED, "cancelled before it was sent");
		return;
	}
	for (c = s->flight.head; c; c = c->next) {
		struct call *notice;
		if (c->serial != serial || !c->cb || !(notice = calloc(1, sizeof *notice)))
			continue;
		notice->name = strdup(c->name);
		notice->cb = c->cb;
		notice->data = c->data;
		c->cb = NULL;
		end_later(s, notice, -ECANCELED, QMP_ERR_CANCELLED, "cancelled; QEMU may still do it");
		return;
	}
}

uint64_t qmp_session_subscribe(struct qmp_session *s, const char *name, qmp_event_cb cb, void *data)
{
	struct subscription *subs = realloc(s->subs, (s->n_subs + 1) * sizeof *subs);

	if (!subs)
		return 0;
	s->subs = subs;
	subs[s->n_subs++] = (struct subscription){s->next_sub, name ? strdup(name) : NULL, cb, data};
	return s->next_sub++;
}

void qmp_session_unsubscribe(struct qmp_session *s, uint64_t subscription)
{
	for (size_t i = 0; i < s->n_subs; i++)
		if (s->subs[i].id == subscription)
			s->subs[i].cb = NULL;
	sweep_subscriptions(s);
}

bool qmp_session_is_ready(const struct qmp_session *s)
{
	return s->state == READY && !s->dead;
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
	ret->in_flight = in_flight(s);
	ret->queued = s->queued.n;
}
