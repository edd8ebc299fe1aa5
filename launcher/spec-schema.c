/*
 * The JSON Schema of the spec, from the table.
 */
#include "launcher/spec-table.h"
#include "launcher/spec.h"
#include "proto/base.h"

static json_t *object_schema(const struct vm_field *table);

static json_t *pattern(const char *regex)
{
	return json_pack("{s:s, s:s}", "type", "string", "pattern", regex);
}

static json_t *choice(const char *const *choices)
{
	json_t *list = json_array();

	for (; *choices; choices++)
		json_array_append_new(list, json_string(*choices));
	return json_pack("{s:s, s:o}", "type", "string", "enum", list);
}

static json_t *integer(const struct vm_field *f)
{
	json_t *s = json_pack("{s:s}", "type", "integer");

	if (f->min || f->max) {
		json_object_set_new(s, "minimum", json_integer(f->min));
		json_object_set_new(s, "maximum", json_integer(f->max));
	}
	return s;
}

static json_t *field_type(const struct vm_field *f)
{
	switch (f->type) {
	case VM_T_INT:
		return integer(f);
	case VM_T_BOOL:
		return json_pack("{s:s}", "type", "boolean");
	case VM_T_SIZE:
		return json_pack("{s:[o, o]}", "anyOf", integer(f), pattern("^[0-9]+[KMGTkmgt](iB)?$"));
	case VM_T_CHOICE:
		return choice(f->choices);
	case VM_T_PATH:
		return pattern("^/");
	case VM_T_LOCATION:
		return pattern("^(/|(nbd|nbd\\+unix|iscsi|ssh|https?|rbd)://|[A-Za-z0-9][A-Za-z0-9._-]{1,63}:[^/])");
	case VM_T_NAME:
		return pattern("^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$");
	case VM_T_ID:
		return pattern("^[a-z][a-z0-9_]{0,15}$");
	case VM_T_MAC:
		return pattern("^[0-9a-fA-F][02468aceACE](:[0-9a-fA-F]{2}){5}$");
	case VM_T_UUID:
		return pattern("^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$");
	case VM_T_MACHINE:
		return pattern("^(q35|pc|pc-q35-[^,]*|pc-i440fx-[^,]*)$");
	case VM_T_OBJECT:
		if (f->recursive)
			return json_pack("{s:s}", "$ref", "#/$defs/backing");
		return object_schema(f->fields);
	case VM_T_LIST:
		return json_pack("{s:s, s:o}", "type", "array", "items", object_schema(f->fields));
	case VM_T_STRINGS:
		return json_pack("{s:s, s:o}", "type", "array", "items",
				 f->choices ? choice(f->choices) : json_pack("{s:s}", "type", "string"));
	case VM_T_RAW:
		return json_pack("{s:s}", "type", "object");
	case VM_T_STRING:
		break;
	}
	return json_pack("{s:s}", "type", "string");
}

static json_t *object_schema(const struct vm_field *table)
{
	json_t *properties = json_object(), *required = json_array();

	for (; table->name; table++) {
		json_t *s = field_type(table);
		json_object_set_new(s, "description", json_string(table->summary));
		if (table->default_json)
			json_object_set_new(s, "default", json_loads(table->default_json, JSON_DECODE_ANY, NULL));
		json_object_set_new(properties, table->name, s);
		if (table->required)
			json_array_append_new(required, json_string(table->name));
	}
	return json_pack("{s:s, s:b, s:o, s:o}", "type", "object", "additionalProperties", 0, "required", required,
			 "properties", properties);
}

static const struct vm_field *find(const struct vm_field *table, const char *name)
{
	while (table->name && !streq(table->name, name))
		table++;
	return table;
}

json_t *vm_spec_json_schema(void)
{
	const struct vm_field *backing = find(find(vm_spec_fields, "disks")->fields, "backing");
	json_t *schema = object_schema(vm_spec_fields);

	json_object_set_new(schema, "$schema", json_string("https://json-schema.org/draft/2020-12/schema"));
	json_object_set_new(schema, "title", json_string("A virtual machine of qmpctl"));
	json_object_set_new(schema, "$defs", json_pack("{s:o}", "backing", object_schema(backing->fields)));
	return schema;
}
