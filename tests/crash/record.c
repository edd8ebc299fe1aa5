/*
 * Preloaded, this writes down what a process does to files in one folder, in its order: names that are made and go, contents
 * that are written, and what is synced, with the contents as they are then. powercut.py makes of it what a power cut leaves.
 *
 * $QMPCTL_RECORDED: the folder. $QMPCTL_RECORD: another one, for the file "log" of a line for each event, with tabs between
 * its words, and for a file for each content that was synced. A file is known by its inode's number, until its last name goes.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static const char *recorded, *record;

static __attribute__((constructor)) void init(void)
{
	recorded = getenv("QMPCTL_RECORDED");
	record = recorded ? getenv("QMPCTL_RECORD") : NULL;
}

static bool is_recorded(const char *path)
{
	size_t n = record ? strlen(recorded) : 0;

	return n && strncmp(path, recorded, n) == 0 && (path[n] == '/' || !path[n]);
}

/* Our own calls are not to be recorded. */
static int open_record(const char *name, int flags)
{
	char path[4096];

	(void)snprintf(path, sizeof path, "%s/%s", record, name);
	return (int)syscall(SYS_openat, AT_FDCWD, path, flags | O_CREAT | O_CLOEXEC, 0600);
}

static __attribute__((format(printf, 1, 2))) void note(const char *fmt, ...)
{
	char line[3 * 4096];
	int fd = open_record("log", O_WRONLY | O_APPEND);
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(line, sizeof line - 1, fmt, ap);
	va_end(ap);
	strcat(line, "\n");
	(void)!syscall(SYS_write, fd, line, strlen(line));
	(void)syscall(SYS_close, fd);
}

