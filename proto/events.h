/*
 * Who wants which event. Callbacks may subscribe and unsubscribe, also themselves.
 *
 * Owns: the subscriptions. Does not own: where events come from. Internal.
 */
#pragma once

#include "proto/qmp.h"

struct qmp_subscription;

struct qmp_events {
	struct qmp_subscription *subs;
	size_t n;
	uint64_t last;   /* the number given last */
	bool dispatching; /* nothing moves meanwhile */
};

void qmp_events_deinit(struct qmp_events *e);
/* 0: no memory. */
uint64_t qmp_events_subscribe(struct qmp_events *e, const char *name, qmp_event_cb cb, void *data);
void qmp_events_unsubscribe(struct qmp_events *e, uint64_t subscription);
/* Nobody is called any more, also not by a dispatch that runs. */
void qmp_events_mute(struct qmp_events *e);
/* Calls all that were subscribed when it began. */
void qmp_events_dispatch(struct qmp_events *e, const struct qmp_event *event);
