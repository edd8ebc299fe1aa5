/*
 * image create, info, list, delete.
 */
#include "qmpctl/image.h"
#include "qmpctl/progress.h"
#include "qmpctl/words.h"
#include "images/chain.h"
#include "images/key.h"
#include "images/overlay.h"
#include "images/volume.h"
#include "launcher/location.h"
#include "proto/base.h"

#include <fcntl.h>
#include <sys/stat.h>

/* ---- create ---- */

/* One for which no program has to be started. */
static bool is_plain_overlay(const struct cli *cli, const struct img_target *t)
{
	return t->backing && streq(t->format, "qcow2") && !*t->options && !t->replace && !cli_option(cli, "key-file");
}

static const struct image_access backing_access = {"backing-", ""};

static int make(struct cli *cli, const char *path, const char *format, json_t **ret)
{
	_cleanup_found_ struct found backing = {0};
	_cleanup_free_ const char **options = image_options(cli, "option");
	struct img_target target = {
	    .path = path, .format = format, .options = options, .replace = cli_option(cli, "replace")};
	struct img_task *task;
	uint64_t size = 0;
	int r = 0;

	if (cli->n_args > 1)
		r = parse_size(cli, "", cli->args[1], &size);
	if (r == 0 && cli_option(cli, "backing"))
		r = image_find_base(cli, cli_option(cli, "backing"), cli_option(cli, "backing-format"), &backing_access, &backing);
	if (r == 0 && !size && !backing.image)
		r = qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "image create: a SIZE is wanted, or --backing");
	target.backing = backing.image;
	/* By its name alone qemu-img would not find it. */
	if (r == 0 && !size && backing.image && !vm_location_is_file(backing.path))
		r = image_size_now(cli, &backing, &size);
	if (r == 0 && is_plain_overlay(cli, &target)) {
		r = img_overlay_make(path, backing.image, size, NULL, NULL, &cli->error);
		if (r != -EOPNOTSUPP || cli->error.kind) {
			*ret = r < 0 ? NULL : json_pack("{s:s, s:s}", "path", path, "format", format);
			return r < 0 ? r : image_note_overlay(cli, backing.image, path);
		}
		r = 0;
	}
	if (r == 0)
		r = img_create_with_key(&target, size, cli_option(cli, "key-file"), &task, &cli->error);
	if (r == 0)
		r = image_run(cli, task, "making it", 0, ret);
	return r < 0 || !backing.image ? r : image_note_overlay(cli, backing.image, path);
}

/* One that its pool's own tools make. */
static int make_volume(struct cli *cli, struct img_volume *v, json_t **ret)
{
	uint64_t size = 0;
	int r = cli->n_args > 1 ? parse_size(cli, "", cli->args[1], &size)
				: qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "image create: a SIZE is wanted");

	if (r == 0)
		r = img_volume_create(v, "raw", size, &cli->error);
	if (r == 0)
		*ret = json_pack("{s:s, s:s, s:s}", "path", v->path, "format", "raw", "volume", v->location);
	return r;
}

static int run_image_create(struct cli *cli)
{
	static const char *const of_files[] = {"backing", "option", "key-file", "replace", NULL};
	_cleanup_volume_ struct img_volume volume = {0};
	_cleanup_free_ char *path = NULL;
	json_auto_t *result = NULL;
	int is_volume = image_new_volume(cli, cli->args[0], of_files, &volume);

	if (is_volume < 0 || (is_volume && make_volume(cli, &volume, &result) < 0))
		return cli_fail(cli);
	path = is_volume ? strdup(volume.path) : image_new_path(cli, cli->args[0]);
	if (!path || (!is_volume && make(cli, path, image_new_format(cli, path), &result) < 0))
		return cli_fail(cli);
	image_print(cli, result, path);
	return 0;
}

