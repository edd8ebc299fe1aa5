/*
 * Reading an image's header ourselves, bounded, before QEMU opens it: which format it looks like, and which other files it
 * would have QEMU open. Source of the layouts: QEMU docs/interop/qcow2.txt, qed_spec.txt, block/vmdk.c, block/vpc.c, block/vhdx.h
 * (MS-VHDX) and crypto/block-luks.c.
 */
#pragma once

#include "proto/qmp.h"

#define IMG_NAME_MAX 1024
#define IMG_HEAD     ((size_t)64 << 10) /* the bytes that are looked at */

struct img_header {
	char format[16];        /* "qcow2", ..., or "raw" where nothing that looks like a format is there */
	char encryption[8];     /* qcow2, qcow: "luks", "aes", or "" */
	uint64_t virtual_size;  /* bytes; 0: not known from the header. vhdx, luks: by img_header_read alone, for it stands elsewhere */
	bool has_backing;
	char backing[IMG_NAME_MAX];   /* qcow2, qcow, qed, vmdk: the backing file as the header names it; "": no name that fits */
	char backing_format[16];      /* qcow2: as the header says; "": it does not, and QEMU would guess */
	bool has_data_file;           /* qcow2, vmdk: the guest's data is in another file */
	char data_file[IMG_NAME_MAX]; /* the (first) one, as the header names it */
};

/* Fails where PATH cannot be read; "raw" is an answer like any other. Reads 64 KiB in three places at most, and never waits for a FIFO. */
int img_header_read(const char *path, struct img_header *ret, struct qmp_error *err);
/* The same on bytes; LEN of them from the start. Pure. */
void img_header_parse(const unsigned char *data, size_t len, struct img_header *ret);
/*
 * The names of all the files in which a vmdk at PATH keeps the guest's data, as its descriptor has them: a list, new. NULL: it
 * cannot be read. Reads 1 MiB at most, as QEMU does.
 */
json_t *img_header_extents(const char *path);
