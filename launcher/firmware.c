#include "launcher/firmware.h"
#include "launcher/identity.h"
#include "proto/base.h"

#include <dirent.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdio.h>
#include <sys/stat.h>

#define FOLDER "firmware"

/* Of a host's own, then of people's, then of packages (firmware.json, "Firmware"). */
static const char *const system_folders[] = {"/etc/qemu/firmware", "/usr/share/qemu/firmware", "/usr/local/share/qemu/firmware",
					     NULL};
/* No name of a VM has a "+": "x.secure.fd", as it was once, is that of a VM x.secure, too. */
static const char *const endings[] = {".fd", "+secure.fd"};
static const char was_secure[] = ".secure.fd";

static bool has_text(const json_t *list, const char *text)
{
	json_t *item;
	size_t i;

	json_array_foreach(list, i, item)
		if (json_is_string(item) && streq(json_string_value(item), text))
			return true;
	return false;
}

static bool is_for_machine(const json_t *description, const char *machine)
{
	json_t *target, *pattern;
	size_t i, k;

	json_array_foreach(json_object_get(description, "targets"), i, target)
		if (text_of(target, "architecture") && streq(text_of(target, "architecture"), "x86_64"))
			json_array_foreach(json_object_get(target, "machines"), k, pattern)
				if (json_is_string(pattern) && fnmatch(json_string_value(pattern), machine, 0) == 0)
					return true;
	return false;
}

/* One for confidential guests has no variables, and is none of ours. */
static bool fits(const json_t *description, const char *machine, bool secure)
{
	const json_t *mapping = json_object_get(description, "mapping"), *features = json_object_get(description, "features");

	return has_text(json_object_get(description, "interface-types"), "uefi") && text_of(mapping, "device") &&
	       streq(text_of(mapping, "device"), "flash") && text_of(json_object_get(mapping, "executable"), "filename") &&
	       text_of(json_object_get(mapping, "nvram-template"), "filename") && is_for_machine(description, machine) &&
	       has_text(features, "enrolled-keys") == secure && (secure || !has_text(features, "requires-smm"));
}

static json_t *found(const json_t *description)
{
	const json_t *mapping = json_object_get(description, "mapping"), *code = json_object_get(mapping, "executable");
	const json_t *vars = json_object_get(mapping, "nvram-template");
	const char *code_format = text_of(code, "format"), *vars_format = text_of(vars, "format");

	return json_pack("{s:s, s:s, s:s, s:s, s:b}", "code", text_of(code, "filename"), "code-format",
			 code_format ? code_format : "raw", "template", text_of(vars, "filename"), "vars-format",
			 vars_format ? vars_format : "raw", "smm", has_text(json_object_get(description, "features"), "requires-smm"));
}

/* ---- The descriptions, in the order of their names ---- */

static bool is_description(const char *name)
{
	size_t n = strlen(name);

	return n > 5 && *name != '.' && streq(name + n - 5, ".json");
}

static void collect(json_t *names, const char *folder)
{
	DIR *d = opendir(folder);
	const struct dirent *entry;

	while (d && (entry = readdir(d)))
		if (is_description(entry->d_name) && !json_object_get(names, entry->d_name))
			json_object_set_new(names, entry->d_name, json_string(folder));
	if (d)
		(void)closedir(d);
}

