/*
 * Pools of the type btrfs: files in a folder, or each in a subvolume of its own; clones share what they have in common.
 *
 * A subvolume is made in steps, under a hidden name until it is whole.
 */
#include "images/pool.h"
#include "proto/base.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <linux/btrfs.h>
#include <linux/fs.h>
#include <linux/magic.h>

#define PACKAGE "btrfs-progs"
#define HIDDEN	"." IMG_POOL_HIDDEN /* before a subvolume's name */
#define SNAPSHOTS ".qmpctl-snapshots" /* in it a folder each volume, in that a subvolume, read-only, each snapshot */

static const char *path_of(const struct img_pool *p)
{
	return text_of(p->definition, "path");
}

static bool has_subvolumes(const struct img_pool *p)
{
	return json_is_true(json_object_get(p->definition, "subvolumes"));
}

static int check_btrfs(struct img_pool *p, struct qmp_error *err)
{
	struct statfs fs;

	if (statfs(path_of(p), &fs) < 0)
		return qmp_error_errno(err, -errno, "%s", path_of(p));
	return fs.f_type == BTRFS_SUPER_MAGIC ? 0 : qmp_error_set(err, QMP_ERR_HOST, -EINVAL, "%s is not on Btrfs; make the pool one of "
								    "the type dir", path_of(p));
}

static int make_subvolume(struct img_pool *p, const char *path, struct qmp_error *err)
{
	return img_pool_tool(p, "making a subvolume", PACKAGE, (const char *[]){"btrfs", "subvolume", "create", "--", path, NULL}, NULL,
			     err);
}

static int delete_subvolume(struct img_pool *p, const char *path, struct qmp_error *err)
{
	return img_pool_tool(p, "deleting a subvolume", PACKAGE,
			     (const char *[]){"btrfs", "subvolume", "delete", "--commit-after", "--", path, NULL}, NULL, err);
}

static int prepare_btrfs(struct img_pool *p, struct qmp_error *err)
{
	_cleanup_free_ char *parent = strdup(path_of(p));
	char *slash = parent ? strrchr(parent, '/') : NULL;
	struct statfs fs;

	if (!slash)
		return qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);
	slash[slash == parent] = '\0';
	/* Snapshots of the pool as a whole are one command when it is a subvolume. */
	if (access(path_of(p), F_OK) < 0 && errno == ENOENT && statfs(parent, &fs) == 0 && fs.f_type == BTRFS_SUPER_MAGIC) {
		int r = make_subvolume(p, path_of(p), err);
		if (r < 0)
			return r;
	}
	return check_btrfs(p, err);
}

static int list_hidden_btrfs(struct img_pool *p, json_t *names, struct qmp_error *err)
{
	DIR *dir = opendir(path_of(p));
	const struct dirent *entry;
	int r = dir ? 0 : qmp_error_errno(err, -errno, "%s", path_of(p));

	while (r == 0 && dir && (entry = readdir(dir)))
		if (img_pool_is_hidden(p, entry->d_name))
			r = json_array_append_new(names, qmp_json_text(entry->d_name)) < 0 ? -ENOMEM : 0;
	if (dir)
		(void)closedir(dir);
	return r;
}

static int refresh_btrfs(struct img_pool *p, struct qmp_error *err)
{
	int r = check_btrfs(p, err);

	if (r == 0 && !has_subvolumes(p))
		return img_pool_dir.refresh(p, err);
	return r;
}

static int measure_btrfs(struct img_pool *p, json_t *info, struct qmp_error *err)
{
	int r = check_btrfs(p, err);

	if (r == 0 && json_is_true(json_object_get(p->definition, "nodatacow")))
		img_pool_note(p, "nodatacow: data of new volumes has no checksums; a clone's first write to a shared block is copied all the "
				 "same");
	return r < 0 ? r : img_pool_measure_folder(p, path_of(p), info, err);
}

static int list_btrfs(struct img_pool *p, json_t *volumes, struct qmp_error *err)
{
	return img_pool_list_folder(p, path_of(p), volumes, err);
}

const struct img_pool_type img_pool_btrfs = {
	.name = "btrfs",
	.prepare = prepare_btrfs,
	.refresh = refresh_btrfs,
	.measure = measure_btrfs,
	.list = list_btrfs,
};

