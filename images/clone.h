/*
 * What makes a clone a machine of its own, and its images safe.
 *
 * A linked clone's image is an overlay: it has only what differs from its base, which must never change again. A base is
 * write-protected for this: no write permission is left on the file, which anybody sees who lists it, and a VM that would
 * write to such a file is not started, whoever runs it.
 */
#pragma once

#include "proto/qmp.h"

/* The file's write permissions go, durably. One that we could not write to anyway, or that is no file: nothing. */
int img_protect(const char *path, struct qmp_error *err);
/*
 * -EACCES (state): a disk of SPEC (its locations looked up: pool.h) would write to a file that is write-protected. Disks that
 * stand in HAVE (may be NULL) just the same are left out.
 */
int img_protect_check(const json_t *spec, const json_t *have, struct qmp_error *err);
/*
 * The spec of a clone NAME of SPEC, but for its disks, which are as SPEC has them: what one VM alone can have is left out
 * (uuid, MACs, the seed's instance-id, forwards of the host's ports, sockets and taps that one end alone can have). NOTES,
 * new: sentences about what was left out that somebody may miss. RET is new, and not complete (vm_spec_complete). Pure.
 */
int img_clone_spec(const json_t *spec, const char *name, json_t **ret, json_t **ret_notes, struct qmp_error *err);
