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
	RUN(test_u64);
	RUN(test_inf_and_nan);
	RUN(test_strings_are_left_alone);
	RUN(test_refusals);
	return 0;
}
