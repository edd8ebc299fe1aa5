#include "images/catalogue.h"
#include "images/chain.h"
#include "images/header.h"
#include "launcher/location.h"
#include "launcher/pool.h"
#include "launcher/spec.h"
#include "launcher/vm.h"
#include "proto/base.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

struct file_id {
	dev_t dev;
	ino_t ino;
};

struct image {
	char *path;
	struct file_id id;
	char format[16];
	uint64_t virtual_size, allocated;
	char *backing;          /* absolute; NULL: none */
	struct file_id below;   /* of BACKING; ino 0 and dev 0: it is not there */
};

struct use {
	char *vm, *disk, *path, *format;
	struct file_id id;
	bool runs, writes;
	int depth;
	json_t *access; /* what of the disk it takes to reach and to open it; {}: nothing */
};

struct img_catalogue {
	const struct vm_dirs *dirs;
	struct image *images;
	size_t n_images, images_room;
	struct use *uses;
	size_t n_uses, uses_room;
	char **folders;
	size_t n_folders;
	json_t *unknown;
};

/* ---- Files ---- */

/* FNV-1a. */
static uint64_t digest(uint64_t h, const void *data, size_t len)
{
	for (const unsigned char *p = data; len > 0; len--)
		h = (h ^ *p++) * 0x100000001b3;
	return h;
}

/*
 * What is no file is known by a digest of what it is the same by (launcher/location.h): no file's device is that large.
 */
static int id_of_url(const char *url, struct file_id *ret)
{
	struct { dev_t dev; ino_t ino; } at = {0};
	_cleanup_free_ char *name = NULL;
	struct vm_location l;
	const char *anchor;
	struct stat st;

	if (vm_location_parse(url, &l, NULL) < 0)
		return -ENOENT;
	name = vm_location_identity(&l, &anchor);
	if (name && anchor && stat(anchor, &st) == 0)
		at.dev = st.st_dev, at.ino = st.st_ino;
	vm_location_deinit(&l);
	if (!name)
		return -ENOENT;
	ret->dev = digest(digest(0xcbf29ce484222325, name, strlen(name)), &at, sizeof at) | (dev_t)1 << 63;
	ret->ino = digest(digest(0x84222325cbf29ce4, &at, sizeof at), name, strlen(name));
	return 0;
}

static int id_of(const char *path, struct file_id *ret, struct stat *ret_st)
{
	struct stat st;

	if (!vm_location_is_file(path))
		return ret_st ? -ENOENT : id_of_url(path, ret);
	if (stat(path, &st) < 0)
		return -errno;
	/* A block device has many nodes. */
	*ret = S_ISBLK(st.st_mode) ? (struct file_id){st.st_rdev, 0} : (struct file_id){st.st_dev, st.st_ino};
	if (ret_st)
		*ret_st = st;
	return 0;
}

static bool same(struct file_id a, struct file_id b)
{
	return a.dev == b.dev && a.ino == b.ino;
}

/* The next element of an array that grows, zeroed; NULL: no memory. */
static void *grow(void *list, size_t *n, size_t *room, size_t size)
{
	char *bytes = *(void **)list;

	if (*n == *room) {
		size_t more = *room ? 2 * *room : 16;
		bytes = realloc(bytes, more * size);
		if (!bytes)
			return NULL;
		*(void **)list = bytes;
		*room = more;
	}
	return memset(bytes + (*n)++ * size, 0, size);
}

static struct image *find_image(const struct img_catalogue *c, struct file_id id)
{
	for (size_t i = 0; i < c->n_images; i++)
		if (same(c->images[i].id, id))
			return &c->images[i];
	return NULL;
}

/*
 * PATH, unless it is known. FORMAT as a spec has it (it wins), or NULL: as its header looks; then RAW says whether one
 * that looks like none is wanted. What cannot be read is nobody's image. 1: it is new; 0: not.
 */
