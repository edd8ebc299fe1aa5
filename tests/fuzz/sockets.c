#include "tests/fuzz/sockets.h"
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <uv.h>

/* Numbers that no real file descriptor has. */
#define FIRST_FD 1000000
#define ENDS	 8
#define SIZE	 (1 << 18)
#define MARKS	 64
#define FDS	 32

/* Fds that go with the byte at AT; a read that brings them ends at END. */
struct mark {
	size_t at, end, n;
	int fds[FDS];
};

/* One end, and what is on its way to it. */
static struct end {
	bool is_open, reset;
	struct end *other; /* NULL: it was closed */
	uv_poll_t *poll;   /* really a uv_check_t, which runs where polls do */
	uv_poll_cb cb;
	int events;	   /* that it waits for */
	size_t room;	   /* how much may be on the way to it */
	size_t start, len, n_marks;
	struct mark marks[MARKS];
	char data[SIZE];
} ends[ENDS];

int __wrap_socketpair(int domain, int type, int protocol, int pair[2]);
int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t size);
int __real_setsockopt(int fd, int level, int name, const void *value, socklen_t size);
ssize_t __wrap_send(int fd, const void *data, size_t len, int flags);
ssize_t __real_send(int fd, const void *data, size_t len, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *msg, int flags);
ssize_t __real_sendmsg(int fd, const struct msghdr *msg, int flags);
ssize_t __wrap_recv(int fd, void *to, size_t size, int flags);
ssize_t __real_recv(int fd, void *to, size_t size, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *msg, int flags);
ssize_t __real_recvmsg(int fd, struct msghdr *msg, int flags);
int __wrap_poll(struct pollfd *fds, nfds_t n, int timeout);
int __real_poll(struct pollfd *fds, nfds_t n, int timeout);
int __wrap_close(int fd);
int __real_close(int fd);
int __wrap_uv_poll_init(uv_loop_t *loop, uv_poll_t *h, int fd);
int __real_uv_poll_init(uv_loop_t *loop, uv_poll_t *h, int fd);
int __wrap_uv_poll_start(uv_poll_t *h, int events, uv_poll_cb cb);
int __real_uv_poll_start(uv_poll_t *h, int events, uv_poll_cb cb);
int __wrap_uv_poll_stop(uv_poll_t *h);
int __real_uv_poll_stop(uv_poll_t *h);

/* NULL: a real file descriptor. */
static struct end *end_of(int fd)
{
	struct end *e = fd >= FIRST_FD && fd < FIRST_FD + ENDS ? &ends[fd - FIRST_FD] : NULL;

	MUST(!e || e->is_open, "socket %d is closed", fd - FIRST_FD);
	return e;
}

static struct end *new_end(int *ret_fd)
{
	for (int i = 0; i < ENDS; i++)
		if (!ends[i].is_open) {
			memset(&ends[i], 0, offsetof(struct end, marks));
			ends[i].is_open = true;
			ends[i].room = SIZE;
			*ret_fd = FIRST_FD + i;
			return &ends[i];
		}
	MUST(false, "more than %d sockets", ENDS);
	return NULL;
}

int sockets_open(void)
{
	int n = 0;

	for (int i = 0; i < ENDS; i++)
		n += ends[i].is_open;
	return n;
}

int __wrap_socketpair(int domain, int type, int protocol, int pair[2])
{
	struct end *a, *b;

	MUST(domain == AF_UNIX && (type & 0xf) == SOCK_STREAM && protocol == 0, "sockets of another kind");
	a = new_end(&pair[0]);
	b = new_end(&pair[1]);
	a->other = b;
	b->other = a;
	return 0;
}

int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
	struct end *e = end_of(fd);

	if (!e)
		return __real_setsockopt(fd, level, name, value, size);
	MUST(level == SOL_SOCKET && name == SO_SNDBUF && e->other, "option %d", name);
	e->other->room = (size_t)*(const int *)value;
	return 0;
}

static int fail_with(int code)
{
	errno = code;
	return -1;
}

/* ---- Sending ---- */

static void move_to_front(struct end *e)
{
	memmove(e->data, e->data + e->start, e->len);
	for (size_t i = 0; i < e->n_marks; i++) {
		e->marks[i].at -= e->start;
		e->marks[i].end -= e->start;
	}
	e->start = 0;
}

