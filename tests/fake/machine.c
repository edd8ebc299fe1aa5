#include "tests/fake/machine.h"
#include "proto/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DESC_SIZE 200

/* Of one command. */
struct request {
	struct machine *m;
	json_t *args;
	const char *class;
	char *desc;
};

static json_t *refuse(struct request *r, const char *class, const char *fmt, const char *what)
{
	r->class = class;
	snprintf(r->desc, DESC_SIZE, fmt, what ? what : "(nothing)");
	return NULL;
}

/* ---- Status ---- */

static json_t *query_status(struct request *r)
{
	return json_pack("{s:s, s:b, s:b}", "status", r->m->status, "singlestep", 0, "running",
			 strcmp(r->m->status, "running") == 0);
}

static void set_status(struct machine *m, const char *status, const char *event)
{
	if (strcmp(m->status, status) == 0)
		return;
	m->status = status;
	m->event(event, NULL);
}

static json_t *cont(struct request *r)
{
	set_status(r->m, "running", "RESUME");
	return json_object();
}

static json_t *stop(struct request *r)
{
	set_status(r->m, "paused", "STOP");
	return json_object();
}

void machine_toggle(struct machine *m)
{
	if (strcmp(m->status, "running") == 0)
		set_status(m, "paused", "STOP");
	else
		set_status(m, "running", "RESUME");
}

void machine_end(struct machine *m, const char *reason, bool guest)
{
	m->event("SHUTDOWN", json_pack("{s:b, s:s}", "guest", guest, "reason", reason));
	m->ends = true;
}

static json_t *quit(struct request *r)
{
	if (r->m->quits)
		machine_end(r->m, "host-qmp-quit", false);
	return json_object();
}

static json_t *system_powerdown(struct request *r)
{
	r->m->event("POWERDOWN", NULL);
	if (r->m->powers_down && strcmp(r->m->status, "running") == 0)
		machine_end(r->m, "guest-shutdown", true);
	return json_object();
}

static json_t *system_reset(struct request *r)
{
	r->m->event("RESET", json_pack("{s:b, s:s}", "guest", 0, "reason", "host-qmp-system-reset"));
	r->m->unplugs = true;
	return json_object();
}

/* ---- What plugs ---- */

static json_t *add_to(struct request *r, json_t *set, const char *key)
{
	const char *id = text_of(r->args, key);

	if (!id)
		return refuse(r, "GenericError", "Parameter '%s' is missing", key);
	if (json_object_get(set, id))
		return refuse(r, "GenericError", "Duplicate ID '%s'", id);
	json_object_set(set, id, r->args);
	return json_object();
}

/* Whether an entry of SET has ID under one of KEYS. */
static bool refers(const json_t *set, const char *const *keys, const char *id)
{
	const char *name;
	json_t *args;

	json_object_foreach((json_t *)set, name, args)
		for (const char *const *k = keys; *k; k++)
			if (text_of(args, *k) && strcmp(text_of(args, *k), id) == 0)
				return true;
	return false;
}

static json_t *blockdev_add(struct request *r)
{
	const char *file = text_of(r->args, "file");

	if (file && !json_object_get(r->m->blockdevs, file))
		return refuse(r, "GenericError", "Cannot find device='' nor node-name='%s'", file);
	return add_to(r, r->m->blockdevs, "node-name");
}

static json_t *blockdev_del(struct request *r)
{
	static const char *const drive[] = {"drive", NULL}, *const nodes[] = {"file", "backing", NULL};
	const char *id = text_of(r->args, "node-name");

	if (!id || !json_object_get(r->m->blockdevs, id))
		return refuse(r, "GenericError", "Failed to find node with node-name='%s'", id);
	if (refers(r->m->devices, drive, id) || refers(r->m->blockdevs, nodes, id))
		return refuse(r, "GenericError", "Node '%s' is busy: node is used as a child", id);
	json_object_del(r->m->blockdevs, id);
	return json_object();
}

static json_t *netdev_add(struct request *r)
{
	return add_to(r, r->m->netdevs, "id");
}

static json_t *netdev_del(struct request *r)
{
	const char *id = text_of(r->args, "id");

	if (!id || json_object_del(r->m->netdevs, id) < 0)
		return refuse(r, "DeviceNotFound", "Device '%s' not found", id);
	return json_object();
}

static json_t *object_add(struct request *r)
{
	return add_to(r, r->m->objects, "id");
}

static json_t *object_del(struct request *r)
{
	const char *id = text_of(r->args, "id");

	if (!id || json_object_del(r->m->objects, id) < 0)
		return refuse(r, "GenericError", "object '%s' not found", id);
	return json_object();
}

/* One device a root port; pcie.0 takes them all. */
static bool port_is_taken(const struct machine *m, const char *bus)
{
	static const char *const key[] = {"bus", NULL};
	const char *driver = bus ? text_of(json_object_get(m->devices, bus), "driver") : NULL;

	return driver && strcmp(driver, "pcie-root-port") == 0 && refers(m->devices, key, bus);
}

