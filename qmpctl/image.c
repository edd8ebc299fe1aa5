#include "qmpctl/image.h"
#include "images/cache.h"
#include "images/chain.h"
#include "images/header.h"
#include "launcher/location.h"
#include "launcher/pool.h"
#include "launcher/spec.h"
#include "proto/base.h"
#include "qmpctl/progress.h"
#include "qmpctl/words.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

/* ---- What is known of one ---- */

/* As a VM has it in its spec, or NULL. */
static const char *known_format(const json_t *users)
{
	return text_of(json_array_get(users, 0), "format");
}

/* Of a file or device. */
static uint64_t length_of(const char *path)
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	off_t end = fd >= 0 ? lseek(fd, 0, SEEK_END) : -1;

	return end > 0 ? (uint64_t)end : 0;
}

static uint64_t size_of(const json_t *image)
{
	const char *path = text_of(image, "path"), *format = text_of(image, "format");
	struct img_header h;

	if (!vm_location_is_file(path))
		return 0;
	if (streq(format, "raw"))
		return length_of(path);
	return img_header_read(path, &h, NULL) == 0 && streq(h.format, format) ? h.virtual_size : 0;
}

/* ---- What it takes to reach and to open it ---- */

struct access {
	struct cli *cli;
	const struct img_catalogue *catalogue;
	const struct image_access *words; /* NULL: no options */
	bool took_tls, took_password;
};

/* The option, NULL where it is not given. I: of a repeated one; the last one goes on holding. */
static const char *word_of(const struct access *a, const char *what, int i)
{
	const char *value = NULL;
	char name[48];

	if (!a->words)
		return NULL;
	(void)snprintf(name, sizeof name, "%s%s%s", a->words->prefix, what, a->words->suffix);
	for (; !value && i >= 0; i--)
		value = cli_option_at(a->cli, name, i);
	return value;
}

static int take_file(struct access *a, json_t *to, const char *key, const char *word)
{
	_cleanup_free_ char *path = word ? path_absolute(a->cli, word) : NULL;

	if (word && !path)
		return a->cli->error.code;
	return path ? json_object_set_new(to, key, json_string(path)) : 0;
}

static int take_key(struct access *a, json_t *image, int depth)
{
	const char *word = word_of(a, "key-file", depth);
	json_t *encryption = word ? json_object() : NULL;

	if (!word)
		return 0;
	return json_object_set_new(image, "encryption", encryption) < 0 ? -ENOMEM : take_file(a, encryption, "key-file", word);
}

/* As img_chain_options has it. */
static int give_access(void *data, json_t *image, int depth, struct qmp_error *err)
{
	struct access *a = data;
	const char *path = text_of(image, "path"), *tls = word_of(a, "tls", 0), *password = word_of(a, "password-file", 0);
	enum vm_location_kind kind;
	struct vm_location l = {.kind = VM_FILE};
	int r = json_object_update(image, (json_t *)img_catalogue_access(a->catalogue, path));

	UNUSED(r); /* NULL: nothing is known */
	if (!vm_location_is_file(path) && vm_location_parse(path, &l, err) < 0)
		return -EINVAL;
	kind = l.kind;
	vm_location_deinit(&l);
	if (tls && (kind == VM_NBD || kind == VM_NBD_UNIX)) {
		json_t *parsed = parse_tls_words(a->cli, tls);
		a->took_tls = true;
		if (!parsed || json_object_set_new(image, "tls", parsed) < 0)
			return a->cli->error.code;
	}
	if (password && (kind == VM_ISCSI || kind == VM_RBD)) {
		a->took_password = true;
		if (take_file(a, image, "password-file", password) < 0)
			return a->cli->error.code;
	}
	return take_key(a, image, depth);
}

/* What was given, and nothing takes, was meant otherwise. */
static int refuse_unused(struct access *a, const char *path, const json_t *image)
{
	bool encrypted = false;

	for (; image; image = json_object_get(image, "backing"))
		encrypted |= json_object_get(image, "encryption") != NULL;
	if (word_of(a, "key-file", 0) && !encrypted)
		return qmp_error_set(&a->cli->error, QMP_ERR_USAGE, -EINVAL, "%s is not encrypted; leave its key file out", path);
	if (word_of(a, "tls", 0) && !a->took_tls)
		return qmp_error_set(&a->cli->error, QMP_ERR_USAGE, -EINVAL, "%s is not on NBD, which alone takes tls", path);
	if (word_of(a, "password-file", 0) && !a->took_password)
		return qmp_error_set(&a->cli->error, QMP_ERR_USAGE, -EINVAL,
				     "%s is neither on iSCSI nor on Ceph, which alone take a password file", path);
	return 0;
}

