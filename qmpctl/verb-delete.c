/*
 * delete: what a stopped VM has on disk.
 */
#include "qmpctl/verb.h"
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

/* Why PATH is to stay: who else has it, but for what is DELETED already. NULL: nobody. */
static const char *used_elsewhere(const struct img_catalogue *c, const char *path, const json_t *deleted)
{
	json_auto_t *users = img_catalogue_users(c, path), *overlays = img_catalogue_overlays(c, path, false);
	const json_t *overlay, *gone;
	size_t i, k, left;

	if (!users || !overlays || json_array_size(img_catalogue_unknown(c)) > 0)
		return "it cannot be told whether another VM has it";
	if (json_array_size(users) > 0)
		return "another VM has it, too";
	left = json_array_size(overlays);
	json_array_foreach(overlays, i, overlay)
		json_array_foreach(deleted, k, gone)
			left -= streq(json_string_value(gone), text_of(overlay, "path"));
	return left > 0 ? "another image stands on it" : NULL;
}

/* Adds each image of the VM, and what qmpctl made of those that it stands on, to one of the lists. The exit status. */
static int delete_images(struct cli *cli, const json_t *spec, json_t *deleted, json_t *kept)
{
	_cleanup_free_ char *seed = img_seed_path(&cli->dirs, cli->args[0]);
	_cleanup_catalogue_ struct img_catalogue *c = NULL;
	int status = EXIT_OK;
	json_t *disk;
	size_t i;

	if (cli_option(cli, "disks") && img_catalogue_read(&cli->dirs, &c, &cli->error) < 0)
		return cli_fail(cli);
	json_array_foreach(json_object_get(spec, "disks"), i, disk)
		for (const json_t *image = disk; image; image = json_object_get(image, "backing")) {
			const char *path = text_of(image, "path"), *why = NULL;
			bool ours = is_ours(cli, path);
			if (!path || (image != disk && (!ours || !c)) || (seed && streq(path, seed))) /* which goes in any case */
				continue;
			if (ours && !c) {
				why = "--disks deletes the images that qmpctl made";
			} else if (ours && !(why = used_elsewhere(c, path, deleted)) && unlink(path) < 0 && errno != ENOENT) {
				why = strerror(errno);
				status = EXIT_HOST;
			}
			json_array_append_new(!ours || why ? kept : deleted, json_string(path));
			if (why)
				fprintf(stderr, "kept: %s (%s)\n", path, why);
		}
	return status;
}

static int run_delete(struct cli *cli)
{
	_cleanup_free_ char *file = qmp_asprintf("%s.json", cli->args[0]);
	_cleanup_free_ char *run = qmp_asprintf("%s/%s", cli->dirs.run, cli->args[0]);
	json_auto_t *deleted = json_array(), *kept = json_array();
	struct vm *vm;
	int status;

	if (verb_open_stopped(cli, &vm) < 0)
		return cli_fail(cli);
	if (unlinkat(vm->conf_dir, file, 0) < 0 || fsync(vm->conf_dir) < 0) {
		qmp_error_errno(&cli->error, -errno, "deleting %s/vms/%s", cli->dirs.conf, file);
		vm_close(vm);
		return cli_fail(cli);
	}
	status = delete_images(cli, vm->spec, deleted, kept);
	img_seed_remove(&cli->dirs, cli->args[0]);
	vm_firmware_move(&cli->dirs, cli->args[0], NULL);
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
	.run = run_delete,
};
