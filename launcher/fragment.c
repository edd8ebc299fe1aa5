#include "launcher/fragment.h"
#include "launcher/location.h"
#include "launcher/peril.h"
#include "launcher/pool.h"
#include "launcher/spec.h"
#include "proto/base.h"

#include <stdio.h>

/* Slots of pcie.0 / pci.0. Root ports: 0x10 to 0x17; on pc, port N is slot N + PC_FIRST_SLOT - 1. */
enum { SLOT_PORTS = 0x10, SLOT_RNG = 0x18, SLOT_BALLOON, SLOT_VSERIAL, SLOT_WATCHDOG, SLOT_VGA = 2 };
#define PC_FIRST_SLOT 3

/* ---- Building ---- */

void vm_fragment_deinit(struct vm_fragment *f)
{
	for (size_t i = 0; i < f->n_objects; i++) {
		json_decref(f->objects[i].args);
		free(f->objects[i].fd_name);
		free(f->objects[i].secret_file);
	}
	free(f->objects);
	free(f->item);
	*f = (struct vm_fragment){0};
}

void vm_fragments_deinit(struct vm_fragments *f)
{
	for (size_t i = 0; i < f->n; i++)
		vm_fragment_deinit(&f->list[i]);
	free(f->list);
	*f = (struct vm_fragments){0};
}

const char *vm_object_id(const struct vm_object *o)
{
	return text_of(o->args, o->kind == VM_BLOCKDEV ? "node-name" : "id");
}

/* Appends; NULL args means that making them ran out of memory. */
static int add_consume(struct vm_fragment *f, enum vm_object_kind kind, json_t *args, const char *fd_name)
{
	struct vm_object *objects = args ? realloc(f->objects, (f->n_objects + 1) * sizeof *objects) : NULL;
	char *name = fd_name ? strdup(fd_name) : NULL;

	if (!objects || (fd_name && !name)) {
		if (objects)
			f->objects = objects;
		json_decref(args);
		free(name);
		return -ENOMEM;
	}
	f->objects = objects;
	objects[f->n_objects++] = (struct vm_object){.kind = kind, .args = args, .fd_name = name};
	return 0;
}

int vm_fragment_add_secret(struct vm_fragment *f, const char *id, const char *file, bool line)
{
	char *copy = strdup(file);

	if (!copy || add_consume(f, VM_OBJECT, json_pack("{s:s, s:s}", "qom-type", "secret", "id", id), NULL) < 0) {
		free(copy);
		return -ENOMEM;
	}
	f->objects[f->n_objects - 1].secret_file = copy;
	f->objects[f->n_objects - 1].secret_is_line = line;
	return 0;
}

static int out_of_memory(struct vm_fragment *f, struct qmp_error *err)
{
	vm_fragment_deinit(f);
	return qmp_error_errno(err, -ENOMEM, "making QEMU's objects");
}

/* Merges the item's raw QAPI members for ROLE. */
static json_t *with_raw_consume(json_t *args, const json_t *item, const char *role)
{
	json_t *raw = json_object_get(json_object_get(item, "qemu"), role);

	if (args && raw)
		json_object_update(args, raw);
	return args;
}

static void copy_member(json_t *to, const char *to_key, const json_t *from, const char *key)
{
	json_t *value = json_object_get(from, key);

	if (value)
		json_object_set(to, to_key, value);
}

/* ---- Places on the PCI bus ---- */

int64_t vm_pci_port_of_slot(int64_t slot)
{
	return slot - PC_FIRST_SLOT + 1;
}

