#include "images/pool.h"
#include "images/answer.h"
#include "images/draft.h"
#include "images/header.h"
#include "images/place.h"
#include "images/tool.h"
#include "launcher/spec.h"
#include "proto/base.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <linux/fs.h>

static const struct img_pool_type *const types[] = {&img_pool_dir, &img_pool_mount, &img_pool_btrfs, &img_pool_lvm,
						     &img_pool_lvm_thin, &img_pool_zfs, &img_pool_block, &img_pool_rbd};

/* ---- Opening, making, forgetting ---- */

static int take_definition(uv_loop_t *loop, const struct vm_dirs *dirs, json_t *definition_consume, struct img_pool *ret,
			   struct qmp_error *err)
{
	json_auto_t *definition = definition_consume;
	const char *type = text_of(definition, "type");
	struct img_pool p = {.loop = loop, .dirs = dirs, .name = text_of(definition, "name"), .notes = json_array()};

	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		if (streq(types[i]->name, type))
			p.type = types[i];
	if (p.type == &img_pool_btrfs && json_is_true(json_object_get(definition, "subvolumes")))
		p.type = &img_pool_btrfs_subvolumes;
	if (!p.type)
		return qmp_error_set(err, QMP_ERR_INTERNAL, -ENOSYS, "pools of the type %s are not known here", type);
	if (!p.notes)
		return qmp_error_errno(err, -ENOMEM, "the pool %s", p.name);
	p.definition = take_ptr(definition);
	*ret = p;
	return 0;
}

int img_pool_open(uv_loop_t *loop, const struct vm_dirs *dirs, const char *name, struct img_pool *ret, struct qmp_error *err)
{
	json_t *definition;
	int r = vm_pool_read(dirs, name, &definition, err);

	return r < 0 ? r : take_definition(loop, dirs, definition, ret, err);
}

void img_pool_close(struct img_pool *p)
{
	json_decref(p->definition);
	json_decref(p->notes);
	*p = (struct img_pool){0};
}

