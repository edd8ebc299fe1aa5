#include "qmpctl/cli.h"
#include "qmpctl/words.h"
#include "qmpctl/complete.h"
#include "qmpctl/help.h"
#include "proto/base.h"

#include <fcntl.h>
#include <signal.h>

int cli_main(int argc, char **argv);

const struct cli_option common_options[] = {
	{"root", "DIR", "keep everything under DIR (or set QMPCTL_ROOT)", .kind = ARG_FOLDER},
	{"output", "FORMAT", "text or json (short: -o)", .kind = ARG_CHOICE, .choices = "text|json"},
	{"help", NULL, "show this (short: -h)"},
	{0},
};

/* ---- Output ---- */

static bool has_bold(void)
{
	const char *no_color = getenv("NO_COLOR"), *terminal = getenv("TERM");

	return isatty(STDOUT_FILENO) && !(no_color && *no_color) && terminal && !streq(terminal, "dumb");
}

const char *cli_bold(void)
{
	return has_bold() ? "\033[1m" : "";
}

const char *cli_plain(void)
{
	return has_bold() ? "\033[0m" : "";
}

void cli_print_json(const json_t *value)
{
	_cleanup_free_ char *text = qmp_json_encode(value, JSON_INDENT(2), NULL);

	puts(text ? text : "null");
}

int exit_status_of(enum qmp_error_kind kind)
{
	static const int statuses[] = {
		[QMP_ERR_USAGE] = EXIT_USAGE,	   [QMP_ERR_NOT_FOUND] = EXIT_NOT_FOUND, [QMP_ERR_EXISTS] = EXIT_STATE,
		[QMP_ERR_STATE] = EXIT_STATE,	   [QMP_ERR_BUSY] = EXIT_STATE,		 [QMP_ERR_REFUSED] = EXIT_FAILED,
		[QMP_ERR_TIMEOUT] = EXIT_TIMEOUT,  [QMP_ERR_PENDING] = EXIT_PENDING,	 [QMP_ERR_CLOSED] = EXIT_UNREACHABLE,
		[QMP_ERR_PROTOCOL] = EXIT_UNREACHABLE, [QMP_ERR_HOST] = EXIT_HOST,	 [QMP_ERR_INTERNAL] = EXIT_FAILED,
	};
	int status = (size_t)kind < ARRAY_SIZE(statuses) ? statuses[kind] : EXIT_FAILED;

	return status ? status : EXIT_FAILED;
}

int cli_fail(struct cli *cli)
{
	/* It may quote what QEMU or a file said: nothing in it speaks to the terminal. */
	for (char *c = cli->error.message; *c; c++)
		if (((unsigned char)*c < ' ' && *c != '\n' && *c != '\t') || *c == 0x7f)
			*c = '?';
	fprintf(stderr, "qmpctl: %s\n", cli->error.message);
	return exit_status_of(cli->error.kind);
}

/* ---- Parsing ---- */

const struct verb *cli_find_verb(int argc, char *const *argv, int *ret_words)
{
	char two[64] = "";

	if (argc > 1)
		snprintf(two, sizeof two, "%s %s", argv[0], argv[1]);
	for (int words = 2; words >= 1; words--)
		for (const struct verb *const *v = all_verbs; *v; v++) {
			const char *given = words == 2 ? two : argv[0];
			if (streq((*v)->name, given) || ((*v)->alias && streq((*v)->alias, given))) {
				*ret_words = words;
				return *v;
			}
		}
	return NULL;
}

static int usage(struct cli *cli, const char *fmt, ...) _printf_(2, 3);
static int usage(struct cli *cli, const char *fmt, ...)
{
	char text[1000];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "%s", text);
}