/* ---- Finding ---- */

static int find_file(struct cli *cli, struct found *f)
{
	struct stat st;
	int r = 0;

	if (stat(f->path, &st) < 0 && errno == ENOENT)
		r = f->is_volume ? img_volume_look(&f->volume, &cli->error)
				 : qmp_error_set(&cli->error, QMP_ERR_NOT_FOUND, -ENOENT, "there is no image %s", f->path);
	if (r < 0)
		return r;
	if (stat(f->path, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "%s is neither a file nor a block device",
				     f->path);
	return img_catalogue_add(f->catalogue, f->path, &cli->error);
}

static int read_chain(struct cli *cli, const char *format, const struct image_access *words, bool alone, struct found *f)
{
	struct access access = {cli, f->catalogue, words, false, false};
	struct img_chain_options o = {cli->loop, format ? format : known_format(f->users), alone, give_access, &access};
	int r;

	if (!o.format && f->is_volume)
		o.format = "raw"; /* whatever a guest has written there */
	r = img_chain_read(f->path, &o, &f->image, &cli->error);
	return r < 0 ? r : refuse_unused(&access, f->path, f->image);
}

/* WORD, absolute; of a pool: where that has it. New; NULL: cli->error. */
static char *locate(struct cli *cli, const char *word)
{
	_cleanup_free_ char *location = location_absolute(cli, word);
	json_auto_t *spec = location ? json_pack("{s:[{s:s}]}", "disks", "path", location) : NULL, *pools = NULL;
	char *path = NULL;

	if (spec && vm_pools_read(&cli->dirs, spec, NULL, NULL, &pools, &cli->error) == 0)
		(void)vm_pools_locate(pools, location, &path, &cli->error);
	return path;
}

int image_find(struct cli *cli, const char *word, const char *format, const struct image_access *access, bool alone,
	       struct found *ret)
{
	struct found f = {0};
	int r;

	if (!*word)
		return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "the name of an image is empty");
	r = img_volume_open(cli->loop, &cli->dirs, word, &f.volume, &cli->error);
	if (r < 0)
		return r;
	f.is_volume = r > 0;
	f.path = f.is_volume ? strdup(f.volume.path) : locate(cli, word);
	r = f.path ? img_catalogue_read(&cli->dirs, &f.catalogue, &cli->error) : cli->error.code;
	if (r == 0 && vm_location_is_file(f.path))
		r = find_file(cli, &f);
	if (r == 0) {
		f.users = img_catalogue_users(f.catalogue, f.path);
		f.overlays = img_catalogue_overlays(f.catalogue, f.path, false);
		r = f.users && f.overlays ? read_chain(cli, format, access, alone, &f) :
					    qmp_error_errno(&cli->error, -ENOMEM, "looking at %s", f.path);
	}
	if (r < 0) {
		found_deinit(&f);
		return r;
	}
	f.size = size_of(f.image);
	*ret = f;
	return 0;
}

void found_deinit(struct found *f)
{
	img_catalogue_free(f->catalogue);
	img_volume_close(&f->volume);
	free(f->path);
	json_decref(f->image);
	json_decref(f->users);
	json_decref(f->overlays);
	*f = (struct found){0};
}

int image_size_now(struct cli *cli, const struct found *f, uint64_t *ret)
{
	json_auto_t *info = NULL;
	struct img_task *task;
	int r = img_info(f->image, json_array_size(f->users) > 0, &task, &cli->error);

	if (r == 0)
		r = image_run(cli, task, "reading", 0, &info);
	*ret = (uint64_t)int_of(info, "virtual-size");
	return r;
}

/* ---- Who would be hurt ---- */

