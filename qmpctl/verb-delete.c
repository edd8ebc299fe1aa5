/*
 * delete: what a stopped VM has on disk.
 *
 * What is to go with the spec is noted (images/made.h) -> the spec goes -> the rest does. Whoever is killed before the spec has
 * gone leaves the VM as it was; afterwards the next verb goes on.
 */
#include "qmpctl/verb.h"
#include "qmpctl/words.h"
#include "images/catalogue.h"
#include "images/seed.h"
#include "launcher/firmware.h"
#include "launcher/vm.h"
#include "proto/base.h"

#include <dirent.h>
#include <fcntl.h>

/* Whether the image is one that qmpctl made: it lies in STATEDIR/images itself. */
static bool is_ours(const struct cli *cli, const char *path)
{
	_cleanup_free_ char *images = qmp_asprintf("%s/images/", cli->dirs.state);
	size_t n = strlen(images);

	return path && strncmp(path, images, n) == 0 && path[n] && !strchr(path + n, '/');
}

/* Why PATH is to stay: who else has it, but for what is DELETED already. NULL: nobody. *RET_KNOWN: whether that can be told. */
static const char *used_elsewhere(const struct img_catalogue *c, const char *path, const json_t *deleted, bool *ret_known)
{
	json_auto_t *users = img_catalogue_users(c, path), *overlays = img_catalogue_overlays(c, path, false);
	const json_t *overlay, *gone;
	size_t i, k, left;

	*ret_known = users && overlays && json_array_size(img_catalogue_unknown(c)) == 0;
	if (!*ret_known)
		return "it cannot be told whether another VM has it";
	if (json_array_size(users) > 0)
		return "another VM has it, too";
	left = json_array_size(overlays);
	json_array_foreach(overlays, i, overlay)
		json_array_foreach(deleted, k, gone)
			left -= streq(json_string_value(gone), text_of(overlay, "path"));
	return left > 0 ? "another image stands on it" : NULL;
}

/* The images of the VM, and those that they stand on, as far as those may go: what the spec names of them; new. */
static json_t *images_of(const struct cli *cli, const json_t *spec)
{
	_cleanup_free_ char *seed = img_seed_path(&cli->dirs, cli->args[0]);
	json_t *images = json_array(), *disk;
	size_t i;

	json_array_foreach(json_object_get(spec, "disks"), i, disk)
		for (const json_t *image = disk; image; image = json_object_get(image, "backing")) {
			const char *path = text_of(image, "path");
			if (path && !(seed && streq(path, seed)) && /* which goes in any case */
			    (image == disk || (is_ours(cli, path) && cli_option(cli, "disks"))))
				json_array_append(images, json_object_get(image, "path"));
		}
	return images;
}

static int condemn(struct cli *cli, char *path_consume)
{
	_cleanup_free_ char *path = path_consume;
	int r = path ? 0 : -ENOMEM;

	if (r == 0 && access(path, F_OK) < 0)
		return 0;
	if (r == 0)
		r = images_begin(cli, cli->args[0]);
	return r < 0 ? r : img_made_condemn(&cli->made, path, &cli->error);
}

/* What is to go with the spec. Where that cannot be noted, as on a disk that is full, it is deleted all the same. */
static void condemn_all(struct cli *cli, const json_t *images)
{
	const json_t *path;
	size_t i;
	int r = 0;

	json_array_foreach(images, i, path)
		if (r == 0 && cli_option(cli, "disks") && is_ours(cli, json_string_value(path)))
			r = condemn(cli, strdup(json_string_value(path)));
	if (r == 0)
		r = condemn(cli, img_seed_path(&cli->dirs, cli->args[0]));
	for (int secure = 0; r == 0 && secure < 2; secure++)
		r = condemn(cli, vm_firmware_vars(&cli->dirs, cli->args[0], secure));
	cli->error = (struct qmp_error){0};
}

/* Adds each of the images to one of the lists. The exit status; *RET_LEFT: some are for another time. */
static int delete_images(struct cli *cli, const json_t *images, json_t *deleted, json_t *kept, bool *ret_left)
{
	_cleanup_catalogue_ struct img_catalogue *c = NULL;
	int status = EXIT_OK;
	const json_t *image;
	size_t i;

	*ret_left = cli_option(cli, "disks") && img_catalogue_read(&cli->dirs, &c, &cli->error) < 0;
	if (*ret_left)
		return cli_fail(cli);
	json_array_foreach(images, i, image) {
		const char *path = json_string_value(image), *why = NULL;
		bool ours = is_ours(cli, path), known = true;
		if (ours && !c) {
			why = "--disks deletes the images that qmpctl made";
		} else if (ours && !(why = used_elsewhere(c, path, deleted, &known)) && unlink(path) < 0 && errno != ENOENT) {
			why = strerror(errno);
			known = false;
			status = EXIT_HOST;
		}
		json_array_append_new(!ours || why ? kept : deleted, json_string(path));
		if (why)
			fprintf(stderr, "%s: %s (%s)\n", known ? "kept" : "qmpctl: kept until a later verb can delete it", path, why);
		*ret_left |= !known;
	}
	return status;
}

static int run_delete(struct cli *cli)
{
	_cleanup_free_ char *file = qmp_asprintf("%s.json", cli->args[0]);
	_cleanup_free_ char *run = qmp_asprintf("%s/%s", cli->dirs.run, cli->args[0]);
	json_auto_t *images = NULL, *deleted = json_array(), *kept = json_array();
	struct vm *vm;
	bool left;
	int status;

	if (verb_open_stopped(cli, &vm) < 0)
		return cli_fail(cli);
	images = images_of(cli, vm->spec);
	condemn_all(cli, images);
	if (unlinkat(vm->conf_dir, file, 0) < 0 || fsync(vm->conf_dir) < 0) {
		qmp_error_errno(&cli->error, -errno, "deleting %s/vms/%s", cli->dirs.conf, file);
		img_made_leave(&cli->made); /* whether it is there decides */
		vm_close(vm);
		return cli_fail(cli);
	}
	status = delete_images(cli, images, deleted, kept, &left);
	img_seed_remove(&cli->dirs, cli->args[0]);
	vm_firmware_remove(&cli->dirs, cli->args[0]);
	if (left)
		img_made_leave(&cli->made);
	else
		img_made_keep(&cli->made);
	verb_empty_run_dir(vm);
	vm_close(vm);
	(void)rmdir(run);
	if (cli->json) {
		json_auto_t *result = json_pack("{s:s, s:O, s:O}", "name", cli->args[0], "deleted", deleted, "kept", kept);
		cli_print_json(result);
	} else {
		printf("%s is deleted\n", cli->args[0]);
	}
	return status;
}

const struct verb verb_delete = {
	.name = "delete",
	.alias = "undefine",
	.args = {{"NAME", .kind = ARG_VM}},
	.summary = "Forget a stopped VM",
	.options = (const struct cli_option[]){
		{"disks", NULL, "delete the images that qmpctl made for it, too, and bases of theirs that nobody else needs"},
		{0},
	},
	.settles = true,
	.run = run_delete,
};
