/*
 * image resize, check, commit, rebase, bitmap, snapshot; disk resize: what changes images. One that a VM runs with is
 * changed by that VM's QEMU, or not at all.
 */
#include "qmpctl/image.h"
#include "qmpctl/progress.h"
#include "qmpctl/words.h"
#include "images/chain.h"
#include "launcher/spec.h"
#include "proto/base.h"

#include <time.h>

/* For writing: nobody may have it while it runs. */
static int find_to_change(struct cli *cli, const char *doing, bool alone, struct found *ret)
{
	int r = image_find(cli, cli->args[0], cli_option(cli, "from"), IMAGE_ITS_OWN, alone, ret);

	return r < 0 ? r : image_refuse_running(cli, ret, false, doing);
}

/* ---- resize ---- */

/* "20G", or "+5G" with what it has now. */
static int new_size(struct cli *cli, const char *text, uint64_t now, uint64_t *ret)
{
	bool more = *text == '+';
	int r = parse_size(cli, "", text + more, ret);

	if (r == 0 && more && *ret > IMG_SIZE_MAX)
		r = qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "%s is too much", text);
	*ret += more ? now : 0;
	*ret = (*ret + 511) & ~(uint64_t)511;
	return r;
}

/* Of the running VM that has it as a disk; NULL: none. Borrowed from F. */
static const json_t *running_user(const struct found *f)
{
	json_t *user;
	size_t i;

	json_array_foreach(f->users, i, user)
		if (streq(text_of(user, "state"), "running") && int_of(user, "depth") == 0)
			return user;
	return NULL;
}

static int may_shrink(struct cli *cli, const struct found *f, uint64_t now, uint64_t size)
{
	if (!cli_option(cli, "shrink"))
		return qmp_error_set(
		    &cli->error, QMP_ERR_STATE, -EBUSY,
		    "%s has %llu bytes, more than %llu: what is behind them would be lost; --shrink does it all the "
		    "same; nothing was changed",
		    f->path, (unsigned long long)now, (unsigned long long)size);
	return image_refuse_hurt(cli, f, NULL, f->overlays, "others are backed by it, and would lose what is cut off");
}

/* The device first: QEMU only looks how large it is. */
static int resize_volume(struct cli *cli, struct found *f, uint64_t now, uint64_t *size)
{
	int r = *size < now ? image_refuse_running(cli, f, false, "shrinking it") : 0;

	if (r == 0)
		r = img_volume_resize(&f->volume, *size, cli_option(cli, "shrink") != NULL, &cli->error);
	return r < 0 ? r : img_volume_size(&f->volume, size, &cli->error);
}

static int resize(struct cli *cli, struct found *f, const char *text, json_t **ret)
{
	const json_t *user = running_user(f);
	uint64_t now, size;
	struct img_task *task;
	int r = image_size_now(cli, f, &now);

	if (r == 0)
		r = new_size(cli, text, now, &size);
	if (r == 0 && size < now)
		r = may_shrink(cli, f, now, size);
	if (r == 0 && f->is_volume)
		r = resize_volume(cli, f, now, &size);
	if (r < 0)
		return r;
	if (user)
		return client_call(cli, text_of(user, "vm"), "qmpctl-disk-resize",
				   json_pack("{s:s, s:I, s:b}", "id", text_of(user, "disk"), "size", (json_int_t)size,
					     "shrink", cli_option(cli, "shrink") != NULL),
				   ret);
	r = image_refuse_running(cli, f, false, "resizing it");
	if (r == 0 && !f->is_volume)
		r = img_resize(f->image, size, size < now, &task, &cli->error);
	if (r == 0 && !f->is_volume)
		r = image_run(cli, task, "resizing", 0, NULL);
	if (r == 0)
		*ret =
		    json_pack("{s:s, s:I, s:I}", "path", f->path, "size", (json_int_t)size, "before", (json_int_t)now);
	return r;
}

static int resize_and_tell(struct cli *cli, struct found *f, const char *text)
{
	json_auto_t *result = NULL;

	if (resize(cli, f, text, &result) < 0)
		return cli_fail(cli);
	if (cli->json)
		cli_print_json(result);
	else
		printf("%lld\n", (long long)int_of(result, "size"));
	return 0;
}

