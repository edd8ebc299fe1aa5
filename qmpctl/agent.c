#include "qmpctl/agent.h"
#include "qmpctl/keeper.h"
#include "proto/base.h"
#include "proto/framer.h"

#include <time.h>

/* What a sync may take: the agent's own turn is milliseconds, but the guest may be a busy one. */
#define SYNC_MS     3000
#define INFO_MS     5000
#define RETRY_MS    1000
#define RETRY_MAX   8000
#define TIMEOUT_MAX 86400 /* of an operation, in seconds */
#define CHARDEV     "agent"
#define PORT        "agent-port"
#define SOCKET_FILE "agent.sock"

/* UNKNOWN until QEMU has said it: a sync tells as well. */
enum port { CLOSED, UNKNOWN, OPEN };

struct agent {
	uv_timer_t timer; /* until the next probe */
	struct guest *guest;
	struct qmp_agent *conn; /* NULL: not connected */
	enum port port;
	bool answers, failed; /* failed: it was asked since the port opened, and did not answer */
	bool probing;
	uint64_t delay;
	int64_t answered; /* seconds of the host's clock; 0: never */
	json_t *info;	  /* qmp_agent_info; NULL: not known */
};

/* A command of an operation. */
struct ask {
	struct op_call *call; /* NULL: it has ended */
	struct agent *agent;
	uint64_t serial;
	agent_reply_cb cb;
};

static const char *state_name(const struct agent *a)
{
	return a->answers ? "answers" : a->port == OPEN ? "silent" : "absent";
}

/* The one setter of both; tells the clients where the state is another one by it. */
static void set_state(struct agent *a, enum port port, bool answers)
{
	const char *before = state_name(a);

	a->port = port;
	a->answers = answers;
	if (state_name(a) != before)
		guest_send_event(a->guest, "QMPCTL_AGENT",
				 json_pack("{s:s, s:s}", "name", a->guest->vm->name, "state", state_name(a)));
}

/* ---- The connection ---- */

static void schedule(struct agent *a);

static void on_answer(void *data, bool answers)
{
	struct agent *a = data;

	set_state(a, a->port, answers);
	a->failed = !answers;
	if (!answers) {
		schedule(a);
		return;
	}
	a->answered = (int64_t)time(NULL);
	a->delay = RETRY_MS;
	guest_tell_agent(a->guest);
}

static void on_close(void *data, const struct qmp_error *why)
{
	struct agent *a = data;

	UNUSED(why);
	qmp_agent_free(take_ptr(a->conn));
	set_state(a, a->port, false);
	if (a->port != CLOSED)
		schedule(a);
}

static int connect_agent(struct agent *a, struct qmp_error *err)
{
	struct qmp_agent_options o = {
		.sync_timeout_ms = SYNC_MS, .on_answer = on_answer, .on_close = on_close, .data = a};
	int fd, r;

	if (a->conn)
		return 0;
	r = vm_socket_connect(a->guest->vm->run_dir, SOCKET_FILE, &fd, err);
	if (r < 0)
		return r;
	r = qmp_agent_new(a->guest->keeper->loop, fd, &o, &a->conn, err);
	if (r < 0)
		(void)close(fd);
	return r;
}

/* ---- Whether it answers ---- */

static void on_timer(uv_timer_t *t)
{
	agent_probe(t->data);
}

/* Asks again, each time after twice the time. */
static void schedule(struct agent *a)
{
	uv_timer_start(&a->timer, on_timer, a->delay, 0);
	a->delay = a->delay < RETRY_MAX ? a->delay * 2 : RETRY_MAX;
}

static void on_info(void *data, const struct qmp_reply *reply)
{
	struct agent *a = data;

	if (reply->status < 0)
		return;
	json_decref(a->info);
	a->info = qmp_agent_info(reply->value);
}

static void on_probed(void *data, const struct qmp_reply *reply)
{
	struct agent *a = data;
	struct qmp_command info = {.name = "guest-info", .timeout_ms = INFO_MS};

	a->probing = false;
	if (reply->status == 0 && !a->info)
		(void)qmp_agent_execute(a->conn, &info, on_info, a, NULL, NULL);
}