int vm_pci_place(const json_t *spec, int64_t port, json_t *device, struct qmp_error *err)
{
	char place[32];

	if (port < 1 || port > vm_spec_ports(spec))
		return qmp_error_set(err, QMP_ERR_LIMIT, -ENOSPC,
				     "PCI port %lld: the machine has %lld ports; set machine.ports higher",
				     (long long)port, (long long)vm_spec_ports(spec));
	if (vm_spec_is_pc(spec)) {
		snprintf(place, sizeof place, "%x.0", (unsigned)(port + PC_FIRST_SLOT - 1));
		json_object_set_new(device, "bus", json_string("pci.0"));
		json_object_set_new(device, "addr", json_string(place));
	} else {
		snprintf(place, sizeof place, "port-%lld", (long long)port);
		json_object_set_new(device, "bus", json_string(place));
		/* Left to QEMU, it would go where no guest looks for it, when slot 0 is taken. */
		json_object_set_new(device, "addr", json_string("0"));
	}
	return 0;
}

static json_t *fixed_device(const json_t *spec, const char *driver, const char *id, unsigned slot)
{
	char addr[8];

	snprintf(addr, sizeof addr, "%x.0", slot);
	return json_pack("{s:s, s:s, s:s, s:s}", "driver", driver, "id", id, "bus", vm_spec_is_pc(spec) ? "pci.0" : "pcie.0",
			 "addr", addr);
}

static int root_ports(const json_t *spec, struct vm_fragment *ret)
{
	int64_t n = vm_spec_is_pc(spec) ? 0 : vm_spec_ports(spec);

	for (int64_t i = 0; i < n; i++) {
		char id[24], addr[8];
		snprintf(id, sizeof id, "port-%lld", (long long)i + 1);
		snprintf(addr, sizeof addr, "%x.%x", (unsigned)(SLOT_PORTS + i / 8), (unsigned)(i % 8));
		if (add_consume(ret, VM_DEVICE,
				json_pack("{s:s, s:s, s:s, s:s, s:i, s:b}", "driver", "pcie-root-port", "id", id, "bus",
					  "pcie.0", "addr", addr, "chassis", (int)i + 1, "multifunction", 1),
				NULL) < 0)
			return -ENOMEM;
	}
	return 0;
}

/* ---- Disks ---- */

static bool writes_through(const char *cache)
{
	return streq(cache, "writethrough") || streq(cache, "directsync");
}

static json_t *cache_options(const char *cache)
{
	return json_pack("{s:b, s:b}", "direct", streq(cache, "none") || streq(cache, "directsync"), "no-flush",
			 streq(cache, "unsafe"));
}

/* The credentials of an NBD client, and that NODE uses them. IMAGE: a disk or a backing image; ID is theirs. */
static int add_tls(struct vm_fragment *f, const json_t *image, const char *id, json_t *node)
{
	const json_t *tls = json_object_get(image, "tls");
	bool is_psk = text_of(tls, "type") && streq(text_of(tls, "type"), "psk");
	json_t *credentials;

	if (!tls)
		return 0;
	credentials = json_pack("{s:s, s:s, s:s, s:O}", "qom-type", is_psk ? "tls-creds-psk" : "tls-creds-x509", "id", id,
				"endpoint", "client", "dir", json_object_get(tls, "dir"));
	copy_member(credentials, "username", tls, "username");
	json_object_set_new(node, "tls-creds", json_string(id));
	copy_member(node, "tls-hostname", tls, "hostname");
	return add_consume(f, VM_OBJECT, credentials, NULL);
}

/* What NODE shows who it is by; ID is the secret's. */
static int add_password(struct vm_fragment *f, const json_t *image, const char *id, json_t *node)
{
	const char *file = text_of(image, "password-file");
	bool is_rbd = streq(text_of(node, "driver"), "rbd");

	if (!file)
		return 0;
	json_object_set_new(node, is_rbd ? "key-secret" : "password-secret", json_string(id));
	if (vm_fragment_add_secret(f, id, file, true) < 0)
		return -ENOMEM;
	/* Of Ceph's key the driver wants the bytes, and Ceph writes it in base64. */
	return is_rbd ? json_object_set_new(f->objects[f->n_objects - 1].args, "format", json_string("base64")) : 0;
}

