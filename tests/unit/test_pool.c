#include "launcher/fragment.h"
#include "launcher/pool.h"
#include "launcher/spec.h"
#include "proto/base.h"
#include "tests/unit/check.h"

#include <stdio.h>
#include <sys/stat.h>

static char root[] = "/tmp/qmpctl-pool-XXXXXX";
static struct vm_dirs dirs;

static void define(const char *name, const char *text)
{
	struct qmp_error err = {0};
	_cleanup_free_ char *file = qmp_asprintf("%s.json", name);
	_cleanup_fd_ int dir = vm_dir_open(dirs.conf, "pools", true, &err);

	CHECK(dir >= 0);
	CHECK_INT(vm_file_write(dir, file, text, strlen(text), &err), 0);
}

/* What makes TEXT no definition. */
static void bad(const char *text, const char *why)
{
	struct qmp_error err = {0};
	json_auto_t *pool = json_loads(text, 0, NULL);

	CHECK(pool);
	CHECK_INT(vm_pool_check(pool, text, strlen(text), "f", &err), -EINVAL);
	CHECK_INT(err.kind, QMP_ERR_USAGE);
	CHECK_CONTAINS(err.message, why);
}

static void test_words(void)
{
	static const char *const none[] = {"/a:b", "./a:b", "a:b", "ab", "ab:", "ab:/x", "nbd://host/x", "ab:x/y", "ab:.x", "ab:-x",
					   "a b:x", ":x", "ab:x\ny"};
	char pool[VM_POOL_NAME_MAX + 1];

	for (size_t i = 0; i < ARRAY_SIZE(none); i++)
		if (vm_pool_volume(none[i], NULL))
			check_fail(__FILE__, __LINE__, none[i], "no volume of a pool", "one");
	CHECK_STR(vm_pool_volume("fast:web.qcow2", pool), "web.qcow2");
	CHECK_STR(pool, "fast");
	CHECK_STR(vm_pool_volume("ceph:a:b@c", pool), "a:b@c");
}

static void test_bad_definitions(void)
{
	bad("{\"name\": \"ab\"}", "f:1: the pool: \"type\" is missing; one of dir, mount, btrfs");
	bad("{\"name\": \"ab\",\n \"type\": \"dri\"}", "f:2: type: unknown value \"dri\"; one of dir, mount, btrfs, lvm, lvm-thin");
	bad("{\"name\": \"ab\", \"type\": \"dri\"}", "(did you mean dir?)");
	bad("{\"name\": \"ab\", \"type\": \"dir\"}", "the pool: \"path\" is missing");
	bad("{\"name\": \"ab\", \"type\": \"dir\",\n \"path\": \"x\"}", "f:2: path: \"x\" must be an absolute path");
	bad("{\"name\": \"ab\", \"type\": \"dir\", \"path\": \"/x\", \"vg\": \"v\"}", "vg: unknown field");
	bad("{\"name\": \"a\", \"type\": \"dir\", \"path\": \"/x\"}", "two characters");
	bad("{\"name\": \"ab\", \"type\": \"lvm\", \"vg\": \"../x\"}", "a name of LVM's");
	bad("{\"name\": \"ab\", \"type\": \"lvm-thin\", \"vg\": \"v\", \"thin-pool\": \"--x\"}", "a name of LVM's");
	bad("{\"name\": \"ab\", \"type\": \"zfs\", \"dataset\": \"a/../b\"}", "tank/vms");
	bad("{\"name\": \"ab\", \"type\": \"rbd\", \"pool\": \"a/b\"}", "no \"/\"");
	bad("{\"name\": \"ab\", \"type\": \"rbd\", \"pool\": \"--help\"}", "nor \"-\" first");
}

