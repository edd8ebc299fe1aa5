/*
 * A VM's life but for its start: opening, what is kept on disk, QEMU's events and its end, being lost and found, adoption.
 */
#include "launcher/vm-internal.h"
#include "launcher/cgroup.h"
#include "launcher/console.h"
#include "launcher/hostnet.h"
#include "launcher/pool.h"
#include "launcher/record.h"
#include "launcher/spec.h"
#include "launcher/sshconf.h"
#include "proto/base.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>

#define RETRY_MS   2000
#define RUNNING    VM_RUNNING_FILE
#define LAST_END   "last-end.json"
#define LOGS_MAX   ((uint64_t)8 << 20) /* unless the spec says otherwise */

static const char *const state_names[] = {
	[VM_STOPPED] = "stopped", [VM_STARTING] = "starting",	      [VM_RUNNING] = "running",
	[VM_PAUSED] = "paused",	  [VM_UNRESPONSIVE] = "unresponsive",
};

const char *vm_state_name(enum vm_state s)
{
	return state_names[s];
}

int vm_not_running(const char *name, struct qmp_error *err)
{
	return qmp_error_set(err, QMP_ERR_STATE, -ENOTCONN, "the VM %s is not running; \"qmpctl start %s\" starts it", name, name);
}

int64_t vm_seconds(void)
{
	struct timespec now;

	return clock_gettime(CLOCK_BOOTTIME, &now) == 0 ? (int64_t)now.tv_sec : 0;
}

int64_t vm_uptime(const struct vm *vm)
{
	int64_t now = vm_seconds();

	return vm->started < now ? now - vm->started : 0;
}

void vm_set_state(struct vm *vm, enum vm_state s)
{
	if (vm->state == s)
		return;
	vm->state = s;
	vm->since = vm_seconds();
	vm->was_up |= s == VM_RUNNING || s == VM_PAUSED;
	if (vm->handlers.on_state)
		vm->handlers.on_state(vm->handlers.data, vm);
}

/* ---- Opening ---- */

/* What a writer that was ended has left: nobody else writes these while we hold the lock. */
static void remove_unfinished(const struct vm *vm)
{
	static const char *const names[] = {RUNNING, LAST_END, VM_JOURNAL};
	char spec[VM_SPEC_FILE_MAX];

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		vm_file_remove_unfinished(vm->run_dir, names[i]);
	vm_spec_file(vm, spec);
	vm_file_remove_unfinished(vm->conf_dir, spec);
}

static void settle_unseen_end(struct vm *vm);
static json_t *read_record(const struct vm *vm, struct qmp_error *err);

/* One whose QEMU lives is known by what that was started with, where its spec is damaged or gone: so it can be taken over. */
static int know_spec(struct vm *vm, struct qmp_error *err)
{
	struct qmp_error why = {0};
	json_auto_t *record = NULL;
	int r = vm_renew_spec(vm, &why);

	if (r < 0 && vm->run_dir >= 0 && vm_qemu_lives(vm))
		record = read_record(vm, NULL);
	if (r < 0 && !record)
		return qmp_error_set(err, why.kind, r, "%s", why.message);
	if (r < 0)
		vm_replace(&vm->spec, json_incref(json_object_get(record, "spec")));
	return 0;
}

int vm_open(uv_loop_t *loop, const struct vm_dirs *dirs, const char *name, const struct vm_handlers *h, struct vm **ret,
	    struct qmp_error *err)
{
	struct vm *vm;
	int r;

	if (!vm_name_valid(name))
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL,
				     "\"%s\" is no name for a VM: letters, digits, . _ - (64 at most), a letter or digit "
				     "first",
				     name);
	vm = calloc(1, sizeof *vm);
	if (!vm)
		return qmp_error_errno(err, -ENOMEM, "opening the VM %s", name);
	vm->loop = loop;
	vm->dirs = dirs;
	vm->name = strdup(name);
	vm->handlers = *h;
	vm->lock_fd = vm->run_dir = -1;
	vm->conf_dir = vm_dir_open(dirs->conf, "vms", true, err);
	vm->run_dir = vm_dir_open(dirs->run, name, false, NULL);
	r = vm->conf_dir < 0 ? vm->conf_dir : know_spec(vm, err);
	if (r == 0 && vm->run_dir < 0)
		r = vm->run_dir = vm_dir_open(dirs->run, name, true, err);
	if (r >= 0)
		r = vm_lock(vm->run_dir, "lock", &vm->lock_fd, err);
	/* Once more under the lock: what was read before may have been edited until then. */
	if (r == 0)
		r = know_spec(vm, err);
	if (r < 0) {
		qmp_error_wrap(err, "the VM %s", name);
		json_decref(vm->spec);
		qmp_cleanup_fd(&vm->conf_dir);
		qmp_cleanup_fd(&vm->run_dir);
		qmp_cleanup_fd(&vm->lock_fd);
		free(vm->name);
		free(vm);
		return r;
	}
	remove_unfinished(vm);
	vm->last_end = vm_file_read_json(vm->run_dir, LAST_END);
	if (!vm_end_is_whole(vm->last_end))
		vm_replace(&vm->last_end, NULL);
	settle_unseen_end(vm);
	uv_timer_init(loop, &vm->retry);
	vm->retry.data = vm;
	*ret = vm;
	return 0;
}

