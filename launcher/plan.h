/*
 * Live rendering: a plan is data, a JSON array of steps that an executor runs, a test compares and a journal keeps.
 *
 *   {"item": "disks.vda",                     what of the spec the step serves
 *    "execute": "blockdev-add", "arguments": {...},
 *    "fd": "net0-tap",                        (getfd: the name of the fd to pass)
 *    "secret": "/k",                          (object-add of a secret: the file that holds it, see secret.h; "secret-line": but for a line's end at its end)
 *    "undo": {"execute": ..., "arguments": ..., "wait"?, "fd"?, "secret"?, "secret-line"?},   (absent: nothing to undo)
 *    "optional": true,                        (that it is refused does not matter)
 *    "wait": {"event": "DEVICE_DELETED", "match": {"device": "vda"}, "timeout": 30000}}
 *
 * Steps of one item depend on each other in order; steps of different items do not. What a plan added is undone by
 * removing it, and what it removed by adding it again. Pure.
 */
#pragma once

#include "launcher/fragment.h"

/* Adds to PLAN the steps that add (in order) or remove (in reverse, with the wait) FRAGMENT. */
int vm_plan_add(json_t *plan, const struct vm_fragment *fragment, struct qmp_error *err);
int vm_plan_remove(json_t *plan, const struct vm_fragment *fragment, uint64_t timeout_ms, struct qmp_error *err);
/* The plan that undoes all of PLAN, the last step first. New; NULL: no memory. */
json_t *vm_plan_undo(const json_t *plan);
/* A copy of HAVE in which the items that PLAN touches are what they are in WANT (absent there: gone). New. */
json_t *vm_plan_result(const json_t *have, const json_t *want, const json_t *plan);
/* Whether a step of PLAN (may be NULL) serves the item ("disks.vda"). */
bool vm_plan_touches(const json_t *plan, const char *item);
/* Whether STEP adds or removes (RET_ADDS) an object, and which: its id is borrowed. */
bool vm_step_object(const json_t *step, enum vm_object_kind *ret_kind, const char **ret_id, bool *ret_adds);

/*
 * What turns a running HAVE into WANT (both effective). Appends steps to PLAN (array) and, to NEXT_START (array
 * of {"path", "from", "to", "why"}), what only the next start changes. Live: disks and NICs added and removed, a disk's
 * throttle.
 */
int vm_diff(const json_t *have, const json_t *want, const struct vm_host *host, uint64_t timeout_ms, json_t *plan,
	    json_t *next_start, struct qmp_error *err);
