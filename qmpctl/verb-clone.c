/*
 * clone: a VM like another, with images of its own.
 *
 * A linked clone, the order of what happens: both get overlays on the present images (noted in images/made.h) -> the source's
 * spec has its own -> the bases are write-protected -> the clone's spec is there. Whoever is killed in between leaves a source
 * that goes on as it was, at most on a new, empty overlay, and no clone.
 */
#include "qmpctl/image.h"
#include "qmpctl/keeper.h"
#include "qmpctl/progress.h"
#include "qmpctl/verb.h"
#include "qmpctl/words.h"
#include "images/catalogue.h"
#include "images/clone.h"
#include "images/copy.h"
#include "images/header.h"
#include "images/made.h"
#include "images/overlay.h"
#include "images/seed.h"
#include "launcher/firmware.h"
#include "launcher/location.h"
#include "launcher/pool.h"
#include "launcher/spec.h"
#include "launcher/vm.h"
#include "proto/base.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#define LOCK_WAIT_S 300

struct clone {
	struct cli *cli;
	struct vm *vm;      /* the source, ours meanwhile */
	const char *name;   /* of the clone */
	bool linked;
	json_t *pools;
	json_t *spec;       /* the clone's */
	json_t *source;     /* the source's new spec; NULL: it stays as it is */
	json_t *bases;      /* paths that are to be protected */
	json_t *notes;
	struct img_catalogue *catalogue; /* read when it is first wanted */
	bool source_is_saved;
	struct image_like like; /* of the image that is made */
	/* The disk that is cloned now: the pool that it is in (NULL: none), and, where that pool's own tools made it, its volume. */
	const char *pool;
	struct img_volume volume;
	char pool_name[VM_POOL_NAME_MAX + 1];
	/* The image that is made of it: an overlay of SIZE (0: BASE's) on BASE, or (BASE NULL) a copy of DISK. */
	const json_t *base, *disk;
	uint64_t size;
	struct progress bar;
};

static bool is_shared(const json_t *disk)
{
	const char *type = text_of(disk, "type");

	return !text_of(disk, "path") || json_is_true(json_object_get(disk, "read-only")) || (type && streq(type, "cdrom"));
}

static bool is_encrypted(const json_t *disk)
{
	for (; disk; disk = json_object_get(disk, "backing"))
		if (json_object_get(disk, "encryption"))
			return true;
	return false;
}

static const char *id_of(const json_t *disk)
{
	return text_of(disk, "id") ? text_of(disk, "id") : "?";
}

/* ---- Making an image ---- */

static void on_copy(void *data, uint64_t done, uint64_t total)
{
	struct clone *c = data;

	progress_update(&c->bar, done, total);
}

static void on_convert(void *data, double part)
{
	on_copy(data, (uint64_t)(part * 10000), 10000);
}

/* DISK, located, in one file: a copy of it, or what its chain amounts to. */
static int copy_to(struct clone *c, const json_t *disk, const char *path)
{
	struct img_target target = {.path = path, .format = text_of(disk, "format")};
	struct img_copy_options copy = {.from = text_of(disk, "path"), .to = path, .whole = image_whole_like, .whole_data = &c->like,
					.progress = on_copy, .data = c};
	struct img_task *task;
	struct stat st;
	int r;

	if (!json_object_get(disk, "backing") && stat(copy.from, &st) == 0 && S_ISREG(st.st_mode)) {
		progress_begin(&c->bar, c->cli, "copying", "B");
		r = img_copy_call(c->cli->loop, &copy, NULL, &c->cli->error);
	} else {
		progress_begin(&c->bar, c->cli, "copying", NULL);
		r = img_convert(disk, NULL, &target, false, false, &task, &c->cli->error);
		if (r == 0) {
			img_task_before_naming(task, image_whole_like, &c->like);
			r = img_task_call(c->cli->loop, task, on_convert, c, NULL, &c->cli->error);
		}
	}
	progress_end(&c->bar);
	return r;
}

