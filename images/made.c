#include "images/made.h"
#include "images/catalogue.h"
#include "proto/base.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>

#define FOLDER   "made"
#define NOTE_MAX ((size_t)1 << 20)

/* A file, or (ID) the volume PATH, which is POOL:VOLUME. */
struct img_made_image {
	char *path, *id;
	dev_t dev;
	ino_t ino;
};

/* ---- Making ---- */

static int write_line(int fd, json_t *line_consume)
{
	json_auto_t *line = line_consume;
	_cleanup_free_ char *text = line ? json_dumps(line, JSON_COMPACT) : NULL,
			    *whole = text ? qmp_asprintf("%s\n", text) : NULL;
	size_t n = whole ? strlen(whole) : 0;

	if (!whole)
		return -ENOMEM;
	if (write(fd, whole, n) != (ssize_t)n)
		return errno ? -errno : -EIO;
	return fdatasync(fd) < 0 ? -errno : 0;
}

/* A new note in M->dir, locked. -EAGAIN: who settles has found it before it was, and removes it. */
static int make_note(struct img_made *m)
{
	uint64_t random;
	struct stat st;

	if (getrandom(&random, sizeof random, 0) != sizeof random)
		random = (uint64_t)getpid();
	snprintf(m->name, sizeof m->name, "%016llx", (unsigned long long)random);
	m->fd = openat(m->dir, m->name, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
	if (m->fd < 0)
		return -errno;
	if (flock(m->fd, LOCK_EX | LOCK_NB) < 0 || fstat(m->fd, &st) < 0)
		return -errno;
	return st.st_nlink > 0 ? 0 : -EAGAIN;
}

int img_made_begin(uv_loop_t *loop, const struct vm_dirs *dirs, const char *vm, struct img_made *ret, struct qmp_error *err)
{
	struct img_made m = {.fd = -1, .loop = loop, .dirs = dirs};
	int r;

	m.dir = vm_dir_open(dirs->state, FOLDER, true, err);
	if (m.dir < 0)
		return m.dir;
	while ((r = make_note(&m)) == -EAGAIN)
		(void)close(take_fd(&m.fd));
	if (r == 0)
		r = write_line(m.fd, json_pack("{s:s*}", "vm", vm));
	if (r == 0 && fsync(m.dir) < 0)
		r = -errno;
	if (r < 0) {
		img_made_keep(&m);
		return qmp_error_errno(err, r, "noting in %s/" FOLDER " what is made for %s", dirs->state, vm ? vm : "a pool");
	}
	*ret = m;
	return 0;
}

static json_t *line_of(const char *path, const struct stat *st)
{
	return json_pack("{s:s, s:I, s:I}", "path", path, "dev", (json_int_t)st->st_dev, "ino", (json_int_t)st->st_ino);
}

/* Writes LINE, and adds what it says. */
static int add(struct img_made *m, struct img_made_image image, json_t *line_consume, struct qmp_error *err)
{
	struct img_made_image *images = realloc(m->images, (m->n + 1) * sizeof *images);
	int r = images && image.path ? write_line(m->fd, json_incref(line_consume)) : -ENOMEM;

	json_decref(line_consume);
	if (images)
		m->images = images;
	if (r < 0) {
		qmp_error_errno(err, r, "noting that %s is made", image.path ? image.path : "an image");
		free(image.path);
		free(image.id);
		return r;
	}
	m->images[m->n++] = image;
	return 0;
}

int img_made_note(void *made, const struct img_draft *d, struct qmp_error *err)
{
	struct stat st;

	if (fstat(d->fd, &st) < 0)
		return qmp_error_errno(err, -errno, "noting that %s is made", d->final);
	return add(made, (struct img_made_image){.path = strdup(d->final), .dev = st.st_dev, .ino = st.st_ino}, line_of(d->final, &st),
		   err);
}

int img_made_note_volume(void *made, const char *location, const char *id, struct qmp_error *err)
{
	struct img_made *m = made;
	json_t *line = json_pack("{s:s, s:s*}", "volume", location, "id", id);
	int r;

	if (id)
		return add(m, (struct img_made_image){.path = strdup(location), .id = strdup(id)}, line, err);
	r = write_line(m->fd, line);
	return r < 0 ? qmp_error_errno(err, r, "noting that %s is made", location) : 0;
}

static int will_be_gone(struct img_made *m, const char *path)
{
	if (!m->gone)
		m->gone = json_array();
	return m->gone && json_array_append_new(m->gone, qmp_json_text(path)) == 0 ? 0 : -ENOMEM;
}

int img_made_condemn(struct img_made *m, const char *path, struct qmp_error *err)
{
	struct stat st;
	int r;

	if (lstat(path, &st) < 0 || !S_ISREG(st.st_mode))
		return 0;
	r = write_line(m->fd, line_of(path, &st));
	if (r == 0)
		r = will_be_gone(m, path);
	return r < 0 ? qmp_error_errno(err, r, "noting that %s is to go", path) : 0;
}

int img_made_condemn_volume(struct img_made *m, struct img_volume *v, struct qmp_error *err)
{
	_cleanup_free_ char *id = NULL;
	int r = img_volume_id(v, &id, err);

	if (r < 0 && err->kind == QMP_ERR_NOT_FOUND) {
		*err = (struct qmp_error){0};
		return 0;
	}
	/* Some go by way of a hidden name. */
	if (r == 0 && v->pool.type->hidden)
		r = img_made_note_volume(m, v->location, NULL, err);
	if (r == 0 && id && (r = write_line(m->fd, json_pack("{s:s, s:s}", "volume", v->location, "id", id))) < 0)
		qmp_error_errno(err, r, "noting that %s is to go", v->location);
	return r;
}

/* ---- Ending it ---- */

/* 1: a VM has it, or another image stands on it; 0: neither; an error: that cannot be told. */
static int is_wanted(const struct vm_dirs *dirs, const char *path)
{
	_cleanup_catalogue_ struct img_catalogue *c = NULL;
	json_auto_t *users = NULL, *overlays = NULL;

	if (img_catalogue_read(dirs, &c, NULL) < 0 || (*path == '/' && img_catalogue_add(c, path, NULL) < 0))
		return -EIO;
	users = img_catalogue_users(c, path);
	overlays = img_catalogue_overlays(c, path, false);
	if (!users || !overlays || json_array_size(img_catalogue_unknown(c)) > 0)
		return -EIO;
	return json_array_size(users) + json_array_size(overlays) > 0;
}

/* Whether the file is there: another one may be, by now. */
static bool is_it(const struct img_made_image *image)
{
	struct stat st;

	return lstat(image->path, &st) == 0 && st.st_dev == image->dev && st.st_ino == image->ino;
}

void img_made_leave(struct img_made *m)
{
	for (size_t i = 0; i < m->n; i++) {
		free(m->images[i].path);
		free(m->images[i].id);
	}
	free(m->images);
	json_decref(m->gone);
	if (m->fd > 0)
		(void)close(m->fd);
	if (m->dir > 0)
		(void)close(m->dir);
	*m = (struct img_made){.dir = -1, .fd = -1};
}

/* Whether all have gone, and a power cut would bring none of them back. */
static bool stays_gone(const json_t *paths)
{
	const json_t *path;
	struct stat st;
	size_t i;
	bool gone = true;

	json_array_foreach(paths, i, path)
		gone &= lstat(json_string_value(path), &st) < 0 && vm_folder_sync_of(json_string_value(path)) == 0;
	return gone;
}

void img_made_keep(struct img_made *m)
{
	if (m->fd > 0 && stays_gone(m->gone))
		(void)unlinkat(m->dir, m->name, 0);
	img_made_leave(m);
}

/* The volume of that ID, unless (UNWANTED) somebody has it. False: that is for another time. */
static bool remove_volume(uv_loop_t *loop, const struct vm_dirs *dirs, const char *location, const char *id, bool unwanted)
{
	_cleanup_volume_ struct img_volume v = {0};
	struct qmp_error why = {0};
	int r = img_volume_open(loop, dirs, location, &v, &why);

	if (r == 0 || r == -ENOENT)
		return true; /* its pool has other ones now, or is forgotten */
	if (r > 0)
		r = img_volume_is(&v, id, &why);
	if (r > 0 && unwanted && (r = is_wanted(dirs, v.path)) >= 0)
		r = !r;
	return r > 0 ? img_volume_remove(&v, &why) == 0 : r == 0;
}

void img_made_undo(struct img_made *m)
{
	bool undone = true;

	json_decref(take_ptr(m->gone)); /* that stays */
	for (size_t i = 0; i < m->n; i++)
		if (m->images[i].id)
			undone &= remove_volume(m->loop, m->dirs, m->images[i].path, m->images[i].id, false);
		else if (is_it(&m->images[i]) && unlink(m->images[i].path) == 0)
			undone &= will_be_gone(m, m->images[i].path) == 0;
	if (undone)
		img_made_keep(m);
	else
		img_made_leave(m);
}

const char *img_made_path(const struct img_made *m, size_t i)
{
	return i < m->n ? m->images[i].path : NULL;
}

/* ---- Settling ---- */

/* What a VM has by its name, not by its spec. */
static const struct {
	const char *folder, *ending;
} by_name[] = {{"firmware", ".fd"}, {"firmware", "+secure.fd"}, {"seeds", ".iso"}};

/* Likewise; -ENOENT: PATH is none of those. */
static int is_wanted_by_name(const struct vm_dirs *dirs, const char *path)
{
	int wanted = -ENOENT;

	for (size_t i = 0; i < ARRAY_SIZE(by_name) && wanted <= 0; i++) {
		_cleanup_free_ char *folder = qmp_asprintf("%s/%s/", dirs->state, by_name[i].folder), *spec = NULL;
		size_t before = folder ? strlen(folder) : 0, n = strlen(path), tail = strlen(by_name[i].ending);
		if (!folder || n <= before + tail || strncmp(path, folder, before) != 0 || !streq(path + n - tail, by_name[i].ending))
			continue;
		spec = qmp_asprintf("%s/vms/%.*s.json", dirs->conf, (int)(n - before - tail), path + before);
		wanted = !spec || access(spec, F_OK) == 0;
	}
	return wanted;
}

/* Likewise of what was begun with a hidden name, by whoever. */
static bool sweep_pool(uv_loop_t *loop, const struct vm_dirs *dirs, const char *location)
{
	_cleanup_volume_ struct img_volume v = {0};
	struct qmp_error why = {0};
	_cleanup_fd_ int lock = -1;
	int r = img_volume_open(loop, dirs, location, &v, &why);

	if (r == 0 || r == -ENOENT)
		return true;
	return r > 0 && img_pool_lock(&v.pool, &lock, &why) == 0 && img_pool_sweep(&v.pool, &why) == 0;
}

static bool settle_volume(uv_loop_t *loop, const struct vm_dirs *dirs, const json_t *line)
{
	const char *location = text_of(line, "volume"), *id = text_of(line, "id");

	return id ? remove_volume(loop, dirs, location, id, true) : sweep_pool(loop, dirs, location);
}

/* Whether nothing more is to be done about it. */
static bool settle_image(const struct vm_dirs *dirs, const json_t *line)
{
	struct img_made_image image = {.path = (char *)text_of(line, "path"), .dev = (dev_t)int_of(line, "dev"),
				       .ino = (ino_t)int_of(line, "ino")};
	int wanted;

	if (!image.path || *image.path != '/' || !is_it(&image))
		return true;
	wanted = is_wanted_by_name(dirs, image.path);
	if (wanted == -ENOENT)
		wanted = is_wanted(dirs, image.path);
	if (wanted == 0 && unlink(image.path) == 0)
		return vm_folder_sync_of(image.path) == 0;
	return wanted > 0 || (wanted == 0 && errno == ENOENT);
}

/* The last line may be cut: then its image has got no name. False: something is left for another time. */
static bool settle_lines(uv_loop_t *loop, const struct vm_dirs *dirs, char *text, bool (*quiet)(void *data, const char *vm), void *data)
{
	bool first = true, settled = true;

	for (char *save = NULL, *at = strtok_r(text, "\n", &save); at; at = strtok_r(NULL, "\n", &save), first = false) {
		json_auto_t *line = json_loads(at, 0, NULL);
		if (first && text_of(line, "vm") && !quiet(data, text_of(line, "vm")))
			return false;
		if (!first)
			settled &= text_of(line, "volume") ? settle_volume(loop, dirs, line) : settle_image(dirs, line);
	}
	return settled;
}

/* The drafts of makers that are gone: nobody else may ever make another there. */
static void sweep_drafts(const struct vm_dirs *dirs)
{
	static const char *const folders[] = {"images", "firmware"};

	for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
		_cleanup_free_ char *folder = qmp_asprintf("%s/%s", dirs->state, folders[i]);
		if (folder)
			img_draft_sweep(folder);
	}
}

static void settle(uv_loop_t *loop, const struct vm_dirs *dirs, int dir, const char *name, bool (*quiet)(void *data, const char *vm),
		   void *data)
{
	_cleanup_fd_ int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	_cleanup_free_ char *text = calloc(1, NOTE_MAX + 1);
	struct stat st;

	if (fd < 0 || !text || flock(fd, LOCK_EX | LOCK_NB) < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ||
	    st.st_nlink == 0 || read(fd, text, NOTE_MAX) < 0)
		return;
	sweep_drafts(dirs);
	if (settle_lines(loop, dirs, text, quiet, data))
		(void)unlinkat(dir, name, 0);
}

void img_made_settle(uv_loop_t *loop, const struct vm_dirs *dirs, bool (*quiet)(void *data, const char *vm), void *data)
{
	int fd = vm_dir_open(dirs->state, FOLDER, false, NULL);
	DIR *folder = fd >= 0 ? fdopendir(fd) : NULL;
	const struct dirent *entry;

	while (folder && (entry = readdir(folder)))
		if (*entry->d_name != '.')
			settle(loop, dirs, dirfd(folder), entry->d_name, quiet, data);
	if (folder)
		(void)closedir(folder);
	else if (fd >= 0)
		(void)close(fd);
}
