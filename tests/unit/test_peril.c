/*
 * What QEMU would end at is refused; what is like it and harmless is not.
 */
#include "launcher/peril.h"
#include "launcher/spec.h"
#include "proto/base.h"
#include "tests/unit/check.h"

#include <sys/stat.h>

static const struct vm_host without = {"kvm", "qemu64", "pc-q35-7.2", false, 7}, with = {"kvm", "qemu64", "pc-q35-7.2", true, 7},
			    sandboxed = {"kvm", "qemu64", "pc-q35-7.2", true, 7, .sandbox = true},
			    newer = {"kvm", "qemu64", "pc-q35-10.0", false, 10};

static int check(const char *command, const char *arguments, const struct vm_host *host)
{
	json_auto_t *args = arguments ? json_loads(arguments, 0, NULL) : NULL;
	struct qmp_error err = {0};
	int r = vm_peril_check(command, args, host, &err);

	CHECK_INT(r, err.code);
	if (r < 0)
		CHECK_INT(err.kind, QMP_ERR_UNSUPPORTED);
	return r;
}

static void test_vhost(void)
{
	static const char *const fatal[] = {"{\"type\": \"tap\", \"id\": \"n\", \"fd\": \"t\", \"vhost\": true}",
					    "{\"type\": \"tap\", \"id\": \"n\", \"ifname\": \"t\", \"vhost\": true}"};
	static const char *const harmless[] = {"{\"type\": \"tap\", \"id\": \"n\", \"fd\": \"t\", \"vhost\": false}",
					       "{\"type\": \"tap\", \"id\": \"n\", \"fd\": \"t\"}",
					       "{\"type\": \"tap\", \"id\": \"n\", \"fd\": \"t\", \"vhost\": true, \"vhostfd\": \"v\"}",
					       "{\"type\": \"user\", \"id\": \"n\", \"vhost\": true}", "{}"};

	for (size_t i = 0; i < ARRAY_SIZE(fatal); i++) {
		CHECK(check("netdev_add", fatal[i], &without) < 0);
		CHECK(check("netdev_add", fatal[i], &newer) < 0);
		CHECK_INT(check("netdev_add", fatal[i], &with), 0);
	}
	for (size_t i = 0; i < ARRAY_SIZE(harmless); i++)
		CHECK_INT(check("netdev_add", harmless[i], &without), 0);
	CHECK_INT(check("netdev_add", NULL, &without), 0);
}

/* What the name says. */
static unsigned type_of(int directory, const char *path)
{
	CHECK_INT(directory, 7);
	return strstr(path, "fifo") ? S_IFIFO : strstr(path, "tty") ? S_IFCHR : strstr(path, "file") ? S_IFREG : 0;
}

static char *fifo_behind(int directory, const char *path)
{
	CHECK_INT(directory, 7);
	return strstr(path, "over") ? strdup("/fifo") : NULL;
}

