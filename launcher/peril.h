/*
 * Requests at which QEMU ends, where it should refuse: known here, so that they are refused before they are sent, whoever
 * asks: a fragment, raw members of a spec, or a client of control.sock. Pure.
 *
 *   netdev_add type=tap vhost=on where /dev/vhost-net cannot be opened    7.2: assertion in net_client_init1
 *   x-blockdev-amend                                                      10.0: assertion in bdrv_graph_rdlock_main_loop
 *
 * Both found by trying. Also through human-monitor-command, as far as its line can be read.
 */
#pragma once

#include "launcher/fragment.h"

/* ARGUMENTS may be NULL. 0, or -EOPNOTSUPP. */
int vm_peril_check(const char *command, const json_t *arguments, const struct vm_host *host, struct qmp_error *err);
