/*
 * JSON without loss: what jansson refuses and QEMU sends.
 *
 * One scan over the text before jansson sees it checks the depth and finds the numbers that json_int_t
 * cannot hold (and inf, nan); only when there is one is the text copied, with each such number wrapped as
 * {"$number":"TEXT"}. The encoder unwraps them again. Inside a JSON string the sequence {"$number" cannot
 * stand, since its quotes would be escaped: so the search for it in encoded text finds real wraps alone.
 */
#include "proto/base.h"
#include "proto/qmp.h"

#include <stdio.h>

#define WRAP_KEY   "$number"
#define WRAP_OPEN  "{\"$number\":\""
#define WRAP_CLOSE "\"}"

struct buffer {
	char *data;
	size_t len, size;
};

static int buffer_add(struct buffer *b, const char *text, size_t len)
{
	if (b->size - b->len < len + 1) {
		size_t size = (b->size + len + 64) * 2;
		char *data = realloc(b->data, size);
		if (!data)
			return -ENOMEM;
		b->data = data;
		b->size = size;
	}
	memcpy(b->data + b->len, text, len);
	b->len += len;
	b->data[b->len] = '\0';
	return 0;
}

/* The end of the string that starts with the quote at P, behind its closing quote (or END). */
static const char *skip_string(const char *p, const char *end)
{
	for (p++; p < end; p++) {
		if (*p == '\\')
			p++;
		else if (*p == '"')
			return p + 1;
	}
	return end;
}

static bool is_bare(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '+' || c == '-' ||
	       c == '.';
}

/* Whether the digits of an integer (without sign) exceed LIMIT, compared as text. */
static bool exceeds(const char *digits, size_t n, const char *limit)
{
	size_t m = strlen(limit);

	return n > m || (n == m && memcmp(digits, limit, n) > 0);
}

/* Whether the bare word must be wrapped: an integer outside int64, or inf / nan. */
static bool must_wrap(const char *word, size_t n)
{
	bool negative = n > 0 && *word == '-';
	const char *digits = word + negative;
	size_t m = n - negative;

	if (m == 3 && (memcmp(digits, "inf", 3) == 0 || memcmp(digits, "nan", 3) == 0))
		return true;
	if (m == 0 || (digits[0] == '0' && m > 1))
		return false; /* no JSON number: jansson will say so */
	for (size_t i = 0; i < m; i++)
		if (digits[i] < '0' || digits[i] > '9')
			return false;
	return exceeds(digits, m, negative ? "9223372036854775808" : "9223372036854775807");
}

static int wrap_number(struct buffer *out, const char **copied, const char *word, size_t n)
{
	if (buffer_add(out, *copied, (size_t)(word - *copied)) < 0 ||
	    buffer_add(out, WRAP_OPEN, sizeof WRAP_OPEN - 1) < 0 || buffer_add(out, word, n) < 0 ||
	    buffer_add(out, WRAP_CLOSE, sizeof WRAP_CLOSE - 1) < 0)
		return -ENOMEM;
	*copied = word + n;
	return 0;
}

/* Fills OUT with the text that jansson takes; leaves it empty when the text serves as it is. */
static int prelex(const char *text, size_t len, struct buffer *out, struct qmp_error *err)
{
	const char *p = text, *end = text + len, *copied = text;
	size_t depth = 0;

	while (p < end) {
		if (*p == '"') {
			p = skip_string(p, end);
		} else if (is_bare(*p)) {
			const char *word = p;
			while (p < end && is_bare(*p))
				p++;
			if (must_wrap(word, (size_t)(p - word)) &&
			    wrap_number(out, &copied, word, (size_t)(p - word)) < 0)
				return qmp_error_errno(err, -ENOMEM, "decoding JSON");
		} else {
			if ((*p == '{' || *p == '[') && ++depth > QMP_JSON_DEPTH)
				return qmp_error_set(err, QMP_ERR_LIMIT, -EMSGSIZE,
						     "decoding JSON: nested deeper than %d at byte %zu",
						     QMP_JSON_DEPTH, (size_t)(p - text));
			if ((*p == '}' || *p == ']') && depth > 0)
				depth--;
			p++;
		}
	}
	if (out->len > 0 && buffer_add(out, copied, (size_t)(end - copied)) < 0)
		return qmp_error_errno(err, -ENOMEM, "decoding JSON");
	return 0;
}

