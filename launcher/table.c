/*
 * Checking a document by a table of fields, with the line of what is wrong; its defaults.
 */
#include "launcher/table.h"
#include "launcher/location.h"
#include "launcher/spec.h"
#include "proto/base.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>

/* ---- Where in the text a path stands: only on the way to an error ---- */

struct cursor {
	const char *p, *end;
};

static void skip_space(struct cursor *c)
{
	while (c->p < c->end && isspace((unsigned char)*c->p))
		c->p++;
}

static void skip_string(struct cursor *c)
{
	for (c->p++; c->p < c->end && *c->p != '"'; c->p++)
		if (*c->p == '\\')
			c->p++;
	c->p++;
}

static void skip_value(struct cursor *c)
{
	int depth = 0;

	skip_space(c);
	while (c->p < c->end) {
		char ch = *c->p;
		if (ch == '"') {
			skip_string(c);
			if (depth == 0)
				return;
			continue;
		}
		if (depth == 0 && (ch == ',' || ch == '}' || ch == ']'))
			return;
		depth += (ch == '{' || ch == '[') - (ch == '}' || ch == ']');
		c->p++;
		if (depth == 0 && (ch == '}' || ch == ']'))
			return;
	}
}

/* Moves C into the member or element that SEGMENT names. The text is valid JSON. */
static bool enter(struct cursor *c, const char *segment, size_t n, bool is_index)
{
	long index = is_index ? strtol(segment, NULL, 10) : 0;

	skip_space(c);
	if (c->p >= c->end || *c->p != (is_index ? '[' : '{'))
		return false;
	c->p++;
	for (long i = 0;; i++) {
		const char *key;
		skip_space(c);
		if (c->p >= c->end || *c->p == '}' || *c->p == ']')
			return false;
		key = c->p;
		if (!is_index) {
			size_t key_len;
			skip_string(c);
			key_len = (size_t)(c->p - key);
			skip_space(c);
			c->p++; /* : */
			skip_space(c);
			if (key_len == n + 2 && memcmp(key + 1, segment, n) == 0)
				return true;
		} else if (i == index) {
			return true;
		}
		skip_value(c);
		skip_space(c);
		if (c->p < c->end && *c->p == ',')
			c->p++;
	}
}

/* Dots may stand in a key, too. False: AT is as it was. */
static bool follow(struct cursor *at, const char **path)
{
	bool is_index = **path == '[';
	const char *from = *path + (is_index || **path == '.');
	size_t n = strcspn(from, ".[]");
	struct cursor to = *at;

	while (!enter(&to, from, n, is_index)) {
		if (is_index || from[n] != '.')
			return false;
		n += 1 + strcspn(from + n + 1, ".[]");
		to = *at;
	}
	*at = to;
	*path = from + n + (is_index && from[n] == ']');
	return true;
}

static int line_of(const struct vm_check *c, const char *path)
{
	struct cursor at = {c->text, c->text + c->len};
	int line = 1;

	while (*path && follow(&at, &path))
		;
	for (const char *p = c->text; p < at.p && p < at.end; p++)
		line += *p == '\n';
	return line;
}

int vm_refuse(const struct vm_check *c, const char *path, const char *fmt, ...)
{
	const char *whole = c->whole ? c->whole : "the spec";
	char what[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof what, fmt, ap);
	va_end(ap);
	if (c->text)
		return qmp_error_set(c->err, QMP_ERR_USAGE, -EINVAL, "%s:%d: %s: %s", c->source, line_of(c, path),
				     *path ? path : whole, what);
	return qmp_error_set(c->err, QMP_ERR_USAGE, -EINVAL, "%s: %s", *path ? path : whole, what);
}

/* ---- Where a value stands: the path to it is printed only where it is refused ---- */

#define PATH_SIZE 256

struct place {
	const struct place *up; /* NULL: the document, and KEY is the path to it */
	const char *key;	/* NULL: the item INDEX of a list */
	size_t index;
};

static void print_place(const struct place *at, char path[PATH_SIZE])
{
	size_t n;

	path[0] = '\0';
	if (at->up)
		print_place(at->up, path);
	n = strlen(path);
	if (at->key)
		snprintf(path + n, PATH_SIZE - n, "%s%s", n > 0 ? "." : "", at->key);
	else
		snprintf(path + n, PATH_SIZE - n, "[%zu]", at->index);
}

static int refuse(const struct vm_check *c, const struct place *at, const char *fmt, ...) _printf_(3, 4);
static int refuse(const struct vm_check *c, const struct place *at, const char *fmt, ...)
{
	char path[PATH_SIZE], what[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof what, fmt, ap);
	va_end(ap);
	print_place(at, path);
	return vm_refuse(c, path, "%s", what);
}

/* ---- Single values ---- */


static bool hex_pattern(const char *text, const char *pattern)
{
	for (; *pattern; pattern++, text++)
		if (*pattern == 'x' ? !isxdigit((unsigned char)*text) : *text != *pattern)
			return false;
	return *text == '\0';
}

