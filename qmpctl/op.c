#include "qmpctl/agent.h"
#include "qmpctl/drift.h"
#include "qmpctl/keeper.h"
#include "qmpctl/pending.h"
#include "launcher/inventory.h"
#include "proto/base.h"

#include <stdio.h>

const struct op *op_find(const char *name)
{
	for (const struct op *const *o = all_ops; *o; o++)
		if (streq((*o)->name, name))
			return *o;
	return NULL;
}

/* ---- The table, for others ---- */

json_t *op_choices(const struct op_arg *arg)
{
	json_t *list = json_array();

	for (const char *p = arg->choices; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
		json_array_append_new(list, json_stringn(p, strcspn(p, "|")));
	return list;
}

json_t *op_schema(void)
{
	json_t *list = json_array();

	for (const struct op *const *o = all_ops; *o; o++) {
		json_t *args = json_array();
		for (const struct op_arg *a = (*o)->args; a->name; a++)
			json_array_append_new(args, json_pack("{s:s, s:s, s:b, s:s, s:o*}", "name", a->name, "type", a->type,
							      "optional", !a->required, "summary", a->summary, "choices",
							      a->choices ? op_choices(a) : NULL));
		json_array_append_new(list, json_pack("{s:s, s:s, s:b, s:b, s:o}", "name", (*o)->name, "summary",
						      (*o)->summary, "changes", (*o)->changes, "waits", (*o)->waits,
						      "arguments", args));
	}
	return json_pack("{s:o}", "operations", list);
}

json_t *op_names(void)
{
	json_t *list = json_array();

	for (const struct op *const *o = all_ops; *o; o++)
		json_array_append_new(list, json_pack("{s:s}", "name", (*o)->name));
	return list;
}

/* The name of an argument's type; types of ours that QEMU has not are added to LIST. New. */
static json_t *add_type(json_t *list, const struct op *op, const struct op_arg *a)
{
	char name[128];
	json_t *members, *choices, *choice;
	size_t i;

	if (!a->choices)
		return json_string(streq(a->type, "string") ? "str" : streq(a->type, "object") ? "qmpctl-object" : a->type);
	snprintf(name, sizeof name, "%s-%s", op->name, a->name);
	members = json_array();
	choices = op_choices(a);
	json_array_foreach(choices, i, choice)
		json_array_append_new(members, json_pack("{s:O}", "name", choice));
	json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:o}", "name", name, "meta-type", "enum", "values", choices,
					      "members", members));
	return json_string(name);
}

json_t *op_infos(void)
{
	json_t *list = json_pack("[{s:s, s:s, s:s}]", "name", "qmpctl-object", "meta-type", "builtin", "json-type", "object");

	for (const struct op *const *o = all_ops; *o; o++) {
		json_t *members = json_array();
		char type[128];
		snprintf(type, sizeof type, "%s-arg", (*o)->name);
		for (const struct op_arg *a = (*o)->args; a->name; a++) {
			json_t *member = json_pack("{s:s, s:o}", "name", a->name, "type", add_type(list, *o, a));
			if (!a->required)
				json_object_set_new(member, "default", json_null());
			json_array_append_new(members, member);
		}
		json_array_append_new(list, json_pack("{s:s, s:s, s:o}", "name", type, "meta-type", "object", "members", members));
		json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s, s:b}", "name", (*o)->name, "meta-type", "command",
						      "arg-type", type, "ret-type", "qmpctl-object", "allow-oob", 0));
	}
	return list;
}

/* ---- Arguments ---- */

static bool type_fits(const char *type, const json_t *value)
{
	if (streq(type, "string"))
		return json_is_string(value);
	if (streq(type, "int"))
		return json_is_integer(value);
	if (streq(type, "bool"))
		return json_is_boolean(value);
	return json_is_object(value);
}

static bool is_choice(const struct op_arg *a, const json_t *value)
{
	json_auto_t *choices = op_choices(a);
	json_t *choice;
	size_t i;

	json_array_foreach(choices, i, choice)
		if (json_equal(choice, value))
			return true;
	return !a->choices;
}

