/*
 * The client session against a scripted peer on a socketpair: the test plays QEMU by hand.
 */
#include "proto/base.h"
#include "proto/qmp.h"
#include "tests/unit/check.h"
#include "tests/unit/dribble.h"

#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/socket.h>

struct world {
	uv_loop_t loop;
	struct qmp_session *s;
	int qemu; /* QEMU's end */
	int ready, closed, replies, events;
	int extra, replies_at_close;
	int status[32];
	char desc[32][400];
	enum qmp_error_kind close_kind;
	bool free_in_reply;
};

static void on_ready(void *data, json_t *greeting)
{
	struct world *w = data;

	CHECK(json_is_object(greeting));
	w->ready++;
}

static void on_close(void *data, const struct qmp_error *why)
{
	struct world *w = data;

	w->closed++;
	w->close_kind = why->kind;
	w->replies_at_close = w->replies;
}

static void on_reply(void *data, const struct qmp_reply *reply)
{
	struct world *w = data;

	w->status[w->replies] = reply->status;
	snprintf(w->desc[w->replies], sizeof w->desc[0], "%s", reply->error.message);
	w->replies++;
	if (w->free_in_reply) {
		qmp_session_free(w->s);
		w->s = NULL;
	}
}

static void on_event(void *data, const struct qmp_event *event)
{
	struct world *w = data;

	CHECK_STR(event->name, "STOP");
	CHECK_INT(int_of(qmp_event_member(event, "timestamp"), "seconds"), 5);
	w->events++;
}

static void say(struct world *w, const char *fmt, ...)
{
	char text[1000];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	CHECK_INT(write(w->qemu, text, (size_t)n), n);
}

/* Turns the loop until COUNTER reaches N; the test's own time-out ends a hang. */
static void until(struct world *w, const int *counter, int n)
{
	while (*counter < n) {
		struct pollfd wake = {uv_backend_fd(&w->loop), POLLIN, 0};
		uv_run(&w->loop, UV_RUN_NOWAIT);
		if (*counter < n)
			(void)poll(&wake, 1, uv_backend_timeout(&w->loop));
	}
}

/* What the session has sent so far; blocks until there is something. */
static char *heard(struct world *w)
{
	static char text[70000];
	ssize_t n;

	while ((n = recv(w->qemu, text, sizeof text - 1, MSG_DONTWAIT)) < 0 && errno == EAGAIN)
		uv_run(&w->loop, UV_RUN_NOWAIT);
	CHECK(n >= 0);
	text[n] = '\0';
	return text;
}

/* The id of the K-th command in TEXT. */
static const char *id_in(const char *text, int k)
{
	static char id[80];

	for (; k >= 0; k--) {
		text = strstr(text, "\"id\":\"");
		CHECK(text);
		text += 6;
	}
	snprintf(id, sizeof id, "%.*s", (int)strcspn(text, "\""), text);
	return id;
}

static void open_world_with(struct world *w, const struct qmp_session_options *o)
{
	int pair[2];

	memset(w, 0, sizeof *w);
	uv_loop_init(&w->loop);
	CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
	w->qemu = pair[1];
	CHECK_INT(qmp_session_new(&w->loop, pair[0], o, &w->s, NULL), 0);
}

static void open_world(struct world *w, uint64_t greeting_ms)
{
	open_world_with(w, &(struct qmp_session_options){.on_ready = on_ready,
							 .on_close = on_close,
							 .data = w,
							 .greeting_timeout_ms = greeting_ms});
}

static void close_world(struct world *w)
{
	qmp_session_free(w->s);
	uv_run(&w->loop, UV_RUN_DEFAULT);
	CHECK_INT(uv_loop_close(&w->loop), 0);
	close(w->qemu);
}

static void negotiate_open(struct world *w)
{
	const char *text;

	say(w, "{\"QMP\": {\"version\": {}, \"capabilities\": [\"oob\"]}}\r\n");
	text = heard(w);
	CHECK_CONTAINS(text, "\"enable\":[\"oob\"]");
	say(w, "{\"return\": {}, \"id\": \"%s\"}\r\n", id_in(text, 0));
	until(w, &w->ready, 1);
}

static void negotiate(struct world *w)
{
	open_world(w, 5000);
	negotiate_open(w);
}

static void execute(struct world *w, const char *name)
{
	int before = w->replies;

	CHECK_INT(qmp_session_execute(w->s, &(struct qmp_command){.name = name}, on_reply, w, NULL, NULL), 0);
	CHECK_INT(w->replies, before); /* never from inside */
}

