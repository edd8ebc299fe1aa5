#include "images/share.h"
#include "images/answer.h"
#include "images/place.h"
#include "launcher/location.h"
#include "launcher/pool.h"
#include "launcher/spec.h"
#include "launcher/vm.h"
#include "proto/base.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

/* One image that a disk opens. */
struct use {
	const char *vm, *disk, *path; /* borrowed; vm NULL: the one that is asked for; disk NULL: not known */
	char *name;                   /* of what is no file: what it is known by; else NULL */
	dev_t dev;                    /* of the file, or of the one that the name belongs to; 0, 0: of none */
	ino_t ino;
	bool writes;
};

struct uses {
	struct use *list;
	size_t n, room;
};

static void uses_deinit(struct uses *u)
{
	for (size_t i = 0; i < u->n; i++)
		free(u->list[i].name);
	free(u->list);
}

static int add_use(struct uses *u, const struct use *use)
{
	if (u->n == u->room) {
		size_t room = u->room ? 2 * u->room : 8;
		struct use *list = realloc(u->list, room * sizeof *list);
		if (!list)
			return -ENOMEM;
		u->list = list;
		u->room = room;
	}
	u->list[u->n++] = *use;
	return 0;
}

static void identify(struct use *use, const struct stat *st)
{
	use->dev = S_ISBLK(st->st_mode) ? st->st_rdev : st->st_dev;
	use->ino = S_ISBLK(st->st_mode) ? 0 : st->st_ino; /* a block device has many nodes */
}

/*
 * Where USE's path leads: 1, or 0 where nothing is there, or nothing answers. What answers is no image on what does not.
 */
static int find_image(struct use *use)
{
	struct vm_location l;
	const char *anchor = NULL;
	struct stat st;
	bool is_url = !vm_location_is_file(use->path);

	if (is_url && vm_location_parse(use->path, &l, NULL) < 0)
		return 0;
	if (is_url) {
		use->name = vm_location_identity(&l, &anchor);
		if (!use->name)
			anchor = NULL;
	}
	if ((is_url && !anchor) || img_answer_stat(is_url ? anchor : use->path, &st) < 0)
		st = (struct stat){0};
	if (is_url)
		vm_location_deinit(&l);
	identify(use, &st);
	return use->name || st.st_mode != 0;
}

static bool is_same(const struct use *a, const struct use *b)
{
	return a->dev == b->dev && a->ino == b->ino && !a->name == !b->name && (!a->name || streq(a->name, b->name));
}

/* DISK and all that it is backed by. What is not there is nobody's. */
static int add_chain(struct uses *u, const char *vm, const json_t *disk)
{
	bool writes = !json_is_true(json_object_get(disk, "read-only"));
	const char *type = text_of(disk, "type");

	writes &= !type || !streq(type, "cdrom");
	for (const json_t *image = disk; image; image = json_object_get(image, "backing")) {
		struct use use = {.vm = vm, .disk = text_of(disk, "id"), .path = text_of(image, "path"), .writes = writes};
		writes = false;
		if (!use.path || !find_image(&use))
			continue;
		if (add_use(u, &use) < 0) {
			free(use.name);
			return -ENOMEM;
		}
	}
	return 0;
}

static int add_disks(struct uses *u, const char *vm, const json_t *spec)
{
	json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(spec, "disks"), i, disk)
		if (add_chain(u, vm, disk) < 0)
			return -ENOMEM;
	return 0;
}

static int refuse(const struct use *mine, const struct use *other, struct qmp_error *err)
{
	if (!other->vm)
		return qmp_error_set(err, QMP_ERR_USAGE, -EBUSY,
				     "disks.%s: %s is the same image as that of disks.%s, and one of them writes to it; give each "
				     "its own",
				     mine->disk, mine->path, other->disk);
	if (!other->disk)
		return qmp_error_set(err, QMP_ERR_STATE, -EBUSY,
				     "disks.%s: %s is in use by the VM %s, whose " VM_RUNNING_FILE " cannot be read, but whose QEMU has it open, "
				     "and %s; two that have it would destroy it. Stop %s, or make it read-only in both",
				     mine->disk, mine->path, other->vm,
				     other->writes ? "may write to it" : "this one would write to it", other->vm);
	return qmp_error_set(err, QMP_ERR_STATE, -EBUSY,
			     "disks.%s: %s is in use by the VM %s (disks.%s), and %s; two that have it would destroy it. Stop %s, or "
			     "make it read-only in both",
			     mine->disk, mine->path, other->vm, other->disk,
			     other->writes ? "written to there" : "this one would write to it", other->vm);
}

static int compare(const struct uses *mine, const struct uses *others, bool same, struct qmp_error *err)
{
	for (size_t i = 0; i < mine->n; i++)
		for (size_t k = same ? i + 1 : 0; k < others->n; k++) {
			const struct use *a = &mine->list[i], *b = &others->list[k];
			if (is_same(a, b) && (a->writes || b->writes) &&
			    !(same && streq(a->disk, b->disk)))
				return same ? refuse(b, a, err) : refuse(a, b, err); /* of two of ours, the later */
		}
	return 0;
}

/* Against whom MINE, of the VM NAME, is held. */
struct asking {
	const struct vm_dirs *dirs;
	const char *name;
	const struct uses *mine;
};

/* ---- A VM that runs, and what is kept of it cannot be read ---- */

/* Whether FD of the process was opened to write. */
static bool fd_writes(pid_t pid, const char *fd)
{
	char path[64], line[128];
	unsigned flags = O_RDWR;
	FILE *f;

	(void)snprintf(path, sizeof path, "/proc/%d/fdinfo/%.16s", (int)pid, fd);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof line, f))
		if (sscanf(line, "flags: %o", &flags) == 1)
			break;
	if (f)
		(void)fclose(f);
	return (flags & O_ACCMODE) != O_RDONLY;
}

