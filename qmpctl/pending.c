/*
 *   waiting ---- done, refused ----> settled
 *     |  ^
 *     |  | pending_resume: asks QEMU what is left (asking)
 *     v  |
 *    resting (no session)
 */
#include "qmpctl/pending.h"
#include "launcher/exec.h"
#include "launcher/inventory.h"
#include "proto/base.h"

#include <time.h>

struct pending {
	struct pending *next;
	struct guest *guest; /* NULL: let go of, and freed when what is asked is answered */
	char *operation;
	json_t *rest, *want;
	struct vm_exec *exec;
	bool asking;
	int64_t since;
};

static const char *text_of(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

static const char *item_of(const struct pending *p)
{
	return text_of(json_array_get(p->rest, 0), "item");
}

static void pending_free(struct pending *p)
{
	json_decref(p->rest);
	json_decref(p->want);
	free(p->operation);
	free(p);
}

static void unlink_pending(struct pending *p)
{
	for (struct pending **at = &p->guest->pending; *at; at = &(*at)->next)
		if (*at == p) {
			*at = p->next;
			break;
		}
	p->guest = NULL;
}

static void keep_result(const struct pending *p)
{
	struct vm *vm = p->guest->vm;
	json_auto_t *running = vm->running && p->want ? vm_plan_result(vm->running, p->want, p->rest) : NULL;

	if (running)
		(void)vm_save_running(vm, running, NULL);
}

static void settle(struct pending *p, const struct qmp_error *why)
{
	struct guest *g = p->guest;
	json_t *told = json_pack("{s:s, s:s, s:s}", "item", item_of(p), "operation", p->operation, "outcome",
				 why ? "failed" : "done");

	if (why)
		json_object_set_new(told, "why", qmp_json_text(why->message));
	else
		keep_result(p);
	unlink_pending(p);
	pending_free(p);
	guest_send_event(g, "QMPCTL_SETTLED", told);
}

static void on_done(void *data, enum vm_exec_outcome outcome, json_t *rest, const struct qmp_error *why)
{
	struct pending *p = data;

	p->exec = NULL;
	json_decref(rest); /* none: it has waited as long as it takes */
	if (!p->guest)
		pending_free(p);
	else if (outcome == VM_EXEC_DONE || vm_session(p->guest->vm, NULL))
		settle(p, outcome == VM_EXEC_DONE ? NULL : why);
}

static int open_fd(void *data, const char *name, struct qmp_error *err)
{
	const struct pending *p = data;

	return change_open_fd(p->want ? p->want : p->guest->vm->running, name, err);
}

static int run(struct pending *p, struct qmp_session *s, json_t *plan, struct qmp_error *err)
{
	struct vm_exec_options o = {.fd = open_fd, .done = on_done, .data = p, .patient = true};

	return vm_exec_run(p->guest->keeper->loop, s, plan, &o, &p->exec, err);
}

int pending_add(struct guest *g, const char *operation, json_t *rest, json_t *want, struct qmp_error *err)
{
	struct qmp_session *s = vm_session(g->vm, err);
	struct pending *p = s ? calloc(1, sizeof *p) : NULL;
	int r;

	if (!s)
		return err->code;
	if (p)
		p->operation = strdup(operation);
	if (!p || !p->operation) {
		free(p);
		return qmp_error_errno(err, -ENOMEM, "%s", operation);
	}
	p->guest = g;
	p->rest = json_incref(rest);
	p->want = want ? json_incref(want) : NULL;
	p->since = (int64_t)time(NULL);
	p->next = g->pending;
	g->pending = p;
	r = run(p, s, rest, err);
	if (r < 0) {
		unlink_pending(p);
		pending_free(p);
	}
	return r;
}

bool pending_has(const struct guest *g, const char *item)
{
	json_t *step;
	size_t i;

	for (const struct pending *p = g->pending; p; p = p->next)
		json_array_foreach(p->rest, i, step)
			if (streq(text_of(step, "item"), item))
				return true;
	return false;
}

json_t *pending_status(const struct guest *g)
{
	json_t *list = json_array();

	for (const struct pending *p = g->pending; p; p = p->next)
		json_array_append_new(list, json_pack("{s:s, s:s, s:I, s:O}", "item", item_of(p), "operation", p->operation,
						      "since", (json_int_t)p->since, "waits-for",
						      json_object_get(json_array_get(p->rest, 0), "wait")));
	return list;
}

/* ---- Without QEMU, and with it again ---- */

void pending_rest(struct guest *g)
{
	for (struct pending *p = g->pending; p; p = p->next)
		if (p->exec)
			vm_exec_abandon(p->exec);
}

static void on_inventory(void *data, struct vm_inventory *inv, const struct qmp_error *why)
{
	struct pending *p = data;
	json_auto_t *left = inv ? vm_inventory_left(inv, p->rest) : NULL;
	struct qmp_session *s = p->guest ? vm_session(p->guest->vm, NULL) : NULL;
	struct qmp_error err = {0};

	UNUSED(why); /* the session ended: it is asked again with the next */
	p->asking = false;
	vm_inventory_free(inv);
	if (!p->guest)
		pending_free(p);
	else if (left && s && run(p, s, left, &err) < 0)
		settle(p, &err);
}

void pending_resume(struct guest *g)
{
	struct qmp_session *s = vm_session(g->vm, NULL);

	for (struct pending *p = g->pending; p && s; p = p->next)
		if (!p->exec && !p->asking)
			p->asking = vm_inventory_ask(s, g->vm->running, on_inventory, p, NULL) == 0;
}

void pending_clear(struct guest *g)
{
	while (g->pending) {
		struct pending *p = g->pending;
		unlink_pending(p);
		if (p->exec)
			vm_exec_abandon(p->exec); /* frees it */
		else if (!p->asking)
			pending_free(p);
	}
}
