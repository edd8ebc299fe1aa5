/*
 * Preloaded into qmpctl, this counts its boundaries: each message that it sends or receives, each call that changes the
 * file system, each process that it makes; or each fd that it opens, or each piece of memory that it takes. At the one that is
 * asked for, it ends the process by SIGKILL before the call is made, or lets the call fail with an error. check-calls.py has
 * the calls that count, and looks whether they are here.
 *
 * $QMPCTL_BOUNDARY names a file with one struct boundary, shared by the test and all processes of its world.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NOBODY, KEEPER, CLI };
enum { MESSAGE = 1, FILES = 2, PROCESS = 4, FD = 8, MEMORY = 16 };

struct boundary {
	_Atomic int32_t role;      /* whose boundaries count */
	_Atomic int32_t seen;      /* so many were passed */
	_Atomic int32_t at;        /* the one to end at; 0: none */
	_Atomic int32_t killed;    /* the pid that was ended, or whose call failed */
	_Atomic int32_t kinds;     /* of calls that count */
	_Atomic int32_t error;     /* an errno; 0: SIGKILL */
	char name[24];             /* the call that was not made */
};

static struct boundary *shared;
static int role;
static pid_t self; /* a child of ours between fork and exec is not us */

static bool is_keeper(void)
{
	char text[4096];
	int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? read(fd, text, sizeof text) : -1;
	bool found = n > 0 && memmem(text, (size_t)n, "\0run", 5);

	if (fd >= 0)
		close(fd);
	return found;
}

static bool is_qmpctl(void)
{
	char path[4096];
	ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
	const char *base;

	path[n > 0 ? n : 0] = '\0';
	base = strrchr(path, '/');
	return base && strcmp(base, "/qmpctl") == 0;
}

static __attribute__((constructor)) void init(void)
{
	const char *path = getenv("QMPCTL_BOUNDARY");
	int fd = path && is_qmpctl() ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *p;

	if (fd < 0)
		return;
	p = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (p == MAP_FAILED)
		return;
	role = is_keeper() ? KEEPER : CLI;
	self = getpid();
	shared = p;
}

/* libuv ends the process by itself where it gets no memory or fd for its own tables: that is its contract, not ours. */
static bool is_libuvs(void *caller)
{
	Dl_info info;

	return dladdr(caller, &info) && info.dli_fname && strstr(info.dli_fname, "libuv");
}

/* False: the call, made at CALLER, is to fail, and errno says how. */
static bool pass_at(void *caller, int kind, const char *name)
{
	int saved = errno, count;

	if (!shared || shared->role != role || !(shared->kinds & kind) || getpid() != self)
		return true;
	count = atomic_fetch_add(&shared->seen, 1) + 1;
	errno = saved;
	if (count != shared->at || (shared->error && (kind & (FD | MEMORY)) && is_libuvs(caller)))
		return true;
	strncpy(shared->name, name, sizeof shared->name - 1);
	shared->killed = self;
	if (shared->error) {
		errno = shared->error;
		return false;
	}
	syscall(SYS_kill, self, SIGKILL);
	for (;;)
		pause();
}

#define pass(kind, name) pass_at(__builtin_return_address(0), kind, name)

/* Pipes and eventfds are the event loop's own, terminals and pipes are where the words go. */
static bool counts(int fd)
{
	struct stat st;

	return shared && fstat(fd, &st) == 0 && (S_ISREG(st.st_mode) || S_ISSOCK(st.st_mode) || S_ISDIR(st.st_mode));
}