static int overlay_to(struct clone *c, const char *path)
{
	struct img_target target = {.path = path, .format = "qcow2", .backing = c->base};
	struct img_task *task;
	int r = img_overlay_make(path, c->base, c->size, image_whole_like, &c->like, &c->cli->error);

	if (r != -EOPNOTSUPP)
		return r;
	r = img_create(&target, c->size, &task, &c->cli->error);
	if (r < 0)
		return r;
	img_task_before_naming(task, image_whole_like, &c->like);
	return img_task_call(c->cli->loop, task, NULL, NULL, NULL, &c->cli->error);
}

/* Whether the pool's clone of the disk is what is wanted: linked, or one that needs nothing else. */
static bool is_pools_clone(const struct clone *c)
{
	const struct img_pool_type *type = c->volume.pool.type;

	return c->linked || (type->clone && type->clones_are_free && !json_object_get(c->disk, "backing"));
}

/* An image_make_cb. */
static int make_image(void *data, struct img_volume *v, const char *path)
{
	struct clone *c = data;
	json_auto_t *bytes = json_pack("{s:s, s:s}", "path", text_of(c->disk, "path"), "format", "raw");

	images_note_volume(c->cli, &c->volume);
	if (v && is_pools_clone(c))
		return img_volume_clone(&c->volume, v->location, &c->cli->error);
	/* Byte for byte, too, unless a chain becomes one. */
	if (v)
		return image_to_volume(c->cli, json_object_get(c->disk, "backing") ? c->disk : bytes, NULL, v, 0);
	return c->base ? overlay_to(c, path) : copy_to(c, c->disk, path);
}

/* Where the disk is: in its pool, else in STATEDIR/images; RET, its location, is new. */
static int place_image(struct clone *c, const char *vm, char **ret)
{
	return images_place(c->cli, vm, c->pool, c->base ? "qcow2" : text_of(c->disk, "format"), make_image, c, ret);
}

/* ---- A disk ---- */

/* {"path", "format", "backing"?} of a disk, as a backing has it. */
static json_t *as_backing(const json_t *disk)
{
	static const char *const keys[] = {"path", "format", "tls", "backing"};
	json_t *base = json_object();

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (json_object_get(disk, keys[i]))
			json_object_set(base, keys[i], json_object_get(disk, keys[i]));
	return base;
}

/* DISK of a spec has the image PATH, on BASE (NULL: none). */
static int give(json_t *disk, const char *path, const char *format, json_t *base)
{
	int r = json_object_set_new(disk, "path", json_string(path));

	if (r == 0)
		r = json_object_set_new(disk, "format", json_string(format));
	if (base)
		return r < 0 ? r : json_object_set(disk, "backing", base);
	json_object_del(disk, "backing");
	return r;
}

/* Another VM that writes to what is to be a base, or to what is to be copied, now. */
static int refuse_other_writers(struct clone *c, const json_t *located, bool running_alone)
{
	json_auto_t *users = NULL, *those = json_array();
	_cleanup_free_ char *names = NULL;
	json_t *user;
	size_t i;
	int many;

	if (!c->catalogue && img_catalogue_read(&c->cli->dirs, &c->catalogue, &c->cli->error) < 0)
		return c->cli->error.code;
	users = img_catalogue_users(c->catalogue, text_of(located, "path"));
	json_array_foreach(users, i, user)
		if (json_is_true(json_object_get(user, "writes")) && !streq(text_of(user, "vm"), c->vm->name) &&
		    (!running_alone || streq(text_of(user, "state"), "running")))
			json_array_append(those, user);
	names = img_catalogue_names(those, NULL, &many);
	return many == 0 ? 0 : qmp_error_set(&c->cli->error, QMP_ERR_STATE, -EBUSY, "disks.%s: %s is written to by %s, too%s",
					     id_of(located), text_of(located, "path"), names ? names : "others",
					     running_alone ? "; stop it first" : "; --full makes a copy of its own");
}

