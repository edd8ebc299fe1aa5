#include "images/cache.h"
#include "images/draft.h"
#include "proto/base.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>

#define PREFIX  "sha256-"
#define PARTIAL "partial"

int img_cache_open(const struct vm_dirs *dirs, struct qmp_error *err)
{
	return vm_dir_open(dirs->state, "cache", true, err);
}

int img_cache_open_partial(const struct vm_dirs *dirs, struct qmp_error *err)
{
	return vm_dir_open(dirs->state, "cache/" PARTIAL, true, err);
}

char *img_cache_name(const char *sha256)
{
	return qmp_asprintf(PREFIX "%s", sha256);
}

static int64_t mtime_of(const struct stat *st)
{
	return (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
}

/* What stands beside NAME in DIR. */
static json_t *read_about(int dir, const char *name)
{
	_cleanup_free_ char *file = qmp_asprintf("%s.json", name);

	return file ? vm_file_read_json(dir, file) : NULL;
}

/* When it was used last: the time of what stands beside it; 0: that is not there. */
static int64_t used_of(int dir, const char *name)
{
	_cleanup_free_ char *file = qmp_asprintf("%s.json", name);
	struct stat st;

	return file && fstatat(dir, file, &st, AT_SYMLINK_NOFOLLOW) == 0 ? (int64_t)st.st_mtim.tv_sec : 0;
}

/* The entry NAME, whole and as it was made; new. */
static json_t *read_entry(const struct vm_dirs *dirs, int dir, const char *name)
{
	json_auto_t *about = read_about(dir, name);
	_cleanup_free_ char *path = qmp_asprintf("%s/cache/%s", dirs->state, name);
	struct stat st;

	if (!about || !path || fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode) ||
	    int_of(about, "size") != st.st_size || int_of(about, "mtime") != mtime_of(&st) || !text_of(about, "format"))
		return NULL;
	json_object_set_new(about, "name", json_string(name));
	json_object_set_new(about, "sha256", json_string(name + sizeof PREFIX - 1));
	json_object_set_new(about, "path", json_string(path));
	json_object_set_new(about, "allocated", json_integer((json_int_t)st.st_blocks * 512));
	json_object_set_new(about, "used", json_integer(used_of(dir, name)));
	return take_ptr(about);
}

json_t *img_cache_find(const struct vm_dirs *dirs, const char *sha256)
{
	_cleanup_fd_ int dir = vm_dir_open(dirs->state, "cache", false, NULL);
	_cleanup_free_ char *name = img_cache_name(sha256);

	return dir >= 0 && name ? read_entry(dirs, dir, name) : NULL;
}

static bool is_entry(const char *name)
{
	return strncmp(name, PREFIX, sizeof PREFIX - 1) == 0 && strlen(name) == sizeof PREFIX - 1 + IMG_SHA256_LEN;
}

/* The newest entry with that member. */
static json_t *find_by(const struct vm_dirs *dirs, const char *member, const char *value)
{
	_cleanup_fd_ int dir = vm_dir_open(dirs->state, "cache", false, NULL);
	int copy = dir >= 0 ? dup(dir) : -1;
	DIR *d = copy >= 0 ? fdopendir(copy) : NULL;
	const struct dirent *entry;
	json_t *found = NULL;

	while (d && (entry = readdir(d))) {
		json_auto_t *about = is_entry(entry->d_name) ? read_entry(dirs, dir, entry->d_name) : NULL;
		const char *text = about ? text_of(about, member) : NULL;
		if (!text || !streq(text, value) || (found && int_of(found, "mtime") > int_of(about, "mtime")))
			continue;
		json_decref(found);
		found = take_ptr(about);
	}
	if (d)
		(void)closedir(d);
	else if (copy >= 0)
		(void)close(copy);
	return found;
}

