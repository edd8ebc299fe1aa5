/*
 * Asking, the way it goes well:   execute() of every question ... on_answer() of each ... decode [-> the same for places] -> done
 * One is refused or the session ends:  the others are waited for, then done with the first reason. A device of somebody
 * else's that has gone meanwhile, or has no bus, is no failure.
 */
#include "launcher/inventory.h"
#include "launcher/spec.h"
#include "proto/base.h"

#include <stdio.h>

enum { NODES, OBJECTS, DEVICES, CHARDEVS, NETWORK, PCI, QUESTIONS }; /* PCI: on q35, the devices without an id */

/* ---- Questions ---- */

static json_t *list_of(const char *path)
{
	return json_pack("{s:s, s:{s:s}}", "execute", "qom-list", "arguments", "path", path);
}

json_t *vm_inventory_questions(const json_t *spec)
{
	return json_pack("[{s:s, s:{s:b}}, o, o, {s:s}, {s:s, s:{s:s}}, o]", "execute", "query-named-block-nodes", "arguments",
			 "flat", 1, list_of("/objects"), list_of("/machine/peripheral"), "execute", "query-chardev", "execute",
			 "human-monitor-command", "arguments", "command-line", "info network",
			 vm_spec_is_pc(spec) ? json_pack("{s:s}", "execute", "query-pci") : list_of("/machine/peripheral-anon"));
}

json_t *vm_inventory_place_questions(const struct vm_inventory *i)
{
	json_t *list = json_array(), *path;
	size_t k;

	json_array_foreach(i->others, k, path)
		json_array_append_new(list, json_pack("{s:s, s:{s:O, s:s}}", "execute", "qom-get", "arguments", "path", path,
						      "property", "parent_bus"));
	return list;
}

/* ---- Answers ---- */

/* {KEY's value: the entry, or its TYPE member} of a list of objects. */
static json_t *by_key(const json_t *list, const char *key, const char *type)
{
	json_t *map = json_is_array(list) ? json_object() : NULL, *entry;
	size_t i;

	json_array_foreach(list, i, entry)
	{
		const char *id = text_of(entry, key);
		if (map && id)
			json_object_set(map, id, type ? json_object_get(entry, type) : entry);
	}
	return map;
}

/*
 * "net0: index=0,type=nic,..." and, of what it is connected to, " \ net0-netdev: index=0,type=user,...". What follows
 * may be anything, a path with newlines in it among others; so a line counts only where it begins as QEMU's do.
 */
static void take_netdev_line(json_t *map, const char *line, size_t len)
{
	static const char begin[] = ": index=", indent[] = " \\ ";
	const char *colon;

	if (len >= 3 && memcmp(line, indent, 3) == 0)
		line += 3, len -= 3;
	colon = memmem(line, len, begin, sizeof begin - 1);
	if (!colon || memchr(line, ' ', (size_t)(colon - line)))
		return;
	if (memmem(colon, len - (size_t)(colon - line), ",type=nic,", 10))
		return;
	json_object_setn_new(map, line, (size_t)(colon - line), json_true());
}

static json_t *netdevs_of(const char *text)
{
	json_t *map = text ? json_object() : NULL;

	while (map && text && *text) {
		size_t len = strcspn(text, "\r\n");
		take_netdev_line(map, text, len);
		text += len;
		text += strspn(text, "\r\n");
	}
	return map;
}

static void take_port(json_t *ports, int64_t port, json_t *what)
{
	char key[24];

	snprintf(key, sizeof key, "%lld", (long long)port);
	json_object_set(ports, key, what);
}

void vm_inventory_decode_places(struct vm_inventory *inv, const json_t *answers)
{
	json_t *path;
	size_t i;

	json_array_foreach(inv->others, i, path)
	{
		const char *bus = json_string_value(json_array_get(answers, i));
		long long port;
		if (bus && sscanf(bus, "/machine/peripheral/port-%lld/port-", &port) == 1 && port >= 1 && port <= inv->n_ports)
			take_port(inv->ports, port, path);
	}
	json_array_clear(inv->others);
}