/* PATH in DIR as one from the root on. */
static const char *whole(int dir, const char *path, char out[4096])
{
	char link[64], folder[2048] = "";
	ssize_t n;

	if (*path == '/') {
		(void)snprintf(out, 4096, "%s", path);
		return out;
	}
	(void)snprintf(link, sizeof link, dir == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", dir);
	n = readlink(link, folder, sizeof folder - 1);
	folder[n > 0 ? n : 0] = '\0';
	(void)snprintf(out, 4096, "%s/%s", folder, path);
	return out;
}

/* That of an open file or folder; "": of nothing that counts. */
static const char *path_of(int fd, char out[4096])
{
	char link[64];
	ssize_t n;

	(void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	n = readlink(link, out, 4095);
	out[n > 0 ? n : 0] = '\0';
	return is_recorded(out) ? out : "";
}

static bool is_file(int fd, struct stat *st)
{
	char path[4096];

	return *path_of(fd, path) && fstat(fd, st) == 0 && S_ISREG(st->st_mode);
}

/* ---- Events ---- */

static void note_open(int fd, int dir, const char *path, int flags)
{
	char p[4096];
	struct stat st;

	if (fd < 0 || !is_file(fd, &st))
		return;
	if ((flags & __O_TMPFILE) == __O_TMPFILE)
		note("nameless\t%ju", (uintmax_t)st.st_ino);
	else if (flags & O_CREAT)
		note("create\t%ju\t%s", (uintmax_t)st.st_ino, whole(dir, path, p));
	if (flags & O_TRUNC)
		note("size\t%ju\t%jd", (uintmax_t)st.st_ino, (intmax_t)st.st_size);
}

static void note_size(int fd)
{
	struct stat st;

	if (is_file(fd, &st))
		note("size\t%ju\t%jd", (uintmax_t)st.st_ino, (intmax_t)st.st_size);
}

static void note_sync(int fd)
{
	static _Atomic unsigned counter;
	char name[64], path[4096], data[1 << 16];
	struct stat st;
	int to;

	if (*path_of(fd, path) && fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
		note("sync-folder\t%s", path);
	} else if (is_file(fd, &st)) {
		char self[64];
		int from, n;
		(void)snprintf(name, sizeof name, "%d-%u", (int)getpid(), atomic_fetch_add(&counter, 1));
		(void)snprintf(self, sizeof self, "/proc/self/fd/%d", fd); /* it may be open for writing alone */
		from = (int)syscall(SYS_openat, AT_FDCWD, self, O_RDONLY | O_CLOEXEC);
		to = open_record(name, O_WRONLY | O_TRUNC);
		while ((n = (int)syscall(SYS_read, from, data, sizeof data)) > 0)
			(void)!syscall(SYS_write, to, data, n);
		(void)syscall(SYS_close, from);
		(void)syscall(SYS_close, to);
		note("sync\t%ju\t%s", (uintmax_t)st.st_ino, name);
	}
}

static void note_name(const char *what, int dir, const char *path)
{
	char p[4096];

	if (is_recorded(whole(dir, path, p)))
		note("%s\t%s", what, p);
}

static void note_link(int dir, const char *path)
{
	char p[4096];
	struct stat st;

	if (is_recorded(whole(dir, path, p)) && fstatat(dir, path, &st, AT_SYMLINK_NOFOLLOW) == 0)
		note("link\t%ju\t%s", (uintmax_t)st.st_ino, p);
}

static void note_rename(int a, const char *from, int b, const char *to, unsigned flags)
{
	char p[4096], q[4096];

	if (is_recorded(whole(a, from, p)) || is_recorded(whole(b, to, q)))
		note("rename\t%s\t%s\t%u", p, whole(b, to, q), flags);
}

/* ---- Calls ---- */

#define WRAP(type, name, params, args, then)                                                                         \
	type name params                                                                                             \
	{                                                                                                            \
		static __typeof__(&name) next;                                                                       \
		type result;                                                                                         \
		if (!next)                                                                                           \
			next = (__typeof__(&name))dlsym(RTLD_NEXT, #name);                                           \
		result = next args;                                                                                  \
		if (record && result != (type)-1) {                                                                  \
			int saved = errno;                                                                           \
			then;                                                                                        \
			errno = saved;                                                                               \
		}                                                                                                    \
		return result;                                                                                       \
	}
#define WRAP_64(type, name, params, args, then) WRAP(type, name, params, args, then) WRAP(type, name##64, params, args, then)

WRAP(ssize_t, write, (int fd, const void *data, size_t len), (fd, data, len), note_size(fd))
WRAP(ssize_t, writev, (int fd, const struct iovec *v, int n), (fd, v, n), note_size(fd))
WRAP_64(ssize_t, pwrite, (int fd, const void *data, size_t len, off_t at), (fd, data, len, at), note_size(fd))
WRAP_64(ssize_t, pwritev, (int fd, const struct iovec *v, int n, off_t at), (fd, v, n, at), note_size(fd))
WRAP_64(ssize_t, sendfile, (int fd, int from, off_t *at, size_t len), (fd, from, at, len), note_size(fd))
WRAP(ssize_t, copy_file_range, (int from, off64_t *from_at, int fd, off64_t *at, size_t len, unsigned flags),
     (from, from_at, fd, at, len, flags), note_size(fd))
WRAP_64(int, ftruncate, (int fd, off_t len), (fd, len), note_size(fd))
WRAP_64(int, fallocate, (int fd, int mode, off_t at, off_t len), (fd, mode, at, len), note_size(fd))
WRAP(int, fsync, (int fd), (fd), note_sync(fd))
WRAP(int, fdatasync, (int fd), (fd), note_sync(fd))
WRAP(int, rename, (const char *from, const char *to), (from, to), note_rename(AT_FDCWD, from, AT_FDCWD, to, 0))
WRAP(int, renameat, (int a, const char *from, int b, const char *to), (a, from, b, to), note_rename(a, from, b, to, 0))
WRAP(int, renameat2, (int a, const char *from, int b, const char *to, unsigned flags), (a, from, b, to, flags),
     note_rename(a, from, b, to, flags))
WRAP(int, unlink, (const char *path), (path), note_name("unlink", AT_FDCWD, path))
WRAP(int, unlinkat, (int dir, const char *path, int flags), (dir, path, flags), note_name(flags ? "rmdir" : "unlink", dir, path))
WRAP(int, link, (const char *from, const char *to), (from, to), note_link(AT_FDCWD, to))
WRAP(int, linkat, (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags), note_link(b, to))
WRAP(int, mkdir, (const char *path, mode_t mode), (path, mode), note_name("mkdir", AT_FDCWD, path))
WRAP(int, mkdirat, (int dir, const char *path, mode_t mode), (dir, path, mode), note_name("mkdir", dir, path))
WRAP(int, rmdir, (const char *path), (path), note_name("rmdir", AT_FDCWD, path))

static int truncated(const char *path)
{
	char p[4096];
	struct stat st;

	if (is_recorded(whole(AT_FDCWD, path, p)) && stat(path, &st) == 0)
		note("size\t%ju\t%jd", (uintmax_t)st.st_ino, (intmax_t)st.st_size);
	return 0;
}

WRAP_64(int, truncate, (const char *path, off_t len), (path, len), truncated(path))

#define WRAP_OPEN(name, params, args, dir)                                                                           \
	int name params                                                                                              \
	{                                                                                                            \
		static __typeof__(&name) next;                                                                       \
		va_list ap;                                                                                          \
		mode_t mode;                                                                                         \
		int fd, saved;                                                                                       \
		va_start(ap, flags);                                                                                 \
		mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(ap, mode_t) : 0;                                     \
		va_end(ap);                                                                                          \
		if (!next)                                                                                           \
			next = (__typeof__(&name))dlsym(RTLD_NEXT, #name);                                           \
		fd = next args;                                                                                      \
		saved = errno;                                                                                       \
		if (record && flags & (O_CREAT | O_TRUNC | __O_TMPFILE))                                             \
			note_open(fd, dir, path, flags);                                                             \
		errno = saved;                                                                                       \
		return fd;                                                                                           \
	}

WRAP_OPEN(openat, (int at, const char *path, int flags, ...), (at, path, flags, mode), at)
WRAP_OPEN(openat64, (int at, const char *path, int flags, ...), (at, path, flags, mode), at)
WRAP_OPEN(open, (const char *path, int flags, ...), (path, flags, mode), AT_FDCWD)
WRAP_OPEN(open64, (const char *path, int flags, ...), (path, flags, mode), AT_FDCWD)

/* What shares blocks, and takes none or a word. */
int ioctl(int fd, unsigned long request, ...)
{
	static __typeof__(&ioctl) next;
	va_list ap;
	void *word;
	int result;

	va_start(ap, request);
	word = va_arg(ap, void *);
	va_end(ap);
	if (!next)
		next = (__typeof__(&ioctl))dlsym(RTLD_NEXT, "ioctl");
	result = next(fd, request, word);
	if (record && result == 0) {
		int saved = errno;
		note_size(fd);
		errno = saved;
	}
	return result;
}
