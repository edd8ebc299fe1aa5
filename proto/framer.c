/*
 * Cutting a byte stream into JSON objects. Each byte is looked at once; the state between two bytes is
 * (in a string?, behind a backslash?, depth). It does not judge what stands inside: that is decoding.
 */
#include "proto/framer.h"
#include "proto/base.h"

#include <inttypes.h>
#include <stdio.h>

#define FRAMER_FIRST 4096
/* A buffer larger than this is given back once it is empty. */
#define FRAMER_KEEP (64 * 1024)
/* Of what is wrong, how much an error shows. */
#define EXCERPT 24

struct qmp_framer {
	char *data;
	size_t size;    /* of data */
	size_t start;   /* the first byte that is not given away */
	size_t scanned; /* up to here the state below is true */
	size_t len;     /* of what was read */
	size_t max;
	uint64_t offset; /* of data[0] in the stream */
	uint64_t work;   /* bytes looked at, moved, copied */
	size_t depth;
	bool in_string, escaped;
	enum { NOT_SKIPPING, TO_LINE_END, TO_RESYNC } skipping;
};

/* What a byte may mean. */
enum { QUOTE = 1, BACKSLASH = 2, OPEN = 4, CLOSE = 8, RESYNC = 16 };

static const unsigned char meanings[256] = {
	['"'] = QUOTE, ['\\'] = BACKSLASH, ['{'] = OPEN,  ['['] = OPEN,
	['}'] = CLOSE, [']'] = CLOSE,      [0xff] = RESYNC,
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
	if (f->start < f->len && f->start < f->size / 2)
		return;
	if (f->start == f->len && f->size > FRAMER_KEEP) {
		free(take_ptr(f->data));
		f->size = 0;
	}
	if (f->start > 0 && f->start < f->len) {
		memmove(f->data, f->data + f->start, f->len - f->start);
		f->work += f->len - f->start;
	}
	f->offset += f->start;
	f->scanned -= f->start;
	f->len -= f->start;
	f->start = 0;
}

void *qmp_framer_reserve(struct qmp_framer *f, size_t *ret_size)
{
	compact(f);
	if (f->len == f->size) {
		size_t size = f->size ? f->size * 2 : FRAMER_FIRST;
		char *data = realloc(f->data, size);
		if (!data)
			return NULL;
		f->work += f->len;
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

uint64_t qmp_framer_work(const struct qmp_framer *f)
{
	return f->work;
}

bool qmp_framer_is_inside(const struct qmp_framer *f)
{
	return f->depth > 0;
}

void qmp_excerpt(char *to, size_t size, const char *text, size_t len)
{
	char *end = to + size - sizeof "...";

	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)text[i];
		if (end - to < 4) {
			strcpy(to, "...");
			return;
		}
		to += c >= ' ' && c < 127 ? sprintf(to, "%c", c) : sprintf(to, "\\x%02x", c);
	}
	*to = '\0';
}

/* Forgets the message that is half read; the next begins where the scan stands. */
static void start_anew(struct qmp_framer *f)
{
	f->start = f->scanned;
	f->depth = 0;
	f->in_string = f->escaped = false;
}

void qmp_framer_skip_line(struct qmp_framer *f)
{
	start_anew(f);
	f->skipping = TO_LINE_END;
}

void qmp_framer_skip_to_resync(struct qmp_framer *f)
{
	start_anew(f);
	f->skipping = TO_RESYNC;
}

static void skip(struct qmp_framer *f)
{
	while (f->skipping && f->scanned < f->len) {
		unsigned char c = (unsigned char)f->data[f->scanned++];
		if (c == 0xff || (c == '\n' && f->skipping == TO_LINE_END))
			f->skipping = NOT_SKIPPING;
	}
	f->start = f->scanned;
}

static bool is_space(char c)
{
	return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

static int refuse_byte(const struct qmp_framer *f, struct qmp_error *err)
{
	char excerpt[4 * EXCERPT + 4];
	size_t n = f->len - f->scanned;

	qmp_excerpt(excerpt, sizeof excerpt, f->data + f->scanned, n < EXCERPT ? n : EXCERPT);
	return qmp_error_set(err, QMP_ERR_PROTOCOL, -EPROTO, "expected a JSON object at byte %" PRIu64 ", came \"%s\"",
			     f->offset + f->scanned, excerpt);
}

/* To the brace that opens the next message. 1: it is there; 0: nothing more was read; negative: something else is. */
static int find_start(struct qmp_framer *f, struct qmp_error *err)
{
	for (; f->scanned < f->len; f->scanned++, f->work++) {
		char c = f->data[f->scanned];
		if (c == '{')
			break;
		if (!is_space(c) && (unsigned char)c != 0xff)
			return refuse_byte(f, err);
	}
	f->start = f->scanned;
	return f->scanned < f->len;
}

/* To the next byte that changes the state, which it returns; NULL: nothing more was read. */
static const char *find_next(struct qmp_framer *f)
{
	const char *p = f->data + f->scanned, *end = f->data + f->len;
	unsigned char wanted = f->in_string ? QUOTE | BACKSLASH | RESYNC : QUOTE | OPEN | CLOSE | RESYNC;

	if (f->escaped && p < end && (unsigned char)*p != 0xff) {
		f->escaped = false;
		p++;
	}
	while (p < end && !(meanings[(unsigned char)*p] & wanted))
		p++;
	f->work += (size_t)(p - f->data) - f->scanned;
	f->scanned = (size_t)(p - f->data);
	return p < end ? p : NULL;
}

static int refuse_size(const struct qmp_framer *f, struct qmp_error *err)
{
	if (f->depth > QMP_JSON_DEPTH)
		return qmp_error_set(err, QMP_ERR_LIMIT, -EMSGSIZE, "a message nests deeper than %d", QMP_JSON_DEPTH);
	return qmp_error_set(err, QMP_ERR_LIMIT, -EMSGSIZE, "a message is longer than %zu bytes", f->max);
}

/* Takes one byte that means something into the state. */
static void step(struct qmp_framer *f, unsigned char meaning)
{
	f->scanned++;
	f->work++;
	if (meaning == RESYNC)
		start_anew(f);
	else if (meaning == QUOTE)
		f->in_string = !f->in_string;
	else if (meaning == BACKSLASH)
		f->escaped = true;
	else if (meaning == OPEN)
		f->depth++;
	else
		f->depth--;
}

int qmp_framer_next(struct qmp_framer *f, const char **ret_text, size_t *ret_len, struct qmp_error *err)
{
	if (f->skipping)
		skip(f);
	for (;;) {
		const char *p;
		int r = 1;

		if (f->depth == 0 && (r = find_start(f, err)) <= 0)
			return r;
		p = find_next(f);
		if (p)
			step(f, meanings[(unsigned char)*p]);
		if (f->depth > QMP_JSON_DEPTH || f->scanned - f->start > f->max)
			return refuse_size(f, err);
		if (!p)
			return 0;
		if (f->depth > 0 || f->start == f->scanned)
			continue;
		*ret_text = f->data + f->start;
		*ret_len = f->scanned - f->start;
		f->start = f->scanned;
		return 1;
	}
}
