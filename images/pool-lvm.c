/*
 * Pools of the types lvm and lvm-thin: a volume is a logical volume.
 *
 * Everything is asked of and told LVM's own commands (lvm(8)); their reports are JSON. A snapshot of the volume V is the logical
 * volume V.NAME with the tag qmpctl-snapshot=V:NAME:WHEN, in nanoseconds.
 *
 * The way back to one has several steps, and whoever finds a half of it goes on, or takes it back (settle):
 * - not thin: V gets the snapshot's tag; LVM merges the snapshot, which is used up by that; it is taken again; V loses the tag.
 * - thin: LVM would merge a snapshot only as long as V is the very one that it was taken of, which after another way back V is no
 *   more. So a snapshot of it is taken, qmpctl-back.V; V goes out of its way, as qmpctl-new.V; qmpctl-back.V becomes V.
 */
#include "images/pool.h"
#include "proto/base.h"

#include <stdio.h>
#include <time.h>

#define PACKAGE "lvm2"
#define FULL	80 /* percent: from there on it is said */
#define TAG	"qmpctl-snapshot="
#define BACK	"qmpctl-back."

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

/* "VOLUME:NAME:WHEN" of a snapshot, up to a comma; NULL: ROW has no such tag. */
static const char *tag_of(const json_t *row)
{
	const char *tag = strstr(word(row, "lv_tags"), TAG);

	return tag ? tag + strlen(TAG) : NULL;
}

/* Whether ROW has the tag of a snapshot of its own: it goes back to that. */
static bool goes_back(const json_t *row)
{
	const char *tag = tag_of(row), *name = word(row, "lv_name");
	size_t n = strlen(name);

	return tag && strncmp(tag, name, n) == 0 && tag[n] == ':';
}

/* The tag's text where ROW is a snapshot; NULL: it is none. */
static const char *snapshot_in(const json_t *row)
{
	return goes_back(row) ? NULL : tag_of(row);
}

/* The name of the snapshot of VOLUME that is in a tag; new; NULL: it is of another one, or TAG is NULL. */
static char *snapshot_of(const char *tag, const char *volume)
{
	size_t n = strlen(volume);

	return tag && strncmp(tag, volume, n) == 0 && tag[n] == ':' ? strndup(tag + n + 1, strcspn(tag + n + 1, ":,")) : NULL;
}

/* When the snapshot of the tag was made, in nanoseconds since 1970. */
static int64_t when_of(const json_t *row)
{
	const char *tag = tag_of(row), *colon = tag ? strchr(tag, ':') : NULL;
	const char *when = colon ? colon + 1 + strcspn(colon + 1, ":,") : "";

	return *when == ':' ? strtoll(when + 1, NULL, 10) : number(row, "lv_time") * 1000000000;
}

/* Whether ROW is to take a thin volume's place. */
static bool is_on_way(const json_t *row)
{
	return strncmp(word(row, "lv_name"), BACK, strlen(BACK)) == 0;
}

/* Whether ROW is a volume of the pool, and not one that LVM keeps for itself. */
static bool is_volume(const struct img_pool *p, const json_t *row)
{
	const char *attr = word(row, "lv_attr");

	if (img_pool_is_hidden(p, word(row, "lv_name")) || snapshot_in(row) || is_on_way(row))
		return false;
	return thin_of(p) ? *attr == 'V' && streq(word(row, "pool_lv"), thin_of(p)) : *attr && !strchr("VtTdDelpiI", *attr);
}

static int64_t allocation_of(const struct img_pool *p, const json_t *row)
{
	int64_t size = number(row, "lv_size");

	return thin_of(p) ? (int64_t)((double)size * strtod(word(row, "data_percent"), NULL) / 100) : size;
}

