#include "proto/scan.h"
#include "proto/base.h"

struct cursor {
	const char *p, *end;
};

static void skip_space(struct cursor *c)
{
	while (c->p < c->end && strchr(" \t\r\n", *c->p) && *c->p)
		c->p++;
}

static bool take(struct cursor *c, char want)
{
	skip_space(c);
	if (c->p == c->end || *c->p != want)
		return false;
	c->p++;
	return true;
}

/* At a quote: the string's span without its quotes. */
static bool take_string(struct cursor *c, struct qmp_span *ret)
{
	if (!take(c, '"'))
		return false;
	ret->text = c->p;
	while (c->p < c->end && *c->p != '"')
		c->p += *c->p == '\\' ? 2 : 1;
	if (c->p >= c->end)
		return false;
	ret->len = (size_t)(c->p++ - ret->text);
	return true;
}

static bool take_value(struct cursor *c, struct qmp_span *ret)
{
	size_t depth = 0;

	skip_space(c);
	ret->text = c->p;
	while (c->p < c->end) {
		struct qmp_span string;
		char ch = *c->p;

		if (ch == '"') {
			if (!take_string(c, &string))
				return false;
			continue;
		}
		if (depth == 0 && (ch == ',' || ch == '}' || ch == ']'))
			break;
		if (ch == '{' || ch == '[')
			depth++;
		else if (ch == '}' || ch == ']')
			depth--;
		c->p++;
	}
	ret->len = (size_t)(c->p - ret->text);
	while (ret->len > 0 && strchr(" \t\r\n", ret->text[ret->len - 1]))
		ret->len--;
	return ret->len > 0 && c->p < c->end;
}

static bool note(const struct qmp_span *key, const struct qmp_span *value, const char *const *names,
		 struct qmp_span *spans, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (strlen(names[i]) != key->len || memcmp(names[i], key->text, key->len) != 0)
			continue;
		if (spans[i].text)
			return false;
		spans[i] = *value;
	}
	return true;
}

bool qmp_scan_members(const char *text, size_t len, const char *const *names, struct qmp_span *spans, size_t n)
{
	struct cursor c = {text, text + len};

	memset(spans, 0, n * sizeof *spans);
	if (!take(&c, '{'))
		return false;
	if (take(&c, '}'))
		return true;
	do {
		struct qmp_span key, value;

		if (!take_string(&c, &key) || !take(&c, ':') || !take_value(&c, &value) ||
		    !note(&key, &value, names, spans, n))
			return false;
	} while (take(&c, ','));
	return take(&c, '}');
}
