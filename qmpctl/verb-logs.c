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

static int run_logs(struct cli *cli)
{
	_cleanup_fd_ int dir = vm_dir_open(cli->dirs.run, cli->args[0], false, NULL);
	const char *which = cli_option(cli, "of");
	_cleanup_free_ char *name = which && !streq(which, "qemu") && !streq(which, "keeper")
					    ? qmp_asprintf("console-%s.log", which)
					    : qmp_asprintf("%s.log", which ? which : "console-con0");
	_cleanup_free_ char *old = qmp_asprintf("%s.1", name);

	if (!vm_name_valid(cli->args[0]) || (which && !vm_id_valid(which)) || dir < 0) {
		qmp_error_set(&cli->error, QMP_ERR_NOT_FOUND, -ENOENT, "%s has no logs: it has never run here", cli->args[0]);
		return cli_fail(cli);
	}
	(void)copy_file(dir, old);
	if (copy_file(dir, name) < 0) {
		qmp_error_set(&cli->error, QMP_ERR_NOT_FOUND, -ENOENT, "%s has no log \"%s\"; --of qemu, keeper, or a console's id",
			      cli->args[0], which ? which : "con0");
		return cli_fail(cli);
	}
	return 0;
}

const struct verb verb_logs = {
	.name = "logs",
	.group = GROUP_LOOK,
	.args = {{"NAME", .kind = ARG_VM}},
	.summary = "Print what the guest's console said",
	.options = (const struct cli_option[]){
		{"of", "WHAT", "a console's id, qemu or keeper (con0)", .kind = ARG_CONSOLE, .choices = "qemu|keeper"},
		{0},
	},
	.run = run_logs,
};
