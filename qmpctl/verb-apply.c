/*
 * apply: a whole spec.
 */
#include "qmpctl/verb.h"
#include "proto/base.h"

#include <errno.h>

/* As vm_check_name(), and says how one comes to be: apply makes none. */
static int check_name(struct cli *cli, const char *name, const char *file)
{
	struct qmp_error why;

	if (vm_check_name(cli, name) == 0)
		return 0;
	why = cli->error;
	if (why.code != -ENOENT)
		return why.code;
	cli->error = (struct qmp_error){0};
	return qmp_error_set(&cli->error, why.kind, why.code, "%s; \"qmpctl create %s --spec %s\" makes it", why.message, name,
			     file);
}

static int run_apply(struct cli *cli)
{
	const char *file = cli->args[0];
	json_t *spec;
	char *words[2];
	int status;

	if (cli_read_spec(cli, cli->args[0], &spec) < 0)
		return cli_fail(cli);
	words[0] = strdup(text_of(spec, "name"));
	words[1] = NULL;
	cli->args[0] = words[0];
	if (check_name(cli, words[0], file) < 0) {
		json_decref(spec);
		status = cli_fail(cli);
	} else {
		status = verb_change(cli, "qmpctl-apply", "spec", spec);
	}
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