static int refuse_disk(struct clone *c, const json_t *located)
{
	const char *path = text_of(located, "path");
	struct stat st;

	if (c->volume.location)
		return refuse_other_writers(c, located, true);
	if (!vm_location_is_file(path))
		return qmp_error_set(&c->cli->error, QMP_ERR_UNSUPPORTED, -ENOTSUP,
				     "disks.%s: %s is on a server that makes no clones for qmpctl: only those of a pool of Ceph can. Copy it there "
				     "by the server's own tools, and define the clone by its spec (show, create --spec); or have it here (image "
				     "convert, and set its path)",
				     id_of(located), path);
	if (stat(path, &st) < 0)
		return qmp_error_errno(&c->cli->error, -errno, "disks.%s: %s", id_of(located), path);
	if (c->linked && !S_ISREG(st.st_mode))
		return qmp_error_set(&c->cli->error, QMP_ERR_UNSUPPORTED, -ENOTSUP,
				     "disks.%s: %s is a device, which cannot be protected as a base; --full copies it, and a volume of a pool of "
				     "LVM or ZFS is cloned by that, where the spec names it POOL:VOLUME", id_of(located), path);
	if (is_encrypted(located) && (c->linked || json_object_get(located, "backing")))
		return qmp_error_set(&c->cli->error, QMP_ERR_UNSUPPORTED, -ENOTSUP,
				     "disks.%s: %s is encrypted: %s", id_of(located), path,
				     c->linked ? "what is written to an overlay on it would not be; --full copies it as it is" :
						 "its chain cannot be made one without being decrypted");
	return refuse_other_writers(c, located, !c->linked);
}

/* MINE and THEIRS: the disk in the clone's spec and in the source's new one; C->disk: as it is now. */
static int link_disk(struct clone *c, json_t *mine, json_t *theirs)
{
	const char *path = text_of(c->disk, "path");
	bool empty = streq(text_of(c->disk, "format"), "qcow2") && json_object_get(c->disk, "backing") &&
		     img_overlay_is_empty(path);
	json_auto_t *base = empty ? json_incref(json_object_get(c->disk, "backing")) : as_backing(c->disk);
	json_auto_t *words = empty ? json_incref(json_object_get(theirs, "backing")) : as_backing(theirs);
	_cleanup_free_ char *overlay = NULL, *own = NULL;
	struct img_header h = {0};
	int r = base && words ? 0 : qmp_error_errno(&c->cli->error, -ENOMEM, "cloning");

	if (r == 0 && empty)
		r = img_header_read(path, &h, &c->cli->error);
	c->base = base;
	c->size = h.virtual_size;
	if (r == 0)
		r = place_image(c, c->name, &overlay);
	c->size = 0;
	if (r == 0 && !empty)
		r = place_image(c, c->vm->name, &own);
	c->base = NULL;
	if (r < 0)
		return r;
	json_array_append_new(c->bases, json_string(text_of(base, "path")));
	if (give(mine, overlay, "qcow2", words) < 0 || (own && give(theirs, own, "qcow2", words) < 0))
		return qmp_error_errno(&c->cli->error, -ENOMEM, "cloning");
	return own ? 1 : 0;
}

static int copy_disk(struct clone *c, json_t *mine)
{
	bool flat = c->volume.location && json_object_get(c->disk, "backing");
	_cleanup_free_ char *location = NULL;
	int r = place_image(c, c->name, &location);

	if (r == 0 && give(mine, location, flat ? "raw" : text_of(c->disk, "format"), NULL) < 0)
		r = qmp_error_errno(&c->cli->error, -ENOMEM, "cloning");
	return r;
}

/* The pool's own clone: it can be written to, and what it is of as before; what that is backed by is the clone's, too. */
static int link_volume(struct clone *c, json_t *mine)
{
	_cleanup_free_ char *location = NULL;
	int r = place_image(c, c->name, &location);

	if (r == 0 && json_object_set_new(mine, "path", json_string(location)) < 0)
		r = qmp_error_errno(&c->cli->error, -ENOMEM, "cloning");
	return r;
}

static void leave_disk(struct clone *c)
{
	img_volume_close(&c->volume);
	c->pool = NULL;
	c->disk = NULL;
}

