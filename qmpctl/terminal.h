/*
 * The terminal on standard input, while it is raw: every key is somebody else's.
 *
 * It is put back by terminal_leave, and by the handlers of the signals that end or stop a program; after SIGCONT it is raw
 * again. Only SIGKILL leaves it raw.
 */
#pragma once

#include <stdbool.h>

void terminal_take(void);
bool terminal_is_raw(void);
/* Also where it was not taken. */
void terminal_leave(void);
