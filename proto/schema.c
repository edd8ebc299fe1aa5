/*
 * Look-ups in query-qmp-schema's reply. Its types have masked names ("215"), so that each look-up begins at a
 * command or an event and follows the references. Source: QEMU qapi/introspect.json (SchemaInfo).
 */
#include "proto/schema.h"
#include "proto/base.h"

#include <stdio.h>

/* One part of a path: "driver=qcow2". */
struct part {
	const char *name, *value; /* value NULL: none asked for */
	size_t name_len, value_len;
	const char *rest; /* NULL: it is the last */
};

bool qmp_schema_equals(const json_t *string, const char *text, size_t len)
{
	return json_is_string(string) && json_string_length(string) == len &&
	       memcmp(json_string_value(string), text, len) == 0;
}

bool qmp_schema_is(const json_t *info, const char *meta)
{
	return qmp_schema_equals(json_object_get(info, "meta-type"), meta, strlen(meta));
}

static const json_t *info_of(const struct qmp_schema *s, const json_t *name)
{
	return json_is_string(name) ? json_object_get(s->index, json_string_value(name)) : NULL;
}

const json_t *qmp_schema_follow(const struct qmp_schema *s, const json_t *info, const char *key)
{
	return info_of(s, json_object_get(info, key));
}

/* ---- Life ---- */

int qmp_schema_new(const json_t *reply, struct qmp_schema **ret, struct qmp_error *err)
{
	struct qmp_schema *s;
	json_t *info;
	size_t i;

	if (!json_is_array(reply))
		return qmp_error_set(err, QMP_ERR_PROTOCOL, -EPROTO, "query-qmp-schema: the reply is no array");
	s = calloc(1, sizeof *s);
	if (!s || !(s->index = json_object())) {
		free(s);
		return qmp_error_errno(err, -ENOMEM, "query-qmp-schema");
	}
	json_array_foreach(reply, i, info) {
		const char *name = json_string_value(json_object_get(info, "name"));
		if (!name || json_object_set(s->index, name, info) < 0) {
			qmp_schema_free(s);
			return qmp_error_set(err, QMP_ERR_PROTOCOL, -EPROTO, "query-qmp-schema: entry %zu has no name",
					     i);
		}
	}
	*ret = s;
	return 0;
}

void qmp_schema_free(struct qmp_schema *s)
{
	if (!s)
		return;
	json_decref(s->index);
	free(s);
}

/* ---- Paths ---- */

static struct part part_at(const char *path)
{
	struct part p = {.name = path, .name_len = strcspn(path, "/=")};

	path += p.name_len;
	if (*path == '=') {
		p.value = path + 1;
		p.value_len = strcspn(p.value, "/");
		path = p.value + p.value_len;
	}
	p.rest = *path == '/' ? path + 1 : NULL;
	return p;
}

const json_t *qmp_schema_member(const json_t *info, const char *name, size_t len)
{
	const json_t *member;
	size_t i;

	json_array_foreach(json_object_get(info, "members"), i, member)
		if (qmp_schema_equals(json_object_get(member, "name"), name, len))
			return member;
	return NULL;
}

/* The enum behind arrays. */
static bool enum_has(const struct qmp_schema *s, const json_t *info, const char *value, size_t len)
{
	const json_t *entry;
	size_t i;

	for (int depth = 0; qmp_schema_is(info, "array") && depth < QMP_SCHEMA_DEPTH; depth++)
		info = qmp_schema_follow(s, info, "element-type");
	json_array_foreach(json_object_get(info, "values"), i, entry)
		if (qmp_schema_equals(entry, value, len))
			return true;
	return qmp_schema_member(qmp_schema_is(info, "enum") ? info : NULL, value, len) != NULL;
}

const json_t *qmp_schema_branch(const struct qmp_schema *s, const json_t *info, const char *value, size_t len)
{
	const json_t *variant;
	size_t i;

	json_array_foreach(json_object_get(info, "variants"), i, variant)
		if (qmp_schema_equals(json_object_get(variant, "case"), value, len))
			return qmp_schema_follow(s, variant, "type");
	return NULL;
}

