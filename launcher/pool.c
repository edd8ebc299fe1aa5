#include "launcher/pool.h"
#include "launcher/location.h"
#include "launcher/spec.h"
#include "launcher/table.h"
#include "proto/base.h"

#include <fnmatch.h>
#include <stdio.h>

_Static_assert(VM_POOL_NAME_MAX == VM_NAME_MAX, "a pool's name is a name");

/* ---- Types ---- */

static char *in_folder(const json_t *pool, const char *volume, const char **why)
{
	const char *path = text_of(pool, "path");

	UNUSED(why);
	return qmp_asprintf("%s%s%s", path, streq(path, "/") ? "" : "/", volume);
}

static char *in_btrfs(const json_t *pool, const char *volume, const char **why)
{
	_cleanup_free_ char *path = in_folder(pool, volume, why);

	if (!path || !json_is_true(json_object_get(pool, "subvolumes")))
		return take_ptr(path);
	return qmp_asprintf("%s/disk", path);
}

static char *in_devices(const json_t *pool, const char *volume, const char **why)
{
	const json_t *only = json_object_get(pool, "only"), *pattern;
	bool fits = json_array_size(only) == 0;
	size_t i;

	json_array_foreach(only, i, pattern)
		fits |= fnmatch(json_string_value(pattern), volume, 0) == 0;
	if (fits)
		return in_folder(pool, volume, why);
	*why = "the pool's \"only\" leaves it out";
	return NULL;
}

static char *in_vg(const json_t *pool, const char *volume, const char **why)
{
	UNUSED(why);
	return qmp_asprintf("/dev/%s/%s", text_of(pool, "vg"), volume);
}

static char *in_dataset(const json_t *pool, const char *volume, const char **why)
{
	UNUSED(why);
	return qmp_asprintf("/dev/zvol/%s/%s", text_of(pool, "dataset"), volume);
}

/* rbd://POOL[/NAMESPACE]/VOLUME[?conf=PATH][&user=NAME], as launcher/location.h has it. */
static char *in_ceph(const json_t *pool, const char *volume, const char **why)
{
	const char *const parts[] = {text_of(pool, "pool"), text_of(pool, "namespace"), volume, text_of(pool, "conf"),
				     text_of(pool, "user")};
	static const char *const before[] = {"rbd://", "/", "/", "?conf=", "?user="};
	_cleanup_free_ char *url = strdup("");

	if (strpbrk(volume, "@")) {
		*why = "the name of an image of Ceph's has no \"@\"";
		return NULL;
	}
	for (size_t i = 0; i < ARRAY_SIZE(parts) && url; i++) {
		_cleanup_free_ char *escaped = parts[i] ? vm_location_escape(parts[i]) : NULL, *longer = NULL;
		if (!parts[i])
			continue;
		longer = escaped ? qmp_asprintf("%s%s%s", url, i == 4 && parts[3] ? "&user=" : before[i], escaped) : NULL;
		free(url);
		url = take_ptr(longer);
	}
	return take_ptr(url);
}

static const char *check_ceph(const json_t *pool)
{
	static const char *const names[] = {"pool", "namespace"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		const char *name = text_of(pool, names[i]);
		if (name && (!*name || *name == '-' || strpbrk(name, "/@")))
			return "a name of Ceph's pools and namespaces is not empty and has no \"/\" or \"@\", nor \"-\" first";
	}
	if (text_of(pool, "user") && (!*text_of(pool, "user") || *text_of(pool, "user") == '-'))
		return "\"user\" is a name such as admin, without \"client.\"";
	return NULL;
}

/* As lvm(8) has it. */
static bool is_lvm_name(const char *name)
{
	return !name || (vm_volume_name_valid(name) && strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
								    "0123456789+_.-") == strlen(name));
}

static const char *check_lvm(const json_t *pool)
{
	return is_lvm_name(text_of(pool, "vg")) && is_lvm_name(text_of(pool, "thin-pool"))
		       ? NULL
		       : "a name of LVM's is letters, digits and + _ . -, no \".\" or \"-\" first";
}

static const char *check_zfs(const json_t *pool)
{
	const char *p = text_of(pool, "dataset");

	if (!*p || *p == '/' || p[strlen(p) - 1] == '/' || strstr(p, "//") || strstr(p, "..") || *p == '-' || strpbrk(p, "@#, \t\n"))
		return "\"dataset\" is a name such as tank/vms";
	return NULL;
}

#define COMMON                                                                                                       \
	{"name", VM_T_NAME, "the pool's name", .required = 1},                                                       \
		{"type", VM_T_STRING, "which tools it is kept by", .required = 1},                                   \
		{"description", VM_T_STRING, "for people"}

static const struct vm_field dir_fields[] = {
	COMMON,
	{"path", VM_T_PATH, "the folder", .required = 1},
	{0},
};