static int compare(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static json_t *search(const json_t *names, const char *machine, bool secure)
{
	const char **sorted = calloc(json_object_size(names) + 1, sizeof *sorted), *name;
	json_t *folder, *result = NULL;
	size_t n = 0;

	json_object_foreach((json_t *)names, name, folder)
		if (sorted)
			sorted[n++] = name;
	if (n > 0)
		qsort(sorted, n, sizeof *sorted, compare);
	for (size_t i = 0; i < n && !result; i++) {
		_cleanup_free_ char *path = qmp_asprintf("%s/%s", json_string_value(json_object_get(names, sorted[i])), sorted[i]);
		json_auto_t *description = path ? json_load_file(path, 0, NULL) : NULL; /* empty: one that is switched off */
		if (description && fits(description, machine, secure))
			result = found(description);
	}
	free(sorted);
	return result;
}

static json_t *look(const char *const *folders, const char *machine, bool secure)
{
	const char *home = getenv("XDG_CONFIG_HOME");
	_cleanup_free_ char *own = !folders && home && *home == '/' ? qmp_asprintf("%s/qemu/firmware", home) : NULL;
	json_auto_t *names = json_object();

	if (own)
		collect(names, own);
	for (folders = folders ? folders : system_folders; *folders; folders++)
		collect(names, *folders);
	return search(names, machine, secure);
}

/* ---- For a VM ---- */

char *vm_firmware_vars(const struct vm_dirs *dirs, const char *name, bool secure)
{
	return qmp_asprintf("%s/" FOLDER "/%s%s", dirs->state, name, endings[secure]);
}

int vm_firmware_find(const struct vm_dirs *dirs, const json_t *spec, const char *machine, const char *const *folders,
		     json_t **ret, struct qmp_error *err)
{
	const json_t *wants = json_object_get(spec, "firmware");
	bool secure = json_is_true(json_object_get(wants, "secure-boot"));
	const char *code = text_of(wants, "path"), *type = text_of(wants, "type");
	_cleanup_free_ char *vars = vm_firmware_vars(dirs, text_of(spec, "name"), secure);
	json_auto_t *f = NULL;

	*ret = NULL;
	if (!type || !streq(type, "uefi"))
		return 0;
	if (code)
		f = json_pack("{s:s, s:s, s:s?, s:s, s:b}", "code", code, "code-format", "raw", "template",
			      text_of(wants, "vars-template"), "vars-format", "raw", "smm", secure);
	else
		f = look(folders, machine, secure);
	if (!f)
		return qmp_error_set(err, QMP_ERR_HOST, -ENOENT,
				     "no UEFI firmware %sfor the machine %s is described in /usr/share/qemu/firmware; install it (Debian: "
				     "ovmf), or name it: firmware.path and firmware.vars-template",
				     secure ? "with Secure Boot and enrolled keys " : "", machine);
	if (!vars || json_object_set_new(f, "vars", qmp_json_text(vars)) < 0)
		return qmp_error_errno(err, -ENOMEM, "looking for firmware");
	*ret = take_ptr(f);
	return 0;
}

static bool is_defined(const struct vm_dirs *dirs, const char *file, size_t n)
{
	_cleanup_free_ char *spec = qmp_asprintf("%s/vms/%.*s.json", dirs->conf, (int)n, file);

	return !spec || access(spec, F_OK) == 0;
}

/* FILE is NAME.secure.fd, N the length of NAME. */
static void move_old(const struct vm_dirs *dirs, int folder, const char *file, size_t n)
{
	_cleanup_free_ char *to = qmp_asprintf("%.*s%s", (int)n, file, endings[true]);

	if (to && is_defined(dirs, file, n) && !is_defined(dirs, file, strlen(file) - strlen(endings[false])))
		(void)renameat2(folder, file, folder, to, RENAME_NOREPLACE);
}

void vm_firmware_move_old(const struct vm_dirs *dirs)
{
	_cleanup_free_ char *path = qmp_asprintf("%s/" FOLDER, dirs->state);
	DIR *d = path ? opendir(path) : NULL;
	const struct dirent *entry;

	while (d && (entry = readdir(d))) {
		size_t n = strlen(entry->d_name), tail = sizeof was_secure - 1;
		if (n > tail && *entry->d_name != '.' && streq(entry->d_name + n - tail, was_secure))
			move_old(dirs, dirfd(d), entry->d_name, n - tail);
	}
	if (d)
		(void)closedir(d);
}

static int copy_template(const struct vm_dirs *dirs, const char *from, const char *name, struct qmp_error *err)
{
	_cleanup_free_ char *data = NULL;
	_cleanup_fd_ int to = vm_dir_open(dirs->state, FOLDER, true, err), in = -1;
	struct stat st;
	ssize_t n;

	if (to < 0)
		return to;
	if (faccessat(to, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return 0;
	in = open(from, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (in < 0 || fstat(in, &st) < 0)
		return qmp_error_errno(err, -errno, "the template of the firmware's variables, %s", from);
	if (!S_ISREG(st.st_mode) || st.st_size > 16 << 20)
		return qmp_error_set(err, QMP_ERR_HOST, -EFBIG, "%s: not a file of a sane size", from);
	data = malloc((size_t)st.st_size + 1);
	n = data ? pread(in, data, (size_t)st.st_size, 0) : -1;
	if (n != st.st_size)
		return qmp_error_errno(err, data ? -EIO : -ENOMEM, "reading %s", from);
	return vm_file_write(to, name, data, (size_t)n, err);
}

int vm_firmware_make(const struct vm_dirs *dirs, const json_t *spec, const json_t *firmware, struct qmp_error *err)
{
	const char *vars = text_of(firmware, "vars"), *template = text_of(firmware, "template");
	_cleanup_identity_ struct vm_identity *id = NULL;
	int r;

	if (!vars || !template)
		return 0;
	vm_firmware_move_old(dirs);
	r = copy_template(dirs, template, strrchr(vars, '/') + 1, err);
	if (r == 0)
		r = vm_identity_of(spec, &id, err);
	if (r == 0 && id)
		r = vm_identity_let_in(dirs, FOLDER, err);
	if (r == 0 && id && chown(vars, id->uid, (gid_t)-1) < 0)
		r = qmp_error_errno(err, -errno, "giving %s to the user that QEMU runs as", vars);
	return r;
}

void vm_firmware_remove(const struct vm_dirs *dirs, const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(endings); i++) {
		_cleanup_free_ char *path = vm_firmware_vars(dirs, name, i == 1);
		if (path)
			(void)unlink(path);
	}
}
