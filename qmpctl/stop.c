/*
 * stop, reboot, kill: the operations that end a QEMU.
 *
 *   guest agent --- does not answer, refused, did not power off in half of the time ---> power button
 *   power button --- did not power off in the rest of the time ---> failed, or where forced:
 *   quit ---> SIGTERM ---> SIGKILL
 *
 * A guest that is booting does not hear the button. So an agent that answers first when it was pressed is asked, too, once.
 *
 * Where there is no QEMU yet, as while its images are looked into, its start is taken back.
 *
 * At each stage the end of the process is what counts; a reply says only whether to go on to the next at once.
 */
#include "qmpctl/agent.h"
#include "qmpctl/keeper.h"
#include "qmpctl/restart.h"
#include "proto/base.h"

#include <signal.h>
#include <stdio.h>

/* For the agent to answer and to take guest-shutdown. */
#define AGENT_MS 5000
/* For the kernel to end QEMU, once it was sent SIGKILL. */
#define DEATH_MS 30000

enum stage { AGENT, POWER_BUTTON, QUIT, TERM, KILL, CANCEL };
static const char *const stages[] = {"guest agent", "power button", "quit", "SIGTERM", "SIGKILL", "start cancelled"};

struct stopping {
	enum stage stage;
	bool again;	   /* reboot */
	uint64_t deadline; /* of the guest, in ms of the loop's clock */
	bool pressed;	   /* the power button */
	char agent[400];   /* why the agent did not do it; "": it did, or was not asked */
};

static void fail(struct op_call *call, const struct qmp_error *why)
{
	call->guest->restarting = false;
	op_fail(call, why);
}

static void done(struct op_call *call)
{
	const struct stopping *s = call->state;
	json_t *result = json_pack("{s:s, s:s, s:s*}", "outcome", "done", "how", stages[s->stage], "agent",
				   *s->agent ? s->agent : NULL);

	if (!s->again)
		json_object_set(result, "last-end", call->guest->vm->last_end);
	call->guest->restarting = false;
	op_return(call, result);
}

static void on_restarted(void *data, const struct qmp_error *why)
{
	if (why)
		fail(data, why);
	else
		done(data);
}

static void on_state(struct op_call *call)
{
	const struct stopping *s = call->state;
	struct vm *vm = call->guest->vm;
	struct qmp_error err = {0};

	if (vm->state != VM_STOPPED)
		return;
	agent_forget(call);
	if (!s->again) {
		done(call);
		return;
	}
	call->on_state = NULL;
	call->on_agent = NULL; /* what answers next is the new guest's */
	uv_timer_stop(&call->timer);
	if (vm_start(vm, false, on_restarted, call, &err) < 0)
		fail(call, &err);
}

/* ---- The guest does it ---- */

static void escalate(struct op_call *call);
static void press_power_button(struct op_call *call);
static void on_agent(struct op_call *call);

/* AGENT has not done it, for that reason. */
static void go_past_agent(struct op_call *call, const char *why)
{
	struct stopping *s = call->state;

	snprintf(s->agent, sizeof s->agent, "%s", why);
	press_power_button(call);
}

static void on_qmp_reply(void *data, const struct qmp_reply *reply)
{
	UNUSED(data);
	UNUSED(reply); /* what counts is that the process ends */
}

/* SIGKILL was sent, and the kernel has not ended QEMU: it will, when what QEMU waits for in there has answered. */
static void let_it_end(struct op_call *call)
{
	const struct stopping *s = call->state;
	struct qmp_error err = {0};
	char why[400];

	snprintf(why, sizeof why, "QEMU of %s was sent SIGKILL, and has not ended within %d s: the kernel waits for storage that does not "
		 "answer, as on NFS whose server is away. It ends when that answers", call->guest->vm->name, DEATH_MS / 1000);
	if (!s->again) {
		op_return(call, json_pack("{s:s, s:s, s:s}", "outcome", "pending", "how", stages[s->stage], "why", why));
		return;
	}
	qmp_error_set(&err, QMP_ERR_TIMEOUT, -ETIMEDOUT, "%s; it is not started again", why);
	fail(call, &err);
}

