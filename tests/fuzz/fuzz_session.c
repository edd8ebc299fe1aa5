/*
 * The client session. Input: what QEMU says, mixed with what happens on our side. A byte that JSON text cannot hold is an
 * action, and what was said before it has arrived by then:
 *
 *   01 execute   02 execute out of band   03 execute with fds   04 execute, raw   05 cancel the last one
 *   06 a turn of the loop   07 time passes   08 QEMU hangs up   0b subscribe   0c unsubscribe
 *   0e free the session in the next callback   0f execute in the next callback
 *   10 the next byte is said as it is   11 the id of a command is said: the next byte, 'A', names the first, ...
 *
 * Every command that was accepted completes once, never from inside the call; on_close comes once at most; after the session
 * was freed nothing comes; what goes out are commands; no file descriptor stays.
 */
#include "tests/fuzz/determined.h"
#include "tests/fuzz/fuzz.h"

#include <sys/socket.h>

#define COMMANDS 64
#define TURNS    64

static struct {
	struct qmp_session *s;
	int qemu; /* QEMU's end; -1: it hung up */
	int completed[COMMANDS];
	size_t n;
	uint64_t serial, subscription;
	bool executing, closed, freed, free_next, execute_next;
	size_t fds_sent, fds_came;
	struct ids ids;
	size_t out_len;
	char out[1 << 16]; /* at last: it need not be cleared */
} w;

static void execute(bool oob, bool raw, size_t n_fds);

static void in_callback(void)
{
	MUST(!w.executing, "a callback from inside execute");
	if (w.execute_next && !w.freed) {
		w.execute_next = false;
		execute(false, false, 0);
	}
	if (w.free_next && !w.freed) {
		w.free_next = false;
		w.freed = true;
		qmp_session_free(take_ptr(w.s));
	}
}

static void on_reply(void *data, const struct qmp_reply *reply)
{
	int *completed = data;

	MUST(++*completed == 1, "it completed %d times", *completed);
	if (reply->status == 0)
		MUST(reply->raw && reply->raw_len > 0, "no text");
	else
		must_explain(reply->status, &reply->error);
	if (reply->status == -EREMOTEIO)
		MUST(reply->error_class && reply->error_desc && reply->raw, "no error");
	in_callback();
}

static void on_event(void *data, const struct qmp_event *event)
{
	json_t *member = event->raw_len % 2 ? qmp_event_member(event, "data") : NULL; /* every other one is looked into */

	UNUSED(data);
	MUST(!w.freed, "an event after the end");
	MUST(event->name && event->raw && (!member || json_is_object(member)), "no event");
	in_callback();
}

static void on_ready(void *data, json_t *greeting)
{
	UNUSED(data);
	MUST(json_is_object(greeting) && !w.closed && !w.freed, "ready");
	in_callback();
}

static void on_close(void *data, const struct qmp_error *why)
{
	UNUSED(data);
	must_explain(why->code, why);
	MUST(!w.closed && !w.freed, "closed twice");
	w.closed = true;
	for (size_t i = 0; i < w.n; i++)
		MUST(w.completed[i] == 1, "command %zu did not complete before on_close", i);
	in_callback();
}

static void execute(bool oob, bool raw, size_t n_fds)
{
	json_auto_t *args = json_pack("{s:s}", "a", "b");
	int fds[QMP_COMMAND_FDS];
	struct qmp_command c = {
		.name = "x", .arguments = args, .fds = fds, .n_fds = n_fds, .oob = oob, .raw = raw, .timeout_ms = 1000};
	struct qmp_error err = {0};
	int r;

	if (!w.s || w.n == COMMANDS)
		return;
	for (size_t i = 0; i < n_fds; i++)
		fds[i] = uv_backend_fd(the_loop());
	w.executing = true;
	r = qmp_session_execute(w.s, &c, on_reply, &w.completed[w.n], &w.serial, &err);
	w.executing = false;
	if (r < 0) {
		must_explain(r, &err);
		MUST(w.completed[w.n] == 0, "refused and completed");
		return;
	}
	w.n++;
	w.fds_sent += n_fds;
}

/* ---- QEMU's end ---- */

static void take_fds(struct msghdr *msg)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		int fds[QMP_COMMAND_FDS];
		memcpy(fds, CMSG_DATA(c), n * sizeof *fds);
		for (size_t i = 0; i < n; i++)
			(void)close(fds[i]);
		w.fds_came += n;
	}
}

