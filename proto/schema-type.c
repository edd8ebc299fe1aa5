/*
 * Arguments as QEMU will take them: what people wrote as text becomes the type that the schema has at that place, and
 * what QEMU would refuse is refused before it is sent, with the nearest name and the choices.
 *
 * One walk over the arguments along the types. A text's leaf may become anything; JSON that somebody wrote as such
 * is checked, not converted.
 */
#include "proto/base.h"
#include "proto/schema.h"

#include <stdio.h>

#define TEXT_KEY "$text"
/* Of a list in an error message. */
#define LIST_MAX 900

struct place {
	const struct place *outer;
	const char *name; /* NULL: an element of an array, number INDEX */
	size_t index;
};

static json_t *type_value(const struct qmp_schema *s, const json_t *info, const json_t *value, const struct place *at,
			  int depth, struct qmp_error *err);

/* ---- Words for errors ---- */

/* "file.driver", "nodes[0]". */
static void write_path(const struct place *at, char *to, size_t size)
{
	size_t len;

	*to = '\0';
	if (at->outer)
		write_path(at->outer, to, size);
	len = strlen(to);
	if (at->name)
		snprintf(to + len, size - len, "%s%s", len ? "." : "", at->name);
	else
		snprintf(to + len, size - len, "[%zu]", at->index);
}

static void write_list(const json_t *strings, char *to, size_t size)
{
	const json_t *entry;
	size_t i, len = 0;

	*to = '\0';
	json_array_foreach(strings, i, entry) {
		int n = snprintf(to + len, size - len, "%s%s", i ? ", " : "", json_string_value(entry));
		if (n < 0 || (size_t)n >= size - len) {
			snprintf(to + (size > 4 ? size - 4 : 0), 4, "...");
			return;
		}
		len += (size_t)n;
	}
}

/* The entry of STRINGS that is near WORD; NULL: none. */
static const char *nearest_of(const json_t *strings, const char *word)
{
	size_t n = json_array_size(strings);
	_cleanup_free_ const char **list = calloc(n + 1, sizeof *list);

	for (size_t i = 0; list && i < n; i++)
		list[i] = json_string_value(json_array_get(strings, i));
	return list ? qmp_nearest(word, list) : NULL;
}

/* "WHAT", then what is near it, then all. */
static void refuse_word(struct qmp_error *err, const char *what, const char *word, const json_t *choices, const char *rest)
{
	const char *near = nearest_of(choices, word);
	char list[LIST_MAX];

	write_list(choices, list, sizeof list);
	qmp_error_set(err, QMP_ERR_USAGE, -EINVAL, "%s%s%s%s (%s: %s)", what, near ? "; did you mean \"" : "", near ? near : "",
		      near ? "\"?" : "", rest, *list ? list : "nothing");
}

static void refuse_type(const struct qmp_schema *s, struct qmp_error *err, const struct place *at, const json_t *info)
{
	char path[400];
	json_auto_t *words = qmp_schema_type_words(s, info);
	const char *type = json_string_value(words);

	write_path(at, path, sizeof path);
	qmp_error_set(err, QMP_ERR_USAGE, -EINVAL, "%s: wrong type, wanted is %s%s", path, type ? type : "something else",
		      qmp_schema_is(info, "object")  ? ": KEY.MEMBER=VALUE, or JSON in braces"
		      : qmp_schema_is(info, "array") ? ": KEY.0=VALUE, or JSON in brackets"
						     : "");
}

/* ---- Texts ---- */

/* NULL: it is not a text's leaf. */
static const char *leaf_text(const json_t *value)
{
	return json_string_value(json_object_get(value, TEXT_KEY));
}

static json_t *json_of(const char *text)
{
	return qmp_json_decode(text, strlen(text), NULL);
}

static bool is_integer(const json_t *value)
{
	uint64_t n;

	return json_is_integer(value) || qmp_json_u64(value, &n) == 0;
}

static json_t *type_boolean(const char *text)
{
	static const char *const words[] = {"false", "true", "off", "on", "no", "yes"};

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (streq(words[i], text))
			return json_boolean(i % 2);
	return NULL;
}

/* A builtin's json-type. New; NULL: VALUE does not fit. */
static json_t *type_builtin(const json_t *info, const json_t *value)
{
	const char *type = json_string_value(json_object_get(info, "json-type")), *text = leaf_text(value);
	json_auto_t *decoded = NULL;

	if (!type)
		return NULL;
	if (text && streq(type, "string"))
		return json_string(text);
	if (text && streq(type, "boolean"))
		return type_boolean(text);
	if (text) {
		value = decoded = json_of(text);
		if (!value && streq(type, "value"))
			return json_string(text);
	}
	if (streq(type, "value") || (streq(type, "string") && json_is_string(value)) ||
	    (streq(type, "int") && is_integer(value)) ||
	    (streq(type, "number") && (json_is_number(value) || is_integer(value))) ||
	    (streq(type, "boolean") && json_is_boolean(value)) || (streq(type, "null") && json_is_null(value)) ||
	    (streq(type, "object") && json_is_object(value) && !leaf_text(value)))
		return qmp_untyped(value);
	return NULL;
}

