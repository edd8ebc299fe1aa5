#include "images/volume.h"
#include "images/tool.h"
#include "launcher/location.h"
#include "proto/base.h"

#include <fcntl.h>
#include <stdio.h>

int img_volume_open(uv_loop_t *loop, const struct vm_dirs *dirs, const char *location, struct img_volume *ret,
		    struct qmp_error *err)
{
	char name[VM_POOL_NAME_MAX + 1];
	const char *volume = vm_location_looks(location) == VM_VOLUME ? vm_pool_volume(location, name) : NULL;
	struct img_volume v = {0};
	int r;

	if (!volume)
		return 0;
	r = img_pool_open(loop, dirs, name, &v.pool, err);
	if (r < 0)
		return r;
	if (!v.pool.type->create) {
		img_pool_close(&v.pool);
		return 0;
	}
	v.location = strdup(location);
	v.name = v.location ? v.location + (volume - location) : NULL;
	v.path = img_pool_path(&v.pool, volume);
	if (!v.location || !v.path) {
		r = v.location ? qmp_error_set(err, QMP_ERR_USAGE, -EINVAL, "%s: the pool has no such volume", location)
			       : qmp_error_errno(err, -ENOMEM, "%s", location);
		img_volume_close(&v);
		return r;
	}
	*ret = v;
	return 1;
}

void img_volume_close(struct img_volume *v)
{
	img_pool_close(&v->pool);
	free(v->location);
	free(v->path);
	*v = (struct img_volume){0};
}

/* 1, 0 or an error; PATH is that of the volume NAME. */
static int is_there(struct img_volume *v, const char *name, const char *path, struct qmp_error *err)
{
	struct qmp_error why = {0};
	uint64_t size;
	int r = v->pool.type->size ? v->pool.type->size(&v->pool, name, &size, &why) : 0;

	if (!v->pool.type->size)
		return access(path, F_OK) == 0;
	if (r < 0 && why.kind != QMP_ERR_NOT_FOUND)
		return qmp_error_set(err, why.kind, r, "%s", why.message);
	return r == 0;
}

/* A volume without its node may be one that is not active: the pool itself has the last word. */
static int refuse_inactive(struct img_volume *v, struct qmp_error *err)
{
	json_auto_t *volumes = NULL;
	const json_t *volume;
	size_t i;
	int r = v->pool.type->size ? 0 : img_pool_volumes(&v->pool, &volumes, err);

	json_array_foreach(volumes, i, volume)
		if (streq(text_of(volume, "name"), v->name))
			return qmp_error_set(err, QMP_ERR_HOST, -ENXIO, "%s is there, but not active on this host (there is no %s); \"qmpctl "
					     "pool refresh %s\" brings it", v->location, v->path, v->pool.name);
	return r;
}

/* Waits, where udev is, until it has seen what was done: device-mapper and ZFS leave the nodes to it. */
static void await_udev(struct img_volume *v, const char *path)
{
	_cleanup_free_ char *exists = path ? qmp_asprintf("--exit-if-exists=%s", path) : NULL;
	const char *const argv[] = {"udevadm", "settle", "--timeout=10", exists, NULL};

	if (!v->pool.type->size && (!path || (exists && access(path, F_OK) < 0)))
		(void)img_pool_tool(&v->pool, "waiting for the device", "udev", argv, NULL, NULL);
}

static int refuse_format(const struct img_volume *v, const char *format, struct qmp_error *err)
{
	return streq(format, "raw") ? 0
				    : qmp_error_set(err, QMP_ERR_USAGE, -EINVAL, "%s: a volume of the pool %s (%s) is raw, not %s", v->location,
						    v->pool.name, v->pool.type->name, format);
}

/* That the volume NAME at PATH, LOCATION for people, is not there, and nobody is making it. Under the pool's lock. RET_MAKING ends it. */
static int claim(struct img_volume *v, const char *name, const char *path, const char *location, int *ret_making, struct qmp_error *err)
{
	_cleanup_free_ char *hidden = qmp_asprintf("%s%s", v->pool.type->hidden ? v->pool.type->hidden : "", name);
	int r = is_there(v, name, path, err);

	if (r == 1)
		return qmp_error_set(err, QMP_ERR_EXISTS, -EEXIST, "%s is there already; nothing was changed", location);
	if (r == 0 && !hidden)
		r = qmp_error_errno(err, -ENOMEM, "%s", location);
	return r < 0 ? r : img_pool_lock_making(&v->pool, hidden, ret_making, err);
}

