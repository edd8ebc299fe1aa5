/*
 * agent: a command for the guest agent.
 */
#include "qmpctl/schema.h"
#include "qmpctl/verb.h"
#include "proto/base.h"

/* In ASCII, since what a guest says may hold what a terminal obeys. */
static void print_ascii(const json_t *value)
{
	_cleanup_free_ char *text = qmp_json_encode(value, JSON_INDENT(2) | JSON_ENSURE_ASCII, NULL);

	puts(text ? text : "null");
}

static int run_agent(struct cli *cli)
{
	json_auto_t *given = schema_words(cli, cli->args + 2, cli->n_args - 2), *result = NULL;
	int64_t timeout;

	if (!given || cli_seconds(cli, "timeout", 30, &timeout) < 0)
		return cli_fail(cli);
	if (client_call(cli, cli->args[0], "qmpctl-agent",
			json_pack("{s:s, s:o, s:I}", "command", cli->args[1], "arguments", qmp_untyped(given), "timeout",
				  (json_int_t)timeout),
			&result) < 0)
		return cli_fail(cli);
	print_ascii(result);
	return 0;
}

const struct verb verb_agent = {
	.name = "agent",
	.alias = "qemu-agent-command",
	.group = GROUP_LOOK,
	.args = {{"NAME", .kind = ARG_VM},
		 {"COMMAND"},
		 {"JSON | KEY=VALUE", .optional = true, .repeated = true}},
	.summary = "Send a command to the guest agent (guest-info lists them)",
	.options = (const struct cli_option[]){{"timeout", "SECONDS", "how long the agent may take (30)"}, {0}},
	.run = run_agent,
};
