#include "launcher/files.h"
#include "launcher/spec.h"
#include "proto/base.h"
#include "tests/unit/check.h"

#include <dirent.h>
#include <fcntl.h>

static json_t *good(const char *text)
{
	struct qmp_error err = {0};
	json_t *spec = NULL;

	if (vm_spec_parse(text, strlen(text), "t.json", &spec, &err) < 0)
		check_fail(__FILE__, __LINE__, text, "accepted", err.message);
	return spec;
}

static void bad(const char *text, const char *why)
{
	struct qmp_error err = {0};
	json_t *spec = NULL;

	CHECK(vm_spec_parse(text, strlen(text), "t.json", &spec, &err) < 0);
	CHECK(!spec);
	CHECK_INT(err.kind, QMP_ERR_USAGE);
	CHECK_CONTAINS(err.message, why);
}

static void test_errors_have_path_and_line(void)
{
	bad("{\"name\": \"a\",\n \"disks\": [{\"path\": \"/x\", \"format\": \"raw\"},\n  {\"path\": \"/y\",\n   \"format\": \"raw\", "
	    "\"cache\": \"fast\"}]}",
	    "t.json:4: disks[1].cache: unknown value \"fast\"; one of none, writeback");
	bad("{\n\"name\": \"a\",\n\"memroy\": \"1G\"}", "t.json:3: memroy: unknown field; did you mean \"memory\"?");
	bad("{\"name\": \"a\",\n \"cpu\": {\"count\":\n 0}}", "t.json:3: cpu.count: 0 is out of range (1 to 512)");
	bad("{\"name\": \"a\", \"name\": \"b\"}", "duplicate");
	bad("{\"name\": \"a\",\n \"disks\": [{\"path\": \"/x\", \"format\": \"qcow2\",\n  \"backing\": {\"path\": \"/y\", \"format\": \"qcow2\", \"backing\": "
	    "{\"path\": \"/z\",\n   \"format\": 7}}}]}",
	    "t.json:4: disks[0].backing.backing.format: must be a string");
	bad("{\"name\": \"a\", \"boot\": {\"order\": [\"disk\",\n 7]}}", "t.json:2: boot.order[1]: must be a string without NUL");
	bad("{\"name\"", "t.json: JSON");
}

static void test_values(void)
{
	bad("{}", "\"name\" is missing");
	bad("{\"name\": \"../etc\"}", "is no name");
	bad("{\"name\": \"a\", \"memory\": \"512\"}", "has no unit");
	bad("{\"name\": \"a\", \"memory\": 512}", "out of range");
	bad("{\"name\": \"a\", \"memory\": \"99999999999999999999G\"}", "a size is");
	bad("{\"name\": \"a\", \"rng\": 1}", "must be true or false");
	bad("{\"name\": \"a\", \"uuid\": \"x\"}", "is no UUID");
	bad("{\"name\": \"a\", \"boot\": {\"cmdline\": \"x\"}}", "need a kernel");
	bad("{\"name\": \"a\", \"boot\": {\"kernel\": \"vmlinuz\"}}", "absolute path");
	bad("{\"name\": \"a\", \"args\": [\"a\\u0000b\"]}", "without NUL");
	bad("{\"name\": \"a\", \"machine\": {\"type\": \"q35,accel=tcg\"}}", "unknown machine");
	bad("{\"name\": \"a\", \"cpu\": {\"count\": 3, \"cores\": 2}}", "make 2, but count is 3");
	json_decref(good("{\"name\": \"a\", \"cpu\": {\"count\": 4, \"sockets\": 2, \"cores\": 2}}"));
}

static void test_disks_and_nics(void)
{
	bad("{\"name\": \"a\", \"disks\": [{}]}", "\"path\" is missing");
	bad("{\"name\": \"a\", \"disks\": [{\"path\": \"/x\"}]}", "\"format\" is missing; it is never guessed");
	bad("{\"name\": \"a\", \"disks\": [{\"path\": \"/x\", \"format\": \"raw\", \"aio\": \"native\"}]}", "needs cache");
	bad("{\"name\": \"a\", \"disks\": [{\"type\": \"cdrom\", \"bus\": \"virtio\"}]}", "CD-ROM cannot");
	bad("{\"name\": \"a\", \"disks\": [{\"id\": \"VDA\", \"path\": \"/x\", \"format\": \"raw\"}]}", "is no id");
	bad("{\"name\": \"a\", \"nics\": [{\"mac\": \"01:00:00:00:00:00\"}]}", "multicast");
	bad("{\"name\": \"a\", \"nics\": [{\"backend\": \"tap\"}]}", "\"interface\" is missing");
	bad("{\"name\": \"a\", \"nics\": [{\"id\": \"x\"}, {\"id\": \"x\"}]}", "nics[0] has the same");
	bad("{\"name\": \"a\", \"nics\": [{\"id\": \"x\"}], \"disks\": [{\"id\": \"x\", \"type\": \"cdrom\"}]}", "the same id");
}

