/*
 * edit: a spec in an editor.
 */
#include "qmpctl/verb.h"
#include "proto/base.h"

#include <sys/wait.h>

static int edit_file(struct cli *cli, const char *path)
{
	const char *editor = getenv("VISUAL") ? getenv("VISUAL") : getenv("EDITOR") ? getenv("EDITOR") : "vi";
	int status = 0;
	pid_t pid = fork();

	if (pid == 0) {
		/* EDITOR is a shell's words by convention; the path is not one of them. */
		_cleanup_free_ char *command = qmp_asprintf("%s \"$1\"", editor);
		execl("/bin/sh", "sh", "-c", command, "sh", path, (char *)NULL);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0 || status != 0)
		return qmp_error_set(&cli->error, QMP_ERR_HOST, -EIO, "the editor \"%s\" failed; nothing was changed", editor);
	return 0;
}

static int run_edit(struct cli *cli)
{
	char path[] = "/tmp/qmpctl-edit-XXXXXX";
	json_auto_t *result = NULL;
	_cleanup_free_ char *text = NULL;
	_cleanup_fd_ int fd = -1;
	json_t *spec;
	size_t len;
	int r;

	if (client_call(cli, cli->args[0], "qmpctl-show", NULL, &result) < 0)
		return cli_fail(cli);
	text = qmp_json_encode(json_object_get(result, "spec"), JSON_INDENT(2), &len);
	fd = mkstemp(path);
	if (fd < 0 || write(fd, text, len) != (ssize_t)len || write(fd, "\n", 1) != 1) {
		qmp_error_errno(&cli->error, -errno, "writing %s", path);
		return cli_fail(cli);
	}
	r = edit_file(cli, path);
	if (r == 0)
		r = cli_read_spec(cli, path, &spec);
	if (r < 0) {
		fprintf(stderr, "what you wrote is kept in %s; \"qmpctl apply\" takes it once it is right\n", path);
		return cli_fail(cli);
	}
	(void)unlink(path);
	return verb_change(cli, "qmpctl-apply", "spec", spec);
}

const struct verb verb_edit = {
	.name = "edit",
	.args = {{"NAME", .kind = ARG_VM}},
	.summary = "Edit the spec in an editor, then apply it",
	.options = change_options,
	.run = run_edit,
};
