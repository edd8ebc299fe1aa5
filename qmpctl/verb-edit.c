/*
 * edit: a spec in an editor.
 *
 * Nothing changes unless the editor ended well, the text is a spec, and the VM still has the spec that was edited. Where
 * one of these does not hold, what was written is kept in its file, which is named.
 */
#include "qmpctl/verb.h"
#include "proto/base.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

/* VISUAL, else EDITOR, else vi. */
static const char *editor(void)
{
	static const char *const variables[] = {"VISUAL", "EDITOR"};

	for (size_t i = 0; i < ARRAY_SIZE(variables); i++) {
		const char *value = getenv(variables[i]);
		if (value && *value)
			return value;
	}
	return "vi";
}

/* The keys that interrupt are the editor's meanwhile. */
static int run_editor(struct cli *cli, const char *path)
{
	struct sigaction ignore = {.sa_handler = SIG_IGN}, interrupt, quit;
	int status = 0;
	pid_t pid, ended;

	(void)sigaction(SIGINT, &ignore, &interrupt);
	(void)sigaction(SIGQUIT, &ignore, &quit);
	pid = fork();
	if (pid == 0) {
		/* EDITOR is a shell's words by convention; the path is not one of them. */
		_cleanup_free_ char *command = qmp_asprintf("%s \"$1\"", editor());
		(void)sigaction(SIGINT, &interrupt, NULL);
		(void)sigaction(SIGQUIT, &quit, NULL);
		(void)signal(SIGPIPE, SIG_DFL);
		execl("/bin/sh", "sh", "-c", command, "sh", path, (char *)NULL);
		_exit(127);
	}
	do
		ended = pid < 0 ? -1 : waitpid(pid, &status, 0);
	while (ended < 0 && pid >= 0 && errno == EINTR);
	(void)sigaction(SIGINT, &interrupt, NULL);
	(void)sigaction(SIGQUIT, &quit, NULL);
	if (ended < 0)
		return qmp_error_errno(&cli->error, -errno, "running the editor \"%s\"", editor());
	if (status != 0)
		return qmp_error_set(&cli->error, QMP_ERR_HOST, -EIO, "the editor \"%s\" failed (%s %d); nothing was changed",
				     editor(), WIFSIGNALED(status) ? "signal" : "exit status",
				     WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	return 0;
}

/* TEXT in a new file; its name, new. */
static char *write_file(struct cli *cli, const char *text, size_t len)
{
	const char *folder = getenv("TMPDIR");
	_cleanup_free_ char *path =
		qmp_asprintf("%s/qmpctl-%s-XXXXXX.json", folder && *folder == '/' ? folder : "/tmp", cli->args[0]);
	_cleanup_fd_ int fd = path ? mkostemps(path, (int)strlen(".json"), O_CLOEXEC) : -1;

	if (fd >= 0 && write(fd, text, len) == (ssize_t)len && write(fd, "\n", 1) == 1)
		return take_ptr(path);
	qmp_error_errno(&cli->error, -errno, "writing %s", path ? path : "a file to edit");
	if (fd >= 0)
		(void)unlink(path);
	return NULL;
}

/* Whether the file still is TEXT and a line's end. */
static bool is_untouched(const char *path, const char *text, size_t len)
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	_cleanup_free_ char *now = malloc(len + 2);
	ssize_t n = fd >= 0 && now ? read(fd, now, len + 2) : -1;

	return n == (ssize_t)len + 1 && memcmp(now, text, len) == 0;
}

/* From the editor's end on: the exit status, and whether the file is needed no more. */
static int take_over(struct cli *cli, const char *path, const json_t *base, bool *ret_done)
{
	json_t *spec;
	int status;

	if (cli_read_spec(cli, path, &spec) < 0)
		return cli_fail(cli);
	status = verb_change_with(cli, "qmpctl-apply", json_pack("{s:o, s:O}", "spec", spec, "base", base));
	*ret_done = (status == EXIT_OK || status == EXIT_PENDING) && !cli_option(cli, "dry-run");
	return status;
}

static int run_edit(struct cli *cli)
{
	json_auto_t *result = NULL;
	_cleanup_free_ char *text = NULL, *path = NULL;
	const json_t *base;
	bool done = false, untouched;
	size_t len;
	int status;

	if (client_call(cli, cli->args[0], "qmpctl-show", NULL, &result) < 0)
		return cli_fail(cli);
	base = json_object_get(result, "spec");
	text = qmp_json_encode(base, JSON_INDENT(2), &len);
	path = text ? write_file(cli, text, len) : NULL;
	if (!path) {
		qmp_error_errno(&cli->error, -ENOMEM, "editing the spec of %s", cli->args[0]);
		return cli_fail(cli);
	}
	status = run_editor(cli, path) < 0 ? cli_fail(cli) : EXIT_OK;
	untouched = is_untouched(path, text, len);
	if (status == EXIT_OK && untouched)
		fprintf(stderr, "nothing was changed\n");
	else if (status == EXIT_OK)
		status = take_over(cli, path, base, &done);
	if (done || untouched)
		(void)unlink(path);
	else
		fprintf(stderr, "what you wrote is kept in %s; \"qmpctl apply\" takes it\n", path);
	return status;
}

const struct verb verb_edit = {
	.name = "edit",
	.args = {{"NAME", .kind = ARG_VM}},
	.summary = "Edit the spec in an editor, then apply it",
	.options = change_options,
	.run = run_edit,
};
