/*
 * Checking, defaults and editing of a spec, all by the table in spec-table.c.
 */
#include "launcher/spec.h"
#include "launcher/spec-table.h"
#include "proto/base.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <strings.h>
#include <sys/random.h>

/* DEFAULT_PORTS and PORTS_MAX as in the table. */
enum { DEFAULT_PORTS = 16, PC_PORTS = 16, PORTS_MAX = 64 };

struct check {
	const char *text; /* NULL: no lines */
	size_t len;
	const char *source;
	struct qmp_error *err;
};

/* ---- Where in the text a path stands: only on the way to an error ---- */

struct cursor {
	const char *p, *end;
};

static void skip_space(struct cursor *c)
{
	while (c->p < c->end && isspace((unsigned char)*c->p))
		c->p++;
}

static void skip_string(struct cursor *c)
{
	for (c->p++; c->p < c->end && *c->p != '"'; c->p++)
		if (*c->p == '\\')
			c->p++;
	c->p++;
}

static void skip_value(struct cursor *c)
{
	int depth = 0;

	skip_space(c);
	while (c->p < c->end) {
		char ch = *c->p;
		if (ch == '"') {
			skip_string(c);
			if (depth == 0)
				return;
			continue;
		}
		if (depth == 0 && (ch == ',' || ch == '}' || ch == ']'))
			return;
		depth += (ch == '{' || ch == '[') - (ch == '}' || ch == ']');
		c->p++;
		if (depth == 0 && (ch == '}' || ch == ']'))
			return;
	}
}

/* Moves C into the member or element that SEGMENT names. The text is valid JSON. */
static bool enter(struct cursor *c, const char *segment, size_t n, bool is_index)
{
	long index = is_index ? strtol(segment, NULL, 10) : 0;

	skip_space(c);
	if (c->p >= c->end || *c->p != (is_index ? '[' : '{'))
		return false;
	c->p++;
	for (long i = 0;; i++) {
		const char *key;
		skip_space(c);
		if (c->p >= c->end || *c->p == '}' || *c->p == ']')
			return false;
		key = c->p;
		if (!is_index) {
			size_t key_len;
			skip_string(c);
			key_len = (size_t)(c->p - key);
			skip_space(c);
			c->p++; /* : */
			skip_space(c);
			if (key_len == n + 2 && memcmp(key + 1, segment, n) == 0)
				return true;
		} else if (i == index) {
			return true;
		}
		skip_value(c);
		skip_space(c);
		if (c->p < c->end && *c->p == ',')
			c->p++;
	}
}

static int line_of(const struct check *c, const char *path)
{
	struct cursor at = {c->text, c->text + c->len};
	int line = 1;

	while (*path) {
		bool is_index = *path == '[';
		size_t n;
		path += is_index || *path == '.';
		n = strcspn(path, ".[]");
		if (!enter(&at, path, n, is_index))
			break;
		path += n + (is_index && path[n] == ']');
	}
	for (const char *p = c->text; p < at.p && p < at.end; p++)
		line += *p == '\n';
	return line;
}

static int refuse(const struct check *c, const char *path, const char *fmt, ...) _printf_(3, 4);
static int refuse(const struct check *c, const char *path, const char *fmt, ...)
{
	char what[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof what, fmt, ap);
	va_end(ap);
	if (c->text)
		return qmp_error_set(c->err, QMP_ERR_USAGE, -EINVAL, "%s:%d: %s: %s", c->source, line_of(c, path),
				     *path ? path : "the spec", what);
	return qmp_error_set(c->err, QMP_ERR_USAGE, -EINVAL, "%s: %s", *path ? path : "the spec", what);
}

/* ---- Single values ---- */

bool vm_name_valid(const char *name)
{
	size_t n = strlen(name);

	if (n == 0 || n > VM_NAME_MAX || !isalnum((unsigned char)name[0]))
		return false;
	return strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == n;
}

bool vm_id_valid(const char *id)
{
	size_t n = strlen(id);

	return n > 0 && n <= VM_ID_MAX && id[0] >= 'a' && id[0] <= 'z' &&
	       strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789_") == n;
}