static int add_image(struct img_catalogue *c, const char *path, const char *format, bool raw)
{
	struct img_header h = {0};
	struct file_id id = {0};
	struct stat st;
	struct image *image;

	if (id_of(path, &id, &st) < 0 || !(S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)))
		return 0;
	image = find_image(c, id);
	if (!image && (img_header_read(path, &h, NULL) < 0 || (!format && !raw && streq(h.format, "raw"))))
		return 0;
	if (image || !(image = grow(&c->images, &c->n_images, &c->images_room, sizeof *image)))
		return image ? 0 : -ENOMEM;
	image->path = strdup(path);
	image->id = id;
	snprintf(image->format, sizeof image->format, "%s", format ? format : h.format);
	image->virtual_size = streq(image->format, h.format) ? h.virtual_size : 0;
	image->allocated = (uint64_t)st.st_blocks * 512;
	if (streq(image->format, "raw"))
		image->virtual_size = (uint64_t)st.st_size;
	if (streq(image->format, h.format) && h.has_backing)
		image->backing = img_backing_location(path, h.backing);
	if (image->backing)
		(void)id_of(image->backing, &image->below, NULL);
	return image->path ? 1 : -ENOMEM;
}

/* ---- VMs ---- */

/* Whether it is known already that DISK of VM opens this file. */
static bool has_use(const struct img_catalogue *c, const char *vm, const char *disk, struct file_id id)
{
	for (size_t i = 0; i < c->n_uses; i++)
		if (same(c->uses[i].id, id) && streq(c->uses[i].vm, vm) && streq(c->uses[i].disk, disk))
			return true;
	return false;
}

static int add_use(struct img_catalogue *c, const struct use *use)
{
	struct use *mine = grow(&c->uses, &c->n_uses, &c->uses_room, sizeof *mine);

	if (!mine)
		return -ENOMEM;
	*mine = *use;
	mine->vm = strdup(use->vm);
	mine->disk = strdup(use->disk);
	mine->path = strdup(use->path);
	mine->format = strdup(use->format);
	json_incref(mine->access);
	return mine->vm && mine->disk && mine->path && mine->format ? 0 : -ENOMEM;
}

static json_t *access_of(const json_t *image)
{
	static const char *const keys[] = {"tls", "password-file", "encryption"};
	json_t *access = json_object();

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (json_object_get(image, keys[i]))
			(void)json_object_set(access, keys[i], json_object_get(image, keys[i]));
	return access;
}

static int add_disk(struct img_catalogue *c, const char *vm, const json_t *disk, bool runs)
{
	const char *type = text_of(disk, "type"), *id = text_of(disk, "id");
	bool writes = !json_is_true(json_object_get(disk, "read-only")) && !(type && streq(type, "cdrom"));
	struct use use = {.vm = (char *)vm, .disk = (char *)(id ? id : "(new)"), .runs = runs};

	for (const json_t *image = disk; image; image = json_object_get(image, "backing"), use.depth++) {
		json_auto_t *access = access_of(image);
		use.access = access;
		use.path = (char *)text_of(image, "path");
		use.format = (char *)(text_of(image, "format") ? text_of(image, "format") : "raw");
		use.writes = writes && use.depth == 0;
		if (!use.path || id_of(use.path, &use.id, NULL) < 0 || has_use(c, vm, use.disk, use.id))
			continue;
		if (add_use(c, &use) < 0 || add_image(c, use.path, use.format, true) < 0)
			return -ENOMEM;
	}
	return 0;
}

/* POOLS: the definitions that it runs with; NULL: those that there are. */
static int add_spec(struct img_catalogue *c, const char *vm, const json_t *spec, const json_t *pools, bool runs)
{
	json_auto_t *located = NULL;
	json_t *disk;
	size_t i;

	/* A volume of a pool that is not there any more is nobody's. */
	if (spec && vm_pools_look(c->dirs, spec, pools, &located, NULL) < 0)
		return -ENOMEM;
	json_array_foreach(json_object_get(located, "disks"), i, disk)
		if (add_disk(c, vm, disk, runs) < 0)
			return -ENOMEM;
	return 0;
}

static int unknown(struct img_catalogue *c, const char *vm)
{
	json_t *name;
	size_t i;

	json_array_foreach(c->unknown, i, name)
		if (streq(json_string_value(name), vm))
			return 0;
	return json_array_append_new(c->unknown, json_string(vm)) < 0 ? -ENOMEM : 0;
}

/* The spec in a file of RUN, under KEY; gone meanwhile is fine. */
static int add_file(struct img_catalogue *c, const char *vm, int run, const char *file, const char *key)
{
	json_auto_t *record = vm_file_read_json(run, file);

	if (!record)
		return faccessat(run, file, F_OK, AT_SYMLINK_NOFOLLOW) == 0 ? unknown(c, vm) : 0;
	return add_spec(c, vm, json_object_get(record, key), json_object_get(json_object_get(record, "host"), "pools"), true);
}