static void test_files_that_wait(void)
{
	static const struct {
		const char *command, *arguments;
		bool waits;
	} cases[] = {
		{"blockdev-add", "{\"driver\": \"file\", \"filename\": \"/fifo\"}", true},
		{"blockdev-add", "{\"driver\": \"file\", \"filename\": \"../fifo\"}", true},
		{"blockdev-add", "{\"driver\": \"qcow2\", \"file\": {\"driver\": \"file\", \"filename\": \"/file.over\"}}", true},
		{"human-monitor-command", "{\"command-line\": \"drive_add 0 file=/file.over,if=none\"}", true},
		{"blockdev-add", "{\"driver\": \"qcow2\", \"file\": \"f\", \"backing\": {\"driver\": \"file\", \"filename\": \"/fifo\"}}", true},
		{"blockdev-add", "{\"driver\": \"file\", \"filename\": \"/file\"}", false},
		{"blockdev-add", "{\"driver\": \"file\", \"filename\": \"/dev/fdset/1\"}", false},
		{"blockdev-add", "{\"driver\": \"file\", \"filename\": \"/proc/self/fd/9/fifo\"}", false},
		{"blockdev-add", "{\"driver\": \"file\", \"filename\": \"/dev/tty\"}", true},
		{"blockdev-add", "{\"driver\": \"host_device\", \"filename\": \"/dev/tty\"}", false},
		{"blockdev-change-medium", "{\"id\": \"c\", \"filename\": \"file:/fifo\"}", true},
		{"blockdev-change-medium", "{\"id\": \"c\", \"filename\": \"json:{\\\"driver\\\":\\\"file\\\",\\\"filename\\\":\\\"/fifo\\\"}\"}", true},
		{"transaction", "{\"actions\": [{\"type\": \"drive-backup\", \"data\": {\"target\": \"/fifo\"}}]}", true},
		{"chardev-add", "{\"id\": \"c\", \"backend\": {\"type\": \"file\", \"data\": {\"out\": \"/fifo\"}}}", true},
		{"chardev-add", "{\"id\": \"c\", \"backend\": {\"type\": \"pipe\", \"data\": {\"device\": \"/fifo\"}}}", false},
		{"human-monitor-command", "{\"command-line\": \"drive_add 0 if=none,file=/fifo,id=f\"}", true},
		{"human-monitor-command", "{\"command-line\": \"pmemsave 0 1 \\\"/fifo\\\"\"}", true},
		{"human-monitor-command", "{\"command-line\": \"chardev-add pipe,id=c,path=/fifo\"}", false},
		{"human-monitor-command", "{\"command-line\": \"change ide1-cd0 /file\"}", false},
	};
	struct vm_host host = with;

	host.file_type = type_of;
	host.fifo_behind = fifo_behind;
	host.directory = 7;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		CHECK_INT(check(cases[i].command, cases[i].arguments, &host) < 0, cases[i].waits);
	CHECK_INT(check("query-status", NULL, &host), 0);
}

static bool runs(const char *user)
{
	return streq(user, "runs");
}

static void test_ssh(void)
{
	static const struct {
		const char *command, *arguments;
		bool opens;
	} cases[] = {
		{"blockdev-add", "{\"driver\": \"ssh\", \"node-name\": \"x\"}", true},
		{"blockdev-add", "{\"driver\": \"qcow2\", \"file\": {\"driver\": \"ssh\"}}", true},
		{"drive-mirror", "{\"target\": \"ssh://h/x\"}", true},
		{"transaction", "{\"actions\": [{\"type\": \"x\", \"data\": {\"target\": \"json:{\\\"driver\\\":\\\"ssh\\\"}\"}}]}", true},
		{"human-monitor-command", "{\"command-line\": \"drive_add 0 file=ssh://h/x\"}", true},
		{"blockdev-add", "{\"driver\": \"file\", \"filename\": \"/ssh:\"}", false},
		{"blockdev-del", "{\"node-name\": \"ssh:\"}", false},
		{"human-monitor-command", "{\"command-line\": \"info ssh\"}", false},
	};
	struct vm_host harmless = sandboxed, fatal = sandboxed, open = with;

	harmless.ssh_runs = fatal.ssh_runs = open.ssh_runs = runs;
	harmless.user = "other";
	fatal.user = open.user = "runs";
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		CHECK_INT(check(cases[i].command, cases[i].arguments, &fatal) < 0, cases[i].opens);
		CHECK_INT(check(cases[i].command, cases[i].arguments, &harmless), 0);
		CHECK_INT(check(cases[i].command, cases[i].arguments, &open), 0);
	}
}

static void test_the_human_monitor(void)
{
	CHECK(check("human-monitor-command", "{\"command-line\": \"netdev_add tap,id=n,vhost=on\"}", &without) < 0);
	CHECK(check("human-monitor-command", "{\"command-line\": \" netdev_add  vhost=y,type=tap,id=n\"}", &without) < 0);
	CHECK_INT(check("human-monitor-command", "{\"command-line\": \"netdev_add tap,id=n,vhost=off\"}", &without), 0);
	CHECK_INT(check("human-monitor-command", "{\"command-line\": \"netdev_add user,id=n\"}", &without), 0);
	CHECK_INT(check("human-monitor-command", "{\"command-line\": \"info network\"}", &without), 0);
	CHECK_INT(check("human-monitor-command", "{\"command-line\": 5}", &without), 0);
	CHECK_INT(check("human-monitor-command", NULL, &without), 0);
}

