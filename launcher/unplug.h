/*
 * Unplugging one device: device_del, and then whatever it takes until the device is gone. The guest has to let go of it,
 * and may not be able to:
 *
 *   it has not run yet      a VM at -S whose processor stands at its reset vector: QEMU would lose the request (7.2 for
 *                           good), but lets go at a reset, which a guest that has not run does not notice
 *   it does not run         paused: QEMU keeps the request until it runs again
 *   it has no driver yet    the request is lost when its operating system comes up: sent again in growing intervals, and
 *                           when the VM is resumed or the guest's agent appears
 *   it is being asked       another client's request, or an earlier one of ours: that one is waited for
 *   it refuses              DEVICE_UNPLUG_GUEST_ERROR
 *
 * A device that is gone already counts as unplugged.
 */
#pragma once

#include "proto/qmp.h"

enum vm_unplug_outcome {
	VM_UNPLUG_GONE,
	VM_UNPLUG_REFUSED, /* by QEMU or by the guest, or the session ended */
	VM_UNPLUG_SILENT,  /* not gone in time, but asked to go: it still may, at any moment */
};

struct vm_unplug;

/* Once, from the loop. WHY is NULL when it is gone. */
typedef void (*vm_unplug_cb)(void *data, enum vm_unplug_outcome outcome, const struct qmp_error *why);

/* ID is copied; a TIMEOUT_MS of UINT64_MAX never passes. RET is valid until CB. */
int vm_unplug_run(uv_loop_t *loop, struct qmp_session *session, const char *id, uint64_t timeout_ms, vm_unplug_cb cb,
		  void *data, struct vm_unplug **ret, struct qmp_error *err);
/* No CB after this; a request that QEMU has stays. SESSION_GONE: the session has been freed. NULL is fine. */
void vm_unplug_free(struct vm_unplug *u, bool session_gone);
