/*
 * The floor that every folder stands on: ownership made visible.
 *
 * Owns: cleanup attributes, hand-over helpers, small helpers for strings, text in UTF-8 and members of objects.
 * Does not own: errors (qmp.h), anything that knows of QMP. Not installed.
 */
#pragma once

#include <errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define UNUSED(x)     ((void)(x))

/* The struct of TYPE whose MEMBER is at PTR. */
#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

static inline void qmp_cleanup_free(void *p)
{
	free(*(void **)p);
}

static inline void qmp_cleanup_fd(const int *fd)
{
	if (*fd >= 0) {
		int saved = errno;
		(void)close(*fd);
		errno = saved;
	}
}

/* Freed / closed when the variable leaves its scope. */
#define _cleanup_free_ __attribute__((cleanup(qmp_cleanup_free)))
#define _cleanup_fd_   __attribute__((cleanup(qmp_cleanup_fd)))

#define _printf_(fmt, args) __attribute__((format(printf, fmt, args)))

/* Hands over what a cleanup variable owns. */
static inline void *qmp_take_ptr(void *pp)
{
	void *p = *(void **)pp;
	*(void **)pp = NULL;
	return p;
}
#define take_ptr(p) ((__typeof__(p))qmp_take_ptr(&(p)))

static inline int take_fd(int *fd)
{
	int f = *fd;
	*fd = -1;
	return f;
}

static inline bool streq(const char *a, const char *b)
{
	return strcmp(a, b) == 0;
}

/* The string, or the integer, behind KEY; NULL, or 0, where there is none. */
static inline const char *text_of(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

static inline json_int_t int_of(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

/* printf into a new string; NULL only when memory is out. */
char *qmp_asprintf(const char *fmt, ...) _printf_(1, 2);

/* How many bytes the character of UTF-8 at P has; 0: what stands there before END is none. */
size_t qmp_character_length(const char *p, const char *end);

/*
 * The entry of CHOICES that is nearest to WORD by edit distance, or NULL where none is near enough to
 * be what somebody meant: more than a third of the word off, of two characters more than one. CHOICES ends with NULL.
 */
const char *qmp_nearest(const char *word, const char *const *choices);
