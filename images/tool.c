/*
 * The way it goes well: spawned -> standard output and error read as they come -> ended (pidfd) -> what is still in the
 * pipes read -> done.
 * It fails: it cannot be spawned (from img_tool_run); its time is up or it is taken back (SIGTERM, SIGKILL; then done); its
 * status is not good (done, with the last of its words).
 */
#include "images/tool.h"
#include "launcher/child.h"
#include "proto/base.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>

#define ERRORS_MAX  ((size_t)64 << 10)
#define GRACE_MS    5000

struct stream {
	struct img_tool *tool;
	uv_poll_t poll;
	int fd; /* -1: read to its end */
	char *text;
	size_t len, room, max;
	bool cut; /* more came than is kept */
};

struct img_tool {
	struct vm_child *child;
	struct stream out, err;
	uv_timer_t timer;
	char *doing, *program;
	unsigned good;
	bool polled_out, polled_err, timed_out, cancelled, killing;
	void (*piece)(void *data, const char *text);
	void (*done)(void *data, const struct img_tool_result *r);
	void *data;
	int closing; /* handles that are not closed yet */
};

/* ---- What it says ---- */

static int keep(struct stream *s, const char *data, size_t n)
{
	if (s->len + n > s->max) {
		n = s->max - s->len;
		s->cut = true;
	}
	if (s->len + n + 1 > s->room) {
		size_t room = 2 * (s->len + n + 1);
		char *text = realloc(s->text, room);
		if (!text) {
			s->cut = true;
			return -ENOMEM;
		}
		s->text = text;
		s->room = room;
	}
	memcpy(s->text + s->len, data, n);
	s->len += n;
	s->text[s->len] = '\0';
	return 0;
}

/* Tells every whole piece, and keeps the rest. */
static void tell_pieces(struct img_tool *t)
{
	struct stream *s = &t->out;
	size_t start = 0;

	for (size_t i = 0; i < s->len; i++) {
		if (s->text[i] != '\n' && s->text[i] != '\r')
			continue;
		s->text[i] = '\0';
		if (i > start)
			t->piece(t->data, s->text + start);
		start = i + 1;
	}
	memmove(s->text, s->text + start, s->len - start);
	s->len -= start;
	if (s->len == s->max)
		s->len = 0; /* a piece without end is nobody's */
	s->text[s->len] = '\0';
}

static void stop_reading(struct stream *s)
{
	if (s->fd < 0)
		return;
	uv_poll_stop(&s->poll);
	(void)close(s->fd);
	s->fd = -1;
}

static void read_all(struct stream *s)
{
	struct img_tool *t = s->tool;
	char buffer[65536];
	ssize_t n;

	while (s->fd >= 0) {
		n = read(s->fd, buffer, sizeof buffer);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0) {
			stop_reading(s);
			return;
		}
		(void)keep(s, buffer, (size_t)n);
		if (t->piece && s == &t->out && s->text)
			tell_pieces(t);
	}
}

static void on_readable(uv_poll_t *handle, int status, int events)
{
	UNUSED(status);
	UNUSED(events);
	read_all(handle->data);
}

/* ---- Its end ---- */

/* The last line that it wrote to standard error, without "PROGRAM: " before it. */
static char *last_words(const struct img_tool *t)
{
	const char *text = t->err.text ? t->err.text : "";
	const char *program = strrchr(t->program, '/') ? strrchr(t->program, '/') + 1 : t->program;
	size_t end = strlen(text), start, n = strlen(program);

	while (end > 0 && strchr(" \r\n", text[end - 1]))
		end--;
	start = end;
	while (start > 0 && text[start - 1] != '\n')
		start--;
	start += strspn(text + start, " \t"); /* LVM's */
	if (end - start > n + 2 && strncmp(text + start, program, n) == 0 && strncmp(text + start + n, ": ", 2) == 0)
		start += n + 2;
	return strndup(text + start, end - start);
}

static void judge(const struct img_tool *t, const struct vm_exit *how, struct img_tool_result *r)
{
	_cleanup_free_ char *words = last_words(t);
	bool good = how->code >= 0 && how->code < 32 && (t->good ? t->good : 1u) & (1u << how->code);

	r->status = how->code;
	if (good && t->out.cut && !t->piece)
		qmp_error_set(&r->error, QMP_ERR_LIMIT, -E2BIG, "%s: %s said more than there is room for", t->doing, t->program);
	else if (good)
		return;
	else if (t->timed_out)
		qmp_error_set(&r->error, QMP_ERR_TIMEOUT, -ETIMEDOUT, "%s: %s had not ended in time, and was ended", t->doing,
			      t->program);
	else if (t->cancelled)
		qmp_error_set(&r->error, QMP_ERR_CANCELLED, -ECANCELED, "%s: stopped on request", t->doing);
	else if (how->signal)
		qmp_error_set(&r->error, QMP_ERR_HOST, -EIO, "%s: %s was ended by signal %d (%s)", t->doing, t->program, how->signal,
			      strsignal(how->signal));
	else if (words && *words)
		qmp_error_set(&r->error, QMP_ERR_HOST, -EIO, "%s: %s: %s", t->doing, t->program, words);
	else
		qmp_error_set(&r->error, QMP_ERR_HOST, -EIO, "%s: %s failed with status %d and said nothing", t->doing, t->program,
			      how->code);
}