static void test_where_a_volume_is(void)
{
	static const struct {
		const char *definition, *volume, *where; /* NULL: nowhere */
	} cases[] = {
		{"{\"name\": \"ab\", \"type\": \"dir\", \"path\": \"/srv/vms\"}", "a.qcow2", "/srv/vms/a.qcow2"},
		{"{\"name\": \"ab\", \"type\": \"mount\", \"path\": \"/\"}", "a", "/a"},
		{"{\"name\": \"ab\", \"type\": \"btrfs\", \"path\": \"/b\"}", "a", "/b/a"},
		{"{\"name\": \"ab\", \"type\": \"btrfs\", \"path\": \"/b\", \"subvolumes\": true}", "a", "/b/a/disk"},
		{"{\"name\": \"ab\", \"type\": \"lvm\", \"vg\": \"vg0\"}", "a", "/dev/vg0/a"},
		{"{\"name\": \"ab\", \"type\": \"lvm-thin\", \"vg\": \"vg0\", \"thin-pool\": \"t\"}", "a", "/dev/vg0/a"},
		{"{\"name\": \"ab\", \"type\": \"zfs\", \"dataset\": \"tank/vms\"}", "a", "/dev/zvol/tank/vms/a"},
		{"{\"name\": \"ab\", \"type\": \"block\", \"path\": \"/dev/md\"}", "a", "/dev/md/a"},
		{"{\"name\": \"ab\", \"type\": \"block\", \"path\": \"/dev\", \"only\": [\"sd[b-z]\"]}", "sdb", "/dev/sdb"},
		{"{\"name\": \"ab\", \"type\": \"block\", \"path\": \"/dev\", \"only\": [\"sd[b-z]\"]}", "sda", NULL},
		{"{\"name\": \"ab\", \"type\": \"rbd\", \"pool\": \"vms\"}", "a", "rbd://vms/a"},
		{"{\"name\": \"ab\", \"type\": \"rbd\", \"pool\": \"v%s\", \"namespace\": \"n\", \"conf\": \"/e/c&d\", \"user\": \"u\"}",
		 "a b?c", "rbd://v%25s/n/a%20b%3Fc?conf=/e/c%26d&user=u"},
		{"{\"name\": \"ab\", \"type\": \"rbd\", \"pool\": \"vms\", \"user\": \"u\"}", "a", "rbd://vms/a?user=u"},
		{"{\"name\": \"ab\", \"type\": \"rbd\", \"pool\": \"vms\"}", "a@b", NULL},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		json_auto_t *pool = json_loads(cases[i].definition, 0, NULL), *pools = json_object();
		_cleanup_free_ char *words = qmp_asprintf("ab:%s", cases[i].volume), *where = NULL;
		struct qmp_error err = {0};
		int r;
		CHECK_INT(vm_pool_check(pool, NULL, 0, NULL, &err), 0);
		json_object_set(pools, "ab", pool);
		r = vm_pools_locate(pools, words, &where, &err);
		CHECK_INT(r, cases[i].where ? 0 : -EINVAL);
		if (cases[i].where)
			CHECK_STR(where, cases[i].where);
		else
			CHECK_CONTAINS(err.message, strstr(cases[i].definition, "rbd") ? "no \"@\"" : "\"only\" leaves it out");
	}
}

static void test_read(void)
{
	struct qmp_error err = {0};
	json_auto_t *pool = NULL, *standard = NULL, *names = NULL;

	define("fast", "{\"name\": \"fast\", \"type\": \"btrfs\", \"path\": \"/b\"}");
	define("other", "{\"name\": \"fast\", \"type\": \"btrfs\", \"path\": \"/b\"}");
	CHECK_INT(vm_pool_read(&dirs, "fast", &pool, &err), 0);
	CHECK(json_is_false(json_object_get(pool, "subvolumes"))); /* the defaults stand in it */
	CHECK_INT(vm_pool_read(&dirs, "default", &standard, &err), 0);
	CHECK_CONTAINS(text_of(standard, "path"), "/images");
	CHECK_INT(vm_pool_read(&dirs, "fats", &pool, &err), -ENOENT);
	CHECK_INT(err.kind, QMP_ERR_NOT_FOUND);
	CHECK_CONTAINS(err.message, "did you mean \"fast\"?");
	err = (struct qmp_error){0};
	CHECK_INT(vm_pool_read(&dirs, "other", &pool, &err), -EINVAL);
	CHECK_CONTAINS(err.message, "its \"name\" is \"fast\"");
	err = (struct qmp_error){0};
	CHECK_INT(vm_pool_read(&dirs, "../x", &pool, &err), -EINVAL);
	CHECK_INT(vm_pool_names(&dirs, &names, &err), 0);
	CHECK_INT(json_array_size(names), 3);
	CHECK_STR(json_string_value(json_array_get(names, 0)), "default");
}