/* The same for a part of a path, which may be another member than the tag. */
static const json_t *branch_of(const struct qmp_schema *s, const json_t *info, const struct part *p)
{
	bool is_tag = qmp_schema_equals(json_object_get(info, "tag"), p->name, p->name_len);

	return is_tag ? qmp_schema_branch(s, info, p->value, p->value_len) : NULL;
}

static bool has(const struct qmp_schema *s, const json_t *info, const char *path, int depth);

static bool alternate_has(const struct qmp_schema *s, const json_t *info, const char *path, int depth)
{
	const json_t *member;
	size_t i;

	json_array_foreach(json_object_get(info, "members"), i, member)
		if (has(s, qmp_schema_follow(s, member, "type"), path, depth))
			return true;
	return false;
}

static bool object_has(const struct qmp_schema *s, const json_t *info, const char *path, int depth)
{
	struct part p = part_at(path);
	const json_t *member = qmp_schema_member(info, p.name, p.name_len);
	const json_t *type = qmp_schema_follow(s, member, "type");

	if (!member)
		return false;
	if (p.value && !enum_has(s, type, p.value, p.value_len))
		return false;
	if (!p.rest)
		return true;
	if (!p.value)
		return has(s, type, p.rest, depth);
	/* What follows stands in that branch, or beside the tag. */
	return has(s, branch_of(s, info, &p), p.rest, depth) || has(s, info, p.rest, depth);
}

/* Whether PATH leads on from the type INFO (NULL: from nowhere). */
static bool has(const struct qmp_schema *s, const json_t *info, const char *path, int depth)
{
	if (!info || depth == QMP_SCHEMA_DEPTH)
		return false;
	if (qmp_schema_is(info, "array"))
		return has(s, qmp_schema_follow(s, info, "element-type"), path, depth + 1);
	if (qmp_schema_is(info, "alternate"))
		return alternate_has(s, info, path, depth + 1);
	return object_has(s, info, path, depth + 1);
}

bool qmp_schema_has(const struct qmp_schema *s, const char *path)
{
	struct part p = part_at(path);
	_cleanup_free_ char *name = strndup(p.name, p.name_len);
	const json_t *info = name && !p.value ? json_object_get(s->index, name) : NULL;

	if (!qmp_schema_is(info, "command") && !qmp_schema_is(info, "event"))
		return false;
	return !p.rest || has(s, qmp_schema_follow(s, info, "arg-type"), p.rest, 0);
}

/* ---- Lists ---- */

json_t *qmp_schema_type_words(const struct qmp_schema *s, const json_t *info)
{
	char words[200] = "";
	const json_t *member, *word;
	size_t i;

	if (!qmp_schema_is(info, "alternate")) {
		word = json_object_get(info, qmp_schema_is(info, "builtin") ? "json-type" : "meta-type");
		return json_is_string(word) && !qmp_schema_equals(word, "value", 5) ? json_incref((json_t *)word)
										    : json_string("any");
	}
	json_array_foreach(json_object_get(info, "members"), i, member) {
		const json_t *type = qmp_schema_follow(s, member, "type");
		size_t len = strlen(words);
		word = json_object_get(type, qmp_schema_is(type, "builtin") ? "json-type" : "meta-type");
		if (json_is_string(word))
			snprintf(words + len, sizeof words - len, "%s%s", len ? " | " : "", json_string_value(word));
	}
	return json_string(words);
}

/* QEMU before 6.2 lists them as "values" alone. */
json_t *qmp_schema_choices(const json_t *info)
{
	json_t *choices, *entry;
	size_t i;

	if (!qmp_schema_is(info, "enum"))
		return NULL;
	if (json_is_array(json_object_get(info, "values")))
		return json_copy(json_object_get(info, "values"));
	choices = json_array();
	json_array_foreach(json_object_get(info, "members"), i, entry)
		json_array_append(choices, json_object_get(entry, "name"));
	return choices;
}

static json_t *describe(const struct qmp_schema *s, const json_t *member)
{
	const json_t *info = qmp_schema_follow(s, member, "type");

	return json_pack("{s:O, s:o, s:b, s:o*}", "name", json_object_get(member, "name"), "type", qmp_schema_type_words(s, info),
			 "optional", json_object_get(member, "default") != NULL, "choices", qmp_schema_choices(info));
}

