/*
 * qmp: a command for QEMU, or for its keeper.
 */
#include "qmpctl/verb.h"
#include "proto/base.h"

static int run_qmp(struct cli *cli)
{
	json_t *args = verb_command_arguments(cli);
	json_auto_t *result = NULL;

	if (!args || client_qmp(cli, cli->args[0], cli->args[1], args, &result) < 0)
		return cli_fail(cli);
	cli_print_json(result);
	return 0;
}

const struct verb verb_qmp = {
	.name = "qmp",
	.alias = "qemu-monitor-command",
	.args = {{"NAME", .kind = ARG_VM}, {"COMMAND", .kind = ARG_QMP_COMMAND}, {"JSON | KEY=VALUE", .optional = true, .repeated = true}},
	.summary = "Send a QMP command",
	.run = run_qmp,
};
