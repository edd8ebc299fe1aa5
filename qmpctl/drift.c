#include "qmpctl/drift.h"
#include "qmpctl/pending.h"
#include "launcher/inventory.h"
#include "proto/base.h"

/* After the first of many commands. */
#define COMMAND_MS 300

static void set(struct guest *g, json_t *differences_consume, json_t *others_consume)
{
	json_decref(g->drift);
	json_decref(g->others);
	g->drift = differences_consume;
	g->others = others_consume;
}

/* What the guest has still to let go of is on its way, and told as pending. */
static json_t *without_pending(const struct guest *g, json_t *all_consume)
{
	json_auto_t *all = all_consume;
	json_t *rest = json_array(), *entry;
	size_t i;

	json_array_foreach(all, i, entry)
		if (!pending_has(g, json_string_value(json_object_get(entry, "item"))))
			json_array_append(rest, entry);
	return rest;
}

void drift_take(struct guest *g, const struct vm_inventory *inventory)
{
	struct vm_host host = vm_host_of(g->vm);
	json_t *all = inventory && g->vm->running ? vm_inventory_differences(inventory, g->vm->running, &host) : NULL;

	if (all)
		set(g, without_pending(g, all), vm_inventory_others(inventory, g->vm->running, &host, g->vm->argv));
}

static void on_inventory(void *data, struct vm_inventory *inventory, const struct qmp_error *why)
{
	struct guest *g = data;

	UNUSED(why); /* it does not answer, which is shown already */
	g->drift_asked = false;
	/* Of a time before a change, or in the middle of making the two one, it says nothing of what is now. */
	if (!g->running && g->drift_changes == g->changes)
		drift_take(g, inventory);
	else
		g->drift_missed = true;
	vm_inventory_free(inventory);
	drift_catch_up(g);
}

void drift_check(struct guest *g)
{
	struct qmp_session *s = g->vm->running ? vm_session(g->vm, NULL) : NULL;

	if (!s || g->drift_asked)
		return;
	g->drift_missed = false;
	g->drift_changes = g->changes;
	g->drift_asked = vm_inventory_ask(s, g->vm->running, on_inventory, g, NULL) == 0;
}

void drift_catch_up(struct guest *g)
{
	if (g->drift_missed && !g->running && !g->queue)
		drift_check(g);
}

void drift_on_state(struct guest *g)
{
	enum vm_state before = g->state_before, now = g->vm->state;

	g->state_before = now;
	if (now == VM_STOPPED)
		set(g, NULL, NULL);
	else if ((now == VM_RUNNING || now == VM_PAUSED) && (before == VM_STOPPED || before == VM_UNRESPONSIVE))
		drift_check(g);
}

void drift_on_event(struct guest *g, const struct qmp_event *event)
{
	if (streq(event->name, "DEVICE_DELETED") && text_of(qmp_event_member(event, "data"), "device") && !g->running && !g->pending)
		drift_check(g);
}

static bool ends_with(const char *text, const char *end)
{
	size_t n = strlen(text), k = strlen(end);

	return n >= k && streq(text + n - k, end);
}

void drift_on_command(struct guest *g, const char *command)
{
	static const char *const changing[] = {"-add", "_add", "-del", "_del", "chardev-remove", "human-monitor-command"};
	uv_timer_t *timer = &g->keeper->drift;

	for (size_t i = 0; i < ARRAY_SIZE(changing); i++)
		g->drift_stale |= ends_with(command, changing[i]);
	if (g->drift_stale && !uv_is_active((uv_handle_t *)timer))
		uv_timer_start(timer, drift_on_timer, COMMAND_MS, 0);
}

void drift_on_timer(uv_timer_t *t)
{
	const struct keeper *k = t->data;

	for (struct guest *g = k->guests; g; g = g->next) {
		if (!g->drift_stale)
			continue;
		g->drift_stale = false;
		if (g->running || g->drift_asked)
			g->drift_missed = true;
		else
			drift_check(g);
	}
}

const json_t *drift_others(const struct guest *g)
{
	return json_array_size(g->others) > 0 ? g->others : NULL;
}

const json_t *drift_status(const struct guest *g)
{
	return json_array_size(g->drift) > 0 ? g->drift : NULL;
}
