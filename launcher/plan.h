/*
 * Live rendering: a plan is data, a JSON array of steps that an executor runs, a test compares and a journal keeps.
 *
 *   {"item": "disks.vda",                     what of the spec the step serves
 *    "execute": "blockdev-add", "arguments": {...},
 *    "fd": "net0-tap",                        (getfd: the name of the fd to pass)
 *    "undo": {"execute": ..., "arguments": ...},      (absent: nothing to undo)
 *    "wait": {"event": "DEVICE_DELETED", "match": {"device": "vda"}, "timeout": 30000}}
 *
 * Steps of one item depend on each other in order; steps of different items do not. Pure.
 */
#pragma once

#include "launcher/fragment.h"

/* Adds to PLAN the steps that add (in order) or remove (in reverse, with the wait) FRAGMENT. */
int vm_plan_add(json_t *plan, const struct vm_fragment *fragment, struct qmp_error *err);
int vm_plan_remove(json_t *plan, const struct vm_fragment *fragment, uint64_t timeout_ms, struct qmp_error *err);

/*
 * What turns a running HAVE into WANT (both effective). Appends steps to PLAN (array) and, to NEXT_START (array
 * of {"path", "from", "to", "why"}), what only the next start changes. Live: disks and NICs added and removed, a disk's
 * throttle.
 */
int vm_diff(const json_t *have, const json_t *want, const struct vm_host *host, uint64_t timeout_ms, json_t *plan,
	    json_t *next_start, struct qmp_error *err);