static int unknown_verb(struct cli *cli, int argc, char **argv)
{
	_cleanup_free_ char *verbs = help_verbs_of(argv[0]);
	bool two = argc > 1 && argv[1][0] != '-';
	_cleanup_free_ char *given = qmp_asprintf("%s%s%s", argv[0], two ? " " : "", two ? argv[1] : "");
	const char *names[ALL_VERBS_MAX], *near;
	size_t n = 0;

	for (const struct verb *const *v = all_verbs; *v && n < ARRAY_SIZE(names) - 1; v++)
		names[n++] = (*v)->name;
	names[n] = NULL;
	if (*verbs && !two)
		return usage(cli, "%s what? One of %s; \"qmpctl %s --help\" tells more", argv[0], verbs, argv[0]);
	near = qmp_nearest(given, names);
	if (*verbs)
		return usage(cli, "%s has no verb \"%s\"%s%s%s; it has %s", argv[0], argv[1], near ? "; did you mean \"" : "",
			     near ? near : "", near ? "\"?" : "", verbs);
	if (!near)
		near = qmp_nearest(argv[0], names);
	return usage(cli, "there is no verb \"%s\"%s%s%s; \"qmpctl --help\" lists them", argv[0],
		     near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

const struct cli_option *cli_find_option(const struct cli_option *o, const char *name, size_t n)
{
	for (; o && o->name; o++)
		if (strlen(o->name) == n && memcmp(o->name, name, n) == 0)
			return o;
	return NULL;
}

static int unknown_option(struct cli *cli, const char *name, size_t n)
{
	const char *names[64], *near;
	char word[64];
	size_t k = 0;

	snprintf(word, sizeof word, "%.*s", (int)n, name);
	for (const struct cli_option *o = cli->verb ? cli->verb->options : NULL; o && o->name; o++)
		names[k++] = o->name;
	for (const struct cli_option *o = common_options; o->name; o++)
		names[k++] = o->name;
	names[k] = NULL;
	near = qmp_nearest(word, names);
	return usage(cli, "%s has no option --%s%s%s%s; \"qmpctl %s%s--help\" lists them",
		     cli->verb ? cli->verb->name : "qmpctl", word, near ? "; did you mean --" : "", near ? near : "",
		     near ? "?" : "", cli->verb ? cli->verb->name : "", cli->verb ? " " : "");
}

/* "a|b=|c": b is followed by something. */
static int check_choice(struct cli *cli, const char *what, const char *choices, const char *value)
{
	_cleanup_free_ char *text = strdup("");

	for (const char *c = choices; c; c = strchr(c, '|') ? strchr(c, '|') + 1 : NULL) {
		size_t n = strcspn(c, "|");
		bool more = c[n - 1] == '=';
		_cleanup_free_ char *before = take_ptr(text);
		if (strncmp(value, c, n) == 0 && (more ? value[n] != '\0' : value[n] == '\0'))
			return 0;
		text = qmp_asprintf("%s%s%.*s%s", before ? before : "", c == choices ? "" : ", ", (int)n, c, more ? "..." : "");
	}
	return usage(cli, "%s: unknown value \"%s\"; one of %s", what, value, text ? text : choices);
}

/* What is written into a spec or a message is UTF-8. */
static int check_text(struct cli *cli, const char *text)
{
	json_auto_t *value = json_string(text), *shown = value ? NULL : qmp_json_text(text);

	return value ? 0 : usage(cli, "\"%s\" is not UTF-8", shown ? json_string_value(shown) : "an argument");
}

static int take_option(struct cli *cli, int argc, char **argv, int *i)
{
	const char *name = argv[*i] + 2, *equals = strchr(name, '=');
	size_t n = equals ? (size_t)(equals - name) : strlen(name);
	const struct cli_option *o = cli->verb ? cli_find_option(cli->verb->options, name, n) : NULL;
	const char *value = equals ? equals + 1 : NULL;

	if (!o)
		o = cli_find_option(common_options, name, n);
	if (!o)
		return unknown_option(cli, name, n);
	if (!o->metavar && value)
		return usage(cli, "--%s takes no value", o->name);
	if (o->metavar && !value) {
		if (*i + 1 >= argc)
			return usage(cli, "--%s needs a value: %s", o->name, o->metavar);
		value = argv[++*i];
	}
	if (cli->n_given >= (int)ARRAY_SIZE(cli->given))
		return usage(cli, "too many options");
	if (value && check_text(cli, value) < 0)
		return -EINVAL;
	if (value && o->kind == ARG_CHOICE && o->choices) {
		char what[64];
		snprintf(what, sizeof what, "--%s", o->name);
		if (check_choice(cli, what, o->choices, value) < 0)
			return -EINVAL;
	}
	cli->given[cli->n_given].name = o->name;
	cli->given[cli->n_given++].value = value ? value : "";
	return 0;
}

/* Options may stand anywhere; "--" ends them. What is left goes to cli->args. */
static int parse(struct cli *cli, int argc, char **argv)
{
	bool options = true;

	for (int i = 0; i < argc; i++) {
		char *word = argv[i];
		int r = 0;
		if (options && streq(word, "--"))
			options = false;
		else if (options && (streq(word, "-h") || streq(word, "-o"))) {
			char *full[] = {streq(word, "-h") ? "--help" : "--output", i + 1 < argc ? argv[i + 1] : NULL};
			int at = 0;
			r = take_option(cli, i + 1 < argc ? 2 : 1, full, &at);
			i += at;
		} else if (options && word[0] == '-' && word[1] == '-')
			r = take_option(cli, argc, argv, &i);
		else if (options && word[0] == '-' && word[1])
			return usage(cli, "there is no option %s; long options begin with --", word);
		else
			r = check_text(cli, cli->args[cli->n_args++] = word);
		if (r < 0)
			return r;
	}
	return 0;
}

const char *cli_option_at(const struct cli *cli, const char *name, int i)
{
	for (int k = 0; k < cli->n_given; k++)
		if (streq(cli->given[k].name, name) && i-- == 0)
			return cli->given[k].value;
	return NULL;
}

const char *cli_option(const struct cli *cli, const char *name)
{
	const char *value = NULL;

	for (int k = 0; k < cli->n_given; k++)
		if (streq(cli->given[k].name, name))
			value = cli->given[k].value;
	return value;
}

int cli_seconds(struct cli *cli, const char *name, int64_t fallback, int64_t *ret)
{
	const char *text = cli_option(cli, name);
	char *end;

	*ret = fallback;
	if (!text)
		return 0;
	errno = 0;
	*ret = strtoll(text, &end, 10);
	if (errno || end == text || (*end && !streq(end, "s")) || *ret < 0 || *ret > 1000000)
		return usage(cli, "--%s: \"%s\" is no number of seconds", name, text);
	return 0;
}

int cli_count(struct cli *cli, const char *name, int64_t fallback, int64_t *ret)
{
	const char *text = cli_option(cli, name);
	char *end;

	*ret = fallback;
	if (!text)
		return 0;
	errno = 0;
	*ret = strtoll(text, &end, 10);
	if (errno || end == text || *end || *ret < 0 || *ret > 1000000000)
		return usage(cli, "--%s: \"%s\" is no number", name, text);
	return 0;
}

/* What stands behind it may be left out, or is missing as well. */
static const char *missing_arg(const struct cli *cli)
{
	int n = cli->n_args;

	for (const struct cli_arg *a = cli->verb->args; a->name; a++)
		if (!a->optional && n-- == 0)
			return a->name;
	return "";
}

static int check_args(struct cli *cli)
{
	const struct verb *v = cli->verb;
	_cleanup_free_ char *args = help_args(v);
	int least = 0, most = 0;
	bool any = false;

	for (const struct cli_arg *a = v->args; a->name; a++) {
		least += !a->optional;
		most++;
		any |= a->repeated;
	}
	if (cli->n_args < least)
		return usage(cli, "%s: the argument %s is missing; usage: qmpctl %s%s", v->name, missing_arg(cli), v->name, args);
	if (!any && cli->n_args > most)
		return usage(cli, "%s: \"%s\" is one argument too many; usage: qmpctl %s%s", v->name, cli->args[most], v->name,
			     args);
	for (int i = 0; i < cli->n_args && i < most; i++)
		if (v->args[i].kind == ARG_CHOICE && check_choice(cli, v->args[i].name, v->args[i].choices, cli->args[i]) < 0)
			return -EINVAL;
	return 0;
}

/* Common options may stand before the verb. */
static int first_word(int argc, char **argv)
{
	int i = 1;

	while (i < argc && argv[i][0] == '-') {
		bool takes = (streq(argv[i], "--root") || streq(argv[i], "--output") || streq(argv[i], "-o"));
		i += takes ? 2 : 1;
	}
	return i < argc ? i : argc;
}

/* "disk --help": the noun, where there are verbs of it. */
static const char *asks_of_noun(int argc, char **argv)
{
	_cleanup_free_ char *verbs = help_verbs_of(argv[0]);

	return *verbs && argc == 2 && (streq(argv[1], "--help") || streq(argv[1], "-h")) ? argv[0] : NULL;
}

/* 0, or the exit status where what was printed did not get out. */
static int finish_output(void)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return 0;
	if (errno != EPIPE) /* whoever reads has had enough */
		fprintf(stderr, "qmpctl: standard output cannot be written: %s\n", strerror(errno));
	return EXIT_HOST;
}

static int prepare(struct cli *cli, int argc, char **argv)
{
	int at = first_word(argc, argv), words = 0, r;
	const char *format;

	if (at < argc) {
		cli->verb = cli_find_verb(argc - at, argv + at, &words);
		cli->noun = cli->verb ? NULL : asks_of_noun(argc - at, argv + at);
		if (!cli->verb && !cli->noun)
			return unknown_verb(cli, argc - at, argv + at);
		words += cli->noun != NULL;
	}
	r = parse(cli, at - 1, argv + 1);
	if (r == 0 && at < argc)
		r = parse(cli, argc - at - words, argv + at + words);
	if (r < 0)
		return r;
	format = cli_option(cli, "output");
	cli->json = format && streq(format, "json");
	cli->root = cli_option(cli, "root");
	if (cli->root && !*cli->root)
		return usage(cli, "--root: an empty name");
	return 0;
}

/* No file of ours may take the place of a standard stream that was closed. Those stay as unusable as they were. */
static void hold_closed_streams(void)
{
	for (int fd = 0; fd <= 2; fd++)
		if (fcntl(fd, F_GETFD) < 0)
			(void)open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY);
}