bool vm_qemu_lives_in(int run_dir)
{
	return vm_is_locked(run_dir, QEMU_LOCK);
}

int vm_each_running(const struct vm_dirs *dirs, int (*cb)(void *data, const char *name, int run_dir, struct qmp_error *err),
		    void *data, struct qmp_error *err)
{
	DIR *folder = opendir(dirs->run);
	const struct dirent *entry;
	int r = 0;

	if (!folder)
		return errno == ENOENT ? 0 : qmp_error_errno(err, -errno, "looking through %s", dirs->run);
	while (r == 0 && (entry = readdir(folder))) {
		_cleanup_fd_ int run = vm_name_valid(entry->d_name) ? vm_dir_open(dirs->run, entry->d_name, false, NULL) : -ENOENT;
		if (run == -ENOENT || run == -ENOTDIR || (run >= 0 && !vm_qemu_lives_in(run)))
			continue;
		r = cb(data, entry->d_name, run, err);
	}
	(void)closedir(folder);
	return r;
}

bool vm_qemu_lives(const struct vm *vm)
{
	return vm_qemu_lives_in(vm->run_dir);
}

static void free_consoles(struct vm *vm)
{
	while (vm->consoles) {
		struct vm_console *c = vm->consoles;
		vm->consoles = vm_console_next(c);
		vm_console_free(c);
	}
}

static void on_closed(uv_handle_t *h)
{
	free(h->data);
}

void vm_close(struct vm *vm)
{
	if (!vm)
		return;
	vm_qemu_free(take_ptr(vm->qemu));
	free_consoles(vm);
	json_decref(vm->spec);
	json_decref(vm->running);
	json_decref(vm->host_facts);
	json_decref(vm->last_end);
	json_decref(vm->argv);
	json_decref(vm->greeting);
	json_decref(vm->caps);
	json_decref(vm->shutdown_event);
	qmp_cleanup_fd(&vm->conf_dir);
	qmp_cleanup_fd(&vm->run_dir);
	qmp_cleanup_fd(&vm->lock_fd);
	free(vm->name);
	uv_timer_stop(&vm->retry);
	uv_close((uv_handle_t *)&vm->retry, on_closed);
}

/* ---- Keeping ---- */

/* This run of the host's kernel. */
static const char *boot_id(void)
{
	static char id[64];
	_cleanup_fd_ int fd = *id ? -1 : open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? read(fd, id, sizeof id - 1) : 0;

	if (n > 0)
		id[strcspn(id, "\n")] = '\0';
	return id;
}

/* What is known of this QEMU's end, for who takes it over. New. */
static json_t *ending_of(const struct vm *vm)
{
	return json_pack("{s:O*, s:b, s:b, s:b, s:b, s:b}", "shutdown", vm->shutdown_event, "panicked", vm->panicked,
			 "wanted-end", vm->wanted_end, "killed", vm->killed, "stop-asked", vm->stop_asked, "stays", vm->stays);
}

static void take_ending(struct vm *vm, const json_t *record)
{
	const json_t *ending = json_object_get(record, "ending");
	json_t *shutdown = json_object_get(ending, "shutdown");

	vm_replace(&vm->shutdown_event, json_is_object(shutdown) ? json_incref(shutdown) : NULL);
	vm->panicked = json_is_true(json_object_get(ending, "panicked"));
	vm->wanted_end = json_is_true(json_object_get(ending, "wanted-end"));
	vm->killed = json_is_true(json_object_get(ending, "killed"));
	vm->stop_asked = json_is_true(json_object_get(ending, "stop-asked"));
	vm->stays = json_is_true(json_object_get(ending, "stays")) || vm_argv_stays(json_object_get(record, "argv"));
}

