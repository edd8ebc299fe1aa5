/*
 * What QEMU has, out of replies recorded from 7.2 and 10.0: a VM at -S with a disk on virtio (throttled, with an I/O thread;
 * its path holds a comma, a newline and what looks like a netdev), one on scsi, two NICs, and two things that another client
 * made: a netdev that nothing uses, and a device on port 6.
 */
#include "launcher/inventory.h"
#include "launcher/spec.h"
#include "proto/base.h"
#include "tests/unit/check.h"

static const struct vm_host host = {"kvm", "qemu64", "pc-q35-7.2", false};
static const char *const recordings[] = {"inventory-7.2-q35.json", "inventory-10.0-q35.json", "inventory-7.2-pc.json",
					 "inventory-10.0-pc.json"};

struct recording {
	json_t *all, *spec;
	struct vm_inventory *inv;
};

static struct recording load(const char *name)
{
	_cleanup_free_ char *path = qmp_asprintf("%s/tests/unit/data/%s", SOURCE_DIR, name);
	struct recording r = {.all = json_load_file(path, 0, NULL)};
	struct qmp_error err = {0};

	r.spec = json_object_get(r.all, "spec");
	r.inv = vm_inventory_decode(r.spec, json_object_get(r.all, "answers"), &err);
	if (!r.inv)
		check_fail(__FILE__, __LINE__, name, "an inventory", err.message);
	CHECK_INT(json_array_size(r.inv->others), vm_spec_is_pc(r.spec) ? 0 : 1);
	if (!vm_spec_is_pc(r.spec))
		CHECK_STR(json_string_value(json_array_get(r.inv->others, 0)), "/machine/peripheral/theirs");
	vm_inventory_decode_places(r.inv, json_object_get(r.all, "places"));
	CHECK_INT(json_array_size(r.inv->others), 0);
	return r;
}

static void unload(struct recording *r)
{
	vm_inventory_free(r->inv);
	json_decref(r->all);
}

#define EACH(r)                                                                                              \
	for (size_t i_ = 0; i_ < ARRAY_SIZE(recordings); i_++)                                               \
		for (struct recording r = load(recordings[i_]); r.all; unload(&r), r.all = NULL)

/* As many answers as questions: what was recorded is what is asked. */
static void test_questions(void)
{
	EACH(r)
	{
		json_auto_t *questions = vm_inventory_questions(r.spec);
		CHECK_INT(json_array_size(questions), json_array_size(json_object_get(r.all, "answers")));
		CHECK_INT(json_array_size(questions), 6);
		json_auto_t *places = vm_inventory_place_questions(r.inv);
		CHECK_INT(json_array_size(places), 0); /* answered */
	}
}

static size_t objects_there(const struct vm_inventory *inv, const struct vm_fragment *f)
{
	size_t there = 0;

	for (size_t i = 0; i < f->n_objects; i++)
		there += vm_inventory_has(inv, f->objects[i].kind, vm_object_id(&f->objects[i]));
	return there;
}

static void test_all_that_the_spec_says_is_there(void)
{
	EACH(r)
	{
		struct vm_fragments all;
		CHECK_INT(vm_fragments_all(r.spec, &host, &all, NULL), 0);
		for (size_t i = 0; i < all.n; i++)
			if (objects_there(r.inv, &all.list[i]) != all.list[i].n_objects)
				check_fail(recordings[i_], __LINE__, all.list[i].item, "present", "not");
		vm_fragments_deinit(&all);
		CHECK(json_object_get(r.inv->chardevs, "con-con0"));
	}
}

static void test_what_others_made_and_what_nobody_made(void)
{
	EACH(r)
	{
		CHECK(vm_inventory_has(r.inv, VM_NETDEV, "free-netdev"));
		CHECK(vm_inventory_has(r.inv, VM_DEVICE, "theirs"));
		CHECK(!vm_inventory_has(r.inv, VM_NETDEV, "net0")); /* its NIC, not a netdev */
		CHECK(!vm_inventory_has(r.inv, VM_NETDEV, "zz-netdev"));
		CHECK(!vm_inventory_has(r.inv, VM_DEVICE, "type"));
		CHECK(!vm_inventory_has(r.inv, VM_OBJECT, "type"));
		CHECK(!vm_inventory_has(r.inv, VM_BLOCKDEV, "vda"));
		CHECK(!vm_inventory_has(r.inv, VM_DEVICE, NULL));
		CHECK_INT(json_object_size(r.inv->netdevs), 3);
	}
}

