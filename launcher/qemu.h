/*
 * One QEMU process with its QMP session: up when it negotiated and answered query-status, down when its
 * pidfd says so, silent while it does not answer. Used for VMs and for asking a QEMU binary what it can.
 */
#pragma once

#include "launcher/child.h"

struct vm_qemu;

struct vm_qemu_options {
	struct vm_child_options child; /* argv NULL: adopt PID instead of starting */
	pid_t pid;
	bool ends;                     /* it has said SHUTDOWN to who had it before, and is not to stay */
	int qmp_fd;                    /* connected to its monitor; taken over. -1: vm_qemu_reconnect will bring it */
	uint64_t up_timeout_ms;        /* 0: 30,000 */
	/* STATUS: what query-status returned. */
	void (*on_up)(void *data, json_t *status);
	/*
	 * It is asked for its status every 2 s. SILENT: it has not answered for one such turn; the session stays, and so
	 * does every command in it. ANSWERS: it has answered again. Both NULL: it is not asked.
	 */
	void (*on_silent)(void *data);
	void (*on_answers)(void *data, json_t *status);
	/* The session is about to be freed, for whatever reason: what goes on over it ends now. May be NULL. */
	void (*on_session_end)(void *data);
	/* Each such turn, also while it is silent. */
	void (*on_turn)(void *data);
	/* The session ended although the process lives (or it never came up in time): unresponsive. */
	void (*on_lost)(void *data, const struct qmp_error *why);
	/* The process is gone; every event that it sent has been delivered. Last call. */
	void (*on_exit)(void *data, const struct vm_exit *how);
	qmp_event_cb on_event;         /* all of them */
	void *data;
};

int vm_qemu_new(uv_loop_t *loop, const struct vm_qemu_options *o, struct vm_qemu **ret, struct qmp_error *err);
/* NULL while there is none (lost). */
struct qmp_session *vm_qemu_session(const struct vm_qemu *q);
/* After on_lost: tries again over FD (taken over). */
int vm_qemu_reconnect(struct vm_qemu *q, int qmp_fd, struct qmp_error *err);
const struct vm_child *vm_qemu_child(const struct vm_qemu *q);
/* Lets go of it; the process goes on. No callback after this. NULL is fine. */
void vm_qemu_free(struct vm_qemu *q);