static const struct vm_field mount_fields[] = {
	COMMON,
	{"path", VM_T_PATH, "where it is mounted; while it is not, the pool is not used", .required = 1},
	{0},
};

static const struct vm_field btrfs_fields[] = {
	COMMON,
	{"path", VM_T_PATH, "a folder on Btrfs", .required = 1},
	{"subvolumes", VM_T_BOOL, "each volume in a subvolume of its own, as the file \"disk\"", .default_json = "false"},
	{"nodatacow", VM_T_BOOL, "new volumes are overwritten in place: faster, but without checksums", .default_json = "false"},
	{0},
};

static const struct vm_field lvm_fields[] = {
	COMMON,
	{"vg", VM_T_STRING, "the volume group", .required = 1},
	{0},
};

static const struct vm_field lvm_thin_fields[] = {
	COMMON,
	{"vg", VM_T_STRING, "the volume group", .required = 1},
	{"thin-pool", VM_T_STRING, "the thin pool in it", .required = 1},
	{0},
};

static const struct vm_field block_fields[] = {
	COMMON,
	{"path", VM_T_PATH, "a folder of device nodes: /dev/md, /dev/disk/by-id, ...", .required = 1},
	{"only", VM_T_STRINGS, "patterns, as the shell has them: the devices that are the pool's; else all"},
	{0},
};

static const struct vm_field zfs_fields[] = {
	COMMON,
	{"dataset", VM_T_STRING, "the dataset that the zvols are in, as in tank/vms", .required = 1},
	{"sparse", VM_T_BOOL, "no room is set aside for new volumes", .default_json = "false"},
	{0},
};

static const struct vm_field rbd_fields[] = {
	COMMON,
	{"pool", VM_T_STRING, "the pool's name in the Ceph cluster", .required = 1},
	{"namespace", VM_T_STRING, "the namespace in it"},
	{"conf", VM_T_PATH, "the cluster's configuration; /etc/ceph/ceph.conf unless given"},
	{"user", VM_T_STRING, "as whom, without \"client.\": its key is where the configuration says; admin unless given"},
	{0},
};

const struct vm_pool_type vm_pool_types[] = {
	{"dir", "a folder", dir_fields, NULL, in_folder},
	{"mount", "a folder that something is mounted at: NFS, another disk", mount_fields, NULL, in_folder},
	{"btrfs", "a folder on Btrfs: snapshots and clones by reflink", btrfs_fields, NULL, in_btrfs},
	{"lvm", "a volume group of LVM", lvm_fields, check_lvm, in_vg},
	{"lvm-thin", "a thin pool of LVM", lvm_thin_fields, check_lvm, in_vg},
	{"zfs", "zvols of ZFS", zfs_fields, check_zfs, in_dataset},
	{"block", "block devices that are there: disks, partitions, md arrays", block_fields, NULL, in_devices},
	{"rbd", "images in a pool of a Ceph cluster", rbd_fields, check_ceph, in_ceph},
	{0},
};

static const struct vm_pool_type *find_type(const char *name)
{
	for (const struct vm_pool_type *t = vm_pool_types; t->name && name; t++)
		if (streq(t->name, name))
			return t;
	return NULL;
}

const struct vm_pool_type *vm_pool_type_of(const json_t *pool)
{
	return find_type(text_of(pool, "type"));
}

/* ---- Names ---- */

bool vm_volume_name_valid(const char *volume)
{
	size_t n = strlen(volume);

	if (n == 0 || n > VM_VOLUME_NAME_MAX || *volume == '.' || *volume == '-')
		return false;
	for (const unsigned char *c = (const unsigned char *)volume; *c; c++)
		if (*c == '/' || *c < ' ' || *c == 0x7f)
			return false;
	return true;
}

const char *vm_pool_volume(const char *location, char pool[VM_POOL_NAME_MAX + 1])
{
	const char *colon = strchr(location, ':');
	char name[VM_POOL_NAME_MAX + 1];
	size_t n = colon ? (size_t)(colon - location) : 0;

	if (n < 2 || n > VM_POOL_NAME_MAX)
		return NULL;
	memcpy(name, location, n);
	name[n] = '\0';
	if (!vm_name_valid(name) || !vm_volume_name_valid(colon + 1))
		return NULL;
	if (pool)
		memcpy(pool, name, n + 1);
	return colon + 1;
}

/* ---- Definitions ---- */