/* DISK is the one that is cloned now: as the spec has it, and LOCATED. Its volume is none where its pool cannot make any. */
static int enter_disk(struct clone *c, const json_t *disk, const json_t *located)
{
	const char *words = text_of(disk, "path");
	int r;

	leave_disk(c);
	c->disk = located;
	if (vm_location_looks(words) != VM_VOLUME || !vm_pool_volume(words, c->pool_name))
		return 0;
	r = img_volume_open(c->cli->loop, &c->cli->dirs, words, &c->volume, &c->cli->error);
	if (r < 0)
		return r;
	if (r > 0 && !c->volume.pool.type->clone)
		img_volume_close(&c->volume);
	else
		c->pool = c->pool_name;
	return 0;
}

static int clone_disks(struct clone *c)
{
	json_auto_t *located = NULL, *source = json_deep_copy(c->vm->spec);
	json_t *disks = json_object_get(c->spec, "disks"), *disk;
	bool changed = false;
	size_t i;
	int r = source ? 0 : qmp_error_errno(&c->cli->error, -ENOMEM, "cloning");

	if (r == 0)
		r = vm_pools_read(&c->cli->dirs, c->vm->spec, NULL, NULL, &c->pools, &c->cli->error);
	if (r == 0)
		r = vm_pools_locate_disks(c->pools, c->vm->spec, false, &located, &c->cli->error);
	json_array_foreach(json_object_get(located, "disks"), i, disk)
		if (r == 0 && !is_shared(disk) && (r = enter_disk(c, json_array_get(disks, i), disk)) == 0)
			r = refuse_disk(c, disk);
	json_array_foreach(json_object_get(located, "disks"), i, disk)
	{
		json_t *mine = json_array_get(disks, i);
		if (r < 0 || is_shared(disk) || (r = enter_disk(c, mine, disk)) < 0)
			continue;
		c->like = (struct image_like){c->cli, text_of(disk, "path")};
		r = !c->linked	        ? copy_disk(c, mine)
		    : c->volume.location ? link_volume(c, mine)
					 : link_disk(c, mine, json_array_get(json_object_get(source, "disks"), i));
		changed |= r > 0;
	}
	leave_disk(c);
	if (changed)
		c->source = take_ptr(source);
	return r < 0 ? r : 0;
}

/* ---- The whole ---- */

static int open_source(struct clone *c)
{
	struct timespec nap = {0, 20 * 1000 * 1000};
	int64_t end = vm_seconds() + LOCK_WAIT_S;
	struct cli *cli = c->cli;
	int r = verb_open_stopped(cli, &c->vm);

	/* Another clone of it, perhaps: that ends. A keeper of one that runs does not. */
	while (r == -EBUSY && !client_is_up(cli, cli->args[0]) && !client_qemu_lives(cli, cli->args[0]) && vm_seconds() < end) {
		nanosleep(&nap, NULL);
		cli->error = (struct qmp_error){0};
		r = verb_open_stopped(cli, &c->vm);
	}
	if (r != -EBUSY)
		return r;
	cli->error = (struct qmp_error){0};
	return qmp_error_set(&cli->error, QMP_ERR_STATE, -EBUSY,
			     "cloning %s: it is running, and its disks would change while they are cloned; nothing was changed. Stop it first "
			     "(qmpctl stop %s)", cli->args[0], cli->args[0]);
}

