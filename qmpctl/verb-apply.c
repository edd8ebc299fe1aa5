/*
 * apply: a whole spec.
 */
#include "qmpctl/verb.h"
#include "proto/base.h"

static int run_apply(struct cli *cli)
{
	json_t *spec;
	char *words[2];

	if (cli_read_spec(cli, cli->args[0], &spec) < 0)
		return cli_fail(cli);
	words[0] = strdup(text_of(spec, "name"));
	words[1] = NULL;
	cli->args[0] = words[0];
	int status = verb_change(cli, "qmpctl-apply", "spec", spec);
	free(words[0]);
	return status;
}

const struct verb verb_apply = {
	.name = "apply",
	.args = {{"FILE", .kind = ARG_PATH}},
	.summary = "Make the VM what the spec in FILE (-: standard input) says",
	.options = change_options,
	.run = run_apply,
};