/* What ROW is a clone of; NULL: of nothing. One that went back is no clone of its snapshot. */
static const char *origin_of(const json_t *row)
{
	const char *origin = word(row, "origin"), *name = word(row, "lv_name");
	size_t n = strlen(name);

	return *origin && !(strncmp(origin, name, n) == 0 && origin[n] == '.') ? origin : NULL;
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
	if (v && origin_of(row))
		json_object_set_new(v, "origin", json_string(origin_of(row)));
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

static int rename_lvm(struct img_pool *p, const char *volume, const char *to, struct qmp_error *err)
{
	return run(p, "renaming a logical volume", (const char *[]){"lvrename", "--quiet", "--yes", "--", vg_of(p), volume, to, NULL}, err);
}

/* The one named NAME, out of all; NULL: there is none. */
static const json_t *row_of(const json_t *rows, const char *name)
{
	const json_t *row;
	size_t i;

	json_array_foreach(rows, i, row)
		if (streq(word(row, "lv_name"), name))
			return row;
	return NULL;
}

/* That of a volume of the pool, and of nothing else in the volume group. RET_ROWS has it in it. */
static int find_volume(struct img_pool *p, const char *volume, json_t **ret_rows, const json_t **ret, struct qmp_error *err)
{
	int r = list_lvs(p, ret_rows, err);

	*ret = r == 0 ? row_of(*ret_rows, volume) : NULL;
	if (*ret && (is_volume(p, *ret) || img_pool_is_hidden(p, volume)))
		return 0;
	return r < 0 ? r : qmp_error_set(err, QMP_ERR_NOT_FOUND, -ENOENT, "the pool %s has no volume %s", p->name, volume);
}

static int remove_lvm(struct img_pool *p, const char *volume, struct qmp_error *err)
{
	json_auto_t *rows = NULL;
	const json_t *row;
	int r = find_volume(p, volume, &rows, &row, err);

	return r < 0 ? r : remove_lv(p, volume, err);
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

/* What LVM can do with a volume that is not thin: with one that is a clone, nothing of this. */
static int refuse_clone(struct img_pool *p, const char *volume, const char *what, struct qmp_error *err)
{
	json_auto_t *rows = NULL;
	const json_t *row;
	int r = thin_of(p) ? 0 : find_volume(p, volume, &rows, &row, err);

	if (r < 0 || thin_of(p) || !*word(row, "origin"))
		return r;
	return qmp_error_set(err, QMP_ERR_STATE, -EOPNOTSUPP, "%s:%s is a clone of %s:%s, and %s; a full copy of it (image clone --full) is a volume like "
			     "others, and a pool of the type lvm-thin has no such limits; nothing was changed", p->name, volume, p->name,
			     word(row, "origin"), what);
}

/* Whether it may lose what is behind SIZE was decided by the caller. */
static int resize_lvm(struct img_pool *p, const char *volume, uint64_t size, struct qmp_error *err)
{
	_cleanup_free_ char *lv = qmp_asprintf("%s/%s", vg_of(p), volume);
	char bytes[32];
	int r = refuse_clone(p, volume, "LVM keeps it at the size of that", err);

	snprintf(bytes, sizeof bytes, "%llub", (unsigned long long)size);
	if (r < 0 || !lv)
		return r < 0 ? r : qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);
	return run(p, "resizing a logical volume",
		   (const char *[]){"lvresize", "--quiet", "--yes", "--force", "--size", bytes, "--", lv, NULL}, err);
}

/* TAG: may be NULL. Of a volume that is not thin: with as much room for changes as it is large, so that it never fills up. */
static int take_snapshot(struct img_pool *p, const char *volume, const char *to, const char *tag, struct qmp_error *err)
{
	_cleanup_free_ char *lv = qmp_asprintf("%s/%s", vg_of(p), volume);
	const char *argv[16] = {"lvcreate", "--quiet", "--yes", "--snapshot", thin_of(p) ? "--setactivationskip" : "--extents",
				thin_of(p) ? "n" : "100%ORIGIN", "--name", to};
	size_t n = 8;
	int r = lv ? refuse_clone(p, volume, "LVM takes no snapshots of it", err) : qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);

	if (tag) {
		argv[n++] = "--addtag";
		argv[n++] = tag;
	}
	argv[n++] = "--";
	argv[n++] = lv;
	return r < 0 ? r : run(p, "making a snapshot", argv, err);
}

