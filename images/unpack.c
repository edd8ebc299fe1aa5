#include "images/library.h"
#include "images/unpack.h"
#include "proto/base.h"

#include <bzlib.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

static IMG_SYMBOL(inflate);
static IMG_SYMBOL(inflateInit2_);
static IMG_SYMBOL(inflateReset);
static IMG_SYMBOL(inflateEnd);
static IMG_SYMBOL(BZ2_bzDecompress);
static IMG_SYMBOL(BZ2_bzDecompressInit);
static IMG_SYMBOL(BZ2_bzDecompressEnd);
static IMG_SYMBOL(lzma_code);
static IMG_SYMBOL(lzma_stream_decoder);
static IMG_SYMBOL(lzma_end);
static IMG_SYMBOL(ZSTD_decompressStream);
static IMG_SYMBOL(ZSTD_createDCtx);
static IMG_SYMBOL(ZSTD_freeDCtx);
static IMG_SYMBOL(ZSTD_DCtx_setParameter);
static IMG_SYMBOL(ZSTD_isError);
static IMG_SYMBOL(ZSTD_getErrorName);

static const struct img_symbol gzip_symbols[] = {
	IMG_SYMBOL_OF(inflate),
	IMG_SYMBOL_OF(inflateInit2_),
	IMG_SYMBOL_OF(inflateReset),
	IMG_SYMBOL_OF(inflateEnd),
	{0},
};
static const struct img_symbol bzip2_symbols[] = {
	IMG_SYMBOL_OF(BZ2_bzDecompress),
	IMG_SYMBOL_OF(BZ2_bzDecompressInit),
	IMG_SYMBOL_OF(BZ2_bzDecompressEnd),
	{0},
};
static const struct img_symbol xz_symbols[] = {
	IMG_SYMBOL_OF(lzma_code),
	IMG_SYMBOL_OF(lzma_stream_decoder),
	IMG_SYMBOL_OF(lzma_end),
	{0},
};
static const struct img_symbol zstd_symbols[] = {
	IMG_SYMBOL_OF(ZSTD_decompressStream),
	IMG_SYMBOL_OF(ZSTD_createDCtx),
	IMG_SYMBOL_OF(ZSTD_freeDCtx),
	IMG_SYMBOL_OF(ZSTD_DCtx_setParameter),
	IMG_SYMBOL_OF(ZSTD_isError),
	IMG_SYMBOL_OF(ZSTD_getErrorName),
	{0},
};

#define OUT_SIZE   ((size_t)256 << 10)
#define MEMORY_MAX ((uint64_t)1 << 30) /* for a dictionary; xz -9 takes 65 MiB, zstd --long=27 128 MiB */

/* How far one step has come. */
struct step {
	size_t in, out; /* bytes taken, bytes given */
	bool end;       /* of a stream */
	const char *why; /* it failed; NULL: not */
};

struct img_unpack {
	enum img_packing packing;
	img_unpack_sink sink;
	void *data;
	bool between; /* streams */
	bool any;     /* a stream has ended */
	unsigned char *out;
	union {
		z_stream gzip;
		bz_stream bzip2;
		lzma_stream xz;
		ZSTD_DCtx *zstd;
	};
};

static const struct {
	const char *name, *magic;
	size_t n;
	const char *library, *package;
	const struct img_symbol *symbols;
} packings[] = {
	[IMG_PACKING_NONE] = {"none", "", 0},
	[IMG_PACKING_GZIP] = {"gzip", "\x1f\x8b\x08", 3, "libz.so.1", "zlib1g", gzip_symbols},
	[IMG_PACKING_BZIP2] = {"bzip2", "BZh", 3, "libbz2.so.1.0", "libbz2-1.0", bzip2_symbols},
	[IMG_PACKING_XZ] = {"xz", "\xfd"
				  "7zXZ\0", 6, "liblzma.so.5", "liblzma5", xz_symbols},
	[IMG_PACKING_ZSTD] = {"zstd", "\x28\xb5\x2f\xfd", 4, "libzstd.so.1", "libzstd1", zstd_symbols},
};

