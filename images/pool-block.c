/*
 * Pools of the type block: the volumes are the devices that are there. They are made by the field's tools (fdisk, mdadm, ...);
 * here they are listed, with who has them on the host and how their md arrays are.
 */
#include "images/place.h"
#include "images/pool.h"
#include "proto/base.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

static int check_folder(struct img_pool *p, struct qmp_error *err)
{
	const char *path = text_of(p->definition, "path");
	struct stat st;

	if (stat(path, &st) < 0)
		return qmp_error_errno(err, -errno, "%s", path);
	return S_ISDIR(st.st_mode) ? 0 : qmp_error_set(err, QMP_ERR_HOST, -ENOTDIR, "%s is no folder; a single device is named by its "
						       "folder and \"only\"", path);
}

static int list_block(struct img_pool *p, json_t *volumes, struct qmp_error *err)
{
	size_t first = json_array_size(volumes), i;
	json_t *v;
	int r = img_pool_list_folder(p, text_of(p->definition, "path"), volumes, err);

	for (i = json_array_size(volumes); i > first && r == 0; i--) {
		struct stat st;
		json_t *md;
		v = json_array_get(volumes, i - 1);
		if (stat(text_of(v, "path"), &st) < 0 || !S_ISBLK(st.st_mode)) {
			json_array_remove(volumes, i - 1);
			continue;
		}
		json_object_set_new(v, "in-use-by-host", json_boolean(img_place_host_has(text_of(v, "path"))));
		md = img_place_md(st.st_rdev);
		if (md)
			json_object_set_new(v, "md", md);
	}
	return r;
}

static int measure_block(struct img_pool *p, json_t *info, struct qmp_error *err)
{
	json_auto_t *volumes = json_array();
	json_int_t capacity = 0;
	const json_t *v;
	size_t i;
	int r = check_folder(p, err);

	if (r == 0)
		r = list_block(p, volumes, err);
	json_array_foreach(volumes, i, v) {
		const json_t *md = json_object_get(v, "md");
		capacity += int_of(v, "physical");
		if (json_is_true(json_object_get(v, "in-use-by-host")))
			img_pool_note(p, "%s is in use by the host itself: mounted, swap, or part of something else", text_of(v, "name"));
		if (md && !json_is_true(json_object_get(md, "healthy")))
			img_pool_note(p, "the md array %s is %s", text_of(v, "name"), text_of(md, "health"));
	}
	json_object_set_new(info, "capacity", json_integer(capacity));
	json_object_set_new(info, "used", json_integer(capacity));
	json_object_set_new(info, "available", json_integer(0));
	return r;
}

static int not_here(struct img_pool *p, const char *doing, struct qmp_error *err)
{
	return qmp_error_set(err, QMP_ERR_UNSUPPORTED, -EOPNOTSUPP, "the pool %s has the devices that are there: %s one is done with the "
			     "tools that they are from (fdisk, mdadm, ...)", p->name, doing);
}

static int create_block(struct img_pool *p, const char *volume, uint64_t size, struct qmp_error *err)
{
	UNUSED(volume);
	UNUSED(size);
	return not_here(p, "making", err);
}

static int remove_block(struct img_pool *p, const char *volume, struct qmp_error *err)
{
	UNUSED(volume);
	return not_here(p, "removing", err);
}

static int resize_block(struct img_pool *p, const char *volume, uint64_t size, struct qmp_error *err)
{
	UNUSED(volume);
	UNUSED(size);
	return not_here(p, "resizing", err);
}

const struct img_pool_type img_pool_block = {
	.name = "block",
	.prepare = check_folder,
	.measure = measure_block,
	.list = list_block,
	.create = create_block,
	.remove = remove_block,
	.resize = resize_block,
};
