/*
 * The disk of this host on which a file stands, or which it is.
 */
#pragma once

#include "proto/qmp.h"

/*
 * The numbers of the whole disk (a partition's is that of the disk: the kernel limits I/O by disks) below the file system of
 * PATH, or of PATH itself where that is a block device. -ENODEV: there is none, as below tmpfs, NFS or an overlay.
 * Source: Linux, Documentation/admin-guide/cgroup-v2.rst (io.max), Documentation/filesystems/proc.rst (mountinfo).
 */
int vm_host_disk(const char *path, unsigned *ret_major, unsigned *ret_minor, struct qmp_error *err);
