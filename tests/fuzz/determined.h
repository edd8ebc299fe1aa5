/*
 * What makes a harness's run depend on its input alone. The linker puts it in the place of getrandom (which gives zeros
 * first, then ones, ...), uv_hrtime and uv_timer_start: time passes when the harness says so.
 */
#pragma once

#include <stdint.h>
#include <uv.h>

/* One loop for all inputs, open from the start. */
uv_loop_t *the_loop(void);
/* The number that the next file descriptor would get: the same before and after an input. */
int next_fd(void);

/* To be called first for each input. */
void determined_begin(void);
/* MS pass; timers that are due by then fire. */
void time_passes(uint64_t ms);
