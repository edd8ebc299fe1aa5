/*
 * Network resources of the host that a NIC needs before QEMU does: the fd of a tap.
 */
#pragma once

#include "proto/qmp.h"

/* NIC (effective item) with backend tap or bridge: an open fd, close-on-exec. Others: -1 and no error (returns 0). */
int vm_hostnet_open(const json_t *nic, int *ret_fd, struct qmp_error *err);
/* Whether QEMU may be asked for vhost: 7.2 aborts on it without the device. */
bool vm_hostnet_has_vhost(void);
