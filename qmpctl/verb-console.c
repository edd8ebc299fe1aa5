/*
 * console: a terminal, or a pipe, on a console of a VM.
 *
 * Two connections to the keeper: one waits for what the console says (qmpctl-console), the other types (qmpctl-type,
 * one piece at a time). It ends by the escape key, by the VM's end, by a terminal or an output that is gone, or by a
 * signal. A keeper that ends while its QEMU lives is followed by the next one.
 *
 * The terminal is raw meanwhile (terminal.h). The flags of the file descriptors are never touched, as others share them.
 */
#include "qmpctl/terminal.h"
#include "qmpctl/verb.h"
#include "proto/base.h"
#include "proto/base64.h"

#include <poll.h>
#include <sys/epoll.h>
#include <time.h>

#define TYPED_MAX    (64 * 1024) /* waits to be typed; a pipe is not read beyond it */
#define TYPE_AT_ONCE 4096
#define RETRY_MS     50
#define LEAVE_MS     1000 /* how long what stands before the escape may take to be typed */
#define POLL_S       60 /* how long the keeper may wait for output */
#define CUTS_MAX     20 /* in a row; 100 ms each */

enum ending { GOES_ON, LEFT, VM_ENDED, NO_OUTPUT, CUT_OFF, FAILED };

struct attached {
	struct cli *cli;
	const char *name, *console; /* the console's id; NULL: the first */
	int escape;                 /* -1: none */
	char *cursor;               /* NULL: nothing has come yet */
	enum ending ending;
	bool looping;
	int cuts;
	struct qmp_session *reader, *writer;
	int input; /* an epoll set with standard input in it: a poll handle on that itself would make it non-blocking */
	uv_poll_t poll;
	bool polls, input_ends, leaves, at_line_start;
	uv_timer_t retry;
	char typed[TYPED_MAX];
	size_t n_typed, n_sent; /* n_sent: the first of them are on their way */
};

/* ---- The end ---- */

static void end(struct attached *a, enum ending how)
{
	if (a->ending == GOES_ON)
		a->ending = how;
	if (a->looping) /* a stop that no loop takes would end the next one at once */
		uv_stop(a->cli->loop);
}

/* ---- What it says ---- */

static bool write_out(const char *text, size_t len)
{
	while (len > 0) {
		ssize_t n = write(STDOUT_FILENO, text, len);
		struct pollfd p = {.fd = STDOUT_FILENO, .events = POLLOUT};
		if (n < 0 && errno == EAGAIN) /* whoever shares it made it so */
			(void)poll(&p, 1, -1);
		else if (n < 0 && errno != EINTR)
			return false;
		text += n > 0 ? n : 0;
		len -= n > 0 ? (size_t)n : 0;
	}
	return true;
}

static void show_piece(struct attached *a, const json_t *piece)
{
	const char *data = text_of(piece, "data"), *cursor = text_of(piece, "cursor");
	json_int_t lost = json_integer_value(json_object_get(piece, "lost"));
	_cleanup_free_ char *text = NULL;
	size_t len = 0;

	if (!data || !cursor || qmp_base64_decode(data, &text, &len) < 0) {
		qmp_error_set(&a->cli->error, QMP_ERR_PROTOCOL, -EPROTO,
			      "the keeper of %s answered qmpctl-console with nonsense", a->name);
		end(a, FAILED);
		return;
	}
	if (lost > 0)
		fprintf(stderr, "%sqmpctl: what came too fast to be shown here is missing: %lld bytes\r\n",
			a->at_line_start ? "" : "\r\n", (long long)lost);
	if (!write_out(text, len))
		end(a, NO_OUTPUT);
	if (len > 0)
		a->at_line_start = text[len - 1] == '\n';
	free(a->cursor);
	a->cursor = strdup(cursor);
	if (json_is_true(json_object_get(piece, "ended")))
		end(a, VM_ENDED);
}

static void read_on(struct attached *a);

static void on_piece(void *data, const struct qmp_reply *reply)
{
	struct attached *a = data;

	if (reply->status != 0) {
		end(a, CUT_OFF); /* asked again, it says why */
		return;
	}
	a->cuts = 0;
	show_piece(a, reply->value);
	if (a->ending == GOES_ON)
		read_on(a);
}

static json_t *console_args(const struct attached *a, int timeout)
{
	return json_pack("{s:s, s:i, s:s*}", "cursor", a->cursor, "timeout", timeout, "console", a->console);
}

static void read_on(struct attached *a)
{
	json_auto_t *args = console_args(a, POLL_S);
	struct qmp_command c = {.name = "qmpctl-console", .arguments = args, .timeout_ms = (POLL_S + 15) * 1000};

	if (qmp_session_execute(a->reader, &c, on_piece, a, NULL, NULL) < 0)
		end(a, CUT_OFF);
}

/* ---- What is typed ---- */

static void type_on(struct attached *a);
static void watch_input(struct attached *a);

static void on_retry(uv_timer_t *t)
{
	struct attached *a = t->data;

	if (a->leaves)
		end(a, LEFT);
	else
		type_on(a);
}

