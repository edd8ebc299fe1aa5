/*
 * Requests at which QEMU ends, or hangs, where it should refuse: known here, so that they are refused before they are sent,
 * whoever asks: a fragment, raw members of a spec, or a client of control.sock. Pure, but for that
 * the host is asked for its ssh configuration (vm_host.ssh_runs) where an image is to be opened by the driver ssh, and for what
 * a word is the name of (vm_host.file_type).
 *
 *   netdev_add type=tap vhost=on where /dev/vhost-net cannot be opened    7.2: assertion in net_client_init1
 *   x-blockdev-amend                                                      10.0: assertion in bdrv_graph_rdlock_main_loop
 *   device-list-properties, qom-list-properties, device_add of virtio-gpu-gl-pci, virtio-vga-gl
 *                                     7.2: exit(1) where the module is not installed; 10.0: assertion in module_load_dso
 *   qom-list-properties of colo-compare, x-remote-object, qio-net-listener, microvm-machine        both: assertion, SIGSEGV
 *   object-add of colo-compare, x-remote-object, refused by themselves    both: assertion in qemu_mutex_destroy, SIGSEGV
 *
 * at which its main loop, and with it the VM, waits for somebody to connect (both):
 *
 *   chardev-add, chardev-change of a socket that is a server, with wait; in the human monitor without wait=off; gdbserver of one
 *   netdev_add type=vhost-user, device_add vhost-user-... whose chardev is not connected (with -rng 7.2 ends): that is to be
 *   asked for, by vm_peril_chardev
 *   whatever opens a file by its name, of a FIFO: blockdev-add, object-add of a secret, screendump, ... Any word of any command
 *   counts, but the FIFOs of a chardev pipe, which QEMU opens without waiting
 *   what opens a node of the driver file, of a device that is no block device: a terminal's
 *
 * and in the sandbox (-sandbox spawn=deny) whatever has QEMU run a program, at once or when the guest pleases:
 *
 *   migrate, migrate-incoming, migrate-recover to or from exec:
 *   netdev_add type=tap with a helper, or with a script (there is one unless "no" is said); type=bridge, passt
 *   netdev_add type=user with smb, or with a guestfwd to a command
 *   block-export-add type=fuse (both end, as root too)
 *   whatever opens an image by the driver ssh, where the ssh configuration has a "Match exec" (sshconf.h; 7.2 ends)
 *
 * All but the last two kinds of netdev_add were found by trying (of a program 7.2 ends, 10.0 answers with an
 * error); those read in QEMU's net/slirp.c and net/passt.c. Also through human-monitor-command, as far as its line can be read.
 */
#pragma once

#include "launcher/fragment.h"

/* ARGUMENTS may be NULL. 0, or -EOPNOTSUPP. */
int vm_peril_check(const char *command, const json_t *arguments, const struct vm_host *host, struct qmp_error *err);
/* The chardev that has to be connected before COMMAND is sent; NULL: none. Borrowed. */
const char *vm_peril_chardev(const char *command, const json_t *arguments);
/* CHARDEVS: what query-chardev returned. 0, or -ENOTCONN. */
int vm_peril_check_chardev(const char *command, const char *chardev, const json_t *chardevs, struct qmp_error *err);
