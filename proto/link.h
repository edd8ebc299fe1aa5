/*
 * A connected stream socket on a loop: readiness, one timer, what waits to go out, and how it ends. What session,
 * peer and agent have in common.
 *
 *   alive --fail()--> failed --(from the loop: ended(), once)--> close() --> gone()
 *
 * Owns: the fd, the two libuv handles, the output, why it failed. Does not own: what is read, and what the bytes
 * mean. It is embedded. After close(), which may come at any time and from any operation of OPS, none of them is
 * called but gone(), which frees the memory around it: libuv still holds the handles until then. Internal.
 */
#pragma once

#include "proto/qmp.h"
#include "proto/wire.h"


struct qmp_link;

struct qmp_link_ops {
	void (*readable)(struct qmp_link *l);
	/* The other side has gone (not only stopped sending); what it sent before may still be there to read. */
	void (*hung_up)(struct qmp_link *l);
	void (*write_failed)(struct qmp_link *l, int code);
	/* The time asked for has come. */
	void (*tick)(struct qmp_link *l);
	/* After each of the above, unless it closed the link: where deferred work is done. */
	void (*settle)(struct qmp_link *l);
	/* It has failed, l->error says why: once, after settle(). */
	void (*ended)(struct qmp_link *l);
	void (*gone)(struct qmp_link *l);
};

struct qmp_link {
	uv_poll_t poll;
	uv_timer_t timer;
	int fd;     /* -1: closed */
	int events; /* polled for now */
	bool reading, failed, told;
	bool half_closed; /* the other side sends no more, and may still read */
	struct qmp_error error; /* why it FAILED */
	int open_handles;
	uint64_t due; /* when the timer fires, in ms of qmp_now_ms; UINT64_MAX: it does not */
	struct qmp_wire wire;
	const struct qmp_link_ops *ops;
};

/* A clock that only goes forward, in milliseconds. */
uint64_t qmp_now_ms(void);
/* MS from now; UINT64_MAX stays never. */
uint64_t qmp_deadline_in(uint64_t ms);

/* Reads at once. Takes over FD on success. */
int qmp_link_init(struct qmp_link *l, uv_loop_t *loop, int fd_consume, const struct qmp_link_ops *ops);
/* While not reading, bytes stay in the kernel (the sender is held back), but hung_up() is still told. */
void qmp_link_set_reading(struct qmp_link *l, bool reading);
/* At the end of file: whether the other side cannot even read any more. Else hung_up() comes when that is so. */
bool qmp_link_is_gone(const struct qmp_link *l);
/* Queues TEXT and FDS (both taken over, see wire.h) without trying to send: flush does. */
int qmp_link_add_consume(struct qmp_link *l, char *text, size_t len, int *fds, size_t n_fds);
/* Queues a copy of TEXT, which goes out in the next turn of the loop at the latest, with all that came before. 0 or -ENOMEM. */
int qmp_link_append(struct qmp_link *l, const char *text, size_t len);
/* Sends what goes now, the rest when the socket takes it; failure is told by write_failed. */
void qmp_link_flush(struct qmp_link *l);
/* tick() comes at DUE (0: in the next turn of the loop) or earlier. */
void qmp_link_wake_at(struct qmp_link *l, uint64_t due);
/* Not closed: any callback may have done so. */
bool qmp_link_is_open(const struct qmp_link *l);
/* Open and not failed. */
bool qmp_link_is_alive(const struct qmp_link *l);
/* No more reading and writing, ended() comes from the loop; the first reason counts. The timer still works. */
void qmp_link_fail(struct qmp_link *l, const struct qmp_error *why);
void qmp_link_close(struct qmp_link *l);
