/*
 * What a user needs to open for QEMU's objects, and what is said where it may not. Trying it out as another user needs root.
 */
#include "launcher/identity.h"
#include "proto/base.h"
#include "tests/unit/check.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static void check_need(const char *command, const char *args, const char *path, int mode)
{
	json_auto_t *object = json_loads(args, 0, NULL);
	struct vm_needs needs = {0};

	CHECK_INT(vm_needs_add_object(&needs, "it", command, object), 0);
	CHECK_INT(needs.n, path ? 1 : 0);
	if (path) {
		CHECK_STR(needs.list[0].path, path);
		CHECK_STR(needs.list[0].item, "it");
		CHECK_INT(needs.list[0].mode, mode);
	}
	vm_needs_deinit(&needs);
}

static void test_what_is_opened(void)
{
	check_need("blockdev-add", "{\"driver\": \"file\", \"filename\": \"/a/b\", \"read-only\": false}", NULL, 0);
	check_need("blockdev-add", "{\"driver\": \"qcow2\", \"file\": \"x\"}", NULL, 0);
	check_need("blockdev-add", "{\"driver\": \"rbd\", \"filename\": \"pool\"}", NULL, 0);
	check_need("blockdev-add", "{\"driver\": \"nbd\", \"server\": {\"type\": \"unix\", \"path\": \"/a/s\"}}", "/a/s", W_OK);
	check_need("blockdev-add", "{\"driver\": \"nbd\", \"server\": {\"type\": \"inet\", \"host\": \"h\"}}", NULL, 0);
	check_need("blockdev-add", "{\"driver\": \"rbd\", \"pool\": \"p\", \"conf\": \"/c\"}", "/c", R_OK);
	check_need("object-add", "{\"qom-type\": \"iothread\", \"id\": \"x\"}", NULL, 0);
	check_need("device_add", "{\"filename\": \"/a\"}", NULL, 0);
	check_need("netdev_add", "{\"type\": \"stream\", \"server\": true, \"addr\": {\"type\": \"unix\", \"path\": \"/a/b/s\"}}", "/a/b",
		   W_OK | X_OK);
	check_need("netdev_add", "{\"type\": \"stream\", \"server\": true, \"addr\": {\"path\": \"/s\"}}", "/", W_OK | X_OK);
	check_need("netdev_add", "{\"type\": \"stream\", \"server\": false, \"addr\": {\"path\": \"/a/b/s\"}}", "/a/b/s", W_OK);
	check_need("netdev_add", "{\"type\": \"dgram\", \"local\": {\"path\": \"/a/l\"}}", "/a", W_OK | X_OK);
	check_need("netdev_add", "{\"type\": \"dgram\", \"remote\": {\"path\": \"/a/r\"}}", "/a/r", W_OK);
	check_need("netdev_add", "{\"type\": \"user\"}", NULL, 0);
}

static void test_credentials(void)
{
	json_auto_t *object = json_loads("{\"qom-type\": \"tls-creds-x509\", \"dir\": \"/d\"}", 0, NULL);
	struct vm_needs needs = {0};
	bool key = false;

	CHECK_INT(vm_needs_add_object(&needs, "it", "object-add", object), 0);
	for (size_t i = 0; i < needs.n; i++)
		key |= strcmp(needs.list[i].path, "/d/client-key.pem") == 0 && needs.list[i].mode == R_OK;
	CHECK(key);
	vm_needs_deinit(&needs);
}

static void test_nobody_is_named(void)
{
	json_auto_t *spec = json_object();
	struct vm_identity *id = (void *)1;

	CHECK_INT(vm_identity_of(spec, &id, NULL), 0);
	CHECK(id == NULL);
	CHECK(vm_identity_opens(NULL, "/dev/null") && !vm_identity_opens(NULL, "/dev/null/x"));
}

static int try(const struct vm_identity *id, const char *path, int mode, struct qmp_error *err)
{
	struct vm_needs needs = {0};
	int r;

	*err = (struct qmp_error){0};
	CHECK_INT(vm_needs_add(&needs, "it", path, mode), 0);
	r = vm_identity_check(id, &needs, err);
	vm_needs_deinit(&needs);
	return r;
}

static char folder[] = "/tmp/test-identity-XXXXXX";

/* Also when a check fails, which ends the program. */
static void remove_folder(void)
{
	_cleanup_free_ char *file = qmp_asprintf("%s/f", folder);

	(void)unlink(file);
	(void)rmdir(folder);
}