void agent_probe(struct agent *a)
{
	if (a->port == CLOSED || a->probing)
		return;
	a->probing = connect_agent(a, NULL) == 0 && qmp_agent_sync(a->conn, SYNC_MS, on_probed, a, NULL, NULL) == 0;
	if (!a->probing)
		schedule(a);
}

bool agent_may_answer(const struct agent *a)
{
	return a->port != CLOSED && !a->failed;
}

/* ---- The port ---- */

static void set_port(struct agent *a, enum port port)
{
	/* Also where it was open: another agent may have opened it meanwhile. */
	if (port == OPEN) {
		set_state(a, OPEN, a->answers);
		a->failed = false;
		a->delay = RETRY_MS;
		agent_probe(a);
		return;
	}
	set_state(a, port, false);
	a->failed = false;
	json_decref(take_ptr(a->info));
	uv_timer_stop(&a->timer);
	if (a->conn && port == CLOSED)
		qmp_agent_hang_up(a->conn);
}

static void on_chardevs(void *data, const struct qmp_reply *reply)
{
	struct agent *a = data;
	json_t *chardev;
	size_t i;

	if (reply->status < 0)
		return;
	json_array_foreach(reply->value, i, chardev)
	{
		const char *label = json_string_value(json_object_get(chardev, "label"));
		if (label && streq(label, CHARDEV))
			set_port(a, json_is_true(json_object_get(chardev, "frontend-open")) ? OPEN : CLOSED);
	}
}

int agent_has_channel(const struct agent *a, struct qmp_error *err)
{
	const struct vm *vm = a->guest->vm;

	if (json_is_true(json_object_get(vm->running, "agent")))
		return 0;
	return qmp_error_set(err, QMP_ERR_STATE, -ENODEV,
			     "the VM %s has no channel for a guest agent: set agent to true in its spec, and start it anew",
			     vm->name);
}

void agent_look(struct agent *a)
{
	struct qmp_session *s = vm_session(a->guest->vm, NULL);

	if (!s || agent_has_channel(a, NULL) < 0)
		return;
	if (a->port == CLOSED)
		set_port(a, UNKNOWN);
	(void)qmp_session_execute(s, &(struct qmp_command){.name = "query-chardev"}, on_chardevs, a, NULL, NULL);
}

void agent_on_event(struct agent *a, const struct qmp_event *event)
{
	json_t *data = streq(event->name, "VSERPORT_CHANGE") ? qmp_event_member(event, "data") : NULL;
	const char *id = text_of(data, "id");

	if (id && streq(id, PORT))
		set_port(a, json_is_true(json_object_get(data, "open")) ? OPEN : CLOSED);
}

void agent_leave(struct agent *a)
{
	set_port(a, CLOSED);
}

json_t *agent_status(const struct agent *a)
{
	json_t *s = json_pack("{s:s}", "state", state_name(a));

	if (a->answered)
		json_object_set_new(s, "answered", json_integer(a->answered));
	if (a->info)
		json_object_set(s, "version", json_object_get(a->info, "version"));
	return s;
}

/* ---- Commands of operations ---- */

static void on_reply(void *data, const struct qmp_reply *reply)
{
	struct ask *ask = data;

	if (ask->call) {
		ask->call->asked = NULL;
		ask->cb(ask->call, reply);
	}
	free(ask);
}

static int refuse(const struct agent *a, struct qmp_error *err)
{
	const struct vm *vm = a->guest->vm;

	int r;

	if (vm->state == VM_STARTING)
		return qmp_error_set(err, QMP_ERR_STATE, -EAGAIN, "the VM %s is starting; wait --for agent waits for its guest",
				     vm->name);
	if (!vm_session(vm, err))
		return -ENOTCONN;
	r = agent_has_channel(a, err);
	if (r < 0)
		return r;
	if (vm->state == VM_PAUSED)
		return qmp_error_set(err, QMP_ERR_STATE, -EAGAIN,
				     "the VM %s is paused, so its guest agent cannot answer; resume it", vm->name);
	if (a->port == CLOSED)
		return qmp_error_set(err, QMP_ERR_STATE, -ENOTCONN,
				     "no guest agent runs in %s (its channel is not open): start qemu-guest-agent in the guest; "
				     "wait --for agent waits for it",
				     vm->name);
	return 0;
}

