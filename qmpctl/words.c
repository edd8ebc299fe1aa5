/*
 * Words that describe a disk or a NIC, and the images that they ask for.
 */
#include "qmpctl/words.h"
#include "qmpctl/image.h"
#include "launcher/firmware.h"
#include "launcher/location.h"
#include "launcher/spec.h"
#include "images/copy.h"
#include "images/made.h"
#include "images/key.h"
#include "images/volume.h"
#include "proto/base.h"

#include <fcntl.h>
#include <sys/stat.h>

/* ---- Images ---- */

/* Whether nothing is under way that a client which is gone has asked for VM's keeper. */
static bool is_quiet(void *data, const char *vm)
{
	struct cli *cli = data;
	struct qmp_error kept = cli->error;
	json_auto_t *status = NULL;
	bool quiet = client_is_up(cli, vm) == 0 || (client_call(cli, vm, "qmpctl-status", NULL, &status) == 0 &&
						    !json_object_get(status, "operation"));

	cli->error = kept;
	return quiet;
}

void images_settle(struct cli *cli)
{
	vm_firmware_move_old(&cli->dirs);
	img_made_settle(cli->loop, &cli->dirs, is_quiet, cli);
}

int images_begin(struct cli *cli, const char *vm)
{
	if (cli->made.fd > 0)
		return 0;
	return img_made_begin(cli->loop, &cli->dirs, vm, &cli->made, &cli->error);
}

int image_whole_like(void *data, const struct img_draft *d, struct qmp_error *err)
{
	struct image_like *like = data;
	struct stat st;

	if (stat(like->of, &st) < 0)
		return qmp_error_errno(err, -errno, "%s", like->of);
	if (geteuid() == 0 && fchown(d->fd, st.st_uid, st.st_gid) < 0)
		return qmp_error_errno(err, -errno, "giving %s to the owner of %s", d->final, like->of);
	return img_made_note(&like->cli->made, d, err);
}

int image_copy_variables(struct cli *cli, const char *vm, const char *to)
{
	int r = 0;

	vm_firmware_remove(&cli->dirs, to);
	for (int secure = 0; r == 0 && secure < 2; secure++) {
		_cleanup_free_ char *from = vm_firmware_vars(&cli->dirs, vm, secure), *path = vm_firmware_vars(&cli->dirs, to, secure);
		struct image_like like = {cli, from};
		struct img_copy_options o = {.from = from, .to = path, .whole = image_whole_like, .whole_data = &like};
		if (!from || !path)
			return qmp_error_errno(&cli->error, -ENOMEM, "the firmware's variables");
		if (access(from, F_OK) == 0)
			r = img_copy_call(cli->loop, &o, NULL, &cli->error);
	}
	return r;
}

int parse_size(struct cli *cli, const char *what, const char *text, uint64_t *ret)
{
	json_auto_t *value = json_string(text);

	if (vm_size_parse(value, ret) < 0 || *ret == 0)
		return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL,
				     "%s%s is no size; a number with K, M, G or T, as in 10G", what, text);
	return 0;
}

int image_create(struct cli *cli, const char *vm, const char *path, const char *format, uint64_t size, const char *key_file)
{
	struct img_target target = {.path = path, .format = format};
	struct img_task *task;
	int r = images_begin(cli, vm);

	if (r == 0)
		r = img_create_with_key(&target, size, key_file, &task, &cli->error);
	if (r < 0)
		return r;
	img_task_before_naming(task, img_made_note, &cli->made);
	return img_task_call(cli->loop, task, NULL, NULL, NULL, &cli->error);
}

void images_note_volume(struct cli *cli, struct img_volume *v)
{
	v->note = img_made_note_volume;
	v->note_data = &cli->made;
}

/* 1: LOCATION is made by its pool's tools; 0: it is another's affair. */
static int volume_create(struct cli *cli, const char *vm, const char *location, const char *format, uint64_t size)
{
	_cleanup_volume_ struct img_volume v = {0};
	int r = img_volume_open(cli->loop, &cli->dirs, location, &v, &cli->error);

	if (r <= 0)
		return r;
	images_note_volume(cli, &v);
	r = images_begin(cli, vm);
	if (r == 0)
		r = img_volume_create(&v, format, size, &cli->error);
	return r < 0 ? r : 1;
}

void images_keep(struct cli *cli)
{
	img_made_keep(&cli->made);
}

void images_undo(struct cli *cli)
{
	img_made_undo(&cli->made);
}

