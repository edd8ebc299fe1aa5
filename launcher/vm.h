/*
 * One VM's life, from its spec on disk to a QEMU that runs and ends.
 *
 *             start                up, cont              SHUTDOWN ... exit
 *   stopped ---------> starting ------------> running <-----------------> stopped
 *                         |                    ^   |  STOP / RESUME
 *                         | exit               |   v
 *                         v                   paused      (any of them) <-- lost / back --> unresponsive
 *                      stopped
 *
 * Owns: the run directory, the lock, QEMU and its session, the consoles' sockets and logs, the record of how it ended.
 * Does not own: who may ask for what (qmpctl/), what a spec means (fragment.h). Never ends a QEMU that runs by itself.
 */
#pragma once

#include "launcher/caps.h"
#include "launcher/fragment.h"
#include "launcher/qemu.h"

enum vm_state { VM_STOPPED, VM_STARTING, VM_RUNNING, VM_PAUSED, VM_UNRESPONSIVE };
const char *vm_state_name(enum vm_state s);

struct vm;

/* In the run directory: what QEMU has, its spec in "spec", there while it lives. */
#define VM_RUNNING_FILE "running.json"
/* In the run directory: what a detached keeper says. Bounded, as QEMU's own words are. */
#define VM_KEEPER_LOG "keeper.log"
/* In the run directory; goes with QEMU. Its keeper's, not ours. */
#define VM_JOURNAL "journal.json"

/* Where only a VM that runs would do: -ENOTCONN, and how to start it. */
int vm_not_running(const char *name, struct qmp_error *err);

struct vm_handlers {
	/*
	 * Before QEMU is started with vm->spec, complete: what that names is to be made ready. 1: it is; 0: it will be, or not,
	 * and vm_start_ready() says so later, once. May be NULL.
	 */
	int (*make_ready)(void *data, struct vm *vm, struct qmp_error *err);
	/* What that has begun is not wanted any more: it says so by vm_start_ready() when it is over. May be NULL. */
	void (*take_back)(void *data);
	/* Before QEMU is started with SPEC, effective: an error, and it is not. May be NULL. */
	int (*may_start)(void *data, const struct vm *vm, const json_t *spec, struct qmp_error *err);
	void (*on_state)(void *data, struct vm *vm);
	/* The session of vm_session is about to be freed. */
	void (*on_session_end)(void *data, struct vm *vm);
	void (*on_event)(void *data, struct vm *vm, const struct qmp_event *event);
	void (*on_console)(void *data, struct vm *vm, const char *console, const char *text, size_t len);
	/* As vm_host has it. */
	unsigned (*file_type)(int directory, const char *path);
	char *(*fifo_behind)(int directory, const char *path);
	void *data;
};

/* A file as it was at one time. */
struct vm_file_id {
	dev_t device;
	ino_t inode;
	off_t size;
	struct timespec changed;
};

struct vm {
	uv_loop_t *loop;
	const struct vm_dirs *dirs;
	char *name;
	int run_dir, conf_dir, lock_fd;
	struct vm_handlers handlers;
	enum vm_state state;
	json_t *spec;       /* as it was last read or written */
	struct vm_file_id spec_id; /* what that was read from; 0: from nothing on disk */
	json_t *running;    /* effective, what QEMU has; NULL when stopped */
	/* {"accel", "cpu-model", "machine", "qemu-version", "binary", "binary-id", "sandbox", "sandbox-note"?, "vhost-net"?, "cgroup"?,
	 * "pools": definitions (pool.h)} of the
	 * running QEMU */
	json_t *host_facts;
	json_t *last_end;   /* {"reason", "exit-code"?, "signal"?, "time"}; NULL: never ran */
	json_t *argv;       /* of the running QEMU */
	json_t *greeting;
	struct vm_qemu *qemu;
	struct vm_console *consoles;
	int64_t started;    /* as vm_seconds() counts */
	int64_t since;      /* when STATE began, likewise; 0: it never changed here */
	bool wanted_end;    /* we asked QEMU to end */
	bool killed;        /* by SIGKILL: of one that was taken over the kernel does not tell */
	bool stop_asked;    /* the guest was asked to power off */
	bool was_up;        /* this QEMU has run (or been paused): it came up; or it was taken over */
	bool stays;         /* SHUTDOWN need not be its end: it was told to stay (-no-shutdown) */
	bool start_paused, start_cancelled;
	json_t *shutdown_event;
	bool panicked;
	uv_timer_t retry;
	int open_handles;
	json_t *caps;       /* while make_ready is under way */
	void (*start_cb)(void *data, const struct qmp_error *why);
	void *start_data;
	struct qmp_error start_error;
};

/*
 * Takes the lock and reads the spec: -EBUSY when another keeper has the VM, -ENOENT when there is no such VM. Where a QEMU lives
 * whose spec is gone or damaged, the spec is what that QEMU was started with.
 */
int vm_open(uv_loop_t *loop, const struct vm_dirs *dirs, const char *name, const struct vm_handlers *h, struct vm **ret,
	    struct qmp_error *err);
/* Lets go; a QEMU that runs goes on. */
void vm_close(struct vm *vm);
/* Whether a QEMU of this VM lives (its lock is held), whoever watches it. */
bool vm_qemu_lives(const struct vm *vm);
/* The same for a VM that is not open: by its run directory. */
bool vm_qemu_lives_in(int run_dir);
/* Its pid, as the one that lives wrote it there; 0: it has not done so yet. */
pid_t vm_qemu_pid_in(int run_dir);
/*
 * CB for each VM whose QEMU lives: its run directory, or a negative errno where it cannot be looked into. What CB gives, when
 * negative, ends it. 0 where there is no folder of VMs that run.
 */
