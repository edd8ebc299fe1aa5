/*
 * SHA-256 and SHA-512 of bytes as they pass, and the files that list them (SHA256SUMS).
 *
 * Does not own: signatures of such files; those are for gpg and its like.
 */
#pragma once

#include "proto/qmp.h"

#define IMG_SHA256_LEN 64 /* in hexadecimal digits */
#define IMG_SHA512_LEN 128

struct img_digest;

/* SHA-512 only where asked for: it costs more than what disk and network take. */
int img_digest_new(bool with_sha512, struct img_digest **ret, struct qmp_error *err);
void img_digest_free(struct img_digest *d);
/* Begins anew. */
int img_digest_reset(struct img_digest *d);
int img_digest_update(struct img_digest *d, const void *bytes, size_t n);
/* Digits in lower case; RET_SHA512 is "" where it was not asked for. Ends it: reset or free. */
int img_digest_finish(struct img_digest *d, char ret_sha256[IMG_SHA256_LEN + 1], char ret_sha512[IMG_SHA512_LEN + 1]);

/* TEXT is LEN hexadecimal digits: copied in lower case. Else -EINVAL. */
int img_digest_take(const char *text, size_t len, char *ret);
/*
 * What a list of digests says of the file NAME: lines as sha256sum and its like print them ("DIGITS  NAME", "DIGITS *NAME"),
 * or as BSD does ("SHA256 (NAME) = DIGITS"); what else stands there is passed over. Folders before names do not count.
 * -ENOENT: it says nothing; -EBADMSG: two different things. Either may be "" on success. Pure.
 */
int img_sums_find(const char *text, size_t len, const char *name, char ret_sha256[IMG_SHA256_LEN + 1],
		  char ret_sha512[IMG_SHA512_LEN + 1]);