/* Returns how much of it has gone. */
static size_t put(struct end *e, const void *data, size_t len)
{
	size_t n = e->room - e->len < len ? e->room - e->len : len;

	if (e->start + e->len + n > SIZE)
		move_to_front(e);
	memcpy(e->data + e->start + e->len, data, n);
	e->len += n;
	return n;
}

static void put_fds(struct end *e, const struct msghdr *msg, size_t sent)
{
	struct cmsghdr *c = msg->msg_controllen > 0 ? CMSG_FIRSTHDR(msg) : NULL;
	size_t n = c ? (c->cmsg_len - CMSG_LEN(0)) / sizeof(int) : 0, end = e->start + e->len;
	struct mark *m = &e->marks[e->n_marks];

	if (n == 0)
		return;
	MUST(n <= FDS && c->cmsg_type == SCM_RIGHTS && !CMSG_NXTHDR((struct msghdr *)msg, c), "%zu fds", n);
	*m = (struct mark){.at = end - sent, .end = end, .n = n};
	for (size_t i = 0; i < n; i++) {
		int fd;
		memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
		m->fds[i] = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		MUST(m->fds[i] >= 0, "fd %d is sent", fd);
	}
	e->n_marks++;
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *msg, int flags)
{
	struct end *e = end_of(fd), *to;
	size_t sent = 0;

	if (!e)
		return __real_sendmsg(fd, msg, flags);
	MUST((flags & (MSG_DONTWAIT | MSG_NOSIGNAL)) == (MSG_DONTWAIT | MSG_NOSIGNAL), "flags %x", flags);
	to = e->other;
	if (!to)
		return fail_with(EPIPE);
	if (to->len >= to->room || (msg->msg_controllen > 0 && to->n_marks == MARKS))
		return fail_with(EAGAIN);
	for (size_t i = 0; i < msg->msg_iovlen; i++) {
		size_t n = put(to, msg->msg_iov[i].iov_base, msg->msg_iov[i].iov_len);
		sent += n;
		if (n < msg->msg_iov[i].iov_len)
			break;
	}
	put_fds(to, msg, sent);
	return (ssize_t)sent;
}

ssize_t __wrap_send(int fd, const void *data, size_t len, int flags)
{
	struct iovec iov = {(void *)data, len};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	return end_of(fd) ? __wrap_sendmsg(fd, &msg, flags) : __real_send(fd, data, len, flags);
}

/* ---- Receiving ---- */

static void drop_mark(struct end *e)
{
	for (size_t i = 0; i < e->marks[0].n; i++)
		(void)__real_close(e->marks[0].fds[i]);
	memmove(e->marks, e->marks + 1, --e->n_marks * sizeof *e->marks);
}

/* Those of the first mark, as far as MSG has room. */
static void take_fds(struct end *e, struct msghdr *msg, size_t room)
{
	struct mark *m = &e->marks[0];
	size_t n = room > CMSG_LEN(0) ? (room - CMSG_LEN(0)) / sizeof(int) : 0;
	struct cmsghdr *c = msg->msg_control;

	if (n < m->n)
		msg->msg_flags |= MSG_CTRUNC;
	n = n < m->n ? n : m->n;
	if (n > 0) {
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n * sizeof(int));
		memcpy(CMSG_DATA(c), m->fds, n * sizeof(int));
		msg->msg_controllen = CMSG_SPACE(n * sizeof(int)) < room ? CMSG_SPACE(n * sizeof(int)) : room;
		memmove(m->fds, m->fds + n, (m->n - n) * sizeof(int));
		m->n -= n;
	}
	drop_mark(e);
}

ssize_t __wrap_recvmsg(int fd, struct msghdr *msg, int flags)
{
	struct end *e = end_of(fd);
	size_t n = msg->msg_iov[0].iov_len, room = msg->msg_controllen;
	bool brings_fds;

	if (!e)
		return __real_recvmsg(fd, msg, flags);
	MUST((flags & MSG_DONTWAIT) && msg->msg_iovlen == 1, "flags %x", flags);
	msg->msg_flags = 0;
	msg->msg_controllen = 0;
	if (e->len == 0 && e->reset) {
		e->reset = false;
		return fail_with(ECONNRESET);
	}
	if (e->len == 0)
		return e->other ? fail_with(EAGAIN) : 0;
	n = n < e->len ? n : e->len;
	brings_fds = e->n_marks > 0 && e->marks[0].at < e->start + n;
	if (brings_fds && e->marks[0].end < e->start + n)
		n = e->marks[0].end - e->start;
	memcpy(msg->msg_iov[0].iov_base, e->data + e->start, n);
	if (flags & MSG_PEEK) {
		MUST(room == 0, "fds are only looked at");
		msg->msg_flags = e->n_marks > 0 ? MSG_CTRUNC : 0;
		return (ssize_t)n;
	}
	if (brings_fds)
		take_fds(e, msg, room);
	e->len -= n;
	e->start = e->len > 0 ? e->start + n : 0;
	return (ssize_t)n;
}

