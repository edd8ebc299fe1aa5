#include "proto/scan.h"
#include "proto/base.h"
#include "proto/qmp.h"
#include "tests/unit/check.h"

static bool scanned(const char *text, size_t len)
{
	static const char *const names[] = {"a", "b"};
	struct qmp_span spans[2];
	/* Of just that size: reading beyond it is seen by AddressSanitizer. */
	_cleanup_free_ char *copy = malloc(len);

	memcpy(copy, text, len);
	return qmp_scan_members(copy, len, names, spans, 2);
}

static void test_members(void)
{
	static const char *const names[] = {"event", "data", "absent"};
	static const char text[] = " {\"x\": [1, {\"data\": 2}], \"event\" : \"A\\\"B\" ,\"data\":{\"y\": null } }";
	struct qmp_span spans[3];

	CHECK(qmp_scan_members(text, strlen(text), names, spans, 3));
	CHECK(spans[0].len == 6 && memcmp(spans[0].text, "\"A\\\"B\"", 6) == 0);
	CHECK(spans[1].len == 12 && memcmp(spans[1].text, "{\"y\": null }", 12) == 0);
	CHECK(!spans[2].text);
	CHECK(!scanned("{\"a\": 1, \"a\": 2}", 16));
}

/* What is JSON, and what is not, as decoding finds it. */
static void test_agrees_with_decoding(void)
{
	static const char *const values[] = {
		"0", "-0", "12", "1.5", "1e9", "-1.5E-3", "1E+2", "18446744073709551616", "inf", "-inf", "nan", "true", "false", "null",
		"\"\"", "\"\\u00e9\\n\\\\\"", "\"\xc3\xa9\xf0\x9f\x98\x80\"", "[]", "{}", "[[1,2],{\"x\":[]}]", " [ 1 , 2 ] ",
		"", "01", "-", "+1", ".5", "1.", "1e", "1e+", "--1", "0x1", "tru", "truee", "Null", "nonsense", "'x'", "\"", "\"\\x\"",
		"\"\\u12g4\"", "\"\\u12\"", "\"\n\"", "\"\xc3\"", "\"\xff\"", "\"\xc0\x80\"", "\"\xed\xa0\x80\"", "[", "[1", "[1,]", "[,1]", "[1 2]",
		"[1}", "{1}", "{\"x\"}", "{\"x\":}", "{\"x\":1,}", "{\"x\" 1}", "{x:1}", "1 2", "]", "}",
	};

	for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
		_cleanup_free_ char *text = qmp_asprintf("{\"x\": %s}", values[i]);
		json_auto_t *value = qmp_json_decode(text, strlen(text), NULL);
		if (scanned(text, strlen(text)) != (value != NULL))
			check_fail(__FILE__, __LINE__, text, value ? "JSON" : "no JSON", "the other");
		for (size_t n = 0; n < strlen(text); n++)
			CHECK(!scanned(text, n));
	}
}

static void test_depth(void)
{
	char text[2 * QMP_JSON_DEPTH + 20] = "{\"x\":";

	for (int depth = QMP_JSON_DEPTH - 1; depth <= QMP_JSON_DEPTH; depth++) {
		memset(text + 5, '[', (size_t)depth);
		memset(text + 5 + depth, ']', (size_t)depth);
		strcpy(text + 5 + 2 * depth, "}");
		CHECK_INT(scanned(text, strlen(text)), depth < QMP_JSON_DEPTH);
	}
}

int main(void)
{
	RUN(test_members);
	RUN(test_agrees_with_decoding);
	RUN(test_depth);
	return 0;
}
