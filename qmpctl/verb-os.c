/*
 * os list: the names that create --os takes, and what they mean.
 */
#include "qmpctl/os.h"
#include "qmpctl/verb.h"
#include "proto/base.h"

static const char *or_default(const json_t *entry, const char *kind, const char *key)
{
	const char *text = text_of(json_object_get(entry, kind), key);

	return text ? text : "virtio";
}

/* What it is, or is like; new. */
static char *tell(const json_t *entry)
{
	const char *what = text_of(entry, "description"), *version;
	char *text = what || text_of(entry, "like") ? strdup(what ? what : text_of(entry, "like")) : strdup("-");
	json_t *like;

	json_object_foreach(json_object_get(entry, "older"), version, like)
	{
		_cleanup_free_ char *before = text;
		text = qmp_asprintf("%s, before %s %s", before, version, json_string_value(like));
	}
	return text;
}

/* A row, and the entry with what it is like. */
static int add(struct cli *cli, const json_t *table, const char *name, json_t *rows, json_t *all)
{
	json_auto_t *whole = os_find(cli, table, name);
	_cleanup_free_ char *what = whole ? tell(whole) : NULL;
	const char *firmware = text_of(json_object_get(json_object_get(whole, "spec"), "firmware"), "type");

	if (!whole)
		return cli->error.code;
	json_array_append_new(rows, json_pack("[s, s, s, s, s]", name, or_default(whole, "disks", "bus"), or_default(whole, "nics", "model"),
					      firmware ? firmware : "bios", what));
	return json_object_set(all, name, whole) < 0 ? qmp_error_errno(&cli->error, -ENOMEM, "listing operating systems") : 0;
}

static int run_os_list(struct cli *cli)
{
	json_auto_t *table = os_table(cli), *rows = json_array(), *all = json_object();
	const char *name;
	json_t *entry;
	int r = table ? 0 : -EINVAL;

	for (int i = 0; i < cli->n_args && r == 0; i++)
		r = add(cli, table, cli->args[i], rows, all);
	json_object_foreach(table, name, entry)
		if (cli->n_args == 0 && r == 0)
			r = add(cli, table, name, rows, all);
	if (r < 0)
		return cli_fail(cli);
	if (cli->json)
		cli_print_json(all);
	else
		cli_print_table((const char *const[]){"NAME", "DISK", "NIC", "FIRMWARE", "WHAT", NULL}, rows);
	return 0;
}

const struct verb verb_os_list = {
	.name = "os list",
	.group = GROUP_LOOK,
	.args = {{"NAME", .kind = ARG_OS, .optional = true, .repeated = true}},
	.summary = "The operating systems that create --os knows",
	.notes = "osinfo-db's names, with a version behind them where one matters (debian12, ubuntu22.04, sles12sp5). os.json in the "
		 "configuration's folder adds more: docs/first-boot.md.",
	.run = run_os_list,
};
