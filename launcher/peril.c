#include "launcher/peril.h"
#include "proto/base.h"

#include <ctype.h>
#include <strings.h>
#include <sys/stat.h>

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
	if (streq(command, "block-export-add") && is_type(arguments, "fuse"))
		return refuse_program(err, command, "a fuse export", "export it by NBD");
	for (size_t i = 0; i < ARRAY_SIZE(migrating); i++)
		if (streq(command, migrating[i]) && migrates_by_exec(arguments))
			return refuse_program(err, command, "exec:", "use fd:, unix: or tcp:");
	return 0;
}

/* ---- What makes an assertion of QEMU's fail, or has it end as a program that was called wrongly ---- */

/* A type of module that may be missing, or be of another build. None of them can be plugged. */
#define GL "virtio-gpu-gl", "virtio-gpu-gl-pci", "virtio-gpu-gl-device", "virtio-vga-gl"
/* An object of them cannot be freed before it is whole: so it is where it is only looked at, or refused. */
#define HALF "colo-compare", "x-remote-object"

static int check_type(const char *command, const json_t *arguments, struct qmp_error *err)
{
	static const struct {
		const char *command, *member, *types[8];
	} fatal[] = {{"device_add", "driver", {GL}},
		     {"device-list-properties", "typename", {GL}},
		     {"qom-list-properties", "typename", {GL, HALF, "qio-net-listener", "microvm-machine"}},
		     {"object-add", "qom-type", {HALF}}};
	const char *type;

	for (size_t i = 0; i < ARRAY_SIZE(fatal); i++) {
		if (!streq(command, fatal[i].command) || !(type = text_of(arguments, fatal[i].member)))
			continue;
		for (size_t k = 0; k < ARRAY_SIZE(fatal[i].types) && fatal[i].types[k]; k++)
			if (streq(type, fatal[i].types[k]))
				return qmp_error_set(err, QMP_ERR_UNSUPPORTED, -EOPNOTSUPP,
						     "%s: of the type %s QEMU may end at it, VM and all, so it was not asked; "
						     "\"args\" in the spec can have it at the start",
						     command, type);
	}
	return 0;
}

/* ---- What QEMU's main loop would wait for, VM and all, for as long as nobody comes ---- */

static int refuse_wait(struct qmp_error *err, const char *command, const char *what, const char *instead)
{
	return qmp_error_set(err, QMP_ERR_UNSUPPORTED, -EOPNOTSUPP,
			     "%s: %s, and until somebody connects QEMU does nothing else, so it was not asked; %s", command, what,
			     instead);
}

/* "server" is true unless it is said. */
static int check_chardev(const char *command, const json_t *arguments, struct qmp_error *err)
{
	const json_t *backend = json_object_get(arguments, "backend"), *data = json_object_get(backend, "data");

	if (!is_type(backend, "socket") || !json_is_true(json_object_get(data, "wait")) ||
	    json_is_false(json_object_get(data, "server")))
		return 0;
	return refuse_wait(err, command, "\"wait\": true has it wait for its first client", "leave \"wait\" out");
}

/* As text, a server waits unless that is switched off. */
static int check_line_chardev(const char *command, const json_t *options, struct qmp_error *err)
{
	const json_t *wait = json_object_get(options, "wait");

	if (!is_on(json_object_get(options, "server")) || json_object_get(options, "nowait") || (wait && !is_on(wait)))
		return 0;
	return refuse_wait(err, command, "a server waits for its first client", "say wait=off");
}

const char *vm_peril_chardev(const char *command, const json_t *arguments)
{
	const char *driver = streq(command, "device_add") ? text_of(arguments, "driver") : NULL;

	if ((streq(command, "netdev_add") && is_type(arguments, "vhost-user")) ||
	    (driver && strncmp(driver, "vhost-user-", strlen("vhost-user-")) == 0))
		return text_of(arguments, "chardev");
	return NULL;
}

int vm_peril_check_chardev(const char *command, const char *chardev, const json_t *chardevs, struct qmp_error *err)
{
	const json_t *one;
	size_t i;

	json_array_foreach(chardevs, i, one)
	{
		const char *label = text_of(one, "label"), *filename = text_of(one, "filename");
		if (!label || !streq(label, chardev) || !filename || strncmp(filename, "disconnected:", 13) != 0)
			continue;
		return qmp_error_set(err, QMP_ERR_STATE, -ENOTCONN,
				     "%s: the chardev %s is not connected (%s), and until it is QEMU would do nothing else, VM and "
				     "all, so it was not asked; start the vhost-user back end first",
				     command, chardev, filename);
	}
	return 0;
}

/* ---- Files whose opening may wait ---- */

static int refuse_file(struct qmp_error *err, const char *command, const char *path, unsigned type)
{
	return qmp_error_set(err, QMP_ERR_UNSUPPORTED, -EOPNOTSUPP,
			     type == S_IFIFO ? "%s: %s is a FIFO, and until somebody opens its other end QEMU does nothing else, VM and "
					       "all, so it was not asked; name a regular file, or hand over an fd (add-fd)"
					     : "%s: %s is a character device, which the driver file does not take, and at which QEMU may "
					       "hang, VM and all, so it was not asked; name a regular file, or take the driver host_device",
			     command, path);
}