static void test_reply_and_error(void)
{
	struct world w;
	char ids[2][80];
	const char *text;

	negotiate(&w);
	execute(&w, "one");
	execute(&w, "two");
	text = heard(&w);
	strcpy(ids[0], id_in(text, 0));
	strcpy(ids[1], id_in(text, 1));
	say(&w, "{\"return\": [1], \"id\": \"%s\"}", ids[0]);
	say(&w, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no way\"}, \"id\": \"%s\"}", ids[1]);
	until(&w, &w.replies, 2);
	CHECK_INT(w.status[0], 0);
	CHECK_INT(w.status[1], -EREMOTEIO);
	CHECK_STR(w.desc[1], "two: no way");
	close_world(&w);
}

static void test_crossing(void)
{
	struct world w;
	struct qmp_session_stats stats;
	const char *text;
	char id[80], foreign[80];

	negotiate(&w);
	execute(&w, "mine");
	text = heard(&w);
	strcpy(id, id_in(text, 0));
	strcpy(foreign, id);
	foreign[0] = foreign[0] == 'A' ? 'B' : 'A'; /* of another connection */
	say(&w, "{\"return\": {}, \"id\": \"%s\"}{\"return\": {}, \"id\": 1}{\"return\": {}, \"id\": \"%s\"}", foreign, id);
	until(&w, &w.replies, 1);
	qmp_session_stats(w.s, &stats);
	CHECK_INT(stats.stray_replies, 2);
	CHECK_INT(w.status[0], 0);
	close_world(&w);
}

/* What a server says that has no place for us. From QEMU it may be an earlier client's, and then nothing follows from it. */
/* An id of an earlier connection has the same number and another epoch. */
static void test_another_epoch(void)
{
	struct world w;
	struct qmp_session_stats stats;
	char id[80];

	negotiate(&w);
	execute(&w, "x");
	strcpy(id, id_in(heard(&w), 0));
	for (size_t i = 0; i + 1 < strlen(id); i++) {
		char was = id[i];
		id[i] = was == 'a' ? 'b' : 'a';
		say(&w, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"not yours\"}, \"id\": \"%s\"}\r\n", id);
		id[i] = was;
	}
	say(&w, "{\"return\": {}, \"id\": \"%s\"}\r\n", id);
	until(&w, &w.replies, 1);
	CHECK_INT(w.status[0], 0);
	qmp_session_stats(w.s, &stats);
	CHECK_INT(stats.stray_replies, strlen(id) - 1);
	CHECK_INT(stats.replies, 1);
	close_world(&w);
}

static void test_refused_before_the_greeting(void)
{
	struct world w;

	open_world(&w, 5000);
	CHECK_INT(qmp_session_execute(w.s, &(struct qmp_command){.name = "x"}, on_reply, &w, NULL, NULL), 0);
	say(&w, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no place\"}}\r\n");
	CHECK_INT(shutdown(w.qemu, SHUT_RDWR), 0);
	until(&w, &w.closed, 1);
	CHECK_INT(w.close_kind, QMP_ERR_CLOSED);
	CHECK_INT(w.status[0], -ECONNRESET);
	CHECK_CONTAINS(w.desc[0], "it said: no place");
	close_world(&w);

	open_world(&w, 5000);
	say(&w, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"of somebody else\"}}\r\n");
	say(&w, "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n");
	say(&w, "{\"return\": {}, \"id\": \"%s\"}\r\n", id_in(heard(&w), 0));
	until(&w, &w.ready, 1);
	execute(&w, "x");
	CHECK_INT(shutdown(w.qemu, SHUT_RDWR), 0);
	until(&w, &w.closed, 1);
	CHECK(!strstr(w.desc[0], "somebody else"));
	close_world(&w);
}

static void test_eight_in_flight(void)
{
	struct world w;
	const char *text;
	char id[80];

	negotiate(&w);
	for (int i = 0; i < 12; i++)
		execute(&w, "x");
	text = heard(&w);
	strcpy(id, id_in(text, 7));
	CHECK(!strstr(strstr(text, id), "execute"));
	say(&w, "{\"return\": {}, \"id\": \"%s\"}", id_in(text, 0));
	CHECK_CONTAINS(heard(&w), "execute");
	qmp_session_free(w.s);
	w.s = NULL;
	CHECK_INT(w.replies, 12);
	CHECK_INT(w.status[11], -ECANCELED);
	close_world(&w);
}