int vm_fragment_add_access(struct vm_fragment *f, const json_t *image, const char *prefix, json_t *node)
{
	char tls[32], password[32];
	int r;

	snprintf(tls, sizeof tls, "%.24s-tls", prefix);
	snprintf(password, sizeof password, "%.20s-password", prefix);
	r = add_tls(f, image, tls, node);
	return r < 0 ? r : add_password(f, image, password, node);
}

/*
 * The protocol node of IMAGE, which is DISK itself or an image that it is backed by: "PREFIX-file", with what it needs before
 * it. ROLE: what of the disk's raw members is merged into it, or NULL.
 */
static int add_file(struct vm_fragment *f, const json_t *disk, const struct vm_host *host, const json_t *image,
		    const char *prefix, bool read_only, const char *role, struct qmp_error *err)
{
	_cleanup_free_ char *place = NULL;
	struct vm_location l;
	unsigned type = 0;
	char node[32];
	json_t *args;
	int r = vm_pools_locate(host->pools, text_of(image, "path"), &place, err);

	if (r == 0)
		r = vm_location_parse(place, &l, err);
	if (r < 0)
		return qmp_error_wrap(err, "%s", f->item);
	snprintf(node, sizeof node, "%s-file", prefix);
	if (l.kind == VM_FILE && host->file_type)
		type = host->file_type(host->directory, l.name);
	args = l.kind == VM_VOLUME ? json_pack("{s:s, s:s}", "driver", "file", "filename", place) : vm_location_node(&l, type);
	if (args) {
		json_object_set_new(args, "node-name", json_string(node));
		json_object_set_new(args, "cache", cache_options(text_of(disk, "cache")));
		json_object_set_new(args, "read-only", json_boolean(read_only));
		json_object_set_new(args, "discard", json_string(text_of(disk, "discard")));
		json_object_set_new(args, "auto-read-only", json_false());
		if (l.kind == VM_FILE)
			json_object_set_new(args, "aio", json_string(text_of(disk, "aio")));
		r = vm_fragment_add_access(f, image, prefix, args);
	}
	vm_location_deinit(&l);
	if (r < 0) {
		json_decref(args);
		return r;
	}
	if (role)
		args = with_raw_consume(args, disk, role);
	if (args && vm_peril_check("blockdev-add", args, host, err) < 0) {
		json_decref(args);
		return qmp_error_wrap(err, "%s", f->item);
	}
	return add_consume(f, VM_BLOCKDEV, args, NULL);
}

/* IMAGE is a disk or a backing image. */
static const char *key_file(const json_t *image)
{
	return text_of(json_object_get(image, "encryption"), "key-file");
}

static void set_key(json_t *node, const json_t *image, const char *key)
{
	if (!key_file(image))
		return;
	if (streq(text_of(image, "format"), "luks"))
		json_object_set_new(node, "key-secret", json_string(key));
	else
		json_object_set_new(node, "encrypt", json_pack("{s:s, s:s}", "format", "luks", "key-secret", key));
}

static json_t *format_node(const json_t *disk, const char *format, const char *node, const char *file, bool read_only,
			   const char *backing)
{
	json_t *args = json_pack("{s:s, s:s, s:s, s:o, s:b, s:s}", "driver", format, "node-name", node, "file", file,
				 "cache", cache_options(text_of(disk, "cache")), "read-only", read_only, "discard",
				 text_of(disk, "discard"));

	if (args && !streq(text_of(disk, "detect-zeroes"), "off") && !read_only)
		json_object_set_new(args, "detect-zeroes", json_string(text_of(disk, "detect-zeroes")));
	if (args && vm_format_has_backing(format))
		json_object_set_new(args, "backing", backing ? json_string(backing) : json_null());
	if (args)
		json_object_set_new(args, "auto-read-only", json_false());
	return args;
}

/*
 * The chain below the image, deepest first: "ID-b2-file", "ID-b2", "ID-b1-key", "ID-b1-tls" or "ID-b1-password", "ID-b1-file",
 * "ID-b1".
 */
