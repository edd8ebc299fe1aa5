/*
 * create: a new spec, from options.
 */
#include "qmpctl/verb.h"
#include "qmpctl/image.h"
#include "qmpctl/keeper.h"
#include "qmpctl/os.h"
#include "qmpctl/ready.h"
#include "qmpctl/words.h"
#include "images/chain.h"
#include "images/clone.h"
#include "images/fetch.h"
#include "images/head.h"
#include "images/seed.h"
#include "launcher/location.h"
#include "launcher/pool.h"
#include "launcher/spec.h"
#include "proto/base.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>

static int set_text(struct cli *cli, json_t *spec, const char *path, const char *text)
{
	return text ? vm_spec_set(spec, path, text, &cli->error) : 0;
}

static int set_path(struct cli *cli, json_t *spec, const char *path, const char *option)
{
	const char *given = cli_option(cli, option);
	_cleanup_free_ char *whole = given ? path_absolute(cli, given) : NULL;

	if (given && !whole)
		return cli->error.code;
	if (whole && access(whole, R_OK) < 0)
		return qmp_error_errno(&cli->error, -errno, "--%s %s", option, given);
	return set_text(cli, spec, path, whole);
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

/* ---- --image ---- */

/* Whether it is to be a volume of POOL (NULL: of that which the image WORD is of): 1, 0 or an error. */
static int is_for_volume(struct cli *cli, const char *pool, const char *word)
{
	_cleanup_free_ char *some = pool ? qmp_asprintf("%s:1", pool) : strdup(word);
	_cleanup_volume_ struct img_volume v = {0};
	int r = some ? img_volume_open(cli->loop, &cli->dirs, some, &v, &cli->error) : -ENOMEM;

	return r > 0 ? pool || v.pool.type->clone : r;
}

/* The image that the disk begins as: a file that is backed by it wants that nobody writes to it ever, a copy, that nobody does now. */
static int find_image(struct cli *cli, const char *pool, const char *word, struct found *ret)
{
	const struct image_access access = {"image-", ""};
	int r = is_for_volume(cli, pool, word);

	if (r == 0 && vm_location_looks(word) != VM_NBD)
		return image_find_base(cli, word, NULL, &access, ret);
	if (r >= 0)
		r = image_find(cli, word, NULL, &access, false, ret);
	if (r == 0 && ret->size == 0)
		r = image_size_now(cli, ret, &ret->size);
	return r < 0 ? r : image_refuse_running(cli, ret, true, "a copy of it");
}

/* A disk that begins as the image is, which nobody may write to from then on, unless it is a volume. RET new; NULL: none is wanted. */
static int take_image(struct cli *cli, const char *name, json_t **ret)
{
	const char *word = cli_option(cli, "image"), *wants = cli_option(cli, "size"), *pool = cli_option(cli, "pool");
	_cleanup_found_ struct found base = {0};
	_cleanup_free_ char *fetched = NULL;
	struct img_import_result result;
	uint64_t size = 0;

	*ret = NULL;
	if (!word && wants)
		return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL,
				     "--size %s is for an --image; --disk size=%s makes an empty one", wants, wants);
	if (!word && pool)
		return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "--pool %s is for an --image; --disk %s:NAME,size=10G makes an empty "
				     "one", pool, pool);
	if (!word)
		return 0;
	if (wants && parse_size(cli, "--size ", wants, &size) < 0)
		return cli->error.code;
	if (img_is_http(word)) {
		if (image_import(cli, (char *[]){(char *)word, NULL, (char *)cli_option(cli, "sums")}, &result) < 0)
			return cli->error.code;
		fetched = (char *)result.path;
	} else if (cli_option(cli, "sha256") || cli_option(cli, "sums")) {
		return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL,
				     "--image %s: a digest is looked at for what comes from an address; image import does it for a file",
				     word);
	}
	if (find_image(cli, pool, fetched ? fetched : word, &base) < 0)
		return cli->error.code;
	if (json_object_get(base.image, "encryption"))
		return qmp_error_set(&cli->error, QMP_ERR_UNSUPPORTED, -ENOTSUP,
				     "--image %s is encrypted, and the disk that begins as it would not be; image convert (--new-key-file) makes "
				     "a copy that is, for --disk", word);
	if (!pool && base.is_volume && base.volume.pool.type->clone)
		pool = base.volume.pool.name;
	*ret = image_disk_from(cli, name, pool, &base, size);
	if (!*ret)
		return cli->error.code;
	if (!json_object_get(*ret, "backing") || !vm_location_is_file(text_of(base.image, "path")))
		return 0;
	return img_protect(text_of(base.image, "path"), &cli->error);
}

static int put_first(json_t *spec, json_t *disk)
{
	json_t *list = json_object_get(spec, "disks");

	if (!disk)
		return 0;
	return list ? json_array_insert(list, 0, disk) : append(spec, "disks", json_incref(disk));
}

