/*
 * What QEMU has of what a spec describes: asked of it, never remembered.
 *
 * One inventory is a round of questions, all of them on their way at once, and at most a second one. Every object that
 * a fragment makes has an id of the item's, so whether a step of a plan happened is known from the ids alone, whoever
 * sent it.
 *
 * How each kind is found, on QEMU 7.2 and 10.0 alike:
 *   block nodes   query-named-block-nodes (flat: a long chain is 160 kB and not 3.7 MB)
 *   objects       qom-list /objects
 *   devices       qom-list /machine/peripheral: those with an id. One that is being unplugged is still there.
 *   chardevs      query-chardev
 *   netdevs       no query-* lists them; "info network" of the human monitor does, used or not, one a line
 *   PCI ports     q35: where the spec puts those of its devices that are there, and qom-get parent_bus of each other device,
 *                 with an id or without (/machine/peripheral-anon), where there are any. query-pci shows nothing behind a
 *                 root port before the firmware has numbered the buses: it would call every port of a VM at -S free.
 *                 pc: query-pci, bus 0 itself.
 */
#pragma once

#include "launcher/plan.h"

struct vm_inventory {
	/* Objects, by id. Of a node: what query-named-block-nodes says of it; of the others: their QOM type, or true. */
	json_t *nodes, *objects, *devices, *chardevs, *netdevs;
	json_t *ports; /* those taken, by number ("3"): the id or the QOM path of what is there; "" where the port is missing */
	int64_t n_ports;
	json_t *others; /* on q35: QOM paths of the devices that are not the spec's, of which the place is not yet known */
};

void vm_inventory_free(struct vm_inventory *i);

/* ---- Asking ---- */

/* INVENTORY is new, taken over; NULL with WHY on failure. Once, from the loop. */
typedef void (*vm_inventory_cb)(void *data, struct vm_inventory *inventory, const struct qmp_error *why);

/* SPEC, effective, is that of the running machine: it says which ports there are. */
int vm_inventory_ask(struct qmp_session *session, const json_t *spec, vm_inventory_cb cb, void *data,
		     struct qmp_error *err);

/*
 * The same in halves, pure. The questions of a machine, [{"execute", "arguments"}], and QEMU's answers in their order
 * (a JSON null where it refused); then those about the places of other devices, if there are any, and their answers.
 * NULL on failure.
 */
json_t *vm_inventory_questions(const json_t *spec);
struct vm_inventory *vm_inventory_decode(const json_t *spec, const json_t *answers, struct qmp_error *err);
json_t *vm_inventory_place_questions(const struct vm_inventory *i);
void vm_inventory_decode_places(struct vm_inventory *i, const json_t *answers);

/* ---- Answers ---- */

bool vm_inventory_has(const struct vm_inventory *i, enum vm_object_kind kind, const char *id);

/*
 * Where QEMU has not what SPEC, effective, says: [{"item", "state", "missing"?, "wants"?, "has"?}]. State "gone":
 * nothing of it is there; "partial": the ids in "missing" are not; "changed": its file is "has", not "wants". New;
 * NULL: SPEC is no such spec.
 */
json_t *vm_inventory_differences(const struct vm_inventory *i, const json_t *spec, const struct vm_host *host);

/*
 * What QEMU has that is named neither by SPEC, effective, nor by the command line ARGV that it was started with, and that is
 * not its own: [{"kind", "id", "type"?}], KIND one of device, netdev, node, object, chardev. Devices without an id are left out:
 * those of the command line look the same. New; NULL: SPEC is no such spec.
 */
json_t *vm_inventory_others(const struct vm_inventory *i, const json_t *spec, const struct vm_host *host, const json_t *argv);

/*
 * The steps of PLAN that are still to be done, in its order. New. A step that QEMU cannot be asked about (a limit that is
 * set) is among them; a getfd is where its netdev is. Of vm_plan_undo's plan it is what rolls PLAN back.
 */
json_t *vm_inventory_left(const struct vm_inventory *i, const json_t *plan);
/* PLAN without the removals of what is gone already, by somebody else's hand. New. */
json_t *vm_inventory_skip_gone(const struct vm_inventory *i, const json_t *plan);
