#include "proto/events.h"
#include "proto/base.h"

struct qmp_subscription {
	uint64_t id;
	char *name;      /* NULL: all */
	qmp_event_cb cb; /* NULL: unsubscribed */
	void *data;
};

json_t *qmp_event_member(const struct qmp_event *event, const char *name)
{
	if (!*event->message)
		*event->message = qmp_json_decode(event->raw, event->raw_len, NULL);
	if (!*event->message)
		*event->message = json_null();
	return json_object_get(*event->message, name);
}

void qmp_events_deinit(struct qmp_events *e)
{
	for (size_t i = 0; i < e->n; i++)
		free(e->subs[i].name);
	free(e->subs);
	*e = (struct qmp_events){0};
}

uint64_t qmp_events_subscribe(struct qmp_events *e, const char *name, qmp_event_cb cb, void *data)
{
	_cleanup_free_ char *copy = name ? strdup(name) : NULL;
	struct qmp_subscription *subs;

	if (name && !copy)
		return 0;
	subs = realloc(e->subs, (e->n + 1) * sizeof *subs);
	if (!subs)
		return 0;
	e->subs = subs;
	subs[e->n++] = (struct qmp_subscription){++e->last, take_ptr(copy), cb, data};
	return e->last;
}

static void sweep(struct qmp_events *e)
{
	size_t to = 0;

	if (e->dispatching)
		return;
	for (size_t i = 0; i < e->n; i++) {
		if (e->subs[i].cb)
			e->subs[to++] = e->subs[i];
		else
			free(e->subs[i].name);
	}
	e->n = to;
}

void qmp_events_unsubscribe(struct qmp_events *e, uint64_t subscription)
{
	for (size_t i = 0; i < e->n; i++)
		if (e->subs[i].id == subscription)
			e->subs[i].cb = NULL;
	sweep(e);
}

void qmp_events_mute(struct qmp_events *e)
{
	for (size_t i = 0; i < e->n; i++)
		e->subs[i].cb = NULL;
	sweep(e);
}

void qmp_events_dispatch(struct qmp_events *e, const struct qmp_event *event)
{
	size_t n = e->n;

	e->dispatching = true;
	for (size_t i = 0; i < n; i++) {
		struct qmp_subscription sub = e->subs[i]; /* the array may move when somebody subscribes */
		if (sub.cb && (!sub.name || streq(sub.name, event->name)))
			sub.cb(sub.data, event);
	}
	e->dispatching = false;
	sweep(e);
}
