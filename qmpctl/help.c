#include "qmpctl/help.h"
#include "proto/base.h"


#define WIDTH_MAX 79
#define WIDTH_MIN 40

static const char *const groups[] = {
	[GROUP_SPEC] = "What a VM is",
	[GROUP_LIFE] = "Life of a VM",
	[GROUP_DEVICE] = "Disks and NICs",
	[GROUP_IMAGE] = "Images",
	[GROUP_LOOK] = "Looking and talking",
	[GROUP_QEMU] = "QEMU itself",
	[GROUP_PROGRAM] = "This program",
};

static const char statuses[] = "Exit statuses: 0 done, 1 failed, 2 wrong input, 3 not found, 4 not in this state, 5 timed out, "
			       "6 pending, 7 unreachable, 8 the host failed";

/* ---- Lines ---- */

static int width(void)
{
	int columns = cli_terminal_columns(STDOUT_FILENO);

	if (columns == 0)
		return WIDTH_MAX;
	return columns < WIDTH_MIN ? WIDTH_MIN : columns <= WIDTH_MAX ? columns - 1 : WIDTH_MAX;
}

/* Goes on at column AT, breaks lines between words and begins them at column INDENT. */
static void print_wrapped(const char *text, int at, int indent)
{
	int most = width();
	bool first = true;

	while (*text) {
		int n = (int)strcspn(text, " ");
		if (!first && at + 1 + n > most) {
			printf("\n%*s", indent, "");
			at = indent;
		} else if (!first) {
			putchar(' ');
			at++;
		}
		printf("%.*s", n, text);
		at += n;
		first = false;
		text += n + (text[n] == ' ');
	}
	putchar('\n');
}

/* LEFT in a column of its own, and what it is behind it, or below where LEFT is too long. */
static void print_entry(const char *left, const char *summary, int column)
{
	int n = (int)strlen(left);

	printf("  %s%s%s", cli_bold(), left, cli_plain());
	if (n + 4 > column)
		printf("\n%*s", column, "");
	else
		printf("%*s", column - n - 2, "");
	print_wrapped(summary, column, column);
}

/* ---- Help ---- */

static void print_options(const struct cli_option *o)
{
	for (; o && o->name; o++) {
		_cleanup_free_ char *left =
			qmp_asprintf("--%s%s%s", o->name, o->metavar ? " " : "", o->metavar ? o->metavar : "");
		print_entry(left, o->summary, width() < 60 ? 8 : 24);
	}
}

char *help_args(const struct verb *v)
{
	char *text = strdup("");

	for (const struct cli_arg *a = v->args; a->name && text; a++) {
		_cleanup_free_ char *before = text;
		/* What is written with brackets of its own keeps them. */
		bool brackets = a->optional && a->name[0] != '[';
		text = qmp_asprintf("%s %s%s%s%s", before, brackets ? "[" : "", a->name, a->repeated ? "..." : "",
				    brackets ? "]" : "");
	}
	return text;
}

static void print_usage(const struct verb *v)
{
	_cleanup_free_ char *args = help_args(v), *text = qmp_asprintf("qmpctl %s%s [OPTIONS]", v->name, args);

	printf("Usage: ");
	print_wrapped(text, 7, 7);
}

void help_verb(const struct verb *v)
{
	_cleanup_free_ char *summary = qmp_asprintf("%s.", v->summary);

	print_usage(v);
	putchar('\n');
	print_wrapped(summary, 0, 0);
	if (v->alias)
		printf("Also: qmpctl %s\n", v->alias);
	if (v->notes) {
		putchar('\n');
		print_wrapped(v->notes, 0, 0);
	}
	printf("\nOptions:\n");
	print_options(v->options);
	print_options(common_options);
}

static bool is_verb_of(const struct verb *v, const char *noun)
{
	size_t n = strlen(noun);

	return n > 0 && strncmp(v->name, noun, n) == 0 && v->name[n] == ' ';
}

static void print_verbs(enum verb_group group, const char *noun)
{
	for (const struct verb *const *v = all_verbs; *v; v++)
		if (noun ? is_verb_of(*v, noun) : (*v)->group == group)
			print_entry((*v)->name, (*v)->summary, width() < 60 ? 8 : 18);
}

bool help_noun(const char *noun)
{
	_cleanup_free_ char *verbs = help_verbs_of(noun);

	if (!*verbs)
		return false;
	printf("Usage: qmpctl %s VERB [ARGUMENTS] [OPTIONS]\n\nVerbs:\n", noun);
	print_verbs(GROUP_SPEC, noun);
	return true;
}

