/*
 * An image that is being made: under a hidden name in the folder where it will stand, until it is whole.
 *
 * "a.qcow2" is made as ".a.qcow2.qmpctl-new", which its maker holds locked (a byte of it, which QEMU's own locks do not meet). What a
 * maker that was killed has left is removed by the next one in that folder. Keeping it makes it durable, then gives it its
 * name: there is nothing, or the whole.
 */
#pragma once

#include "proto/qmp.h"

struct img_draft {
	char *path;  /* where the maker writes; absolute; an empty file of mode 0600 */
	char *final; /* where it will stand */
	int fd;      /* of the draft, read and write: the lock */
	bool replaces;
};

/* FINAL is absolute. -EEXIST: it is there already, and REPLACE is not set. -EBUSY: it is being made by somebody else. */
int img_draft_begin(const char *final, bool replace, struct img_draft *ret, struct qmp_error *err);
/* On disk, under its name, over an old one only where it was begun so. Ends the draft, also when it fails. */
int img_draft_keep(struct img_draft *d, struct qmp_error *err);
/* It was given another name by its maker. Ends the draft. */
void img_draft_release(struct img_draft *d);
/* Removes it. Of one that has ended: nothing. */
void img_draft_discard(struct img_draft *d);
#define _cleanup_draft_ __attribute__((cleanup(img_draft_discard)))
/*
 * The lock of a file that is being made: FD, read and write, has it (MAKER), or nobody does who is one. -EAGAIN: somebody is. Of one
 * byte: on NFS, flock() has the server lock the whole file, and QEMU's own locks, of other bytes, are refused.
 */
int img_draft_lock(int fd, bool maker);
/* Removes from FOLDER what makers that are gone have left. */
void img_draft_sweep(const char *folder);
