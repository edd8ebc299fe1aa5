/*
 * The table of the spec's fields: the one description that checking, defaults, the JSON Schema and the reference
 * come from. Internal to launcher/spec*.c and the tools that print it.
 */
#pragma once

#include <stdint.h>

enum vm_field_type {
	VM_T_STRING,
	VM_T_INT,
	VM_T_BOOL,
	VM_T_SIZE, /* "512M" or bytes */
	VM_T_CHOICE,
	VM_T_PATH, /* absolute */
	VM_T_LOCATION, /* of an image: an absolute path, POOL:VOLUME or a URL (location.h) */
	VM_T_NAME,
	VM_T_ID,
	VM_T_MAC,
	VM_T_UUID,
	VM_T_MACHINE, /* q35, pc, or a versioned name of them */
	VM_T_OBJECT,
	VM_T_LIST,    /* of objects with fields */
	VM_T_STRINGS, /* list of strings; with choices: of those */
	VM_T_RAW,     /* an object that goes to QEMU as it is */
};

struct vm_field {
	const char *name; /* NULL ends a table */
	enum vm_field_type type;
	const char *summary;
	const char *default_json; /* NULL: none */
	const char *const *choices;
	const struct vm_field *fields; /* of an object, or of a list's items */
	int64_t min, max;              /* of VM_T_INT and VM_T_SIZE; 0, 0: any */
	int required;
	int recursive; /* fields: the table that this field stands in */
};

extern const struct vm_field vm_spec_fields[];
