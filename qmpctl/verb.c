/*
 * What several verbs do alike.
 */
#include "qmpctl/verb.h"
#include "qmpctl/keeper.h"
#include "launcher/spec.h"
#include "launcher/vm.h"
#include "proto/base.h"

#include <ctype.h>

#include <dirent.h>
#include <fcntl.h>
#include <time.h>

#define SPEC_MAX	 (16 << 20)
#define ITEM_COLUMNS_MAX 4

/* ---- Calling, and saying what came ---- */

int verb_call(struct cli *cli, const char *operation, json_t *args_consume, json_t **ret)
{
	if (client_call(cli, cli->args[0], operation, args_consume, ret) < 0)
		return cli_fail(cli);
	if (cli->json)
		cli_print_json(*ret);
	return -1;
}

int verb_print_outcome(struct cli *cli, const json_t *result, const char *what)
{
	const char *outcome = text_of(result, "outcome");
	json_t *entry;
	size_t i;

	if (cli->json)
		return streq(outcome, "pending") ? EXIT_PENDING : 0;
	json_array_foreach(json_object_get(result, "next-start"), i, entry)
		fprintf(stderr, "waits for the next start: %s (%s)\n", text_of(entry, "path"), text_of(entry, "why"));
	if (text_of(result, "format-note"))
		fprintf(stderr, "format: %s\n", text_of(result, "format-note"));
	if (text_of(result, "machine-note"))
		fprintf(stderr, "%s\n", text_of(result, "machine-note"));
	if (streq(outcome, "dry-run")) {
		cli_print_json(json_object_get(result, "plan"));
	} else if (streq(outcome, "pending")) {
		fprintf(stderr, "qmpctl: pending: %s\n", text_of(result, "why"));
		return EXIT_PENDING;
	} else if (what) {
		printf("%s\n", what);
	}
	return 0;
}

/* ---- Names ---- */

/* Those that run and whose spec is gone: they are VMs as well. */
static void add_running(struct cli *cli, json_t *names)
{
	json_auto_t *known = json_object();
	DIR *dir = opendir(cli->dirs.run);
	const struct dirent *entry;
	json_t *name;
	size_t i;

	json_array_foreach(names, i, name)
		json_object_set_new(known, json_string_value(name), json_true());
	while (dir && (entry = readdir(dir)))
		if (!json_object_get(known, entry->d_name) && client_qemu_lives(cli, entry->d_name))
			json_array_append_new(names, json_string(entry->d_name));
	if (dir)
		closedir(dir);
}

json_t *vm_names(struct cli *cli)
{
	json_t *names = NULL;

	if (vm_conf_names(cli->dirs.conf, "vms", &names, &cli->error) < 0)
		return NULL;
	add_running(cli, names);
	return names;
}

int vm_check_name(struct cli *cli, const char *name)
{
	_cleanup_free_ char *path = qmp_asprintf("%s/vms/%s.json", cli->dirs.conf, name);
	json_auto_t *names = NULL;
	const char *near;

	if (!vm_name_valid(name))
		return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL,
				     "\"%s\" is no name for a VM: letters, digits, . _ - (64 at most), a letter or digit first", name);
	if (access(path, F_OK) == 0)
		return 0;
	if (errno != ENOENT)
		return qmp_error_errno(&cli->error, -errno, "the VM %s: %s", name, path);
	if (client_qemu_lives(cli, name))
		return 0;
	names = vm_names(cli);
	near = vm_nearest_of(names, name);
	cli->error = (struct qmp_error){0};
	return qmp_error_set(&cli->error, QMP_ERR_NOT_FOUND, -ENOENT, "there is no VM named \"%s\"%s%s%s (no %s)", name,
			     near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "", path);
}

/* ---- Specs ---- */

