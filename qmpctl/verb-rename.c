/*
 * rename: of a stopped VM.
 */
#include "qmpctl/verb.h"
#include "launcher/spec.h"
#include "launcher/vm.h"
#include "proto/base.h"

#include <fcntl.h>

static int run_rename(struct cli *cli)
{
	const char *to = cli->args[1];
	_cleanup_free_ char *old_file = qmp_asprintf("%s.json", cli->args[0]), *new_file = qmp_asprintf("%s.json", to);
	_cleanup_free_ char *run = qmp_asprintf("%s/%s", cli->dirs.run, cli->args[0]);
	json_auto_t *spec = NULL;
	struct vm *vm;
	int r;

	if (!vm_name_valid(to)) {
		qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "\"%s\" is no name for a VM", to);
		return cli_fail(cli);
	}
	if (verb_open_stopped(cli, &vm) < 0)
		return cli_fail(cli);
	spec = json_deep_copy(vm->spec);
	json_object_set_new(spec, "name", json_string(to));
	if (faccessat(vm->conf_dir, new_file, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		r = qmp_error_set(&cli->error, QMP_ERR_EXISTS, -EEXIST, "there is a VM named %s already", to);
	else
		r = vm_file_write_json(vm->conf_dir, new_file, spec, &cli->error);
	if (r == 0 && (unlinkat(vm->conf_dir, old_file, 0) < 0 || fsync(vm->conf_dir) < 0))
		r = qmp_error_errno(&cli->error, -errno, "removing the old name");
	if (r == 0)
		verb_empty_run_dir(vm);
	vm_close(vm);
	if (r < 0)
		return cli_fail(cli);
	(void)rmdir(run);
	printf("%s is now %s\n", cli->args[0], to);
	return 0;
}

const struct verb verb_rename = {
	.name = "rename",
	.alias = "domrename",
	.args = {{"NAME", .kind = ARG_VM}, {"NEW"}},
	.summary = "Rename a stopped VM",
	.run = run_rename,
};
