/*
 * The bytes of an image as they come in: digested, and where they are packed, unpacked into a draft with holes, within a limit.
 *
 * Does not own: where they come from, and whether they are what they should be.
 */
#pragma once

#include "images/draft.h"
#include "images/sparse.h"
#include "images/digest.h"
#include "images/unpack.h"

struct img_intake {
	const char *shown; /* the source, for messages; borrowed */
	uint64_t max_size; /* of the image, unpacked */
	bool keeps_plain;  /* what is not packed is the caller's, as it came: there is no draft of it */
	/* Begins the draft, when the first bytes tell that there is to be one. */
	int (*begin)(void *data, struct img_draft *ret, struct qmp_error *err);
	void *data;

	struct img_draft draft; /* path NULL: none */
	enum img_packing packing;
	uint64_t got; /* bytes of the source */

	struct img_digest *digest;
	struct img_unpack *unpack;
	struct img_sparse sparse;
	unsigned char head[IMG_PACKING_MAGIC];
	size_t head_len;
	bool decided; /* what it is packed with */
};

/* The caller has filled the first members. */
int img_intake_open(struct img_intake *n, bool with_sha512, struct qmp_error *err);
void img_intake_deinit(struct img_intake *n);
/* Nothing has come yet. */
int img_intake_reset(struct img_intake *n, struct qmp_error *err);
/* -EFBIG: beyond the limit; -ENOSPC: too little room; -EBADMSG: damaged. */
int img_intake_feed(struct img_intake *n, const unsigned char *bytes, size_t len, struct qmp_error *err);
/* All has come. -EBADMSG: it stops in the middle. */
int img_intake_end(struct img_intake *n, char ret_sha256[IMG_SHA256_LEN + 1], char ret_sha512[IMG_SHA512_LEN + 1],
		   struct qmp_error *err);
/* Whether the source itself is the image; known once all has come. */
bool img_intake_is_plain(const struct img_intake *n);