bool vm_argv_stays(const json_t *argv)
{
	json_t *word;
	size_t i;

	json_array_foreach(argv, i, word)
	{
		const char *text = json_string_value(word);
		if (text && (streq(text, "-no-shutdown") || streq(text, "--no-shutdown") || strstr(text, "shutdown=pause")))
			return true;
	}
	return false;
}

void vm_forget_ending(struct vm *vm)
{
	take_ending(vm, NULL);
	vm->stays = vm_argv_stays(vm->argv);
}

int vm_save_running(struct vm *vm, json_t *running, struct qmp_error *err)
{
	json_auto_t *record = NULL;

	record = json_pack("{s:O, s:O, s:O, s:I, s:b, s:s, s:o}", "spec", running, "host", vm->host_facts, "argv", vm->argv,
			   "started", (json_int_t)vm->started, "paused", vm->start_paused, "boot", boot_id(), "ending",
			   ending_of(vm));
	if (running != vm->running)
		vm_replace(&vm->running, json_incref(running));
	return record ? vm_file_replace_json(vm->run_dir, RUNNING, record, err)
		      : qmp_error_errno(err, -ENOMEM, "writing " RUNNING);
}

struct vm_host vm_host_of(const struct vm *vm)
{
	const json_t *vhost = json_object_get(vm->host_facts, "vhost-net"); /* of another user's QEMU */

	return (struct vm_host){
		.accel = text_of(vm->host_facts, "accel"),
		.cpu_model = text_of(vm->host_facts, "cpu-model"),
		.machine = text_of(vm->host_facts, "machine"),
		.firmware = json_object_get(vm->host_facts, "firmware"),
		.vhost_net = vhost ? json_is_true(vhost) : vm_hostnet_has_vhost(),
		.qemu_major = (int)json_integer_value(
			json_object_get(json_object_get(vm->host_facts, "qemu-version"), "major")),
		.sandbox = json_is_true(json_object_get(vm->host_facts, "sandbox")),
		.pools = vm_known_pools(vm),
		.user = text_of(vm->running ? vm->running : vm->spec, "user"),
		.ssh_runs = vm_ssh_config_runs,
		.file_type = vm->handlers.file_type,
		.fifo_behind = vm->handlers.fifo_behind,
		.directory = vm->run_dir,
	};
}

const json_t *vm_known_pools(const struct vm *vm)
{
	return json_object_get(vm->host_facts, "pools");
}

int vm_know_pools(struct vm *vm, const json_t *spec, struct qmp_error *err)
{
	json_t *pools = NULL;
	int r = vm_pools_read(vm->dirs, spec, vm->running, vm_known_pools(vm), &pools, err);

	if (r == 0 && json_object_set_new(vm->host_facts, "pools", pools) < 0)
		r = qmp_error_errno(err, -ENOMEM, "reading the pools");
	return r;
}

/* ---- The end of a QEMU ---- */

static const char *end_reason(const struct vm *vm, const struct vm_exit *how)
{
	const json_t *data = json_object_get(vm->shutdown_event, "data");
	const char *reason = text_of(data, "reason");

	if (vm->panicked)
		return "guest-panic";
	/* isa-debug-exit is a shutdown by the guest to QEMU 10; what it says by its code counts. */
	if (how->known && !how->signal && how->code != 0 && !vm->wanted_end)
		return "exited";
	if (reason && json_is_true(json_object_get(data, "guest")))
		return reason; /* guest-shutdown, guest-reset, guest-panic */
	if (vm->wanted_end)
		return how->signal || (!how->known && vm->killed) ? "killed" : "host-quit";
	if (how->signal)
		return "crashed";
	return reason ? reason : "unknown";
}

#define SANDBOX_NOTE                                                                                          \
	"its sandbox ended it, for it was to run a program or asked for privileges; \"sandbox\": false in the spec " \
	"allows that"

static bool was_sandbox(const struct vm *vm, const struct vm_exit *how)
{
	return how->signal == SIGSYS && json_is_true(json_object_get(vm->host_facts, "sandbox"));
}