/* At LOCATION, which may be of a pool; KEY_FILE may be NULL. */
static int create_at(struct cli *cli, const char *vm, const char *location, const char *format, uint64_t size,
		     const char *key_file)
{
	json_auto_t *spec = json_pack("{s:[{s:s}]}", "disks", "path", location), *pools = NULL;
	_cleanup_free_ char *path = NULL;
	int r = key_file ? 0 : volume_create(cli, vm, location, format, size);

	if (r != 0)
		return r < 0 ? r : 0;
	r = vm_pools_read(&cli->dirs, spec, NULL, NULL, &pools, &cli->error);
	if (r == 0)
		r = vm_pools_locate(pools, location, &path, &cli->error);
	if (r == 0 && !vm_location_is_file(path))
		return qmp_error_set(&cli->error, QMP_ERR_UNSUPPORTED, -EOPNOTSUPP, "%s is no file of this host, and is not made here; make it "
				     "where it is, and leave size= out", location);
	return r < 0 ? r : image_create(cli, vm, path, format, size, key_file);
}

/* The format of a new image at LOCATION (NULL: somewhere) of which nothing was said. */
static const char *usual_format(struct cli *cli, const char *location)
{
	_cleanup_volume_ struct img_volume v = {0};

	return location && img_volume_open(cli->loop, &cli->dirs, location, &v, NULL) > 0 ? "raw" : "qcow2";
}

char *path_absolute(struct cli *cli, const char *path)
{
	_cleanup_free_ char *cwd = *path == '/' ? NULL : getcwd(NULL, 0);
	char *whole;

	while (strncmp(path, "./", 2) == 0 && path[2])
		path += 2 + strspn(path + 2, "/");
	if (cwd && streq(path, "."))
		return take_ptr(cwd);
	whole = *path == '/' ? strdup(path) : cwd ? qmp_asprintf("%s/%s", streq(cwd, "/") ? "" : cwd, path) : NULL;
	if (!whole)
		qmp_error_errno(&cli->error, -errno, "finding out where %s is", path);
	return whole;
}

char *location_absolute(struct cli *cli, const char *text)
{
	struct vm_location l;
	char *copy = NULL;

	if (*text && vm_location_is_file(text))
		return path_absolute(cli, text);
	if (vm_location_parse(text, &l, &cli->error) < 0)
		return NULL;
	vm_location_deinit(&l);
	copy = strdup(text);
	if (!copy)
		qmp_error_errno(&cli->error, -ENOMEM, "reading \"%s\"", text);
	return copy;
}

