/*
 * Pools of the types dir and mount: volumes are files in a folder.
 */
#include "images/draft.h"
#include "images/place.h"
#include "images/pool.h"
#include "proto/base.h"

#include <sys/stat.h>

/* The folder itself is made, its parents are not: they would be a misspelt path. */
static int prepare_dir(struct img_pool *p, struct qmp_error *err)
{
	const char *path = text_of(p->definition, "path");
	struct stat st;
	int r = vm_folder_make(path);

	if (r < 0)
		return qmp_error_errno(err, r, "making the pool's folder %s", path);
	if (stat(path, &st) < 0)
		return qmp_error_errno(err, -errno, "%s", path);
	return S_ISDIR(st.st_mode) ? 0 : qmp_error_set(err, QMP_ERR_HOST, -ENOTDIR, "%s is no folder", path);
}

static int refresh_dir(struct img_pool *p, struct qmp_error *err)
{
	UNUSED(err);
	img_draft_sweep(text_of(p->definition, "path"));
	return 0;
}

static int measure_dir(struct img_pool *p, json_t *info, struct qmp_error *err)
{
	const char *path = text_of(p->definition, "path");

	/* The default pool's folder comes with the first image. */
	if (access(path, F_OK) < 0 && errno == ENOENT && streq(p->name, VM_POOL_DEFAULT))
		path = p->dirs->state;
	return access(path, F_OK) < 0 && errno == ENOENT && streq(p->name, VM_POOL_DEFAULT)
		       ? img_pool_measure_folder(p, "/", info, err)
		       : img_pool_measure_folder(p, path, info, err);
}

static int list_dir(struct img_pool *p, json_t *volumes, struct qmp_error *err)
{
	const char *path = text_of(p->definition, "path");

	if (streq(p->name, VM_POOL_DEFAULT) && access(path, F_OK) < 0 && errno == ENOENT)
		return 0;
	return img_pool_list_folder(p, path, volumes, err);
}

const struct img_pool_type img_pool_dir = {
	.name = "dir",
	.prepare = prepare_dir,
	.refresh = refresh_dir,
	.measure = measure_dir,
	.list = list_dir,
};

/* ---- mount ---- */

/* What is written to the folder below would be on another disk, and out of sight once it is mounted. */
static int check_mounted(struct img_pool *p, struct qmp_error *err)
{
	const char *path = text_of(p->definition, "path");
	json_auto_t *mount = img_place_mount(path);

	if (access(path, F_OK) < 0)
		return qmp_error_errno(err, -errno, "%s", path);
	if (mount && text_of(mount, "path") && streq(text_of(mount, "path"), path))
		return 0;
	return qmp_error_set(err, QMP_ERR_HOST, -ENODEV, "nothing is mounted at %s; mount it first, or make the pool one of the "
			     "type dir", path);
}

static int refresh_mount(struct img_pool *p, struct qmp_error *err)
{
	int r = check_mounted(p, err);

	return r < 0 ? r : refresh_dir(p, err);
}

static int measure_mount(struct img_pool *p, json_t *info, struct qmp_error *err)
{
	int r = check_mounted(p, err);

	return r < 0 ? r : img_pool_measure_folder(p, text_of(p->definition, "path"), info, err);
}

const struct img_pool_type img_pool_mount = {
	.name = "mount",
	.prepare = check_mounted,
	.refresh = refresh_mount,
	.measure = measure_mount,
	.list = list_dir,
};