/* Of two that make it at once one is the first: DIR is locked. */
static int define(int dir, struct img_pool *p, const json_t *definition, struct qmp_error *err)
{
	_cleanup_free_ char *file = qmp_asprintf("%s.json", p->name);

	if (!file)
		return qmp_error_errno(err, -ENOMEM, "making the pool %s", p->name);
	if (faccessat(dir, file, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return qmp_error_set(err, QMP_ERR_EXISTS, -EEXIST, "there is a pool named %s already; nothing was changed", p->name);
	if (p->type->prepare && p->type->prepare(p, err) < 0)
		return err ? err->code : -EIO;
	vm_file_remove_unfinished(dir, file);
	return vm_file_make_json(dir, file, definition, err);
}

int img_pool_define(uv_loop_t *loop, const struct vm_dirs *dirs, const json_t *definition, struct img_pool *ret,
		    struct qmp_error *err)
{
	_cleanup_fd_ int dir = -1;
	struct img_pool p;
	int r = vm_pool_check(definition, NULL, 0, NULL, err);

	if (r == 0)
		r = take_definition(loop, dirs, json_deep_copy(definition), &p, err);
	if (r < 0)
		return r;
	dir = vm_dir_open(dirs->conf, "pools", true, err);
	r = dir < 0 ? dir : flock(dir, LOCK_EX) < 0 ? qmp_error_errno(err, -errno, "making the pool %s", p.name) : 0;
	if (r == 0)
		r = define(dir, &p, definition, err);
	if (r < 0)
		img_pool_close(&p);
	else
		*ret = p;
	return r;
}

int img_pool_undefine(const struct vm_dirs *dirs, const char *name, struct qmp_error *err)
{
	_cleanup_free_ char *file = qmp_asprintf("%s.json", name);
	_cleanup_fd_ int dir = vm_dir_open(dirs->conf, "pools", false, NULL);

	if (!file)
		return qmp_error_errno(err, -ENOMEM, "forgetting the pool %s", name);
	if (dir >= 0 && unlinkat(dir, file, 0) == 0 && fsync(dir) == 0)
		return 0;
	if (streq(name, VM_POOL_DEFAULT))
		return qmp_error_set(err, QMP_ERR_STATE, -EPERM, "the pool %s is always there; there is no definition to forget", name);
	return qmp_error_errno(err, -errno, "forgetting the pool %s", name);
}

int img_pool_lock(const struct img_pool *p, int *ret_fd, struct qmp_error *err)
{
	_cleanup_free_ char *file = qmp_asprintf("%s.lock", p->name);
	_cleanup_fd_ int dir = vm_dir_open(p->dirs->state, "pools", true, err), fd = -1;
	int r;

	if (dir < 0 || !file)
		return dir < 0 ? dir : qmp_error_errno(err, -ENOMEM, "locking the pool %s", p->name);
	fd = openat(dir, file, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	do
		r = fd < 0 || flock(fd, LOCK_EX) < 0 ? -errno : 0;
	while (r == -EINTR);
	if (r < 0)
		return qmp_error_errno(err, r, "locking the pool %s", p->name);
	*ret_fd = take_fd(&fd);
	return 0;
}

/* One file for all, of which each maker has locked the byte that its volume's path comes to (FNV-1a). */
int img_pool_lock_making(const struct img_pool *p, const char *name, int *ret_fd, struct qmp_error *err)
{
	_cleanup_fd_ int dir = vm_dir_open(p->dirs->state, "pools", true, err), fd = -1;
	_cleanup_free_ char *path = img_pool_path(p, name);
	uint64_t hash = 0xcbf29ce484222325;
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};

	if (dir < 0 || !path)
		return dir < 0 ? dir : qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);
	for (const char *c = path; *c; c++)
		hash = (hash ^ (unsigned char)*c) * 0x100000001b3;
	lock.l_start = (off_t)(hash >> 2);
	fd = openat(dir, "making", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return qmp_error_errno(err, -errno, "the pool %s: locking what is made", p->name);
	if (fcntl(fd, F_OFD_SETLK, &lock) < 0)
		return errno == EAGAIN ? qmp_error_set(err, QMP_ERR_BUSY, -EBUSY, "%s is being made by another program at this moment",
						       path)
				       : qmp_error_errno(err, -errno, "the pool %s: locking what is made", p->name);
	*ret_fd = take_fd(&fd);
	return 0;
}

/* ENTRY: as list_hidden has it. Somebody may be at work on it: then it stays. */
static int sweep(struct img_pool *p, const char *entry, struct qmp_error *err)
{
	const char *at = img_pool_is_hidden(p, entry) ? NULL : strchr(entry, '@');
	_cleanup_free_ char *volume = at ? strndup(entry, (size_t)(at - entry)) : strdup(entry);
	_cleanup_free_ char *hidden = at ? qmp_asprintf("%s%s", p->type->hidden, at + strlen("@" IMG_POOL_SNAPSHOT)) : NULL;
	_cleanup_fd_ int making = -1;

	if (!volume || (at && !hidden))
		return qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);
	if (img_pool_lock_making(p, at ? hidden : entry, &making, NULL) < 0)
		return 0;
	return at ? p->type->snapshots->remove(p, volume, at + 1, err) : p->type->remove(p, volume, err);
}

int img_pool_sweep(struct img_pool *p, struct qmp_error *err)
{
	json_auto_t *entries = json_array();
	const json_t *entry;
	size_t i;
	int r = entries && p->type->list_hidden ? p->type->list_hidden(p, entries, err) : 0;

	json_array_foreach(entries, i, entry) {
		int swept = sweep(p, json_string_value(entry), r == 0 ? err : NULL);
		r = r < 0 ? r : swept;
	}
	return r;
}

int img_pool_refresh(struct img_pool *p, struct qmp_error *err)
{
	_cleanup_fd_ int lock = -1;
	int r = img_pool_lock(p, &lock, err);

	if (r == 0 && p->type->refresh)
		r = p->type->refresh(p, err);
	return r < 0 ? r : img_pool_sweep(p, err);
}

/* ---- What is in it ---- */

static int compare_volumes(const void *a, const void *b)
{
	return strcmp(text_of(*(json_t *const *)a, "name"), text_of(*(json_t *const *)b, "name"));
}

static json_t *sorted(const json_t *volumes)
{
	size_t n = json_array_size(volumes);
	json_t **list = calloc(n + 1, sizeof(json_t *)), *result = list ? json_array() : NULL;

	for (size_t i = 0; i < n && list; i++)
		list[i] = json_array_get(volumes, i);
	if (list && n > 1)
		qsort(list, n, sizeof(json_t *), compare_volumes);
	for (size_t i = 0; i < n && result; i++)
		json_array_append(result, list[i]);
	free(list);
	return result;
}

int img_pool_volumes(struct img_pool *p, json_t **ret, struct qmp_error *err)
{
	json_auto_t *all = json_array();
	int r = all ? p->type->list(p, all, err) : -ENOMEM;
	json_t *list = r == 0 ? sorted(all) : NULL;

	if (r == 0 && !list)
		r = -ENOMEM;
	if (r < 0)
		return qmp_error_errno(err, r, "listing the pool %s", p->name);
	*ret = list;
	return 0;
}

static void add_sums(json_t *info, const json_t *volumes)
{
	json_int_t promised = 0, allocation = 0, room;
	const json_t *v;
	size_t i;

	json_array_foreach(volumes, i, v) {
		promised += int_of(v, "capacity");
		allocation += int_of(v, "allocation");
	}
	json_object_set_new(info, "volumes", json_integer((json_int_t)json_array_size(volumes)));
	json_object_set_new(info, "allocation", json_integer(allocation));
	json_object_set_new(info, "promised", json_integer(promised));
	if (!json_object_get(info, "available"))
		return; /* it does not say */
	room = int_of(info, "available") + allocation;
	json_object_set_new(info, "overcommitted", json_boolean(promised > room));
	if (room > 0)
		json_object_set_new(info, "committed-percent", json_integer((json_int_t)((double)promised * 100 / (double)room)));
}

json_t *img_pool_info(struct img_pool *p)
{
	json_t *info = json_pack("{s:s, s:s, s:s*}", "name", p->name, "type", p->type->name, "description",
				 text_of(p->definition, "description"));
	json_auto_t *volumes = NULL;
	struct qmp_error why = {0};
	const char *key;
	json_t *value;

	json_object_foreach(p->definition, key, value)
		json_object_set(info, key, value);
	if ((text_of(p->definition, "path") && img_answer_check(text_of(p->definition, "path"), &why) < 0) ||
	    p->type->measure(p, info, &why) < 0 || img_pool_volumes(p, &volumes, &why) < 0) {
		json_object_set_new(info, "state", json_string("unavailable"));
		json_object_set_new(info, "why", qmp_json_text(why.message));
		return info;
	}
	json_object_set_new(info, "state", json_string("ready"));
	add_sums(info, volumes);
	json_object_set(info, "notes", p->notes);
	return info;
}

/* ---- For the types ---- */

const char *img_pool_final_name(const struct img_pool *p, const char *name)
{
	return img_pool_is_hidden(p, name) ? name + strlen(p->type->hidden) : name;
}

bool img_pool_is_hidden(const struct img_pool *p, const char *name)
{
	return p->type->hidden && strncmp(name, p->type->hidden, strlen(p->type->hidden)) == 0;
}

char *img_pool_path(const struct img_pool *p, const char *volume)
{
	const char *why = NULL;

	return vm_pool_type_of(p->definition)->locate(p->definition, volume, &why);
}

int img_pool_tool(struct img_pool *p, const char *doing, const char *package, const char *const *argv, char **ret_output,
		  struct qmp_error *err)
{
	_cleanup_free_ char *what = qmp_asprintf("the pool %s: %s", p->name, doing);
	struct img_tool_options o = {.doing = what ? what : doing, .argv = argv, .package = package};

	return img_tool_call(p->loop, &o, ret_output, NULL, err);
}

void img_pool_note(struct img_pool *p, const char *fmt, ...)
{
	char text[600];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	json_array_append_new(p->notes, qmp_json_text(text));
}

int img_pool_measure_folder(struct img_pool *p, const char *path, json_t *info, struct qmp_error *err)
{
	json_auto_t *mount = NULL, *md = NULL;
	struct statvfs fs;
	struct stat st;
	const char *note;
	int64_t unit;

	if (statvfs(path, &fs) < 0 || stat(path, &st) < 0)
		return qmp_error_errno(err, -errno, "%s", path);
	unit = (int64_t)fs.f_frsize;
	json_object_set_new(info, "capacity", json_integer(unit * (int64_t)fs.f_blocks));
	json_object_set_new(info, "used", json_integer(unit * (int64_t)(fs.f_blocks - fs.f_bfree)));
	json_object_set_new(info, "available", json_integer(unit * (int64_t)fs.f_bavail));
	if (fs.f_flag & ST_RDONLY)
		img_pool_note(p, "%s is mounted read-only", path);
	mount = img_place_mount(path);
	if (text_of(mount, "filesystem"))
		json_object_set(info, "filesystem", json_object_get(mount, "filesystem"));
	if (text_of(mount, "source"))
		json_object_set(info, "source", json_object_get(mount, "source"));
	note = mount ? img_place_locks(text_of(mount, "filesystem"), text_of(mount, "options")) : NULL;
	if (note)
		img_pool_note(p, "%s", note);
	md = img_place_md(st.st_dev);
	if (md)
		json_object_set(info, "md", md);
	if (md && !json_is_true(json_object_get(md, "healthy")))
		img_pool_note(p, "the md array that it is on is %s", text_of(md, "health"));
	return 0;
}

void img_pool_count_snapshot(json_t *volumes, const char *volume, int64_t allocation)
{
	json_t *v;
	size_t i;

	json_array_foreach(volumes, i, v) {
		if (!streq(text_of(v, "name"), volume))
			continue;
		json_object_set_new(v, "snapshots", json_integer(int_of(v, "snapshots") + 1));
		json_object_set_new(v, "allocation", json_integer(int_of(v, "allocation") + allocation));
	}
}

/* Of a file or device at PATH. */
static int64_t length_of(const char *path, const struct stat *st)
{
	_cleanup_fd_ int fd = S_ISBLK(st->st_mode) ? open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC) : -1;
	uint64_t size = 0;

	if (!S_ISBLK(st->st_mode))
		return st->st_size;
	return fd >= 0 && ioctl(fd, BLKGETSIZE64, &size) == 0 ? (int64_t)size : 0;
}

