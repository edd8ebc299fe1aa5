#include "launcher/console.h"
#include "proto/base.h"
#include "proto/wire.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>

struct vm_console {
	struct vm_console *next;
	uv_poll_t poll;
	char *id;
	int fd, dir, log;
	bool closed, freed; /* POLL; by its owner */
	size_t logged, log_max;
	char *recent; /* 2 * VM_CONSOLE_RECENT: the last part of it is what was said */
	size_t len;
	uint64_t said, epoch;
	struct qmp_wire wire;
	vm_console_cb cb;
	void *data;
};

static void open_log(struct vm_console *c, int flags)
{
	_cleanup_free_ char *name = qmp_asprintf("console-%s.log", c->id);

	c->log = name ? openat(c->dir, name, O_WRONLY | O_CREAT | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC | flags, 0600) : -1;
}

/* Full: the log becomes the old one, a new one starts. */
static void rotate(struct vm_console *c)
{
	_cleanup_free_ char *name = qmp_asprintf("console-%s.log", c->id);
	_cleanup_free_ char *old = qmp_asprintf("console-%s.log.1", c->id);

	if (c->log >= 0)
		(void)close(c->log);
	if (name && old)
		(void)renameat(c->dir, name, c->dir, old);
	c->logged = 0;
	open_log(c, O_TRUNC);
}

static void keep(struct vm_console *c, const char *text, size_t len)
{
	if (c->logged + len > c->log_max)
		rotate(c);
	/* A full disk loses the log, not the guest. */
	if (c->log >= 0 && write(c->log, text, len) > 0)
		c->logged += len;
	if (c->len + len > (size_t)2 * VM_CONSOLE_RECENT) {
		memmove(c->recent, c->recent + c->len - VM_CONSOLE_RECENT, VM_CONSOLE_RECENT);
		c->len = VM_CONSOLE_RECENT;
	}
	memcpy(c->recent + c->len, text, len);
	c->len += len;
	c->said += len;
}

/* Reads once: 1, 0: there is nothing now, -ECONNRESET: nothing will come any more. */
static int take(struct vm_console *c)
{
	char buffer[16384];
	ssize_t n = recv(c->fd, buffer, sizeof buffer, MSG_DONTWAIT);

	if (n > 0) {
		keep(c, buffer, (size_t)n);
		c->cb(c->data, c->id, buffer, (size_t)n);
		return 1;
	}
	return n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -ECONNRESET;
}

static void on_poll(uv_poll_t *handle, int status, int events)
{
	struct vm_console *c = handle->data;

	if (status < 0)
		return;
	if (events & UV_WRITABLE) {
		if (qmp_wire_flush(&c->wire, c->fd) != 0)
			uv_poll_start(&c->poll, UV_READABLE, on_poll);
	}
	if ((events & UV_READABLE) && take(c) < 0)
		uv_poll_stop(&c->poll);
}

int vm_console_new(uv_loop_t *loop, int dir, const char *id, int fd, vm_console_cb cb, void *data,
		   struct vm_console **ret, struct qmp_error *err)
{
	struct vm_console *c = calloc(1, sizeof *c);
	int r;

	if (c) {
		c->id = strdup(id);
		c->recent = malloc((size_t)2 * VM_CONSOLE_RECENT);
	}
	r = c && c->id && c->recent ? uv_poll_init(loop, &c->poll, fd) : -ENOMEM;
	if (r < 0) {
		if (c) {
			free(c->id);
			free(c->recent);
		}
		free(c);
		return qmp_error_errno(err, r, "the console %s", id);
	}
	c->fd = fd;
	c->dir = dir;
	c->cb = cb;
	c->data = data;
	c->poll.data = c;
	c->epoch = uv_hrtime();
	c->log_max = VM_CONSOLE_LOG;
	qmp_wire_init(&c->wire);
	open_log(c, O_APPEND);
	c->logged = c->log >= 0 ? (size_t)lseek(c->log, 0, SEEK_END) : 0;
	uv_poll_start(&c->poll, UV_READABLE, on_poll);
	*ret = c;
	return 0;
}

static void release(struct vm_console *c)
{
	if (!c->closed || !c->freed)
		return;
	free(c->id);
	free(c->recent);
	free(c);
}

static void on_closed(uv_handle_t *h)
{
	struct vm_console *c = h->data;

	c->closed = true;
	release(c);
}

/* The handle goes with the fd: whoever gets that number next is not to lose its place in the loop when the console goes. */
static void close_socket(struct vm_console *c)
{
	if (c->fd < 0)
		return;
	uv_close((uv_handle_t *)&c->poll, on_closed);
	(void)close(take_fd(&c->fd));
}

void vm_console_free(struct vm_console *c)
{
	if (!c)
		return;
	close_socket(c);
	qmp_wire_deinit(&c->wire);
	if (c->log >= 0)
		(void)close(c->log);
	c->freed = true;
	release(c);
}

void vm_console_limit(struct vm_console *c, size_t max)
{
	c->log_max = max;
}

const char *vm_console_id(const struct vm_console *c)
{
	return c->id;
}

bool vm_console_is_open(const struct vm_console *c)
{
	return c->fd >= 0;
}

int vm_console_send(struct vm_console *c, const char *text, size_t len)
{
	char *copy;
	int r;

	if (c->fd < 0)
		return -ENOTCONN;
	copy = c->wire.bytes < VM_CONSOLE_RECENT ? malloc(len + 1) : NULL;
	if (!copy)
		return -ENOBUFS;
	memcpy(copy, text, len);
	r = qmp_wire_add_consume(&c->wire, copy, len, NULL, 0);
	if (r == 0)
		r = qmp_wire_flush(&c->wire, c->fd);
	if (r == 0)
		uv_poll_start(&c->poll, UV_READABLE | UV_WRITABLE, on_poll);
	return r < 0 ? r : 0;
}

const char *vm_console_tail(const struct vm_console *c, size_t *ret_len)
{
	*ret_len = c->len;
	return c->recent;
}

uint64_t vm_console_said(const struct vm_console *c)
{
	return c->said;
}

uint64_t vm_console_epoch(const struct vm_console *c)
{
	return c->epoch;
}

void vm_console_hang_up(struct vm_console *c)
{
	if (c->fd < 0)
		return;
	while (take(c) > 0)
		;
	close_socket(c);
}

struct vm_console *vm_console_next(const struct vm_console *c)
{
	return c->next;
}

void vm_console_link(struct vm_console *c, struct vm_console *next)
{
	c->next = next;
}