static int check_args(const struct op *op, const json_t *args, struct qmp_error *err)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)args, key, value)
	{
		const struct op_arg *a = op->args;
		while (a->name && !streq(a->name, key))
			a++;
		if (!a->name)
			return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL, "Parameter '%s' is unexpected", key);
		if (!type_fits(a->type, value))
			return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL,
					     "Invalid parameter type for '%s', expected: %s", key, a->type);
		if (!is_choice(a, value))
			return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL, "Parameter '%s' does not accept value '%.100s': one of %s",
					     key, json_string_value(value), a->choices);
	}
	for (const struct op_arg *a = op->args; a->name; a++)
		if (a->required && !json_object_get(args, a->name))
			return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL, "Parameter '%s' is missing", a->name);
	return 0;
}

const char *op_text(const struct op_call *call, const char *name)
{
	return json_string_value(json_object_get(call->args, name));
}

bool op_flag(const struct op_call *call, const char *name, bool fallback)
{
	const json_t *v = json_object_get(call->args, name);

	return v ? json_is_true(v) : fallback;
}

int64_t op_int(const struct op_call *call, const char *name, int64_t fallback)
{
	const json_t *v = json_object_get(call->args, name);

	return v ? json_integer_value(v) : fallback;
}

/* ---- Running: changes one at a time, the rest beside them ---- */

static void on_timer_closed(uv_handle_t *h)
{
	struct op_call *call = container_of((uv_timer_t *)h, struct op_call, timer);

	json_decref(call->args);
	json_decref(call->heads);
	vm_inventory_free(call->inventory);
	free(call->refusal);
	free(call->state);
	free(call);
}

static void unlink_call(struct op_call **list, struct op_call *call)
{
	for (; *list; list = &(*list)->next)
		if (*list == call) {
			*list = call->next;
			return;
		}
}

/* ---- Asking QEMU what it has: before, or when it has refused ---- */

/* An operation that asks, and the guest whose turn it has: it may have been ended meanwhile. */
struct asking {
	struct guest *guest;
	struct op_call *call;
};

/* Whether there is something in QEMU that was not known when the operation was refused. */
static bool is_explained(const struct op_call *call)
{
	json_auto_t *taken = change_taken_ports(call);

	return json_object_size(taken) > 0 || drift_status(call->guest);
}

static void on_inventory(void *data, struct vm_inventory *inventory, const struct qmp_error *why)
{
	struct asking *a = data;
	struct op_call *call = a->call;
	bool runs = a->guest->running == call;

	UNUSED(why); /* what then needs QEMU says why there is none */
	free(a);
	if (!runs) {
		vm_inventory_free(inventory);
		return;
	}
	call->inventory = inventory;
	drift_take(call->guest, inventory);
	if (call->refusal && !is_explained(call))
		op_fail(call, call->refusal);
	else
		call->op->start(call);
}

static bool ask(struct op_call *call)
{
	struct vm *vm = call->guest->vm;
	bool live = vm->running && op_flag(call, "live", true);
	struct qmp_session *s = live ? vm_session(vm, NULL) : NULL;
	struct asking *a = s ? malloc(sizeof *a) : NULL;

	if (!a)
		return false;
	*a = (struct asking){call->guest, call};
	if (vm_inventory_ask(s, vm->running, on_inventory, a, NULL) == 0)
		return true;
	free(a);
	return false;
}

static bool ask_first(struct op_call *call)
{
	bool tries = call->op->asks == OP_ASKS_WHEN_REFUSED && !op_flag(call, "dry-run", false);

	return call->op->asks != OP_ASKS_NOTHING && !tries && ask(call);
}

/* What was tried and refused has left nothing behind: so it may be tried once more, knowing what QEMU has. */
static bool ask_when_refused(struct op_call *call, const struct qmp_error *why)
{
	if (call->op->asks != OP_ASKS_WHEN_REFUSED || call->inventory || call->refusal || why->kind != QMP_ERR_REFUSED)
		return false;
	call->refusal = malloc(sizeof *call->refusal);
	if (!call->refusal)
		return false;
	*call->refusal = *why;
	return ask(call);
}

