/*
 * What a QEMU, or the cache on disk, says that QEMU takes. Input: four parts with a NUL behind the first three: a command, a
 * path, its arguments, the schema.
 *
 * Whatever the schema is (it may refer to itself), every look-up ends. What is typed by it is taken again as it is.
 */
#include "proto/base.h"
#include "tests/fuzz/fuzz.h"

/* Texts at the top that begin with ':' are untyped, as what somebody wrote. */
static json_t *arguments_of(const char *text, size_t len)
{
	json_t *arguments = qmp_json_decode(text, len, NULL), *value;
	const char *key;
	void *next;

	if (!json_is_object(arguments)) {
		json_decref(arguments);
		return json_object();
	}
	json_object_foreach_safe(arguments, next, key, value) {
		const char *written = json_string_value(value);
		if (written && *written == ':')
			json_object_set_new(arguments, key, qmp_text(written + 1));
	}
	return arguments;
}

static void check_typing(const struct qmp_schema *s, const char *command, const json_t *arguments)
{
	struct qmp_error err = {0};
	json_auto_t *typed = qmp_schema_type_arguments(s, command, arguments, &err), *again = NULL;

	if (!typed) {
		must_explain(err.code, &err);
		return;
	}
	MUST(json_is_object(typed), "no object");
	again = qmp_schema_type_arguments(s, command, typed, &err);
	MUST(again, "typed, then refused: %s", err.message);
	MUST(json_equal(typed, again), "typed, then another");
}

static void check_names(const struct qmp_schema *s, json_t *names_consume)
{
	json_auto_t *names = names_consume;
	const json_t *name;
	size_t i;

	MUST(json_is_array(names), "no names");
	json_array_foreach(names, i, name)
		MUST(json_is_string(name), "a name that is none");
	name = json_array_get(names, 0);
	if (name && !strpbrk(json_string_value(name), "/=")) /* which are a path's own */
		MUST(qmp_schema_has(s, json_string_value(name)), "\"%s\" is listed, and not there", json_string_value(name));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *parts[4];
	size_t lens[4];
	_cleanup_free_ char *all = text_copy(data, size), *text = NULL;
	const char *at = all, *end = all + size;
	json_auto_t *reply = NULL, *arguments = NULL;
	struct qmp_schema *s = NULL;
	struct qmp_error err = {0};
	int r;

	for (int i = 0; i < 3; i++) {
		parts[i] = at;
		lens[i] = strlen(at);
		at += lens[i] + 1;
		if (at > end)
			return 0;
	}
	text = exact_copy(at, (size_t)(end - at));
	reply = qmp_json_decode(text, (size_t)(end - at), NULL);
	if (!reply)
		return 0;
	r = qmp_schema_new(reply, &s, &err);
	if (r < 0) {
		must_explain(r, &err);
		return 0;
	}
	arguments = arguments_of(parts[2], lens[2]);
	(void)qmp_schema_has(s, parts[0]);
	(void)qmp_schema_has(s, parts[1]);
	json_decref(qmp_schema_arguments(s, parts[0], *parts[1] ? parts[1] : NULL, arguments));
	json_decref(qmp_untyped(arguments));
	check_typing(s, parts[0], arguments);
	check_names(s, qmp_schema_commands(s));
	check_names(s, qmp_schema_events(s));
	qmp_schema_free(s);
	return 0;
}
