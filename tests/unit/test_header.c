#include "images/header.h"
#include "proto/base.h"
#include "tests/unit/check.h"

static void test_formats(void)
{
	struct img_header h;
	unsigned char d[128] = "QFI\xfb\0\0\0\3";

	d[28] = 1; /* virtual size: big-endian at 24 */
	img_header_parse(d, sizeof d, &h);
	CHECK_STR(h.format, "qcow2");
	CHECK_INT(h.virtual_size, 1 << 24);
	CHECK(!h.has_backing && !h.has_data_file);
	d[79] = 4;
	img_header_parse(d, sizeof d, &h);
	CHECK(h.has_data_file);
	img_header_parse((const unsigned char *)"plain", 5, &h);
	CHECK_STR(h.format, "raw");
	img_header_parse((const unsigned char *)"vhdxfile", 8, &h);
	CHECK_STR(h.format, "vhdx");
}

static void test_backing(void)
{
	struct img_header h;
	unsigned char d[128] = "QFI\xfb\0\0\0\2";

	d[15] = 100;
	d[19] = 5;
	memcpy(d + 100, "/base", 5);
	img_header_parse(d, sizeof d, &h);
	CHECK(h.has_backing);
	CHECK_STR(h.backing, "/base");
	d[8] = 0xff; /* an offset far outside */
	img_header_parse(d, sizeof d, &h);
	CHECK(h.has_backing);
	CHECK_STR(h.backing, "");
}

static void test_every_prefix(void)
{
	struct img_header h;
	unsigned char d[128] = "QFI\xfb\0\0\0\3";

	for (size_t n = 0; n <= sizeof d; n++) {
		unsigned char *copy = malloc(n ? n : 1); /* so that a sanitizer sees one byte too far */
		memcpy(copy, d, n);
		img_header_parse(copy, n, &h);
		CHECK_STR(h.format, n >= 4 ? "qcow2" : "raw");
		free(copy);
	}
}

int main(void)
{
	RUN(test_formats);
	RUN(test_backing);
	RUN(test_every_prefix);
	return 0;
}
