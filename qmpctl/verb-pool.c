/*
 * pool create, list, info, refresh, delete.
 */
#include "qmpctl/progress.h"
#include "qmpctl/verb.h"
#include "qmpctl/words.h"
#include "images/pool.h"
#include "launcher/spec.h"
#include "launcher/table.h"
#include "launcher/vm.h"
#include "proto/base.h"

#include <fcntl.h>
#include <sys/file.h>

/* ---- create: "dir,path=/srv/vms", or the JSON object itself ---- */

static int set_field(struct cli *cli, json_t *pool, const struct vm_field *f, const char *value)
{
	_cleanup_free_ char *path = NULL;
	json_t *list;

	switch (f->type) {
	case VM_T_BOOL:
		if (streq(value, "true") || streq(value, "on") || streq(value, "false") || streq(value, "off"))
			return json_object_set_new(pool, f->name, json_boolean(streq(value, "true") || streq(value, "on")));
		return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "%s=%s: it is on or off", f->name, value);
	case VM_T_PATH:
		path = path_absolute(cli, value);
		return path ? json_object_set_new(pool, f->name, json_string(path)) : cli->error.code;
	case VM_T_STRINGS:
		list = json_object_get(pool, f->name);
		if (!list) {
			list = json_array();
			json_object_set_new(pool, f->name, list);
		}
		return json_array_append_new(list, json_string(value));
	default:
		return json_object_set_new(pool, f->name, json_string(value));
	}
}

static const struct vm_pool_type *find_type(const char *name)
{
	const struct vm_pool_type *t = vm_pool_types;

	while (t->name && !streq(t->name, name))
		t++;
	return t->name ? t : NULL;
}

static json_t *parse_pool_words(struct cli *cli, const char *name, const char *text)
{
	_cleanup_free_ char *copy = strdup(text);
	json_auto_t *pool = json_pack("{s:s}", "name", name);
	char *save = NULL, *word = copy && *text != '{' ? strtok_r(copy, ",", &save) : NULL;
	const struct vm_pool_type *type = word ? find_type(word) : NULL;

	if (*text == '{') {
		json_auto_t *given = qmp_json_decode(text, strlen(text), &cli->error);
		cli->error.kind = cli->error.kind ? QMP_ERR_USAGE : QMP_ERR_NONE;
		if (!given)
			return NULL;
		json_object_update(pool, given);
	} else {
		json_object_set_new(pool, "type", json_string(word ? word : ""));
	}
	while (type && (word = strtok_r(NULL, ",", &save))) {
		char *equals = strchr(word, '=');
		const struct vm_field *f;
		if (!equals) {
			qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "\"%s\": behind the type stand KEY=VALUE words", word);
			return NULL;
		}
		*equals = '\0';
		f = vm_find_field(type->fields, word);
		if (!f) {
			(void)vm_refuse_key(&(struct vm_check){.err = &cli->error}, word, type->fields, word);
			return NULL;
		}
		if (set_field(cli, pool, f, equals + 1) < 0)
			return NULL;
	}
	return vm_pool_check(pool, NULL, 0, NULL, &cli->error) < 0 ? NULL : take_ptr(pool);
}

static int run_pool_create(struct cli *cli)
{
	_cleanup_free_ char *words = strdup(cli->args[1]);
	json_auto_t *definition = NULL, *info = NULL;
	_cleanup_pool_ struct img_pool p = {0};

	for (int i = 2; words && i < cli->n_args; i++) {
		char *longer = qmp_asprintf("%s,%s", words, cli->args[i]);
		free(words);
		words = longer;
	}
	definition = words ? parse_pool_words(cli, cli->args[0], words) : NULL;
	if (!definition || img_pool_define(cli->loop, &cli->dirs, definition, &p, &cli->error) < 0)
		return cli_fail(cli);
	info = img_pool_info(&p);
	if (cli->json)
		cli_print_json(info);
	else
		printf("the pool %s is made\n", p.name);
	for (size_t i = 0; i < json_array_size(p.notes) && !cli->json; i++)
		fprintf(stderr, "note: %s\n", json_string_value(json_array_get(p.notes, i)));
	return 0;
}