static json_t *device_add(struct request *r)
{
	const char *drive = text_of(r->args, "drive"), *netdev = text_of(r->args, "netdev"), *bus = text_of(r->args, "bus");

	if (drive && !json_object_get(r->m->blockdevs, drive))
		return refuse(r, "GenericError", "Property 'virtio-blk-device.drive' can't find value '%s'", drive);
	if (netdev && !json_object_get(r->m->netdevs, netdev))
		return refuse(r, "GenericError", "Property 'virtio-net-device.netdev' can't find value '%s'", netdev);
	if (port_is_taken(r->m, bus))
		return refuse(r, "GenericError", "PCI: slot 0 function 0 already occupied on %s", bus);
	return add_to(r, r->m->devices, "id");
}

static json_t *device_del(struct request *r)
{
	const char *id = text_of(r->args, "id");

	if (!id || !json_object_get(r->m->devices, id))
		return refuse(r, "DeviceNotFound", "Device '%s' not found", id);
	if (json_object_get(r->m->unplugging, id))
		return refuse(r, "GenericError", "Device %s is already in the process of unplug", id);
	json_object_set_new(r->m->unplugging, id, json_true());
	return json_object();
}

/* A virtio device tells twice, first of its inner half, which has no id. */
static void let_go(struct machine *m, const char *id)
{
	char path[128];

	snprintf(path, sizeof path, "/machine/peripheral/%s/virtio-backend", id);
	m->event("DEVICE_DELETED", json_pack("{s:s}", "path", path));
	snprintf(path, sizeof path, "/machine/peripheral/%s", id);
	json_object_del(m->devices, id);
	m->event("DEVICE_DELETED", json_pack("{s:s, s:s}", "device", id, "path", path));
}

void machine_let_go(struct machine *m)
{
	const char *id;
	json_t *asked;
	void *next;

	json_object_foreach_safe(m->unplugging, next, id, asked) {
		let_go(m, id);
		json_object_del(m->unplugging, id);
	}
}

void machine_settle(struct machine *m)
{
	if (m->unplugs && strcmp(m->status, "running") == 0)
		machine_let_go(m);
}

/* ---- Looking ---- */

static json_t *query_named_block_nodes(struct request *r)
{
	json_t *list = json_array(), *args;
	const char *name;

	json_object_foreach(r->m->blockdevs, name, args)
		json_array_append_new(list, json_pack("{s:s, s:O, s:b, s:s}", "node-name", name, "drv",
						      json_object_get(args, "driver"), "ro", 0, "file",
						      text_of(args, "filename") ? text_of(args, "filename") : ""));
	return list;
}

static json_t *query_block(struct request *r)
{
	json_t *list = json_array(), *args;
	const char *id;
	char path[128];

	json_object_foreach(r->m->devices, id, args) {
		if (!json_object_get(args, "drive"))
			continue;
		snprintf(path, sizeof path, "/machine/peripheral/%s/virtio-backend", id);
		json_array_append_new(list, json_pack("{s:s, s:s, s:b, s:b, s:s, s:{s:O}}", "device", "", "qdev", path,
						      "removable", 0, "locked", 0, "type", "unknown", "inserted", "node-name",
						      json_object_get(args, "drive")));
	}
	return list;
}

static void list_children(json_t *list, const json_t *set, const char *key)
{
	const char *id;
	json_t *args;
	char type[96];

	json_object_foreach((json_t *)set, id, args) {
		snprintf(type, sizeof type, "child<%s>", text_of(args, key) ? text_of(args, key) : "container");
		json_array_append_new(list, json_pack("{s:s, s:s}", "name", id, "type", type));
	}
}

static json_t *qom_list(struct request *r)
{
	const char *path = text_of(r->args, "path");
	json_t *list = json_pack("[{s:s, s:s}]", "name", "type", "type", "string");

	if (path && strcmp(path, "/machine/peripheral") == 0)
		list_children(list, r->m->devices, "driver");
	else if (path && strcmp(path, "/objects") == 0)
		list_children(list, r->m->objects, "qom-type");
	return list;
}

static json_t *qom_get(struct request *r)
{
	static const char peripheral[] = "/machine/peripheral/";
	const char *path = text_of(r->args, "path"), *property = text_of(r->args, "property");

	if (!path || strncmp(path, peripheral, sizeof peripheral - 1) != 0 ||
	    !json_object_get(r->m->devices, path + sizeof peripheral - 1))
		return refuse(r, "DeviceNotFound", "Device '%s' not found", path);
	if (!property || strcmp(property, "hotpluggable") != 0)
		return refuse(r, "GenericError", "Property '%s' not found", property);
	return json_true();
}

static json_t *query_cpus(struct request *r)
{
	(void)r;
	return json_pack("[{s:i, s:s, s:i, s:s}]", "cpu-index", 0, "qom-path", "/machine/unattached/device[0]", "thread-id", 1,
			 "target", "x86_64");
}

