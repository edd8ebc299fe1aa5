/*
 * disk add, remove, list.
 */
#include "qmpctl/verb.h"
#include "qmpctl/words.h"
#include "proto/base.h"

/* Whether it is certain that nobody has the new image: else it stays. */
static bool was_refused(const struct cli *cli)
{
	enum qmp_error_kind kind = cli->error.kind;

	return kind == QMP_ERR_USAGE || kind == QMP_ERR_NOT_FOUND || kind == QMP_ERR_STATE || kind == QMP_ERR_EXISTS ||
	       kind == QMP_ERR_REFUSED;
}

static int run_disk_add(struct cli *cli)
{
	json_t *disk = vm_check_name(cli, cli->args[0]) < 0 ? NULL : parse_disk_words(cli, cli->args[0], cli->args[1]);
	int status = verb_change(cli, "qmpctl-disk-add", "disk", disk);

	if (!disk || cli_option(cli, "dry-run") || was_refused(cli))
		images_undo(cli);
	for (size_t i = 0; img_made_path(&cli->made, i) && cli->error.kind; i++)
		fprintf(stderr, "kept, as it may be in use: %s\n", img_made_path(&cli->made, i));
	if (cli->error.kind)
		img_made_leave(&cli->made);
	images_keep(cli);
	return status;
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
	.args = {{"NAME", .kind = ARG_VM}, {"IMAGE|size=SIZE[,KEY=VALUE...]", .kind = ARG_DISK_WORDS}},
	.summary = "Add a disk; prints its id",
	.notes = "IMAGE is a path, POOL:VOLUME, or the URL of an image that a server has: nbd://HOST/EXPORT, iscsi://HOST/TARGET/LUN, "
		 "ssh://HOST/PATH, https://HOST/PATH (read-only), rbd://POOL/IMAGE. A comma of its own is written twice.",
	.options = change_options,
	.settles = true,
	.run = run_disk_add,
};

const struct verb verb_disk_remove = {
	.name = "disk remove",
	.alias = "detach-disk",
	.group = GROUP_DEVICE,
	.args = {{"NAME", .kind = ARG_VM}, {"ID", .kind = ARG_DISK}},
	.summary = "Remove a disk; done when the guest has let go",
	.options = change_options,
	.settles = true,
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
