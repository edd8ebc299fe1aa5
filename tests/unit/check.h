/*
 * The unit tests' checks. A failing one says what was expected and what came, and ends the test.
 * A test program is one file: static functions, and a main that runs each by RUN().
 */
#pragma once

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline void check_fail(const char *file, int line, const char *what, const char *want, const char *got)
{
	fprintf(stderr, "%s:%d: %s\n  expected: %s\n  came:     %s\n", file, line, what, want, got);
	exit(1);
}

#define CHECK(cond)                                                                                          \
	do {                                                                                                 \
		if (!(cond))                                                                                 \
			check_fail(__FILE__, __LINE__, "CHECK", #cond, "false");                             \
	} while (0)

#define CHECK_INT(got, want)                                                                                 \
	do {                                                                                                 \
		long long g_ = (long long)(got), w_ = (long long)(want);                                     \
		if (g_ != w_) {                                                                              \
			char gs_[32], ws_[32];                                                               \
			snprintf(gs_, sizeof gs_, "%lld", g_);                                               \
			snprintf(ws_, sizeof ws_, "%lld", w_);                                               \
			check_fail(__FILE__, __LINE__, #got, ws_, gs_);                                      \
		}                                                                                            \
	} while (0)

#define CHECK_STR(got, want)                                                                                 \
	do {                                                                                                 \
		const char *g_ = (got), *w_ = (want);                                                        \
		if (!g_ || !w_ || strcmp(g_, w_) != 0)                                                       \
			check_fail(__FILE__, __LINE__, #got, w_ ? w_ : "(null)", g_ ? g_ : "(null)");        \
	} while (0)

#define CHECK_CONTAINS(got, part)                                                                            \
	do {                                                                                                 \
		const char *g_ = (got), *p_ = (part);                                                        \
		if (!g_ || !strstr(g_, p_))                                                                  \
			check_fail(__FILE__, __LINE__, #got " contains", p_, g_ ? g_ : "(null)");            \
	} while (0)

#define RUN(test)                                                                                            \
	do {                                                                                                 \
		fprintf(stderr, "-- %s\n", #test);                                                           \
		test();                                                                                      \
	} while (0)