static json_t *query_machines(struct request *r)
{
	(void)r;
	return json_pack("[{s:s, s:s, s:i}, {s:s, s:s, s:i}, {s:s, s:i}]", "name", "pc-q35-7.2", "alias", "q35", "cpu-max", 288,
			 "name", "pc-i440fx-7.2", "alias", "pc", "cpu-max", 255, "name", "none", "cpu-max", 1);
}

/* Of the human monitor, what tells of netdevs. */
static json_t *human_monitor_command(struct request *r)
{
	const char *line = text_of(r->args, "command-line"), *id;
	json_t *args, *text;
	char *joined = strdup("");

	json_object_foreach(r->m->netdevs, id, args) {
		size_t size = strlen(joined) + strlen(id) + 64;
		char *more = malloc(size);
		if (!line || strcmp(line, "info network") != 0)
			break;
		snprintf(more, size, "%s%s: index=0,type=%s,fake\r\n", joined, id, text_of(args, "type"));
		free(joined);
		joined = more;
	}
	text = json_string(joined);
	free(joined);
	return text;
}

static json_t *query_version(struct request *r)
{
	(void)r;
	return json_pack("{s:{s:i, s:i, s:i}, s:s}", "qemu", "major", 7, "minor", 2, "micro", 0, "package", "fake_qemu");
}

static json_t *query_name(struct request *r)
{
	return json_pack("{s:s}", "name", r->m->name);
}

static json_t *query_uuid(struct request *r)
{
	return json_pack("{s:s}", "UUID", r->m->uuid);
}

static json_t *query_kvm(struct request *r)
{
	(void)r;
	return json_pack("{s:b, s:b}", "enabled", 0, "present", 0);
}

static json_t *nothing(struct request *r)
{
	(void)r;
	return json_object();
}

static json_t *empty_list(struct request *r)
{
	(void)r;
	return json_array();
}

static json_t *query_commands(struct request *r);

static const struct {
	const char *name;
	json_t *(*run)(struct request *r);
} commands[] = {
	{"query-status", query_status},
	{"query-cpus-fast", query_cpus},
	{"query-machines", query_machines},
	{"query-version", query_version},
	{"query-name", query_name},
	{"query-uuid", query_uuid},
	{"query-kvm", query_kvm},
	{"query-named-block-nodes", query_named_block_nodes},
	{"query-block", query_block},
	{"query-block-jobs", empty_list},
	{"query-jobs", empty_list},
	{"query-chardev", empty_list},
	{"query-pci", empty_list},
	{"query-migrate", nothing},
	{"query-commands", query_commands},
	{"human-monitor-command", human_monitor_command},
	{"qom-list", qom_list},
	{"qom-get", qom_get},
	{"qom-set", nothing},
	{"cont", cont},
	{"stop", stop},
	{"quit", quit},
	{"system_powerdown", system_powerdown},
	{"system_reset", system_reset},
	{"set-action", nothing},
	{"blockdev-add", blockdev_add},
	{"blockdev-del", blockdev_del},
	{"netdev_add", netdev_add},
	{"netdev_del", netdev_del},
	{"object-add", object_add},
	{"object-del", object_del},
	{"device_add", device_add},
	{"device_del", device_del},
	{"getfd", nothing},
	{"closefd", nothing},
};

static json_t *query_commands(struct request *r)
{
	json_t *list = json_array();

	(void)r;
	for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
		json_array_append_new(list, json_pack("{s:s}", "name", commands[i].name));
	return list;
}

json_t *machine_run(struct machine *m, const char *command, json_t *arguments, const char **ret_class, char *desc)
{
	struct request r = {m, arguments, NULL, desc};
	json_t *value = NULL;
	size_t i;

	for (i = 0; i < sizeof commands / sizeof *commands && strcmp(commands[i].name, command) != 0; i++)
		;
	if (i < sizeof commands / sizeof *commands)
		value = commands[i].run(&r);
	else
		refuse(&r, "CommandNotFound", "The command %s has not been found", command);
	*ret_class = r.class;
	return value;
}

/* ---- The command line ---- */

bool machine_take_option(struct machine *m, const char *option, const char *value)
{
	struct {
		const char *option, *key;
		json_t *set;
	} const options[] = {{"-object", "id", m->objects},
			     {"-blockdev", "node-name", m->blockdevs},
			     {"-netdev", "id", m->netdevs},
			     {"-device", "id", m->devices}};

	for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
		json_t *args;
		if (strcmp(options[i].option, option) != 0)
			continue;
		args = json_loads(value, 0, NULL);
		if (text_of(args, options[i].key))
			json_object_set(options[i].set, text_of(args, options[i].key), args);
		json_decref(args);
		return true;
	}
	return false;
}

void machine_init(struct machine *m)
{
	*m = (struct machine){
		.blockdevs = json_object(),
		.netdevs = json_object(),
		.devices = json_object(),
		.objects = json_object(),
		.unplugging = json_object(),
		.name = "",
		.uuid = "",
		.status = "running",
		.unplugs = true,
		.powers_down = true,
		.quits = true,
	};
}