/* ---- Types that hold others ---- */

static json_t *type_enum(const json_t *info, const json_t *value, const struct place *at, struct qmp_error *err)
{
	json_auto_t *choices = qmp_schema_choices(info);
	const char *word = leaf_text(value) ? leaf_text(value) : json_string_value(value);
	char path[400], what[600];
	json_t *choice;
	size_t i;

	write_path(at, path, sizeof path);
	if (!word)
		snprintf(what, sizeof what, "%s: not a string", path);
	else
		snprintf(what, sizeof what, "%s: unknown value \"%.100s\"", path, word);
	json_array_foreach(choices, i, choice)
		if (word && qmp_schema_equals(choice, word, strlen(word)))
			return json_incref(choice);
	refuse_word(err, what, word ? word : "", choices, "one of");
	return NULL;
}

/* {"0": ..., "1": ...}, as KEY.0=VALUE makes it, as an array. New; NULL: it is something else. */
static json_t *array_of_indexed(const json_t *object)
{
	size_t n = json_object_size(object);
	json_t *array = n > 0 && !leaf_text(object) ? json_array() : NULL;

	for (size_t i = 0; array && i < n; i++) {
		char key[24];
		snprintf(key, sizeof key, "%zu", i);
		if (json_array_append(array, json_object_get(object, key)) < 0) {
			json_decref(array);
			return NULL;
		}
	}
	return array;
}

static json_t *type_array(const struct qmp_schema *s, const json_t *info, const json_t *value, const struct place *at,
			  int depth, struct qmp_error *err)
{
	json_auto_t *indexed = json_is_object(value) ? array_of_indexed(value) : NULL, *ret = json_array();
	const json_t *entry;
	size_t i;

	value = indexed ? indexed : value;
	if (!json_is_array(value)) {
		refuse_type(s, err, at, info);
		return NULL;
	}
	json_array_foreach(value, i, entry) {
		struct place here = {at, NULL, i};
		json_t *typed = type_value(s, qmp_schema_follow(s, info, "element-type"), entry, &here, depth, err);
		if (!typed)
			return NULL;
		if (json_array_append_new(ret, typed) < 0) {
			qmp_error_errno(err, -ENOMEM, "typing arguments");
			return NULL;
		}
	}
	return json_incref(ret);
}

/* The first of its types that takes the value; with texts, those that are not strings come first. */
static json_t *type_alternate(const struct qmp_schema *s, const json_t *info, const json_t *value, const struct place *at,
			      int depth, struct qmp_error *err)
{
	const json_t *member;
	struct qmp_error why = {0};
	size_t i;

	for (int strings = 0; strings <= 1; strings++)
		json_array_foreach(json_object_get(info, "members"), i, member) {
			const json_t *type = qmp_schema_follow(s, member, "type");
			bool is_string = qmp_schema_equals(json_object_get(type, "json-type"), "string", 6);
			json_t *typed = is_string == strings ? type_value(s, type, value, at, depth, &why) : NULL;
			if (typed)
				return typed;
		}
	if (why.kind == QMP_ERR_NONE)
		refuse_type(s, err, at, info);
	else if (err)
		*err = why;
	return NULL;
}

static void add_names(json_t *names, const json_t *info)
{
	const json_t *member;
	size_t i;

	json_array_foreach(json_object_get(info, "members"), i, member)
		json_array_append(names, json_object_get(member, "name"));
}

static void refuse_member(const json_t *info, const json_t *branch, const char *key, const struct place *at,
			  struct qmp_error *err)
{
	json_auto_t *names = json_array();
	char path[400] = "", what[600];

	if (at)
		write_path(at, path, sizeof path);
	snprintf(what, sizeof what, "%s%sthere is no argument \"%.100s\"", path, at ? ": " : "", key);
	add_names(names, info);
	add_names(names, branch);
	refuse_word(err, what, key, names, "it takes");
}

static void refuse_missing(const struct qmp_schema *s, struct qmp_error *err, const char *path, const json_t *type)
{
	json_auto_t *choices = qmp_schema_choices(type);
	json_auto_t *words = qmp_schema_type_words(s, type);
	const char *word = json_string_value(words);
	char list[LIST_MAX];

	write_list(choices, list, sizeof list);
	qmp_error_set(err, QMP_ERR_USAGE, -EINVAL, "the argument %s is missing (%s%s%s)", path, word ? word : "any",
		      choices ? ": " : "", list);
}