static void test_the_sandbox(void)
{
	static const struct {
		const char *command, *arguments;
	} fatal[] = {
		{"migrate", "{\"uri\": \"exec:cat\"}"},
		{"migrate", "{\"channels\": [{\"channel-type\": \"main\", \"addr\": {\"transport\": \"exec\", \"args\": []}}]}"},
		{"migrate-incoming", "{\"uri\": \"exec:cat\"}"},
		{"migrate-recover", "{\"uri\": \"exec:cat\"}"},
		{"netdev_add", "{\"type\": \"tap\", \"id\": \"n\"}"},
		{"netdev_add", "{\"type\": \"tap\", \"id\": \"n\", \"script\": \"no\"}"},
		{"netdev_add", "{\"type\": \"tap\", \"id\": \"n\", \"script\": \"no\", \"downscript\": \"/x\"}"},
		{"netdev_add", "{\"type\": \"tap\", \"id\": \"n\", \"helper\": \"/x\", \"script\": \"no\", \"downscript\": \"no\"}"},
		{"netdev_add", "{\"type\": \"bridge\", \"id\": \"n\"}"},
		{"netdev_add", "{\"type\": \"passt\", \"id\": \"n\"}"},
		{"netdev_add", "{\"type\": \"user\", \"id\": \"n\", \"smb\": \"/x\"}"},
		{"block-export-add", "{\"type\": \"fuse\", \"id\": \"e\", \"node-name\": \"n\", \"mountpoint\": \"/x\"}"},
		{"netdev_add", "{\"type\": \"user\", \"id\": \"n\", \"guestfwd\": [{\"str\": \"tcp:10.0.2.1:1-cmd:x\"}]}"},
	};
	static const struct {
		const char *command, *arguments;
	} harmless[] = {
		{"migrate", "{\"uri\": \"unix:/exec:\"}"},
		{"migrate", "{\"channels\": [{\"channel-type\": \"main\", \"addr\": {\"transport\": \"socket\"}}]}"},
		{"migrate", NULL},
		{"netdev_add", "{\"type\": \"tap\", \"id\": \"n\", \"script\": \"no\", \"downscript\": \"\"}"},
		{"netdev_add", "{\"type\": \"tap\", \"id\": \"n\", \"fd\": \"t\"}"},
		{"netdev_add", "{\"type\": \"tap\", \"id\": \"n\", \"fds\": \"t:u\"}"},
		{"netdev_add", "{\"type\": \"user\", \"id\": \"n\", \"guestfwd\": [{\"str\": \"tcp:10.0.2.1:1-tcp:10.0.0.1:2\"}]}"},
		{"netdev_add", NULL},
	};

	for (size_t i = 0; i < ARRAY_SIZE(fatal); i++) {
		CHECK(check(fatal[i].command, fatal[i].arguments, &sandboxed) < 0);
		CHECK_INT(check(fatal[i].command, fatal[i].arguments, &with), 0);
	}
	for (size_t i = 0; i < ARRAY_SIZE(harmless); i++)
		CHECK_INT(check(harmless[i].command, harmless[i].arguments, &sandboxed), 0);
}

static int check_line(const char *line)
{
	json_auto_t *args = json_pack("{s:s}", "command-line", line);
	_cleanup_free_ char *text = json_dumps(args, 0);

	return check("human-monitor-command", text, &sandboxed);
}

