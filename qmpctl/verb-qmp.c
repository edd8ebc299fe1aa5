/*
 * qmp: a command for QEMU, or for its keeper, with arguments typed by the schema of that very QEMU.
 */
#include "qmpctl/schema.h"
#include "qmpctl/verb.h"
#include "proto/base.h"

static struct qmp_schema *schema_here(struct cli *cli, const char *command, const json_t *given)
{
	if (strncmp(command, "qmpctl-", strlen("qmpctl-")) == 0)
		return schema_of_operations();
	return schema_for(cli, cli->args[0], command, given, true);
}

/* Typed, or where nothing is known of this QEMU, as they look. New. */
static json_t *typed_arguments(struct cli *cli, const char *command, const json_t *given)
{
	struct qmp_schema *s = schema_here(cli, command, given);
	json_t *args = s ? qmp_schema_type_arguments(s, command, given, &cli->error) : qmp_untyped(given);

	qmp_schema_free(s);
	return args;
}

static void print_arguments(const json_t *list)
{
	const json_t *entry, *choice;
	size_t i, k;

	if (json_array_size(list) > 0)
		printf("\nArguments (* must be given):\n");
	json_array_foreach(list, i, entry) {
		const json_t *choices = json_object_get(entry, "choices");
		printf("%c %-26s %s", json_is_true(json_object_get(entry, "optional")) ? ' ' : '*', text_of(entry, "name"),
		       text_of(entry, "type") ? text_of(entry, "type") : "any");
		json_array_foreach(choices, k, choice)
			printf("%s%s", k ? " | " : ": ", json_string_value(choice));
		putchar('\n');
	}
}

static int help_command(struct cli *cli, const char *command, const json_t *given)
{
	struct qmp_schema *known = schema_here(cli, command, given);
	struct qmp_schema *s = known ? known : schema_of(cli, cli->args[0], true); /* of a device, what all have */
	json_auto_t *list = s ? qmp_schema_arguments(s, command, NULL, given) : NULL;

	if (!s)
		qmp_error_set(&cli->error, QMP_ERR_NOT_FOUND, -ENOENT,
			      "what %s takes is not known: this QEMU was never asked, and %s does not run; start it once", command,
			      cli->args[0]);
	else if (!list) /* says what is near */
		json_decref(qmp_schema_type_arguments(s, command, given, &cli->error));
	qmp_schema_free(s);
	if (!list)
		return cli_fail(cli);
	if (cli->json) {
		cli_print_json(list);
		return 0;
	}
	printf("Usage: qmpctl qmp %s %s%s\n", cli->args[0], command, json_array_size(list) ? " [JSON | KEY=VALUE...]" : "");
	print_arguments(list);
	return 0;
}

/* What the human monitor says is lines, which end with CR LF. What else a terminal would obey is not for it. */
static void print_text(const char *text)
{
	char last = '\n';

	for (; *text; text++) {
		if ((unsigned char)*text < ' ' ? *text != '\n' && *text != '\t' : *text == 0x7f)
			continue;
		last = *text;
		putchar(last);
	}
	if (last != '\n')
		putchar('\n');
}

static int run_qmp(struct cli *cli)
{
	const char *command = cli->args[1];
	json_auto_t *given = schema_words(cli, cli->args + 2, cli->n_args - 2), *result = NULL;
	json_t *args;

	if (!given)
		return cli_fail(cli);
	if (cli_option(cli, "help"))
		return help_command(cli, command, given);
	args = typed_arguments(cli, command, given);
	if (!args || client_call(cli, cli->args[0], command, args, &result) < 0)
		return cli_fail(cli);
	if (cli->json || !json_is_string(result))
		cli_print_json(result);
	else
		print_text(json_string_value(result));
	return 0;
}

const struct verb verb_qmp = {
	.name = "qmp",
	.alias = "qemu-monitor-command",
	.group = GROUP_QEMU,
	.args = {{"NAME", .kind = ARG_VM},
		 {"COMMAND", .kind = ARG_QMP_COMMAND},
		 {"JSON | KEY=VALUE", .kind = ARG_QMP_ARGUMENT, .optional = true, .repeated = true}},
	.summary = "Send a QMP command; with --help, what it takes",
	.notes = "A value gets the type that this QEMU has there (on and off are booleans); one that begins with { or [ is JSON. "
		 "KEY.MEMBER=VALUE sets what is nested, KEY.0=VALUE a list's first. An unknown command, key or value is refused "
		 "before anything is sent. qmp NAME COMMAND --help prints what a command takes. A result that is one text, as of "
		 "human-monitor-command, is printed as text; -o json quotes it.",
	.help_args = 2,
	.run = run_qmp,
};