static void check_out(void)
{
	char *from = w.out, *end;

	while ((end = memchr(from, '\n', w.out_len - (size_t)(from - w.out)))) {
		json_auto_t *command = qmp_json_decode(from, (size_t)(end - from), NULL);
		MUST(json_object_get(command, "execute") || json_object_get(command, "exec-oob"), "%.*s", (int)(end - from), from);
		ids_collect(&w.ids, from, (size_t)(end - from));
		from = end + 1;
	}
	w.out_len -= (size_t)(from - w.out);
	memmove(w.out, from, w.out_len);
}

static void hear(void)
{
	char control[CMSG_SPACE(sizeof(int) * QMP_COMMAND_FDS)] __attribute__((aligned(8)));
	ssize_t n = 1;

	while (w.qemu >= 0 && n > 0) {
		struct iovec iov = {w.out + w.out_len, sizeof w.out - w.out_len};
		struct msghdr msg = {
			.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
		n = recvmsg(w.qemu, &msg, MSG_DONTWAIT);
		if (n > 0) {
			take_fds(&msg);
			w.out_len += (size_t)n;
			check_out();
		}
	}
}

static void say(const uint8_t *data, size_t len)
{
	while (w.qemu >= 0 && len > 0) {
		ssize_t n = send(w.qemu, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0)
			return; /* full, or the session left */
		data += n;
		len -= (size_t)n;
	}
}

static void turn(void)
{
	uv_run(the_loop(), UV_RUN_NOWAIT);
	hear();
}

static void hang_up(void)
{
	if (w.qemu >= 0)
		(void)close(take_fd(&w.qemu));
}

/* ---- The script ---- */

static void subscribe(void)
{
	uint64_t id = w.s ? qmp_session_subscribe(w.s, w.n % 2 ? "STOP" : NULL, on_event, NULL) : 0;

	if (id)
		w.subscription = id;
}

static bool act(uint8_t action)
{
	switch (action) {
	case 0x01: execute(false, false, 0); return true;
	case 0x02: execute(true, false, 0); return true;
	case 0x03: execute(false, false, 2); return true;
	case 0x04: execute(false, true, 0); return true;
	case 0x05: if (w.s) qmp_session_cancel(w.s, w.serial--); return true;
	case 0x06: turn(); return true;
	case 0x07: time_passes(600); return true;
	case 0x08: hang_up(); return true;
	case 0x0b: subscribe(); return true;
	case 0x0c: if (w.s) qmp_session_unsubscribe(w.s, w.subscription); return true;
	case 0x0e: w.free_next = true; return true;
	case 0x0f: w.execute_next = true; return true;
	default: return action == 0x10;
	}
}

static void play(const uint8_t *data, size_t size)
{
	size_t from = 0, i, turns = 0;

	for (i = 0; i < size; i++) {
		if (data[i] > 0x11 || data[i] == '\t' || data[i] == '\n' || data[i] == '\r' || data[i] == 0)
			continue;
		say(data + from, i - from);
		if (data[i] == 0x06 && ++turns > TURNS)
			break;
		if (act(data[i]))
			from = i + 1;
		if (data[i] == 0x11 && i + 1 < size) {
			const char *id = ids_get(&w.ids, data[i + 1]);
			say((const uint8_t *)id, strlen(id));
			from = i + 2;
		}
		if (data[i] == 0x10 || data[i] == 0x11)
			i++;
	}
	if (from > size)
		from = size;
	say(data + from, i < size ? i - from : size - from);
}

static void open_world(void)
{
	struct qmp_session_options o = {.on_ready = on_ready, .on_close = on_close, .max_message = 1 << 14, .max_queued = 16};
	int pair[2];

	determined_begin();
	memset(&w, 0, offsetof(__typeof__(w), out));
	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0, "no sockets");
	w.qemu = pair[1];
	MUST(qmp_session_new(the_loop(), pair[0], &o, &w.s, NULL) == 0, "no session");
}

static void close_world(void)
{
	w.freed = true;
	qmp_session_free(take_ptr(w.s));
	for (size_t i = 0; i < w.n; i++)
		MUST(w.completed[i] == 1, "command %zu completed %d times", i, w.completed[i]);
	turn();
	hang_up();
	MUST(w.fds_came <= w.fds_sent, "fds out of nowhere");
	MUST(!uv_loop_alive(the_loop()), "handles stay");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd = next_fd();

	open_world();
	play(data, size);
	turn();
	turn();
	close_world();
	MUST(fd == next_fd(), "a file descriptor stays");
	return 0;
}
