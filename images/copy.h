/*
 * A copy of a file, byte for byte, whatever its format: its blocks shared where the file system can (FICLONE: Btrfs, XFS), else
 * copied, with its holes.
 */
#pragma once

#include "images/qemu-img.h"

struct img_copy_options {
	const char *from, *to;  /* absolute; TO is not there yet */
	img_whole_cb whole;     /* before it has its name, as with tasks (qemu-img.h); may be NULL */
	void *whole_data;
	void (*progress)(void *data, uint64_t done, uint64_t total); /* may be NULL */
	void *data;
};

/*
 * For verbs: to its end, in which SIGINT, SIGTERM and SIGHUP take it back; nothing is left then. RET_SHARED (may be NULL): no
 * byte was copied.
 */
int img_copy_call(uv_loop_t *loop, const struct img_copy_options *o, bool *ret_shared, struct qmp_error *err);
