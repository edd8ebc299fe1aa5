/*
 * Runs a plan (plan.h) over a session. It ends in one of three ways: done; not done, and what was done has been undone;
 * pending, when the guest has still to let go of something.
 *
 * Steps go out without waiting for each other's replies (QEMU runs them in order, and a step that builds on a failed one
 * fails too), but for a step with a wait, which unplugs a device (unplug.h): nothing behind it is sent before it is gone; and
 * for one that hands over a secret or an image: nothing behind it is sent before QEMU has said where it has it.
 * Undoing is a plan that is run in the same way, to its end, whatever of it is refused.
 */
#pragma once

#include "proto/qmp.h"

enum vm_exec_outcome { VM_EXEC_DONE, VM_EXEC_FAILED, VM_EXEC_PENDING };

struct vm_exec;

struct vm_exec_options {
	/* The fd of that name for a getfd step, taken over; or the error that says why there is none. */
	int (*fd)(void *data, const char *name, struct qmp_error *err);
	/*
	 * The image that STEP, a blockdev-add, opens: 1, and RET_FD is what QEMU is to be given in its place; taken over. 0: QEMU
	 * opens it itself. NULL: it opens all of them.
	 */
	int (*image)(void *data, const json_t *step, int *ret_fd, struct qmp_error *err);
	/* STEP is the number of steps that are done, of TOTAL. May be NULL. */
	void (*progress)(void *data, size_t step, size_t total);
	/*
	 * Once, from the loop. REST: the steps still to run when the guest has let go, the one that waits for it first;
	 * of the plan on PENDING, of its undoing on FAILED; NULL where nothing is left. New, taken over.
	 */
	void (*done)(void *data, enum vm_exec_outcome outcome, json_t *rest, const struct qmp_error *why);
	void *data;
	bool patient; /* it waits for the guest as long as that takes */
};

/* PLAN is borrowed (incref'ed). RET is valid until done was called. */
int vm_exec_run(uv_loop_t *loop, struct qmp_session *session, json_t *plan, const struct vm_exec_options *o,
		struct vm_exec **ret, struct qmp_error *err);
/* The session has been or will be freed before the loop runs on. Ends as FAILED, at once. */
void vm_exec_abandon(struct vm_exec *x);
