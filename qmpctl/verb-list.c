/*
 * list: all VMs, asked at once.
 */
#include "qmpctl/verb.h"
#include "proto/base.h"

#include <time.h>

/* No keeper answered: that alone does not say that the VM is stopped. */
static json_t *without_answer(struct cli *cli, const char *name)
{
	const char *state = !client_qemu_lives(cli, name) ? "stopped" : client_is_up(cli, name) ? "unknown" : "unattended";

	return json_pack("{s:s, s:s}", "name", name, "state", state);
}

/* What people must know beside the state; new, possibly "". */
static char *note_of(const json_t *s)
{
	const json_t *silent = json_object_get(s, "unresponsive"), *restart = json_object_get(s, "restart");
	const json_t *due = json_object_get(restart, "due");
	size_t pending = json_array_size(json_object_get(s, "pending"));
	long long left = json_integer_value(due) - (long long)time(NULL);

	if (silent && text_of(silent, "why"))
		return strdup(text_of(silent, "why"));
	if (due)
		return qmp_asprintf("starts again in %lld s", left > 0 ? left : 0);
	if (json_is_true(json_object_get(restart, "gave-up")))
		return strdup("restarting was given up");
	if (pending > 0)
		return qmp_asprintf("%zu pending", pending);
	if (text_of(s, "spec-error"))
		return strdup(text_of(s, "spec-error"));
	if (streq(text_of(s, "state"), "unattended"))
		return strdup("no keeper; any verb on it starts one");
	return strdup(streq(text_of(s, "state"), "unknown") ? "its keeper does not answer" : "");
}

static void print_rows(const json_t *list)
{
	json_auto_t *rows = json_array();
	const json_t *s;
	size_t i;

	json_array_foreach(list, i, s) {
		_cleanup_free_ char *note = note_of(s), *pid = NULL;
		if (json_object_get(s, "pid"))
			pid = qmp_asprintf("%lld", json_integer_value(json_object_get(s, "pid")));
		json_array_append_new(rows, json_pack("[s, s, s, s]", text_of(s, "name"), text_of(s, "state"),
						      pid ? pid : "-", note));
	}
	cli_print_table((const char *const[]){"NAME", "STATE", "PID", "", NULL}, rows);
}

static int run_list(struct cli *cli)
{
	json_auto_t *names = vm_names(cli), *list = json_array();
	int n = (int)json_array_size(names);
	char **words = calloc((size_t)n + 1, sizeof *words);
	json_t **results = calloc((size_t)n + 1, sizeof(json_t *));

	if (!names) {
		free(words);
		free(results);
		return cli_fail(cli);
	}
	for (int i = 0; i < n; i++)
		words[i] = (char *)json_string_value(json_array_get(names, (size_t)i));
	client_call_all(cli, words, n, "qmpctl-status", results);
	for (int i = 0; i < n; i++)
		json_array_append_new(list, results[i] ? results[i] : without_answer(cli, words[i]));
	if (cli->json) {
		cli_print_json(list);
	} else {
		print_rows(list);
	}
	free(words);
	free(results);
	return 0;
}

const struct verb verb_list = {
	.name = "list",
	.alias = "ls",
	.summary = "List all VMs",
	.run = run_list,
};