/* ---- list, info ---- */

/* "1.5 GiB", or "-" where it is not known; in TEXT, which is given back. */
static const char *size_text(const json_t *info, const char *key, char text[16])
{
	if (json_object_get(info, key))
		progress_bytes((uint64_t)int_of(info, key), text);
	else
		strcpy(text, "-");
	return text;
}

static json_t *row_of(const json_t *info)
{
	char capacity[16], used[16], available[16], promised[16], ratio[32] = "";

	if (json_is_true(json_object_get(info, "overcommitted")))
		snprintf(ratio, sizeof ratio, "overcommitted %.2f times", (double)int_of(info, "committed-percent") / 100);
	return json_pack("[s, s, s, s, s, s, s, s]", text_of(info, "name"), text_of(info, "type"), text_of(info, "state"),
			 size_text(info, "capacity", capacity), size_text(info, "used", used), size_text(info, "available", available),
			 size_text(info, "promised", promised), ratio);
}

static int run_pool_list(struct cli *cli)
{
	json_auto_t *names = NULL, *list = json_array(), *rows = json_array();
	const json_t *name, *info;
	size_t i;

	if (vm_pool_names(&cli->dirs, &names, &cli->error) < 0)
		return cli_fail(cli);
	json_array_foreach(names, i, name) {
		_cleanup_pool_ struct img_pool p = {0};
		struct qmp_error why = {0};
		json_t *one;
		if (img_pool_open(cli->loop, &cli->dirs, json_string_value(name), &p, &why) == 0)
			one = img_pool_info(&p);
		else
			one = json_pack("{s:O, s:s, s:s, s:o}", "name", name, "type", "-", "state", "unavailable", "why",
					qmp_json_text(why.message));
		json_array_append_new(list, one);
	}
	if (cli->json) {
		cli_print_json(list);
		return 0;
	}
	json_array_foreach(list, i, info)
		json_array_append_new(rows, row_of(info));
	cli_print_table((const char *const[]){"NAME", "TYPE", "STATE", "CAPACITY", "USED", "AVAILABLE", "PROMISED", "", NULL}, rows);
	json_array_foreach(list, i, info)
		if (text_of(info, "why"))
			fprintf(stderr, "%s: %s\n", text_of(info, "name"), text_of(info, "why"));
	return 0;
}

static void print_sizes(const json_t *info)
{
	static const char *const keys[] = {"capacity", "used", "available", "allocation", "promised"};
	char text[16];

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (json_object_get(info, keys[i]))
			printf("%-13s %s (%lld bytes)\n", keys[i], size_text(info, keys[i], text), (long long)int_of(info, keys[i]));
	if (json_is_true(json_object_get(info, "overcommitted")))
		printf("%-13s %.2f times: guests were promised more than there is room for\n", "overcommitted",
		       (double)int_of(info, "committed-percent") / 100);
}

static void print_fields(const json_t *info, const json_t *definition)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)definition, key, value) {
		_cleanup_free_ char *text = json_is_string(value) ? NULL : json_dumps(value, JSON_ENCODE_ANY);
		printf("%-13s %s\n", key, text ? text : json_string_value(value));
	}
	if (text_of(info, "filesystem"))
		printf("%-13s %s\n", "filesystem", text_of(info, "filesystem"));
	if (json_object_get(info, "md"))
		printf("%-13s %s, %s\n", "md", text_of(json_object_get(info, "md"), "level"), text_of(json_object_get(info, "md"), "health"));
}

