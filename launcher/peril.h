/*
 * Requests at which QEMU ends, where it should refuse: known here, so that they are refused before they are sent, whoever
 * asks: a fragment, raw members of a spec, or a client of control.sock. Pure.
 *
 *   netdev_add type=tap vhost=on where /dev/vhost-net cannot be opened    7.2: assertion in net_client_init1
 *   x-blockdev-amend                                                      10.0: assertion in bdrv_graph_rdlock_main_loop
 *
 * and in the sandbox (-sandbox spawn=deny) whatever has QEMU run a program, at once or when the guest pleases:
 *
 *   migrate, migrate-incoming, migrate-recover to or from exec:
 *   netdev_add type=tap with a helper, or with a script (there is one unless "no" is said); type=bridge, passt
 *   netdev_add type=user with smb, or with a guestfwd to a command
 *
 * The first two, exec:, taps and bridges were found by trying (in the sandbox 7.2 ends, 10.0 answers with an error); the
 * others read in QEMU's net/slirp.c and net/passt.c. Also through human-monitor-command, as far as its line can be read.
 */
#pragma once

#include "launcher/fragment.h"

/* ARGUMENTS may be NULL. 0, or -EOPNOTSUPP. */
int vm_peril_check(const char *command, const json_t *arguments, const struct vm_host *host, struct qmp_error *err);