int vm_each_running(const struct vm_dirs *dirs, int (*cb)(void *data, const char *name, int run_dir, struct qmp_error *err),
		    void *data, struct qmp_error *err);
/*
 * Whether a QEMU runs the VM of that name, from its files alone; then its binary's path, and the identity (caps.h) that the
 * binary had when it was started. New; "" where that is not known.
 */
bool vm_running_qemu(const struct vm_dirs *dirs, const char *name, char **ret_binary, char **ret_id);
/* CB once, from the loop; WHY is NULL when it runs (or is paused, where asked). */
int vm_start(struct vm *vm, bool paused, void (*cb)(void *data, const struct qmp_error *why), void *data,
	     struct qmp_error *err);
/* A start that has come to no QEMU yet fails as soon as what is under way for it has ended. False: there is none. */
bool vm_cancel_start(struct vm *vm);
/* What make_ready has begun is over; WHY (may be NULL) it cannot start. */
void vm_start_ready(struct vm *vm, const struct qmp_error *why);
/* Takes over the QEMU that lives. */
int vm_adopt(struct vm *vm, void (*cb)(void *data, const struct qmp_error *why), void *data, struct qmp_error *err);
/* The session, or an error that says why there is none. */
struct qmp_session *vm_session(const struct vm *vm, struct qmp_error *err);
/* Since the host has booted, which no setting of its clock moves. */
int64_t vm_seconds(void);
/* How long its QEMU has been there, or was; 0 where that is not known. */
int64_t vm_uptime(const struct vm *vm);
/* Why it is unresponsive, in words: new. */
char *vm_why_unresponsive(const struct vm *vm);
/* Why a process does nothing, in words; NULL: nothing shows. */
const char *vm_why_process_waits(pid_t pid);
/* Before the spec is needed: what somebody else has made of it on disk. Where that cannot be read it stays as it was. */
int vm_renew_spec(struct vm *vm, struct qmp_error *err);
/* The spec as it is on disk now; new. NULL: it cannot be read. */
json_t *vm_spec_on_disk(const struct vm *vm, struct qmp_error *err);
/* Replaces the spec on disk (checked already). -ESTALE: another program has changed it since it was read, and it is left. */
int vm_save_spec(struct vm *vm, json_t *spec, struct qmp_error *err);
/* The same in two halves (files.h): most of the time that the disk takes passes while QEMU works. */
int vm_draft_spec(const struct vm *vm, const json_t *spec, struct vm_draft *ret, struct qmp_error *err);
int vm_publish_spec(struct vm *vm, json_t *spec, struct vm_draft *draft, struct qmp_error *err);
void vm_discard_spec(const struct vm *vm, struct vm_draft *draft);
/*
 * The running spec has changed (a plan ran): kept beside QEMU for who adopts it. Where that fails, RUNNING is what we
 * take it to have all the same.
 */
int vm_save_running(struct vm *vm, json_t *running, struct qmp_error *err);
/* Whether QEMU, where it runs as another user, may open what the steps of PLAN name. */
int vm_may_open(const struct vm *vm, const json_t *plan, struct qmp_error *err);
/*
 * The image that a blockdev-add with ARGS opens, for QEMU where it runs as another user, who may not: 1 and the fd. 0: QEMU
 * opens it, or it is none. Errors as of vm_identity_open.
 */
int vm_open_image(const struct vm *vm, const char *item, const json_t *args, int *ret_fd, struct qmp_error *err);
/* Whether QEMU runs as another user than we do. */
bool vm_has_user(const struct vm *vm);
/* Before PLAN has it open another image: the limits that it is held to hold on that one's disk, too. */
int vm_limit_io(const struct vm *vm, const json_t *plan, struct qmp_error *err);
struct vm_host vm_host_of(const struct vm *vm);
/* Before anything of SPEC is made for QEMU: the pools that it names are read, but for those that QEMU has images of. */
int vm_know_pools(struct vm *vm, const json_t *spec, struct qmp_error *err);
/* What is known of them; borrowed. */
const json_t *vm_known_pools(const struct vm *vm);
/*
 * What asks QEMU to end, or its guest to power off, is about to be sent: also who takes this QEMU over is to know that its end
 * was asked for.
 */
enum vm_end { VM_END_QEMU, VM_END_GUEST };
void vm_expect_end(struct vm *vm, enum vm_end which);
/* The same of whatever a client sends, by its name. */
void vm_expect_command(struct vm *vm, const char *command, const json_t *arguments);
/* Ends QEMU now (SIGKILL by pidfd). */
int vm_kill(struct vm *vm, int signal);
/* The console of that id (NULL: the first), of the VM that runs or ran last; NULL: there is none. */
struct vm_console *vm_find_console(const struct vm *vm, const char *id);
/* Types into a console. -ENOENT: no such console; see vm_console_send. */
int vm_console_write(struct vm *vm, const char *console, const char *text, size_t len);
/* What a console of a VM that runs said lately, not ended by NUL; borrowed. */
const char *vm_console_recent(const struct vm *vm, const char *console, size_t *ret_len);
/* The command line as it would be started now; new. */
int vm_preview_argv(struct vm *vm, json_t *caps, char ***ret, struct qmp_error *err);
