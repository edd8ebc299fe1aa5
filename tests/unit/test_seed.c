#include "images/seed.h"
#include "images/draft.h"
#include "launcher/spec.h"
#include "proto/base.h"
#include "tests/unit/check.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

static char folder[] = "/tmp/qmpctl-seed-XXXXXX";
static struct vm_dirs dirs;

static json_t *spec_of(const char *seed)
{
	_cleanup_free_ char *text = qmp_asprintf("{\"name\": \"a\", \"seed\": %s}", seed);
	struct qmp_error err = {0};
	json_t *spec = NULL;

	CHECK_INT(vm_spec_parse(text, strlen(text), "test", &spec, &err), 0);
	return spec;
}

static const char *write_file(const char *name, const char *text)
{
	static char path[256];
	FILE *f;

	snprintf(path, sizeof path, "%s/%s", folder, name);
	f = fopen(path, "w");
	if (f) {
		fputs(text, f);
		fclose(f);
	}
	return path;
}

static void test_cloud_config(void)
{
	json_auto_t *spec = spec_of("{\"user\": \"me\", \"ssh-keys\": [\"ssh-ed25519 A\"], \"hostname\": \"h\", \"run\": [\"a\"],"
				    " \"packages\": [\"p\"], \"instance-id\": \"i\"}");
	struct qmp_error err = {0};
	json_auto_t *files = img_seed_files(spec, &err), *config = NULL, *meta = NULL, *wanted = NULL;
	const char *text = text_of(files, "user-data");

	CHECK_INT(json_object_size(files), 2);
	CHECK(text && strncmp(text, "#cloud-config\n", 14) == 0);
	config = text ? json_loads(text + 14, 0, NULL) : NULL;
	wanted = json_loads("{\"hostname\": \"h\", \"runcmd\": [\"a\"], \"packages\": [\"p\"], \"package_update\": true,"
			    " \"users\": [{\"name\": \"me\", \"shell\": \"/bin/bash\", \"sudo\": \"ALL=(ALL) NOPASSWD:ALL\","
			    " \"ssh_authorized_keys\": [\"ssh-ed25519 A\"]}]}", 0, NULL);
	CHECK(json_equal(config, wanted));
	text = text_of(files, "meta-data");
	meta = text ? json_loads(text, 0, NULL) : NULL;
	json_decref(wanted);
	wanted = json_pack("{s:s, s:s}", "instance-id", "i", "local-hostname", "h");
	CHECK(json_equal(meta, wanted));
}

/* Without an account of its own: the image's. */
static void test_password(void)
{
	json_auto_t *spec = spec_of("{}");
	struct qmp_error err = {0};
	json_auto_t *files = NULL, *config = NULL;
	const char *text;

	json_object_set_new(json_object_get(spec, "seed"), "password-hash-file", json_string(write_file("hash", "$6$a$b\n")));
	files = img_seed_files(spec, &err);
	text = text_of(files, "user-data");
	config = text ? json_loads(text + 14, 0, NULL) : NULL;
	CHECK(text_of(config, "password") && streq(text_of(config, "password"), "$6$a$b"));

	(void)write_file("hash", "secret\n");
	json_decref(files);
	files = img_seed_files(spec, &err);
	CHECK(!files && err.kind == QMP_ERR_USAGE);
	CHECK(strstr(err.message, "no password hash") && !strstr(err.message, "secret"));
}

/* What YAML 1.1 reads otherwise than JSON stands escaped, the rest as it is. */
static void test_yaml(void)
{
	json_auto_t *spec = spec_of("{\"run\": [\"\\u007f\\u0085\\u009f\\u00a0\\u2028\\ufeff \xf0\x9f\x98\x80 \xc3\xa4\"]}");
	struct qmp_error err = {0};
	json_auto_t *files = img_seed_files(spec, &err);
	const char *text = text_of(files, "user-data");

	CHECK(text && strstr(text, "\"\\u007f\\u0085\\u009f\xc2\xa0\\u2028\\ufeff \xf0\x9f\x98\x80 \xc3\xa4\""));
}

