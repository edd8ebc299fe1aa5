/*
 * Pools of the type rbd: a volume is an image in a pool of a Ceph cluster, which QEMU reaches by itself; a clone is one of a
 * snapshot that was made for it.
 */
#include "images/pool.h"
#include "proto/base.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>

#define PACKAGE	 "ceph-common"
#define SNAPSHOT IMG_POOL_SNAPSHOT /* the clone NAME is of VOLUME@qmpctl-NAME */

enum { UNIT = 4096, WORDS_MAX = 24 };

/* PROGRAM with the cluster's options and the words behind ERR, which end with NULL. RET_JSON (may be NULL): what it says; new. */
static int ceph(struct img_pool *p, const char *program, const char *doing, json_t **ret_json, struct qmp_error *err, ...)
{
	const char *argv[WORDS_MAX] = {program}, *conf = text_of(p->definition, "conf"), *user = text_of(p->definition, "user");
	_cleanup_free_ char *output = NULL;
	json_t *json;
	size_t n = 1;
	va_list ap;
	int r;

	if (conf)
		argv[n++] = "--conf", argv[n++] = conf;
	if (user)
		argv[n++] = "--id", argv[n++] = user;
	va_start(ap, err);
	for (const char *word; n < WORDS_MAX - 3 && (word = va_arg(ap, const char *));)
		argv[n++] = word;
	va_end(ap);
	if (ret_json)
		argv[n++] = "--format", argv[n++] = "json";
	r = img_pool_tool(p, doing, PACKAGE, argv, &output, err);
	if (r < 0 || !ret_json)
		return r;
	json = qmp_json_decode(output, strlen(output), NULL);
	if (!json)
		return qmp_error_set(err, QMP_ERR_PROTOCOL, -EPROTO, "the pool %s: %s: %s did not answer with JSON", p->name, doing,
				     program);
	*ret_json = json;
	return 0;
}

/* "POOL/NAMESPACE": what rbd takes in the place of a pool. */
static char *pool_spec(const struct img_pool *p)
{
	const char *space = text_of(p->definition, "namespace");

	return qmp_asprintf("%s%s%s", text_of(p->definition, "pool"), space ? "/" : "", space ? space : "");
}

/* "POOL/NAMESPACE/IMAGE@SNAPSHOT"; SNAPSHOT may be NULL. */
static char *image_spec(const struct img_pool *p, const char *volume, const char *snapshot)
{
	_cleanup_free_ char *pool = pool_spec(p);

	return pool ? qmp_asprintf("%s/%s%s%s", pool, volume, snapshot ? "@" : "", snapshot ? snapshot : "") : NULL;
}

static int no_memory(const struct img_pool *p, struct qmp_error *err)
{
	return qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);
}

/* ---- What there is ---- */

/* It is the manager that counts: where none runs, nothing is known of the cluster's room. */
static int measure_rbd(struct img_pool *p, json_t *info, struct qmp_error *err)
{
	json_auto_t *df = NULL;
	const json_t *pool, *stats = NULL;
	size_t i;
	int r = ceph(p, "ceph", "asking the cluster", &df, err, "--connect-timeout", "10", "df", (char *)NULL);

	if (r < 0)
		return r;
	json_array_foreach(json_object_get(df, "pools"), i, pool)
		if (streq(text_of(pool, "name"), text_of(p->definition, "pool")))
			stats = json_object_get(pool, "stats");
	if (!stats) {
		img_pool_note(p, "the cluster does not say how full it is: no manager (ceph-mgr) counts");
		return 0;
	}
	json_object_set_new(info, "capacity", json_integer(int_of(stats, "stored") + int_of(stats, "max_avail")));
	json_object_set(info, "used", json_object_get(stats, "stored"));
	json_object_set(info, "available", json_object_get(stats, "max_avail"));
	return 0;
}

/* What IMAGE, or (NULL: it itself) its SNAPSHOT, takes, of "rbd du". */
static json_int_t used_size(const json_t *usage, const char *image, const char *snapshot)
{
	const json_t *entry;
	size_t i;

	json_array_foreach(json_object_get(usage, "images"), i, entry)
		if (text_of(entry, "name") && streq(text_of(entry, "name"), image) &&
		    (snapshot ? text_of(entry, "snapshot") && streq(text_of(entry, "snapshot"), snapshot) : !text_of(entry, "snapshot")))
			return int_of(entry, "used_size");
	return 0;
}