#define DISK(more) "{\"name\": \"a\", \"disks\": [{\"path\": \"/x\", \"format\": \"raw\", " more "}]}"
#define NIC(more)  "{\"name\": \"a\", \"nics\": [{" more "}]}"

/* What QEMU would refuse at the start, or take for something else, is refused here. */
static void test_what_qemu_would_refuse(void)
{
	bad(DISK("\"bus\": \"sata\", \"read-only\": true"), "cannot be read-only");
	bad(DISK("\"detect-zeroes\": \"unmap\", \"discard\": \"ignore\""), "needs discard");
	bad(DISK("\"backing\": {\"path\": \"/b\", \"format\": \"raw\"}"), "disks[0].backing: an image of the format \"raw\"");
	bad(DISK("\"throttle\": {\"bps-total\": 2, \"bps-read\": 1}"), "bps-total stands beside it");
	bad(DISK("\"throttle\": {\"bps-read-max\": 1}"), "throttle.bps-read-max: needs bps-read");
	bad(DISK("\"throttle\": {\"bps-read\": 9, \"bps-read-max\": 1}"), "is lower than bps-read");
	bad(DISK("\"qemu\": {\"format\": {\"node-name\": \"x\"}}"), "disks[0].qemu.format.node-name: is derived");
	bad("{\"name\": \"a\", \"disks\": [{\"type\": \"cdrom\", \"iothread\": true}]}", "only a virtio disk");
	bad(NIC("\"forwards\": [{\"host-port\": 1, \"guest-port\": 1, \"host-address\": \"::1\"}]"), "is no IPv4 address");
	bad(NIC("\"net\": \"10.0.2.0/33\""), "is no IPv4 network");
	bad(NIC("\"net\": \"10.0.2.0\""), "is no IPv4 network");
	bad(NIC("\"bridge\": \"br0\""), "belongs to the backend \"bridge\", but this one is \"user\"");
	bad("{\"name\": \"a\", \"boot\": {\"order\": [\"disk\", \"disk\"]}}", "boot.order[1]: \"disk\" stands there twice");
	bad("{\"name\": \"a\", \"consoles\": [{}, {}, {}, {}, {}]}", "consoles[4]: a PC has 4 serial ports");
	bad("{\"name\": \"a\", \"consoles\": [{\"id\": \"qmp\"}]}", "is used for something else");
}

static void test_unique_across_kinds(void)
{
	bad("{\"name\": \"a\", \"nics\": [{\"mac\": \"52:54:00:00:00:aa\"}, {\"mac\": \"52:54:00:00:00:AA\"}]}",
	    "nics[1].mac: nics[0] has the same mac");
	bad("{\"name\": \"a\", \"disks\": [{\"path\": \"/x\", \"format\": \"raw\", \"port\": 2}], \"nics\": [{\"port\": 2}]}",
	    "nics[0].port: disks[0] has the same port");
	bad("{\"name\": \"a\", \"scsi-port\": 2, \"nics\": [{\"port\": 2}]}", "the SCSI controller has the same port");
	bad("{\"name\": \"a\", \"nics\": [{\"port\": 17}]}", "the machine has 16 ports");
	bad("{\"name\": \"a\", \"machine\": {\"type\": \"pc\", \"ports\": 64}, \"nics\": [{\"port\": 17}]}",
	    "the machine has 16 ports");
	bad("{\"name\": \"a\", \"nics\": [{\"id\": \"con0\"}]}", "that id is taken");
	bad("{\"name\": \"a\", \"nics\": [{\"id\": \"x\"}], \"consoles\": [{\"id\": \"x\"}]}",
	    "consoles[0].id: nics[0] has the same id");
}

/* docs/spec.schema.json is what the table says. UPDATE_GOLDEN=1 writes it anew. */
static void test_schema_is_the_documents(void)
{
	const char *file = SOURCE_DIR "/docs/spec.schema.json";
	json_auto_t *schema = vm_spec_json_schema(), *written = NULL;

	if (getenv("UPDATE_GOLDEN"))
		CHECK_INT(json_dump_file(schema, file, JSON_INDENT(2)), 0);
	written = json_load_file(file, 0, NULL);
	CHECK(written);
	CHECK(json_equal(schema, written));
}