const struct verb verb_image_create = {
	.name = "image create",
	.group = GROUP_IMAGE,
	.args = {{"PATH", .kind = ARG_PATH}, {"SIZE", .optional = true}},
	.summary = "Make an empty image, or an overlay",
	.notes = "With --backing the image has what BASE has, takes no room for it, and keeps what is changed: a linked clone. The "
		 "format is that of the name's extension, else qcow2.",
	.options = (const struct cli_option[]){
		{"format", "FORMAT", "another format than the name says", .kind = ARG_CHOICE, .choices = IMAGE_FORMATS},
		{"backing", "BASE", "an overlay on the image BASE, which nobody may write to any more", .kind = ARG_PATH},
		{"backing-format", "FORMAT", "BASE's format (default: as its header looks)", .kind = ARG_CHOICE,
		 .choices = IMAGE_FORMATS},
		IMAGE_ACCESS_OF("backing-", "", "BASE"),
		{"option", "KEY=VALUE", "an option of the format, as qemu-img -o has it; repeatable"},
		{"key-file", "FILE", "encrypt it (qcow2, luks) with the passphrase that this file holds, byte for byte",
		 .kind = ARG_PATH},
		{"replace", NULL, "also where there is an image of that name"},
		{"force", NULL, "also where a VM or an overlay is hurt"},
		{0},
	},
	.settles = true,
	.run = run_image_create,
};

/* ---- info ---- */

/* What its pool says of it, into INFO. */
static int add_volume(struct cli *cli, const struct found *f, json_t *info)
{
	struct img_volume *v = (struct img_volume *)&f->volume;
	json_auto_t *volumes = NULL, *snapshots = NULL;
	json_t *row;
	size_t i;
	int r = img_pool_volumes(&v->pool, &volumes, &cli->error);

	if (r == 0 && v->pool.type->snapshots)
		r = img_volume_snapshots(v, &snapshots, &cli->error);
	json_array_foreach(volumes, i, row) {
		if (!streq(text_of(row, "name"), v->name))
			continue;
		json_object_set(info, "actual-size", json_object_get(row, "allocation"));
		json_object_set_new(info, "volume", json_string(v->location));
		json_object_set_new(info, "pool-type", json_string(v->pool.type->name));
		if (json_object_get(row, "origin"))
			json_object_set(info, "origin", json_object_get(row, "origin"));
		if (json_object_get(row, "active"))
			json_object_set(info, "active", json_object_get(row, "active"));
	}
	if (snapshots)
		json_object_set(info, "snapshots", snapshots);
	return r;
}

/* What qemu-img says of each image of the chain, top first; then who has the first. */
static int ask_info(struct cli *cli, const struct found *f, json_t **ret)
{
	bool in_use = json_array_size(f->users) > 0;
	json_auto_t *first = NULL, *chain = json_array();

	for (const json_t *image = f->image; image; image = json_object_get(image, "backing")) {
		_cleanup_free_ char *fifo = img_data_fifo(text_of(image, "path"));
		json_t *info = NULL;
		struct img_task *task;
		if (fifo)
			return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL,
					     "the image %s keeps its data in %s, a FIFO, at which qemu-img would wait, so that it was not asked",
					     text_of(image, "path"), fifo);
		if (img_info(image, in_use, &task, &cli->error) < 0 || image_run(cli, task, "reading", 0, &info) < 0)
			return cli->error.code;
		/* What came through a json: name is told as that. */
		json_object_set(info, "filename", json_object_get(image, "path"));
		json_array_append_new(chain, info);
		if (!cli_option(cli, "chain"))
			break;
	}
	first = json_copy(json_array_get(chain, 0));
	if (f->is_volume && add_volume(cli, f, first) < 0)
		return cli->error.code;
	json_object_set(first, "users", f->users);
	json_object_set(first, "overlays", f->overlays);
	if (cli_option(cli, "chain"))
		json_object_set(first, "chain", chain);
	*ret = take_ptr(first);
	return 0;
}

static void print_bytes(const char *label, const json_t *info, const char *key)
{
	char text[32];

	progress_bytes((uint64_t)int_of(info, key), text);
	if (json_object_get(info, key))
		printf("%-14s %s (%lld bytes)\n", label, text, (long long)int_of(info, key));
}

static void print_names(const char *label, const json_t *list, const char *key)
{
	json_t *item;
	size_t i;

	json_array_foreach(list, i, item)
		printf("%-14s %s\n", i == 0 ? label : "", text_of(item, key));
}