/* On q35: what the spec says of a device that is there. Takes it out of OTHERS. */
static void take_ours(struct vm_inventory *inv, const struct vm_object *o, json_t *others)
{
	const char *bus = text_of(o->args, "bus"), *id = vm_object_id(o);
	long long port;

	if (o->kind != VM_DEVICE || !id || !json_object_get(others, id))
		return;
	json_object_del(others, id);
	if (bus && sscanf(bus, "port-%lld", &port) == 1 && port >= 1 && port <= inv->n_ports)
		take_port(inv->ports, port, json_object_get(o->args, "id"));
}

static void take_missing_ports(struct vm_inventory *inv)
{
	json_auto_t *nothing = json_string("");

	for (int64_t port = 1; port <= inv->n_ports; port++) {
		char id[32];
		snprintf(id, sizeof id, "port-%lld", (long long)port);
		if (!json_object_get(inv->devices, id))
			take_port(inv->ports, port, nothing);
	}
}

static void add_others(struct vm_inventory *inv, const char *folder, const char *name)
{
	json_array_append_new(inv->others, json_sprintf("%s/%s", folder, name));
}

static void take_buses(struct vm_inventory *inv, const json_t *spec, const json_t *without_id)
{
	static const struct vm_host any = {.vhost_net = true}; /* ids and places depend on nothing of the host */
	json_auto_t *others = json_copy(inv->devices);
	struct vm_fragments all = {0};
	const char *id;
	json_t *entry;
	size_t i;

	take_missing_ports(inv);
	(void)vm_fragments_all(spec, &any, &all, NULL);
	for (i = 0; i < all.n; i++)
		for (size_t k = 0; k < all.list[i].n_objects; k++)
			take_ours(inv, &all.list[i].objects[k], others);
	vm_fragments_deinit(&all);
	json_object_foreach(others, id, entry)
		add_others(inv, "/machine/peripheral", id);
	json_array_foreach(without_id, i, entry)
		if (text_of(entry, "type") && strncmp(text_of(entry, "type"), "child<", 6) == 0)
			add_others(inv, "/machine/peripheral-anon", text_of(entry, "name"));
}

/* On pc: bus 0, whose slots are the ports. */
static void take_slots(struct vm_inventory *inv, const json_t *buses)
{
	const json_t *devices = json_object_get(json_array_get(buses, 0), "devices");
	json_t *device;
	size_t i;

	json_array_foreach(devices, i, device)
	{
		int64_t port = vm_pci_port_of_slot(json_integer_value(json_object_get(device, "slot")));
		if (port >= 1 && port <= inv->n_ports)
			take_port(inv->ports, port, json_object_get(device, "qdev_id"));
	}
}

void vm_inventory_free(struct vm_inventory *i)
{
	if (!i)
		return;
	json_decref(i->nodes);
	json_decref(i->objects);
	json_decref(i->devices);
	json_decref(i->chardevs);
	json_decref(i->netdevs);
	json_decref(i->ports);
	json_decref(i->others);
	free(i);
}

struct vm_inventory *vm_inventory_decode(const json_t *spec, const json_t *answers, struct qmp_error *err)
{
	struct vm_inventory *inv = calloc(1, sizeof *inv);

	if (!inv) {
		qmp_error_errno(err, -ENOMEM, "asking QEMU what it has");
		return NULL;
	}
	inv->n_ports = vm_spec_ports(spec);
	inv->nodes = by_key(json_array_get(answers, NODES), "node-name", NULL);
	inv->objects = by_key(json_array_get(answers, OBJECTS), "name", "type");
	inv->devices = by_key(json_array_get(answers, DEVICES), "name", "type");
	inv->chardevs = by_key(json_array_get(answers, CHARDEVS), "label", NULL);
	inv->netdevs = netdevs_of(json_string_value(json_array_get(answers, NETWORK)));
	inv->ports = json_object();
	inv->others = json_array();
	if (!inv->nodes || !inv->objects || !inv->devices || !inv->chardevs || !inv->netdevs || !inv->ports || !inv->others) {
		vm_inventory_free(inv);
		qmp_error_set(err, QMP_ERR_PROTOCOL, -EPROTO, "asking QEMU what it has: it does not answer as QEMU does");
		return NULL;
	}
	json_object_del(inv->objects, "type"); /* every QOM object has that property */
	json_object_del(inv->devices, "type");
	if (vm_spec_is_pc(spec))
		take_slots(inv, json_array_get(answers, PCI));
	else
		take_buses(inv, spec, json_array_get(answers, PCI));
	return inv;
}