static void test_complete_is_chosen_once(void)
{
	json_t *spec = good("{\"name\": \"a\", \"disks\": [{\"path\": \"/x\", \"format\": \"raw\"},"
			    "{\"path\": \"/y\", \"format\": \"raw\", \"bus\": \"scsi\"}], \"nics\": [{}]}");
	json_t *before, *nic;

	CHECK_INT(vm_spec_complete(spec, NULL), 1);
	CHECK(vm_spec_find(spec, "disks", "vda") && vm_spec_find(spec, "disks", "sda"));
	nic = vm_spec_find(spec, "nics", "net0");
	CHECK_INT(strncmp(json_string_value(json_object_get(nic, "mac")), "52:54:00:", 9), 0);
	CHECK_INT(json_integer_value(json_object_get(vm_spec_find(spec, "disks", "vda"), "port")), 1);
	CHECK_INT(json_integer_value(json_object_get(spec, "scsi-port")), 2);
	CHECK_INT(json_integer_value(json_object_get(nic, "port")), 3);
	before = json_deep_copy(spec);
	CHECK_INT(vm_spec_complete(spec, NULL), 0);
	CHECK(json_equal(before, spec));
	CHECK_INT(vm_spec_check(spec, NULL), 0);
	json_decref(before);
	json_decref(spec);
}

static void test_no_free_port(void)
{
	json_t *spec = good("{\"name\": \"a\", \"machine\": {\"ports\": 1}, \"nics\": [{}, {}]}");
	struct qmp_error err = {0};

	CHECK(vm_spec_complete(spec, &err) < 0);
	CHECK_CONTAINS(err.message, "no free PCI port: the machine has 1");
	json_decref(spec);
}

static void set(json_t *spec, const char *path, const char *text, const char *why)
{
	struct qmp_error err = {0};
	int r = vm_spec_set(spec, path, text, &err);

	if (r == 0)
		r = vm_spec_check(spec, &err);
	if (why)
		CHECK_CONTAINS(err.message, why);
	else if (r < 0)
		check_fail(__FILE__, __LINE__, path, "set", err.message);
}

static void test_set(void)
{
	json_t *spec = good("{\"name\": \"a\", \"disks\": [{\"id\": \"vda\", \"path\": \"/x\", \"format\": \"raw\"}]}");

	set(spec, "cpu.count", "4", NULL);
	set(spec, "disks[vda].throttle.iops-total", "100", NULL);
	set(spec, "disks[0].serial", "17", NULL);
	CHECK_STR(json_string_value(json_object_get(vm_spec_find(spec, "disks", "vda"), "serial")), "17");
	set(spec, "disks.vda.serial", "18", NULL);
	CHECK_STR(json_string_value(json_object_get(vm_spec_find(spec, "disks", "vda"), "serial")), "18");
	set(spec, "disks.0.seriall", "19", "disks.0.seriall: unknown field; did you mean \"serial\"?");
	set(spec, "disks.vda].serial", "19", "is no path");
	set(spec, "disks.vda", "19", "");
	set(spec, "disks[vda].serial", NULL, NULL);
	CHECK(!json_object_get(vm_spec_find(spec, "disks", "vda"), "serial"));
	set(spec, "disks[vdz].serial", "x", "nothing is there named \"vdz\"");
	set(spec, "cpu.coutn", "4", "did you mean \"count\"");
	set(spec, "", "4", "is no path");
	set(spec, "cpu.count", "many", "must be an integer");
	json_decref(spec);
}

static void test_refused_set_changes_nothing(void)
{
	json_auto_t *spec = good("{\"name\": \"a\"}"), *before = json_deep_copy(spec);

	set(spec, "watchdog.acton", "reset", "did you mean \"action\"");
	CHECK(json_equal(spec, before));
	set(spec, "boot.menu.deep", "1", "");
	CHECK(json_equal(spec, before));
	set(spec, "watchdog.action", NULL, NULL);
	CHECK(json_equal(spec, before));
	set(spec, "description", "\xff", "description: the value is not UTF-8");
	CHECK(json_equal(spec, before));
}