static void test_what_else_there_is(void)
{
	EACH(r)
	{
		json_auto_t *argv = json_pack("[s, s, s, s]", "-chardev", "socket,id=qmp,fd=3", "-device", "{\"id\": \"theirs\"}");
		json_auto_t *others = vm_inventory_others(r.inv, r.spec, &host, NULL), *rest = NULL;
		json_auto_t *wanted = json_pack("[{s:s, s:s, s:s}, {s:s, s:s}, {s:s, s:s}, {s:s, s:s}, {s:s, s:s}]", "kind", "device", "id",
						"theirs", "type", "virtio-rng-pci", "kind", "netdev", "id", "free-netdev", "kind",
						"chardev", "id", "qmp", "kind", "chardev", "id", "con-con0", "kind", "chardev", "id", "agent");
		_cleanup_free_ char *has = json_dumps(others, JSON_SORT_KEYS), *want = json_dumps(wanted, JSON_SORT_KEYS);
		CHECK_STR(has, want);
		rest = vm_inventory_others(r.inv, r.spec, &host, argv);
		CHECK_INT(json_array_size(rest), 3); /* what the command line names is known */
	}
}

static bool is_free(const struct vm_inventory *inv, int64_t port)
{
	char key[24];

	snprintf(key, sizeof key, "%lld", (long long)port);
	return port >= 1 && port <= inv->n_ports && !json_object_get(inv->ports, key);
}

static int64_t free_ports(const struct vm_inventory *inv)
{
	return inv->n_ports - (int64_t)json_object_size(inv->ports);
}

/* vda, scsi-0, net0 and net1 have theirs from the spec; port 5 is free, 6 is somebody's. */
static void test_ports(void)
{
	EACH(r)
	{
		for (int64_t port = 0; port <= 7; port++)
			CHECK_INT(is_free(r.inv, port), port == 5);
		CHECK_INT(free_ports(r.inv), 1);
	}
}

static void test_a_port_that_is_not_there_is_not_free(void)
{
	struct recording r = load(recordings[0]);
	json_t *devices = json_array_get(json_object_get(r.all, "answers"), 2), *device;
	size_t i;

	json_array_foreach(devices, i, device)
		if (streq(json_string_value(json_object_get(device, "name")), "port-5"))
			json_array_remove(devices, i--);
	vm_inventory_free(r.inv);
	r.inv = vm_inventory_decode(r.spec, json_object_get(r.all, "answers"), NULL);
	CHECK(!is_free(r.inv, 5));
	unload(&r);
}

/* Devices without an id are asked for their place, too; what has none, or has gone meanwhile, takes no port. */
static void test_places_of_others(void)
{
	static const struct {
		const char *answers;
		int64_t free;
	} cases[] = {{"[null, null]", 2}, {"[\"\", \"/machine/unattached/device[3]/isa.0\"]", 2}, {"[]", 2}, {"[5, {}]", 2},
		     {"[\"/machine/peripheral/port-6/port-6\", \"/machine/peripheral/port-5/port-5\"]", 0},
		     {"[\"/machine/peripheral/port-99999999999999999999/port-6\", \"/machine/peripheral/port-0/port-0\"]", 2}};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct recording r = load(recordings[1]);
		json_t *answers = json_object_get(r.all, "answers");
		json_auto_t *places = json_loads(cases[i].answers, 0, NULL), *questions = NULL;
		vm_inventory_free(r.inv);
		json_array_append_new(json_array_get(answers, 5),
				      json_pack("{s:s, s:s}", "name", "device[0]", "type", "child<isa-serial>"));
		r.inv = vm_inventory_decode(r.spec, answers, NULL);
		questions = vm_inventory_place_questions(r.inv);
		CHECK_INT(json_array_size(questions), 2);
		CHECK_STR(json_string_value(json_object_get(json_object_get(json_array_get(questions, 1), "arguments"), "path")),
			  "/machine/peripheral-anon/device[0]");
		vm_inventory_decode_places(r.inv, places);
		CHECK_INT(free_ports(r.inv), cases[i].free);
		unload(&r);
	}
}

