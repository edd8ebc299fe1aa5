/*
 * The verbs that are little more than one operation, and the table of all.
 */
#include "qmpctl/cli.h"
#include "qmpctl/keeper.h"
#include "launcher/argv.h"
#include "launcher/spec.h"
#include "proto/base.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

static const char *text_of(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

/* Calls; prints the result as JSON where asked for. The exit status, or -1: the result is the caller's to print. */
static int call(struct cli *cli, const char *operation, json_t *args_consume, json_t **ret)
{
	if (client_call(cli, cli->args[0], operation, args_consume, ret) < 0)
		return cli_fail(cli);
	if (cli->json)
		cli_print_json(*ret);
	return -1;
}

/* "done", "pending" (exit status 6), "dry-run" (the plan). */
static int print_outcome(struct cli *cli, const json_t *result, const char *what)
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

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

json_t *vm_names(struct cli *cli)
{
	int fd = vm_dir_open(cli->dirs.conf, "vms", false, NULL);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	json_t *list = json_array();
	struct dirent *entry;
	char **names = NULL;
	size_t n = 0;

	while (dir && (entry = readdir(dir))) {
		size_t len = strlen(entry->d_name);
		char **more;
		if (len < 6 || !streq(entry->d_name + len - 5, ".json") || entry->d_name[0] == '.')
			continue;
		more = realloc(names, (n + 1) * sizeof *names);
		if (!more)
			break;
		names = more;
		names[n++] = strndup(entry->d_name, len - 5);
	}
	if (dir)
		closedir(dir);
	if (n > 0)
		qsort(names, n, sizeof *names, compare_names);
	for (size_t i = 0; i < n; i++) {
		json_array_append_new(list, json_string(names[i]));
		free(names[i]);
	}
	free(names);
	return list;
}

/* ---- Life ---- */

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

static int stop_with(struct cli *cli, const char *operation, const char *done)
{
	json_auto_t *result = NULL;
	_cleanup_free_ char *said = qmp_asprintf("%s %s", cli->args[0], done);
	json_t *args;
	int64_t timeout;
	int r;

	if (cli_seconds(cli, "timeout", 60, &timeout) < 0)
		return cli_fail(cli);
	args = streq(operation, "qmpctl-kill")
		       ? json_object()
		       : json_pack("{s:I, s:b}", "timeout", (json_int_t)timeout, "force", cli_option(cli, "force") != NULL);
	r = call(cli, operation, args, &result);
	return r >= 0 ? r : print_outcome(cli, result, said);
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

static int plain_command(struct cli *cli, const char *command, const char *done)
{
	json_auto_t *result = NULL;
	int r = call(cli, command, NULL, &result);

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

/* Waiting for "running" begins before there is a keeper: until then, look again. */
static int await_keeper(struct cli *cli, const char *what, int64_t timeout)
{
	struct timespec nap = {0, 50 * 1000 * 1000};
	time_t end = time(NULL) + (time_t)timeout;

	while (!client_is_up(cli, cli->args[0])) {
		if (streq(what, "stopped"))
			return 1;
		if (time(NULL) >= end)
			return qmp_error_set(&cli->error, QMP_ERR_TIMEOUT, -ETIMEDOUT, "%s: it did not start within %lld s",
					     cli->args[0], (long long)timeout);
		nanosleep(&nap, NULL);
	}
	return 0;
}

static int run_wait(struct cli *cli)
{
	static const char *const kinds[] = {"running", "stopped", "paused", "agent", "console", "event", NULL};
	const char *const *known;
	const char *what = cli_option(cli, "for"), *equals = what ? strchr(what, '=') : NULL;
	json_auto_t *result = NULL;
	_cleanup_free_ char *word = what ? strndup(what, equals ? (size_t)(equals - what) : strlen(what)) : NULL;
	json_t *args;
	int64_t timeout;
	int r;

	for (known = kinds; word && *known && !streq(*known, word); known++)
		;
	if (!word || !*known || ((streq(word, "console") || streq(word, "event")) && !(equals && equals[1])))
		qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL,
			      "wait: --for %s: one of running, stopped, paused, agent, console=TEXT, event=NAME",
			      what ? what : "is missing");
	if (cli->error.kind || cli_seconds(cli, "timeout", 60, &timeout) < 0)
		return cli_fail(cli);
	r = await_keeper(cli, word, timeout);
	if (r != 0)
		return r < 0 ? cli_fail(cli) : 0;
	args = json_pack("{s:s, s:I}", "for", word, "timeout", (json_int_t)timeout);
	if (equals)
		json_object_set_new(args, streq(word, "event") ? "event" : "text", json_string(equals + 1));
	r = client_call(cli, cli->args[0], "qmpctl-wait", args, &result);
	if (r < 0 && streq(word, "stopped") && cli->error.kind == QMP_ERR_CLOSED)
		return 0; /* the keeper ended with its VM */
	return r < 0 ? cli_fail(cli) : 0;
}

/* ---- Looking ---- */

static void print_status(const json_t *s)
{
	const json_t *end = json_object_get(s, "last-end"), *version = json_object_get(s, "qemu-version");
	json_t *entry;
	size_t i;

	printf("name      %s\nstate     %s\n", text_of(s, "name"), text_of(s, "state"));
	if (json_object_get(s, "pid"))
		printf("pid       %lld\nuptime    %lld s\naccel     %s\ncpu       %s\nmachine   %s\nqemu      %lld.%lld.%lld\n"
		       "agent     %s\n",
		       json_integer_value(json_object_get(s, "pid")), json_integer_value(json_object_get(s, "uptime")),
		       text_of(s, "accel"), text_of(s, "cpu-model"), text_of(s, "machine"),
		       json_integer_value(json_object_get(version, "major")),
		       json_integer_value(json_object_get(version, "minor")),
		       json_integer_value(json_object_get(version, "micro")),
		       json_is_true(json_object_get(s, "agent")) ? "connected" : "not connected");
	if (end)
		printf("last end  %s\n", text_of(end, "reason"));
	json_array_foreach(json_object_get(s, "pending"), i, entry)
		printf("pending   %s waits for %s\n", text_of(entry, "item"),
		       text_of(json_object_get(entry, "waits-for"), "event"));
}

static int run_status(struct cli *cli)
{
	json_auto_t *result = NULL;
	int r = call(cli, "qmpctl-status", NULL, &result);

	if (r >= 0)
		return r;
	if (!cli->json)
		print_status(result);
	return 0;
}

static int run_list(struct cli *cli)
{
	json_auto_t *names = vm_names(cli), *list = json_array();
	int n = (int)json_array_size(names);
	char **words = calloc((size_t)n + 1, sizeof *words);
	json_t **results = calloc((size_t)n + 1, sizeof(json_t *));

	for (int i = 0; i < n; i++)
		words[i] = (char *)json_string_value(json_array_get(names, (size_t)i));
	client_call_all(cli, words, n, "qmpctl-status", results);
	for (int i = 0; i < n; i++)
		json_array_append_new(list, results[i] ? results[i]
						       : json_pack("{s:s, s:s}", "name", words[i], "state", "stopped"));
	if (cli->json) {
		cli_print_json(list);
	} else {
		printf("%s%-30s %-14s %8s%s\n", cli_bold(), "NAME", "STATE", "PID", cli_plain());
		for (int i = 0; i < n; i++) {
			const json_t *s = json_array_get(list, (size_t)i);
			printf("%-30s %-14s", text_of(s, "name"), text_of(s, "state"));
			if (json_object_get(s, "pid"))
				printf(" %8lld", json_integer_value(json_object_get(s, "pid")));
			putchar('\n');
		}
	}
	free(words);
	free(results);
	return 0;
}

static int run_show(struct cli *cli)
{
	json_auto_t *result = NULL;

	if (client_call(cli, cli->args[0], "qmpctl-show", NULL, &result) < 0)
		return cli_fail(cli);
	cli_print_json(cli->json ? result : json_object_get(result, "spec"));
	return 0;
}

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

/* The command line of a VM that does not run: what start would use. */
static int preview_args(struct cli *cli)
{
	struct preview p = {.cli = cli};
	struct vm_handlers none = {0};
	_cleanup_free_ char *text = NULL;

	if (vm_open(cli->loop, &cli->dirs, cli->args[0], &none, &p.vm, &cli->error) < 0)
		return cli_fail(cli);
	if (vm_caps_get(cli->loop, &cli->dirs, text_of(p.vm->spec, "qemu-binary"), on_caps, &p, &cli->error) == 0)
		uv_run(cli->loop, UV_RUN_DEFAULT);
	vm_close(p.vm);
	if (!p.argv)
		return cli_fail(cli);
	text = vm_argv_quote(p.argv);
	vm_argv_free(p.argv);
	puts(text ? text : "");
	return 0;
}

static int run_args(struct cli *cli)
{
	json_auto_t *result = NULL;
	json_t *argv, *word;
	char **words;
	size_t i;

	if (!client_is_up(cli, cli->args[0]))
		return preview_args(cli);
	if (client_call(cli, cli->args[0], "qmpctl-show", NULL, &result) < 0)
		return cli_fail(cli);
	argv = json_object_get(result, "argv");
	if (cli->json) {
		cli_print_json(argv);
		return 0;
	}
	words = calloc(json_array_size(argv) + 1, sizeof *words);
	json_array_foreach(argv, i, word)
		words[i] = (char *)json_string_value(word);
	_cleanup_free_ char *text = vm_argv_quote(words);
	puts(text ? text : "");
	free(words);
	return 0;
}

static int copy_file(int dir, const char *name)
{
	_cleanup_fd_ int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	char buffer[65536];
	ssize_t n;

	if (fd < 0)
		return -errno;
	while ((n = read(fd, buffer, sizeof buffer)) > 0)
		fwrite(buffer, 1, (size_t)n, stdout);
	return 0;
}

static int run_logs(struct cli *cli)
{
	_cleanup_fd_ int dir = vm_dir_open(cli->dirs.run, cli->args[0], false, NULL);
	const char *which = cli_option(cli, "of");
	_cleanup_free_ char *name = which && !streq(which, "qemu") && !streq(which, "keeper")
					    ? qmp_asprintf("console-%s.log", which)
					    : qmp_asprintf("%s.log", which ? which : "console-con0");
	_cleanup_free_ char *old = qmp_asprintf("%s.1", name);

	if (!vm_name_valid(cli->args[0]) || (which && !vm_id_valid(which)) || dir < 0) {
		qmp_error_set(&cli->error, QMP_ERR_NOT_FOUND, -ENOENT, "%s has no logs: it has never run here", cli->args[0]);
		return cli_fail(cli);
	}
	(void)copy_file(dir, old);
	if (copy_file(dir, name) < 0) {
		qmp_error_set(&cli->error, QMP_ERR_NOT_FOUND, -ENOENT, "%s has no log \"%s\"; --of qemu, keeper, or a console's id",
			      cli->args[0], which ? which : "con0");
		return cli_fail(cli);
	}
	return 0;
}

static int run_events(struct cli *cli)
{
	json_auto_t *names = cli->n_args ? NULL : vm_names(cli);
	size_t n = json_array_size(names);
	char **words = calloc(n + 1, sizeof *words);
	int r, up = 0;

	for (size_t i = 0; i < n; i++) {
		char *name = (char *)json_string_value(json_array_get(names, i));
		if (client_is_up(cli, name))
			words[up++] = name;
	}
	r = cli->n_args ? client_events(cli, cli->args, cli->n_args) : client_events(cli, words, up);
	free(words);
	return r < 0 ? cli_fail(cli) : 0;
}

/* key=value words: JSON where the value is JSON, else a string. */
static json_t *qmp_arguments(struct cli *cli)
{
	json_t *args;

	if (cli->n_args == 3 && cli->args[2][0] == '{') {
		args = qmp_json_decode(cli->args[2], strlen(cli->args[2]), &cli->error);
		cli->error.kind = args ? QMP_ERR_NONE : QMP_ERR_USAGE;
		return args;
	}
	args = json_object();
	for (int i = 2; i < cli->n_args; i++) {
		char *equals = strchr(cli->args[i], '=');
		json_t *value;
		if (!equals) {
			qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "\"%s\": KEY=VALUE or one JSON object is wanted",
				      cli->args[i]);
			json_decref(args);
			return NULL;
		}
		*equals = '\0';
		value = qmp_json_decode(equals + 1, strlen(equals + 1), NULL);
		json_object_set_new(args, cli->args[i], value ? value : json_string(equals + 1));
	}
	return args;
}

static int run_qmp(struct cli *cli)
{
	json_t *args = qmp_arguments(cli);
	json_auto_t *result = NULL;

	if (!args || client_qmp(cli, cli->args[0], cli->args[1], args, &result) < 0)
		return cli_fail(cli);
	cli_print_json(result);
	return 0;
}

/* ---- Console ---- */

static int run_type(struct cli *cli)
{
	_cleanup_free_ char *text = qmp_asprintf("%s%s", cli->args[1], cli_option(cli, "no-newline") ? "" : "\n");
	const char *console = cli_option(cli, "console");
	json_auto_t *result = NULL;
	json_t *args = json_pack("{s:s}", "text", text);

	if (console)
		json_object_set_new(args, "console", json_string(console));
	if (client_call(cli, cli->args[0], "qmpctl-type", args, &result) < 0)
		return cli_fail(cli);
	return 0;
}

/* ---- Changing ---- */

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

#define CHANGE_OPTIONS                                                                                               \
	{"live", NULL, "change the running VM alone"}, {"config", NULL, "change its spec alone"},                    \
		{"dry-run", NULL, "print the plan, change nothing"},                                                 \
		{"timeout", "SECONDS", "how long to wait for the guest (30)"}

static const struct cli_option change_options[] = {CHANGE_OPTIONS, {0}};

/* KEY is NULL: the second argument is an id. */
static int change(struct cli *cli, const char *operation, const char *key, json_t *value_consume)
{
	json_t *args = value_consume ? change_args(cli, json_pack("{s:o}", key, value_consume)) : NULL;
	json_auto_t *result = NULL;
	int r;

	if (!args)
		return cli_fail(cli);
	r = call(cli, operation, args, &result);
	return r >= 0 ? r : print_outcome(cli, result, text_of(result, "id"));
}

static int run_disk_add(struct cli *cli)
{
	return change(cli, "qmpctl-disk-add", "disk", parse_disk_words(cli, cli->args[0], cli->args[1]));
}

static int run_disk_remove(struct cli *cli)
{
	return change(cli, "qmpctl-disk-remove", "id", json_string(cli->args[1]));
}

static int run_nic_add(struct cli *cli)
{
	return change(cli, "qmpctl-nic-add", "nic", parse_nic_words(cli, cli->n_args > 1 ? cli->args[1] : "user"));
}

static int run_nic_remove(struct cli *cli)
{
	return change(cli, "qmpctl-nic-remove", "id", json_string(cli->args[1]));
}

static const json_t *find(const json_t *spec, const char *kind, const char *id)
{
	return spec ? vm_spec_find(spec, kind, id) : NULL;
}

static int list_items(struct cli *cli, const char *kind, const char *const *columns)
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
	printf("%s%-10s %-12s", cli_bold(), "ID", "WHERE");
	for (const char *const *c = columns; *c; c++)
		printf(" %-18s", *c);
	printf("%s\n", cli_plain());
	json_array_foreach(list, i, item)
	{
		bool live = json_is_true(json_object_get(item, "live")), config = json_is_true(json_object_get(item, "config"));
		printf("%-10s %-12s", text_of(item, "id"), live && config ? "live,config" : live ? "live" : "config");
		for (const char *const *c = columns; *c; c++)
			printf(" %-18s", text_of(item, *c) ? text_of(item, *c) : "-");
		putchar('\n');
	}
	return 0;
}

