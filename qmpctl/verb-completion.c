/*
 * completion: the shells' scripts, which are in the program as they are in completion.bash, .zsh and .fish.
 */
#include "qmpctl/completion-scripts.h"
#include "qmpctl/verb.h"
#include "proto/base.h"

static int run_completion(struct cli *cli)
{
	static const struct {
		const char *shell, *script;
	} scripts[] = {{"bash", completion_bash}, {"zsh", completion_zsh}, {"fish", completion_fish}};

	for (size_t i = 0; i < ARRAY_SIZE(scripts); i++)
		if (streq(scripts[i].shell, cli->args[0])) {
			fputs(scripts[i].script, stdout);
			return 0;
		}
	qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "there is no completion for \"%s\"; one of bash, zsh, fish",
		      cli->args[0]);
	return cli_fail(cli);
}

const struct verb verb_completion = {
	.name = "completion",
	.group = GROUP_PROGRAM,
	.args = {{"SHELL", .kind = ARG_CHOICE, .choices = "bash|zsh|fish"}},
	.summary = "Print the script that completes qmpctl's words in a shell",
	.notes = "Where it is not installed for you: source <(qmpctl completion bash) in ~/.bashrc, the same with zsh in ~/.zshrc "
		 "behind compinit; qmpctl completion fish > ~/.config/fish/completions/qmpctl.fish.",
	.run = run_completion,
};