static void test_timeout_keeps_the_slot(void)
{
	struct world w;
	struct qmp_session_stats stats;
	struct qmp_command c = {.name = "slow", .timeout_ms = 20};
	char id[80];

	negotiate(&w);
	CHECK_INT(qmp_session_execute(w.s, &c, on_reply, &w, NULL, NULL), 0);
	strcpy(id, id_in(heard(&w), 0));
	until(&w, &w.replies, 1);
	CHECK_INT(w.status[0], -ETIMEDOUT);
	qmp_session_stats(w.s, &stats);
	CHECK_INT(stats.in_flight, 1);
	say(&w, "{\"return\": {}, \"id\": \"%s\"}", id);
	execute(&w, "next");
	say(&w, "{\"return\": {}, \"id\": \"%s\"}", id_in(heard(&w), 0));
	until(&w, &w.replies, 2);
	qmp_session_stats(w.s, &stats);
	CHECK_INT(stats.late_replies, 1);
	CHECK_INT(stats.in_flight, 0);
	close_world(&w);
}

/* Where the other side answers in order, what it has passed over has ended, and its place is free. */
static void test_overtaken(bool in_order)
{
	struct qmp_session_options o = {.on_ready = on_ready, .data = NULL, .in_order = in_order};
	struct qmp_session_stats stats;
	struct world w;
	const char *text;
	char ids[3][80];

	o.data = &w;
	open_world_with(&w, &o);
	negotiate_open(&w);
	for (int i = 0; i < 3; i++)
		execute(&w, "x");
	text = heard(&w);
	for (int i = 0; i < 3; i++)
		strcpy(ids[i], id_in(text, i));
	say(&w, "{\"return\": {}, \"id\": \"%s\"}", ids[1]);
	until(&w, &w.replies, in_order ? 2 : 1);
	CHECK_INT(w.status[0], 0);
	qmp_session_stats(w.s, &stats);
	CHECK_INT(stats.in_flight, in_order ? 1 : 2);
	if (in_order) {
		CHECK_INT(w.status[1], -ETIMEDOUT);
		CHECK_CONTAINS(w.desc[1], "answered a later command");
	}
	say(&w, "{\"return\": {}, \"id\": \"%s\"}", ids[0]); /* then it is nobody's */
	say(&w, "{\"return\": {}, \"id\": \"%s\"}", ids[2]);
	until(&w, &w.replies, 3);
	CHECK_INT(w.status[2], 0);
	qmp_session_stats(w.s, &stats);
	CHECK_INT(stats.stray_replies, in_order);
	CHECK_INT(stats.in_flight, 0);
	close_world(&w);
}

static void test_overtaken_commands(void)
{
	test_overtaken(true);
	test_overtaken(false);
}

static void test_cancel(void)
{
	struct world w;
	uint64_t serial;

	negotiate(&w);
	CHECK_INT(qmp_session_execute(w.s, &(struct qmp_command){.name = "x"}, on_reply, &w, &serial, NULL), 0);
	qmp_session_cancel(w.s, serial);
	qmp_session_cancel(w.s, serial);
	CHECK_INT(w.replies, 0);
	until(&w, &w.replies, 1);
	CHECK_INT(w.status[0], -ECANCELED);
	close_world(&w);
}

static void test_end_of_file(void)
{
	struct world w;

	negotiate(&w);
	execute(&w, "x");
	(void)heard(&w);
	say(&w, "{\"half\": ");
	shutdown(w.qemu, SHUT_RDWR);
	until(&w, &w.closed, 1);
	CHECK_INT(w.replies, 1);
	CHECK_INT(w.status[0], -ECONNRESET);
	CHECK_INT(qmp_session_execute(w.s, &(struct qmp_command){.name = "x"}, on_reply, &w, NULL, NULL), -ENOTCONN);
	close_world(&w);
}

static void test_free_from_a_reply(void)
{
	struct world w;
	const char *text;
	char id[80];

	negotiate(&w);
	w.free_in_reply = true;
	execute(&w, "one");
	text = heard(&w);
	strcpy(id, id_in(text, 0));
	say(&w, "{\"return\": {}, \"id\": \"%s\"}{\"return\": {}, \"id\": \"%s\"}{\"event\": \"X\"}", id, id);
	until(&w, &w.replies, 1);
	CHECK_INT(w.closed, 0);
	close_world(&w);
}

/* ---- Callbacks that use the session: each fires once, whatever the others do ---- */

enum meddle { EXECUTE, CANCEL_ALL, FREE };