static void record_end(struct vm *vm, const struct vm_exit *how)
{
	json_t *end = json_pack("{s:s, s:I}", "reason", end_reason(vm, how), "time", (json_int_t)time(NULL));

	if (how->known && how->signal)
		json_object_set_new(end, "signal", json_integer(how->signal));
	else if (how->known)
		json_object_set_new(end, "exit-code", json_integer(how->code));
	if (was_sandbox(vm, how))
		json_object_set_new(end, "note", json_string(SANDBOX_NOTE));
	vm_replace(&vm->last_end, end);
	(void)vm_file_replace_json(vm->run_dir, LAST_END, end, NULL);
}

static void remove_files(struct vm *vm, const json_t *host_facts)
{
	static const char *const names[] = {"qmp.sock", "agent.sock", "vnc.sock", RUNNING, VM_JOURNAL, QEMU_LOCK};
	json_t *console;
	size_t i;

	vm_cgroup_remove(text_of(host_facts, "cgroup"));
	for (i = 0; i < ARRAY_SIZE(names); i++)
		(void)unlinkat(vm->run_dir, names[i], 0);
	json_array_foreach(json_object_get(vm->running, "consoles"), i, console)
	{
		_cleanup_free_ char *name = qmp_asprintf("con-%s.sock", text_of(console, "id"));
		(void)unlinkat(vm->run_dir, name, 0);
	}
}

/* Where the disk is full, who takes this QEMU over knows less. */
static void keep_ending(struct vm *vm)
{
	if (vm->qemu && vm->running)
		(void)vm_save_running(vm, vm->running, NULL);
}

void vm_expect_end(struct vm *vm, enum vm_end which)
{
	bool *known = which == VM_END_QEMU ? &vm->wanted_end : &vm->stop_asked;

	if (*known)
		return;
	*known = true;
	keep_ending(vm);
}

/* One that was told to stay once is not believed to have been told otherwise: that may have been refused. */
void vm_expect_command(struct vm *vm, const char *command, const json_t *arguments)
{
	const char *action = streq(command, "set-action") ? text_of(arguments, "shutdown") : NULL;

	if (streq(command, "quit"))
		vm_expect_end(vm, VM_END_QEMU);
	else if (streq(command, "system_powerdown"))
		vm_expect_end(vm, VM_END_GUEST);
	if (!action || !streq(action, "pause") || vm->stays)
		return;
	vm->stays = true;
	keep_ending(vm);
}

/* Why a QEMU ended that nobody saw end, as far as its last keeper heard of it; BOOT: the host's, when it was started. */
static const char *unseen_reason(const struct vm *vm, const char *boot)
{
	const struct vm_exit unseen = {.known = false};

	if (vm->killed || (vm->shutdown_event && !vm->stays))
		return end_reason(vm, &unseen);
	return boot && !streq(boot, boot_id()) ? "host-reboot" : "unseen";
}

/* A QEMU that ended while no keeper was there to see it has left its files. */
static void settle_unseen_end(struct vm *vm)
{
	json_auto_t *record = NULL;

	if (vm_qemu_lives(vm) || faccessat(vm->run_dir, RUNNING, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
		return;
	record = vm_file_read_json(vm->run_dir, RUNNING);
	take_ending(vm, record);
	vm_replace(&vm->last_end, json_pack("{s:s, s:I}", "reason", unseen_reason(vm, text_of(record, "boot")), "time",
					 (json_int_t)time(NULL)));
	(void)vm_file_replace_json(vm->run_dir, LAST_END, vm->last_end, NULL);
	vm->running = json_incref(json_object_get(record, "spec"));
	remove_files(vm, json_object_get(record, "host"));
	vm_replace(&vm->running, NULL);
	take_ending(vm, NULL);
}

void vm_tell_started(struct vm *vm, const struct qmp_error *why)
{
	void (*cb)(void *, const struct qmp_error *) = vm->start_cb;

	vm->start_cb = NULL;
	if (cb)
		cb(vm->start_data, why);
}

/* The last lines of QEMU's standard error. */
static char *last_words(const struct vm *vm)
{
	_cleanup_free_ char *text = NULL;
	size_t len, start;

	if (vm_file_read(vm->run_dir, LOG, &text, &len, NULL) < 0)
		return strdup("");
	while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == '\r'))
		text[--len] = '\0';
	start = len > 1500 ? len - 1500 : 0;
	return strdup(text + start);
}