/* "of db, 2 snapshots", "raid1, degraded"; new. */
static char *note_of(const json_t *v)
{
	const json_t *md = json_object_get(v, "md");
	long long n = (long long)int_of(v, "snapshots");
	_cleanup_free_ char *note = text_of(v, "origin") ? qmp_asprintf("of %s", text_of(v, "origin"))
				    : md		 ? qmp_asprintf("%s, %s", text_of(md, "level"), text_of(md, "health"))
							 : strdup(json_is_true(json_object_get(v, "in-use-by-host")) ? "in use by the host" : "");

	return n && note ? qmp_asprintf("%s%s%lld snapshot%s", note, *note ? ", " : "", n, n > 1 ? "s" : "") : take_ptr(note);
}

static void print_volumes(const json_t *volumes)
{
	json_auto_t *rows = json_array();
	const json_t *v;
	size_t i;

	json_array_foreach(volumes, i, v) {
		char capacity[16], allocation[16], physical[16];
		_cleanup_free_ char *note = note_of(v);
		json_array_append_new(rows, json_pack("[s, s, s, s, s, s]", text_of(v, "name"), text_of(v, "format"),
						      size_text(v, "capacity", capacity), size_text(v, "allocation", allocation),
						      size_text(v, "physical", physical), note ? note : ""));
	}
	if (json_array_size(rows) == 0)
		return;
	printf("\n");
	cli_print_table((const char *const[]){"VOLUME", "FORMAT", "CAPACITY", "ALLOCATION", "PHYSICAL", "", NULL}, rows);
}

static int show_pool(struct cli *cli, bool refresh)
{
	json_auto_t *info = NULL, *volumes = NULL;
	_cleanup_pool_ struct img_pool p = {0};

	if (img_pool_open(cli->loop, &cli->dirs, cli->args[0], &p, &cli->error) < 0 || (refresh && img_pool_refresh(&p, &cli->error) < 0))
		return cli_fail(cli);
	info = img_pool_info(&p);
	if (text_of(info, "why") && !cli->json) {
		qmp_error_set(&cli->error, QMP_ERR_HOST, -EIO, "the pool %s cannot be used: %s", p.name, text_of(info, "why"));
		return cli_fail(cli);
	}
	if (!text_of(info, "why") && img_pool_volumes(&p, &volumes, &cli->error) < 0)
		return cli_fail(cli);
	if (cli->json) {
		json_object_set(info, "content", volumes);
		cli_print_json(info);
		return text_of(info, "why") ? EXIT_HOST : 0;
	}
	print_fields(info, p.definition);
	print_sizes(info);
	for (size_t i = 0; i < json_array_size(p.notes); i++)
		printf("%-13s %s\n", "note", json_string_value(json_array_get(p.notes, i)));
	print_volumes(volumes);
	return 0;
}

static int run_pool_info(struct cli *cli)
{
	return show_pool(cli, false);
}

static int run_pool_refresh(struct cli *cli)
{
	return show_pool(cli, true);
}

/* ---- delete ---- */

