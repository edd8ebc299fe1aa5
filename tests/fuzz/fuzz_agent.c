/*
 * The guest agent's dialect. Input: what the agent says, mixed with what happens on our side. A byte that JSON text cannot
 * hold is an action, and what was said before it has arrived by then:
 *
 *   01 execute   02 execute guest-shutdown   03 a sync alone   05 cancel the last one
 *   06 a turn of the loop   07 time passes   08 the agent hangs up   09 its port is told to be closed
 *   0e free it in the next callback   0f execute in the next callback
 *   10 the next byte is said as it is   11 the id of the last sync is said
 *
 * Every command that was accepted completes once, never from inside the call; on_close comes once at most; after the agent
 * was freed nothing comes; a command goes out only behind a sync of its own, and not where nothing with a delimiter was said;
 * no handle and no file descriptor stays.
 */
#include "tests/fuzz/determined.h"
#include "tests/fuzz/fuzz.h"

#include <sys/socket.h>

#define COMMANDS 64
#define TURNS    64

static struct {
	struct qmp_agent *a;
	int guest; /* the agent's end; -1: it hung up */
	int completed[COMMANDS];
	size_t n;
	uint64_t serial;
	bool executing, closed, freed, free_next, execute_next;
	bool synced, delimited; /* a sync has come; 0xFF was said, maybe before that: here the ids can be guessed */
	char id[24];		/* of the last sync */
	size_t out_len;
	char out[1 << 16]; /* at last: it need not be cleared */
} w;

static void execute(const char *name);

static void in_callback(void)
{
	MUST(!w.executing, "a callback from inside execute");
	if (w.execute_next && !w.freed) {
		w.execute_next = false;
		execute("guest-x");
	}
	if (w.free_next && !w.freed) {
		w.free_next = false;
		w.freed = true;
		qmp_agent_free(take_ptr(w.a));
	}
}

static void on_reply(void *data, const struct qmp_reply *reply)
{
	int *completed = data;

	MUST(++*completed == 1, "it completed %d times", *completed);
	if (reply->status < 0)
		must_explain(reply->status, &reply->error);
	if (reply->status == -EREMOTEIO)
		MUST(reply->error_class && reply->error_desc && reply->raw, "no error");
	if (reply->status == 0 && reply->value)
		json_decref(qmp_agent_info(reply->value));
	in_callback();
}

static void on_answer(void *data, bool answers)
{
	UNUSED(data);
	MUST(!w.closed && !w.freed, "an answer after the end");
	MUST(!answers || w.delimited, "an answer out of nothing");
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

/* NAME NULL: a sync alone. */
static void execute(const char *name)
{
	struct qmp_command c = {.name = name, .timeout_ms = 1000};
	struct qmp_error err = {0};
	int *completed = &w.completed[w.n], r;

	if (!w.a || w.n == COMMANDS)
		return;
	w.executing = true;
	r = name ? qmp_agent_execute(w.a, &c, on_reply, completed, &w.serial, &err)
		 : qmp_agent_sync(w.a, 0, on_reply, completed, &w.serial, &err);
	w.executing = false;
	if (r < 0) {
		must_explain(r, &err);
		MUST(*completed == 0, "refused and completed");
		return;
	}
	w.n++;
}

/* ---- The agent's end ---- */

static void take_line(const char *line, size_t len)
{
	bool resync = (unsigned char)*line == 0xff;
	json_auto_t *command = qmp_json_decode(line + resync, len - resync, NULL);
	const char *name = json_string_value(json_object_get(command, "execute"));
	json_t *id = json_object_get(json_object_get(command, "arguments"), "id");

	MUST(name, "%.*s", (int)len, line);
	if (!streq(name, "guest-sync-delimited")) {
		MUST(w.synced && w.delimited, "%s without an answer to a sync", name);
		w.synced = false;
		return;
	}
	MUST(json_is_integer(id), "a sync without an id");
	snprintf(w.id, sizeof w.id, "%" JSON_INTEGER_FORMAT, json_integer_value(id));
	w.synced = resync;
}

static void hear(void)
{
	ssize_t n;

	while (w.guest >= 0 && (n = recv(w.guest, w.out + w.out_len, sizeof w.out - w.out_len, MSG_DONTWAIT)) > 0) {
		char *from = w.out, *end;
		w.out_len += (size_t)n;
		for (; (end = memchr(from, '\n', w.out_len - (size_t)(from - w.out))); from = end + 1)
			take_line(from, (size_t)(end - from));
		w.out_len -= (size_t)(from - w.out);
		memmove(w.out, from, w.out_len);
	}
}

static void say(const void *data, size_t len)
{
	w.delimited |= len > 0 && memchr(data, 0xff, len);
	if (w.guest >= 0 && len > 0 && send(w.guest, data, len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return; /* full, or the other side left */
}

static void turn(void)
{
	uv_run(the_loop(), UV_RUN_NOWAIT);
	hear();
}

static void hang_up(void)
{
	if (w.guest >= 0)
		(void)close(take_fd(&w.guest));
}

/* ---- The script ---- */

static bool act(uint8_t action)
{
	switch (action) {
	case 0x01: execute("guest-x"); return true;
	case 0x02: execute("guest-shutdown"); return true;
	case 0x03: execute(NULL); return true;
	case 0x05: if (w.a) qmp_agent_cancel(w.a, w.serial--); return true;
	case 0x06: turn(); return true;
	case 0x07: time_passes(600); hear(); return true;
	case 0x08: hang_up(); return true;
	case 0x09: if (w.a) qmp_agent_hang_up(w.a); return true;
	case 0x0e: w.free_next = true; return true;
	case 0x0f: w.execute_next = true; return true;
	case 0x11: say(w.id, strlen(w.id)); return true;
	default: return action == 0x10;
	}
}

static void play(const uint8_t *data, size_t size)
{
	size_t from = 0, i, turns = 0;

	for (i = 0; i < size; i++) {
		if (data[i] > 0x11 || data[i] == '\n' || data[i] == '\r' || data[i] == 0)
			continue;
		say(data + from, i - from);
		from = i;
		if (data[i] == 0x06 && ++turns > TURNS)
			return;
		if (act(data[i]))
			from = i + 1;
		if (data[i] == 0x10)
			i++;
	}
	if (from < size)
		say(data + from, size - from);
}

static void open_world(void)
{
	struct qmp_agent_options o = {
		.on_answer = on_answer, .on_close = on_close, .max_message = 1 << 14, .max_queued = 16, .sync_timeout_ms = 500};
	int pair[2];

	determined_begin();
	memset(&w, 0, offsetof(__typeof__(w), out));
	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0, "no sockets");
	w.guest = pair[1];
	MUST(qmp_agent_new(the_loop(), pair[0], &o, &w.a, NULL) == 0, "no agent");
}

static void close_world(void)
{
	w.freed = true;
	qmp_agent_free(take_ptr(w.a));
	for (size_t i = 0; i < w.n; i++)
		MUST(w.completed[i] == 1, "command %zu completed %d times", i, w.completed[i]);
	turn();
	hang_up();
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