static void on_closed(uv_handle_t *handle)
{
	struct img_tool *t = handle->data;

	if (--t->closing > 0)
		return;
	free(t->out.text);
	free(t->err.text);
	free(t->doing);
	free(t->program);
	free(t);
}

static void on_stream_closed(uv_handle_t *handle)
{
	struct stream *s = handle->data;

	handle->data = s->tool;
	on_closed(handle);
}

static void close_all(struct img_tool *t)
{
	vm_child_free(t->child);
	stop_reading(&t->out);
	stop_reading(&t->err);
	t->closing = 1 + t->polled_out + t->polled_err;
	uv_close((uv_handle_t *)&t->timer, on_closed);
	if (t->polled_out)
		uv_close((uv_handle_t *)&t->out.poll, on_stream_closed);
	if (t->polled_err)
		uv_close((uv_handle_t *)&t->err.poll, on_stream_closed);
}

/* Whom it has started in turn may hold the pipes for ever: what is in them now is all. */
static void on_end(void *data, const struct vm_exit *how)
{
	struct img_tool *t = data;
	struct img_tool_result r = {0};

	read_all(&t->out);
	read_all(&t->err);
	if (t->piece && t->out.len > 0)
		t->piece(t->data, t->out.text);
	judge(t, how, &r);
	r.output = t->out.text && !t->piece ? t->out.text : "";
	r.output_len = t->piece ? 0 : t->out.len;
	r.errors = t->err.text ? t->err.text : "";
	t->done(t->data, &r);
	close_all(t);
}

static void on_time(uv_timer_t *timer)
{
	struct img_tool *t = timer->data;

	if (!t->cancelled && !t->timed_out)
		t->timed_out = true;
	(void)vm_child_signal(t->child, t->killing ? SIGKILL : SIGTERM);
	if (!t->killing)
		uv_timer_start(&t->timer, on_time, GRACE_MS, 0);
	t->killing = true;
}

void img_tool_cancel(struct img_tool *t)
{
	if (t->killing)
		return;
	t->cancelled = true;
	on_time(&t->timer);
}

/* ---- Its start ---- */

/* Our environment, with LC_ALL=C; the array alone is to be freed. */
static char **environment(void)
{
	size_t n = 0, k = 0;
	char **copy;

	while (environ[n])
		n++;
	copy = calloc(n + 2, sizeof *copy);
	if (!copy)
		return NULL;
	for (size_t i = 0; i < n; i++)
		if (strncmp(environ[i], "LC_ALL=", 7) != 0)
			copy[k++] = environ[i];
	copy[k] = (char *)"LC_ALL=C";
	return copy;
}

static int input_fd(const struct img_tool_options *o)
{
	_cleanup_fd_ int fd = memfd_create("input", MFD_CLOEXEC);
	size_t sent = 0;

	while (fd >= 0 && sent < o->input_len) {
		ssize_t n = write(fd, o->input + sent, o->input_len - sent);
		if (n < 0 && errno != EINTR)
			return -1;
		sent += n > 0 ? (size_t)n : 0;
	}
	if (fd < 0 || lseek(fd, 0, SEEK_SET) < 0)
		return -1;
	return take_fd(&fd);
}

static int watch_stream(uv_loop_t *loop, struct img_tool *t, struct stream *s, bool *polled, int fd, size_t max)
{
	int r;

	s->tool = t;
	s->max = max;
	s->fd = fd;
	r = uv_poll_init(loop, &s->poll, fd);
	if (r < 0)
		return r;
	*polled = true;
	s->poll.data = s;
	return uv_poll_start(&s->poll, UV_READABLE, on_readable);
}

static int spawn(uv_loop_t *loop, struct img_tool *t, const struct img_tool_options *o, struct qmp_error *err)
{
	_cleanup_free_ char **env = environment();
	_cleanup_fd_ int input = o->input ? input_fd(o) : -1, out = -1, errors = -1, out_in = -1, errors_in = -1;
	int a[2], b[2], r;

	if (!env || (o->input && input < 0) || pipe2(a, O_CLOEXEC) < 0)
		return qmp_error_errno(err, env ? -errno : -ENOMEM, "%s: running %s", o->doing, o->argv[0]);
	out_in = a[0];
	out = a[1];
	if (pipe2(b, O_CLOEXEC) < 0)
		return qmp_error_errno(err, -errno, "%s: running %s", o->doing, o->argv[0]);
	errors_in = b[0];
	errors = b[1];
	if (fcntl(out_in, F_SETFL, O_NONBLOCK) < 0 || fcntl(errors_in, F_SETFL, O_NONBLOCK) < 0)
		return qmp_error_errno(err, -errno, "%s: running %s", o->doing, o->argv[0]);
	struct vm_child_options child = {
		.argv = (char *const *)o->argv, .fds = o->fds, .n_fds = o->n_fds, .input = input, .output = out, .errors = errors,
		.directory = -1, .pid_file = -1, .cgroup_procs = -1, .environment = env, .package = o->package,
		.identity = o->identity, .confined = o->identity != NULL, .dies_with_us = true,
	};
	r = watch_stream(loop, t, &t->out, &t->polled_out, take_fd(&out_in), t->piece ? 4096 : IMG_TOOL_OUTPUT_MAX);
	if (r == 0)
		r = watch_stream(loop, t, &t->err, &t->polled_err, take_fd(&errors_in), ERRORS_MAX);
	if (r < 0)
		return qmp_error_errno(err, r, "%s: running %s", o->doing, o->argv[0]);
	r = vm_child_spawn(loop, &child, on_end, t, &t->child, err);
	if (r < 0)
		qmp_error_wrap(err, "%s", o->doing);
	return r;
}