/* A change that is under way, in its keeper's journal. */
static int add_journal(struct img_catalogue *c, const char *vm, int run)
{
	json_auto_t *journal = vm_file_read_json(run, VM_JOURNAL);
	json_t *entry;
	size_t i;
	int r = 0;

	json_array_foreach(json_object_get(journal, "entries"), i, entry)
	{
		r = add_spec(c, vm, json_object_get(entry, "want"), NULL, true);
		if (r == 0)
			r = add_spec(c, vm, json_object_get(entry, "config"), NULL, false);
		if (r < 0)
			break;
	}
	return r;
}

/* Those that run come first: so a use that is found twice is told as it runs. */
static int add_running(void *data, const char *vm, int run, struct qmp_error *err)
{
	struct img_catalogue *c = data;
	int r;

	UNUSED(err);
	if (run < 0)
		return unknown(c, vm);
	r = add_file(c, vm, run, VM_RUNNING_FILE, "spec");
	return r < 0 ? r : add_journal(c, vm, run);
}

static int add_defined(struct img_catalogue *c, int folder, const char *vm)
{
	_cleanup_free_ char *file = qmp_asprintf("%s.json", vm);
	json_auto_t *spec = file ? vm_file_read_json(folder, file) : NULL;

	if (!file)
		return -ENOMEM;
	if (!spec)
		return faccessat(folder, file, F_OK, AT_SYMLINK_NOFOLLOW) == 0 ? unknown(c, vm) : 0;
	return add_spec(c, vm, spec, NULL, false);
}

static int add_all_defined(struct img_catalogue *c, const struct vm_dirs *dirs, struct qmp_error *err)
{
	_cleanup_free_ char *path = qmp_asprintf("%s/vms", dirs->conf);
	DIR *folder = path ? opendir(path) : NULL;
	const struct dirent *entry;
	int r = path ? 0 : -ENOMEM;

	if (!folder)
		return !path || errno != ENOENT
			   ? qmp_error_errno(err, path ? -errno : r, "looking through %s/vms", dirs->conf)
			   : 0;
	while (r == 0 && (entry = readdir(folder))) {
		size_t n = strlen(entry->d_name);
		_cleanup_free_ char *vm =
		    n > 5 && streq(entry->d_name + n - 5, ".json") ? strndup(entry->d_name, n - 5) : NULL;
		if (vm && vm_name_valid(vm))
			r = add_defined(c, dirfd(folder), vm);
	}
	(void)closedir(folder);
	return r;
}

/* ---- Folders ---- */

static bool knows_folder(const struct img_catalogue *c, const char *folder)
{
	for (size_t i = 0; i < c->n_folders; i++)
		if (streq(c->folders[i], folder))
			return true;
	return false;
}

static int note_folder(struct img_catalogue *c, const char *folder)
{
	char **folders = realloc(c->folders, (c->n_folders + 1) * sizeof *folders);
	char *copy = folders ? strdup(folder) : NULL;

	if (folders)
		c->folders = folders;
	if (!copy)
		return -ENOMEM;
	c->folders[c->n_folders++] = copy;
	return 0;
}

/* What is hidden is being made, or is nobody's business. */
static int scan(struct img_catalogue *c, const char *folder, bool raw)
{
	DIR *d = opendir(folder);
	const struct dirent *entry;
	int r = d || (errno != EMFILE && errno != ENFILE && errno != ENOMEM) ? 0 : -errno;

	while (d && r >= 0 && (entry = readdir(d))) {
		_cleanup_free_ char *path =
		    *entry->d_name == '.' ? NULL
					  : qmp_asprintf("%s/%s", streq(folder, "/") ? "" : folder, entry->d_name);
		/* No opening of what is no file; a symlink's target is asked for. */
		if (path && (entry->d_type == DT_REG || entry->d_type == DT_LNK || entry->d_type == DT_UNKNOWN))
			r = add_image(c, path, NULL, raw);
	}
	if (d)
		(void)closedir(d);
	return r < 0 ? r : 0;
}

