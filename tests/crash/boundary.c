/*
 * Preloaded into qmpctl, this counts its boundaries: each message that it sends or receives, each call that changes the
 * file system, each process that it makes; or each fd that it opens, or each piece of memory that it takes. At the one that is
 * asked for, it ends the process by SIGKILL before the call is made, or lets the call fail with an error.
 *
 * $QMPCTL_BOUNDARY names a file with one struct boundary, shared by the test and all processes of its world.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
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
	kill(self, SIGKILL);
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

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define WRAP_IF(condition, kind, type, name, params, args)                                                           \
	type name params                                                                                             \
	{                                                                                                            \
		static __typeof__(&name) next;                                                                       \
		if (!next)                                                                                           \
			next = NEXT(name);                                                                           \
		return (condition) && !pass(kind, #name) ? -1 : next args;                                           \
	}
#define WRAP(kind, type, name, params, args)    WRAP_IF(true, kind, type, name, params, args)
#define WRAP_FD(kind, type, name, params, args) WRAP_IF(counts(fd), kind, type, name, params, args)

WRAP_FD(FILES, ssize_t, write, (int fd, const void *data, size_t len), (fd, data, len))
WRAP_FD(FILES, ssize_t, pwrite, (int fd, const void *data, size_t len, off_t at), (fd, data, len, at))
WRAP_FD(MESSAGE, ssize_t, sendmsg, (int fd, const struct msghdr *m, int flags), (fd, m, flags))
WRAP_FD(MESSAGE, ssize_t, recvmsg, (int fd, struct msghdr *m, int flags), (fd, m, flags))
WRAP_FD(MESSAGE, ssize_t, recv, (int fd, void *data, size_t len, int flags), (fd, data, len, flags))
WRAP_FD(FILES, int, fsync, (int fd), (fd))
WRAP_FD(FILES, int, fdatasync, (int fd), (fd))
WRAP_FD(FILES, int, ftruncate, (int fd, off_t len), (fd, len))
WRAP_FD(FILES, int, fallocate, (int fd, int mode, off_t at, off_t len), (fd, mode, at, len))
WRAP_FD(PROCESS, int, flock, (int fd, int what), (fd, what))
WRAP(FILES, int, renameat, (int a, const char *from, int b, const char *to), (a, from, b, to))
WRAP(FILES, int, renameat2, (int a, const char *from, int b, const char *to, unsigned flags), (a, from, b, to, flags))
WRAP(FILES, int, rename, (const char *from, const char *to), (from, to))
WRAP(FILES, int, unlinkat, (int dir, const char *path, int flags), (dir, path, flags))
WRAP(FILES, int, unlink, (const char *path), (path))
WRAP(FILES, int, linkat, (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags))
WRAP(FILES, int, mkdir, (const char *path, mode_t mode), (path, mode))
WRAP(FILES, int, mkdirat, (int dir, const char *path, mode_t mode), (dir, path, mode))
WRAP(PROCESS, int, bind, (int fd, const struct sockaddr *address, socklen_t len), (fd, address, len))
WRAP(MESSAGE, int, connect, (int fd, const struct sockaddr *address, socklen_t len), (fd, address, len))
WRAP(PROCESS, pid_t, fork, (void), ())

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
WRAP_OPEN(open, (const char *path, int flags, ...), (path, flags, mode))

WRAP(FD, int, socket, (int domain, int type, int protocol), (domain, type, protocol))
WRAP(FD, int, socketpair, (int domain, int type, int protocol, int pair[2]), (domain, type, protocol, pair))
WRAP(FD, int, pipe2, (int pair[2], int flags), (pair, flags))
WRAP(FD, int, accept4, (int fd, struct sockaddr *address, socklen_t *len, int flags), (fd, address, len, flags))
WRAP(FD, int, pidfd_open, (pid_t pid, unsigned flags), (pid, flags))

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