json_t *qmp_json_decode(const char *text, size_t len, struct qmp_error *err)
{
	struct buffer wrapped = {0};
	json_error_t why;
	json_t *value;

	if (prelex(text, len, &wrapped, err) < 0) {
		free(wrapped.data);
		return NULL;
	}
	value = json_loadb(wrapped.len > 0 ? wrapped.data : text, wrapped.len > 0 ? wrapped.len : len,
			   JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &why);
	if (!value)
		qmp_error_set(err, QMP_ERR_PROTOCOL, -EPROTO, "JSON: %s (line %d, column %d)", why.text, why.line,
			      why.column);
	free(wrapped.data);
	return value;
}

/* Behind white space. */
static const char *skip_space(const char *p)
{
	while (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r')
		p++;
	return p;
}

/*
 * If a wrapped number opens at P ('{'), its text and the place behind its closing brace; NULL if it is
 * some other object. White space may stand between the tokens (JSON_INDENT).
 */
static const char *match_wrap(const char *p, const char **ret_word, size_t *ret_len)
{
	const char *word;
	size_t n;

	p = skip_space(p + 1);
	if (strncmp(p, "\"" WRAP_KEY "\"", sizeof WRAP_KEY + 1) != 0)
		return NULL;
	p = skip_space(p + sizeof WRAP_KEY + 1);
	if (*p != ':')
		return NULL;
	p = skip_space(p + 1);
	if (*p != '"')
		return NULL;
	word = ++p;
	while (is_bare(*p))
		p++;
	n = (size_t)(p - word);
	if (*p != '"' || !must_wrap(word, n))
		return NULL;
	p = skip_space(p + 1);
	if (*p != '}')
		return NULL;
	*ret_word = word;
	*ret_len = n;
	return p + 1;
}

/* Unwraps in place: the text only becomes shorter. Returns the new length. */
static size_t unwrap(char *text, size_t len)
{
	char *to = text;
	const char *p = text, *end = text + len;

	while (p < end) {
		const char *word, *behind, *start = p;
		size_t n;

		if (*p == '"') {
			p = skip_string(p, end);
		} else if (*p == '{' && (behind = match_wrap(p, &word, &n))) {
			if (word[n - 1] == 'f' || word[n - 1] == 'n') { /* inf, nan: no JSON has them */
				word = "null";
				n = 4;
			}
			memmove(to, word, n);
			to += n;
			p = behind;
			continue;
		} else {
			p++;
		}
		memmove(to, start, (size_t)(p - start));
		to += p - start;
	}
	*to = '\0';
	return (size_t)(to - text);
}

char *qmp_json_encode(const json_t *value, size_t flags, size_t *ret_len)
{
	char *text = json_dumps(value, flags | JSON_ENCODE_ANY);
	size_t len;

	if (!text)
		return NULL;
	len = strlen(text);
	if (strstr(text, "\"" WRAP_KEY "\""))
		len = unwrap(text, len);
	if (ret_len)
		*ret_len = len;
	return text;
}

int qmp_json_u64(const json_t *value, uint64_t *ret)
{
	const char *text;
	char *end;

	if (json_is_integer(value)) {
		if (json_integer_value(value) < 0)
			return -ERANGE;
		*ret = (uint64_t)json_integer_value(value);
		return 0;
	}
	text = json_string_value(json_object_get(value, WRAP_KEY));
	if (!text || !must_wrap(text, strlen(text)))
		return -EINVAL;
	if (*text == '-' || exceeds(text, strlen(text), "18446744073709551615"))
		return -ERANGE;
	*ret = strtoull(text, &end, 10);
	return *end ? -EINVAL : 0;
}
