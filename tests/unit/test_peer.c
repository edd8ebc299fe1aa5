/*
 * The server side: the test is the client on a socketpair. The words are those of QEMU's own monitor.
 */
#include "proto/base.h"
#include "proto/qmp.h"
#include "tests/unit/check.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

struct world {
	uv_loop_t loop;
	struct qmp_peer *p;
	int client;
	int commands, closed;
	bool hold_after_each, keep_id;
	const char *raw; /* what the command of that name returns */
	size_t raw_len;
	enum qmp_error_kind kind;
	char came[200]; /* each command's name and number of fds */
	char heard[4000];
};

static json_t *kept_id; /* of the command that was not answered */

static void on_command(void *data, struct qmp_peer *p, const struct qmp_peer_command *c)
{
	struct world *w = data;

	w->commands++;
	snprintf(w->came + strlen(w->came), sizeof w->came - strlen(w->came), "%.20s%zu ", c->name, c->n_fds);
	if (w->keep_id)
		kept_id = json_incref(c->id);
	else if (streq(c->name, "fail"))
		qmp_peer_error(p, c->id, "GenericError", "no");
	else if (streq(c->name, "raw"))
		qmp_peer_return_raw(p, c->id, w->raw, w->raw_len);
	else if (streq(c->name, "free"))
		qmp_peer_free(take_ptr(w->p));
	else
		qmp_peer_return(p, c->id, c->arguments);
	if (w->hold_after_each) {
		qmp_peer_pause(p);
		qmp_peer_resume(p);
	}
}

static void on_close(void *data, struct qmp_peer *p, const struct qmp_error *why)
{
	struct world *w = data;

	qmp_peer_free(p);
	w->p = NULL;
	w->closed++;
	w->kind = why->kind;
}

static void open_world_for(struct world *w, size_t max_output, uint64_t negotiation_ms)
{
	json_auto_t *greeting = json_pack("{s:{}, s:[]}", "version", "capabilities");
	struct qmp_peer_options o = {.greeting = greeting, .on_command = on_command, .on_close = on_close, .data = w,
				     .max_output = max_output, .negotiation_timeout_ms = negotiation_ms};
	int pair[2];

	memset(w, 0, sizeof *w);
	w->raw = "[inf]";
	w->raw_len = 5;
	uv_loop_init(&w->loop);
	CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
	w->client = pair[1];
	CHECK_INT(qmp_peer_new(&w->loop, pair[0], &o, &w->p, NULL), 0);
}

static void open_world(struct world *w, size_t max_output)
{
	open_world_for(w, max_output, 0);
}

static void close_world(struct world *w)
{
	qmp_peer_free(w->p);
	uv_run(&w->loop, UV_RUN_DEFAULT);
	CHECK_INT(uv_loop_close(&w->loop), 0);
	close(w->client);
}

/* Sends TEXT, lets the peer work, returns what it answered. */
static const char *talk(struct world *w, const char *text)
{
	size_t len = strlen(text);
	ssize_t n;

	CHECK_INT(write(w->client, text, len), len);
	for (int i = 0; i < 4; i++)
		uv_run(&w->loop, UV_RUN_NOWAIT);
	n = recv(w->client, w->heard, sizeof w->heard - 1, MSG_DONTWAIT);
	w->heard[n < 0 ? 0 : n] = '\0';
	return w->heard;
}

static void test_negotiation(void)
{
	struct world w;

	open_world(&w, 0);
	CHECK_STR(talk(&w, "{\"execute\":\"x\",\"id\":1}"),
		  "{\"QMP\": {\"version\":{},\"capabilities\":[]}}\r\n"
		  "{\"error\": {\"class\":\"CommandNotFound\",\"desc\":\"Expecting capabilities negotiation with "
		  "'qmp_capabilities'\"}, \"id\": 1}\r\n");
	CHECK_STR(talk(&w, "{\"execute\":\"qmp_capabilities\"}{\"execute\":\"x\",\"arguments\":{\"a\":18446744073709551615}}"),
		  "{\"return\": {}}\r\n{\"return\": {\"a\":18446744073709551615}}\r\n");
	CHECK_CONTAINS(talk(&w, "{\"execute\":\"qmp_capabilities\"}"), "already complete, command ignored");
	CHECK_INT(w.commands, 1);
	close_world(&w);
}

