/*
 * Runs a plan (plan.h) over a session. It ends in one of three ways: done; not done, and what was done has been undone;
 * pending, when a wait's deadline passed with the guest still to answer.
 *
 * Steps go out without waiting for each other's replies (QEMU runs them in order, and a step that builds on a failed one
 * fails too), but for a step with a wait: nothing behind it is sent before its event came.
 */
#pragma once

#include "proto/qmp.h"

enum vm_exec_outcome { VM_EXEC_DONE, VM_EXEC_FAILED, VM_EXEC_PENDING };

struct vm_exec;

struct vm_exec_options {
	/* The fd of that name for a getfd step; stays the caller's. -1: none. */
	int (*fd)(void *data, const char *name);
	/* STEP is the number of steps that are done, of TOTAL. May be NULL. */
	void (*progress)(void *data, size_t step, size_t total);
	/* Once, from the loop. REST: on PENDING the steps still to run, the one that waits first; new, taken over. */
	void (*done)(void *data, enum vm_exec_outcome outcome, json_t *rest, const struct qmp_error *why);
	void *data;
};

/* PLAN is borrowed (incref'ed). RET is valid until done was called. */
int vm_exec_run(uv_loop_t *loop, struct qmp_session *session, json_t *plan, const struct vm_exec_options *o,
		struct vm_exec **ret, struct qmp_error *err);
/* The session has been freed: must be said before the loop runs on. Ends as FAILED. */
void vm_exec_abandon(struct vm_exec *x);
