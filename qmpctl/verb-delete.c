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
#include "launcher/location.h"
#include "launcher/pool.h"
#include "launcher/vm.h"
#include "proto/base.h"

#include <dirent.h>
#include <fcntl.h>

/* Whether LOCATION is a volume that got its name with the VM: VM-1, VM-2.qcow2 (images_place). */
static bool is_named_for(const char *vm, const char *location)
{
	char pool[VM_POOL_NAME_MAX + 1];
	const char *volume = vm_location_looks(location) == VM_VOLUME ? vm_pool_volume(location, pool) : NULL;
	size_t n = strlen(vm), digits;

	if (!volume || strncmp(volume, vm, n) != 0 || volume[n] != '-')
		return false;
	digits = strspn(volume + n + 1, "0123456789");
	return digits > 0 && (volume[n + 1 + digits] == '\0' || volume[n + 1 + digits] == '.');
}

/* Whether the image is one that qmpctl made: it lies in STATEDIR/images itself, or is named for the VM. */
static bool is_ours(const struct cli *cli, const json_t *image)
{
	_cleanup_free_ char *images = qmp_asprintf("%s/images/", cli->dirs.state);
	const char *path = text_of(image, "path");
	size_t n = strlen(images);

	return (strncmp(path, images, n) == 0 && path[n] && !strchr(path + n, '/')) || is_named_for(cli->args[0], text_of(image, "name"));
}

/* Why PATH is to stay: who else has it, but for what is DELETED (paths) already. NULL: nobody. *RET_KNOWN: whether that can be told. */
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

/*
 * The images of the VM, and those that they stand on, as far as those may go: [{"name": as its spec has it, "path", "keeps": it
 * is not the guest's to write}]; new.
 */
static json_t *images_of(const struct cli *cli, const json_t *spec, const json_t *located)
{
	_cleanup_free_ char *seed = img_seed_path(&cli->dirs, cli->args[0]);
	json_t *images = json_array(), *disk;
	size_t i;

	json_array_foreach(json_object_get(spec, "disks"), i, disk)
	{
		const json_t *place = json_array_get(json_object_get(located, "disks"), i);
		bool keeps = json_is_true(json_object_get(disk, "read-only")) || (text_of(disk, "type") && streq(text_of(disk, "type"), "cdrom"));
		for (const json_t *image = disk; image; image = json_object_get(image, "backing"), place = json_object_get(place, "backing")) {
			const char *name = text_of(image, "path"), *path = text_of(place, "path");
			json_t *one = name && path ? json_pack("{s:s, s:s, s:b}", "name", name, "path", path, "keeps", keeps) : NULL;
			if (one && !(seed && streq(path, seed)) && /* which goes in any case */
			    (image == disk || (is_ours(cli, one) && cli_option(cli, "disks"))))
				json_array_append(images, one);
			json_decref(one);
		}
	}
	return images;
}

static int condemn_file(struct cli *cli, char *path_consume)
{
	_cleanup_free_ char *path = path_consume;
	int r = path ? 0 : -ENOMEM;

	if (r == 0 && access(path, F_OK) < 0)
		return 0;
	if (r == 0)
		r = images_begin(cli, cli->args[0]);
	return r < 0 ? r : img_made_condemn(&cli->made, path, &cli->error);
}

static int condemn(struct cli *cli, const json_t *image)
{
	_cleanup_volume_ struct img_volume v = {0};
	int r = img_volume_open(cli->loop, &cli->dirs, text_of(image, "name"), &v, &cli->error);

	if (r == 0)
		return condemn_file(cli, strdup(text_of(image, "path")));
	if (r > 0)
		r = images_begin(cli, cli->args[0]);
	return r < 0 ? r : img_made_condemn_volume(&cli->made, &v, &cli->error);
}

/*
 * What is to go with the spec; images that are noted get "noted". Where that cannot be, as on a disk that is full or where a pool
 * does not answer, it is deleted all the same.
 */
static void condemn_all(struct cli *cli, const json_t *images)
{
	json_t *image;
	size_t i;
	int r;

	json_array_foreach(images, i, image) {
		if (!cli_option(cli, "disks") || !is_ours(cli, image))
			continue;
		json_object_set_new(image, "noted", json_boolean(condemn(cli, image) == 0));
		cli->error = (struct qmp_error){0};
	}
	r = condemn_file(cli, img_seed_path(&cli->dirs, cli->args[0]));
	for (int secure = 0; r == 0 && secure < 2; secure++)
		r = condemn_file(cli, vm_firmware_vars(&cli->dirs, cli->args[0], secure));
	cli->error = (struct qmp_error){0};
}