static int open_for(const struct vm_identity *id, const char *path, struct qmp_error *err)
{
	int fd = -1, r;

	*err = (struct qmp_error){0};
	r = vm_identity_open(id, "it", path, O_RDWR, &fd, err);
	CHECK_INT(fd >= 0, r == 1);
	if (fd >= 0)
		(void)close(fd);
	return r;
}

/* FILE, in a folder of mode 0711 that is ours, belongs to ID. */
static void test_in_its_place(const struct vm_identity *id, const char *file)
{
	_cleanup_free_ char *link = qmp_asprintf("%s/l", folder);
	struct qmp_error err;

	CHECK_INT(open_for(id, file, &err), 0); /* it opens that itself */
	CHECK_INT(chown(file, 0, 0), 0);
	CHECK_INT(open_for(id, file, &err), 1);
	CHECK_INT(chmod(folder, 0700), 0);
	CHECK_INT(open_for(id, file, &err), 1);
	CHECK_INT(symlink(file, link), 0);
	CHECK_INT(open_for(id, link, &err), -ELOOP);
	CHECK_INT(unlink(link), 0);
	CHECK_INT(open_for(id, link, &err), -ENOENT);
	CHECK_INT(mkfifo(link, 0600), 0);
	CHECK_INT(open_for(id, link, &err), -EINVAL);
	CHECK_INT(unlink(link), 0);
	/* what the user could change */
	CHECK_INT(chmod(folder, 0777), 0);
	CHECK_INT(open_for(id, file, &err), -EACCES);
	CHECK_CONTAINS(err.message, "can put something else in place");
	CHECK_INT(chmod(folder, 01777), 0);
	CHECK_INT(open_for(id, file, &err), 1); /* what is another's stays there */
	CHECK_INT(chown(file, id->uid, id->gid), 0);
	CHECK_INT(chmod(file, 0), 0);
	CHECK_INT(open_for(id, file, &err), -EACCES);
	CHECK_INT(chown(folder, id->uid, id->gid), 0);
	CHECK_INT(chmod(folder, 0500), 0); /* which it may undo */
	CHECK_INT(open_for(id, file, &err), -EACCES);
	CHECK_INT(chown(folder, 0, 0), 0);
	CHECK_INT(chmod(folder, 0711), 0);
}

static void test_what_nobody_may(void)
{
	json_auto_t *spec = json_pack("{s:s}", "user", "nobody");
	_cleanup_free_ char *file = NULL;
	_cleanup_identity_ struct vm_identity *id = NULL;
	struct qmp_error err = {0};

	if (geteuid() != 0) {
		CHECK_INT(vm_identity_of(spec, &id, &err), -EPERM);
		CHECK_CONTAINS(err.message, "only root");
		return;
	}
	CHECK_INT(vm_identity_of(spec, &id, &err), 0);
	CHECK(mkdtemp(folder) != NULL);
	CHECK_INT(atexit(remove_folder), 0);
	file = qmp_asprintf("%s/f", folder);
	(void)close(open(file, O_CREAT | O_WRONLY, 0644));
	CHECK_INT(chmod(file, 0644), 0);
	CHECK_INT(try(id, file, R_OK, &err), -EACCES);
	CHECK_CONTAINS(err.message, "it may not enter /tmp/test-identity-");
	CHECK_CONTAINS(err.message, "setfacl -m u:nobody:x /tmp/test-identity-");
	CHECK_INT(chmod(folder, 0711), 0);
	CHECK_INT(try(id, file, R_OK, &err), 0);
	CHECK_INT(try(id, file, R_OK | W_OK, &err), -EACCES);
	CHECK_CONTAINS(err.message, "it: QEMU is to run as the user nobody, who cannot write /tmp/test-identity-");
	CHECK_INT(chown(file, id->uid, id->gid), 0);
	CHECK_INT(try(id, file, R_OK | W_OK, &err), 0);
	CHECK(vm_identity_opens(id, file));
	test_in_its_place(id, file);
	CHECK_INT(unlink(file), 0);
	CHECK_INT(try(id, file, R_OK | W_OK, &err), 0); /* for QEMU to say */
	CHECK(!vm_identity_opens(id, file));
	CHECK_INT(geteuid(), 0);
}

int main(void)
{
	RUN(test_what_is_opened);
	RUN(test_credentials);
	RUN(test_nobody_is_named);
	RUN(test_what_nobody_may);
	return 0;
}
