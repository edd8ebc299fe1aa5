/*
 * An empty overlay, written by ourselves: a qcow2 of a few blocks, there in less time than a program takes to start. What
 * qemu-img makes is the same but for its options.
 * Source: QEMU docs/interop/qcow2.txt. Does not own: what is in images; that is qemu-img's.
 */
#pragma once

#include "images/qemu-img.h"

/*
 * PATH (absolute, not there yet) is backed by the file BASE ({"path", "format"}), and is SIZE bytes large; 0: as large as BASE.
 * WHOLE, with DATA, is called before it has its name; may be NULL. -EOPNOTSUPP, with no error filled: only qemu-img can say
 * how large BASE is.
 */
int img_overlay_make(const char *path, const json_t *base, uint64_t size, img_whole_cb whole, void *data,
		     struct qmp_error *err);
/* Whether a guest sees nothing in it but what it is backed by: a qcow2 into which nothing was written. False where in doubt. */
bool img_overlay_is_empty(const char *path);