static int run_image_resize(struct cli *cli)
{
	_cleanup_found_ struct found f = {0};

	if (image_find(cli, cli->args[0], cli_option(cli, "from"), IMAGE_ITS_OWN, false, &f) < 0)
		return cli_fail(cli);
	return resize_and_tell(cli, &f, cli->args[1]);
}

#define FROM                                                                                                         \
	{"from", "FORMAT", "its format (default: as a VM has it, else as its header looks)", .kind = ARG_CHOICE,     \
	 .choices = IMAGE_FORMATS},                                                                                  \
	IMAGE_ACCESS

const struct verb verb_image_resize = {
	.name = "image resize",
	.group = GROUP_IMAGE,
	.args = {{"IMAGE", .kind = ARG_PATH}, {"SIZE"}},
	.summary = "Give an image another size",
	.notes = "SIZE as in 20G, or +5G: so much more. Where a VM runs with it, its guest sees the new size at once. Prints the "
		 "bytes that it has then.",
	.options = (const struct cli_option[]){
		{"shrink", NULL, "also smaller: what is behind the new end is lost"},
		FROM,
		{"force", NULL, "shrink it also where overlays are hurt"},
		{0},
	},
	.run = run_image_resize,
};

/* The image of the disk cli->args[1] of the VM cli->args[0], as it runs, else as its spec has it. */
static char *image_of_disk(struct cli *cli)
{
	json_auto_t *shown = NULL;
	const json_t *disk, *spec;

	if (client_call(cli, cli->args[0], "qmpctl-show", NULL, &shown) < 0)
		return NULL;
	spec = json_object_get(shown, "running") ? json_object_get(shown, "running") : json_object_get(shown, "spec");
	disk = vm_spec_find(spec, "disks", cli->args[1]);
	if (!disk || !text_of(disk, "path"))
		qmp_error_set(&cli->error, QMP_ERR_NOT_FOUND, -ENOENT, disk ? "disks.%s of %s is an empty drive" :
			      "there is no disk \"%s\" in the VM %s", cli->args[1], cli->args[0]);
	return disk && text_of(disk, "path") ? strdup(text_of(disk, "path")) : NULL;
}

static int run_disk_resize(struct cli *cli)
{
	_cleanup_free_ char *path = image_of_disk(cli);
	_cleanup_found_ struct found f = {0};

	if (!path || image_find(cli, path, NULL, IMAGE_ITS_OWN, false, &f) < 0)
		return cli_fail(cli);
	return resize_and_tell(cli, &f, cli->args[2]);
}

const struct verb verb_disk_resize = {
	.name = "disk resize",
	.alias = "blockresize",
	.group = GROUP_DEVICE,
	.args = {{"NAME", .kind = ARG_VM}, {"ID", .kind = ARG_DISK}, {"SIZE"}},
	.summary = "Give a disk another size; a running guest sees it at once",
	.notes = "SIZE as in 20G, or +5G: so much more. Prints the bytes that it has then.",
	.options = (const struct cli_option[]){
		{"shrink", NULL, "also smaller: what is behind the new end is lost"},
		{"force", NULL, "shrink it also where overlays are hurt"},
		{0},
	},
	.run = run_disk_resize,
};

/* ---- check ---- */

static int check(struct cli *cli, json_t **ret)
{
	_cleanup_found_ struct found f = {0};
	struct img_task *task;
	const char *repair = cli_option(cli, "repair");
	int r = image_find(cli, cli->args[0], cli_option(cli, "from"), IMAGE_ITS_OWN, false, &f);

	/* What is being written looks broken, and is not. */
	if (r == 0)
		r = image_refuse_running(cli, &f, !repair, repair ? "repairing it" : "checking it");
	if (r == 0)
		r = img_check(f.image, repair, false, &task, &cli->error);
	if (r == 0)
		r = image_run(cli, task, "checking", 0, ret);
	if (r == 0)
		json_object_set_new(*ret, "filename", json_string(f.path));
	return r;
}

static void print_count(const json_t *result, const char *key, const char *words)
{
	if (int_of(result, key) > 0)
		printf("%lld %s\n", (long long)int_of(result, key), words);
}

