/*
 *   BEGUN ---- the guest is silent: its config is kept ----> WAITING ---- done, refused ----> settled
 *     |  `---- done: its config is kept --------------------------------------------------------^
 *     `------- refused ----> UNDOING ---- done, refused ------------------------------------> settled
 *
 * In each of them it rests while there is no session, and asks QEMU what is left when there is one again (asking).
 */
#include "qmpctl/pending.h"
#include "launcher/exec.h"
#include "launcher/inventory.h"
#include "launcher/plan.h"
#include "launcher/record.h"
#include "launcher/spec.h"
#include "proto/base.h"

#include <stdio.h>
#include <time.h>

enum stage { BEGUN, WAITING, UNDOING };

static const char *const stage_names[] = {[BEGUN] = "begun", [WAITING] = "waiting", [UNDOING] = "undoing"};

struct pending {
	struct pending *next;
	struct guest *guest; /* NULL: let go of, and freed when what is asked is answered */
	enum stage stage;
	bool operating; /* BEGUN, and its operation is at it; else it is ours */
	char *operation;
	json_t *plan; /* what is left of it; BEGUN: all of it */
	json_t *want, *config;
	struct vm_exec *exec;
	bool asking;
	int64_t since;
	struct qmp_error why; /* UNDOING */
};

static const char *item_of(const struct pending *p)
{
	return text_of(json_array_get(p->plan, 0), "item");
}

static void pending_free(struct pending *p)
{
	json_decref(p->plan);
	json_decref(p->want);
	json_decref(p->config);
	free(p->operation);
	free(p);
}

static void replace(json_t **slot, json_t *value_consume)
{
	json_decref(*slot);
	*slot = value_consume;
}