/* ---- With subvolumes ---- */

/* The subvolume of VOLUME, and its name while it is made, which may be the same; new. */
static int names_of(struct img_pool *p, const char *volume, char **ret_path, char **ret_hidden, struct qmp_error *err)
{
	*ret_path = qmp_asprintf("%s/%s", path_of(p), volume);
	*ret_hidden = qmp_asprintf("%s/%s%s", path_of(p), img_pool_is_hidden(p, volume) ? "" : HIDDEN, volume);
	if (!*ret_path || !*ret_hidden)
		return qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);
	return 0;
}

static int refuse_if_there(const char *path, struct qmp_error *err)
{
	struct stat st;

	return lstat(path, &st) == 0 ? qmp_error_set(err, QMP_ERR_EXISTS, -EEXIST, "%s is there already; nothing was changed", path) : 0;
}

/* The hidden name of VOLUME may be taken by what a killed maker has left. */
static void sweep_for(struct img_pool *p, const char *volume)
{
	if (!img_pool_is_hidden(p, volume))
		(void)img_pool_sweep(p, NULL);
}

/* The file in the subvolume HIDDEN, of SIZE bytes. */
static int make_file(struct img_pool *p, const char *hidden, uint64_t size, struct qmp_error *err)
{
	_cleanup_free_ char *path = qmp_asprintf("%s/disk", hidden);
	_cleanup_fd_ int fd = path ? open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600) : -1;
	int flags = 0;

	if (fd < 0)
		return qmp_error_errno(err, path ? -errno : -ENOMEM, "%s/disk", hidden);
	/* Only of an empty file. */
	if (json_is_true(json_object_get(p->definition, "nodatacow")) &&
	    (ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0 || (flags |= FS_NOCOW_FL, ioctl(fd, FS_IOC_SETFLAGS, &flags) < 0)))
		return qmp_error_errno(err, -errno, "%s: nodatacow", path);
	return ftruncate(fd, (off_t)size) < 0 || fsync(fd) < 0 ? qmp_error_errno(err, -errno, "%s", path) : 0;
}

static int name_it(const char *hidden, const char *path, struct qmp_error *err)
{
	if (streq(hidden, path))
		return 0;
	return renameat2(AT_FDCWD, hidden, AT_FDCWD, path, RENAME_NOREPLACE) < 0 ? qmp_error_errno(err, -errno, "keeping %s", path) : 0;
}

static int create_btrfs(struct img_pool *p, const char *volume, uint64_t size, struct qmp_error *err)
{
	_cleanup_free_ char *path = NULL, *hidden = NULL;
	int r = names_of(p, volume, &path, &hidden, err);

	if (r == 0)
		r = refuse_if_there(path, err);
	if (r == 0)
		sweep_for(p, volume);
	if (r == 0)
		r = make_subvolume(p, hidden, err);
	if (r < 0)
		return r;
	r = make_file(p, hidden, size, err);
	if (r == 0)
		r = name_it(hidden, path, err);
	if (r < 0)
		(void)delete_subvolume(p, hidden, NULL);
	return r;
}

static int remove_btrfs(struct img_pool *p, const char *volume, struct qmp_error *err)
{
	_cleanup_free_ char *path = NULL, *hidden = NULL;
	int r = names_of(p, volume, &path, &hidden, err);

	/* What is left of it when this is cut short has the hidden name. */
	if (r == 0)
		sweep_for(p, volume);
	if (r == 0 && !streq(path, hidden) && renameat2(AT_FDCWD, path, AT_FDCWD, hidden, RENAME_NOREPLACE) < 0)
		r = qmp_error_errno(err, -errno, "removing %s", path);
	return r < 0 ? r : delete_subvolume(p, hidden, err);
}

static int resize_btrfs(struct img_pool *p, const char *volume, uint64_t size, struct qmp_error *err)
{
	_cleanup_free_ char *path = img_pool_path(p, volume);

	if (!path)
		return qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);
	return truncate(path, (off_t)size) < 0 ? qmp_error_errno(err, -errno, "resizing %s", path) : 0;
}

