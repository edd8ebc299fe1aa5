/*
 * image create.
 */
#include "qmpctl/verb.h"
#include "qmpctl/words.h"
#include "proto/base.h"

static int run_image_create(struct cli *cli)
{
	const char *format = cli_option(cli, "format") ? cli_option(cli, "format") : "qcow2";
	_cleanup_free_ char *path = path_absolute(cli, cli->args[0]);

	if (!*cli->args[0]) {
		qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "image create: the path is empty");
		return cli_fail(cli);
	}
	if (!path || image_create(cli, path, format, cli->args[1]) < 0) {
		images_undo(cli);
		return cli_fail(cli);
	}
	images_keep(cli);
	if (cli->json) {
		json_auto_t *result = json_pack("{s:s, s:s}", "path", path, "format", format);
		cli_print_json(result);
	} else {
		printf("%s\n", path);
	}
	return 0;
}

const struct verb verb_image_create = {
	.name = "image create",
	.group = GROUP_DEVICE,
	.args = {{"PATH", .kind = ARG_PATH}, {"SIZE"}},
	.summary = "Make an empty image",
	.options = (const struct cli_option[]){
		{"format", "FORMAT", "qcow2 (default), raw, or another that QEMU has", .kind = ARG_CHOICE,
		 .choices = "raw|qcow2|qcow|qed|vmdk|vdi|vhdx|vpc|parallels"},
		{0},
	},
	.run = run_image_create,
};
