/*
 * Changes that outlast their operation, and the journal that makes them outlast their keeper.
 *
 * Pending is the rest of a change of which the guest has not let go of a device yet. It is run on its own, without a
 * deadline, beside whatever else is done to the VM, and told with QMPCTL_SETTLED when it has ended. It lives as long as
 * the VM runs; while QEMU cannot be reached it rests, and goes on with what QEMU then has.
 *
 * Begun is a change whose plan is being run by its operation. Where that is cut short, because the keeper dies or
 * QEMU's monitor is lost, it is pending, too: whoever reaches QEMU next asks it what of the plan it has, does the rest,
 * or undoes all of it where QEMU refuses. Other changes wait for that.
 *
 * Both stand in RUNDIR/NAME/journal.json, from before the first step is sent until what is to be kept is kept:
 *
 *   {"entries": [{"stage": "begun" | "waiting" | "undoing", "operation", "since", "plan": the steps (left),
 *                 "want": the effective spec that it leads to, "config": the spec to keep on disk}]}
 *
 * It is as lasting as the QEMU that it is about: neither outlives the host.
 */
#pragma once

#include "qmpctl/keeper.h"

/* What an earlier keeper has left: it rests until pending_resume. */
void pending_open(struct guest *g);

/*
 * A change begins: PLAN leads to WANT; CONFIG, NULL where the spec on disk stays as it is, is kept after it. All
 * borrowed. On failure nothing may be sent. One at a time.
 */
int pending_begin(struct guest *g, const char *operation, json_t *plan, json_t *want, json_t *config, struct qmp_error *err);
/* It has ended, and is kept. */
void pending_end(struct guest *g);
/*
 * It has ended, but for REST of its plan, or of its undoing (UNDOES says why; else NULL), of which the guest has not let go
 * (exec.h). Borrowed.
 */
void pending_leave(struct guest *g, json_t *rest, const struct qmp_error *undoes);
/* It was cut short. False: QEMU is gone, there is nothing to settle. */
bool pending_cut_short(struct guest *g);

/* Whether something of the item ("disks.vda") waits. */
bool pending_has(const struct guest *g, const char *item);
/* Whether a change that was cut short is yet to be settled. */
bool pending_unsettled(const struct guest *g);
/* [{"item", "operation", "since", "waits-for"}] for people; new. */
json_t *pending_status(const struct guest *g);
/* QEMU can be reached (again). */
void pending_resume(struct guest *g);
/* The session is gone: they rest. */
void pending_rest(struct guest *g);
/* The VM is gone, or its keeper leaves; the journal is as it is. */
void pending_clear(struct guest *g);