int vm_size_parse(const json_t *value, uint64_t *ret)
{
	static const char units[] = "KMGT";
	const char *text = json_string_value(value), *unit;
	unsigned long long n;
	char *end;
	int shift;

	if (json_is_integer(value)) {
		if (json_integer_value(value) < 0)
			return -EINVAL;
		*ret = (uint64_t)json_integer_value(value);
		return 0;
	}
	if (!text || !isdigit((unsigned char)*text))
		return -EINVAL;
	errno = 0;
	n = strtoull(text, &end, 10);
	unit = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
	if (errno || !unit || !(end[1] == '\0' || streq(end + 1, "iB")))
		return -EINVAL;
	shift = 10 * (int)(unit - units + 1);
	if (n > (UINT64_MAX >> shift))
		return -ERANGE;
	*ret = (uint64_t)n << shift;
	return 0;
}

static bool hex_pattern(const char *text, const char *pattern)
{
	for (; *pattern; pattern++, text++)
		if (*pattern == 'x' ? !isxdigit((unsigned char)*text) : *text != *pattern)
			return false;
	return *text == '\0';
}

static const char *join(const char *const *choices, char *out, size_t size)
{
	size_t n = 0;

	out[0] = '\0';
	for (; *choices && n < size; choices++)
		n += (size_t)snprintf(out + n, size - n, "%s%s", n ? ", " : "", *choices);
	return out;
}

static int check_choice(const struct check *c, const char *path, const char *text, const char *const *choices)
{
	char list[400];
	const char *near;

	for (const char *const *p = choices; *p; p++)
		if (streq(*p, text))
			return 0;
	near = qmp_nearest(text, choices);
	return refuse(c, path, "unknown value \"%s\"; one of %s%s%s%s", text, join(choices, list, sizeof list),
		      near ? " (did you mean " : "", near ? near : "", near ? "?)" : "");
}

static int check_size(const struct check *c, const char *path, const struct vm_field *f, const json_t *value)
{
	uint64_t bytes;
	const char *text = json_string_value(value);

	if (vm_size_parse(value, &bytes) < 0) {
		if (text && *text && strspn(text, "0123456789") == strlen(text))
			return refuse(c, path, "\"%s\" has no unit; write \"%sM\" or \"%sG\"", text, text, text);
		return refuse(c, path, "%s%s%sa size is a number with K, M, G or T (\"512M\") or an integer of bytes",
			      text ? "\"" : "", text ? text : "", text ? "\" is none: " : "");
	}
	if (f->max && (bytes < (uint64_t)f->min || bytes > (uint64_t)f->max))
		return refuse(c, path, "%llu bytes is out of range (%lld to %lld); write a unit, as in \"512M\"",
			      (unsigned long long)bytes, (long long)f->min, (long long)f->max);
	return 0;
}

