/*
 * status: what a VM does.
 */
#include "qmpctl/verb.h"
#include "proto/base.h"

static void print_status(const json_t *s)
{
	const json_t *end = json_object_get(s, "last-end"), *version = json_object_get(s, "qemu-version");
	json_t *entry;
	size_t i;

	printf("name      %s\nstate     %s\n", text_of(s, "name"), text_of(s, "state"));
	if (json_object_get(s, "pid"))
		printf("pid       %lld\nuptime    %lld s\naccel     %s\ncpu       %s\nmachine   %s\nqemu      %lld.%lld.%lld\n"
		       "agent     %s\n",
		       json_integer_value(json_object_get(s, "pid")), json_integer_value(json_object_get(s, "uptime")),
		       text_of(s, "accel"), text_of(s, "cpu-model"), text_of(s, "machine"),
		       json_integer_value(json_object_get(version, "major")),
		       json_integer_value(json_object_get(version, "minor")),
		       json_integer_value(json_object_get(version, "micro")),
		       json_is_true(json_object_get(s, "agent")) ? "connected" : "not connected");
	if (end)
		printf("last end  %s\n", text_of(end, "reason"));
	json_array_foreach(json_object_get(s, "pending"), i, entry)
		printf("pending   %s waits for %s\n", text_of(entry, "item"),
		       text_of(json_object_get(entry, "waits-for"), "event"));
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
	.args = {{"NAME", .kind = ARG_VM}},
	.summary = "Print what a VM does",
	.run = run_status,
};