/* ---- Asking ---- */

struct asking {
	struct qmp_session *session;
	json_t *spec, *answers;
	struct vm_inventory *inventory; /* but for the places of others */
	size_t open;
	struct qmp_error error;
	vm_inventory_cb cb;
	void *data;
};

struct question {
	struct asking *asking;
	size_t index;
};

static void asking_free(struct asking *a)
{
	vm_inventory_free(a->inventory);
	json_decref(a->spec);
	json_decref(a->answers);
	free(a);
}

static int ask_all(struct asking *a, json_t *questions_consume, struct qmp_error *err);

static void asked(struct asking *a)
{
	struct vm_inventory *inv = a->inventory;

	if (inv)
		vm_inventory_decode_places(inv, a->answers);
	else if (a->error.kind == QMP_ERR_NONE)
		a->inventory = inv = vm_inventory_decode(a->spec, a->answers, &a->error);
	if (inv && a->error.kind == QMP_ERR_NONE && json_array_size(inv->others) > 0 &&
	    ask_all(a, vm_inventory_place_questions(inv), &a->error) == 0)
		return;
	if (a->error.kind == QMP_ERR_NONE)
		a->cb(a->data, take_ptr(a->inventory), NULL);
	else
		a->cb(a->data, NULL, &a->error);
	asking_free(a);
}

static void on_answer(void *data, const struct qmp_reply *reply)
{
	struct question *q = data;
	struct asking *a = q->asking;

	if (reply->status == 0)
		json_array_set(a->answers, q->index, reply->value);
	else if (a->error.kind == QMP_ERR_NONE && (!a->inventory || reply->status != -EREMOTEIO))
		a->error = reply->error;
	free(q);
	if (--a->open == 0)
		asked(a);
}

static int ask(struct asking *a, const json_t *question, struct qmp_error *err)
{
	struct question *q = malloc(sizeof *q);
	struct qmp_command c = {.name = text_of(question, "execute"), .arguments = json_object_get(question, "arguments")};
	int r;

	if (!q)
		return qmp_error_errno(err, -ENOMEM, "asking QEMU what it has");
	*q = (struct question){a, json_array_size(a->answers)};
	json_array_append_new(a->answers, json_null());
	r = qmp_session_execute(a->session, &c, on_answer, q, NULL, err);
	if (r < 0)
		free(q);
	else
		a->open++;
	return r;
}

/* 0 where at least one is on its way: one that could not be sent is told with the answers to the others. */
static int ask_all(struct asking *a, json_t *questions_consume, struct qmp_error *err)
{
	json_auto_t *questions = questions_consume;
	struct qmp_error why = {0};
	json_t *question;
	size_t i;
	int r = questions ? 0 : qmp_error_errno(&why, -ENOMEM, "asking QEMU what it has");

	json_decref(a->answers);
	a->answers = json_array();
	json_array_foreach(questions, i, question)
		if (r == 0)
			r = ask(a, question, &why);
	if (a->open > 0 && r < 0)
		a->error = why;
	else if (r < 0 && err)
		*err = why;
	return a->open > 0 ? 0 : r;
}

int vm_inventory_ask(struct qmp_session *session, const json_t *spec, vm_inventory_cb cb, void *data,
		     struct qmp_error *err)
{
	struct asking *a = calloc(1, sizeof *a);
	int r;

	if (!a)
		return qmp_error_errno(err, -ENOMEM, "asking QEMU what it has");
	*a = (struct asking){.session = session, .spec = json_incref((json_t *)spec), .cb = cb, .data = data};
	r = ask_all(a, vm_inventory_questions(spec), err);
	if (r < 0)
		asking_free(a);
	return r;
}

