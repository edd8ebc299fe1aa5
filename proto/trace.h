/*
 * The process's one hook that sees every message (qmp_set_trace). Internal.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* CONNECTION: whose it is, for telling them apart. */
void qmp_trace(const void *connection, bool sent, const char *text, size_t len);
