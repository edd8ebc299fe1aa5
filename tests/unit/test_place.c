#include "images/answer.h"
#include "images/place.h"
#include "proto/base.h"
#include "tests/unit/check.h"

#include <fcntl.h>
#include <sys/stat.h>

static const char mounts[] =
	"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,errors=remount-ro\n"
	"30 22 0:25 / /srv/nfs rw,relatime shared:9 master:3 - nfs4 server:/vms rw,vers=4.2,hard,local_lock=none\n"
	"31 22 0:26 / /srv/with\\040blank rw,nosuid - nfs other:/a\\040b rw,vers=3,nolock\n"
	"32 30 7:1 / /srv/nfs/deep rw - btrfs /dev/loop1 rw\n"
	"a line that is none\n";

static void mount_of(const char *path, const char *want_path, const char *want_type)
{
	json_auto_t *m = img_place_mount_in(mounts, path);

	CHECK_STR(text_of(m, "path"), want_path);
	CHECK_STR(text_of(m, "filesystem"), want_type);
}

static void test_mounts(void)
{
	json_auto_t *m = img_place_mount_in(mounts, "/srv/with blank/x");

	mount_of("/srv/x", "/", "ext4");
	mount_of("/srv/nfs", "/srv/nfs", "nfs4");
	mount_of("/srv/nfs/a", "/srv/nfs", "nfs4");
	mount_of("/srv/nfsx", "/", "ext4");
	mount_of("/srv/nfs/deep/er", "/srv/nfs/deep", "btrfs");
	CHECK_STR(text_of(m, "path"), "/srv/with blank");
	CHECK_STR(text_of(m, "source"), "other:/a b");
	CHECK_CONTAINS(text_of(m, "options"), "nolock");
	CHECK(!img_place_mount_in("", "/"));
}

/* The caveats are said of what they hold for, and of nothing else. */
static void test_locks(void)
{
	CHECK_CONTAINS(img_place_locks("nfs", "rw,vers=3,nolock"), "holds on this host alone");
	CHECK_CONTAINS(img_place_locks("nfs4", "rw,local_lock=all"), "holds on this host alone");
	CHECK_CONTAINS(img_place_locks("nfs4", "rw,soft,local_lock=none"), "mounted soft");
	CHECK_CONTAINS(img_place_locks("nfs4", "rw,hard,local_lock=none"), "keep a VM on another host off");
	CHECK_CONTAINS(img_place_locks("fuse.sshfs", "rw"), "network file system");
	CHECK(!img_place_locks("ext4", "rw,nolock"));
	CHECK(!img_place_locks("btrfs", "rw"));
}

static char folder[] = "/tmp/qmpctl-place-XXXXXX";

static void put(int dir, const char *name, const char *text)
{
	_cleanup_fd_ int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
}

static json_t *md_of(int dir, const char *state, const char *degraded, const char *sync, const char *done)
{
	put(dir, "level", "raid1\n");
	put(dir, "raid_disks", "2\n");
	put(dir, "array_state", state);
	put(dir, "degraded", degraded);
	put(dir, "sync_action", sync);
	put(dir, "sync_completed", done);
	return img_place_md_in(dir);
}

static void test_md(void)
{
	static const char *const names[] = {"level", "raid_disks", "array_state", "degraded", "sync_action", "sync_completed"};
	_cleanup_fd_ int dir = mkdtemp(folder) ? open(folder, O_RDONLY | O_DIRECTORY) : -1;
	json_auto_t *none = dir >= 0 ? img_place_md_in(dir) : json_null();
	json_auto_t *whole = md_of(dir, "clean\n", "0\n", "idle\n", "none\n");
	json_auto_t *lost = md_of(dir, "clean\n", "1\n", "idle\n", "none\n");
	json_auto_t *heals = md_of(dir, "active\n", "1\n", "recover\n", "25 / 100\n");
	json_auto_t *checks = md_of(dir, "clean\n", "0\n", "check\n", "1 / 3\n");
	json_auto_t *off = md_of(dir, "inactive\n", "0\n", "idle\n", "none\n");

	CHECK(!none);
	CHECK_STR(text_of(whole, "level"), "raid1");
	CHECK_STR(text_of(whole, "health"), "whole");
	CHECK(json_is_true(json_object_get(whole, "healthy")));
	CHECK_STR(text_of(lost, "health"), "degraded: 1 of 2 devices missing");
	CHECK(json_is_false(json_object_get(lost, "healthy")));
	CHECK_STR(text_of(heals, "health"), "degraded: 1 of 2 devices missing, recover");
	CHECK_INT(int_of(heals, "progress"), 25);
	CHECK_STR(text_of(checks, "health"), "whole, check");
	CHECK(json_is_true(json_object_get(checks, "healthy")));
	CHECK_STR(text_of(off, "health"), "inactive");
	CHECK(json_is_false(json_object_get(off, "healthy")));
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		(void)unlinkat(dir, names[i], 0);
	CHECK_INT(rmdir(folder), 0);
}

/* What is there, and what is not; what does not answer: tests/real/test_silent.py. */
static void test_answers(void)
{
	struct qmp_error err = {0};
	struct stat st, same;

	CHECK_INT(img_answer_stat("/", &st), 0);
	CHECK_INT(stat("/", &same), 0);
	CHECK(st.st_dev == same.st_dev && st.st_ino == same.st_ino && st.st_mode == same.st_mode);
	CHECK_INT(img_answer_stat("/dev/null", &st), 0);
	CHECK_INT(stat("/dev/null", &same), 0);
	CHECK(st.st_rdev == same.st_rdev && S_ISCHR(st.st_mode));
	CHECK_INT(img_answer_stat("/proc/self/exe", &st), 0); /* a link that the host does not remember */
	CHECK(S_ISREG(st.st_mode));
	CHECK_INT(img_answer_stat("/nix/da", &st), -ENOENT);
	CHECK_INT(img_answer_check("/", &err), 0);
	CHECK_INT(img_answer_check("/nix/da", &err), 0);
	CHECK_INT(err.kind, QMP_ERR_NONE);
}

int main(void)
{
	RUN(test_mounts);
	RUN(test_locks);
	RUN(test_md);
	RUN(test_answers);
	return 0;
}