/* "qmp NAME COMMAND --help". */
static bool answers_help(const struct cli *cli)
{
	return cli->verb->help_args > 0 && cli->n_args >= cli->verb->help_args;
}

int cli_main(int argc, char **argv)
{
	struct cli cli = {.program = argv[0]};
	uv_loop_t loop;
	int status, r;

	hold_closed_streams();
	if (argc >= 2 && streq(argv[1], "help")) { /* "help VERB" is "VERB --help" */
		memmove(argv + 1, argv + 2, (size_t)(argc - 2) * sizeof *argv);
		argv[argc - 1] = "--help";
	}
	signal(SIGPIPE, SIG_IGN);
	if (argc == 2 && (streq(argv[1], "--version") || streq(argv[1], "-V"))) {
		puts("qmpctl " QMPCTL_VERSION);
		return finish_output();
	}
	if (argc >= 2 && streq(argv[1], "__complete"))
		return complete_main(argc - 2, argv + 2);
	if (argc == 2 && streq(argv[1], "--man")) {
		help_man();
		return finish_output();
	}
	cli.args = calloc((size_t)argc + 1, sizeof *cli.args);
	if (!cli.args) {
		fprintf(stderr, "qmpctl: %s\n", strerror(ENOMEM));
		return EXIT_HOST;
	}
	if (prepare(&cli, argc, argv) < 0) {
		status = cli_fail(&cli);
	} else if (!cli.verb || (cli_option(&cli, "help") && !answers_help(&cli))) {
		if (cli.verb)
			help_verb(cli.verb);
		else if (!cli.noun || !help_noun(cli.noun))
			help_all();
		status = cli.verb || cli_option(&cli, "help") ? 0 : EXIT_USAGE;
	} else if (check_args(&cli) < 0 || vm_dirs_init(cli.root, &cli.dirs, &cli.error) < 0) {
		status = cli_fail(&cli);
	} else if ((r = uv_loop_init(&loop)) < 0) {
		qmp_error_errno(&cli.error, r, "making an event loop");
		status = cli_fail(&cli);
	} else {
		cli.loop = &loop;
		if (cli.verb->settles)
			images_settle(&cli);
		status = cli.verb->run(&cli);
		uv_run(&loop, UV_RUN_NOWAIT);
		(void)uv_loop_close(&loop);
	}
	if (finish_output() != 0 && status == 0)
		status = EXIT_HOST;
	vm_dirs_deinit(&cli.dirs);
	free(cli.args);
	return status;
}
