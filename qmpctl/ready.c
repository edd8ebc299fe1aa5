#include "qmpctl/ready.h"
#include "images/seed.h"
#include "proto/base.h"
#include "proto/base64.h"
#include "proto/framer.h"
#include "qmpctl/agent.h"
#include "qmpctl/keeper.h"

#include <ctype.h>
#include <stdio.h>

#define TICK_MS  1000
#define ASK_MS   10000
/* After cloud-init's last word on the console: how long an agent may still take to tell how it ended. */
#define GRACE_MS 15000
#define WORDS    "Cloud-init v. "
#define STAGE_MAX 300
#define LAST_MAX 1200 /* of the console, for messages */
#define LINES    12

struct ready {
	uint64_t deadline, finished_at; /* of uv_now; 0: not yet */
	int64_t pid;                    /* of the guest's process that is waited for; 0: none */
	bool asking, no_exec;           /* no_exec: this agent runs nothing */
	char stage[STAGE_MAX];           /* the last one that was told */
};

/* Whether the guest was given something that cloud-init is to find. */
static bool is_seeded(const struct op_call *call)
{
	const json_t *running = call->guest->vm->running;

	return img_seed_has_image(running) || text_of(json_object_get(running, "seed"), "url");
}

/* ---- Its ends ---- */

static void done(struct op_call *call, const char *how)
{
	op_return(call, json_pack("{s:s, s:s}", "outcome", "done", "how", how));
}

/* The end of what the console said, a line each, without what a terminal obeys. */
static void last_lines(const struct vm *vm, char *out, size_t size)
{
	size_t len, start, n = 0;
	int lines = 0;
	const char *text = vm_console_recent(vm, NULL, &len);

	out[0] = '\0';
	if (!text)
		return;
	while (len > 0 && isspace((unsigned char)text[len - 1]))
		len--;
	for (start = len; start > 0 && len - start < LAST_MAX && lines < LINES; start--)
		lines += text[start - 1] == '\n';
	for (size_t i = start; i < len && n + 2 < size; i++) {
		unsigned char c = (unsigned char)text[i];
		if (c == 0x1b && i + 1 < len && text[i + 1] == '[') {
			for (i += 2; i < len && !isalpha((unsigned char)text[i]);)
				i++;
			continue;
		}
		if (c == '\n' || (c >= 0x20 && c < 0x7f))
			out[n++] = (char)c;
	}
	out[n] = '\0';
}

static void fail(struct op_call *call, enum qmp_error_kind kind, int code, const char *fmt, ...) _printf_(4, 5);
static void fail(struct op_call *call, enum qmp_error_kind kind, int code, const char *fmt, ...)
{
	char why[QMP_ERROR_MAX / 3], said[LAST_MAX + 1];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof why, fmt, ap);
	va_end(ap);
	last_lines(call->guest->vm, said, sizeof said);
	op_failf(call, kind, code, "%s%s%s", why, *said ? "\nThe console's last lines:\n" : "; the console said nothing", said);
}

/* ---- The console ---- */

static void tell(struct op_call *call, const char *stage)
{
	struct ready *r = call->state;

	if (streq(r->stage, stage))
		return;
	snprintf(r->stage, sizeof r->stage, "%s", stage);
	guest_send_event(call->guest, "QMPCTL_PROGRESS",
			 json_pack("{s:s, s:o}", "operation", call->op->name, "stage", qmp_json_text(stage)));
}

/* The last whole line in which cloud-init names itself; false: there is none. */
static bool find_line(const struct vm *vm, char line[STAGE_MAX])
{
	size_t len;
	const char *text = vm_console_recent(vm, NULL, &len), *end = text ? text + len : NULL;
	bool found = false;

	for (const char *p = text; p && (p = memmem(p, (size_t)(end - p), WORDS, sizeof WORDS - 1)); p++) {
		const char *stop = memchr(p, '\n', (size_t)(end - p));
		if (!stop)
			break;
		snprintf(line, STAGE_MAX, "%.*s", (int)(stop - p), p);
		line[strcspn(line, "\r\x1b")] = '\0';
		found = true;
	}
	return found;
}

static void on_console(struct op_call *call, const char *console, size_t len)
{
	struct ready *r = call->state;
	char line[STAGE_MAX];

	UNUSED(console);
	UNUSED(len);
	if (r->finished_at || !find_line(call->guest->vm, line))
		return;
	tell(call, line);
	if (!strstr(line, " finished at "))
		return;
	if (strstr(line, "DataSourceNone") && is_seeded(call)) {
		fail(call, QMP_ERR_REFUSED, -ENODATA, "the cloud-init of %s has not found its seed: %s", call->guest->vm->name, line);
		return;
	}
	r->finished_at = uv_now(call->timer.loop);
	if (r->no_exec || !agent_may_answer(call->guest->agent))
		done(call, "console");
}

/* ---- The agent ---- */