static void test_answers_of_the_wrong_kind(void)
{
	struct recording r = load(recordings[0]);
	static const char *const wrong[] = {"[]", "[null, null, null, null, null, null]", "[{}, 1, \"a\", [], [], []]",
					    "[[1], [{}], [{\"name\": 1}], [[]], 5, [{}]]"};

	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		json_auto_t *answers = json_loads(wrong[i], 0, NULL);
		struct qmp_error err = {0};
		CHECK(!vm_inventory_decode(r.spec, answers, &err));
		CHECK_INT(err.kind, QMP_ERR_PROTOCOL);
	}
	unload(&r);
}

/* Nothing differs in what was recorded; then things go. */
static void test_differences(void)
{
	EACH(r)
	{
		json_auto_t *none = vm_inventory_differences(r.inv, r.spec, &host), *some = NULL, *wanted = NULL;
		CHECK_INT(json_array_size(none), 0);
		json_object_del(r.inv->devices, "balloon-0");
		json_object_del(r.inv->devices, "vda");
		json_object_del(r.inv->objects, "vda-limits");
		json_object_del(r.inv->devices, "net0");
		json_object_del(r.inv->netdevs, "net0-netdev");
		json_object_set_new(json_object_get(r.inv->nodes, "sda-file"), "file", json_string("/other"));
		some = vm_inventory_differences(r.inv, r.spec, &host);
		wanted = json_loads("[{\"item\": \"machine\", \"state\": \"partial\", \"missing\": [\"balloon-0\"]},"
				    "{\"item\": \"disks.vda\", \"state\": \"partial\", \"missing\": [\"vda-limits\", \"vda\"]},"
				    "{\"item\": \"disks.sda\", \"state\": \"changed\", \"wants\": \"/w/b.img\", \"has\": \"/other\"},"
				    "{\"item\": \"nics.net0\", \"state\": \"gone\", \"missing\": [\"net0-netdev\", \"net0\"]}]",
				    0, NULL);
		CHECK(wanted);
		_cleanup_free_ char *text = json_dumps(some, 0), *want = json_dumps(wanted, 0);
		CHECK_STR(text, want);
	}
}

/* ---- Plans against it ---- */

/* The commands of a plan, "blockdev-add blockdev-add device_add". */
static void commands_are(const json_t *plan, const char *want)
{
	char text[512] = "";
	json_t *step;
	size_t i;

	json_array_foreach(plan, i, step)
		snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", i ? " " : "", text_of(step, "execute"));
	CHECK_STR(text, want);
}

static struct vm_fragment fragment_of(const json_t *spec, const char *kind, const char *id)
{
	struct vm_fragment f;

	CHECK_INT((streq(kind, "disks") ? vm_fragment_disk : vm_fragment_nic)(spec, vm_spec_find(spec, kind, id), &host, &f,
									     NULL),
		  0);
	return f;
}

static json_t *left_to_undo(const struct vm_inventory *inv, const json_t *plan)
{
	json_auto_t *undo = vm_plan_undo(plan);

	return vm_inventory_left(inv, undo);
}