static int add_backing(struct vm_fragment *f, const json_t *disk, const struct vm_host *host, const json_t *backing, int depth,
		       struct qmp_error *err)
{
	const json_t *below = json_object_get(backing, "backing");
	char node[32], file[32], next[32], key[32];
	int r = backing ? add_backing(f, disk, host, below, depth + 1, err) : 0;
	json_t *args;

	if (!backing || r < 0)
		return r;
	snprintf(node, sizeof node, "%.16s-b%d", text_of(disk, "id"), depth);
	snprintf(next, sizeof next, "%.16s-b%d", text_of(disk, "id"), depth + 1);
	snprintf(file, sizeof file, "%.16s-b%d-file", text_of(disk, "id"), depth);
	snprintf(key, sizeof key, "%.16s-b%d-key", text_of(disk, "id"), depth);
	r = key_file(backing) ? vm_fragment_add_secret(f, key, key_file(backing), false) : 0;
	if (r == 0)
		r = add_file(f, disk, host, backing, node, true, NULL, err);
	if (r < 0)
		return r;
	args = format_node(disk, text_of(backing, "format"), node, file, true, below ? next : NULL);
	set_key(args, backing, key);
	return add_consume(f, VM_BLOCKDEV, args, NULL);
}

static int add_throttle(struct vm_fragment *f, const json_t *disk, const char *format)
{
	const json_t *limits = json_object_get(disk, "throttle");
	char group[32], node[32];

	snprintf(group, sizeof group, "%.16s-limits", text_of(disk, "id"));
	snprintf(node, sizeof node, "%.16s-throttle", text_of(disk, "id"));
	if (add_consume(f, VM_OBJECT,
			json_pack("{s:s, s:s, s:O}", "qom-type", "throttle-group", "id", group, "limits", limits),
			NULL) < 0)
		return -ENOMEM;
	return add_consume(f, VM_BLOCKDEV,
			   with_raw_consume(json_pack("{s:s, s:s, s:s, s:s}", "driver", "throttle", "node-name", node,
						      "throttle-group", group, "file", format),
					    disk, "throttle"),
			   NULL);
}

/* How many disks on the IDE or SATA controller stand before this one. */
static int ide_index(const json_t *spec, const json_t *disk)
{
	int n = 0;
	size_t i;
	json_t *other;

	json_array_foreach(json_object_get(spec, "disks"), i, other)
	{
		const char *bus = text_of(other, "bus");
		if (streq(text_of(other, "id"), text_of(disk, "id")))
			break;
		n += streq(bus, "sata") || streq(bus, "ide");
	}
	return n;
}

static int place_ide(const json_t *spec, const json_t *disk, json_t *device, struct qmp_error *err)
{
	int index = ide_index(spec, disk), places = vm_spec_is_pc(spec) ? 4 : 6;
	char bus[16];

	if (index >= places)
		return qmp_error_set(err, QMP_ERR_LIMIT, -ENOSPC,
				     "disk %s: the machine's own controller has %d places, all taken; use the bus virtio "
				     "or scsi",
				     text_of(disk, "id"), places);
	snprintf(bus, sizeof bus, "ide.%d", vm_spec_is_pc(spec) ? index / 2 : index);
	json_object_set_new(device, "bus", json_string(bus));
	if (vm_spec_is_pc(spec))
		json_object_set_new(device, "unit", json_integer(index % 2));
	return 0;
}

static const char *disk_driver(const json_t *disk)
{
	const char *bus = text_of(disk, "bus");
	bool cdrom = streq(text_of(disk, "type"), "cdrom");

	if (streq(bus, "virtio"))
		return "virtio-blk-pci";
	if (streq(bus, "nvme"))
		return "nvme";
	if (streq(bus, "scsi"))
		return cdrom ? "scsi-cd" : "scsi-hd";
	return cdrom ? "ide-cd" : "ide-hd";
}