static int check_string(const struct check *c, const char *path, const struct vm_field *f, const json_t *value)
{
	const char *text = json_string_value(value);

	if (!text)
		return refuse(c, path, "must be a string");
	if (strlen(text) != json_string_length(value))
		return refuse(c, path, "must not hold a NUL character");
	switch (f->type) {
	case VM_T_CHOICE:
		return check_choice(c, path, text, f->choices);
	case VM_T_PATH:
		return *text == '/' ? 0 : refuse(c, path, "\"%s\" must be an absolute path", text);
	case VM_T_NAME:
		return vm_name_valid(text) ? 0
					   : refuse(c, path,
						    "\"%s\" is no name: letters, digits, . _ - (64 at most), a letter or "
						    "digit first",
						    text);
	case VM_T_ID:
		return vm_id_valid(text)
			       ? 0
			       : refuse(c, path,
					"\"%s\" is no id: a small letter, then small letters, digits, _ (16 at most)", text);
	case VM_T_MAC:
		if (!hex_pattern(text, "xx:xx:xx:xx:xx:xx"))
			return refuse(c, path, "\"%s\" is no MAC address such as 52:54:00:12:34:56", text);
		if (strtol((char[]){text[0], text[1], 0}, NULL, 16) & 1)
			return refuse(c, path, "\"%s\" is a multicast address", text);
		return 0;
	case VM_T_UUID:
		return hex_pattern(text, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx")
			       ? 0
			       : refuse(c, path, "\"%s\" is no UUID", text);
	case VM_T_MACHINE:
		if (streq(text, "q35") || streq(text, "pc") || strncmp(text, "pc-q35-", 7) == 0 ||
		    strncmp(text, "pc-i440fx-", 10) == 0)
			return strchr(text, ',') ? refuse(c, path, "must not hold a comma") : 0;
		return refuse(c, path, "unknown machine \"%s\"; q35, pc, or a versioned pc-q35-* or pc-i440fx-*", text);
	default:
		return 0;
	}
}

static int check_int(const struct check *c, const char *path, const struct vm_field *f, const json_t *value)
{
	json_int_t n = json_integer_value(value);

	if (!json_is_integer(value))
		return refuse(c, path, "must be an integer");
	if ((f->min || f->max) && (n < f->min || n > f->max))
		return refuse(c, path, "%lld is out of range (%lld to %lld)", (long long)n, (long long)f->min,
			      (long long)f->max);
	return 0;
}

/* ---- Objects and lists ---- */

static int check_field(const struct check *c, const char *path, const struct vm_field *f,
		       const struct vm_field *table, const json_t *value);

static const struct vm_field *find_field(const struct vm_field *table, const char *name)
{
	for (; table->name; table++)
		if (streq(table->name, name))
			return table;
	return NULL;
}

/* inf and nan: QEMU writes them, and they are read as {"$number": ...} (qmp.h); as input they are none. */
static bool holds_no_number(const json_t *value)
{
	const char *number = text_of(value, "$number"), *key;
	json_t *member;
	size_t i;

	if (number)
		return strpbrk(number, "nN") != NULL;
	json_object_foreach((json_t *)value, key, member)
		if (holds_no_number(member))
			return true;
	json_array_foreach(value, i, member)
		if (holds_no_number(member))
			return true;
	return false;
}

static int refuse_key(const struct check *c, const char *path, const struct vm_field *table, const char *key)
{
	const char *names[64];
	char list[700];
	size_t n = 0;
	const char *near;

	for (const struct vm_field *f = table; f->name && n < ARRAY_SIZE(names) - 1; f++)
		names[n++] = f->name;
	names[n] = NULL;
	near = qmp_nearest(key, names);
	if (near)
		return refuse(c, path, "unknown field; did you mean \"%s\"?", near);
	return refuse(c, path, "unknown field; known are %s", join(names, list, sizeof list));
}

static int check_object(const struct check *c, const char *path, const struct vm_field *table, const json_t *value)
{
	char below[256];
	const char *key;
	json_t *member;

	if (!json_is_object(value))
		return refuse(c, path, "must be an object");
	json_object_foreach((json_t *)value, key, member)
	{
		const struct vm_field *f = find_field(table, key);
		int r;
		snprintf(below, sizeof below, "%s%s%s", path, *path ? "." : "", key);
		r = f ? check_field(c, below, f, table, member) : refuse_key(c, below, table, key);
		if (r < 0)
			return r;
	}
	for (; table->name; table++)
		if (table->required && !json_object_get(value, table->name))
			return refuse(c, path, "\"%s\" is missing: %s", table->name, table->summary);
	return 0;
}

static int check_list(const struct check *c, const char *path, const struct vm_field *f, const json_t *value)
{
	char below[256];
	json_t *item;
	size_t i;

	if (!json_is_array(value))
		return refuse(c, path, "must be a list");
	json_array_foreach(value, i, item)
	{
		int r;
		snprintf(below, sizeof below, "%s[%zu]", path, i);
		if (f->type == VM_T_LIST)
			r = check_object(c, below, f->fields, item);
		else if (!json_is_string(item) || strlen(json_string_value(item)) != json_string_length(item))
			r = refuse(c, below, "must be a string without NUL");
		else
			r = f->choices ? check_choice(c, below, json_string_value(item), f->choices) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

static int check_field(const struct check *c, const char *path, const struct vm_field *f,
		       const struct vm_field *table, const json_t *value)
{
	switch (f->type) {
	case VM_T_INT:
		return check_int(c, path, f, value);
	case VM_T_BOOL:
		return json_is_boolean(value) ? 0 : refuse(c, path, "must be true or false");
	case VM_T_SIZE:
		return check_size(c, path, f, value);
	case VM_T_OBJECT:
		return check_object(c, path, f->recursive ? table : f->fields, value);
	case VM_T_RAW:
		if (!json_is_object(value))
			return refuse(c, path, "must be an object");
		return holds_no_number(value) ? refuse(c, path, "holds inf or nan, which are no JSON numbers") : 0;
	case VM_T_LIST:
	case VM_T_STRINGS:
		return check_list(c, path, f, value);
	default:
		return check_string(c, path, f, value);
	}
}

/* ---- What the table cannot say: rules between fields ---- */

/* Limits that QEMU would refuse (util/throttle.c, throttle_is_valid). */
static int check_throttle(const struct check *c, const char *path, const json_t *limits)
{
	static const char *const kinds[] = {"bps", "iops"}, *const ways[] = {"total", "read", "write"};
	char key[32], max[32], at[128];

	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++)
		for (size_t w = 0; w < ARRAY_SIZE(ways); w++) {
			const json_t *burst, *base;
			snprintf(key, sizeof key, "%s-%s", kinds[k], ways[w]);
			snprintf(max, sizeof max, "%s-%s-max", kinds[k], ways[w]);
			burst = json_object_get(limits, max);
			base = json_object_get(limits, key);
			snprintf(at, sizeof at, "%s.throttle.%s", path, burst ? max : key);
			if (burst && json_integer_value(burst) < json_integer_value(base))
				return refuse(c, at, "is lower than %s", key);
			if (burst && !base)
				return refuse(c, at, "needs %s beside it", key);
			snprintf(max, sizeof max, "%s-total", kinds[k]);
			if (base && w > 0 && json_object_get(limits, max))
				return refuse(c, at, "%s stands beside it: limit the total, or reading and writing", max);
		}
	return 0;
}

bool vm_format_has_backing(const char *format)
{
	return streq(format, "qcow2") || streq(format, "qcow") || streq(format, "qed") || streq(format, "vmdk");
}

/* ITEM, and each image below it: one that names a backing image must be of a format that can have one. */
static int check_backing(const struct check *c, const char *path, const json_t *item)
{
	char at[256];

	snprintf(at, sizeof at, "%s", path);
	for (const json_t *below; (below = json_object_get(item, "backing")); item = below) {
		size_t n = strlen(at);
		const char *format = text_of(item, "format");
		snprintf(at + n, sizeof at - n, ".backing");
		if (!format)
			return refuse(c, at, "an empty drive has no backing image");
		if (!vm_format_has_backing(format))
			return refuse(c, at, "an image of the format \"%s\" has no backing image", format);
	}
	return 0;
}

/* The ids of QEMU's objects are derived from the spec's: that is how they are found again. */
static int check_raw(const struct check *c, const char *path, const json_t *item)
{
	static const char *const ours[] = {"id", "node-name"};
	const char *role;
	json_t *raw;
	char at[256];

	json_object_foreach(json_object_get(item, "qemu"), role, raw)
		for (size_t i = 0; i < ARRAY_SIZE(ours); i++) {
			snprintf(at, sizeof at, "%s.qemu.%s.%s", path, role, ours[i]);
			if (json_object_get(raw, ours[i]))
				return refuse(c, at, "is derived from the item's own id and cannot be set");
		}
	return 0;
}

static int check_bus(const struct check *c, const char *path, const json_t *disk)
{
	const char *type = text_of(disk, "type"), *bus = text_of(disk, "bus");
	bool cdrom = type && streq(type, "cdrom"), ide = bus && (streq(bus, "sata") || streq(bus, "ide"));

	if (cdrom && bus && (streq(bus, "virtio") || streq(bus, "nvme")))
		return refuse(c, path, "a CD-ROM cannot be on the bus \"%s\"; sata, ide or scsi", bus);
	if (json_is_true(json_object_get(disk, "iothread")) && (cdrom || (bus && !streq(bus, "virtio"))))
		return refuse(c, path, "only a virtio disk can have an iothread");
	if (json_is_true(json_object_get(disk, "read-only")) && !cdrom && ide)
		return refuse(c, path, "a disk on the bus \"%s\" cannot be read-only; use virtio, scsi or nvme", bus);
	return 0;
}

static int check_disk(const struct check *c, const char *path, const json_t *disk)
{
	const char *type = text_of(disk, "type"), *cache = text_of(disk, "cache"), *aio = text_of(disk, "aio");
	const char *zeroes = text_of(disk, "detect-zeroes"), *discard = text_of(disk, "discard");
	int r;

	if (!(type && streq(type, "cdrom")) && !text_of(disk, "path"))
		return refuse(c, path, "\"path\" is missing: a disk needs an image or block device");
	if (text_of(disk, "path") && !text_of(disk, "format"))
		return refuse(c, path, "\"format\" is missing; it is never guessed: write \"raw\", \"qcow2\", ...");
	if (aio && streq(aio, "native") && !(cache && (streq(cache, "none") || streq(cache, "directsync"))))
		return refuse(c, path, "aio \"native\" needs cache \"none\" or \"directsync\"");
	if (zeroes && streq(zeroes, "unmap") && discard && streq(discard, "ignore"))
		return refuse(c, path, "detect-zeroes \"unmap\" needs discard \"unmap\"");
	if ((r = check_bus(c, path, disk)) < 0 || (r = check_backing(c, path, disk)) < 0 ||
	    (r = check_raw(c, path, disk)) < 0)
		return r;
	return check_throttle(c, path, json_object_get(disk, "throttle"));
}

/* QEMU parses a forward as one string, "tcp:ADDRESS:PORT-:PORT", and knows IPv4 there alone. */
static int check_forwards(const struct check *c, const char *path, const json_t *nic)
{
	struct in_addr address;
	json_t *forward;
	char at[128];
	size_t i;

	json_array_foreach(json_object_get(nic, "forwards"), i, forward)
	{
		const char *host = text_of(forward, "host-address");
		snprintf(at, sizeof at, "%s.forwards[%zu].host-address", path, i);
		if (host && inet_pton(AF_INET, host, &address) != 1)
			return refuse(c, at, "\"%s\" is no IPv4 address such as 127.0.0.1", host);
	}
	return 0;
}

static int check_net(const struct check *c, const char *path, const json_t *nic)
{
	const char *net = text_of(nic, "net"), *slash = net ? strchr(net, '/') : NULL;
	char address[INET_ADDRSTRLEN] = "", at[128];
	struct in_addr parsed;
	bool ok;

	if (!net)
		return 0;
	snprintf(at, sizeof at, "%s.net", path);
	if (slash && slash - net < (ptrdiff_t)sizeof address)
		memcpy(address, net, (size_t)(slash - net));
	ok = inet_pton(AF_INET, address, &parsed) == 1 && isdigit((unsigned char)slash[1]) && strlen(slash + 1) <= 2 &&
	     strspn(slash + 1, "0123456789") == strlen(slash + 1) && atoi(slash + 1) <= 32;
	return ok ? 0 : refuse(c, at, "\"%s\" is no IPv4 network such as 10.0.2.0/24", net);
}

static int check_nic(const struct check *c, const char *path, const json_t *nic)
{
	static const struct {
		const char *field, *backend;
		bool needed;
	} fields[] = {{"interface", "tap", true}, {"bridge", "bridge", true}, {"socket", "stream", true},
		      {"local", "dgram", true},	  {"remote", "dgram", true},  {"forwards", "user", false},
		      {"hostname", "user", false}, {"net", "user", false}};
	const char *backend = text_of(nic, "backend");
	int r;

	if (!backend)
		backend = "user";
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
		bool there = json_object_get(nic, fields[i].field), its = streq(backend, fields[i].backend);
		if (fields[i].needed && its && !there)
			return refuse(c, path, "\"%s\" is missing: the backend \"%s\" needs it", fields[i].field, backend);
		if (there && !its)
			return refuse(c, path, "\"%s\" belongs to the backend \"%s\", but this one is \"%s\"",
				      fields[i].field, fields[i].backend, backend);
	}
	if ((r = check_forwards(c, path, nic)) < 0 || (r = check_net(c, path, nic)) < 0)
		return r;
	return check_raw(c, path, nic);
}

/* ---- Rules between items ---- */

static bool same_value(const json_t *a, const json_t *b)
{
	if (json_is_string(a) && json_is_string(b))
		return strcasecmp(json_string_value(a), json_string_value(b)) == 0; /* a MAC's digits */
	return a && b && json_equal(a, b);
}

/* No two items of KINDS have the same KEY. */
static int check_unique(const struct check *c, const json_t *spec, const char *const *kinds, const char *key)
{
	char path[64], other[64];
	json_t *a, *b;
	size_t i, j;

	for (const char *const *k = kinds; *k; k++)
		json_array_foreach(json_object_get(spec, *k), i, a)
			for (const char *const *l = kinds; l <= k; l++)
				json_array_foreach(json_object_get(spec, *l), j, b)
				{
					if (l == k && j >= i)
						break;
					if (!same_value(json_object_get(a, key), json_object_get(b, key)))
						continue;
					snprintf(path, sizeof path, "%s[%zu].%s", *k, i, key);
					snprintf(other, sizeof other, "%s[%zu]", *l, j);
					return refuse(c, path, "%s has the same %s", other, key);
				}
	return 0;
}

bool vm_spec_is_pc(const json_t *spec)
{
	const char *type = text_of(json_object_get(spec, "machine"), "type");

	return type && (streq(type, "pc") || strncmp(type, "pc-i440fx", 9) == 0);
}

int64_t vm_spec_ports(const json_t *spec)
{
	const json_t *set = json_object_get(json_object_get(spec, "machine"), "ports");
	int64_t ports = set ? json_integer_value(set) : DEFAULT_PORTS;

	return vm_spec_is_pc(spec) && ports > PC_PORTS ? PC_PORTS : ports;
}

static int check_ports(const struct check *c, const json_t *spec)
{
	static const char *const kinds[] = {"disks", "nics"};
	json_int_t ports = vm_spec_ports(spec), scsi = json_integer_value(json_object_get(spec, "scsi-port"));
	json_t *item;
	char path[64];
	size_t i;

	if (scsi > ports)
		return refuse(c, "scsi-port", "the machine has %lld ports; set machine.ports higher", (long long)ports);
	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++)
		json_array_foreach(json_object_get(spec, kinds[k]), i, item)
		{
			json_int_t port = json_integer_value(json_object_get(item, "port"));
			snprintf(path, sizeof path, "%s[%zu].port", kinds[k], i);
			if (port > ports)
				return refuse(c, path, "the machine has %lld ports; set machine.ports higher",
					      (long long)ports);
			if (port > 0 && port == scsi)
				return refuse(c, path, "the SCSI controller has the same port (scsi-port)");
		}
	return 0;
}