/* NAME in POOL, or (NULL) in STATEDIR/images: -EEXIST: it is taken. RET is its location; new. */
static int place_at(struct cli *cli, struct img_pool *pool, const char *name, image_make_cb make, void *data, char **ret)
{
	_cleanup_free_ char *path = pool ? img_pool_path(pool, name) : qmp_asprintf("%s/images/%s", cli->dirs.state, name);
	_cleanup_free_ char *location = pool ? qmp_asprintf("%s:%s", pool->name, name) : path ? strdup(path) : NULL;
	_cleanup_volume_ struct img_volume v = {0};
	int r = location && path ? 0 : qmp_error_errno(&cli->error, -ENOMEM, "making an image %s", name);

	if (r == 0 && pool)
		r = img_volume_open(cli->loop, &cli->dirs, location, &v, &cli->error);
	if (r == 0 && faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		r = -EEXIST;
	images_note_volume(cli, &v);
	if (r >= 0)
		r = make(data, v.location ? &v : NULL, path);
	if (r == 0)
		*ret = take_ptr(location);
	return r;
}

int images_place(struct cli *cli, const char *vm, const char *pool, const char *format, image_make_cb make, void *data, char **ret)
{
	_cleanup_pool_ struct img_pool p = {0};
	_cleanup_fd_ int dir = -1;
	int r = images_begin(cli, vm);

	if (r == 0 && pool)
		r = img_pool_open(cli->loop, &cli->dirs, pool, &p, &cli->error);
	if (r == 0 && (!pool || streq(pool, VM_POOL_DEFAULT)))
		r = dir = vm_dir_open(cli->dirs.state, "images", true, &cli->error);
	for (int i = 1; r >= 0; i++) {
		_cleanup_free_ char *name = pool && p.type->create ? qmp_asprintf("%s-%d", vm, i) : qmp_asprintf("%s-%d.%s", vm, i, format);
		r = name ? place_at(cli, pool ? &p : NULL, name, make, data, ret)
			 : qmp_error_errno(&cli->error, -ENOMEM, "making an image of %s", vm);
		if (r != -EEXIST && r != -EBUSY)
			return r;
		cli->error = (struct qmp_error){0};
		r = 0;
	}
	return r;
}

/* An image that has no place yet. */
struct new_image {
	struct cli *cli;
	const char *vm, *format;
	uint64_t size;
	struct found *base; /* that it begins as; NULL: empty */
	bool overlay;
	const char *key_file; /* of an empty one; NULL: not encrypted */
};

static int copy_to(struct cli *cli, const struct new_image *n, const char *path)
{
	struct img_target target = {.path = path, .format = n->format, .backing = n->overlay ? n->base->image : NULL};
	json_auto_t *made = json_pack("{s:s, s:s}", "path", path, "format", n->format);
	struct img_task *task;
	int r = images_begin(cli, n->vm);

	if (r == 0)
		r = n->overlay ? img_create(&target, n->size, &task, &cli->error)
			       : img_convert(n->base->image, NULL, &target, false, false, &task, &cli->error);
	if (r < 0)
		return r;
	img_task_before_naming(task, img_made_note, &cli->made);
	if (n->overlay)
		return img_task_call(cli->loop, task, NULL, NULL, NULL, &cli->error);
	r = image_run(cli, task, "copying", n->base->size, NULL);
	if (r == 0 && n->size > n->base->size && (r = img_resize(made, n->size, false, &task, &cli->error)) == 0)
		r = img_task_call(cli->loop, task, NULL, NULL, NULL, &cli->error);
	return r;
}

/* Whether it is one of the pool's own clones. */
static bool can_clone(const struct new_image *n, const struct img_volume *v)
{
	const struct img_volume *base = &n->base->volume;

	return n->base->is_volume && streq(base->pool.name, v->pool.name) && v->pool.type->clone &&
	       !(v->pool.type->clones_are_fixed && n->size > n->base->size);
}

static int clone_to(const struct new_image *n, struct img_volume *v)
{
	struct cli *cli = n->cli;
	int r;

	images_note_volume(cli, &n->base->volume);
	r = img_volume_clone(&n->base->volume, v->location, &cli->error);

	if (r < 0)
		return r;
	r = n->size ? img_volume_resize(v, n->size, false, &cli->error) : 0;
	if (r < 0)
		(void)img_volume_remove(v, NULL);
	return r;
}

static int make_new(void *data, struct img_volume *v, const char *path)
{
	const struct new_image *n = data;
	struct cli *cli = n->cli;

	if (v && can_clone(n, v)) {
		int r = clone_to(n, v);
		if (r != -EOPNOTSUPP) /* not of this volume: then it is copied */
			return r;
		cli->error = (struct qmp_error){0};
	}
	if (v)
		return image_to_volume(cli, n->base->image, NULL, v, n->size);
	return n->base ? copy_to(cli, n, path) : image_create(cli, n->vm, path, n->format, n->size, n->key_file);
}

json_t *image_disk_from(struct cli *cli, const char *vm, const char *pool, struct found *base, uint64_t size)
{
	const char *format = text_of(base->image, "format");
	struct new_image n = {.cli = cli, .vm = vm, .format = "qcow2", .size = size, .base = base,
			      .overlay = vm_location_is_file(base->path) && (streq(format, "raw") || streq(format, "qcow2"))};
	_cleanup_volume_ struct img_volume made = {0};
	_cleanup_free_ char *location = NULL;
	bool is_volume;
	json_t *disk;

	if (size > 0 && size < base->size) {
		qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "%s has %llu bytes: a smaller disk would lose its end; leave the size "
			      "out, or ask for more", base->path, (unsigned long long)base->size);
		return NULL;
	}
	if (images_place(cli, vm, pool, n.format, make_new, &n, &location) < 0)
		return NULL;
	is_volume = img_volume_open(cli->loop, &cli->dirs, location, &made, NULL) > 0;
	disk = json_pack("{s:s, s:s}", "path", location, "format", is_volume ? "raw" : n.format);
	if (n.overlay && !is_volume)
		json_object_set(disk, "backing", base->image);
	return disk;
}

/* ---- Words: "PATH,format=qcow2,cache=none", "size=10G", or the JSON object itself ---- */

/* {"name": "x", KIND: [{}]}: lets the spec's own table judge a single item. */
static json_t *scratch(const char *kind)
{
	return json_pack("{s:s, s:[{}]}", "name", "x", kind);
}

/* Cuts the next word off *TEXT; NULL: there is none. ",," is a comma of the word, as QEMU has it. */
static char *next_word(char **text)
{
	char *word = *text, *end = word, *p = word;

	for (; *p && (*p != ',' || p[1] == ','); p++) {
		p += *p == ',';
		*end++ = *p;
	}
	*text = *p ? p + 1 : p;
	if (end == word && !*p)
		return NULL;
	*end = '\0';
	return word;
}

