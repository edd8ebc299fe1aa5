/*
 * JSON without loss: what jansson refuses and QEMU sends.
 *
 * One scan over the text before jansson sees it checks the depth and finds the numbers that json_int_t and double
 * cannot hold (and inf, nan); only when there is one is the text copied, with each such number wrapped as
 * {"$number":"TEXT"}. The encoder unwraps them again. Inside a JSON string the sequence {"$number" cannot
 * stand, since its quotes would be escaped: so the search for it in encoded text finds real wraps alone.
 */
#include "proto/base.h"
#include "proto/qmp.h"

#include <limits.h>

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

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static size_t count_digits(const char *p, const char *end)
{
	const char *start = p;

	while (p < end && is_digit(*p))
		p++;
	return (size_t)(p - start);
}

/* The exponent behind the 'e' of a number, within +-EXPONENT_MAX; INT_MIN: there is none. */
#define EXPONENT_MAX 100000000
static int read_exponent(const char *p, const char *end)
{
	bool negative = p < end && *p == '-';
	int value = 0;

	p += p < end && (*p == '-' || *p == '+');
	if (p == end || count_digits(p, end) != (size_t)(end - p))
		return INT_MIN;
	for (; p < end; p++)
		value = value > EXPONENT_MAX / 10 ? EXPONENT_MAX : value * 10 + (*p - '0');
	return negative ? -value : value;
}

/*
 * Whether a number with a fraction or an exponent (without its sign, WHOLE digits before either) reaches 1e308: a
 * little below what a double can hold, decided without the locale's strtod.
 */
static bool real_exceeds(const char *digits, size_t n, size_t whole)
{
	const char *p = digits + whole, *end = digits + n, *first = digits;
	long long magnitude = (long long)whole; /* the value is below ten to that power */
	int exponent = 0;

	if (p < end && *p == '.') {
		size_t fraction = count_digits(p + 1, end);
		if (fraction == 0)
			return false;
		p += 1 + fraction;
	}
	while (first < p && (*first == '0' || *first == '.'))
		first++;
	if (first == p)
		return false; /* zero, whatever its exponent */
	if (first > digits)
		magnitude = -(first - (digits + sizeof "0." - 1));
	if (p < end && (*p == 'e' || *p == 'E')) {
		exponent = read_exponent(p + 1, end);
		p = end;
	}
	return p == end && exponent != INT_MIN && magnitude + exponent > 308;
}

/* Whether the bare word must be wrapped: an integer outside int64, a real that no double holds, inf, nan. */
static bool must_wrap(const char *word, size_t n)
{
	bool negative = n > 0 && *word == '-';
	const char *digits = word + negative;
	size_t m = n - negative, whole = count_digits(digits, digits + m);

	if (m == 3 && (memcmp(digits, "inf", 3) == 0 || memcmp(digits, "nan", 3) == 0))
		return true;
	if (whole == 0 || (*digits == '0' && whole > 1))
		return false; /* no JSON number: jansson will say so */
	if (whole < m)
		return real_exceeds(digits, m, whole);
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
	json_error_t why = {0};
	json_t *value;

	if (prelex(text, len, &wrapped, err) < 0) {
		free(wrapped.data);
		return NULL;
	}
	value = json_loadb(wrapped.len > 0 ? wrapped.data : text, wrapped.len > 0 ? wrapped.len : len,
			   JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &why);
	if (!value && !*why.text) /* jansson says nothing when memory is out */
		qmp_error_errno(err, -ENOMEM, "decoding JSON");
	else if (!value)
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

struct dump {
	struct buffer text;
	int r; /* the first failure: jansson goes on behind that of a key, and would end in half an object */
};

static int on_dump(const char *text, size_t len, void *data)
{
	struct dump *d = data;

	if (d->r == 0)
		d->r = buffer_add(&d->text, text, len);
	return d->r;
}

char *qmp_json_encode(const json_t *value, size_t flags, size_t *ret_len)
{
	struct dump d = {0};

	if (json_dump_callback(value, on_dump, &d, flags | JSON_ENCODE_ANY) < 0 || d.r < 0 || d.text.len == 0) {
		free(d.text.data);
		return NULL;
	}
	if (strstr(d.text.data, "\"" WRAP_KEY "\""))
		d.text.len = unwrap(d.text.data, d.text.len);
	if (ret_len)
		*ret_len = d.text.len;
	return d.text.data;
}

int qmp_json_u64(const json_t *value, uint64_t *ret)
{
	const char *text;

	if (json_is_integer(value)) {
		if (json_integer_value(value) < 0)
			return -ERANGE;
		*ret = (uint64_t)json_integer_value(value);
		return 0;
	}
	text = json_string_value(json_object_get(value, WRAP_KEY));
	if (!text || !must_wrap(text, strlen(text)) || strspn(text, "-0123456789") != strlen(text))
		return -EINVAL;
	if (*text == '-' || exceeds(text, strlen(text), "18446744073709551615"))
		return -ERANGE;
	*ret = strtoull(text, NULL, 10);
	return 0;
}

json_t *qmp_json_text(const char *text)
{
	struct buffer mended = {0};
	const char *end = text ? text + strlen(text) : NULL;
	json_t *value;
	int r = buffer_add(&mended, "", 0);

	while (r == 0 && text < end) {
		const char *good = text;
		for (size_t n; text < end && (n = qmp_character_length(text, end)) > 0; text += n)
			;
		r = buffer_add(&mended, good, (size_t)(text - good));
		if (r == 0 && text < end) {
			r = buffer_add(&mended, "\xef\xbf\xbd", 3);
			text++;
		}
	}
	value = r == 0 ? json_stringn(mended.data, mended.len) : NULL;
	free(mended.data);
	return value;
}