static int disk_device(const json_t *spec, const json_t *disk, const char *top, json_t **ret, struct qmp_error *err)
{
	const char *id = text_of(disk, "id"), *bus = text_of(disk, "bus");
	json_auto_t *device = json_pack("{s:s, s:s}", "driver", disk_driver(disk), "id", id);
	char iothread[32];
	int r = 0;

	if (top)
		json_object_set_new(device, "drive", json_string(top));
	copy_member(device, "serial", disk, "serial");
	copy_member(device, "bootindex", disk, "boot-index");
	if (streq(text_of(disk, "type"), "disk"))
		json_object_set_new(device, "write-cache",
				    json_string(writes_through(text_of(disk, "cache")) ? "off" : "on"));
	if (streq(bus, "nvme") && !json_object_get(device, "serial"))
		json_object_set_new(device, "serial", json_string(id));
	if (json_is_true(json_object_get(disk, "iothread"))) {
		snprintf(iothread, sizeof iothread, "%.16s-iothread", id);
		json_object_set_new(device, "iothread", json_string(iothread));
	}
	if (streq(bus, "scsi"))
		json_object_set_new(device, "bus", json_string("scsi-0.0"));
	else if (streq(bus, "sata") || streq(bus, "ide"))
		r = place_ide(spec, disk, device, err);
	else
		r = vm_pci_place(spec, json_integer_value(json_object_get(disk, "port")), device, err);
	if (r == 0)
		*ret = take_ptr(device);
	return r;
}

int vm_fragment_disk(const json_t *spec, const json_t *item, const struct vm_host *host, struct vm_fragment *ret,
		     struct qmp_error *err)
{
	const char *id = text_of(item, "id"), *path = text_of(item, "path"), *top = NULL;
	bool cdrom = streq(text_of(item, "type"), "cdrom");
	bool read_only = cdrom || json_is_true(json_object_get(item, "read-only"));
	const json_t *backing = json_object_get(item, "backing");
	struct vm_fragment f = {.item = qmp_asprintf("disks.%s", id)};
	char file[32], format[32], first[32], throttle[32], iothread[32], key[32];
	json_t *device = NULL, *args;
	int r = f.item ? 0 : -ENOMEM;

	snprintf(file, sizeof file, "%.16s-file", id);
	snprintf(format, sizeof format, "%.16s-fmt", id);
	snprintf(key, sizeof key, "%.16s-key", id);
	snprintf(first, sizeof first, "%.16s-b1", id);
	snprintf(throttle, sizeof throttle, "%.16s-throttle", id);
	snprintf(iothread, sizeof iothread, "%.16s-iothread", id);
	if (r == 0 && json_is_true(json_object_get(item, "iothread")))
		r = add_consume(&f, VM_OBJECT, json_pack("{s:s, s:s}", "qom-type", "iothread", "id", iothread), NULL);
	if (r == 0 && path) {
		r = add_backing(&f, item, host, backing, 1, err);
		if (r == 0 && key_file(item))
			r = vm_fragment_add_secret(&f, key, key_file(item), false);
		if (r == 0)
			r = add_file(&f, item, host, item, id, read_only, "file", err);
		if (r == 0) {
			args = format_node(item, text_of(item, "format"), format, file, read_only, backing ? first : NULL);
			set_key(args, item, key);
			r = add_consume(&f, VM_BLOCKDEV, with_raw_consume(args, item, "format"), NULL);
		}
		top = format;
	}
	if (r == 0 && path && json_object_get(item, "throttle")) {
		r = add_throttle(&f, item, format);
		top = throttle;
	}
	if (r < 0) {
		vm_fragment_deinit(&f);
		return qmp_error_errno(err, r, "making QEMU's objects");
	}
	r = disk_device(spec, item, top, &device, err);
	if (r < 0) {
		vm_fragment_deinit(&f);
		return r;
	}
	if (add_consume(&f, VM_DEVICE, with_raw_consume(device, item, "device"), NULL) < 0)
		return out_of_memory(&f, err);
	*ret = f;
	return 0;
}