static int run_image_check(struct cli *cli)
{
	json_auto_t *result = NULL;
	bool bad;

	if (check(cli, &result) < 0)
		return cli_fail(cli);
	bad = int_of(result, "corruptions") > 0 || int_of(result, "check-errors") > 0;
	if (cli->json) {
		cli_print_json(result);
	} else {
		print_count(result, "corruptions-fixed", "errors repaired");
		print_count(result, "leaks-fixed", "leaked clusters freed");
		print_count(result, "corruptions", "errors: the image is damaged; --repair all tries to repair it");
		print_count(result, "check-errors", "parts could not be checked");
		print_count(result, "leaks",
			    "leaked clusters, which take room and do no harm; --repair leaks frees them");
		if (!bad && int_of(result, "leaks") == 0)
			printf("sound\n");
	}
	return bad ? EXIT_FAILED : 0;
}

const struct verb verb_image_check = {
	.name = "image check",
	.group = GROUP_IMAGE,
	.args = {{"IMAGE", .kind = ARG_PATH}},
	.summary = "Whether an image is sound; repair it",
	.notes = "Exit status 1 where it is damaged.",
	.options = (const struct cli_option[]){
		{"repair", "WHAT", "leaks: free what is lost; all: errors, too, as well as it can", .kind = ARG_CHOICE,
		 .choices = "leaks|all"},
		FROM,
		{0},
	},
	.run = run_image_check,
};

/* ---- commit ---- */

/* USERS and OVERLAYS of the base without those that see it through the overlay alone. */
static int others(const struct found *base, const struct found *over, json_t *users, json_t *overlays)
{
	json_t *item, *known;
	size_t i, k;

	json_array_foreach(base->users, i, item)
	{
		bool through = false;
		json_array_foreach(over->users, k, known)
			through |= streq(text_of(known, "vm"), text_of(item, "vm")) && streq(text_of(known, "disk"), text_of(item, "disk"));
		if (!through && json_array_append(users, item) < 0)
			return -ENOMEM;
	}
	json_array_foreach(base->overlays, i, item)
		if (!image_is_same(text_of(item, "path"), over->path) && json_array_append(overlays, item) < 0)
			return -ENOMEM;
	return 0;
}

static int commit(struct cli *cli)
{
	_cleanup_found_ struct found over = {0}, base = {0};
	json_auto_t *users = json_array(), *overlays = json_array();
	const json_t *below;
	struct img_task *task;
	int r = find_to_change(cli, "committing it", false, &over);

	if (r == 0)
		r = img_commit(over.image, &task, &cli->error);
	if (r < 0)
		return r;
	below = json_object_get(over.image, "backing");
	r = image_find(cli, text_of(below, "path"), text_of(below, "format"), NULL, true, &base);
	if (r == 0)
		r = image_refuse_running(cli, &base, false, "committing into it");
	if (r == 0 && others(&base, &over, users, overlays) < 0)
		r = qmp_error_errno(&cli->error, -ENOMEM, "looking who has %s", base.path);
	if (r == 0)
		r = image_refuse_hurt(cli, &base, users, overlays,
				      "others have it, and would see what is committed into it");
	if (r < 0) {
		img_task_free(task);
		return r;
	}
	return image_run(cli, task, "committing", over.size, NULL);
}

static int print_done(struct cli *cli, const char *what)
{
	if (cli->json) {
		json_auto_t *result = json_pack("{s:s, s:s}", "image", cli->args[0], "outcome", "done");
		cli_print_json(result);
	} else {
		printf("%s %s\n", cli->args[0], what);
	}
	return 0;
}

static int run_image_commit(struct cli *cli)
{
	return commit(cli) < 0 ? cli_fail(cli) : print_done(cli, "is committed, and empty");
}

const struct verb verb_image_commit = {
	.name = "image commit",
	.group = GROUP_IMAGE,
	.args = {{"OVERLAY", .kind = ARG_PATH}},
	.summary = "Write what an overlay has into what it is backed by",
	.options = (const struct cli_option[]){
		FROM,
		{"force", NULL, "also where other VMs or overlays have the base"},
		{0},
	},
	.run = run_image_commit,
};

