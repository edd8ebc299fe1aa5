/*
 * Writes a file from its beginning on, with holes where zeros are, within limits: so large at most, and never so much that the
 * file system is full for the VMs beside it.
 */
#pragma once

#include "proto/qmp.h"

struct img_sparse {
	int fd; /* borrowed; of an empty file */
	uint64_t size; /* bytes so far, holes included */
	uint64_t end;  /* of what was written */
	uint64_t max;
	uint64_t unchecked; /* bytes written since the file system was asked for its room */
};

void img_sparse_init(struct img_sparse *s, int fd, uint64_t max);
/* -EFBIG: beyond the limit; -ENOSPC: too little would be left on the file system. */
int img_sparse_write(struct img_sparse *s, const unsigned char *bytes, size_t n, struct qmp_error *err);
/* Gives the file its length. */
int img_sparse_end(struct img_sparse *s, struct qmp_error *err);
/* Whether MORE bytes can be written where FD is, and something is left for others: a twentieth, 1 GiB at most. */
int img_room_check(int fd, uint64_t more, struct qmp_error *err);
