/*
 * disk add, remove, list.
 */
#include "qmpctl/verb.h"
#include "qmpctl/words.h"
#include "proto/base.h"

static int run_disk_add(struct cli *cli)
{
	return verb_change(cli, "qmpctl-disk-add", "disk", parse_disk_words(cli, cli->args[0], cli->args[1]));
}

static int run_disk_remove(struct cli *cli)
{
	return verb_change(cli, "qmpctl-disk-remove", "id", json_string(cli->args[1]));
}

static int run_disk_list(struct cli *cli)
{
	return verb_list_items(cli, "disks", (const char *const[]){"bus", "format", "path", NULL});
}

const struct verb verb_disk_add = {
	.name = "disk add",
	.alias = "attach-disk",
	.group = GROUP_DEVICE,
	.args = {{"NAME", .kind = ARG_VM}, {"PATH|size=SIZE[,KEY=VALUE...]", .kind = ARG_DISK_WORDS}},
	.summary = "Add a disk; prints its id",
	.options = change_options,
	.run = run_disk_add,
};

const struct verb verb_disk_remove = {
	.name = "disk remove",
	.alias = "detach-disk",
	.group = GROUP_DEVICE,
	.args = {{"NAME", .kind = ARG_VM}, {"ID", .kind = ARG_DISK}},
	.summary = "Remove a disk; done when the guest has let go",
	.options = change_options,
	.run = run_disk_remove,
};

const struct verb verb_disk_list = {
	.name = "disk list",
	.alias = "domblklist",
	.group = GROUP_DEVICE,
	.args = {{"NAME", .kind = ARG_VM}},
	.summary = "List the disks",
	.run = run_disk_list,
};