static void on_timeout(uv_timer_t *t)
{
	struct op_call *call = container_of(t, struct op_call, timer);
	const struct stopping *s = call->state;
	struct qmp_error err = {0};

	if (s->stage == KILL) {
		let_it_end(call);
	} else if (s->stage == AGENT) {
		go_past_agent(call, "it took guest-shutdown, but the guest did not power off");
	} else if (s->stage > POWER_BUTTON || op_flag(call, "force", false)) {
		escalate(call);
	} else {
		qmp_error_set(&err, QMP_ERR_TIMEOUT, -ETIMEDOUT,
			      "the guest of %s did not power off within %lld s%s%s%s; the power button was pressed, it still "
			      "runs. Wait longer (--timeout), or end it with --force or kill",
			      call->guest->vm->name, (long long)op_int(call, "timeout", 60), *s->agent ? " (its agent: " : "",
			      s->agent, *s->agent ? ")" : "");
		fail(call, &err);
	}
}

/* Until the deadline, or PART of that time. */
static void wait_for_guest(struct op_call *call, unsigned part)
{
	const struct stopping *s = call->state;
	uint64_t now = uv_now(call->timer.loop);

	uv_timer_start(&call->timer, on_timeout, s->deadline > now ? (s->deadline - now) / part : 0, 0);
}

static void press_power_button(struct op_call *call)
{
	struct stopping *s = call->state;
	struct qmp_error err = {0};
	struct qmp_session *session = vm_session(call->guest->vm, &err);

	s->stage = POWER_BUTTON;
	if (!s->pressed)
		call->on_agent = on_agent;
	if (!session && op_flag(call, "force", false)) {
		escalate(call);
		return;
	}
	if (!session) {
		fail(call, &err);
		return;
	}
	s->pressed = true;
	(void)qmp_session_execute(session, &(struct qmp_command){.name = "system_powerdown"}, on_qmp_reply, NULL, NULL, NULL);
	wait_for_guest(call, 1);
}

static void on_agent_reply(struct op_call *call, const struct qmp_reply *reply)
{
	if (reply->status == 0)
		wait_for_guest(call, 2);
	else
		go_past_agent(call, reply->error.message);
}

/* It has half of the time that is left. */
static void ask_agent(struct op_call *call)
{
	const struct stopping *s = call->state;
	uint64_t now = uv_now(call->timer.loop), time = s->deadline > now ? (s->deadline - now) / 2 : 0;
	json_auto_t *arguments = json_pack("{s:s}", "mode", "powerdown");
	struct qmp_command command = {
		.name = "guest-shutdown", .arguments = arguments, .timeout_ms = time < AGENT_MS ? time : AGENT_MS};
	struct qmp_error err = {0};

	if (time == 0 || !agent_may_answer(call->guest->agent))
		press_power_button(call);
	else if (agent_ask(call->guest->agent, call, &command, on_agent_reply, &err) < 0)
		go_past_agent(call, err.message);
}

/* It answers, and did not when the button was pressed. */
static void on_agent(struct op_call *call)
{
	struct stopping *s = call->state;

	call->on_agent = NULL;
	if (s->stage != POWER_BUTTON)
		return;
	s->stage = AGENT;
	uv_timer_stop(&call->timer);
	ask_agent(call);
}

static void ask_guest(struct op_call *call)
{
	struct stopping *s = call->state;

	if (!s->again)
		vm_expect_end(call->guest->vm, VM_END_GUEST);
	uv_update_time(call->timer.loop);
	s->deadline = uv_now(call->timer.loop) + (uint64_t)op_int(call, "timeout", 60) * 1000;
	ask_agent(call);
}

/* ---- We do it ---- */

static bool cancel_start(struct op_call *call)
{
	struct stopping *s = call->state;

	if (!vm_cancel_start(call->guest->vm))
		return false;
	s->stage = CANCEL;
	return true;
}

static void kill_it(struct op_call *call)
{
	struct stopping *s = call->state;

	s->stage = KILL;
	vm_kill(call->guest->vm, SIGKILL);
	uv_timer_start(&call->timer, on_timeout, DEATH_MS, 0);
}

