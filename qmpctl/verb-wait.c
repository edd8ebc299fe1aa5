/*
 * wait: for a state of the VM, for its agent, for what its console says, for an event.
 */
#include "qmpctl/verb.h"
#include "qmpctl/ready.h"
#include "proto/base.h"

#include <time.h>

/*
 * Waiting begins before there is a VM that runs: until then, look again. One without a keeper gets one by the call. 0, and
 * how many seconds of TIMEOUT are left; 1: there is nothing to wait for.
 */
static int await_keeper(struct cli *cli, const char *what, int64_t timeout, int64_t *ret_left)
{
	struct timespec nap = {0, 50 * 1000 * 1000};
	uint64_t begun = uv_hrtime(), second = 1000 * 1000 * 1000;

	while (!client_is_up(cli, cli->args[0]) && !client_qemu_lives(cli, cli->args[0])) {
		if (streq(what, "stopped"))
			return 1;
		if ((uv_hrtime() - begun) / second >= (uint64_t)timeout)
			return qmp_error_set(&cli->error, QMP_ERR_TIMEOUT, -ETIMEDOUT, "%s: it did not start within %lld s",
					     cli->args[0], (long long)timeout);
		nanosleep(&nap, NULL);
	}
	*ret_left = timeout - (int64_t)((uv_hrtime() - begun) / second);
	if (*ret_left < 0)
		*ret_left = 0;
	return 0;
}

static int run_wait(struct cli *cli)
{
	const char *what = cli_option(cli, "for"), *equals = what ? strchr(what, '=') : NULL;
	json_auto_t *result = NULL;
	_cleanup_free_ char *word = what ? strndup(what, equals ? (size_t)(equals - what) : strlen(what)) : NULL;
	json_t *args;
	int64_t timeout, left = 0;
	int r;

	if (!word)
		qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL,
			      "wait: --for is missing: running, stopped, paused, agent, ready, console=TEXT or event=NAME");
	if (cli->error.kind || cli_seconds(cli, "timeout", streq(word, "ready") ? READY_TIMEOUT : 60, &timeout) < 0)
		return cli_fail(cli);
	if (vm_check_name(cli, cli->args[0]) < 0)
		return cli_fail(cli);
	r = await_keeper(cli, word, timeout, &left);
	if (r != 0)
		return r < 0 ? cli_fail(cli) : 0;
	if (streq(word, "ready"))
		return verb_await_ready(cli, cli->args[0], left) < 0 ? cli_fail(cli) : 0;
	args = json_pack("{s:s, s:I}", "for", word, "timeout", (json_int_t)left);
	if (equals)
		json_object_set_new(args, streq(word, "event") ? "event" : "text", json_string(equals + 1));
	r = client_call(cli, cli->args[0], "qmpctl-wait", args, &result);
	if (r < 0 && streq(word, "stopped") && cli->error.kind == QMP_ERR_CLOSED)
		return 0; /* the keeper ended with its VM */
	return r < 0 ? cli_fail(cli) : 0;
}

const struct verb verb_wait = {
	.name = "wait",
	.group = GROUP_LIFE,
	.args = {{"NAME", .kind = ARG_VM}},
	.summary = "Wait for something",
	.options = (const struct cli_option[]){
		{"for", "WHAT", "running, stopped, paused, agent, ready (cloud-init has ended), console=TEXT or event=NAME", .kind = ARG_CHOICE,
		 .choices = "running|stopped|paused|agent|ready|console=|event="},
		{"timeout", "SECONDS", "how long (60; ready: 600)"},
		{0},
	},
	.run = run_wait,
};
