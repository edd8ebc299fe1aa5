/*
 * Whose file a secret is read from, what of it is taken, and how it is passed on.
 */
#include "launcher/secret.h"
#include "proto/base.h"
#include "tests/unit/check.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

static char folder[] = "/tmp/test-secret-XXXXXX";
static char file[sizeof folder + 8], link_name[sizeof folder + 8];

static void put(const char *data, size_t n, mode_t mode)
{
	_cleanup_fd_ int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	CHECK(fd >= 0);
	CHECK_INT(write(fd, data, n), n);
	CHECK_INT(fchmod(fd, mode), 0);
}

static void gives(const char *data, size_t n, bool line, const char *want, size_t want_n)
{
	struct qmp_error err = {0};
	_cleanup_fd_ int fd = -1, again = -1;
	char name[32], came[64];

	put(data, n, 0600);
	CHECK_INT(vm_secret_open(file, line, &fd, &err), 0);
	snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
	again = open(name, O_RDONLY | O_CLOEXEC); /* as QEMU does */
	CHECK_INT(read(again, came, sizeof came), want_n);
	CHECK(memcmp(came, want, want_n) == 0);
	CHECK_INT(write(fd, "x", 1), -1); /* sealed */
}

static void refuses(const char *path, int code, const char *words)
{
	struct qmp_error err = {0};
	int fd = -7;

	CHECK_INT(vm_secret_open(path, false, &fd, &err), code);
	CHECK_INT(fd, -7);
	CHECK_CONTAINS(err.message, words);
	CHECK(!strstr(err.message, "CANARY"));
	CHECK_INT(vm_secret_check(path, NULL), code);
}

static void test_what_is_taken(void)
{
	gives("CANARY\n", 7, false, "CANARY\n", 7);
	gives("CANARY\n", 7, true, "CANARY", 6);
	gives("CANARY\r\n", 8, true, "CANARY", 6);
	gives("CANARY\n\n", 8, true, "CANARY\n", 7);
	gives("p\xc3\xa4\xe2\x82\xac\xf0\x9f\x94\x91", 10, false, "p\xc3\xa4\xe2\x82\xac\xf0\x9f\x94\x91", 10);
}

static void test_what_is_no_passphrase(void)
{
	static const struct {
		const char *data;
		size_t n;
	} texts[] = {{"CANARY\0x", 8}, {"CANARY\xff", 7}, {"\xc0\x80", 2}, {"\xe0\x80\x80", 3}, {"\xed\xa0\x80", 3}, {"a\xc3", 2},
		     {"\xf4\x90\x80\x80", 4}, {"\xc3(", 2}};
	_cleanup_free_ char *large = calloc(1, VM_SECRET_MAX + 1);

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		put(texts[i].data, texts[i].n, 0600);
		refuses(file, -EINVAL, "NUL or is not UTF-8");
	}
	put("", 0, 0600);
	refuses(file, -EINVAL, "empty");
	memset(large, 'x', VM_SECRET_MAX + 1);
	put(large, VM_SECRET_MAX + 1, 0600);
	refuses(file, -E2BIG, "longer than");
}

static void test_whose_it_is(void)
{
	static const mode_t open_modes[] = {0640, 0604, 0620, 0666, 0610};

	for (size_t i = 0; i < ARRAY_SIZE(open_modes); i++) {
		put("CANARY", 6, open_modes[i]);
		refuses(file, -EACCES, "chmod 600");
	}
	put("CANARY", 6, 0400);
	CHECK_INT(vm_secret_check(file, NULL), 0);
	CHECK_INT(symlink(file, link_name), 0);
	CHECK_INT(vm_secret_check(link_name, NULL), 0);
	if (geteuid() == 0) {
		CHECK_INT(lchown(link_name, 65534, 65534), 0);
		refuses(link_name, -EACCES, "it is a symlink of the user 65534");
		CHECK_INT(chown(file, 65534, 65534), 0);
		refuses(file, -EACCES, "it belongs to the user 65534");
	}
	CHECK_INT(unlink(link_name), 0);
	CHECK_INT(unlink(file), 0);
	refuses(file, -ENOENT, "No such file");
	refuses(folder, -EINVAL, "no regular file");
	CHECK_INT(mkfifo(file, 0600), 0);
	refuses(file, -EINVAL, "no regular file"); /* and does not wait for a writer */
	CHECK_INT(unlink(file), 0);
}

/* What comes by a pipe comes in pieces. */
static void test_a_pipe(void)
{
	_cleanup_fd_ int in = -1, fd = -1;
	char came[64];
	int ends[2];

	CHECK_INT(pipe2(ends, O_CLOEXEC), 0);
	in = ends[0];
	CHECK_INT(write(ends[1], "CAN", 3), 3);
	CHECK_INT(write(ends[1], "ARY\n", 4), 4);
	(void)close(ends[1]);
	CHECK_INT(vm_secret_read(in, "-", true, &fd, NULL), 0);
	CHECK_INT(read(fd, came, sizeof came), 6);
}

int main(void)
{
	CHECK(mkdtemp(folder) != NULL);
	snprintf(file, sizeof file, "%s/f", folder);
	snprintf(link_name, sizeof link_name, "%s/l", folder);
	RUN(test_what_is_taken);
	RUN(test_what_is_no_passphrase);
	RUN(test_whose_it_is);
	RUN(test_a_pipe);
	CHECK_INT(rmdir(folder), 0);
	return 0;
}
