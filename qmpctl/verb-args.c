/*
 * args: QEMU's command line, of a VM that runs or would run.
 */
#include "qmpctl/verb.h"
#include "launcher/argv.h"
#include "launcher/vm.h"
#include "proto/base.h"

struct preview {
	struct cli *cli;
	struct vm *vm;
	char **argv;
};

static void on_caps(void *data, json_t *caps, const struct qmp_error *why)
{
	struct preview *p = data;

	uv_stop(p->cli->loop);
	if (!caps)
		p->cli->error = *why;
	else
		(void)vm_preview_argv(p->vm, caps, &p->argv, &p->cli->error);
}

static int print_words(const struct cli *cli, char **words)
{
	_cleanup_free_ char *text = cli->json ? NULL : vm_argv_quote(words);
	json_auto_t *list = json_array();

	for (char **w = words; *w; w++)
		json_array_append_new(list, qmp_json_text(*w));
	if (cli->json)
		cli_print_json(list);
	else
		puts(text ? text : "");
	return 0;
}

/* The command line of a VM that does not run: what start would use. */
static int preview_args(struct cli *cli)
{
	struct preview p = {.cli = cli};
	int r = verb_open_stopped(cli, &p.vm);

	if (r == -EBUSY) {
		cli->error = (struct qmp_error){0};
		qmp_error_set(&cli->error, QMP_ERR_STATE, r, "the VM %s is stopped, and its keeper or another verb still holds it; try again "
			      "later", cli->args[0]);
	}
	if (r < 0)
		return cli_fail(cli);
	if (vm_caps_get(cli->loop, &cli->dirs, text_of(p.vm->spec, "qemu-binary"), on_caps, &p, &cli->error) == 0)
		uv_run(cli->loop, UV_RUN_DEFAULT);
	vm_close(p.vm);
	if (!p.argv)
		return cli_fail(cli);
	(void)print_words(cli, p.argv);
	vm_argv_free(p.argv);
	return 0;
}

static int run_args(struct cli *cli)
{
	json_auto_t *result = NULL;
	json_t *argv, *word;
	char **words;
	size_t i;

	if (!client_is_up(cli, cli->args[0]) && !client_qemu_lives(cli, cli->args[0]))
		return preview_args(cli);
	if (client_call(cli, cli->args[0], "qmpctl-show", NULL, &result) < 0)
		return cli_fail(cli);
	argv = json_object_get(result, "argv");
	if (!argv)
		return preview_args(cli); /* it has ended, and its keeper is about to */
	words = calloc(json_array_size(argv) + 1, sizeof *words);
	if (!words) {
		qmp_error_errno(&cli->error, -ENOMEM, "the command line of %s", cli->args[0]);
		return cli_fail(cli);
	}
	json_array_foreach(argv, i, word)
		words[i] = (char *)json_string_value(word);
	(void)print_words(cli, words);
	free(words);
	return 0;
}

const struct verb verb_args = {
	.name = "args",
	.alias = "domxml-to-native",
	.group = GROUP_QEMU,
	.args = {{"NAME", .kind = ARG_VM}},
	.summary = "Print QEMU's command line",
	.run = run_args,
};