static void print_info(const json_t *info)
{
	const json_t *data = json_object_get(json_object_get(info, "format-specific"), "data");
	json_t *item;
	size_t i;

	printf("%-14s %s\n%-14s %s\n", "path", text_of(info, "filename"), "format", text_of(info, "format"));
	if (text_of(info, "volume"))
		printf("%-14s %s (%s)\n", "volume", text_of(info, "volume"), text_of(info, "pool-type"));
	if (text_of(info, "origin"))
		printf("%-14s %s\n", "clone of", text_of(info, "origin"));
	if (json_is_false(json_object_get(info, "active")))
		printf("%-14s no: \"pool refresh\"\n", "active");
	print_bytes("virtual size", info, "virtual-size");
	print_bytes("allocated", info, "actual-size");
	if (text_of(info, "backing-filename"))
		printf("%-14s %s (%s)\n", "backing", text_of(info, "backing-filename"),
		       text_of(info, "backing-filename-format") ? text_of(info, "backing-filename-format")
								: "its format is not said");
	if (json_is_true(json_object_get(info, "encrypted")))
		printf("%-14s yes\n", "encrypted");
	if (json_is_true(json_object_get(data, "corrupt")))
		printf("%-14s yes: \"image check --repair all\"\n", "corrupt");
	print_names("snapshots", json_object_get(info, "snapshots"), "name");
	print_names("bitmaps", json_object_get(data, "bitmaps"), "name");
	json_array_foreach(json_object_get(info, "users"), i, item)
		printf("%-14s %s (%s, disks.%s%s)\n", i == 0 ? "VMs" : "", text_of(item, "vm"), text_of(item, "state"),
		       text_of(item, "disk"), int_of(item, "depth") > 0 ? ", backed by it" : "");
	print_names("overlays", json_object_get(info, "overlays"), "path");
}

static int run_image_info(struct cli *cli)
{
	_cleanup_found_ struct found f = {0};
	json_auto_t *info = NULL;
	json_t *image;
	size_t i;

	if (image_find(cli, cli->args[0], cli_option(cli, "from"), IMAGE_ITS_OWN, !cli_option(cli, "chain"), &f) < 0 ||
	    ask_info(cli, &f, &info) < 0)
		return cli_fail(cli);
	if (cli->json) {
		cli_print_json(info);
		return 0;
	}
	print_info(info);
	json_array_foreach(json_object_get(info, "chain"), i, image)
		if (i > 0) {
			putchar('\n');
			print_info(image);
		}
	return 0;
}

const struct verb verb_image_info = {
	.name = "image info",
	.group = GROUP_IMAGE,
	.args = {{"IMAGE", .kind = ARG_PATH}},
	.summary = "What an image is, and who has it",
	.options = (const struct cli_option[]){
		{"chain", NULL, "those that it is backed by, too"},
		{"from", "FORMAT", "its format (default: as a VM has it, else as its header looks)", .kind = ARG_CHOICE,
		 .choices = IMAGE_FORMATS},
		IMAGE_ACCESS,
		{0},
	},
	.run = run_image_info,
};

/* ---- list ---- */

/* "a, b (running)": those that have the image itself or are backed by it. */
static char *vm_words(const json_t *users)
{
	char *text = strdup("");
	json_t *user;
	size_t i;

	json_array_foreach(users, i, user)
	{
		_cleanup_free_ char *before = take_ptr(text);
		text = qmp_asprintf("%s%s%s%s", before ? before : "", i ? ", " : "", text_of(user, "vm"),
				    streq(text_of(user, "state"), "running") ? " (running)" : "");
	}
	return text;
}

static void print_images(const json_t *images)
{
	json_auto_t *rows = json_array();
	json_t *image;
	size_t i;

	json_array_foreach(images, i, image)
	{
		_cleanup_free_ char *vms = vm_words(json_object_get(image, "users"));
		const char *backing = text_of(image, text_of(image, "backing-volume") ? "backing-volume" : "backing");
		char size[32] = "-", allocated[32];
		if (int_of(image, "virtual-size") > 0)
			progress_bytes((uint64_t)int_of(image, "virtual-size"), size);
		progress_bytes((uint64_t)int_of(image, "allocated"), allocated);
		json_array_append_new(rows, json_pack("[s, s, s, s, s, s]", text_of(image, text_of(image, "volume") ? "volume" : "path"),
						      text_of(image, "format"), size, allocated, backing ? backing : "-", vms && *vms ? vms : "-"));
	}
	cli_print_table((const char *const[]){"PATH", "FORMAT", "SIZE", "ALLOCATED", "BACKING", "VMS", NULL}, rows);
}

