/*
 * Unpacks what gzip, bzip2, xz or zstd have packed, as it comes. Streams that follow each other are one file, as their
 * own programs have it.
 */
#pragma once

#include "proto/qmp.h"

enum img_packing { IMG_PACKING_NONE, IMG_PACKING_GZIP, IMG_PACKING_BZIP2, IMG_PACKING_XZ, IMG_PACKING_ZSTD };
#define IMG_PACKING_MAGIC 6 /* so many of the first bytes tell it */

enum img_packing img_packing_of(const unsigned char *head, size_t n);
const char *img_packing_name(enum img_packing p); /* "none", "gzip", ... */

/* What comes out; negative with ERR filled ends it. */
typedef int (*img_unpack_sink)(void *data, const unsigned char *bytes, size_t n, struct qmp_error *err);

struct img_unpack;
/* With IMG_PACKING_NONE, bytes go through as they are. */
int img_unpack_new(enum img_packing p, img_unpack_sink sink, void *data, struct img_unpack **ret, struct qmp_error *err);
void img_unpack_free(struct img_unpack *u);
/* -EBADMSG: damaged. What the sink returned goes through. */
int img_unpack_feed(struct img_unpack *u, const unsigned char *bytes, size_t n, struct qmp_error *err);
/* There is no more. -EBADMSG: it stops in the middle. */
int img_unpack_end(struct img_unpack *u, struct qmp_error *err);