int vm_fragment_scsi(const json_t *spec, const struct vm_host *host, struct vm_fragment *ret, struct qmp_error *err)
{
	struct vm_fragment f = {.item = strdup("scsi")};
	json_t *device = json_pack("{s:s, s:s}", "driver", "virtio-scsi-pci", "id", "scsi-0");
	int r = vm_pci_place(spec, json_integer_value(json_object_get(spec, "scsi-port")), device, err);

	UNUSED(host);
	if (r < 0) {
		json_decref(device);
		vm_fragment_deinit(&f);
		return r;
	}
	if (!f.item || add_consume(&f, VM_DEVICE, device, NULL) < 0)
		return out_of_memory(&f, err);
	*ret = f;
	return 0;
}

/* ---- NICs ---- */

static json_t *user_netdev(const json_t *nic, const char *id)
{
	json_t *args = json_pack("{s:s, s:s}", "type", "user", "id", id), *forward;
	json_t *list = json_object_get(nic, "forwards"), *rules = json_array();
	size_t i;

	json_array_foreach(list, i, forward)
	{
		_cleanup_free_ char *rule = qmp_asprintf(
			"%s:%s:%lld-:%lld", text_of(forward, "protocol"), text_of(forward, "host-address"),
			(long long)json_integer_value(json_object_get(forward, "host-port")),
			(long long)json_integer_value(json_object_get(forward, "guest-port")));
		json_array_append_new(rules, json_pack("{s:s}", "str", rule));
	}
	if (json_array_size(rules) > 0)
		json_object_set(args, "hostfwd", rules);
	json_decref(rules);
	if (json_is_true(json_object_get(nic, "restrict")))
		json_object_set_new(args, "restrict", json_true());
	copy_member(args, "hostname", nic, "hostname");
	copy_member(args, "net", nic, "net");
	return args;
}

static json_t *unix_address(const char *path)
{
	return json_pack("{s:s, s:s}", "type", "unix", "path", path);
}

static json_t *netdev(const json_t *nic, const char *id, const struct vm_host *host, char *fd_name, size_t size)
{
	const char *backend = text_of(nic, "backend");

	if (streq(backend, "user"))
		return user_netdev(nic, id);
	if (streq(backend, "stream"))
		return json_pack("{s:s, s:s, s:O, s:o}", "type", "stream", "id", id, "server",
				 json_object_get(nic, "server"), "addr", unix_address(text_of(nic, "socket")));
	if (streq(backend, "dgram"))
		return json_pack("{s:s, s:s, s:o, s:o}", "type", "dgram", "id", id, "local",
				 unix_address(text_of(nic, "local")), "remote", unix_address(text_of(nic, "remote")));
	/* tap and bridge: an fd that somebody else opens. vhost only where it is there: QEMU 7.2 dies of asking. */
	snprintf(fd_name, size, "%.16s-tap", text_of(nic, "id"));
	return json_pack("{s:s, s:s, s:s, s:b}", "type", "tap", "id", id, "fd", fd_name, "vhost", host->vhost_net);
}

static int add_netdev(struct vm_fragment *f, const json_t *nic, const char *id, const struct vm_host *host,
		      struct qmp_error *err)
{
	char fd_name[32] = "";
	json_t *args = with_raw_consume(netdev(nic, id, host, fd_name, sizeof fd_name), nic, "netdev");

	/* The raw members may ask for anything. */
	if (args && vm_peril_check("netdev_add", args, host, err) < 0) {
		json_decref(args);
		vm_fragment_deinit(f);
		return qmp_error_wrap(err, "nics.%s", text_of(nic, "id"));
	}
	return add_consume(f, VM_NETDEV, args, *fd_name ? fd_name : NULL) < 0 ? out_of_memory(f, err) : 0;
}