/* The regular file PATH may be an image that names others. */
static int check_behind(const char *command, const char *path, const struct vm_host *host, struct qmp_error *err)
{
	_cleanup_free_ char *fifo = host->fifo_behind(host->directory, path);

	return fifo ? qmp_error_set(err, QMP_ERR_UNSUPPORTED, -EOPNOTSUPP,
				    "%s: the image %s names %s, a FIFO, and until somebody opens its other end QEMU does nothing else, VM and "
				    "all, so it was not asked; name another file in it (image rebase)",
				    command, path, fifo)
		    : 0;
}

/*
 * NODE: whether it is for a node of the driver file. What QEMU has open itself is for who opened it to know; and in its own
 * directory there is no FIFO.
 */
static int check_path(const char *command, const char *path, bool node, const struct vm_host *host, struct qmp_error *err)
{
	unsigned type;

	if (strncmp(path, "file:", 5) == 0)
		path += 5;
	if (!strchr(path, '/') || strncmp(path, "/proc/self/", 11) == 0)
		return 0;
	type = host->file_type(host->directory, path);
	if (type == S_IFREG && host->fifo_behind)
		return check_behind(command, path, host, err);
	return type == S_IFIFO || (type == S_IFCHR && node) ? refuse_file(err, command, path, type) : 0;
}

/* Of all that is in VALUE: what the names mean changes from command to command, what a FIFO is does not. */
static int check_files(const char *command, const json_t *value, bool node, const struct vm_host *host, struct qmp_error *err)
{
	const char *text = json_string_value(value), *driver = text_of(value, "driver"), *key;
	json_auto_t *inner = text && strncmp(text, "json:", 5) == 0 ? json_loads(text + 5, 0, NULL) : NULL;
	json_t *member;
	size_t i;
	int r = 0;

	if (inner)
		return check_files(command, inner, false, host, err);
	if (text)
		return check_path(command, text, node, host, err);
	json_object_foreach((json_t *)value, key, member)
		if (r == 0)
			r = check_files(command, member, driver && streq(driver, "file") && streq(key, "filename"), host, err);
	json_array_foreach(value, i, member)
		if (r == 0)
			r = check_files(command, member, false, host, err);
	return r;
}

static bool is_pipe(const char *command, const json_t *arguments)
{
	return (streq(command, "chardev-add") || streq(command, "chardev-change")) &&
	       is_type(json_object_get(arguments, "backend"), "pipe");
}

/* Each word of a line, and what follows an option's name in it. */
static int check_line_files(const char *rest, const struct vm_host *host, struct qmp_error *err)
{
	static const char between[] = " \t\n\r\f\v,=\"";
	char word[4096];
	int r = 0;

	for (rest += strspn(rest, between); r == 0 && *rest; rest += strspn(rest, between)) {
		size_t n = strcspn(rest, between);
		if (n < sizeof word) {
			memcpy(word, rest, n);
			word[n] = '\0';
			r = check_path("human-monitor-command", word, false, host, err);
		}
		rest += n;
	}
	return r;
}

/* ---- What is read from an SSH server ---- */

/* Whether VALUE, or what is in it, is to be opened by the driver ssh. */
static bool names_ssh(const json_t *value)
{
	const char *text = json_string_value(value), *key;
	json_t *member;
	size_t i;

	if (text)
		return strncmp(text, "ssh:", 4) == 0 || (strncmp(text, "json:", 5) == 0 && strstr(text, "ssh"));
	json_object_foreach((json_t *)value, key, member)
		if (names_ssh(member) || (streq(key, "driver") && json_is_string(member) && streq(json_string_value(member), "ssh")))
			return true;
	json_array_foreach(value, i, member)
		if (names_ssh(member))
			return true;
	return false;
}

static bool line_opens_ssh(const char *word, size_t n, const char *rest)
{
	static const char *const opening[] = {"drive_add", "change", "drive_mirror", "drive_backup", "snapshot_blkdev", "qemu-io"};

	for (size_t i = 0; i < ARRAY_SIZE(opening); i++)
		if (strlen(opening[i]) == n && strncmp(word, opening[i], n) == 0)
			return strstr(rest, "ssh") != NULL;
	return false;
}

static int check_ssh(const char *command, bool opens, const struct vm_host *host, struct qmp_error *err)
{
	if (!opens || !host->sandbox || !host->ssh_runs || !host->ssh_runs(host->user))
		return 0;
	return refuse_program(err, command, "a \"Match exec\" in the ssh configuration (~/.ssh/config or /etc/ssh/ssh_config)",
			      "take that line out");
}

