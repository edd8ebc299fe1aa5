/*
 * Pools of the types lvm and lvm-thin: a volume is a logical volume.
 *
 * Everything is asked of and told LVM's own commands (lvm(8)); their reports are JSON. A snapshot of the volume V is the logical
 * volume V.NAME with the tag qmpctl-snapshot=V:NAME.
 */
#include "images/pool.h"
#include "proto/base.h"

#include <stdio.h>

#define PACKAGE "lvm2"
#define FULL	80 /* percent: from there on it is said */
#define TAG	"qmpctl-snapshot="

static const char *vg_of(const struct img_pool *p)
{
	return text_of(p->definition, "vg");
}

static const char *thin_of(const struct img_pool *p)
{
	return text_of(p->definition, "thin-pool");
}

/* ---- Reports ---- */

/* The rows of one: RET new. */
static int report(struct img_pool *p, const char *command, const char *kind, const char *fields, const char *what, json_t **ret,
		  struct qmp_error *err)
{
	const char *const argv[] = {command, "--config", "report{time_format=\"%s\"}", "--reportformat", "json", "--units", "b", "--nosuffix",
				    "-o", fields, "--", what, NULL};
	_cleanup_free_ char *output = NULL;
	json_auto_t *whole = NULL;
	int r = img_pool_tool(p, "asking LVM", PACKAGE, argv, &output, err);
	json_t *rows;

	if (r < 0)
		return r;
	whole = json_loads(output, 0, NULL);
	rows = json_object_get(json_array_get(json_object_get(whole, "report"), 0), kind);
	if (!rows)
		return qmp_error_set(err, QMP_ERR_HOST, -EBADMSG, "the pool %s: %s gave no report", p->name, command);
	*ret = json_incref(rows);
	return 0;
}

/* LVM's numbers are strings, "" where there is none. */
static int64_t number(const json_t *row, const char *key)
{
	const char *text = text_of(row, key);

	return text ? strtoll(text, NULL, 10) : 0;
}

static const char *word(const json_t *row, const char *key)
{
	const char *text = text_of(row, key);

	return text ? text : "";
}

#define LV_FIELDS "lv_name,lv_size,lv_attr,origin,origin_size,data_percent,metadata_percent,pool_lv,lv_tags,lv_time"

static int list_lvs(struct img_pool *p, json_t **ret, struct qmp_error *err)
{
	return report(p, "lvs", "lv", LV_FIELDS, vg_of(p), ret, err);
}

/* "VOLUME:NAME" of the snapshot that ROW is, up to a comma; NULL: it is none. */
static const char *snapshot_in(const json_t *row)
{
	const char *tag = strstr(word(row, "lv_tags"), TAG);

	return tag ? tag + strlen(TAG) : NULL;
}

/* The name of the snapshot of VOLUME that ROW is; new; NULL: it is none. */
static char *snapshot_of(const json_t *row, const char *volume)
{
	const char *of = snapshot_in(row);
	size_t n = strlen(volume);

	return of && strncmp(of, volume, n) == 0 && of[n] == ':' ? strndup(of + n + 1, strcspn(of + n + 1, ",")) : NULL;
}

/* Whether ROW is a volume of the pool, and not one that LVM keeps for itself. */
static bool is_volume(const struct img_pool *p, const json_t *row)
{
	const char *attr = word(row, "lv_attr");

	if (img_pool_is_hidden(p, word(row, "lv_name")) || snapshot_in(row))
		return false;
	return thin_of(p) ? *attr == 'V' && streq(word(row, "pool_lv"), thin_of(p)) : *attr && !strchr("VtTdDelpiI", *attr);
}

static int64_t allocation_of(const struct img_pool *p, const json_t *row)
{
	int64_t size = number(row, "lv_size");

	return thin_of(p) ? (int64_t)((double)size * strtod(word(row, "data_percent"), NULL) / 100) : size;
}

static int add_lv(struct img_pool *p, json_t *volumes, const json_t *row)
{
	_cleanup_free_ char *path = img_pool_path(p, word(row, "lv_name"));
	int64_t size = number(row, "lv_size"), origin = number(row, "origin_size");
	bool snapshot = !thin_of(p) && origin > 0; /* its own size is that of the room for changes */
	json_t *v;

	v = json_pack("{s:s, s:s*, s:s, s:I, s:I, s:I}", "name", word(row, "lv_name"), "path", path, "format", "raw", "capacity",
		      (json_int_t)(snapshot ? origin : size), "allocation", (json_int_t)allocation_of(p, row), "physical",
		      (json_int_t)(snapshot ? origin : size));
	if (v && *word(row, "origin"))
		json_object_set_new(v, "origin", json_string(word(row, "origin")));
	if (v && strlen(word(row, "lv_attr")) > 4)
		json_object_set_new(v, "active", json_boolean(word(row, "lv_attr")[4] == 'a'));
	if (v && snapshot && strtod(word(row, "data_percent"), NULL) >= FULL)
		img_pool_note(p, "the snapshot %s has %s %% of its room used; at 100 it is lost", word(row, "lv_name"),
			      word(row, "data_percent"));
	return json_array_append_new(volumes, v) < 0 ? -ENOMEM : 0;
}

