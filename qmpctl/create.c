/*
 * create, image create, and the words that describe a disk or a NIC.
 */
#include "qmpctl/cli.h"
#include "qmpctl/keeper.h"
#include "launcher/spec.h"
#include "proto/base.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/wait.h>

/* ---- Images ---- */

static int run_qemu_img(struct cli *cli, char *const *argv)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		execvp(argv[0], argv);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return qmp_error_errno(&cli->error, -errno, "running qemu-img");
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		return qmp_error_set(&cli->error, QMP_ERR_HOST, -ENOENT,
				     "there is no qemu-img; install it (Debian: qemu-utils)");
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return qmp_error_set(&cli->error, QMP_ERR_HOST, -EIO, "qemu-img could not make the image; it said why above");
	return 0;
}

/* Never over something that is there. */
static int create_image(struct cli *cli, const char *path, const char *format, const char *size)
{
	json_auto_t *value = json_string(size);
	_cleanup_free_ char *bytes_text = NULL;
	uint64_t bytes;

	if (vm_size_parse(value, &bytes) < 0 || bytes == 0)
		return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL,
				     "size=%s is no size; a number with K, M, G or T, as in 10G", size);
	if (access(path, F_OK) == 0)
		return qmp_error_set(&cli->error, QMP_ERR_EXISTS, -EEXIST, "%s is there already; nothing was changed", path);
	bytes_text = qmp_asprintf("%llu", (unsigned long long)bytes);
	return run_qemu_img(cli, (char *[]){"qemu-img", "create", "-q", "-f", (char *)format, (char *)path, bytes_text,
					    NULL});
}

static char *absolute(const char *path)
{
	_cleanup_free_ char *cwd = getcwd(NULL, 0);

	return *path == '/' || !cwd ? strdup(path) : qmp_asprintf("%s/%s", cwd, path);
}