json_t *img_cache_use(const struct vm_dirs *dirs, json_t *entry_consume)
{
	json_auto_t *entry = entry_consume;
	const char *name = entry ? text_of(entry, "name") : NULL;
	_cleanup_fd_ int dir = entry ? vm_dir_open(dirs->state, "cache", false, NULL) : -1;
	_cleanup_free_ char *file = name ? qmp_asprintf("%s.json", name) : NULL;

	if (dir < 0 || !file || flock(dir, LOCK_EX) < 0 || faccessat(dir, name, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
		return NULL;
	/* Where the time cannot be set (a cache that is somebody else's) nothing of it can be removed either. */
	(void)utimensat(dir, file, NULL, AT_SYMLINK_NOFOLLOW);
	return take_ptr(entry);
}

json_t *img_cache_find_sha512(const struct vm_dirs *dirs, const char *sha512)
{
	return find_by(dirs, "sha512", sha512);
}

json_t *img_cache_find_url(const struct vm_dirs *dirs, const char *url_key)
{
	return find_by(dirs, "url-key", url_key);
}

/*
 * Descriptions are written, and what is left is swept, by one at a time: the folder is locked. The description comes first, so
 * that an image is never without.
 */
static int keep_locked(int cache, int dir, const char *name, int fd, const char *entry, json_t *about, struct qmp_error *err)
{
	_cleanup_free_ char *file = qmp_asprintf("%s.json", entry);
	json_auto_t *old = read_about(cache, entry);
	struct stat st;

	/* What is backed by the old one, of the same bytes, stands on this one from now on. */
	if (old && json_object_get(old, "overlays"))
		json_object_set(about, "overlays", json_object_get(old, "overlays"));
	if (!file || fchmod(fd, 0400) < 0 || fsync(fd) < 0 || fstat(fd, &st) < 0)
		return qmp_error_errno(err, file ? -errno : -ENOMEM, "keeping an image in the cache");
	if (json_object_set_new(about, "size", json_integer((json_int_t)st.st_size)) < 0 ||
	    json_object_set_new(about, "mtime", json_integer(mtime_of(&st))) < 0)
		return qmp_error_errno(err, -ENOMEM, "keeping an image in the cache");
	if (vm_file_write_json(cache, file, about, err) < 0)
		return err ? err->code : -EIO;
	if (renameat(dir, name, cache, entry) < 0 || fsync(cache) < 0)
		return qmp_error_errno(err, -errno, "keeping an image in the cache");
	return 0;
}

int img_cache_keep(const struct vm_dirs *dirs, int dir, const char *name, int fd, const char *sha256, json_t *about,
		   struct qmp_error *err)
{
	_cleanup_fd_ int cache = img_cache_open(dirs, err);
	_cleanup_free_ char *entry = img_cache_name(sha256);

	if (cache < 0)
		return cache;
	if (!entry || flock(cache, LOCK_EX) < 0)
		return qmp_error_errno(err, entry ? -errno : -ENOMEM, "keeping an image in the cache");
	return keep_locked(cache, dir, name, fd, entry, about, err);
}

/* OVERLAY's name beside the others', without those that are gone. */
static int add_overlay(json_t *about, const char *overlay)
{
	json_auto_t *overlays = json_array();
	const json_t *old;
	size_t i;

	json_array_foreach(json_object_get(about, "overlays"), i, old)
		if (json_is_string(old) && !streq(json_string_value(old), overlay) && access(json_string_value(old), F_OK) == 0)
			json_array_append(overlays, (json_t *)(uintptr_t)old);
	if (json_array_append_new(overlays, json_string(overlay)) < 0)
		return -EINVAL; /* it is no UTF-8 */
	return json_object_set(about, "overlays", overlays);
}

int img_cache_note_overlay(const struct vm_dirs *dirs, const char *base, const char *overlay, struct qmp_error *err)
{
	const char *slash = strrchr(base, '/'), *name = slash ? slash + 1 : base;
	_cleanup_fd_ int dir = is_entry(name) ? vm_dir_open(dirs->state, "cache", false, NULL) : -1;
	_cleanup_free_ char *file = qmp_asprintf("%s.json", name);
	json_auto_t *about = NULL;
	struct stat ours, its;

	if (dir < 0 || stat(base, &its) < 0 || fstatat(dir, name, &ours, AT_SYMLINK_NOFOLLOW) < 0 || its.st_ino != ours.st_ino ||
	    its.st_dev != ours.st_dev)
		return 0;
	if (!file || flock(dir, LOCK_EX) < 0)
		return qmp_error_errno(err, file ? -errno : -ENOMEM, "noting an overlay beside %s", base);
	about = read_about(dir, name);
	if (!about)
		return 0;
	if (add_overlay(about, overlay) < 0)
		return qmp_error_errno(err, -EINVAL, "noting an overlay beside %s", base);
	return vm_file_write_json(dir, file, about, err);
}

int img_cache_describe_part(int dir, const char *name, const json_t *about, struct qmp_error *err)
{
	_cleanup_free_ char *file = qmp_asprintf("%s.json", name);
	int r;

	if (!file || flock(dir, LOCK_EX) < 0)
		return qmp_error_errno(err, file ? -errno : -ENOMEM, "describing what is fetched");
	r = vm_file_write_json(dir, file, about, err);
	(void)flock(dir, LOCK_UN);
	return r;
}

/* ---- All of them ---- */

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static bool is_part(const char *name)
{
	return strlen(name) == IMG_SHA256_LEN;
}

static json_t *read_part(const struct vm_dirs *dirs, int dir, const char *name)
{
	json_auto_t *about = read_about(dir, name);
	_cleanup_free_ char *path = qmp_asprintf("%s/cache/" PARTIAL "/%s", dirs->state, name);
	struct stat st;

	if (!about)
		about = json_object();
	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return NULL;
	json_object_set_new(about, "name", json_string(name));
	json_object_set_new(about, "path", json_string(path));
	json_object_set_new(about, "size", json_integer((json_int_t)st.st_size));
	json_object_set_new(about, "allocated", json_integer((json_int_t)st.st_blocks * 512));
	json_object_set_new(about, "used", json_integer((json_int_t)st.st_mtim.tv_sec));
	json_object_set_new(about, "partial", json_true());
	json_object_del(about, "boot");
	return take_ptr(about);
}

static int list_folder(const struct vm_dirs *dirs, const char *folder, json_t *list, struct qmp_error *err)
{
	_cleanup_fd_ int dir = vm_dir_open(dirs->state, folder, false, NULL);
	bool parts = !streq(folder, "cache");
	struct dirent **names;
	int n;

	if (dir < 0)
		return 0;
	n = scandirat(dir, ".", &names, NULL, by_name);
	if (n < 0)
		return qmp_error_errno(err, -errno, "looking through %s/%s", dirs->state, folder);
	for (int i = 0; i < n; i++) {
		const char *name = names[i]->d_name;
		json_t *about = parts && is_part(name) ? read_part(dirs, dir, name) :
				!parts && is_entry(name) ? read_entry(dirs, dir, name) : NULL;
		if (about)
			json_array_append_new(list, about);
		free(names[i]);
	}
	free(names);
	return 0;
}

json_t *img_cache_list(const struct vm_dirs *dirs, struct qmp_error *err)
{
	json_auto_t *list = json_array();

	if (list_folder(dirs, "cache", list, err) < 0 || list_folder(dirs, "cache/" PARTIAL, list, err) < 0)
		return NULL;
	return take_ptr(list);
}

/* The image first: a description without one is nothing, and is swept. */
static int delete_both(int dir, const char *name, struct qmp_error *err)
{
	_cleanup_free_ char *about = qmp_asprintf("%s.json", name);

	if (!about || unlinkat(dir, name, 0) < 0)
		return qmp_error_errno(err, about ? -errno : -ENOMEM, "deleting %s from the cache", name);
	(void)unlinkat(dir, about, 0);
	return 0;
}

int img_cache_delete(const struct vm_dirs *dirs, const char *name, struct qmp_error *err)
{
	bool part = is_part(name);
	_cleanup_fd_ int dir = vm_dir_open(dirs->state, part ? "cache/" PARTIAL : "cache", false, NULL), fd = -1;

	if (dir < 0 || (!part && !is_entry(name)) || faccessat(dir, name, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
		return qmp_error_set(err, QMP_ERR_NOT_FOUND, -ENOENT, "there is no \"%s\" in the cache; image cache lists what is", name);
	fd = part ? openat(dir, name, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC) : -1;
	if (part && (fd < 0 || img_draft_lock(fd, false) < 0))
		return qmp_error_set(err, QMP_ERR_BUSY, -EBUSY, "%s is being fetched at this moment", name);
	return delete_both(dir, name, err);
}

static bool ends_in(const char *name, const char *tail)
{
	size_t n = strlen(name), k = strlen(tail);

	return n > k && streq(name + n - k, tail);
}

/* A description without its image, or one that was never whole; a part without its description, which nobody is fetching. */
static void remove_left(int dir, const char *name)
{
	_cleanup_free_ char *other = ends_in(name, ".json") ? strndup(name, strlen(name) - 5) :
				     is_part(name) ? qmp_asprintf("%s.json", name) : NULL;
	_cleanup_fd_ int fd = -1;

	if (name[0] == '.' && ends_in(name, ".json.tmp")) {
		(void)unlinkat(dir, name, 0);
		return;
	}
	if (!other || faccessat(dir, other, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return;
	fd = is_part(name) ? openat(dir, name, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC) : -1;
	if (!is_part(name) || (fd >= 0 && img_draft_lock(fd, false) == 0))
		(void)unlinkat(dir, name, 0);
}

static void sweep_folder(const struct vm_dirs *dirs, const char *folder)
{
	_cleanup_fd_ int dir = vm_dir_open(dirs->state, folder, false, NULL);
	int copy = dir >= 0 && flock(dir, LOCK_EX | LOCK_NB) == 0 ? dup(dir) : -1;
	DIR *d = copy >= 0 ? fdopendir(copy) : NULL;
	const struct dirent *entry;

	while (d && (entry = readdir(d)))
		remove_left(dir, entry->d_name);
	if (d)
		(void)closedir(d);
}

void img_cache_sweep(const struct vm_dirs *dirs)
{
	_cleanup_free_ char *folder = qmp_asprintf("%s/cache", dirs->state);

	if (folder)
		img_draft_sweep(folder);
	sweep_folder(dirs, "cache");
	sweep_folder(dirs, "cache/" PARTIAL);
}
