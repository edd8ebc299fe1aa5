/*
 * logs: what the guest's consoles, QEMU and the keeper said.
 */
#include "qmpctl/verb.h"
#include "launcher/spec.h"
#include "proto/base.h"

#include <fcntl.h>
#include <stdio.h>

static void copy_bytes(FILE *file)
{
	char buffer[65536];
	size_t n;

	while ((n = fread(buffer, 1, sizeof buffer, file)) > 0)
		fwrite(buffer, 1, n, stdout);
}

/* One object a line. */
static void copy_as_json(FILE *file, const char *vm, const char *which)
{
	char *line = NULL;
	size_t size = 0;
	ssize_t n;

	while ((n = getline(&line, &size, file)) > 0) {
		json_auto_t *entry = NULL;
		_cleanup_free_ char *text = NULL;
		while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
			line[--n] = '\0';
		entry = json_pack("{s:s, s:s, s:o}", "vm", vm, "log", which, "line", qmp_json_text(line));
		text = entry ? qmp_json_encode(entry, JSON_COMPACT, NULL) : NULL;
		if (text)
			puts(text);
	}
	free(line);
}

static int copy_file(const struct cli *cli, int dir, const char *name, const char *which)
{
	int fd = openat(dir, name, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
	FILE *file = fd >= 0 ? fdopen(fd, "re") : NULL;

	if (!file) {
		int r = -errno;
		if (fd >= 0)
			(void)close(fd);
		return r;
	}
	if (cli->json)
		copy_as_json(file, cli->args[0], which);
	else
		copy_bytes(file);
	(void)fclose(file);
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
	(void)copy_file(cli, dir, old, which);
	if (copy_file(cli, dir, name, which) < 0)
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
	.notes = "With -o json: {\"vm\", \"log\", \"line\"}, one a line.",
	.options = (const struct cli_option[]){
		{"of", "WHAT", "a console's id, qemu or keeper (the first console)", .kind = ARG_CONSOLE, .choices = "qemu|keeper"},
		{0},
	},
	.run = run_logs,
};
