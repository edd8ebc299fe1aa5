/*
 * image cache: what was imported, and parts of what is; how much it may take.
 */
#include "qmpctl/progress.h"
#include "qmpctl/verb.h"
#include "qmpctl/words.h"
#include "images/cache-limit.h"
#include "images/cache.h"
#include "images/catalogue.h"
#include "launcher/spec.h"
#include "proto/base.h"

#include <time.h>

static json_t *row_of(const json_t *entry)
{
	bool partial = json_is_true(json_object_get(entry, "partial"));
	const char *format = text_of(entry, "format"), *source = text_of(entry, "source");
	time_t used = (time_t)int_of(entry, "used");
	char size[32], allocated[32], day[16] = "?";
	struct tm tm;

	progress_bytes((uint64_t)int_of(entry, partial ? "size" : "virtual-size"), size);
	progress_bytes((uint64_t)int_of(entry, "allocated"), allocated);
	if (localtime_r(&used, &tm))
		(void)strftime(day, sizeof day, "%Y-%m-%d", &tm);
	return json_pack("[s, s, s, s, s, s]", text_of(entry, "name"), partial ? "part" : format ? format : "?", size, allocated, day,
			 source ? source : "?");
}

static void print_json(const json_t *list, const struct img_cache_limit *limit)
{
	bool any = limit->bytes != UINT64_MAX;
	json_auto_t *answer = json_pack("{s:I, s:o, s:b, s:O}", "size", (json_int_t)img_cache_size(list), "limit",
					any ? json_integer((json_int_t)limit->bytes) : json_null(), "limit-is-default",
					limit->is_default, "entries", (json_t *)(uintptr_t)list);

	cli_print_json(answer);
}

static void print_table(const json_t *list, const struct img_cache_limit *limit)
{
	static const char *const head[] = {"NAME", "FORMAT", "SIZE", "ON DISK", "LAST USED", "FROM", NULL};
	json_auto_t *rows = json_array();
	char size[32], most[32];
	const json_t *entry;
	size_t i;

	json_array_foreach(list, i, entry)
		json_array_append_new(rows, row_of(entry));
	if (json_array_size(rows) > 0)
		cli_print_table(head, rows);
	progress_bytes(img_cache_size(list), size);
	progress_bytes(limit->bytes, most);
	if (limit->bytes == UINT64_MAX)
		printf("%s on disk, without a limit\n", size);
	else
		printf("%s on disk; the limit is %s%s\n", size, most, limit->is_default ? ", the default" : "");
}

static int print(struct cli *cli)
{
	struct img_cache_limit limit;
	json_auto_t *list = NULL;
	int r = img_cache_limit_read(&cli->dirs, &limit, &cli->error);

	if (r < 0)
		return r;
	list = img_cache_list(&cli->dirs, &cli->error);
	if (!list)
		return cli->error.code;
	if (cli->json)
		print_json(list, &limit);
	else
		print_table(list, &limit);
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

/* 0: the default; UINT64_MAX: none. */
static int take_limit(struct cli *cli, uint64_t *ret)
{
	const char *text = cli_option(cli, "limit");
	json_auto_t *value = json_string(text);

	*ret = streq(text, "none") ? UINT64_MAX : 0;
	if (*ret || streq(text, "default"))
		return 0;
	if (value && vm_size_parse(value, ret) == 0 && *ret > 0 && *ret <= INT64_MAX)
		return 0;
	return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "--limit %s: a size is wanted, as in 20G, or none, or default", text);
}

static int set_limit(struct cli *cli, uint64_t limit)
{
	_cleanup_free_ char *note = NULL;
	int r = img_cache_limit_write(&cli->dirs, limit, &cli->error);

	if (r == 0 && (r = img_cache_trim(&cli->dirs, &note, &cli->error)) < 0)
		qmp_error_wrap(&cli->error, "the limit is set, but nothing was removed");
	if (note)
		fprintf(stderr, "%s\n", note);
	return r;
}

static int run_image_cache(struct cli *cli)
{
	bool limits = cli_option(cli, "limit"), deletes = cli_option(cli, "delete");
	json_auto_t *list = NULL;
	uint64_t limit = 0;

	if (limits && take_limit(cli, &limit) < 0)
		return cli_fail(cli);
	img_cache_sweep(&cli->dirs);
	list = deletes ? img_cache_list(&cli->dirs, &cli->error) : NULL;
	if (deletes && (!list || delete_given(cli, list) < 0))
		return cli_fail(cli);
	if (limits && set_limit(cli, limit) < 0)
		return cli_fail(cli);
	if (!limits && !deletes && print(cli) < 0)
		return cli_fail(cli);
	return 0;
}

const struct verb verb_image_cache = {
	.name = "image cache",
	.group = GROUP_IMAGE,
	.summary = "List the images that were imported, and what is half fetched; how much they may take",
	.notes = "When the cache takes more than its limit, what was used least recently goes: never what a VM or another image is "
		 "known to be backed by, what anybody has open, or what was used within the last hour.",
	.options = (const struct cli_option[]){
		{"delete", "NAME", "delete that one, or \"all\" that nobody needs; repeatable"},
		{"limit", "SIZE", "what it may take on disk, from now on: a size, none, or default (64G, or a quarter of the file system)"},
		{0},
	},
	.run = run_image_cache,
};
