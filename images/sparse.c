#include "images/sparse.h"
#include "proto/base.h"

#include <sys/statvfs.h>

#define BLOCK      4096
#define HOLE_MIN   ((uint64_t)1 << 20)
#define ROOM_EVERY ((uint64_t)16 << 20)
#define ROOM_MAX   ((uint64_t)1 << 30)

int img_room_check(int fd, uint64_t more, struct qmp_error *err)
{
	struct statvfs v;
	uint64_t room, all, rest;

	if (fstatvfs(fd, &v) < 0)
		return qmp_error_errno(err, -errno, "asking how much room there is");
	room = (uint64_t)v.f_bavail * v.f_frsize;
	all = (uint64_t)v.f_blocks * v.f_frsize;
	rest = all / 20 < ROOM_MAX ? all / 20 : ROOM_MAX;
	if (all == 0 || (room > rest && more <= room - rest))
		return 0;
	return qmp_error_set(err, QMP_ERR_HOST, -ENOSPC,
			     "the file system has %llu MiB left, of which %llu stay free for what runs there; make room, or take "
			     "another place",
			     (unsigned long long)(room >> 20), (unsigned long long)(rest >> 20));
}

void img_sparse_init(struct img_sparse *s, int fd, uint64_t max)
{
	*s = (struct img_sparse){.fd = fd, .max = max, .unchecked = ROOM_EVERY};
}

/* XFS sets room aside behind the end of a file that grows, as much as it has already: that must not stay where a hole is to be. */
static int leave_hole(const struct img_sparse *s, struct qmp_error *err)
{
	if (s->size - s->end < HOLE_MIN || ftruncate(s->fd, (off_t)s->end) == 0)
		return 0;
	return qmp_error_errno(err, -errno, "writing the image");
}

static int write_all(struct img_sparse *s, const unsigned char *bytes, size_t n, struct qmp_error *err)
{
	int r = leave_hole(s, err);

	if (r < 0)
		return r;
	for (size_t done = 0; done < n;) {
		ssize_t k = pwrite(s->fd, bytes + done, n - done, (off_t)(s->size + done));
		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return qmp_error_errno(err, k < 0 ? -errno : -EIO, "writing the image");
		done += (size_t)k;
	}
	s->unchecked += n;
	s->size += n;
	s->end = s->size;
	return 0;
}

/* How many bytes from here to the next boundary of a block. */
static size_t block_at(const struct img_sparse *s, size_t offset, size_t n)
{
	size_t rest = BLOCK - (size_t)((s->size + offset) % BLOCK);

	return rest < n - offset ? rest : n - offset;
}

static bool is_zero(const unsigned char *bytes, size_t n)
{
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, n - 1) == 0;
}

int img_sparse_write(struct img_sparse *s, const unsigned char *bytes, size_t n, struct qmp_error *err)
{
	int r = 0;

	if (n > s->max || s->size > s->max - n)
		return qmp_error_set(err, QMP_ERR_LIMIT, -EFBIG,
				     "the image is larger than %llu bytes, which is the limit; --max-size sets another",
				     (unsigned long long)s->max);
	if (s->unchecked >= ROOM_EVERY) {
		r = img_room_check(s->fd, ROOM_EVERY, err);
		s->unchecked = 0;
	}
	while (r == 0 && n > 0) {
		size_t zeros = 0, data = 0, block;
		while (zeros < n && is_zero(bytes + zeros, block = block_at(s, zeros, n)))
			zeros += block;
		s->size += zeros;
		bytes += zeros;
		n -= zeros;
		while (data < n && !is_zero(bytes + data, block = block_at(s, data, n)))
			data += block;
		if (data > 0)
			r = write_all(s, bytes, data, err);
		bytes += data;
		n -= data;
	}
	return r;
}

int img_sparse_end(struct img_sparse *s, struct qmp_error *err)
{
	int r = leave_hole(s, err);

	return r == 0 && ftruncate(s->fd, (off_t)s->size) < 0 ? qmp_error_errno(err, -errno, "writing the image") : r;
}
