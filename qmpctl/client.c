/*
 * Reaching a VM: through its keeper's control.sock; where no keeper is but QEMU lives, a keeper is started first (it
 * takes the QEMU over); where nothing runs, the operation runs here, on the spec alone, under the VM's lock.
 */
#include "qmpctl/cli.h"
#include "qmpctl/keeper.h"
#include "images/tool.h"
#include "launcher/spec.h"
#include "proto/base.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#define BUSY_TRIES  250 /* 20 ms each: another verb holds the lock for an instant */
#define ADOPT_TRIES 3

struct request {
	struct cli *cli;
	struct qmp_session *session;
	const char *operation;
	json_t *args;
	json_t *result;
	struct qmp_error error;
	bool ended, looping;
	bool sent;    /* negotiated: the operation has gone out */
	bool hung_up; /* the connection ended before the answer */
	int *open; /* how many are under way; the loop ends at 0 */
};

static void end_request(struct request *r)
{
	if (r->ended)
		return;
	r->ended = true;
	if (--*r->open == 0)
		uv_stop(r->cli->loop);
}

/* The kind stands beside class and desc in what our own operations answer. */
static void take_error(struct request *r, const struct qmp_reply *reply)
{
	json_auto_t *error = reply->raw ? qmp_json_decode(reply->raw, reply->raw_len, NULL) : NULL;
	const char *kind = json_string_value(json_object_get(error, "kind"));

	r->error = reply->error;
	if (reply->status != -EREMOTEIO)
		return;
	r->error = (struct qmp_error){0};
	qmp_error_set(&r->error, kind ? qmp_error_kind_from_name(kind) : QMP_ERR_REFUSED, -EREMOTEIO,
		      "%s%s%s", kind ? "" : r->operation, kind ? "" : ": QEMU refused: ", reply->error_desc);
}

static void on_reply(void *data, const struct qmp_reply *reply)
{
	struct request *r = data;

	if (reply->status == 0)
		r->result = json_incref(reply->value);
	else
		take_error(r, reply);
	r->hung_up = reply->status == -ECONNRESET;
	end_request(r);
}

static void on_ready(void *data, json_t *greeting)
{
	struct request *r = data;

	UNUSED(greeting);
	r->sent = true;
}

static void on_close(void *data, const struct qmp_error *why)
{
	struct request *r = data;

	r->hung_up |= !r->ended;
	if (r->error.kind == QMP_ERR_NONE)
		r->error = *why;
	end_request(r);
}

int client_connect(struct cli *cli, const char *name, int *ret_fd)
{
	_cleanup_fd_ int dir = vm_name_valid(name) ? vm_dir_open(cli->dirs.run, name, false, NULL) : -EINVAL;

	if (dir < 0)
		return dir;
	return vm_socket_connect(dir, "control.sock", ret_fd, NULL);
}

static void on_progress(void *data, const struct qmp_event *event)
{
	struct request *r = data;
	json_t *progress = qmp_event_member(event, "data");
	const char *operation = text_of(progress, "operation");

	if (operation && streq(operation, r->operation))
		r->cli->on_progress(r->cli, progress);
}

static int send_request(struct request *r, int fd)
{
	struct qmp_session_options o = {
		.on_ready = on_ready, .on_close = on_close, .data = r, .greeting_timeout_ms = 10000};
	struct qmp_command c = {.name = r->operation, .arguments = r->args, .timeout_ms = UINT64_MAX};
	int e = qmp_session_new(r->cli->loop, fd, &o, &r->session, &r->error);

	if (e < 0) {
		(void)close(fd);
		return e;
	}
	if (r->cli->on_progress)
		(void)qmp_session_subscribe(r->session, "QMPCTL_PROGRESS", on_progress, r);
	return qmp_session_execute(r->session, &c, on_reply, r, NULL, &r->error);
}

static bool only_looks(const char *operation)
{
	const struct op *op = op_find(operation);

	return op ? !op->changes : strncmp(operation, "query-", 6) == 0;
}

static void on_interrupt(void *data)
{
	end_request(data);
}

/* It is not taken back: what its keeper has begun ends as it would. Ends the program, as SIGNUM would have. */
static void leave(const struct request *r, const char *name, int signum)
{
	if (r->sent)
		fprintf(stderr, "qmpctl: this no longer waits for \"%s\", which goes on in the keeper of the VM %s; \"qmpctl status %s\" "
			"shows what comes of it\n", r->cli->verb->name, name, name);
	(void)signal(signum, SIG_DFL);
	(void)raise(signum);
}

