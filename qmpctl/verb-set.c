/*
 * set: values of a spec.
 */
#include "qmpctl/verb.h"
#include "proto/base.h"

static int run_set(struct cli *cli)
{
	json_auto_t *values = json_object();

	for (int i = 1; i < cli->n_args; i++) {
		char *equals = strchr(cli->args[i], '=');
		if (!equals) {
			qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL,
				      "set: \"%s\": PATH=VALUE is wanted (an empty value removes it)", cli->args[i]);
			return cli_fail(cli);
		}
		*equals = '\0';
		json_object_set_new(values, cli->args[i], equals[1] ? json_string(equals + 1) : json_null());
	}
	return verb_change(cli, "qmpctl-set", "values", json_incref(values));
}

const struct verb verb_set = {
	.name = "set",
	.args = {{"NAME", .kind = ARG_VM}, {"PATH=VALUE", .kind = ARG_FIELD, .repeated = true}},
	.summary = "Change values of the spec",
	.options = change_options,
	.run = run_set,
};
