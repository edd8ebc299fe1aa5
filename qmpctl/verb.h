/*
 * What a verb's file needs: the entry (cli.h), and what several verbs do alike.
 *
 * A verb is one file verb-NAME.c that ends in its entry `const struct verb verb_NAME`; verbs.c puts it into the table, from
 * which usage, help, man page and completion come.
 */
#pragma once

#include "qmpctl/cli.h"

struct vm;

/*
 * An operation on the VM cli->args[0]; prints the result as JSON where asked for. The exit status, or -1: RET is the
 * caller's to print and to free.
 */
int verb_call(struct cli *cli, const char *operation, json_t *args_consume, json_t **ret);
/*
 * What an operation that changes gave: done (WHAT is printed), pending (exit status 6), dry-run (the plan). The exit
 * status.
 */
int verb_print_outcome(struct cli *cli, const json_t *result, const char *what);

/* --live, --config, --dry-run, --timeout: for verbs that end in verb_change. */
extern const struct cli_option change_options[];
/* An operation that changes the VM, with the argument KEY and what those options say. The exit status. NULL: cli->error. */
int verb_change(struct cli *cli, const char *operation, const char *key, json_t *value_consume);
/* Likewise, with several arguments. */
int verb_change_with(struct cli *cli, const char *operation, json_t *args_consume);

/* "disks" or "nics" of a VM, as in its spec and as it runs. The exit status. */
int verb_list_items(struct cli *cli, const char *kind, const char *const *columns);

/*
 * Until the guest of the VM NAME, which has a keeper, is ready (ready.h), SECONDS at most; each stage is a line on standard
 * error unless JSON is asked for.
 */
int verb_await_ready(struct cli *cli, const char *name, int64_t seconds);

/* Opens the VM for itself: with no QEMU that lives. vm_close it. */
int verb_open_stopped(struct cli *cli, struct vm **ret);
void verb_empty_run_dir(struct vm *vm);
