#include "images/overlay.h"
#include "images/header.h"
#include "proto/base.h"

#include <fcntl.h>
#include <sys/stat.h>

#define CLUSTER_BITS 16
#define CLUSTER      ((uint64_t)1 << CLUSTER_BITS)
#define PER_L1_ENTRY (CLUSTER * (CLUSTER / 8)) /* bytes of the guest's */
#define HEADER_LEN   112
#define BACKING_MAX  1023
#define EXT_FORMAT   0xe2792acau

/* ---- Making one ---- */

static void put(unsigned char *at, size_t n, uint64_t value)
{
	for (size_t i = n; i > 0; i--, value >>= 8)
		at[i - 1] = (unsigned char)value;
}

static int write_at(int fd, const void *bytes, size_t n, uint64_t at)
{
	ssize_t k = pwrite(fd, bytes, n, (off_t)at);

	return k == (ssize_t)n ? 0 : k < 0 ? -errno : -EIO;
}

/*
 * Clusters: 0 the header, 1 the refcount table, 2 its one block, from 3 on the level 1 table, which is a hole: nothing is
 * written yet.
 */
static int write_header(int fd, const char *backing, const char *format, uint64_t size, uint64_t l1_entries)
{
	unsigned char h[HEADER_LEN + 8 + 16 + 8 + BACKING_MAX] = "QFI\xfb\0\0\0\3";
	size_t format_len = strlen(format), padded = (format_len + 7) & ~(size_t)7, name_at = HEADER_LEN + 8 + padded + 8;

	put(h + 8, 8, name_at);
	put(h + 16, 4, strlen(backing));
	put(h + 20, 4, CLUSTER_BITS);
	put(h + 24, 8, size);
	put(h + 36, 4, l1_entries);
	put(h + 40, 8, 3 * CLUSTER);
	put(h + 48, 8, CLUSTER);
	put(h + 56, 4, 1);
	put(h + 96, 4, 4); /* refcounts of 16 bits */
	put(h + 100, 4, HEADER_LEN);
	put(h + HEADER_LEN, 4, EXT_FORMAT);
	put(h + HEADER_LEN + 4, 4, format_len);
	memcpy(h + HEADER_LEN + 8, format, format_len);
	memcpy(h + name_at, backing, strlen(backing));
	return write_at(fd, h, name_at + strlen(backing), 0);
}

static int write_image(int fd, const char *backing, const char *format, uint64_t size)
{
	uint64_t l1_entries = (size + PER_L1_ENTRY - 1) / PER_L1_ENTRY, clusters;
	_cleanup_free_ unsigned char *counts = NULL;
	unsigned char block_at[8];
	int r;

	l1_entries += l1_entries == 0;
	clusters = 3 + (8 * l1_entries + CLUSTER - 1) / CLUSTER;
	if (2 * clusters > CLUSTER)
		return -EFBIG;
	counts = calloc(clusters, 2);
	if (!counts)
		return -ENOMEM;
	for (uint64_t i = 0; i < clusters; i++)
		put(counts + 2 * i, 2, 1);
	put(block_at, 8, 2 * CLUSTER);
	r = write_header(fd, backing, format, size, l1_entries);
	if (r == 0)
		r = write_at(fd, block_at, sizeof block_at, CLUSTER);
	if (r == 0)
		r = write_at(fd, counts, 2 * clusters, 2 * CLUSTER);
	if (r == 0 && ftruncate(fd, (off_t)(clusters * CLUSTER)) < 0)
		r = -errno;
	return r;
}

/* 0: only qemu-img can say. */
static int size_of(const char *path, const char *format, uint64_t *ret, struct qmp_error *err)
{
	struct img_header h;
	struct stat st;

	if (stat(path, &st) < 0)
		return qmp_error_errno(err, -errno, "the base %s", path);
	if (streq(format, "raw")) {
		*ret = S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
		return 0;
	}
	if (img_header_read(path, &h, err) < 0)
		return err ? err->code : -EIO;
	*ret = streq(h.format, format) ? h.virtual_size : 0;
	return 0;
}

int img_overlay_make(const char *path, const json_t *base, uint64_t size, img_whole_cb whole, void *data,
		     struct qmp_error *err)
{
	const char *backing = text_of(base, "path"), *format = text_of(base, "format");
	struct img_draft draft;
	int r = size ? 0 : size_of(backing, format, &size, err);

	if (r < 0)
		return r;
	if (size == 0 || strlen(format) > 16)
		return -EOPNOTSUPP;
	if (strlen(backing) > BACKING_MAX)
		return qmp_error_set(err, QMP_ERR_LIMIT, -ENAMETOOLONG, "an overlay on %s: a backing file's name has %d bytes at most",
				     backing, BACKING_MAX);
	r = img_draft_begin(path, false, &draft, err);
	if (r < 0)
		return r;
	r = write_image(draft.fd, backing, format, (size + 511) & ~(uint64_t)511);
	if (r < 0)
		qmp_error_errno(err, r, "making the image %s", path);
	else if (whole)
		r = whole(data, &draft, err);
	if (r == 0)
		return img_draft_keep(&draft, err);
	img_draft_discard(&draft);
	return r;
}

/* ---- Whether anything is in it ---- */

#define L1_MAX ((uint64_t)32 << 20) /* bytes, as QEMU has it */

static uint64_t big(const unsigned char *d, size_t n)
{
	uint64_t v = 0;

	for (size_t i = 0; i < n; i++)
		v = v << 8 | d[i];
	return v;
}

static bool is_zero(int fd, uint64_t at, uint64_t n)
{
	unsigned char buffer[65536];

	while (n > 0) {
		size_t want = n < sizeof buffer ? (size_t)n : sizeof buffer;
		ssize_t k = pread(fd, buffer, want, (off_t)at);
		if (k <= 0 || buffer[0] != 0 || memcmp(buffer, buffer + 1, (size_t)k - 1) != 0)
			return false;
		at += (uint64_t)k;
		n -= (uint64_t)k;
	}
	return true;
}

/* The level 1 table leads to all that was ever written; docs/interop/qcow2.txt. */
bool img_overlay_is_empty(const char *path)
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	unsigned char h[104];
	uint64_t entries;

	if (fd < 0 || pread(fd, h, sizeof h, 0) != sizeof h || memcmp(h, "QFI\xfb\0\0\0\3", 8) != 0)
		return false;
	entries = big(h + 36, 4);
	/* No snapshots, and nothing that we do not know but lazy refcounts. */
	if (big(h + 60, 4) != 0 || big(h + 72, 8) != 0 || big(h + 32, 4) != 0 || 8 * entries > L1_MAX)
		return false;
	return is_zero(fd, big(h + 40, 8), 8 * entries);
}