static int check_consoles(const struct check *c, const json_t *spec)
{
	/* Ids of fds that a start prepares. */
	static const char *const taken[] = {"qmp", "agent"};
	json_t *console;
	char path[64];
	int serial = 0;
	size_t i;

	if (!json_object_get(spec, "consoles") &&
	    (vm_spec_find(spec, "disks", "con0") || vm_spec_find(spec, "nics", "con0")))
		return refuse(c, "consoles", "a VM that names none has the console con0, and that id is taken");
	json_array_foreach(json_object_get(spec, "consoles"), i, console)
	{
		const char *id = text_of(console, "id"), *type = text_of(console, "type");
		snprintf(path, sizeof path, "consoles[%zu]", i);
		for (size_t k = 0; id && k < ARRAY_SIZE(taken); k++)
			if (streq(id, taken[k]))
				return refuse(c, path, "the id \"%s\" is used for something else; take another", id);
		serial += !type || streq(type, "serial");
		if (serial > 4)
			return refuse(c, path, "a PC has 4 serial ports at most; use the type \"virtio\"");
	}
	return 0;
}

static int check_boot(const struct check *c, const json_t *spec)
{
	const json_t *boot = json_object_get(spec, "boot"), *order = json_object_get(boot, "order");
	char path[64];

	if ((text_of(boot, "initrd") || text_of(boot, "cmdline")) && !text_of(boot, "kernel"))
		return refuse(c, "boot", "initrd and cmdline need a kernel");
	for (size_t i = 0; i < json_array_size(order); i++)
		for (size_t j = 0; j < i; j++)
			if (json_equal(json_array_get(order, i), json_array_get(order, j))) {
				snprintf(path, sizeof path, "boot.order[%zu]", i);
				return refuse(c, path, "\"%s\" stands there twice",
					      json_string_value(json_array_get(order, i)));
			}
	return 0;
}

