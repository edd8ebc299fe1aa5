/*
 * image cache: what was imported, and parts of what is.
 */
#include "qmpctl/progress.h"
#include "qmpctl/verb.h"
#include "images/cache.h"
#include "images/catalogue.h"
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

/* An overlay or a VM that stands on it would be lost. */
static int refuse_used(struct cli *cli, const struct img_catalogue *c, const char *path)
{
	json_auto_t *users = img_catalogue_users(c, path), *overlays = img_catalogue_overlays(c, path, false);
	_cleanup_free_ char *names = NULL;
	int many;

	names = img_catalogue_names(users, overlays, &many);
	return many == 0 ? 0 : qmp_error_set(&cli->error, QMP_ERR_STATE, -EBUSY, "%s is needed by %s", path, names ? names : "others");
}

/* NAME, or all that nobody needs. */
static int delete(struct cli *cli, const struct img_catalogue *c, const json_t *list, const char *name)
{
	const json_t *entry;
	bool all = streq(name, "all");
	size_t i;

	json_array_foreach(list, i, entry)
	{
		const char *its = text_of(entry, "name");
		int r;
		if (!all && !streq(its, name))
			continue;
		r = refuse_used(cli, c, text_of(entry, "path"));
		if (r == 0)
			r = img_cache_delete(&cli->dirs, its, &cli->error);
		if (!all)
			return r;
		if (r == -EBUSY)
			fprintf(stderr, "kept: %s\n", cli->error.message);
		else if (r < 0)
			return r;
		cli->error = (struct qmp_error){0};
	}
	return all ? 0 : img_cache_delete(&cli->dirs, name, &cli->error);
}

static int delete_given(struct cli *cli, const json_t *list)
{
	_cleanup_catalogue_ struct img_catalogue *c = NULL;
	_cleanup_free_ char *folder = qmp_asprintf("%s/cache", cli->dirs.state);
	const char *name;
	int r = img_catalogue_read(&cli->dirs, &c, &cli->error);

	if (r == 0 && folder)
		r = img_catalogue_add_folder(c, folder, true, &cli->error);
	for (int i = 0; r == 0 && (name = cli_option_at(cli, "delete", i)); i++)
		r = delete(cli, c, list, name);
	return r;
}

static int run_image_cache(struct cli *cli)
{
	json_auto_t *list = NULL;

	img_cache_sweep(&cli->dirs);
	list = img_cache_list(&cli->dirs, &cli->error);
	if (!list)
		return cli_fail(cli);
	if (!cli_option(cli, "delete"))
		return print(cli, list);
	return delete_given(cli, list) < 0 ? cli_fail(cli) : 0;
}

const struct verb verb_image_cache = {
	.name = "image cache",
	.group = GROUP_IMAGE,
	.summary = "List the images that were imported, and what is half fetched",
	.options = (const struct cli_option[]){
		{"delete", "NAME", "delete that one, or \"all\" that nobody needs; repeatable"},
		{0},
	},
	.run = run_image_cache,
};