struct waiter {
	struct world *w;
	uint64_t serial;
	int fired, status;
	enum meddle meddle;
};

static struct waiter waiters[24];

static void on_meddler(void *data, const struct qmp_reply *reply)
{
	struct waiter *me = data;
	struct world *w = me->w;

	me->fired++;
	me->status = reply->status;
	w->replies++;
	if (me->meddle == FREE) {
		qmp_session_free(take_ptr(w->s));
	} else if (me->meddle == CANCEL_ALL && w->s) {
		for (size_t i = 0; i < ARRAY_SIZE(waiters); i++)
			qmp_session_cancel(w->s, waiters[i].serial);
	} else if (me->meddle == EXECUTE && w->s) {
		int r = qmp_session_execute(w->s, &(struct qmp_command){.name = "more"}, on_reply, w, NULL, NULL);
		w->extra += r == 0;
	}
}

/* More commands than fit in flight, one in three out of band; one of them has timed out already. */
static void execute_meddlers(struct world *w, enum meddle meddle)
{
	for (size_t i = 0; i < ARRAY_SIZE(waiters); i++) {
		struct qmp_command c = {.name = "x", .oob = i % 3 == 0, .timeout_ms = i == 5 ? 1 : 0};
		waiters[i] = (struct waiter){.w = w, .meddle = i == 7 ? meddle : EXECUTE};
		CHECK_INT(qmp_session_execute(w->s, &c, on_meddler, &waiters[i], &waiters[i].serial, NULL), 0);
	}
}

static void check_meddlers(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(waiters); i++) {
		CHECK_INT(waiters[i].fired, 1);
		CHECK(waiters[i].status < 0);
	}
}

static void test_meddling_at_the_end_of_file(void)
{
	for (enum meddle m = EXECUTE; m <= FREE; m++) {
		struct world w;

		negotiate(&w);
		execute_meddlers(&w, m);
		qmp_session_cancel(w.s, waiters[20].serial);
		CHECK_INT(w.replies, 0);
		shutdown(w.qemu, SHUT_RDWR);
		until(&w, &w.replies, ARRAY_SIZE(waiters));
		check_meddlers();
		CHECK_INT(waiters[20].status, -ECANCELED);
		CHECK_INT(w.closed, m != FREE); /* after the last of them, and not when it was freed */
		CHECK_INT(w.replies_at_close, m == FREE ? 0 : (int)ARRAY_SIZE(waiters) + w.extra);
		close_world(&w);
	}
}

static void test_meddling_in_free(void)
{
	for (enum meddle m = EXECUTE; m <= FREE; m++) {
		struct world w;
		struct qmp_session *s;

		negotiate(&w);
		execute_meddlers(&w, m);
		s = w.s; /* which a callback frees a second time, from inside */
		qmp_session_free(s);
		w.s = NULL;
		CHECK_INT(w.replies, ARRAY_SIZE(waiters));
		check_meddlers();
		CHECK_INT(w.extra, 0);
		CHECK_INT(w.closed, 0);
		close_world(&w);
		CHECK_INT(w.replies, ARRAY_SIZE(waiters));
	}
}

static void on_ready_free(void *data, json_t *greeting)
{
	struct world *w = data;

	UNUSED(greeting);
	w->ready++;
	qmp_session_free(take_ptr(w->s));
}

static void on_close_free(void *data, const struct qmp_error *why)
{
	struct world *w = data;

	CHECK(why->message[0]);
	w->closed++;
	qmp_session_free(take_ptr(w->s));
}

static void on_event_free(void *data, const struct qmp_event *event)
{
	struct world *w = data;

	CHECK_STR(event->name, "STOP");
	w->events++;
	qmp_session_free(w->s);
	w->s = NULL;
	CHECK_STR(text_of(qmp_event_member(event, "data"), "still"), "valid");
}