/* VMS: the folder of the specs. Of a VM that is defined or runs: whether it has something in POOL. Also where it cannot be told. */
static bool is_needed_by(struct cli *cli, int vms, const char *vm, const char *pool)
{
	_cleanup_free_ char *file = qmp_asprintf("%s.json", vm);
	_cleanup_fd_ int run = vm_dir_open(cli->dirs.run, vm, false, NULL);
	json_auto_t *spec = file ? vm_file_read_json(vms, file) : NULL;
	json_auto_t *record = run >= 0 && vm_qemu_lives_in(run) ? vm_file_read_json(run, VM_RUNNING_FILE) : NULL;
	bool gone = file && !spec && faccessat(vms, file, F_OK, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT;

	return (!spec && !gone) || vm_pool_is_named(spec, pool) || vm_pool_is_named(json_object_get(record, "spec"), pool);
}

static int check_unused(struct cli *cli, int vms, const char *pool)
{
	json_auto_t *names = vm_names(cli);
	char list[400] = "";
	const json_t *name;
	size_t i, n = 0;

	if (!names)
		return cli->error.code;
	json_array_foreach(names, i, name)
		if (is_needed_by(cli, vms, json_string_value(name), pool) && n < sizeof list)
			n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", n ? ", " : "", json_string_value(name));
	return n == 0 ? 0 : qmp_error_set(&cli->error, QMP_ERR_STATE, -EBUSY, "the pool %s has disks of %s; nothing was changed", pool, list);
}

/* While nobody makes or renames a VM. */
static int undefine_unused(struct cli *cli, const char *pool)
{
	_cleanup_fd_ int vms = vm_dir_open(cli->dirs.conf, "vms", true, &cli->error);

	if (vms < 0)
		return vms;
	if (flock(vms, LOCK_EX) < 0)
		return qmp_error_errno(&cli->error, -errno, "locking the folder of the specs");
	if (check_unused(cli, vms, pool) < 0)
		return cli->error.code;
	return img_pool_undefine(&cli->dirs, pool, &cli->error);
}

static int run_pool_delete(struct cli *cli)
{
	const char *name = cli->args[0];
	json_auto_t *definition = NULL;

	if (vm_pool_read(&cli->dirs, name, &definition, &cli->error) < 0) {
		/* One that is damaged can be forgotten; one that is not there cannot. */
		if (cli->error.kind == QMP_ERR_NOT_FOUND || !vm_name_valid(name))
			return cli_fail(cli);
		cli->error = (struct qmp_error){0};
	}
	if (undefine_unused(cli, name) < 0)
		return cli_fail(cli);
	if (cli->json) {
		json_auto_t *result = json_pack("{s:s}", "name", name);
		cli_print_json(result);
	} else {
		printf("the pool %s is forgotten; its volumes are where they were\n", name);
	}
	return 0;
}

/* ---- The entries ---- */

const struct verb verb_pool_create = {
	.name = "pool create",
	.alias = "pool-define-as",
	.group = GROUP_IMAGE,
	.args = {{"NAME"},
		 {"TYPE[,KEY=VALUE...]", .kind = ARG_POOL_WORDS},
		 {"KEY=VALUE", .optional = true, .repeated = true}},
	.summary = "Name a place for images: dir,path=/srv/vms",
	.notes = "From then on NAME:VOLUME stands wherever an image's path does. Types: dir, mount and btrfs (path=...), lvm (vg=...), "
		 "lvm-thin (vg=...,thin-pool=...), zfs (dataset=...), block (path=/dev/md,only=...), rbd (pool=...,conf=...,user=...). Nothing is formatted.",
	.settles = true,
	.run = run_pool_create,
};

const struct verb verb_pool_list = {
	.name = "pool list",
	.alias = "pool-list",
	.group = GROUP_IMAGE,
	.summary = "List the pools, and how full they are",
	.run = run_pool_list,
};

const struct verb verb_pool_info = {
	.name = "pool info",
	.alias = "pool-info",
	.group = GROUP_IMAGE,
	.args = {{"NAME", .kind = ARG_POOL}},
	.summary = "Show a pool and its volumes",
	.settles = true,
	.run = run_pool_info,
};

const struct verb verb_pool_refresh = {
	.name = "pool refresh",
	.alias = "pool-refresh",
	.group = GROUP_IMAGE,
	.args = {{"NAME", .kind = ARG_POOL}},
	.summary = "Make a pool's volumes usable, as after a boot; remove what killed makers have left; show it",
	.settles = true,
	.run = run_pool_refresh,
};

const struct verb verb_pool_delete = {
	.name = "pool delete",
	.alias = "pool-undefine",
	.group = GROUP_IMAGE,
	.args = {{"NAME", .kind = ARG_POOL}},
	.summary = "Forget a pool that no VM has disks in; its volumes stay",
	.settles = true,
	.run = run_pool_delete,
};
