#include "images/catalogue.h"
#include "images/chain.h"
#include "proto/base.h"
#include "tests/unit/folder.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

static char folder[] = "/tmp/qmpctl-catalogue-XXXXXX";
static struct vm_dirs dirs;

static const char *in_folder(const char *name)
{
	return path_in(folder, name);
}

static void write_file(const char *path, const void *data, size_t len)
{
	FILE *f = fopen(path, "w");

	CHECK(f && fwrite(data, 1, len, f) == len && fclose(f) == 0);
}

/* A qcow2's header, of 1 MiB; FORMAT NULL: it does not say that of its backing file. */
static void qcow2(const char *path, const char *backing, const char *format)
{
	unsigned char d[512] = "QFI\xfb\0\0\0\3";
	size_t n = strlen(backing);

	d[29] = 0x10;
	d[103] = 104;
	if (format) {
		memcpy(d + 104, "\xe2\x79\x2a\xca\0\0\0", 7);
		d[111] = (unsigned char)strlen(format);
		memcpy(d + 112, format, strlen(format));
	}
	if (n > 0) {
		d[15] = 200;
		d[19] = (unsigned char)n;
		memcpy(d + 200, backing, n);
	}
	write_file(path, d, sizeof d);
}

static void define(const char *vm, const char *format, const char *path, const char *more)
{
	_cleanup_free_ char *text =
	    qmp_asprintf("{\"name\": \"%s\", \"disks\": [{\"id\": \"vda\", \"format\": \"%s\", \"path\": \"%s\"%s}]}",
			 vm, format, path, more);
	_cleanup_free_ char *file = qmp_asprintf("conf/vms/%s.json", vm);

	write_file(in_folder(file), text, strlen(text));
}

static void test_chain(void)
{
	const struct img_chain_options plain = {0};
	json_auto_t *chain = NULL, *node = NULL;
	struct qmp_error err = {0};

	qcow2(in_folder("base"), "", NULL);
	qcow2(in_folder("middle"), "base", "raw"); /* as if it were raw: it is not looked into */
	qcow2(in_folder("top"), in_folder("middle"), NULL);
	CHECK_INT(img_chain_read(in_folder("top"), &plain, &chain, &err), 0);
	CHECK_STR(text_of(chain, "format"), "qcow2");
	CHECK_STR(text_of(json_object_get(chain, "backing"), "path"), in_folder("middle"));
	CHECK_STR(text_of(json_object_get(json_object_get(chain, "backing"), "backing"), "path"), in_folder("base"));
	CHECK_STR(text_of(json_object_get(json_object_get(chain, "backing"), "backing"), "format"), "raw");
	node = img_node(chain, NULL);
	CHECK_STR(text_of(json_object_get(json_object_get(node, "backing"), "file"), "filename"), in_folder("middle"));
	qcow2(in_folder("circle"), "circle", "qcow2");
	json_decref(take_ptr(chain));
	CHECK_INT(img_chain_read(in_folder("circle"), &plain, &chain, &err), -ELOOP);
	qcow2(in_folder("remote"), "nbd:localhost:1", "raw");
	err = (struct qmp_error){0};
	CHECK_INT(img_chain_read(in_folder("remote"), &plain, &chain, &err), -ENOTSUP);
	qcow2(in_folder("lost"), "nowhere", "raw");
	err = (struct qmp_error){0};
	CHECK_INT(img_chain_read(in_folder("lost"), &plain, &chain, &err), -ENOENT);
	CHECK_CONTAINS(err.message, "nowhere");
	CHECK(unlink(in_folder("circle")) == 0 && unlink(in_folder("remote")) == 0 && unlink(in_folder("lost")) == 0);
}

