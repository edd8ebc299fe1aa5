#include "proto/base.h"
#include "proto/qmp.h"
#include "tests/unit/check.h"

/* Feeds TEXT in pieces of CHUNK bytes; the messages, joined by '|'. Ends with "!" where the stream was refused. */
static void cut(const char *text, size_t len, size_t chunk, size_t max, char *out)
{
	struct qmp_framer *f = qmp_framer_new(max);
	size_t at = 0;

	*out = '\0';
	while (at < len) {
		const char *message;
		size_t size, n;
		char *place = qmp_framer_reserve(f, &size);
		int r;

		n = len - at < chunk ? len - at : chunk;
		n = n < size ? n : size;
		memcpy(place, text + at, n);
		qmp_framer_commit(f, n);
		at += n;
		while ((r = qmp_framer_next(f, &message, &n, NULL)) == 1) {
			strncat(out, message, n);
			strcat(out, "|");
		}
		if (r < 0) {
			strcat(out, "!");
			break;
		}
	}
	qmp_framer_free(f);
}

static void test_any_chunking(void)
{
	static const char text[] = " {\"a\":\"}{\\\"\"}\r\n{\"b\":[{},[1]]}{}\n";
	char out[200];

	for (size_t chunk = 1; chunk <= sizeof text; chunk++) {
		cut(text, sizeof text - 1, chunk, 0, out);
		CHECK_STR(out, "{\"a\":\"}{\\\"\"}|{\"b\":[{},[1]]}|{}|");
	}
}

static void test_resynchronises(void)
{
	char out[200];

	cut("{\"half\":\"\xff{\"a\":1}", 17, 3, 0, out);
	CHECK_STR(out, "{\"a\":1}|");
}

static void test_garbage_is_refused(void)
{
	char out[200];

	cut("{}x", 3, 1, 0, out);
	CHECK_STR(out, "{}|!");
	cut("[1]", 3, 3, 0, out);
	CHECK_STR(out, "!");
}

static void test_limits(void)
{
	char long_text[400], out[500];

	memset(long_text, ' ', sizeof long_text);
	memcpy(long_text, "{\"a\":\"", 6);
	memset(long_text + 6, 'x', sizeof long_text - 6);
	cut(long_text, sizeof long_text, 7, 100, out);
	CHECK_STR(out, "!");
}

static void test_large_message_byte_by_byte(void)
{
	size_t len = (size_t)16 << 20, n = 0;
	struct qmp_framer *f = qmp_framer_new(0);
	const char *message;
	int r = 0;

	for (size_t i = 0; i < len; i++) {
		size_t size;
		char *place = qmp_framer_reserve(f, &size);
		*place = i == 0 ? '{' : i == len - 1 ? '}' : ' ';
		qmp_framer_commit(f, 1);
		r = qmp_framer_next(f, &message, &n, NULL);
		CHECK(r >= 0);
	}
	CHECK_INT(r, 1);
	CHECK_INT(n, len);
	qmp_framer_free(f);
}

int main(void)
{
	RUN(test_any_chunking);
	RUN(test_resynchronises);
	RUN(test_garbage_is_refused);
	RUN(test_limits);
	RUN(test_large_message_byte_by_byte);
	return 0;
}
