/*
 * bench_rtt floor|session|process SOCKET N: the time of one query-status, as JSON {"p50_us", "p99_us", "n"}.
 *   floor: a plain blocking loop on the socket; session: through libqmpproto's session.
 *   process: connect, negotiate, ask once, leave (what a minimal client does); N is ignored.
 */
#include "proto/base.h"
#include "proto/qmp.h"

#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

static uint64_t *samples;
static size_t wanted, got;

static int connect_to(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
	if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
		perror(path);
		exit(1);
	}
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
			exit(1);
		len += (size_t)n;
		text[len] = '\0';
		if (text[len - 1] == '\n' && strstr(text, word))
			return;
	}
}

static void ask(int fd, const char *command, const char *word)
{
	if (write(fd, command, strlen(command)) < 0)
		exit(1);
	read_until(fd, word);
}

static void floor_loop(int fd)
{
	read_until(fd, "QMP");
	ask(fd, "{\"execute\":\"qmp_capabilities\"}\n", "return");
	for (; got < wanted; got++) {
		uint64_t start = uv_hrtime();
		ask(fd, "{\"execute\":\"query-status\"}\n", "return");
		samples[got] = uv_hrtime() - start;
	}
	report();
}

static uint64_t started;

static void next(struct qmp_session *s);

static void on_reply(void *data, const struct qmp_reply *reply)
{
	if (reply->status < 0) {
		fprintf(stderr, "%s\n", reply->error.message);
		exit(1);
	}
	samples[got++] = uv_hrtime() - started;
	if (got < wanted)
		next(data);
	else
		uv_stop(uv_default_loop());
}

static void next(struct qmp_session *s)
{
	started = uv_hrtime();
	if (qmp_session_execute(s, &(struct qmp_command){.name = "query-status"}, on_reply, s, NULL, NULL) < 0)
		exit(1);
}

static struct qmp_session *session;

static void on_ready(void *data, json_t *greeting)
{
	UNUSED(data);
	UNUSED(greeting);
	next(session);
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

int main(int argc, char **argv)
{
	int fd;

	if (argc != 4)
		return 2;
	wanted = (size_t)atol(argv[3]);
	samples = calloc(wanted + 1, sizeof *samples);
	fd = connect_to(argv[2]);
	if (streq(argv[1], "floor")) {
		floor_loop(fd);
	} else if (streq(argv[1], "session")) {
		session_loop(fd);
	} else {
		read_until(fd, "QMP");
		ask(fd, "{\"execute\":\"qmp_capabilities\"}\n", "return");
		ask(fd, "{\"execute\":\"query-status\"}\n", "return");
	}
	free(samples);
	return 0;
}