enum img_packing img_packing_of(const unsigned char *head, size_t n)
{
	for (size_t i = IMG_PACKING_GZIP; i < ARRAY_SIZE(packings); i++)
		if (n >= packings[i].n && memcmp(head, packings[i].magic, packings[i].n) == 0)
			return (enum img_packing)i;
	return IMG_PACKING_NONE;
}

const char *img_packing_name(enum img_packing p)
{
	return packings[p].name;
}

/* ---- One step of each kind ---- */

static struct step step_gzip(struct img_unpack *u, const unsigned char *in, size_t n)
{
	struct step s = {0};
	int r;

	u->gzip.next_in = (unsigned char *)in;
	u->gzip.avail_in = (uInt)n;
	u->gzip.next_out = u->out;
	u->gzip.avail_out = (uInt)OUT_SIZE;
	r = sym_inflate(&u->gzip, Z_NO_FLUSH);
	s.in = n - u->gzip.avail_in;
	s.out = OUT_SIZE - u->gzip.avail_out;
	s.end = r == Z_STREAM_END;
	if (s.end)
		(void)sym_inflateReset(&u->gzip);
	else if (r != Z_OK && r != Z_BUF_ERROR)
		s.why = r == Z_MEM_ERROR ? "no memory" : u->gzip.msg ? u->gzip.msg : "damaged";
	return s;
}

static struct step step_bzip2(struct img_unpack *u, const unsigned char *in, size_t n)
{
	struct step s = {0};
	int r;

	u->bzip2.next_in = (char *)in;
	u->bzip2.avail_in = (unsigned)n;
	u->bzip2.next_out = (char *)u->out;
	u->bzip2.avail_out = (unsigned)OUT_SIZE;
	r = sym_BZ2_bzDecompress(&u->bzip2);
	s.in = n - u->bzip2.avail_in;
	s.out = OUT_SIZE - u->bzip2.avail_out;
	s.end = r == BZ_STREAM_END;
	if (s.end) {
		(void)sym_BZ2_bzDecompressEnd(&u->bzip2);
		u->bzip2 = (bz_stream){0};
		if (sym_BZ2_bzDecompressInit(&u->bzip2, 0, 0) != BZ_OK)
			s.why = "no memory";
	} else if (r != BZ_OK) {
		s.why = r == BZ_MEM_ERROR ? "no memory" : "damaged";
	}
	return s;
}

static struct step step_xz(struct img_unpack *u, const unsigned char *in, size_t n)
{
	struct step s = {0};
	lzma_ret r;

	u->xz.next_in = in;
	u->xz.avail_in = n;
	u->xz.next_out = u->out;
	u->xz.avail_out = OUT_SIZE;
	r = sym_lzma_code(&u->xz, LZMA_RUN);
	s.in = n - u->xz.avail_in;
	s.out = OUT_SIZE - u->xz.avail_out;
	s.end = r == LZMA_STREAM_END;
	if (s.end && sym_lzma_stream_decoder(&u->xz, MEMORY_MAX, LZMA_TELL_UNSUPPORTED_CHECK) != LZMA_OK)
		s.why = "no memory";
	else if (!s.end && r != LZMA_OK && r != LZMA_BUF_ERROR)
		s.why = r == LZMA_MEM_ERROR ? "no memory" :
			r == LZMA_MEMLIMIT_ERROR ? "it needs more than 1 GiB of memory to unpack" : "damaged";
	return s;
}

static struct step step_zstd(struct img_unpack *u, const unsigned char *in, size_t n)
{
	ZSTD_inBuffer input = {in, n, 0};
	ZSTD_outBuffer output = {u->out, OUT_SIZE, 0};
	size_t r = sym_ZSTD_decompressStream(u->zstd, &output, &input);

	return (struct step){.in = input.pos, .out = output.pos, .end = r == 0,
			     .why = sym_ZSTD_isError(r) ? sym_ZSTD_getErrorName(r) : NULL};
}

static struct step step_of(struct img_unpack *u, const unsigned char *in, size_t n)
{
	switch (u->packing) {
	case IMG_PACKING_GZIP:
		return step_gzip(u, in, n);
	case IMG_PACKING_BZIP2:
		return step_bzip2(u, in, n);
	case IMG_PACKING_XZ:
		return step_xz(u, in, n);
	default:
		return step_zstd(u, in, n);
	}
}

/* ---- All of it ---- */