static int add_devices(struct cli *cli, json_t *spec, const char *name)
{
	const char *text;

	for (int i = 0; (text = cli_option_at(cli, "nic", i)); i++)
		if (append(spec, "nics", parse_nic_words(cli, text)) < 0)
			return -EINVAL;
	for (int i = 0; (text = cli_option_at(cli, "cdrom", i)); i++) {
		_cleanup_free_ char *path = location_absolute(cli, text);
		if (!path)
			return cli->error.code;
		if (vm_location_is_file(path) && access(path, R_OK) < 0)
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

/* ---- The seed: what cloud-init is told ---- */

static json_t *seed_of(json_t *spec)
{
	json_t *seed = json_object_get(spec, "seed");

	if (!seed) {
		seed = json_object();
		json_object_set_new(spec, "seed", seed);
	}
	return seed;
}

/* LINE is one of an authorized_keys file (sshd(8)): a key in base64 begins with the length of its type's name, which is small. */
static int add_key(struct cli *cli, json_t *keys, const char *given, const char *line)
{
	if (strstr(line, "PRIVATE KEY"))
		return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL,
				     "--ssh-key %s is a private key, which stays where it is; the public one is in %s.pub", given, given);
	if (!*line || *line == '#')
		return 0;
	if (!strstr(line, " AAAA"))
		return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL,
				     "--ssh-key %s is no file of public keys: a line of it is none, as ssh-keygen writes them into a .pub file", given);
	return json_array_append_new(keys, json_string(line)) < 0 ? qmp_error_errno(&cli->error, -EILSEQ, "--ssh-key %s", given) : 0;
}

/* The keys of a .pub or an authorized_keys file: they are public, and stand in the spec itself. */
static int add_keys(struct cli *cli, json_t *keys, const char *given)
{
	FILE *f = fopen(given, "re");
	_cleanup_free_ char *line = NULL;
	size_t room = 0, before = json_array_size(keys);
	int r = 0;

	if (!f)
		return qmp_error_errno(&cli->error, -errno, "--ssh-key %s", given);
	while (r == 0 && getline(&line, &room, f) > 0) {
		line[strcspn(line, "\r\n")] = '\0';
		r = add_key(cli, keys, given, line);
	}
	(void)fclose(f);
	return r < 0 || json_array_size(keys) > before
		       ? r
		       : qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "--ssh-key %s: no key is in there", given);
}

/* Repeated options as a list of texts. */
static int add_texts(struct cli *cli, json_t *spec, const char *field, const char *option)
{
	json_auto_t *list = json_array();
	const char *text;
	int r = 0;

	for (int i = 0; r == 0 && (text = cli_option_at(cli, option, i)); i++)
		r = streq(option, "ssh-key") ? add_keys(cli, list, text) : json_array_append_new(list, json_string(text));
	if (r == 0 && json_array_size(list) > 0)
		json_object_set(seed_of(spec), field, list);
	return r;
}

static int add_seed(struct cli *cli, json_t *spec)
{
	static const struct {
		const char *field, *option;
	} lists[] = {{"ssh-keys", "ssh-key"}, {"packages", "package"}, {"run", "run"}},
	  texts[] = {{"seed.user", "user"}, {"seed.hostname", "hostname"}, {"seed.url", "seed-url"}},
	  files[] = {{"seed.password-hash-file", "password-hash"}, {"seed.user-data", "user-data"},
		     {"seed.meta-data", "meta-data"},	           {"seed.vendor-data", "vendor-data"},
		     {"seed.network-config", "network-config"},    {"seed.ignition", "ignition"}};
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(lists) && r == 0; i++)
		r = add_texts(cli, spec, lists[i].field, lists[i].option);
	for (size_t i = 0; i < ARRAY_SIZE(texts) && r == 0; i++)
		r = set_text(cli, spec, texts[i].field, cli_option(cli, texts[i].option));
	for (size_t i = 0; i < ARRAY_SIZE(files) && r == 0; i++)
		r = set_path(cli, spec, files[i].field, files[i].option);
	return r;
}

/* Its drive; and what it is to be made from can be had. */
static int settle_seed(struct cli *cli, json_t *spec, const char *bus)
{
	if (img_seed_attach(&cli->dirs, bus, spec) < 0)
		return qmp_error_errno(&cli->error, -ENOMEM, "making the seed");
	return img_seed_check(spec, &cli->error);
}

static int find_os(struct cli *cli, json_t **ret)
{
	const char *name = cli_option(cli, "os");
	json_auto_t *table = name ? os_table(cli) : NULL;

	*ret = table ? os_find(cli, table, name) : NULL;
	return *ret || !name ? 0 : cli->error.code;
}

