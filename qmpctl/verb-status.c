/*
 * status: what a VM does.
 */
#include "qmpctl/verb.h"
#include "proto/base.h"

#include <time.h>

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
	if (text_of(s, "spec-error"))
		printf("spec      cannot be read, and nothing of it be changed: %s\n", text_of(s, "spec-error"));
	if (end)
		printf("last end  %s%s%s\n", text_of(end, "reason"), text_of(end, "note") ? ": " : "",
		       text_of(end, "note") ? text_of(end, "note") : "");
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
	json_array_foreach(json_object_get(s, "others"), i, entry)
		printf("others    not in the spec: the %s %s%s%s%s\n", text_of(entry, "kind"), text_of(entry, "id"),
		       text_of(entry, "type") ? " (" : "", text_of(entry, "type") ? text_of(entry, "type") : "",
		       text_of(entry, "type") ? ")" : "");
}

/* ---- --security ---- */

static void print_numbers(const json_t *list)
{
	json_t *n;
	size_t i;

	json_array_foreach(list, i, n)
		printf("%s%lld", i ? "," : "", (long long)json_integer_value(n));
}

static bool is_zero(const char *mask)
{
	return mask && strspn(mask, "0") == strlen(mask);
}

static void print_capabilities(const json_t *sets)
{
	const char *name;
	json_t *mask;
	bool any = false;

	printf("caps      ");
	json_object_foreach((json_t *)sets, name, mask)
		if (!is_zero(json_string_value(mask))) {
			printf("%s%s %s", any ? ", " : "", name, json_string_value(mask));
			any = true;
		}
	printf("%s\n", any ? "" : "none");
}

static void print_seccomp(const json_t *s, const char *note)
{
	printf("seccomp   %s", text_of(s, "mode"));
	if (streq(text_of(s, "mode"), "filter"))
		printf(", on %lld of %lld threads", int_of(s, "threads-filtered"), int_of(s, "threads"));
	printf("%s%s\n", note ? ": " : "", note ? note : "");
}

static void print_fds(const json_t *fds)
{
	json_t *kinds = json_object_get(fds, "kinds"), *n, *path;
	const char *kind, *mark = ": ";
	size_t i;

	if (!json_is_object(fds)) {
		printf("fds       we may not look\n");
		return;
	}
	printf("fds       %lld", int_of(fds, "count"));
	json_object_foreach(kinds, kind, n) {
		printf("%s%lld %s", mark, (long long)json_integer_value(n), kind);
		mark = ", ";
	}
	putchar('\n');
	json_array_foreach(json_object_get(fds, "paths"), i, path)
		printf("open      %s\n", json_string_value(path));
}

static void print_limits(const json_t *limits)
{
	const char *name, *mark = "limits    ";
	json_t *pair;

	json_object_foreach((json_t *)limits, name, pair) {
		const json_t *soft = json_array_get(pair, 0);
		if (json_is_integer(soft))
			printf("%s%s %lld", mark, name, (long long)json_integer_value(soft));
		else
			printf("%s%s unlimited", mark, name);
		mark = ", ";
	}
	putchar('\n');
}

static void print_security(const json_t *s)
{
	const char *name;
	json_t *path;

	printf("name      %s\npid       %lld\nuser      %s (", text_of(s, "name"), int_of(s, "pid"),
	       text_of(s, "user") ? text_of(s, "user") : "without a name");
	print_numbers(json_object_get(s, "uids"));
	printf(")\ngroup     ");
	print_numbers(json_object_get(s, "gids"));
	printf("%s", json_array_size(json_object_get(s, "groups")) > 0 ? ", and " : "");
	print_numbers(json_object_get(s, "groups"));
	putchar('\n');
	print_capabilities(json_object_get(s, "capabilities"));
	printf("privs     %s\n", json_is_true(json_object_get(s, "no-new-privs")) ? "none can be won (no_new_privs)" : "can be won");
	print_seccomp(json_object_get(s, "seccomp"), text_of(s, "sandbox-note"));
	print_limits(json_object_get(s, "limits"));
	json_object_foreach(json_object_get(s, "cgroups"), name, path)
		printf("cgroup    %s %s\n", name, json_string_value(path));
	print_fds(json_object_get(s, "fds"));
}

static int run_security(struct cli *cli)
{
	json_auto_t *result = NULL;
	int r = verb_call(cli, "qmpctl-security", NULL, &result);

	if (r >= 0)
		return r;
	if (!cli->json)
		print_security(result);
	return 0;
}

static int run_status(struct cli *cli)
{
	json_auto_t *result = NULL;
	int r;

	if (cli_option(cli, "security"))
		return run_security(cli);
	r = verb_call(cli, "qmpctl-status", NULL, &result);
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
	.options = (const struct cli_option[]){
		{"security", NULL, "how its QEMU is confined, as the kernel says"},
		{0},
	},
	.run = run_status,
};