/* Each of the other callbacks frees the session, too. */
static void test_free_from_any_callback(void)
{
	struct qmp_session_options o = {.on_ready = on_ready_free, .on_close = on_close_free};
	struct world w;

	o.data = &w;
	open_world_with(&w, &o);
	say(&w, "{\"QMP\": {}}");
	say(&w, "{\"return\": {}, \"id\": \"%s\"}{\"event\": \"STOP\"}", id_in(heard(&w), 0));
	until(&w, &w.ready, 1);
	CHECK_INT(w.closed, 0);
	close_world(&w);

	open_world_with(&w, &o);
	say(&w, "nonsense");
	until(&w, &w.closed, 1);
	close_world(&w);
	CHECK_INT(w.closed, 1);

	negotiate(&w);
	(void)qmp_session_subscribe(w.s, NULL, on_event_free, &w);
	(void)qmp_session_subscribe(w.s, NULL, on_event_free, &w);
	execute(&w, "x");
	say(&w, "{\"event\": \"STOP\", \"data\": {\"still\": \"valid\"}}{\"event\": \"STOP\"}");
	until(&w, &w.events, 1);
	CHECK_INT(w.replies, 1);
	CHECK_INT(w.status[0], -ECANCELED);
	close_world(&w);
	CHECK_INT(w.events, 1);
}

/* A command that was never sent leaves no fd behind. */
static void test_fds_do_not_leak(void)
{
	struct world w;
	int null = open("/dev/null", O_RDONLY), fds[] = {null, null}, bad[] = {null, -1}, probe;
	struct qmp_command c = {.name = "getfd", .fds = fds, .n_fds = 2};
	uint64_t serial;

	negotiate(&w);
	probe = dup(null);
	close(probe);
	for (int i = 0; i < 12; i++)
		CHECK_INT(qmp_session_execute(w.s, &c, on_reply, &w, &serial, NULL), 0);
	qmp_session_cancel(w.s, serial);
	c.fds = bad;
	CHECK_INT(qmp_session_execute(w.s, &c, on_reply, &w, NULL, NULL), -EBADF);
	c.n_fds = QMP_COMMAND_FDS + 1;
	CHECK_INT(qmp_session_execute(w.s, &c, on_reply, &w, NULL, NULL), -EINVAL);
	qmp_session_free(take_ptr(w.s));
	CHECK_INT(w.replies, 12);
	CHECK(dup(null) <= probe);
	close(probe);
	close(null);
	close_world(&w);
}

/* What came before the other side left is heard, also where sockets' buffers split it. */
static void test_last_words(void)
{
	struct world w;
	int fd = open("/dev/null", O_RDONLY);
	char text[] = "{\"event\": \"STOP\", \"timestamp\": {\"seconds\": 5}}", control[CMSG_SPACE(sizeof fd)] = {0};
	struct iovec iov = {text, sizeof text - 1};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};

	negotiate(&w);
	(void)qmp_session_subscribe(w.s, "STOP", on_event, &w);
	execute(&w, "never read");
	CMSG_FIRSTHDR(&msg)->cmsg_level = SOL_SOCKET;
	CMSG_FIRSTHDR(&msg)->cmsg_type = SCM_RIGHTS;
	CMSG_FIRSTHDR(&msg)->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), &fd, sizeof fd);
	CHECK(sendmsg(w.qemu, &msg, 0) > 0); /* a read ends there */
	say(&w, "{\"event\": \"STOP\", \"timestamp\": {\"seconds\": 5}}");
	close(w.qemu); /* with a command unread: the other side sees an error on its socket */
	w.qemu = open("/dev/null", O_RDONLY);
	until(&w, &w.closed, 1);
	CHECK_INT(w.events, 2);
	CHECK_INT(w.status[0], -ECONNRESET);
	close(fd);
	close_world(&w);
}

static void protocol_error(const char *bytes)
{
	struct world w;

	negotiate(&w);
	(void)qmp_session_subscribe(w.s, "NEVER", on_event, &w);
	execute(&w, "x");
	say(&w, "%s", bytes);
	until(&w, &w.closed, 1);
	CHECK_INT(w.close_kind, QMP_ERR_PROTOCOL);
	CHECK_INT(w.replies, 1);
	close_world(&w);
}

/* The one who waits hears of it, and the stream is over. */
static void test_undecodable_replies(void)
{
	static const char *const replies[] = {
		"{\"return\": {\"a\": 1, \"a\": 2}, \"id\": \"%s\"}",
		"{\"return\": \"\\ud800\", \"id\": \"%s\"}",
		"{\"error\": {\"class\": 1, \"class\": 2}, \"id\": \"%s\"}",
	};

	for (size_t i = 0; i < ARRAY_SIZE(replies); i++) {
		struct world w;

		negotiate(&w);
		execute(&w, "one");
		say(&w, replies[i], id_in(heard(&w), 0));
		execute(&w, "two");
		until(&w, &w.closed, 1);
		CHECK_INT(w.replies, 2);
		CHECK_INT(w.status[0], -EPROTO);
		CHECK_CONTAINS(w.desc[0], "one: the reply: JSON");
		CHECK_INT(w.status[1], -EPROTO);
		close_world(&w);
	}
}

