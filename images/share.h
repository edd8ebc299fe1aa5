/*
 * Who else has an image: two that run with the same one, and one of them writing, destroy it.
 *
 * An image is known by its device and inode, so that a symlink, a hard link or a bind mount of it is the same one;
 * those that it is backed by count, too. One that a server has is known by what its URL names (launcher/location.h):
 * the same export behind two names of one host is not seen. What the VMs that run have is read from their running.json,
 * which is there before QEMU is started and stays until it has ended, whatever becomes of its keeper. Where that is damaged,
 * the files that its QEMU has open count, and of what is no file what its spec on disk names; where those cannot be told
 * either, nothing is started beside it that writes. QEMU's own lock on the file stays the last line: it also knows of
 * programs that are not ours.
 */
#pragma once

#include "launcher/files.h"

/*
 * -EBUSY (state): a disk of SPEC (its locations looked up: pool.h) is also another one of SPEC's, or one of a VM that runs
 * beside the one called NAME, and either writes to it; or it writes to a device that the host itself uses. Disks that
 * stand in HAVE (may be NULL) just the same are left out.
 */
int img_share_check(const struct vm_dirs *dirs, const char *name, const json_t *spec, const json_t *have,
		    struct qmp_error *err);
