#include "proto/base64.h"
#include "proto/base.h"
#include "tests/unit/check.h"

/* RFC 4648, section 10. */
static const struct {
	const char *bytes, *text;
} vectors[] = {{"", ""}, {"f", "Zg=="}, {"fo", "Zm8="}, {"foo", "Zm9v"}, {"foob", "Zm9vYg=="}, {"fooba", "Zm9vYmE="},
	       {"foobar", "Zm9vYmFy"}};

static void test_vectors(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(vectors); i++) {
		_cleanup_free_ char *text = qmp_base64_encode(vectors[i].bytes, strlen(vectors[i].bytes)), *bytes = NULL;
		size_t len;

		CHECK_STR(text, vectors[i].text);
		CHECK_INT(qmp_base64_decode(vectors[i].text, &bytes, &len), 0);
		CHECK_INT(len, strlen(vectors[i].bytes));
		CHECK_STR(bytes, vectors[i].bytes);
	}
}

static void test_every_byte_at_every_length(void)
{
	unsigned char all[256];

	for (size_t i = 0; i < sizeof all; i++)
		all[i] = (unsigned char)(255 - i);
	for (size_t n = 0; n <= sizeof all; n++) {
		_cleanup_free_ char *text = qmp_base64_encode(all, n), *bytes = NULL;
		size_t len;

		CHECK_INT(strlen(text), (n + 2) / 3 * 4);
		CHECK_INT(qmp_base64_decode(text, &bytes, &len), 0);
		CHECK_INT(len, n);
		CHECK(memcmp(bytes, all, n) == 0);
	}
}

static void test_what_is_no_base64(void)
{
	static const char *const wrong[] = {"Z",	"Zg",	"Zg=",	 "Zg=a", "=g==",     "Z===", "====",
					    "Zm9v\n", "Zm 9v", "Zm9v=", "Zg==Zg==", "Zm9-", "Zm9\xff"};

	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		char *bytes = NULL;
		size_t len;

		CHECK_INT(qmp_base64_decode(wrong[i], &bytes, &len), -EINVAL);
		CHECK(!bytes);
	}
}

int main(void)
{
	RUN(test_vectors);
	RUN(test_every_byte_at_every_length);
	RUN(test_what_is_no_base64);
	return 0;
}
