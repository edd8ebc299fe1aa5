/*
 * pause, resume, reset: one command of QEMU each.
 */
#include "qmpctl/verb.h"
#include "proto/base.h"

static int plain_command(struct cli *cli, const char *command, const char *done)
{
	json_auto_t *result = NULL;
	int r = verb_call(cli, command, NULL, &result);

	if (r >= 0)
		return r;
	if (!cli->json)
		printf("%s %s\n", cli->args[0], done);
	return 0;
}

static int run_reset(struct cli *cli)
{
	return plain_command(cli, "system_reset", "is reset");
}

static int run_pause(struct cli *cli)
{
	return plain_command(cli, "stop", "is paused");
}

static int run_resume(struct cli *cli)
{
	return plain_command(cli, "cont", "is running");
}

const struct verb verb_reset = {
	.name = "reset",
	.group = GROUP_LIFE,
	.args = {{"NAME", .kind = ARG_VM}},
	.summary = "Press the reset button",
	.run = run_reset,
};

const struct verb verb_pause = {
	.name = "pause",
	.alias = "suspend",
	.group = GROUP_LIFE,
	.args = {{"NAME", .kind = ARG_VM}},
	.summary = "Stop the vCPUs",
	.run = run_pause,
};

const struct verb verb_resume = {
	.name = "resume",
	.group = GROUP_LIFE,
	.args = {{"NAME", .kind = ARG_VM}},
	.summary = "Let the vCPUs run again",
	.run = run_resume,
};
