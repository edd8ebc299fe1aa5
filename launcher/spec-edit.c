/*
 * What is written into a spec: what is chosen once and then kept, and values by their paths.
 */
#include "launcher/spec.h"
#include "launcher/table.h"
#include "proto/base.h"

#include <ctype.h>
#include <stdio.h>
#include <sys/random.h>

/* ---- What is chosen once ---- */

static void random_bytes(unsigned char *to, size_t n)
{
	if (getrandom(to, n, 0) != (ssize_t)n)
		abort(); /* a kernel without randomness: nothing made now could be told apart later */
}

static json_t *new_uuid(void)
{
	unsigned char b[16];
	char text[37];

	random_bytes(b, sizeof b);
	b[6] = (unsigned char)((b[6] & 0x0f) | 0x40);
	b[8] = (unsigned char)((b[8] & 0x3f) | 0x80);
	snprintf(text, sizeof text, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
		 b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
	return json_string(text);
}

static json_t *new_mac(void)
{
	unsigned char b[3];
	char text[18];

	random_bytes(b, sizeof b);
	snprintf(text, sizeof text, "52:54:00:%02x:%02x:%02x", b[0], b[1], b[2]);
	return json_string(text);
}

static const char *id_prefix(const char *kind, const json_t *item)
{
	const char *bus = text_of(item, "bus"), *type = text_of(item, "type");

	if (streq(kind, "nics"))
		return "net";
	if (streq(kind, "consoles"))
		return "con";
	if (type && streq(type, "cdrom"))
		return "cd";
	if (bus && streq(bus, "nvme"))
		return "nvme";
	return bus && !streq(bus, "virtio") ? "sd" : "vd";
}

/* vda ... vdz, vd26 ...; net0 ... */
static json_t *new_id(const json_t *spec, const char *kind, const json_t *item)
{
	const char *prefix = id_prefix(kind, item);
	bool letters = strlen(prefix) == 2 && prefix[1] == 'd' && prefix[0] != 'c';
	char id[VM_ID_MAX + 1];

	for (int i = 0;; i++) {
		if (letters && i < 26)
			snprintf(id, sizeof id, "%s%c", prefix, 'a' + i);
		else
			snprintf(id, sizeof id, "%s%d", prefix, i);
		if (!vm_spec_find(spec, "disks", id) && !vm_spec_find(spec, "nics", id) &&
		    !vm_spec_find(spec, "consoles", id))
			return json_string(id);
	}
}

static bool port_taken(const json_t *spec, json_int_t port)
{
	static const char *const kinds[] = {"disks", "nics"};
	json_t *item;
	size_t i;

	if (json_integer_value(json_object_get(spec, "scsi-port")) == port)
		return true;
	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++)
		json_array_foreach(json_object_get(spec, kinds[k]), i, item)
			if (json_integer_value(json_object_get(item, "port")) == port)
				return true;
	return false;
}

static int new_port(const json_t *spec, const json_t *taken, json_t *owner, const char *key, struct qmp_error *err)
{
	json_int_t ports = vm_spec_ports(spec), port, others = 0;

	if (json_object_get(owner, key))
		return 0;
	for (port = 1; port <= ports; port++) {
		char name[24];
		snprintf(name, sizeof name, "%lld", (long long)port);
		if (port_taken(spec, port))
			continue;
		if (!json_object_get(taken, name))
			return json_object_set_new(owner, key, json_integer(port)) < 0 ? -ENOMEM : 1;
		others++;
	}
	return qmp_error_set(err, QMP_ERR_LIMIT, -ENOSPC,
			     "no free PCI port: the machine has %lld, %lld taken by the spec and %lld by devices that QEMU has "
			     "besides; set machine.ports higher (%lld at most on this machine; it counts from the next start), "
			     "or put disks on the bus scsi, which share one port",
			     (long long)ports, (long long)(ports - others), (long long)others, (long long)vm_spec_ports_max(spec));
}

static int complete_item(json_t *spec, const json_t *taken, const char *kind, json_t *item, struct qmp_error *err)
{
	const char *bus = text_of(item, "bus"), *type = text_of(item, "type");
	bool disk = streq(kind, "disks"), cdrom = type && streq(type, "cdrom");
	int changed = 0, r = 0;

	if (!text_of(item, "id"))
		changed = json_object_set_new(item, "id", new_id(spec, kind, item)) == 0;
	if (streq(kind, "nics") && !text_of(item, "mac"))
		changed = json_object_set_new(item, "mac", new_mac()) == 0;
	if (streq(kind, "nics") || (disk && !cdrom && (!bus || streq(bus, "virtio") || streq(bus, "nvme"))))
		r = new_port(spec, taken, item, "port", err);
	else if (disk && bus && streq(bus, "scsi"))
		r = new_port(spec, taken, spec, "scsi-port", err);
	return r < 0 ? r : r || changed;
}

/* Of a seed whose meta-data is ours to make. */
static int complete_seed(json_t *seed)
{
	json_auto_t *uuid = NULL;

	if (!seed || json_object_get(seed, "instance-id") || json_object_get(seed, "meta-data") ||
	    json_object_get(seed, "url") || json_object_get(seed, "ignition"))
		return 0;
	uuid = new_uuid();
	return json_object_set_new(seed, "instance-id", json_sprintf("iid-%.13s", json_string_value(uuid))) == 0;
}

