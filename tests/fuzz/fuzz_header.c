/*
 * Image headers. Input: a file, whose bytes from GAP on stand once more where the tables of a vhdx are, and where they say. What
 * comes out is text and fits, and of the file it is what it is of its first bytes, but for a size that stands elsewhere.
 */
#include "images/header.h"
#include "tests/fuzz/fuzz.h"

#include <unistd.h>

#define GAP    16
#define TABLES ((off_t)192 << 10)

/* The file, in memory. */
static const uint8_t *file;
static size_t file_size;

ssize_t __wrap_pread(int fd, void *data, size_t n, off_t at);
off_t __wrap_lseek(int fd, off_t at, int whence);

ssize_t __wrap_pread(int fd, void *data, size_t n, off_t at)
{
	size_t from = (size_t)(at < TABLES ? at : at - TABLES + GAP);

	(void)fd;
	MUST(at >= 0, "a place before the file: %jd", (intmax_t)at);
	if (from >= file_size)
		return 0;
	n = n < file_size - from ? n : file_size - from;
	memcpy(data, file + from, n);
	return (ssize_t)n;
}

off_t __wrap_lseek(int fd, off_t at, int whence)
{
	(void)fd;
	MUST(at == 0 && whence == SEEK_END, "%jd, %d", (intmax_t)at, whence);
	return (off_t)file_size;
}

static void check(const struct img_header *h)
{
	MUST(memchr(h->format, 0, sizeof h->format) && h->format[0], "no format");
	MUST(memchr(h->backing, 0, sizeof h->backing), "a name without an end");
	MUST(h->has_backing || !h->backing[0], "a name of nothing");
	MUST(memchr(h->data_file, 0, sizeof h->data_file), "a name without an end");
	MUST(h->has_data_file || !h->data_file[0], "a name of nothing");
	MUST(!streq(h->format, "raw") || !(h->has_backing || h->has_data_file || h->virtual_size), "something of raw");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct img_header h, whole;
	struct qmp_error err = {0};
	_cleanup_free_ char *copy = exact_copy(data, size);

	memset(&h, 0xa5, sizeof h);
	img_header_parse((unsigned char *)copy, size, &h);
	check(&h);

	memset(&whole, 0xa5, sizeof whole);
	file = data;
	file_size = size < IMG_HEAD ? size : IMG_HEAD;
	MUST(img_header_read("/dev/null", &whole, &err) == 0, "%s", err.message);
	check(&whole);
	MUST(streq(whole.format, h.format) && streq(whole.backing, h.backing) && streq(whole.data_file, h.data_file), "another one: %s, %s",
	     whole.format, h.format);
	MUST(whole.virtual_size == h.virtual_size || streq(h.format, "vhdx") || streq(h.format, "luks"), "another size");
	return 0;
}