static int check_cpu(const struct check *c, const json_t *spec)
{
	static const char *const parts[] = {"sockets", "cores", "threads"};
	const json_t *cpu = json_object_get(spec, "cpu");
	json_int_t product = 1, count = 1;
	bool any = false;

	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		const json_t *v = json_object_get(cpu, parts[i]);
		if (v) {
			product *= json_integer_value(v);
			any = true;
		}
	}
	if (json_object_get(cpu, "count"))
		count = json_integer_value(json_object_get(cpu, "count"));
	if (any && product != count)
		return refuse(c, "cpu", "sockets * cores * threads make %lld, but count is %lld", (long long)product,
			      (long long)count);
	return 0;
}

static int check_user(const struct check *c, const json_t *spec)
{
	static const char *const fields[] = {"user", "group"};

	for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
		if (text_of(spec, fields[i]) && !*text_of(spec, fields[i]))
			return refuse(c, fields[i], "must not be empty");
	if (text_of(spec, "group") && !text_of(spec, "user"))
		return refuse(c, "group", "needs a \"user\" beside it");
	return 0;
}

static int check_limits(const struct check *c, const json_t *spec)
{
	const json_t *limit = json_object_get(json_object_get(spec, "limits"), "memory"), *memory = json_object_get(spec, "memory");
	uint64_t most, guest = 512 << 20;

	if (!limit || vm_size_parse(limit, &most) < 0)
		return 0;
	if (memory)
		(void)vm_size_parse(memory, &guest);
	if (most < guest)
		return refuse(c, "limits.memory", "is less than the guest's memory (%llu MiB), and QEMU needs some beside it",
			      (unsigned long long)(guest >> 20));
	return 0;
}