int image_refuse_running(struct cli *cli, const struct found *f, bool writes, const char *doing)
{
	json_auto_t *those = json_array();
	_cleanup_free_ char *names = NULL;
	json_t *user;
	size_t i;
	int many;

	json_array_foreach(f->users, i, user) if (streq(text_of(user, "state"), "running") &&
						  (!writes || json_is_true(json_object_get(user, "writes"))))
	    json_array_append(those, user);
	names = img_catalogue_names(those, NULL, &many);
	if (many == 0)
		return 0;
	return qmp_error_set(&cli->error, QMP_ERR_STATE, -EBUSY, "%s is in use by %s: %s now is refused%s; stop %s first",
			     f->path, names ? names : "VMs", doing, writes ? ", since it would change meanwhile" : "", many == 1 ? "it" : "them");
}

int image_refuse_hurt(struct cli *cli, const struct found *f, const json_t *users, const json_t *overlays,
		      const char *hurts)
{
	const json_t *unknown = img_catalogue_unknown(f->catalogue);
	_cleanup_free_ char *names = NULL;
	int many;

	if (cli_option(cli, "force"))
		return 0;
	names = img_catalogue_names(users, overlays, &many);
	if (many != 0)
		return qmp_error_set(&cli->error, QMP_ERR_STATE, -EBUSY, "%s: %s: %s; --force does it all the same",
				     f->path, hurts, names ? names : "others");
	if (json_array_size(unknown) > 0)
		return qmp_error_set(
		    &cli->error, QMP_ERR_STATE, -EBUSY,
		    "%s: the files of the VM %s are damaged, so that it cannot be told whether it has it; --force "
		    "does it all the same",
		    f->path, json_string_value(json_array_get(unknown, 0)));
	return 0;
}

int image_find_base(struct cli *cli, const char *word, const char *format, const struct image_access *access, struct found *ret)
{
	_cleanup_found_ struct found f = {0};
	json_auto_t *writers = json_array();
	json_t *user;
	size_t i;
	int r = image_find(cli, word, format, access, false, &f);

	if (r == 0)
		r = image_refuse_running(cli, &f, true, "an overlay on it");
	json_array_foreach(f.users, i, user)
		if (json_is_true(json_object_get(user, "writes")))
			json_array_append(writers, user);
	if (r == 0)
		r = image_refuse_hurt(cli, &f, writers, NULL, "whoever writes to it destroys what is backed by it");
	if (r < 0)
		return r;
	*ret = f;
	f = (struct found){0};
	return 0;
}

/* ---- New ones ---- */

static int may_replace(struct cli *cli, const char *path)
{
	_cleanup_found_ struct found f = {0};
	struct stat st;
	int r;

	if (!cli_option(cli, "replace"))
		return qmp_error_set(&cli->error, QMP_ERR_EXISTS, -EEXIST, "%s is there already; nothing was changed",
				     path);
	if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
		return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "%s is no file, and is not replaced", path);
	r = image_find(cli, path, NULL, NULL, true, &f);
	if (r == 0)
		r = image_refuse_running(cli, &f, false, "replacing it");
	return r < 0 ? r
		     : image_refuse_hurt(cli, &f, f.users, f.overlays, "others have it, and would lose what they have");
}

/* The folder of the pool "default" is there when it is first wanted. */
static int make_default(struct cli *cli, const char *path)
{
	_cleanup_free_ char *folder = qmp_asprintf("%s/images/", cli->dirs.state);
	_cleanup_fd_ int dir = -1;

	if (!folder || strncmp(path, folder, strlen(folder)) != 0)
		return 0;
	dir = vm_dir_open(cli->dirs.state, "images", true, &cli->error);
	return dir < 0 ? dir : 0;
}

char *image_new_path(struct cli *cli, const char *word)
{
	_cleanup_free_ char *path = *word ? locate(cli, word) : NULL;
	struct stat st;

	if (!path) {
		qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "the name of an image is empty");
		return NULL;
	}
	if (!vm_location_is_file(path)) {
		qmp_error_set(&cli->error, QMP_ERR_UNSUPPORTED, -ENOTSUP, "%s: a new image is made as a file", path);
		return NULL;
	}
	if (make_default(cli, path) < 0 || (lstat(path, &st) == 0 && may_replace(cli, path) < 0))
		return NULL;
	return take_ptr(path);
}