/* What is to be changed is what stands on disk now, where people edit it, too. */
static int renew_spec(const struct op_call *call, struct qmp_error *err)
{
	struct vm *vm = call->guest->vm;

	if (call->op->asks == OP_ASKS_NOTHING || !op_flag(call, "config", true) || vm_renew_spec(vm, err) == 0)
		return 0;
	return qmp_error_wrap(err, "%s was not changed", vm->name);
}

void ops_go_on(struct guest *g)
{
	struct op_call *call = g->queue;
	struct qmp_error err = {0};

	/*
	 * A change that was cut short is settled before the next begins; while QEMU cannot be reached that cannot be
	 * awaited.
	 */
	if (g->closing || g->running || !call || (pending_unsettled(g) && vm_session(g->vm, NULL)))
		return;
	g->queue = call->next;
	call->next = NULL;
	g->running = call;
	g->changes++;
	if (renew_spec(call, &err) < 0)
		op_fail(call, &err);
	else if (!ask_first(call))
		call->op->start(call);
}

static void finish(struct op_call *call, json_t *result, const struct qmp_error *why)
{
	struct guest *g = call->guest;

	if (why && ask_when_refused(call, why))
		return;
	if (g->running == call)
		g->running = NULL;
	unlink_call(&g->watching, call);
	call->on_state = NULL;
	call->on_event = NULL;
	call->on_console = NULL;
	call->on_agent = NULL;
	agent_forget(call);
	uv_timer_stop(&call->timer);
	if (call->op->asks && (why || drift_status(g)))
		drift_check(g);
	call->done(call->data, result, why);
	uv_close((uv_handle_t *)&call->timer, on_timer_closed);
	ops_go_on(g);
	if (g->vm->state == VM_STOPPED)
		guest_stopped(g); /* its keeper may have waited for this alone */
	drift_catch_up(g);
}

void op_return(struct op_call *call, json_t *result_consume)
{
	json_t *result = result_consume ? result_consume : json_object();

	finish(call, result, NULL);
	json_decref(result);
}

void op_fail(struct op_call *call, const struct qmp_error *why)
{
	finish(call, NULL, why);
}

void op_fail_not_running(struct op_call *call)
{
	struct qmp_error err = {0};

	(void)vm_not_running(call->guest->vm->name, &err);
	op_fail(call, &err);
}

void op_failf(struct op_call *call, enum qmp_error_kind kind, int code, const char *fmt, ...)
{
	struct qmp_error err = {0};
	char text[QMP_ERROR_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	qmp_error_set(&err, kind, code, "%s", text);
	op_fail(call, &err);
}

/* What takes a start back does not wait for it. */
static bool waits_for_turn(const struct op *op, const struct guest *g)
{
	return op->changes && !op->urgent && !(op == &op_stop && g->vm->state == VM_STARTING && !g->vm->qemu);
}

void op_run(struct guest *g, const struct op *op, json_t *args, op_done_cb done, void *data)
{
	struct qmp_error err = {0};
	struct op_call *call;

	if (g->closing)
		qmp_error_set(&err, QMP_ERR_CLOSED, -ESHUTDOWN, "the keeper of %s ends", g->vm->name);
	if (g->closing || check_args(op, args, &err) < 0) {
		done(data, NULL, &err);
		return;
	}
	call = calloc(1, sizeof *call);
	if (!call) {
		qmp_error_errno(&err, -ENOMEM, "%s", op->name);
		done(data, NULL, &err);
		return;
	}
	call->op = op;
	call->guest = g;
	call->args = json_incref(args);
	call->done = done;
	call->data = data;
	uv_timer_init(g->keeper->loop, &call->timer);
	if (waits_for_turn(op, g)) {
		struct op_call **tail = &g->queue;
		while (*tail)
			tail = &(*tail)->next;
		*tail = call;
		ops_go_on(g);
	} else {
		call->next = g->watching;
		g->watching = call;
		op->start(call);
	}
}