int vm_fragment_nic(const json_t *spec, const json_t *item, const struct vm_host *host, struct vm_fragment *ret,
		    struct qmp_error *err)
{
	const char *id = text_of(item, "id");
	struct vm_fragment f = {.item = qmp_asprintf("nics.%s", id)};
	bool connected = !streq(text_of(item, "backend"), "none");
	json_t *device = NULL;
	char dev[32];
	int r;

	snprintf(dev, sizeof dev, "%.16s-netdev", id);
	if (!f.item)
		return out_of_memory(&f, err);
	r = connected ? add_netdev(&f, item, dev, host, err) : 0;
	if (r < 0)
		return r;
	device = json_pack("{s:s, s:s}", "driver",
			   streq(text_of(item, "model"), "virtio") ? "virtio-net-pci" : text_of(item, "model"), "id", id);
	if (connected)
		json_object_set_new(device, "netdev", json_string(dev));
	copy_member(device, "mac", item, "mac");
	copy_member(device, "bootindex", item, "boot-index");
	r = vm_pci_place(spec, json_integer_value(json_object_get(item, "port")), device, err);
	if (r < 0) {
		json_decref(device);
		vm_fragment_deinit(&f);
		return r;
	}
	if (add_consume(&f, VM_DEVICE, with_raw_consume(device, item, "device"), NULL) < 0)
		return out_of_memory(&f, err);
	*ret = f;
	return 0;
}

/* ---- The rest of the machine ---- */

static bool needs_vserial(const json_t *spec)
{
	json_t *console;
	size_t i;

	json_array_foreach(json_object_get(spec, "consoles"), i, console)
		if (streq(text_of(console, "type"), "virtio"))
			return true;
	return json_is_true(json_object_get(spec, "agent"));
}

static json_t *console_device(const json_t *console)
{
	bool is_virtio = streq(text_of(console, "type"), "virtio");
	_cleanup_free_ char *chardev = qmp_asprintf("con-%s", text_of(console, "id"));
	json_t *device = json_pack("{s:s, s:s, s:s}", "driver", is_virtio ? "virtconsole" : "isa-serial", "id",
				   text_of(console, "id"), "chardev", chardev);

	if (device && is_virtio)
		json_object_set_new(device, "bus", json_string("vserial-0.0"));
	return device;
}

/* The firmware's code and variables: two flash chips (argv.h says which). */
static int firmware_nodes(const struct vm_host *host, struct vm_fragment *f)
{
	const json_t *firmware = host->firmware;
	int r = 0;

	for (int vars = 0; firmware && vars < 2 && r == 0; vars++) {
		const char *file = vars ? "firmware-vars-file" : "firmware-file";
		r = add_consume(f, VM_BLOCKDEV,
				json_pack("{s:s, s:s, s:s, s:b}", "driver", "file", "node-name", file, "filename",
					  text_of(firmware, vars ? "vars" : "code"), "read-only", !vars), NULL);
		if (r == 0)
			r = add_consume(f, VM_BLOCKDEV,
					json_pack("{s:s, s:s, s:s, s:b}", "driver", text_of(firmware, vars ? "vars-format" : "code-format"),
						  "node-name", vars ? "firmware-vars" : "firmware", "file", file, "read-only", !vars),
					NULL);
	}
	return r;
}