static struct pending *pending_new(struct guest *g, enum stage stage, const char *operation, json_t *plan, json_t *want,
				   json_t *config)
{
	struct pending *p = calloc(1, sizeof *p);

	if (p)
		p->operation = strdup(operation);
	if (!p || !p->operation) {
		free(p);
		return NULL;
	}
	p->stage = stage;
	p->plan = json_incref(plan);
	p->want = json_incref(want);
	p->config = json_incref(config);
	p->since = (int64_t)time(NULL);
	p->guest = g;
	p->next = g->pending;
	g->pending = p;
	return p;
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

/* ---- The journal ---- */

static json_t *entry_of(const struct pending *p)
{
	return json_pack("{s:s, s:s, s:I, s:O, s:O*, s:O*}", "stage", stage_names[p->stage], "operation", p->operation, "since",
			 (json_int_t)p->since, "plan", p->plan, "want", p->want, "config", p->config);
}

static int journal_save(const struct guest *g, struct qmp_error *err)
{
	json_auto_t *entries = json_array(), *file = NULL;

	for (const struct pending *p = g->pending; p; p = p->next)
		if (json_array_insert_new(entries, 0, entry_of(p)) < 0)
			return qmp_error_errno(err, -ENOMEM, "writing %s", VM_JOURNAL);
	if (json_array_size(entries) == 0)
		return unlinkat(g->vm->run_dir, VM_JOURNAL, 0) < 0 && errno != ENOENT
			       ? qmp_error_errno(err, -errno, "removing %s", VM_JOURNAL)
			       : 0;
	file = json_pack("{s:O}", "entries", entries);
	return file ? vm_file_replace_json(g->vm->run_dir, VM_JOURNAL, file, err) : -ENOMEM;
}

/* False: it is damaged, or of another version. */
static bool read_entry(struct guest *g, const json_t *entry)
{
	const json_t *want = json_object_get(entry, "want");
	const char *stage = text_of(entry, "stage");
	json_auto_t *effective = NULL;

	if (!vm_change_is_whole(entry))
		return false;
	effective = want ? vm_spec_effective(want) : NULL;
	for (size_t i = 0; i < ARRAY_SIZE(stage_names); i++)
		if (streq(stage, stage_names[i])) {
			struct pending *p = pending_new(g, (enum stage)i, text_of(entry, "operation"),
							json_object_get(entry, "plan"), effective,
							json_object_get(entry, "config"));
			if (p)
				p->since = json_integer_value(json_object_get(entry, "since"));
			return p;
		}
	return false;
}

void pending_open(struct guest *g)
{
	json_auto_t *file = NULL;
	struct qmp_error why = {0};
	json_t *entry;
	size_t i;

	if (vm_file_take_json(g->vm->run_dir, VM_JOURNAL, &file, &why) == -EBADMSG)
		fprintf(stderr, "qmpctl: %s: %s; what was under way is not settled\n", g->vm->name, why.message);
	json_array_foreach(json_object_get(file, "entries"), i, entry)
		if (!read_entry(g, entry))
			fprintf(stderr,
				"qmpctl: %s: entry %zu of %s is damaged, or of another version of qmpctl; what it says was under "
				"way is not settled\n",
				g->vm->name, i, VM_JOURNAL);
}

/* ---- Settled ---- */

static int keep_config(struct pending *p, struct qmp_error *err)
{
	int r = p->config ? vm_save_spec(p->guest->vm, p->config, err) : 0;

	if (r < 0)
		return qmp_error_wrap(err, "the change is made in the running VM, but keeping it failed");
	replace(&p->config, NULL);
	(void)listener_share(p->guest, p->guest->vm->spec, NULL);
	return 0;
}

static void keep_running(const struct pending *p, const json_t *rest)
{
	if (p->want && p->stage != UNDOING)
		(void)change_keep_running(p->guest->vm, p->want, p->plan, rest, NULL); /* to us it has changed all the same */
}

static void settle(struct pending *p, const char *outcome, const struct qmp_error *why)
{
	struct guest *g = p->guest;
	json_t *told = json_pack("{s:s, s:s, s:s}", "item", item_of(p), "operation", p->operation, "outcome", outcome);

	if (why && *why->message) /* the journal does not keep it */
		json_object_set_new(told, "why", qmp_json_text(why->message));
	unlink_pending(p);
	pending_free(p);
	(void)journal_save(g, NULL);
	guest_send_event(g, "QMPCTL_SETTLED", told);
	ops_go_on(g);
}

static void settle_refused(struct pending *p, const struct qmp_error *why);

static void settle_done(struct pending *p)
{
	struct qmp_error err = {0};

	if (p->stage == UNDOING) {
		err = p->why;
		settle(p, "undone", &err);
		return;
	}
	if (keep_config(p, &err) < 0) {
		settle_refused(p, &err);
		return;
	}
	keep_running(p, NULL);
	settle(p, "done", NULL);
}

static void settle_refused(struct pending *p, const struct qmp_error *why)
{
	struct qmp_error copy = *why;

	if (p->stage != BEGUN) {
		settle(p, "failed", &copy);
		return;
	}
	/* Of all that was done by whomever: QEMU is asked. */
	p->stage = UNDOING;
	p->why = copy;
	replace(&p->config, NULL);
	replace(&p->plan, vm_plan_undo(p->plan));
	(void)journal_save(p->guest, NULL);
	pending_resume(p->guest);
	ops_go_on(p->guest);
}

/* ---- Running ---- */

static int run(struct pending *p, struct qmp_session *s, json_t *plan, struct qmp_error *err);

/* Asked for, and the guest is silent: what is wanted is kept, and the rest takes as long as it takes. */
static void wait_on(struct pending *p, json_t *rest)
{
	struct qmp_session *s = vm_session(p->guest->vm, NULL);
	struct qmp_error err = {0};

	(void)keep_config(p, NULL); /* else when it has ended */
	keep_running(p, rest);
	p->stage = WAITING;
	replace(&p->plan, json_incref(rest));
	(void)journal_save(p->guest, NULL);
	if (s && run(p, s, rest, &err) < 0)
		settle(p, "failed", &err);
	else
		ops_go_on(p->guest);
}

static void on_done(void *data, enum vm_exec_outcome outcome, json_t *rest_consume, const struct qmp_error *why)
{
	struct pending *p = data;
	json_auto_t *rest = rest_consume;

	p->exec = NULL;
	if (!p->guest)
		pending_free(p);
	else if (outcome == VM_EXEC_DONE)
		settle_done(p);
	else if (outcome == VM_EXEC_PENDING)
		wait_on(p, rest);
	else if (vm_session(p->guest->vm, NULL))
		settle_refused(p, why);
}

static int open_fd(void *data, const char *name, struct qmp_error *err)
{
	const struct pending *p = data;
	int fd = p->want ? change_open_fd(p->want, name, NULL) : -ENOENT;

	return fd >= 0 ? fd : change_open_fd(p->guest->vm->running, name, err);
}

static int open_image(void *data, const json_t *step, int *ret_fd, struct qmp_error *err)
{
	const struct pending *p = data;

	return change_open_image(p->guest, step, ret_fd, err);
}

static int run(struct pending *p, struct qmp_session *s, json_t *plan, struct qmp_error *err)
{
	struct vm_exec_options o = {.fd = open_fd, .image = vm_has_user(p->guest->vm) ? open_image : NULL, .done = on_done, .data = p, .patient = p->stage != BEGUN};

	return vm_exec_run(p->guest->keeper->loop, s, plan, &o, &p->exec, err);
}

/* ---- The operation's side ---- */

static struct pending *begun(const struct guest *g)
{
	struct pending *p = g->pending;

	while (p && !p->operating)
		p = p->next;
	return p;
}

int pending_begin(struct guest *g, const char *operation, json_t *plan, json_t *want, json_t *config, struct qmp_error *err)
{
	struct pending *p = pending_new(g, BEGUN, operation, plan, want, config);
	int r;

	if (!p)
		return qmp_error_errno(err, -ENOMEM, "%s", operation);
	p->operating = true;
	r = journal_save(g, err);
	if (r < 0) {
		unlink_pending(p);
		pending_free(p);
	}
	return r;
}

void pending_end(struct guest *g)
{
	struct pending *p = begun(g);

	if (!p)
		return;
	unlink_pending(p);
	pending_free(p);
	(void)journal_save(g, NULL);
}

void pending_leave(struct guest *g, json_t *rest, const struct qmp_error *undoes)
{
	struct pending *p = begun(g);
	struct qmp_session *s = vm_session(g->vm, NULL);
	struct qmp_error err = {0};

	if (!p)
		return; /* the VM is gone */
	p->operating = false;
	p->stage = undoes ? UNDOING : WAITING;
	if (undoes)
		p->why = *undoes;
	replace(&p->plan, json_incref(rest));
	if (undoes || json_equal(p->config, g->vm->spec))
		replace(&p->config, NULL); /* not wanted, or kept; else it is when this has ended */
	(void)journal_save(g, NULL);
	if (s && run(p, s, rest, &err) < 0) /* without a session it rests */
		settle(p, "failed", &err);
}

bool pending_cut_short(struct guest *g)
{
	struct pending *p = begun(g);

	if (!p || !vm_qemu_lives(g->vm))
		return false;
	p->operating = false;
	return true;
}

/* ---- Looking ---- */

bool pending_has(const struct guest *g, const char *item)
{
	for (const struct pending *p = g->pending; p; p = p->next)
		if (!p->operating && vm_plan_touches(p->plan, item))
			return true;
	return false;
}

bool pending_unsettled(const struct guest *g)
{
	for (const struct pending *p = g->pending; p; p = p->next)
		if (p->stage == BEGUN && !p->operating)
			return true;
	return false;
}

json_t *pending_status(const struct guest *g)
{
	json_t *list = json_array();

	for (const struct pending *p = g->pending; p; p = p->next)
		if (!p->operating)
			json_array_append_new(list,
					      json_pack("{s:s, s:s, s:I, s:O*}", "item", item_of(p), "operation", p->operation,
							"since", (json_int_t)p->since, "waits-for",
							json_object_get(json_array_get(p->plan, 0), "wait")));
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
	json_auto_t *left = inv ? vm_inventory_left(inv, p->plan) : NULL;
	struct qmp_session *s = p->guest ? vm_session(p->guest->vm, NULL) : NULL;
	struct qmp_error err = {0};

	UNUSED(why); /* the session ended: it is asked again with the next */
	p->asking = false;
	vm_inventory_free(inv);
	if (!p->guest)
		pending_free(p);
	else if (left && s && run(p, s, left, &err) < 0)
		settle_refused(p, &err);
}

void pending_resume(struct guest *g)
{
	struct qmp_session *s = vm_session(g->vm, NULL);

	for (struct pending *p = g->pending; p && s; p = p->next)
		if (!p->operating && !p->exec && !p->asking)
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