static void on_status(struct op_call *call, const struct qmp_reply *reply)
{
	struct ready *r = call->state;
	_cleanup_free_ char *output = NULL;
	const char *status = NULL;
	size_t len;

	r->asking = false;
	if (reply->status < 0 || !json_is_true(json_object_get(reply->value, "exited"))) {
		if (reply->status == -EREMOTEIO)
			r->pid = 0; /* an agent that was started again knows it no more */
		return;
	}
	if (text_of(reply->value, "out-data"))
		(void)qmp_base64_decode(text_of(reply->value, "out-data"), &output, &len);
	for (const char *p = output; p && (p = strstr(p, "status: ")); p++)
		if (p == output || p[-1] == '\n' || p[-1] == '.')
			status = p + 8;
	if (status && strncmp(status, "done", 4) == 0) {
		done(call, "cloud-init");
	} else if (status && (strncmp(status, "disabled", 8) == 0 || strncmp(status, "not run", 7) == 0) && !is_seeded(call)) {
		done(call, "agent");
	} else {
		char said[600];
		for (char *p = output; p && *p; p++)
			*p = *p == '\n' ? ' ' : *p;
		qmp_excerpt(said, sizeof said, output ? output : "", output ? strlen(output) : 0);
		fail(call, QMP_ERR_REFUSED, -EREMOTEIO, "the cloud-init of %s has failed: %s", call->guest->vm->name,
		     *said ? said : "it said nothing");
	}
}

static void on_exec(struct op_call *call, const struct qmp_reply *reply)
{
	struct ready *r = call->state;
	const char *why = reply->error_desc;

	r->asking = false;
	if (reply->status == 0) {
		r->pid = int_of(reply->value, "pid");
		return;
	}
	if (reply->status != -EREMOTEIO)
		return;
	if (!strstr(why, "No such file")) {
		r->no_exec = true; /* some distributions' agents run nothing; then the console tells */
		if (r->finished_at)
			done(call, "console");
		else if (!is_seeded(call))
			done(call, "agent");
	} else if (is_seeded(call)) {
		fail(call, QMP_ERR_REFUSED, -ENOENT, "the guest of %s has no cloud-init, so it does not heed its seed",
		     call->guest->vm->name);
	} else {
		done(call, "agent");
	}
}

static void ask(struct op_call *call, const char *name, json_t *arguments_consume, agent_reply_cb cb)
{
	struct ready *r = call->state;
	json_auto_t *arguments = arguments_consume;
	struct qmp_command command = {.name = name, .arguments = arguments, .timeout_ms = ASK_MS};

	r->asking = agent_ask(call->guest->agent, call, &command, cb, NULL) == 0;
}

static void ask_cloud_init(struct op_call *call)
{
	const struct ready *r = call->state;

	if (r->asking || r->no_exec)
		return;
	if (r->pid)
		ask(call, "guest-exec-status", json_pack("{s:I}", "pid", (json_int_t)r->pid), on_status);
	else
		ask(call, "guest-exec", json_pack("{s:s, s:[s, s, s], s:b}", "path", "cloud-init", "arg", "status", "--wait", "--long",
						  "capture-output", 1), on_exec);
}

static void on_agent(struct op_call *call)
{
	const struct ready *r = call->state;

	if (!*r->stage)
		tell(call, "the guest agent answers");
	if (!r->pid)
		ask_cloud_init(call);
}

/* ---- What happens meanwhile ---- */

static void on_state(struct op_call *call)
{
	const struct vm *vm = call->guest->vm;

	if (vm->state == VM_STOPPED)
		fail(call, QMP_ERR_STATE, -ESHUTDOWN, "the VM %s has ended (%s) before it was ready", vm->name,
		     text_of(vm->last_end, "reason") ? text_of(vm->last_end, "reason") : "unknown");
}

static void on_tick(uv_timer_t *t)
{
	struct op_call *call = container_of(t, struct op_call, timer);
	const struct ready *r = call->state;
	const char *name = call->guest->vm->name;
	uint64_t now = uv_now(t->loop);

	if (r->finished_at && (r->no_exec || now - r->finished_at >= GRACE_MS))
		done(call, "console");
	else if (now >= r->deadline)
		fail(call, QMP_ERR_TIMEOUT, -ETIMEDOUT, "%s was not ready within %lld s; it goes on%s%s", name,
		     (long long)op_int(call, "timeout", READY_TIMEOUT), *r->stage ? "; last came: " : "", r->stage);
	else if (agent_may_answer(call->guest->agent))
		ask_cloud_init(call);
}

void ready_start(struct op_call *call)
{
	struct ready *r = calloc(1, sizeof *r);
	const struct vm *vm = call->guest->vm;

	if (!r || vm->state == VM_STOPPED) {
		free(r);
		op_fail_not_running(call);
		return;
	}
	call->state = r;
	r->deadline = uv_now(call->timer.loop) + (uint64_t)op_int(call, "timeout", READY_TIMEOUT) * 1000;
	call->on_state = on_state;
	call->on_console = on_console;
	call->on_agent = on_agent;
	uv_timer_start(&call->timer, on_tick, TICK_MS, TICK_MS);
	if (agent_has_channel(call->guest->agent, NULL) == 0)
		agent_probe(call->guest->agent);
	on_console(call, NULL, 0);
}
