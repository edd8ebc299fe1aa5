/*
 * list: all VMs, asked at once.
 */
#include "qmpctl/verb.h"
#include "proto/base.h"

static int run_list(struct cli *cli)
{
	json_auto_t *names = vm_names(cli), *list = json_array();
	int n = (int)json_array_size(names);
	char **words = calloc((size_t)n + 1, sizeof *words);
	json_t **results = calloc((size_t)n + 1, sizeof(json_t *));

	for (int i = 0; i < n; i++)
		words[i] = (char *)json_string_value(json_array_get(names, (size_t)i));
	client_call_all(cli, words, n, "qmpctl-status", results);
	for (int i = 0; i < n; i++)
		json_array_append_new(list, results[i] ? results[i]
						       : json_pack("{s:s, s:s}", "name", words[i], "state", "stopped"));
	if (cli->json) {
		cli_print_json(list);
	} else {
		printf("%s%-30s %-14s %8s%s\n", cli_bold(), "NAME", "STATE", "PID", cli_plain());
		for (int i = 0; i < n; i++) {
			const json_t *s = json_array_get(list, (size_t)i);
			printf("%-30s %-14s", text_of(s, "name"), text_of(s, "state"));
			if (json_object_get(s, "pid"))
				printf(" %8lld", json_integer_value(json_object_get(s, "pid")));
			putchar('\n');
		}
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