static int clone_btrfs(struct img_pool *p, const char *volume, const char *to, struct qmp_error *err)
{
	_cleanup_free_ char *from = NULL, *unused = NULL, *path = NULL, *hidden = NULL;
	int r = names_of(p, volume, &from, &unused, err);

	if (r == 0)
		r = names_of(p, to, &path, &hidden, err);
	if (r == 0)
		r = refuse_if_there(path, err);
	if (r == 0)
		sweep_for(p, to);
	if (r == 0)
		r = img_pool_tool(p, "making a snapshot", PACKAGE,
				  (const char *[]){"btrfs", "subvolume", "snapshot", "--", from, hidden, NULL}, NULL, err);
	if (r < 0)
		return r;
	r = name_it(hidden, path, err);
	if (r < 0)
		(void)delete_subvolume(p, hidden, NULL);
	return r;
}

/* A subvolume has the same inodes as the next one: its file was made at another time. */
static int identify_btrfs(struct img_pool *p, const char *volume, char **ret, struct qmp_error *err)
{
	_cleanup_free_ char *path = img_pool_path(p, volume);
	struct statx st;

	if (!path || statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_BTIME, &st) < 0)
		return qmp_error_errno(err, path ? -errno : -ENOMEM, "%s/%s", path_of(p), volume);
	*ret = qmp_asprintf("%lld.%09u", (long long)st.stx_btime.tv_sec, (unsigned)st.stx_btime.tv_nsec);
	return *ret ? 0 : qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);
}

/* ---- Snapshots ---- */

/* That of VOLUME's snapshot NAME, or (NULL) the folder of them all; new. */
static char *snapshot_path(const struct img_pool *p, const char *volume, const char *name)
{
	return qmp_asprintf("%s/" SNAPSHOTS "/%s%s%s", path_of(p), volume, name ? "/" : "", name ? name : "");
}

static int64_t created_at(const char *subvolume)
{
	_cleanup_fd_ int fd = open(subvolume, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct btrfs_ioctl_get_subvol_info_args info = {0};

	return fd >= 0 && ioctl(fd, BTRFS_IOC_GET_SUBVOL_INFO, &info) >= 0 ? (int64_t)info.otime.sec : 0;
}

static int add_snapshot(struct img_pool *p, const char *volume, const char *name, json_t *snapshots)
{
	_cleanup_free_ char *path = snapshot_path(p, volume, name), *file = path ? qmp_asprintf("%s/disk", path) : NULL;
	struct stat st;

	if (!file)
		return -ENOMEM;
	if (*name == '.' || stat(file, &st) < 0)
		return 0;
	return json_array_append_new(snapshots, json_pack("{s:s, s:I, s:I, s:I}", "name", name, "created", (json_int_t)created_at(path),
							  "capacity", (json_int_t)st.st_size, "allocation",
							  512 * (json_int_t)st.st_blocks));
}

static int compare_created(const void *a, const void *b)
{
	const json_t *x = *(json_t *const *)a, *y = *(json_t *const *)b;
	json_int_t i = int_of(x, "created"), k = int_of(y, "created");

	return i != k ? (i > k) - (i < k) : strcmp(text_of(x, "name"), text_of(y, "name"));
}

static int list_snapshots_btrfs(struct img_pool *p, const char *volume, json_t *snapshots, struct qmp_error *err)
{
	_cleanup_free_ char *folder = snapshot_path(p, volume, NULL);
	json_auto_t *found = json_array();
	json_t *list[256];
	DIR *dir = folder ? opendir(folder) : NULL;
	const struct dirent *entry;
	size_t n;
	int r = folder && found ? 0 : -ENOMEM;

	while (r == 0 && dir && (entry = readdir(dir)))
		r = add_snapshot(p, volume, entry->d_name, found);
	if (dir)
		(void)closedir(dir);
	n = json_array_size(found) < ARRAY_SIZE(list) ? json_array_size(found) : ARRAY_SIZE(list);
	for (size_t i = 0; i < n; i++)
		list[i] = json_array_get(found, i);
	qsort(list, n, sizeof *list, compare_created);
	for (size_t i = 0; i < n && r == 0; i++)
		r = json_array_append(snapshots, list[i]);
	return r < 0 ? qmp_error_errno(err, -ENOMEM, "listing %s", folder ? folder : SNAPSHOTS) : 0;
}

static int make_folders(struct img_pool *p, const char *folder, struct qmp_error *err)
{
	_cleanup_free_ char *top = qmp_asprintf("%s/" SNAPSHOTS, path_of(p));
	int r;

	if (!top)
		return qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);
	r = vm_folder_make(top);
	if (r == 0)
		r = vm_folder_make(folder);
	return r < 0 ? qmp_error_errno(err, r, "making %s", folder) : 0;
}

