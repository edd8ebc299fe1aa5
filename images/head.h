/*
 * The first bytes of images that servers have, fetched by QEMU's own drivers (qemu-img), so that their headers are looked into
 * before QEMU opens them, as those of files are.
 *
 * HEADS is an object: what a location begins with, as a JSON string that need be no text (img_header_parse reads it). It is
 * kept as long as the operation that has them fetched, printed nowhere and sent to nobody.
 * Does not own: what is refused of a header (chain.h).
 */
#pragma once

#include "images/header.h"

struct img_heads;

/* Whether IMAGE, its location looked up, is on a server, and of a format whose header says something, or of none yet. */
bool img_head_wanted(const json_t *image);
/*
 * Of the image at LOCATION, from its file or from HEADS (may be NULL). -ENODATA (host): it is on a server, and was not
 * fetched. Others are img_header_read's.
 */
int img_head_of(const json_t *heads, const char *location, struct img_header *ret, struct qmp_error *err);

struct img_heads_options {
	const json_t *disks;  /* located (pool.h), each with its chain; those whose header is wanted and is not in HEADS are fetched */
	const json_t *spec;   /* of the VM that they are for: as whose user, and under whose uuid; NULL: as ourselves */
	json_t *heads;        /* gets them */
	/* Once, from the loop. WHY (borrowed) NULL: all of them are there; else what was said of the first that failed. */
	void (*done)(void *data, const struct qmp_error *why);
	void *data;
};

/* 1: none is to be fetched, and DONE is not called; 0; negative: it cannot be begun. RET is valid until DONE was called. */
int img_heads_fetch(uv_loop_t *loop, const struct img_heads_options *o, struct img_heads **ret, struct qmp_error *err);
/* It fails, unless it was done already: DONE is called when nothing is under way any more. NULL is fine. */
void img_heads_cancel(struct img_heads *h);
/* DONE is not called any more. NULL is fine. */
void img_heads_abandon(struct img_heads *h);
/* For verbs: to its end, taken back by SIGINT, SIGTERM and SIGHUP. */
int img_heads_fetch_now(uv_loop_t *loop, const json_t *disks, json_t *heads, struct qmp_error *err);