static void test_the_sandbox_by_the_human_monitor(void)
{
	static const char *const fatal[] = {"migrate exec:cat",
					    "migrate -dexec:cat",
					    "  migrate\t-d -r \"exec:cat >/x\"",
					    "migrate_incoming exec:cat",
					    "migrate_recover exec:cat",
					    "netdev_add tap,id=n",
					    "netdev_add \"tap,id=n\"",
					    "netdev_add id=n,type=tap,script=no",
					    "netdev_add bridge,id=n,br=b",
					    "netdev_add user,id=n,smb=/x",
					    "netdev_add user,id=n,guestfwd=tcp:10.0.2.1:1-cmd:x"};
	static const char *const harmless[] = {"migrate -d unix:/x",   "migrate tcp:exec:1",
					       "migrate",	       "migrate -",
					       "info migrate",	       "migrate_set_capability exec: on",
					       "netdev_add",	       "netdev_add tap,id=n,script=no,downscript=no",
					       "netdev_add tap,fd=t",  "netdev_add user,id=bridge,hostname=a,,type=tap",
					       "netdev_del bridge",    ""};

	for (size_t i = 0; i < ARRAY_SIZE(fatal); i++)
		if (check_line(fatal[i]) == 0)
			check_fail(__FILE__, __LINE__, fatal[i], "refused", "passed");
	for (size_t i = 0; i < ARRAY_SIZE(harmless); i++)
		if (check_line(harmless[i]) < 0)
			check_fail(__FILE__, __LINE__, harmless[i], "passed", "refused");
}

static void test_amend(void)
{
	CHECK(check("x-blockdev-amend", "{}", &newer) < 0);
	CHECK_INT(check("x-blockdev-amend", "{}", &without), 0);
	CHECK_INT(check("query-status", NULL, &newer), 0);
}

/* Also where it comes in through the raw members of a spec. */
static void test_raw_members(void)
{
	static const char text[] = "{\"name\": \"t\", \"nics\": [{\"backend\": \"tap\", \"interface\": \"tap0\", "
				   "\"qemu\": {\"netdev\": {\"vhost\": true}}}]}";
	json_auto_t *spec = NULL, *effective = NULL;
	struct qmp_error err = {0};
	struct vm_fragment f;

	CHECK_INT(vm_spec_parse(text, strlen(text), "t", &spec, NULL), 0);
	CHECK(vm_spec_complete(spec, NULL) >= 0);
	effective = vm_spec_effective(spec);
	CHECK(vm_fragment_nic(effective, json_array_get(json_object_get(effective, "nics"), 0), &without, &f, &err) < 0);
	CHECK_CONTAINS(err.message, "nics.net0: netdev_add: vhost");
	CHECK_INT(vm_fragment_nic(effective, json_array_get(json_object_get(effective, "nics"), 0), &with, &f, NULL), 0);
	vm_fragment_deinit(&f);
}

static void test_types(void)
{
	static const struct {
		const char *command, *arguments;
	} fatal[] = {{"device_add", "{\"driver\": \"virtio-gpu-gl-pci\", \"id\": \"g\"}"},
		     {"device-list-properties", "{\"typename\": \"virtio-vga-gl\"}"},
		     {"qom-list-properties", "{\"typename\": \"microvm-machine\"}"},
		     {"qom-list-properties", "{\"typename\": \"colo-compare\"}"},
		     {"object-add", "{\"qom-type\": \"x-remote-object\", \"id\": \"o\"}"}},
	  harmless[] = {{"device_add", "{\"driver\": \"virtio-gpu-pci\", \"id\": \"g\"}"},
			{"device_add", "{\"driver\": 5}"},
			{"device-list-properties", "{\"typename\": \"virtio-blk-pci\"}"},
			{"qom-list-properties", "{}"},
			{"object-add", "{\"qom-type\": \"iothread\", \"id\": \"colo-compare\"}"}};

	for (size_t i = 0; i < ARRAY_SIZE(fatal); i++)
		CHECK(check(fatal[i].command, fatal[i].arguments, &with) < 0);
	for (size_t i = 0; i < ARRAY_SIZE(harmless); i++)
		CHECK_INT(check(harmless[i].command, harmless[i].arguments, &with), 0);
	CHECK(check_line("device_add virtio-vga-gl,help") < 0);
	CHECK(check_line("object_add colo-compare,id=c") < 0);
	CHECK(check_line("object_add {\"qom-type\": \"x-remote-object\", \"id\": \"o\"}") < 0);
	CHECK_INT(check_line("device_add virtio-rng-pci,id=virtio-vga-gl"), 0);
	CHECK_INT(check_line("object_add {"), 0);
}

