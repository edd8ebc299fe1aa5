/*
 * What holds for every plan; the plans themselves are compared in test_argv.c with golden files.
 */
#include "launcher/plan.h"
#include "launcher/spec.h"
#include "proto/base.h"
#include "tests/unit/check.h"

static const struct vm_host host = {"tcg", "max", "pc-q35-7.2", false};

static const char full[] =
	"{\"name\": \"t\", \"uuid\": \"00000000-0000-4000-8000-000000000001\", \"disks\": [{\"path\": \"/a\", \"format\": \"qcow2\", \"iothread\": true,"
	"\"throttle\": {\"iops-total\": 9}, \"backing\": {\"path\": \"/b\", \"format\": \"raw\"}}],"
	"\"nics\": [{\"backend\": \"tap\", \"interface\": \"tap0\", \"mac\": \"52:54:00:00:00:01\"}]}";
static const char none[] = "{\"name\": \"t\", \"uuid\": \"00000000-0000-4000-8000-000000000001\"}";

static json_t *effective(const char *text)
{
	struct qmp_error err = {0};
	json_auto_t *spec = NULL;

	if (vm_spec_parse(text, strlen(text), "t", &spec, &err) < 0 || vm_spec_complete(spec, &err) < 0)
		check_fail(__FILE__, __LINE__, text, "a spec", err.message);
	return vm_spec_effective(spec);
}

static json_t *diff(const char *have_text, const char *want_text, size_t later_expected)
{
	json_auto_t *have = effective(have_text), *want = effective(want_text), *later = json_array();
	json_t *plan = json_array();
	struct qmp_error err = {0};

	if (vm_diff(have, want, &host, 1234, plan, later, &err) < 0)
		check_fail(__FILE__, __LINE__, "vm_diff", "a plan", err.message);
	CHECK_INT(json_array_size(later), later_expected);
	return plan;
}

/* The undos of adding, backwards, are the removal: the same commands with the same arguments. */
static void test_undo_is_removal(void)
{
	json_auto_t *add = diff(none, full, 0), *removal = diff(full, none, 0), *undone = json_array(), *wanted = json_array();
	json_t *step;
	size_t i;

	/* by item: steps of different items do not depend on each other */
	static const char *const items[] = {"disks.vda", "nics.net0"};
	for (size_t k = 0; k < ARRAY_SIZE(items); k++) {
		for (i = json_array_size(add); i > 0; i--) {
			step = json_array_get(add, i - 1);
			if (streq(text_of(step, "item"), items[k]) && !json_object_get(step, "fd"))
				json_array_append_new(undone, json_copy(json_object_get(step, "undo")));
		}
		json_array_foreach(removal, i, step)
			if (streq(text_of(step, "item"), items[k]))
				json_array_append_new(wanted, json_copy(step));
	}
	CHECK_INT(json_array_size(undone), json_array_size(wanted));
	json_array_foreach(undone, i, step)
	{
		const json_t *other = json_array_get(wanted, i);
		CHECK_STR(text_of(step, "execute"), text_of(other, "execute"));
		CHECK(json_equal(json_object_get(step, "arguments"), json_object_get(other, "arguments")));
	}
}

/* Every device_del waits for the event of that very device, with a deadline. */
static void test_removal_waits(void)
{
	json_auto_t *plan = diff(full, none, 0);
	json_t *step;
	size_t i, waits = 0;

	json_array_foreach(plan, i, step)
	{
		const json_t *wait = json_object_get(step, "wait");
		bool device = streq(text_of(step, "execute"), "device_del");
		CHECK(text_of(step, "item"));
		CHECK_INT(wait != NULL, device);
		if (!device)
			continue;
		CHECK_STR(text_of(wait, "event"), "DEVICE_DELETED");
		CHECK_STR(text_of(json_object_get(wait, "match"), "device"), text_of(json_object_get(step, "arguments"), "id"));
		CHECK_INT(json_integer_value(json_object_get(wait, "timeout")), 1234);
		waits++;
	}
	CHECK_INT(waits, 2);
}

static void test_fd_goes_before_its_netdev(void)
{
	json_auto_t *plan = diff(none, full, 0);
	json_t *step;
	size_t i;

	json_array_foreach(plan, i, step)
		if (streq(text_of(step, "execute"), "getfd")) {
			const json_t *next = json_array_get(plan, i + 1);
			CHECK_STR(text_of(step, "fd"), "net0-tap");
			CHECK_STR(text_of(next, "execute"), "netdev_add");
			CHECK_STR(text_of(json_object_get(next, "arguments"), "fd"), "net0-tap");
			return;
		}
	check_fail(__FILE__, __LINE__, "the plan", "a getfd step", "none");
}

static void test_no_difference_no_plan(void)
{
	json_auto_t *plan = diff(full, full, 0);

	CHECK_INT(json_array_size(plan), 0);
}

/* Removals free their ports for what is added. */
static void test_removals_come_first(void)
{
	json_auto_t *plan = diff("{\"name\": \"t\", \"uuid\": \"00000000-0000-4000-8000-000000000001\", \"nics\": [{\"id\": \"a\", \"port\": 1}]}",
				 "{\"name\": \"t\", \"uuid\": \"00000000-0000-4000-8000-000000000001\", \"nics\": [{\"id\": \"b\", \"port\": 1}]}", 0);

	CHECK_STR(text_of(json_array_get(plan, 0), "execute"), "device_del");
	CHECK_STR(text_of(json_array_get(plan, 1), "execute"), "netdev_del");
	CHECK_STR(text_of(json_array_get(plan, 2), "execute"), "netdev_add");
}

static void test_what_waits_for_the_next_start(void)
{
	json_auto_t *plan = diff(none, "{\"name\": \"t\", \"uuid\": \"00000000-0000-4000-8000-000000000001\", \"memory\": \"1G\","
				       "\"disks\": [{\"type\": \"cdrom\"}]}", 2);

	CHECK_INT(json_array_size(plan), 0);
}

/* Whatever part of a change's plan has been run, the items that it touches are as wanted, and the others as they were. */
static void test_result(void)
{
	json_auto_t *have = effective(none), *want = effective(full), *add = diff(none, full, 0), *removal = diff(full, none, 0);
	json_auto_t *undo = vm_plan_undo(removal), *first = json_array(), *all = NULL, *back = NULL, *part = NULL;

	all = vm_plan_result(have, want, add);
	CHECK(json_equal(json_object_get(all, "disks"), json_object_get(want, "disks")));
	CHECK(json_equal(json_object_get(all, "nics"), json_object_get(want, "nics")));
	back = vm_plan_result(all, have, removal);
	CHECK(json_equal(back, have));
	json_array_append(first, json_array_get(removal, 0));
	CHECK_STR(text_of(json_array_get(first, 0), "item"), "disks.vda");
	part = vm_plan_result(all, have, first);
	CHECK_INT(json_array_size(json_object_get(part, "disks")), 0);
	CHECK_INT(json_array_size(json_object_get(part, "nics")), 1);
	CHECK_INT(json_array_size(undo), json_array_size(add)); /* the getfd is there in both */
}

int main(void)
{
	RUN(test_result);
	RUN(test_undo_is_removal);
	RUN(test_removal_waits);
	RUN(test_fd_goes_before_its_netdev);
	RUN(test_no_difference_no_plan);
	RUN(test_removals_come_first);
	RUN(test_what_waits_for_the_next_start);
	return 0;
}