static json_t *spec_of(const char *path)
{
	json_auto_t *spec = json_pack("{s:s, s:[{s:s, s:s}, {s:s, s:s, s:{s:s, s:s}}]}", "name", "x", "disks", "path", "/a", "format",
				      "raw", "path", "/b", "format", "qcow2", "backing", "path", path, "format", "raw");
	struct qmp_error err = {0};

	CHECK_INT(vm_spec_check(spec, &err), 0);
	CHECK_INT(vm_spec_complete(spec, &err), 1);
	return vm_spec_effective(spec);
}

/* A VM that runs has its images where they were, also when the definition is another one by now. */
static void test_of_a_spec(void)
{
	json_auto_t *spec = spec_of("fast:v"), *other = spec_of("/x"), *pools = NULL, *later = NULL, *fresh = NULL, *located = NULL;
	struct vm_host host = {.accel = "tcg", .cpu_model = "max", .machine = "pc-q35-7.2"};
	struct vm_fragments all;
	struct qmp_error err = {0};

	CHECK_INT(vm_pools_read(&dirs, spec, NULL, NULL, &pools, &err), 0);
	define("fast", "{\"name\": \"fast\", \"type\": \"dir\", \"path\": \"/moved\"}");
	CHECK_INT(vm_pools_read(&dirs, spec, spec, pools, &later, &err), 0);
	CHECK(json_equal(pools, later));
	CHECK_INT(vm_pools_read(&dirs, spec, other, pools, &fresh, &err), 0);
	CHECK_STR(text_of(json_object_get(fresh, "fast"), "path"), "/moved");
	CHECK_INT(vm_pools_locate_disks(pools, spec, false, &located, &err), 0);
	CHECK_STR(text_of(json_object_get(json_array_get(json_object_get(located, "disks"), 1), "backing"), "path"), "/b/v");
	host.pools = pools;
	CHECK_INT(vm_fragments_all(spec, &host, &all, &err), 0);
	for (size_t i = 0; i < all.n; i++)
		for (size_t k = 0; k < all.list[i].n_objects; k++)
			if (streq(vm_object_id(&all.list[i].objects[k]), "vdb-b1-file"))
				CHECK_STR(text_of(all.list[i].objects[k].args, "filename"), "/b/v");
	vm_fragments_deinit(&all);
	json_object_del(pools, "fast");
	CHECK_INT(vm_fragments_all(spec, &host, &all, &err), -ENOENT);
	CHECK_CONTAINS(err.message, "disks.vdb: fast:v: there is no pool named \"fast\"");
}

/* A field that the page of pools does not name is a field that nobody finds. */
static void test_docs(void)
{
	static char text[1 << 18];
	FILE *f = fopen(SOURCE_DIR "/docs/storage.md", "r");

	CHECK(f && fread(text, 1, sizeof text - 1, f) > 0);
	(void)fclose(f);
	for (const struct vm_pool_type *t = vm_pool_types; t->name; t++) {
		_cleanup_free_ char *type = qmp_asprintf("`%s`", t->name);
		CHECK_CONTAINS(text, type);
		for (const struct vm_field *field = t->fields; field->name; field++) {
			_cleanup_free_ char *name = qmp_asprintf("`%s`", field->name);
			CHECK_CONTAINS(text, name);
		}
	}
}

int main(void)
{
	struct qmp_error err = {0};

	CHECK(mkdtemp(root));
	CHECK_INT(vm_dirs_init(root, &dirs, &err), 0);
	RUN(test_words);
	RUN(test_bad_definitions);
	RUN(test_where_a_volume_is);
	RUN(test_read);
	RUN(test_of_a_spec);
	RUN(test_docs);
	vm_dirs_deinit(&dirs);
	{
		_cleanup_free_ char *clean = qmp_asprintf("rm -rf %s", root);
		CHECK_INT(system(clean), 0);
	}
	return 0;
}
