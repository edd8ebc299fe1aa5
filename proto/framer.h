/*
 * What the library itself needs of the framer beyond qmp.h. Internal.
 */
#pragma once

#include "proto/qmp.h"

/* A message has begun and not ended. */
bool qmp_framer_is_inside(const struct qmp_framer *f);
/*
 * After an error of next(): drops what is there up to the end of the line (or 0xFF), also where that is
 * still to come, so that a server can go on with the next command as QEMU does.
 */
void qmp_framer_skip_line(struct qmp_framer *f);
/* Drops what is there and what comes, up to the next 0xFF; also after an error of next(). Takes no memory. */
void qmp_framer_skip_to_resync(struct qmp_framer *f);

/* How many bytes were looked at, and how many moved or copied, so far: that both are linear is tested by it. */
uint64_t qmp_framer_work(const struct qmp_framer *f);

/* TEXT for an error message: unprintable bytes as \xNN; cut with "..." where SIZE is too small. */
void qmp_excerpt(char *to, size_t size, const char *text, size_t len);