/* What stands beside it counts, too: its overlays. */
static void look_beside(struct img_catalogue *c, const char *path)
{
	_cleanup_free_ char *folder = strdup(path);
	char *slash = folder ? strrchr(folder, '/') : NULL;

	if (slash && slash != folder) {
		*slash = '\0';
		(void)img_catalogue_add_folder(c, folder, false, NULL);
	}
}

/* Why it is not deleted; NULL: it is. *RET_KNOWN: whether that will stay so. */
static const char *delete_image(struct cli *cli, struct img_catalogue *c, const json_t *image, const json_t *deleted, bool *ret_known,
				struct qmp_error *err)
{
	_cleanup_volume_ struct img_volume v = {0};
	const char *path = text_of(image, "path"), *why = NULL;
	int r = img_volume_open(cli->loop, &cli->dirs, text_of(image, "name"), &v, err);

	if (r < 0) {
		*ret_known = err->kind == QMP_ERR_NOT_FOUND; /* its pool is forgotten */
		return err->message;
	}
	if (r == 0)
		look_beside(c, path);
	if ((why = used_elsewhere(c, path, deleted, ret_known)))
		return why;
	if (r > 0)
		r = img_volume_remove(&v, err);
	else if (unlink(path) < 0 && errno != ENOENT)
		r = qmp_error_errno(err, -errno, "deleting %s", path);
	/* Gone already is as well; others that hang on a volume stay until somebody deletes them. */
	*ret_known = r == 0 || err->kind == QMP_ERR_NOT_FOUND || err->kind == QMP_ERR_STATE;
	return r < 0 && err->kind != QMP_ERR_NOT_FOUND ? err->message : NULL;
}

/* Adds each of the images to one of the lists. The exit status; *RET_LEFT: some are for another time. */
static int delete_images(struct cli *cli, const json_t *images, json_t *deleted, json_t *gone, json_t *kept, bool *ret_left)
{
	_cleanup_catalogue_ struct img_catalogue *c = NULL;
	bool asked = cli_option(cli, "disks") != NULL;
	int status = EXIT_OK;
	const json_t *image;
	size_t i;

	*ret_left = asked && img_catalogue_read(&cli->dirs, &c, &cli->error) < 0;
	if (*ret_left)
		return cli_fail(cli);
	json_array_foreach(images, i, image) {
		struct qmp_error err = {0};
		bool ours = is_ours(cli, image), known = true;
		const char *why = ours ? "--disks deletes the images that qmpctl made" : NULL;
		if (ours && c)
			why = delete_image(cli, c, image, gone, &known, &err);
		else if (asked && !json_is_true(json_object_get(image, "keeps")))
			why = "its name was given by hand; \"qmpctl image delete\" deletes it";
		if (err.code && !known)
			status = EXIT_HOST;
		json_array_append(!ours || why ? kept : deleted, json_object_get(image, "name"));
		if (ours && !why)
			json_array_append(gone, json_object_get(image, "path"));
		if (why)
			fprintf(stderr, "%s: %s (%s)\n", known ? "kept" : json_is_true(json_object_get(image, "noted")) ?
				"qmpctl: kept until a later verb can delete it" : "qmpctl: kept, for \"qmpctl image delete\" to delete it",
				text_of(image, "name"), why);
		*ret_left |= !known;
	}
	return status;
}

static int run_delete(struct cli *cli)
{
	_cleanup_free_ char *file = qmp_asprintf("%s.json", cli->args[0]);
	_cleanup_free_ char *run = qmp_asprintf("%s/%s", cli->dirs.run, cli->args[0]);
	json_auto_t *images = NULL, *located = NULL, *deleted = json_array(), *gone = json_array(), *kept = json_array();
	struct vm *vm;
	bool left;
	int status;

	if (verb_open_stopped(cli, &vm) < 0)
		return cli_fail(cli);
	if (vm_pools_look(&cli->dirs, vm->spec, NULL, &located, &cli->error) < 0) {
		vm_close(vm);
		return cli_fail(cli);
	}
	images = images_of(cli, vm->spec, located);
	condemn_all(cli, images);
	if (unlinkat(vm->conf_dir, file, 0) < 0 || fsync(vm->conf_dir) < 0) {
		qmp_error_errno(&cli->error, -errno, "deleting %s/vms/%s", cli->dirs.conf, file);
		img_made_leave(&cli->made); /* whether it is there decides */
		vm_close(vm);
		return cli_fail(cli);
	}
	status = delete_images(cli, images, deleted, gone, kept, &left);
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
		{"disks", NULL, "delete the images that qmpctl made for it, too, also in a pool, and bases of theirs that nobody else needs"},
		{0},
	},
	.settles = true,
	.run = run_delete,
};
