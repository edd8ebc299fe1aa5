/*
 * events: of several VMs, as JSON lines.
 */
#include "qmpctl/verb.h"
#include "proto/base.h"

static int run_events(struct cli *cli)
{
	json_auto_t *names = cli->n_args ? NULL : vm_names(cli);
	size_t n = json_array_size(names);
	char **words = calloc(n + 1, sizeof *words);
	int r, up = 0;

	if (cli->error.kind || !words) {
		free(words);
		return cli_fail(cli);
	}
	for (size_t i = 0; i < n; i++) {
		char *name = (char *)json_string_value(json_array_get(names, i));
		if (client_is_up(cli, name) || client_qemu_lives(cli, name))
			words[up++] = name;
	}
	r = cli->n_args ? client_events(cli, cli->args, cli->n_args) : client_events(cli, words, up);
	free(words);
	return r < 0 ? cli_fail(cli) : 0;
}

const struct verb verb_events = {
	.name = "events",
	.group = GROUP_LOOK,
	.args = {{"NAME", .kind = ARG_VM, .optional = true, .repeated = true}},
	.summary = "Print events as JSON lines until the VMs end",
	.options = (const struct cli_option[]){
		{"follow", NULL, "go on until the VMs end (always so)"},
		{0},
	},
	.run = run_events,
};