int img_tool_run(uv_loop_t *loop, const struct img_tool_options *o, struct img_tool **ret, struct qmp_error *err)
{
	struct img_tool *t = calloc(1, sizeof *t);
	int r;

	if (!t)
		return qmp_error_errno(err, -ENOMEM, "%s", o->doing);
	t->good = o->good;
	t->piece = o->piece;
	t->done = o->done;
	t->data = o->data;
	t->out.fd = t->err.fd = -1;
	t->out.tool = t->err.tool = t;
	uv_timer_init(loop, &t->timer);
	t->timer.data = t;
	t->doing = strdup(o->doing);
	t->program = strdup(o->argv[0]);
	if (!t->doing || !t->program)
		r = qmp_error_errno(err, -ENOMEM, "%s", o->doing);
	else
		r = spawn(loop, t, o, err);
	if (r < 0) {
		close_all(t);
		return r;
	}
	if (o->timeout_ms > 0)
		uv_timer_start(&t->timer, on_time, (uint64_t)o->timeout_ms, 0);
	*ret = t;
	return 0;
}

/* ---- The whole of it ---- */

static void on_signal(uv_signal_t *handle, int signum)
{
	struct img_wait *w = handle->data;

	w->signum = signum;
	w->cancel(w->data);
}

static void on_signal_closed(uv_handle_t *handle)
{
	struct img_wait *w = handle->data;

	w->open--;
}

void img_wait_begin(struct img_wait *w, uv_loop_t *loop, void (*cancel)(void *data), void *data)
{
	static const int signals[ARRAY_SIZE(w->signals)] = {SIGINT, SIGTERM, SIGHUP};

	*w = (struct img_wait){loop, cancel, data, .open = ARRAY_SIZE(signals)};
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
		struct sigaction old;
		uv_signal_init(loop, &w->signals[i]);
		w->signals[i].data = w;
		if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
			uv_signal_start(&w->signals[i], on_signal, signals[i]);
	}
}

void img_wait_end(struct img_wait *w, const bool *done)
{
	while (!*done)
		uv_run(w->loop, UV_RUN_ONCE);
	for (size_t i = 0; i < ARRAY_SIZE(w->signals); i++)
		uv_close((uv_handle_t *)&w->signals[i], on_signal_closed);
	while (w->open > 0)
		uv_run(w->loop, UV_RUN_ONCE);
}

struct call {
	struct img_tool *tool;
	void (*piece)(void *data, const char *text);
	void *data;
	char *output;
	int status;
	struct qmp_error error;
	bool done;
};

static void call_piece(void *data, const char *text)
{
	struct call *c = data;

	c->piece(c->data, text);
}

static void call_done(void *data, const struct img_tool_result *r)
{
	struct call *c = data;

	c->status = r->status;
	c->error = r->error;
	c->output = calloc(1, r->output_len + 1);
	if (c->output)
		memcpy(c->output, r->output, r->output_len);
	else
		qmp_error_errno(&c->error, -ENOMEM, "reading what a program said");
	c->done = true;
}

static void call_cancel(void *data)
{
	struct call *c = data;

	if (c->tool && !c->done)
		img_tool_cancel(c->tool);
}

int img_tool_call(uv_loop_t *loop, const struct img_tool_options *o, char **ret_output, int *ret_status,
		  struct qmp_error *err)
{
	struct img_tool_options mine = *o;
	struct call c = {.piece = o->piece, .data = o->data};
	struct img_wait wait;
	int r;

	mine.piece = o->piece ? call_piece : NULL;
	mine.done = call_done;
	mine.data = &c;
	img_wait_begin(&wait, loop, call_cancel, &c);
	r = img_tool_run(loop, &mine, &c.tool, err);
	c.done |= r < 0;
	img_wait_end(&wait, &c.done);
	if (r < 0)
		return r;
	if (ret_status)
		*ret_status = c.status;
	if (c.error.kind != QMP_ERR_NONE) {
		free(c.output);
		return qmp_error_set(err, c.error.kind, c.error.code, "%s", c.error.message);
	}
	if (ret_output)
		*ret_output = c.output;
	else
		free(c.output);
	return 0;
}