static const char *join(const char *const *choices, char *out, size_t size)
{
	size_t n = 0;

	out[0] = '\0';
	for (; *choices && n < size; choices++)
		n += (size_t)snprintf(out + n, size - n, "%s%s", n ? ", " : "", *choices);
	return out;
}

static int check_choice(const struct vm_check *c, const struct place *at, const char *text, const char *const *choices)
{
	char list[400];
	const char *near;

	for (const char *const *p = choices; *p; p++)
		if (streq(*p, text))
			return 0;
	near = qmp_nearest(text, choices);
	return refuse(c, at, "unknown value \"%s\"; one of %s%s%s%s", text, join(choices, list, sizeof list),
		      near ? " (did you mean " : "", near ? near : "", near ? "?)" : "");
}

static int check_size(const struct vm_check *c, const struct place *at, const struct vm_field *f, const json_t *value)
{
	uint64_t bytes;
	const char *text = json_string_value(value);

	if (vm_size_parse(value, &bytes) < 0) {
		if (text && *text && strspn(text, "0123456789") == strlen(text))
			return refuse(c, at, "\"%s\" has no unit; write \"%sM\" or \"%sG\"", text, text, text);
		return refuse(c, at, "%s%s%sa size is a number with K, M, G or T (\"512M\") or an integer of bytes",
			      text ? "\"" : "", text ? text : "", text ? "\" is none: " : "");
	}
	if (f->max && (bytes < (uint64_t)f->min || bytes > (uint64_t)f->max))
		return refuse(c, at, "%llu bytes is out of range (%lld to %lld); write a unit, as in \"512M\"",
			      (unsigned long long)bytes, (long long)f->min, (long long)f->max);
	return 0;
}

static int check_location(const struct vm_check *c, const struct place *at, const char *text)
{
	struct vm_location l;
	struct qmp_error why = {0};

	if (vm_location_parse(text, &l, &why) < 0)
		return refuse(c, at, "%s", why.message);
	vm_location_deinit(&l);
	if (vm_location_is_file(text) && *text != '/')
		return refuse(c, at, "\"%s\" must be an absolute path, POOL:VOLUME or a URL", text);
	return 0;
}

