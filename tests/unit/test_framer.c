#include "proto/base.h"
#include "proto/framer.h"
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

#define SMALL "{\"a\":\"}{\\\"\\\\\",\"b\":[{}]}\r\n"

/* Small messages with what may mislead, or one large with them inside. */
static char *long_text(size_t len, bool one_message)
{
	char *text = malloc(len);
	size_t n = sizeof SMALL - 1;

	CHECK(text);
	memset(text, ' ', len);
	for (size_t at = one_message ? n : 0; at + n < len; at += n)
		memcpy(text + at, SMALL, n);
	if (one_message) {
		text[0] = '{';
		text[len - 1] = '}';
	}
	return text;
}

/* Feeds TEXT in chunks; how many messages, how many bytes of work. */
static uint64_t work_of(const char *text, size_t len, size_t chunk, size_t *ret_messages)
{
	struct qmp_framer *f = qmp_framer_new(0);
	size_t at = 0, n, size;
	uint64_t work;

	*ret_messages = 0;
	while (at < len) {
		const char *message;
		char *place = qmp_framer_reserve(f, &size);
		int r;

		CHECK(place && size > 0);
		n = len - at < chunk ? len - at : chunk;
		n = n < size ? n : size;
		memcpy(place, text + at, n);
		qmp_framer_commit(f, n);
		at += n;
		while ((r = qmp_framer_next(f, &message, &size, NULL)) == 1)
			(*ret_messages)++;
		CHECK_INT(r, 0);
	}
	work = qmp_framer_work(f);
	qmp_framer_free(f);
	return work;
}

/* Each byte is looked at once, and moved or copied a few times at most, whatever the chunks: counted, not timed. */
static void test_linear_whatever_the_chunks(void)
{
	static const size_t chunks[] = {1, 4095, 65536};
	const size_t len = (size_t)16 << 20;

	for (int one_message = 0; one_message <= 1; one_message++) {
		char *text = long_text(len, one_message);

		for (size_t i = 0; i < ARRAY_SIZE(chunks); i++) {
			size_t messages;
			uint64_t work = work_of(text, len, chunks[i], &messages);

			CHECK(one_message ? messages == 1 : messages > 100000);
			CHECK(work >= len); /* what the counter is for does count */
			CHECK(work <= 4 * (uint64_t)len);
		}
		free(text);
	}
}

int main(void)
{
	RUN(test_any_chunking);
	RUN(test_resynchronises);
	RUN(test_garbage_is_refused);
	RUN(test_limits);
	RUN(test_linear_whatever_the_chunks);
	return 0;
}