/* All that can be refused is refused before anything is made. */
static int build_spec(struct cli *cli, json_t *spec, const char *name, json_t *first)
{
	json_auto_t *os = NULL;
	int r = find_os(cli, &os);

	if (r == 0)
		r = set_text(cli, spec, "memory", cli_option(cli, "memory"));

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
		r = add_seed(cli, spec);
	if (r == 0)
		r = set_pairs(cli, spec);
	if (r == 0)
		r = vm_spec_check(spec, &cli->error);
	if (r == 0)
		r = put_first(spec, first);
	if (r == 0)
		r = add_devices(cli, spec, name);
	if (r < 0)
		return r;
	os_suit(os, spec);
	return settle_seed(cli, spec, os_cdrom_bus(os));
}

/* Of images on servers whose format was not said: those of others are looked into when QEMU is to open them. */
static int fetch_heads(struct cli *cli, const json_t *spec, json_t *heads)
{
	json_t *disk;
	size_t i;
	int r = 0;

	json_array_foreach(json_object_get(spec, "disks"), i, disk)
	{
		json_auto_t *located = NULL;
		if (r < 0 || text_of(disk, "format") || !text_of(disk, "path"))
			continue;
		located = disk_located(&cli->dirs, disk, &cli->error);
		r = located ? img_heads_fetch_now(cli->loop, located, heads, &cli->error) : cli->error.code;
	}
	return r;
}

static int decide_formats(struct cli *cli, json_t *spec)
{
	json_auto_t *pools = NULL, *located = NULL, *heads = json_object();
	json_t *disk;
	size_t i;

	if (!heads || fetch_heads(cli, spec, heads) < 0)
		return qmp_error_errno(&cli->error, -ENOMEM, "creating a VM");
	json_array_foreach(json_object_get(spec, "disks"), i, disk)
		if (disk_decide_format(&cli->dirs, disk, heads, NULL, &cli->error) < 0)
			return -EINVAL;
	if (vm_pools_read(&cli->dirs, spec, NULL, NULL, &pools, &cli->error) < 0 ||
	    vm_pools_locate_disks(pools, spec, false, &located, &cli->error) < 0)
		return -EINVAL;
	return img_chains_check(located, NULL, heads, true, &cli->error);
}

static int refuse_name(struct cli *cli, const char *name)
{
	return qmp_error_set(&cli->error, QMP_ERR_EXISTS, -EEXIST,
			     "there is a VM named %s already; delete it first, or choose another name", name);
}

/*
 * From nothing to the file, or no trace. FIRST (may be NULL): a disk that is made already. DIR is locked: of two runs one is
 * the first.
 */