char *help_verbs_of(const char *noun)
{
	char *text = strdup("");

	for (const struct verb *const *v = all_verbs; *v && text; v++)
		if (is_verb_of(*v, noun)) {
			_cleanup_free_ char *before = text;
			text = qmp_asprintf("%s%s%s", before, *before ? ", " : "", (*v)->name + strlen(noun) + 1);
		}
	return text;
}

void help_all(void)
{
	printf("Usage: qmpctl VERB [ARGUMENTS] [OPTIONS]\n\nVirtual machines straight on QEMU.\n");
	for (size_t g = 0; g < ARRAY_SIZE(groups); g++) {
		printf("\n%s:\n", groups[g]);
		print_verbs((enum verb_group)g, NULL);
	}
	printf("\nOptions:\n");
	print_options(common_options);
	printf("\n");
	print_wrapped("\"qmpctl VERB --help\" tells more of a verb, \"man qmpctl\" all of it.", 0, 0);
	print_wrapped(statuses, 0, 0);
}

/* ---- The man page ---- */

/* What roff would take for its own is escaped. */
static void man_text(const char *text)
{
	if (*text == '.' || *text == '\'')
		printf("\\&");
	for (; *text; text++)
		switch (*text) {
		case '-':
			printf("\\-");
			break;
		case '\\':
			printf("\\e");
			break;
		case '^':
			printf("\\(ha");
			break;
		case '~':
			printf("\\(ti");
			break;
		case '\'':
			printf("\\(aq");
			break;
		case '`':
			printf("\\(ga");
			break;
		default:
			putchar(*text);
		}
}

static void man_options(const struct cli_option *o)
{
	for (; o && o->name; o++) {
		printf(".TP\n\\fB\\-\\-");
		man_text(o->name);
		printf("\\fR");
		if (o->metavar) {
			printf(" \\fI");
			man_text(o->metavar);
			printf("\\fR");
		}
		putchar('\n');
		man_text(o->summary);
		putchar('\n');
	}
}

static void man_verb(const struct verb *v)
{
	_cleanup_free_ char *args = help_args(v);

	printf(".TP\n\\fB");
	man_text(v->name);
	printf("\\fR");
	man_text(args);
	putchar('\n');
	man_text(v->summary);
	putchar('.');
	if (v->alias) {
		printf(" Also: \\fB");
		man_text(v->alias);
		printf("\\fR.");
	}
	if (v->notes) {
		putchar('\n');
		man_text(v->notes);
	}
	putchar('\n');
	if (v->options && v->options->name) {
		printf(".RS\n");
		man_options(v->options);
		printf(".RE\n");
	}
}

void help_man(void)
{
	printf(".TH QMPCTL 1 \"\" \"qmpctl " QMPCTL_VERSION "\" \"User Commands\"\n.SH NAME\nqmpctl \\- virtual machines straight "
	       "on QEMU\n.SH SYNOPSIS\n\\fBqmpctl\\fR \\fIVERB\\fR [\\fIARGUMENTS\\fR] [\\fIOPTIONS\\fR]\n.SH OPTIONS\n"
	       "Options may stand anywhere; \\(lq\\-\\-\\(rq ends them.\n");
	man_options(common_options);
	for (size_t g = 0; g < ARRAY_SIZE(groups); g++) {
		printf(".SH \"");
		for (const char *c = groups[g]; *c; c++)
			putchar(*c >= 'a' && *c <= 'z' ? *c - 'a' + 'A' : *c);
		printf("\"\n");
		for (const struct verb *const *v = all_verbs; *v; v++)
			if ((*v)->group == g)
				man_verb(*v);
	}
	printf(".SH \"EXIT STATUS\"\n");
	man_text(statuses);
	printf("; \\fBrun\\fR: 20 killed, 21 crashed, 22 the guest panicked, 23 QEMU ended with a status of its own.\n"
	       ".SH ENVIRONMENT\n.TP\nQMPCTL_ROOT\nAs \\fB\\-\\-root\\fR.\n"
	       ".TP\nQMPCTL_QEMU\nThe qemu-system-x86_64 to start, where a spec names none.\n"
	       ".TP\nQMPCTL_QEMU_IMG\nThe qemu-img to run, in place of the one in PATH.\n"
	       ".TP\nVISUAL, EDITOR\nThe editor of \\fBedit\\fR.\n"
	       ".TP\nNO_COLOR\nSet to anything: no bold text.\n"
	       ".SH FILES\nRoot\\(aqs are in /etc/qmpctl (specs), /var/lib/qmpctl (images) and /run/qmpctl (sockets, logs); "
	       "others\\(aq below $XDG_CONFIG_HOME, $XDG_DATA_HOME and $XDG_RUNTIME_DIR.\n");
}
