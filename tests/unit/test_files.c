#include "launcher/files.h"
#include "proto/base.h"
#include "tests/unit/folder.h"
#include "tests/unit/meanwhile.h"

static char folder[] = "/tmp/qmpctl-files-XXXXXX";
static int dir;

static void look(void)
{
	(void)vm_is_locked(dir, "lock");
}

static void test_lock(void)
{
	struct qmp_error err = {0};
	int fd, other;

	CHECK(!vm_is_locked(dir, "lock"));
	CHECK_INT(vm_lock(dir, "lock", &fd, &err), 0);
	CHECK(vm_is_locked(dir, "lock"));
	CHECK_INT(vm_lock(dir, "lock", &other, &err), -EBUSY);
	CHECK(vm_is_locked(dir, "lock"));
	(void)close(fd);
	CHECK(!vm_is_locked(dir, "lock"));
	CHECK(unlinkat(dir, "lock", 0) == 0);
}

/* Who looks whether it is held holds it from nobody. */
static void test_lock_that_is_looked_at(void)
{
	pid_t pid = meanwhile(look);

	for (int i = 0; i < 3000; i++) {
		struct qmp_error err = {0};
		int fd;
		CHECK_INT(vm_lock(dir, "lock", &fd, &err), 0);
		CHECK(unlinkat(dir, "lock", 0) == 0);
		(void)close(fd);
	}
	no_more(pid);
}

int main(void)
{
	CHECK(mkdtemp(folder) != NULL);
	dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CHECK(dir >= 0);
	RUN(test_lock);
	RUN(test_lock_that_is_looked_at);
	(void)close(dir);
	CHECK_INT(rmdir(folder), 0);
	return 0;
}