static void on_typed(void *data, const struct qmp_reply *reply)
{
	struct attached *a = data;
	json_auto_t *error = reply->status == -EREMOTEIO ? qmp_json_decode(reply->raw, reply->raw_len, NULL) : NULL;
	const char *kind = text_of(error, "kind");
	size_t sent = a->n_sent;

	a->n_sent = 0;
	if (kind && streq(kind, "busy") && !a->leaves) {
		uv_timer_start(&a->retry, on_retry, RETRY_MS, 0);
		return;
	}
	if (reply->status != 0 && !error) {
		end(a, CUT_OFF);
		return;
	}
	/* What a VM did not take because it has just ended is dropped; the reader hears of the end. */
	a->n_typed -= sent;
	memmove(a->typed, a->typed + sent, a->n_typed);
	type_on(a);
}

static void type_on(struct attached *a)
{
	size_t n;
	_cleanup_free_ char *data = NULL;
	json_auto_t *args = NULL;
	struct qmp_command c = {.name = "qmpctl-type"};

	watch_input(a);
	if (a->n_sent > 0 || !a->writer || (uv_is_active((uv_handle_t *)&a->retry) && !a->leaves))
		return;
	if (a->leaves && a->n_typed == 0)
		end(a, LEFT);
	if (a->n_typed == 0 || a->ending != GOES_ON)
		return;
	n = a->n_typed < TYPE_AT_ONCE ? a->n_typed : TYPE_AT_ONCE;
	data = qmp_base64_encode(a->typed, n);
	args = json_pack("{s:s, s:s*}", "data", data, "console", a->console);
	c.arguments = args;
	if (!args || qmp_session_execute(a->writer, &c, on_typed, a, NULL, NULL) < 0)
		end(a, CUT_OFF);
	else
		a->n_sent = n;
}

/* ---- Standard input ---- */

static void take_input(struct attached *a)
{
	size_t place = TYPED_MAX - a->n_typed, len;
	char text[TYPE_AT_ONCE], *escape;
	/* Of a terminal, keys beyond what is held are dropped: the escape is heard whatever the guest does. */
	ssize_t n = read(STDIN_FILENO, text, terminal_is_raw() || place > sizeof text ? sizeof text : place);

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	len = n > 0 ? (size_t)n : 0;
	if (len == 0) {
		a->input_ends = true;
		a->leaves = terminal_is_raw(); /* the terminal is gone */
		return;
	}
	escape = terminal_is_raw() && a->escape >= 0 ? memchr(text, a->escape, len) : NULL;
	if (escape) {
		a->input_ends = a->leaves = true;
		len = (size_t)(escape - text);
	}
	if (len > place)
		len = place;
	memcpy(a->typed + a->n_typed, text, len);
	a->n_typed += len;
}

static void on_input(uv_poll_t *poll, int status, int events)
{
	struct attached *a = poll->data;

	UNUSED(status);
	UNUSED(events);
	take_input(a);
	if (a->leaves)
		uv_timer_start(&a->retry, on_retry, LEAVE_MS, 0);
	type_on(a);
}

/* Reads on where there is place. A file is always readable, and cannot be polled. */
static void watch_input(struct attached *a)
{
	bool place = terminal_is_raw() || a->n_typed < TYPED_MAX;

	while (!a->polls && !a->input_ends && a->n_typed == 0)
		take_input(a);
	if (!a->polls)
		return;
	if (a->input_ends || !place)
		uv_poll_stop(&a->poll);
	else if (!uv_is_active((uv_handle_t *)&a->poll))
		uv_poll_start(&a->poll, UV_READABLE, on_input);
}

static void open_input(struct attached *a)
{
	struct epoll_event event = {.events = EPOLLIN};

	a->input = epoll_create1(EPOLL_CLOEXEC);
	a->polls = a->input >= 0 && epoll_ctl(a->input, EPOLL_CTL_ADD, STDIN_FILENO, &event) == 0 &&
		   uv_poll_init(a->cli->loop, &a->poll, a->input) == 0;
	a->poll.data = a;
}

/* ---- Connections ---- */

static void on_close(void *data, const struct qmp_error *why)
{
	UNUSED(why);
	end(data, CUT_OFF);
}

static int open_session(struct attached *a, struct qmp_session **ret)
{
	struct qmp_session_options o = {.on_close = on_close, .data = a};
	int fd, r = client_connect(a->cli, a->name, &fd);

	if (r < 0)
		return r;
	r = qmp_session_new(a->cli->loop, fd, &o, ret, NULL);
	if (r < 0)
		(void)close(fd);
	return r;
}

static void close_sessions(struct attached *a)
{
	qmp_session_free(take_ptr(a->reader));
	qmp_session_free(take_ptr(a->writer));
	uv_timer_stop(&a->retry);
	if (a->polls)
		uv_poll_stop(&a->poll);
	a->n_sent = 0;
}

