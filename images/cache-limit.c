#include "images/cache-limit.h"
#include "images/cache.h"
#include "images/catalogue.h"
#include "images/place.h"
#include "launcher/pool.h"
#include "launcher/spec.h"
#include "proto/base.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <time.h>

#define FILE_NAME   "cache.json"
#define DEFAULT_MAX ((uint64_t)64 << 30)
#define FRESH_S     3600

/* ---- The limit ---- */

static uint64_t default_limit(const struct vm_dirs *dirs)
{
	_cleanup_fd_ int dir = img_cache_open(dirs, NULL);
	struct statvfs v;
	uint64_t quarter;

	if (dir < 0 || fstatvfs(dir, &v) < 0 || v.f_blocks == 0)
		return DEFAULT_MAX;
	quarter = (uint64_t)v.f_blocks * v.f_frsize / 4;
	return quarter < DEFAULT_MAX ? quarter : DEFAULT_MAX;
}

int img_cache_limit_read(const struct vm_dirs *dirs, struct img_cache_limit *ret, struct qmp_error *err)
{
	_cleanup_fd_ int dir = vm_dir_open(dirs->conf, NULL, false, NULL);
	_cleanup_free_ char *text = NULL;
	json_auto_t *config = NULL;
	const json_t *limit;
	size_t len;
	int r = dir < 0 ? -ENOENT : vm_file_read(dir, FILE_NAME, &text, &len, err);

	if (r == -ENOENT) {
		if (err)
			*err = (struct qmp_error){0};
		*ret = (struct img_cache_limit){default_limit(dirs), true};
		return 0;
	}
	if (r < 0)
		return r;
	config = qmp_json_decode(text, len, NULL);
	limit = json_object_get(config, "limit");
	ret->is_default = false;
	ret->bytes = UINT64_MAX;
	if (json_object_size(config) == 1 && (json_is_null(limit) || (vm_size_parse(limit, &ret->bytes) == 0 && ret->bytes > 0)))
		return 0;
	return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL,
			     "%s/" FILE_NAME ": {\"limit\": SIZE} is wanted, as in \"20G\", or null for none; \"image cache --limit\" writes it",
			     dirs->conf);
}

int img_cache_limit_write(const struct vm_dirs *dirs, uint64_t bytes, struct qmp_error *err)
{
	_cleanup_fd_ int dir = vm_dir_open(dirs->conf, NULL, true, err);
	json_auto_t *config = json_pack("{s:o}", "limit", bytes == UINT64_MAX ? json_null() : json_integer((json_int_t)bytes));

	if (dir < 0)
		return dir;
	if (bytes > 0)
		return config ? vm_file_write_json(dir, FILE_NAME, config, err) :
				qmp_error_errno(err, -ENOMEM, "writing %s/" FILE_NAME, dirs->conf);
	if ((unlinkat(dir, FILE_NAME, 0) < 0 && errno != ENOENT) || fsync(dir) < 0)
		return qmp_error_errno(err, -errno, "removing %s/" FILE_NAME, dirs->conf);
	return 0;
}

uint64_t img_cache_size(const json_t *list)
{
	const json_t *entry;
	uint64_t sum = 0;
	size_t i;

	json_array_foreach(list, i, entry)
		sum += (uint64_t)int_of(entry, "allocated");
	return sum;
}

/* ---- Who needs an entry ---- */

/* One that is not mounted now may have overlays: then nothing goes. */
static int check_mounted(const json_t *pool, struct qmp_error *err)
{
	const char *path = text_of(pool, "path");
	_cleanup_free_ char *real = realpath(path, NULL);
	json_auto_t *mount = real ? img_place_mount(real) : NULL;

	if (!streq(text_of(pool, "type"), "mount") || (mount && streq(text_of(mount, "path"), real)))
		return 0;
	return qmp_error_set(err, QMP_ERR_STATE, -EBUSY, "which images the pool %s has cannot be told: nothing is mounted at %s",
			     text_of(pool, "name"), path);
}

/* Images of pools that are folders. */
static int add_pool(struct img_catalogue *c, const struct vm_dirs *dirs, const char *name, struct qmp_error *err)
{
	json_auto_t *pool = NULL;
	const char *path;
	int r = vm_pool_read(dirs, name, &pool, err);

	if (r < 0)
		return r;
	path = text_of(pool, "path");
	if (!path || streq(text_of(pool, "type"), "block"))
		return 0;
	r = check_mounted(pool, err);
	return r < 0 || access(path, F_OK) < 0 ? r : img_catalogue_add_folder(c, path, false, err);
}

static int add_pools(struct img_catalogue *c, const struct vm_dirs *dirs, struct qmp_error *err)
{
	json_auto_t *names = NULL;
	const json_t *name;
	size_t i;
	int r = vm_pool_names(dirs, &names, err);

	json_array_foreach(names, i, name)
		r = r < 0 ? r : add_pool(c, dirs, json_string_value(name), err);
	return r;
}

/* Overlays that were noted when they were made; those that are gone by now are nobody's. */
static int add_noted(struct img_catalogue *c, const json_t *list, struct qmp_error *err)
{
	const json_t *entry, *path;
	size_t i, k;
	int r = 0;

	json_array_foreach(list, i, entry)
		json_array_foreach(json_object_get(entry, "overlays"), k, path)
			if (r == 0 && json_is_string(path) && access(json_string_value(path), F_OK) == 0)
				r = img_catalogue_add(c, json_string_value(path), err);
	return r;
}

