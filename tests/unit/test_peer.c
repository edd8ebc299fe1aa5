/*
 * The server side: the test is the client on a socketpair. The words are those of QEMU's own monitor.
 */
#include "proto/base.h"
#include "proto/qmp.h"
#include "tests/unit/check.h"

#include <fcntl.h>
#include <sys/socket.h>

struct world {
	uv_loop_t loop;
	struct qmp_peer *p;
	int client;
	int commands, closed, fds;
	enum qmp_error_kind kind;
	char heard[4000];
};

static void on_command(void *data, struct qmp_peer *p, const struct qmp_peer_command *c)
{
	struct world *w = data;

	w->commands++;
	w->fds += (int)c->n_fds;
	if (streq(c->name, "fail"))
		qmp_peer_error(p, c->id, "GenericError", "no");
	else if (streq(c->name, "raw"))
		qmp_peer_return_raw(p, c->id, "[inf]", 5);
	else
		qmp_peer_return(p, c->id, c->arguments);
}

static void on_close(void *data, struct qmp_peer *p, const struct qmp_error *why)
{
	struct world *w = data;

	qmp_peer_free(p);
	w->p = NULL;
	w->closed++;
	w->kind = why->kind;
}

static void open_world(struct world *w, size_t max_output)
{
	json_auto_t *greeting = json_pack("{s:{}, s:[]}", "version", "capabilities");
	struct qmp_peer_options o = {
		.greeting = greeting, .on_command = on_command, .on_close = on_close, .data = w, .max_output = max_output};
	int pair[2];

	memset(w, 0, sizeof *w);
	uv_loop_init(&w->loop);
	CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
	w->client = pair[1];
	CHECK_INT(qmp_peer_new(&w->loop, pair[0], &o, &w->p, NULL), 0);
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

static void test_fds_come_with_their_command(void)
{
	struct world w;
	char text[] = "{\"execute\":\"getfd\"}", control[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec iov = {text, sizeof text - 1};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	int fd = open("/dev/null", O_RDONLY);

	open_world(&w, 0);
	talk(&w, "{\"execute\":\"qmp_capabilities\"}");
	CMSG_FIRSTHDR(&msg)->cmsg_level = SOL_SOCKET;
	CMSG_FIRSTHDR(&msg)->cmsg_type = SCM_RIGHTS;
	CMSG_FIRSTHDR(&msg)->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), &fd, sizeof fd);
	CHECK(sendmsg(w.client, &msg, 0) > 0);
	talk(&w, "{\"execute\":\"x\"}");
	CHECK_INT(w.commands, 2);
	CHECK_INT(w.fds, 1);
	close(fd);
	close_world(&w);
}

int main(void)
{
	RUN(test_negotiation);
	RUN(test_bad_input);
	RUN(test_pause_holds_back);
	RUN(test_who_does_not_read_is_cut_off);
	RUN(test_fds_come_with_their_command);
	return 0;
}