void vm_cleanup_run(struct vm *vm)
{
	uv_timer_stop(&vm->retry);
	vm_qemu_free(take_ptr(vm->qemu));
	for (struct vm_console *c = vm->consoles; c; c = vm_console_next(c))
		vm_console_hang_up(c);
	remove_files(vm, vm->host_facts);
	vm_replace(&vm->running, NULL);
	vm_replace(&vm->greeting, NULL);
}

static void on_exit_qemu(void *data, const struct vm_exit *how)
{
	struct vm *vm = data;
	/* Taken before the state is told: who hears that it has stopped may start it again. */
	void (*cb)(void *, const struct qmp_error *) = take_ptr(vm->start_cb);
	void *cb_data = vm->start_data;
	bool starting = vm->state == VM_STARTING;
	_cleanup_free_ char *words = starting ? last_words(vm) : NULL;
	struct qmp_error why = vm->start_error;

	record_end(vm, how);
	vm_cleanup_run(vm);
	vm_set_state(vm, VM_STOPPED);
	if (starting)
		qmp_error_set(&why, QMP_ERR_REFUSED, -ECHILD, "QEMU ended while it was starting (%s %d): %s%s",
			      how->signal ? "signal" : "exit status", how->signal ? how->signal : how->code,
			      words && *words ? words : "it said nothing",
			      was_sandbox(vm, how) ? "; " SANDBOX_NOTE : "");
	if (cb)
		cb(cb_data, starting ? &why : NULL); /* one that ended while it was taken over: its state tells */
}

/* ---- Events ---- */

/* What EVENT tells of how it ends: kept before anybody hears of it. */
static void take_end_event(struct vm *vm, const struct qmp_event *event)
{
	if (streq(event->name, "SHUTDOWN")) {
		vm_replace(&vm->shutdown_event, json_pack("{s:O*}", "data", qmp_event_member(event, "data")));
	} else if (streq(event->name, "STOP") && vm->shutdown_event && !vm->stays) {
		vm->stays = true; /* somebody else has told it to */
	} else if (streq(event->name, "GUEST_PANICKED") && !vm->panicked) {
		vm->panicked = true;
	} else if (streq(event->name, "RESET") && (vm->panicked || vm->shutdown_event)) {
		vm->panicked = false;
		vm_replace(&vm->shutdown_event, NULL);
	} else {
		return;
	}
	keep_ending(vm);
}

static void on_event(void *data, const struct qmp_event *event)
{
	struct vm *vm = data;

	take_end_event(vm, event);
	if (vm->handlers.on_event)
		vm->handlers.on_event(vm->handlers.data, vm, event);
	if (vm->state == VM_RUNNING && streq(event->name, "STOP"))
		vm_set_state(vm, VM_PAUSED);
	else if (vm->state == VM_PAUSED && streq(event->name, "RESUME"))
		vm_set_state(vm, VM_RUNNING);
}

/* ---- Lost and found ---- */

static void on_session_end(void *data)
{
	struct vm *vm = data;

	if (vm->handlers.on_session_end)
		vm->handlers.on_session_end(vm->handlers.data, vm);
}

static void on_retry(uv_timer_t *t);

static void on_lost(void *data, const struct qmp_error *why)
{
	struct vm *vm = data;

	if (vm->state == VM_STARTING) {
		/* Nobody has used it yet: a QEMU that greets and never answers is of no use to anyone. */
		vm->start_error = *why;
		qmp_error_wrap(&vm->start_error, "QEMU did not come up");
		vm_child_signal(vm_qemu_child(vm->qemu), SIGKILL);
		return;
	}
	vm_set_state(vm, VM_UNRESPONSIVE);
	uv_timer_start(&vm->retry, on_retry, RETRY_MS, 0);
}

/* It hangs, or its main loop is busy with a long command: what is under way may still end well, so it is left alone. */
static void on_silent(void *data)
{
	struct vm *vm = data;

	if (vm->state == VM_RUNNING || vm->state == VM_PAUSED)
		vm_set_state(vm, VM_UNRESPONSIVE);
}

static void on_answers(void *data, json_t *status)
{
	struct vm *vm = data;

	if (vm->state == VM_UNRESPONSIVE)
		vm_set_state(vm, json_is_true(json_object_get(status, "running")) ? VM_RUNNING : VM_PAUSED);
}

