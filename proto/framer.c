/*
 * Cutting a byte stream into JSON objects. Each byte is looked at once; the state between two bytes is
 * (in a string?, behind a backslash?, depth). It does not judge what stands inside: that is decoding.
 */
#include "proto/base.h"
#include "proto/qmp.h"

#include <stdio.h>

#define FRAMER_FIRST 4096
/* A buffer larger than this is given back once it is empty. */
#define FRAMER_KEEP (64 * 1024)

struct qmp_framer {
	char *data;
	size_t size;    /* of data */
	size_t start;   /* the first byte that is not given away */
	size_t scanned; /* up to here the state below is true */
	size_t len;     /* of what was read */
	size_t max;
	size_t depth;
	bool in_string, escaped;
};

struct qmp_framer *qmp_framer_new(size_t max_message)
{
	struct qmp_framer *f = calloc(1, sizeof *f);

	if (f)
		f->max = max_message ? max_message : QMP_MESSAGE_MAX;
	return f;
}

void qmp_framer_free(struct qmp_framer *f)
{
	if (!f)
		return;
	free(f->data);
	free(f);
}

/* Moves what is left to the front. Amortised: only when at least half of the buffer is given away. */
static void compact(struct qmp_framer *f)
{
	if (f->start == f->len) {
		f->start = f->scanned = f->len = 0;
		if (f->size > FRAMER_KEEP) {
			free(f->data);
			f->data = NULL;
			f->size = 0;
		}
	} else if (f->start >= f->size / 2) {
		memmove(f->data, f->data + f->start, f->len - f->start);
		f->scanned -= f->start;
		f->len -= f->start;
		f->start = 0;
	}
}

void *qmp_framer_reserve(struct qmp_framer *f, size_t *ret_size)
{
	compact(f);
	if (f->len == f->size) {
		size_t size = f->size ? f->size * 2 : FRAMER_FIRST;
		char *data = realloc(f->data, size);
		if (!data)
			return NULL;
		f->data = data;
		f->size = size;
	}
	*ret_size = f->size - f->len;
	return f->data + f->len;
}

void qmp_framer_commit(struct qmp_framer *f, size_t n)
{
	f->len += n;
}

static void reset_state(struct qmp_framer *f)
{
	f->depth = 0;
	f->in_string = f->escaped = false;
}

static bool is_space(char c)
{
	return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

static int refuse_byte(const struct qmp_framer *f, struct qmp_error *err)
{
	char excerpt[4 * 24 + 1], *to = excerpt;

	for (size_t i = f->scanned; i < f->len && i < f->scanned + 24; i++) {
		unsigned char c = (unsigned char)f->data[i];
		to += c >= ' ' && c < 127 ? sprintf(to, "%c", c) : sprintf(to, "\\x%02x", c);
	}
	*to = '\0';
	return qmp_error_set(err, QMP_ERR_PROTOCOL, -EPROTO, "expected a JSON object, came \"%s\"", excerpt);
}

/* Takes one byte into the state. 1: it ends a message; 0: go on; negative: the stream is bad. */
static int step(struct qmp_framer *f, char c, struct qmp_error *err)
{
	if (f->in_string) {
		if (f->escaped)
			f->escaped = false;
		else if (c == '\\')
			f->escaped = true;
		else if (c == '"')
			f->in_string = false;
		return 0;
	}
	if (f->depth == 0 && c != '{')
		return is_space(c) ? 0 : refuse_byte(f, err);
	if (c == '"') {
		f->in_string = true;
	} else if (c == '{' || c == '[') {
		if (++f->depth > QMP_JSON_DEPTH)
			return qmp_error_set(err, QMP_ERR_LIMIT, -EMSGSIZE, "a message nests deeper than %d",
					     QMP_JSON_DEPTH);
	} else if (c == '}' || c == ']') {
		return --f->depth == 0;
	}
	return 0;
}

int qmp_framer_next(struct qmp_framer *f, const char **ret_text, size_t *ret_len, struct qmp_error *err)
{
	while (f->scanned < f->len) {
		char c = f->data[f->scanned];
		int r;

		if ((unsigned char)c == 0xff) {
			reset_state(f);
			f->start = ++f->scanned;
			continue;
		}
		r = step(f, c, err);
		if (r < 0)
			return r;
		f->scanned++;
		if (r == 1) {
			*ret_text = f->data + f->start;
			*ret_len = f->scanned - f->start;
			f->start = f->scanned;
			return 1;
		}
		if (f->depth == 0)
			f->start = f->scanned;
	}
	if (f->len - f->start > f->max)
		return qmp_error_set(err, QMP_ERR_LIMIT, -EMSGSIZE, "a message is longer than %zu bytes", f->max);
	return 0;
}
