/*
 * qmp: a command for QEMU, or for its keeper.
 */
#include "qmpctl/verb.h"
#include "proto/base.h"

/* key=value words: JSON where the value is JSON, else a string. */
static json_t *qmp_arguments(struct cli *cli)
{
	json_t *args;

	if (cli->n_args == 3 && cli->args[2][0] == '{') {
		args = qmp_json_decode(cli->args[2], strlen(cli->args[2]), &cli->error);
		cli->error.kind = args ? QMP_ERR_NONE : QMP_ERR_USAGE;
		return args;
	}
	args = json_object();
	for (int i = 2; i < cli->n_args; i++) {
		char *equals = strchr(cli->args[i], '=');
		json_t *value;
		if (!equals) {
			qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "\"%s\": KEY=VALUE or one JSON object is wanted",
				      cli->args[i]);
			json_decref(args);
			return NULL;
		}
		*equals = '\0';
		value = qmp_json_decode(equals + 1, strlen(equals + 1), NULL);
		json_object_set_new(args, cli->args[i], value ? value : json_string(equals + 1));
	}
	return args;
}

static int run_qmp(struct cli *cli)
{
	json_t *args = qmp_arguments(cli);
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
