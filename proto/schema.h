/*
 * What the look-ups and the typing of arguments share: following references in query-qmp-schema's reply. Internal.
 */
#pragma once

#include "proto/qmp.h"

/* References followed in one look-up: more means that the schema refers to itself. */
#define QMP_SCHEMA_DEPTH 64

struct qmp_schema {
	json_t *index; /* name -> its SchemaInfo */
};

bool qmp_schema_equals(const json_t *string, const char *text, size_t len);
bool qmp_schema_is(const json_t *info, const char *meta);
/* The SchemaInfo whose name stands behind KEY of INFO. NULL: nothing. */
const json_t *qmp_schema_follow(const struct qmp_schema *s, const json_t *info, const char *key);
/* The member of an object type with that name. */
const json_t *qmp_schema_member(const json_t *info, const char *name, size_t len);
/* What a union (INFO) adds when its tag has VALUE; NULL: nothing. */
const json_t *qmp_schema_branch(const struct qmp_schema *s, const json_t *info, const char *value, size_t len);
/*
 * The branch that the tag in VALUE chooses, which may be a text's leaf; NULL: none, or the tag has no such value (which
 * its own check says).
 */
const json_t *qmp_schema_chosen(const struct qmp_schema *s, const json_t *info, const json_t *value);
/* The values of an enum, new; NULL for any other type. */
json_t *qmp_schema_choices(const json_t *info);
/* "int", "string", "any", ... of a builtin; "enum", "array", "object"; all of an alternate's: "string | object". New. */
json_t *qmp_schema_type_words(const struct qmp_schema *s, const json_t *info);