/* The folder of the specs, locked, in which there is no NAME yet. */
static int lock_specs(struct clone *c, const char *file)
{
	_cleanup_fd_ int dir = vm_dir_open(c->cli->dirs.conf, "vms", true, &c->cli->error);

	if (dir < 0)
		return dir;
	if (flock(dir, LOCK_EX) < 0)
		return qmp_error_errno(&c->cli->error, -errno, "locking the folder of the specs");
	if (faccessat(dir, file, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return qmp_error_set(&c->cli->error, QMP_ERR_EXISTS, -EEXIST,
				     "there is a VM named %s already; delete it first, or choose another name", c->name);
	return take_fd(&dir);
}

static int publish(struct clone *c, const char *file)
{
	struct qmp_error *err = &c->cli->error;
	_cleanup_fd_ int dir = -1;
	const json_t *path;
	size_t i;

	if (vm_spec_check(c->spec, err) < 0 || vm_spec_complete(c->spec, err) < 0)
		return err->code;
	if (img_seed_attach(&c->cli->dirs, NULL, c->spec) < 0)
		return qmp_error_errno(err, -ENOMEM, "the seed of %s", c->name);
	if (c->source) {
		int r = vm_save_spec(c->vm, c->source, err);
		c->source_is_saved = true; /* or is it? */
		if (r < 0)
			return r;
	}
	json_array_foreach(c->bases, i, path)
		if (img_protect(json_string_value(path), err) < 0)
			return err->code;
	dir = lock_specs(c, file);
	return dir < 0 ? dir : vm_file_make_json(dir, file, c->spec, err);
}

static int run(struct clone *c)
{
	_cleanup_free_ char *file = qmp_asprintf("%s.json", c->name);
	struct qmp_error *err = &c->cli->error;
	int r, dir;

	if (!file)
		return qmp_error_errno(err, -ENOMEM, "cloning");
	dir = lock_specs(c, file);
	if (dir < 0)
		return dir;
	(void)close(dir);
	r = open_source(c);
	if (r == 0)
		r = img_clone_spec(c->vm->spec, c->name, &c->spec, &c->notes, err);
	if (r == 0)
		r = images_begin(c->cli, c->name);
	if (r == 0)
		r = clone_disks(c);
	if (r == 0)
		r = image_copy_variables(c->cli, c->vm->name, c->name);
	if (r == 0)
		r = publish(c, file);
	if (r == 0)
		images_keep(c->cli);
	else if (!c->source_is_saved)
		images_undo(c->cli);
	else
		img_made_leave(&c->cli->made); /* what is the source's stays; the rest is settled */
	return r;
}

static int print(const struct clone *c)
{
	const json_t *note;
	size_t i;

	if (c->cli->json) {
		cli_print_json(c->spec);
		return 0;
	}
	json_array_foreach(c->notes, i, note)
		fprintf(stderr, "%s\n", json_string_value(note));
	if (c->source)
		fprintf(stderr, "%s goes on on overlays of its own: what both stand on is write-protected\n", c->vm->name);
	printf("%s is a %s clone of %s\n", c->name, c->linked ? "linked" : "full", c->vm->name);
	return 0;
}

static int run_clone(struct cli *cli)
{
	struct clone c = {.cli = cli, .name = cli->args[1], .linked = cli_option(cli, "linked") != NULL, .bases = json_array()};
	int status;

	if (c.linked && cli_option(cli, "full"))
		qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "clone: --linked, or --full");
	else if (!vm_name_valid(c.name))
		qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL,
			      "\"%s\" is no name for a VM: letters, digits, . _ - (64 at most), a letter or digit first", c.name);
	else
		(void)run(&c);
	if (cli->error.kind == QMP_ERR_NONE)
		status = print(&c);
	else
		status = cli_fail(cli);
	if (c.source_is_saved && status != EXIT_OK)
		images_settle(cli);
	if (c.vm)
		vm_close(c.vm);
	img_catalogue_free(c.catalogue);
	json_decref(c.pools);
	json_decref(c.spec);
	json_decref(c.source);
	json_decref(c.bases);
	json_decref(c.notes);
	return status;
}

const struct verb verb_clone = {
	.name = "clone",
	.group = GROUP_SPEC,
	.args = {{"NAME", .kind = ARG_VM}, {"NEW"}},
	.summary = "Make another VM like a stopped one, with images, uuid and MACs of its own",
	.notes = "--full (default) copies the images, sharing blocks where the file system can. --linked makes overlays in "
		 "milliseconds, whatever the size: what the images have now becomes the base of both VMs, is write-protected, and "
		 "stays as long as one of them is wanted. A disk in a pool has its clone there; one of LVM, ZFS, Ceph or a Btrfs subvolume is "
		 "cloned by the pool itself.",
	.options = (const struct cli_option[]){
		{"linked", NULL, "overlays on the present images, for both VMs"},
		{"full", NULL, "copies (default)"},
		{0},
	},
	.settles = true,
	.run = run_clone,
};
