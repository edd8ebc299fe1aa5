/*
 * start: in the keeper that holds the VM, or in a new one.
 */
#include "qmpctl/verb.h"
#include "proto/base.h"

#include <time.h>

/* In the keeper that holds the VM, or in a new one. *RET_AGAIN: that keeper was about to leave. */
static int start_once(struct cli *cli, bool *ret_again)
{
	const char *name = cli->args[0];
	bool paused = cli_option(cli, "paused") != NULL;
	json_auto_t *status = NULL, *result = NULL;
	int r;

	cli->error = (struct qmp_error){0};
	if (!client_is_up(cli, name)) {
		r = client_start(cli, name, paused);
		*ret_again = r < 0 && cli->error.kind == QMP_ERR_BUSY;
		return r;
	}
	*ret_again = true;
	r = client_call(cli, name, "qmpctl-status", NULL, &status);
	if (r == 0 && !streq(text_of(status, "state"), "stopped")) {
		*ret_again = false;
		return qmp_error_set(&cli->error, QMP_ERR_STATE, -EALREADY, "the VM %s is running already", name);
	}
	if (r == 0)
		r = client_call(cli, name, "qmpctl-start", json_pack("{s:b}", "paused", paused), &result);
	*ret_again = r < 0 && (cli->error.kind == QMP_ERR_CLOSED || cli->error.kind == QMP_ERR_STATE);
	return r;
}

/* A keeper whose VM has just ended still holds the lock for an instant: it is waited for. */
static int start_when_free(struct cli *cli)
{
	struct timespec nap = {0, 20 * 1000 * 1000};
	bool again = true;
	int r = 0;

	for (int i = 0; i < 250 && again; i++) {
		r = start_once(cli, &again);
		if (again)
			nanosleep(&nap, NULL);
	}
	return r;
}

static int run_start(struct cli *cli)
{
	if (start_when_free(cli) < 0)
		return cli_fail(cli);
	if (cli->json)
		printf("{\"outcome\": \"done\"}\n");
	else
		printf("%s is %s\n", cli->args[0], cli_option(cli, "paused") ? "paused" : "running");
	return 0;
}

const struct verb verb_start = {
	.name = "start",
	.group = GROUP_LIFE,
	.args = {{"NAME", .kind = ARG_VM}},
	.summary = "Start a VM; returns when it is up",
	.options = (const struct cli_option[]){
		{"paused", NULL, "do not let the guest run yet"},
		{0},
	},
	.settles = true,
	.run = run_start,
};