int vm_spec_complete_beside(json_t *spec, const json_t *taken, struct qmp_error *err)
{
	static const char *const kinds[] = {"disks", "nics", "consoles"};
	int changed = 0, r;
	json_t *item;
	size_t i;

	if (!text_of(spec, "uuid"))
		changed = json_object_set_new(spec, "uuid", new_uuid()) == 0;
	changed |= complete_seed(json_object_get(spec, "seed"));
	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++)
		json_array_foreach(json_object_get(spec, kinds[k]), i, item)
		{
			r = complete_item(spec, taken, kinds[k], item, err);
			if (r < 0)
				return r;
			changed |= r;
		}
	return changed;
}

int vm_spec_complete(json_t *spec, struct qmp_error *err)
{
	return vm_spec_complete_beside(spec, NULL, err);
}

/* ---- Editing ---- */

json_t *vm_spec_find(const json_t *spec, const char *kind, const char *id)
{
	json_t *item;
	size_t i;

	json_array_foreach(json_object_get(spec, kind), i, item)
	{
		const char *have = text_of(item, "id");
		if (have && streq(have, id))
			return item;
	}
	return NULL;
}

int vm_spec_remove(json_t *spec, const char *kind, const char *id)
{
	json_t *list = json_object_get(spec, kind), *item;
	size_t i;

	json_array_foreach(list, i, item)
	{
		const char *have = text_of(item, "id");
		if (have && streq(have, id))
			return json_array_remove(list, i);
	}
	return -ENOENT;
}

/* TEXT as the type of field F wants it; a string where it is not JSON of that type. */
static json_t *value_from_text(const struct vm_field *f, const char *text)
{
	bool plain = f->type != VM_T_INT && f->type != VM_T_BOOL && f->type < VM_T_OBJECT;
	json_t *value = plain ? NULL : qmp_json_decode(text, strlen(text), NULL);

	return value ? value : json_string(text);
}

/* What one step of a path leads to: "disks", "[vda]", "[0]"; NULL where it leads nowhere. */
static json_t *descend(json_t *at, const char *segment, bool is_index)
{
	json_t *item;
	size_t i;

	if (!is_index)
		return json_object_get(at, segment);
	json_array_foreach(at, i, item)
	{
		const char *id = text_of(item, "id");
		if (id && streq(id, segment))
			return item;
	}
	if (*segment && strspn(segment, "0123456789") == strlen(segment))
		return json_array_get(at, (size_t)atol(segment));
	return NULL;
}

static int refuse_path(const char *path, const struct vm_field *table, const char *segment, struct qmp_error *err)
{
	struct vm_check c = {.err = err};

	if (table)
		return vm_refuse_key(&c, path, table, segment);
	return vm_refuse(&c, path, "nothing is there named \"%s\"", segment);
}

/* The object that set() made first on its way down, and where. */
struct made {
	json_t *in; /* NULL: none */
	char name[64];
};

static json_t *make_below(json_t *at, const char *segment, struct made *made)
{
	json_t *below = json_object();

	if (json_object_set_new(at, segment, below) < 0)
		return NULL;
	if (!made->in) {
		made->in = at;
		snprintf(made->name, sizeof made->name, "%s", segment);
	}
	return below;
}

static int set_member(json_t *at, const struct vm_field *f, const char *path, const char *text, struct qmp_error *err)
{
	if (!text) {
		json_object_del(at, f->name);
		return 0;
	}
	if (json_object_set_new(at, f->name, value_from_text(f, text)) < 0)
		return vm_refuse(&(struct vm_check){.err = err}, path, "the value is not UTF-8");
	return 0;
}

static int set(json_t *spec, const char *path, const char *text, struct made *made, struct qmp_error *err)
{
	const struct vm_field *table = vm_spec_fields, *f = NULL;
	const char *p = path;
	json_t *at = spec;

	for (;;) {
		bool bracket = *p == '[', is_index = bracket || (*p == '.' && json_is_array(at));
		char segment[sizeof made->name];
		size_t n;
		json_t *below;

		p += is_index || *p == '.';
		n = strcspn(p, ".[]");
		if (n == 0 || n >= sizeof segment)
			return vm_refuse(&(struct vm_check){.err = err}, path, "is no path such as cpu.count or disks[vda].cache");
		memcpy(segment, p, n);
		segment[n] = '\0';
		p += n + (bracket && p[n] == ']');
		if (!is_index) {
			f = table ? vm_find_field(table, segment) : NULL;
			if (!f)
				return refuse_path(path, table, segment, err);
			table = f->recursive ? table : f->fields;
		}
		if (!*p && !is_index)
			return set_member(at, f, path, text, err);
		below = descend(at, segment, is_index);
		if (!below && !is_index && f->type == VM_T_OBJECT)
			below = make_below(at, segment, made);
		if (!below || (!*p && is_index))
			return refuse_path(path, NULL, segment, err);
		at = below;
	}
}

int vm_spec_set(json_t *spec, const char *path, const char *text, struct qmp_error *err)
{
	struct made made = {0};
	int r = set(spec, path, text, &made, err);

	if (made.in && (r < 0 || !text))
		json_object_del(made.in, made.name);
	return r;
}