static int list_lvm(struct img_pool *p, json_t *volumes, struct qmp_error *err)
{
	json_auto_t *rows = NULL;
	json_t *row;
	size_t i;
	int r = list_lvs(p, &rows, err);

	json_array_foreach(rows, i, row)
		if (r == 0 && is_volume(p, row))
			r = add_lv(p, volumes, row);
	json_array_foreach(rows, i, row) {
		const char *of = snapshot_in(row);
		_cleanup_free_ char *volume = of ? strndup(of, strcspn(of, ":")) : NULL;
		if (volume)
			img_pool_count_snapshot(volumes, volume, allocation_of(p, row));
	}
	return r;
}

static int list_hidden_lvm(struct img_pool *p, json_t *names, struct qmp_error *err)
{
	json_auto_t *rows = NULL;
	json_t *row;
	size_t i;
	int r = list_lvs(p, &rows, err);

	json_array_foreach(rows, i, row)
		if (r == 0 && img_pool_is_hidden(p, word(row, "lv_name")))
			r = json_array_append(names, json_object_get(row, "lv_name")) < 0 ? -ENOMEM : 0;
	return r;
}

static int measure_lvm(struct img_pool *p, json_t *info, struct qmp_error *err)
{
	json_auto_t *rows = NULL;
	int r = report(p, "vgs", "vg", "vg_size,vg_free,vg_attr,vg_missing_pv_count", vg_of(p), &rows, err);
	const json_t *vg = json_array_get(rows, 0);

	if (r < 0)
		return r;
	json_object_set_new(info, "capacity", json_integer(number(vg, "vg_size")));
	json_object_set_new(info, "used", json_integer(number(vg, "vg_size") - number(vg, "vg_free")));
	json_object_set_new(info, "available", json_integer(number(vg, "vg_free")));
	if (number(vg, "vg_missing_pv_count") > 0)
		img_pool_note(p, "%lld of the volume group's devices are missing", (long long)number(vg, "vg_missing_pv_count"));
	return 0;
}

static int measure_thin(struct img_pool *p, json_t *info, struct qmp_error *err)
{
	json_auto_t *rows = NULL;
	json_t *row;
	size_t i;
	int r = list_lvs(p, &rows, err);

	json_array_foreach(rows, i, row) {
		int64_t size = number(row, "lv_size");
		double data = strtod(word(row, "data_percent"), NULL), metadata = strtod(word(row, "metadata_percent"), NULL);
		int64_t used = (int64_t)((double)size * data / 100);
		if (!streq(word(row, "lv_name"), thin_of(p)) || *word(row, "lv_attr") != 't')
			continue;
		json_object_set_new(info, "capacity", json_integer(size));
		json_object_set_new(info, "used", json_integer(used));
		json_object_set_new(info, "available", json_integer(size - used));
		json_object_set_new(info, "metadata-percent", json_real(metadata));
		if (data >= FULL || metadata >= FULL)
			img_pool_note(p, "the thin pool is filling up: data %.0f %%, metadata %.0f %%; when it is full, guests get I/O errors. "
				      "Make it larger (lvextend %s/%s)", data, metadata, vg_of(p), thin_of(p));
		return 0;
	}
	return r < 0 ? r : qmp_error_set(err, QMP_ERR_HOST, -ENOENT, "the volume group %s has no thin pool %s; \"lvcreate --type thin-pool -L "
					 "SIZE -n %s %s\" makes one", vg_of(p), thin_of(p), thin_of(p), vg_of(p));
}

/* ---- Changes ---- */

static int run(struct img_pool *p, const char *doing, const char *const *argv, struct qmp_error *err)
{
	return img_pool_tool(p, doing, PACKAGE, argv, NULL, err);
}

static int remove_lv(struct img_pool *p, const char *name, struct qmp_error *err)
{
	_cleanup_free_ char *lv = qmp_asprintf("%s/%s", vg_of(p), name);

	if (!lv)
		return qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);
	return run(p, "removing a logical volume", (const char *[]){"lvremove", "--quiet", "--yes", "--", lv, NULL}, err);
}