static void test_protocol_errors(void)
{
	protocol_error("garbage");
	protocol_error("{\"error\": {\"class\": \"GenericError\", \"desc\": \"x\"}}");
	protocol_error("{\"neither\": 1}");
	protocol_error("{\"return\": {}, \"return\": {}}");
	protocol_error("{\"return\": nonsense}");
	protocol_error("{\"event\": 1}");
	protocol_error("{\"event\": \"A\\u0041\"}");
	protocol_error("{\"event\": \"A\", \"data\": []}");
	protocol_error("{\"event\": \"A\", \"data\": {\"b\": [1, tru]}}");
}

static void test_no_greeting(void)
{
	struct world w;

	open_world(&w, 20);
	until(&w, &w.closed, 1);
	CHECK_INT(w.close_kind, QMP_ERR_TIMEOUT);
	close_world(&w);
}

/* A deadline is for the whole: no byte renews it. */
static void test_a_greeting_byte_by_byte(void)
{
	struct world w;
	struct dribble d;

	open_world(&w, 60);
	dribble(&d, &w.loop, w.qemu, "{\"QMP\": {\"version\": {}, \"capabilities\": []}, \"more\": \"and more, and more\"}\r\n");
	until(&w, &w.closed, 1);
	CHECK(dribble_end(&d) > 0);
	CHECK_INT(w.close_kind, QMP_ERR_TIMEOUT);
	close_world(&w);
}

static void test_a_negotiation_byte_by_byte(void)
{
	struct world w;
	struct dribble d;

	open_world(&w, 60);
	say(&w, "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n");
	(void)heard(&w);
	dribble(&d, &w.loop, w.qemu, "{\"event\": \"STOP\", \"timestamp\": {\"seconds\": 5, \"microseconds\": 0}}\r\n");
	until(&w, &w.closed, 1);
	CHECK(dribble_end(&d) > 0);
	CHECK_INT(w.close_kind, QMP_ERR_TIMEOUT);
	CHECK_INT(w.ready, 0);
	close_world(&w);
}

static void test_a_reply_byte_by_byte(void)
{
	struct world w;
	struct dribble d;
	struct qmp_command c = {.name = "slow", .timeout_ms = 60};
	char text[200];
	size_t left;

	negotiate(&w);
	CHECK_INT(qmp_session_execute(w.s, &c, on_reply, &w, NULL, NULL), 0);
	snprintf(text, sizeof text, "{\"return\": {}, \"id\": \"%s\"}\r\n", id_in(heard(&w), 0));
	dribble(&d, &w.loop, w.qemu, text);
	until(&w, &w.replies, 1);
	CHECK_INT(w.status[0], -ETIMEDOUT);
	left = dribble_end(&d);
	CHECK(left > 0);
	say(&w, "%s", text + strlen(text) - left); /* no part of what comes next */
	execute(&w, "next");
	say(&w, "{\"return\": {}, \"id\": \"%s\"}\r\n", id_in(heard(&w), 0));
	until(&w, &w.replies, 2);
	CHECK_INT(w.status[1], 0);
	close_world(&w);
}

static void test_events(void)
{
	struct world w;
	uint64_t id;

	negotiate(&w);
	id = qmp_session_subscribe(w.s, "STOP", on_event, &w);
	say(&w, "{\"event\": \"OTHER\"}{\"event\": \"STOP\", \"timestamp\": {\"seconds\": 5, \"microseconds\": 0}}");
	until(&w, &w.events, 1);
	qmp_session_unsubscribe(w.s, id);
	execute(&w, "x");
	say(&w, "{\"event\": \"STOP\"}{\"return\": {}, \"id\": \"%s\"}", id_in(heard(&w), 0));
	until(&w, &w.replies, 1);
	CHECK_INT(w.events, 1);
	close_world(&w);
}

static void test_an_event_before_it_is_negotiated(void)
{
	struct world w;
	const char *text;

	open_world(&w, 5000);
	qmp_session_subscribe(w.s, "STOP", on_event, &w);
	say(&w, "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n");
	text = heard(&w);
	say(&w, "{\"event\": \"STOP\", \"timestamp\": {\"seconds\": 5, \"microseconds\": 0}}\r\n");
	say(&w, "{\"return\": {}, \"id\": \"%s\"}\r\n", id_in(text, 0));
	until(&w, &w.ready, 1);
	CHECK_INT(w.events, 1);
	CHECK_INT(w.closed, 0);
	close_world(&w);
}

