/*
 * A peer that sends one byte at a time: each comes well within any deadline, all of them would not.
 */
#pragma once

#include "tests/unit/check.h"

#include <unistd.h>
#include <uv.h>

#define DRIBBLE_MS 5 /* from byte to byte; a text that is to be late has more bytes than its deadline has of these */

struct dribble {
	uv_timer_t timer;
	const char *rest;
	int fd;
};

static void dribble_on(uv_timer_t *t)
{
	struct dribble *d = t->data;

	if (*d->rest)
		CHECK_INT(write(d->fd, d->rest++, 1), 1);
	else
		uv_timer_stop(t);
}

static inline void dribble(struct dribble *d, uv_loop_t *loop, int fd, const char *text)
{
	d->rest = text;
	d->fd = fd;
	uv_timer_init(loop, &d->timer);
	d->timer.data = d;
	uv_timer_start(&d->timer, dribble_on, 0, DRIBBLE_MS);
}

/* How many bytes it has not sent. */
static inline size_t dribble_end(struct dribble *d)
{
	uv_close((uv_handle_t *)&d->timer, NULL);
	uv_run(d->timer.loop, UV_RUN_NOWAIT);
	return strlen(d->rest);
}
