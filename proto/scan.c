#include "proto/scan.h"
#include "proto/base.h"
#include "proto/qmp.h"

struct cursor {
	const char *p, *end;
};

/* Which members are looked for, and where they are noted. */
struct wanted {
	const char *const *names;
	struct qmp_span *spans;
	size_t n;
};

static void skip_space(struct cursor *c)
{
	while (c->p < c->end && (*c->p == ' ' || *c->p == '\n' || *c->p == '\r' || *c->p == '\t'))
		c->p++;
}

static bool take_byte(struct cursor *c, char want)
{
	if (c->p == c->end || *c->p != want)
		return false;
	c->p++;
	return true;
}

static bool take(struct cursor *c, char want)
{
	skip_space(c);
	return take_byte(c, want);
}

/* Behind a backslash. */
static bool take_escape(struct cursor *c)
{
	char kind = c->p < c->end ? *c->p++ : '\0';

	if (kind != 'u')
		return kind && strchr("\"\\/bfnrt", kind);
	for (int i = 0; i < 4; i++, c->p++)
		if (c->p == c->end || !*c->p || !strchr("0123456789abcdefABCDEF", *c->p))
			return false;
	return true;
}

/* The string's span without its quotes. */
static bool take_string(struct cursor *c, struct qmp_span *ret)
{
	if (!take(c, '"'))
		return false;
	ret->text = c->p;
	while (c->p < c->end && *c->p != '"') {
		unsigned char ch = (unsigned char)*c->p;
		size_t n = ch < 0x80 ? ch >= ' ' : qmp_character_length(c->p, c->end);
		if (n == 0)
			return false;
		c->p += n;
		if (ch == '\\' && !take_escape(c))
			return false;
	}
	ret->len = (size_t)(c->p - ret->text);
	return take_byte(c, '"');
}

static bool take_digits(struct cursor *c)
{
	const char *start = c->p;

	while (c->p < c->end && *c->p >= '0' && *c->p <= '9')
		c->p++;
	return c->p > start;
}

static bool take_word(struct cursor *c, const char *word)
{
	size_t n = strlen(word);

	if ((size_t)(c->end - c->p) < n || memcmp(c->p, word, n) != 0)
		return false;
	c->p += n;
	return true;
}

/* Also inf and nan, which QEMU writes. */
static bool take_number(struct cursor *c)
{
	(void)take_byte(c, '-');
	if (take_word(c, "inf") || take_word(c, "nan"))
		return true;
	if (!take_byte(c, '0') && !take_digits(c))
		return false;
	if (take_byte(c, '.') && !take_digits(c))
		return false;
	if (!take_byte(c, 'e') && !take_byte(c, 'E'))
		return true;
	if (!take_byte(c, '+'))
		(void)take_byte(c, '-');
	return take_digits(c);
}

static bool note(const struct wanted *w, const struct qmp_span *key, const struct qmp_span *value)
{
	for (size_t i = 0; i < w->n; i++) {
		if (strlen(w->names[i]) != key->len || memcmp(w->names[i], key->text, key->len) != 0)
			continue;
		if (w->spans[i].text)
			return false;
		w->spans[i] = *value;
	}
	return true;
}

static bool take_value(struct cursor *c, size_t depth, struct qmp_span *ret);

/* Behind its brace. */
static bool take_members(struct cursor *c, size_t depth, const struct wanted *w)
{
	if (take(c, '}'))
		return true;
	do {
		struct qmp_span key, value;

		if (!take_string(c, &key) || !take(c, ':') || !take_value(c, depth, &value) || !note(w, &key, &value))
			return false;
	} while (take(c, ','));
	return take(c, '}');
}

/* Behind its bracket. */
static bool take_elements(struct cursor *c, size_t depth)
{
	struct qmp_span value;

	if (take(c, ']'))
		return true;
	do {
		if (!take_value(c, depth, &value))
			return false;
	} while (take(c, ','));
	return take(c, ']');
}

static bool take_value(struct cursor *c, size_t depth, struct qmp_span *ret)
{
	struct qmp_span string;
	bool good;

	skip_space(c);
	ret->text = c->p;
	if (c->p == c->end || depth == QMP_JSON_DEPTH)
		return false;
	if (*c->p == '"')
		good = take_string(c, &string);
	else if (take_byte(c, '{'))
		good = take_members(c, depth + 1, &(struct wanted){0});
	else if (take_byte(c, '['))
		good = take_elements(c, depth + 1);
	else
		good = take_word(c, "true") || take_word(c, "false") || take_word(c, "null") || take_number(c);
	ret->len = (size_t)(c->p - ret->text);
	return good;
}

bool qmp_scan_members(const char *text, size_t len, const char *const *names, struct qmp_span *spans, size_t n)
{
	struct cursor c = {text, text + len};

	memset(spans, 0, n * sizeof *spans);
	return take(&c, '{') && take_members(&c, 1, &(struct wanted){names, spans, n});
}
