/*
 * Checking a spec: by the table in spec-table.c, and the rules that no table can say. Its defaults.
 */
#include "launcher/spec.h"
#include "launcher/location.h"
#include "launcher/table.h"
#include "proto/base.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <strings.h>

/* DEFAULT_PORTS and PORTS_MAX as in the table. */
enum { DEFAULT_PORTS = 16, PC_PORTS = 16, PORTS_MAX = 64 };
#define SEED_URL_MAX 1024 /* in an SMBIOS string */

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
/* ---- What the table cannot say: rules between fields ---- */

/* Limits that QEMU would refuse (util/throttle.c, throttle_is_valid). */
static int check_throttle(const struct vm_check *c, const char *path, const json_t *limits)
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
				return vm_refuse(c, at, "is lower than %s", key);
			if (burst && !base)
				return vm_refuse(c, at, "needs %s beside it", key);
			snprintf(max, sizeof max, "%s-total", kinds[k]);
			if (base && w > 0 && json_object_get(limits, max))
				return vm_refuse(c, at, "%s stands beside it: limit the total, or reading and writing", max);
		}
	return 0;
}

bool vm_format_has_backing(const char *format)
{
	return streq(format, "qcow2") || streq(format, "qcow") || streq(format, "qed") || streq(format, "vmdk");
}

/* ITEM, and each image below it: one that names a backing image must be of a format that can have one. */
static int check_backing(const struct vm_check *c, const char *path, const json_t *item)
{
	char at[256];

	snprintf(at, sizeof at, "%s", path);
	for (const json_t *below; (below = json_object_get(item, "backing")); item = below) {
		size_t n = strlen(at);
		const char *format = text_of(item, "format");
		snprintf(at + n, sizeof at - n, ".backing");
		if (!format)
			return vm_refuse(c, at, "an empty drive has no backing image");
		if (!vm_format_has_backing(format))
			return vm_refuse(c, at, "an image of the format \"%s\" has no backing image", format);
	}
	return 0;
}

/* ITEM, and each image below it. */
static int check_encryption(const struct vm_check *c, const char *path, const json_t *item)
{
	char at[256], key[280];

	snprintf(at, sizeof at, "%s", path);
	for (; item; item = json_object_get(item, "backing")) {
		size_t n = strlen(at);
		const char *format = text_of(item, "format");
		bool luks = format && streq(format, "luks"), given = json_object_get(item, "encryption");
		snprintf(key, sizeof key, "%s.encryption", at);
		if (luks && !given)
			return vm_refuse(c, at, "an image of the format \"luks\" is encrypted: give \"encryption\": {\"key-file\": ...}");
		if (given && !format)
			return vm_refuse(c, key, "an empty drive is not encrypted");
		if (given && !luks && !streq(format, "qcow2"))
			return vm_refuse(c, key, "an image of the format \"%s\" cannot be encrypted; luks or qcow2", format);
		snprintf(at + n, sizeof at - n, ".backing");
	}
	return 0;
}

/* The ids of QEMU's objects are derived from the spec's: that is how they are found again. */
static int check_raw(const struct vm_check *c, const char *path, const json_t *item)
{
	static const char *const ours[] = {"id", "node-name"};
	const char *role;
	json_t *raw;
	char at[256];

	json_object_foreach(json_object_get(item, "qemu"), role, raw)
		for (size_t i = 0; i < ARRAY_SIZE(ours); i++) {
			snprintf(at, sizeof at, "%s.qemu.%s.%s", path, role, ours[i]);
			if (json_object_get(raw, ours[i]))
				return vm_refuse(c, at, "is derived from the item's own id and cannot be set");
		}
	return 0;
}

static int check_bus(const struct vm_check *c, const char *path, const json_t *disk)
{
	const char *type = text_of(disk, "type"), *bus = text_of(disk, "bus");
	bool cdrom = type && streq(type, "cdrom"), ide = bus && (streq(bus, "sata") || streq(bus, "ide"));

	if (cdrom && bus && (streq(bus, "virtio") || streq(bus, "nvme")))
		return vm_refuse(c, path, "a CD-ROM cannot be on the bus \"%s\"; sata, ide or scsi", bus);
	if (json_is_true(json_object_get(disk, "iothread")) && (cdrom || (bus && !streq(bus, "virtio"))))
		return vm_refuse(c, path, "only a virtio disk can have an iothread");
	if (json_is_true(json_object_get(disk, "read-only")) && !cdrom && ide)
		return vm_refuse(c, path, "a disk on the bus \"%s\" cannot be read-only; use virtio, scsi or nvme", bus);
	return 0;
}

