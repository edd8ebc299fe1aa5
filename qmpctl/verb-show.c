/*
 * show: the spec.
 */
#include "qmpctl/verb.h"
#include "proto/base.h"

static int run_show(struct cli *cli)
{
	json_auto_t *result = NULL;

	if (client_call(cli, cli->args[0], "qmpctl-show", NULL, &result) < 0)
		return cli_fail(cli);
	if (text_of(result, "spec-error"))
		fprintf(stderr, "qmpctl: this is what %s runs with, for what is on disk cannot be read: %s\n", cli->args[0],
			text_of(result, "spec-error"));
	cli_print_json(cli->json ? result : json_object_get(result, "spec"));
	return 0;
}

const struct verb verb_show = {
	.name = "show",
	.alias = "dumpxml",
	.args = {{"NAME", .kind = ARG_VM}},
	.summary = "Print the spec",
	.run = run_show,
};
