/* What the packers' own programs make is in tests/real/test_import.py; here streams are cut at every byte. */
#include "images/unpack.h"
#include "proto/base.h"
#include "tests/unit/check.h"

#include <zlib.h>
#include <zstd.h>

#define N 70000

static unsigned char plain[N], packed[4 * N];

struct out {
	unsigned char bytes[3 * N];
	size_t n;
	int answer;
};

static int sink(void *data, const unsigned char *bytes, size_t n, struct qmp_error *err)
{
	struct out *o = data;

	UNUSED(err);
	CHECK(o->n + n <= sizeof o->bytes);
	memcpy(o->bytes + o->n, bytes, n);
	o->n += n;
	return o->answer;
}

static size_t pack_gzip(unsigned char *to, size_t room)
{
	z_stream z = {.next_in = plain, .avail_in = N, .next_out = to, .avail_out = (uInt)room};

	CHECK_INT(deflateInit2(&z, 1, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
	CHECK_INT(deflate(&z, Z_FINISH), Z_STREAM_END);
	CHECK_INT(deflateEnd(&z), Z_OK);
	return room - z.avail_out;
}

static size_t pack_zstd(unsigned char *to, size_t room)
{
	size_t n = ZSTD_compress(to, room, plain, N, 1);

	CHECK(!ZSTD_isError(n));
	return n;
}

/* Feeds PACKED in pieces; 0, or the first error. */
static int unpack(size_t n, size_t piece, struct out *o, struct qmp_error *err)
{
	enum img_packing p = img_packing_of(packed, n);
	struct img_unpack *u;
	int r = img_unpack_new(p, sink, o, &u, err);

	CHECK_INT(r, 0);
	for (size_t at = 0; at < n && r == 0; at += piece)
		r = img_unpack_feed(u, packed + at, piece < n - at ? piece : n - at, err);
	if (r == 0)
		r = img_unpack_end(u, err);
	img_unpack_free(u);
	return r;
}

static void check_kind(size_t (*pack)(unsigned char *to, size_t room))
{
	static struct out o;
	struct qmp_error err = {0};
	size_t one = pack(packed, sizeof packed), two = one + pack(packed + one, sizeof packed - one);

	for (size_t piece = 1; piece <= two; piece = 7 * piece + 3) {
		o = (struct out){0};
		CHECK_INT(unpack(two, piece, &o, &err), 0);
		CHECK_INT(o.n, 2 * N);
		CHECK(memcmp(o.bytes, plain, N) == 0 && memcmp(o.bytes + N, plain, N) == 0);
	}
	for (size_t cut = 20; cut < one; cut += one / 50) {
		o = (struct out){0};
		err = (struct qmp_error){0};
		CHECK_INT(unpack(cut, 1000, &o, &err), -EBADMSG);
		CHECK_CONTAINS(err.message, "in the middle");
	}
	/* Zeros after it are nothing, other things are damage. */
	memset(packed + one, 0, 1000);
	o = (struct out){0};
	err = (struct qmp_error){0};
	CHECK_INT(unpack(one + 1000, 100, &o, &err), 0);
	memset(packed + one, 'x', 1000);
	o = (struct out){0};
	CHECK_INT(unpack(one + 1000, 100, &o, &err), -EBADMSG);
	/* What takes it may have enough. */
	o = (struct out){.answer = -EFBIG};
	err = (struct qmp_error){0};
	CHECK_INT(unpack(one, 100, &o, &err), -EFBIG);
}

static void test_gzip(void)
{
	check_kind(pack_gzip);
}

static void test_zstd(void)
{
	check_kind(pack_zstd);
}

static void test_not_packed(void)
{
	static struct out o;
	struct qmp_error err = {0};

	memcpy(packed, plain, N);
	CHECK_INT(unpack(N, 1000, &o, &err), 0);
	CHECK_INT(o.n, N);
	CHECK(memcmp(o.bytes, plain, N) == 0);
	CHECK_STR(img_packing_name(img_packing_of((const unsigned char *)"\xfd"
									 "7zXZ", 5)), "none");
}

int main(void)
{
	unsigned seed = 1;

	for (size_t i = 0; i < N; i++)
		plain[i] = (unsigned char)(i % 1000 < 500 ? 0 : (seed = seed * 1103515245u + 12345u) >> 16);
	RUN(test_gzip);
	RUN(test_zstd);
	RUN(test_not_packed);
	return 0;
}
