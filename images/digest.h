/*
 * SHA-256 and SHA-512 of bytes as they pass. Does not own: lists of them (sums.h).
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