/* One pair of connections, from their beginning to their end. */
static void stay(struct attached *a)
{
	a->ending = GOES_ON;
	if (open_session(a, &a->reader) < 0 || open_session(a, &a->writer) < 0) {
		a->ending = CUT_OFF;
	} else {
		read_on(a);
		type_on(a);
	}
	a->looping = true;
	if (a->ending == GOES_ON)
		uv_run(a->cli->loop, UV_RUN_DEFAULT);
	a->looping = false;
	close_sessions(a);
}

/* Where the keeper has gone: finds the VM again, or the reason why not. */
static void find_again(struct attached *a)
{
	struct timespec nap = {0, 100 * 1000 * 1000};
	json_auto_t *piece = NULL;

	if (++a->cuts > CUTS_MAX) {
		qmp_error_set(&a->cli->error, QMP_ERR_CLOSED, -ECONNRESET,
			      "the keeper of %s closes the connection each time; see its keeper.log", a->name);
		a->ending = FAILED;
		return;
	}
	if (a->cuts > 1)
		nanosleep(&nap, NULL);
	a->ending = client_call(a->cli, a->name, "qmpctl-console", console_args(a, 0), &piece) < 0 ? FAILED : GOES_ON;
	if (piece)
		show_piece(a, piece);
}

/* "^]", "^A", a character, or none. */
static int parse_escape(struct cli *cli, int *ret)
{
	const char *text = cli_option(cli, "escape");

	*ret = ']' & 0x1f;
	if (!text)
		return 0;
	if (streq(text, "none"))
		*ret = -1;
	else if (text[0] == '^' && text[1] >= '?' && text[1] <= 'z' && !text[2])
		*ret = text[1] == '?' ? 0x7f : text[1] & 0x1f;
	else if (text[0] && !text[1])
		*ret = (unsigned char)text[0];
	else
		return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL,
				     "--escape: \"%s\" is no key: one character, ^ and one as in ^], or none", text);
	return 0;
}

/* ---- The verb ---- */

/* The first answer: from here on, or from the last lines on. */
static int begin(struct attached *a, int64_t tail)
{
	json_auto_t *piece = NULL;
	json_t *args = json_pack("{s:I, s:s*}", "tail", (json_int_t)tail, "console", a->console);
	char key[3] = {(char)a->escape};

	if (client_call(a->cli, a->name, "qmpctl-console", args, &piece) < 0)
		return -EIO;
	if (isatty(STDIN_FILENO)) {
		if (a->escape < ' ' || a->escape == 0x7f)
			snprintf(key, sizeof key, "^%c", a->escape ^ 0x40);
		fprintf(stderr, "console %s of %s, which is %s; %s%s\n",
			text_of(piece, "console") ? text_of(piece, "console") : "", a->name, text_of(piece, "state"),
			a->escape < 0 ? "no key leaves it" : key, a->escape < 0 ? "" : " leaves it");
		terminal_take();
	}
	show_piece(a, piece);
	return 0;
}

static int say_ending(struct attached *a)
{
	bool terminal = terminal_is_raw();

	terminal_leave();
	if (terminal && !a->at_line_start)
		fputc('\n', stderr);
	if (a->ending == FAILED)
		return cli_fail(a->cli);
	if (a->ending == VM_ENDED)
		fprintf(stderr, "%s has ended\n", a->name);
	else if (a->ending == NO_OUTPUT)
		fprintf(stderr, "qmpctl: standard output cannot be written\n");
	else if (terminal)
		fprintf(stderr, "left the console of %s\n", a->name);
	return a->ending == NO_OUTPUT ? EXIT_HOST : EXIT_OK;
}

static void close_input(struct attached *a)
{
	if (a->polls)
		uv_close((uv_handle_t *)&a->poll, NULL);
	uv_close((uv_handle_t *)&a->retry, NULL);
	uv_run(a->cli->loop, UV_RUN_NOWAIT);
	if (a->input >= 0)
		(void)close(a->input);
	free(a->cursor);
}

static int run_console(struct cli *cli)
{
	struct attached a = {
		.cli = cli, .name = cli->args[0], .console = cli_option(cli, "console"), .at_line_start = true};
	int64_t tail;

	if (parse_escape(cli, &a.escape) < 0 || cli_count(cli, "tail", 0, &tail) < 0 || begin(&a, tail) < 0)
		return cli_fail(cli);
	uv_timer_init(cli->loop, &a.retry);
	a.retry.data = &a;
	open_input(&a);
	while (a.ending == GOES_ON) {
		stay(&a);
		if (a.ending == CUT_OFF)
			find_again(&a);
	}
	close_input(&a);
	return say_ending(&a);
}

const struct verb verb_console = {
	.name = "console",
	.group = GROUP_LOOK,
	.args = {{"NAME", .kind = ARG_VM}},
	.summary = "Use the guest's console; ^] leaves it",
	.options = (const struct cli_option[]){
		{"console", "ID", "which (the first)", .kind = ARG_CONSOLE},
		{"escape", "KEY", "what leaves it: a character, ^ and one, or none (^])"},
		{"tail", "LINES", "begin with the last lines that were said (0)"},
		{0},
	},
	.run = run_console,
};
