#include "qmpctl/console.h"
#include "qmpctl/restart.h"
#include "launcher/console.h"
#include "proto/base.h"
#include "proto/base64.h"

#include <stdio.h>

#define READ_TIMEOUT 60 /* seconds */

static const struct op_arg console_args[] = {
	{"console", "string", "its id (default: the first)", false},
	{"cursor", "string", "from where on, as the last answer had it (default: from now on, and answer at once)", false},
	{"tail", "int", "without cursor: how many of the last lines (default: 0)", false},
	{"timeout", "int", "seconds until an answer without data (default: 60)", false},
	{0},
};
static const struct op_arg type_args[] = {
	{"text", "string", "what to type", false},
	{"data", "string", "what to type, in base64; in the place of text", false},
	{"console", "string", "its id (default: the first)", false},
	{0},
};

static void fail(struct op_call *call, enum qmp_error_kind kind, int code, const char *why)
{
	struct qmp_error err = {0};

	qmp_error_set(&err, kind, code, "%s", why);
	op_fail(call, &err);
}

/* Why there is no such console; ends the call. */
static void fail_without_console(struct op_call *call)
{
	const struct vm *vm = call->guest->vm;
	const char *id = op_text(call, "console");
	_cleanup_free_ char *why = NULL, *ids = strdup("");
	json_t *console;
	size_t i;

	if (!vm->running) {
		op_fail_not_running(call);
		return;
	}
	json_array_foreach(json_object_get(vm->running, "consoles"), i, console)
	{
		_cleanup_free_ char *before = ids;
		ids = qmp_asprintf("%s%s%s", before ? before : "", i ? ", " : "", text_of(console, "id"));
	}
	why = qmp_asprintf("the VM %s has no console%s%s%s; it has %s", vm->name, id ? " \"" : "", id ? id : "",
			   id ? "\"" : "", ids && *ids ? ids : "none");
	fail(call, QMP_ERR_NOT_FOUND, -ENOENT, why);
}

/* ---- qmpctl-console ---- */

struct reading {
	uint64_t epoch, at; /* of the next byte; epoch 0: whatever opens next, from its beginning */
	uint64_t deadline;  /* of the loop's clock */
};

/* Where it is in what the console keeps; *RET_LOST: bytes before it that are kept no more. */
static size_t offset_of(const struct reading *r, const struct vm_console *c, size_t kept, uint64_t *ret_lost)
{
	uint64_t at = r->epoch == vm_console_epoch(c) ? r->at : 0, first = vm_console_said(c) - kept;

	*ret_lost = at < first ? first - at : 0;
	return at < first ? 0 : at - first < kept ? (size_t)(at - first) : kept;
}

static const char *piece(const struct reading *r, const struct vm_console *c, size_t *ret_len, uint64_t *ret_lost)
{
	size_t kept, offset;
	const char *text = vm_console_tail(c, &kept);

	offset = offset_of(r, c, kept, ret_lost);
	*ret_len = kept - offset;
	return text + offset;
}

static void answer(struct op_call *call, const struct vm_console *c, bool ended)
{
	const struct reading *r = call->state;
	const struct vm *vm = call->guest->vm;
	uint64_t lost = 0, epoch = r->epoch, next = r->at;
	size_t len = 0;
	const char *text = c ? piece(r, c, &len, &lost) : "";
	_cleanup_free_ char *data = qmp_base64_encode(text, len), *cursor = NULL;
	json_t *result;

	if (c) {
		next = (epoch == vm_console_epoch(c) ? r->at : 0) + lost + len;
		epoch = vm_console_epoch(c);
	}
	cursor = qmp_asprintf("%llx-%llx", (unsigned long long)epoch, (unsigned long long)next);
	result = json_pack("{s:s*, s:s, s:s, s:s}", "console", c ? vm_console_id(c) : op_text(call, "console"), "state",
			   vm_state_name(vm->state), "data", data, "cursor", cursor);
	if (lost > 0)
		json_object_set_new(result, "lost", json_integer((json_int_t)lost));
	if (ended)
		json_object_set_new(result, "ended", json_true());
	op_return(call, result);
}

/* No start is to come: what the console said is all. */
static bool has_ended(const struct guest *g)
{
	return g->vm->state == VM_STOPPED && !g->restarting && !restart_is_due(g->restart);
}

static void on_look(uv_timer_t *t);

