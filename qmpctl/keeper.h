/*
 * The keeper: one loop that holds VMs, serves their control sockets and runs operations on them.
 *
 * A guest is a VM in a keeper's hands: its clients, the operations that wait their turn (serial for each VM), and what
 * is pending with the guest. The same code serves a verb on a stopped VM, without sockets.
 */
#pragma once

#include "launcher/vm.h"

struct agent;
struct ask;
struct keeper;
struct guest;
struct op_call;
struct img_heads;
struct img_seed;
struct vm_inventory;
struct pending;
struct restart;

/* RESULT (borrowed) on success, WHY on failure: one of them is NULL. */
typedef void (*op_done_cb)(void *data, json_t *result, const struct qmp_error *why);

/* ---- Operations (op.c: the table) ---- */

struct op_arg {
	const char *name, *type, *summary; /* type: string, int, bool, object */
	bool required;
	const char *choices; /* of a string: "a|b"; NULL: any */
};

/*
 * Most changes are right as the specs have it, and QEMU refuses those that are not: an addition asks only then, and is
 * tried once more. What is removed is undone with more difficulty, so that is asked about first.
 */
enum op_asks { OP_ASKS_NOTHING, OP_ASKS_FIRST, OP_ASKS_WHEN_REFUSED };

struct op {
	const char *name, *summary;
	const struct op_arg *args; /* ends with a NULL name */
	bool changes;              /* one at a time for each VM, and not on observe.sock */
	bool urgent;               /* does not wait for the change that runs */
	enum op_asks asks;         /* of a VM that runs, what QEMU has */
	bool waits;                /* may take as long as the guest takes */
	/* Starts it; the call ends in op_return or op_fail, at once or later. */
	void (*start)(struct op_call *call);
};

struct op_call {
	struct op_call *next;
	const struct op *op;
	struct guest *guest;
	json_t *args;
	op_done_cb done;
	void *data;
	uv_timer_t timer; /* for operations that wait; initialised, unused otherwise */
	/* Called for what happens to the guest while the operation runs; NULL: not interested. */
	void (*on_state)(struct op_call *call);
	void (*on_event)(struct op_call *call, const struct qmp_event *event);
	void (*on_console)(struct op_call *call, const char *console, size_t len);
	void (*on_agent)(struct op_call *call); /* the guest agent has answered */
	struct ask *asked; /* what the guest agent is asked for it (agent.h) */
	void *state; /* the operation's own; freed with the call */
	struct qmp_error *refusal; /* of the first try; NULL: none */
	json_t *heads; /* of images on servers that QEMU would be given (images/head.h); NULL: none was wanted */
	struct vm_inventory *inventory; /* what QEMU has, where the operation asks; NULL: there is none, or it does not answer */
};

extern const struct op *const all_ops[]; /* ends with NULL */
extern const struct op op_agent, op_disk_resize, op_stop, op_reboot, op_kill;
const struct op *op_find(const char *name);
/*
 * The operations as qmpctl-schema returns them, as query-commands lists them, and as query-qmp-schema describes them.
 * New.
 */