static void test_servers_that_wait(void)
{
#define SOCKET(MEMBERS) "{\"id\": \"c\", \"backend\": {\"type\": \"socket\", \"data\": {\"addr\": {}" MEMBERS "}}}"
	static const char *const waits[] = {SOCKET(", \"server\": true, \"wait\": true"), SOCKET(", \"wait\": true")},
			   *const comes_back[] = {SOCKET(", \"server\": true, \"wait\": false"), SOCKET(", \"server\": true"),
						  SOCKET(", \"server\": false, \"wait\": true"), SOCKET(""),
						  "{\"id\": \"c\", \"backend\": {\"type\": \"null\", \"data\": {}}}", "{}"};
	static const char *const lines[] = {"chardev-add socket,id=c,path=/x,server=on", "chardev-add id=c,backend=socket,path=/x,server",
					    "chardev-change c socket,path=/x,server=on,wait=on", "gdbserver unix:/x,server=on",
					    "chardev-add \"socket,id=c,path=/x,server=on\""},
			   *const harmless_lines[] = {"chardev-add socket,id=c,path=/x,server=on,wait=off",
						      "chardev-add socket,id=c,path=/x,server,nowait",
						      "chardev-add socket,id=c,path=/x,server=off", "chardev-add null,id=server",
						      "chardev-change c null", "gdbserver tcp::1234", "gdbserver"};

	for (size_t i = 0; i < ARRAY_SIZE(waits); i++) {
		CHECK(check("chardev-add", waits[i], &with) < 0);
		CHECK(check("chardev-change", waits[i], &with) < 0);
	}
	for (size_t i = 0; i < ARRAY_SIZE(comes_back); i++)
		CHECK_INT(check("chardev-add", comes_back[i], &with), 0);
	for (size_t i = 0; i < ARRAY_SIZE(lines); i++)
		CHECK(check_line(lines[i]) < 0);
	for (size_t i = 0; i < ARRAY_SIZE(harmless_lines); i++)
		CHECK_INT(check_line(harmless_lines[i]), 0);
}

static void test_vhost_user(void)
{
	json_auto_t *netdev = json_pack("{s:s, s:s, s:s}", "type", "vhost-user", "id", "n", "chardev", "c1");
	json_auto_t *device = json_pack("{s:s, s:s}", "driver", "vhost-user-blk-pci", "chardev", "c0");
	json_auto_t *other = json_pack("{s:s, s:s}", "driver", "isa-serial", "chardev", "c0");
	json_auto_t *chardevs = json_pack("[{s:s, s:s}, {s:s, s:s}, {}]", "label", "c0", "filename", "unix:/x,server=on", "label", "c1",
					  "filename", "disconnected:unix:/y,server=on");
	struct qmp_error err = {0};

	CHECK_STR(vm_peril_chardev("netdev_add", netdev), "c1");
	CHECK_STR(vm_peril_chardev("device_add", device), "c0");
	CHECK(!vm_peril_chardev("device_add", other));
	CHECK(!vm_peril_chardev("device_add", NULL));
	CHECK(!vm_peril_chardev("object-add", netdev));
	CHECK_INT(vm_peril_check_chardev("device_add", "c0", chardevs, &err), 0);
	CHECK_INT(vm_peril_check_chardev("device_add", "nosuch", chardevs, &err), 0); /* QEMU says so */
	CHECK_INT(vm_peril_check_chardev("device_add", "c1", NULL, &err), 0);
	CHECK_INT(vm_peril_check_chardev("netdev_add", "c1", chardevs, &err), -ENOTCONN);
	CHECK_CONTAINS(err.message, "the chardev c1 is not connected");
	CHECK(check_line("netdev_add vhost-user,id=n,chardev=c1") < 0);
	CHECK(check_line("device_add vhost-user-blk-pci,chardev=c0,id=d") < 0);
}

int main(void)
{
	RUN(test_vhost);
	RUN(test_ssh);
	RUN(test_files_that_wait);
	RUN(test_the_human_monitor);
	RUN(test_the_sandbox);
	RUN(test_the_sandbox_by_the_human_monitor);
	RUN(test_amend);
	RUN(test_raw_members);
	RUN(test_types);
	RUN(test_servers_that_wait);
	RUN(test_vhost_user);
	return 0;
}