static int by_string(const void *a, const void *b)
{
	return strcmp(json_string_value(*(json_t *const *)a), json_string_value(*(json_t *const *)b));
}

static int by_name(const void *a, const void *b)
{
	json_t *names[] = {json_object_get(*(json_t *const *)a, "name"), json_object_get(*(json_t *const *)b, "name")};

	return by_string(&names[0], &names[1]);
}

/* ARRAY's entries in order, in a new array; takes ARRAY over. */
static json_t *sorted_consume(json_t *array, int (*compare)(const void *, const void *))
{
	size_t n = json_array_size(array), i;
	_cleanup_free_ json_t **entries = calloc(n + 1, sizeof *entries);
	json_t *ret = entries ? json_array() : NULL, *entry;

	if (ret) {
		json_array_foreach(array, i, entry)
			entries[i] = entry;
		qsort(entries, n, sizeof *entries, compare);
		for (i = 0; i < n; i++)
			json_array_append(ret, entries[i]);
	}
	json_decref(array);
	return ret;
}

/* Behind arrays, and of an alternate its object. */
static const json_t *object_behind(const struct qmp_schema *s, const json_t *info)
{
	for (int depth = 0; depth < QMP_SCHEMA_DEPTH; depth++) {
		const json_t *object = NULL, *member;
		size_t i;
		if (qmp_schema_is(info, "array")) {
			info = qmp_schema_follow(s, info, "element-type");
			continue;
		}
		if (!qmp_schema_is(info, "alternate"))
			return info;
		json_array_foreach(json_object_get(info, "members"), i, member)
			if (qmp_schema_is(qmp_schema_follow(s, member, "type"), "object"))
				object = qmp_schema_follow(s, member, "type");
		info = object;
	}
	return NULL;
}

/* The type of INFO's member at PATH ("file.driver", "nodes.0"); *GIVEN goes along. */
static const json_t *walk_to(const struct qmp_schema *s, const json_t *info, const char *path, const json_t **given)
{
	while (info && path && *path) {
		size_t len = strcspn(path, ".");
		_cleanup_free_ char *name = strndup(path, len);
		const json_t *member = qmp_schema_member(info, path, len);
		bool is_index = len > 0 && strspn(path, "0123456789") == len;

		if (!member)
			member = qmp_schema_member(qmp_schema_chosen(s, info, *given), path, len);
		if (member || !is_index)
			info = object_behind(s, qmp_schema_follow(s, member, "type"));
		*given = name ? json_object_get(*given, name) : NULL;
		path += len + (path[len] == '.');
	}
	return info;
}

static void describe_members(const struct qmp_schema *s, const json_t *info, json_t *list)
{
	json_t *member;
	size_t i;

	if (!qmp_schema_is(info, "object"))
		return;
	json_array_foreach(json_object_get(info, "members"), i, member)
		if (json_is_string(json_object_get(member, "name")))
			json_array_append_new(list, describe(s, member));
}

json_t *qmp_schema_arguments(const struct qmp_schema *s, const char *command, const char *path, const json_t *given)
{
	const json_t *info = json_object_get(s->index, command);
	json_t *ret;

	if (!qmp_schema_is(info, "command"))
		return NULL;
	ret = json_array();
	info = walk_to(s, qmp_schema_follow(s, info, "arg-type"), path, &given);
	describe_members(s, info, ret);
	describe_members(s, qmp_schema_chosen(s, info, given), ret);
	return sorted_consume(ret, by_name);
}

static json_t *names_of(const struct qmp_schema *s, const char *meta)
{
	json_t *ret = json_array(), *info;
	const char *name;

	json_object_foreach(s->index, name, info)
		if (qmp_schema_is(info, meta))
			json_array_append(ret, json_object_get(info, "name"));
	return sorted_consume(ret, by_string);
}

json_t *qmp_schema_commands(const struct qmp_schema *s)
{
	return names_of(s, "command");
}

json_t *qmp_schema_events(const struct qmp_schema *s)
{
	return names_of(s, "event");
}