static int run_disk_list(struct cli *cli)
{
	return list_items(cli, "disks", (const char *const[]){"bus", "format", "path", NULL});
}

static int run_nic_list(struct cli *cli)
{
	return list_items(cli, "nics", (const char *const[]){"model", "mac", "backend", NULL});
}

static int run_set(struct cli *cli)
{
	json_auto_t *values = json_object();

	for (int i = 1; i < cli->n_args; i++) {
		char *equals = strchr(cli->args[i], '=');
		if (!equals) {
			qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL,
				      "set: \"%s\": PATH=VALUE is wanted (an empty value removes it)", cli->args[i]);
			return cli_fail(cli);
		}
		*equals = '\0';
		json_object_set_new(values, cli->args[i], equals[1] ? json_string(equals + 1) : json_null());
	}
	return change(cli, "qmpctl-set", "values", json_incref(values));
}

static int run_apply(struct cli *cli)
{
	json_t *spec;
	char *words[2];

	if (cli_read_spec(cli, cli->args[0], &spec) < 0)
		return cli_fail(cli);
	words[0] = strdup(text_of(spec, "name"));
	words[1] = NULL;
	cli->args[0] = words[0];
	int status = change(cli, "qmpctl-apply", "spec", spec);
	free(words[0]);
	return status;
}