static void test_left_and_undo_at_every_point(void)
{
	struct recording r = load(recordings[0]);
	struct vm_fragment f = fragment_of(r.spec, "disks", "vda");
	json_auto_t *add = json_array(), *removal = json_array();

	CHECK_INT(vm_plan_add(add, &f, NULL), 0);
	CHECK_INT(vm_plan_remove(removal, &f, 1000, NULL), 0);
	CHECK_INT(json_array_size(add), 6); /* iothread, file, format, group, throttle, device */
	json_object_clear(r.inv->nodes);
	json_object_clear(r.inv->objects);
	json_object_clear(r.inv->devices);
	for (size_t done = 0; done <= 6; done++) {
		json_auto_t *left = vm_inventory_left(r.inv, add), *undo = left_to_undo(r.inv, add);
		json_auto_t *to_remove = vm_inventory_left(r.inv, removal), *add_again = left_to_undo(r.inv, removal);
		CHECK_INT(json_array_size(left), 6 - done);
		CHECK_INT(json_array_size(undo), done);
		CHECK_INT(json_array_size(to_remove), done);
		CHECK_INT(json_array_size(add_again), 6 - done);
		for (size_t i = 0; i < json_array_size(undo); i++)
			CHECK(json_equal(json_object_get(json_array_get(undo, i), "arguments"),
					 json_object_get(json_array_get(to_remove, i), "arguments")));
		for (size_t i = 0; i < json_array_size(left); i++)
			CHECK(json_equal(json_object_get(json_array_get(left, i), "arguments"),
					 json_object_get(json_array_get(add_again, i), "arguments")));
		if (done == 6)
			continue;
		CHECK_INT(objects_there(r.inv, &f), done);
		json_t *const maps[] = {r.inv->objects, r.inv->nodes, r.inv->netdevs, r.inv->devices};
		json_object_set_new(maps[f.objects[done].kind], vm_object_id(&f.objects[done]), json_true());
	}
	CHECK_INT(objects_there(r.inv, &f), 6);
	vm_fragment_deinit(&f);
	unload(&r);
}

/* An fd belongs to its netdev: sent again where that is to be made, and not where it is there. */
static void test_a_tap(void)
{
	struct recording r = load(recordings[0]);
	json_t *nic = vm_spec_find(r.spec, "nics", "net0");
	json_auto_t *add = json_array(), *removal = json_array();
	struct vm_fragment f;

	json_object_set_new(nic, "backend", json_string("tap"));
	f = fragment_of(r.spec, "nics", "net0");
	CHECK_INT(vm_plan_add(add, &f, NULL), 0);
	CHECK_INT(vm_plan_remove(removal, &f, 1000, NULL), 0);
	json_object_del(r.inv->devices, "net0");
	{
		json_auto_t *left = vm_inventory_left(r.inv, add), *undo = left_to_undo(r.inv, add);
		commands_are(left, "device_add");
		commands_are(undo, "netdev_del closefd");
		CHECK(json_is_true(json_object_get(json_array_get(undo, 1), "optional")));
	}
	json_object_del(r.inv->netdevs, "net0-netdev");
	{
		json_auto_t *left = vm_inventory_left(r.inv, add), *again = left_to_undo(r.inv, removal);
		commands_are(left, "getfd netdev_add device_add");
		commands_are(again, "getfd netdev_add device_add");
		CHECK_STR(text_of(json_array_get(again, 0), "fd"), "net0-tap");
	}
	vm_fragment_deinit(&f);
	unload(&r);
}

/* What QEMU cannot be asked about is done again. */
static void test_limits_are_set_again(void)
{
	struct recording r = load(recordings[0]);
	json_auto_t *want = json_deep_copy(r.spec), *plan = json_array(), *later = json_array(), *left = NULL, *undo = NULL;

	json_object_set_new(json_object_get(vm_spec_find(want, "disks", "vda"), "throttle"), "iops-total", json_integer(7));
	CHECK_INT(vm_diff(r.spec, want, &host, 1000, plan, later, NULL), 0);
	left = vm_inventory_left(r.inv, plan);
	undo = left_to_undo(r.inv, plan);
	commands_are(left, "qom-set");
	commands_are(undo, "qom-set");
	CHECK(!json_equal(json_array_get(left, 0), json_array_get(undo, 0)));
	unload(&r);
}

int main(void)
{
	RUN(test_questions);
	RUN(test_all_that_the_spec_says_is_there);
	RUN(test_what_others_made_and_what_nobody_made);
	RUN(test_ports);
	RUN(test_a_port_that_is_not_there_is_not_free);
	RUN(test_places_of_others);
	RUN(test_answers_of_the_wrong_kind);
	RUN(test_differences);
	RUN(test_what_else_there_is);
	RUN(test_left_and_undo_at_every_point);
	RUN(test_a_tap);
	RUN(test_limits_are_set_again);
	return 0;
}