/* Devices that every machine of this spec has, none of which is hot-plugged. */
static int fixed_devices(const json_t *spec, const struct vm_host *host, struct vm_fragment *f)
{
	const json_t *display = json_object_get(spec, "display");
	json_t *console, *device;
	size_t i;
	int r = firmware_nodes(host, f);

	if (r == 0)
		r = root_ports(spec, f);

	if (r == 0 && json_is_true(json_object_get(spec, "rng"))) {
		r = add_consume(f, VM_OBJECT, json_pack("{s:s, s:s}", "qom-type", "rng-builtin", "id", "rng-source"),
				NULL);
		device = fixed_device(spec, "virtio-rng-pci", "rng-0", SLOT_RNG);
		json_object_set_new(device, "rng", json_string("rng-source"));
		r = r < 0 ? json_decref(device), r : add_consume(f, VM_DEVICE, device, NULL);
	}
	if (r == 0 && json_is_true(json_object_get(spec, "balloon")))
		r = add_consume(f, VM_DEVICE, fixed_device(spec, "virtio-balloon-pci", "balloon-0", SLOT_BALLOON), NULL);
	if (r == 0 && needs_vserial(spec))
		r = add_consume(f, VM_DEVICE, fixed_device(spec, "virtio-serial-pci", "vserial-0", SLOT_VSERIAL), NULL);
	json_array_foreach(json_object_get(spec, "consoles"), i, console)
		if (r == 0)
			r = add_consume(f, VM_DEVICE, console_device(console), NULL);
	if (r == 0 && json_is_true(json_object_get(spec, "agent")))
		r = add_consume(f, VM_DEVICE,
				json_pack("{s:s, s:s, s:s, s:s, s:s}", "driver", "virtserialport", "id", "agent-port",
					  "bus", "vserial-0.0", "name", "org.qemu.guest_agent.0", "chardev", "agent"),
				NULL);
	if (r == 0 && text_of(display, "password-file"))
		r = vm_fragment_add_secret(f, VM_VNC_SECRET, text_of(display, "password-file"), true);
	if (r == 0 && streq(text_of(display, "type"), "vnc"))
		r = add_consume(f, VM_DEVICE, fixed_device(spec, "VGA", "vga-0", SLOT_VGA), NULL);
	if (r == 0 && json_object_get(spec, "watchdog"))
		r = add_consume(f, VM_DEVICE, fixed_device(spec, "i6300esb", "watchdog-0", SLOT_WATCHDOG), NULL);
	if (r == 0 && json_is_true(json_object_get(spec, "panic-device")))
		r = add_consume(f, VM_DEVICE, json_pack("{s:s, s:s}", "driver", "pvpanic", "id", "panic-0"), NULL);
	return r;
}

static int append(struct vm_fragments *all, struct vm_fragment *f, struct qmp_error *err)
{
	struct vm_fragment *list = realloc(all->list, (all->n + 1) * sizeof *list);

	if (!list)
		return out_of_memory(f, err);
	all->list = list;
	list[all->n++] = *f;
	return 0;
}

typedef int (*item_builder)(const json_t *, const json_t *, const struct vm_host *, struct vm_fragment *,
			    struct qmp_error *);

static int append_items(const json_t *spec, const char *kind, item_builder build, const struct vm_host *host,
			struct vm_fragments *all, struct qmp_error *err)
{
	json_t *item;
	size_t i;

	json_array_foreach(json_object_get(spec, kind), i, item)
	{
		struct vm_fragment f;
		int r = build(spec, item, host, &f, err);
		if (r < 0 || (r = append(all, &f, err)) < 0)
			return r;
	}
	return 0;
}

int vm_fragments_all(const json_t *spec, const struct vm_host *host, struct vm_fragments *ret, struct qmp_error *err)
{
	struct vm_fragments all = {0};
	struct vm_fragment f = {.item = strdup("machine")};
	int r = f.item ? fixed_devices(spec, host, &f) : -ENOMEM;

	r = r < 0 ? out_of_memory(&f, err) : append(&all, &f, err);
	if (r == 0 && json_object_get(spec, "scsi-port")) {
		r = vm_fragment_scsi(spec, host, &f, err);
		if (r == 0)
			r = append(&all, &f, err);
	}
	if (r == 0)
		r = append_items(spec, "disks", vm_fragment_disk, host, &all, err);
	if (r == 0)
		r = append_items(spec, "nics", vm_fragment_nic, host, &all, err);
	if (r < 0)
		vm_fragments_deinit(&all);
	else
		*ret = all;
	return r;
}
