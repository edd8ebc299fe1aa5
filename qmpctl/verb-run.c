/*
 * run: a keeper in the foreground (start is the same keeper, detached, by client.c).
 */
#include "qmpctl/cli.h"
#include "qmpctl/keeper.h"
#include "qmpctl/restart.h"
#include "qmpctl/words.h"
#include "proto/base.h"

#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>

/* So many QEMUs start side by side: each reads and allocates much, and all of a thousand would miss their deadlines. */
#define START_AT_ONCE 16

struct run {
	struct cli *cli;
	struct keeper keeper;
	uv_signal_t term, interrupt;
	uv_timer_t settled;
	char *supervisor; /* the socket at which systemd listens, "@" first for an abstract one; or NULL */
	int report; /* -1, or where the one who started us listens */
	uv_poll_t listener; /* of that, in use while WATCHED */
	bool watched;
	struct guest **to_start; /* in the order of the command line; from NEXT_START on they wait for their turn */
	int n_to_start, next_start;
	int starting, adopting; /* of those that have begun */
	bool started_one;
	int status;
	bool stopping;
	struct qmp_error error;
};

/* ---- Telling the supervisor ---- */

/* As sd_notify(3) has it. */
static void notify(const struct run *r, const char *text)
{
	const char *path = r->supervisor;
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	_cleanup_fd_ int fd = -1;

	if (!path || strlen(path) >= sizeof address.sun_path || (*path != '/' && *path != '@'))
		return;
	memcpy(address.sun_path, path, strlen(path));
	if (*path == '@')
		address.sun_path[0] = '\0';
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd >= 0)
		(void)sendto(fd, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&address,
			     (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path)));
}

static void close_report(struct run *r)
{
	if (r->watched)
		(void)uv_poll_stop(&r->listener);
	(void)close(take_fd(&r->report));
}

/* Who started us is gone: what has come to no QEMU yet is nobody's. */
static void on_listener_gone(uv_poll_t *handle, int status, int events)
{
	struct run *r = handle->data;

	UNUSED(status);
	UNUSED(events);
	(void)uv_poll_stop(handle);
	for (struct guest *g = r->keeper.guests; g; g = g->next)
		(void)vm_cancel_start(g->vm);
}

static void watch_listener(struct run *r)
{
	if (r->report < 0 || uv_poll_init(r->cli->loop, &r->listener, r->report) < 0)
		return;
	r->watched = true;
	r->listener.data = r;
	(void)uv_poll_start(&r->listener, UV_DISCONNECT, on_listener_gone);
}

static void report(struct run *r, const struct qmp_error *why)
{
	json_auto_t *message = why ? json_pack("{s:o, s:s}", "error", qmp_json_text(why->message), "kind", qmp_error_kind_name(why->kind))
				   : json_pack("{s:b}", "up", 1);
	_cleanup_free_ char *text = json_dumps(message, JSON_COMPACT);

	if (r->report < 0 || !text)
		return;
	if (write(r->report, text, strlen(text)) < 0)
		fprintf(stderr, "qmpctl: whoever started this keeper is gone\n");
	if (!why)
		close_report(r);
}

/*
 * Whoever started us reads to the end of the file. After a failure that is our own end, so that a start that failed
 * has left no process behind when it says so; only where something keeps us here it comes before.
 */
static void on_settled(uv_timer_t *t)
{
	struct run *r = t->data;

	if (r->report >= 0 && !keeper_is_idle(&r->keeper))
		close_report(r);
}

/* ---- Starting ---- */

static void start_some(struct run *r);

static void failed(struct run *r, const struct qmp_error *why)
{
	if (r->error.kind != QMP_ERR_NONE)
		return;
	r->error = *why;
	fprintf(stderr, "qmpctl: %s\n", why->message);
	report(r, why);
	uv_timer_start(&r->settled, on_settled, 0, 0);
}

static void check_all_up(struct run *r)
{
	if (r->starting > 0 || r->adopting > 0 || r->error.kind != QMP_ERR_NONE)
		return;
	report(r, NULL);
	notify(r, "READY=1");
}

static void on_started(void *data, const struct qmp_error *why)
{
	struct run *r = data;

	if (why)
		failed(r, why);
	r->starting--;
	r->started_one = true;
	start_some(r);
	check_all_up(r);
}

static void on_adopted(void *data, const struct qmp_error *why)
{
	struct run *r = data;

	if (why)
		failed(r, why);
	r->adopting--;
	check_all_up(r);
}

/* The first starts alone: it may have to find out what QEMU can, which is kept for the others. */
static void start_some(struct run *r)
{
	while (r->next_start < r->n_to_start && r->starting < (r->started_one ? START_AT_ONCE : 1)) {
		struct guest *g = r->to_start[r->next_start++];
		struct qmp_error why = {0};

		g->awaits_start = false;
		if (g->vm->state != VM_STOPPED)
			continue; /* somebody asked for it meanwhile */
		if (vm_start(g->vm, cli_option(r->cli, "paused") != NULL, on_started, r, &why) == 0) {
			r->starting++;
		} else {
			failed(r, &why);
			guest_stopped(g);
		}
	}
}

static int bring_up(struct run *r, const char *name)
{
	struct guest *g;
	int e = vm_check_name(r->cli, name);

	if (e < 0)
		r->error = r->cli->error;
	else
		e = keeper_add(&r->keeper, name, true, &g, &r->error);
	if (e == -EBUSY) {
		r->error = (struct qmp_error){0};
		qmp_error_set(&r->error, QMP_ERR_BUSY, e,
			      "another keeper holds the VM %s already; \"qmpctl status %s\" says what it does", name, name);
	}
	if (e < 0)
		return e;
	if (vm_qemu_lives(g->vm)) {
		r->adopting++;
		return vm_adopt(g->vm, on_adopted, r, &r->error);
	}
	if (cli_option(r->cli, "adopt"))
		return qmp_error_set(&r->error, QMP_ERR_STATE, -ESRCH, "the QEMU of %s has ended; there is none to adopt", name);
	g->awaits_start = true;
	r->to_start[r->n_to_start++] = g;
	return 0;
}

