/*
 * Sets of fds in QEMU (add-fd, -add-fd) through which it opens images that it may not open itself. One that a node has used stays
 * when the node is gone, and keeps the image open, and so locked.
 */
#pragma once

#include "proto/qmp.h"

/* Has QEMU close the sets whose "opaque" is one of NAMES, an array (incref'ed). Nobody waits for it. */
void vm_fdset_drop(struct qmp_session *session, json_t *names);