static int add_volume(struct img_pool *p, json_t *volumes, const json_t *image, const json_t *usage)
{
	const char *name = text_of(image, "image");
	const json_t *parent = json_object_get(image, "parent");
	json_int_t size = int_of(image, "size");
	_cleanup_free_ char *path = NULL;
	json_t *v;

	if (!name || text_of(image, "snapshot") || !vm_volume_name_valid(name) || img_pool_is_hidden(p, name))
		return 0;
	path = img_pool_path(p, name);
	if (!path)
		return 0;
	v = json_pack("{s:s, s:s, s:s, s:I, s:I, s:I}", "name", name, "path", path, "format", "raw", "capacity", size, "allocation",
		      used_size(usage, name, NULL), "physical", size);
	if (v && parent)
		json_object_set_new(v, "origin",
				    json_sprintf("%s/%s@%s", text_of(parent, "pool"), text_of(parent, "image"), text_of(parent, "snapshot")));
	return json_array_append_new(volumes, v) < 0 ? -ENOMEM : 0;
}

/* With their snapshots. */
static int list_images(struct img_pool *p, json_t **ret, struct qmp_error *err)
{
	_cleanup_free_ char *pool = pool_spec(p), *doing = pool ? qmp_asprintf("listing the images of Ceph's pool %s", pool) : NULL;

	return doing ? ceph(p, "rbd", doing, ret, err, "ls", "--long", pool, (char *)NULL) : no_memory(p, err);
}

static int list_rbd(struct img_pool *p, json_t *volumes, struct qmp_error *err)
{
	const char *space = text_of(p->definition, "namespace");
	json_auto_t *images = NULL, *usage = NULL;
	const json_t *image;
	size_t i;
	int r = list_images(p, &images, err);

	if (r == 0)
		r = ceph(p, "rbd", "asking what the images take", &usage, err, "du", "--pool", text_of(p->definition, "pool"),
			 space ? "--namespace" : NULL, space, (char *)NULL);
	json_array_foreach(images, i, image)
		if (r == 0)
			r = add_volume(p, volumes, image, usage);
	json_array_foreach(images, i, image) {
		const char *name = text_of(image, "image"), *snapshot = text_of(image, "snapshot");
		if (name && snapshot && strncmp(snapshot, SNAPSHOT, strlen(SNAPSHOT)) != 0)
			img_pool_count_snapshot(volumes, name, used_size(usage, name, snapshot));
	}
	return r;
}

static bool is_of(const struct img_pool *p, const json_t *parent, const char *volume, const char *snapshot)
{
	const char *pool = text_of(parent, "pool"), *image = text_of(parent, "image"), *of = text_of(parent, "snapshot");

	return pool && image && of && streq(pool, text_of(p->definition, "pool")) && streq(image, volume) && streq(of, snapshot);
}

/* Whether ROW of IMAGES is a snapshot that was made for a clone, and has none. */
static bool is_left(const struct img_pool *p, const json_t *images, const json_t *row)
{
	const char *volume = text_of(row, "image"), *snapshot = text_of(row, "snapshot");
	const json_t *image;
	size_t i;

	if (!volume || !snapshot || strncmp(snapshot, SNAPSHOT, strlen(SNAPSHOT)) != 0)
		return false;
	json_array_foreach(images, i, image)
		if (is_of(p, json_object_get(image, "parent"), volume, snapshot))
			return false;
	return true;
}

static int list_hidden_rbd(struct img_pool *p, json_t *entries, struct qmp_error *err)
{
	json_auto_t *images = NULL;
	const json_t *row;
	size_t i;
	int r = list_images(p, &images, err);

	json_array_foreach(images, i, row) {
		const char *name = text_of(row, "image"), *snapshot = text_of(row, "snapshot");
		if (r == 0 && is_left(p, images, row))
			r = json_array_append_new(entries, json_sprintf("%s@%s", name, snapshot)) < 0 ? -ENOMEM : 0;
		else if (r == 0 && name && !snapshot && img_pool_is_hidden(p, name))
			r = json_array_append_new(entries, json_string(name)) < 0 ? -ENOMEM : 0;
	}
	return r;
}

static int info_of(struct img_pool *p, const char *volume, json_t **ret, struct qmp_error *err)
{
	_cleanup_free_ char *image = image_spec(p, volume, NULL);

	return image ? ceph(p, "rbd", "looking at an image", ret, err, "info", image, (char *)NULL) : no_memory(p, err);
}

