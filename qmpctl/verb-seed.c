/*
 * seed: makes the seed of a VM anew, as the files that it is made from are now.
 */
#include "qmpctl/verb.h"
#include "images/seed.h"
#include "proto/base.h"

/* The spec as it stands on disk, with another instance-id where that is asked for. New. */
static json_t *take_spec(struct cli *cli)
{
	json_auto_t *set = NULL, *shown = NULL;
	json_t *args = json_pack("{s:{s:n}, s:b}", "values", "seed.instance-id", "live", 0);

	if (!cli_option(cli, "new-instance"))
		json_decref(args);
	else if (client_call(cli, cli->args[0], "qmpctl-set", args, &set) < 0)
		return NULL;
	if (client_call(cli, cli->args[0], "qmpctl-show", NULL, &shown) < 0)
		return NULL;
	return json_incref(json_object_get(shown, "spec"));
}

static int run_seed(struct cli *cli)
{
	json_auto_t *spec = take_spec(cli);
	_cleanup_free_ char *path = img_seed_path(&cli->dirs, cli->args[0]);
	const char *instance = text_of(json_object_get(spec, "seed"), "instance-id");

	if (!spec)
		return cli_fail(cli);
	if (!img_seed_has_image(spec)) {
		qmp_error_set(&cli->error, QMP_ERR_STATE, -ENOENT,
			      "the VM %s has no seed that is an image; \"qmpctl set %s seed.user=NAME\" and the like begin one",
			      cli->args[0], cli->args[0]);
		return cli_fail(cli);
	}
	if (img_seed_make_now(cli->loop, &cli->dirs, spec, true, &cli->error) < 0)
		return cli_fail(cli);
	if (cli->json) {
		json_auto_t *result = json_pack("{s:s, s:s, s:s?}", "name", cli->args[0], "path", path, "instance-id", instance);
		cli_print_json(result);
	} else {
		printf("%s is made%s\n", path,
		       client_qemu_lives(cli, cli->args[0]) ? "; the guest has it from its next start on" : "");
	}
	return 0;
}

const struct verb verb_seed = {
	.name = "seed",
	.args = {{"NAME", .kind = ARG_VM}},
	.summary = "Make the VM's cloud-init seed anew",
	.notes = "A start makes it where the spec's section \"seed\", or a file that this names, has changed. The guest heeds it at "
		 "its first boot, and again when the instance-id is another one.",
	.options = (const struct cli_option[]){
		{"new-instance", NULL, "with another instance-id: the guest takes its next boot for its first"},
		{0},
	},
	.run = run_seed,
};
