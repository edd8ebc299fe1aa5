#include "images/sparse.h"
#include "proto/base.h"
#include "tests/unit/check.h"

#include <sys/mman.h>
#include <sys/stat.h>

#define N (64 * 4096)

static unsigned char bytes[N], back[N];

static void test_holes(void)
{
	for (size_t piece = 1; piece < N; piece = 5 * piece + 1) {
		struct qmp_error err = {0};
		struct img_sparse s;
		struct stat st;
		int fd = memfd_create("sparse", MFD_CLOEXEC);
		CHECK(fd >= 0);
		img_sparse_init(&s, fd, N);
		for (size_t at = 0; at < N; at += piece)
			CHECK_INT(img_sparse_write(&s, bytes + at, piece < N - at ? piece : N - at, &err), 0);
		CHECK_INT(img_sparse_end(&s, &err), 0);
		CHECK_INT(s.size, N);
		CHECK_INT(fstat(fd, &st), 0);
		CHECK_INT(st.st_size, N);
		CHECK(st.st_blocks * 512 <= 6 * 4096);
		CHECK_INT(pread(fd, back, N, 0), N);
		CHECK(memcmp(back, bytes, N) == 0);
		(void)close(fd);
	}
}

static void test_limit(void)
{
	struct qmp_error err = {0};
	struct img_sparse s;
	int fd = memfd_create("sparse", MFD_CLOEXEC);

	img_sparse_init(&s, fd, 10);
	CHECK_INT(img_sparse_write(&s, bytes + 4096, 10, &err), 0);
	CHECK_INT(img_sparse_write(&s, bytes, 1, &err), -EFBIG);
	CHECK_CONTAINS(err.message, "--max-size");
	(void)close(fd);
}

static void test_room(void)
{
	struct qmp_error err = {0};
	FILE *file = tmpfile();

	CHECK(file);
	CHECK_INT(img_room_check(fileno(file), 0, &err), 0);
	CHECK_INT(img_room_check(fileno(file), UINT64_MAX / 2, &err), -ENOSPC);
	(void)fclose(file);
}

int main(void)
{
	bytes[5 * 4096 + 7] = 1;
	bytes[6 * 4096] = 2;
	bytes[60 * 4096 + 4095] = 3;
	bytes[N - 1] = 4;
	RUN(test_holes);
	RUN(test_limit);
	RUN(test_room);
	return 0;
}