int img_catalogue_add_folder(struct img_catalogue *c, const char *folder, bool raw, struct qmp_error *err)
{
	if (knows_folder(c, folder) && !raw)
		return 0;
	int r = note_folder(c, folder);

	if (r == 0)
		r = scan(c, folder, raw);
	return r < 0 ? qmp_error_errno(err, r, "looking through %s", folder) : 0;
}

static int add_folder_of(struct img_catalogue *c, const char *path, struct qmp_error *err)
{
	const char *slash = strrchr(path, '/');
	_cleanup_free_ char *folder = slash == path ? strdup("/")
				      : slash       ? strndup(path, (size_t)(slash - path))
						    : NULL;

	return folder ? img_catalogue_add_folder(c, folder, false, err) : 0;
}

int img_catalogue_add(struct img_catalogue *c, const char *path, struct qmp_error *err)
{
	_cleanup_free_ char *next = strdup(path);
	struct file_id id = {0};

	for (int depth = 0; next && depth < IMG_CHAIN_MAX; depth++) {
		_cleanup_free_ char *at = take_ptr(next);
		const struct image *image;
		if (add_image(c, at, NULL, true) < 0 || add_folder_of(c, at, err) < 0)
			return qmp_error_errno(err, -ENOMEM, "looking at %s", path);
		image = id_of(at, &id, NULL) == 0 ? find_image(c, id) : NULL;
		next = image && image->backing ? strdup(image->backing) : NULL;
	}
	return 0;
}

/* The folders of what is known so far; what is found there is not followed further. */
static int add_folders(struct img_catalogue *c, const struct vm_dirs *dirs, struct qmp_error *err)
{
	_cleanup_free_ char *own = qmp_asprintf("%s/images", dirs->state);
	size_t n = c->n_images;

	if (!own)
		return qmp_error_errno(err, -ENOMEM, "looking for images");
	for (size_t i = 0; i < n; i++)
		if (add_folder_of(c, c->images[i].path, err) < 0)
			return err ? err->code : -ENOMEM;
	return img_catalogue_add_folder(c, own, true, err);
}

int img_catalogue_read(const struct vm_dirs *dirs, struct img_catalogue **ret, struct qmp_error *err)
{
	struct img_catalogue *c = calloc(1, sizeof *c);
	int r = c && (c->unknown = json_array()) ? 0 : -ENOMEM;

	if (r == 0) {
		c->dirs = dirs;
		r = vm_each_running(dirs, add_running, c, err);
	}
	if (r == 0)
		r = add_all_defined(c, dirs, err);
	if (r == 0)
		r = add_folders(c, dirs, err);
	if (r < 0) {
		img_catalogue_free(c);
		return qmp_error_errno(err, r, "looking who has which image");
	}
	*ret = c;
	return 0;
}

void img_catalogue_free(struct img_catalogue *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < c->n_images; i++) {
		free(c->images[i].path);
		free(c->images[i].backing);
	}
	for (size_t i = 0; i < c->n_uses; i++) {
		free(c->uses[i].vm);
		free(c->uses[i].disk);
		free(c->uses[i].path);
		free(c->uses[i].format);
		json_decref(c->uses[i].access);
	}
	for (size_t i = 0; i < c->n_folders; i++)
		free(c->folders[i]);
	free(c->images);
	free(c->uses);
	free(c->folders);
	json_decref(c->unknown);
	free(c);
}

void img_catalogue_cleanup(struct img_catalogue **c)
{
	img_catalogue_free(*c);
}

/* ---- Answers ---- */

static int by_vm(const void *a, const void *b)
{
	const struct use *x = *(const struct use *const *)a, *y = *(const struct use *const *)b;
	int r = strcmp(x->vm, y->vm);

	return r ? r : strcmp(x->disk, y->disk);
}

static json_t *users_of(const struct img_catalogue *c, struct file_id id)
{
	const struct use **found = calloc(c->n_uses + 1, sizeof *found);
	json_t *list = found ? json_array() : NULL;
	size_t n = 0;

	for (size_t i = 0; found && i < c->n_uses; i++)
		if (same(c->uses[i].id, id))
			found[n++] = &c->uses[i];
	if (n > 0)
		qsort(found, n, sizeof *found, by_vm);
	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:b, s:i, s:s, s:s}", "vm", found[i]->vm, "disk",
						      found[i]->disk, "state", found[i]->runs ? "running" : "defined",
						      "writes", found[i]->writes, "depth", found[i]->depth, "path",
						      found[i]->path, "format", found[i]->format));
	free(found);
	return list;
}