static bool begin(struct img_unpack *u)
{
	switch (u->packing) {
	case IMG_PACKING_GZIP:
		return sym_inflateInit2_(&u->gzip, 15 + 16, ZLIB_VERSION, (int)sizeof u->gzip) == Z_OK;
	case IMG_PACKING_BZIP2:
		return sym_BZ2_bzDecompressInit(&u->bzip2, 0, 0) == BZ_OK;
	case IMG_PACKING_XZ:
		return sym_lzma_stream_decoder(&u->xz, MEMORY_MAX, LZMA_TELL_UNSUPPORTED_CHECK) == LZMA_OK;
	case IMG_PACKING_ZSTD:
		u->zstd = sym_ZSTD_createDCtx();
		return u->zstd && !sym_ZSTD_isError(sym_ZSTD_DCtx_setParameter(u->zstd, ZSTD_d_windowLogMax, 30));
	default:
		return true;
	}
}

int img_unpack_new(enum img_packing p, img_unpack_sink sink, void *data, struct img_unpack **ret, struct qmp_error *err)
{
	struct img_unpack *u;

	if (packings[p].library && img_library_load(packings[p].library, packings[p].package, packings[p].symbols, err) < 0)
		return -ENOENT;
	u = calloc(1, sizeof *u);
	if (!u)
		return qmp_error_errno(err, -ENOMEM, "unpacking %s", img_packing_name(p));
	*u = (struct img_unpack){.packing = p, .sink = sink, .data = data, .between = true};
	u->out = p == IMG_PACKING_NONE ? NULL : malloc(OUT_SIZE);
	if ((p != IMG_PACKING_NONE && !u->out) || !begin(u)) {
		free(u->out);
		free(u);
		return qmp_error_errno(err, -ENOMEM, "unpacking %s", img_packing_name(p));
	}
	*ret = u;
	return 0;
}

void img_unpack_free(struct img_unpack *u)
{
	if (!u)
		return;
	if (u->packing == IMG_PACKING_GZIP)
		(void)sym_inflateEnd(&u->gzip);
	else if (u->packing == IMG_PACKING_BZIP2)
		(void)sym_BZ2_bzDecompressEnd(&u->bzip2);
	else if (u->packing == IMG_PACKING_XZ)
		sym_lzma_end(&u->xz);
	else if (u->packing == IMG_PACKING_ZSTD)
		(void)sym_ZSTD_freeDCtx(u->zstd);
	free(u->out);
	free(u);
}

/* Between and after streams: zeros that fill a block, as tapes and xz have them. */
static size_t padding(const unsigned char *bytes, size_t n)
{
	size_t i = 0;

	while (i < n && bytes[i] == 0)
		i++;
	return i;
}

int img_unpack_feed(struct img_unpack *u, const unsigned char *bytes, size_t n, struct qmp_error *err)
{
	struct step s = {0};
	size_t at = 0;
	int r = 0;

	if (u->packing == IMG_PACKING_NONE)
		return u->sink(u->data, bytes, n, err);
	/* A step that has filled the whole of the room may have more to give. */
	while (r == 0 && (at < n || s.out == OUT_SIZE)) {
		if (u->between && u->any)
			at += padding(bytes + at, n - at);
		if (u->between && at == n)
			break;
		s = step_of(u, bytes + at, n - at);
		if (s.why)
			return qmp_error_set(err, QMP_ERR_HOST, -EBADMSG, "unpacking %s: %s", img_packing_name(u->packing), s.why);
		at += s.in;
		u->between = s.end;
		u->any |= s.end;
		if (s.out > 0)
			r = u->sink(u->data, u->out, s.out, err);
		else if (s.in == 0 && !s.end && at < n)
			return qmp_error_set(err, QMP_ERR_HOST, -EBADMSG, "unpacking %s: damaged", img_packing_name(u->packing));
	}
	return r;
}

int img_unpack_end(struct img_unpack *u, struct qmp_error *err)
{
	if (u->packing == IMG_PACKING_NONE || (u->between && u->any))
		return 0;
	return qmp_error_set(err, QMP_ERR_HOST, -EBADMSG, "unpacking %s: it stops in the middle; it was cut off somewhere",
			     img_packing_name(u->packing));
}
