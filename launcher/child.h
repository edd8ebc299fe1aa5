/*
 * A child process with exactly the fds it should have, watched through its pidfd. Also watches a process
 * that is not our child (an adopted QEMU), whose exit status then stays unknown.
 */
#pragma once

#include "proto/qmp.h"

#include <sys/types.h>

struct vm_identity;

struct vm_exit {
	bool known;  /* false: not our child */
	int code;    /* exit status, or -1 */
	int signal;  /* that ended it, or 0 */
};

struct vm_child_options {
	char *const *argv;
	const int *fds;      /* become 3, 4, ... in the child, in this order; borrowed */
	size_t n_fds;
	int input;           /* its standard input; 0 or -1: /dev/null */
	int output;          /* its standard output; -1: /dev/null */
	int errors;          /* its standard error; 0 or -1: where its output goes */
	int directory;       /* its working directory; -1: ours */
	int pid_file;        /* -1, or an fd to which the child writes its pid before exec */
	const struct vm_identity *identity; /* whom it runs as; NULL: as we do */
	int cgroup_procs;    /* -1, or the cgroup.procs of the control group that it runs in */
	bool confined;       /* it wins no privileges by what it runs, and leaves no core dump */
	char *const *environment; /* NULL: ours */
	const char *package; /* the Debian package that has it, for the message when it is missing; NULL: QEMU's */
	bool dies_with_us;   /* SIGKILL when the thread that started it ends; else it outlives us */
};

struct vm_child;
typedef void (*vm_child_cb)(void *data, const struct vm_exit *how);

/* Starts it in a session of its own. An exec that fails is an error here. CB fires once, from the loop. */
int vm_child_spawn(uv_loop_t *loop, const struct vm_child_options *o, vm_child_cb cb, void *data,
		   struct vm_child **ret, struct qmp_error *err);
/* Watches PID. -ESRCH where there is none. */
int vm_child_watch(uv_loop_t *loop, pid_t pid, vm_child_cb cb, void *data, struct vm_child **ret,
		   struct qmp_error *err);
/*
 * Lets this process have as many fds as the host allows (RLIMIT_NOFILE's hard limit). Children that it spawns are given the
 * limit that it was started with: programs that use select() count on it.
 */
void vm_child_raise_fd_limit(void);
pid_t vm_child_pid(const struct vm_child *c);
/* By its pidfd: never hits another process. 0 or negative errno. */
int vm_child_signal(const struct vm_child *c, int signal);
/* Stops watching; the process goes on. NULL is fine. */
void vm_child_free(struct vm_child *c);