json_t *img_catalogue_users(const struct img_catalogue *c, const char *path)
{
	struct file_id id = {0};

	return id_of(path, &id, NULL) < 0 ? json_array() : users_of(c, id);
}

const json_t *img_catalogue_access(const struct img_catalogue *c, const char *path)
{
	struct file_id id = {0};

	for (size_t i = 0; id_of(path, &id, NULL) == 0 && i < c->n_uses; i++)
		if (same(c->uses[i].id, id) && json_object_size(c->uses[i].access) > 0)
			return c->uses[i].access;
	return NULL;
}

static int by_path(const void *a, const void *b)
{
	return strcmp((*(const struct image *const *)a)->path, (*(const struct image *const *)b)->path);
}

/* All images by path; new, to be freed. */
static const struct image **sorted(const struct img_catalogue *c)
{
	const struct image **list = calloc(c->n_images + 1, sizeof *list);

	for (size_t i = 0; list && i < c->n_images; i++)
		list[i] = &c->images[i];
	if (list && c->n_images > 0)
		qsort(list, c->n_images, sizeof *list, by_path);
	return list;
}

json_t *img_catalogue_overlays(const struct img_catalogue *c, const char *path, bool all)
{
	const struct image **images = sorted(c);
	bool *found = calloc(c->n_images + 1, sizeof *found), more = true;
	json_t *list = images && found ? json_array() : NULL;
	struct file_id id = {0};

	if (!list || id_of(path, &id, NULL) < 0)
		more = false;
	while (more) {
		more = false;
		for (size_t i = 0; i < c->n_images; i++) {
			bool above = false;
			if (found[i] || !images[i]->backing)
				continue;
			above = same(images[i]->below, id);
			for (size_t k = 0; all && !above && k < c->n_images; k++)
				above = found[k] && same(images[i]->below, images[k]->id);
			found[i] = above;
			more |= above && all;
		}
	}
	for (size_t i = 0; list && i < c->n_images; i++)
		if (found[i] && !same(images[i]->id, id))
			json_array_append_new(
			    list, json_pack("{s:s, s:s}", "path", images[i]->path, "format", images[i]->format));
	free(images);
	free(found);
	return list;
}

json_t *img_catalogue_images(const struct img_catalogue *c)
{
	const struct image **images = sorted(c);
	json_t *list = images ? json_array() : NULL;

	for (size_t i = 0; list && i < c->n_images; i++)
		json_array_append_new(list,
				      json_pack("{s:s, s:s, s:I, s:I, s:s*, s:o}", "path", images[i]->path, "format",
						images[i]->format, "virtual-size", (json_int_t)images[i]->virtual_size,
						"allocated", (json_int_t)images[i]->allocated, "backing",
						images[i]->backing, "users", users_of(c, images[i]->id)));
	free(images);
	return list;
}

const json_t *img_catalogue_unknown(const struct img_catalogue *c)
{
	return c->unknown;
}

/* ---- For people ---- */

#define NAMES_MAX 5

static char *append(char *text_consume, const char *more)
{
	_cleanup_free_ char *text = text_consume;

	return text ? qmp_asprintf("%s, %s", text, more) : strdup(more);
}

char *img_catalogue_names(const json_t *users, const json_t *overlays, int *ret_many)
{
	char *text = NULL;
	json_t *item;
	size_t i;
	int n = 0;

	json_array_foreach(users, i, item)
	{
		_cleanup_free_ char *name = qmp_asprintf("the VM %s (%s, disks.%s)", text_of(item, "vm"),
							 text_of(item, "state"), text_of(item, "disk"));
		if (n++ < NAMES_MAX && name)
			text = append(text, name);
	}
	json_array_foreach(overlays, i, item)
	{
		_cleanup_free_ char *name = qmp_asprintf("the overlay %s", text_of(item, "path"));
		if (n++ < NAMES_MAX && name)
			text = append(text, name);
	}
	if (n > NAMES_MAX && text) {
		_cleanup_free_ char *rest = qmp_asprintf("and %d more", n - NAMES_MAX);
		text = rest ? append(text, rest) : text;
	}
	if (ret_many)
		*ret_many = n > 0 && !text ? -1 : n;
	return text;
}