static int check_rules(const struct check *c, const json_t *spec)
{
	static const char *const named[] = {"disks", "nics", "consoles", NULL};
	static const char *const placed[] = {"disks", "nics", NULL}, *const nics[] = {"nics", NULL};
	static const struct {
		const char *const *kinds;
		const char *key;
	} unique[] = {{named, "id"}, {nics, "mac"}, {placed, "port"}, {placed, "boot-index"}};
	static int (*const rules[])(const struct check *, const json_t *) = {check_ports, check_consoles, check_boot,
									     check_cpu, check_user, check_limits};
	static const struct {
		const char *kind;
		int (*check)(const struct check *, const char *, const json_t *);
	} items[] = {{"disks", check_disk}, {"nics", check_nic}};
	char path[64];
	int r;

	for (size_t k = 0; k < ARRAY_SIZE(items); k++) {
		json_t *item;
		size_t i;
		json_array_foreach(json_object_get(spec, items[k].kind), i, item)
		{
			snprintf(path, sizeof path, "%s[%zu]", items[k].kind, i);
			if ((r = items[k].check(c, path, item)) < 0)
				return r;
		}
	}
	for (size_t i = 0; i < ARRAY_SIZE(unique); i++)
		if ((r = check_unique(c, spec, unique[i].kinds, unique[i].key)) < 0)
			return r;
	for (size_t i = 0; i < ARRAY_SIZE(rules); i++)
		if ((r = rules[i](c, spec)) < 0)
			return r;
	return 0;
}

