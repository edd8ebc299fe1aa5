#include "proto/link.h"
#include "proto/base.h"

#include <poll.h>

uint64_t qmp_now_ms(void)
{
	return uv_hrtime() / 1000000;
}

uint64_t qmp_deadline_in(uint64_t ms)
{
	uint64_t now = qmp_now_ms();

	return ms > UINT64_MAX - now ? UINT64_MAX : now + ms;
}

bool qmp_link_is_open(const struct qmp_link *l)
{
	return l->fd >= 0;
}

bool qmp_link_is_alive(const struct qmp_link *l)
{
	return qmp_link_is_open(l) && !l->failed;
}

static void settle(struct qmp_link *l)
{
	if (qmp_link_is_open(l))
		l->ops->settle(l);
	if (!qmp_link_is_open(l) || !l->failed || l->told)
		return;
	l->told = true;
	l->ops->ended(l);
}

bool qmp_link_is_gone(const struct qmp_link *l)
{
	struct pollfd p = {.fd = l->fd}; /* a hang-up is always told; POLLRDHUP alone, half of one, is not asked for */

	return poll(&p, 1, 0) > 0;
}

static void update(struct qmp_link *l);

static void on_poll(uv_poll_t *handle, int status, int events)
{
	struct qmp_link *l = handle->data;

	if (status < 0) {
		/* libuv makes EBADF of every POLLERR, and stops polling: the other side left with bytes unread. */
		l->events = 0;
		l->ops->hung_up(l);
	} else if (l->reading && (events & (UV_READABLE | UV_DISCONNECT))) {
		l->ops->readable(l);
	} else if (events & (UV_DISCONNECT | UV_PRIORITIZED)) {
		l->half_closed = true;
		if (qmp_link_is_gone(l))
			l->ops->hung_up(l);
		else
			update(l);
	}
	if (l->wire.head)
		qmp_link_flush(l);
	settle(l);
}

/*
 * Polls for what is of interest now. While nothing is read, that is the other side's leaving; where it has half closed,
 * UV_DISCONNECT would be told without an end, and a hang-up is told whatever is polled for.
 */
static void update(struct qmp_link *l)
{
	int idle = l->half_closed ? UV_PRIORITIZED : UV_DISCONNECT;
	int events = (l->reading ? UV_READABLE : idle) | (l->wire.head ? UV_WRITABLE : 0);

	if (!qmp_link_is_alive(l) || l->events == events)
		return;
	l->events = events;
	uv_poll_start(&l->poll, events, on_poll);
}

int qmp_link_init(struct qmp_link *l, uv_loop_t *loop, int fd_consume, const struct qmp_link_ops *ops)
{
	int r = uv_poll_init(loop, &l->poll, fd_consume);

	if (r < 0)
		return r;
	uv_timer_init(loop, &l->timer);
	l->poll.data = l->timer.data = l;
	l->open_handles = 2;
	l->fd = fd_consume;
	l->due = UINT64_MAX;
	l->ops = ops;
	l->reading = true;
	qmp_wire_init(&l->wire);
	update(l);
	return 0;
}

void qmp_link_set_reading(struct qmp_link *l, bool reading)
{
	l->reading = reading;
	update(l);
}

int qmp_link_add_consume(struct qmp_link *l, char *text, size_t len, int *fds, size_t n_fds)
{
	return qmp_wire_add_consume(&l->wire, text, len, fds, n_fds);
}

int qmp_link_append(struct qmp_link *l, const char *text, size_t len)
{
	int r = qmp_wire_append(&l->wire, text, len);

	update(l);
	return r;
}

void qmp_link_flush(struct qmp_link *l)
{
	int r = qmp_link_is_alive(l) ? qmp_wire_flush(&l->wire, l->fd) : 0;

	if (r < 0)
		l->ops->write_failed(l, r);
	else
		update(l);
}

static void on_timer(uv_timer_t *t)
{
	struct qmp_link *l = t->data;

	l->due = UINT64_MAX;
	l->ops->tick(l);
	settle(l);
}

void qmp_link_wake_at(struct qmp_link *l, uint64_t due)
{
	uint64_t now;

	if (!qmp_link_is_open(l) || due >= l->due)
		return;
	l->due = due;
	now = qmp_now_ms();
	uv_update_time(l->timer.loop); /* a timer counts from the loop's clock, which may be old */
	uv_timer_start(&l->timer, on_timer, due > now ? due - now : 0, 0);
}

void qmp_link_fail(struct qmp_link *l, const struct qmp_error *why)
{
	if (!qmp_link_is_alive(l))
		return;
	l->failed = true;
	l->error = *why;
	l->events = 0;
	uv_poll_stop(&l->poll);
	qmp_link_wake_at(l, 0);
}

static void on_handle_closed(uv_handle_t *h)
{
	struct qmp_link *l = h->data;

	if (--l->open_handles == 0)
		l->ops->gone(l);
}

void qmp_link_close(struct qmp_link *l)
{
	if (!qmp_link_is_open(l))
		return;
	qmp_wire_deinit(&l->wire);
	uv_close((uv_handle_t *)&l->poll, on_handle_closed);
	uv_close((uv_handle_t *)&l->timer, on_handle_closed);
	(void)close(take_fd(&l->fd));
}