static int refuse_type(const struct vm_check *c, const char *type)
{
	const char *names[16], *near;
	char list[200];
	size_t n = 0, len = 0;

	for (const struct vm_pool_type *t = vm_pool_types; t->name && n < ARRAY_SIZE(names) - 1; t++) {
		names[n++] = t->name;
		len += (size_t)snprintf(list + len, sizeof list - len, "%s%s", n > 1 ? ", " : "", t->name);
	}
	names[n] = NULL;
	if (!type)
		return vm_refuse(c, "", "\"type\" is missing; one of %s", list);
	near = qmp_nearest(type, names);
	return vm_refuse(c, "type", "unknown value \"%s\"; one of %s%s%s%s", type, list, near ? " (did you mean " : "",
			 near ? near : "", near ? "?)" : "");
}

int vm_pool_check(const json_t *pool, const char *text, size_t len, const char *source, struct qmp_error *err)
{
	const struct vm_check c = {text, len, source, err, "the pool"};
	const struct vm_pool_type *type = find_type(text_of(pool, "type"));
	const char *why;
	int r;

	if (!json_is_object(pool))
		return vm_refuse(&c, "", "must be an object");
	if (!type)
		return refuse_type(&c, text_of(pool, "type"));
	r = vm_check_object(&c, "", type->fields, pool);
	if (r < 0)
		return r;
	if (strlen(text_of(pool, "name")) < 2)
		return vm_refuse(&c, "name", "\"%s\" is too short for the name of a pool: two characters at least", text_of(pool, "name"));
	why = type->check ? type->check(pool) : NULL;
	return why ? vm_refuse(&c, "", "%s", why) : 0;
}

static int not_found(const struct vm_dirs *dirs, const char *name, struct qmp_error *err)
{
	json_auto_t *names = NULL;
	const char *near = vm_pool_names(dirs, &names, NULL) == 0 ? vm_nearest_of(names, name) : NULL;

	return qmp_error_set(err, QMP_ERR_NOT_FOUND, -ENOENT, "there is no pool named \"%s\"%s%s%s; \"qmpctl pool list\" shows which "
			     "there are", name, near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

static int read_text(const char *name, const char *path, const char *text, size_t len, json_t **ret, struct qmp_error *err)
{
	json_auto_t *pool = qmp_json_decode(text, len, err);
	int r = pool ? vm_pool_check(pool, text, len, path, err) : qmp_error_wrap(err, "%s", path);

	if (r < 0)
		return r;
	if (!streq(text_of(pool, "name"), name))
		return qmp_error_set(err, QMP_ERR_HOST, -EINVAL, "%s: its \"name\" is \"%s\"; the two must be the same", path,
				     text_of(pool, "name"));
	if (vm_fill_defaults(vm_pool_type_of(pool)->fields, pool) < 0)
		return qmp_error_errno(err, -ENOMEM, "reading %s", path);
	*ret = take_ptr(pool);
	return 0;
}

int vm_pool_read(const struct vm_dirs *dirs, const char *name, json_t **ret, struct qmp_error *err)
{
	_cleanup_free_ char *file = qmp_asprintf("%s.json", name), *path = qmp_asprintf("%s/pools/%s.json", dirs->conf, name);
	_cleanup_free_ char *text = NULL;
	struct qmp_error why = {0};
	_cleanup_fd_ int dir = -1;
	size_t len;
	int r;

	if (!vm_name_valid(name) || strlen(name) < 2)
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL,
				     "\"%s\" is no name for a pool: 2 to 64 letters, digits, . _ -, a letter or digit first", name);
	if (!file || !path)
		return qmp_error_errno(err, -ENOMEM, "the pool %s", name);
	dir = vm_dir_open(dirs->conf, "pools", false, &why);
	r = dir < 0 ? dir : vm_file_read(dir, file, &text, &len, &why);
	if (r == 0)
		return read_text(name, path, text, len, ret, err);
	if (r != -ENOENT)
		return qmp_error_set(err, why.kind, r, "the pool %s: %s", name, why.message);
	if (!streq(name, VM_POOL_DEFAULT))
		return not_found(dirs, name, err);
	*ret = json_pack("{s:s, s:s, s:o}", "name", VM_POOL_DEFAULT, "type", "dir", "path",
			 json_sprintf("%s/images", dirs->state));
	return *ret ? 0 : qmp_error_errno(err, -ENOMEM, "the pool %s", name);
}

int vm_pool_names(const struct vm_dirs *dirs, json_t **ret, struct qmp_error *err)
{
	json_auto_t *names = NULL;
	const json_t *name;
	size_t i, place = 0;
	int r = vm_conf_names(dirs->conf, "pools", &names, err);

	if (r < 0)
		return r;
	json_array_foreach(names, i, name) {
		int order = strcmp(json_string_value(name), VM_POOL_DEFAULT);
		place += order < 0;
		if (order == 0) {
			*ret = take_ptr(names);
			return 0;
		}
	}
	if (json_array_insert_new(names, place, json_string(VM_POOL_DEFAULT)) < 0)
		return qmp_error_errno(err, -ENOMEM, "listing the pools");
	*ret = take_ptr(names);
	return 0;
}

/* ---- Of a spec ---- */

bool vm_pool_is_named(const json_t *spec, const char *name)
{
	const json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(spec, "disks"), i, disk)
		for (const json_t *image = disk; image; image = json_object_get(image, "backing")) {
			char pool[VM_POOL_NAME_MAX + 1];
			if (text_of(image, "path") && vm_pool_volume(text_of(image, "path"), pool) && streq(pool, name))
				return true;
		}
	return false;
}