static void test_files(void)
{
	json_auto_t *spec = spec_of("{}");
	json_t *seed = json_object_get(spec, "seed");
	struct qmp_error err = {0};
	json_auto_t *files = NULL;

	CHECK(!img_seed_has_image(spec));
	json_object_set_new(seed, "user-data", json_string(write_file("user", "#!/bin/sh\n")));
	json_object_set_new(seed, "vendor-data", json_string(write_file("vendor", "")));
	CHECK(img_seed_has_image(spec));
	files = img_seed_files(spec, &err);
	CHECK_INT(json_object_size(files), 3);
	CHECK(files && streq(text_of(files, "user-data"), "#!/bin/sh\n") && streq(text_of(files, "vendor-data"), ""));
	json_object_set_new(seed, "network-config", json_string("/nonexistent/x"));
	json_decref(files);
	files = img_seed_files(spec, &err);
	CHECK(!files && strstr(err.message, "seed.network-config: /nonexistent/x"));
}

static void test_drive(void)
{
	json_auto_t *spec = spec_of("{\"user\": \"me\"}");
	_cleanup_free_ char *path = img_seed_path(&dirs, "a"), *other = img_seed_path(&dirs, "b");
	json_t *drive;

	CHECK_INT(img_seed_attach(&dirs, NULL, spec), 1);
	CHECK_INT(img_seed_attach(&dirs, NULL, spec), 0);
	drive = vm_spec_find(spec, "disks", "seed");
	CHECK(drive && streq(text_of(drive, "path"), path) && streq(text_of(drive, "bus"), "scsi"));
	json_object_set_new(spec, "name", json_string("b"));
	CHECK_INT(img_seed_attach(&dirs, NULL, spec), 1);
	CHECK(streq(text_of(drive, "path"), other));
	json_object_set_new(drive, "path", json_string("/srv/mine.iso"));
	CHECK_INT(img_seed_attach(&dirs, NULL, spec), 0);
	json_object_del(spec, "seed");
	CHECK_INT(img_seed_attach(&dirs, NULL, spec), 0); /* it is not ours */
	json_object_set_new(drive, "path", json_string(other));
	CHECK_INT(img_seed_attach(&dirs, NULL, spec), 1);
	CHECK(!vm_spec_find(spec, "disks", "seed"));
}

static void ignition(const char *text, const char *why)
{
	json_auto_t *spec = spec_of("{}");
	struct qmp_error err = {0};

	json_object_set_new(json_object_get(spec, "seed"), "ignition", json_string(write_file("ignition", text)));
	CHECK_INT(img_seed_check(spec, &err), why ? -EINVAL : 0);
	if (why && !strstr(err.message, why))
		check_fail(__FILE__, __LINE__, text, why, err.message);
}

static void test_ignition(void)
{
	json_auto_t *spec = spec_of("{\"ignition\": \"/nonexistent/x\"}");
	struct qmp_error err = {0};
	char *long_text = malloc((1 << 20) + 2);

	ignition("{\"ignition\": {\"version\": \"3.4.0\"}, \"x\": \"\\u0000, \\\"\"}\n", NULL);
	ignition("variant: fcos\nversion: 1.5.0\n", "is no JSON, in line 1");
	ignition("{\"ignition\": {\"version\": \"3.4.0\"},\n \"storage\": {}\n", "in line 3");
	ignition("{}", "no configuration of Ignition");
	ignition("[]", "no configuration of Ignition");
	CHECK_INT(img_seed_make_now(NULL, &dirs, spec, false, &err), -ENOENT);
	CHECK(strstr(err.message, "seed.ignition: /nonexistent/x"));
	if (long_text) {
		memset(long_text, ' ', (1 << 20) + 1);
		long_text[(1 << 20) + 1] = '\0';
		json_object_set_new(json_object_get(spec, "seed"), "ignition", json_string(write_file("ignition", long_text)));
	}
	err = (struct qmp_error){0};
	CHECK_INT(img_seed_check(spec, &err), -EFBIG);
	CHECK(strstr(err.message, "more than 1 MiB"));
	free(long_text);
}

/* Of what it was made from: made anew where that has changed, and only there; all that can be known without the tool. */
static void test_unreadable(void)
{
	json_auto_t *spec = spec_of("{\"user-data\": \"/nonexistent/x\"}");
	_cleanup_free_ char *path = img_seed_path(&dirs, "a");
	struct qmp_error err = {0};
	FILE *f;

	CHECK_INT(img_seed_make_now(NULL, &dirs, spec, false, &err), -ENOENT);
	f = fopen(path, "w");
	CHECK(f != NULL);
	if (f)
		fclose(f);
	CHECK_INT(img_seed_make_now(NULL, &dirs, spec, false, &err), 1);
	img_seed_rename(&dirs, "a", "b");
	CHECK(access(path, F_OK) < 0);
	img_seed_remove(&dirs, "b");
	CHECK(rmdir((snprintf(path, strlen(path), "%s/seeds", folder), path)) == 0);
}

