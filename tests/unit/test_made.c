#include "images/made.h"
#include "proto/base.h"
#include "tests/unit/folder.h"
#include "tests/unit/meanwhile.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

static char folder[] = "/tmp/qmpctl-made-XXXXXX";
static struct vm_dirs dirs;

static const char *put(const char *name, const char *text)
{
	return file_in(folder, name, text, strlen(text));
}

static bool there(const char *name)
{
	struct stat st;

	return lstat(path_in(folder, name), &st) == 0;
}

/* The spec of VM, with the disk NAME. */
static void define(const char *vm, const char *name)
{
	_cleanup_free_ char *file = qmp_asprintf("vms/%s.json", vm);
	_cleanup_free_ char *spec = qmp_asprintf("{\"name\": \"%s\", \"disks\": [{\"id\": \"vda\", \"path\": \"%s/%s\", \"format\": \"raw\"}]}",
						 vm, folder, name);

	put(file, spec);
}

static bool yes(void *data, const char *vm)
{
	UNUSED(vm);
	return !data;
}

static void settle(void)
{
	img_made_settle(NULL, &dirs, yes, NULL);
}

/* Whether there is a note: of the one that was begun. */
static bool is_noted(const char *name)
{
	_cleanup_free_ char *path = qmp_asprintf("made/%s", name);

	return there(path);
}

/* A maker that is killed once the image NAME has its name. RET: the note's name. */
static void make_and_die(const char *vm, const char *name, char ret[32])
{
	struct qmp_error err = {0};
	struct img_made m;
	struct img_draft d;

	CHECK_INT(img_made_begin(NULL, &dirs, vm, &m, &err), 0);
	CHECK_INT(img_draft_begin(path_in(folder, name), false, &d, &err), 0);
	CHECK_INT(img_made_note(&m, &d, &err), 0);
	CHECK_INT(img_draft_keep(&d, &err), 0);
	settle();
	CHECK(there(name)); /* it is not gone yet */
	strcpy(ret, m.name);
	img_made_leave(&m);
}

static void condemn_and_die(const char *vm, const char *name, char ret[32])
{
	struct qmp_error err = {0};
	struct img_made m;

	CHECK_INT(img_made_begin(NULL, &dirs, vm, &m, &err), 0);
	CHECK_INT(img_made_condemn(&m, path_in(folder, name), &err), 0);
	strcpy(ret, m.name);
	img_made_leave(&m);
}

static void test_new(void)
{
	char note[32];

	make_and_die("a", "images/a-1.raw", note);
	img_made_settle(NULL, &dirs, yes, note); /* its keeper may still add it */
	CHECK(there("images/a-1.raw") && is_noted(note));
	settle();
	CHECK(!there("images/a-1.raw") && !is_noted(note));

	make_and_die("a", "images/a-1.raw", note);
	define("a", "images/a-1.raw");
	settle();
	CHECK(there("images/a-1.raw") && !is_noted(note));
	(void)unlink(path_in(folder, "vms/a.json"));
	(void)unlink(path_in(folder, "images/a-1.raw"));
}

static void test_going(void)
{
	char note[32];

	put("images/b-1.raw", "b");
	define("b", "images/b-1.raw");
	condemn_and_die("b", "images/b-1.raw", note);
	settle();
	CHECK(there("images/b-1.raw") && !is_noted(note));
	condemn_and_die("b", "images/b-1.raw", note);
	(void)unlink(path_in(folder, "vms/b.json"));
	settle();
	CHECK(!there("images/b-1.raw") && !is_noted(note));
}

/* By whom it is wanted is not known while a spec is damaged. */
static void test_unknown(void)
{
	char note[32];

	make_and_die("a", "images/a-1.raw", note);
	put("vms/other.json", "{");
	settle();
	CHECK(there("images/a-1.raw") && is_noted(note));
	(void)unlink(path_in(folder, "vms/other.json"));
	settle();
	CHECK(!there("images/a-1.raw") && !is_noted(note));
}

static void test_another_one(void)
{
	char note[32];

	make_and_die("a", "images/a-1.raw", note);
	CHECK(rename(put("images/x", "somebody's"), path_in(folder, "images/a-1.raw")) == 0);
	settle();
	CHECK(there("images/a-1.raw") && !is_noted(note));
	(void)unlink(path_in(folder, "images/a-1.raw"));
}

static void test_by_name(void)
{
	char note[32];

	put("firmware/c.d+secure.fd", "variables");
	define("c.d", "none");
	condemn_and_die("e", "firmware/c.d+secure.fd", note);
	settle();
	CHECK(there("firmware/c.d+secure.fd") && !is_noted(note));
	condemn_and_die("e", "firmware/c.d+secure.fd", note);
	(void)unlink(path_in(folder, "vms/c.d.json"));
	settle();
	CHECK(!there("firmware/c.d+secure.fd") && !is_noted(note));
}

static void test_undo(void)
{
	struct qmp_error err = {0};
	struct img_made m;
	struct img_draft d;

	put("images/old", "old");
	CHECK_INT(img_made_begin(NULL, &dirs, "a", &m, &err), 0);
	CHECK_INT(img_made_condemn(&m, path_in(folder, "images/old"), &err), 0);
	CHECK_INT(img_made_condemn(&m, path_in(folder, "images/none"), &err), 0);
	CHECK_INT(img_draft_begin(path_in(folder, "images/new"), false, &d, &err), 0);
	CHECK_INT(img_made_note(&m, &d, &err), 0);
	CHECK_INT(img_draft_keep(&d, &err), 0);
	img_made_undo(&m);
	settle();
	CHECK(there("images/old") && !there("images/new"));
	(void)unlink(path_in(folder, "images/old"));
}

/* Who begins is neither in the way of who settles at that moment, nor is its note taken for one that was left. */
static void test_settled_meanwhile(void)
{
	pid_t pid = meanwhile(settle);

	for (int i = 0; i < 300; i++) {
		struct qmp_error err = {0};
		struct img_made m;
		struct stat st;
		CHECK_INT(img_made_begin(NULL, &dirs, "v", &m, &err), 0);
		CHECK(is_noted(m.name) && fstat(m.fd, &st) == 0 && st.st_nlink == 1);
		img_made_keep(&m);
	}
	no_more(pid);
	settle();
}

int main(void)
{
	static const char *const folders[] = {"vms", "images", "firmware", "made"};

	CHECK(mkdtemp(folder) != NULL);
	dirs = (struct vm_dirs){folder, folder, folder};
	for (size_t i = 0; i < ARRAY_SIZE(folders); i++)
		CHECK(mkdir(path_in(folder, folders[i]), 0700) == 0);
	RUN(test_new);
	RUN(test_going);
	RUN(test_unknown);
	RUN(test_another_one);
	RUN(test_by_name);
	RUN(test_undo);
	RUN(test_settled_meanwhile);
	for (size_t i = 0; i < ARRAY_SIZE(folders); i++)
		CHECK(rmdir(path_in(folder, folders[i])) == 0);
	CHECK(rmdir(folder) == 0);
	return 0;
}
