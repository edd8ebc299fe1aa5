#include "images/header.h"
#include "proto/base.h"
#include "tests/unit/folder.h"

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

static void test_encryption(void)
{
	static const struct {
		unsigned char version, at, method;
		const char *want;
	} headers[] = {{2, 35, 0, ""}, {3, 35, 1, "aes"}, {3, 35, 2, "luks"}, {1, 39, 1, "aes"}, {1, 35, 2, ""}};

	for (size_t i = 0; i < ARRAY_SIZE(headers); i++) {
		unsigned char d[128] = "QFI\xfb\0\0\0";
		struct img_header h;
		d[7] = headers[i].version;
		d[headers[i].at] = headers[i].method;
		img_header_parse(d, sizeof d, &h);
		CHECK_STR(h.encryption, headers[i].want);
	}
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

/* The size of a LUKS image is that of its file, without what is before the data; of a vhdx with no more than a head it is not known. */
static void test_size_elsewhere(void)
{
	char folder[] = "/tmp/qmpctl-header-XXXXXX", d[8192] = "LUKS\xba\xbe\0\1";
	struct qmp_error err = {0};
	struct img_header h;

	CHECK(mkdtemp(folder) != NULL);
	d[107] = 8; /* sectors before the data: big-endian at 104 */
	CHECK_INT(img_header_read(file_in(folder, "luks", d, sizeof d), &h, &err), 0);
	CHECK_STR(h.format, "luks");
	CHECK_INT(h.virtual_size, 4096);
	d[107] = 16;
	CHECK_INT(img_header_read(file_in(folder, "luks", d, sizeof d), &h, &err), 0);
	CHECK_INT(h.virtual_size, 0);
	CHECK_INT(img_header_read(file_in(folder, "vhdx", "vhdxfile", 8), &h, &err), 0);
	CHECK_STR(h.format, "vhdx");
	CHECK_INT(h.virtual_size, 0);
	CHECK(unlink(path_in(folder, "luks")) == 0 && unlink(path_in(folder, "vhdx")) == 0 && rmdir(folder) == 0);
}

static void put(unsigned char *d, size_t at, const char *text)
{
	memcpy(d + at, text, strlen(text));
}

static void test_data_file(void)
{
	struct img_header h;
	unsigned char d[256] = "QFI\xfb\0\0\0\3";

	d[79] = 4;
	d[103] = 104; /* the header's length */
	memcpy(d + 104, "\xe2\x79\x2a\xca\0\0\0\5qcow2\0\0\0" "DATA\0\0\0\7/data,x", 31);
	img_header_parse(d, sizeof d, &h);
	CHECK(h.has_data_file);
	CHECK_STR(h.data_file, "/data,x");
	memset(d + 124, 0xff, 4); /* a length beyond everything */
	img_header_parse(d, sizeof d, &h);
	CHECK(h.has_data_file);
	CHECK_STR(h.data_file, "");
}

static void test_qed(void)
{
	struct img_header h;
	unsigned char d[128] = "QED";

	d[16] = 1;
	d[53] = 1; /* image size, little-endian at 48 */
	d[56] = 70;
	d[60] = 5;
	put(d, 70, "/base");
	img_header_parse(d, sizeof d, &h);
	CHECK_STR(h.format, "qed");
	CHECK_INT(h.virtual_size, 1LL << 40);
	CHECK_STR(h.backing, "/base");
}

static void test_vmdk(void)
{
	static const char text[] = "# Disk DescriptorFile\nversion=1\nparentFileNameHint=\"/a \\, b\"\nRW 2048 FLAT \"x-flat.vmdk\" 0\n";
	struct img_header h;
	unsigned char d[1024] = "KDMV";

	img_header_parse((const unsigned char *)text, sizeof text - 1, &h);
	CHECK_STR(h.format, "vmdk");
	CHECK_STR(h.backing, "/a \\, b");
	CHECK_STR(h.data_file, "x-flat.vmdk");
	d[12] = 8; /* sectors; its text is at 512 */
	d[28] = 1;
	d[36] = 1;
	put(d, 512, text);
	img_header_parse(d, sizeof d, &h);
	CHECK_INT(h.virtual_size, 4096);
	CHECK_STR(h.backing, "/a \\, b");
	CHECK(!h.has_data_file); /* its own extent */
	d[12] = 0;
	img_header_parse(d, sizeof d, &h);
	CHECK_STR(h.data_file, "x-flat.vmdk");
	memset(d + 12, 0xff, 8);
	img_header_parse(d, sizeof d, &h);
	CHECK(h.virtual_size == UINT64_MAX);
	img_header_parse(d, 4, &h); /* no text at all */
	CHECK_STR(h.format, "vmdk");
	CHECK(!h.has_backing && !h.has_data_file);
}

static void test_extents(void)
{
	static const char begins[] = "# Disk DescriptorFile\nRW 2048 FLAT \"a.vmdk\" 0\r\n \tRDONLY\t2048 FLAT\t\"../b c\" 0\n"
				     "RW 2048 ZERO\nRWX 1 FLAT \"no\"\nddb.x = \"RW \"\nNOACCESS 1 FLAT \"/c\"\nRW 1 FLAT \"open\n";
	char path[] = "/tmp/qmpctl-header-XXXXXX";
	int fd = mkstemp(path);
	json_auto_t *names = NULL, *want = json_pack("[s, s, s, s]", "a.vmdk", "../b c", "/c", "far");
	static char blank[100 << 10];

	memset(blank, '\n', sizeof blank);
	CHECK_INT(write(fd, begins, sizeof begins - 1), sizeof begins - 1);
	CHECK_INT(write(fd, blank, sizeof blank), sizeof blank);
	CHECK_INT(write(fd, "RW 1 FLAT \"far\"", 15), 15); /* beyond what the header's reader looks at */
	names = img_header_extents(path);
	CHECK(json_equal(names, want));
	(void)close(fd);
	CHECK_INT(unlink(path), 0);
	CHECK(!img_header_extents(path));
}

static void test_qcow1(void)
{
	struct img_header h;
	unsigned char d[64] = "QFI\xfb\0\0\0\1";

	d[15] = 50;
	d[19] = 2;
	put(d, 50, "/b");
	img_header_parse(d, sizeof d, &h);
	CHECK_STR(h.format, "qcow");
	CHECK_STR(h.backing, "/b");
}

int main(void)
{
	RUN(test_data_file);
	RUN(test_qed);
	RUN(test_vmdk);
	RUN(test_extents);
	RUN(test_qcow1);
	RUN(test_formats);
	RUN(test_backing);
	RUN(test_encryption);
	RUN(test_size_elsewhere);
	RUN(test_every_prefix);
	return 0;
}
