#include "images/chain.h"
#include "images/qemu-img.h"
#include "proto/base.h"
#include "tests/unit/check.h"
#include "tests/unit/words.h"

#include <stdio.h>
#include <sys/stat.h>

static uv_loop_t loop;

static void test_words(void)
{
	json_auto_t *base = json_pack("{s:s, s:s}", "path", "/x/b,a=se", "format", "qcow2");
	json_auto_t *over = json_pack("{s:s, s:s, s:O}", "path", "/x/-f nbd:x", "format", "qcow2", "backing", base);
	json_auto_t *raw = json_pack("{s:s, s:s}", "path", "/x/\"r\\", "format", "raw");
	json_auto_t *there = json_pack("{s:{s:s}}", "tls", "dir", "/d");
	struct img_target target = {.path = "/x/new",
				    .format = "qcow2",
				    .options = (const char *const[]){"cluster_size=2M", "x.y=a,b=c,", NULL},
				    .backing = base};
	struct img_task *t;

#define BASE "{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"/x/b,a=se\"},\"backing\":null}"
#define OVER                                                                                                           \
	"json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"/x/-f nbd:x\"},\"backing\":" BASE "}" \
														   "|"
	CHECK_INT(img_create(&target, 1 << 20, &t, NULL), 0);
	CHECK_STR(
	    words(t),
	    "qemu-img|create|-q|-f|qcow2|-b|/x/b,a=se|-F|qcow2|-o|cluster_size=2M|-o|x.y=a,,b=c,,|DRAFT|1048576|");
	target = (struct img_target){.path = "/x/new", .format = "raw"};
	CHECK_INT(img_convert(over, "s,1", &target, true, false, &t, NULL), 0);
	CHECK_STR(words(t), "qemu-img|convert|-p|-c|-l|snapshot.name=s,,1|-O|raw|" OVER "DRAFT|");
#define RAW(name) "json:{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"" name "\"}}|"
	target.made_at = "/x/-n,ew";
	CHECK_INT(img_convert(raw, NULL, &target, false, false, &t, NULL), 0);
	CHECK_STR(words(t), "qemu-img|convert|-p|-n|-t|writeback|-O|raw|" RAW("/x/\\\"r\\\\") RAW("/x/-n,ew"));
	target.zeroes = true;
	CHECK_INT(img_convert(raw, NULL, &target, false, false, &t, NULL), 0);
	CHECK_STR(words(t), "qemu-img|convert|-p|-n|-t|writeback|--target-is-zero|-O|raw|" RAW("/x/\\\"r\\\\") RAW("/x/-n,ew"));
	target = (struct img_target){.path = "nbd://h/e", .format = "luks", .made_at = "nbd://h/e", .access = there};
	CHECK_INT(img_convert(raw, NULL, &target, false, false, &t, NULL), 0);
	CHECK_STR(words(t), "qemu-img|convert|--object|{\"qom-type\":\"tls-creds-x509\",\"id\":\"other-0-tls\",\"endpoint\":\"client\",\"dir\":\"/d\"}|"
			    "-p|-n|-t|writeback|-O|luks|" RAW("/x/\\\"r\\\\")
			    "json:{\"driver\":\"luks\",\"file\":{\"driver\":\"nbd\",\"server\":{\"host\":\"h\",\"port\":\"10809\","
			    "\"type\":\"inet\"},\"export\":\"e\",\"reconnect-delay\":60,\"tls-creds\":\"other-0-tls\"}}|");
	CHECK_INT(img_commit(over, &t, NULL), 0);
	CHECK_STR(words(t), "qemu-img|commit|-p|" OVER);
	CHECK_INT(img_bitmap(base, "merge", "-b", "-c", 0, &t, NULL), 0);
	CHECK_STR(words(t), "qemu-img|bitmap|--merge|-c|--|json:" BASE "|-b|");
	CHECK_INT(img_measure(NULL, 1024, "qcow2", NULL, false, &t, NULL), 0);
	CHECK_STR(words(t), "qemu-img|measure|--output=json|-O|qcow2|--size|1024|");
}

static void test_secret(void)
{
	json_auto_t *raw = json_pack("{s:s, s:s}", "path", "/x/r", "format", "raw");
	struct img_target target = {
	    .path = "/x/new", .format = "luks", .options = (const char *const[]){"key-secret=k", NULL}};
	struct img_task *t;

	CHECK_INT(img_convert(raw, NULL, &target, false, false, &t, NULL), 0);
	CHECK_INT(img_task_add_secret(t, "k", 0, NULL), 0);
	CHECK(strncmp(words(t), "qemu-img|convert|--object|secret,id=k,file=/proc/self/fd/3|-p|-O|luks|", 68) == 0);
}