/* Those that wait for their turn are not started any more. */
static void forget_starts(struct run *r)
{
	while (r->next_start < r->n_to_start)
		r->to_start[r->next_start++]->awaits_start = false;
}

/* ---- Ending ---- */

static void on_stopped(void *data, json_t *result, const struct qmp_error *why)
{
	UNUSED(data);
	UNUSED(result);
	if (why)
		fprintf(stderr, "qmpctl: %s\n", why->message);
}

static void stop_all(struct run *r, bool force)
{
	json_auto_t *args = json_pack("{s:b}", "force", force);

	forget_starts(r);
	for (struct guest *g = r->keeper.guests; g; g = g->next)
		if (restart_cancel(g->restart) || g->vm->state == VM_STOPPED)
			guest_stopped(g);
		else
			op_run(g, op_find(force ? "qmpctl-kill" : "qmpctl-stop"),
			       force ? json_object_clear(args), args : args, on_stopped, r);
}

/* The first asks the guests, the second does not ask any more. */
static void on_signal(uv_signal_t *handle, int number)
{
	struct run *r = handle->data;

	UNUSED(number);
	notify(r, "STOPPING=1");
	if (r->keeper.leave_on_term) {
		uv_stop(r->keeper.loop);
		return;
	}
	stop_all(r, r->stopping);
	r->stopping = true;
}

static int status_of(const struct vm *vm)
{
	const char *reason = json_string_value(json_object_get(vm->last_end, "reason"));

	if (!reason || streq(reason, "guest-shutdown") || streq(reason, "host-quit") || streq(reason, "guest-reset") ||
	    streq(reason, "host-qmp-quit"))
		return 0;
	if (streq(reason, "killed"))
		return EXIT_KILLED;
	if (streq(reason, "guest-panic"))
		return EXIT_PANICKED;
	return streq(reason, "exited") ? EXIT_QEMU_STATUS : EXIT_CRASHED;
}

static void on_idle(struct keeper *k)
{
	struct run *r = container_of(k, struct run, keeper);

	for (const struct guest *g = k->guests; g; g = g->next)
		if (status_of(g->vm) > r->status)
			r->status = status_of(g->vm);
	uv_stop(k->loop);
}

static void prepare(struct run *r)
{
	const char *fd = cli_option(r->cli, "report"), *on_term = cli_option(r->cli, "on-term");
	const char *supervisor = getenv("NOTIFY_SOCKET");

	r->supervisor = supervisor ? strdup(supervisor) : NULL;
	(void)unsetenv("NOTIFY_SOCKET"); /* it is not for QEMU */
	r->report = fd ? atoi(fd) : -1;
	keeper_init(&r->keeper, r->cli->loop, &r->cli->dirs);
	r->keeper.on_idle = on_idle;
	r->keeper.leave_on_term = on_term && streq(on_term, "detach");
	uv_signal_init(r->cli->loop, &r->term);
	uv_signal_init(r->cli->loop, &r->interrupt);
	uv_timer_init(r->cli->loop, &r->settled);
	watch_listener(r);
	r->term.data = r->interrupt.data = r->settled.data = r;
	uv_signal_start(&r->term, on_signal, SIGTERM);
	uv_signal_start(&r->interrupt, on_signal, SIGINT);
}

static int run_run(struct cli *cli)
{
	struct run r = {.cli = cli};

	vm_child_raise_fd_limit();
	/* Whose keeper this is has done so. */
	if (!cli_option(cli, "report") && !cli_option(cli, "adopt"))
		images_settle(cli);
	prepare(&r);
	r.to_start = calloc((size_t)cli->n_args + 1, sizeof(struct guest *));
	for (int i = 0; i < cli->n_args && r.error.kind == QMP_ERR_NONE; i++)
		if (bring_up(&r, cli->args[i]) < 0) {
			fprintf(stderr, "qmpctl: %s\n", r.error.message);
			report(&r, &r.error);
		}
	if (r.error.kind == QMP_ERR_NONE)
		start_some(&r);
	if (r.error.kind == QMP_ERR_NONE)
		uv_run(cli->loop, UV_RUN_DEFAULT);
	keeper_close(&r.keeper);
	free(r.to_start);
	free(r.supervisor);
	uv_close((uv_handle_t *)&r.term, NULL);
	uv_close((uv_handle_t *)&r.interrupt, NULL);
	uv_close((uv_handle_t *)&r.settled, NULL);
	if (r.watched)
		uv_close((uv_handle_t *)&r.listener, NULL);
	uv_run(cli->loop, UV_RUN_NOWAIT);
	if (r.error.kind != QMP_ERR_NONE)
		return exit_status_of(r.error.kind);
	return r.status;
}

const struct verb verb_run = {
	.name = "run",
	.group = GROUP_LIFE,
	.args = {{"NAME", .kind = ARG_VM, .repeated = true}},
	.summary = "Start VMs and stay in the foreground until they end",
	.options = (const struct cli_option[]){
		{"on-term", "WHAT", "on SIGTERM: shutdown (default), or detach: leave the VMs running", .kind = ARG_CHOICE,
		 .choices = "shutdown|detach"},
		{"paused", NULL, "do not let the guests run yet"},
		{"adopt", NULL, "only take over a QEMU that lives, start none (used by the other verbs)"},
		{"report", "FD", "where to tell that the VMs are up (used by start)"},
		{0},
	},
	.run = run_run,
};