static int read_catalogue(const struct vm_dirs *dirs, const json_t *list, struct img_catalogue **ret, struct qmp_error *err)
{
	_cleanup_catalogue_ struct img_catalogue *c = NULL;
	_cleanup_free_ char *folder = qmp_asprintf("%s/cache", dirs->state);
	const char *unknown;
	int r = folder ? img_catalogue_read(dirs, &c, err) : qmp_error_errno(err, -ENOMEM, "looking who needs what is in the cache");

	if (r == 0)
		r = img_catalogue_add_folder(c, folder, true, err);
	if (r == 0)
		r = add_pools(c, dirs, err);
	if (r == 0)
		r = add_noted(c, list, err);
	if (r < 0)
		return r;
	unknown = json_string_value(json_array_get(img_catalogue_unknown(c), 0));
	if (unknown)
		return qmp_error_set(err, QMP_ERR_STATE, -EBUSY, "which images the VM %s has cannot be told: its files are damaged", unknown);
	*ret = take_ptr(c);
	return 0;
}

/*
 * Whether anybody has it open, QEMU with an overlay that nobody told us of, for instance: then no lease can be had. Who opens it
 * while we have the lease makes the kernel send a signal, which is to be one that is ignored unless somebody asks for it.
 */
static bool is_open(const char *path)
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0 || fcntl(fd, F_SETSIG, SIGURG) < 0)
		return fd >= 0 || errno != ENOENT;
	if (fcntl(fd, F_SETLEASE, F_WRLCK) < 0)
		return errno == EAGAIN; /* a file system without leases: the rest has to do */
	(void)fcntl(fd, F_SETLEASE, F_UNLCK);
	return false;
}

static bool is_needed(const struct img_catalogue *c, const json_t *entry)
{
	const char *path = text_of(entry, "path");
	json_auto_t *users = NULL, *overlays = NULL;

	if (json_is_true(json_object_get(entry, "partial")))
		return false; /* img_cache_delete leaves one that is being fetched */
	users = img_catalogue_users(c, path);
	overlays = img_catalogue_overlays(c, path, false);
	return !users || !overlays || json_array_size(users) > 0 || json_array_size(overlays) > 0 || is_open(path);
}

/* ---- Removing ---- */

/* The one that was used least recently; taken out of LIST; new. NULL: there is none. */
static json_t *take_oldest(json_t *list)
{
	size_t oldest = 0, i;
	json_t *entry;

	json_array_foreach(list, i, entry)
		if (int_of(entry, "used") < int_of(json_array_get(list, oldest), "used"))
			oldest = i;
	entry = json_incref(json_array_get(list, oldest));
	(void)json_array_remove(list, oldest);
	return entry;
}

/* Of those that nobody needs, oldest first, as many as must go; RET_NAMES: theirs. What is then still beyond LIMIT. */
static uint64_t remove_beyond(const struct vm_dirs *dirs, json_t *list, const struct img_catalogue *c, uint64_t limit, json_t *ret_names)
{
	uint64_t size = img_cache_size(list);
	int64_t now = (int64_t)time(NULL);

	while (size > limit && json_array_size(list) > 0) {
		json_auto_t *entry = take_oldest(list);
		const char *name = text_of(entry, "name");
		if (int_of(entry, "used") > now - FRESH_S || is_needed(c, entry) || img_cache_delete(dirs, name, NULL) < 0)
			continue;
		size -= (uint64_t)int_of(entry, "allocated");
		json_array_append(ret_names, json_object_get(entry, "name"));
	}
	return size > limit ? size - limit : 0;
}

static char *tell(const json_t *names, uint64_t beyond, uint64_t limit)
{
	_cleanup_free_ char *list = NULL, *kept = NULL;
	const json_t *name;
	size_t i;

	json_array_foreach(names, i, name) {
		char *longer = qmp_asprintf("%s%s%s", list ? list : "", list ? ", " : "", json_string_value(name));
		free(list);
		list = longer;
	}
	if (beyond > 0)
		kept = qmp_asprintf("the cache of images is %llu MiB beyond its limit of %llu MiB: what else is in it is needed, or was "
				    "used within the last hour",
				    (unsigned long long)(beyond >> 20), (unsigned long long)(limit >> 20));
	if (!list)
		return take_ptr(kept);
	return qmp_asprintf("removed from the cache of images, whose limit is %llu MiB: %s%s%s", (unsigned long long)(limit >> 20), list,
			    kept ? "; " : "", kept ? kept : "");
}

int img_cache_trim(const struct vm_dirs *dirs, char **ret_note, struct qmp_error *err)
{
	_cleanup_catalogue_ struct img_catalogue *c = NULL;
	_cleanup_fd_ int cache = img_cache_open(dirs, err);
	json_auto_t *list = NULL, *names = json_array();
	struct img_cache_limit limit;
	uint64_t beyond;
	int r = cache < 0 ? cache : img_cache_limit_read(dirs, &limit, err);

	*ret_note = NULL;
	if (r < 0)
		return r;
	if (flock(cache, LOCK_EX) < 0)
		return qmp_error_errno(err, -errno, "locking the cache of images");
	list = img_cache_list(dirs, err);
	if (!list)
		return err ? err->code : -EIO;
	if (img_cache_size(list) <= limit.bytes)
		return 0;
	r = read_catalogue(dirs, list, &c, err);
	if (r < 0)
		return r;
	beyond = remove_beyond(dirs, list, c, limit.bytes, names);
	*ret_note = tell(names, beyond, limit.bytes);
	return 0;
}
