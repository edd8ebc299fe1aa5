#include "images/draft.h"
#include "launcher/files.h"
#include "proto/base.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#define SUFFIX	  ".qmpctl-new"
#define LOCK_BYTE 1000 /* which no QEMU locks */

/* FINAL's folder, and the name of its draft in it. */
static int names_of(const char *final, char **ret_folder, char **ret_name, struct qmp_error *err)
{
	const char *slash = strrchr(final, '/');

	if (!slash || !slash[1])
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL, "\"%s\" is no path of an image", final);
	*ret_folder = slash == final ? strdup("/") : strndup(final, (size_t)(slash - final));
	*ret_name = qmp_asprintf(".%s" SUFFIX, slash + 1);
	return *ret_folder && *ret_name ? 0 : qmp_error_errno(err, -ENOMEM, "making %s", final);
}

int img_draft_lock(int fd, bool maker)
{
	struct flock lock = {.l_type = maker ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET, .l_start = LOCK_BYTE, .l_len = 1};

	if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
		return 0;
	return errno == EACCES ? -EAGAIN : -errno;
}

/* Whether FD is still what stands in DIR under NAME: between opening and locking, a sweep may have removed it. */
static bool still_there(int dir, const char *name, int fd)
{
	struct stat named, ours;

	return fstatat(dir, name, &named, AT_SYMLINK_NOFOLLOW) == 0 && fstat(fd, &ours) == 0 && named.st_dev == ours.st_dev &&
	       named.st_ino == ours.st_ino;
}

/* Whether it is not there any more. */
static bool remove_if_left(int dir, const char *name)
{
	_cleanup_fd_ int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct stat st;

	if (fd < 0)
		return errno == ENOENT;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || img_draft_lock(fd, false) < 0)
		return false;
	return !still_there(dir, name, fd) || unlinkat(dir, name, 0) == 0 || errno == ENOENT;
}

void img_draft_sweep(const char *folder)
{
	DIR *d = opendir(folder);
	const struct dirent *entry;

	while (d && (entry = readdir(d))) {
		size_t n = strlen(entry->d_name), tail = sizeof SUFFIX - 1;
		if (entry->d_name[0] == '.' && n > tail + 1 && streq(entry->d_name + n - tail, SUFFIX))
			(void)remove_if_left(dirfd(d), entry->d_name);
	}
	if (d)
		(void)closedir(d);
}

/* The locked draft; -EAGAIN: it was swept away in that moment. */
static int make(int dir, const char *name)
{
	_cleanup_fd_ int fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	int r = fd < 0 ? -errno : img_draft_lock(fd, true);

	if (r < 0)
		return r;
	return still_there(dir, name, fd) ? take_fd(&fd) : -EAGAIN;
}

int img_draft_begin(const char *final, bool replace, struct img_draft *ret, struct qmp_error *err)
{
	_cleanup_free_ char *folder = NULL, *name = NULL;
	_cleanup_fd_ int dir = -1;
	struct img_draft d = {.fd = -1};
	struct stat st;

	if (names_of(final, &folder, &name, err) < 0)
		return err ? err->code : -EINVAL;
	dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return qmp_error_errno(err, -errno, "making %s: the folder %s", final, folder);
	if (!replace && lstat(final, &st) == 0)
		return qmp_error_set(err, QMP_ERR_EXISTS, -EEXIST, "%s is there already; nothing was changed", final);
	img_draft_sweep(folder);
	do
		d.fd = make(dir, name);
	while (d.fd == -EAGAIN || (d.fd == -EEXIST && remove_if_left(dir, name))); /* others' sweeps look at it at this moment */
	if (d.fd == -EEXIST)
		return qmp_error_set(err, QMP_ERR_BUSY, -EBUSY, "%s is being made by another program at this moment", final);
	if (d.fd < 0)
		return qmp_error_errno(err, d.fd, "making %s", final);
	d.path = qmp_asprintf("%s/%s", streq(folder, "/") ? "" : folder, name);
	d.final = strdup(final);
	if (!d.path || !d.final) {
		(void)unlinkat(dir, name, 0);
		img_draft_discard(&d);
		return qmp_error_errno(err, -ENOMEM, "making %s", final);
	}
	d.replaces = replace;
	*ret = d;
	return 0;
}

/* Gives the draft its name; where the file system cannot rename without replacing (NFS), it has two for a moment. */
static int name_it(const struct img_draft *d)
{
	if (renameat2(AT_FDCWD, d->path, AT_FDCWD, d->final, d->replaces ? 0 : RENAME_NOREPLACE) == 0)
		return 0;
	if (d->replaces || errno != EINVAL)
		return -errno;
	return link(d->path, d->final) < 0 || unlink(d->path) < 0 ? -errno : 0;
}

int img_draft_keep(struct img_draft *d, struct qmp_error *err)
{
	int r = fsync(d->fd) < 0 ? -errno : name_it(d);

	if (r == -EEXIST)
		qmp_error_set(err, QMP_ERR_EXISTS, r, "%s is there already, since a moment; nothing was changed", d->final);
	else if (r < 0)
		qmp_error_errno(err, r, "keeping %s", d->final);
	if (r < 0) {
		img_draft_discard(d);
		return r;
	}
	free(take_ptr(d->path)); /* nothing is to be removed any more */
	r = vm_folder_sync_of(d->final);
	if (r < 0)
		qmp_error_errno(err, r, "%s is made, but whether it outlasts a power cut is not known", d->final);
	img_draft_discard(d);
	return r;
}

void img_draft_release(struct img_draft *d)
{
	free(take_ptr(d->path));
	img_draft_discard(d);
}

void img_draft_discard(struct img_draft *d)
{
	if (d->path)
		(void)unlink(d->path);
	if (d->fd > 0)
		(void)close(d->fd);
	free(d->path);
	free(d->final);
	*d = (struct img_draft){.fd = -1};
}