static int edit_file(struct cli *cli, const char *path)
{
	const char *editor = getenv("VISUAL") ? getenv("VISUAL") : getenv("EDITOR") ? getenv("EDITOR") : "vi";
	int status = 0;
	pid_t pid = fork();

	if (pid == 0) {
		/* EDITOR is a shell's words by convention; the path is not one of them. */
		_cleanup_free_ char *command = qmp_asprintf("%s \"$1\"", editor);
		execl("/bin/sh", "sh", "-c", command, "sh", path, (char *)NULL);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0 || status != 0)
		return qmp_error_set(&cli->error, QMP_ERR_HOST, -EIO, "the editor \"%s\" failed; nothing was changed", editor);
	return 0;
}

static int run_edit(struct cli *cli)
{
	char path[] = "/tmp/qmpctl-edit-XXXXXX";
	json_auto_t *result = NULL;
	_cleanup_free_ char *text = NULL;
	_cleanup_fd_ int fd = -1;
	json_t *spec;
	size_t len;
	int r;

	if (client_call(cli, cli->args[0], "qmpctl-show", NULL, &result) < 0)
		return cli_fail(cli);
	text = qmp_json_encode(json_object_get(result, "spec"), JSON_INDENT(2), &len);
	fd = mkstemp(path);
	if (fd < 0 || write(fd, text, len) != (ssize_t)len || write(fd, "\n", 1) != 1) {
		qmp_error_errno(&cli->error, -errno, "writing %s", path);
		return cli_fail(cli);
	}
	r = edit_file(cli, path);
	if (r == 0)
		r = cli_read_spec(cli, path, &spec);
	if (r < 0) {
		fprintf(stderr, "what you wrote is kept in %s; \"qmpctl apply\" takes it once it is right\n", path);
		return cli_fail(cli);
	}
	(void)unlink(path);
	return change(cli, "qmpctl-apply", "spec", spec);
}