/* It is told why, and one that has negotiated in time stays. */
static void test_negotiation_in_time(void)
{
	struct world w;
	ssize_t n;

	open_world_for(&w, 0, 20);
	while (!w.closed)
		uv_run(&w.loop, UV_RUN_ONCE);
	CHECK_INT(w.kind, QMP_ERR_TIMEOUT);
	n = recv(w.client, w.heard, sizeof w.heard - 1, 0);
	w.heard[n < 0 ? 0 : n] = '\0';
	CHECK_CONTAINS(w.heard, "no qmp_capabilities came in time");
	close_world(&w);

	open_world_for(&w, 0, 5000);
	CHECK_CONTAINS(talk(&w, "{\"execute\":\"qmp_capabilities\"}"), "{\"return\": {}}");
	CHECK(qmp_peer_is_ready(w.p));
	close_world(&w);
}

static void test_bad_input(void)
{
	struct world w;

	open_world(&w, 0);
	talk(&w, "{\"execute\":\"qmp_capabilities\"}");
	CHECK_CONTAINS(talk(&w, "{\"foo\":1,\"id\":\"i\"}"), "QMP input member 'foo' is unexpected\"}, \"id\": \"i\"");
	CHECK_CONTAINS(talk(&w, "{}"), "QMP input lacks member 'execute'");
	CHECK_CONTAINS(talk(&w, "{\"execute\":1}"), "'execute' must be a string");
	CHECK_CONTAINS(talk(&w, "{\"execute\":\"x\",\"arguments\":[]}"), "'arguments' must be an object");
	CHECK_CONTAINS(talk(&w, "{\"execute\":\"x\",}"), "JSON parse error");
	CHECK_CONTAINS(talk(&w, "{\"half\":\"\xff{\"execute\":\"fail\"}"), "\"desc\":\"no\"");
	CHECK_CONTAINS(talk(&w, "{\"execute\":\"raw\"}"), "{\"return\": [inf]}");
	CHECK_INT(w.commands, 2);
	CHECK_INT(w.closed, 0);
	CHECK_CONTAINS(talk(&w, "garbage {\"execute\":\"x\"}"), "JSON parse error, expected a JSON object at byte");
	CHECK_STR(talk(&w, " and more\n"), "");
	CHECK_CONTAINS(talk(&w, "{\"execute\":\"fail\"}"), "\"desc\":\"no\"");
	CHECK_INT(w.commands, 3);
	CHECK_INT(w.closed, 0);
	close_world(&w);
}

static void test_pause_holds_back(void)
{
	struct world w;

	open_world(&w, 0);
	talk(&w, "{\"execute\":\"qmp_capabilities\"}");
	qmp_peer_pause(w.p);
	CHECK_STR(talk(&w, "{\"execute\":\"x\"}{\"execute\":\"x\"}"), "");
	qmp_peer_resume(w.p);
	CHECK_STR(talk(&w, ""), "{\"return\": {}}\r\n{\"return\": {}}\r\n");
	close_world(&w);
}

static void test_who_does_not_read_is_cut_off(void)
{
	struct world w;
	char event[1000];

	open_world(&w, 100000);
	talk(&w, "{\"execute\":\"qmp_capabilities\"}");
	memset(event, ' ', sizeof event);
	for (int i = 0; i < 2000 && !w.closed; i++) {
		qmp_peer_send_raw(w.p, event, sizeof event);
		uv_run(&w.loop, UV_RUN_NOWAIT);
	}
	CHECK_INT(w.closed, 1);
	CHECK_INT(w.kind, QMP_ERR_LIMIT);
	close_world(&w);
}

/* Events that come together go out together, in order, before a later reply, and also where the peer ends at once. */
static void test_events_go_together(void)
{
	struct world w;
	char event[5000];
	ssize_t n;

	open_world(&w, 0);
	qmp_peer_send_raw(w.p, "early", 5); /* not negotiated: nobody is told */
	talk(&w, "{\"execute\":\"qmp_capabilities\"}");
	memset(event, 'x', sizeof event);
	qmp_peer_send_raw(w.p, "1", 1);
	qmp_peer_send_raw(w.p, "2", 1);
	CHECK_STR(talk(&w, "{\"execute\":\"fail\"}"),
		  "1\r\n2\r\n{\"error\": {\"class\":\"GenericError\",\"desc\":\"no\"}}\r\n");
	qmp_peer_send_raw(w.p, "3", 1);
	qmp_peer_send_raw(w.p, event, sizeof event);
	qmp_peer_send_raw(w.p, "4", 1);
	qmp_peer_free(take_ptr(w.p));
	for (size_t len = 0; len < sizeof event + 8; len += (size_t)n) {
		char came[sizeof event + 8];
		n = recv(w.client, came, sizeof came, MSG_DONTWAIT);
		CHECK(n > 0);
		CHECK(len > 0 || memcmp(came, "3\r\nxx", 5) == 0);
		CHECK(len + (size_t)n < sizeof came || memcmp(came + n - 5, "\r\n4\r\n", 5) == 0);
	}
	close_world(&w);
}

