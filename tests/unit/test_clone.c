#include "images/clone.h"
#include "launcher/spec.h"
#include "proto/base.h"
#include "tests/unit/folder.h"

#include <fcntl.h>
#include <sys/stat.h>

static char folder[] = "/tmp/qmpctl-clone-XXXXXX";

static json_t *json(const char *text)
{
	json_t *value = json_loads(text, 0, NULL);

	CHECK(value);
	return value;
}

static void test_spec(void)
{
	json_auto_t *spec = json("{\"name\": \"a\", \"uuid\": \"8f4ff12d-39a3-4f45-9ad0-9b1b7b8b9d55\", \"memory\": \"1G\","
				 " \"disks\": [{\"id\": \"vda\", \"path\": \"/x\", \"format\": \"raw\", \"port\": 3}],"
				 " \"nics\": [{\"id\": \"net0\", \"mac\": \"52:54:00:00:00:01\", \"bridge\": \"br0\", \"backend\": \"bridge\"}],"
				 " \"seed\": {\"hostname\": \"a\", \"instance-id\": \"one\", \"user\": \"me\"}}");
	json_auto_t *clone = NULL, *notes = NULL;
	json_auto_t *want = json("{\"name\": \"b\", \"memory\": \"1G\","
				 " \"disks\": [{\"id\": \"vda\", \"path\": \"/x\", \"format\": \"raw\", \"port\": 3}],"
				 " \"nics\": [{\"id\": \"net0\", \"bridge\": \"br0\", \"backend\": \"bridge\"}],"
				 " \"seed\": {\"user\": \"me\"}}");
	json_auto_t *before = json_deep_copy(spec);
	struct qmp_error err = {0};

	CHECK_INT(img_clone_spec(spec, "b", &clone, &notes, &err), 0);
	CHECK(json_equal(clone, want));
	CHECK(json_equal(spec, before));
	CHECK_INT(json_array_size(notes), 0);
}

static void test_ends(void)
{
	json_auto_t *spec = json("{\"name\": \"a\", \"nics\": ["
				 "{\"id\": \"n0\", \"backend\": \"user\", \"forwards\": [{\"host-port\": 1, \"guest-port\": 2}]},"
				 "{\"id\": \"n1\", \"backend\": \"stream\", \"socket\": \"/s\", \"server\": true},"
				 "{\"id\": \"n2\", \"backend\": \"stream\", \"socket\": \"/s\"},"
				 "{\"id\": \"n3\", \"backend\": \"dgram\", \"local\": \"/l\", \"remote\": \"/r\"},"
				 "{\"id\": \"n4\", \"backend\": \"tap\", \"interface\": \"tap0\"}], \"args\": [\"-x\"]}");
	json_auto_t *want = json("[{\"id\": \"n0\", \"backend\": \"user\"}, {\"id\": \"n1\", \"backend\": \"none\"},"
				 "{\"id\": \"n2\", \"backend\": \"stream\", \"socket\": \"/s\"}, {\"id\": \"n3\", \"backend\": \"none\"},"
				 "{\"id\": \"n4\", \"backend\": \"none\"}]");
	json_auto_t *clone = NULL, *notes = NULL;
	struct qmp_error err = {0};

	CHECK_INT(img_clone_spec(spec, "b", &clone, &notes, &err), 0);
	CHECK(json_equal(json_object_get(clone, "nics"), want));
	CHECK_INT(vm_spec_check(clone, &err), 0);
	CHECK_INT(json_array_size(notes), 5);
}

static void test_protection(void)
{
	const char *path = file_in(folder, "base", "x", 1);
	json_auto_t *spec = json_pack("{s:[{s:s, s:s, s:s}]}", "disks", "id", "vda", "path", path, "format", "raw");
	json_t *disk = json_array_get(json_object_get(spec, "disks"), 0);
	struct qmp_error err = {0};
	struct stat st;

	CHECK_INT(img_protect_check(spec, NULL, &err), 0);
	CHECK_INT(img_protect(path, &err), 0);
	CHECK_INT(img_protect(path, &err), 0);
	CHECK_INT(stat(path, &st), 0);
	CHECK_INT(st.st_mode & 07777, 0440);
	CHECK_INT(img_protect_check(spec, spec, &err), 0);
	CHECK_INT(img_protect_check(spec, NULL, &err), -EACCES);
	CHECK_INT(err.kind, QMP_ERR_STATE);
	CHECK_CONTAINS(err.message, path);
	err = (struct qmp_error){0};
	json_object_set_new(disk, "read-only", json_true());
	CHECK_INT(img_protect_check(spec, NULL, &err), 0);
	json_object_del(disk, "read-only");
	json_object_set_new(disk, "path", json_string("nbd://host/x"));
	CHECK_INT(img_protect_check(spec, NULL, &err), 0);
	(void)unlink(path);
	CHECK_INT(img_protect(path, &err), -ENOENT);
}

int main(void)
{
	CHECK(mkdtemp(folder));
	RUN(test_spec);
	RUN(test_ends);
	RUN(test_protection);
	CHECK_INT(rmdir(folder), 0);
	return 0;
}