/* Whether a user of LOCATION can show a password: an iSCSI target's with a name, Ceph's. A volume's is not known here. */
static bool takes_password(const char *location)
{
	struct vm_location l;
	bool takes;

	if (!location || vm_location_parse(location, &l, NULL) < 0)
		return false;
	takes = (l.kind == VM_ISCSI && l.user) || l.kind == VM_RBD;
	vm_location_deinit(&l);
	return takes;
}

/* ITEM, and each image below it: what belongs to a server beside the image. */
static int check_server(const struct vm_check *c, const char *path, const json_t *item)
{
	char at[256], field[300];

	snprintf(at, sizeof at, "%s", path);
	for (; item; item = json_object_get(item, "backing")) {
		const json_t *tls = json_object_get(item, "tls");
		const char *location = text_of(item, "path"), *type = tls ? text_of(tls, "type") : NULL;
		bool is_psk = type && streq(type, "psk");
		size_t n = strlen(at);
		snprintf(field, sizeof field, "%s.tls", at);
		if (tls && !(location && (strncmp(location, "nbd://", 6) == 0 || strncmp(location, "nbd+unix://", 11) == 0)))
			return vm_refuse(c, field, "belongs to an image at nbd:// or nbd+unix://");
		if (text_of(item, "password-file") && !takes_password(location))
			return vm_refuse(c, at, "\"password-file\" belongs to an image at iscsi://USER@... or rbd://...");
		if (is_psk && text_of(tls, "hostname"))
			return vm_refuse(c, field, "a hostname is that of a certificate, and the type \"psk\" has none");
		if (text_of(tls, "username") && !is_psk)
			return vm_refuse(c, field, "a username belongs to the type \"psk\"");
		snprintf(at + n, sizeof at - n, ".backing");
	}
	return 0;
}

/* What the place of the image rules out. */
static int check_place(const struct vm_check *c, const char *path, const json_t *disk)
{
	const char *location = text_of(disk, "path"), *type = text_of(disk, "type"), *aio = text_of(disk, "aio");
	bool read_only = json_is_true(json_object_get(disk, "read-only")) || (type && streq(type, "cdrom")), must_be;
	struct vm_location l;

	if (!location || vm_location_is_file(location) || vm_location_parse(location, &l, NULL) < 0)
		return 0;
	must_be = vm_location_read_only(&l);
	vm_location_deinit(&l);
	if (must_be && !read_only)
		return vm_refuse(c, path,
				 "%s can only be read; give the disk \"read-only\": true, or a file of its own that is "
				 "backed by it",
				 location);
	if (vm_location_looks(location) != VM_VOLUME && aio && !streq(aio, "threads"))
		return vm_refuse(c, path, "aio \"%s\" is for files of this host, and %s is none", aio, location);
	return 0;
}

static int check_disk(const struct vm_check *c, const char *path, const json_t *disk)
{
	const char *type = text_of(disk, "type"), *cache = text_of(disk, "cache"), *aio = text_of(disk, "aio");
	const char *zeroes = text_of(disk, "detect-zeroes"), *discard = text_of(disk, "discard");
	int r;

	if (!(type && streq(type, "cdrom")) && !text_of(disk, "path"))
		return vm_refuse(c, path, "\"path\" is missing: a disk needs an image or block device");
	if (text_of(disk, "path") && !text_of(disk, "format"))
		return vm_refuse(c, path, "\"format\" is missing; it is never guessed: write \"raw\", \"qcow2\", ...");
	if (aio && streq(aio, "native") && !(cache && (streq(cache, "none") || streq(cache, "directsync"))))
		return vm_refuse(c, path, "aio \"native\" needs cache \"none\" or \"directsync\"");
	if (zeroes && streq(zeroes, "unmap") && discard && streq(discard, "ignore"))
		return vm_refuse(c, path, "detect-zeroes \"unmap\" needs discard \"unmap\"");
	if ((r = check_bus(c, path, disk)) < 0 || (r = check_backing(c, path, disk)) < 0 ||
	    (r = check_encryption(c, path, disk)) < 0 || (r = check_place(c, path, disk)) < 0 ||
	    (r = check_server(c, path, disk)) < 0 || (r = check_raw(c, path, disk)) < 0)
		return r;
	return check_throttle(c, path, json_object_get(disk, "throttle"));
}