int agent_ask(struct agent *a, struct op_call *call, const struct qmp_command *command, agent_reply_cb cb,
	      struct qmp_error *err)
{
	struct ask *ask;
	int r = refuse(a, err);

	if (r == 0)
		r = connect_agent(a, err);
	if (r < 0)
		return r;
	ask = calloc(1, sizeof *ask);
	if (!ask)
		return qmp_error_errno(err, -ENOMEM, "%s", command->name);
	*ask = (struct ask){.call = call, .agent = a, .cb = cb};
	r = qmp_agent_execute(a->conn, command, on_reply, ask, &ask->serial, err);
	if (r < 0)
		free(ask);
	else
		call->asked = ask;
	return r;
}

void agent_forget(struct op_call *call)
{
	struct ask *ask = take_ptr(call->asked);

	if (!ask)
		return;
	ask->call = NULL;
	/* It is still to be answered, so the connection is still there. */
	qmp_agent_cancel(ask->agent->conn, ask->serial);
}

/* ---- Life cycle ---- */

struct agent *agent_new(struct guest *g)
{
	struct agent *a = calloc(1, sizeof *a);

	if (!a)
		return NULL;
	a->guest = g;
	a->delay = RETRY_MS;
	uv_timer_init(g->keeper->loop, &a->timer);
	a->timer.data = a;
	return a;
}

static void on_closed(uv_handle_t *h)
{
	struct agent *a = h->data;

	json_decref(a->info);
	free(a);
}

void agent_free(struct agent *a)
{
	if (!a)
		return;
	qmp_agent_free(take_ptr(a->conn));
	uv_close((uv_handle_t *)&a->timer, on_closed);
}

/* ---- The operation ---- */

/* What a guest says may hold anything that a terminal obeys. */
static void fail_as_the_agent_did(struct op_call *call, const struct qmp_reply *reply)
{
	char said[1000];

	qmp_excerpt(said, sizeof said, reply->error_desc, strlen(reply->error_desc));
	op_failf(call, QMP_ERR_REFUSED, -EREMOTEIO, "%s: the guest agent of %s refused: %s", op_text(call, "command"),
		 call->guest->vm->name, said);
}

static void on_command_reply(struct op_call *call, const struct qmp_reply *reply)
{
	if (reply->status == 0)
		op_return(call, json_incref(reply->value));
	else if (reply->status == -EREMOTEIO)
		fail_as_the_agent_did(call, reply);
	else
		op_fail(call, &reply->error);
}

static void start_agent(struct op_call *call)
{
	int64_t timeout = op_int(call, "timeout", 30);
	struct qmp_command command = {
		.name = op_text(call, "command"),
		.arguments = json_object_get(call->args, "arguments"),
		.timeout_ms = (uint64_t)timeout * 1000,
	};
	const char *mode = json_string_value(json_object_get(command.arguments, "mode"));
	struct qmp_error err = {0};

	if (timeout < 1 || timeout > TIMEOUT_MAX) {
		op_failf(call, QMP_ERR_USAGE, -EINVAL, "timeout: %lld is not 1 to %d seconds", (long long)timeout, TIMEOUT_MAX);
		return;
	}
	if (agent_ask(call->guest->agent, call, &command, on_command_reply, &err) < 0)
		op_fail(call, &err);
	else if (streq(command.name, "guest-shutdown") && !(mode && streq(mode, "reboot")))
		vm_expect_end(call->guest->vm, VM_END_GUEST); /* as for system_powerdown */
}

static const struct op_arg agent_args[] = {
	{"command", "string", "as in QEMU's qga/qapi-schema.json: guest-info lists what an agent knows", true},
	{"arguments", "object", "of the command", false},
	{"timeout", "int", "seconds to wait for the agent (default: 30)", false},
	{0},
};

const struct op op_agent = {
	"qmpctl-agent", "a command for the guest agent; returns what the agent returned", agent_args, true,
	.urgent = true, .waits = true, .start = start_agent,
};