/* ---- rebase ---- */

static int rebase(struct cli *cli)
{
	_cleanup_found_ struct found over = {0}, base = {0};
	bool unsafe = cli_option(cli, "unsafe"), flatten = cli_option(cli, "flatten");
	struct img_task *task;
	int r;

	if (flatten == (cli->n_args == 2))
		return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL,
				     "image rebase: either a BASE or --flatten is wanted");
	r = find_to_change(cli, "rebasing it", unsafe, &over);
	if (r == 0)
		r = image_refuse_hurt(cli, &over, over.users, NULL,
				      "the spec names what it is backed by, and is to name it anew, by set");
	if (r == 0 && !flatten)
		r = image_find(cli, cli->args[1], cli_option(cli, "backing-format"), &(const struct image_access){"backing-", ""}, false, &base);
	if (r == 0 && !flatten)
		r = image_refuse_running(cli, &base, true, "an overlay on it");
	for (const json_t *image = base.image; r == 0 && image; image = json_object_get(image, "backing"))
		if (image_is_same(text_of(image, "path"), over.path))
			r = qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "%s is backed by %s itself", base.path,
					  over.path);
	if (r == 0)
		r = img_rebase(over.image, base.image, unsafe, &task, &cli->error);
	if (r == 0)
		r = image_run(cli, task, "rebasing", over.size, NULL);
	return r < 0 || flatten ? r : image_note_overlay(cli, base.image, over.path);
}

static int run_image_rebase(struct cli *cli)
{
	return rebase(cli) < 0 ? cli_fail(cli)
			       : print_done(cli, cli_option(cli, "flatten") ? "is backed by nothing" : "is rebased");
}

const struct verb verb_image_rebase = {
	.name = "image rebase",
	.group = GROUP_IMAGE,
	.args = {{"OVERLAY", .kind = ARG_PATH}, {"BASE", .kind = ARG_PATH, .optional = true}},
	.summary = "Have an overlay backed by another image, or by none",
	.notes = "What a guest sees in it stays: what the new base has otherwise is copied into it.",
	.options = (const struct cli_option[]){
		{"flatten", NULL, "in place of BASE: by none; all is copied into it"},
		{"backing-format", "FORMAT", "BASE's format (default: as its header looks)", .kind = ARG_CHOICE, .choices = IMAGE_FORMATS},
		IMAGE_ACCESS_OF("backing-", "", "BASE"),
		{"unsafe", NULL, "write the new name alone: for a base that was moved, and is the same"},
		FROM,
		{"force", NULL, "also where the spec of a VM names the old one"},
		{0},
	},
	.run = run_image_rebase,
};

/* ---- bitmap, snapshot ---- */

static int bitmap(struct cli *cli)
{
	_cleanup_found_ struct found f = {0};
	const char *action = cli->args[1], *name = cli->args[2], *from = cli_option(cli, "merge-from"),
		   *text = cli_option(cli, "granularity");
	uint64_t granularity = 0;
	struct img_task *task;
	int r = 0;

	if (streq(action, "merge") != (from != NULL))
		return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL,
				     "image bitmap: --merge-from goes with merge, and merge with it");
	if (text)
		r = parse_size(cli, "--granularity ", text, &granularity);
	if (r == 0)
		r = find_to_change(cli, "changing its bitmaps", false, &f);
	if (r == 0)
		r = img_bitmap(f.image, action, name, from, granularity, &task, &cli->error);
	return r < 0 ? r : image_run(cli, task, "changing it", 0, NULL);
}

static int run_image_bitmap(struct cli *cli)
{
	return bitmap(cli) < 0 ? cli_fail(cli) : print_done(cli, "is changed");
}

const struct verb verb_image_bitmap = {
	.name = "image bitmap",
	.group = GROUP_IMAGE,
	.args = {{"IMAGE", .kind = ARG_PATH}, {"ACTION", .kind = ARG_CHOICE, .choices = "add|remove|clear|enable|disable|merge"}, {"BITMAP"}},
	.summary = "Add, remove or change a dirty bitmap of a stopped VM's image",
	.notes = "ACTION is add, remove, clear, enable, disable, or merge. \"image info\" lists them.",
	.options = (const struct cli_option[]){
		{"granularity", "SIZE", "of one that is added: bytes that one bit stands for"},
		{"merge-from", "OTHER", "of merge: the bitmap of the same image that is merged into BITMAP"},
		FROM,
		{0},
	},
	.run = run_image_bitmap,
};

