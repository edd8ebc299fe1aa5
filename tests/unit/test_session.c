/*
 * The client session against a scripted peer on a socketpair: the test plays QEMU by hand.
 */
#include "proto/base.h"
#include "proto/qmp.h"
#include "tests/unit/check.h"

#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/socket.h>

struct world {
	uv_loop_t loop;
	struct qmp_session *s;
	int qemu; /* QEMU's end */
	int ready, closed, replies, events;
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

static void open_world(struct world *w, uint64_t greeting_ms)
{
	struct qmp_session_options o = {
		.on_ready = on_ready, .on_close = on_close, .data = w, .greeting_timeout_ms = greeting_ms};
	int pair[2];

	memset(w, 0, sizeof *w);
	uv_loop_init(&w->loop);
	CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
	w->qemu = pair[1];
	CHECK_INT(qmp_session_new(&w->loop, pair[0], &o, &w->s, NULL), 0);
}

static void close_world(struct world *w)
{
	qmp_session_free(w->s);
	uv_run(&w->loop, UV_RUN_DEFAULT);
	CHECK_INT(uv_loop_close(&w->loop), 0);
	close(w->qemu);
}

static void negotiate(struct world *w)
{
	const char *text;

	open_world(w, 5000);
	say(w, "{\"QMP\": {\"version\": {}, \"capabilities\": [\"oob\"]}}\r\n");
	text = heard(w);
	CHECK_CONTAINS(text, "\"enable\":[\"oob\"]");
	say(w, "{\"return\": {}, \"id\": \"%s\"}\r\n", id_in(text, 0));
	until(w, &w->ready, 1);
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

static void protocol_error(const char *bytes)
{
	struct world w;

	negotiate(&w);
	execute(&w, "x");
	say(&w, "%s", bytes);
	until(&w, &w.closed, 1);
	CHECK_INT(w.close_kind, QMP_ERR_PROTOCOL);
	CHECK_INT(w.replies, 1);
	close_world(&w);
}

static void test_protocol_errors(void)
{
	protocol_error("garbage");
	protocol_error("{\"error\": {\"class\": \"GenericError\", \"desc\": \"x\"}}");
	protocol_error("{\"neither\": 1}");
	protocol_error("{\"return\": {}, \"return\": {}}");
}

static void test_no_greeting(void)
{
	struct world w;

	open_world(&w, 20);
	until(&w, &w.closed, 1);
	CHECK_INT(w.close_kind, QMP_ERR_TIMEOUT);
	close_world(&w);
}

static void on_event(void *data, const struct qmp_event *event)
{
	struct world *w = data;

	CHECK_STR(event->name, "STOP");
	CHECK_INT(event->seconds, 5);
	w->events++;
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

int main(void)
{
	RUN(test_reply_and_error);
	RUN(test_crossing);
	RUN(test_eight_in_flight);
	RUN(test_timeout_keeps_the_slot);
	RUN(test_cancel);
	RUN(test_end_of_file);
	RUN(test_free_from_a_reply);
	RUN(test_protocol_errors);
	RUN(test_no_greeting);
	RUN(test_events);
	RUN(test_fd_passing);
	return 0;
}
