/*
 * The restart policy of a guest: whether a VM that has ended is started again, and when.
 *
 *   ran --- ended ---> wanted? ---> waiting --- delay ---> starting --- up ---> ran
 *                        | no          ^                      |
 *                        v             +------- failed -------+     (each counts; at the limit it gives up)
 *                     stopped
 *
 * Owns: the count, the delay, the timer. Does not own: how a VM starts and how it ended (launcher/vm). An end that was
 * asked for (stop, kill, quit) is never followed by a start, nor is one that no keeper saw.
 */
#pragma once

#include "proto/qmp.h"

struct guest;
struct restart;

/* POLICY: "restart" of an effective spec. END: last-end. ASKED: somebody wanted it to end. Pure. */
bool restart_wanted(const json_t *policy, const json_t *end, bool asked);
/* Milliseconds before the start number COUNT (1 ...): the delay, doubled each time, at most max-delay. Pure. */
uint64_t restart_delay_ms(const json_t *policy, int64_t count);

struct restart *restart_new(struct guest *g);
void restart_free(struct restart *r);
/* The VM has stopped: has it started again where its policy says so. */
void restart_consider(struct restart *r);
/* One is to come, or under way: the keeper stays. */
bool restart_is_due(const struct restart *r);
/* Takes back one that is to come. False: there was none. */
bool restart_cancel(struct restart *r);
/* {"policy", "count", "due"?, "gave-up"?}; NULL where the policy is never. New. */
json_t *restart_status(const struct restart *r);