/* Those of a qcow2 image, as pools tell of theirs. */
static int internal_snapshots(struct cli *cli, struct found *f, json_t **ret)
{
	json_auto_t *info = NULL, *list = json_array();
	struct img_task *task;
	const json_t *s;
	size_t i;
	int r = img_info(f->image, json_array_size(f->users) > 0, &task, &cli->error);

	if (r == 0)
		r = image_run(cli, task, "reading", 0, &info);
	json_array_foreach(json_object_get(info, "snapshots"), i, s)
		json_array_append_new(list, json_pack("{s:O, s:O, s:O}", "name", json_object_get(s, "name"), "id", json_object_get(s, "id"),
						      "created", json_object_get(s, "date-sec")));
	if (r == 0)
		*ret = take_ptr(list);
	return r;
}

static void print_snapshots(const json_t *list)
{
	json_auto_t *rows = json_array();
	const json_t *s;
	size_t i;

	json_array_foreach(list, i, s) {
		char created[32] = "-", capacity[32] = "-", allocation[32] = "-";
		_cleanup_free_ char *of = text_of(s, "clone") ? qmp_asprintf("of the clone %s", text_of(s, "clone")) : strdup("");
		time_t at = (time_t)int_of(s, "created");
		struct tm tm;
		if (at && localtime_r(&at, &tm))
			strftime(created, sizeof created, "%Y-%m-%d %H:%M:%S", &tm);
		if (json_object_get(s, "capacity"))
			progress_bytes((uint64_t)int_of(s, "capacity"), capacity);
		if (json_object_get(s, "allocation"))
			progress_bytes((uint64_t)int_of(s, "allocation"), allocation);
		json_array_append_new(rows, json_pack("[s, s, s, s, s]", text_of(s, "name"), created, capacity, allocation, of ? of : ""));
	}
	cli_print_table((const char *const[]){"SNAPSHOT", "CREATED", "CAPACITY", "ALLOCATION", "", NULL}, rows);
}

static int list_snapshots(struct cli *cli)
{
	_cleanup_found_ struct found f = {0};
	json_auto_t *list = NULL;
	int r = image_find(cli, cli->args[0], cli_option(cli, "from"), IMAGE_ITS_OWN, true, &f);

	if (r == 0)
		r = f.is_volume ? img_volume_snapshots(&f.volume, &list, &cli->error) : internal_snapshots(cli, &f, &list);
	if (r < 0)
		return cli_fail(cli);
	if (cli->json)
		cli_print_json(list);
	else
		print_snapshots(list);
	return 0;
}

/* Noted: who is killed at it may leave no volume of that name, and the next verb that makes, starts or adds something goes on. */
static int roll_back(struct cli *cli, struct found *f, const char *name)
{
	int r = images_begin(cli, NULL);

	if (r == 0)
		r = img_made_note_volume(&cli->made, f->volume.location, NULL, &cli->error);
	if (r == 0)
		r = img_volume_snapshot_rollback(&f->volume, name, cli_option(cli, "force") != NULL, &cli->error);
	if (r == 0) {
		images_keep(cli);
		return 0;
	}
	img_made_leave(&cli->made);
	images_settle(cli);
	return r;
}

/* The pool makes one while a VM runs, too: as a power cut would leave it. */
static int change_of_volume(struct cli *cli, struct found *f, const char *action, const char *name)
{
	if (streq(action, "create"))
		return img_volume_snapshot_create(&f->volume, name, &cli->error);
	if (streq(action, "delete"))
		return img_volume_snapshot_remove(&f->volume, name, &cli->error);
	return roll_back(cli, f, name);
}

