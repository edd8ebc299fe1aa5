/*
 * The command line: the table of verbs, what the user gave, output, exit statuses. Only qmpctl/ prints.
 */
#pragma once

#include "images/made.h"

#include <stdio.h>

struct cli;

/* What a word of the command line is, so that it can be completed. */
enum arg_kind {
	ARG_TEXT, /* nothing is known of it */
	ARG_VM,
	ARG_PATH,
	ARG_FOLDER,
	ARG_CHOICE,     /* one of .choices */
	ARG_DISK,       /* the id of a disk of the VM in the first argument; so are the next two */
	ARG_NIC,
	ARG_CONSOLE,
	ARG_DISK_WORDS, /* words.h */
	ARG_POOL,
	ARG_POOL_WORDS, /* verb-pool.c */
	ARG_NIC_WORDS,
	ARG_FIELD,      /* PATH=VALUE of a spec */
	ARG_MACHINE,    /* a machine type of QEMU */
	ARG_OS,         /* a name of os.json */
	ARG_QMP_COMMAND,
	ARG_QMP_ARGUMENT, /* KEY=VALUE of the command before it */
};

struct cli_arg {
	const char *name; /* as usage has it: "NAME"; NULL ends a verb's arguments */
	enum arg_kind kind;
	const char *choices;     /* "a|b=|c": what it can be, or what it can be beside its kind; NULL: anything */
	bool optional, repeated; /* repeated: the last one alone */
};

struct cli_option {
	const char *name;    /* without the dashes */
	const char *metavar; /* NULL: a flag */
	const char *summary;
	enum arg_kind kind;  /* of its value */
	const char *choices;
};

#define VERB_ARGS_MAX 3
#define ALL_VERBS_MAX 200

/* Where it stands in the help. */
enum verb_group { GROUP_SPEC, GROUP_LIFE, GROUP_DEVICE, GROUP_IMAGE, GROUP_LOOK, GROUP_QEMU, GROUP_PROGRAM };

struct verb {
	const char *name;    /* "disk add" */
	const char *alias;   /* virsh's name, or NULL */
	enum verb_group group;
	struct cli_arg args[VERB_ARGS_MAX + 1];
	const char *summary;
	const char *notes;   /* sentences below the summary; NULL: none */
	const struct cli_option *options; /* ends with a NULL name; NULL: none but the common ones */
	int help_args;       /* with so many arguments --help is run()'s to answer; 0: never */
	bool settles;        /* first, what verbs that are gone have left half done (words.h, images_settle) */
	int (*run)(struct cli *cli);
};

/* Exit statuses; docs/exit-status.md. */
enum { EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_NOT_FOUND, EXIT_STATE, EXIT_TIMEOUT, EXIT_PENDING, EXIT_UNREACHABLE,
       EXIT_HOST, EXIT_KILLED = 20, EXIT_CRASHED, EXIT_PANICKED, EXIT_QEMU_STATUS };

struct cli {
	uv_loop_t *loop;
	struct vm_dirs dirs;
	const char *root;
	const char *program;  /* argv[0], to start ourselves */
	const struct verb *verb;
	const char *noun; /* in its place: help is wanted for the verbs of it */
	bool json;
	char **args;
	int n_args;
	struct {
		const char *name, *value;
	} given[64];
	int n_given;
	struct img_made made; /* images that this run has made, or is to remove; words.h */
	struct qmp_error error;
	void (*on_progress)(struct cli *cli, const json_t *data); /* what an operation tells of itself (QMPCTL_PROGRESS); NULL: nobody asks */
};

extern const struct verb *const all_verbs[]; /* ends with NULL */
extern const struct cli_option common_options[];
/* The verb that ARGV begins with, and in how many words; NULL: none. */
const struct verb *cli_find_verb(int argc, char *const *argv, int *ret_words);
/* The option named by the N bytes of NAME; NULL: none. */
const struct cli_option *cli_find_option(const struct cli_option *options, const char *name, size_t n);

/* The last value given; NULL: none (a flag's value is ""). */
const char *cli_option(const struct cli *cli, const char *name);
/* The I-th value of a repeated option. */
const char *cli_option_at(const struct cli *cli, const char *name, int i);
/* An option that is a number of seconds; -1 and the error filled where it is not. */
int cli_seconds(struct cli *cli, const char *name, int64_t fallback, int64_t *ret);
/* Likewise one that is a number of something. */
int cli_count(struct cli *cli, const char *name, int64_t fallback, int64_t *ret);
int exit_status_of(enum qmp_error_kind kind);
/* Prints the error and returns its exit status. */
int cli_fail(struct cli *cli);
void cli_print_json(const json_t *value);
/*
 * ROWS: arrays of strings, one for each of HEAD (which ends with NULL). Columns are as wide as what is in them; on a
 * terminal the widest are cut until the table fits.
 */
void cli_print_table(const char *const *head, const json_t *rows);
/* Of the terminal at FD; 0: it is none, or does not say. */
int cli_terminal_columns(int fd);
/* "" or a terminal's escape sequence. */
const char *cli_bold(void);
const char *cli_plain(void);

/* client.c: an operation on a VM, or a command for its QEMU, wherever it is: in its keeper, or here where nothing runs. */
int client_call(struct cli *cli, const char *name, const char *operation, json_t *args_consume, json_t **ret);
/* Starts a keeper detached; returns when the VM is up or has failed to come up. */
int client_start(struct cli *cli, const char *name, bool paused);
/* A connection to its control.sock; the keeper is there already. */
int client_connect(struct cli *cli, const char *name, int *ret_fd);
/* 1: a keeper answers or QEMU lives; 0: not. */
int client_is_up(struct cli *cli, const char *name);
/* Whether QEMU lives, with or without a keeper. */
bool client_qemu_lives(struct cli *cli, const char *name);
/* Each event as a line, until the connection ends. */
int client_events(struct cli *cli, char *const *names, int n);
/* One operation on many VMs at once: RESULTS[i] new, or NULL. */
void client_call_all(struct cli *cli, char *const *names, int n, const char *operation, json_t **results);

/* verb.c */
/* The spec in the file PATH ("-": standard input), checked; new. */
int cli_read_spec(struct cli *cli, const char *path, json_t **ret);
/* The names of all VMs, sorted; new array of strings. NULL: cli->error. */
json_t *vm_names(struct cli *cli);
/* Whether there is a VM of that name: else an error, with a name that is near. */
int vm_check_name(struct cli *cli, const char *name);