static int read_all(const struct vm_dirs *dirs, const json_t *spec, const json_t *have, const json_t *known, bool missing_ok,
		    json_t **ret, struct qmp_error *err)
{
	json_auto_t *pools = json_object();
	const json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(spec, "disks"), i, disk)
		for (const json_t *image = disk; image; image = json_object_get(image, "backing")) {
			char name[VM_POOL_NAME_MAX + 1];
			json_t *pool = NULL;
			int r = 0;
			if (!text_of(image, "path") || !vm_pool_volume(text_of(image, "path"), name) || json_object_get(pools, name))
				continue;
			if (json_object_get(known, name) && vm_pool_is_named(have, name))
				pool = json_incref(json_object_get(known, name));
			else
				r = vm_pool_read(dirs, name, &pool, missing_ok ? NULL : err);
			if (r < 0 && r != -ENOMEM && missing_ok)
				continue;
			if (r < 0)
				return qmp_error_wrap(err, "disks.%s", text_of(disk, "id") ? text_of(disk, "id") : "(new)");
			if (json_object_set_new(pools, name, pool) < 0)
				return qmp_error_errno(err, -ENOMEM, "reading the pools");
		}
	if (!pools)
		return qmp_error_errno(err, -ENOMEM, "reading the pools");
	*ret = take_ptr(pools);
	return 0;
}

int vm_pools_read(const struct vm_dirs *dirs, const json_t *spec, const json_t *have, const json_t *known, json_t **ret,
		  struct qmp_error *err)
{
	return read_all(dirs, spec, have, known, false, ret, err);
}

int vm_pools_look(const struct vm_dirs *dirs, const json_t *spec, const json_t *known, json_t **ret, struct qmp_error *err)
{
	json_auto_t *pools = NULL;
	int r = read_all(dirs, spec, spec, known, true, &pools, err);

	return r < 0 ? r : vm_pools_locate_disks(pools, spec, true, ret, err);
}

int vm_pools_locate(const json_t *pools, const char *location, char **ret, struct qmp_error *err)
{
	char name[VM_POOL_NAME_MAX + 1];
	bool is_volume = pools && vm_location_looks(location) == VM_VOLUME;
	const char *volume = is_volume ? vm_pool_volume(location, name) : NULL, *why = NULL;
	const json_t *pool = volume ? json_object_get(pools, name) : NULL;
	/* Also what somebody else's record says is held against the table. */
	const struct vm_pool_type *type = pool && vm_pool_check(pool, NULL, 0, NULL, NULL) == 0 ? vm_pool_type_of(pool) : NULL;

	if (is_volume && !volume)
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL, "%s: behind a pool's name stands the name of a volume: up to %d "
				     "characters without \"/\", and no \".\" or \"-\" first", location, VM_VOLUME_NAME_MAX);
	if (volume && !type)
		return qmp_error_set(err, QMP_ERR_NOT_FOUND, -ENOENT, "%s: there is no pool named \"%s\"", location, name);
	*ret = volume ? type->locate(pool, volume, &why) : strdup(location);
	if (why)
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL, "%s: %s", location, why);
	return *ret ? 0 : qmp_error_errno(err, -ENOMEM, "%s", location);
}

int vm_pools_locate_disks(const json_t *pools, const json_t *spec, bool unknown_ok, json_t **ret, struct qmp_error *err)
{
	json_auto_t *copy = json_deep_copy(spec);
	json_t *disk;
	size_t i;

	if (!copy)
		return qmp_error_errno(err, -ENOMEM, "looking where the disks are");
	json_array_foreach(json_object_get(copy, "disks"), i, disk)
		for (json_t *image = disk; image; image = json_object_get(image, "backing")) {
			_cleanup_free_ char *path = NULL;
			struct qmp_error why = {0};
			int r = text_of(image, "path") ? vm_pools_locate(pools, text_of(image, "path"), &path, &why) : 0;
			if (r < 0 && !(unknown_ok && r != -ENOMEM))
				return qmp_error_set(err, why.kind, r, "disks.%s: %s", text_of(disk, "id") ? text_of(disk, "id") : "(new)",
						     why.message);
			if (path && json_object_set_new(image, "path", json_string(path)) < 0)
				return qmp_error_errno(err, -ENOMEM, "looking where the disks are");
		}
	*ret = take_ptr(copy);
	return 0;
}
