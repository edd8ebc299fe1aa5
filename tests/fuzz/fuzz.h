/*
 * What the harnesses share. A harness is one file fuzz_NAME.c with LLVMFuzzerTestOneInput; its head comment says how its
 * input is read and what must hold. Linked with libFuzzer (preset fuzz), or with replay.c in every other build.
 */
#pragma once

#include "proto/base.h"
#include "proto/qmp.h"

#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What must hold, whatever the input is. */
#define MUST(cond, ...)                                                                                              \
	do {                                                                                                         \
		if (!(cond)) {                                                                                       \
			fprintf(stderr, "%s:%d: must hold: %s: ", __FILE__, __LINE__, #cond);                        \
			fprintf(stderr, __VA_ARGS__);                                                                \
			fputc('\n', stderr);                                                                         \
			abort();                                                                                     \
		}                                                                                                    \
	} while (0)

/* A copy of exactly LEN bytes, so that a sanitizer sees one byte too far. Never NULL. */
static inline char *exact_copy(const void *data, size_t len)
{
	char *copy = calloc(1, len ? len : 1);

	if (!copy)
		abort();
	if (len)
		memcpy(copy, data, len);
	return copy;
}

/* LEN bytes, and a NUL behind them. */
static inline char *text_copy(const void *data, size_t len)
{
	char *copy = malloc(len + 1);

	if (!copy)
		abort();
	if (len)
		memcpy(copy, data, len);
	copy[len] = '\0';
	return copy;
}

/* The ids of the commands that came, for a script that answers them whatever ids look like. */
struct ids {
	char list[32][40];
	size_t n;
};

/* TEXT: whole commands as the session encodes them. */
static inline void ids_collect(struct ids *ids, const char *text, size_t len)
{
	static const char key[] = "\"id\":\"";
	const char *end = text + len, *at;

	while (ids->n < ARRAY_SIZE(ids->list) && (at = memmem(text, (size_t)(end - text), key, sizeof key - 1))) {
		at += sizeof key - 1;
		text = memchr(at, '"', (size_t)(end - at));
		if (!text || text - at >= (ptrdiff_t)sizeof ids->list[0])
			return;
		memcpy(ids->list[ids->n], at, (size_t)(text - at));
		ids->list[ids->n++][text - at] = '\0';
	}
}

/* LETTER: 'A' for the first. */
static inline const char *ids_get(const struct ids *ids, uint8_t letter)
{
	return letter >= 'A' && letter - 'A' < (int)ids->n ? ids->list[letter - 'A'] : "unknown";
}

/* A failure must say so. */
static inline void must_explain(int r, const struct qmp_error *err)
{
	MUST(r < 0 && err->kind != QMP_ERR_NONE && err->message[0], "%d, kind %d, \"%s\"", r, err->kind, err->message);
}
