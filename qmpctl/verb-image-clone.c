/*
 * image clone: of one image.
 */
#include "qmpctl/image.h"
#include "qmpctl/progress.h"
#include "qmpctl/words.h"
#include "images/clone.h"
#include "images/copy.h"
#include "images/overlay.h"
#include "launcher/location.h"
#include "proto/base.h"

#include <sys/stat.h>

/* Nobody may write to a base, now or later. */
static int refuse_writers(struct cli *cli, const struct found *f)
{
	json_auto_t *writers = json_array();
	_cleanup_free_ char *names = NULL;
	const json_t *user;
	size_t i;
	int many;

	json_array_foreach(f->users, i, user)
		if (json_is_true(json_object_get(user, "writes")))
			json_array_append(writers, (json_t *)user);
	names = img_catalogue_names(writers, NULL, &many);
	return many == 0 ? 0 : qmp_error_set(&cli->error, QMP_ERR_STATE, -EBUSY,
					     "%s is written to by %s, and nothing that stands on it would outlast that; clone --linked "
					     "makes overlays for a VM and its clone, --full a copy",
					     f->path, names ? names : "VMs");
}

static int make_overlay(struct cli *cli, const struct found *f, const char *path)
{
	struct img_target target = {.path = path, .format = "qcow2", .backing = f->image};
	struct img_task *task;
	struct stat st;
	int r = refuse_writers(cli, f);

	if (r == 0 && (!vm_location_is_file(f->path) || stat(f->path, &st) < 0 || !S_ISREG(st.st_mode)))
		r = qmp_error_set(&cli->error, QMP_ERR_UNSUPPORTED, -ENOTSUP, "%s is no file, which could be protected as a base; --full "
				  "copies it", f->path);
	/* Before there is an overlay that a write would destroy. */
	if (r == 0)
		r = img_protect(f->path, &cli->error);
	if (r == 0)
		r = img_overlay_make(path, f->image, 0, NULL, NULL, &cli->error);
	if (r == -EOPNOTSUPP) {
		r = img_create(&target, 0, &task, &cli->error);
		if (r == 0)
			r = img_task_call(cli->loop, task, NULL, NULL, NULL, &cli->error);
	}
	return r < 0 ? r : image_note_overlay(cli, f->image, path);
}

static void on_copy(void *data, uint64_t done, uint64_t total)
{
	progress_update(data, done, total);
}

static int make_copy(struct cli *cli, const struct found *f, const char *path)
{
	struct progress bar;
	struct img_copy_options copy = {.from = f->path, .to = path, .progress = on_copy, .data = &bar};
	struct img_target target = {.path = path, .format = text_of(f->image, "format")};
	struct img_task *task;
	struct stat st;
	int r = image_refuse_running(cli, f, true, "copying it");

	if (r < 0)
		return r;
	if (!json_object_get(f->image, "backing") && stat(f->path, &st) == 0 && S_ISREG(st.st_mode)) {
		progress_begin(&bar, cli, "copying", "B");
		r = img_copy_call(cli->loop, &copy, NULL, &cli->error);
		progress_end(&bar);
		return r;
	}
	r = img_convert(f->image, NULL, &target, false, false, &task, &cli->error);
	return r < 0 ? r : image_run(cli, task, "copying", f->size, NULL);
}

/* Whether the pool of F's volume makes TO by its own tools: it shares its blocks then, and both can be written to. */
static bool is_pools_clone(const struct cli *cli, const struct found *f, const struct img_volume *to)
{
	if (!f->is_volume || cli_option(cli, "full"))
		return false;
	return cli_option(cli, "linked") || (to->location && streq(to->pool.name, f->volume.pool.name) && f->volume.pool.type->clone);
}

static int to_volume(struct cli *cli, struct found *f, struct img_volume *to)
{
	bool of_pool = is_pools_clone(cli, f, to);
	json_auto_t *result = NULL;
	int r = image_refuse_running(cli, f, true, "cloning it");

	if (r == 0 && !of_pool && cli_option(cli, "linked"))
		r = qmp_error_set(&cli->error, QMP_ERR_UNSUPPORTED, -ENOTSUP, "%s: an overlay is a file, and the pool %s has none; --full copies "
				  "it there", cli->args[1], to->pool.name);
	if (r == 0)
		r = of_pool ? img_volume_clone(&f->volume, cli->args[1], &cli->error) : image_to_volume(cli, f->image, NULL, to, 0);
	if (r < 0)
		return cli_fail(cli);
	result = json_pack("{s:s, s:s, s:s, s:b}", "volume", cli->args[1], "format", "raw", "of",
			   f->is_volume ? f->volume.location : f->path, "linked", of_pool);
	image_print(cli, result, cli->args[1]);
	return 0;
}

static int run_image_clone(struct cli *cli)
{
	bool linked = cli_option(cli, "linked") != NULL;
	_cleanup_volume_ struct img_volume volume = {0};
	_cleanup_found_ struct found f = {0};
	_cleanup_free_ char *path = NULL;
	json_auto_t *result = NULL;
	const char *format;
	int r;

	if (linked && cli_option(cli, "full")) {
		qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "image clone: --linked, or --full");
		return cli_fail(cli);
	}
	if (image_find(cli, cli->args[0], NULL, IMAGE_ITS_OWN, false, &f) < 0 || (r = image_new_volume(cli, cli->args[1], (const char *[]){NULL}, &volume)) < 0)
		return cli_fail(cli);
	if (r > 0 || is_pools_clone(cli, &f, &volume))
		return to_volume(cli, &f, &volume);
	path = image_new_path(cli, cli->args[1]);
	if (!path)
		return cli_fail(cli);
	format = linked ? "qcow2" : text_of(f.image, "format");
	r = linked ? make_overlay(cli, &f, path) : make_copy(cli, &f, path);
	if (r < 0)
		return cli_fail(cli);
	result = json_pack("{s:s, s:s, s:b}", "path", path, "format", format, "linked", linked);
	if (linked)
		json_object_set(result, "backing", f.image);
	image_print(cli, result, path);
	return 0;
}

const struct verb verb_image_clone = {
	.name = "image clone",
	.group = GROUP_IMAGE,
	.args = {{"IMAGE", .kind = ARG_PATH}, {"NEW", .kind = ARG_PATH}},
	.summary = "Make another image like one that is there",
	.notes = "--full (default) copies it, sharing blocks where the file system can; a chain becomes one image. --linked makes an "
		 "overlay in milliseconds, whatever the size, and write-protects IMAGE. Volumes of LVM, ZFS, Ceph and Btrfs subvolumes "
		 "are cloned by their pool, within that, without copying, unless --full is given; and files are copied to where such a "
		 "volume is wanted.",
	.options = (const struct cli_option[]){
		{"linked", NULL, "an overlay (qcow2) on IMAGE, or its pool's own clone"},
		{"full", NULL, "a copy (default)"},
		IMAGE_ACCESS,
		{0},
	},
	.settles = true,
	.run = run_image_clone,
};
