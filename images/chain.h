/*
 * An image and those that it is backed by, as a spec's disk names them, held against what their headers name: QEMU is to
 * open what the spec says and nothing else.
 */
#pragma once

#include "proto/qmp.h"

#define IMG_SIZE_MAX ((uint64_t)1 << 50) /* a virtual size beyond it is a damaged or a hostile header */

/*
 * DISK: an item of a spec ({"path", "format", "backing"?}). Images of the format raw are not looked into. -EINVAL
 * (usage): a header names a backing file where DISK has none, or a data file or an extent; or has an absurd size.
 * Others: it cannot be read.
 */
int img_chain_check(const json_t *disk, struct qmp_error *err);
/*
 * The same of each of SPEC's disks; those that stand in HAVE (may be NULL) just the same are left out. MISSING_OK: what
 * cannot be read now is left to be checked at the start.
 */
int img_chains_check(const json_t *spec, const json_t *have, bool missing_ok, struct qmp_error *err);
