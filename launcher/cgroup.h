/*
 * A control group (cgroup v2) of a VM's own, which holds its QEMU to the spec's "limits".
 *
 * It is made below the nearest group, from our own upwards, that we may write and that offers the controllers. Our own
 * is mostly not the one: a group that has processes gives its children no controllers, save the root.
 */
#pragma once

#include "proto/qmp.h"

/*
 * Makes it for the effective SPEC, named by NAME and the spec's uuid, with its limits set. RET_PATH: its directory, new;
 * RET_PROCS: its cgroup.procs, open for writing. NULL and -1, and no error, where the spec has no limits. -EOPNOTSUPP: this
 * host, or our place in it, has no such group; -EBUSY: it is there and has processes.
 */
int vm_cgroup_make(const json_t *spec, const char *name, char **ret_path, int *ret_procs, struct qmp_error *err);
/* Holds the group PATH to the spec's "limits.io" on the disk of this host that IMAGE, a path, stands on. Fine where there is none. */
int vm_cgroup_limit_io(const char *path, const json_t *spec, const char *image, struct qmp_error *err);
/* Once its processes are gone. PATH: as from above, also from a file; NULL is fine. */
void vm_cgroup_remove(const char *path);