/* What a killed maker has left goes with the next one; what one has that lives stays. */
static void test_leftovers(void)
{
	_cleanup_free_ char *seeds = qmp_asprintf("%s/seeds", folder), *alive = qmp_asprintf("%s/.alive.files", seeds),
			    *dead = qmp_asprintf("%s/.dead.files", seeds), *file = qmp_asprintf("%s/user-data", dead),
			    *draft = qmp_asprintf("%s/.dead.iso.qmpctl-new", seeds), *seed = qmp_asprintf("%s/alive.iso", seeds);
	struct img_draft d;
	struct qmp_error err = {0};

	CHECK(mkdir(seeds, 0700) == 0 && mkdir(alive, 0700) == 0 && mkdir(dead, 0700) == 0);
	(void)close(creat(file, 0400));
	(void)close(creat(draft, 0600));
	CHECK_INT(img_draft_begin(seed, true, &d, &err), 0);
	img_seed_remove(&dirs, "another");
	CHECK(access(dead, F_OK) < 0 && access(draft, F_OK) < 0);
	CHECK(access(alive, F_OK) == 0 && access(d.path, F_OK) == 0);
	img_draft_discard(&d);
	img_seed_remove(&dirs, "another");
	CHECK(access(alive, F_OK) < 0);
	CHECK(rmdir(seeds) == 0);
}

static void refuses(const char *seed, const char *why)
{
	_cleanup_free_ char *text = qmp_asprintf("{\"name\": \"a\", \"seed\": %s}", seed);
	struct qmp_error err = {0};
	json_t *spec = NULL;

	CHECK_INT(vm_spec_parse(text, strlen(text), "test", &spec, &err), -EINVAL);
	if (!strstr(err.message, why))
		check_fail(__FILE__, __LINE__, seed, why, err.message);
}

static void test_rules(void)
{
	refuses("{\"user-data\": \"/x\", \"user\": \"me\"}", "seed.user: user-data stands beside it");
	refuses("{\"meta-data\": \"/x\", \"hostname\": \"me\"}", "seed.hostname: meta-data stands beside it");
	refuses("{\"url\": \"http://x/\", \"user\": \"me\"}", "seed.url: is another way");
	refuses("{\"url\": \"ftp://x/\"}", "no http or https URL");
	refuses("{\"url\": \"http://x/a b/\"}", "%20");
	refuses("{\"url\": \"http://x/a;h=b/\"}", "%3B");
	refuses("{\"url\": \"http://x/\\u00e9/\"}", "not ASCII");
	refuses("{\"url\": \"http://x/a\"}", "has to end with a \"/\"");
	refuses("{\"user\": \"a:b\"}", "no name of an account");
	refuses("{\"hostname\": \"a_b\"}", "no host name");
}

static void test_instance(void)
{
	json_auto_t *spec = spec_of("{\"user\": \"me\"}"), *url = spec_of("{\"url\": \"http://x/\"}");
	struct qmp_error err = {0};
	_cleanup_free_ char *first = NULL;
	json_t *seed = json_object_get(spec, "seed");

	CHECK_INT(vm_spec_complete(spec, &err), 1);
	first = strdup(text_of(seed, "instance-id") ? text_of(seed, "instance-id") : "");
	CHECK_INT(vm_spec_complete(spec, &err), 0);
	json_object_del(seed, "instance-id");
	CHECK_INT(vm_spec_complete(spec, &err), 1);
	CHECK(text_of(seed, "instance-id") && !streq(text_of(seed, "instance-id"), first));
	CHECK_INT(vm_spec_complete(url, &err), 1);
	CHECK(!json_object_get(json_object_get(url, "seed"), "instance-id"));
}

int main(void)
{
	static const char *const names[] = {"hash", "user", "vendor", "ignition"};

	CHECK(mkdtemp(folder) != NULL);
	dirs = (struct vm_dirs){folder, folder, folder};
	RUN(test_cloud_config);
	RUN(test_password);
	RUN(test_yaml);
	RUN(test_files);
	RUN(test_drive);
	RUN(test_ignition);
	RUN(test_unreadable);
	RUN(test_leftovers);
	RUN(test_rules);
	RUN(test_instance);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		(void)unlink(write_file(names[i], ""));
	CHECK(rmdir(folder) == 0);
	return 0;
}
