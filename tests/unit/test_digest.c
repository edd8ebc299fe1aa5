#include "images/digest.h"
#include "proto/base.h"
#include "tests/unit/check.h"

#define ABC256 "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
#define ABC512                                                                                                               \
	"ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac9" \
	"4fa54ca49f"

/* FIPS 180-2, appendix B.1 and C.1. */
static void test_digests(void)
{
	char sha256[IMG_SHA256_LEN + 1], sha512[IMG_SHA512_LEN + 1];
	struct qmp_error err = {0};
	struct img_digest *d = NULL;

	CHECK_INT(img_digest_new(true, &d, &err), 0);
	CHECK_INT(img_digest_update(d, "wrong", 5), 0);
	CHECK_INT(img_digest_reset(d), 0);
	CHECK_INT(img_digest_update(d, "a", 1), 0);
	CHECK_INT(img_digest_update(d, "bc", 2), 0);
	CHECK_INT(img_digest_finish(d, sha256, sha512), 0);
	CHECK_STR(sha256, ABC256);
	CHECK_STR(sha512, ABC512);
	img_digest_free(d);
	CHECK_INT(img_digest_new(false, &d, &err), 0);
	CHECK_INT(img_digest_update(d, "abc", 3), 0);
	CHECK_INT(img_digest_finish(d, sha256, sha512), 0);
	CHECK_STR(sha256, ABC256);
	CHECK_STR(sha512, "");
	img_digest_free(d);
}

static void test_take(void)
{
	char ret[IMG_SHA256_LEN + 1];

	CHECK_INT(img_digest_take("BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD", 64, ret), 0);
	CHECK_STR(ret, ABC256);
	CHECK_INT(img_digest_take(ABC256 "0", 64, ret), -EINVAL);
	CHECK_INT(img_digest_take("ba", 64, ret), -EINVAL);
	CHECK_INT(img_digest_take("zz7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", 64, ret), -EINVAL);
}

int main(void)
{
	RUN(test_digests);
	RUN(test_take);
	return 0;
}
