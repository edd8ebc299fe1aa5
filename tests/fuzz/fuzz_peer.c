/*
 * The server side of a connection. Input: what a client says, mixed with what happens. A byte that JSON text cannot hold is
 * an action, and what was said before it has arrived by then:
 *
 *   01 a turn of the loop   02 what follows comes with an fd   03 ... with more fds than are taken   04 pause   05 resume
 *   06 an event goes out   07 time passes   08 the client hangs up   0b free the peer in the next command
 *   0c answer the oldest that waits   0e the client reads no more   10 the next byte is said as it is
 *
 * The commands "keep", "error", "raw", "pause", "fds", "big" do so; any other returns its arguments. Every line that goes out
 * is a JSON object; nothing but the greeting, replies and, once ready, events; every command is answered once unless the
 * connection ends; on_close comes once at most; no file descriptor stays.
 */
#include "tests/fuzz/determined.h"
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <sys/socket.h>

#define KEPT      32
#define TURNS     64
#define MANY_FDS  (QMP_COMMAND_FDS + 4)
#define BIG       9000
#define MOST_SAID (1 << 16)

static struct {
	struct qmp_peer *p;
	int client; /* -1: it hung up */
	int null;   /* what is passed as an fd */
	json_t *kept[KEPT];
	size_t n_kept;
	size_t n_fds; /* that go with what is said next */
	size_t commands, answered, lines;
	bool closed, deaf, free_next;
	size_t heard_len;
	char heard[MOST_SAID];
} w;

static void answer_kept(void)
{
	json_t *id;

	if (w.n_kept == 0)
		return;
	id = w.kept[0];
	memmove(w.kept, w.kept + 1, --w.n_kept * sizeof *w.kept);
	if (w.p)
		qmp_peer_return(w.p, id, NULL);
	json_decref(id);
}

static void return_big(struct qmp_peer *p, json_t *id)
{
	static char raw[BIG];

	memset(raw, ' ', sizeof raw);
	raw[0] = '[';
	raw[BIG - 1] = ']';
	qmp_peer_return_raw(p, id, raw, sizeof raw);
}

static void on_command(void *data, struct qmp_peer *p, const struct qmp_peer_command *c)
{
	UNUSED(data);
	MUST(p == w.p && !w.closed && c->name && json_is_object(c->arguments), "no command");
	MUST(c->n_fds <= QMP_COMMAND_FDS, "%zu fds", c->n_fds);
	w.commands++;
	if (w.free_next) {
		qmp_peer_free(take_ptr(w.p));
		return;
	}
	if (streq(c->name, "keep") && w.n_kept < KEPT) {
		w.kept[w.n_kept++] = c->id ? json_incref(c->id) : json_null();
		return;
	}
	if (streq(c->name, "pause"))
		qmp_peer_pause(p);
	if (streq(c->name, "fds"))
		for (size_t i = 0; i < c->n_fds; i++)
			(void)close(take_fd(&c->fds[i]));
	if (streq(c->name, "error"))
		qmp_peer_error(p, c->id, "GenericError", "no");
	else if (streq(c->name, "raw"))
		qmp_peer_return_raw(p, c->id, "[inf]", 5);
	else if (streq(c->name, "big"))
		return_big(p, c->id);
	else
		qmp_peer_return(p, c->id, c->arguments);
}

static void on_close(void *data, struct qmp_peer *p, const struct qmp_error *why)
{
	UNUSED(data);
	must_explain(why->code, why);
	MUST(p == w.p && !w.closed, "closed twice");
	w.closed = true;
	qmp_peer_free(take_ptr(w.p));
}

/* ---- The client ---- */

static void check_line(const char *line, size_t len)
{
	struct qmp_error err = {0};
	json_auto_t *m = qmp_json_decode(line, len, &err);

	MUST(json_is_object(m), "%s: %.*s", err.message, (int)len, line);
	if (w.lines++ == 0)
		MUST(json_object_get(m, "QMP"), "%.*s", (int)len, line);
	else
		MUST(!!json_object_get(m, "return") + !!json_object_get(m, "error") + !!json_object_get(m, "event") == 1, "%.*s",
		     (int)len, line);
	w.answered += json_object_get(m, "return") || json_object_get(m, "error");
}

