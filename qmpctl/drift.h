/*
 * Where what QEMU has is not what the running spec says: another client took a disk away or made one, or the spec that an
 * earlier keeper left is not true any more. It is shown (status), never acted upon.
 *
 * Looked for when a QEMU is taken over or answers again, before a change (an addition: when refused), when a device
 * went that nobody here removed, and a moment after a client's own commands have made or removed something.
 */
#pragma once

#include "qmpctl/keeper.h"

struct vm_inventory;

/* Asks QEMU, beside everything else. */
void drift_check(struct guest *g);
/* Once no change runs or waits: again, where the answer was of no use for one that came in between. */
void drift_catch_up(struct guest *g);
/* What QEMU has is known just now. */
void drift_take(struct guest *g, const struct vm_inventory *inventory);
/* The VM's state or a device of it changed. */
void drift_on_state(struct guest *g);
void drift_on_event(struct guest *g, const struct qmp_event *event);
/* A client's COMMAND was carried out. */
void drift_on_command(struct guest *g, const char *command);
/* The timer of a keeper, some time after a command that counts: asks about those guests that had one. */
void drift_on_timer(uv_timer_t *t);
/* As vm_inventory_others; borrowed; NULL: none that is known. */
const json_t *drift_others(const struct guest *g);
/* As vm_inventory_differences; borrowed; NULL: none that is known. */
const json_t *drift_status(const struct guest *g);