/* Sends TEXT with N fds on its first byte. */
static void send_with_fds(struct world *w, const char *text, const int *fds, size_t n)
{
	char control[CMSG_SPACE(sizeof(int) * QMP_COMMAND_FDS)] = {0};
	struct iovec iov = {(char *)text, strlen(text)};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(sizeof(int) * n)};

	CMSG_FIRSTHDR(&msg)->cmsg_level = SOL_SOCKET;
	CMSG_FIRSTHDR(&msg)->cmsg_type = SCM_RIGHTS;
	CMSG_FIRSTHDR(&msg)->cmsg_len = CMSG_LEN(sizeof(int) * n);
	memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), fds, sizeof(int) * n);
	CHECK_INT(sendmsg(w->client, &msg, 0), strlen(text));
}

static int count_open_fds(void)
{
	int n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/*
 * All of it lies in the socket before the peer reads: the kernel joins what was sent before fds with what brings them.
 * Each command has its own, also where they came in the middle of it, and where the one before them held the peer back.
 */
static void test_fds_come_with_their_command(void)
{
	struct world w;
	int fds[] = {open("/dev/null", O_RDONLY), open("/dev/null", O_RDONLY)}, before;
	int hold;

	for (hold = 0; hold <= 1; hold++) {
		open_world(&w, 0);
		talk(&w, "{\"execute\":\"qmp_capabilities\"}");
		before = count_open_fds();
		w.hold_after_each = hold;
		CHECK(write(w.client, "{\"execute\":\"a\"}\n{\"execute\":\"b\"}\n", 32) == 32);
		send_with_fds(&w, "{\"execute\":\"c\"}\n{\"execute\":\"d\"}\n", fds, 1);
		CHECK(write(w.client, "{\"execute\":", 11) == 11);
		send_with_fds(&w, "\"e\"}{\"execute\":\"f\"}", fds, 2);
		send_with_fds(&w, "{\"execute\":\"g\"}", fds, 1);
		for (int i = 0; i < 20; i++)
			talk(&w, "");
		CHECK_STR(w.came, "a0 b0 c1 d0 e2 f0 g1 ");
		CHECK_INT(count_open_fds(), before);
		close_world(&w);
	}
	close(fds[0]);
	close(fds[1]);
}

/* With a command that is no command, or none at all, and when the client or the peer goes. */
static void test_fds_do_not_leak(void)
{
	struct world w;
	int fd = open("/dev/null", O_RDONLY), many[QMP_COMMAND_FDS], before;

	for (size_t i = 0; i < ARRAY_SIZE(many); i++)
		many[i] = fd;
	before = count_open_fds();
	open_world(&w, 0);
	talk(&w, "{\"execute\":\"qmp_capabilities\"}");
	send_with_fds(&w, "{\"execute\":1}", many, ARRAY_SIZE(many));
	send_with_fds(&w, "garbage\n", &fd, 1);
	send_with_fds(&w, "{\"exec", many, ARRAY_SIZE(many));
	send_with_fds(&w, "ute\":\"x\"}", many, ARRAY_SIZE(many)); /* more than a command may have */
	talk(&w, "");
	CHECK_STR(w.came, "x16 ");
	send_with_fds(&w, "{\"half\":", many, ARRAY_SIZE(many));
	talk(&w, "");
	close_world(&w);
	CHECK_INT(count_open_fds(), before);
	close(fd);
}

/* Ten times more than may wait, asked for at once by a client that reads slowly: it gets all, the peer keeps little. */
static void test_large_replies_hold_back(void)
{
	struct world w;
	static char big[100000];
	size_t got = 0, asked = 100, each = sizeof big + sizeof "{\"return\": }\r\n" - 1;

	open_world(&w, sizeof big * 10);
	talk(&w, "{\"execute\":\"qmp_capabilities\"}");
	memset(big, ' ', sizeof big);
	big[0] = '[';
	big[sizeof big - 1] = ']';
	w.raw = big;
	w.raw_len = sizeof big;
	for (size_t i = 0; i < asked; i++)
		CHECK(write(w.client, "{\"execute\":\"raw\"}", 17) == 17);
	for (int i = 0; i < 10; i++)
		uv_run(&w.loop, UV_RUN_NOWAIT);
	CHECK(w.commands > 2 && w.commands < 10);
	while (got < asked * each) {
		char part[50000];
		ssize_t n = recv(w.client, part, sizeof part, MSG_DONTWAIT);
		CHECK(n != 0 && w.closed == 0);
		got += n > 0 ? (size_t)n : 0;
		uv_run(&w.loop, UV_RUN_NOWAIT);
	}
	CHECK_INT(got, asked * each);
	CHECK_INT(w.commands, asked);
	close_world(&w);
}

/* A message in which a file's name stands need not be UTF-8. */
static void test_error_text_is_mended(void)
{
	struct world w;

	open_world(&w, 0);
	talk(&w, "{\"execute\":\"qmp_capabilities\"}");
	qmp_peer_error(w.p, NULL, "GenericError", "/tmp/\xff: no such file");
	CHECK_STR(talk(&w, ""),
		  "{\"error\": {\"class\":\"GenericError\",\"desc\":\"/tmp/\\uFFFD: no such file\"}}\r\n");
	close_world(&w);
}

/* "printf ... | socat - UNIX:control.sock": a client that says that it sends no more is answered before it is left. */
static void test_half_closed(void)
{
	for (int hold = 0; hold <= 1; hold++) {
		struct world w;

		open_world(&w, 0);
		talk(&w, "{\"execute\":\"qmp_capabilities\"}");
		w.keep_id = true;
		if (hold)
			qmp_peer_pause(w.p);
		CHECK(write(w.client, "{\"execute\":\"x\",\"id\":1}", 22) == 22);
		shutdown(w.client, SHUT_WR);
		for (int i = 0; i < 20; i++)
			uv_run(&w.loop, UV_RUN_NOWAIT);
		CHECK_INT(w.commands, !hold);
		CHECK_INT(w.closed, 0);
		if (hold)
			qmp_peer_resume(w.p);
		for (int i = 0; i < 20; i++)
			uv_run(&w.loop, UV_RUN_NOWAIT);
		CHECK_INT(w.commands, 1);
		CHECK_INT(w.closed, 0);
		CHECK_INT(poll(&(struct pollfd){uv_backend_fd(&w.loop), POLLIN, 0}, 1, 0), 0); /* it does not spin */
		qmp_peer_return(w.p, kept_id, NULL);
		json_decref(kept_id);
		for (int i = 0; i < 20; i++)
			uv_run(&w.loop, UV_RUN_NOWAIT);
		CHECK_INT(recv(w.client, w.heard, sizeof w.heard, MSG_DONTWAIT), strlen("{\"return\": {}, \"id\": 1}\r\n"));
		CHECK_INT(w.closed, 1);
		CHECK_INT(w.kind, QMP_ERR_CLOSED);
		close_world(&w);
	}
}

/* One that leaves altogether is owed nothing, at once or after it had half closed. */
static void test_gone(void)
{
	for (int half = 0; half <= 1; half++) {
		struct world w;

		open_world(&w, 0);
		talk(&w, "{\"execute\":\"qmp_capabilities\"}");
		w.keep_id = true;
		talk(&w, "{\"execute\":\"x\",\"id\":1}");
		if (half)
			shutdown(w.client, SHUT_WR);
		for (int i = 0; i < 20; i++)
			uv_run(&w.loop, UV_RUN_NOWAIT);
		CHECK_INT(w.closed, 0);
		close(w.client);
		w.client = open("/dev/null", O_RDONLY);
		for (int i = 0; i < 20; i++)
			uv_run(&w.loop, UV_RUN_NOWAIT);
		CHECK_INT(w.closed, 1);
		json_decref(kept_id);
		close_world(&w);
	}
}

static void test_free_from_a_command(void)
{
	struct world w;

	open_world(&w, 0);
	talk(&w, "{\"execute\":\"qmp_capabilities\"}");
	CHECK_STR(talk(&w, "{\"execute\":\"free\"}{\"execute\":\"x\"}"), "");
	CHECK_INT(w.commands, 1);
	CHECK_INT(w.closed, 0);
	close_world(&w);
}

int main(void)
{
	RUN(test_negotiation);
	RUN(test_negotiation_in_time);
	RUN(test_bad_input);
	RUN(test_pause_holds_back);
	RUN(test_who_does_not_read_is_cut_off);
	RUN(test_events_go_together);
	RUN(test_fds_come_with_their_command);
	RUN(test_fds_do_not_leak);
	RUN(test_large_replies_hold_back);
	RUN(test_error_text_is_mended);
	RUN(test_half_closed);
	RUN(test_gone);
	RUN(test_free_from_a_command);
	return 0;
}
