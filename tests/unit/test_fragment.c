#include "launcher/fragment.h"
#include "launcher/spec.h"
#include "proto/base.h"
#include "tests/unit/check.h"

static const struct vm_host host = {"tcg", "max", "pc-q35-7.2", false};

static json_t *effective(const char *text)
{
	struct qmp_error err = {0};
	json_auto_t *spec = NULL;

	if (vm_spec_parse(text, strlen(text), "t", &spec, &err) < 0 || vm_spec_complete(spec, &err) < 0)
		check_fail(__FILE__, __LINE__, text, "a spec", err.message);
	return vm_spec_effective(spec);
}

/* The first disk of TEXT; what TEXT lacks for that is a defect of the test. */
static struct vm_fragment disk_of(const json_t *spec)
{
	struct qmp_error err = {0};
	struct vm_fragment f = {0};

	if (vm_fragment_disk(spec, json_array_get(json_object_get(spec, "disks"), 0), &host, &f, &err) < 0)
		check_fail(__FILE__, __LINE__, "vm_fragment_disk", "a fragment", err.message);
	return f;
}

static void test_order_of_a_disk(void)
{
	static const char *const ids[] = {"vda-iothread", "vda-b2-file", "vda-b2", "vda-b1-file", "vda-b1", "vda-file",
					  "vda-fmt", "vda-limits", "vda-throttle", "vda"};
	json_auto_t *spec = effective("{\"name\": \"t\", \"disks\": [{\"path\": \"/a\", \"format\": \"qcow2\", \"iothread\": true,"
				      "\"throttle\": {\"iops-total\": 1}, \"backing\": {\"path\": \"/b\", \"format\": \"qcow2\","
				      "\"backing\": {\"path\": \"/dev/c\", \"format\": \"raw\"}}}]}");
	struct vm_fragment f = disk_of(spec);

	CHECK_STR(f.item, "disks.vda");
	CHECK_INT(f.n_objects, ARRAY_SIZE(ids));
	for (size_t i = 0; i < f.n_objects; i++) {
		const json_t *args = f.objects[i].args;
		CHECK_STR(text_of(args, text_of(args, "node-name") ? "node-name" : "id"), ids[i]);
	}
	CHECK_STR(text_of(f.objects[1].args, "driver"), "host_device");
	CHECK(!json_object_get(f.objects[2].args, "backing")); /* raw knows none: QEMU refuses the member */
	CHECK_STR(text_of(f.objects[4].args, "backing"), "vda-b2");
	CHECK_STR(text_of(f.objects[6].args, "backing"), "vda-b1");
	CHECK_STR(text_of(f.objects[9].args, "drive"), "vda-throttle");
	vm_fragment_deinit(&f);
}

/* qcow2 without a chain says so: QEMU must not open what the image's header names. */
static void test_no_backing_is_said(void)
{
	json_auto_t *spec = effective("{\"name\": \"t\", \"disks\": [{\"path\": \"/a\", \"format\": \"qcow2\"}]}");
	struct vm_fragment f = disk_of(spec);

	CHECK(json_is_null(json_object_get(f.objects[1].args, "backing")));
	vm_fragment_deinit(&f);
}

/* Credentials come before the node that uses them, and go after it; an image below has its own. */
static void test_servers(void)
{
	static const char *const ids[] = {"vda-b1-tls", "vda-b1-file", "vda-b1", "vda-tls", "vda-file", "vda-fmt", "vda"};
	json_auto_t *spec = effective("{\"name\": \"t\", \"disks\": [{\"path\": \"nbd://h/a\", \"format\": \"qcow2\", \"tls\": {\"dir\": "
				      "\"/x\", \"hostname\": \"n\"}, \"backing\": {\"path\": \"nbd+unix:///b?socket=/s\", \"format\": "
				      "\"raw\", \"tls\": {\"dir\": \"/p\", \"type\": \"psk\", \"username\": \"u\"}}}]}");
	struct vm_fragment f = disk_of(spec);

	CHECK_INT(f.n_objects, ARRAY_SIZE(ids));
	for (size_t i = 0; i < f.n_objects; i++)
		CHECK_STR(vm_object_id(&f.objects[i]), ids[i]);
	CHECK_STR(text_of(f.objects[0].args, "qom-type"), "tls-creds-psk");
	CHECK_STR(text_of(f.objects[0].args, "username"), "u");
	CHECK_STR(text_of(f.objects[1].args, "tls-creds"), "vda-b1-tls");
	CHECK(json_is_true(json_object_get(f.objects[1].args, "read-only")));
	CHECK_STR(text_of(f.objects[3].args, "qom-type"), "tls-creds-x509");
	CHECK_STR(text_of(f.objects[4].args, "tls-creds"), "vda-tls");
	CHECK_STR(text_of(f.objects[4].args, "tls-hostname"), "n");
	CHECK(!json_object_get(f.objects[4].args, "aio"));
	vm_fragment_deinit(&f);
}

static void test_cache_modes(void)
{
	static const struct {
		const char *cache, *write_cache;
		bool direct, no_flush;
	} modes[] = {{"none", "on", true, false},
		     {"writeback", "on", false, false},
		     {"writethrough", "off", false, false},
		     {"directsync", "off", true, false},
		     {"unsafe", "on", false, true}};

	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		_cleanup_free_ char *text = qmp_asprintf(
			"{\"name\": \"t\", \"disks\": [{\"path\": \"/a\", \"format\": \"raw\", \"cache\": \"%s\"}]}", modes[i].cache);
		json_auto_t *spec = effective(text);
		struct vm_fragment f = disk_of(spec);
		for (size_t node = 0; node < 2; node++) {
			const json_t *cache = json_object_get(f.objects[node].args, "cache");
			CHECK_INT(json_is_true(json_object_get(cache, "direct")), modes[i].direct);
			CHECK_INT(json_is_true(json_object_get(cache, "no-flush")), modes[i].no_flush);
		}
		CHECK_STR(text_of(f.objects[2].args, "write-cache"), modes[i].write_cache);
		vm_fragment_deinit(&f);
	}
}