static int check_spec(const struct check *c, const json_t *spec)
{
	int r = check_object(c, "", vm_spec_fields, spec);

	return r < 0 ? r : check_rules(c, spec);
}

int vm_spec_check(const json_t *spec, struct qmp_error *err)
{
	return check_spec(&(struct check){.err = err}, spec);
}

int vm_spec_parse(const char *text, size_t len, const char *source, json_t **ret, struct qmp_error *err)
{
	json_auto_t *spec = qmp_json_decode(text, len, err);
	int r;

	if (!spec) {
		if (err && err->kind == QMP_ERR_PROTOCOL)
			err->kind = QMP_ERR_USAGE;
		qmp_error_wrap(err, "%s", source);
		return -EINVAL;
	}
	r = check_spec(&(struct check){text, len, source, err}, spec);
	if (r == 0)
		*ret = take_ptr(spec);
	return r;
}

/* ---- Defaults ---- */

static int fill_defaults(const struct vm_field *table, json_t *object)
{
	for (const struct vm_field *f = table; f->name; f++) {
		json_t *value = json_object_get(object, f->name), *item;
		size_t i;

		if (!value && f->default_json) {
			value = json_loads(f->default_json, JSON_DECODE_ANY, NULL);
			if (json_object_set_new(object, f->name, value) < 0)
				return -ENOMEM;
		}
		if (value && f->type == VM_T_OBJECT && fill_defaults(f->recursive ? table : f->fields, value) < 0)
			return -ENOMEM;
		if (value && f->type == VM_T_LIST)
			json_array_foreach(value, i, item)
				if (fill_defaults(f->fields, item) < 0)
					return -ENOMEM;
	}
	return 0;
}

