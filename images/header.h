/*
 * Reading an image's header ourselves, bounded, before QEMU opens it. Source of the layouts: QEMU docs/interop/qcow2.txt
 * and the formats' own specifications.
 */
#pragma once

#include "proto/qmp.h"

struct img_header {
	char format[16];        /* "qcow2", ..., or "raw" where nothing that looks like a format is there */
	uint64_t virtual_size;  /* 0: not known from the header */
	bool has_backing;
	char backing[1024];     /* qcow2: the backing file as the header names it */
	bool has_data_file;     /* qcow2: the guest's data is in another file */
};

/* Fails where PATH cannot be read; "raw" is an answer like any other. */
int img_header_read(const char *path, struct img_header *ret, struct qmp_error *err);
/* The same on bytes; LEN of them from the start. Pure. */
void img_header_parse(const unsigned char *data, size_t len, struct img_header *ret);
