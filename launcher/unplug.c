/*
 * The way it goes well:   query-status -> device_del -> DEVICE_DELETED -> finish(GONE)
 * At -S:                  query-status -> info registers: at its reset vector -> device_del, system_reset -> DEVICE_DELETED
 * QEMU refuses:           qom-get hotpluggable: no -> finish(REFUSED); yes -> it may be on its way already, so wait
 * The guest refuses:      DEVICE_UNPLUG_GUEST_ERROR -> finish(REFUSED)
 * The guest is silent:    again() every now and then -> on_deadline -> finish(SILENT)
 * The session ends:       any reply says so -> finish(REFUSED)
 */
#include "launcher/unplug.h"
#include "proto/base.h"

#define AGAIN_MS     1000 /* then 2, 4, ... s */
#define AGAIN_MAX_MS 64000
#define GOING_MS     5000 /* from losing its name to DEVICE_DELETED, which is milliseconds */
#define GONE_MS      500  /* the same where it may have gone long ago */

struct vm_unplug {
	uv_loop_t *loop;
	struct qmp_session *session;
	uv_timer_t timer;
	char *id;
	vm_unplug_cb cb;
	void *data;
	uint64_t deadline, pause, subscriptions[4];
	size_t in_flight;
	bool untouched; /* the guest has not run: a reset is not noticed */
	bool nameless;  /* QEMU does not know it any more */
	bool accepted;  /* QEMU has taken a device_del */
	bool finished, closed, session_gone;
	struct qmp_error words; /* QEMU's, where it refused and there is still hope */
};

static void release(struct vm_unplug *u)
{
	if (!u->closed || u->in_flight > 0)
		return;
	free(u->id);
	free(u);
}

static void on_timer_closed(uv_handle_t *h)
{
	struct vm_unplug *u = h->data;

	u->closed = true;
	release(u);
}

void vm_unplug_free(struct vm_unplug *u, bool session_gone)
{
	if (!u || u->finished)
		return;
	u->finished = true;
	for (size_t i = 0; i < ARRAY_SIZE(u->subscriptions); i++)
		if (u->subscriptions[i] && !session_gone && !u->session_gone)
			qmp_session_unsubscribe(u->session, u->subscriptions[i]);
	uv_timer_stop(&u->timer);
	uv_close((uv_handle_t *)&u->timer, on_timer_closed);
}

static void finish(struct vm_unplug *u, enum vm_unplug_outcome outcome, const struct qmp_error *why)
{
	struct qmp_error copy = why ? *why : (struct qmp_error){0};

	if (u->finished)
		return;
	vm_unplug_free(u, false);
	u->cb(u->data, outcome, outcome == VM_UNPLUG_GONE ? NULL : &copy);
}

/* Every reply passes here: whether there is still somebody to tell. */
static bool answered(struct vm_unplug *u, const struct qmp_reply *reply)
{
	u->in_flight--;
	if (reply->status < 0 && !qmp_session_is_ready(u->session)) {
		u->session_gone = true;
		finish(u, VM_UNPLUG_REFUSED, &reply->error);
	}
	if (!u->finished)
		return true;
	release(u);
	return false;
}

static void request(struct vm_unplug *u, const char *name, json_t *arguments_consume, qmp_reply_cb cb)
{
	json_auto_t *arguments = arguments_consume;
	struct qmp_command c = {.name = name, .arguments = arguments, .timeout_ms = UINT64_MAX}; /* the deadline is ours */
	struct qmp_error why = {0};

	u->in_flight++;
	if (qmp_session_execute(u->session, &c, cb, u, NULL, &why) == 0)
		return;
	u->in_flight--;
	finish(u, VM_UNPLUG_REFUSED, &why);
}

/* ---- The request ---- */

static void on_timer(uv_timer_t *t);

static void on_hotpluggable(void *data, const struct qmp_reply *reply)
{
	struct vm_unplug *u = data;

	if (answered(u, reply) && (reply->status < 0 || !json_is_true(reply->value)))
		finish(u, VM_UNPLUG_REFUSED, &u->words);
}

static void on_deleting(void *data, const struct qmp_reply *reply)
{
	struct vm_unplug *u = data;
	bool first;

	if (!answered(u, reply))
		return;
	first = !u->accepted && u->words.kind == QMP_ERR_NONE;
	if (reply->status == 0) {
		u->accepted = true;
		return;
	}
	if (reply->error_class && streq(reply->error_class, "DeviceNotFound")) {
		/* It has no name any more, and may still hold its backend: DEVICE_DELETED says when that is free. */
		u->nameless = true;
		uv_timer_start(&u->timer, on_timer, first ? GONE_MS : GOING_MS, 0);
		return;
	}
	if (!first)
		return; /* sent again: the one before is still being worked on */
	u->words = reply->error;
	request(u, "qom-get",
	     json_pack("{s:o, s:s}", "path", json_sprintf("/machine/peripheral/%s", u->id), "property", "hotpluggable"),
	     on_hotpluggable);
}

static void on_reset(void *data, const struct qmp_reply *reply)
{
	(void)answered(data, reply);
}

static void delete(struct vm_unplug *u)
{
	request(u, "device_del", json_pack("{s:s}", "id", u->id), on_deleting);
	if (u->untouched && !u->finished)
		request(u, "system_reset", NULL, on_reset);
	u->untouched = false;
}

