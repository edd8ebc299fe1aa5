#include "launcher/record.h"
#include "launcher/spec.h"
#include "proto/base.h"
#include "tests/unit/check.h"

static json_t *plain_record(void)
{
	json_t *spec = json_pack("{s:s, s:[{s:s}]}", "name", "a", "disks", "type", "cdrom"), *record;

	CHECK_INT(vm_spec_complete(spec, NULL), 1);
	record = json_pack("{s:o, s:{s:s, s:s, s:s, s:s, s:{s:i, s:i, s:i}}, s:[s], s:i}", "spec", spec, "host", "accel", "tcg",
			   "cpu-model", "max", "machine", "pc-q35-7.2", "binary", "/q", "qemu-version", "major", 7, "minor", 2,
			   "micro", 0, "argv", "/q", "started", 1);
	CHECK(record);
	return record;
}

/* Refused with WHY once KEY is VALUE (or gone, where that is NULL); KEY may be "host.accel". */
static void refused(const char *key, json_t *value_consume, const char *why)
{
	json_auto_t *record = plain_record();
	const char *dot = strchr(key, '.');
	_cleanup_free_ char *first = strndup(key, dot ? (size_t)(dot - key) : strlen(key));
	json_t *at = dot ? json_object_get(record, first) : record;
	struct qmp_error err = {0};

	if (value_consume)
		json_object_set_new(at, dot ? dot + 1 : key, value_consume);
	else
		json_object_del(at, dot ? dot + 1 : key);
	CHECK(vm_record_check(record, &err) < 0);
	CHECK_INT(err.kind, QMP_ERR_HOST);
	CHECK_CONTAINS(err.message, "another version");
	CHECK_CONTAINS(err.message, why);
}

static void test_what_is_damaged_is_refused(void)
{
	refused("spec", NULL, "there is no \"spec\"");
	refused("spec", json_array(), "there is no \"spec\"");
	refused("spec.uuid", NULL, "not complete");
	refused("spec.disks", json_pack("[{s:s}]", "type", "cdrom"), "not complete");
	refused("spec.disks", json_pack("[{s:i}]", "id", 1), "disks[0].id");
	refused("spec.of-tomorrow", json_true(), "of-tomorrow");
	refused("host", NULL, "\"host\"");
	refused("host.accel", json_null(), "\"host\"");
	refused("host.qemu-version", json_pack("{s:s}", "major", "7"), "\"host\"");
	refused("argv", NULL, "\"argv\"");
	refused("argv", json_pack("[s, i]", "a", 1), "\"argv\"");
}

/* What an older version wrote lacks what has been added since. */
static void test_new_fields_get_their_defaults(void)
{
	json_auto_t *record = plain_record(), *before = NULL;
	struct qmp_error err = {0};
	json_t *spec;

	CHECK_INT(vm_record_check(record, &err), 0);
	spec = json_object_get(record, "spec");
	CHECK_STR(json_string_value(json_object_get(spec, "on-reboot")), "reset");
	CHECK_STR(json_string_value(json_object_get(json_array_get(json_object_get(spec, "disks"), 0), "bus")), "sata");
	before = json_deep_copy(record);
	CHECK_INT(vm_record_check(record, &err), 0);
	CHECK(json_equal(record, before));
}

/* What VALUE (NULL: nothing) at KEY makes of an entry of the journal; "plan" is its only step. */
static bool change_is_whole(const char *place, const char *key, json_t *value_consume)
{
	json_auto_t *entry = json_pack("{s:s, s:s, s:i, s:[{s:s, s:s, s:{s:s}, s:{s:s, s:i}, s:{s:s}}]}", "stage", "begun", "operation",
				       "qmpctl-set", "since", 1, "plan", "item", "disks.vda", "execute", "device_del",
				       "arguments", "id", "vda", "wait", "event", "DEVICE_DELETED", "timeout", 1, "undo",
				       "execute", "x");
	json_t *step = json_array_get(json_object_get(entry, "plan"), 0);
	json_t *at = streq(place, "entry") ? entry : streq(place, "step") ? step : json_object_get(step, place);

	CHECK(entry && at);
	if (value_consume)
		json_object_set_new(at, key, value_consume);
	else
		json_object_del(at, key);
	return vm_change_is_whole(entry);
}

static void test_entries_of_the_journal(void)
{
	CHECK(change_is_whole("entry", "of-tomorrow", json_true()));
	CHECK(change_is_whole("step", "undo", NULL));
	CHECK(!vm_change_is_whole(NULL));
	CHECK(!change_is_whole("entry", "stage", NULL));
	CHECK(!change_is_whole("entry", "plan", json_array()));
	CHECK(!change_is_whole("entry", "plan", json_pack("[s]", "step")));
	CHECK(!change_is_whole("entry", "want", json_pack("{s:s}", "name", "a"))); /* not complete */
	CHECK(!change_is_whole("entry", "config", json_pack("{s:s}", "name", "-")));
	CHECK(change_is_whole("entry", "config", json_pack("{s:s}", "name", "a")));
	CHECK(!change_is_whole("step", "item", NULL));
	CHECK(!change_is_whole("step", "execute", json_integer(1)));
	CHECK(!change_is_whole("step", "arguments", json_array()));
	CHECK(!change_is_whole("step", "fd", json_true()));
	CHECK(!change_is_whole("arguments", "id", NULL));
	CHECK(!change_is_whole("wait", "timeout", NULL));
	CHECK(!change_is_whole("undo", "execute", NULL));
	CHECK(!change_is_whole("undo", "undo", json_object()));
}

static void test_ends_and_caps(void)
{
	json_auto_t *end = json_pack("{s:s, s:i}", "reason", "crashed", "time", 1);
	json_auto_t *caps = json_pack("{s:s, s:s, s:n, s:s, s:b, s:{s:s}, s:{s:i, s:i, s:i}}", "identity", "i", "binary", "/q",
				      "kvm-cpu", "hyperv", "", "sandbox", 1, "machines", "q35", "pc-q35-7.2", "version", "major", 7, "minor", 2, "micro", 0);

	CHECK(vm_end_is_whole(end) && vm_caps_are_whole(caps));
	CHECK(!vm_end_is_whole(NULL) && !vm_caps_are_whole(NULL));
	json_object_del(end, "reason");
	json_object_del(caps, "sandbox");
	CHECK(!vm_end_is_whole(end) && !vm_caps_are_whole(caps));
}

int main(void)
{
	RUN(test_what_is_damaged_is_refused);
	RUN(test_new_fields_get_their_defaults);
	RUN(test_entries_of_the_journal);
	RUN(test_ends_and_caps);
	return 0;
}