/* Every member of INFO that is not optional is in TYPED. */
static bool is_complete(const struct qmp_schema *s, const json_t *info, const json_t *typed, const struct place *at, struct qmp_error *err)
{
	const json_t *member;
	size_t i;

	json_array_foreach(json_object_get(info, "members"), i, member) {
		const char *name = json_string_value(json_object_get(member, "name"));
		struct place here = {at, name, 0};
		char path[400];

		if (!name || json_object_get(member, "default") || json_object_get(typed, name))
			continue;
		write_path(&here, path, sizeof path);
		refuse_missing(s, err, path, qmp_schema_follow(s, member, "type"));
		return false;
	}
	return true;
}

const json_t *qmp_schema_chosen(const struct qmp_schema *s, const json_t *info, const json_t *value)
{
	const char *name = json_string_value(json_object_get(info, "tag"));
	const json_t *tag = name ? json_object_get(value, name) : NULL;
	const char *word = leaf_text(tag) ? leaf_text(tag) : json_string_value(tag);

	return word ? qmp_schema_branch(s, info, word, strlen(word)) : NULL;
}

static json_t *type_object(const struct qmp_schema *s, const json_t *info, const json_t *value, const struct place *at,
			   int depth, struct qmp_error *err)
{
	const json_t *branch = qmp_schema_chosen(s, info, value), *entry;
	json_auto_t *ret = json_object();
	const char *key;

	if (!json_is_object(value) || leaf_text(value)) {
		refuse_type(s, err, at, info);
		return NULL;
	}
	json_object_foreach((json_t *)value, key, entry) {
		struct place here = {at, key, 0};
		const json_t *member = qmp_schema_member(info, key, strlen(key));
		json_t *typed;

		if (!member)
			member = qmp_schema_member(branch, key, strlen(key));
		if (!member) {
			refuse_member(info, branch, key, at, err);
			return NULL;
		}
		typed = type_value(s, qmp_schema_follow(s, member, "type"), entry, &here, depth, err);
		if (!typed)
			return NULL;
		if (json_object_set_new(ret, key, typed) < 0) {
			qmp_error_errno(err, -ENOMEM, "typing arguments");
			return NULL;
		}
	}
	if (!is_complete(s, info, ret, at, err) || !is_complete(s, branch, ret, at, err))
		return NULL;
	return json_incref(ret);
}

/* New; NULL: it does not fit. INFO NULL: the schema does not say, so it passes. */
static json_t *type_value(const struct qmp_schema *s, const json_t *info, const json_t *value, const struct place *at,
			  int depth, struct qmp_error *err)
{
	json_t *typed;

	if (depth == QMP_SCHEMA_DEPTH) {
		qmp_error_set(err, QMP_ERR_USAGE, -EINVAL, "nested deeper than %d", QMP_SCHEMA_DEPTH);
		return NULL;
	}
	if (qmp_schema_is(info, "object"))
		return type_object(s, info, value, at, depth + 1, err);
	if (qmp_schema_is(info, "array"))
		return type_array(s, info, value, at, depth + 1, err);
	if (qmp_schema_is(info, "alternate"))
		return type_alternate(s, info, value, at, depth + 1, err);
	if (qmp_schema_is(info, "enum"))
		return type_enum(info, value, at, err);
	typed = info ? type_builtin(info, value) : qmp_untyped(value);
	if (!typed)
		refuse_type(s, err, at, info);
	return typed;
}

/* ---- The public operations ---- */

json_t *qmp_schema_type_arguments(const struct qmp_schema *s, const char *command, const json_t *arguments,
				  struct qmp_error *err)
{
	const json_t *info = json_object_get(s->index, command);
	json_t *typed;

	if (!qmp_schema_is(info, "command")) {
		json_auto_t *commands = qmp_schema_commands(s);
		const char *near = nearest_of(commands, command);
		qmp_error_set(err, QMP_ERR_USAGE, -EINVAL, "there is no command \"%s\"%s%s%s", command,
			      near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
		return NULL;
	}
	typed = type_object(s, qmp_schema_follow(s, info, "arg-type"), arguments, NULL, 0, err);
	if (!typed)
		qmp_error_wrap(err, "%s", command);
	return typed;
}

json_t *qmp_text(const char *text)
{
	return json_pack("{s:o}", TEXT_KEY, qmp_json_text(text));
}

json_t *qmp_untyped(const json_t *value)
{
	const char *text = leaf_text(value), *key;
	json_t *entry, *ret;
	bool whole = true;
	size_t i;

	if (text) {
		ret = json_of(text);
		return ret ? ret : json_string(text);
	}
	if (!json_is_array(value) && !json_is_object(value))
		return json_incref((json_t *)value);
	ret = json_is_array(value) ? json_array() : json_object();
	json_array_foreach(value, i, entry)
		whole &= json_array_append_new(ret, qmp_untyped(entry)) == 0;
	json_object_foreach((json_t *)value, key, entry)
		whole &= json_object_set_new(ret, key, qmp_untyped(entry)) == 0;
	if (whole)
		return ret;
	json_decref(ret);
	return NULL;
}
