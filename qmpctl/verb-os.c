/*
 * os list: the names that create --os takes.
 */
#include "qmpctl/os.h"
#include "qmpctl/verb.h"
#include "proto/base.h"

static const char *or_default(const json_t *entry, const char *kind, const char *key)
{
	const char *text = text_of(json_object_get(entry, kind), key);

	return text ? text : "virtio";
}

static int run_os_list(struct cli *cli)
{
	json_auto_t *table = os_table(cli), *rows = json_array(), *all = json_object();
	const char *name;
	json_t *entry;

	if (!table)
		return cli_fail(cli);
	json_object_foreach(table, name, entry)
	{
		json_auto_t *whole = os_find(cli, table, name);
		const char *firmware, *like = text_of(entry, "like"), *what = text_of(entry, "description");
		if (!whole)
			return cli_fail(cli);
		firmware = text_of(json_object_get(json_object_get(whole, "spec"), "firmware"), "type");
		json_object_set(all, name, whole);
		json_array_append_new(rows, json_pack("[s, s, s, s, s]", name, or_default(whole, "disks", "bus"),
						      or_default(whole, "nics", "model"), firmware ? firmware : "bios",
						      what ? what : like ? like : "-"));
	}
	if (cli->json)
		cli_print_json(all);
	else
		cli_print_table((const char *const[]){"NAME", "DISK", "NIC", "FIRMWARE", "WHAT", NULL}, rows);
	return 0;
}

const struct verb verb_os_list = {
	.name = "os list",
	.group = GROUP_LOOK,
	.summary = "The operating systems that create --os knows",
	.notes = "osinfo-db's names; with a version behind them (debian12, ubuntu22.04, fedora41) they mean the same. os.json in the "
		 "configuration's folder adds more: docs/first-boot.md.",
	.run = run_os_list,
};
