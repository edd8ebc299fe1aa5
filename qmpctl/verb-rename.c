/*
 * rename: of a stopped VM.
 *
 * The order of what happens: the firmware's variables are copied under the new name, and what is to go under the old one is
 * noted (images/made.h) -> the spec has the new name -> what was noted goes. Whoever is killed in between leaves the VM under
 * one of its names, with its variables.
 */
#include "qmpctl/verb.h"
#include "qmpctl/words.h"
#include "images/seed.h"
#include "launcher/firmware.h"
#include "launcher/spec.h"
#include "launcher/vm.h"
#include "proto/base.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>

/* For who reads the file: to qmpctl, its own name counts. */
static int write_name(const struct vm_dirs *dirs, int dir, const char *file, const json_t *old, const char *name,
		      struct qmp_error *err)
{
	json_auto_t *spec = json_deep_copy(old);

	if (!spec || json_object_set_new(spec, "name", json_string(name)) < 0 || img_seed_attach(dirs, NULL, spec) < 0)
		return qmp_error_errno(err, -ENOMEM, "renaming to %s", name);
	return vm_file_write_json(dir, file, spec, err);
}

/* What goes with the old name. */
static int condemn(struct cli *cli, const char *name)
{
	_cleanup_free_ char *seed = img_seed_path(&cli->dirs, name), *vars = vm_firmware_vars(&cli->dirs, name, false),
			    *secure_vars = vm_firmware_vars(&cli->dirs, name, true);
	int r = seed && vars && secure_vars ? img_made_condemn(&cli->made, seed, &cli->error)
					    : qmp_error_errno(&cli->error, -ENOMEM, "renaming %s", name);

	if (r == 0)
		r = img_made_condemn(&cli->made, vars, &cli->error);
	return r < 0 ? r : img_made_condemn(&cli->made, secure_vars, &cli->error);
}

/*
 * The spec's file, in one step: at no time has it two names, or none. DIR is locked: nobody else makes one of the name meanwhile.
 * *RET_KNOWN: where it failed it has its old name.
 */
static int rename_spec(struct cli *cli, int dir, const char *from, const char *to, const json_t *spec, bool *ret_known)
{
	_cleanup_free_ char *old_file = qmp_asprintf("%s.json", from), *new_file = qmp_asprintf("%s.json", to);
	int r;

	if (!old_file || !new_file)
		return qmp_error_errno(&cli->error, -ENOMEM, "renaming %s to %s", from, to);
	if (renameat2(dir, old_file, dir, new_file, RENAME_NOREPLACE) < 0)
		return qmp_error_errno(&cli->error, -errno, "renaming %s to %s", from, to);
	r = fsync(dir) < 0 ? qmp_error_errno(&cli->error, -errno, "writing the folder of the specs") : 0;
	if (r == 0)
		r = write_name(&cli->dirs, dir, new_file, spec, to, &cli->error);
	if (r < 0) /* also where it was written, but its folder could not be synced */
		(void)write_name(&cli->dirs, dir, new_file, spec, from, NULL);
	if (r < 0 && renameat2(dir, new_file, dir, old_file, RENAME_NOREPLACE) < 0) {
		qmp_error_wrap(&cli->error, "%s is named %s now, though its spec does not say so", from, to);
		*ret_known = false;
	}
	return r;
}

static int rename_vm(struct cli *cli, struct vm *vm, const char *to)
{
	_cleanup_free_ char *new_file = qmp_asprintf("%s.json", to);
	bool known = true;
	int r = flock(vm->conf_dir, LOCK_EX) < 0 ? qmp_error_errno(&cli->error, -errno, "locking the folder of the specs") : 0;

	if (r == 0 && new_file && faccessat(vm->conf_dir, new_file, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		r = qmp_error_set(&cli->error, QMP_ERR_EXISTS, -EEXIST, "there is a VM named %s already", to);
	if (r == 0)
		r = images_begin(cli, to);
	if (r == 0)
		r = image_copy_variables(cli, vm->name, to);
	if (r == 0)
		r = condemn(cli, vm->name);
	if (r == 0)
		r = rename_spec(cli, vm->conf_dir, vm->name, to, vm->spec, &known);
	if (r == 0) {
		img_seed_rename(&cli->dirs, vm->name, to);
		vm_firmware_remove(&cli->dirs, vm->name);
		images_keep(cli);
	} else if (known) {
		images_undo(cli);
	} else {
		img_made_leave(&cli->made);
	}
	return r;
}

static int run_rename(struct cli *cli)
{
	const char *to = cli->args[1];
	_cleanup_free_ char *run = qmp_asprintf("%s/%s", cli->dirs.run, cli->args[0]);
	struct vm *vm;
	int r;

	if (!vm_name_valid(to)) {
		qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "\"%s\" is no name for a VM", to);
		return cli_fail(cli);
	}
	if (verb_open_stopped(cli, &vm) < 0)
		return cli_fail(cli);
	r = rename_vm(cli, vm, to);
	if (r == 0)
		verb_empty_run_dir(vm);
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
	.settles = true,
	.run = run_rename,
};