static int size_rbd(struct img_pool *p, const char *volume, uint64_t *ret, struct qmp_error *err)
{
	json_auto_t *images = NULL;
	const json_t *image;
	size_t i;
	int r = list_images(p, &images, err);

	if (r < 0)
		return r;
	json_array_foreach(images, i, image)
		if (!text_of(image, "snapshot") && text_of(image, "image") && streq(text_of(image, "image"), volume)) {
			*ret = (uint64_t)int_of(image, "size");
			return 0;
		}
	return qmp_error_set(err, QMP_ERR_NOT_FOUND, -ENOENT, "there is no volume %s in the pool %s", volume, p->name);
}

static int prepare_rbd(struct img_pool *p, struct qmp_error *err)
{
	json_auto_t *volumes = json_array();

	return list_rbd(p, volumes, err);
}

/* ---- Making and removing ---- */

static void bytes_of(char out[32], uint64_t size)
{
	snprintf(out, 32, "%lluB", (unsigned long long)((size + UNIT - 1) / UNIT * UNIT));
}

static int create_rbd(struct img_pool *p, const char *volume, uint64_t size, struct qmp_error *err)
{
	_cleanup_free_ char *image = image_spec(p, volume, NULL);
	char bytes[32];

	bytes_of(bytes, size);
	return image ? ceph(p, "rbd", "making an image", NULL, err, "create", "--size", bytes, image, (char *)NULL) : no_memory(p, err);
}

static int resize_rbd(struct img_pool *p, const char *volume, uint64_t size, struct qmp_error *err)
{
	_cleanup_free_ char *image = image_spec(p, volume, NULL);
	char bytes[32];

	bytes_of(bytes, size);
	if (!image)
		return no_memory(p, err);
	return ceph(p, "rbd", "resizing an image", NULL, err, "resize", "--no-progress", "--allow-shrink", "--size", bytes, image,
		    (char *)NULL);
}

/* One that was made for a clone. Where others hang on it, it stays: it is protected. */
static int remove_snapshot(struct img_pool *p, const char *snapshot, struct qmp_error *err)
{
	(void)ceph(p, "rbd", "releasing a snapshot", NULL, NULL, "snap", "unprotect", snapshot, (char *)NULL);
	return ceph(p, "rbd", "removing a snapshot", NULL, err, "snap", "rm", "--no-progress", snapshot, (char *)NULL);
}

/* rbd refuses an image that has snapshots: clones hang on them. */
static int remove_rbd(struct img_pool *p, const char *volume, struct qmp_error *err)
{
	_cleanup_free_ char *image = image_spec(p, volume, NULL), *origin = NULL;
	json_auto_t *info = NULL;
	const json_t *parent;
	int r = image ? info_of(p, volume, &info, err) : no_memory(p, err);

	if (r < 0)
		return r;
	parent = json_object_get(info, "parent");
	if (parent && streq(text_of(parent, "pool"), text_of(p->definition, "pool")) &&
	    strncmp(text_of(parent, "snapshot"), SNAPSHOT, strlen(SNAPSHOT)) == 0)
		origin = image_spec(p, text_of(parent, "image"), text_of(parent, "snapshot"));
	r = ceph(p, "rbd", "removing an image", NULL, err, "rm", "--no-progress", image, (char *)NULL);
	if (r == 0 && origin)
		(void)remove_snapshot(p, origin, NULL);
	return r;
}

static int clone_rbd(struct img_pool *p, const char *volume, const char *to, struct qmp_error *err)
{
	_cleanup_free_ char *name = qmp_asprintf(SNAPSHOT "%s", img_pool_final_name(p, to)),
			    *snapshot = name ? image_spec(p, volume, name) : NULL;
	_cleanup_free_ char *image = image_spec(p, to, NULL);
	int r = snapshot && image ? ceph(p, "rbd", "making a snapshot", NULL, err, "snap", "create", "--no-progress", snapshot,
					 (char *)NULL)
				  : no_memory(p, err);

	if (r < 0)
		return r;
	r = ceph(p, "rbd", "protecting a snapshot", NULL, err, "snap", "protect", snapshot, (char *)NULL);
	if (r == 0)
		r = ceph(p, "rbd", "making a clone", NULL, err, "clone", snapshot, image, (char *)NULL);
	if (r < 0)
		(void)remove_snapshot(p, snapshot, NULL);
	return r;
}