static void test_fd_passing(void)
{
	struct world w;
	int fd = open("/dev/null", O_RDONLY), got = -1;
	struct qmp_command c = {.name = "getfd", .fds = &fd, .n_fds = 1};
	char byte, control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = {&byte, 1};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};

	negotiate(&w);
	CHECK_INT(qmp_session_execute(w.s, &c, on_reply, &w, NULL, NULL), 0);
	CHECK_INT(recvmsg(w.qemu, &msg, 0), 1);
	CHECK(CMSG_FIRSTHDR(&msg));
	memcpy(&got, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof got);
	CHECK(got >= 0 && got != fd);
	close(got);
	close(fd);
	close_world(&w);
}

/* Reads what was sent; the number of fds that came with it. */
static int fds_heard(struct world *w, char *text, size_t size)
{
	char control[CMSG_SPACE(8 * sizeof(int))];
	struct iovec iov = {text, size - 1};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	ssize_t n = recvmsg(w->qemu, &msg, MSG_DONTWAIT);
	const struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
	int fds[8], n_fds = c ? (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int)) : 0;

	text[n < 0 ? 0 : n] = '\0';
	if (c)
		memcpy(fds, CMSG_DATA(c), sizeof(int) * (size_t)n_fds);
	for (int i = 0; i < n_fds; i++)
		close(fds[i]);
	return n_fds;
}

/* QEMU has one place for fds, and reads ahead: those of a second command would take the place of the first's, and what it
 * reads behind them changes their flags. */
static void test_fds_go_alone(void)
{
	struct world w;
	int fd = open("/dev/null", O_RDONLY);
	struct qmp_command a = {.name = "add-fd", .fds = &fd, .n_fds = 1}, b = {.name = "getfd", .fds = &fd, .n_fds = 1};
	struct qmp_command yank = {.name = "yank", .oob = true, .fds = &fd, .n_fds = 1};
	char text[1000];

	negotiate(&w);
	execute(&w, "before");
	CHECK_INT(qmp_session_execute(w.s, &a, on_reply, &w, NULL, NULL), 0);
	execute(&w, "between");
	CHECK_INT(qmp_session_execute(w.s, &b, on_reply, &w, NULL, NULL), 0);
	execute(&w, "behind");
	CHECK_INT(fds_heard(&w, text, sizeof text), 0);
	CHECK(!strstr(text, "add-fd"));
	say(&w, "{\"return\": {}, \"id\": \"%s\"}", id_in(text, 0));
	until(&w, &w.replies, 1);
	CHECK_INT(fds_heard(&w, text, sizeof text), 1);
	CHECK_CONTAINS(text, "add-fd");
	CHECK(!strstr(text, "between") && !strstr(text, "getfd") && !strstr(text, "behind"));
	CHECK_INT(qmp_session_execute(w.s, &yank, on_reply, &w, NULL, NULL), 0);
	say(&w, "{\"return\": {}, \"id\": \"%s\"}", id_in(text, 0));
	until(&w, &w.replies, 2);
	CHECK_INT(fds_heard(&w, text, sizeof text), 1);
	CHECK_CONTAINS(text, "yank");
	CHECK_CONTAINS(text, "between"); /* what is out of band is carried out as soon as it is read */
	CHECK(!strstr(text, "getfd"));
	say(&w, "{\"return\": {}, \"id\": \"%s\"}", id_in(text, 0));
	until(&w, &w.replies, 3);
	say(&w, "{\"return\": {}, \"id\": \"%s\"}", id_in(text, 1));
	until(&w, &w.replies, 4);
	CHECK_INT(fds_heard(&w, text, sizeof text), 1);
	CHECK_CONTAINS(text, "getfd");
	CHECK(!strstr(text, "behind"));
	say(&w, "{\"return\": {}, \"id\": \"%s\"}", id_in(text, 0));
	until(&w, &w.replies, 5);
	CHECK_INT(fds_heard(&w, text, sizeof text), 0);
	CHECK_CONTAINS(text, "behind");
	close(fd);
	close_world(&w);
}