int image_new_volume(struct cli *cli, const char *word, const char *const *list, struct img_volume *ret)
{
	_cleanup_volume_ struct img_volume v = {0};
	const char *format = cli_option(cli, "format");
	int r = img_volume_open(cli->loop, &cli->dirs, word, &v, &cli->error);

	for (; r > 0 && *list; list++)
		if (cli_option(cli, *list))
			return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "%s: --%s is for files, and this is a volume of a pool of the "
					     "type %s", word, *list, v.pool.type->name);
	if (r > 0 && format && !streq(format, "raw"))
		return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "%s: a volume of the pool %s (%s) is raw, not %s", word, v.pool.name,
				     v.pool.type->name, format);
	if (r > 0) {
		*ret = v;
		v = (struct img_volume){0};
	}
	return r;
}

/* An image that goes into a volume. */
struct filling {
	struct cli *cli;
	const json_t *image;
	const char *snapshot, *location;
	uint64_t bytes;
};

static int fill_volume(void *data, const char *path, bool zeroes, struct qmp_error *err)
{
	struct filling *f = data;
	struct img_target target = {.path = f->location, .format = "raw", .made_at = path, .zeroes = zeroes};
	struct img_task *task;
	int r = img_convert(f->image, f->snapshot, &target, false, false, &task, err);

	if (r == 0)
		r = image_run(f->cli, task, "copying", f->bytes, NULL);
	if (r < 0 && err != &f->cli->error)
		*err = f->cli->error;
	return r;
}

int image_to_volume(struct cli *cli, const json_t *image, const char *snapshot, struct img_volume *v, uint64_t size)
{
	struct filling f = {.cli = cli, .image = image, .snapshot = snapshot, .location = v->location};
	json_auto_t *info = NULL;
	struct img_task *task;
	int r = img_info(image, false, &task, &cli->error);

	if (r == 0)
		r = image_run(cli, task, "reading", 0, &info);
	if (r < 0)
		return r;
	f.bytes = (uint64_t)int_of(info, "virtual-size");
	return img_volume_fill(v, size > f.bytes ? size : f.bytes, fill_volume, &f, &cli->error);
}

void image_print(const struct cli *cli, const json_t *result, const char *path)
{
	if (cli->json)
		cli_print_json(result);
	else
		printf("%s\n", path);
}

const char *image_new_format(const struct cli *cli, const char *path)
{
	static const char *const known[][2] = {
	    {".raw", "raw"},   {".img", "raw"}, {".iso", "raw"}, {".vmdk", "vmdk"}, {".vdi", "vdi"},
	    {".vhdx", "vhdx"}, {".vhd", "vpc"}, {".vpc", "vpc"}, {".qed", "qed"},   {".luks", "luks"},
	};
	const char *format = cli_option(cli, "format"), *dot = strrchr(path, '.');

	for (size_t i = 0; !format && dot && i < ARRAY_SIZE(known); i++)
		if (strcasecmp(dot, known[i][0]) == 0)
			return known[i][1];
	return format ? format : "qcow2";
}

int image_note_overlay(struct cli *cli, const json_t *base, const char *overlay)
{
	const char *path = text_of(base, "path");
	_cleanup_free_ char *real = path && vm_location_is_file(path) ? realpath(path, NULL) : NULL;

	return real ? img_cache_note_overlay(&cli->dirs, real, overlay, &cli->error) : 0;
}

bool image_is_same(const char *a, const char *b)
{
	struct stat x, y;

	return streq(a, b) || (stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino);
}

/* ---- Pools ---- */

char *image_pool_of(struct cli *cli, const char *word)
{
	char name[VM_POOL_NAME_MAX + 1];
	const char *volume = vm_location_looks(word) == VM_VOLUME ? vm_pool_volume(word, name) : NULL;
	size_t n = strlen(word);
	_cleanup_free_ char *pool = volume ? strdup(name) : strndup(word, n > 0 && word[n - 1] == ':' ? n - 1 : n);
	json_auto_t *definition = NULL;

	if (!pool || strchr(word, '/') || vm_pool_read(&cli->dirs, pool, &definition, NULL) < 0)
		return NULL;
	return take_ptr(pool);
}