/* The files and block devices that its QEMU has open; or a negative errno. */
static int add_open_files(struct uses *u, const char *vm, pid_t pid)
{
	char path[64];
	const struct dirent *fd;
	DIR *folder;
	int r = 0;

	(void)snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
	folder = opendir(path);
	if (!folder)
		return -errno;
	while (r == 0 && (fd = readdir(folder))) {
		struct use use = {.vm = vm};
		struct stat st;
		_cleanup_free_ char *file = qmp_asprintf("%s/%s", path, fd->d_name);
		if (!file || img_answer_stat(file, &st) < 0 || (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)))
			continue;
		identify(&use, &st);
		use.writes = fd_writes(pid, fd->d_name);
		r = add_use(u, &use);
	}
	(void)closedir(folder);
	return r;
}

/* Its spec on disk, with the locations of its disks; new; NULL where that cannot be read. */
static json_t *spec_on_disk(const struct vm_dirs *dirs, const char *vm)
{
	_cleanup_free_ char *file = qmp_asprintf("%s.json", vm), *text = NULL;
	_cleanup_fd_ int folder = vm_dir_open(dirs->conf, "vms", false, NULL);
	json_auto_t *spec = NULL;
	json_t *located = NULL;
	size_t len;

	if (folder < 0 || vm_file_read(folder, file, &text, &len, NULL) < 0 || vm_spec_parse(text, len, file, &spec, NULL) < 0)
		return NULL;
	return vm_pools_look(dirs, spec, NULL, &located, NULL) < 0 ? NULL : located;
}

static int refuse_unknown(const struct use *mine, const char *other, struct qmp_error *err)
{
	return qmp_error_set(err, QMP_ERR_STATE, -EBUSY,
			     "disks.%s: the VM %s runs, and whether it has %s cannot be told: its " VM_RUNNING_FILE " is damaged, and "
			     "what its QEMU has open cannot be seen; two that write to it would destroy it. Stop %s first",
			     mine->disk, other, mine->path, other);
}

static int compare_with_unknown(const struct asking *asking, const char *other, int run, struct qmp_error *err)
{
	pid_t pid = vm_qemu_pid_in(run);
	json_auto_t *spec = spec_on_disk(asking->dirs, other);
	struct uses theirs = {0};
	bool files_known = pid > 0 && add_open_files(&theirs, other, pid) == 0;
	int r = spec ? add_disks(&theirs, other, spec) : 0;

	for (size_t i = 0; r == 0 && i < asking->mine->n; i++) {
		const struct use *mine = &asking->mine->list[i];
		if (mine->writes && !(mine->name ? spec != NULL : files_known))
			r = refuse_unknown(mine, other, err);
	}
	if (r == 0)
		r = compare(asking->mine, &theirs, false, err);
	uses_deinit(&theirs);
	return r;
}

/* ---- One that runs ---- */

static int compare_with(void *data, const char *other, int run, struct qmp_error *err)
{
	const struct asking *asking = data;
	json_auto_t *record = NULL, *spec = NULL;
	struct uses theirs = {0};
	int r;

	if (run < 0 || streq(other, asking->name))
		return 0;
	record = vm_file_read_json(run, VM_RUNNING_FILE);
	/* One that is just being started and has not written it yet looks at us when it has. */
	if (!record && faccessat(run, VM_RUNNING_FILE, F_OK, AT_SYMLINK_NOFOLLOW) < 0 && vm_qemu_pid_in(run) == 0)
		return 0;
	if (!json_is_object(json_object_get(record, "spec")))
		return compare_with_unknown(asking, other, run, err);
	r = vm_pools_locate_disks(json_object_get(json_object_get(record, "host"), "pools"), json_object_get(record, "spec"), true,
				  &spec, NULL);
	if (r == 0)
		r = add_disks(&theirs, other, spec);
	if (r == 0)
		r = compare(asking->mine, &theirs, false, err);
	else
		qmp_error_errno(err, r, "looking who else has an image");
	uses_deinit(&theirs);
	return r;
}

static int check_host(const struct uses *mine, struct qmp_error *err)
{
	for (size_t i = 0; i < mine->n; i++) {
		const struct use *use = &mine->list[i];
		bool is_block = use->dev != 0 && use->ino == 0 && !use->name;
		if (use->writes && is_block && img_place_host_has(use->path))
			return qmp_error_set(err, QMP_ERR_STATE, -EBUSY,
					     "disks.%s: the host itself uses %s: it is mounted, swap, or part of an array or of a volume "
					     "group; a VM that writes to it would destroy what is there. Take it out of use, or make the "
					     "disk read-only",
					     use->disk, use->path);
	}
	return 0;
}

int img_share_check(const struct vm_dirs *dirs, const char *name, const json_t *spec, const json_t *have,
		    struct qmp_error *err)
{
	struct uses all = {0}, mine = {0};
	json_t *disk;
	size_t i;
	int r = add_disks(&all, NULL, spec);

	json_array_foreach(json_object_get(spec, "disks"), i, disk)
	{
		json_t *before = have ? vm_spec_find(have, "disks", text_of(disk, "id")) : NULL;
		if (r == 0 && !(before && json_equal(before, disk)))
			r = add_chain(&mine, NULL, disk);
	}
	if (r < 0)
		qmp_error_errno(err, r, "looking who else has an image");
	if (r == 0)
		r = compare(&all, &all, true, err);
	if (r == 0)
		r = check_host(&mine, err);
	if (r == 0 && mine.n > 0)
		r = vm_each_running(dirs, compare_with, &(struct asking){dirs, name, &mine}, err);
	uses_deinit(&all);
	uses_deinit(&mine);
	return r;
}