static int check_string(const struct vm_check *c, const struct place *at, const struct vm_field *f, const json_t *value)
{
	const char *text = json_string_value(value);

	if (!text)
		return refuse(c, at, "must be a string");
	if (strlen(text) != json_string_length(value))
		return refuse(c, at, "must not hold a NUL character");
	switch (f->type) {
	case VM_T_CHOICE:
		return check_choice(c, at, text, f->choices);
	case VM_T_PATH:
		return *text == '/' ? 0 : refuse(c, at, "\"%s\" must be an absolute path", text);
	case VM_T_LOCATION:
		return check_location(c, at, text);
	case VM_T_NAME:
		return vm_name_valid(text) ? 0
					   : refuse(c, at,
						    "\"%s\" is no name: letters, digits, . _ - (64 at most), a letter or "
						    "digit first",
						    text);
	case VM_T_ID:
		return vm_id_valid(text)
			       ? 0
			       : refuse(c, at,
					"\"%s\" is no id: a small letter, then small letters, digits, _ (16 at most)", text);
	case VM_T_MAC:
		if (!hex_pattern(text, "xx:xx:xx:xx:xx:xx"))
			return refuse(c, at, "\"%s\" is no MAC address such as 52:54:00:12:34:56", text);
		if (strtol((char[]){text[0], text[1], 0}, NULL, 16) & 1)
			return refuse(c, at, "\"%s\" is a multicast address", text);
		return 0;
	case VM_T_UUID:
		return hex_pattern(text, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx")
			       ? 0
			       : refuse(c, at, "\"%s\" is no UUID", text);
	case VM_T_MACHINE:
		if (streq(text, "q35") || streq(text, "pc") || strncmp(text, "pc-q35-", 7) == 0 ||
		    strncmp(text, "pc-i440fx-", 10) == 0)
			return strchr(text, ',') ? refuse(c, at, "must not hold a comma") : 0;
		return refuse(c, at, "unknown machine \"%s\"; q35, pc, or a versioned pc-q35-* or pc-i440fx-*", text);
	default:
		return 0;
	}
}

static int check_int(const struct vm_check *c, const struct place *at, const struct vm_field *f, const json_t *value)
{
	json_int_t n = json_integer_value(value);

	if (!json_is_integer(value))
		return refuse(c, at, "must be an integer");
	if ((f->min || f->max) && (n < f->min || n > f->max))
		return refuse(c, at, "%lld is out of range (%lld to %lld)", (long long)n, (long long)f->min,
			      (long long)f->max);
	return 0;
}

/* ---- Objects and lists ---- */

static int check_field(const struct vm_check *c, const struct place *at, const struct vm_field *f,
		       const struct vm_field *table, const json_t *value);

const struct vm_field *vm_find_field(const struct vm_field *table, const char *name)
{
	for (; table->name; table++)
		if (streq(table->name, name))
			return table;
	return NULL;
}

/* inf and nan: QEMU writes them, and they are read as {"$number": ...} (qmp.h); as input they are none. */
static bool holds_no_number(const json_t *value)
{
	const char *number = text_of(value, "$number"), *key;
	json_t *member;
	size_t i;

	if (number)
		return strpbrk(number, "nN") != NULL;
	json_object_foreach((json_t *)value, key, member)
		if (holds_no_number(member))
			return true;
	json_array_foreach(value, i, member)
		if (holds_no_number(member))
			return true;
	return false;
}

int vm_refuse_key(const struct vm_check *c, const char *path, const struct vm_field *table, const char *key)
{
	const char *names[64];
	char list[700];
	size_t n = 0;
	const char *near;

	for (const struct vm_field *f = table; f->name && n < ARRAY_SIZE(names) - 1; f++)
		names[n++] = f->name;
	names[n] = NULL;
	near = qmp_nearest(key, names);
	if (near)
		return vm_refuse(c, path, "unknown field; did you mean \"%s\"?", near);
	return vm_refuse(c, path, "unknown field; known are %s", join(names, list, sizeof list));
}

static int refuse_key(const struct vm_check *c, const struct place *at, const struct vm_field *table, const char *key)
{
	char path[PATH_SIZE];

	print_place(at, path);
	return vm_refuse_key(c, path, table, key);
}

static int check_object(const struct vm_check *c, const struct place *at, const struct vm_field *table, const json_t *value)
{
	const char *key;
	json_t *member;

	if (!json_is_object(value))
		return refuse(c, at, "must be an object");
	json_object_foreach((json_t *)value, key, member)
	{
		const struct vm_field *f = vm_find_field(table, key);
		const struct place below = {.up = at, .key = key};
		int r = f ? check_field(c, &below, f, table, member) : refuse_key(c, &below, table, key);
		if (r < 0)
			return r;
	}
	for (; table->name; table++)
		if (table->required && !json_object_get(value, table->name))
			return refuse(c, at, "\"%s\" is missing: %s", table->name, table->summary);
	return 0;
}

static int check_list(const struct vm_check *c, const struct place *at, const struct vm_field *f, const json_t *value)
{
	json_t *item;
	size_t i;

	if (!json_is_array(value))
		return refuse(c, at, "must be a list");
	json_array_foreach(value, i, item)
	{
		const struct place below = {.up = at, .index = i};
		int r;
		if (f->type == VM_T_LIST)
			r = check_object(c, &below, f->fields, item);
		else if (!json_is_string(item) || strlen(json_string_value(item)) != json_string_length(item))
			r = refuse(c, &below, "must be a string without NUL");
		else
			r = f->choices ? check_choice(c, &below, json_string_value(item), f->choices) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

static int check_field(const struct vm_check *c, const struct place *at, const struct vm_field *f,
		       const struct vm_field *table, const json_t *value)
{
	switch (f->type) {
	case VM_T_INT:
		return check_int(c, at, f, value);
	case VM_T_BOOL:
		return json_is_boolean(value) ? 0 : refuse(c, at, "must be true or false");
	case VM_T_SIZE:
		return check_size(c, at, f, value);
	case VM_T_OBJECT:
		return check_object(c, at, f->recursive ? table : f->fields, value);
	case VM_T_RAW:
		if (!json_is_object(value))
			return refuse(c, at, "must be an object");
		return holds_no_number(value) ? refuse(c, at, "holds inf or nan, which are no JSON numbers") : 0;
	case VM_T_LIST:
	case VM_T_STRINGS:
		return check_list(c, at, f, value);
	default:
		return check_string(c, at, f, value);
	}
}

int vm_check_object(const struct vm_check *c, const char *path, const struct vm_field *table, const json_t *value)
{
	return check_object(c, &(struct place){.key = path}, table, value);
}

/* ---- Defaults ---- */

int vm_fill_defaults(const struct vm_field *table, json_t *object)
{
	for (const struct vm_field *f = table; f->name; f++) {
		json_t *value = json_object_get(object, f->name), *item;
		size_t i;

		if (!value && f->default_json) {
			value = json_loads(f->default_json, JSON_DECODE_ANY, NULL);
			if (json_object_set_new(object, f->name, value) < 0)
				return -ENOMEM;
		}
		if (value && f->type == VM_T_OBJECT && vm_fill_defaults(f->recursive ? table : f->fields, value) < 0)
			return -ENOMEM;
		if (value && f->type == VM_T_LIST)
			json_array_foreach(value, i, item)
				if (vm_fill_defaults(f->fields, item) < 0)
					return -ENOMEM;
	}
	return 0;
}
