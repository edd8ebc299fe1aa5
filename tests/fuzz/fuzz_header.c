/*
 * Image headers. Input: the beginning of an image. What comes out is text and fits, and one byte more of the file does not
 * make it another format.
 */
#include "images/header.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct img_header h;
	_cleanup_free_ char *copy = exact_copy(data, size);

	memset(&h, 0xa5, sizeof h);
	img_header_parse((unsigned char *)copy, size, &h);
	MUST(memchr(h.format, 0, sizeof h.format) && h.format[0], "no format");
	MUST(memchr(h.backing, 0, sizeof h.backing), "a name without an end");
	MUST(h.has_backing || !h.backing[0], "a name of nothing");
	MUST(memchr(h.data_file, 0, sizeof h.data_file), "a name without an end");
	MUST(h.has_data_file || !h.data_file[0], "a name of nothing");
	MUST(!streq(h.format, "raw") || !(h.has_backing || h.has_data_file || h.virtual_size), "something of raw");
	return 0;
}
