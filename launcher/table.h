/*
 * A JSON document held against a table of fields (spec-table.h): types, choices, limits, unknown and missing keys; and the
 * defaults that the table names. Rules between fields are the caller's. Pure: no I/O.
 */
#pragma once

#include "launcher/spec-table.h"
#include "proto/qmp.h"

/* Where messages come from and go to. */
struct vm_check {
	const char *text; /* what was parsed, to find lines in; NULL: no lines */
	size_t len;
	const char *source; /* its name */
	struct qmp_error *err;
	const char *whole; /* what the document is, where no field is to blame; NULL: "the spec" */
};

/* -EINVAL (usage): "SOURCE:LINE: PATH: ..."; PATH as in "disks[1].cache", "": the whole. */
int vm_refuse(const struct vm_check *c, const char *path, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* KEY is no field of TABLE; says which is near, or which there are. */
int vm_refuse_key(const struct vm_check *c, const char *path, const struct vm_field *table, const char *key);
/* VALUE must be an object of TABLE's fields. 0 or what vm_refuse gives. */
int vm_check_object(const struct vm_check *c, const char *path, const struct vm_field *table, const json_t *value);
/* NULL: there is none. */
const struct vm_field *vm_find_field(const struct vm_field *table, const char *name);
/* Writes into OBJECT, which has passed the check, each default of TABLE that it is silent of. -ENOMEM. */
int vm_fill_defaults(const struct vm_field *table, json_t *object);
