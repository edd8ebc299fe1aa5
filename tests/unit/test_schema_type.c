/*
 * Arguments typed by an excerpt of what QEMU 7.2 returned for query-qmp-schema.
 */
#include "proto/base.h"
#include "proto/qmp.h"
#include "tests/unit/check.h"

static struct qmp_schema *schema;

/* WORDS: KEY=VALUE each, at the top level; ends with NULL. The outcome as text: JSON, or what was wrong. */
static const char *typed(const char *command, const char *const *words)
{
	static char out[3000];
	json_auto_t *arguments = json_object(), *value = NULL;
	struct qmp_error err = {0};
	char *text;

	for (; *words; words++) {
		const char *equals = strchr(*words, '=');
		char *key = strndup(*words, (size_t)(equals - *words));
		bool is_json = equals[1] == '{' || equals[1] == '[';
		json_object_set_new(arguments, key,
				    is_json ? qmp_json_decode(equals + 1, strlen(equals + 1), NULL) : qmp_text(equals + 1));
		free(key);
	}
	value = qmp_schema_type_arguments(schema, command, arguments, &err);
	if (!value) {
		CHECK_INT(err.kind, QMP_ERR_USAGE);
		snprintf(out, sizeof out, "%s", err.message);
		return out;
	}
	text = qmp_json_encode(value, JSON_COMPACT | JSON_SORT_KEYS, NULL);
	snprintf(out, sizeof out, "%s", text);
	free(text);
	return out;
}

#define TYPED(command, ...) typed(command, (const char *const[]){__VA_ARGS__ __VA_OPT__(,) NULL})

static void test_scalars(void)
{
	CHECK_STR(TYPED("stop"), "{}");
	CHECK_STR(TYPED("screendump", "filename=1", "head=3", "format=png"),
		  "{\"filename\":\"1\",\"format\":\"png\",\"head\":3}");
	CHECK_STR(TYPED("blockdev-mirror", "device=d", "target=t", "sync=full", "speed=18446744073709551615", "auto-dismiss=off"),
		  "{\"auto-dismiss\":false,\"device\":\"d\",\"speed\":18446744073709551615,\"sync\":\"full\",\"target\":\"t\"}");
}

static void test_hints(void)
{
	CHECK_STR(TYPED("stopp"), "there is no command \"stopp\"; did you mean \"stop\"?");
	CHECK_STR(TYPED("screendump", "filname=x"), "screendump: there is no argument \"filname\"; did you mean \"filename\"? (it takes: "
						  "filename, device, head, format)");
	CHECK_STR(TYPED("screendump", "filename=x", "format=pngg"),
		  "screendump: format: unknown value \"pngg\"; did you mean \"png\"? (one of: ppm, png)");
	CHECK_STR(TYPED("screendump", "head=0"), "screendump: the argument filename is missing (string)");
	CHECK_STR(TYPED("screendump", "filename=x", "head=first"), "screendump: head: wrong type, wanted is int");
	CHECK_STR(TYPED("stop", "x=1"), "stop: there is no argument \"x\" (it takes: nothing)");
	CHECK_CONTAINS(TYPED("blockdev-mirror", "device=d", "target=t"), "the argument sync is missing (enum: top, full, none");
	CHECK_STR(TYPED("blockdev-mirror", "device=d", "target=t", "sync=full", "auto-dismiss=maybe"),
		  "blockdev-mirror: auto-dismiss: wrong type, wanted is boolean");
}

/* A union's branch is known by its tag, wherever that stands; an alternate takes a name or an object. */
static void test_unions(void)
{
	CHECK_STR(TYPED("blockdev-add", "lazy-refcounts=on", "file=disk0", "driver=qcow2"),
		  "{\"driver\":\"qcow2\",\"file\":\"disk0\",\"lazy-refcounts\":true}");
	CHECK_STR(TYPED("blockdev-add", "driver=qcow2", "file={\"driver\":\"file\",\"filename\":\"/x\"}"),
		  "{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"/x\"}}");
	CHECK_CONTAINS(TYPED("blockdev-add", "driver=qcow2", "file={\"driver\":\"file\",\"filname\":\"/x\"}"),
		       "blockdev-add: file: there is no argument \"filname\"; did you mean \"filename\"?");
	CHECK_STR(TYPED("blockdev-add", "driver=qcow2"), "blockdev-add: the argument file is missing (object | string)");
	CHECK_CONTAINS(TYPED("blockdev-add", "driver=file", "filename=/x", "lazy-refcounts=on"),
		       "there is no argument \"lazy-refcounts\"");
	CHECK_CONTAINS(TYPED("blockdev-add", "driver=qcov2"), "did you mean \"qcow2\"?");
}

