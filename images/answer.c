#include "images/answer.h"
#include "images/place.h"
#include "proto/base.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define ANSWER_S    5
#define BELIEVED_MS 100 /* an answer */
#define LEFT_MAX    64	/* threads that nothing has come of */
#define STACK	    (64 * 1024)

/* One call: its asker's and its thread's; the last of them frees it. */
struct question {
	pthread_mutex_t lock;
	pthread_cond_t came;
	char *path;
	bool whole; /* the file system is asked, too */
	bool is_left, has_come;
	struct stat st;
	int r;
};

/* The mount that was silent last, and until when (of the monotonic clock) it is not asked again. */
static char *silent_mount;
static int64_t silent_until;
/* What has answered last, and until when that is believed. */
static char *believed;
static int64_t believed_until;
static _Atomic int left;

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static struct question *question_new(const char *path, bool whole)
{
	struct question *q = calloc(1, sizeof *q);
	pthread_condattr_t attr;

	if (!q || !(q->path = strdup(path))) {
		free(q);
		return NULL;
	}
	q->whole = whole;
	pthread_mutex_init(&q->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&q->came, &attr);
	pthread_condattr_destroy(&attr);
	return q;
}

static void question_free(struct question *q)
{
	pthread_cond_destroy(&q->came);
	pthread_mutex_destroy(&q->lock);
	free(q->path);
	free(q);
}

static int call(const char *path, bool whole, struct stat *ret)
{
	struct statvfs fs;

	return (whole && statvfs(path, &fs) < 0) || stat(path, ret) < 0 ? -errno : 0;
}

static void *ask(void *data)
{
	struct question *q = data;
	struct stat st = {0};
	int r = call(q->path, q->whole, &st);
	bool is_left;

	pthread_mutex_lock(&q->lock);
	q->st = st;
	q->r = r;
	q->has_come = true;
	is_left = q->is_left;
	pthread_cond_signal(&q->came);
	pthread_mutex_unlock(&q->lock);
	if (is_left) {
		question_free(q);
		left--;
	}
	return NULL;
}

/* False: nothing came, and the thread has Q now. */
static bool await(struct question *q)
{
	struct timespec until;
	int r = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += ANSWER_S;
	pthread_mutex_lock(&q->lock);
	while (!q->has_come && r == 0)
		r = pthread_cond_timedwait(&q->came, &q->lock, &until);
	q->is_left = !q->has_come;
	if (q->is_left)
		left++;
	r = q->is_left;
	pthread_mutex_unlock(&q->lock);
	return r == 0;
}

static int start(struct question *q)
{
	pthread_attr_t attr;
	pthread_t thread;
	int r;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, STACK);
	r = pthread_create(&thread, &attr, ask, q);
	pthread_attr_destroy(&attr);
	return -r;
}

static int ask_in_thread(const char *path, bool whole, struct stat *ret)
{
	struct question *q = question_new(path, whole);
	int r;

	/* Where no thread is to be had it is a call like others. */
	if (!q || start(q) < 0) {
		r = call(path, whole, ret);
	} else if (await(q)) {
		r = q->r;
		*ret = q->st;
	} else {
		return -ETIMEDOUT;
	}
	if (q)
		question_free(q);
	return r;
}

/* By its words alone: to follow links would be to ask. */
static bool is_silent(const char *path)
{
	return silent_mount && now_ms() < silent_until && img_place_is_below(path, silent_mount);
}

static void remember(const char *path)
{
	json_auto_t *mount = img_place_mount_by_name(path);

	free(silent_mount);
	silent_mount = mount ? strdup(text_of(mount, "path")) : NULL;
	/* Of all that the host has is never said that it is silent. */
	if (silent_mount && streq(silent_mount, "/"))
		free(take_ptr(silent_mount));
	silent_until = now_ms() + ANSWER_S * 1000;
}

static int answer(const char *path, bool whole, struct stat *ret)
{
	int r;

	if (is_silent(path) || left >= LEFT_MAX)
		return -ETIMEDOUT;
	r = ask_in_thread(path, whole, ret);
	if (r == -ETIMEDOUT)
		remember(path);
	return r;
}

/* What the host remembers of PATH, which is never waited for; false: too little. */
static bool recall(const char *path, struct stat *ret)
{
	struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_CACHED};
	_cleanup_fd_ int fd = (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
	struct statx st;

	if (fd < 0 || statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_MODE | STATX_INO, &st) < 0 ||
	    (st.stx_mask & (STATX_TYPE | STATX_INO)) != (STATX_TYPE | STATX_INO))
		return false;
	*ret = (struct stat){.st_mode = st.stx_mode,
			     .st_ino = st.stx_ino,
			     .st_dev = makedev(st.stx_dev_major, st.stx_dev_minor),
			     .st_rdev = makedev(st.stx_rdev_major, st.stx_rdev_minor)};
	return true;
}

int img_answer_stat(const char *path, struct stat *ret)
{
	return recall(path, ret) ? 0 : answer(path, false, ret);
}

int img_answer_check(const char *path, struct qmp_error *err)
{
	struct stat st;

	if (believed && now_ms() < believed_until && streq(path, believed))
		return 0;
	if (answer(path, true, &st) == -ETIMEDOUT)
		return qmp_error_set(err, QMP_ERR_HOST, -ETIMEDOUT,
				     "%s: what it is on does not answer; see to its server (NFS) or its daemon (FUSE), and try again",
				     path);
	free(believed);
	believed = strdup(path);
	believed_until = now_ms() + BELIEVED_MS;
	return 0;
}