static void hear(void)
{
	ssize_t n = 1;

	while (w.client >= 0 && !w.deaf && n > 0) {
		char *from = w.heard, *end;
		MUST(w.heard_len < sizeof w.heard, "a line without an end");
		n = recv(w.client, w.heard + w.heard_len, sizeof w.heard - w.heard_len, MSG_DONTWAIT);
		w.heard_len += n > 0 ? (size_t)n : 0;
		while ((end = memchr(from, '\n', w.heard_len - (size_t)(from - w.heard)))) {
			check_line(from, (size_t)(end - from));
			from = end + 1;
		}
		w.heard_len -= (size_t)(from - w.heard);
		memmove(w.heard, from, w.heard_len);
	}
}

static ssize_t send_with_fds(const uint8_t *data, size_t len)
{
	char control[CMSG_SPACE(sizeof(int) * MANY_FDS)] __attribute__((aligned(8))) = {0};
	size_t n = sizeof(int) * w.n_fds;
	struct iovec iov = {(void *)data, len};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(n)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(n);
	for (size_t i = 0; i < w.n_fds; i++)
		memcpy(CMSG_DATA(c) + i * sizeof(int), &w.null, sizeof(int));
	w.n_fds = 0;
	return sendmsg(w.client, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void say(const uint8_t *data, size_t len)
{
	while (w.client >= 0 && len > 0) {
		ssize_t n = w.n_fds ? send_with_fds(data, len) : send(w.client, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0)
			return;
		data += n;
		len -= (size_t)n;
	}
}

static void turn(void)
{
	uv_run(the_loop(), UV_RUN_NOWAIT);
	hear();
}

/* ---- The script ---- */

static void send_event(void)
{
	static const char event[] = "{\"event\": \"X\"}";

	if (w.p)
		qmp_peer_send_raw(w.p, event, sizeof event - 1);
}

static bool act(uint8_t action)
{
	switch (action) {
	case 0x01: turn(); return true;
	case 0x02: w.n_fds = 1; return true;
	case 0x03: w.n_fds = MANY_FDS; return true;
	case 0x04: if (w.p) qmp_peer_pause(w.p); return true;
	case 0x05: if (w.p) qmp_peer_resume(w.p); return true;
	case 0x06: send_event(); return true;
	case 0x07: time_passes(600); return true;
	case 0x08: if (w.client >= 0) (void)close(take_fd(&w.client)); return true;
	case 0x0b: w.free_next = true; return true;
	case 0x0c: answer_kept(); return true;
	case 0x0e: w.deaf = true; return true;
	default: return action == 0x10;
	}
}

static void play(const uint8_t *data, size_t size)
{
	size_t from = 0, i, turns = 0;

	for (i = 0; i < size; i++) {
		if (data[i] > 0x10 || data[i] == '\t' || data[i] == '\n' || data[i] == '\r' || data[i] == 0)
			continue;
		say(data + from, i - from);
		if (data[i] == 0x01 && ++turns > TURNS)
			break;
		if (act(data[i]))
			from = i + 1;
		if (data[i] == 0x10)
			i++;
	}
	say(data + from, i < size ? i - from : size - from);
}

static void open_world(void)
{
	json_auto_t *greeting = json_pack("{s:{}, s:[s]}", "version", "capabilities", "oob");
	struct qmp_peer_options o = {.greeting = greeting, .on_command = on_command, .on_close = on_close,
				     .max_message = 1 << 14, .max_output = 1 << 14, .negotiation_timeout_ms = 1000};
	int pair[2], size = 4096;

	determined_begin();
	memset(&w, 0, offsetof(__typeof__(w), heard));
	w.null = uv_backend_fd(the_loop());
	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0, "no sockets");
	/* So that it is soon full. */
	(void)setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
	w.client = pair[1];
	MUST(qmp_peer_new(the_loop(), pair[0], &o, &w.p, NULL) == 0, "no peer");
}

static void close_world(void)
{
	for (int i = 0; i < 8 || w.n_kept > 0; i++) {
		if (w.p)
			qmp_peer_resume(w.p); /* "pause" may have come again */
		turn();
		answer_kept();
	}
	turn();
	if (w.p && !w.deaf && w.client >= 0)
		MUST(w.answered + w.n_kept >= w.commands, "%zu commands, %zu answers", w.commands, w.answered);
	qmp_peer_free(take_ptr(w.p));
	turn();
	while (w.n_kept > 0) /* asked for in that last turn */
		answer_kept();
	if (w.client >= 0)
		(void)close(take_fd(&w.client));
	MUST(!uv_loop_alive(the_loop()), "handles stay");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd = next_fd();

	open_world();
	play(data, size);
	close_world();
	MUST(fd == next_fd(), "a file descriptor stays");
	return 0;
}