/* What it takes to reach and to open each image of a chain, and none of it in a word. */
static void test_access(void)
{
	char key[] = "/tmp/test-qemu-img-XXXXXX";
	const char *both;
	int fd = mkstemp(key);
	json_auto_t *base = json_pack("{s:s, s:s, s:{s:s, s:s}}", "path", "nbd://h/b", "format", "raw", "tls", "dir", "/d,1", "hostname", "g");
	json_auto_t *over = json_pack("{s:s, s:s, s:{s:s}, s:O}", "path", "/x/o", "format", "qcow2", "encryption", "key-file", key,
				      "backing", base);
	json_auto_t *disk = json_pack("{s:s, s:s, s:s}", "path", "iscsi://me@h/t/1", "format", "qcow2", "password-file", key);
	struct img_task *t;

	CHECK(fd >= 0 && write(fd, "hidden", 6) == 6 && close(fd) == 0);
	CHECK_INT(img_map(over, false, &t, NULL), 0);
	CHECK_STR(words(t),
		  "qemu-img|map|--object|{\"qom-type\":\"tls-creds-x509\",\"id\":\"image-1-tls\",\"endpoint\":\"client\",\"dir\":\"/d,1\"}|"
		  "--object|{\"qom-type\":\"secret\",\"id\":\"image-0-key\",\"file\":\"/proc/self/fd/3\"}|--output=json|"
		  "json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"/x/o\"},\"encrypt\":{\"key-secret\":\"image-0-key\"},"
		  "\"backing\":{\"driver\":\"raw\",\"file\":{\"driver\":\"nbd\",\"server\":{\"host\":\"h\",\"port\":\"10809\",\"type\":\"inet\"},"
		  "\"export\":\"b\",\"reconnect-delay\":60,\"tls-creds\":\"image-1-tls\",\"tls-hostname\":\"g\"}}}|");
	CHECK_INT(img_compare(over, over, false, false, &t, NULL), 0);
	both = words(t);
	CHECK(strstr(both, "\"id\":\"image-0-key\"") && strstr(both, "\"id\":\"other-0-key\""));
	CHECK_INT(img_read_head(disk, NULL, &t, NULL), 0);
	CHECK_STR(words(t),
		  "qemu-img|dd|--object|{\"qom-type\":\"secret\",\"id\":\"image-0-password\",\"file\":\"/proc/self/fd/3\"}|"
		  "-f|raw|-O|raw|bs=65536|count=1|if=json:{\"driver\":\"raw\",\"file\":{\"driver\":\"iscsi\",\"transport\":\"tcp\","
		  "\"portal\":\"h:3260\",\"target\":\"t\",\"lun\":1,\"user\":\"me\",\"password-secret\":\"image-0-password\"}}|"
		  "of=/proc/self/fd/4|");
	CHECK(unlink(key) == 0);
	CHECK_INT(img_map(over, false, &t, NULL), -ENOENT);
}

static void refuse(const char *option, const char *why)
{
	struct img_target target = {.path = "/x/new", .format = "vmdk", .options = (const char *const[]){option, NULL}};
	struct qmp_error err = {0};
	struct img_task *t;

	CHECK(img_create(&target, 1024, &t, &err) < 0);
	CHECK_INT(err.kind, QMP_ERR_USAGE);
	CHECK_CONTAINS(err.message, why);
}

static void test_refused(void)
{
	json_auto_t *alone = json_pack("{s:s, s:s}", "path", "/x/a", "format", "qcow2");
	struct img_target target = {.path = "/x/new", .format = "qcow2"};
	struct qmp_error err = {0};
	struct img_task *t;

	refuse("help", "KEY=VALUE");
	refuse("a,backing_file=/etc/shadow", "KEY=VALUE");
	refuse("backing_file=/etc/shadow", "its backing");
	refuse("data_file=/etc/shadow", "in itself");
	refuse("subformat=monolithicFLAT", "streamOptimized");
	CHECK(img_create(&target, 0, &t, &err) < 0);
	err = (struct qmp_error){0};
	CHECK(img_commit(alone, &t, &err) < 0);
	CHECK_CONTAINS(err.message, "/x/a");
}

/* ---- With a program in its place ---- */

static char folder[] = "/tmp/qmpctl-test-XXXXXX";

static char *in_folder(const char *name)
{
	return qmp_asprintf("%s/%s", folder, name);
}

static void pretend(const char *script)
{
	_cleanup_free_ char *path = in_folder("qemu-img");
	FILE *f = fopen(path, "w");

	fprintf(f, "#!/bin/sh\n%s\n", script);
	fclose(f);
	chmod(path, 0700);
	setenv("QMPCTL_QEMU_IMG", path, 1);
}

static void note_progress(void *data, double part)
{
	*(double *)data += part;
}

