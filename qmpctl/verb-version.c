/*
 * version, spec-schema: what this program is.
 */
#include "qmpctl/verb.h"
#include "launcher/spec.h"
#include "proto/base.h"

static int run_schema(struct cli *cli)
{
	json_auto_t *schema = vm_spec_json_schema();

	UNUSED(cli);
	cli_print_json(schema);
	return 0;
}

static int run_version(struct cli *cli)
{
	if (cli->json)
		printf("{\"version\": \"" QMPCTL_VERSION "\"}\n");
	else
		puts("qmpctl " QMPCTL_VERSION);
	return 0;
}

const struct verb verb_spec_schema = {
	.name = "spec-schema",
	.group = GROUP_PROGRAM,
	.summary = "Print the JSON Schema of a spec",
	.run = run_schema,
};

const struct verb verb_version = {
	.name = "version",
	.group = GROUP_PROGRAM,
	.summary = "Print the version",
	.run = run_version,
};