/* QEMU parses a forward as one string, "tcp:ADDRESS:PORT-:PORT", and knows IPv4 there alone. */
static int check_forwards(const struct vm_check *c, const char *path, const json_t *nic)
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
			return vm_refuse(c, at, "\"%s\" is no IPv4 address such as 127.0.0.1", host);
	}
	return 0;
}

static int check_net(const struct vm_check *c, const char *path, const json_t *nic)
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
	return ok ? 0 : vm_refuse(c, at, "\"%s\" is no IPv4 network such as 10.0.2.0/24", net);
}

static int check_nic(const struct vm_check *c, const char *path, const json_t *nic)
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
			return vm_refuse(c, path, "\"%s\" is missing: the backend \"%s\" needs it", fields[i].field, backend);
		if (there && !its)
			return vm_refuse(c, path, "\"%s\" belongs to the backend \"%s\", but this one is \"%s\"",
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
static int check_unique(const struct vm_check *c, const json_t *spec, const char *const *kinds, const char *key)
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
					return vm_refuse(c, path, "%s has the same %s", other, key);
				}
	return 0;
}

bool vm_spec_is_pc(const json_t *spec)
{
	const char *type = text_of(json_object_get(spec, "machine"), "type");

	return type && (streq(type, "pc") || strncmp(type, "pc-i440fx", 9) == 0);
}

int64_t vm_spec_ports_max(const json_t *spec)
{
	return vm_spec_is_pc(spec) ? PC_PORTS : PORTS_MAX;
}

int64_t vm_spec_ports(const json_t *spec)
{
	const json_t *set = json_object_get(json_object_get(spec, "machine"), "ports");
	int64_t ports = set ? json_integer_value(set) : DEFAULT_PORTS;

	return vm_spec_is_pc(spec) && ports > PC_PORTS ? PC_PORTS : ports;
}

static int check_ports(const struct vm_check *c, const json_t *spec)
{
	static const char *const kinds[] = {"disks", "nics"};
	json_int_t ports = vm_spec_ports(spec), scsi = json_integer_value(json_object_get(spec, "scsi-port"));
	json_t *item;
	char path[64];
	size_t i;

	if (scsi > ports)
		return vm_refuse(c, "scsi-port", "the machine has %lld ports; set machine.ports higher", (long long)ports);
	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++)
		json_array_foreach(json_object_get(spec, kinds[k]), i, item)
		{
			json_int_t port = json_integer_value(json_object_get(item, "port"));
			snprintf(path, sizeof path, "%s[%zu].port", kinds[k], i);
			if (port > ports)
				return vm_refuse(c, path, "the machine has %lld ports; set machine.ports higher",
					      (long long)ports);
			if (port > 0 && port == scsi)
				return vm_refuse(c, path, "the SCSI controller has the same port (scsi-port)");
		}
	return 0;
}

static int check_consoles(const struct vm_check *c, const json_t *spec)
{
	/* Ids of fds that a start prepares. */
	static const char *const taken[] = {"qmp", "agent"};
	json_t *console;
	char path[64];
	int serial = 0;
	size_t i;

	if (!json_object_get(spec, "consoles") &&
	    (vm_spec_find(spec, "disks", "con0") || vm_spec_find(spec, "nics", "con0")))
		return vm_refuse(c, "consoles", "a VM that names none has the console con0, and that id is taken");
	json_array_foreach(json_object_get(spec, "consoles"), i, console)
	{
		const char *id = text_of(console, "id"), *type = text_of(console, "type");
		snprintf(path, sizeof path, "consoles[%zu]", i);
		for (size_t k = 0; id && k < ARRAY_SIZE(taken); k++)
			if (streq(id, taken[k]))
				return vm_refuse(c, path, "the id \"%s\" is used for something else; take another", id);
		serial += !type || streq(type, "serial");
		if (serial > 4)
			return vm_refuse(c, path, "a PC has 4 serial ports at most; use the type \"virtio\"");
	}
	return 0;
}