static void test_names(void)
{
	static const struct {
		const char *location, *name, *found; /* NULL: it is not opened */
	} names[] = {
		{"/x/y", "z:a/b", NULL},
		{"/x/y", "json:{}", NULL},
		{"/x/y", "./z:a", "/x/./z:a"},
		{"/x/y", "file:z", "/x/z"},
		{"/x/y", "nbd://h/e", "nbd://h/e"},
		{"/x/y", "nbd://h:0/e", NULL},
		/* What a server has names nothing of this host, and nothing of another server. */
		{"nbd://h/e", "/etc/shadow", NULL},
		{"nbd://h/e", "file:/etc/shadow", NULL},
		{"nbd://h/e", "file:///etc/shadow", NULL},
		{"nbd://h/e", "../../etc/shadow", NULL},
		{"nbd://h/e", "json:{\"driver\":\"file\",\"filename\":\"/etc/shadow\"}", NULL},
		{"nbd://h/e", "nbd://h/f", "nbd://h/f"},
		{"nbd://h/e", "nbd://h:10810/f", NULL},
		{"nbd://h/e", "nbd://g/f", NULL},
		{"nbd://h/e", "http://h/f", NULL},
		{"nbd+unix:///e?socket=/s", "nbd+unix:///f?socket=/s", "nbd+unix:///f?socket=/s"},
		{"nbd+unix:///e?socket=/s", "nbd+unix:///f?socket=/t", NULL},
		{"http://h/a/b?k=1", "/etc/shadow", NULL},
		{"http://h/a/b?k=1", "c", "http://h/a/c"},
		{"http://h/a/b?k=/1", "c d", "http://h/a/c%20d"},
		{"ssh://h/a/b?host-key=SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "c",
		 "ssh://h/a/c?host-key=SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},
		{"ssh://h/a/b", "/etc/shadow", NULL},
		{"rbd://p/i", "rbd://p/j", "rbd://p/j"},
		{"rbd://p/i", "rbd://p/j?conf=/other", NULL},
		{"iscsi://h/t/1", "iscsi://me@h/t/2", NULL},
		{"iscsi://h/t/1", "", NULL},
	};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		_cleanup_free_ char *found = img_backing_location(names[i].location, names[i].name);
		if (names[i].found)
			CHECK_STR(found, names[i].found);
		else
			CHECK(!found);
	}
}

static void test_catalogue(void)
{
	_cleanup_catalogue_ struct img_catalogue *c = NULL;
	json_auto_t *users = NULL, *overlays = NULL, *all = NULL, *images = NULL;
	_cleanup_free_ char *names = NULL,
			    *backing = qmp_asprintf(", \"backing\": {\"path\": \"%s\", \"format\": \"raw\"}",
						    in_folder("middle"));
	struct qmp_error err = {0};
	int many;

	define("a", "qcow2", in_folder("top"), backing);
	define("b", "raw", in_folder("linked"), ", \"read-only\": true");
	write_file(in_folder("conf/vms/c.json"), "{", 1);
	CHECK_INT(symlink("middle", in_folder("linked")), 0);
	CHECK_INT(img_catalogue_read(&dirs, &c, &err), 0);
	users = img_catalogue_users(c, in_folder("middle"));
	CHECK_INT(json_array_size(users), 2);
	CHECK_STR(text_of(json_array_get(users, 0), "vm"), "a");
	CHECK_INT(int_of(json_array_get(users, 0), "depth"), 1);
	CHECK_STR(text_of(json_array_get(users, 0), "state"), "defined");
	CHECK_STR(text_of(json_array_get(users, 1), "vm"), "b");
	CHECK(json_is_false(json_object_get(json_array_get(users, 1), "writes")));
	overlays = img_catalogue_overlays(c, in_folder("base"), false);
	CHECK_INT(json_array_size(overlays), 0); /* the VM says that middle is raw */
	all = img_catalogue_overlays(c, in_folder("linked"), true);
	CHECK_INT(json_array_size(all), 1);
	CHECK_STR(text_of(json_array_get(all, 0), "path"), in_folder("top"));
	images = img_catalogue_images(c);
	CHECK_INT(json_array_size(images), 4); /* base, middle, top; own */
	CHECK_INT(int_of(json_array_get(images, 0), "virtual-size"), 1 << 20);
	CHECK_STR(json_string_value(json_array_get(img_catalogue_unknown(c), 0)), "c");
	names = img_catalogue_names(users, all, &many);
	CHECK_INT(many, 3);
	CHECK_CONTAINS(names, "the VM a (defined, disks.vda), the VM b");
	CHECK_CONTAINS(names, "the overlay ");
}

int main(void)
{
	static const char *const files[] = {"base",
					    "middle",
					    "top",
					    "linked",
					    "conf/vms/a.json",
					    "conf/vms/b.json",
					    "conf/vms/c.json",
					    "state/images/own"};
	static const char *const folders[] = {"conf/vms", "conf", "state/images", "state"};

	CHECK(mkdtemp(folder));
	dirs = (struct vm_dirs){(char *)in_folder("conf"), (char *)in_folder("state"), (char *)in_folder("run")};
	dirs = (struct vm_dirs){strdup(dirs.conf), strdup(dirs.state), strdup(dirs.run)};
	for (size_t i = ARRAY_SIZE(folders); i-- > 0;)
		CHECK_INT(mkdir(in_folder(folders[i]), 0700), 0);
	write_file(in_folder("state/images/own"), "raw", 3);
	RUN(test_names);
	RUN(test_chain);
	RUN(test_catalogue);
	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		CHECK_INT(unlink(in_folder(files[i])), 0);
	for (size_t i = 0; i < ARRAY_SIZE(folders); i++)
		CHECK_INT(rmdir(in_folder(folders[i])), 0);
	CHECK_INT(rmdir(folder), 0);
	vm_dirs_deinit(&dirs);
	return 0;
}