/* ---- What it says ---- */

bool vm_inventory_has(const struct vm_inventory *i, enum vm_object_kind kind, const char *id)
{
	const json_t *const maps[] = {
		[VM_OBJECT] = i->objects, [VM_BLOCKDEV] = i->nodes, [VM_NETDEV] = i->netdevs, [VM_DEVICE] = i->devices};

	return id && json_object_get(maps[kind], id);
}

/*
 * A node whose file is another one: NULL, or what QEMU has. How QEMU writes what is no file of the host depends on its options;
 * of that the driver alone is compared.
 */
static const char *other_file(const struct vm_inventory *inv, const struct vm_object *o, const char **ret_wants)
{
	const json_t *node = o->kind == VM_BLOCKDEV ? json_object_get(inv->nodes, vm_object_id(o)) : NULL;
	const char *wants = text_of(o->args, "filename"), *has = text_of(node, "file");
	const char *driver = text_of(o->args, "driver"), *its = text_of(node, "drv");

	*ret_wants = wants ? wants : driver;
	/* Of one that it was given as an fd (fdset.h) it knows no more. */
	if (wants)
		return has && !streq(wants, has) && strncmp(has, "/dev/fdset/", 11) != 0 ? has : NULL;
	return driver && its && !streq(driver, its) ? its : NULL;
}

static json_t *difference(const struct vm_inventory *inv, const struct vm_fragment *f)
{
	json_auto_t *missing = json_array();

	for (size_t i = 0; i < f->n_objects; i++) {
		const struct vm_object *o = &f->objects[i];
		const char *wants, *other = other_file(inv, o, &wants);
		if (other)
			return json_pack("{s:s, s:s, s:s, s:s}", "item", f->item, "state", "changed", "wants", wants, "has", other);
		if (!vm_inventory_has(inv, o->kind, vm_object_id(o)))
			json_array_append_new(missing, json_string(vm_object_id(o)));
	}
	if (json_array_size(missing) == 0)
		return NULL;
	return json_pack("{s:s, s:s, s:O}", "item", f->item, "state",
			 json_array_size(missing) == f->n_objects ? "gone" : "partial", "missing", missing);
}

json_t *vm_inventory_differences(const struct vm_inventory *inv, const json_t *spec, const struct vm_host *host)
{
	struct vm_fragments all;
	json_t *list;

	if (vm_fragments_all(spec, host, &all, NULL) < 0)
		return NULL;
	list = json_array();
	for (size_t i = 0; i < all.n; i++) {
		json_t *entry = difference(inv, &all.list[i]);
		if (entry)
			json_array_append_new(list, entry);
	}
	vm_fragments_deinit(&all);
	return list;
}

/* ---- What else it has ---- */

/* The ids and the names of nodes in VALUE, an object as QAPI has it. */
static void take_ids(json_t *known, const json_t *value)
{
	const char *id = text_of(value, "id"), *node = text_of(value, "node-name"), *key;
	json_t *member;

	if (id)
		json_object_set_new(known, id, json_true());
	if (node)
		json_object_set_new(known, node, json_true());
	json_object_foreach((json_t *)value, key, member)
		take_ids(known, member);
}

/* Those of a word of the command line: JSON, or "socket,id=qmp,fd=3". */
static void take_word(json_t *known, const char *word)
{
	static const char *const keys[] = {"id=", "node-name="};
	json_auto_t *object = *word == '{' ? qmp_json_decode(word, strlen(word), NULL) : NULL;

	take_ids(known, object);
	for (; !object && *word; word += *word == ',') {
		for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
			const char *value = word + strlen(keys[i]);
			if (strncmp(word, keys[i], strlen(keys[i])) == 0)
				json_object_setn_new(known, value, strcspn(value, ","), json_true());
		}
		word += strcspn(word, ",");
	}
}