static void on_retry(uv_timer_t *t)
{
	struct vm *vm = t->data;
	int fd;

	vm_tell_started(vm, NULL); /* taken over, though it has not answered yet */
	if (!vm->qemu || vm_qemu_session(vm->qemu))
		return;
	if (vm_socket_connect(vm->run_dir, "qmp.sock", &fd, NULL) < 0) {
		uv_timer_start(&vm->retry, on_retry, RETRY_MS, 0);
		return;
	}
	if (vm_qemu_reconnect(vm->qemu, fd, NULL) < 0) {
		(void)close(fd);
		uv_timer_start(&vm->retry, on_retry, RETRY_MS, 0);
	}
}

/* ---- Up ---- */

static void on_console(void *data, const char *id, const char *text, size_t len)
{
	struct vm *vm = data;

	if (vm->handlers.on_console)
		vm->handlers.on_console(vm->handlers.data, vm, id, text, len);
}

static void open_console(struct vm *vm, const char *id)
{
	_cleanup_free_ char *name = qmp_asprintf("con-%s.sock", id);
	struct vm_console *c;
	int fd;

	if (vm_socket_connect(vm->run_dir, name, &fd, NULL) < 0)
		return;
	if (vm_console_new(vm->loop, vm->run_dir, id, fd, on_console, vm, &c, NULL) < 0) {
		(void)close(fd);
		return;
	}
	vm_console_link(c, vm->consoles);
	vm->consoles = c;
}

/* An eighth for what QEMU says, one for what a detached keeper does, and what is kept of these; the rest is the consoles'. */
static void limit_logs(const struct vm *vm)
{
	uint64_t all = LOGS_MAX, one, n = 0;

	(void)vm_size_parse(json_object_get(vm->spec, "log-limit"), &all);
	one = all / 8;
	vm_file_trim(vm->run_dir, LOG, (off_t)one);
	vm_file_trim(vm->run_dir, VM_KEEPER_LOG, (off_t)one);
	for (struct vm_console *c = vm->consoles; c; c = vm_console_next(c))
		n++;
	for (struct vm_console *c = vm->consoles; c; c = vm_console_next(c))
		vm_console_limit(c, (size_t)((all - 2 * (one + VM_FILE_TRIM_KEEPS)) / (2 * n)));
}

void vm_open_consoles(struct vm *vm)
{
	const json_t *list = json_object_get(vm->running, "consoles");

	free_consoles(vm); /* of the run before */
	/* Each is put at the head: the first of the spec ends up first. */
	for (size_t i = json_array_size(list); i > 0; i--)
		open_console(vm, text_of(json_array_get(list, i - 1), "id"));
	limit_logs(vm);
}

static void on_cont(void *data, const struct qmp_reply *reply)
{
	struct vm *vm = data;

	if (reply->status < 0 && !vm_session(vm, NULL))
		return; /* it has ended, or is lost: what has to be told of that comes */
	if (reply->status < 0 && vm->state == VM_STARTING) {
		vm->start_error = reply->error;
		if (vm->qemu)
			vm_child_signal(vm_qemu_child(vm->qemu), SIGKILL);
		return;
	}
	vm_set_state(vm, reply->status < 0 ? VM_PAUSED : VM_RUNNING);
	vm_tell_started(vm, NULL);
}

static void let_run(struct vm *vm)
{
	struct qmp_session *s = vm_qemu_session(vm->qemu);

	if (!vm->start_paused && s) {
		(void)qmp_session_execute(s, &(struct qmp_command){.name = "cont"}, on_cont, vm, NULL, NULL);
		return;
	}
	vm_set_state(vm, VM_PAUSED);
	vm_tell_started(vm, NULL);
}

static void on_vnc(void *data, const struct qmp_reply *reply)
{
	struct vm *vm = data;

	if (reply->status == 0)
		let_run(vm);
	else
		on_cont(data, reply);
}

/* What became of it the next command says. */
static void on_getfd(void *data, const struct qmp_reply *reply)
{
	UNUSED(data);
	UNUSED(reply);
}

/* The display's socket is ours to make: QEMU need not be able to write in the run directory. */
static void open_vnc(struct vm *vm)
{
	struct qmp_session *s = vm_qemu_session(vm->qemu);
	json_auto_t *name = json_pack("{s:s}", "fdname", "vnc");
	json_auto_t *display = json_pack("{s:s, s:[{s:s, s:s}]}", "type", "vnc", "addresses", "type", "fd", "str", "vnc");
	struct qmp_reply failed = {.status = 0};
	_cleanup_fd_ int fd = -1;

	failed.status = vm_socket_listen(vm->run_dir, "vnc.sock", &fd, &failed.error);
	if (failed.status < 0) {
		on_cont(vm, &failed);
		return;
	}
	(void)qmp_session_execute(s, &(struct qmp_command){.name = "getfd", .arguments = name, .fds = &fd, .n_fds = 1}, on_getfd,
				  NULL, NULL, NULL);
	(void)qmp_session_execute(s, &(struct qmp_command){.name = "display-update", .arguments = display}, on_vnc, vm, NULL, NULL);
}