/* The "=" of WORD where it is KEY=VALUE, and no location that has one. */
static char *equals_of(char *word)
{
	size_t n = strspn(word, "abcdefghijklmnopqrstuvwxyz0123456789-._[]");

	return n > 0 && *word != '.' && word[n] == '=' ? word + n : NULL;
}

static int set_word(struct cli *cli, json_t *spec, const char *kind, const char *key, const char *value)
{
	_cleanup_free_ char *path = qmp_asprintf("%s[0].%s", kind, key);

	return path ? vm_spec_set(spec, path, value, &cli->error) : qmp_error_errno(&cli->error, -ENOMEM, "%s=%s", key, value);
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
	_cleanup_free_ char *copy = strdup(text), *path = NULL;
	json_auto_t *spec = scratch("disks"), *item = NULL;
	const char *format, *key_file, *size = NULL;
	char *rest = copy;
	uint64_t bytes;

	if (*text == '{')
		return parse_json_item(cli, text);
	if (!copy) {
		qmp_error_errno(&cli->error, -ENOMEM, "reading \"%s\"", text);
		return NULL;
	}
	for (char *word; (word = next_word(&rest));) {
		char *equals = equals_of(word);
		if (equals)
			*equals = '\0';
		if (!*word)
			continue;
		if (!equals || streq(word, "path")) {
			free(path);
			path = location_absolute(cli, equals ? equals + 1 : word);
			if (!path)
				return NULL;
		} else if (streq(word, "key-file")) {
			_cleanup_free_ char *key = path_absolute(cli, equals + 1);
			if (!key || set_word(cli, spec, "disks", "encryption.key-file", key) < 0)
				return NULL;
		} else if (streq(word, "size")) {
			size = equals + 1;
		} else if (set_word(cli, spec, "disks", word, equals + 1) < 0) {
			return NULL;
		}
	}
	item = item_of(spec, "disks");
	format = json_string_value(json_object_get(item, "format"));
	key_file = text_of(json_object_get(item, "encryption"), "key-file");
	if (size && !format) {
		format = usual_format(cli, path);
		json_object_set_new(item, "format", json_string(format));
	}
	if (size) {
		/* Refused before anything is made. */
		if (parse_size(cli, "size=", size, &bytes) < 0)
			return NULL;
		json_object_set_new(item, "path", json_string(path ? path : "/"));
		if (vm_spec_check(spec, &cli->error) < 0)
			return NULL;
		if (path ? create_at(cli, name, path, format, bytes, key_file) < 0
			 : images_place(cli, name, NULL, format, make_new,
					&(struct new_image){.cli = cli, .vm = name, .format = format, .size = bytes, .key_file = key_file},
					&path) < 0)
			return NULL;
	}
	if (path)
		json_object_set_new(item, "path", json_string(path));
	return take_ptr(item);
}

json_t *parse_tls_words(struct cli *cli, const char *text)
{
	json_auto_t *spec = json_pack("{s:s, s:[{s:s, s:s}]}", "name", "x", "disks", "path", "nbd://server/", "format", "raw"), *item = NULL;
	_cleanup_free_ char *copy = strdup(text);
	char *rest = copy;

	for (char *word; copy && (word = next_word(&rest));) {
		char *equals = equals_of(word);
		bool is_folder = !equals || strncmp(word, "dir=", 4) == 0;
		_cleanup_free_ char *folder = is_folder ? path_absolute(cli, equals ? equals + 1 : word) : NULL, *key = NULL;
		if (equals)
			*equals = '\0';
		key = qmp_asprintf("tls.%s", is_folder ? "dir" : word);
		if (!key || (is_folder && !folder) || set_word(cli, spec, "disks", key, is_folder ? folder : equals + 1) < 0)
			return NULL;
	}
	if (!copy || vm_spec_check(spec, &cli->error) < 0) {
		qmp_error_wrap(&cli->error, "\"%s\"", text);
		return NULL;
	}
	item = item_of(spec, "disks");
	return json_incref(json_object_get(item, "tls"));
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
	char *rest = copy;

	if (*text == '{')
		return parse_json_item(cli, text);
	if (!copy) {
		qmp_error_errno(&cli->error, -ENOMEM, "reading \"%s\"", text);
		return NULL;
	}
	item = item_of(spec, "nics");
	for (char *word; (word = next_word(&rest));) {
		char *equals = strchr(word, '=');
		int r;
		if (!*word)
			continue;
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