static int clone_lvm(struct img_pool *p, const char *volume, const char *to, struct qmp_error *err)
{
	return take_snapshot(p, volume, to, NULL, err);
}

static int identify_lvm(struct img_pool *p, const char *volume, char **ret, struct qmp_error *err)
{
	_cleanup_free_ char *lv = qmp_asprintf("%s/%s", vg_of(p), volume);
	json_auto_t *rows = NULL;
	int r = lv ? report(p, "lvs", "lv", "lv_uuid", lv, &rows, err) : -ENOMEM;

	*ret = r == 0 ? strdup(word(json_array_get(rows, 0), "lv_uuid")) : NULL;
	return *ret ? 0 : r < 0 && lv ? r : qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);
}

/* ---- Snapshots ---- */

static char *snapshot_lv(const char *volume, const char *name)
{
	return qmp_asprintf("%s.%s", volume, name);
}

static int create_snapshot_lvm(struct img_pool *p, const char *volume, const char *name, struct qmp_error *err)
{
	_cleanup_free_ char *to = snapshot_lv(volume, name), *tag = NULL;
	struct timespec now;

	(void)clock_gettime(CLOCK_REALTIME, &now);
	tag = qmp_asprintf(TAG "%s:%s:%lld", volume, name, (long long)now.tv_sec * 1000000000 + now.tv_nsec);
	return to && tag ? take_snapshot(p, volume, to, tag, err) : qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);
}

static int remove_snapshot_lvm(struct img_pool *p, const char *volume, const char *name, struct qmp_error *err)
{
	_cleanup_free_ char *lv = snapshot_lv(volume, name);

	return lv ? remove_lv(p, lv, err) : qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);
}

/* The tag of the snapshot that ROW is, or goes back to; new. */
static char *whole_tag(const json_t *row)
{
	return qmp_asprintf(TAG "%.*s", (int)strcspn(tag_of(row), ","), tag_of(row));
}

/* OPTION: --addtag or --deltag. */
static int mark(struct img_pool *p, const char *option, const char *tag, const char *volume, struct qmp_error *err)
{
	_cleanup_free_ char *lv = qmp_asprintf("%s/%s", vg_of(p), volume);

	return lv ? run(p, "going back to a snapshot", (const char *[]){"lvchange", "--quiet", "--yes", option, tag, "--", lv, NULL}, err)
		  : qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);
}

/* The way back of VOLUME, which is ROW, is over: its snapshot is there again, or still, where nothing was merged yet. */
static int end_merge(struct img_pool *p, const char *volume, const json_t *row, const json_t *rows, struct qmp_error *err)
{
	_cleanup_free_ char *name = snapshot_of(tag_of(row), volume), *lv = name ? snapshot_lv(volume, name) : NULL, *tag = whole_tag(row);
	int r = lv && tag ? 0 : qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);

	if (r == 0 && !row_of(rows, lv))
		r = take_snapshot(p, volume, lv, tag, err);
	return r < 0 ? r : mark(p, "--deltag", tag, volume, err);
}

/* BACK takes the place of VOLUME, or, where that is in its place yet, is not needed. */
static int end_exchange(struct img_pool *p, const char *volume, const char *back, const json_t *rows, struct qmp_error *err)
{
	return row_of(rows, volume) ? remove_lv(p, back, err) : rename_lvm(p, back, volume, err);
}

/* Who goes back with VOLUME now, by whatever pool: img_pool_lock_making. */
static int lock_way_back(struct img_pool *p, const char *volume, int *ret, struct qmp_error *err)
{
	_cleanup_free_ char *name = qmp_asprintf(BACK "%s", volume);

	return name ? img_pool_lock_making(p, name, ret, err) : qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);
}

