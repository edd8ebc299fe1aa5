/*
 * image cache: what was imported, and parts of what is.
 */
#include "qmpctl/progress.h"
#include "qmpctl/verb.h"
#include "images/cache.h"
#include "proto/base.h"

static json_t *row_of(const json_t *entry)
{
	bool partial = json_is_true(json_object_get(entry, "partial"));
	const char *format = text_of(entry, "format"), *source = text_of(entry, "source");
	char size[32], allocated[32];

	progress_bytes((uint64_t)int_of(entry, partial ? "size" : "virtual-size"), size);
	progress_bytes((uint64_t)int_of(entry, "allocated"), allocated);
	return json_pack("[s, s, s, s, s]", text_of(entry, "name"), partial ? "part" : format ? format : "?", size, allocated,
			 source ? source : "?");
}

static int print(struct cli *cli, const json_t *list)
{
	static const char *const head[] = {"NAME", "FORMAT", "SIZE", "ON DISK", "FROM", NULL};
	json_auto_t *rows = json_array();
	const json_t *entry;
	size_t i;

	if (cli->json) {
		cli_print_json(list);
		return 0;
	}
	json_array_foreach(list, i, entry)
		json_array_append_new(rows, row_of(entry));
	cli_print_table(head, rows);
	return 0;
}

static int delete(struct cli *cli, const json_t *list, const char *name)
{
	const json_t *entry;
	bool all = streq(name, "all");
	size_t i, n = 0;

	json_array_foreach(list, i, entry)
	{
		const char *its = text_of(entry, "name");
		if (!all && !streq(its, name))
			continue;
		if (img_cache_delete(&cli->dirs, its, &cli->error) < 0)
			return cli->error.code;
		n++;
	}
	return n > 0 || all ? 0 : img_cache_delete(&cli->dirs, name, &cli->error);
}

static int run_image_cache(struct cli *cli)
{
	json_auto_t *list = NULL;
	const char *name;

	img_cache_sweep(&cli->dirs);
	list = img_cache_list(&cli->dirs, &cli->error);
	if (!list)
		return cli_fail(cli);
	if (!cli_option(cli, "delete"))
		return print(cli, list);
	for (int i = 0; (name = cli_option_at(cli, "delete", i)); i++)
		if (delete(cli, list, name) < 0)
			return cli_fail(cli);
	return 0;
}

const struct verb verb_image_cache = {
	.name = "image cache",
	.group = GROUP_IMAGE,
	.summary = "List the images that were imported, and what is half fetched",
	.options = (const struct cli_option[]){
		{"delete", "NAME", "delete that one, or \"all\"; repeatable"},
		{0},
	},
	.run = run_image_cache,
};
