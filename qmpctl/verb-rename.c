/*
 * rename: of a stopped VM.
 */
#include "qmpctl/verb.h"
#include "images/seed.h"
#include "launcher/firmware.h"
#include "launcher/spec.h"
#include "launcher/vm.h"
#include "proto/base.h"

#include <fcntl.h>
#include <stdio.h>

/* For who reads the file: to qmpctl, its own name counts. */
static int write_name(const struct vm_dirs *dirs, int dir, const char *file, const json_t *old, const char *name,
		      struct qmp_error *err)
{
	json_auto_t *spec = json_deep_copy(old);

	if (!spec || json_object_set_new(spec, "name", json_string(name)) < 0 || img_seed_attach(dirs, NULL, spec) < 0)
		return qmp_error_errno(err, -ENOMEM, "renaming to %s", name);
	return vm_file_write_json(dir, file, spec, err);
}

static int run_rename(struct cli *cli)
{
	const char *to = cli->args[1];
	_cleanup_free_ char *old_file = qmp_asprintf("%s.json", cli->args[0]), *new_file = qmp_asprintf("%s.json", to);
	_cleanup_free_ char *run = qmp_asprintf("%s/%s", cli->dirs.run, cli->args[0]);
	struct vm *vm;
	int r;

	if (!vm_name_valid(to)) {
		qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "\"%s\" is no name for a VM", to);
		return cli_fail(cli);
	}
	if (verb_open_stopped(cli, &vm) < 0)
		return cli_fail(cli);
	/* One step: at no time has it two names, or none. */
	r = renameat2(vm->conf_dir, old_file, vm->conf_dir, new_file, RENAME_NOREPLACE) < 0 ? -errno : 0;
	if (r == -EEXIST)
		qmp_error_set(&cli->error, QMP_ERR_EXISTS, r, "there is a VM named %s already", to);
	else if (r < 0)
		qmp_error_errno(&cli->error, r, "renaming %s to %s", cli->args[0], to);
	else if (fsync(vm->conf_dir) < 0)
		r = qmp_error_errno(&cli->error, -errno, "writing the folder of the specs; %s may be %s or %s", cli->args[0],
				    cli->args[0], to);
	if (r == 0) {
		r = write_name(&cli->dirs, vm->conf_dir, new_file, vm->spec, to, &cli->error);
		if (r < 0 && renameat2(vm->conf_dir, new_file, vm->conf_dir, old_file, RENAME_NOREPLACE) < 0)
			qmp_error_wrap(&cli->error, "%s is named %s now, though its spec does not say so", cli->args[0], to);
	}
	if (r == 0) {
		img_seed_rename(&cli->dirs, cli->args[0], to);
		vm_firmware_move(&cli->dirs, cli->args[0], to);
		verb_empty_run_dir(vm);
	}
	vm_close(vm);
	if (r < 0)
		return cli_fail(cli);
	(void)rmdir(run);
	if (cli->json) {
		json_auto_t *result = json_pack("{s:s, s:s}", "name", to, "was", cli->args[0]);
		cli_print_json(result);
	} else {
		printf("%s is now %s\n", cli->args[0], to);
	}
	return 0;
}

const struct verb verb_rename = {
	.name = "rename",
	.alias = "domrename",
	.args = {{"NAME", .kind = ARG_VM}, {"NEW"}},
	.summary = "Rename a stopped VM",
	.run = run_rename,
};
