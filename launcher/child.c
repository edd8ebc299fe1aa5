#include "launcher/child.h"
#include "launcher/identity.h"
#include "proto/base.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define FDS_MAX 256

struct vm_child {
	uv_poll_t poll;
	int pidfd;
	pid_t pid;
	vm_child_cb cb;
	void *data;
};

/* ---- How many fds ---- */

static struct rlimit first_limit;

void vm_child_raise_fd_limit(void)
{
	struct rlimit raised;

	if (first_limit.rlim_cur > 0 || getrlimit(RLIMIT_NOFILE, &raised) < 0)
		return;
	first_limit = raised;
	raised.rlim_cur = raised.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &raised);
}

/* ---- In the child, between fork and exec: only async-signal-safe calls ---- */

static void restore_fd_limit(void)
{
	if (first_limit.rlim_cur > 0)
		(void)setrlimit(RLIMIT_NOFILE, &first_limit);
}

static void reset_signals(void)
{
	sigset_t none;

	for (int s = 1; s < NSIG; s++)
		(void)signal(s, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* All sources are moved above the targets first, so that none is overwritten before it is used. */
static int place_fds(const struct vm_child_options *o, int report)
{
	int above = 3 + (int)o->n_fds + 2, moved[FDS_MAX], null, input, output, errors;

	report = fcntl(report, F_DUPFD_CLOEXEC, above);
	for (size_t i = 0; i < o->n_fds; i++)
		if ((moved[i] = fcntl(o->fds[i], F_DUPFD_CLOEXEC, above)) < 0)
			return -1;
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	input = fcntl(o->input > 0 ? o->input : null, F_DUPFD_CLOEXEC, above);
	output = fcntl(o->output >= 0 ? o->output : null, F_DUPFD_CLOEXEC, above);
	errors = fcntl(o->errors > 0 ? o->errors : output, F_DUPFD_CLOEXEC, above);
	if (report < 0 || null < 0 || output < 0 || dup2(input, 0) < 0 || dup2(output, 1) < 0 || dup2(errors, 2) < 0)
		return -1;
	for (size_t i = 0; i < o->n_fds; i++)
		if (dup2(moved[i], 3 + (int)i) < 0)
			return -1;
	/* What lies above closes on exec, the report included: its end of file says that exec went well. */
	if (close_range((unsigned)(3 + o->n_fds), ~0U, CLOSE_RANGE_CLOEXEC) < 0)
		return -1;
	return report;
}

static void write_pid(int fd)
{
	char text[16], *p = text + sizeof text;
	long pid = getpid();

	*--p = '\n';
	do
		*--p = (char)('0' + pid % 10);
	while (pid /= 10);
	if (ftruncate(fd, 0) < 0 || pwrite(fd, p, (size_t)(text + sizeof text - p), 0) < 0)
		_exit(127);
}

static int die_with(pid_t parent)
{
	return prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent ? -1 : 0;
}

static int confine(void)
{
	const struct rlimit none = {0, 0};

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || setrlimit(RLIMIT_CORE, &none) < 0 ? -1 : 0;
}

static _Noreturn void run_child(const struct vm_child_options *o, int report, pid_t parent)
{
	int moved, why;

	setsid();
	reset_signals();
	umask(077);
	if (o->pid_file >= 0)
		write_pid(o->pid_file);
	if (o->cgroup_procs >= 0 && write(o->cgroup_procs, "0", 1) < 0) /* 0: who writes */
		goto fail;
	if (o->directory >= 0 && fchdir(o->directory) < 0)
		goto fail;
	moved = place_fds(o, report);
	if (moved < 0)
		goto fail;
	report = moved;
	restore_fd_limit(); /* fds above it stay open until exec closes them */
	/* What needs our rights is done; another identity forgets whom to die with. */
	if ((!o->identity || vm_identity_take(o->identity) == 0) && (!o->confined || confine() == 0) &&
	    (!o->dies_with_us || die_with(parent) == 0))
		execvpe(o->argv[0], o->argv, o->environment ? o->environment : environ);
fail:
	why = errno;
	if (write(report, &why, sizeof why) < 0)
		_exit(126);
	_exit(127);
}

/* ---- In the parent ---- */

static void on_pidfd(uv_poll_t *handle, int status, int events)
{
	struct vm_child *c = handle->data;
	struct vm_exit how = {.code = -1};
	siginfo_t info = {0};

	UNUSED(status);
	UNUSED(events);
	if (waitid(P_PIDFD, (id_t)c->pidfd, &info, WEXITED | WNOHANG) == 0) {
		if (info.si_pid == 0)
			return;
		how.known = true;
		if (info.si_code == CLD_EXITED)
			how.code = info.si_status;
		else
			how.signal = info.si_status;
	}
	uv_poll_stop(&c->poll);
	c->cb(c->data, &how);
}

static int watch(uv_loop_t *loop, pid_t pid, int pidfd, vm_child_cb cb, void *data, struct vm_child **ret)
{
	struct vm_child *c = calloc(1, sizeof *c);
	int r = c ? uv_poll_init(loop, &c->poll, pidfd) : -ENOMEM;

	if (r < 0) {
		free(c);
		return r;
	}
	c->pid = pid;
	c->pidfd = pidfd;
	c->cb = cb;
	c->data = data;
	c->poll.data = c;
	uv_poll_start(&c->poll, UV_READABLE, on_pidfd);
	*ret = c;
	return 0;
}

/* Waits for exec: end of file, or the errno that it failed with. */
static int await_exec(int report)
{
	int why = 0;
	ssize_t n;

	do
		n = read(report, &why, sizeof why);
	while (n < 0 && errno == EINTR);
	return n == sizeof why ? -why : 0;
}

/* Just started, used by nobody, and its end would not be heard of. Our child until it is waited for: the pid is its. */
static void end_unwatched(pid_t pid)
{
	(void)kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

int vm_child_spawn(uv_loop_t *loop, const struct vm_child_options *o, vm_child_cb cb, void *data,
		   struct vm_child **ret, struct qmp_error *err)
{
	_cleanup_fd_ int report_in = -1, pidfd = -1;
	int report[2], r;
	pid_t pid, parent = getpid();

	if (o->n_fds > FDS_MAX)
		return qmp_error_set(err, QMP_ERR_LIMIT, -E2BIG, "starting %s: too many file descriptors", o->argv[0]);
	if (pipe2(report, O_CLOEXEC) < 0)
		return qmp_error_errno(err, -errno, "starting %s", o->argv[0]);
	report_in = report[0];
	pid = fork();
	if (pid == 0)
		run_child(o, report[1], parent);
	(void)close(report[1]);
	if (pid < 0)
		return qmp_error_errno(err, -errno, "starting %s", o->argv[0]);
	r = await_exec(report_in);
	pidfd = pidfd_open(pid, 0);
	if (r < 0 || pidfd < 0) {
		r = r < 0 ? r : -errno;
		end_unwatched(pid);
		if (r == -ENOENT)
			return qmp_error_set(err, QMP_ERR_HOST, r,
					     "starting %s: there is no such program; install it (Debian: %s)%s", o->argv[0],
					     o->package ? o->package : "qemu-system-x86", o->package ? "" : " or name another");
		return qmp_error_errno(err, r, "starting %s", o->argv[0]);
	}
	r = watch(loop, pid, pidfd, cb, data, ret);
	if (r < 0) {
		end_unwatched(pid);
		return qmp_error_errno(err, r, "watching %s", o->argv[0]);
	}
	pidfd = -1;
	return 0;
}

int vm_child_watch(uv_loop_t *loop, pid_t pid, vm_child_cb cb, void *data, struct vm_child **ret,
		   struct qmp_error *err)
{
	_cleanup_fd_ int pidfd = pidfd_open(pid, 0);
	int r;

	if (pidfd < 0)
		return qmp_error_errno(err, -errno, "watching the process %d", (int)pid);
	r = watch(loop, pid, pidfd, cb, data, ret);
	if (r < 0)
		return qmp_error_errno(err, r, "watching the process %d", (int)pid);
	pidfd = -1;
	return 0;
}

pid_t vm_child_pid(const struct vm_child *c)
{
	return c->pid;
}

int vm_child_signal(const struct vm_child *c, int sig)
{
	return pidfd_send_signal(c->pidfd, sig, NULL, 0) < 0 ? -errno : 0;
}

static void on_closed(uv_handle_t *h)
{
	free(h->data);
}

void vm_child_free(struct vm_child *c)
{
	if (!c)
		return;
	uv_poll_stop(&c->poll);
	uv_close((uv_handle_t *)&c->poll, on_closed);
	(void)close(c->pidfd);
}
