/*
 * Images that come packed. Input: a byte, how many bytes come at once; a byte, the limit of what comes out; the source.
 *
 * What comes out is within the limit, whatever the source says of itself, and is the same however the source is cut; with
 * holes, in a file, it is the same as without. What is damaged or cut off is refused and explained.
 */
#include "images/intake.h"
#include "tests/fuzz/fuzz.h"

#include <sys/mman.h>

#define MOST ((size_t)1 << 20)

static int file = -1; /* what is unpacked into, in memory */

/* What came out, without a file. */
struct plain {
	unsigned char *bytes;
	size_t n, limit;
	bool ended; /* the sink has said no */
};

static int take(void *data, const unsigned char *bytes, size_t n, struct qmp_error *err)
{
	struct plain *p = data;

	MUST(!p->ended && n > 0, "%zu bytes after the end", n);
	p->ended = p->n + n > p->limit;
	if (p->ended)
		return qmp_error_set(err, QMP_ERR_LIMIT, -EFBIG, "too much");
	memcpy(p->bytes + p->n, bytes, n);
	p->n += n;
	return 0;
}

/* In pieces of STEP bytes; STEP 0: all at once. */
static int unpack(const uint8_t *data, size_t size, size_t step, struct plain *ret)
{
	struct img_unpack *u = NULL;
	struct qmp_error err = {0};
	int r = img_unpack_new(img_packing_of(data, size), take, ret, &u, &err);

	for (size_t at = 0, n; r == 0 && at < size; at += n) {
		n = step && step < size - at ? step : size - at;
		char *piece = exact_copy(data + at, n);
		r = img_unpack_feed(u, (unsigned char *)piece, n, &err);
		free(piece);
	}
	if (r == 0)
		r = img_unpack_end(u, &err);
	if (r < 0)
		must_explain(r, &err);
	MUST(r == 0 || r == -EFBIG || r == -EBADMSG, "%d: %s", r, err.message);
	img_unpack_free(u);
	return r;
}

/* ---- Into a file ---- */

static int begin_file(void *data, struct img_draft *ret, struct qmp_error *err)
{
	UNUSED(data);
	UNUSED(err);
	MUST(ftruncate(file, 0) == 0, "not emptied");
	/* Its name is of nothing that there is. */
	*ret = (struct img_draft){.path = qmp_asprintf("/proc/self/none"), .fd = dup(file)};
	return 0;
}

static int take_in(const uint8_t *data, size_t size, size_t step, size_t limit)
{
	struct img_intake n = {.shown = "x", .max_size = limit, .begin = begin_file};
	char sha256[IMG_SHA256_LEN + 1], sha512[IMG_SHA512_LEN + 1];
	struct qmp_error err = {0};
	int r = img_intake_open(&n, false, &err);

	for (size_t at = 0, k; r == 0 && at < size; at += k) {
		k = step && step < size - at ? step : size - at;
		r = img_intake_feed(&n, data + at, k, &err);
	}
	if (r == 0)
		r = img_intake_end(&n, sha256, sha512, &err);
	if (r < 0)
		must_explain(r, &err);
	else
		MUST(n.got == size && strlen(sha256) == IMG_SHA256_LEN, "%llu bytes, %s", (unsigned long long)n.got, sha256);
	img_intake_deinit(&n);
	return r;
}

static void check_file(int r, const struct plain *p)
{
	off_t n = lseek(file, 0, SEEK_END);
	unsigned char *is;

	MUST(n >= 0 && (size_t)n <= p->limit, "%lld bytes, the limit is %zu", (long long)n, p->limit);
	if (r < 0)
		return;
	is = malloc((size_t)n + 1);
	MUST(is && (size_t)n == p->n && pread(file, is, (size_t)n, 0) == n, "%lld bytes, and %zu", (long long)n, p->n);
	MUST(memcmp(is, p->bytes, p->n) == 0, "another content");
	free(is);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static unsigned char out[2][MOST];
	struct plain whole = {.bytes = out[0]}, cut = {.bytes = out[1]};
	size_t step;
	int r, again;

	if (size < 2)
		return 0;
	if (file < 0)
		file = memfd_create("fuzz", MFD_CLOEXEC);
	MUST(file >= 0, "no file");
	step = data[0];
	whole.limit = cut.limit = (size_t)data[1] * (MOST / 255);
	r = unpack(data + 2, size - 2, 0, &whole);
	again = unpack(data + 2, size - 2, step, &cut);
	MUST((r == 0) == (again == 0), "%d, and in pieces %d", r, again);
	if (r == 0)
		MUST(whole.n == cut.n && memcmp(out[0], out[1], whole.n) == 0, "%zu bytes, and in pieces %zu", whole.n, cut.n);
	again = take_in(data + 2, size - 2, step, whole.limit);
	MUST((r == 0) == (again == 0), "%d, and into a file %d", r, again);
	check_file(again, &whole);
	return 0;
}