static json_t *known_ids(const json_t *spec, const struct vm_host *host, const json_t *argv)
{
	struct vm_fragments all;
	json_t *known, *word;
	size_t i;

	if (vm_fragments_all(spec, host, &all, NULL) < 0)
		return NULL;
	known = json_object();
	for (i = 0; i < all.n; i++)
		for (size_t k = 0; k < all.list[i].n_objects; k++)
			take_ids(known, all.list[i].objects[k].args);
	vm_fragments_deinit(&all);
	json_array_foreach(argv, i, word)
		take_word(known, json_string_value(word));
	return known;
}

/* What QEMU makes and names by itself: nodes within nodes, the machine's memory, the other end of -serial, hubs. */
static bool is_own(const char *id)
{
	static const char *const begins[] = {"#", "compat_monitor", "serial", "parallel", "gdb", "hub"};
	size_t len = strlen(id);

	for (size_t i = 0; i < ARRAY_SIZE(begins); i++)
		if (strncmp(id, begins[i], strlen(begins[i])) == 0)
			return true;
	return len > 4 && streq(id + len - 4, ".ram");
}

/* Of an entry of the inventory: what QEMU calls its type; new; NULL where that says nothing. */
static json_t *type_in(const json_t *entry)
{
	const char *type = json_string_value(entry), *driver = text_of(entry, "drv");

	if (type && strncmp(type, "child<", 6) == 0)
		return json_stringn(type + 6, strcspn(type + 6, ">"));
	return driver ? json_string(driver) : NULL;
}

json_t *vm_inventory_others(const struct vm_inventory *inv, const json_t *spec, const struct vm_host *host, const json_t *argv)
{
	const struct {
		const char *kind;
		json_t *map;
	} all[] = {{"device", inv->devices}, {"netdev", inv->netdevs}, {"node", inv->nodes}, {"object", inv->objects},
		   {"chardev", inv->chardevs}};
	json_auto_t *known = known_ids(spec, host, argv);
	json_t *list = known ? json_array() : NULL, *entry;
	const char *id;

	for (size_t i = 0; list && i < ARRAY_SIZE(all); i++)
		json_object_foreach(all[i].map, id, entry) {
			if (!json_object_get(known, id) && !is_own(id))
				json_array_append_new(list, json_pack("{s:s, s:s, s:o*}", "kind", all[i].kind, "id", id, "type",
								      type_in(entry)));
		}
	return list;
}

/* 1: its effect is there; 0: it is not; -1: QEMU cannot be asked. */
static int is_done(const struct vm_inventory *inv, const json_t *step)
{
	enum vm_object_kind kind;
	const char *id;
	bool adds;

	if (!vm_step_object(step, &kind, &id, &adds))
		return -1;
	return vm_inventory_has(inv, kind, id) == adds;
}

/* Whether the netdev that takes the fd NAME comes after step FROM of PLAN and is still to be made. */
static bool fd_is_needed(const struct vm_inventory *inv, const json_t *plan, size_t from, const char *name)
{
	for (size_t i = from; i < json_array_size(plan); i++) {
		const json_t *step = json_array_get(plan, i);
		const char *fd = text_of(json_object_get(step, "arguments"), "fd");
		if (fd && streq(fd, name))
			return is_done(inv, step) == 0;
	}
	return false;
}

json_t *vm_inventory_left(const struct vm_inventory *inv, const json_t *plan)
{
	json_t *left = json_array(), *step;
	size_t i;

	json_array_foreach(plan, i, step)
	{
		const char *fd = text_of(step, "fd");
		if (fd ? fd_is_needed(inv, plan, i + 1, fd) : is_done(inv, step) != 1)
			json_array_append(left, step);
	}
	return left;
}

json_t *vm_inventory_skip_gone(const struct vm_inventory *inv, const json_t *plan)
{
	json_t *left = json_array(), *step;
	enum vm_object_kind kind;
	const char *id;
	bool adds;
	size_t i;

	json_array_foreach(plan, i, step)
		if (!vm_step_object(step, &kind, &id, &adds) || adds || vm_inventory_has(inv, kind, id))
			json_array_append(left, step);
	return left;
}