/* What is made, by the pool's tools: the volume NAME, LOCATION, at PATH; empty, of SIZE, or (CLONE) a clone of V. */
struct making {
	struct img_volume *v;
	const char *name, *location, *path;
	bool clone;
	uint64_t size;
};

static int make_as(const struct making *m, const char *name, struct qmp_error *err)
{
	struct img_pool *p = &m->v->pool;

	return m->clone ? p->type->clone(p, m->v->name, name, err) : p->type->create(p, name, m->size, err);
}

static int note(const struct img_volume *v, const char *location, const char *id, struct qmp_error *err)
{
	return v->note ? v->note(v->note_data, location, id, err) : 0;
}

/* The hidden one gets its NAME. Under the pool's lock. */
static int give_name(struct img_volume *v, const char *hidden, const char *name, const char *location, struct qmp_error *err)
{
	_cleanup_free_ char *id = NULL;
	int r = v->note ? v->pool.type->identify(&v->pool, hidden, &id, err) : 0;

	if (r == 0 && v->note)
		r = note(v, location, id, err);
	return r < 0 ? r : v->pool.type->rename(&v->pool, hidden, name, err); /* which goes over none that is there */
}

static int make_hidden(const struct making *m, struct qmp_error *err)
{
	struct img_volume *v = m->v;
	_cleanup_free_ char *hidden = qmp_asprintf("%s%s", v->pool.type->hidden, m->name);
	int r = hidden ? make_as(m, hidden, err) : qmp_error_errno(err, -ENOMEM, "making %s", m->location);

	if (r < 0)
		return r;
	await_udev(v, NULL);
	r = give_name(v, hidden, m->name, m->location, err);
	if (r < 0)
		(void)v->pool.type->remove(&v->pool, hidden, NULL);
	return r;
}

/* Under the pool's lock. */
static int make(const struct making *m, struct qmp_error *err)
{
	bool hidden = m->v->note && m->v->pool.type->hidden;
	_cleanup_fd_ int making = -1;
	int r;

	(void)img_pool_sweep(&m->v->pool, NULL);
	r = claim(m->v, m->name, m->path, m->location, &making, err);
	if (r == 0 && hidden)
		r = note(m->v, m->location, NULL, err);
	if (r == 0)
		r = hidden ? make_hidden(m, err) : make_as(m, m->name, err);
	if (r == 0)
		await_udev(m->v, m->path);
	return r;
}

int img_volume_create(struct img_volume *v, const char *format, uint64_t size, struct qmp_error *err)
{
	struct making m = {.v = v, .name = v->name, .location = v->location, .path = v->path, .size = size};
	_cleanup_fd_ int lock = -1;
	int r = refuse_format(v, format, err);

	if (r == 0)
		r = img_pool_lock(&v->pool, &lock, err);
	return r < 0 ? r : make(&m, err);
}

/* ---- One that is filled ---- */

/* The hidden one NAME, at PATH; RET_MAKING is its maker's lock. */
static int begin_hidden(struct img_volume *v, const char *name, const char *path, uint64_t size, int *ret_making, struct qmp_error *err)
{
	_cleanup_fd_ int lock = -1, making = -1;
	int r = img_pool_lock(&v->pool, &lock, err);

	if (r == 0)
		(void)img_pool_sweep(&v->pool, NULL);
	if (r == 0)
		r = claim(v, v->name, v->path, v->location, &making, err);
	if (r == 0)
		r = note(v, v->location, NULL, err);
	if (r == 0)
		r = v->pool.type->create(&v->pool, name, size, err);
	if (r < 0)
		return r;
	await_udev(v, path);
	*ret_making = take_fd(&making);
	return 0;
}

/* What is in it stays over a power cut. A volume that has no node was flushed by who wrote it. FD is of before it was written. */
static int fill_it(struct img_volume *v, const char *path, img_volume_fill_cb fill, void *data, struct qmp_error *err)
{
	_cleanup_fd_ int fd = v->pool.type->size ? -1 : open(path, O_RDWR | O_CLOEXEC);
	int r;

	if (fd < 0 && !v->pool.type->size)
		return qmp_error_errno(err, -errno, "making %s (%s)", v->location, path);
	r = fill(data, path, v->pool.type->zeroes, err);
	return r == 0 && fd >= 0 && fsync(fd) < 0 ? qmp_error_errno(err, -errno, "writing %s", v->location) : r;
}