static void await_answer(struct request *r, const char *name)
{
	struct img_wait wait;

	if (only_looks(r->operation)) {
		uv_run(r->cli->loop, UV_RUN_DEFAULT);
		return;
	}
	img_wait_begin(&wait, r->cli->loop, on_interrupt, r);
	img_wait_end(&wait, &r->ended);
	if (wait.signum != 0 && !r->result && r->error.kind == QMP_ERR_NONE)
		leave(r, name, wait.signum);
}

/* Who listens at the other end of FD; 0: it cannot be told. */
static pid_t listener_of(int fd)
{
	struct ucred who;
	socklen_t size = sizeof who;

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0 ? who.pid : 0;
}

/* It is no other keeper's business: this one has the lock, and may go on at any moment. */
static void tell_silent(struct cli *cli, const char *name, pid_t keeper)
{
	const char *why = vm_why_process_waits(keeper);

	cli->error = (struct qmp_error){0};
	qmp_error_set(&cli->error, QMP_ERR_TIMEOUT, -ETIMEDOUT,
		      "the keeper of the VM %s, the process %d, does not answer: %s; nothing was asked of it. \"kill -CONT %d\" has one "
		      "that is stopped go on; \"kill -9 %d\" ends it, the VM runs on, and the next verb takes that over",
		      name, (int)keeper, why ? why : "it is not known why", (int)keeper, (int)keeper);
}

/*
 * Over FD (taken over), until it is answered. -EAGAIN: the keeper was about to end, and asking once more is safe,
 * because nothing was sent or nothing changes by it.
 */
static int call_over(struct cli *cli, const char *name, int fd, const char *operation, json_t *args, json_t **ret)
{
	int open = 1;
	struct request r = {.cli = cli, .operation = operation, .args = args, .open = &open};
	pid_t keeper = listener_of(fd);

	if (send_request(&r, fd) == 0)
		await_answer(&r, name);
	qmp_session_free(r.session);
	uv_run(cli->loop, UV_RUN_NOWAIT);
	if (r.result) {
		*ret = r.result;
		return 0;
	}
	cli->error = r.error;
	if (r.hung_up && (!r.sent || only_looks(operation)))
		return -EAGAIN;
	if (!r.sent && r.error.kind == QMP_ERR_TIMEOUT && keeper > 0)
		tell_silent(cli, name, keeper);
	return r.error.code ? r.error.code : -EIO;
}

/* ---- Where nothing runs ---- */

static void on_offline_done(void *data, json_t *result, const struct qmp_error *why)
{
	struct request *r = data;

	if (why)
		r->error = *why;
	else
		r->result = json_incref(result);
	r->ended = true;
	if (r->looping) /* a stop that no loop takes would end the next one at once */
		uv_stop(r->cli->loop);
}

static int call_here(struct cli *cli, struct guest *g, const char *operation, json_t *args, json_t **ret)
{
	struct request r = {.cli = cli};
	const struct op *op = op_find(operation);

	if (!op)
		return vm_not_running(g->vm->name, &cli->error);
	op_run(g, op, args, on_offline_done, &r);
	r.looping = true;
	if (!r.ended)
		uv_run(cli->loop, UV_RUN_DEFAULT);
	if (r.result) {
		*ret = r.result;
		return 0;
	}
	cli->error = r.error;
	return r.error.code;
}

enum where { DONE_HERE = 1, ASK_KEEPER, NO_KEEPER };

/* Negative: failed. NO_KEEPER: QEMU lives, and nobody holds the VM. */
static int try_here(struct cli *cli, const char *name, const char *operation, json_t *args, json_t **ret)
{
	struct keeper k;
	struct guest *g;
	int r;

	keeper_init(&k, cli->loop, &cli->dirs);
	r = keeper_add(&k, name, false, &g, &cli->error);
	if (r == -EBUSY) {
		cli->error = (struct qmp_error){0};
		r = ASK_KEEPER;
	} else if (r == 0 && vm_qemu_lives(g->vm)) {
		r = NO_KEEPER;
	} else if (r == 0) {
		r = call_here(cli, g, operation, args, ret);
		r = r < 0 ? r : DONE_HERE;
	}
	keeper_close(&k);
	uv_run(cli->loop, UV_RUN_NOWAIT);
	return r;
}