/* The other side is found to have gone by writing to it: what it said before is heard all the same. */
static void test_last_words_after_a_write(void)
{
	struct world w;

	negotiate(&w);
	(void)qmp_session_subscribe(w.s, "STOP", on_event, &w);
	execute(&w, "one");
	say(&w, "{\"event\": \"STOP\", \"timestamp\": {\"seconds\": 5}}");
	say(&w, "{\"return\": {}, \"id\": \"%s\"}", id_in(heard(&w), 0));
	close(w.qemu);
	w.qemu = open("/dev/null", O_RDONLY);
	execute(&w, "two");
	CHECK_INT(w.events, 0); /* never from inside */
	until(&w, &w.closed, 1);
	CHECK_INT(w.events, 1);
	CHECK_INT(w.replies, 2);
	CHECK_INT(w.status[0], 0);
	CHECK_INT(w.status[1], -ECONNRESET);
	CHECK_INT(w.close_kind, QMP_ERR_CLOSED);
	close_world(&w);
}

/* What QEMU would answer without an id, which ends the session for everybody. */
static void test_more_than_qemu_takes(void)
{
	struct world w;
	json_auto_t *list = json_array(), *one = json_integer(1), *text = NULL, *arguments = json_object();
	struct qmp_command c = {.name = "x", .arguments = arguments};
	const size_t around = 13; /* {"execute":"x","arguments":{"a":[]},"id":"..."} has 18 tokens, less the comma that a list lacks */
	char *commas;

	negotiate(&w);
	while (json_array_size(list) < ((size_t)1 << 20) - around)
		CHECK_INT(json_array_append(list, one), 0);
	json_object_set(arguments, "a", list);
	CHECK_INT(qmp_session_execute(w.s, &c, on_reply, &w, NULL, NULL), 0);
	for (size_t i = 0; i < around; i++)
		CHECK_INT(json_array_append(list, one), 0);
	CHECK_INT(qmp_session_execute(w.s, &c, on_reply, &w, NULL, NULL), -EMSGSIZE);
	commas = malloc(((size_t)3 << 20) + 1);
	CHECK(commas);
	memset(commas, ',', (size_t)3 << 20);
	commas[0] = '"';
	commas[(size_t)3 << 20] = '\0';
	json_object_set_new(arguments, "a", text = json_string(commas));
	json_incref(text);
	CHECK_INT(qmp_session_execute(w.s, &c, on_reply, &w, NULL, NULL), 0); /* one token */
	free(commas);
	CHECK_INT(w.replies, 0);
	qmp_session_free(take_ptr(w.s));
	CHECK_INT(w.replies, 2);
	close_world(&w);
}

/* QEMU takes 1,024 levels, the command's own and that of its arguments among them. */
static void test_deeper_than_qemu_takes(void)
{
	struct world w;
	json_auto_t *deep = json_array(), *arguments = json_object();
	struct qmp_command c = {.name = "x", .arguments = arguments};

	negotiate(&w);
	for (int i = 1; i < QMP_JSON_DEPTH - 2; i++) {
		json_t *around = json_array();
		json_array_append_new(around, deep);
		deep = around;
	}
	json_object_set(arguments, "a", deep);
	CHECK_INT(qmp_session_execute(w.s, &c, on_reply, &w, NULL, NULL), 0);
	json_object_set_new(arguments, "a", json_pack("[O]", deep));
	CHECK_INT(qmp_session_execute(w.s, &c, on_reply, &w, NULL, NULL), -EMSGSIZE);
	qmp_session_free(take_ptr(w.s));
	CHECK_INT(w.replies, 1);
	close_world(&w);
}

int main(void)
{
	RUN(test_reply_and_error);
	RUN(test_crossing);
	RUN(test_another_epoch);
	RUN(test_refused_before_the_greeting);
	RUN(test_eight_in_flight);
	RUN(test_timeout_keeps_the_slot);
	RUN(test_overtaken_commands);
	RUN(test_cancel);
	RUN(test_end_of_file);
	RUN(test_free_from_a_reply);
	RUN(test_meddling_at_the_end_of_file);
	RUN(test_meddling_in_free);
	RUN(test_free_from_any_callback);
	RUN(test_fds_do_not_leak);
	RUN(test_last_words);
	RUN(test_undecodable_replies);
	RUN(test_protocol_errors);
	RUN(test_no_greeting);
	RUN(test_a_greeting_byte_by_byte);
	RUN(test_a_negotiation_byte_by_byte);
	RUN(test_a_reply_byte_by_byte);
	RUN(test_events);
	RUN(test_an_event_before_it_is_negotiated);
	RUN(test_fd_passing);
	RUN(test_fds_go_alone);
	RUN(test_last_words_after_a_write);
	RUN(test_more_than_qemu_takes);
	RUN(test_deeper_than_qemu_takes);
	return 0;
}