/* What V is a clone of, among VOLUMES, as the tools of each type name it: "a", "tank/vms/a@x"; NULL: something else. Borrowed. */
static const json_t *origin_among(const json_t *volumes, const json_t *v)
{
	const char *origin = text_of(v, "origin"), *slash = origin ? strrchr(origin, '/') : NULL, *name = slash ? slash + 1 : origin;
	size_t n = name ? strcspn(name, "@") : 0, i;
	const json_t *other;

	json_array_foreach(volumes, i, other)
		if (n > 0 && strlen(text_of(other, "name")) == n && memcmp(text_of(other, "name"), name, n) == 0)
			return other;
	return NULL;
}

static json_t *entry_of(const struct img_catalogue *c, const char *pool, const json_t *volumes, const json_t *v)
{
	const json_t *origin = origin_among(volumes, v);
	json_t *entry = json_pack("{s:O, s:O, s:O, s:O, s:o, s:o}", "path", json_object_get(v, "path"), "format", json_object_get(v, "format"),
				  "virtual-size", json_object_get(v, "capacity"), "allocated", json_object_get(v, "allocation"), "users",
				  img_catalogue_users(c, text_of(v, "path")), "volume", json_sprintf("%s:%s", pool, text_of(v, "name")));

	if (entry && json_object_get(v, "snapshots"))
		json_object_set(entry, "snapshots", json_object_get(v, "snapshots"));
	if (entry && origin)
		json_object_set(entry, "backing", json_object_get(origin, "path"));
	if (entry && origin)
		json_object_set_new(entry, "backing-volume", json_sprintf("%s:%s", pool, text_of(origin, "name")));
	else if (entry && text_of(v, "origin"))
		json_object_set(entry, "backing", json_object_get(v, "origin"));
	return entry;
}

static json_t *same_image(const json_t *images, const char *path)
{
	json_t *image;
	size_t i;

	json_array_foreach(images, i, image)
		if (image_is_same(text_of(image, "path"), path))
			return image;
	return NULL;
}

int image_add_volumes(struct cli *cli, const struct img_catalogue *c, const char *pool, json_t *images)
{
	_cleanup_pool_ struct img_pool p = {0};
	json_auto_t *volumes = NULL;
	const json_t *v;
	size_t i;
	int r = img_pool_open(cli->loop, &cli->dirs, pool, &p, &cli->error);

	if (r == 0)
		r = img_pool_volumes(&p, &volumes, &cli->error);
	json_array_foreach(volumes, i, v) {
		json_t *entry = text_of(v, "path") ? entry_of(c, pool, volumes, v) : NULL, *there;
		if (!entry)
			return qmp_error_errno(&cli->error, -ENOMEM, "listing the pool %s", pool);
		there = same_image(images, text_of(v, "path"));
		if (there) {
			json_object_del(entry, "path");
			json_object_update(there, entry);
			json_decref(entry);
		} else {
			json_array_append_new(images, entry);
		}
	}
	return r;
}

/* ---- Running ---- */

const char **image_options(const struct cli *cli, const char *name)
{
	const char **list = calloc((size_t)cli->n_given + 1, sizeof *list), *value;

	for (int i = 0; list && (value = cli_option_at(cli, name, i)); i++)
		list[i] = value;
	return list;
}

struct running {
	struct progress bar;
	uint64_t bytes;
};

static void on_progress(void *data, double part)
{
	struct running *r = data;
	uint64_t total = r->bytes ? r->bytes : 10000;

	progress_update(&r->bar, (uint64_t)(part * (double)total), total);
}

/* qemu-img asks for a key by words of its own. */
static void say_key_file(struct qmp_error *error)
{
	struct qmp_error why = *error;

	if (!strstr(why.message, "key-secret' is required"))
		return;
	*error = (struct qmp_error){0};
	qmp_error_set(error, why.kind, why.code, "%s: it is encrypted; name the file that holds its key (key-file)", why.message);
}

int image_run(struct cli *cli, struct img_task *task, const char *doing, uint64_t bytes, json_t **ret)
{
	struct running running = {.bytes = bytes};
	int r;

	progress_begin(&running.bar, cli, doing, bytes ? "B" : NULL);
	r = img_task_call(cli->loop, task, on_progress, &running, ret, &cli->error);
	progress_end(&running.bar);
	say_key_file(&cli->error);
	return r;
}
