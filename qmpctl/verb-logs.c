/*
 * logs: what the guest's consoles, QEMU and the keeper said.
 */
#include "qmpctl/verb.h"
#include "launcher/spec.h"
#include "proto/base.h"

#include <fcntl.h>

static int copy_file(int dir, const char *name)
{
	_cleanup_fd_ int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	char buffer[65536];
	ssize_t n;

	if (fd < 0)
		return -errno;
	while ((n = read(fd, buffer, sizeof buffer)) > 0)
		fwrite(buffer, 1, (size_t)n, stdout);
	return 0;
}

/* The id of the VM's first console; new, NULL where it has none. */
static char *first_console(struct cli *cli)
{
	_cleanup_fd_ int dir = vm_dir_open(cli->dirs.conf, "vms", false, NULL);
	_cleanup_free_ char *file = qmp_asprintf("%s.json", cli->args[0]);
	json_auto_t *spec = dir >= 0 ? vm_file_read_json(dir, file) : NULL;
	json_auto_t *effective = spec ? vm_spec_effective(spec) : NULL;
	const char *id = text_of(json_array_get(json_object_get(effective, "consoles"), 0), "id");

	return id ? strdup(id) : NULL;
}

static int print_log(struct cli *cli, const char *which)
{
	_cleanup_fd_ int dir = vm_dir_open(cli->dirs.run, cli->args[0], false, NULL);
	bool console = !streq(which, "qemu") && !streq(which, "keeper");
	_cleanup_free_ char *name = qmp_asprintf("%s%s.log", console ? "console-" : "", which);
	_cleanup_free_ char *old = qmp_asprintf("%s.1", name);

	if (dir < 0)
		return qmp_error_set(&cli->error, QMP_ERR_NOT_FOUND, -ENOENT, "the VM %s has no logs: it has never run here",
				     cli->args[0]);
	(void)copy_file(dir, old);
	if (copy_file(dir, name) < 0)
		return qmp_error_set(&cli->error, QMP_ERR_NOT_FOUND, -ENOENT,
				     "the VM %s has no log \"%s\" (yet); there may be qemu, keeper, and its consoles' ids",
				     cli->args[0], which);
	return 0;
}

static int run_logs(struct cli *cli)
{
	const char *which = cli_option(cli, "of");
	_cleanup_free_ char *first = NULL;

	if (vm_check_name(cli, cli->args[0]) < 0)
		return cli_fail(cli);
	if (which && !vm_id_valid(which)) {
		qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "--of: \"%s\" is no id of a console, nor qemu or keeper", which);
		return cli_fail(cli);
	}
	first = which ? NULL : first_console(cli);
	if (!which && !first) {
		qmp_error_set(&cli->error, QMP_ERR_NOT_FOUND, -ENOENT, "the VM %s has no console; --of qemu or keeper has theirs",
			      cli->args[0]);
		return cli_fail(cli);
	}
	return print_log(cli, which ? which : first) < 0 ? cli_fail(cli) : 0;
}

const struct verb verb_logs = {
	.name = "logs",
	.group = GROUP_LOOK,
	.args = {{"NAME", .kind = ARG_VM}},
	.summary = "Print what the guest's console said, or QEMU, or the keeper",
	.options = (const struct cli_option[]){
		{"of", "WHAT", "a console's id, qemu or keeper (the first console)", .kind = ARG_CONSOLE, .choices = "qemu|keeper"},
		{0},
	},
	.run = run_logs,
};
