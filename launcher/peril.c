#include "launcher/peril.h"
#include "proto/base.h"

#include <ctype.h>
#include <strings.h>

static bool is_type(const json_t *netdev, const char *type)
{
	const char *its = text_of(netdev, "type");

	return its && streq(its, type);
}

/* ---- vhost ---- */

static int refuse_vhost(struct qmp_error *err)
{
	return qmp_error_set(err, QMP_ERR_UNSUPPORTED, -EOPNOTSUPP,
			     "netdev_add: vhost is asked for, and /dev/vhost-net cannot be opened, at which QEMU may end, VM and "
			     "all, so it was not asked; load the kernel module vhost_net, or leave vhost off");
}

/* As text, what is not plainly off counts as on. */
static bool is_on(const json_t *value)
{
	const char *text = json_string_value(value);

	if (!text)
		return json_is_true(value);
	return strcasecmp(text, "off") != 0 && strcasecmp(text, "no") != 0 && strcasecmp(text, "n") != 0 &&
	       strcasecmp(text, "false") != 0;
}

static bool is_tap_with_vhost(const json_t *netdev)
{
	return is_type(netdev, "tap") && is_on(json_object_get(netdev, "vhost")) && !json_object_get(netdev, "vhostfd") &&
	       !json_object_get(netdev, "vhostfds");
}

/* ---- What runs a program ---- */

static int refuse_program(struct qmp_error *err, const char *command, const char *what, const char *instead)
{
	return qmp_error_set(err, QMP_ERR_UNSUPPORTED, -EOPNOTSUPP,
			     "%s: %s has QEMU run a program, at which its sandbox ends it, VM and all, so it was not asked; %s, or "
			     "start the VM with \"sandbox\": false",
			     command, what, instead);
}

static bool is_exec(const char *uri)
{
	return uri && strncmp(uri, "exec:", 5) == 0;
}

/* By "uri", or (from 8.2) by one of the "channels". */
static bool migrates_by_exec(const json_t *arguments)
{
	json_t *channel;
	size_t i;

	json_array_foreach(json_object_get(arguments, "channels"), i, channel)
	{
		const char *transport = text_of(json_object_get(channel, "addr"), "transport");
		if (transport && streq(transport, "exec"))
			return true;
	}
	return is_exec(text_of(arguments, "uri"));
}

static bool is_script(const char *path)
{
	return !path || (*path && !streq(path, "no"));
}

/* A tap that comes as an fd needs neither. */
static const char *tap_program(const json_t *netdev)
{
	if (json_object_get(netdev, "fd") || json_object_get(netdev, "fds"))
		return NULL;
	if (json_object_get(netdev, "helper"))
		return "a tap's helper";
	return is_script(text_of(netdev, "script")) || is_script(text_of(netdev, "downscript"))
		       ? "a tap's script (there is one unless script and downscript are \"no\")"
		       : NULL;
}

/* The guest decides when it is run. */
static const char *user_program(const json_t *netdev)
{
	const json_t *forwards = json_object_get(netdev, "guestfwd"), *one;
	size_t i;

	json_array_foreach(forwards, i, one)
		if (text_of(one, "str") && strstr(text_of(one, "str"), "-cmd:"))
			return "a guestfwd to a command";
	if (json_is_string(forwards) && strstr(json_string_value(forwards), "-cmd:"))
		return "a guestfwd to a command";
	return json_object_get(netdev, "smb") ? "smb" : NULL;
}

/* What of NETDEV would run a program; NULL: nothing. */
static const char *netdev_program(const json_t *netdev)
{
	if (is_type(netdev, "tap"))
		return tap_program(netdev);
	if (is_type(netdev, "user"))
		return user_program(netdev);
	return is_type(netdev, "bridge") ? "the type bridge" : is_type(netdev, "passt") ? "the type passt" : NULL;
}

static int check_program(const char *command, const json_t *arguments, struct qmp_error *err)
{
	static const char *const migrating[] = {"migrate", "migrate-incoming", "migrate-recover"};
	const char *what = streq(command, "netdev_add") ? netdev_program(arguments) : NULL;

	if (what)
		return refuse_program(err, command, what, "hand over a tap's fd (as nics of the backends tap and bridge do)");
	for (size_t i = 0; i < ARRAY_SIZE(migrating); i++)
		if (streq(command, migrating[i]) && migrates_by_exec(arguments))
			return refuse_program(err, command, "exec:", "use fd:, unix: or tcp:");
	return 0;
}

/* ---- The human monitor ---- */

/* "tap,id=n,ifname=t" as netdev_add's arguments; ",," is a comma of the value. */
static json_t *line_options(const char *text)
{
	json_t *options = json_object();
	char part[512];

	for (bool first = true; *text; first = false) {
		size_t n = 0;
		char *equals;
		for (; *text && (*text != ',' || text[1] == ','); text++) {
			text += *text == ',';
			if (n < sizeof part - 1)
				part[n++] = *text;
		}
		text += *text == ',';
		while (n > 0 && isspace((unsigned char)part[n - 1]))
			n--;
		part[n] = '\0';
		equals = strchr(part, '=');
		if (equals)
			*equals++ = '\0';
		if (!equals && first)
			json_object_set_new(options, "type", qmp_json_text(part));
		else
			json_object_set_new(options, part, qmp_json_text(equals ? equals : "on"));
	}
	return options;
}

static const char *skip_blanks(const char *text)
{
	return text + strspn(text, " \t\n\r\f\v");
}

/* "-d uri", "-d -r \"uri\"" as migrate's arguments. */
static json_t *line_uri(const char *text)
{
	while (*text == '-' && text[1])
		text = skip_blanks(text + 2);
	return json_pack("{s:o}", "uri", qmp_json_text(text + (*text == '"')));
}

static int check_line(const char *line, const struct vm_host *host, struct qmp_error *err)
{
	static const struct {
		const char *word, *command;
		json_t *(*arguments)(const char *);
	} known[] = {{"netdev_add", "netdev_add", line_options},
		     {"migrate", "migrate", line_uri},
		     {"migrate_incoming", "migrate-incoming", line_uri},
		     {"migrate_recover", "migrate-recover", line_uri}};
	const char *word = skip_blanks(line), *rest;
	size_t n = strcspn(word, " \t\n\r\f\v");

	rest = skip_blanks(word + n);
	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (strlen(known[i].word) == n && strncmp(word, known[i].word, n) == 0) {
			json_auto_t *arguments = known[i].arguments(rest + (known[i].arguments == line_options && *rest == '"'));
			return vm_peril_check(known[i].command, arguments, host, err);
		}
	return 0;
}

int vm_peril_check(const char *command, const json_t *arguments, const struct vm_host *host, struct qmp_error *err)
{
	const char *line = streq(command, "human-monitor-command") ? text_of(arguments, "command-line") : NULL;

	if (line)
		return check_line(line, host, err);
	if (!host->vhost_net && streq(command, "netdev_add") && is_tap_with_vhost(arguments))
		return refuse_vhost(err);
	if (streq(command, "x-blockdev-amend") && host->qemu_major != 7)
		return qmp_error_set(err, QMP_ERR_UNSUPPORTED, -EOPNOTSUPP,
				     "x-blockdev-amend: QEMU 10.0 ends at it, VM and all, so it was not asked; use qemu-img amend "
				     "while nothing uses the image");
	return host->sandbox ? check_program(command, arguments, err) : 0;
}
