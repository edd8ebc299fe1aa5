#include "images/overlay.h"
#include "images/header.h"
#include "proto/base.h"
#include "tests/unit/folder.h"

#include <fcntl.h>
#include <sys/stat.h>

static char folder[] = "/tmp/qmpctl-overlay-XXXXXX";

static void put(unsigned char *at, size_t n, uint64_t value)
{
	for (size_t i = n; i > 0; i--, value >>= 8)
		at[i - 1] = (unsigned char)value;
}

static bool is_empty(const unsigned char *image, size_t n)
{
	const char *path = file_in(folder, "overlay", image, n);
	bool empty = img_overlay_is_empty(path);

	(void)unlink(path);
	return empty;
}

static void test_empty(void)
{
	static const size_t spoils[] = {3 /* magic */, 7 /* version */, 35 /* encryption */, 63 /* snapshots */, 79 /* features */,
					1024 /* L1 */, 1024 + 799, 36 /* a table beyond the end */};
	unsigned char image[1024 + 800] = "QFI\xfb\0\0\0\3";

	put(image + 36, 4, 100);
	put(image + 40, 8, 1024);
	CHECK(is_empty(image, sizeof image));
	CHECK(!is_empty(image, sizeof image - 1));
	CHECK(!is_empty(image, 50));
	for (size_t i = 0; i < ARRAY_SIZE(spoils); i++) {
		image[spoils[i]] ^= 1;
		CHECK(!is_empty(image, sizeof image));
		image[spoils[i]] ^= 1;
	}
	CHECK(!img_overlay_is_empty("/nowhere"));
}

static void make(const json_t *base, uint64_t size, uint64_t want)
{
	_cleanup_free_ char *path = qmp_asprintf("%s/new.qcow2", folder);
	struct qmp_error err = {0};
	struct img_header h;
	struct stat st;

	CHECK_INT(img_overlay_make(path, base, size, NULL, NULL, &err), 0);
	CHECK_INT(img_header_read(path, &h, &err), 0);
	CHECK_STR(h.format, "qcow2");
	CHECK_STR(h.backing, text_of(base, "path"));
	CHECK_INT(h.virtual_size, want);
	CHECK(!h.has_data_file);
	CHECK(img_overlay_is_empty(path));
	CHECK_INT(stat(path, &st), 0);
	CHECK_INT(st.st_mode & 07777, 0600);
	CHECK_INT(st.st_size % 65536, 0);
	CHECK_INT(img_overlay_make(path, base, 512, NULL, NULL, &err), -EEXIST);
	CHECK_INT(unlink(path), 0);
}

/* What QEMU makes of it is in tests/real/test_clone.py. */
static void test_make(void)
{
	const char *path = file_in(folder, "base", "1234", 4);
	json_auto_t *base = json_pack("{s:s, s:s}", "path", path, "format", "raw");
	struct qmp_error err = {0};

	make(base, 0, 512);
	make(base, 1, 512);
	make(base, (uint64_t)100 << 30, (uint64_t)100 << 30);
	make(base, (uint64_t)1 << 50, (uint64_t)1 << 50);
	json_object_set_new(base, "format", json_string("qcow2"));
	CHECK_INT(img_overlay_make("/nowhere/x", base, 0, NULL, NULL, &err), -EOPNOTSUPP);
	CHECK_INT(err.kind, QMP_ERR_NONE);
	CHECK_INT(img_overlay_make("/nowhere/x", base, 512, NULL, NULL, &err), -ENOENT);
	(void)unlink(path);
}

static int refuse(void *data, const struct img_draft *d, struct qmp_error *err)
{
	UNUSED(data);
	UNUSED(d);
	return qmp_error_set(err, QMP_ERR_HOST, -EIO, "no");
}

static void test_refused(void)
{
	_cleanup_free_ char *path = qmp_asprintf("%s/new.qcow2", folder);
	json_auto_t *base = json_pack("{s:s, s:s}", "path", "/x", "format", "raw");
	struct qmp_error err = {0};

	CHECK_INT(img_overlay_make(path, base, 512, refuse, NULL, &err), -EIO);
	CHECK_STR(err.message, "no");
}

int main(void)
{
	CHECK(mkdtemp(folder));
	RUN(test_empty);
	RUN(test_make);
	RUN(test_refused);
	CHECK_INT(rmdir(folder), 0); /* nothing is left */
	return 0;
}
