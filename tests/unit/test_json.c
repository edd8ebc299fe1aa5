#include "proto/base.h"
#include "proto/qmp.h"
#include "tests/unit/check.h"

/* Decoding and encoding gives TEXT again. */
static void same(const char *text)
{
	struct qmp_error err = {0};
	json_t *value = qmp_json_decode(text, strlen(text), &err);
	char *again;

	if (!value)
		check_fail(__FILE__, __LINE__, text, "a value", err.message);
	again = qmp_json_encode(value, JSON_COMPACT, NULL);
	CHECK_STR(again, text);
	free(again);
	json_decref(value);
}

static void refused(const char *text, size_t len, const char *why)
{
	struct qmp_error err = {0};

	CHECK(!qmp_json_decode(text, len, &err));
	CHECK_CONTAINS(err.message, why);
}

static void test_numbers_are_exact(void)
{
	same("[0,-1,9223372036854775807,-9223372036854775808]");
	same("[9223372036854775808,18446744073709551615]");
	same("[-9223372036854775809,123456789012345678901234567890]");
	same("{\"size\":18446744073709551615,\"x\":[18446744073709551614]}");
}

static void test_reals_beyond_double(void)
{
	json_t *v;

	same("[1e400,-1E+400,12345e9999999999999999999,0.00001e400,9.5e308,{\"x\":-1e309}]");
	v = qmp_json_decode("[0e400,0.00e99999,1e-400,1.5e307,0.001e309]", 43, NULL);
	for (size_t i = 0; i < 5; i++)
		CHECK(json_is_real(json_array_get(v, i)));
	CHECK(json_real_value(json_array_get(v, 3)) == 1.5e307);
	json_decref(v);
	refused("[1e400x]", 8, "JSON");
	refused("[1e+]", 5, "JSON");
	refused("[.1e400]", 8, "JSON");
	refused("[1.e400]", 8, "JSON");
	refused("[01e400]", 8, "JSON");
	refused("[1e4.00]", 8, "JSON");
}

static void test_text(void)
{
	static const struct {
		const char *given, *want;
	} cases[] = {
		{NULL, ""},
		{"", ""},
		{"h\xc3\xa9\xe2\x82\xac\xf0\x9f\x90\xa7", "h\xc3\xa9\xe2\x82\xac\xf0\x9f\x90\xa7"},
		{"\xff/\xc3", "\xef\xbf\xbd/\xef\xbf\xbd"},
		{"\xc0\x80", "\xef\xbf\xbd\xef\xbf\xbd"},
		{"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
		{"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
		{"\xe2\x82", "\xef\xbf\xbd\xef\xbf\xbd"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		json_t *v = qmp_json_text(cases[i].given);
		CHECK_STR(json_string_value(v), cases[i].want);
		json_decref(v);
	}
}

static void test_u64(void)
{
	json_t *v = qmp_json_decode("[18446744073709551615,7,-7,18446744073709551616]", 48, NULL);
	uint64_t n;

	CHECK_INT(qmp_json_u64(json_array_get(v, 0), &n), 0);
	CHECK(n == UINT64_MAX);
	CHECK_INT(qmp_json_u64(json_array_get(v, 1), &n), 0);
	CHECK_INT(n, 7);
	CHECK_INT(qmp_json_u64(json_array_get(v, 2), &n), -ERANGE);
	CHECK_INT(qmp_json_u64(json_array_get(v, 3), &n), -ERANGE);
	CHECK_INT(qmp_json_u64(v, &n), -EINVAL);
	json_decref(v);
	v = qmp_json_decode("[1e400,inf]", 11, NULL);
	CHECK_INT(qmp_json_u64(json_array_get(v, 0), &n), -EINVAL);
	CHECK_INT(qmp_json_u64(json_array_get(v, 1), &n), -EINVAL);
	json_decref(v);
}

static void test_inf_and_nan(void)
{
	json_t *v = qmp_json_decode("{\"a\":inf,\"b\":-inf,\"c\":nan}", 26, NULL);
	char *text = qmp_json_encode(v, JSON_COMPACT, NULL);

	CHECK_STR(text, "{\"a\":null,\"b\":null,\"c\":null}");
	free(text);
	json_decref(v);
}

static void test_strings_are_left_alone(void)
{
	same("[\"99999999999999999999\",\"{\\\"$number\\\":\\\"99999999999999999999\\\"}\",\"inf\"]");
	same("[\"a\\u0000b\"]");
	same("[\"\\\\\",\"\\\\\\\"\"]");
}

static void test_refusals(void)
{
	char deep[3000];

	memset(deep, '[', sizeof deep);
	refused(deep, sizeof deep, "nested deeper");
	refused("{\"a\":1,\"a\":2}", 13, "duplicate");
	refused("{\"a\":", 5, "JSON");
	refused("", 0, "JSON");
	refused("[012345678901234567890123]", 26, "JSON");
}

int main(void)
{
	RUN(test_numbers_are_exact);
	RUN(test_reals_beyond_double);
	RUN(test_text);
	RUN(test_u64);
	RUN(test_inf_and_nan);
	RUN(test_strings_are_left_alone);
	RUN(test_refusals);
	return 0;
}