static int start_keeper(struct cli *cli, const char *name, const char *how);

static int call_with(struct cli *cli, const char *name, const char *operation, json_t *args, json_t **ret)
{
	struct timespec nap = {0, 20 * 1000 * 1000};
	struct qmp_error last = {0};
	bool connected = false;

	for (int i = 0, failed = 0; i < BUSY_TRIES; i++) {
		int fd, r = client_connect(cli, name, &fd);
		connected = r == 0;
		if (r == 0)
			r = call_over(cli, name, fd, operation, args, ret);
		else if ((r = vm_check_name(cli, name)) == 0)
			r = try_here(cli, name, operation, args, ret);
		if (r == DONE_HERE)
			return 0;
		/*
		 * It fails also where another verb was quicker, and where QEMU was about to end: looked at again, that
		 * is known.
		 */
		if (r == NO_KEEPER && start_keeper(cli, name, "--adopt") < 0 && cli->error.kind != QMP_ERR_BUSY &&
		    ++failed >= ADOPT_TRIES)
			return cli->error.code;
		if (r <= 0 && r != -EAGAIN)
			return r;
		last = cli->error;
		cli->error = (struct qmp_error){0};
		nanosleep(&nap, NULL);
	}
	if (connected)
		return qmp_error_set(&cli->error, QMP_ERR_CLOSED, -ECONNRESET,
				     "whoever listens on the control.sock of the VM %s hangs up each time; at last: %s", name,
				     last.message);
	return qmp_error_set(&cli->error, QMP_ERR_BUSY, -EBUSY,
			     "the VM %s is held by a process that does not listen on its control.sock", name);
}

int client_call(struct cli *cli, const char *name, const char *operation, json_t *args_consume, json_t **ret)
{
	json_auto_t *args = args_consume ? args_consume : json_object();

	return call_with(cli, name, operation, args, ret);
}

int client_is_up(struct cli *cli, const char *name)
{
	int fd;

	if (client_connect(cli, name, &fd) < 0)
		return 0;
	(void)close(fd);
	return 1;
}

bool client_qemu_lives(struct cli *cli, const char *name)
{
	_cleanup_fd_ int dir = vm_name_valid(name) ? vm_dir_open(cli->dirs.run, name, false, NULL) : -EINVAL;

	return dir >= 0 && vm_qemu_lives_in(dir);
}

/* ---- Many at once ---- */

void client_call_all(struct cli *cli, char *const *names, int n, const char *operation, json_t **results)
{
	struct request *all = calloc((size_t)n + 1, sizeof *all);
	json_auto_t *args = json_object();
	int open = 1;

	vm_child_raise_fd_limit(); /* a connection each */
	for (int i = 0; all && i < n; i++) {
		struct request *r = &all[i];
		int fd;
		*r = (struct request){.cli = cli, .operation = operation, .args = args, .open = &open, .ended = true};
		if (client_connect(cli, names[i], &fd) < 0)
			continue;
		r->ended = false;
		open++;
		if (send_request(r, fd) < 0)
			end_request(r);
	}
	if (--open > 0)
		uv_run(cli->loop, UV_RUN_DEFAULT);
	for (int i = 0; all && i < n; i++) {
		results[i] = all[i].result;
		qmp_session_free(all[i].session);
	}
	uv_run(cli->loop, UV_RUN_NOWAIT);
	free(all);
}

/* ---- Events ---- */

/* One that runs: where it has no keeper, it gets one. */
static int connect_to_keeper(struct cli *cli, const char *name, int *ret_fd)
{
	json_auto_t *status = NULL;

	if (client_connect(cli, name, ret_fd) == 0)
		return 0;
	if (client_call(cli, name, "qmpctl-status", NULL, &status) < 0)
		return cli->error.code;
	if (client_connect(cli, name, ret_fd) == 0)
		return 0;
	return vm_not_running(name, &cli->error);
}

struct follow {
	const char *name;
	int *open;
	struct cli *cli;
	struct qmp_session *session;
};

static void on_event(void *data, const struct qmp_event *event)
{
	struct follow *f = data;

	printf("{\"vm\": \"%s\", \"event\": %.*s}\n", f->name, (int)event->raw_len, event->raw);
	if (fflush(stdout) != 0)
		uv_stop(f->cli->loop); /* nobody listens any more */
}