/* An x86 processor that has executed nothing is where a reset puts it. */
static void on_registers(void *data, const struct qmp_reply *reply)
{
	struct vm_unplug *u = data;
	const char *text;

	if (!answered(u, reply))
		return;
	text = reply->status == 0 ? json_string_value(reply->value) : NULL;
	u->untouched = text && strstr(text, "EIP=0000fff0 ") && strstr(text, "CS =f000 ffff0000 ");
	delete(u);
}

static void on_status(void *data, const struct qmp_reply *reply)
{
	struct vm_unplug *u = data;
	const char *status;

	if (!answered(u, reply))
		return;
	status = reply->status == 0 ? text_of(reply->value, "status") : NULL;
	if (status && streq(status, "prelaunch"))
		request(u, "human-monitor-command", json_pack("{s:s}", "command-line", "info registers"), on_registers);
	else
		delete(u);
}

/* ---- What comes ---- */

static bool is_ours(const struct vm_unplug *u, const struct qmp_event *event)
{
	const char *id = text_of(qmp_event_member(event, "data"), "device");

	return id && streq(id, u->id); /* virtio's inner device is deleted, too, without an id */
}

static void on_deleted(void *data, const struct qmp_event *event)
{
	if (is_ours(data, event))
		finish(data, VM_UNPLUG_GONE, NULL);
}

static void on_guest_refusal(void *data, const struct qmp_event *event)
{
	struct vm_unplug *u = data;
	struct qmp_error why = {0};

	if (!is_ours(u, event))
		return;
	qmp_error_set(&why, QMP_ERR_REFUSED, -EBUSY, "the guest refused to let go of %s; free it in the guest first", u->id);
	finish(u, VM_UNPLUG_REFUSED, &why);
}

/* It runs again, or its agent came or went. */
static void on_chance(void *data, const struct qmp_event *event)
{
	struct vm_unplug *u = data;
	bool request_is_out = !u->nameless && (u->accepted || u->words.kind != QMP_ERR_NONE);

	if (request_is_out &&
	    (streq(event->name, "RESUME") || json_is_true(json_object_get(qmp_event_member(event, "data"), "open"))))
		delete(u);
}

static void on_timer(uv_timer_t *t)
{
	struct vm_unplug *u = t->data;
	uint64_t now = uv_now(u->loop);
	struct qmp_error why = {0};

	if (u->nameless) {
		finish(u, VM_UNPLUG_GONE, NULL);
		return;
	}
	if (now < u->deadline) {
		if (u->in_flight == 0)
			delete(u);
		u->pause = u->pause * 2 > AGAIN_MAX_MS ? AGAIN_MAX_MS : u->pause * 2;
		if (!u->finished)
			uv_timer_start(t, on_timer, u->pause < u->deadline - now ? u->pause : u->deadline - now, 0);
		return;
	}
	if (u->accepted || u->words.kind != QMP_ERR_NONE)
		qmp_error_set(&why, QMP_ERR_PENDING, -EINPROGRESS,
			      "the guest has not let go of %s in time%s%s; it is finished as soon as it does (a reset of the guest "
			      "makes it)",
			      u->id, u->accepted ? "" : "; QEMU says of it: ", u->accepted ? "" : u->words.message);
	else
		qmp_error_set(&why, QMP_ERR_PENDING, -EINPROGRESS,
			      "QEMU has not answered device_del of %s in time; it is finished as soon as it does", u->id);
	finish(u, VM_UNPLUG_SILENT, &why);
}

int vm_unplug_run(uv_loop_t *loop, struct qmp_session *session, const char *id, uint64_t timeout_ms, vm_unplug_cb cb,
		  void *data, struct vm_unplug **ret, struct qmp_error *err)
{
	static const struct {
		const char *name;
		qmp_event_cb cb;
	} events[] = {{"DEVICE_DELETED", on_deleted},
		      {"DEVICE_UNPLUG_GUEST_ERROR", on_guest_refusal},
		      {"RESUME", on_chance},
		      {"VSERPORT_CHANGE", on_chance}};
	struct qmp_command c = {.name = "query-status", .timeout_ms = UINT64_MAX};
	struct vm_unplug *u = calloc(1, sizeof *u);
	int r = 0;

	if (u)
		u->id = strdup(id);
	if (!u || !u->id) {
		free(u);
		return qmp_error_errno(err, -ENOMEM, "unplugging %s", id);
	}
	u->loop = loop;
	u->session = session;
	u->cb = cb;
	u->data = data;
	u->pause = AGAIN_MS;
	u->deadline = timeout_ms > UINT64_MAX - uv_now(loop) ? UINT64_MAX : uv_now(loop) + timeout_ms;
	r = qmp_session_execute(session, &c, on_status, u, NULL, err);
	if (r < 0) {
		free(u->id);
		free(u);
		return r;
	}
	u->in_flight = 1;
	uv_timer_init(loop, &u->timer);
	u->timer.data = u;
	uv_timer_start(&u->timer, on_timer, timeout_ms < AGAIN_MS ? timeout_ms : AGAIN_MS, 0);
	for (size_t i = 0; i < ARRAY_SIZE(events); i++)
		u->subscriptions[i] = qmp_session_subscribe(session, events[i].name, events[i].cb, u);
	*ret = u;
	return 0;
}
