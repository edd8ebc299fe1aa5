#include "images/sums.h"
#include "proto/base.h"
#include "tests/unit/check.h"

#define ABC256 "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
#define ABC512                                                                                                               \
	"ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac9" \
	"4fa54ca49f"

static int find(const char *text, const char *name, char *ret_sha256, char *ret_sha512)
{
	return img_sums_find(text, strlen(text), name, ret_sha256, ret_sha512);
}

static void test_sums(void)
{
	static const struct {
		const char *text;
		int r;
		bool has_512;
	} cases[] = {
		{ABC256 "  a.img\n", 0, false},
		{ABC256 " *a.img", 0, false},
		{"junk\n\n" ABC256 "  ./x/a.img\r\n" ABC512 "  a.img\r\n", 0, true},
		{"SHA256 (a.img) = " ABC256 "\nSHA512 (a.img) = " ABC512 "\n", 0, true},
		{"SHA256 (a) = b (a.img) = " ABC256 "\n", -ENOENT, false},
		{ABC256 "  a.img.sig\n" ABC256 "  b-a.img\n", -ENOENT, false},
		{ABC256 " a.img\n", -ENOENT, false},
		{"d41d8cd98f00b204e9800998ecf8427e  a.img\n", -ENOENT, false},
		{"0" ABC256 "  a.img\n", -ENOENT, false},
		{"SHA256 (a.img) = " ABC256 "x\n", -ENOENT, false},
		{ABC256 "  a.img\n0" "a7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  a.img\n", -EBADMSG, false},
		{ABC256 "  a.img\n" ABC256 "  other/a.img\n", 0, false},
		{"", -ENOENT, false},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char sha256[IMG_SHA256_LEN + 1] = "", sha512[IMG_SHA512_LEN + 1] = "";
		fprintf(stderr, "   %s\n", cases[i].text);
		CHECK_INT(find(cases[i].text, "a.img", sha256, sha512), cases[i].r);
		CHECK_STR(sha256, cases[i].r == 0 ? ABC256 : "");
		CHECK_STR(sha512, cases[i].has_512 ? ABC512 : "");
	}
}

int main(void)
{
	RUN(test_sums);
	return 0;
}