/* It answers: what its last keeper has heard of an end was none. */
static void take_life(struct vm *vm, bool running, const char *status)
{
	bool heard = vm->panicked || vm->shutdown_event;

	if (running)
		vm_replace(&vm->shutdown_event, NULL);
	vm->stays |= vm->shutdown_event != NULL;
	vm->panicked = !running && (vm->panicked || (status && streq(status, "guest-panicked")));
	if (heard)
		keep_ending(vm);
}

static void on_up(void *data, json_t *status)
{
	struct vm *vm = data;
	bool running = json_is_true(json_object_get(status, "running"));
	const char *now = text_of(status, "status");

	take_life(vm, running, now);
	vm_replace(&vm->greeting, json_incref(qmp_session_greeting(vm_qemu_session(vm->qemu))));
	/* Also where the keeper that started it did not get that far. */
	if (!running && now && streq(now, "prelaunch")) {
		if (streq(text_of(json_object_get(vm->running, "display"), "type"), "vnc"))
			open_vnc(vm);
		else
			let_run(vm);
		return;
	}
	vm_set_state(vm, running ? VM_RUNNING : VM_PAUSED);
	vm_tell_started(vm, NULL);
}

static void on_turn(void *data)
{
	limit_logs(data);
}

void vm_fill_qemu_options(struct vm *vm, struct vm_qemu_options *o)
{
	o->on_turn = on_turn;
	o->on_up = on_up;
	o->on_silent = on_silent;
	o->on_answers = on_answers;
	o->on_session_end = on_session_end;
	o->on_lost = on_lost;
	o->on_exit = on_exit_qemu;
	o->on_event = on_event;
	o->data = vm;
}

/* ---- Adopting ---- */

pid_t vm_qemu_pid_in(int run_dir)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	long pid = vm_file_read(run_dir, QEMU_LOCK, &text, &len, NULL) < 0 ? 0 : strtol(text, NULL, 10);

	return pid > 1 && pid <= INT32_MAX ? (pid_t)pid : 0;
}

/* A process that has inherited the lock an instant ago has yet to write its pid. */
static int read_pid(int run_dir, pid_t *ret, struct qmp_error *err)
{
	const struct timespec nap = {0, 10 * 1000 * 1000};

	for (int i = 0; i < 100; i++) {
		*ret = vm_qemu_pid_in(run_dir);
		if (*ret > 0)
			return 0;
		nanosleep(&nap, NULL);
	}
	return qmp_error_set(err, QMP_ERR_HOST, -EINVAL, "%s holds no pid", QEMU_LOCK);
}

bool vm_running_qemu(const struct vm_dirs *dirs, const char *name, char **ret_binary, char **ret_id)
{
	_cleanup_fd_ int run = vm_dir_open(dirs->run, name, false, NULL);
	json_auto_t *record = run >= 0 && vm_qemu_lives_in(run) ? vm_file_read_json(run, RUNNING) : NULL;
	const json_t *host = json_object_get(record, "host");
	_cleanup_free_ char *binary = record ? strdup(text_of(host, "binary") ? text_of(host, "binary") : "") : NULL;
	char *id = record ? strdup(text_of(host, "binary-id") ? text_of(host, "binary-id") : "") : NULL;

	if (!binary || !id) {
		free(id);
		return false;
	}
	*ret_binary = take_ptr(binary);
	*ret_id = id;
	return true;
}

static json_t *read_record(const struct vm *vm, struct qmp_error *err)
{
	json_t *record = vm_file_read_json(vm->run_dir, RUNNING);

	if (!record)
		qmp_error_set(err, QMP_ERR_HOST, -ENOENT, "it is missing, or no JSON object");
	if (record && vm_record_check(record, err) == 0)
		return record;
	json_decref(record);
	qmp_error_wrap(err, "%s/%s/" RUNNING, vm->dirs->run, vm->name);
	return NULL;
}