/* What a user names stands in one JSON string and nowhere else. */
static void test_hostile_strings_arrive(void)
{
	static const char path[] = "/json:{\"driver\":\"null-co\"}\n,x=y", serial[] = "-,\"\\ \t'";
	json_auto_t *spec = effective("{\"name\": \"t\", \"disks\": [{\"path\": \"/json:{\\\"driver\\\":\\\"null-co\\\"}\\n,x=y\","
				      "\"format\": \"raw\", \"serial\": \"-,\\\"\\\\ \\t'\"}]}");
	struct vm_fragment f = disk_of(spec);

	CHECK_STR(text_of(f.objects[0].args, "driver"), "file");
	CHECK_STR(text_of(f.objects[0].args, "filename"), path);
	CHECK_STR(text_of(f.objects[2].args, "serial"), serial);
	vm_fragment_deinit(&f);
}

static void test_places(void)
{
	json_auto_t *q35 = effective("{\"name\": \"t\", \"machine\": {\"ports\": 64}}");
	json_auto_t *pc = effective("{\"name\": \"t\", \"machine\": {\"type\": \"pc-i440fx-7.2\", \"ports\": 64}}");
	json_auto_t *device = json_object();
	struct qmp_error err = {0};

	CHECK_INT(vm_spec_ports(q35), 64);
	CHECK_INT(vm_spec_ports(pc), 16);
	CHECK_INT(vm_pci_place(q35, 64, device, &err), 0);
	CHECK_STR(text_of(device, "bus"), "port-64");
	CHECK_STR(text_of(device, "addr"), "0");
	CHECK_INT(vm_pci_place(pc, 16, device, &err), 0);
	CHECK_STR(text_of(device, "bus"), "pci.0");
	CHECK_STR(text_of(device, "addr"), "12.0");
	CHECK_INT(vm_pci_place(pc, 17, device, &err), -ENOSPC);
	CHECK_CONTAINS(err.message, "16 ports");
	CHECK_INT(vm_pci_place(q35, 0, device, NULL), -ENOSPC);
}

static void test_nics(void)
{
	json_auto_t *spec = effective("{\"name\": \"t\", \"nics\": [{\"backend\": \"none\"}, {\"backend\": \"bridge\", \"bridge\": \"br0\"},"
				      "{\"backend\": \"stream\", \"socket\": \"/s\"}, {\"hostname\": \"h\", \"net\": \"10.9.0.0/24\"}]}");
	static const char *const types[] = {NULL, "tap", "stream", "user"};
	json_t *nics = json_object_get(spec, "nics");

	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		struct vm_fragment f = {0};
		const json_t *device;
		CHECK_INT(vm_fragment_nic(spec, json_array_get(nics, i), &host, &f, NULL), 0);
		device = f.objects[f.n_objects - 1].args;
		CHECK_INT(f.n_objects, types[i] ? 2 : 1);
		CHECK_INT(json_object_get(device, "netdev") != NULL, types[i] != NULL);
		CHECK(text_of(device, "mac"));
		if (types[i])
			CHECK_STR(text_of(f.objects[0].args, "type"), types[i]);
		if (i == 1) {
			CHECK_STR(f.objects[0].fd_name, "net1-tap");
			CHECK(json_is_false(json_object_get(f.objects[0].args, "vhost")));
		}
		if (i == 3)
			CHECK_STR(text_of(f.objects[0].args, "net"), "10.9.0.0/24");
		vm_fragment_deinit(&f);
	}
}

/* No id twice, whatever the spec has. */
static void test_ids_are_unique(void)
{
	json_auto_t *spec = effective("{\"name\": \"t\", \"disks\": [{\"path\": \"/a\", \"format\": \"raw\"}, {\"path\": \"/b\", \"format\":"
				      "\"raw\", \"bus\": \"scsi\"}, {\"type\": \"cdrom\"}], \"nics\": [{}, {}], \"consoles\": [{}, "
				      "{\"type\": \"virtio\"}], \"watchdog\": {}, \"display\": {\"type\": \"vnc\"}}");
	json_auto_t *seen = json_object();
	struct vm_fragments all = {0};

	CHECK_INT(vm_fragments_all(spec, &host, &all, NULL), 0);
	for (size_t i = 0; i < all.n; i++)
		for (size_t k = 0; k < all.list[i].n_objects; k++) {
			const struct vm_object *o = &all.list[i].objects[k];
			const char *id = text_of(o->args, o->kind == VM_BLOCKDEV ? "node-name" : "id");
			CHECK(id);
			if (json_object_get(seen, id))
				check_fail(__FILE__, __LINE__, "ids", "each once", id);
			json_object_set_new(seen, id, json_true());
		}
	vm_fragments_deinit(&all);
}

int main(void)
{
	RUN(test_order_of_a_disk);
	RUN(test_no_backing_is_said);
	RUN(test_cache_modes);
	RUN(test_servers);
	RUN(test_hostile_strings_arrive);
	RUN(test_places);
	RUN(test_nics);
	RUN(test_ids_are_unique);
	return 0;
}