/* JSON is checked and not converted. */
static void test_json(void)
{
	CHECK_STR(TYPED("migrate-set-capabilities", "capabilities=[{\"capability\":\"multifd\",\"state\":true}]"),
		  "{\"capabilities\":[{\"capability\":\"multifd\",\"state\":true}]}");
	CHECK_STR(TYPED("migrate-set-capabilities", "capabilities=[{\"capability\":\"multifd\",\"state\":\"on\"}]"),
		  "migrate-set-capabilities: capabilities[0].state: wrong type, wanted is boolean");
	CHECK_CONTAINS(TYPED("migrate-set-capabilities", "capabilities=[{\"capability\":\"multifdd\",\"state\":true}]"),
		       "capabilities[0].capability: unknown value \"multifdd\"; did you mean \"multifd\"?");
	CHECK_STR(TYPED("migrate-set-capabilities", "capabilities=x"),
		  "migrate-set-capabilities: capabilities: wrong type, wanted is array: KEY.0=VALUE, or JSON in brackets");
	CHECK_STR(TYPED("migrate-set-capabilities", "capabilities={\"1\":{},\"0\":{}}"),
		  "migrate-set-capabilities: the argument capabilities[0].capability is missing (enum: "
		  "xbzrle, rdma-pin-all, auto-converge, zero-blocks, compress, events, postcopy-ram, x-colo, release-ram, block, "
		  "return-path, pause-before-switchover, multifd, dirty-bitmaps, postcopy-blocktime, late-block-activate, "
		  "x-ignore-shared, validate-uuid, background-snapshot, zero-copy-send, postcopy-preempt)");
	CHECK_CONTAINS(TYPED("screendump", "filename={\"a\":1}"), "filename: wrong type, wanted is string");
}

static void test_untyped(void)
{
	json_auto_t *tree = json_pack("{s:o, s:o, s:{s:o}, s:[o]}", "n", qmp_text("5"), "s", qmp_text("x y"), "in", "b",
				      qmp_text("true"), "list", qmp_text("{}"));
	json_auto_t *plain = qmp_untyped(tree);
	char *text = qmp_json_encode(plain, JSON_COMPACT | JSON_SORT_KEYS, NULL);

	CHECK_STR(text, "{\"in\":{\"b\":true},\"list\":[{}],\"n\":5,\"s\":\"x y\"}");
	free(text);
}

/* A schema that refers to itself, or to nothing, hurts nobody. */
static void test_strange_schemas(void)
{
	static const char self[] = "[{\"name\":\"c\",\"meta-type\":\"command\",\"arg-type\":\"o\"},"
				   "{\"name\":\"o\",\"meta-type\":\"object\",\"members\":[{\"name\":\"a\",\"type\":\"x\"},"
				   "{\"name\":\"b\",\"type\":\"alt\",\"default\":null},{\"default\":null}]},"
				   "{\"name\":\"alt\",\"meta-type\":\"alternate\",\"members\":[{\"type\":\"alt\"}]}]";
	json_auto_t *reply = json_loads(self, 0, NULL);
	struct qmp_schema *kept = schema;

	CHECK_INT(qmp_schema_new(reply, &schema, NULL), 0);
	CHECK_STR(TYPED("c", "a=7"), "{\"a\":7}");
	CHECK_CONTAINS(TYPED("c", "a=7", "b=1"), "nested deeper");
	CHECK_CONTAINS(TYPED("c"), "the argument a is missing");
	qmp_schema_free(schema);
	schema = kept;
}

int main(void)
{
	json_auto_t *reply = json_load_file(SOURCE_DIR "/tests/unit/data/schema.json", 0, NULL);

	CHECK_INT(qmp_schema_new(reply, &schema, NULL), 0);
	RUN(test_scalars);
	RUN(test_hints);
	RUN(test_unions);
	RUN(test_json);
	RUN(test_untyped);
	RUN(test_strange_schemas);
	qmp_schema_free(schema);
	return 0;
}