static int name_hidden(struct img_volume *v, const char *name, struct qmp_error *err)
{
	_cleanup_fd_ int lock = -1;
	int r;

	await_udev(v, NULL);
	r = img_pool_lock(&v->pool, &lock, err);
	return r < 0 ? r : give_name(v, name, v->name, v->location, err);
}

static void remove_hidden(struct img_volume *v, const char *name)
{
	_cleanup_fd_ int lock = -1;

	await_udev(v, NULL);
	if (img_pool_lock(&v->pool, &lock, NULL) == 0)
		(void)v->pool.type->remove(&v->pool, name, NULL);
}

int img_volume_fill(struct img_volume *v, uint64_t size, img_volume_fill_cb fill, void *data, struct qmp_error *err)
{
	const char *prefix = v->pool.type->hidden;
	_cleanup_free_ char *name = prefix ? qmp_asprintf("%s%s", prefix, v->name) : NULL, *path = name ? img_pool_path(&v->pool, name) : NULL;
	_cleanup_fd_ int making = -1;
	int r;

	if (!prefix) /* it makes none, and says so */
		return v->pool.type->create(&v->pool, v->name, size, err);
	r = path ? begin_hidden(v, name, path, size, &making, err) : qmp_error_errno(err, -ENOMEM, "making %s", v->location);
	if (r < 0)
		return r;
	r = fill_it(v, path, fill, data, err);
	if (r == 0)
		r = name_hidden(v, name, err);
	if (r < 0)
		remove_hidden(v, name);
	else
		await_udev(v, v->path);
	return r;
}

/* Under the pool's lock. A way back to a snapshot that was cut short may have left it with another name, which is swept up. */
static int check_there(struct img_volume *v, struct qmp_error *err)
{
	int r = is_there(v, v->name, v->path, err);

	if (r == 0 && img_pool_sweep(&v->pool, NULL) == 0)
		r = is_there(v, v->name, v->path, err);
	if (r != 0)
		return r < 0 ? r : 0;
	r = refuse_inactive(v, err);
	return r < 0 ? r : qmp_error_set(err, QMP_ERR_NOT_FOUND, -ENOENT, "there is no volume %s (%s)", v->location, v->path);
}

/* ---- Snapshots ---- */

#define SNAPSHOT_NAME_MAX 64

static int check_snapshot_name(const struct img_volume *v, const char *name, struct qmp_error *err)
{
	size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+_.-");

	if (!v->pool.type->snapshots)
		return qmp_error_set(err, QMP_ERR_UNSUPPORTED, -EOPNOTSUPP, "%s: pools of the type %s have no snapshots", v->location,
				     v->pool.type->name);
	if (n > 0 && !name[n] && n <= SNAPSHOT_NAME_MAX && !strchr("+_.-", *name) && strncmp(name, IMG_POOL_SNAPSHOT, strlen(IMG_POOL_SNAPSHOT)) != 0)
		return 0;
	return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL, "\"%s\" is no name for a snapshot of %s: letters, digits and + _ . - (%d at most), a "
			     "letter or digit first, and not \"qmpctl-\"", name, v->location, SNAPSHOT_NAME_MAX);
}

/* Under the pool's lock. */
static int list_snapshots(struct img_volume *v, json_t **ret, struct qmp_error *err)
{
	json_auto_t *list = json_array();
	int r = check_snapshot_name(v, "any", err);

	if (r == 0)
		r = list ? v->pool.type->snapshots->list(&v->pool, v->name, list, err)
			 : qmp_error_errno(err, -ENOMEM, "the snapshots of %s", v->location);
	if (r == 0)
		*ret = take_ptr(list);
	return r;
}

static bool has_clone(const json_t *snapshots)
{
	const json_t *s;
	size_t i;

	json_array_foreach(snapshots, i, s)
		if (text_of(s, "clone"))
			return true;
	return false;
}

/* Those that stay: one of a clone that there is not, as who was killed has left it, goes first. Under the pool's lock. */
static int settled_snapshots(struct img_volume *v, json_t **ret, struct qmp_error *err)
{
	int r = list_snapshots(v, ret, err);

	if (r < 0 || !has_clone(*ret) || img_pool_sweep(&v->pool, NULL) < 0)
		return r;
	json_decref(take_ptr(*ret));
	return list_snapshots(v, ret, err);
}

int img_volume_look(struct img_volume *v, struct qmp_error *err)
{
	_cleanup_fd_ int lock = -1;
	int r = img_pool_lock(&v->pool, &lock, err);

	return r < 0 ? r : check_there(v, err);
}