static int identify_rbd(struct img_pool *p, const char *volume, char **ret, struct qmp_error *err)
{
	json_auto_t *info = NULL;
	int r = info_of(p, volume, &info, err);

	if (r == 0 && !(*ret = strdup(text_of(info, "block_name_prefix") ? text_of(info, "block_name_prefix") : "")))
		r = no_memory(p, err);
	return r;
}

/* ---- Snapshots ---- */

/* As in "Sat Nov 28 21:10:00 2026". */
static json_int_t seconds_of(const char *text)
{
	struct tm tm = {.tm_isdst = -1};

	return text && strptime(text, "%a %b %d %H:%M:%S %Y", &tm) ? (json_int_t)mktime(&tm) : 0;
}

static int list_snapshots_rbd(struct img_pool *p, const char *volume, json_t *snapshots, struct qmp_error *err)
{
	_cleanup_free_ char *image = image_spec(p, volume, NULL);
	json_auto_t *list = NULL;
	const json_t *row;
	size_t i;
	int r = image ? ceph(p, "rbd", "listing the snapshots of an image", &list, err, "snap", "ls", image, (char *)NULL) : no_memory(p, err);

	json_array_foreach(list, i, row) {
		const char *name = text_of(row, "name");
		json_t *s = name ? json_pack("{s:s, s:I, s:I}", "name", name, "created", seconds_of(text_of(row, "timestamp")), "capacity",
					     (json_int_t)int_of(row, "size"))
				 : NULL;
		if (s && strncmp(name, SNAPSHOT, strlen(SNAPSHOT)) == 0)
			json_object_set_new(s, "clone", json_string(name + strlen(SNAPSHOT)));
		if (r == 0 && name)
			r = json_array_append_new(snapshots, s) < 0 ? -ENOMEM : 0;
		else
			json_decref(s);
	}
	return r;
}

static int snap(struct img_pool *p, const char *doing, const char *action, const char *volume, const char *name, struct qmp_error *err)
{
	_cleanup_free_ char *snapshot = image_spec(p, volume, name);

	return snapshot ? ceph(p, "rbd", doing, NULL, err, "snap", action, "--no-progress", snapshot, (char *)NULL) : no_memory(p, err);
}

static int create_snapshot_rbd(struct img_pool *p, const char *volume, const char *name, struct qmp_error *err)
{
	return snap(p, "making a snapshot", "create", volume, name, err);
}

static int rollback_rbd(struct img_pool *p, const char *volume, const char *name, bool newer, struct qmp_error *err)
{
	UNUSED(newer);
	return snap(p, "going back to a snapshot", "rollback", volume, name, err);
}

static int remove_snapshot_rbd(struct img_pool *p, const char *volume, const char *name, struct qmp_error *err)
{
	_cleanup_free_ char *snapshot = image_spec(p, volume, name);

	if (snapshot && strncmp(name, SNAPSHOT, strlen(SNAPSHOT)) == 0)
		return remove_snapshot(p, snapshot, err);
	return snap(p, "removing a snapshot", "rm", volume, name, err);
}

static const struct img_pool_snapshots snapshots_rbd = {
	.list = list_snapshots_rbd,
	.create = create_snapshot_rbd,
	.rollback = rollback_rbd,
	.remove = remove_snapshot_rbd,
};

static int rename_rbd(struct img_pool *p, const char *volume, const char *to, struct qmp_error *err)
{
	_cleanup_free_ char *from = image_spec(p, volume, NULL), *image = image_spec(p, to, NULL);

	return from && image ? ceph(p, "rbd", "renaming an image", NULL, err, "rename", from, image, (char *)NULL) : no_memory(p, err);
}

const struct img_pool_type img_pool_rbd = {
	.name = "rbd",
	.zeroes = true,
	.hidden = IMG_POOL_HIDDEN,
	.list_hidden = list_hidden_rbd,
	.prepare = prepare_rbd,
	.measure = measure_rbd,
	.list = list_rbd,
	.create = create_rbd,
	.remove = remove_rbd,
	.resize = resize_rbd,
	.clone = clone_rbd,
	.identify = identify_rbd,
	.rename = rename_rbd,
	.snapshots = &snapshots_rbd,
	.size = size_rbd,
};
