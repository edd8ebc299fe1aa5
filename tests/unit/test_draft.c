#include "images/draft.h"
#include "proto/base.h"
#include "tests/unit/folder.h"
#include "tests/unit/meanwhile.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char folder[] = "/tmp/qmpctl-draft-XXXXXX";

static const char *in_folder(const char *name)
{
	return path_in(folder, name);
}

static bool there(const char *name)
{
	struct stat st;

	return lstat(in_folder(name), &st) == 0;
}

static void test_keep(void)
{
	struct qmp_error err = {0};
	struct img_draft d, other;

	CHECK_INT(img_draft_begin(in_folder("a"), false, &d, &err), 0);
	CHECK(there(".a.qmpctl-new") && !there("a"));
	CHECK_INT(img_draft_begin(in_folder("a"), false, &other, &err), -EBUSY);
	CHECK_INT(write(d.fd, "x", 1), 1);
	CHECK_INT(img_draft_keep(&d, &err), 0);
	CHECK(there("a") && !there(".a.qmpctl-new"));
	err = (struct qmp_error){0};
	CHECK_INT(img_draft_begin(in_folder("a"), false, &d, &err), -EEXIST);
	CHECK_INT(img_draft_begin(in_folder("a"), true, &d, &err), 0);
	CHECK_INT(img_draft_keep(&d, &err), 0);
	img_draft_discard(&d);
	CHECK(there("a"));
	(void)unlink(in_folder("a"));
}

static void test_somebody_was_quicker(void)
{
	struct qmp_error err = {0};
	struct img_draft d;
	int fd;

	CHECK_INT(img_draft_begin(in_folder("b"), false, &d, &err), 0);
	fd = open(in_folder("b"), O_CREAT | O_EXCL | O_WRONLY, 0600);
	CHECK(fd >= 0);
	(void)close(fd);
	CHECK_INT(img_draft_keep(&d, &err), -EEXIST);
	CHECK(there("b") && !there(".b.qmpctl-new"));
	(void)unlink(in_folder("b"));
}

/* What QEMU locks is free, also on NFS, where flock() is a lock of all bytes. */
static void test_qemus_locks(void)
{
	struct flock bytes = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 200};
	struct qmp_error err = {0};
	struct img_draft d;
	int fd;

	CHECK_INT(img_draft_begin(in_folder("q"), false, &d, &err), 0);
	fd = open(d.path, O_RDWR);
	CHECK(fd >= 0);
	CHECK_INT(flock(fd, LOCK_EX | LOCK_NB), 0);
	CHECK_INT(fcntl(fd, F_OFD_SETLK, &bytes), 0);
	(void)close(fd);
	img_draft_discard(&d);
}

static void test_discard(void)
{
	struct qmp_error err = {0};
	struct img_draft d;

	CHECK_INT(img_draft_begin(in_folder("c"), false, &d, &err), 0);
	img_draft_discard(&d);
	CHECK(!there("c") && !there(".c.qmpctl-new"));
}

/* A maker that was killed: the next one in the folder removes what it left, and nothing that lives or is not ours. */
static void test_sweep(void)
{
	struct qmp_error err = {0};
	struct img_draft alive, next;
	int status = -1, fd;
	pid_t pid;

	CHECK_INT(img_draft_begin(in_folder("alive"), false, &alive, &err), 0);
	fd = open(in_folder("user.qmpctl-new"), O_CREAT | O_WRONLY, 0600);
	CHECK(fd >= 0);
	(void)close(fd);
	pid = fork();
	if (pid == 0) {
		struct img_draft d;
		_exit(img_draft_begin(in_folder("dead"), false, &d, &err) == 0 ? 0 : 1);
	}
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	CHECK(there(".dead.qmpctl-new"));
	CHECK_INT(img_draft_begin(in_folder("next"), false, &next, &err), 0);
	CHECK(!there(".dead.qmpctl-new") && there(".alive.qmpctl-new") && there("user.qmpctl-new"));
	img_draft_discard(&next);
	img_draft_discard(&alive);
	(void)unlink(in_folder("user.qmpctl-new"));
}

static void test_no_folder(void)
{
	struct qmp_error err = {0};
	struct img_draft d;

	CHECK_INT(img_draft_begin("/nonexistent/a", false, &d, &err), -ENOENT);
	err = (struct qmp_error){0};
	CHECK_INT(img_draft_begin("/tmp/", false, &d, &err), -EINVAL);
}

static void sweep(void)
{
	img_draft_sweep(folder);
}

/* Who begins is not told that another one makes it, by who merely looks whether one does. */
static void test_swept_meanwhile(void)
{
	pid_t pid = meanwhile(sweep);

	for (int i = 0; i < 3000; i++) {
		struct qmp_error err = {0};
		struct img_draft d;
		CHECK_INT(img_draft_begin(in_folder("a"), false, &d, &err), 0);
		CHECK(there(".a.qmpctl-new"));
		img_draft_discard(&d);
	}
	no_more(pid);
}

int main(void)
{
	CHECK(mkdtemp(folder));
	RUN(test_keep);
	RUN(test_somebody_was_quicker);
	RUN(test_qemus_locks);
	RUN(test_discard);
	RUN(test_sweep);
	RUN(test_no_folder);
	RUN(test_swept_meanwhile);
	CHECK_INT(rmdir(folder), 0);
	return 0;
}
