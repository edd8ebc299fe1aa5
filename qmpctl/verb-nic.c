/*
 * nic add, remove, list.
 */
#include "qmpctl/verb.h"
#include "qmpctl/words.h"
#include "proto/base.h"

static int run_nic_add(struct cli *cli)
{
	return verb_change(cli, "qmpctl-nic-add", "nic", parse_nic_words(cli, cli->n_args > 1 ? cli->args[1] : "user"));
}

static int run_nic_remove(struct cli *cli)
{
	return verb_change(cli, "qmpctl-nic-remove", "id", json_string(cli->args[1]));
}

static int run_nic_list(struct cli *cli)
{
	return verb_list_items(cli, "nics", (const char *const[]){"model", "mac", "backend", NULL});
}

const struct verb verb_nic_add = {
	.name = "nic add",
	.alias = "attach-interface",
	.group = GROUP_DEVICE,
	.args = {{"NAME", .kind = ARG_VM}, {"[user|bridge=BR|tap=TAP][,KEY=VALUE...]", .kind = ARG_NIC_WORDS, .optional = true}},
	.summary = "Add a NIC; prints its id",
	.options = change_options,
	.run = run_nic_add,
};

const struct verb verb_nic_remove = {
	.name = "nic remove",
	.alias = "detach-interface",
	.group = GROUP_DEVICE,
	.args = {{"NAME", .kind = ARG_VM}, {"ID", .kind = ARG_NIC}},
	.summary = "Remove a NIC; done when the guest has let go",
	.options = change_options,
	.run = run_nic_remove,
};

const struct verb verb_nic_list = {
	.name = "nic list",
	.alias = "domiflist",
	.group = GROUP_DEVICE,
	.args = {{"NAME", .kind = ARG_VM}},
	.summary = "List the NICs",
	.run = run_nic_list,
};
