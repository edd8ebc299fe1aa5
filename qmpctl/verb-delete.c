/*
 * delete: what a stopped VM has on disk.
 */
#include "qmpctl/verb.h"
#include "launcher/vm.h"
#include "proto/base.h"

#include <dirent.h>
#include <fcntl.h>

static int run_delete(struct cli *cli)
{
	_cleanup_free_ char *file = qmp_asprintf("%s.json", cli->args[0]);
	_cleanup_free_ char *run = qmp_asprintf("%s/%s", cli->dirs.run, cli->args[0]);
	_cleanup_free_ char *images = qmp_asprintf("%s/images/", cli->dirs.state);
	struct vm *vm;
	json_t *disk;
	size_t i;

	if (verb_open_stopped(cli, &vm) < 0)
		return cli_fail(cli);
	if (unlinkat(vm->conf_dir, file, 0) < 0 || fsync(vm->conf_dir) < 0) {
		qmp_error_errno(&cli->error, -errno, "deleting %s/vms/%s", cli->dirs.conf, file);
		vm_close(vm);
		return cli_fail(cli);
	}
	json_array_foreach(json_object_get(vm->spec, "disks"), i, disk)
	{
		const char *path = text_of(disk, "path");
		if (!path || strncmp(path, images, strlen(images)) != 0)
			continue;
		if (cli_option(cli, "disks"))
			(void)unlink(path);
		else
			fprintf(stderr, "kept: %s (--disks deletes the images that qmpctl made)\n", path);
	}
	verb_empty_run_dir(vm);
	vm_close(vm);
	(void)rmdir(run);
	printf("%s is deleted\n", cli->args[0]);
	return 0;
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
