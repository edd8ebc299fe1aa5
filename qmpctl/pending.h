/*
 * What waits for the guest: the rest of a change of which the guest has not let go of a device yet. It is run on its own,
 * without a deadline, beside whatever else is done to the VM, and told with QMPCTL_SETTLED when it has ended. It lives as
 * long as the VM runs; while QEMU cannot be reached it rests, and goes on with what QEMU then has.
 */
#pragma once

#include "qmpctl/keeper.h"

/*
 * REST is what an executor left (exec.h), WANT the effective spec that it leads to; NULL where it undoes, and leaves the
 * running spec as it is. Both borrowed.
 */
int pending_add(struct guest *g, const char *operation, json_t *rest, json_t *want, struct qmp_error *err);
/* Whether something of the item ("disks.vda") waits. */
bool pending_has(const struct guest *g, const char *item);
/* [{"item", "operation", "since", "waits-for"}] for people; new. */
json_t *pending_status(const struct guest *g);
/* QEMU can be reached again. */
void pending_resume(struct guest *g);
/* The session is gone: they rest. */
void pending_rest(struct guest *g);
/* The VM is gone. */
void pending_clear(struct guest *g);