static void look(struct op_call *call)
{
	const struct reading *r = call->state;
	const struct vm_console *c = vm_find_console(call->guest->vm, op_text(call, "console"));
	bool ended = has_ended(call->guest);
	uint64_t now = uv_now(call->guest->keeper->loop), lost;
	size_t len = 0;

	if (c)
		(void)piece(r, c, &len, &lost);
	if (len > 0 || ended || now >= r->deadline)
		answer(call, c, ended);
	else
		uv_timer_start(&call->timer, on_look, r->deadline - now, 0);
}

static void on_look(uv_timer_t *t)
{
	look(container_of(t, struct op_call, timer));
}

/* At the end of the loop's turn: all of the turn is one piece, and it is known whether a start follows an end. */
static void look_soon(struct op_call *call)
{
	uv_timer_start(&call->timer, on_look, 0, 0);
}

static void on_console(struct op_call *call, const char *console, size_t len)
{
	UNUSED(console);
	UNUSED(len);
	look_soon(call);
}

/* Where the last LINES lines of the LEN bytes begin; a line that has not ended counts. */
static size_t tail_of(const char *text, size_t len, int64_t lines)
{
	size_t at = len;

	if (lines <= 0)
		return len;
	while (at > 0 && (at == len || text[at - 1] != '\n' || --lines > 0))
		at--;
	return at;
}

/* From now on: answered at once. */
static void begin(struct op_call *call, struct reading *r)
{
	struct guest *g = call->guest;
	const struct vm_console *c = vm_find_console(g->vm, op_text(call, "console"));
	size_t len;
	const char *text;

	if (!c || !vm_console_is_open(c)) {
		if (g->vm->running || has_ended(g))
			fail_without_console(call);
		else
			answer(call, NULL, false); /* a start is to come */
		return;
	}
	text = vm_console_tail(c, &len);
	r->epoch = vm_console_epoch(c);
	r->at = vm_console_said(c) - len + tail_of(text, len, op_int(call, "tail", 0));
	answer(call, c, false);
}

static void console_start(struct op_call *call)
{
	struct reading *r = calloc(1, sizeof *r);
	const char *cursor = op_text(call, "cursor");
	unsigned long long epoch, at;
	int64_t timeout = op_int(call, "timeout", READ_TIMEOUT);
	int n = 0;

	call->state = r;
	if (!r) {
		fail(call, QMP_ERR_HOST, -ENOMEM, "no memory to read a console");
	} else if (!cursor) {
		begin(call, r);
	} else if (sscanf(cursor, "%llx-%llx%n", &epoch, &at, &n) != 2 || cursor[n] || timeout < 0 || timeout > 1000000) {
		fail(call, QMP_ERR_USAGE, -EINVAL,
		     "the cursor is none that qmpctl-console gave, or the timeout is no number of seconds");
	} else {
		*r = (struct reading){epoch, at, uv_now(call->guest->keeper->loop) + (uint64_t)timeout * 1000};
		call->on_console = on_console;
		call->on_state = look_soon;
		look(call);
	}
}

/* ---- qmpctl-type ---- */

static void type_start(struct op_call *call)
{
	const char *text = op_text(call, "text"), *data = op_text(call, "data");
	_cleanup_free_ char *bytes = NULL, *why = NULL;
	size_t len = text ? strlen(text) : 0;
	int r;

	if (!text == !data || (data && qmp_base64_decode(data, &bytes, &len) < 0)) {
		fail(call, QMP_ERR_USAGE, -EINVAL, "what to type is wanted: text, or data in base64");
		return;
	}
	r = vm_console_write(call->guest->vm, op_text(call, "console"), data ? bytes : text, len);
	if (r == -ENOENT || r == -ENOTCONN) {
		fail_without_console(call);
	} else if (r < 0) {
		why = qmp_asprintf("typing into the console of %s: %s", call->guest->vm->name,
				   r == -ENOBUFS ? "the guest does not read what was typed before; try again later" : strerror(-r));
		fail(call, r == -ENOBUFS ? QMP_ERR_BUSY : QMP_ERR_HOST, r, why);
	} else {
		op_return(call, NULL);
	}
}

const struct op op_console = {
	"qmpctl-console", "what a console says", console_args, .waits = true, .start = console_start};
const struct op op_type = {
	"qmpctl-type", "type into a console", type_args, .changes = true, .urgent = true, .start = type_start};
