/*
 * An image comes from a file or from an address of http or https: fetched, resumed where it was cut off, unpacked as it comes,
 * held against its digest, looked into, and kept in the cache (cache.h) or put where it is wanted.
 *
 * What comes in is somebody else's: it is limited in size, and an image that would have QEMU open another file is refused.
 * What is left when it fails, is taken back or is killed: a part that the next run goes on with, and nothing else.
 */
#pragma once

#include "images/digest.h"
#include "images/unpack.h"
#include "launcher/files.h"

struct img_import;

enum img_import_phase { IMG_IMPORT_WAIT, IMG_IMPORT_FETCH, IMG_IMPORT_READ, IMG_IMPORT_COPY };

struct img_import_result {
	struct qmp_error error; /* kind QMP_ERR_NONE: all that follows is filled */
	const char *path;       /* absolute: the destination, or in the cache, where it is read-only and a base for overlays; lent */
	char format[16];        /* as its header says (images/header.h); "raw" where it says nothing */
	char sha256[IMG_SHA256_LEN + 1]; /* of the source as it came */
	enum img_packing packing;        /* what it was packed with */
	uint64_t size;          /* bytes, unpacked */
	uint64_t virtual_size;  /* bytes; that of the file where the format does not say */
	bool cached;            /* it was here already: nothing was fetched */
	bool verified;          /* against a digest that was given */
};

#define IMG_IMPORT_MAX ((uint64_t)256 << 30) /* bytes, unpacked, where nothing else is said */

struct img_import_options {
	const struct vm_dirs *dirs; /* borrowed until done */
	const char *source;         /* a path, or http(s)://...; without a user's name or password */
	const char *destination;    /* absolute, not there yet; NULL: in the cache alone */
	const char *sha256, *sha512; /* hexadecimal digits; NULL: not given */
	const char *sums;           /* a list of digests, a path or an address, in which the source's file name stands; NULL */
	const char *ca_file, *netrc_file; /* fetch.h; NULL */
	uint64_t max_size;          /* 0: IMG_IMPORT_MAX */
	int stall_s;                /* 0: 30 */
	int retries;                /* so many times without a byte in between; -1: 5 */
	bool no_cache;              /* with a destination: nothing stays in the cache of what this run has fetched */
	/* DONE of TOTAL bytes of the source; TOTAL 0: not known. May be NULL. */
	void (*progress)(void *data, enum img_import_phase phase, uint64_t done, uint64_t total);
	/* What is worth a word: it is tried again, it begins anew. May be NULL. */
	void (*note)(void *data, const char *text);
	void (*done)(void *data, const struct img_import_result *r); /* once, from the loop; R and RET are gone after it */
	void *data;
};

/* All of O is copied, but DIRS and DATA. RET is valid until done was called. */
int img_import_run(uv_loop_t *loop, const struct img_import_options *o, struct img_import **ret, struct qmp_error *err);
/* Done is called soon, with QMP_ERR_CANCELLED unless it is done already. */
void img_import_cancel(struct img_import *i);
/*
 * Runs LOOP until it has ended: for verbs, never in a keeper. SIGINT, SIGTERM and SIGHUP take it back. DONE of O is not used.
 * RET's path is new, the caller's to free.
 */
int img_import_call(uv_loop_t *loop, const struct img_import_options *o, struct img_import_result *ret, struct qmp_error *err);
