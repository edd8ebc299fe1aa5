/*
 * Look-ups in an excerpt of what QEMU 7.2 returned for query-qmp-schema.
 */
#include "proto/base.h"
#include "proto/qmp.h"
#include "tests/unit/check.h"

static struct qmp_schema *load(void)
{
	json_auto_t *reply = json_load_file(SOURCE_DIR "/tests/unit/data/schema.json", 0, NULL);
	struct qmp_schema *s = NULL;

	CHECK(reply);
	CHECK_INT(qmp_schema_new(reply, &s, NULL), 0);
	return s;
}

static void check_paths(const char *const *paths, bool want)
{
	struct qmp_schema *s = load();

	for (; *paths; paths++)
		if (qmp_schema_has(s, *paths) != want)
			check_fail(__FILE__, __LINE__, *paths, want ? "known" : "unknown", want ? "unknown" : "known");
	qmp_schema_free(s);
}

static void test_known(void)
{
	static const char *const paths[] = {
		"stop",
		"STOP",
		"DEVICE_DELETED/device",
		"blockdev-mirror/copy-mode",
		"blockdev-mirror/copy-mode=write-blocking",
		"blockdev-add/node-name",
		"blockdev-add/driver=qcow2",
		"blockdev-add/driver=qcow2/lazy-refcounts",
		"blockdev-add/driver=qcow2/node-name",
		"blockdev-add/driver=file/locking=auto",
		"blockdev-add/driver=qcow2/file/driver=file/filename",
		"migrate-set-capabilities/capabilities/capability=multifd",
		"screendump/format=png",
		NULL,
	};

	check_paths(paths, true);
}

static void test_unknown(void)
{
	static const char *const paths[] = {
		"",
		"nope",
		"str",
		"stop=1",
		"stop/x",
		"blockdev-mirror/copy-mode=nope",
		"blockdev-mirror/nope",
		"blockdev-mirror/device=x",
		"blockdev-add/lazy-refcounts",
		"blockdev-add/driver=file/lazy-refcounts",
		"blockdev-add/driver=qcow2/discard-no-unref",
		"blockdev-add/driver=nope/node-name",
		"migrate-set-capabilities/capabilities/capability=nope",
		NULL,
	};

	check_paths(paths, false);
}

static void test_arguments(void)
{
	struct qmp_schema *s = load();
	json_t *screendump = qmp_schema_arguments(s, "screendump", NULL, NULL), *stop = qmp_schema_arguments(s, "stop", "", NULL);
	char *text = json_dumps(screendump, JSON_COMPACT | JSON_SORT_KEYS);

	CHECK_STR(text, "[{\"name\":\"device\",\"optional\":true,\"type\":\"string\"},"
			"{\"name\":\"filename\",\"optional\":false,\"type\":\"string\"},"
			"{\"choices\":[\"ppm\",\"png\"],\"name\":\"format\",\"optional\":true,\"type\":\"enum\"},"
			"{\"name\":\"head\",\"optional\":true,\"type\":\"int\"}]");
	CHECK_INT(json_array_size(stop), 0);
	CHECK(!qmp_schema_arguments(s, "STOP", NULL, NULL));
	CHECK(!qmp_schema_arguments(s, "nope", NULL, NULL));
	free(text);
	json_decref(screendump);
	json_decref(stop);
	qmp_schema_free(s);
}

/* The names at a place, joined. */
static const char *names_at(const struct qmp_schema *s, const char *path, const char *given_text)
{
	static char out[4000];
	json_auto_t *given = json_loads(given_text, 0, NULL);
	json_auto_t *list = qmp_schema_arguments(s, "blockdev-add", path, given);
	json_t *entry;
	size_t i;

	*out = '\0';
	json_array_foreach(list, i, entry) {
		strcat(out, json_string_value(json_object_get(entry, "name")));
		strcat(out, " ");
	}
	return out;
}

static void test_arguments_of_branches(void)
{
	struct qmp_schema *s = load();

	CHECK(!strstr(names_at(s, NULL, "{}"), "lazy-refcounts"));
	CHECK_CONTAINS(names_at(s, NULL, "{}"), "driver ");
	CHECK_CONTAINS(names_at(s, NULL, "{\"driver\":\"qcow2\"}"), "lazy-refcounts ");
	CHECK_CONTAINS(names_at(s, NULL, "{\"driver\":{\"$text\":\"qcow2\"}}"), "lazy-refcounts ");
	CHECK_CONTAINS(names_at(s, "file", "{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\"}}"), "filename ");
	CHECK(!strstr(names_at(s, "file", "{\"driver\":\"qcow2\"}"), "filename "));
	CHECK_CONTAINS(names_at(s, "file", "{\"driver\":\"qcow2\"}"), "driver ");
	CHECK_STR(names_at(s, "file", "{}"), "");
	CHECK_STR(names_at(s, "driver", "{}"), "");
	CHECK_STR(names_at(s, "no.such.0", "{}"), "");
	qmp_schema_free(s);
}

static void test_names(void)
{
	struct qmp_schema *s = load();
	json_t *commands = qmp_schema_commands(s), *events = qmp_schema_events(s);

	CHECK_INT(json_array_size(commands), 6);
	CHECK_STR(json_string_value(json_array_get(commands, 0)), "blockdev-add");
	CHECK_STR(json_string_value(json_array_get(commands, 5)), "stop");
	CHECK_INT(json_array_size(events), 2);
	CHECK_STR(json_string_value(json_array_get(events, 0)), "DEVICE_DELETED");
	json_decref(commands);
	json_decref(events);
	qmp_schema_free(s);
}

/* What a peer that lies could send. */
static void test_strange_replies(void)
{
	static const char self[] = "[{\"name\":\"c\",\"meta-type\":\"command\",\"arg-type\":\"a\"},"
				   "{\"name\":\"a\",\"meta-type\":\"array\",\"element-type\":\"a\"}]";
	json_auto_t *looped = json_loads(self, 0, NULL), *nameless = json_loads("[{\"name\":1}]", 0, NULL);
	json_auto_t *object = json_object();
	struct qmp_schema *s;

	CHECK_INT(qmp_schema_new(looped, &s, NULL), 0);
	CHECK(!qmp_schema_has(s, "c/x"));
	CHECK(!qmp_schema_has(s, "c/x=y/z"));
	qmp_schema_free(s);
	CHECK_INT(qmp_schema_new(nameless, &s, NULL), -EPROTO);
	CHECK_INT(qmp_schema_new(object, &s, NULL), -EPROTO);
}

int main(void)
{
	RUN(test_known);
	RUN(test_unknown);
	RUN(test_arguments);
	RUN(test_arguments_of_branches);
	RUN(test_names);
	RUN(test_strange_replies);
	return 0;
}