int img_pool_add_file(json_t *volumes, const char *name, const char *path)
{
	struct img_header h = {.format = ""};
	struct stat st;
	int64_t length;
	json_t *v;

	if (stat(path, &st) < 0 || !(S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)))
		return -ENOENT;
	length = length_of(path, &st);
	if (img_header_read(path, &h, NULL) < 0)
		h = (struct img_header){.format = "unknown"};
	v = json_pack("{s:o, s:o, s:s, s:I, s:I, s:I}", "name", qmp_json_text(name), "path", qmp_json_text(path), "format", h.format,
		      "capacity", (json_int_t)(h.virtual_size && !streq(h.format, "raw") ? h.virtual_size : (uint64_t)length),
		      "allocation", (json_int_t)(S_ISBLK(st.st_mode) ? length : 512 * (int64_t)st.st_blocks), "physical",
		      (json_int_t)length);
	if (v && h.has_backing)
		json_object_set_new(v, "origin", qmp_json_text(h.backing));
	return json_array_append_new(volumes, v) < 0 ? -ENOMEM : 0;
}

int img_pool_list_folder(struct img_pool *p, const char *folder, json_t *volumes, struct qmp_error *err)
{
	DIR *dir = opendir(folder);
	const struct dirent *entry;
	int r = 0;

	if (!dir)
		return qmp_error_errno(err, -errno, "%s", folder);
	while (r >= 0 && (entry = readdir(dir))) {
		_cleanup_free_ char *path = vm_volume_name_valid(entry->d_name) ? img_pool_path(p, entry->d_name) : NULL;
		if (path)
			r = img_pool_add_file(volumes, entry->d_name, path);
		if (r == -ENOENT)
			r = 0;
	}
	(void)closedir(dir);
	return r < 0 ? qmp_error_errno(err, r, "listing %s", folder) : 0;
}
