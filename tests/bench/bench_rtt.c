/*
 * bench_rtt floor SOCKET N [ID]     the time of one query-status from a plain blocking loop on the socket; ID: with that id
 *           session SOCKET N        the same through libqmpproto's session
 *           process SOCKET          connect, negotiate, ask once, leave: what a minimal client does
 *           relay LISTEN SOCKET     passes the bytes of one client on, unread, until it leaves: what any process in
 *                                   between costs
 * floor and session print {"p50_us", "p99_us", "n"}.
 */
#include "proto/base.h"
#include "proto/qmp.h"

#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

static uint64_t *samples;
static size_t wanted, got;

static _Noreturn void die(const char *what)
{
	perror(what);
	exit(1);
}

static int connect_to(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
	if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
		die(path);
	return fd;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void report(void)
{
	qsort(samples, got, sizeof *samples, compare);
	printf("{\"p50_us\": %.1f, \"p99_us\": %.1f, \"n\": %zu}\n", (double)samples[got / 2] / 1000,
	       (double)samples[got * 99 / 100] / 1000, got);
}

/* Reads until a line with WORD has come; events may stand before it. */
static void read_until(int fd, const char *word)
{
	static char text[65536];
	size_t len = 0;

	for (;;) {
		ssize_t n = read(fd, text + len, sizeof text - 1 - len);
		if (n <= 0)
			die("reading");
		len += (size_t)n;
		text[len] = '\0';
		if (text[len - 1] == '\n' && strstr(text, word))
			return;
	}
}

static void ask(int fd, const char *command, const char *word)
{
	if (write(fd, command, strlen(command)) < 0)
		die("writing");
	read_until(fd, word);
}

static void negotiate(int fd)
{
	read_until(fd, "QMP");
	ask(fd, "{\"execute\":\"qmp_capabilities\"}\n", "return");
}

static void floor_loop(int fd, const char *id)
{
	char command[128];

	snprintf(command, sizeof command, "{\"execute\":\"query-status\"%s%s%s}\n", id ? ",\"id\":\"" : "", id ? id : "",
		 id ? "\"" : "");
	negotiate(fd);
	for (; got < wanted; got++) {
		uint64_t start = uv_hrtime();
		ask(fd, command, "return");
		samples[got] = uv_hrtime() - start;
	}
	report();
}

/* ---- Through the library ---- */

static struct qmp_session *session;
static uint64_t started;

static void next(void);

static void on_reply(void *data, const struct qmp_reply *reply)
{
	UNUSED(data);
	if (reply->status < 0) {
		fprintf(stderr, "%s\n", reply->error.message);
		exit(1);
	}
	samples[got++] = uv_hrtime() - started;
	if (got < wanted)
		next();
	else
		uv_stop(uv_default_loop());
}

static void next(void)
{
	started = uv_hrtime();
	if (qmp_session_execute(session, &(struct qmp_command){.name = "query-status"}, on_reply, NULL, NULL, NULL) < 0)
		exit(1);
}

static void on_ready(void *data, json_t *greeting)
{
	UNUSED(data);
	UNUSED(greeting);
	next();
}

static void session_loop(int fd)
{
	struct qmp_session_options o = {.on_ready = on_ready};

	if (qmp_session_new(uv_default_loop(), fd, &o, &session, NULL) < 0)
		exit(1);
	uv_run(uv_default_loop(), UV_RUN_DEFAULT);
	qmp_session_free(session);
	uv_run(uv_default_loop(), UV_RUN_DEFAULT);
	report();
}

/* ---- In between ---- */

static int accept_one(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0), client;

	snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
	if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 1) < 0)
		die(path);
	client = accept(fd, NULL, NULL);
	if (client < 0)
		die(path);
	(void)close(fd);
	return client;
}

/* False: that end has left. */
static bool pass_on(int from, int to)
{
	char bytes[16384];
	ssize_t n = read(from, bytes, sizeof bytes);

	return n > 0 && write(to, bytes, (size_t)n) == n;
}

static void relay(const char *path, int server)
{
	struct pollfd p[2] = {{accept_one(path), POLLIN, 0}, {server, POLLIN, 0}};

	while (poll(p, 2, -1) > 0)
		for (int i = 0; i < 2; i++)
			if (p[i].revents && !pass_on(p[i].fd, p[1 - i].fd))
				return;
}

int main(int argc, char **argv)
{
	const char *how = argc > 2 ? argv[1] : "";

	wanted = argc > 3 ? (size_t)strtoul(argv[3], NULL, 10) : 0;
	samples = calloc(wanted + 1, sizeof *samples);
	if (streq(how, "floor") && wanted > 0) {
		floor_loop(connect_to(argv[2]), argc > 4 ? argv[4] : NULL);
	} else if (streq(how, "session") && wanted > 0) {
		session_loop(connect_to(argv[2]));
	} else if (streq(how, "process")) {
		int fd = connect_to(argv[2]);
		negotiate(fd);
		ask(fd, "{\"execute\":\"query-status\"}\n", "return");
	} else if (streq(how, "relay") && argc > 3) {
		relay(argv[2], connect_to(argv[3]));
	} else {
		fprintf(stderr, "usage: see the head of bench_rtt.c\n");
		return 2;
	}
	free(samples);
	return 0;
}