static void test_section_is_the_effective_specs(void)
{
	json_auto_t *silent = good("{\"name\": \"a\"}");
	json_auto_t *given = good("{\"name\": \"a\", \"restart\": {\"policy\": \"always\", \"limit\": 3}}");
	const json_t *const specs[] = {silent, given};

	for (size_t i = 0; i < ARRAY_SIZE(specs); i++) {
		json_auto_t *before = json_deep_copy(specs[i]), *effective = vm_spec_effective(specs[i]);
		json_auto_t *section = vm_spec_section(specs[i], "restart");
		CHECK(json_equal(section, json_object_get(effective, "restart")));
		CHECK(json_object_size(section) == 5);
		CHECK(json_equal(before, specs[i]));
	}
}

static void test_effective_has_every_default(void)
{
	json_t *spec = good("{\"name\": \"a\", \"disks\": [{\"type\": \"cdrom\"}]}"), *e = vm_spec_effective(spec);
	json_t *cd = json_array_get(json_object_get(e, "disks"), 0);

	CHECK_STR(json_string_value(json_object_get(json_object_get(e, "machine"), "type")), "q35");
	CHECK_STR(json_string_value(json_object_get(cd, "bus")), "sata");
	CHECK_INT(json_array_size(json_object_get(e, "consoles")), 1);
	CHECK(!json_object_get(spec, "machine"));
	json_decref(e);
	json_decref(spec);
}

/* ---- spec-cases/: good/NAME.json is accepted, bad/NAME.json is refused with the message in NAME.error ---- */

#define CASES SOURCE_DIR "/tests/unit/spec-cases/"

/* What is accepted stays acceptable: completed, with every default, and written and read again. */
static void accept_case(const char *name, const char *text, size_t len)
{
	struct qmp_error err = {0};
	json_auto_t *spec = NULL, *effective = NULL, *again = NULL;
	_cleanup_free_ char *written = NULL;
	size_t n;

	if (vm_spec_parse(text, len, name, &spec, &err) < 0 || vm_spec_complete(spec, &err) < 0 ||
	    vm_spec_check(spec, &err) < 0)
		check_fail(__FILE__, __LINE__, name, "accepted", err.message);
	effective = vm_spec_effective(spec);
	if (vm_spec_check(effective, &err) < 0)
		check_fail(__FILE__, __LINE__, name, "its effective spec accepted", err.message);
	written = qmp_json_encode(spec, JSON_INDENT(2), &n);
	CHECK_INT(vm_spec_parse(written, n, name, &again, &err), 0);
	CHECK(json_equal(spec, again));
}

static void refuse_case(int dir, const char *name, const char *text, size_t len)
{
	struct qmp_error err = {0};
	json_t *spec = NULL;
	_cleanup_free_ char *file = qmp_asprintf("%.*s.error", (int)(strlen(name) - 5), name), *want = NULL;

	CHECK(vm_spec_parse(text, len, name, &spec, &err) < 0);
	CHECK(!spec);
	CHECK_INT(err.kind, QMP_ERR_USAGE);
	if (getenv("UPDATE_GOLDEN"))
		CHECK_INT(vm_file_write(dir, file, err.message, strlen(err.message), NULL), 0);
	CHECK_INT(vm_file_read(dir, file, &want, &len, NULL), 0);
	CHECK_STR(err.message, want);
}

static int run_cases(const char *path, bool accept)
{
	_cleanup_fd_ int dir = open(path, O_RDONLY | O_DIRECTORY);
	DIR *entries = opendir(path);
	struct dirent *e;
	int n = 0;

	CHECK(dir >= 0 && entries);
	while ((e = readdir(entries))) {
		_cleanup_free_ char *text = NULL;
		size_t len, name_len = strlen(e->d_name);
		if (name_len < 6 || !streq(e->d_name + name_len - 5, ".json"))
			continue;
		CHECK_INT(vm_file_read(dir, e->d_name, &text, &len, NULL), 0);
		if (accept)
			accept_case(e->d_name, text, len);
		else
			refuse_case(dir, e->d_name, text, len);
		n++;
	}
	closedir(entries);
	return n;
}

static void test_cases(void)
{
	CHECK(run_cases(CASES "good", true) >= 9);
	CHECK(run_cases(CASES "bad", false) >= 20);
}

int main(void)
{
	RUN(test_errors_have_path_and_line);
	RUN(test_values);
	RUN(test_disks_and_nics);
	RUN(test_what_qemu_would_refuse);
	RUN(test_unique_across_kinds);
	RUN(test_schema_is_the_documents);
	RUN(test_complete_is_chosen_once);
	RUN(test_no_free_port);
	RUN(test_set);
	RUN(test_refused_set_changes_nothing);
	RUN(test_effective_has_every_default);
	RUN(test_section_is_the_effective_specs);
	RUN(test_cases);
	return 0;
}