/* A CD-ROM's default bus is what the machine has for it. */
static void adjust_cdroms(const json_t *spec, json_t *copy)
{
	bool pc = vm_spec_is_pc(spec);
	json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(copy, "disks"), i, disk)
	{
		const char *type = text_of(disk, "type");
		if (type && streq(type, "cdrom") && !text_of(disk, "bus"))
			json_object_set_new(disk, "bus", json_string(pc ? "ide" : "sata"));
	}
}

json_t *vm_spec_effective(const json_t *spec)
{
	json_t *copy = json_deep_copy(spec);

	if (!copy)
		return NULL;
	adjust_cdroms(spec, copy);
	if (fill_defaults(vm_spec_fields, copy) < 0) {
		json_decref(copy);
		return NULL;
	}
	return copy;
}

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
			     "besides; set machine.ports higher (%d at most on this machine; it counts from the next start), "
			     "or put disks on the bus scsi, which share one port",
			     (long long)ports, (long long)(ports - others), (long long)others, vm_spec_is_pc(spec) ? PC_PORTS : PORTS_MAX);
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

int vm_spec_complete_beside(json_t *spec, const json_t *taken, struct qmp_error *err)
{
	static const char *const kinds[] = {"disks", "nics", "consoles"};
	int changed = 0, r;
	json_t *item;
	size_t i;

	if (!text_of(spec, "uuid"))
		changed = json_object_set_new(spec, "uuid", new_uuid()) == 0;
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
	struct check c = {.err = err};

	if (table)
		return refuse_key(&c, path, table, segment);
	return refuse(&c, path, "nothing is there named \"%s\"", segment);
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
		return refuse(&(struct check){.err = err}, path, "the value is not UTF-8");
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
			return refuse(&(struct check){.err = err}, path, "is no path such as cpu.count or disks[vda].cache");
		memcpy(segment, p, n);
		segment[n] = '\0';
		p += n + (bracket && p[n] == ']');
		if (!is_index) {
			f = table ? find_field(table, segment) : NULL;
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