int vm_adopt(struct vm *vm, void (*cb)(void *data, const struct qmp_error *why), void *data, struct qmp_error *err)
{
	struct vm_qemu_options o = {.qmp_fd = -1};
	json_auto_t *record = read_record(vm, err);
	int r = record ? read_pid(vm->run_dir, &o.pid, err) : -EINVAL;

	take_ending(vm, record);
	vm->was_up = true; /* or whoever started it is gone: what is to become of it is for its policy */
	o.ends = vm->shutdown_event && !vm->stays;
	/* One that is about to end listens no more; its end is seen through the pidfd, until then this is tried again. */
	if (r == 0 && vm_socket_connect(vm->run_dir, "qmp.sock", &o.qmp_fd, NULL) < 0)
		o.qmp_fd = -1;
	if (r == 0) {
		vm_fill_qemu_options(vm, &o);
		r = vm_qemu_new(vm->loop, &o, &vm->qemu, err);
	}
	if (r < 0) {
		qmp_cleanup_fd(&o.qmp_fd);
		qmp_error_wrap(err, "taking over the QEMU that runs %s, which goes on", vm->name);
		return r;
	}
	vm_replace(&vm->running, json_incref(json_object_get(record, "spec")));
	vm_replace(&vm->host_facts, json_incref(json_object_get(record, "host")));
	vm_replace(&vm->argv, json_incref(json_object_get(record, "argv")));
	vm->started = json_integer_value(json_object_get(record, "started"));
	vm->start_cb = cb;
	vm->start_data = data;
	vm->start_paused = json_is_true(json_object_get(record, "paused"));
	vm->state = VM_UNRESPONSIVE; /* until it has answered */
	vm->since = vm_seconds();
	uv_timer_start(&vm->retry, on_retry, RETRY_MS, 0);
	vm_open_consoles(vm);
	return 0;
}

/* ---- Operations ---- */

struct qmp_session *vm_session(const struct vm *vm, struct qmp_error *err)
{
	struct qmp_session *s = vm->qemu ? vm_qemu_session(vm->qemu) : NULL;

	if (s && qmp_session_is_ready(s))
		return s;
	if (vm->state == VM_STOPPED)
		vm_not_running(vm->name, err);
	else
		qmp_error_set(err, QMP_ERR_CLOSED, -ENOTCONN, "the VM %s is %s: QEMU does not answer; it is left as it is",
			      vm->name, vm_state_name(vm->state));
	return NULL;
}

/* The letter of its state in /proc, or '?'. */
static char process_state(pid_t pid)
{
	char path[64], text[512], *after;
	_cleanup_fd_ int fd = -1;
	ssize_t n;

	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;
	text[n > 0 ? n : 0] = '\0';
	after = strrchr(text, ')'); /* the name before it may hold anything */
	return after && after[1] == ' ' ? after[2] : '?';
}

const char *vm_why_process_waits(pid_t pid)
{
	char state = process_state(pid);

	if (state == 'T' || state == 't')
		return "its process is stopped, by SIGSTOP or by a debugger";
	return state == 'D' ? "its process waits inside the kernel, mostly for storage" : NULL;
}

char *vm_why_unresponsive(const struct vm *vm)
{
	const char *why = vm->qemu ? vm_why_process_waits(vm_child_pid(vm_qemu_child(vm->qemu))) : NULL;

	if (why)
		return strdup(why);
	if (vm_session(vm, NULL))
		return strdup("it is busy with a long command, or it hangs");
	return strdup("its monitor cannot be reached; this is tried again every 2 s");
}

int vm_kill(struct vm *vm, int sig)
{
	if (!vm->qemu)
		return -ESRCH;
	vm->wanted_end = true;
	vm->killed |= sig == SIGKILL;
	keep_ending(vm);
	return vm_child_signal(vm_qemu_child(vm->qemu), sig);
}

struct vm_console *vm_find_console(const struct vm *vm, const char *id)
{
	struct vm_console *c = vm->consoles;

	while (c && id && !streq(vm_console_id(c), id))
		c = vm_console_next(c);
	return c;
}

int vm_console_write(struct vm *vm, const char *console, const char *text, size_t len)
{
	struct vm_console *c = vm_find_console(vm, console);

	return c ? vm_console_send(c, text, len) : -ENOENT;
}

const char *vm_console_recent(const struct vm *vm, const char *console, size_t *ret_len)
{
	struct vm_console *c = vm_find_console(vm, console);

	*ret_len = 0;
	return c && vm_console_is_open(c) ? vm_console_tail(c, ret_len) : NULL;
}
