/*
 * Both renderings of a spec against golden files: golden/NAME.args (the command line) and golden/NAME.plan (its disks and NICs
 * plugged live). UPDATE_GOLDEN=1 writes them anew.
 */
#include "launcher/argv.h"
#include "launcher/files.h"
#include "launcher/plan.h"
#include "launcher/spec.h"
#include "proto/base.h"
#include "tests/unit/check.h"

#include <fcntl.h>

static struct vm_host host = {"kvm", "host", "pc-q35-7.2", .sandbox = true};

static void compare(const char *name, const char *came)
{
	_cleanup_fd_ int dir = open(SOURCE_DIR "/tests/unit/golden", O_RDONLY | O_DIRECTORY);
	_cleanup_free_ char *want = NULL;
	size_t len;

	CHECK(dir >= 0);
	if (getenv("UPDATE_GOLDEN"))
		CHECK_INT(vm_file_write(dir, name, came, strlen(came), NULL), 0);
	CHECK_INT(vm_file_read(dir, name, &want, &len, NULL), 0);
	CHECK_STR(came, want);
}

static json_t *effective(const char *text)
{
	struct qmp_error err = {0};
	json_t *spec = NULL, *e;

	if (vm_spec_parse(text, strlen(text), "t", &spec, &err) < 0 || vm_spec_complete(spec, &err) < 0)
		check_fail(__FILE__, __LINE__, text, "a spec", err.message);
	e = vm_spec_effective(spec);
	json_decref(spec);
	return e;
}

static void render(const char *name, const json_t *spec)
{
	static const struct vm_named_fd fds[] = {{"qmp", 3}, {"con0", 4}, {"agent", 5}, {"net0-tap", 6}, {"vnc-password", 7},
						 {"vda-b1-key", 8}, {"vda-key", 9}, {"vdb-key", 10}};
	struct qmp_error err = {0};
	_cleanup_free_ char *text = NULL, *file = qmp_asprintf("%s.args", name);
	char **argv;

	if (vm_argv_render(spec, &host, "qemu-system-x86_64", fds, ARRAY_SIZE(fds), &argv, &err) < 0)
		check_fail(__FILE__, __LINE__, name, "rendered", err.message);
	text = vm_argv_quote(argv);
	compare(file, text);
	vm_argv_free(argv);
}

static void plan(const char *name, const json_t *have, const json_t *want)
{
	json_t *steps = json_array(), *later = json_array(), *both;
	_cleanup_free_ char *text = NULL, *file = qmp_asprintf("%s.plan", name);
	struct qmp_error err = {0};

	if (vm_diff(have, want, &host, 30000, steps, later, &err) < 0)
		check_fail(__FILE__, __LINE__, name, "a plan", err.message);
	both = json_pack("{s:o, s:o}", "plan", steps, "next-start", later);
	text = json_dumps(both, JSON_INDENT(1));
	compare(file, text);
	json_decref(both);
}

#define FIXED "\"name\": \"t\", \"uuid\": \"00000000-0000-4000-8000-000000000001\""

static void test_plain(void)
{
	json_t *spec = effective("{" FIXED "}");

	render("plain", spec);
	json_decref(spec);
}

static void test_seeds_without_an_image(void)
{
	json_t *url = effective("{" FIXED ", \"seed\": {\"url\": \"http://10.0.2.2:8000/a,b/\"}}");
	json_t *ignition = effective("{" FIXED ", \"seed\": {\"ignition\": \"/a,b.ign\"}}");

	render("seed-url", url);
	render("ignition", ignition);
	json_decref(url);
	json_decref(ignition);
}

static void test_uefi(void)
{
	json_auto_t *firmware = json_pack("{s:s, s:s, s:s, s:s, s:b}", "code", "/f,w", "code-format", "raw", "vars", "/v/t.fd",
					  "vars-format", "qcow2", "smm", 1);
	const struct vm_host plain = host;
	json_t *spec = effective("{" FIXED ", \"firmware\": {\"type\": \"uefi\"}, \"clock\": \"localtime\","
				 " \"cpu\": {\"hyperv\": true}}");

	host.firmware = firmware;
	render("uefi", spec);
	host = plain;
	json_decref(spec);
}

static const char everything[] =
	"{" FIXED ", \"memory\": \"1G\", \"cpu\": {\"count\": 4, \"cores\": 2, \"sockets\": 2},"
	"\"boot\": {\"order\": [\"cdrom\", \"disk\"], \"kernel\": \"/k,x\", \"cmdline\": \"a=b,c  'd'\\n-e\"},"
	"\"disks\": [{\"path\": \"/v/a,b \\\"c\\\" \\u00e9.qcow2\", \"format\": \"qcow2\", \"serial\": \"-x,y\", \"iothread\": true,"
	"  \"backing\": {\"path\": \"/v/base\", \"format\": \"raw\"}, \"throttle\": {\"iops-total\": 100}, \"boot-index\": 1},"
	" {\"path\": \"/dev/sdx\", \"format\": \"raw\", \"bus\": \"scsi\", \"cache\": \"none\", \"aio\": \"native\"},"
	" {\"path\": \"json:{}\", \"format\": \"raw\", \"bus\": \"nvme\", \"path\": \"/v/json:{}\"},"
	" {\"type\": \"cdrom\", \"path\": \"/v/x.iso\", \"format\": \"raw\"},"
	" {\"path\": \"/v/s\", \"format\": \"raw\", \"bus\": \"sata\"}],"
	"\"nics\": [{\"backend\": \"tap\", \"interface\": \"tap0\", \"mac\": \"52:54:00:00:00:01\"},"
	" {\"model\": \"e1000e\", \"mac\": \"52:54:00:00:00:02\","
	"  \"forwards\": [{\"host-port\": 2222, \"guest-port\": 22}], \"qemu\": {\"device\": {\"rombar\": 0}}}],"
	"\"watchdog\": {}, \"display\": {\"type\": \"vnc\"}, \"args\": [\"-msg\", \"timestamp=on\"]}";