static int check_boot(const struct vm_check *c, const json_t *spec)
{
	const json_t *boot = json_object_get(spec, "boot"), *order = json_object_get(boot, "order");
	char path[64];

	if ((text_of(boot, "initrd") || text_of(boot, "cmdline")) && !text_of(boot, "kernel"))
		return vm_refuse(c, "boot", "initrd and cmdline need a kernel");
	for (size_t i = 0; i < json_array_size(order); i++)
		for (size_t j = 0; j < i; j++)
			if (json_equal(json_array_get(order, i), json_array_get(order, j))) {
				snprintf(path, sizeof path, "boot.order[%zu]", i);
				return vm_refuse(c, path, "\"%s\" stands there twice",
					      json_string_value(json_array_get(order, i)));
			}
	return 0;
}

static int check_firmware(const struct vm_check *c, const json_t *spec)
{
	const json_t *firmware = json_object_get(spec, "firmware");
	const char *type = text_of(firmware, "type");
	bool uefi = type && streq(type, "uefi");

	if (!uefi && json_is_true(json_object_get(firmware, "secure-boot")))
		return vm_refuse(c, "firmware.secure-boot", "belongs to the type \"uefi\"");
	if (!uefi && text_of(firmware, "vars-template"))
		return vm_refuse(c, "firmware.vars-template", "belongs to the type \"uefi\"");
	if (uefi && !text_of(firmware, "path") != !text_of(firmware, "vars-template"))
		return vm_refuse(c, "firmware", "path and vars-template go together: a code, and the variables that it begins with");
	if (json_is_true(json_object_get(firmware, "secure-boot")) && vm_spec_is_pc(spec))
		return vm_refuse(c, "firmware.secure-boot", "needs the machine q35");
	return 0;
}

static int check_cpu(const struct vm_check *c, const json_t *spec)
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
		return vm_refuse(c, "cpu", "sockets * cores * threads make %lld, but count is %lld", (long long)product,
			      (long long)count);
	return 0;
}

static int check_display(const struct vm_check *c, const json_t *spec)
{
	const json_t *display = json_object_get(spec, "display");
	const char *type = text_of(display, "type");

	if (text_of(display, "password-file") && !(type && streq(type, "vnc")))
		return vm_refuse(c, "display.password-file", "belongs to the type \"vnc\"");
	return 0;
}

static int check_user(const struct vm_check *c, const json_t *spec)
{
	static const char *const fields[] = {"user", "group", "observe-group"};

	for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
		if (text_of(spec, fields[i]) && !*text_of(spec, fields[i]))
			return vm_refuse(c, fields[i], "must not be empty");
	if (text_of(spec, "group") && !text_of(spec, "user"))
		return vm_refuse(c, "group", "needs a \"user\" beside it");
	return 0;
}

static bool is_host_name(const char *name)
{
	size_t n = strlen(name);

	return n > 0 && n < 254 && isalnum((unsigned char)*name) &&
	       strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-") == n;
}

/*
 * cloud-init takes "ds=nocloud-net;s=URL" apart at each semicolon, and puts the names of its files behind the URL
 * (its documentation, "NoCloud").
 */
static int check_seed_url(const struct vm_check *c, const char *url)
{
	size_t n = strlen(url);

	if (strncmp(url, "http://", 7) != 0 && strncmp(url, "https://", 8) != 0)
		return vm_refuse(c, "seed.url", "\"%s\" is no http or https URL", url);
	for (const char *p = url; *p; p++)
		if (*p <= ' ' || *p >= 0x7f || *p == ';')
			return vm_refuse(c, "seed.url", "a blank, a semicolon, or what is not ASCII is written %%20, %%3B, ... in a URL");
	if (n > SEED_URL_MAX)
		return vm_refuse(c, "seed.url", "has more than %d characters", SEED_URL_MAX);
	if (url[n - 1] != '/' && !strchr(url, '?'))
		return vm_refuse(c, "seed.url", "has to end with a \"/\": the guest puts meta-data and user-data behind it");
	return 0;
}

