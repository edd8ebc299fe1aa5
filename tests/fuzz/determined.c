#include "tests/fuzz/determined.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/sockets.h"

#include <fcntl.h>
#include <sys/types.h>

#define TIMERS 64
/* So far off that no run of an input lasts as long. */
#define NEVER_MS ((uint64_t)1 << 40)

static uint64_t now = 1000000000; /* nanoseconds */
static int drawn; /* how often chance was asked */

/* Those that wait for the harness's clock. */
static struct {
	uv_timer_t *timer;
	uv_timer_cb cb;
	uint64_t due;
} timers[TIMERS];

ssize_t __wrap_getrandom(void *to, size_t size, unsigned flags);
uint64_t __wrap_uv_hrtime(void);
int __wrap_uv_timer_start(uv_timer_t *t, uv_timer_cb cb, uint64_t timeout, uint64_t repeat);
int __real_uv_timer_start(uv_timer_t *t, uv_timer_cb cb, uint64_t timeout, uint64_t repeat);
int __wrap_uv_timer_stop(uv_timer_t *t);
int __real_uv_timer_stop(uv_timer_t *t);
void __wrap_uv_close(uv_handle_t *h, uv_close_cb cb);
void __real_uv_close(uv_handle_t *h, uv_close_cb cb);

ssize_t __wrap_getrandom(void *to, size_t size, unsigned flags)
{
	UNUSED(flags);
	memset(to, drawn++, size);
	return (ssize_t)size;
}

uint64_t __wrap_uv_hrtime(void)
{
	return now;
}

static void forget(const void *t)
{
	for (size_t i = 0; i < TIMERS; i++)
		if ((void *)timers[i].timer == t)
			timers[i].timer = NULL;
}

/* What is due at once fires in the next turn of the loop; what is not, in time_passes. */
int __wrap_uv_timer_start(uv_timer_t *t, uv_timer_cb cb, uint64_t timeout, uint64_t repeat)
{
	size_t i = 0;

	forget(t);
	if (timeout == 0)
		return __real_uv_timer_start(t, cb, 0, repeat);
	while (i < TIMERS && timers[i].timer)
		i++;
	MUST(i < TIMERS, "more than %d timers", TIMERS);
	timers[i].timer = t;
	timers[i].cb = cb;
	timers[i].due = now + timeout * 1000000;
	return __real_uv_timer_start(t, cb, NEVER_MS, repeat);
}

int __wrap_uv_timer_stop(uv_timer_t *t)
{
	forget(t);
	return __real_uv_timer_stop(t);
}

void __wrap_uv_close(uv_handle_t *h, uv_close_cb cb)
{
	forget(h);
	__real_uv_close(h, cb);
}

uv_loop_t *the_loop(void)
{
	static uv_loop_t loop;
	static bool is_open;

	if (!is_open)
		MUST(uv_loop_init(&loop) == 0, "no loop");
	is_open = true;
	return &loop;
}

int next_fd(void)
{
	int fd;

	(void)the_loop();
	fd = fcntl(0, F_DUPFD_CLOEXEC, 0);
	(void)close(fd);
	return fd + sockets_open();
}

void determined_begin(void)
{
	drawn = 0;
	memset(timers, 0, sizeof timers);
}

/* They fire from the loop, as ever. */
void time_passes(uint64_t ms)
{
	now += ms * 1000000;
	for (size_t i = 0; i < TIMERS; i++) {
		uv_timer_t *t = timers[i].due <= now ? timers[i].timer : NULL;
		if (!t)
			continue;
		timers[i].timer = NULL;
		(void)__real_uv_timer_start(t, timers[i].cb, 0, 0);
	}
}