/* That of a volume of the pool, and of nothing else in the volume group. */
static int remove_lvm(struct img_pool *p, const char *volume, struct qmp_error *err)
{
	json_auto_t *rows = NULL;
	json_t *row;
	size_t i;
	int r = list_lvs(p, &rows, err);

	json_array_foreach(rows, i, row)
		if (streq(word(row, "lv_name"), volume) && (is_volume(p, row) || img_pool_is_hidden(p, volume)))
			return remove_lv(p, volume, err);
	return r < 0 ? r : qmp_error_set(err, QMP_ERR_NOT_FOUND, -ENOENT, "the pool %s has no volume %s", p->name, volume);
}

static int create_lvm(struct img_pool *p, const char *volume, uint64_t size, struct qmp_error *err)
{
	char bytes[32];

	snprintf(bytes, sizeof bytes, "%llub", (unsigned long long)size);
	if (thin_of(p))
		return run(p, "making a logical volume",
			   (const char *[]){"lvcreate", "--quiet", "--yes", "--thin", "--virtualsize", bytes, "--name", volume, "--thinpool",
					    thin_of(p), "--", vg_of(p), NULL},
			   err);
	return run(p, "making a logical volume",
		   (const char *[]){"lvcreate", "--quiet", "--yes", "--wipesignatures", "y", "--zero", "y", "--size", bytes, "--name",
				    volume, "--", vg_of(p), NULL},
		   err);
}

/* Of a volume that is not thin, what is not of ROWS' volume itself, but has its blocks: snapshots, and clones. */
static bool hangs_on(const struct img_pool *p, const json_t *row, const char *volume)
{
	return !thin_of(p) && streq(word(row, "origin"), volume);
}

static int list_snapshots_lvm(struct img_pool *p, const char *volume, json_t *snapshots, struct qmp_error *err)
{
	json_auto_t *rows = NULL;
	json_t *row;
	size_t i;
	int r = list_lvs(p, &rows, err);

	json_array_foreach(rows, i, row) {
		_cleanup_free_ char *name = snapshot_of(row, volume);
		const char *lv = word(row, "lv_name");
		int64_t size = number(row, "origin_size") && !thin_of(p) ? number(row, "origin_size") : number(row, "lv_size");
		json_t *s;
		if (r < 0 || (!name && !hangs_on(p, row, volume)))
			continue;
		s = json_pack("{s:s, s:I, s:I, s:I}", "name", name ? name : lv, "created", (json_int_t)number(row, "lv_time"), "capacity",
			      (json_int_t)size, "allocation", (json_int_t)allocation_of(p, row));
		if (s && !name)
			json_object_set_new(s, "clone", json_string(lv));
		r = json_array_append_new(snapshots, s) < 0 ? -ENOMEM : 0;
	}
	return r;
}

/* Whether it may lose what is behind SIZE was decided by the caller. */
static int resize_lvm(struct img_pool *p, const char *volume, uint64_t size, struct qmp_error *err)
{
	_cleanup_free_ char *lv = qmp_asprintf("%s/%s", vg_of(p), volume);
	char bytes[32];

	snprintf(bytes, sizeof bytes, "%llub", (unsigned long long)size);
	if (!lv)
		return qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);
	return run(p, "resizing a logical volume",
		   (const char *[]){"lvresize", "--quiet", "--yes", "--force", "--size", bytes, "--", lv, NULL}, err);
}

/* Of a volume that is not thin: with as much room for changes as it is large, so that it never fills up. */
static int clone_lvm(struct img_pool *p, const char *volume, const char *to, struct qmp_error *err)
{
	_cleanup_free_ char *lv = qmp_asprintf("%s/%s", vg_of(p), volume);

	if (!lv)
		return qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);
	if (thin_of(p))
		return run(p, "making a snapshot",
			   (const char *[]){"lvcreate", "--quiet", "--yes", "--snapshot", "--setactivationskip", "n", "--name", to, "--", lv,
					    NULL},
			   err);
	return run(p, "making a snapshot",
		   (const char *[]){"lvcreate", "--quiet", "--yes", "--snapshot", "--extents", "100%ORIGIN", "--name", to, "--", lv, NULL},
		   err);
}

static int identify_lvm(struct img_pool *p, const char *volume, char **ret, struct qmp_error *err)
{
	_cleanup_free_ char *lv = qmp_asprintf("%s/%s", vg_of(p), volume);
	json_auto_t *rows = NULL;
	int r = lv ? report(p, "lvs", "lv", "lv_uuid", lv, &rows, err) : -ENOMEM;

	*ret = r == 0 ? strdup(word(json_array_get(rows, 0), "lv_uuid")) : NULL;
	return *ret ? 0 : r < 0 && lv ? r : qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);
}