static int make(struct cli *cli, int dir, const char *name, json_t *first, json_t **ret)
{
	_cleanup_free_ char *entry = qmp_asprintf("%s.json", name);
	const char *file = cli_option(cli, "spec");
	json_auto_t *spec = NULL;

	if (faccessat(dir, entry, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return refuse_name(cli, name);
	if (file ? cli_read_spec(cli, file, &spec) < 0 : !(spec = json_object()))
		return -EINVAL;
	json_object_set_new(spec, "name", json_string(name));
	if (build_spec(cli, spec, name, first) < 0 || decide_formats(cli, spec) < 0 || vm_spec_check(spec, &cli->error) < 0 ||
	    vm_spec_complete(spec, &cli->error) < 0)
		return -EINVAL;
	if (vm_file_make_json(dir, entry, spec, &cli->error) < 0)
		return -EIO;
	*ret = take_ptr(spec);
	return 0;
}

static int run_create(struct cli *cli)
{
	const char *name = cli->args[0];
	const char *wait = cli_option(cli, "wait");
	bool start = cli_option(cli, "start") || wait, await = wait && streq(wait, "ready");
	_cleanup_fd_ int dir = -1;
	json_auto_t *spec = NULL, *first = NULL;
	_cleanup_free_ char *entry = NULL;
	int64_t timeout;

	if (cli_seconds(cli, "timeout", READY_TIMEOUT, &timeout) < 0)
		return cli_fail(cli);
	if (wait && !await) {
		qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "--wait %s: \"ready\" can be waited for", wait);
		return cli_fail(cli);
	}
	if (!vm_name_valid(name)) {
		qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL,
			      "\"%s\" is no name for a VM: letters, digits, . _ - (64 at most), a letter or digit first", name);
		return cli_fail(cli);
	}
	dir = vm_dir_open(cli->dirs.conf, "vms", true, &cli->error);
	if (dir < 0)
		return cli_fail(cli);
	/* What may take minutes comes before the lock. */
	entry = qmp_asprintf("%s.json", name);
	if (cli_option(cli, "image") && faccessat(dir, entry, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return refuse_name(cli, name), cli_fail(cli);
	if (take_image(cli, name, &first) < 0 || flock(dir, LOCK_EX) < 0 || make(cli, dir, name, first, &spec) < 0) {
		images_undo(cli);
		qmp_error_errno(&cli->error, -errno, "creating the VM %s", name);
		return cli_fail(cli);
	}
	images_keep(cli);
	(void)flock(dir, LOCK_UN);
	if (start && client_start(cli, name, false) < 0) {
		qmp_error_wrap(&cli->error, "the VM %s is created, but did not start", name);
		return cli_fail(cli);
	}
	if (await && verb_await_ready(cli, name, timeout) < 0) {
		qmp_error_wrap(&cli->error, "the VM %s is created and started", name);
		return cli_fail(cli);
	}
	if (cli->json)
		cli_print_json(spec);
	else
		printf("%s is %s\n", name, await ? "ready" : start ? "running" : "created");
	return 0;
}

const struct verb verb_create = {
	.name = "create",
	.alias = "define",
	.args = {{"NAME"}},
	.summary = "Define a new VM",
	.options = (const struct cli_option[]){
		{"memory", "SIZE", "RAM, as in 1G"},
		{"cpus", "N", "vCPUs"},
		{"image", "LOCATION", "a disk that begins as this image: a file, a volume, or a URL, from where it is copied", .kind = ARG_PATH},
		IMAGE_ACCESS_OF("image-", "", "it"),
		{"size", "SIZE", "that disk's size, as in 20G (the image's)"},
		{"pool", "POOL", "the pool that this disk is made in (the image's own, where it is a volume; else default)", .kind = ARG_POOL},
		{"sha256", "DIGITS", "the SHA-256 of what comes from that address"},
		{"sums", "FILE", "a list of digests in which it stands, as SHA256SUMS; a file or an address", .kind = ARG_PATH},
		{"disk", "WORDS", "size=10G[,format=qcow2], or a path, POOL:VOLUME or URL[,format=...]; any disk field as KEY=VALUE, as key-file=FILE of an encrypted one; repeatable",
		 .kind = ARG_DISK_WORDS},
		{"nic", "WORDS", "user[,forward=2222:22], bridge=br0, tap=tap0, ...; repeatable", .kind = ARG_NIC_WORDS},
		{"cdrom", "ISO", "a CD-ROM with this image; repeatable", .kind = ARG_PATH},
		{"user", "NAME", "cloud-init: an account that may sudo, in the place of the image's own"},
		{"ssh-key", "FILE", "cloud-init: a public key that may log in; repeatable", .kind = ARG_PATH},
		{"password-hash", "FILE", "cloud-init: a file with the hash of the account's password (mkpasswd)", .kind = ARG_PATH},
		{"hostname", "NAME", "cloud-init: the guest's name (the VM's)"},
		{"package", "NAME", "cloud-init: a package to install; repeatable"},
		{"run", "COMMAND", "cloud-init: a shell command for the end of the first boot; repeatable"},
		{"user-data", "FILE", "cloud-init: user-data as it is, in the place of these", .kind = ARG_PATH},
		{"meta-data", "FILE", "cloud-init: meta-data as it is", .kind = ARG_PATH},
		{"vendor-data", "FILE", "cloud-init: vendor-data", .kind = ARG_PATH},
		{"network-config", "FILE", "cloud-init: the network's configuration", .kind = ARG_PATH},
		{"seed-url", "URL", "cloud-init: where it fetches all that, in the place of a drive"},
		{"ignition", "FILE", "a configuration for Ignition", .kind = ARG_PATH},
		{"kernel", "FILE", "a kernel that QEMU loads itself", .kind = ARG_PATH},
		{"initrd", "FILE", "its initial RAM disk", .kind = ARG_PATH},
		{"cmdline", "TEXT", "its command line"},
		{"os", "NAME", "what the guest has drivers for, as in debian12, win11, winxp (\"qmpctl os list\"); what you give yourself "
			       "goes before it", .kind = ARG_OS},
		{"accel", "NAME", "auto, kvm or tcg", .kind = ARG_CHOICE, .choices = "auto|kvm|tcg"},
		{"machine", "TYPE", "q35, pc, or a versioned name", .kind = ARG_MACHINE},
		{"firmware", "FILE", "another firmware than QEMU's", .kind = ARG_PATH},
		{"spec", "FILE", "begin with this spec", .kind = ARG_PATH},
		{"set", "PATH=VALUE", "any value of the spec; repeatable", .kind = ARG_FIELD},
		{"start", NULL, "start it, too"},
		{"wait", "ready", "start it, and return when the guest is ready: cloud-init has ended, or the agent answers where there is "
				  "no seed", .kind = ARG_CHOICE, .choices = "ready"},
		{"timeout", "SECONDS", "how long to wait for that (600)"},
		{0},
	},
	.settles = true,
	.run = run_create,
};