ssize_t __wrap_recv(int fd, void *to, size_t size, int flags)
{
	struct iovec iov = {to, size};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	return end_of(fd) ? __wrap_recvmsg(fd, &msg, flags) : __real_recv(fd, to, size, flags);
}

int __wrap_close(int fd)
{
	struct end *e = end_of(fd);

	if (!e)
		return __real_close(fd);
	while (e->n_marks > 0)
		drop_mark(e);
	if (e->other) {
		e->other->reset = e->len > 0;
		e->other->other = NULL;
	}
	e->is_open = false;
	return 0;
}

/* ---- Polling ---- */

/* As unix_poll tells it. */
static short state_of(const struct end *e)
{
	bool full = e->other && e->other->len * 4 > e->other->room;
	int state = (e->len > 0 || !e->other ? POLLIN : 0) | (full ? 0 : POLLOUT) | (e->other ? 0 : POLLRDHUP | POLLHUP) |
		    (e->reset ? POLLERR : 0);

	return (short)state;
}

int __wrap_poll(struct pollfd *fds, nfds_t n, int timeout)
{
	struct end *e = n == 1 ? end_of(fds->fd) : NULL;

	if (!e)
		return __real_poll(fds, n, timeout);
	fds->revents = (short)(state_of(e) & (fds->events | POLLERR | POLLHUP));
	return fds->revents != 0;
}

/* NULL: H polls a real file descriptor, or one that was closed. */
static struct end *polled_by(const uv_poll_t *h)
{
	for (size_t i = 0; i < ENDS; i++)
		if (ends[i].is_open && ends[i].poll == h)
			return &ends[i];
	return NULL;
}

int __wrap_uv_poll_init(uv_loop_t *loop, uv_poll_t *h, int fd)
{
	struct end *e = end_of(fd), *before = polled_by(h);

	_Static_assert(sizeof(uv_check_t) <= sizeof *h, "a check is larger than a poll");
	if (before)
		before->poll = NULL; /* it was closed, and its memory is used again */
	if (!e)
		return __real_uv_poll_init(loop, h, fd);
	e->poll = h;
	return uv_check_init(loop, (uv_check_t *)h);
}

static void on_check(uv_check_t *h)
{
	struct end *e = polled_by((uv_poll_t *)h);
	short wanted, state;
	int events;

	if (!e)
		return;
	wanted = (short)((e->events & UV_READABLE ? POLLIN : 0) | (e->events & UV_WRITABLE ? POLLOUT : 0) |
			 (e->events & UV_DISCONNECT ? POLLRDHUP : 0) | (e->events & UV_PRIORITIZED ? POLLPRI : 0));
	state = (short)(state_of(e) & (wanted | POLLERR | POLLHUP));
	if (state == POLLERR || state == POLLHUP)
		state = (short)(state | wanted);
	if ((state & POLLERR) && !(state & POLLPRI)) {
		(void)uv_check_stop(h);
		e->cb(e->poll, UV_EBADF, 0);
		return;
	}
	events = (state & POLLIN ? UV_READABLE : 0) | (state & POLLOUT ? UV_WRITABLE : 0) |
		 (state & POLLRDHUP ? UV_DISCONNECT : 0) | (state & POLLPRI ? UV_PRIORITIZED : 0);
	if (events)
		e->cb(e->poll, 0, events);
}

int __wrap_uv_poll_start(uv_poll_t *h, int events, uv_poll_cb cb)
{
	struct end *e = polled_by(h);

	if (!e)
		return __real_uv_poll_start(h, events, cb);
	e->events = events;
	e->cb = cb;
	return uv_check_start((uv_check_t *)h, on_check);
}

int __wrap_uv_poll_stop(uv_poll_t *h)
{
	return polled_by(h) ? uv_check_stop((uv_check_t *)h) : __real_uv_poll_stop(h);
}
