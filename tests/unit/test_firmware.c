#include "launcher/firmware.h"
#include "proto/base.h"
#include "tests/unit/check.h"

#include <stdio.h>
#include <sys/stat.h>

static char root[] = "/tmp/qmpctl-firmware-XXXXXX";
static char own[64], packages[64];
static struct vm_dirs dirs;

static void put(const char *folder, const char *name, const char *text)
{
	char path[256];
	FILE *f;

	snprintf(path, sizeof path, "%s/%s", folder, name);
	f = fopen(path, "w");
	CHECK(f != NULL);
	fputs(text, f);
	fclose(f);
}

static void describe(const char *folder, const char *name, const char *code, const char *machines, const char *features)
{
	_cleanup_free_ char *text = qmp_asprintf(
		"{\"interface-types\": [\"uefi\"], \"mapping\": {\"device\": \"flash\", \"executable\": {\"filename\": \"%s\"},"
		" \"nvram-template\": {\"filename\": \"%s/template\", \"format\": \"raw\"}},"
		" \"targets\": [{\"architecture\": \"aarch64\", \"machines\": [\"*\"]},"
		" {\"architecture\": \"x86_64\", \"machines\": [\"%s\"]}], \"features\": [%s]}",
		code, root, machines, features);

	put(folder, name, text);
}

/* What is found of it: "code" and "smm"; "" where nothing is. */
static const char *find(const char *firmware, const char *machine)
{
	static char text[256];
	const char *const folders[] = {own, packages, NULL};
	json_auto_t *spec = json_pack("{s:s, s:o}", "name", "a", "firmware", json_loads(firmware, 0, NULL)), *f = NULL;
	struct qmp_error err = {0};

	if (vm_firmware_find(&dirs, spec, machine, folders, &f, &err) < 0) {
		CHECK_INT(err.kind, QMP_ERR_HOST);
		return "";
	}
	snprintf(text, sizeof text, "%s%s", f ? text_of(f, "code") : "none", json_is_true(json_object_get(f, "smm")) ? " smm" : "");
	return text;
}

static void test_find(void)
{
	CHECK_STR(find("{\"type\": \"bios\"}", "pc-q35-7.2"), "none");
	CHECK_STR(find("{\"type\": \"uefi\"}", "pc-q35-7.2"), "");
	describe(packages, "60-plain.json", "/plain", "pc-*", "\"acpi-s3\"");
	describe(packages, "50-smm.json", "/smm", "pc-q35-*", "\"secure-boot\", \"requires-smm\"");
	describe(packages, "40-secure.json", "/secure", "pc-q35-*", "\"secure-boot\", \"requires-smm\", \"enrolled-keys\"");
	put(packages, "30-broken.json", "{");
	CHECK_STR(find("{\"type\": \"uefi\"}", "pc-q35-7.2"), "/plain");
	CHECK_STR(find("{\"type\": \"uefi\"}", "pc-i440fx-7.2"), "/plain");
	CHECK_STR(find("{\"type\": \"uefi\"}", "microvm"), "");
	CHECK_STR(find("{\"type\": \"uefi\", \"secure-boot\": true}", "pc-q35-7.2"), "/secure smm");
	CHECK_STR(find("{\"type\": \"uefi\", \"secure-boot\": true}", "pc-i440fx-7.2"), "");
	/* A file of the same name in the host's own folder hides it; another one comes first by its name. */
	put(own, "60-plain.json", "");
	CHECK_STR(find("{\"type\": \"uefi\"}", "pc-q35-7.2"), "");
	describe(own, "10-own.json", "/own", "pc-*", "");
	CHECK_STR(find("{\"type\": \"uefi\"}", "pc-q35-7.2"), "/own");
	CHECK_STR(find("{\"type\": \"uefi\", \"path\": \"/x\", \"vars-template\": \"/y\"}", "pc-q35-7.2"), "/x");
}

static void test_variables(void)
{
	const char *const folders[] = {own, NULL};
	json_auto_t *spec = json_pack("{s:s, s:{s:s}}", "name", "a", "firmware", "type", "uefi"), *f = NULL;
	struct qmp_error err = {0};
	_cleanup_free_ char *vars = qmp_asprintf("%s/firmware/a.fd", root);
	struct stat st;

	CHECK_INT(vm_firmware_find(&dirs, spec, "pc-q35-7.2", folders, &f, &err), 0);
	CHECK_STR(text_of(f, "vars"), vars);
	CHECK_INT(vm_firmware_make(&dirs, spec, f, &err), -ENOENT);
	CHECK(strstr(err.message, "template"));
	put(root, "template", "as it begins");
	err = (struct qmp_error){0};
	CHECK_INT(vm_firmware_make(&dirs, spec, f, &err), 0);
	CHECK_INT(stat(vars, &st), 0);
	CHECK_INT(st.st_size, 12);
	CHECK_INT(st.st_mode & 0777, 0600);
	/* It is the VM's from then on. */
	put(root, "template", "another");
	CHECK_INT(vm_firmware_make(&dirs, spec, f, &err), 0);
	CHECK_INT(stat(vars, &st), 0);
	CHECK_INT(st.st_size, 12);
	vm_firmware_remove(&dirs, "b");
	CHECK(access(vars, F_OK) == 0);
	vm_firmware_remove(&dirs, "a");
	CHECK(access(vars, F_OK) < 0);
}

static void define(const char *file)
{
	_cleanup_free_ char *folder = qmp_asprintf("%s/vms", root);

	put(folder, file, "{}");
}

/* What there is, in order, after old names were seen to; then it is gone. */
static const char *moved(void)
{
	static const char *const names[] = {"x.secure.fd", "x+secure.fd", "x.fd"};
	static char text[64];

	*text = 0;
	vm_firmware_move_old(&dirs);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		_cleanup_free_ char *path = qmp_asprintf("%s/firmware/%s", root, names[i]);
		if (unlink(path) == 0)
			snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", *text ? " " : "", names[i]);
	}
	return text;
}

/* A VM "x" with Secure Boot had the file of a VM "x.secure" without. */
static void test_old_names(void)
{
	_cleanup_free_ char *folder = qmp_asprintf("%s/firmware", root), *vms = qmp_asprintf("%s/vms", root);
	_cleanup_free_ char *x = vm_firmware_vars(&dirs, "x", true), *other = vm_firmware_vars(&dirs, "x.secure", false);

	CHECK(!streq(x, other));
	CHECK(mkdir(vms, 0700) == 0);
	put(folder, "x.secure.fd", "nobody's");
	CHECK_STR(moved(), "x.secure.fd");
	define("x.json");
	put(folder, "x.secure.fd", "x's");
	CHECK_STR(moved(), "x+secure.fd");
	put(folder, "x.secure.fd", "before");
	put(folder, "x+secure.fd", "since");
	CHECK_STR(moved(), "x.secure.fd x+secure.fd");
	define("x.secure.json");
	put(folder, "x.secure.fd", "whose?");
	CHECK_STR(moved(), "x.secure.fd");
}

int main(void)
{
	_cleanup_free_ char *remove = NULL;

	CHECK(mkdtemp(root));
	dirs = (struct vm_dirs){root, root, root};
	snprintf(own, sizeof own, "%s/own", root);
	snprintf(packages, sizeof packages, "%s/packages", root);
	CHECK(mkdir(own, 0700) == 0 && mkdir(packages, 0700) == 0);
	RUN(test_find);
	RUN(test_variables);
	RUN(test_old_names);
	remove = qmp_asprintf("rm -r %s", root);
	CHECK_INT(system(remove), 0);
	return 0;
}