static bool opens_images(const char *command)
{
	static const char *const opening[] = {"blockdev-add", "blockdev-create", "blockdev-reopen", "blockdev-snapshot-sync",
					      "blockdev-change-medium", "drive-mirror", "drive-backup", "transaction"};

	for (size_t i = 0; i < ARRAY_SIZE(opening); i++)
		if (streq(command, opening[i]))
			return true;
	return false;
}

/* ---- The human monitor ---- */

/* "tap,id=n,ifname=t" as netdev_add's arguments; IMPLIED is the first one's name. ",," is a comma of the value. */
static json_t *line_options(const char *text, const char *implied)
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
			json_object_set_new(options, implied, qmp_json_text(part));
		else
			json_object_set_new(options, part, qmp_json_text(equals ? equals : "on"));
	}
	return options;
}

static const char *skip_blanks(const char *text)
{
	return text + strspn(text, " \t\n\r\f\v");
}

/* object_add takes JSON as well. */
static json_t *line_object(const char *text, const char *implied)
{
	json_t *object = *text == '{' ? qmp_json_decode(text, strlen(text), NULL) : NULL;

	return object ? object : line_options(text, implied);
}

/* "-d uri", "-d -r \"uri\"" as migrate's arguments. */
static json_t *line_uri(const char *text, const char *implied)
{
	UNUSED(implied);
	while (*text == '-' && text[1])
		text = skip_blanks(text + 2);
	return json_pack("{s:o}", "uri", qmp_json_text(text + (*text == '"')));
}

/* "ID OPTIONS" */
static json_t *line_changed(const char *text, const char *implied)
{
	return line_options(skip_blanks(text + strcspn(text, " \t\n\r\f\v")), implied);
}

static int check_parsed(const char *command, const json_t *arguments, const struct vm_host *host, struct qmp_error *err)
{
	if (streq(command, "chardev-add") || streq(command, "gdbserver"))
		return check_line_chardev(command, arguments, err);
	if (vm_peril_chardev(command, arguments))
		return refuse_wait(err, command, "a vhost-user device waits for its back end",
				   "ask for it as a QMP command, which looks whether it is there");
	return vm_peril_check(command, arguments, host, err);
}

static int check_line(const char *line, const struct vm_host *host, struct qmp_error *err)
{
	static const struct {
		const char *word, *command, *implied;
		json_t *(*arguments)(const char *text, const char *implied);
	} known[] = {{"netdev_add", "netdev_add", "type", line_options},
		     {"device_add", "device_add", "driver", line_options},
		     {"object_add", "object-add", "qom-type", line_object},
		     {"chardev-add", "chardev-add", "backend", line_options},
		     {"chardev-change", "chardev-add", "backend", line_changed},
		     {"gdbserver", "gdbserver", "device", line_options}, /* a tcp: one does not wait, nor does it say "server" */
		     {"migrate", "migrate", NULL, line_uri},
		     {"migrate_incoming", "migrate-incoming", NULL, line_uri},
		     {"migrate_recover", "migrate-recover", NULL, line_uri}};
	const char *word = skip_blanks(line), *rest;
	size_t n = strcspn(word, " \t\n\r\f\v");

	rest = skip_blanks(word + n);
	if (host->file_type && !(strncmp(word, "chardev-", 8) == 0 && strstr(rest, "pipe,")) && check_line_files(rest, host, err) < 0)
		return -EOPNOTSUPP;
	if (check_ssh("human-monitor-command", line_opens_ssh(word, n, rest), host, err) < 0)
		return -EOPNOTSUPP;
	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (strlen(known[i].word) == n && strncmp(word, known[i].word, n) == 0) {
			bool quoted = known[i].implied && *rest == '"';
			json_auto_t *arguments = known[i].arguments(rest + quoted, known[i].implied);
			return check_parsed(known[i].command, arguments, host, err);
		}
	return 0;
}

int vm_peril_check(const char *command, const json_t *arguments, const struct vm_host *host, struct qmp_error *err)
{
	const char *line = streq(command, "human-monitor-command") ? text_of(arguments, "command-line") : NULL;

	if (line)
		return check_line(line, host, err);
	if (host->file_type && strncmp(command, "qom-", 4) != 0 && !is_pipe(command, arguments) && check_files(command, arguments, false, host, err) < 0)
		return -EOPNOTSUPP;
	if (!host->vhost_net && streq(command, "netdev_add") && is_tap_with_vhost(arguments))
		return refuse_vhost(err);
	if (streq(command, "x-blockdev-amend") && host->qemu_major != 7)
		return qmp_error_set(err, QMP_ERR_UNSUPPORTED, -EOPNOTSUPP,
				     "x-blockdev-amend: QEMU 10.0 ends at it, VM and all, so it was not asked; use qemu-img amend "
				     "while nothing uses the image");
	if (streq(command, "chardev-add") || streq(command, "chardev-change"))
		return check_chardev(command, arguments, err);
	if (check_type(command, arguments, err) < 0 ||
	    check_ssh(command, opens_images(command) && names_ssh(arguments), host, err) < 0)
		return -EOPNOTSUPP;
	return host->sandbox ? check_program(command, arguments, err) : 0;
}