/* What cannot be asked for its size: a pipe, as standard input or /dev/fd/N. */
static int read_stream(struct cli *cli, int fd, const char *name, char **ret, size_t *ret_len)
{
	_cleanup_free_ char *text = malloc(SPEC_MAX + 1);
	size_t len = 0;
	ssize_t n;

	while (text && len <= SPEC_MAX && (n = read(fd, text + len, SPEC_MAX + 1 - len)) != 0)
		if (n > 0)
			len += (size_t)n;
		else if (errno != EINTR)
			return qmp_error_errno(&cli->error, -errno, "reading %s", name);
	if (!text || len > SPEC_MAX)
		return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EFBIG, "%s has more than %d MiB; that is no spec", name,
				     SPEC_MAX >> 20);
	*ret = take_ptr(text);
	*ret_len = len;
	return 0;
}

int cli_read_spec(struct cli *cli, const char *path, json_t **ret)
{
	bool standard = streq(path, "-");
	_cleanup_fd_ int fd = standard ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3) : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	int r;

	if (fd < 0 && errno == ENOENT)
		return qmp_error_set(&cli->error, QMP_ERR_NOT_FOUND, -ENOENT, "there is no file %s", path);
	if (fd < 0)
		return qmp_error_errno(&cli->error, -errno, "reading %s", path);
	r = read_stream(cli, fd, standard ? "standard input" : path, &text, &len);
	return r < 0 ? r : vm_spec_parse(text, len, standard ? "standard input" : path, ret, &cli->error);
}

/* ---- Changing ---- */

const struct cli_option change_options[] = {
	{"live", NULL, "change the running VM alone"},
	{"config", NULL, "change its spec alone"},
	{"dry-run", NULL, "print the plan, change nothing"},
	{"timeout", "SECONDS", "how long to wait for the guest (30)"},
	{0},
};

/* --live, --config, --dry-run, --timeout. */
static json_t *change_args(struct cli *cli, json_t *args)
{
	int64_t timeout;

	if (cli_seconds(cli, "timeout", 30, &timeout) < 0) {
		json_decref(args);
		return NULL;
	}
	json_object_set_new(args, "timeout", json_integer(timeout));
	if (cli_option(cli, "live") && !cli_option(cli, "config"))
		json_object_set_new(args, "config", json_false());
	if (cli_option(cli, "config") && !cli_option(cli, "live"))
		json_object_set_new(args, "live", json_false());
	if (cli_option(cli, "dry-run"))
		json_object_set_new(args, "dry-run", json_true());
	return args;
}

int verb_change(struct cli *cli, const char *operation, const char *key, json_t *value_consume)
{
	return verb_change_with(cli, operation, value_consume ? json_pack("{s:o}", key, value_consume) : NULL);
}

int verb_change_with(struct cli *cli, const char *operation, json_t *args_consume)
{
	json_t *args = args_consume ? change_args(cli, args_consume) : NULL;
	json_auto_t *result = NULL;
	int r;

	if (!args)
		return cli_fail(cli);
	r = verb_call(cli, operation, args, &result);
	return r >= 0 ? r : verb_print_outcome(cli, result, text_of(result, "id"));
}

/* ---- Listing what a spec has ---- */

static const json_t *find(const json_t *spec, const char *kind, const char *id)
{
	return spec ? vm_spec_find(spec, kind, id) : NULL;
}

static void print_items(const json_t *items, const char *const *columns)
{
	const char *head[ITEM_COLUMNS_MAX + 3] = {"ID", "WHERE"};
	char capitals[ITEM_COLUMNS_MAX][16] = {0};
	json_auto_t *rows = json_array();
	const json_t *item;
	size_t i;

	for (int c = 0; c < ITEM_COLUMNS_MAX && columns[c]; c++) {
		for (size_t k = 0; k + 1 < sizeof capitals[c] && columns[c][k]; k++)
			capitals[c][k] = (char)toupper((unsigned char)columns[c][k]);
		head[c + 2] = capitals[c];
	}
	json_array_foreach(items, i, item) {
		bool live = json_is_true(json_object_get(item, "live")), config = json_is_true(json_object_get(item, "config"));
		json_t *row = json_pack("[s, s]", text_of(item, "id"), live && config ? "live,config" : live ? "live" : "config");
		for (const char *const *c = columns; *c; c++)
			json_array_append_new(row, json_string(text_of(item, *c) ? text_of(item, *c) : "-"));
		json_array_append_new(rows, row);
	}
	cli_print_table(head, rows);
}

