#include "qmpctl/restart.h"
#include "qmpctl/keeper.h"
#include "launcher/spec.h"
#include "proto/base.h"

#include <time.h>

struct restart {
	uv_timer_t timer;
	struct guest *guest;
	int64_t count; /* starts in a row, none of which ran for healthy-after */
	bool waiting, starting, gave_up;
};

/* ---- Pure ---- */

bool restart_wanted(const json_t *policy, const json_t *end, bool asked)
{
	static const char *const orderly[] = {"guest-shutdown", "guest-reset", "host-quit", "host-qmp-quit", "host-signal"};
	const char *when = text_of(policy, "policy"), *reason = text_of(end, "reason");

	if (asked || !when || streq(when, "never"))
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(orderly) && reason && streq(when, "on-failure"); i++)
		if (streq(reason, orderly[i]))
			return false;
	return true;
}

uint64_t restart_delay_ms(const json_t *policy, int64_t count)
{
	uint64_t delay = (uint64_t)int_of(policy, "delay") * 1000, most = (uint64_t)int_of(policy, "max-delay") * 1000;

	while (--count > 0 && delay > 0 && delay < most)
		delay *= 2;
	return delay < most ? delay : most;
}

/* ---- On a guest ---- */

/* As the spec on disk has it now: a change counts at once. New. */
static json_t *policy_of(const struct restart *r)
{
	return vm_spec_section(r->guest->vm->spec, "restart");
}

static void tell(struct restart *r, const char *outcome, uint64_t delay_ms)
{
	guest_send_event(r->guest, "QMPCTL_RESTART",
			 json_pack("{s:s, s:s, s:I, s:I}", "name", r->guest->vm->name, "outcome", outcome, "count",
				   (json_int_t)r->count, "delay", (json_int_t)(delay_ms / 1000)));
}

static void on_due(uv_timer_t *t);

static void schedule(struct restart *r)
{
	json_auto_t *policy = policy_of(r);
	int64_t limit = int_of(policy, "limit");
	uint64_t delay;

	if (limit > 0 && r->count >= limit) {
		r->gave_up = true;
		tell(r, "gave-up", 0);
		return;
	}
	delay = restart_delay_ms(policy, ++r->count);
	r->waiting = true;
	uv_timer_start(&r->timer, on_due, delay, 0);
	tell(r, "waiting", delay);
}

static void on_started(void *data, const struct qmp_error *why)
{
	struct restart *r = data;

	r->starting = false;
	if (!why) {
		tell(r, "started", 0);
		return;
	}
	if (!r->guest->vm->stop_asked && !r->guest->vm->wanted_end)
		schedule(r);
	guest_stopped(r->guest);
}

static void on_due(uv_timer_t *t)
{
	struct restart *r = t->data;
	struct qmp_error err = {0};

	r->waiting = false;
	r->starting = true;
	if (vm_start(r->guest->vm, false, on_started, r, &err) < 0)
		on_started(r, &err);
}

void restart_consider(struct restart *r)
{
	struct vm *vm = r->guest->vm;
	json_auto_t *policy;

	(void)vm_renew_spec(vm, NULL); /* where it cannot be read, the policy is as it was known */
	policy = policy_of(r);
	/* What never came up is for whoever started it. */
	if (!vm->was_up || r->guest->restarting || r->starting)
		return;
	if (!restart_wanted(policy, vm->last_end, vm->wanted_end || vm->stop_asked))
		return;
	if (vm_uptime(vm) >= int_of(policy, "healthy-after"))
		r->count = 0;
	r->gave_up = false;
	schedule(r);
}

bool restart_is_due(const struct restart *r)
{
	return r->waiting || r->starting;
}

bool restart_cancel(struct restart *r)
{
	bool waited = r->waiting;

	uv_timer_stop(&r->timer);
	r->waiting = false;
	r->count = 0;
	if (waited)
		tell(r, "cancelled", 0);
	return waited;
}

/* In seconds of the host's clock, as that is now. */
static json_int_t due_at(const struct restart *r)
{
	return (json_int_t)time(NULL) + (json_int_t)((uv_timer_get_due_in(&r->timer) + 999) / 1000);
}

json_t *restart_status(const struct restart *r)
{
	json_auto_t *policy = policy_of(r);
	const char *when = text_of(policy, "policy");
	json_t *s;

	if (!when || streq(when, "never"))
		return NULL;
	s = json_pack("{s:s, s:I}", "policy", when, "count", (json_int_t)r->count);
	if (r->waiting)
		json_object_set_new(s, "due", json_integer(due_at(r)));
	if (r->gave_up)
		json_object_set_new(s, "gave-up", json_true());
	return s;
}

struct restart *restart_new(struct guest *g)
{
	struct restart *r = calloc(1, sizeof *r);

	if (!r)
		return NULL;
	r->guest = g;
	uv_timer_init(g->keeper->loop, &r->timer);
	r->timer.data = r;
	return r;
}

static void on_closed(uv_handle_t *h)
{
	free(h->data);
}

void restart_free(struct restart *r)
{
	if (r)
		uv_close((uv_handle_t *)&r->timer, on_closed);
}
