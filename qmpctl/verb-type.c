/*
 * type: a line into a console.
 */
#include "qmpctl/verb.h"
#include "proto/base.h"

static int run_type(struct cli *cli)
{
	_cleanup_free_ char *text = qmp_asprintf("%s%s", cli->args[1], cli_option(cli, "no-newline") ? "" : "\n");
	const char *console = cli_option(cli, "console");
	json_auto_t *result = NULL;
	json_t *args = json_pack("{s:s}", "text", text);

	if (console)
		json_object_set_new(args, "console", json_string(console));
	if (client_call(cli, cli->args[0], "qmpctl-type", args, &result) < 0)
		return cli_fail(cli);
	return 0;
}

const struct verb verb_type = {
	.name = "type",
	.group = GROUP_LOOK,
	.args = {{"NAME", .kind = ARG_VM}, {"TEXT"}},
	.summary = "Type a line into the guest's console",
	.options = (const struct cli_option[]){
		{"console", "ID", "which (the first)", .kind = ARG_CONSOLE},
		{"no-newline", NULL, "do not press return"},
		{0},
	},
	.run = run_type,
};