/* The next harder way. */
static void escalate(struct op_call *call)
{
	struct stopping *s = call->state;
	struct vm *vm = call->guest->vm;
	struct qmp_session *session = vm_session(vm, NULL);

	if (cancel_start(call))
		return;
	vm_expect_end(vm, VM_END_QEMU);
	if (s->stage >= TERM) {
		kill_it(call);
		return;
	}
	s->stage = s->stage < QUIT ? QUIT : TERM;
	if (s->stage == QUIT && session)
		(void)qmp_session_execute(session, &(struct qmp_command){.name = "quit"}, on_qmp_reply, NULL, NULL, NULL);
	else if (s->stage == TERM)
		vm_kill(vm, SIGTERM);
	uv_timer_start(&call->timer, on_timeout, 5000, 0);
}

/* ---- The operations ---- */

static bool begin(struct op_call *call, bool again)
{
	struct stopping *s = calloc(1, sizeof *s);
	struct vm *vm = call->guest->vm;

	call->state = s;
	if (s && !again && restart_cancel(call->guest->restart)) {
		guest_stopped(call->guest);
		op_return(call, json_pack("{s:s, s:s, s:O}", "outcome", "done", "how", "restart cancelled", "last-end",
					  vm->last_end));
		return false;
	}
	if (!s || vm->state == VM_STOPPED) {
		op_failf(call, QMP_ERR_STATE, -EALREADY, "the VM %s is not running", vm->name);
		return false;
	}
	s->again = again;
	call->on_state = on_state;
	return true;
}

static void stop(struct op_call *call, bool again)
{
	struct vm *vm = call->guest->vm;
	struct qmp_error err = {0};
	struct qmp_session *session = vm_session(vm, &err);

	if (!begin(call, again))
		return;
	call->guest->restarting = again;
	if (!again && cancel_start(call))
		return;
	if (session && vm->state != VM_PAUSED) {
		ask_guest(call);
	} else if (op_flag(call, "force", false)) {
		escalate(call);
	} else {
		if (session)
			qmp_error_set(&err, QMP_ERR_STATE, -EAGAIN,
				      "the VM %s is paused, its guest cannot react to the power button; resume it, or use "
				      "--force",
				      vm->name);
		fail(call, &err);
	}
}

static void start_stop(struct op_call *call)
{
	stop(call, false);
}

static void start_reboot(struct op_call *call)
{
	stop(call, true);
}

/* Who kills a VM does not want it back, whatever was asked before. One that is starting again fails by itself. */
static void cancel_reboot(struct guest *g)
{
	struct qmp_error err = {0};

	if (!g->restarting || !g->running || g->running->op != &op_reboot || g->running->on_state != on_state)
		return;
	qmp_error_set(&err, QMP_ERR_STATE, -ECANCELED, "the VM %s was killed while it rebooted; it is not started again",
		      g->vm->name);
	agent_forget(g->running);
	fail(g->running, &err);
}

static void start_kill(struct op_call *call)
{
	cancel_reboot(call->guest);
	if (begin(call, false) && !cancel_start(call))
		kill_it(call);
}

const char *stop_stage(const struct op_call *call)
{
	const struct stopping *s = call->state;

	return call->on_state == on_state && s ? stages[s->stage] : NULL;
}

static const struct op_arg no_args[] = {{0}};
static const struct op_arg stop_args[] = {
	{"timeout", "int", "seconds to wait for the guest (default: 60)", false},
	{"force", "bool", "then quit, SIGTERM, SIGKILL", false},
	{0},
};

const struct op op_stop = {
	"qmpctl-stop", "power off through the guest", stop_args, true, .waits = true, .start = start_stop,
};

const struct op op_reboot = {
	"qmpctl-reboot", "power off, then start again", stop_args, true, .waits = true, .start = start_reboot,
};

const struct op op_kill = {
	"qmpctl-kill", "end QEMU now", no_args, true, .urgent = true, .waits = true, .start = start_kill,
};
