/*
 * status: what a VM does.
 */
#include "qmpctl/verb.h"
#include "proto/base.h"

#include <time.h>

static long long int_of(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

static void print_restart(const json_t *r)
{
	printf("restart   %s", text_of(r, "policy"));
	if (int_of(r, "count") > 0)
		printf(", %lld in a row", int_of(r, "count"));
	if (json_object_get(r, "due")) {
		long long left = int_of(r, "due") - (long long)time(NULL);
		printf(", the next in %lld s", left > 0 ? left : 0);
	}
	printf("%s\n", json_is_true(json_object_get(r, "gave-up")) ? ", given up" : "");
}

static void print_difference(const json_t *d)
{
	json_t *id;
	size_t i;

	if (streq(text_of(d, "state"), "changed")) {
		printf("differs   %s: QEMU has %s, the spec %s\n", text_of(d, "item"), text_of(d, "has"), text_of(d, "wants"));
		return;
	}
	printf("differs   %s: %s in QEMU:", text_of(d, "item"),
	       streq(text_of(d, "state"), "gone") ? "nothing of it is" : "not all of it is");
	json_array_foreach(json_object_get(d, "missing"), i, id)
		printf(" %s", json_string_value(id));
	printf(" %s missing\n", json_array_size(json_object_get(d, "missing")) == 1 ? "is" : "are");
}

static void print_status(const json_t *s)
{
	const json_t *end = json_object_get(s, "last-end"), *version = json_object_get(s, "qemu-version");
	const json_t *silent = json_object_get(s, "unresponsive"), *restart = json_object_get(s, "restart");
	json_t *entry;
	size_t i;

	printf("name      %s\nstate     %s\n", text_of(s, "name"), text_of(s, "state"));
	if (silent)
		printf("silent    for %lld s: %s\n", (long long)time(NULL) - int_of(silent, "since"),
		       text_of(silent, "why") ? text_of(silent, "why") : "it is not known why");
	if (json_object_get(s, "pid"))
		printf("pid       %lld\nuptime    %lld s\naccel     %s\ncpu       %s\nmachine   %s\nqemu      %lld.%lld.%lld\n"
		       "agent     %s\n",
		       int_of(s, "pid"), int_of(s, "uptime"), text_of(s, "accel"), text_of(s, "cpu-model"),
		       text_of(s, "machine"), int_of(version, "major"), int_of(version, "minor"), int_of(version, "micro"),
		       text_of(json_object_get(s, "agent"), "state"));
	if (end)
		printf("last end  %s\n", text_of(end, "reason"));
	if (text_of(s, "operation"))
		printf("working   %s%s%s\n", text_of(s, "operation"), text_of(s, "how") ? " by " : "",
		       text_of(s, "how") ? text_of(s, "how") : "");
	if (restart)
		print_restart(restart);
	json_array_foreach(json_object_get(s, "pending"), i, entry)
		printf("pending   %s waits for %s\n", text_of(entry, "item"),
		       text_of(json_object_get(entry, "waits-for"), "event"));
	json_array_foreach(json_object_get(s, "differences"), i, entry)
		print_difference(entry);
}

static int run_status(struct cli *cli)
{
	json_auto_t *result = NULL;
	int r = verb_call(cli, "qmpctl-status", NULL, &result);

	if (r >= 0)
		return r;
	if (!cli->json)
		print_status(result);
	return 0;
}

const struct verb verb_status = {
	.name = "status",
	.alias = "domstate",
	.group = GROUP_LOOK,
	.args = {{"NAME", .kind = ARG_VM}},
	.summary = "Print what a VM does",
	.run = run_status,
};
