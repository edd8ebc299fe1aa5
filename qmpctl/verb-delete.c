/*
 * delete: what a stopped VM has on disk.
 */
#include "qmpctl/verb.h"
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

/* Whether another VM's spec names PATH, as a disk or as what a disk stands on. */
static bool is_used_elsewhere(struct cli *cli, const char *path)
{
	_cleanup_fd_ int dir = vm_dir_open(cli->dirs.conf, "vms", false, NULL);
	json_auto_t *names = vm_names(cli), *quoted = json_string(path);
	_cleanup_free_ char *wanted = quoted ? json_dumps(quoted, JSON_ENCODE_ANY) : NULL;
	json_t *name;
	size_t i;

	json_array_foreach(names, i, name)
	{
		_cleanup_free_ char *file = qmp_asprintf("%s.json", json_string_value(name)), *text = NULL;
		json_auto_t *spec = vm_file_read_json(dir, file);

		text = spec ? json_dumps(spec, 0) : NULL;
		if (!text || !wanted || strstr(text, wanted))
			return true; /* also where it cannot be told */
	}
	return !names;
}

/* Adds each image of the VM to one of the lists. The exit status. */
static int delete_images(struct cli *cli, const json_t *spec, json_t *deleted, json_t *kept)
{
	_cleanup_free_ char *seed = img_seed_path(&cli->dirs, cli->args[0]);
	int status = EXIT_OK;
	json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(spec, "disks"), i, disk)
	{
		const char *path = text_of(disk, "path"), *why = NULL;
		bool ours = is_ours(cli, path);
		if (!path || (seed && streq(path, seed))) /* which goes in any case */
			continue;
		if (ours && !cli_option(cli, "disks")) {
			why = "--disks deletes the images that qmpctl made";
		} else if (ours && is_used_elsewhere(cli, path)) {
			why = "another VM has it, too";
		} else if (ours && unlink(path) < 0 && errno != ENOENT) {
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
		{"disks", NULL, "delete the images that qmpctl made for it, too"},
		{0},
	},
	.run = run_delete,
};