/* The volume that ROW says goes back; NULL: none, or not of this pool. */
static const char *half_gone(const struct img_pool *p, const json_t *row)
{
	if (thin_of(p))
		return is_on_way(row) && streq(word(row, "pool_lv"), thin_of(p)) ? word(row, "lv_name") + strlen(BACK) : NULL;
	return goes_back(row) && !*word(row, "pool_lv") ? word(row, "lv_name") : NULL;
}

/* Ends each way back that somebody was killed at. RET: what is there then, all of it. */
static int settle(struct img_pool *p, json_t **ret, struct qmp_error *err)
{
	json_auto_t *rows = NULL;
	bool changed = false;
	json_t *row;
	size_t i;
	int r = list_lvs(p, &rows, err);

	json_array_foreach(rows, i, row) {
		const char *volume = half_gone(p, row);
		_cleanup_fd_ int lock = -1;
		if (r < 0 || !volume || lock_way_back(p, volume, &lock, NULL) < 0)
			continue;
		r = thin_of(p) ? end_exchange(p, volume, word(row, "lv_name"), rows, err) : end_merge(p, volume, row, rows, err);
		changed = true;
	}
	if (r == 0 && changed)
		return list_lvs(p, ret, err);
	*ret = take_ptr(rows);
	return r;
}

static int list_hidden_lvm(struct img_pool *p, json_t *names, struct qmp_error *err)
{
	json_auto_t *rows = NULL;
	json_t *row;
	size_t i;
	int r = settle(p, &rows, err);

	json_array_foreach(rows, i, row)
		if (r == 0 && img_pool_is_hidden(p, word(row, "lv_name")))
			r = json_array_append(names, json_object_get(row, "lv_name")) < 0 ? -ENOMEM : 0;
	return r;
}

/* Of a volume that is not thin, what is not of ROWS' volume itself, but has its blocks: snapshots, and clones. */
static bool hangs_on(const struct img_pool *p, const json_t *row, const char *volume)
{
	return !thin_of(p) && streq(word(row, "origin"), volume);
}

/* Among ROWS, sorted, so that those that are older come first. */
static int insert_by_time(json_t *rows, json_t *row)
{
	size_t i = json_array_size(rows);

	while (i > 0 && when_of(json_array_get(rows, i - 1)) > when_of(row))
		i--;
	return json_array_insert(rows, i, row);
}

static int list_snapshots_lvm(struct img_pool *p, const char *volume, json_t *snapshots, struct qmp_error *err)
{
	json_auto_t *rows = NULL, *those = json_array();
	json_t *row;
	size_t i;
	int r = settle(p, &rows, err);

	json_array_foreach(rows, i, row) {
		_cleanup_free_ char *name = snapshot_of(snapshot_in(row), volume);
		if (r == 0 && (name || hangs_on(p, row, volume)))
			r = insert_by_time(those, row) < 0 ? -ENOMEM : 0;
	}
	json_array_foreach(those, i, row) {
		_cleanup_free_ char *name = snapshot_of(snapshot_in(row), volume);
		const char *lv = word(row, "lv_name");
		int64_t size = number(row, "origin_size") && !thin_of(p) ? number(row, "origin_size") : number(row, "lv_size");
		json_t *s = json_pack("{s:s, s:I, s:I, s:I}", "name", name ? name : lv, "created", (json_int_t)(when_of(row) / 1000000000),
				      "capacity", (json_int_t)size, "allocation", (json_int_t)allocation_of(p, row));
		if (s && !name)
			json_object_set_new(s, "clone", json_string(lv));
		if (r == 0)
			r = json_array_append_new(snapshots, s) < 0 ? -ENOMEM : 0;
		else
			json_decref(s);
	}
	return r;
}

