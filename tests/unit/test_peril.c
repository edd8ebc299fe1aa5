/*
 * What QEMU would end at is refused; what is like it and harmless is not.
 */
#include "launcher/peril.h"
#include "launcher/spec.h"
#include "proto/base.h"
#include "tests/unit/check.h"

static const struct vm_host without = {"kvm", "qemu64", "pc-q35-7.2", false, 7}, with = {"kvm", "qemu64", "pc-q35-7.2", true, 7},
			    newer = {"kvm", "qemu64", "pc-q35-10.0", false, 10};

static int check(const char *command, const char *arguments, const struct vm_host *host)
{
	json_auto_t *args = arguments ? json_loads(arguments, 0, NULL) : NULL;
	struct qmp_error err = {0};
	int r = vm_peril_check(command, args, host, &err);

	CHECK_INT(r, err.code);
	if (r < 0)
		CHECK_INT(err.kind, QMP_ERR_UNSUPPORTED);
	return r;
}

static void test_vhost(void)
{
	static const char *const fatal[] = {"{\"type\": \"tap\", \"id\": \"n\", \"fd\": \"t\", \"vhost\": true}",
					    "{\"type\": \"tap\", \"id\": \"n\", \"ifname\": \"t\", \"vhost\": true}"};
	static const char *const harmless[] = {"{\"type\": \"tap\", \"id\": \"n\", \"fd\": \"t\", \"vhost\": false}",
					       "{\"type\": \"tap\", \"id\": \"n\", \"fd\": \"t\"}",
					       "{\"type\": \"tap\", \"id\": \"n\", \"fd\": \"t\", \"vhost\": true, \"vhostfd\": \"v\"}",
					       "{\"type\": \"user\", \"id\": \"n\", \"vhost\": true}", "{}"};

	for (size_t i = 0; i < ARRAY_SIZE(fatal); i++) {
		CHECK(check("netdev_add", fatal[i], &without) < 0);
		CHECK(check("netdev_add", fatal[i], &newer) < 0);
		CHECK_INT(check("netdev_add", fatal[i], &with), 0);
	}
	for (size_t i = 0; i < ARRAY_SIZE(harmless); i++)
		CHECK_INT(check("netdev_add", harmless[i], &without), 0);
	CHECK_INT(check("netdev_add", NULL, &without), 0);
}

static void test_the_human_monitor(void)
{
	CHECK(check("human-monitor-command", "{\"command-line\": \"netdev_add tap,id=n,vhost=on\"}", &without) < 0);
	CHECK(check("human-monitor-command", "{\"command-line\": \" netdev_add  vhost=y,type=tap,id=n\"}", &without) < 0);
	CHECK_INT(check("human-monitor-command", "{\"command-line\": \"netdev_add tap,id=n,vhost=off\"}", &without), 0);
	CHECK_INT(check("human-monitor-command", "{\"command-line\": \"netdev_add user,id=n\"}", &without), 0);
	CHECK_INT(check("human-monitor-command", "{\"command-line\": \"info network\"}", &without), 0);
	CHECK_INT(check("human-monitor-command", "{\"command-line\": 5}", &without), 0);
	CHECK_INT(check("human-monitor-command", NULL, &without), 0);
}

static void test_amend(void)
{
	CHECK(check("x-blockdev-amend", "{}", &newer) < 0);
	CHECK_INT(check("x-blockdev-amend", "{}", &without), 0);
	CHECK_INT(check("query-status", NULL, &newer), 0);
}

/* Also where it comes in through the raw members of a spec. */
static void test_raw_members(void)
{
	static const char text[] = "{\"name\": \"t\", \"nics\": [{\"backend\": \"tap\", \"interface\": \"tap0\", "
				   "\"qemu\": {\"netdev\": {\"vhost\": true}}}]}";
	json_auto_t *spec = NULL, *effective = NULL;
	struct qmp_error err = {0};
	struct vm_fragment f;

	CHECK_INT(vm_spec_parse(text, strlen(text), "t", &spec, NULL), 0);
	CHECK(vm_spec_complete(spec, NULL) >= 0);
	effective = vm_spec_effective(spec);
	CHECK(vm_fragment_nic(effective, json_array_get(json_object_get(effective, "nics"), 0), &without, &f, &err) < 0);
	CHECK_CONTAINS(err.message, "nics.net0: netdev_add: vhost");
	CHECK_INT(vm_fragment_nic(effective, json_array_get(json_object_get(effective, "nics"), 0), &with, &f, NULL), 0);
	vm_fragment_deinit(&f);
}

int main(void)
{
	RUN(test_vhost);
	RUN(test_the_human_monitor);
	RUN(test_amend);
	RUN(test_raw_members);
	return 0;
}