static void on_follow_close(void *data, const struct qmp_error *why)
{
	struct follow *f = data;

	UNUSED(why);
	if (--*f->open == 0)
		uv_stop(f->cli->loop);
}

int client_events(struct cli *cli, char *const *names, int n)
{
	struct follow *all = calloc((size_t)n + 1, sizeof *all);
	int open = 0;

	vm_child_raise_fd_limit();
	for (int i = 0; all && i < n; i++) {
		struct qmp_session_options o = {.on_close = on_follow_close, .data = &all[i]};
		int fd;
		all[i] = (struct follow){names[i], &open, cli, NULL};
		if (connect_to_keeper(cli, names[i], &fd) < 0)
			break;
		if (qmp_session_new(cli->loop, fd, &o, &all[i].session, &cli->error) == 0) {
			open++;
			qmp_session_subscribe(all[i].session, NULL, on_event, &all[i]);
		}
	}
	if (open > 0 && cli->error.kind == QMP_ERR_NONE)
		uv_run(cli->loop, UV_RUN_DEFAULT);
	for (int i = 0; all && i < n; i++)
		qmp_session_free(all[i].session);
	uv_run(cli->loop, UV_RUN_NOWAIT);
	free(all);
	return cli->error.code;
}

/* ---- Starting a keeper ---- */

/* HOW: an option of run, or NULL. */
static void exec_keeper(struct cli *cli, const char *name, const char *how, int report)
{
	_cleanup_free_ char *fd = qmp_asprintf("--report=%d", report);
	_cleanup_free_ char *log = qmp_asprintf("%s/%s/" VM_KEEPER_LOG, cli->dirs.run, name);
	_cleanup_free_ char *root = cli->root ? qmp_asprintf("--root=%s", cli->root) : NULL;
	char *argv[] = {"qmpctl", "run", "--on-term=detach", fd, (char *)name, root ? root : (char *)how,
			root ? (char *)how : NULL, NULL};
	int null = open("/dev/null", O_RDWR), out;

	setsid();
	out = open(log, O_WRONLY | O_CREAT | O_NONBLOCK | O_APPEND | O_NOFOLLOW, 0600);
	if (out < 0)
		out = null;
	if (dup2(null, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0)
		_exit(127);
	(void)fcntl(report, F_SETFD, 0);
	execv("/proc/self/exe", argv);
	_exit(127);
}

/* Everything that the keeper says of its start: one JSON object, or nothing when it died. */
static json_t *read_report(int fd)
{
	char text[QMP_ERROR_MAX * 2];
	size_t len = 0;
	ssize_t n;

	while (len < sizeof text && ((n = read(fd, text + len, sizeof text - len)) > 0 || (n < 0 && errno == EINTR)))
		len += n > 0 ? (size_t)n : 0;
	return len > 0 ? qmp_json_decode(text, len, NULL) : NULL;
}

static int start_keeper(struct cli *cli, const char *name, const char *how)
{
	_cleanup_fd_ int run = vm_check_name(cli, name) < 0 ? -ENOENT : vm_dir_open(cli->dirs.run, name, true, &cli->error);
	_cleanup_fd_ int in = -1;
	json_auto_t *report = NULL;
	const char *message;
	int pair[2];
	pid_t pid;

	if (run < 0)
		return run;
	if (pipe2(pair, O_CLOEXEC) < 0)
		return qmp_error_errno(&cli->error, -errno, "starting a keeper");
	in = pair[0];
	pid = fork();
	if (pid == 0) {
		/* Twice, so that the keeper is nobody's child and leaves no zombie. */
		if (fork() == 0)
			exec_keeper(cli, name, how, pair[1]);
		_exit(0);
	}
	(void)close(pair[1]);
	if (pid < 0)
		return qmp_error_errno(&cli->error, -errno, "starting a keeper");
	(void)waitpid(pid, NULL, 0);
	report = read_report(in);
	if (!report)
		return qmp_error_set(&cli->error, QMP_ERR_HOST, -EIO, "the keeper of %s ended before the VM was up; see %s/%s/keeper.log",
				     name, cli->dirs.run, name);
	message = json_string_value(json_object_get(report, "error"));
	if (message)
		return qmp_error_set(&cli->error,
				     qmp_error_kind_from_name(json_string_value(json_object_get(report, "kind"))), -EIO,
				     "%s", message);
	return 0;
}

int client_start(struct cli *cli, const char *name, bool paused)
{
	return start_keeper(cli, name, paused ? "--paused" : NULL);
}
