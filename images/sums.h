/*
 * Lists of digests (SHA256SUMS), read from a file or fetched: what one says of a file.
 *
 * Does not own: signatures of such lists; those are for gpg and its like.
 */
#pragma once

#include "images/digest.h"

#include <uv.h>

#define IMG_SUMS_MAX ((size_t)4 << 20) /* bytes of a list */

/*
 * What a list of digests says of the file NAME: lines as sha256sum and its like print them ("DIGITS  NAME", "DIGITS *NAME"),
 * or as BSD does ("SHA256 (NAME) = DIGITS"); what else stands there is passed over. Folders before names do not count, and a folder is no file.
 * -ENOENT: it says nothing; -EBADMSG: two different things. Either may be "" on success. Pure.
 */
int img_sums_find(const char *text, size_t len, const char *name, char ret_sha256[IMG_SHA256_LEN + 1],
		  char ret_sha512[IMG_SHA512_LEN + 1]);

struct img_sums_result {
	struct qmp_error error; /* kind QMP_ERR_NONE: at least one of these is filled */
	char sha256[IMG_SHA256_LEN + 1], sha512[IMG_SHA512_LEN + 1];
};

/* Of a list that is a file. -ENOENT (not found): nothing is said of FILE; -EBADMSG (refused): two different things. */
int img_sums_read(const char *path, const char *file, struct img_sums_result *ret, struct qmp_error *err);

struct img_sums_options {
	const char *url;                  /* of http or https */
	const char *file;                 /* whose digests are wanted */
	const char *ca_file, *netrc_file; /* fetch.h; NULL */
	int stall_s;                      /* 0: 30 */
	/* Once, from the loop; R is gone after it. */
	void (*done)(void *data, const struct img_sums_result *r);
	void *data;
};

struct img_sums;

/* All of O is copied, but DATA. RET is valid until done was called. */
int img_sums_run(uv_loop_t *loop, const struct img_sums_options *o, struct img_sums **ret, struct qmp_error *err);
/* Done is called soon, with QMP_ERR_CANCELLED. */
void img_sums_cancel(struct img_sums *s);