/* What hangs on it would go with it, or is in the way. */
static int refuse_snapshots(struct img_volume *v, struct qmp_error *err)
{
	json_auto_t *snapshots = NULL;
	char names[300] = "";
	const json_t *s;
	size_t i, n = 0;
	int r = v->pool.type->snapshots ? settled_snapshots(v, &snapshots, err) : 0;

	json_array_foreach(snapshots, i, s)
		if (n < sizeof names)
			n += (size_t)snprintf(names + n, sizeof names - n, "%s%s %s", n ? ", " : "", text_of(s, "clone") ? "the clone" : "the snapshot",
					      text_of(s, "clone") ? text_of(s, "clone") : text_of(s, "name"));
	return n == 0 ? r : qmp_error_set(err, QMP_ERR_STATE, -EBUSY, "%s has %s; delete that first (image delete, image snapshot %s delete "
					  "NAME); nothing was changed", v->location, names, v->location);
}

int img_volume_remove(struct img_volume *v, struct qmp_error *err)
{
	_cleanup_fd_ int lock = -1;
	int r = img_pool_lock(&v->pool, &lock, err);

	if (r == 0)
		r = check_there(v, err);
	if (r == 0)
		r = refuse_snapshots(v, err);
	return r < 0 ? r : v->pool.type->remove(&v->pool, v->name, err);
}

int img_volume_id(struct img_volume *v, char **ret, struct qmp_error *err)
{
	_cleanup_fd_ int lock = -1;
	int r = img_pool_lock(&v->pool, &lock, err);

	*ret = NULL;
	if (r == 0)
		r = check_there(v, err);
	return r == 0 && v->pool.type->identify ? v->pool.type->identify(&v->pool, v->name, ret, err) : r;
}

int img_volume_is(struct img_volume *v, const char *id, struct qmp_error *err)
{
	_cleanup_free_ char *now = NULL;
	int r = img_volume_id(v, &now, err);

	if (r == -ENOENT && err->kind == QMP_ERR_NOT_FOUND) {
		*err = (struct qmp_error){0};
		return 0;
	}
	return r < 0 ? r : now && streq(now, id);
}

int img_volume_snapshots(struct img_volume *v, json_t **ret, struct qmp_error *err)
{
	_cleanup_fd_ int lock = -1;
	int r = img_pool_lock(&v->pool, &lock, err);

	return r < 0 ? r : list_snapshots(v, ret, err);
}

/* The lock, and what there is: RET new. RET_AT: where NAME is in it, its length where it is not. */
static int begin_snapshot(struct img_volume *v, const char *name, int *ret_lock, json_t **ret, size_t *ret_at, struct qmp_error *err)
{
	const json_t *s;
	size_t i;
	int r = check_snapshot_name(v, name, err);

	if (r == 0)
		r = img_pool_lock(&v->pool, ret_lock, err);
	if (r == 0)
		r = check_there(v, err);
	if (r == 0)
		r = settled_snapshots(v, ret, err);
	if (r < 0)
		return r;
	json_array_foreach(*ret, i, s)
		if (streq(text_of(s, "name"), name))
			break;
	*ret_at = i;
	return 0;
}

static int no_snapshot(struct img_volume *v, const char *name, const json_t *list, struct qmp_error *err)
{
	return qmp_error_set(err, QMP_ERR_NOT_FOUND, -ENOENT, "%s has no snapshot %s%s; \"image snapshot %s list\" shows which there are",
			     v->location, name, json_array_size(list) ? "" : ", nor any other", v->location);
}

int img_volume_snapshot_create(struct img_volume *v, const char *name, struct qmp_error *err)
{
	_cleanup_fd_ int lock = -1;
	json_auto_t *list = NULL;
	size_t at;
	int r = begin_snapshot(v, name, &lock, &list, &at, err);

	if (r == 0 && at < json_array_size(list))
		return qmp_error_set(err, QMP_ERR_EXISTS, -EEXIST, "%s has a snapshot %s already; nothing was changed", v->location, name);
	return r < 0 ? r : v->pool.type->snapshots->create(&v->pool, v->name, name, err);
}

