/*
 * A download that is not whole yet: a file in the cache's folder of parts (cache.h), which whoever fetches it holds locked, and
 * beside it what the server has said of the file, so that it can be gone on with.
 *
 * Does not own: when it is gone on with, and what its bytes are.
 */
#pragma once

#include "images/digest.h"
#include "launcher/files.h"

struct img_part {
	char key[IMG_SHA256_LEN + 1]; /* of the address: the part's name */
	int folder, fd;               /* -1: not open */
	uint64_t size;                /* bytes that are there and can be gone on with */
	/* Of the file at the server; NULL or "": not said. */
	char *etag, *last_modified;
	int64_t total; /* bytes; -1: not known */
};

void img_part_init(struct img_part *p);
void img_part_deinit(struct img_part *p);
/* Of this address; what stands behind a '#' is not the server's. */
int img_part_name(struct img_part *p, const char *url, struct qmp_error *err);
int img_part_open_folder(struct img_part *p, const struct vm_dirs *dirs, struct qmp_error *err);
/* Made where it is not there. -EAGAIN: somebody else has it. SHOWN: the source, for messages. */
int img_part_open(struct img_part *p, const char *shown, struct qmp_error *err);
/* What is known of one that was there. DIGEST: it will be held against one, so that nothing else needs to be known. */
void img_part_read(struct img_part *p, bool digest);
/* Nothing has come yet of the file that the server describes so. */
int img_part_begin(struct img_part *p, const char *etag, const char *last_modified, int64_t total);
/* Keeps what is known of it. */
int img_part_describe(struct img_part *p, const char *shown, struct qmp_error *err);
/* What a request can name of the file that we have the beginning of; NULL: nothing. */
const char *img_part_validator(const struct img_part *p);
/* Nobody has it any more. STAYS: the next one goes on with it; KEPT: it has become something else, and its description goes. */
void img_part_end(struct img_part *p, bool stays, bool kept);
