/*
 * stop, kill, reboot: the ends of a run.
 */
#include "qmpctl/verb.h"
#include "proto/base.h"

static int stop_with(struct cli *cli, const char *operation, const char *done)
{
	json_auto_t *result = NULL;
	_cleanup_free_ char *said = NULL;
	json_t *args;
	int64_t timeout;
	int r;

	if (cli_seconds(cli, "timeout", 60, &timeout) < 0)
		return cli_fail(cli);
	args = streq(operation, "qmpctl-kill")
		       ? json_object()
		       : json_pack("{s:I, s:b}", "timeout", (json_int_t)timeout, "force", cli_option(cli, "force") != NULL);
	r = verb_call(cli, operation, args, &result);
	if (r >= 0)
		return r;
	if (!cli->json && text_of(result, "agent"))
		fprintf(stderr, "the guest agent did not do it: %s\n", text_of(result, "agent"));
	said = qmp_asprintf("%s %s (%s)", cli->args[0], done, text_of(result, "how"));
	return verb_print_outcome(cli, result, said);
}

static int run_stop(struct cli *cli)
{
	return stop_with(cli, "qmpctl-stop", "is stopped");
}

static int run_kill(struct cli *cli)
{
	return stop_with(cli, "qmpctl-kill", "is killed");
}

static int run_reboot(struct cli *cli)
{
	return stop_with(cli, "qmpctl-reboot", "is rebooted");
}

static const struct cli_option stop_options[] = {
	{"timeout", "SECONDS", "how long the guest may take (60)"},
	{"force", NULL, "then end QEMU: quit, SIGTERM, SIGKILL"},
	{0},
};

const struct verb verb_stop = {
	.name = "stop",
	.alias = "shutdown",
	.group = GROUP_LIFE,
	.args = {{"NAME", .kind = ARG_VM}},
	.summary = "Ask the guest to power off, and wait for it",
	.options = stop_options,
	.run = run_stop,
};

const struct verb verb_kill = {
	.name = "kill",
	.alias = "destroy",
	.group = GROUP_LIFE,
	.args = {{"NAME", .kind = ARG_VM}},
	.summary = "End QEMU now",
	.run = run_kill,
};

const struct verb verb_reboot = {
	.name = "reboot",
	.group = GROUP_LIFE,
	.args = {{"NAME", .kind = ARG_VM}},
	.summary = "Power off through the guest, then start again",
	.options = stop_options,
	.run = run_reboot,
};