static bool is_open(const json_t *row)
{
	return strlen(word(row, "lv_attr")) > 5 && word(row, "lv_attr")[5] == 'o';
}

/* Where somebody has them open, LVM would put it off until they are next activated. */
static int refuse_open(struct img_pool *p, const char *volume, const json_t *row, const json_t *snapshot, struct qmp_error *err)
{
	const char *open = is_open(row) ? volume : is_open(snapshot) ? word(snapshot, "lv_name") : NULL;

	return !open ? 0 : qmp_error_set(err, QMP_ERR_STATE, -EBUSY, "%s:%s is not gone back with while another program has /dev/%s/%s open (fuser "
					 "-v says which); nothing was changed", p->name, volume, vg_of(p), open);
}

static int go_back_merging(struct img_pool *p, const char *volume, const json_t *snapshot, struct qmp_error *err)
{
	_cleanup_free_ char *lv = qmp_asprintf("%s/%s", vg_of(p), word(snapshot, "lv_name")), *tag = whole_tag(snapshot);
	json_auto_t *rows = NULL;
	int r = lv && tag ? mark(p, "--addtag", tag, volume, err) : qmp_error_errno(err, -ENOMEM, "the pool %s", p->name), end;

	if (r < 0)
		return r;
	r = run(p, "going back to a snapshot",
		(const char *[]){"lvconvert", "--quiet", "--yes", "--interval", "1", "--merge", "--", lv, NULL}, err);
	end = list_lvs(p, &rows, r < 0 ? NULL : err);
	if (end == 0 && row_of(rows, volume))
		end = end_merge(p, volume, row_of(rows, volume), rows, r < 0 ? NULL : err);
	return r < 0 ? r : end;
}

static int go_back_exchanging(struct img_pool *p, const char *volume, const json_t *snapshot, const json_t *rows, struct qmp_error *err)
{
	_cleanup_free_ char *back = qmp_asprintf(BACK "%s", volume), *old = qmp_asprintf(IMG_POOL_HIDDEN "%s", volume);
	int r = back && old ? 0 : qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);

	if (r == 0 && row_of(rows, old)) /* of the last time */
		r = remove_lv(p, old, err);
	if (r == 0)
		r = take_snapshot(p, word(snapshot, "lv_name"), back, NULL, err);
	if (r < 0)
		return r;
	r = rename_lvm(p, volume, old, err);
	if (r == 0 && (r = rename_lvm(p, back, volume, err)) < 0)
		(void)rename_lvm(p, old, volume, NULL);
	if (r < 0)
		(void)remove_lv(p, back, NULL);
	else
		(void)remove_lv(p, old, NULL); /* else the next sweep does it */
	return r;
}

static int rollback_lvm(struct img_pool *p, const char *volume, const char *name, bool newer, struct qmp_error *err)
{
	_cleanup_free_ char *from = snapshot_lv(volume, name);
	_cleanup_fd_ int lock = -1;
	json_auto_t *rows = NULL;
	int r = from ? list_lvs(p, &rows, err) : qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);
	const json_t *row = row_of(rows, volume), *snapshot = from ? row_of(rows, from) : NULL;

	UNUSED(newer);
	if (r == 0 && !(row && snapshot && snapshot_in(snapshot)))
		r = qmp_error_set(err, QMP_ERR_NOT_FOUND, -ENOENT, "the pool %s has no %s", p->name, row ? from : volume);
	if (r == 0)
		r = refuse_open(p, volume, row, snapshot, err);
	if (r == 0)
		r = lock_way_back(p, volume, &lock, err);
	if (r < 0)
		return r;
	return thin_of(p) ? go_back_exchanging(p, volume, snapshot, rows, err) : go_back_merging(p, volume, snapshot, err);
}

static const struct img_pool_snapshots snapshots_lvm = {
	.list = list_snapshots_lvm,
	.create = create_snapshot_lvm,
	.rollback = rollback_lvm,
	.remove = remove_snapshot_lvm,
};

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