/* ---- delete, rename ---- */

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

/* Opens the VM for itself: with no QEMU that lives. */
static int open_stopped(struct cli *cli, struct vm **ret)
{
	struct vm_handlers none = {0};
	struct timespec nap = {0, 20 * 1000 * 1000};
	int r = vm_open(cli->loop, &cli->dirs, cli->args[0], &none, ret, &cli->error);

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

static void empty_run_dir(struct vm *vm)
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

static int run_delete(struct cli *cli)
{
	_cleanup_free_ char *file = qmp_asprintf("%s.json", cli->args[0]);
	_cleanup_free_ char *run = qmp_asprintf("%s/%s", cli->dirs.run, cli->args[0]);
	_cleanup_free_ char *images = qmp_asprintf("%s/images/", cli->dirs.state);
	struct vm *vm;
	json_t *disk;
	size_t i;

	if (open_stopped(cli, &vm) < 0)
		return cli_fail(cli);
	if (unlinkat(vm->conf_dir, file, 0) < 0 || fsync(vm->conf_dir) < 0) {
		qmp_error_errno(&cli->error, -errno, "deleting %s/vms/%s", cli->dirs.conf, file);
		vm_close(vm);
		return cli_fail(cli);
	}
	json_array_foreach(json_object_get(vm->spec, "disks"), i, disk)
	{
		const char *path = text_of(disk, "path");
		if (!path || strncmp(path, images, strlen(images)) != 0)
			continue;
		if (cli_option(cli, "disks"))
			(void)unlink(path);
		else
			fprintf(stderr, "kept: %s (--disks deletes the images that qmpctl made)\n", path);
	}
	empty_run_dir(vm);
	vm_close(vm);
	(void)rmdir(run);
	printf("%s is deleted\n", cli->args[0]);
	return 0;
}

static int run_rename(struct cli *cli)
{
	const char *to = cli->args[1];
	_cleanup_free_ char *old_file = qmp_asprintf("%s.json", cli->args[0]), *new_file = qmp_asprintf("%s.json", to);
	_cleanup_free_ char *run = qmp_asprintf("%s/%s", cli->dirs.run, cli->args[0]);
	json_auto_t *spec = NULL;
	struct vm *vm;
	int r;

	if (!vm_name_valid(to)) {
		qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "\"%s\" is no name for a VM", to);
		return cli_fail(cli);
	}
	if (open_stopped(cli, &vm) < 0)
		return cli_fail(cli);
	spec = json_deep_copy(vm->spec);
	json_object_set_new(spec, "name", json_string(to));
	if (faccessat(vm->conf_dir, new_file, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		r = qmp_error_set(&cli->error, QMP_ERR_EXISTS, -EEXIST, "there is a VM named %s already", to);
	else
		r = vm_file_write_json(vm->conf_dir, new_file, spec, &cli->error);
	if (r == 0 && (unlinkat(vm->conf_dir, old_file, 0) < 0 || fsync(vm->conf_dir) < 0))
		r = qmp_error_errno(&cli->error, -errno, "removing the old name");
	if (r == 0)
		empty_run_dir(vm);
	vm_close(vm);
	if (r < 0)
		return cli_fail(cli);
	(void)rmdir(run);
	printf("%s is now %s\n", cli->args[0], to);
	return 0;
}

static int run_schema(struct cli *cli)
{
	json_auto_t *schema = vm_spec_json_schema();

	UNUSED(cli);
	cli_print_json(schema);
	return 0;
}

static int run_version(struct cli *cli)
{
	if (cli->json)
		printf("{\"version\": \"" QMPCTL_VERSION "\"}\n");
	else
		puts("qmpctl " QMPCTL_VERSION);
	return 0;
}

/* ---- The table ---- */

static const struct cli_option stop_options[] = {
	{"timeout", "SECONDS", "how long the guest may take (60)"},
	{"force", NULL, "then end QEMU: quit, SIGTERM, SIGKILL"},
	{0},
};
extern const struct verb verb_create, verb_run, verb_image_create;

#define VERB(...) (&(const struct verb){__VA_ARGS__})

const struct verb *const all_verbs[] = {
	&verb_create,
	VERB("edit", NULL, "NAME", "Edit the spec in an editor, then apply it", 1, 1, change_options, run_edit),
	VERB("set", NULL, "NAME PATH=VALUE...", "Change values of the spec", 2, -1, change_options, run_set),
	VERB("apply", NULL, "FILE", "Make the VM what the spec in FILE says", 1, 1, change_options, run_apply),
	VERB("show", "dumpxml", "NAME", "Print the spec", 1, 1, NULL, run_show),
	VERB("delete", "undefine", "NAME", "Forget a stopped VM", 1, 1,
	     (const struct cli_option[]){{"disks", NULL, "delete the images that qmpctl made for it, too"}, {0}}, run_delete),
	VERB("rename", "domrename", "NAME NEW", "Rename a stopped VM", 2, 2, NULL, run_rename),
	VERB("list", "ls", "", "List all VMs", 0, 0, NULL, run_list),
	&verb_run,
	VERB("start", NULL, "NAME", "Start a VM; returns when it is up", 1, 1,
	     (const struct cli_option[]){{"paused", NULL, "do not let the guest run yet"}, {0}}, run_start),
	VERB("stop", "shutdown", "NAME", "Ask the guest to power off, and wait for it", 1, 1, stop_options, run_stop),
	VERB("kill", "destroy", "NAME", "End QEMU now", 1, 1, NULL, run_kill),
	VERB("reboot", NULL, "NAME", "Power off through the guest, then start again", 1, 1, stop_options, run_reboot),
	VERB("reset", NULL, "NAME", "Press the reset button", 1, 1, NULL, run_reset),
	VERB("pause", "suspend", "NAME", "Stop the vCPUs", 1, 1, NULL, run_pause),
	VERB("resume", NULL, "NAME", "Let the vCPUs run again", 1, 1, NULL, run_resume),
	VERB("wait", NULL, "NAME", "Wait for something", 1, 1,
	     (const struct cli_option[]){
		     {"for", "WHAT", "running, stopped, paused, agent, console=TEXT or event=NAME"},
		     {"timeout", "SECONDS", "how long (60)"},
		     {0}},
	     run_wait),
	VERB("status", "domstate", "NAME", "Print what a VM does", 1, 1, NULL, run_status),
	VERB("disk add", "attach-disk", "NAME PATH|size=SIZE[,KEY=VALUE...]", "Add a disk; prints its id", 2, 2,
	     change_options, run_disk_add),
	VERB("disk remove", "detach-disk", "NAME ID", "Remove a disk; done when the guest has let go", 2, 2, change_options,
	     run_disk_remove),
	VERB("disk list", "domblklist", "NAME", "List the disks", 1, 1, NULL, run_disk_list),
	VERB("nic add", "attach-interface", "NAME [user|bridge=BR|tap=TAP][,KEY=VALUE...]", "Add a NIC; prints its id", 1, 2,
	     change_options, run_nic_add),
	VERB("nic remove", "detach-interface", "NAME ID", "Remove a NIC; done when the guest has let go", 2, 2, change_options,
	     run_nic_remove),
	VERB("nic list", "domiflist", "NAME", "List the NICs", 1, 1, NULL, run_nic_list),
	&verb_image_create,
	VERB("events", NULL, "[NAME...]", "Print events as JSON lines until the VMs end", 0, -1,
	     (const struct cli_option[]){{"follow", NULL, "go on until the VMs end (always so)"}, {0}}, run_events),
	VERB("logs", NULL, "NAME", "Print what the guest's console said", 1, 1,
	     (const struct cli_option[]){{"of", "WHAT", "a console's id, qemu or keeper (con0)"}, {0}}, run_logs),
	VERB("type", NULL, "NAME TEXT", "Type a line into the guest's console", 2, 2,
	     (const struct cli_option[]){{"console", "ID", "which (the first)"},
					 {"no-newline", NULL, "do not press return"},
					 {0}},
	     run_type),
	VERB("qmp", "qemu-monitor-command", "NAME COMMAND [JSON | KEY=VALUE...]", "Send a QMP command", 2, -1, NULL, run_qmp),
	VERB("args", "domxml-to-native", "NAME", "Print QEMU's command line", 1, 1, NULL, run_args),
	VERB("spec-schema", NULL, "", "Print the JSON Schema of a spec", 0, 0, NULL, run_schema),
	VERB("version", NULL, "", "Print the version", 0, 0, NULL, run_version),
	NULL,
};