/* Those behind AT go with a rollback. */
static int refuse_newer(struct img_volume *v, const json_t *list, size_t at, bool newer, struct qmp_error *err)
{
	char names[300] = "";
	size_t n = 0;

	for (size_t i = at + 1; i < json_array_size(list); i++) {
		const json_t *s = json_array_get(list, i);
		if (text_of(s, "clone"))
			return qmp_error_set(err, QMP_ERR_STATE, -EBUSY, "the clone %s was made of %s later, and hangs on it as it was then: a pool of "
					     "the type %s cannot go back behind that; delete the clone first (image delete)", text_of(s, "clone"),
					     v->location, v->pool.type->name);
		if (n < sizeof names)
			n += (size_t)snprintf(names + n, sizeof names - n, "%s%s", n ? ", " : "", text_of(s, "name"));
	}
	return n == 0 || newer ? 0 : qmp_error_set(err, QMP_ERR_STATE, -EBUSY, "%s has newer snapshots, which a pool of the type %s loses when it goes "
						   "back: %s; --force does it all the same; nothing was changed", v->location, v->pool.type->name,
						   names);
}

/* Begins something with a snapshot that has to be there. */
static int begin_with_snapshot(struct img_volume *v, const char *name, int *ret_lock, json_t **ret_list, size_t *ret_at,
			       struct qmp_error *err)
{
	int r = begin_snapshot(v, name, ret_lock, ret_list, ret_at, err);

	return r == 0 && *ret_at == json_array_size(*ret_list) ? no_snapshot(v, name, *ret_list, err) : r;
}

int img_volume_snapshot_rollback(struct img_volume *v, const char *name, bool newer, struct qmp_error *err)
{
	_cleanup_fd_ int lock = -1;
	json_auto_t *list = NULL;
	size_t at;
	int r = begin_with_snapshot(v, name, &lock, &list, &at, err);

	if (r == 0 && v->pool.type->snapshots->newer_go)
		r = refuse_newer(v, list, at, newer, err);
	return r < 0 ? r : v->pool.type->snapshots->rollback(&v->pool, v->name, name, newer, err);
}

int img_volume_snapshot_remove(struct img_volume *v, const char *name, struct qmp_error *err)
{
	_cleanup_fd_ int lock = -1;
	json_auto_t *list = NULL;
	size_t at;
	int r = begin_with_snapshot(v, name, &lock, &list, &at, err);

	return r < 0 ? r : v->pool.type->snapshots->remove(&v->pool, v->name, name, err);
}

int img_volume_size(struct img_volume *v, uint64_t *ret, struct qmp_error *err)
{
	_cleanup_fd_ int fd = v->pool.type->size ? -1 : open(v->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	off_t end = fd >= 0 ? lseek(fd, 0, SEEK_END) : -1;

	if (v->pool.type->size)
		return v->pool.type->size(&v->pool, v->name, ret, err);
	if (end < 0)
		return qmp_error_errno(err, -errno, "%s (%s)", v->location, v->path);
	*ret = (uint64_t)end;
	return 0;
}

int img_volume_resize(struct img_volume *v, uint64_t size, bool shrink, struct qmp_error *err)
{
	_cleanup_fd_ int lock = -1;
	uint64_t now;
	int r = img_pool_lock(&v->pool, &lock, err);

	if (r == 0)
		r = check_there(v, err);
	if (r == 0)
		r = img_volume_size(v, &now, err);
	if (r == 0 && size < now && !shrink)
		r = qmp_error_set(err, QMP_ERR_USAGE, -EINVAL, "%s has %llu bytes: what is behind %llu would be lost; --shrink does it all the "
				  "same", v->location, (unsigned long long)now, (unsigned long long)size);
	return r < 0 || size == now ? r : v->pool.type->resize(&v->pool, v->name, size, err);
}

int img_volume_clone(struct img_volume *v, const char *to, struct qmp_error *err)
{
	_cleanup_fd_ int lock = -1;
	char name[VM_POOL_NAME_MAX + 1];
	const char *volume = vm_location_looks(to) == VM_VOLUME ? vm_pool_volume(to, name) : NULL;
	_cleanup_free_ char *path = volume ? img_pool_path(&v->pool, volume) : NULL;
	int r;

	if (!volume || !streq(name, v->pool.name))
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL, "%s: a clone of it that shares its blocks is made in the same pool, as %s:NAME",
				     v->location, v->pool.name);
	if (!v->pool.type->clone || !path)
		return qmp_error_set(err, QMP_ERR_UNSUPPORTED, -EOPNOTSUPP, "%s: pools of the type %s have no clones", v->location,
				     v->pool.type->name);
	r = img_pool_lock(&v->pool, &lock, err);
	if (r == 0)
		r = check_there(v, err);
	return r < 0 ? r : make(&(struct making){.v = v, .name = volume, .location = to, .path = path, .clone = true}, err);
}