/* The path twice would be refused: the hostile one stays. */
static json_t *everything_spec(void)
{
	_cleanup_free_ char *text = strdup(everything);
	char *twice = strstr(text, "\"path\": \"json:{}\", ");

	memset(twice, ' ', strlen("\"path\": \"json:{}\", "));
	return effective(text);
}

static void test_everything(void)
{
	json_t *spec = everything_spec();

	render("everything", spec);
	json_decref(spec);
}

static void test_plug_and_unplug(void)
{
	json_t *empty = effective("{" FIXED ", \"memory\": \"1G\"}"), *full = everything_spec();

	plan("plug", empty, full);
	plan("unplug", full, empty);
	plan("nothing", full, full);
	json_decref(empty);
	json_decref(full);
}

/* The controller comes once, with the first of two disks. */
static void test_two_scsi_disks(void)
{
	json_t *have = effective("{" FIXED "}");
	json_t *want = effective("{" FIXED ", \"disks\": [{\"path\": \"/a\", \"format\": \"raw\", \"bus\": \"scsi\"},"
				 " {\"path\": \"/b\", \"format\": \"raw\", \"bus\": \"scsi\"}]}");

	plan("two-scsi", have, want);
	json_decref(have);
	json_decref(want);
}

/* A secret is handed over as an fd: neither rendering has more of it than the name of its file. */
static void test_secrets(void)
{
	json_t *empty = effective("{" FIXED "}");
	json_t *full = effective("{" FIXED ", \"display\": {\"type\": \"vnc\", \"password-file\": \"/k/vnc\"}, \"disks\": ["
				 "{\"path\": \"/a\", \"format\": \"qcow2\", \"encryption\": {\"key-file\": \"/k/a\"}, \"backing\":"
				 " {\"path\": \"/b\", \"format\": \"luks\", \"encryption\": {\"key-file\": \"/k/b\"}}},"
				 " {\"path\": \"/c\", \"format\": \"luks\", \"encryption\": {\"key-file\": \"/k/c\"}}]}");

	render("secrets", full);
	plan("plug-secrets", empty, full);
	plan("unplug-secrets", full, empty);
	json_decref(empty);
	json_decref(full);
}

/* One that QEMU may not open: a set of fds, where there is one of its node's name. */
static void test_an_image_by_fd(void)
{
	static const struct vm_named_fd fds[] = {{"qmp", 3}, {"con0", 4}, {"agent", 5}, {"vda-file", 6}};
	json_t *spec = effective("{" FIXED ", \"disks\": [{\"path\": \"/a\", \"format\": \"raw\"}, {\"path\": \"/b\", \"format\": \"raw\"}]}");
	_cleanup_free_ char *text = NULL;
	char **argv;

	CHECK_INT(vm_argv_render(spec, &host, "q", fds, ARRAY_SIZE(fds), &argv, NULL), 0);
	text = vm_argv_quote(argv);
	CHECK_CONTAINS(text, "-add-fd fd=6,set=6,opaque=vda-file ");
	CHECK_CONTAINS(text, "\"filename\":\"/dev/fdset/6\"");
	CHECK_CONTAINS(text, "\"filename\":\"/b\"");
	CHECK(!strstr(text, "\"/a\""));
	vm_argv_free(argv);
	json_decref(spec);
}

static void test_limits_change_in_place(void)
{
	json_t *have = everything_spec(), *want = json_deep_copy(have);

	json_object_set_new(json_object_get(vm_spec_find(want, "disks", "vda"), "throttle"), "iops-total", json_integer(7));
	plan("limits", have, want);
	json_decref(have);
	json_decref(want);
}

static void test_quoting(void)
{
	char *text = vm_argv_quote((char *[]){"q", "-a", "it's", "", "x y", "-1", NULL});

	CHECK_STR(text, "q \\\n  -a 'it'\\''s' '' 'x y' -1");
	free(text);
}

int main(void)
{
	RUN(test_plain);
	RUN(test_seeds_without_an_image);
	RUN(test_uefi);
	RUN(test_everything);
	RUN(test_plug_and_unplug);
	RUN(test_two_scsi_disks);
	RUN(test_secrets);
	RUN(test_an_image_by_fd);
	RUN(test_limits_change_in_place);
	RUN(test_quoting);
	return 0;
}