static int create_snapshot_lvm(struct img_pool *p, const char *volume, const char *name, struct qmp_error *err)
{
	_cleanup_free_ char *lv = qmp_asprintf("%s/%s", vg_of(p), volume), *to = qmp_asprintf("%s.%s", volume, name);
	_cleanup_free_ char *tag = qmp_asprintf(TAG "%s:%s", volume, name);

	if (!lv || !to || !tag)
		return qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);
	if (thin_of(p))
		return run(p, "making a snapshot",
			   (const char *[]){"lvcreate", "--quiet", "--yes", "--snapshot", "--setactivationskip", "n", "--addtag", tag, "--name",
					    to, "--", lv, NULL},
			   err);
	return run(p, "making a snapshot",
		   (const char *[]){"lvcreate", "--quiet", "--yes", "--snapshot", "--extents", "100%ORIGIN", "--addtag", tag, "--name", to,
				    "--", lv, NULL},
		   err);
}

static int remove_snapshot_lvm(struct img_pool *p, const char *volume, const char *name, struct qmp_error *err)
{
	_cleanup_free_ char *lv = qmp_asprintf("%s.%s", volume, name);

	return lv ? remove_lv(p, lv, err) : qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);
}

/*
 * LVM's merge uses the snapshot up: it is made again, of what is the same then. A thin one takes the volume's place with all that
 * is its own, so that its tag has to go first.
 */
static int rollback_lvm(struct img_pool *p, const char *volume, const char *name, bool newer, struct qmp_error *err)
{
	_cleanup_free_ char *lv = qmp_asprintf("%s/%s.%s", vg_of(p), volume, name), *tag = qmp_asprintf(TAG "%s:%s", volume, name);
	json_auto_t *rows = NULL;
	const json_t *row;
	size_t i;
	int r = lv && tag ? run(p, "going back to a snapshot",
				(const char *[]){"lvchange", "--quiet", "--yes", "--deltag", tag, "--", lv, NULL}, err)
			  : qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);

	UNUSED(newer);
	if (r == 0)
		r = run(p, "going back to a snapshot",
			(const char *[]){"lvconvert", "--quiet", "--yes", "--interval", "1", "--merge", "--", lv, NULL}, err);
	if (r == 0)
		r = list_lvs(p, &rows, err);
	json_array_foreach(rows, i, row)
		if (r == 0 && streq(word(row, "lv_name"), strchr(lv, '/') + 1))
			return qmp_error_set(err, QMP_ERR_STATE, -EBUSY, "the volume %s is in use: it goes back to %s when it is next activated (pool "
					     "refresh, once nobody has it)", volume, name);
	return r < 0 ? r : create_snapshot_lvm(p, volume, name, err);
}

static const struct img_pool_snapshots snapshots_lvm = {
	.list = list_snapshots_lvm,
	.create = create_snapshot_lvm,
	.rollback = rollback_lvm,
	.remove = remove_snapshot_lvm,
};

static int rename_lvm(struct img_pool *p, const char *volume, const char *to, struct qmp_error *err)
{
	return run(p, "renaming a logical volume", (const char *[]){"lvrename", "--quiet", "--yes", "--", vg_of(p), volume, to, NULL}, err);
}

static int refresh_lvm(struct img_pool *p, struct qmp_error *err)
{
	return run(p, "activating the volume group", (const char *[]){"vgchange", "--quiet", "--activate", "y", "--", vg_of(p), NULL}, err);
}

/* That it is there. */
static int prepare_lvm(struct img_pool *p, struct qmp_error *err)
{
	json_auto_t *info = json_object();

	return p->type->measure(p, info, err);
}

const struct img_pool_type img_pool_lvm = {
	.name = "lvm",
	.clones_are_fixed = true,
	.hidden = IMG_POOL_HIDDEN,
	.list_hidden = list_hidden_lvm,
	.prepare = prepare_lvm,
	.refresh = refresh_lvm,
	.measure = measure_lvm,
	.list = list_lvm,
	.create = create_lvm,
	.remove = remove_lvm,
	.resize = resize_lvm,
	.clone = clone_lvm,
	.identify = identify_lvm,
	.rename = rename_lvm,
	.snapshots = &snapshots_lvm,
};

const struct img_pool_type img_pool_lvm_thin = {
	.name = "lvm-thin",
	.zeroes = true,
	.clones_are_free = true,
	.hidden = IMG_POOL_HIDDEN,
	.list_hidden = list_hidden_lvm,
	.prepare = prepare_lvm,
	.refresh = refresh_lvm,
	.measure = measure_thin,
	.list = list_lvm,
	.create = create_lvm,
	.remove = remove_lvm,
	.resize = resize_lvm,
	.clone = clone_lvm,
	.identify = identify_lvm,
	.rename = rename_lvm,
	.snapshots = &snapshots_lvm,
};
