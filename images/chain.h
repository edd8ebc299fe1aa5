/*
 * An image and those that it is backed by, as a spec's disk names them, held against what their headers name: QEMU is to
 * open what the spec says and nothing else.
 */
#pragma once

#include "proto/qmp.h"

#define IMG_CHAIN_MAX 200 /* images on one another: a longer chain goes round in a circle */
#define IMG_SIZE_MAX ((uint64_t)1 << 50) /* a virtual size beyond it is a damaged or a hostile header */

/*
 * DISK: an item of a spec ({"path", "format", "backing"?}), its locations looked up (pool.h). Images of the format raw are not
 * looked into. -EINVAL (usage): a header names a backing file where DISK has none, or a data file or an extent; or has an
 * absurd size; or it and DISK differ on whether it is encrypted. Those of vm_secret_check, of its key.
 * Others: it cannot be read.
 */
int img_chain_check(const json_t *disk, struct qmp_error *err);
/*
 * The same of each of SPEC's disks; those that stand in HAVE (may be NULL) just the same are left out. MISSING_OK: what
 * cannot be read now is left to be checked at the start.
 */
int img_chains_check(const json_t *spec, const json_t *have, bool missing_ok, struct qmp_error *err);
/*
 * The image PATH (absolute) and what its header and theirs name, as a disk has it: {"path", "format", "backing"?}. FORMAT
 * NULL: what the header looks like. New. Fails where one of them cannot be read, names something that is no file, or would be
 * refused by img_chain_check, for more than that they are encrypted.
 */
int img_chain_read(const char *path, const char *format, json_t **ret, struct qmp_error *err);
/* The path of NAME, as the header of the image PATH has it: new. NULL: it is no file (a URL, json:...), or no memory. */
char *img_backing_path(const char *path, const char *name);
/*
 * The image, at any location but a volume, as QEMU's JSON for a block node with its chain; nothing else is looked for.
 * "key-secret", beside its path: the id of the secret that opens it (img_task_add_secret). New.
 */
json_t *img_node(const json_t *image);