static void test_progress_and_output(void)
{
	json_auto_t *raw = json_pack("{s:s, s:s}", "path", "/x/r", "format", "raw"), *result = NULL;
	struct img_task *t;
	struct qmp_error err = {0};
	double sum = 0;

	pretend("printf '    (10.50/100%%)\\r    (50.00/100%%)\\rContent mismatch at offset 0!\\n'; exit 1");
	CHECK_INT(img_compare(raw, raw, false, false, &t, NULL), 0);
	CHECK_INT(img_task_call(&loop, t, note_progress, &sum, &result, &err), 0);
	CHECK(sum > 0.604 && sum < 0.606);
	CHECK(json_is_false(json_object_get(result, "identical")));
	CHECK_STR(text_of(result, "why"), "Content mismatch at offset 0!");
	pretend("echo not JSON");
	CHECK_INT(img_info(raw, false, &t, NULL), 0);
	CHECK(img_task_call(&loop, t, NULL, NULL, NULL, &err) < 0);
}

/* For its last word: the path of the draft. */
static int make(const char *script, bool replace, struct qmp_error *err)
{
	_cleanup_free_ char *path = in_folder("new");
	struct img_target target = {.path = path, .format = "raw", .replace = replace};
	json_auto_t *raw = json_pack("{s:s, s:s}", "path", "/x/r", "format", "raw");
	struct img_task *t;

	*err = (struct qmp_error){0};
	pretend(script);
	CHECK_INT(img_convert(raw, NULL, &target, false, false, &t, NULL), 0);
	return img_task_call(&loop, t, NULL, NULL, NULL, err);
}

static void test_made_or_nothing(void)
{
	_cleanup_free_ char *path = in_folder("new"), *draft = in_folder(".new.qmpctl-new");
	struct qmp_error err;

	CHECK(make("for to; do :; done; echo half > \"$to\"; echo 'disk full' >&2; exit 1", false, &err) < 0);
	CHECK_CONTAINS(err.message, "disk full");
	CHECK(access(path, F_OK) < 0 && access(draft, F_OK) < 0);
	CHECK(make("for to; do :; done; echo half > \"$to\"; kill -INT $PPID; exec sleep 60", false, &err) < 0);
	CHECK_INT(err.kind, QMP_ERR_CANCELLED);
	CHECK(access(path, F_OK) < 0 && access(draft, F_OK) < 0);
	CHECK_INT(make("for to; do :; done; echo whole > \"$to\"", false, &err), 0);
	CHECK(access(path, F_OK) == 0 && access(draft, F_OK) < 0);
	CHECK_INT(make("true", false, &err), -EEXIST);
	CHECK_INT(make("true", true, &err), 0);
	CHECK_INT(unlink(path), 0);
}

static int refuse_it(void *data, const struct img_draft *d, struct qmp_error *err)
{
	*(bool *)data = access(d->path, F_OK) == 0;
	return qmp_error_set(err, QMP_ERR_STATE, -EBUSY, "not now");
}

static void test_before_naming(void)
{
	_cleanup_free_ char *path = in_folder("new");
	struct img_target target = {.path = path, .format = "raw"};
	struct qmp_error err = {0};
	struct img_task *t;
	bool there = false;

	pretend("true");
	CHECK_INT(img_create(&target, 1, &t, NULL), 0);
	img_task_before_naming(t, refuse_it, &there);
	CHECK_INT(img_task_call(&loop, t, NULL, NULL, NULL, &err), -EBUSY);
	CHECK(there && access(path, F_OK) < 0);
}

static void test_vmdk_has_its_own_name(void)
{
	_cleanup_free_ char *path = in_folder("a.vmdk");
	struct img_target target = {.path = path, .format = "vmdk"};
	struct qmp_error err = {0};
	struct img_task *t;
	char text[64] = "";
	FILE *f;

	pretend("for to; do [ -f \"$to\" ] && printf 'KDMV\\0RW 8 SPARSE \".a.vmdk.qmpctl-new\"\\nend\\n\\0\\0X' > "
		"\"$to\"; done; true");
	CHECK_INT(img_create(&target, 4096, &t, NULL), 0);
	CHECK_INT(img_task_call(&loop, t, NULL, NULL, NULL, &err), 0);
	f = fopen(path, "r");
	CHECK_INT(fread(text, 1, sizeof text, f), 5 + 12 + 20 + 5 + 3);
	fclose(f);
	CHECK(memcmp(text, "KDMV\0RW 8 SPARSE \"a.vmdk\"\nend\n\0", 31) == 0);
	CHECK_INT(text[44], 'X');
	CHECK_INT(unlink(path), 0);
}

int main(void)
{
	_cleanup_free_ char *script = NULL;

	CHECK(mkdtemp(folder));
	uv_loop_init(&loop);
	RUN(test_words);
	RUN(test_secret);
	RUN(test_access);
	RUN(test_refused);
	RUN(test_progress_and_output);
	RUN(test_made_or_nothing);
	RUN(test_before_naming);
	RUN(test_vmdk_has_its_own_name);
	uv_run(&loop, UV_RUN_DEFAULT);
	CHECK_INT(uv_loop_close(&loop), 0);
	script = in_folder("qemu-img");
	CHECK(unlink(script) == 0 && rmdir(folder) == 0);
	return 0;
}