/* STATEDIR/images/NAME-N.FORMAT, the first that is free. */
static char *new_image_path(struct cli *cli, const char *vm, const char *format)
{
	_cleanup_fd_ int dir = vm_dir_open(cli->dirs.state, "images", true, &cli->error);

	for (int i = 1; dir >= 0; i++) {
		_cleanup_free_ char *name = qmp_asprintf("%s-%d.%s", vm, i, format);
		if (faccessat(dir, name, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
			return qmp_asprintf("%s/images/%s", cli->dirs.state, name);
	}
	return NULL;
}

/* ---- Words: "PATH,format=qcow2,cache=none", "size=10G", or the JSON object itself ---- */

/* {"name": "x", KIND: [{}]}: lets the spec's own table judge a single item. */
static json_t *scratch(const char *kind)
{
	return json_pack("{s:s, s:[{}]}", "name", "x", kind);
}

static int set_word(struct cli *cli, json_t *spec, const char *kind, const char *key, const char *value)
{
	_cleanup_free_ char *path = qmp_asprintf("%s[0].%s", kind, key);

	return vm_spec_set(spec, path, value, &cli->error);
}

static json_t *item_of(const json_t *spec, const char *kind)
{
	return json_incref(json_array_get(json_object_get(spec, kind), 0));
}

static json_t *parse_json_item(struct cli *cli, const char *text)
{
	json_t *item = qmp_json_decode(text, strlen(text), &cli->error);

	if (cli->error.kind)
		cli->error.kind = QMP_ERR_USAGE;
	return item;
}

json_t *parse_disk_words(struct cli *cli, const char *name, const char *text)
{
	_cleanup_free_ char *copy = strdup(text), *size = NULL, *path = NULL;
	json_auto_t *spec = scratch("disks"), *item = NULL;
	const char *format;

	if (*text == '{')
		return parse_json_item(cli, text);
	for (char *save = NULL, *word = strtok_r(copy, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
		char *equals = strchr(word, '=');
		if (equals)
			*equals = '\0';
		if (!equals || *word == '/' || *word == '.')
			path = (free(path), equals ? (*equals = '=', absolute(word)) : absolute(word));
		else if (streq(word, "size"))
			size = (free(size), strdup(equals + 1));
		else if (streq(word, "path"))
			path = (free(path), absolute(equals + 1));
		else if (set_word(cli, spec, "disks", word, equals + 1) < 0)
			return NULL;
	}
	item = item_of(spec, "disks");
	format = json_string_value(json_object_get(item, "format"));
	if (size && !format) {
		format = "qcow2";
		json_object_set_new(item, "format", json_string(format));
	}
	if (size) {
		if (!path)
			path = new_image_path(cli, name, format);
		if (!path || create_image(cli, path, format, size) < 0)
			return NULL;
	}
	if (path)
		json_object_set_new(item, "path", json_string(path));
	return take_ptr(item);
}

/* "2222:22" or "udp:5353:53" */
static int add_forward(struct cli *cli, json_t *item, const char *text)
{
	json_t *list = json_object_get(item, "forwards");
	const char *protocol = strncmp(text, "udp:", 4) == 0 ? "udp" : "tcp";
	int host, guest, n = 0;

	if (strncmp(text, "udp:", 4) == 0 || strncmp(text, "tcp:", 4) == 0)
		text += 4;
	if (sscanf(text, "%d:%d%n", &host, &guest, &n) != 2 || text[n])
		return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL,
				     "forward=%s is no forward; [tcp:|udp:]HOSTPORT:GUESTPORT, as in 2222:22", text);
	if (!list) {
		list = json_array();
		json_object_set_new(item, "forwards", list);
	}
	return json_array_append_new(list, json_pack("{s:s, s:i, s:i}", "protocol", protocol, "host-port", host,
						     "guest-port", guest));
}

json_t *parse_nic_words(struct cli *cli, const char *text)
{
	_cleanup_free_ char *copy = strdup(text);
	json_auto_t *spec = scratch("nics"), *item = NULL;

	if (*text == '{')
		return parse_json_item(cli, text);
	item = item_of(spec, "nics");
	for (char *save = NULL, *word = strtok_r(copy, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
		char *equals = strchr(word, '=');
		int r;
		if (equals)
			*equals = '\0';
		if (!equals)
			r = set_word(cli, spec, "nics", "backend", word);
		else if (streq(word, "forward"))
			r = add_forward(cli, item, equals + 1);
		else {
			if (streq(word, "bridge") || streq(word, "tap"))
				set_word(cli, spec, "nics", "backend", word);
			r = set_word(cli, spec, "nics", streq(word, "tap") ? "interface" : word, equals + 1);
		}
		if (r < 0)
			return NULL;
	}
	return take_ptr(item);
}

/* ---- create ---- */

static int set_text(struct cli *cli, json_t *spec, const char *path, const char *text)
{
	return text ? vm_spec_set(spec, path, text, &cli->error) : 0;
}

static int set_path(struct cli *cli, json_t *spec, const char *path, const char *option)
{
	const char *given = cli_option(cli, option);
	_cleanup_free_ char *whole = given ? absolute(given) : NULL;

	if (whole && access(whole, R_OK) < 0)
		return qmp_error_errno(&cli->error, -errno, "--%s %s", option, given);
	return set_text(cli, spec, path, whole);
}

int cli_read_spec(struct cli *cli, const char *path, json_t **ret)
{
	_cleanup_fd_ int cwd = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	_cleanup_free_ char *text = NULL;
	size_t len;
	int r = vm_file_read(cwd, path, &text, &len, &cli->error);

	return r < 0 ? r : vm_spec_parse(text, len, path, ret, &cli->error);
}

static int append(json_t *spec, const char *kind, json_t *item_consume)
{
	json_t *list = json_object_get(spec, kind);

	if (!item_consume)
		return -EINVAL;
	if (!list) {
		list = json_array();
		json_object_set_new(spec, kind, list);
	}
	return json_array_append_new(list, item_consume);
}

static int add_devices(struct cli *cli, json_t *spec, const char *name)
{
	const char *text;

	for (int i = 0; (text = cli_option_at(cli, "nic", i)); i++)
		if (append(spec, "nics", parse_nic_words(cli, text)) < 0)
			return -EINVAL;
	for (int i = 0; (text = cli_option_at(cli, "cdrom", i)); i++) {
		_cleanup_free_ char *path = absolute(text);
		if (access(path, R_OK) < 0)
			return qmp_error_errno(&cli->error, -errno, "--cdrom %s", text);
		append(spec, "disks", json_pack("{s:s, s:s, s:s}", "type", "cdrom", "path", path, "format", "raw"));
	}
	for (int i = 0; (text = cli_option_at(cli, "disk", i)); i++)
		if (append(spec, "disks", parse_disk_words(cli, name, text)) < 0)
			return -EINVAL;
	return 0;
}

static int set_pairs(struct cli *cli, json_t *spec)
{
	const char *pair;

	for (int i = 0; (pair = cli_option_at(cli, "set", i)); i++) {
		_cleanup_free_ char *copy = strdup(pair);
		char *equals = copy ? strchr(copy, '=') : NULL;
		if (!equals)
			return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "--set %s: PATH=VALUE is wanted", pair);
		*equals = '\0';
		if (vm_spec_set(spec, copy, equals + 1, &cli->error) < 0)
			return -EINVAL;
	}
	return 0;
}

/* All that can be refused is refused before anything is made. */
static int build_spec(struct cli *cli, json_t *spec, const char *name)
{
	int r = set_text(cli, spec, "memory", cli_option(cli, "memory"));

	if (r == 0)
		r = set_text(cli, spec, "cpu.count", cli_option(cli, "cpus"));
	if (r == 0)
		r = set_text(cli, spec, "accel", cli_option(cli, "accel"));
	if (r == 0)
		r = set_text(cli, spec, "machine.type", cli_option(cli, "machine"));
	if (r == 0)
		r = set_path(cli, spec, "firmware.path", "firmware");
	if (r == 0)
		r = set_path(cli, spec, "boot.kernel", "kernel");
	if (r == 0)
		r = set_path(cli, spec, "boot.initrd", "initrd");
	if (r == 0)
		r = set_text(cli, spec, "boot.cmdline", cli_option(cli, "cmdline"));
	if (r == 0)
		r = set_pairs(cli, spec);
	if (r == 0)
		r = vm_spec_check(spec, &cli->error);
	return r < 0 ? r : add_devices(cli, spec, name);
}

static int decide_formats(struct cli *cli, json_t *spec)
{
	json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(spec, "disks"), i, disk)
		if (disk_decide_format(disk, NULL, &cli->error) < 0)
			return -EINVAL;
	return 0;
}

static int run_create(struct cli *cli)
{
	const char *name = cli->args[0], *file = cli_option(cli, "spec");
	_cleanup_free_ char *entry = qmp_asprintf("%s.json", name);
	_cleanup_fd_ int dir = -1;
	json_auto_t *spec = NULL;

	if (!vm_name_valid(name)) {
		qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL,
			      "\"%s\" is no name for a VM: letters, digits, . _ - (64 at most), a letter or digit first", name);
		return cli_fail(cli);
	}
	dir = vm_dir_open(cli->dirs.conf, "vms", true, &cli->error);
	if (dir < 0)
		return cli_fail(cli);
	if (faccessat(dir, entry, F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
		qmp_error_set(&cli->error, QMP_ERR_EXISTS, -EEXIST,
			      "there is a VM named %s already; delete it first, or choose another name", name);
		return cli_fail(cli);
	}
	if (file ? cli_read_spec(cli, file, &spec) < 0 : !(spec = json_object()))
		return cli_fail(cli);
	json_object_set_new(spec, "name", json_string(name));
	if (build_spec(cli, spec, name) < 0 || decide_formats(cli, spec) < 0 || vm_spec_check(spec, &cli->error) < 0 ||
	    vm_spec_complete(spec, &cli->error) < 0 || vm_file_write_json(dir, entry, spec, &cli->error) < 0)
		return cli_fail(cli);
	if (cli_option(cli, "start") && client_start(cli, name, false) < 0) {
		qmp_error_wrap(&cli->error, "the VM %s is created, but did not start", name);
		return cli_fail(cli);
	}
	if (cli->json)
		cli_print_json(spec);
	else
		printf("%s is %s\n", name, cli_option(cli, "start") ? "running" : "created");
	return 0;
}

const struct verb verb_create = {
	"create", "define", "NAME", "Define a new VM", 1, 1,
	(const struct cli_option[]){
		{"memory", "SIZE", "RAM, as in 1G"},
		{"cpus", "N", "vCPUs"},
		{"disk", "WORDS", "size=10G[,format=qcow2] or PATH[,format=...]; any disk field as KEY=VALUE; repeatable"},
		{"nic", "WORDS", "user[,forward=2222:22], bridge=br0, tap=tap0, ...; repeatable"},
		{"cdrom", "ISO", "a CD-ROM with this image; repeatable"},
		{"kernel", "FILE", "a kernel that QEMU loads itself"},
		{"initrd", "FILE", "its initial RAM disk"},
		{"cmdline", "TEXT", "its command line"},
		{"accel", "NAME", "auto, kvm or tcg"},
		{"machine", "TYPE", "q35, pc, or a versioned name"},
		{"firmware", "FILE", "another firmware than QEMU's"},
		{"spec", "FILE", "begin with this spec"},
		{"set", "PATH=VALUE", "any value of the spec; repeatable"},
		{"start", NULL, "start it, too"},
		{0},
	},
	run_create,
};

static int run_image_create(struct cli *cli)
{
	const char *format = cli_option(cli, "format");
	_cleanup_free_ char *path = absolute(cli->args[0]);

	if (create_image(cli, path, format ? format : "qcow2", cli->args[1]) < 0)
		return cli_fail(cli);
	if (cli->json) {
		json_auto_t *result = json_pack("{s:s, s:s}", "path", path, "format", format ? format : "qcow2");
		cli_print_json(result);
	} else {
		printf("%s\n", path);
	}
	return 0;
}

const struct verb verb_image_create = {
	"image create", NULL, "PATH SIZE", "Make an empty image", 2, 2,
	(const struct cli_option[]){{"format", "FORMAT", "qcow2 (default), raw, ..."}, {0}},
	run_image_create,
};
