#include "images/digest.h"
#include "images/library.h"
#include "proto/base.h"

#include <ctype.h>
#include <openssl/evp.h>
#include <stdio.h>

#define STRING_OF(x) #x
#define STRING(x)    STRING_OF(x)

static IMG_SYMBOL(EVP_MD_CTX_new);
static IMG_SYMBOL(EVP_MD_CTX_free);
static IMG_SYMBOL(EVP_DigestInit_ex);
static IMG_SYMBOL(EVP_DigestUpdate);
static IMG_SYMBOL(EVP_DigestFinal_ex);
static IMG_SYMBOL(EVP_sha256);
static IMG_SYMBOL(EVP_sha512);
static const struct img_symbol symbols[] = {
	IMG_SYMBOL_OF(EVP_MD_CTX_new),
	IMG_SYMBOL_OF(EVP_MD_CTX_free),
	IMG_SYMBOL_OF(EVP_DigestInit_ex),
	IMG_SYMBOL_OF(EVP_DigestUpdate),
	IMG_SYMBOL_OF(EVP_DigestFinal_ex),
	IMG_SYMBOL_OF(EVP_sha256),
	IMG_SYMBOL_OF(EVP_sha512),
	{0},
};

struct img_digest {
	EVP_MD_CTX *sha256, *sha512; /* sha512 may be NULL */
};

int img_digest_new(bool with_sha512, struct img_digest **ret, struct qmp_error *err)
{
	struct img_digest *d;

	if (img_library_load("libcrypto.so." STRING(OPENSSL_SHLIB_VERSION), "libssl3", symbols, err) < 0)
		return -ENOENT;
	d = calloc(1, sizeof *d);
	if (!d)
		return qmp_error_errno(err, -ENOMEM, "a digest");
	d->sha256 = sym_EVP_MD_CTX_new();
	d->sha512 = with_sha512 ? sym_EVP_MD_CTX_new() : NULL;
	if (!d->sha256 || (with_sha512 && !d->sha512) || img_digest_reset(d) < 0) {
		img_digest_free(d);
		return qmp_error_errno(err, -ENOMEM, "a digest");
	}
	*ret = d;
	return 0;
}

void img_digest_free(struct img_digest *d)
{
	if (!d)
		return;
	sym_EVP_MD_CTX_free(d->sha256);
	sym_EVP_MD_CTX_free(d->sha512);
	free(d);
}

int img_digest_reset(struct img_digest *d)
{
	bool good = sym_EVP_DigestInit_ex(d->sha256, sym_EVP_sha256(), NULL) == 1;

	if (good && d->sha512)
		good = sym_EVP_DigestInit_ex(d->sha512, sym_EVP_sha512(), NULL) == 1;
	return good ? 0 : -ENOMEM;
}

int img_digest_update(struct img_digest *d, const void *bytes, size_t n)
{
	bool good = sym_EVP_DigestUpdate(d->sha256, bytes, n) == 1;

	if (good && d->sha512)
		good = sym_EVP_DigestUpdate(d->sha512, bytes, n) == 1;
	return good ? 0 : -EIO;
}

static int finish_one(EVP_MD_CTX *context, char *ret)
{
	unsigned char bytes[EVP_MAX_MD_SIZE];
	unsigned n;

	if (sym_EVP_DigestFinal_ex(context, bytes, &n) != 1)
		return -EIO;
	for (unsigned i = 0; i < n; i++)
		snprintf(ret + 2 * i, 3, "%02x", bytes[i]);
	return 0;
}

int img_digest_finish(struct img_digest *d, char ret_sha256[IMG_SHA256_LEN + 1], char ret_sha512[IMG_SHA512_LEN + 1])
{
	int r = finish_one(d->sha256, ret_sha256);

	ret_sha512[0] = '\0';
	if (r == 0 && d->sha512)
		r = finish_one(d->sha512, ret_sha512);
	return r;
}

int img_digest_take(const char *text, size_t len, char *ret)
{
	if (strnlen(text, len + 1) != len)
		return -EINVAL;
	for (size_t i = 0; i < len; i++)
		if (!isxdigit((unsigned char)text[i]))
			return -EINVAL;
	for (size_t i = 0; i < len; i++)
		ret[i] = (char)tolower((unsigned char)text[i]);
	ret[len] = '\0';
	return 0;
}