int verb_list_items(struct cli *cli, const char *kind, const char *const *columns)
{
	json_auto_t *result = NULL, *list = json_array();
	const json_t *spec, *running;
	json_t *item;
	size_t i;

	if (client_call(cli, cli->args[0], "qmpctl-show", NULL, &result) < 0)
		return cli_fail(cli);
	spec = json_object_get(result, "spec");
	running = json_object_get(result, "running");
	json_array_foreach(json_object_get(spec, kind), i, item)
	{
		const json_t *live = find(running, kind, text_of(item, "id"));
		json_t *row = json_copy((json_t *)(live ? live : item));
		json_object_set_new(row, "live", json_boolean(live != NULL));
		json_object_set_new(row, "config", json_true());
		json_array_append_new(list, row);
	}
	json_array_foreach(json_object_get(running, kind), i, item)
		if (!find(spec, kind, text_of(item, "id"))) {
			json_t *row = json_copy(item);
			json_object_set_new(row, "live", json_true());
			json_object_set_new(row, "config", json_false());
			json_array_append_new(list, row);
		}
	if (cli->json) {
		cli_print_json(list);
		return 0;
	}
	print_items(list, columns);
	return 0;
}

/* ---- Waiting ---- */

static void print_stage(struct cli *cli, const json_t *data)
{
	const char *stage = text_of(data, "stage");

	UNUSED(cli);
	if (stage)
		fprintf(stderr, "%s\n", stage);
}

int verb_await_ready(struct cli *cli, const char *name, int64_t seconds)
{
	json_auto_t *result = NULL;
	int r;

	cli->on_progress = cli->json ? NULL : print_stage;
	r = client_call(cli, name, "qmpctl-wait", json_pack("{s:s, s:I}", "for", "ready", "timeout", (json_int_t)seconds), &result);
	cli->on_progress = NULL;
	return r;
}

/* ---- VMs that are stopped ---- */

/* Whether the keeper of cli->args[0] says that the VM is stopped: then it is about to leave. */
static bool keeper_leaves(struct cli *cli)
{
	json_auto_t *status = NULL;
	struct qmp_error kept = cli->error;
	bool stopped = client_call(cli, cli->args[0], "qmpctl-status", NULL, &status) == 0 &&
		       streq(json_string_value(json_object_get(status, "state")), "stopped");

	cli->error = kept;
	return stopped;
}

int verb_open_stopped(struct cli *cli, struct vm **ret)
{
	struct vm_handlers none = {0};
	struct timespec nap = {0, 20 * 1000 * 1000};
	int r = vm_check_name(cli, cli->args[0]);

	if (r == 0)
		r = vm_open(cli->loop, &cli->dirs, cli->args[0], &none, ret, &cli->error);
	for (int i = 0; r == -EBUSY && i < 100 && keeper_leaves(cli); i++) {
		nanosleep(&nap, NULL);
		cli->error = (struct qmp_error){0};
		r = vm_open(cli->loop, &cli->dirs, cli->args[0], &none, ret, &cli->error);
	}
	if (r == -EBUSY) {
		cli->error = (struct qmp_error){0};
		return qmp_error_set(&cli->error, QMP_ERR_STATE, r, "the VM %s is running (or another verb works on it); stop it first",
				     cli->args[0]);
	}
	if (r == 0 && vm_qemu_lives(*ret)) {
		vm_close(*ret);
		return qmp_error_set(&cli->error, QMP_ERR_STATE, -EBUSY, "the VM %s is running; stop it first", cli->args[0]);
	}
	return r;
}

void verb_empty_run_dir(struct vm *vm)
{
	int fd = dup(vm->run_dir);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (!streq(entry->d_name, ".") && !streq(entry->d_name, ".."))
			(void)unlinkat(vm->run_dir, entry->d_name, 0);
	if (dir)
		closedir(dir);
}