json_t *op_schema(void);
json_t *op_names(void);
json_t *op_infos(void);
/* The choices of an argument, an array, new. */
json_t *op_choices(const struct op_arg *arg);
/* What the queue waited for is over (pending.h): the next one starts. */
void ops_go_on(struct guest *g);
/* Starts or queues the operation; DONE once, possibly from inside. ARGS borrowed. */
void op_run(struct guest *g, const struct op *op, json_t *args, op_done_cb done, void *data);
void op_return(struct op_call *call, json_t *result_consume);
void op_fail(struct op_call *call, const struct qmp_error *why);
void op_failf(struct op_call *call, enum qmp_error_kind kind, int code, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
/* vm_not_running. */
void op_fail_not_running(struct op_call *call);
/* Arguments by name, checked against the table already. */
const char *op_text(const struct op_call *call, const char *name);
bool op_flag(const struct op_call *call, const char *name, bool fallback);
int64_t op_int(const struct op_call *call, const char *name, int64_t fallback);

/* ---- Guests ---- */

struct guest {
	struct guest *next;
	struct keeper *keeper;
	struct vm *vm;
	struct client *clients;
	struct listener *control, *observe;
	struct op_call *running, *queue, *watching; /* the change that runs; those that wait; those that only look on */
	struct vm_exec *exec;    /* the plan of the change that runs */
	struct pending *pending; /* what waits for the guest (pending.h) */
	json_t *drift, *others;  /* where QEMU has not what the running spec says, and what else it has (drift.h); NULL: not known */
	bool drift_stale;        /* a client's command came since */
	bool drift_asked, drift_missed; /* missed: it was asked, and a change came in between */
	uint64_t changes, drift_changes; /* that have begun; until it was asked */
	enum vm_state state_before;
	bool awaits_start; /* run will start it when others have come up */
	bool closing;    /* the keeper lets go of it: nothing begins any more */
	bool restarting; /* reboot: it stops to start again */
	struct restart *restart; /* what its policy does when it ends */
	struct agent *agent;
	struct img_seed *seed; /* that is being made before a start; NULL: none */
	struct img_heads *starting, *looking; /* being fetched: before a start; for the change that runs */
	json_t *start_heads;
};

/* Changes of the spec, live and kept (change.c). EDIT alters SPEC in place. */
typedef int (*spec_edit)(json_t *spec, const json_t *item, struct qmp_error *err);
void change_run(struct op_call *call, spec_edit edit, json_t *item_consume, json_t *result_consume);
/*
 * Fetches the headers of those of DISKS (located, with their chains) that are on servers into call->heads. 1: all are there; 0:
 * the operation starts anew when they are, or fails; negative.
 */
int change_look(struct op_call *call, const json_t *disks, struct qmp_error *err);
/* DISK as an array of one, located (launcher/pool.h). New; NULL: ERR says why. */
json_t *disk_located(const struct vm_dirs *dirs, json_t *disk, struct qmp_error *err);
/*
 * Gives a disk without a format the one that its image's header says (HEADS: of one on a server; images/head.h); says so in
 * RESULT (may be NULL).
 */
int disk_decide_format(const struct vm_dirs *dirs, json_t *disk, const json_t *heads, json_t *result, struct qmp_error *err);
/* The PCI ports that are taken by what the spec of CALL's VM does not name, or no longer (vm_spec_complete_beside). New. */
json_t *change_taken_ports(const struct op_call *call);
/* The fd of that name ("net0-tap") for an item of SPEC; or a negative errno. */
int change_open_fd(const json_t *spec, const char *name, struct qmp_error *err);
/* As of vm_open_image, of a step that is a blockdev-add. */
int change_open_image(const struct guest *g, const json_t *step, int *ret_fd, struct qmp_error *err);
/* PLAN, which leads to WANT, has been run but for REST (NULL: all of it): whatever item has no step left is as wanted. */
int change_keep_running(struct vm *vm, const json_t *want, const json_t *plan, const json_t *rest, struct qmp_error *err);
/* The session is gone: the plan under way ends. */
void change_abandon(struct guest *g);

/* ---- Keeper ---- */

struct keeper {
	uv_loop_t *loop;
	const struct vm_dirs *dirs;
	struct guest *guests;
	bool leave_on_term; /* SIGTERM leaves the VMs running */
	bool leaving;
	void (*on_idle)(struct keeper *k); /* every VM has stopped and everybody was told */
	uv_timer_t idle, drift;
};

/* Nothing runs, waits or is to be started again. */
bool keeper_is_idle(const struct keeper *k);

void keeper_init(struct keeper *k, uv_loop_t *loop, const struct vm_dirs *dirs);
/* Opens the VM (lock, spec). SERVE: with control.sock. */
int keeper_add(struct keeper *k, const char *name, bool serve, struct guest **ret, struct qmp_error *err);
void keeper_close(struct keeper *k);
/* Nothing of G's runs any more: the keeper may end. */
void guest_stopped(struct guest *g);
/* Tells every client of G. */
void guest_send(struct guest *g, const char *raw, size_t len);
/* Its agent has answered. */
void guest_tell_agent(struct guest *g);
void guest_send_event(struct guest *g, const char *name, json_t *data_consume);

/* stop.c: what CALL, if it is a stop or a reboot, does now to have the guest stopped; else NULL. */
const char *stop_stage(const struct op_call *call);

/* listener.c: control.sock, or READ_ONLY observe.sock. Clients that find no fd wait, and cost nothing meanwhile. */
int listener_new(struct guest *g, const char *file, bool read_only, struct listener **ret, struct qmp_error *err);
void listener_free(struct listener *l);
/*
 * observe.sock is for the group that SPEC names in "observe-group", else for our user alone. -ENOENT: there is no such group;
 * -EPERM: it is not ours to give to. Fine where G is not served.
 */
int listener_share(struct guest *g, const json_t *spec, struct qmp_error *err);

/* control.c. Takes over FD on success. -EUSERS: so many are served already, and each of them speaks. */
int client_new(struct guest *g, int fd_consume, bool read_only, struct qmp_error *err);
/* Ends the one that has connected and said nothing for longest; false: there is none. */
bool client_gives_way(struct guest *g, bool read_only);
void clients_free(struct guest *g);