/* One way is chosen, and of what is given as a file nothing is given beside it. */
static int check_seed(const struct vm_check *c, const json_t *spec)
{
	static const struct {
		const char *field, *other;
	} apart[] = {{"user-data", "user"},	{"user-data", "ssh-keys"},  {"user-data", "password-hash-file"},
		     {"user-data", "packages"}, {"user-data", "run"},	    {"meta-data", "instance-id"},
		     {"meta-data", "hostname"}};
	static const char *const lone[] = {"url", "ignition"};
	const json_t *seed = json_object_get(spec, "seed");
	const char *user = text_of(seed, "user"), *host = text_of(seed, "hostname"), *url = text_of(seed, "url");
	char path[64];

	for (size_t i = 0; i < ARRAY_SIZE(apart); i++)
		if (json_object_get(seed, apart[i].field) && json_object_get(seed, apart[i].other)) {
			snprintf(path, sizeof path, "seed.%s", apart[i].other);
			return vm_refuse(c, path, "%s stands beside it, which is given as a file: write it there", apart[i].field);
		}
	for (size_t i = 0; i < ARRAY_SIZE(lone); i++)
		if (json_object_get(seed, lone[i]) && json_object_size(seed) > 1 + (json_object_get(seed, "instance-id") != NULL)) {
			snprintf(path, sizeof path, "seed.%s", lone[i]);
			return vm_refuse(c, path, "is another way to tell the guest: nothing else can stand beside it");
		}
	if (user && (!*user || *user == '-' || strpbrk(user, ":/ \t\r\n,\"")))
		return vm_refuse(c, "seed.user", "\"%s\" is no name of an account", user);
	if (host && !is_host_name(host))
		return vm_refuse(c, "seed.hostname", "\"%s\" is no host name: letters, digits, - and .", host);
	return url ? check_seed_url(c, url) : 0;
}

static int check_limits(const struct vm_check *c, const json_t *spec)
{
	const json_t *limit = json_object_get(json_object_get(spec, "limits"), "memory"), *memory = json_object_get(spec, "memory");
	uint64_t most, guest = 512 << 20;

	if (!limit || vm_size_parse(limit, &most) < 0)
		return 0;
	if (memory)
		(void)vm_size_parse(memory, &guest);
	if (most < guest)
		return vm_refuse(c, "limits.memory", "is less than the guest's memory (%llu MiB), and QEMU needs some beside it",
			      (unsigned long long)(guest >> 20));
	return 0;
}

static int check_rules(const struct vm_check *c, const json_t *spec)
{
	static const char *const named[] = {"disks", "nics", "consoles", NULL};
	static const char *const placed[] = {"disks", "nics", NULL}, *const nics[] = {"nics", NULL};
	static const struct {
		const char *const *kinds;
		const char *key;
	} unique[] = {{named, "id"}, {nics, "mac"}, {placed, "port"}, {placed, "boot-index"}};
	static int (*const rules[])(const struct vm_check *, const json_t *) = {check_ports, check_consoles, check_boot,
									     check_cpu, check_display, check_user, check_seed,
									     check_firmware, check_limits};
	static const struct {
		const char *kind;
		int (*check)(const struct vm_check *, const char *, const json_t *);
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

static int check_spec(const struct vm_check *c, const json_t *spec)
{
	int r = vm_check_object(c, "", vm_spec_fields, spec);

	return r < 0 ? r : check_rules(c, spec);
}

int vm_spec_check(const json_t *spec, struct qmp_error *err)
{
	return check_spec(&(struct vm_check){.err = err}, spec);
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
	r = check_spec(&(struct vm_check){text, len, source, err}, spec);
	if (r == 0)
		*ret = take_ptr(spec);
	return r;
}
/* ---- Defaults ---- */

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
	if (vm_fill_defaults(vm_spec_fields, copy) < 0) {
		json_decref(copy);
		return NULL;
	}
	return copy;
}

json_t *vm_spec_section(const json_t *spec, const char *name)
{
	const struct vm_field *f = vm_find_field(vm_spec_fields, name);
	const json_t *given = json_object_get(spec, name);
	json_t *copy = given ? json_deep_copy(given) : json_loads(f->default_json, 0, NULL);

	if (copy && vm_fill_defaults(f->fields, copy) < 0) {
		json_decref(copy);
		return NULL;
	}
	return copy;
}