/* Where pools alone are named, theirs alone. */
static int list_images(struct cli *cli, struct img_catalogue *c, json_t **ret)
{
	json_auto_t *pools = json_array(), *images = NULL;
	const json_t *pool;
	size_t k;
	int r = 0;

	for (int i = 0; r == 0 && i < cli->n_args; i++) {
		_cleanup_free_ char *name = vm_pool_volume(cli->args[i], NULL) ? NULL : image_pool_of(cli, cli->args[i]);
		_cleanup_free_ char *folder = name ? NULL : path_absolute(cli, cli->args[i]);
		if (name) {
			json_array_append_new(pools, json_string(name));
			continue;
		}
		if (folder && access(folder, R_OK | X_OK) < 0)
			qmp_error_errno(&cli->error, -errno, "looking through %s", folder);
		r = cli->error.code ? cli->error.code : img_catalogue_add_folder(c, folder, true, &cli->error);
	}
	if (r == 0)
		images = cli->n_args > 0 && (int)json_array_size(pools) == cli->n_args ? json_array() : img_catalogue_images(c);
	if (r == 0 && !images)
		r = qmp_error_errno(&cli->error, -ENOMEM, "listing images");
	json_array_foreach(pools, k, pool)
		if (r == 0)
			r = image_add_volumes(cli, c, json_string_value(pool), images);
	if (r == 0)
		*ret = take_ptr(images);
	return r;
}

static int run_image_list(struct cli *cli)
{
	_cleanup_catalogue_ struct img_catalogue *c = NULL;
	json_auto_t *images = NULL;

	if (img_catalogue_read(&cli->dirs, &c, &cli->error) < 0 || list_images(cli, c, &images) < 0)
		return cli_fail(cli);
	if (cli->json)
		cli_print_json(images);
	else
		print_images(images);
	return 0;
}

const struct verb verb_image_list = {
	.name = "image list",
	.group = GROUP_IMAGE,
	.args = {{"POOL|FOLDER", .kind = ARG_FOLDER, .optional = true, .repeated = true}},
	.summary = "List images, and who has them",
	.notes = "Those in the state directory, those beside the images of VMs, and those in FOLDERs; of a POOL its volumes, and where "
		 "pools alone are named, nothing else.",
	.settles = true,
	.run = run_image_list,
};

/* ---- delete ---- */

static int delete_one(struct cli *cli, const char *word)
{
	_cleanup_found_ struct found f = {0};
	struct stat st;
	int r = image_find(cli, word, NULL, NULL, true, &f);

	if (r == 0 && !f.is_volume && (lstat(f.path, &st) < 0 || !(S_ISREG(st.st_mode) || S_ISLNK(st.st_mode))))
		r = qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "%s is no file, and is not deleted", f.path);
	if (r == 0)
		r = image_refuse_running(cli, &f, false, "deleting it");
	if (r == 0)
		r = image_refuse_hurt(cli, &f, f.users, f.overlays, "others need it");
	if (r == 0 && f.is_volume)
		r = img_volume_remove(&f.volume, &cli->error);
	else if (r == 0 && unlink(f.path) < 0)
		r = qmp_error_errno(&cli->error, -errno, "deleting %s", f.path);
	if (r == 0 && !cli->json)
		printf("%s is deleted\n", f.path);
	return r;
}

static int run_image_delete(struct cli *cli)
{
	json_auto_t *deleted = json_array();
	int status = 0;

	for (int i = 0; i < cli->n_args; i++) {
		cli->error = (struct qmp_error){0};
		if (delete_one(cli, cli->args[i]) < 0)
			status = cli_fail(cli);
		else
			json_array_append_new(deleted, json_string(cli->args[i]));
	}
	if (cli->json) {
		json_auto_t *result = json_pack("{s:O}", "deleted", deleted);
		cli_print_json(result);
	}
	return status;
}

const struct verb verb_image_delete = {
	.name = "image delete",
	.group = GROUP_IMAGE,
	.args = {{"IMAGE", .kind = ARG_PATH, .repeated = true}},
	.summary = "Delete images that nobody needs",
	.options = (const struct cli_option[]){
		{"force", NULL, "also where a stopped VM or an overlay needs it"},
		{0},
	},
	.settles = true,
	.run = run_image_delete,
};
