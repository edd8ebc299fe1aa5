/*
 * Pools: places for images that have a name, so that "fast:web.qcow2" can stand wherever an image's path does.
 *
 * A pool is a definition, CONFDIR/pools/NAME.json: its name, its type, and the few fields of that type. Where a volume is
 * follows from it alone. A spec keeps the words; they are looked up just before an image is opened. Owns: the definitions, the
 * table of types. Does not own: the storage itself (images/pool.h).
 */
#pragma once

#include "launcher/files.h"
#include "launcher/spec-table.h"

#define VM_POOL_DEFAULT	  "default" /* there without a definition: the folder STATEDIR/images */
#define VM_POOL_NAME_MAX  64
#define VM_VOLUME_NAME_MAX 200

struct vm_pool_type {
	const char *name, *summary;
	const struct vm_field *fields; /* of a definition, with name and type */
	/* Rules that the table cannot say; may be NULL. A message, or NULL: it is fine. */
	const char *(*check)(const json_t *pool);
	/* A path, or a URL as a location has it; new. NULL: no memory, or there can be no such volume: WHY says so. */
	char *(*locate)(const json_t *pool, const char *volume, const char **why);
};

extern const struct vm_pool_type vm_pool_types[]; /* ends with a NULL name */
/* Of a definition that has passed the check. */
const struct vm_pool_type *vm_pool_type_of(const json_t *pool);

/*
 * "POOL:VOLUME" is one of a pool: the volume, within LOCATION, and the pool's name (POOL may be NULL). NULL: it is none.
 * A volume's name: up to 200 characters without "/" and control characters, and no "." or "-" first.
 */
const char *vm_pool_volume(const char *location, char pool[VM_POOL_NAME_MAX + 1]);
bool vm_volume_name_valid(const char *volume);

/* -EINVAL (usage): what is wrong, with SOURCE and the line where TEXT (of LEN bytes) is what POOL was read from; else NULL. */
int vm_pool_check(const json_t *pool, const char *text, size_t len, const char *source, struct qmp_error *err);
/* The definition, with its defaults; new. -ENOENT: there is none, and which is near. */
int vm_pool_read(const struct vm_dirs *dirs, const char *name, json_t **ret, struct qmp_error *err);
/* Of all pools, the default one among them; sorted; new. */
int vm_pool_names(const struct vm_dirs *dirs, json_t **ret, struct qmp_error *err);

/* Whether a disk of SPEC is in the pool NAME. */
bool vm_pool_is_named(const json_t *spec, const char *name);
/*
 * The definitions of the pools that SPEC names, {NAME: definition}; new. Those that stand in KNOWN and that HAVE, a spec, names
 * are taken from there (both may be NULL): a VM that runs has its images where they were when it got them.
 */
int vm_pools_read(const struct vm_dirs *dirs, const json_t *spec, const json_t *have, const json_t *known, json_t **ret,
		  struct qmp_error *err);
/*
 * To see what SPEC has: a copy, each of whose disks' locations is looked up, in KNOWN first (may be NULL); new. What cannot be
 * found stays as it is.
 */
int vm_pools_look(const struct vm_dirs *dirs, const json_t *spec, const json_t *known, json_t **ret, struct qmp_error *err);
/* Where LOCATION is, with the definitions POOLS; new. One that is of no pool, or POOLS NULL: as it is. */
int vm_pools_locate(const json_t *pools, const char *location, char **ret, struct qmp_error *err);
/* A copy of SPEC, each of whose disks' locations is looked up in POOLS; new. UNKNOWN_OK: one that is not found stays as it is. */
int vm_pools_locate_disks(const json_t *pools, const json_t *spec, bool unknown_ok, json_t **ret, struct qmp_error *err);