static int create_snapshot_btrfs(struct img_pool *p, const char *volume, const char *name, struct qmp_error *err)
{
	_cleanup_free_ char *folder = snapshot_path(p, volume, NULL), *path = snapshot_path(p, volume, name);
	_cleanup_free_ char *from = qmp_asprintf("%s/%s", path_of(p), volume);
	int r = folder && path && from ? make_folders(p, folder, err) : qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);

	return r < 0 ? r : img_pool_tool(p, "making a snapshot", PACKAGE,
					 (const char *[]){"btrfs", "subvolume", "snapshot", "-r", "--", from, path, NULL}, NULL, err);
}

/* A writable one of it takes the volume's place, at once. */
static int rollback_btrfs(struct img_pool *p, const char *volume, const char *name, bool newer, struct qmp_error *err)
{
	_cleanup_free_ char *snapshot = snapshot_path(p, volume, name), *path = NULL, *hidden = NULL;
	int r = snapshot ? names_of(p, volume, &path, &hidden, err) : qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);

	UNUSED(newer);
	if (r < 0)
		return r;
	sweep_for(p, volume);
	r = img_pool_tool(p, "going back to a snapshot", PACKAGE,
			  (const char *[]){"btrfs", "subvolume", "snapshot", "--", snapshot, hidden, NULL}, NULL, err);
	if (r < 0)
		return r;
	if (renameat2(AT_FDCWD, hidden, AT_FDCWD, path, RENAME_EXCHANGE) < 0)
		r = qmp_error_errno(err, -errno, "going back to a snapshot of %s", path);
	(void)delete_subvolume(p, hidden, NULL); /* the next one takes it, else */
	return r;
}

static int remove_snapshot_btrfs(struct img_pool *p, const char *volume, const char *name, struct qmp_error *err)
{
	_cleanup_free_ char *path = snapshot_path(p, volume, name), *folder = snapshot_path(p, volume, NULL);
	int r = path && folder ? delete_subvolume(p, path, err) : qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);

	if (r == 0)
		(void)rmdir(folder);
	return r;
}

static const struct img_pool_snapshots snapshots_btrfs = {
	.list = list_snapshots_btrfs,
	.create = create_snapshot_btrfs,
	.rollback = rollback_btrfs,
	.remove = remove_snapshot_btrfs,
};

static int list_subvolumes(struct img_pool *p, json_t *volumes, struct qmp_error *err)
{
	int r = list_btrfs(p, volumes, err);
	json_t *v, *s;
	size_t i, k;

	json_array_foreach(volumes, i, v) {
		json_auto_t *snapshots = json_array();
		if (r == 0)
			r = list_snapshots_btrfs(p, text_of(v, "name"), snapshots, err);
		json_array_foreach(snapshots, k, s)
			img_pool_count_snapshot(volumes, text_of(v, "name"), int_of(s, "allocation"));
	}
	return r;
}

static int rename_btrfs(struct img_pool *p, const char *volume, const char *to, struct qmp_error *err)
{
	_cleanup_free_ char *from = NULL, *path = NULL, *a = NULL, *b = NULL;
	int r = names_of(p, volume, &from, &a, err);

	if (r == 0)
		r = names_of(p, to, &path, &b, err);
	return r < 0 ? r : name_it(from, path, err);
}

const struct img_pool_type img_pool_btrfs_subvolumes = {
	.name = "btrfs",
	.zeroes = true,
	.clones_are_free = true,
	.hidden = HIDDEN,
	.list_hidden = list_hidden_btrfs,
	.prepare = prepare_btrfs,
	.refresh = refresh_btrfs,
	.measure = measure_btrfs,
	.list = list_subvolumes,
	.create = create_btrfs,
	.remove = remove_btrfs,
	.resize = resize_btrfs,
	.clone = clone_btrfs,
	.identify = identify_btrfs,
	.rename = rename_btrfs,
	.snapshots = &snapshots_btrfs,
};
