/*
 * The spec: everything that a VM has, as a JSON document.
 *
 * One table describes every field (type, choices, limits, default, summary); checking, defaults, the JSON
 * Schema in docs/ and the reference are all made from it. A spec in memory is a json_t object that has
 * passed vm_spec_parse or vm_spec_check. Pure: no I/O.
 */
#pragma once

#include "proto/qmp.h"

#define VM_ID_MAX   16 /* disks', NICs' and consoles' ids: [a-z][a-z0-9_]{0,15}; derived QEMU ids add "-..." */
#define VM_NAME_MAX 64 /* [A-Za-z0-9][A-Za-z0-9._-]{0,63} */

/* TEXT as the spec that it writes; SOURCE names it in messages ("FILE:LINE: disks[1].cache: ..."). New. */
int vm_spec_parse(const char *text, size_t len, const char *source, json_t **ret, struct qmp_error *err);
/* The same checks on a document made in memory (no lines in the messages). */
int vm_spec_check(const json_t *spec, struct qmp_error *err);
/* A copy in which every field stands, with its default where the spec is silent. New; NULL: no memory. */
json_t *vm_spec_effective(const json_t *spec);
/* Of that the section NAME alone, such as "restart": one that the table gives a default. New; NULL: no memory. */
json_t *vm_spec_section(const json_t *spec, const char *name);
/*
 * Writes into SPEC what is chosen once and then kept: uuid, ids, MACs (52:54:00:...), PCI ports of disks, NICs
 * (and "scsi-port" when a disk is on the scsi bus). Returns 1 when it changed something, 0 when not.
 */
int vm_spec_complete(json_t *spec, struct qmp_error *err);
/* The same beside devices that are not in SPEC: TAKEN (may be NULL) has the ports that are not to be chosen as keys. */
int vm_spec_complete_beside(json_t *spec, const json_t *taken, struct qmp_error *err);
/* The item of SPEC[KIND] ("disks", "nics", "consoles") with that id; borrowed; NULL: none. */
json_t *vm_spec_find(const json_t *spec, const char *kind, const char *id);
/* Removes it: 0, or -ENOENT. */
int vm_spec_remove(json_t *spec, const char *kind, const char *id);
/*
 * Sets the value at PATH ("memory", "cpu.count", "disks[vda].cache": an item by its id or index); VALUE NULL
 * removes it. TEXT values are taken as JSON where they are JSON of the field's type, else as a string. What is refused
 * has changed nothing; whether the value itself is acceptable is for vm_spec_check.
 */
int vm_spec_set(json_t *spec, const char *path, const char *text, struct qmp_error *err);
bool vm_name_valid(const char *name);
bool vm_id_valid(const char *id);
/* Whether the machine is of the type "pc" or a version of it; else it is a q35. */
bool vm_spec_is_pc(const json_t *spec);
/* The PCI ports that a machine of this spec has: root ports "port-N" on q35, slots of bus 0 on pc (which is flat). */
int64_t vm_spec_ports(const json_t *spec);
/* The most that a machine of its type can have. */
int64_t vm_spec_ports_max(const json_t *spec);
/* Whether an image of that format can name a backing image. */
bool vm_format_has_backing(const char *format);
/* "512M", "10G" (K, M, G, T: powers of 1024) or an integer of bytes, as bytes. */
int vm_size_parse(const json_t *value, uint64_t *ret);
/* The JSON Schema (draft 2020-12). New. */
json_t *vm_spec_json_schema(void);