static bool is_socket(int fd)
{
	struct stat st;

	return shared && fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define WRAP_OR(failed, condition, kind, type, name, params, args)                                                   \
	type name params                                                                                             \
	{                                                                                                            \
		static __typeof__(&name) next;                                                                       \
		if (!next)                                                                                           \
			next = NEXT(name);                                                                           \
		return (condition) && !pass(kind, #name) ? failed : next args;                                       \
	}
#define WRAP(kind, type, name, params, args)    WRAP_OR(-1, true, kind, type, name, params, args)
#define WRAP_FD(kind, type, name, params, args) WRAP_OR(-1, counts(fd), kind, type, name, params, args)
/* What large files have names of their own for. */
#define WRAP_64(type, name, params, args)       WRAP(FILES, type, name, params, args) WRAP(FILES, type, name##64, params, args)
#define WRAP_FD_64(type, name, params, args)    WRAP_FD(FILES, type, name, params, args) WRAP_FD(FILES, type, name##64, params, args)

/* ---- Messages ---- */

#define WRAP_READ(type, name, params, args) WRAP_OR(-1, is_socket(fd), MESSAGE, type, name, params, args)

WRAP_READ(ssize_t, read, (int fd, void *data, size_t len), (fd, data, len))
WRAP_READ(ssize_t, readv, (int fd, const struct iovec *v, int n), (fd, v, n))
WRAP_FD(MESSAGE, ssize_t, recv, (int fd, void *data, size_t len, int flags), (fd, data, len, flags))
WRAP_FD(MESSAGE, ssize_t, recvmsg, (int fd, struct msghdr *m, int flags), (fd, m, flags))
WRAP_FD(MESSAGE, ssize_t, send, (int fd, const void *data, size_t len, int flags), (fd, data, len, flags))
WRAP_FD(MESSAGE, ssize_t, sendmsg, (int fd, const struct msghdr *m, int flags), (fd, m, flags))
WRAP_FD(MESSAGE, ssize_t, sendto, (int fd, const void *data, size_t len, int flags, const struct sockaddr *to, socklen_t n),
	(fd, data, len, flags, to, n))
WRAP_FD(MESSAGE, int, shutdown, (int fd, int how), (fd, how))
WRAP(MESSAGE, int, connect, (int fd, const struct sockaddr *address, socklen_t len), (fd, address, len))

/* ---- Files ---- */

WRAP_FD(FILES, ssize_t, write, (int fd, const void *data, size_t len), (fd, data, len))
WRAP_FD(FILES, ssize_t, writev, (int fd, const struct iovec *v, int n), (fd, v, n))
WRAP_FD_64(ssize_t, pwrite, (int fd, const void *data, size_t len, off_t at), (fd, data, len, at))
WRAP_FD_64(ssize_t, pwritev, (int fd, const struct iovec *v, int n, off_t at), (fd, v, n, at))
WRAP_FD_64(ssize_t, sendfile, (int fd, int from, off_t *at, size_t len), (fd, from, at, len))
WRAP_FD(FILES, ssize_t, copy_file_range, (int from, off64_t *from_at, int fd, off64_t *at, size_t len, unsigned flags),
	(from, from_at, fd, at, len, flags))
WRAP_FD(FILES, int, fsync, (int fd), (fd))
WRAP_FD(FILES, int, fdatasync, (int fd), (fd))
WRAP_FD(FILES, int, syncfs, (int fd), (fd))
WRAP_FD_64(int, ftruncate, (int fd, off_t len), (fd, len))
WRAP_64(int, truncate, (const char *path, off_t len), (path, len))
WRAP_FD_64(int, fallocate, (int fd, int mode, off_t at, off_t len), (fd, mode, at, len))
WRAP(FILES, int, rename, (const char *from, const char *to), (from, to))
WRAP(FILES, int, renameat, (int a, const char *from, int b, const char *to), (a, from, b, to))
WRAP(FILES, int, renameat2, (int a, const char *from, int b, const char *to, unsigned flags), (a, from, b, to, flags))
WRAP(FILES, int, unlink, (const char *path), (path))
WRAP(FILES, int, unlinkat, (int dir, const char *path, int flags), (dir, path, flags))
WRAP(FILES, int, link, (const char *from, const char *to), (from, to))
WRAP(FILES, int, linkat, (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags))
WRAP(FILES, int, symlink, (const char *target, const char *path), (target, path))
WRAP(FILES, int, symlinkat, (const char *target, int dir, const char *path), (target, dir, path))
WRAP(FILES, int, mkdir, (const char *path, mode_t mode), (path, mode))
WRAP(FILES, int, mkdirat, (int dir, const char *path, mode_t mode), (dir, path, mode))
WRAP(FILES, int, rmdir, (const char *path), (path))
WRAP(FILES, int, mkfifo, (const char *path, mode_t mode), (path, mode))
WRAP(FILES, int, mkfifoat, (int dir, const char *path, mode_t mode), (dir, path, mode))
WRAP(FILES, int, mknod, (const char *path, mode_t mode, dev_t device), (path, mode, device))
WRAP(FILES, int, mknodat, (int dir, const char *path, mode_t mode, dev_t device), (dir, path, mode, device))
WRAP(FILES, int, chmod, (const char *path, mode_t mode), (path, mode))
WRAP(FILES, int, fchmod, (int fd, mode_t mode), (fd, mode))
WRAP(FILES, int, fchmodat, (int dir, const char *path, mode_t mode, int flags), (dir, path, mode, flags))
WRAP(FILES, int, chown, (const char *path, uid_t u, gid_t g), (path, u, g))
WRAP(FILES, int, lchown, (const char *path, uid_t u, gid_t g), (path, u, g))
WRAP(FILES, int, fchown, (int fd, uid_t u, gid_t g), (fd, u, g))
WRAP(FILES, int, fchownat, (int dir, const char *path, uid_t u, gid_t g, int flags), (dir, path, u, g, flags))
WRAP(FILES, int, futimens, (int fd, const struct timespec t[2]), (fd, t))
WRAP(FILES, int, utimensat, (int dir, const char *path, const struct timespec t[2], int flags), (dir, path, t, flags))
WRAP_OR(NULL, true, FILES, char *, mkdtemp, (char *path), (path))
WRAP(FILES | FD, int, mkstemp, (char *path), (path))
WRAP(FILES | FD, int, mkstemp64, (char *path), (path))
WRAP(FILES | FD, int, mkostemp, (char *path, int flags), (path, flags))
WRAP(FILES | FD, int, mkostemps, (char *path, int tail, int flags), (path, tail, flags))

static mode_t mode_of(int flags, va_list ap)
{
	return flags & (O_CREAT | __O_TMPFILE) ? va_arg(ap, mode_t) : 0;
}

static int kind_of(int flags)
{
	return flags & (O_CREAT | O_TRUNC | __O_TMPFILE) ? FILES | FD : FD;
}

#define WRAP_OPEN(name, params, args)                                                                                \
	int name params                                                                                              \
	{                                                                                                            \
		static __typeof__(&name) next;                                                                       \
		va_list ap;                                                                                          \
		mode_t mode;                                                                                         \
		va_start(ap, flags);                                                                                 \
		mode = mode_of(flags, ap);                                                                           \
		va_end(ap);                                                                                          \
		if (!next)                                                                                           \
			next = NEXT(name);                                                                           \
		return pass(kind_of(flags), #name) ? next args : -1;                                                 \
	}

WRAP_OPEN(openat, (int dir, const char *path, int flags, ...), (dir, path, flags, mode))
WRAP_OPEN(openat64, (int dir, const char *path, int flags, ...), (dir, path, flags, mode))
WRAP_OPEN(open, (const char *path, int flags, ...), (path, flags, mode))
WRAP_OPEN(open64, (const char *path, int flags, ...), (path, flags, mode))

/* As hardened builds call it where it makes none. */
extern int __open_2(const char *path, int flags), __open64_2(const char *path, int flags);
WRAP(kind_of(flags), int, __open_2, (const char *path, int flags), (path, flags))
WRAP(kind_of(flags), int, __open64_2, (const char *path, int flags), (path, flags))

static int kind_of_mode(const char *mode)
{
	return strpbrk(mode, "wa+") ? FILES | FD : FD;
}

WRAP_OR(NULL, true, kind_of_mode(mode), FILE *, fopen, (const char *path, const char *mode), (path, mode))
WRAP_OR(NULL, true, kind_of_mode(mode), FILE *, fopen64, (const char *path, const char *mode), (path, mode))

/* The third argument is a word, a pointer or nothing, which are all passed alike. */
#define WRAP_WORD(condition, kind, name, type, request)                                                              \
	int name(int fd, type request, ...)                                                                          \
	{                                                                                                            \
		static __typeof__(&name) next;                                                                       \
		va_list ap;                                                                                          \
		void *word;                                                                                          \
		va_start(ap, request);                                                                               \
		word = va_arg(ap, void *);                                                                           \
		va_end(ap);                                                                                          \
		if (!next)                                                                                           \
			next = NEXT(name);                                                                           \
		return !(condition) || pass(kind, #name) ? next(fd, request, word) : -1;                             \
	}

/* Those of a file or folder, which share blocks, make subvolumes and set flags; and what makes a tap device. */
static bool ioctl_counts(int fd, unsigned long request)
{
	return request != FIONBIO && request != FIOCLEX && request != FIONREAD && (request == TUNSETIFF || (counts(fd) && !is_socket(fd)));
}

static bool is_lock(int what)
{
	return what == F_SETLK || what == F_SETLKW || what == F_OFD_SETLK || what == F_OFD_SETLKW || what == F_SETLEASE;
}

WRAP_WORD(ioctl_counts(fd, request), FILES, ioctl, unsigned long, request)
static int kind_of_fcntl(int what)
{
	return is_lock(what) ? PROCESS : what == F_DUPFD || what == F_DUPFD_CLOEXEC ? FD : 0;
}

WRAP_WORD(kind_of_fcntl(request), kind_of_fcntl(request), fcntl, int, request)
WRAP_WORD(kind_of_fcntl(request), kind_of_fcntl(request), fcntl64, int, request)

/* ---- Processes, and who else sees them ---- */

WRAP_FD(PROCESS, int, flock, (int fd, int what), (fd, what))
WRAP(PROCESS, int, bind, (int fd, const struct sockaddr *address, socklen_t len), (fd, address, len))
WRAP(PROCESS, int, listen, (int fd, int n), (fd, n))
WRAP(PROCESS, pid_t, fork, (void), ())
WRAP(PROCESS, pid_t, waitpid, (pid_t pid, int *status, int flags), (pid, status, flags))
WRAP(PROCESS, int, waitid, (idtype_t type, id_t id, siginfo_t *info, int flags), (type, id, info, flags))
WRAP(PROCESS, int, kill, (pid_t pid, int sig), (pid, sig))
WRAP(PROCESS, int, pidfd_send_signal, (int fd, int sig, siginfo_t *info, unsigned flags), (fd, sig, info, flags))

/* ---- File descriptors ---- */

WRAP(FD, int, socket, (int domain, int type, int protocol), (domain, type, protocol))
WRAP(FD, int, socketpair, (int domain, int type, int protocol, int pair[2]), (domain, type, protocol, pair))
WRAP(FD, int, pipe2, (int pair[2], int flags), (pair, flags))
WRAP(FD, int, accept4, (int fd, struct sockaddr *address, socklen_t *len, int flags), (fd, address, len, flags))
WRAP(FD, int, pidfd_open, (pid_t pid, unsigned flags), (pid, flags))
WRAP(FD, int, memfd_create, (const char *name, unsigned flags), (name, flags))
WRAP(FD, int, dup, (int fd), (fd))

/* ---- Memory ---- */

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *old, size_t size);

void *malloc(size_t size)
{
	return pass(MEMORY, "malloc") ? __libc_malloc(size) : NULL;
}

void *calloc(size_t n, size_t size)
{
	return pass(MEMORY, "calloc") ? __libc_calloc(n, size) : NULL;
}

void *realloc(void *old, size_t size)
{
	return pass(MEMORY, "realloc") ? __libc_realloc(old, size) : NULL;
}