/* That the one of that name is there, or (create) none is. *RET: it, in LIST. */
static int find_snapshot(struct cli *cli, const struct found *f, const char *action, const char *name, const json_t *list, const json_t **ret)
{
	bool create = streq(action, "create");
	const json_t *s;
	size_t i;

	*ret = NULL;
	if (create && !*name)
		return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "image snapshot create: a SNAPSHOT has a name");
	json_array_foreach(list, i, s)
		if (!*ret && streq(text_of(s, "name"), name))
			*ret = s;
	if (create && *ret)
		return qmp_error_set(&cli->error, QMP_ERR_EXISTS, -EEXIST, "%s has a snapshot %s already; nothing was changed", f->path, name);
	if (!create && !*ret)
		return qmp_error_set(&cli->error, QMP_ERR_NOT_FOUND, -ENOENT, "%s has no snapshot %s; \"image snapshot %s list\" shows which there "
				     "are", f->path, name, f->path);
	return 0;
}

static int change_internal(struct cli *cli, struct found *f, const char *action, const char *name)
{
	json_auto_t *list = NULL;
	const json_t *s;
	struct img_task *task;
	int r = image_refuse_running(cli, f, false, "changing its internal snapshots");

	if (r == 0 && streq(text_of(f->image, "format"), "raw"))
		return qmp_error_set(&cli->error, QMP_ERR_UNSUPPORTED, -ENOTSUP, "%s is raw: a file has snapshots where it is qcow2 (image convert), "
				     "a raw one only as a volume of LVM, ZFS, Ceph or a Btrfs subvolume", f->path);
	if (r == 0)
		r = internal_snapshots(cli, f, &list);
	if (r == 0)
		r = find_snapshot(cli, f, action, name, list, &s);
	if (r == 0)
		r = img_snapshot(f->image, streq(action, "rollback") ? "apply" : action, name, s ? text_of(s, "id") : NULL, &task, &cli->error);
	return r < 0 ? r : image_run(cli, task, "changing it", 0, NULL);
}

static int snapshot(struct cli *cli, const char *action)
{
	_cleanup_found_ struct found f = {0};
	bool back = streq(action, "rollback");
	int r = cli->n_args < 3 ? qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "image snapshot %s: the name of a SNAPSHOT is wanted", action)
				: image_find(cli, cli->args[0], cli_option(cli, "from"), IMAGE_ITS_OWN, false, &f);

	if (r == 0 && back)
		r = image_refuse_running(cli, &f, false, "going back to a snapshot of it");
	if (r == 0 && back)
		r = image_refuse_hurt(cli, &f, NULL, f.overlays, "others are backed by it, and would see it as it was");
	if (r < 0)
		return r;
	return f.is_volume ? change_of_volume(cli, &f, action, cli->args[2]) : change_internal(cli, &f, action, cli->args[2]);
}

static int run_image_snapshot(struct cli *cli)
{
	const char *action = streq(cli->args[1], "apply") ? "rollback" : cli->args[1];
	_cleanup_free_ char *what = NULL;

	if (streq(action, "list"))
		return list_snapshots(cli);
	if (snapshot(cli, action) < 0)
		return cli_fail(cli);
	what = qmp_asprintf("%s %s%s", streq(action, "create") ? "has the snapshot" : streq(action, "delete") ? "has" : "is as it was at", cli->args[2],
			    streq(action, "delete") ? " no more" : "");
	return print_done(cli, what ? what : "is changed");
}

const struct verb verb_image_snapshot = {
	.name = "image snapshot",
	.group = GROUP_IMAGE,
	.args = {{"IMAGE", .kind = ARG_PATH}, {"ACTION", .kind = ARG_CHOICE, .choices = "create|list|rollback|apply|delete"},
		 {"SNAPSHOT", .optional = true}},
	.summary = "Snapshots of an image: create, list, rollback (or apply), delete",
	.notes = "Of a volume of LVM, ZFS, Ceph or a Btrfs subvolume they are the pool's own, made also while a VM runs with it, and are then "
		 "what a power cut would have left; of a qcow2 file internal ones, of one that no VM runs with: \"image convert --snapshot\" "
		 "copies those out. Nothing is rolled back while a VM runs with it.",
	.options = (const struct cli_option[]){
		FROM,
		{"force", NULL, "roll back also where overlays are hurt, or newer snapshots are lost (ZFS)"},
		{0},
	},
	.run = run_image_snapshot,
};
