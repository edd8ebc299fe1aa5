/*
 * Pools of the type zfs: a volume is a zvol in a dataset; a clone is one of a snapshot that bears its name.
 */
#include "images/pool.h"
#include "proto/base.h"

#include <stdio.h>

#define PACKAGE	   "zfsutils-linux"
#define SNAPSHOT   IMG_POOL_SNAPSHOT /* the origin of the clone NAME is VOLUME@qmpctl-NAME */
#define BLOCK_SIZE 16384     /* a zvol's size is a multiple of its volblocksize: 8 or 16 KiB unless told */

static const char *dataset_of(const struct img_pool *p)
{
	return text_of(p->definition, "dataset");
}

static int zfs(struct img_pool *p, const char *doing, const char *const *argv, char **ret, struct qmp_error *err)
{
	return img_pool_tool(p, doing, PACKAGE, argv, ret, err);
}

static char *name_of(const struct img_pool *p, const char *volume)
{
	return qmp_asprintf("%s/%s", dataset_of(p), volume);
}

/* The next word of a line of "zfs list -Hp": they stand between tabs. */
static char *next_word(char **line)
{
	char *word = strsep(line, "\t");

	return word ? word : (char *)"";
}

static int measure_zfs(struct img_pool *p, json_t *info, struct qmp_error *err)
{
	_cleanup_free_ char *output = NULL;
	char *line;
	int64_t used, available;
	int r = zfs(p, "asking ZFS", (const char *[]){"zfs", "list", "-Hp", "-o", "used,available", dataset_of(p), NULL}, &output, err);

	if (r < 0)
		return r;
	line = output;
	used = strtoll(next_word(&line), NULL, 10);
	available = strtoll(next_word(&line), NULL, 10);
	json_object_set_new(info, "capacity", json_integer(used + available));
	json_object_set_new(info, "used", json_integer(used));
	json_object_set_new(info, "available", json_integer(available));
	return 0;
}

/* NAME, as it is in the pool's dataset; NULL: it is not in it. */
static const char *name_in(const struct img_pool *p, const char *name)
{
	size_t n = strlen(dataset_of(p));

	return strncmp(name, dataset_of(p), n) == 0 && name[n] == '/' ? name + n + 1 : NULL;
}

static int list_zvols(struct img_pool *p, json_t *volumes, struct qmp_error *err)
{
	const char *const argv[] = {"zfs", "list", "-Hp", "-d", "1", "-t", "volume", "-o", "name,volsize,used,origin", dataset_of(p), NULL};
	_cleanup_free_ char *output = NULL;
	int r = zfs(p, "asking ZFS", argv, &output, err);

	for (char *save = NULL, *line = r == 0 ? strtok_r(output, "\n", &save) : NULL; line && r == 0; line = strtok_r(NULL, "\n", &save)) {
		const char *name = name_in(p, next_word(&line)), *size = next_word(&line), *used = next_word(&line), *origin = next_word(&line);
		_cleanup_free_ char *path = NULL;
		json_t *v;
		if (!name || img_pool_is_hidden(p, name))
			continue;
		path = img_pool_path(p, name);
		v = json_pack("{s:s, s:s*, s:s, s:I, s:I, s:I}", "name", name, "path", path, "format", "raw", "capacity",
			      (json_int_t)strtoll(size, NULL, 10), "allocation", (json_int_t)strtoll(used, NULL, 10), "physical",
			      (json_int_t)strtoll(size, NULL, 10));
		if (v && *origin && !streq(origin, "-"))
			json_object_set_new(v, "origin", json_string(origin));
		r = json_array_append_new(volumes, v) < 0 ? -ENOMEM : 0;
	}
	return r;
}

/* What they take is in what ZFS says of their volume. */
static int list_zfs(struct img_pool *p, json_t *volumes, struct qmp_error *err)
{
	const char *const argv[] = {"zfs", "list", "-Hp", "-d", "2", "-t", "snapshot", "-o", "name", dataset_of(p), NULL};
	_cleanup_free_ char *output = NULL;
	int r = list_zvols(p, volumes, err);

	if (r == 0)
		r = zfs(p, "asking ZFS", argv, &output, err);
	for (char *save = NULL, *line = r == 0 ? strtok_r(output, "\n", &save) : NULL; line; line = strtok_r(NULL, "\n", &save)) {
		const char *name = name_in(p, line);
		char *at = strchr(line, '@');
		if (!name || !at || strncmp(at + 1, SNAPSHOT, strlen(SNAPSHOT)) == 0)
			continue;
		*at = '\0';
		img_pool_count_snapshot(volumes, name, 0);
	}
	return r;
}

/* Whether NAME is a snapshot that was made for a clone, and has none. */
static bool is_left(const char *name, const char *clones)
{
	const char *at = strchr(name, '@');

	return at && strncmp(at + 1, SNAPSHOT, strlen(SNAPSHOT)) == 0 && (!*clones || streq(clones, "-"));
}

static int list_hidden_zfs(struct img_pool *p, json_t *entries, struct qmp_error *err)
{
	const char *const argv[] = {"zfs", "list", "-Hp", "-d", "2", "-t", "volume,snapshot", "-o", "name,clones", dataset_of(p), NULL};
	_cleanup_free_ char *output = NULL;
	int r = zfs(p, "asking ZFS", argv, &output, err);

	for (char *save = NULL, *line = r == 0 ? strtok_r(output, "\n", &save) : NULL; line && r == 0; line = strtok_r(NULL, "\n", &save)) {
		const char *name = name_in(p, next_word(&line)), *clones = next_word(&line);
		if (name && (is_left(name, clones) || (img_pool_is_hidden(p, name) && !strchr(name, '@'))))
			r = json_array_append_new(entries, json_string(name)) < 0 ? -ENOMEM : 0;
	}
	return r;
}

static int create_zfs(struct img_pool *p, const char *volume, uint64_t size, struct qmp_error *err)
{
	_cleanup_free_ char *name = name_of(p, volume);
	bool sparse = json_is_true(json_object_get(p->definition, "sparse"));
	char bytes[32];

	if (!name)
		return qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);
	snprintf(bytes, sizeof bytes, "%llu", (unsigned long long)((size + BLOCK_SIZE - 1) / BLOCK_SIZE * BLOCK_SIZE));
	return sparse ? zfs(p, "making a zvol", (const char *[]){"zfs", "create", "-s", "-V", bytes, name, NULL}, NULL, err)
		      : zfs(p, "making a zvol", (const char *[]){"zfs", "create", "-V", bytes, name, NULL}, NULL, err);
}

/* Where NAME is a clone, the snapshot that was made for it: new; NULL: none. */
static char *own_origin(struct img_pool *p, const char *name, const char *volume)
{
	_cleanup_free_ char *output = NULL, *end = qmp_asprintf("@" SNAPSHOT "%s", img_pool_final_name(p, volume));
	size_t n;

	if (!end || zfs(p, "asking ZFS", (const char *[]){"zfs", "list", "-Hp", "-o", "origin", name, NULL}, &output, NULL) < 0)
		return NULL;
	output[strcspn(output, "\n")] = '\0';
	n = strlen(output);
	return n > strlen(end) && streq(output + n - strlen(end), end) ? take_ptr(output) : NULL;
}

/* ZFS refuses a zvol that has snapshots: clones hang on them. */
static int remove_zfs(struct img_pool *p, const char *volume, struct qmp_error *err)
{
	_cleanup_free_ char *name = name_of(p, volume), *origin = name ? own_origin(p, name, volume) : NULL;
	int r = name ? zfs(p, "removing a zvol", (const char *[]){"zfs", "destroy", name, NULL}, NULL, err)
		     : qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);

	if (r == 0 && origin)
		r = zfs(p, "removing a clone's snapshot", (const char *[]){"zfs", "destroy", origin, NULL}, NULL, err);
	return r;
}

static int resize_zfs(struct img_pool *p, const char *volume, uint64_t size, struct qmp_error *err)
{
	_cleanup_free_ char *name = name_of(p, volume);
	char option[48];

	if (!name)
		return qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);
	snprintf(option, sizeof option, "volsize=%llu", (unsigned long long)((size + BLOCK_SIZE - 1) / BLOCK_SIZE * BLOCK_SIZE));
	return zfs(p, "resizing a zvol", (const char *[]){"zfs", "set", option, name, NULL}, NULL, err);
}

static int clone_zfs(struct img_pool *p, const char *volume, const char *to, struct qmp_error *err)
{
	_cleanup_free_ char *snapshot = qmp_asprintf("%s/%s@" SNAPSHOT "%s", dataset_of(p), volume, img_pool_final_name(p, to)),
			    *name = name_of(p, to);
	int r = snapshot && name ? zfs(p, "making a snapshot", (const char *[]){"zfs", "snapshot", snapshot, NULL}, NULL, err)
				 : qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);

	if (r < 0)
		return r;
	r = zfs(p, "making a clone", (const char *[]){"zfs", "clone", snapshot, name, NULL}, NULL, err);
	if (r < 0)
		(void)zfs(p, "removing the snapshot", (const char *[]){"zfs", "destroy", snapshot, NULL}, NULL, NULL);
	return r;
}

static int identify_zfs(struct img_pool *p, const char *volume, char **ret, struct qmp_error *err)
{
	_cleanup_free_ char *name = name_of(p, volume);
	int r = name ? zfs(p, "asking ZFS", (const char *[]){"zfs", "list", "-Hp", "-o", "guid", name, NULL}, ret, err)
		     : qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);

	if (r == 0)
		(*ret)[strcspn(*ret, "\n")] = '\0';
	return r;
}

/* ---- Snapshots ---- */

static char *snapshot_of(const struct img_pool *p, const char *volume, const char *name)
{
	return qmp_asprintf("%s/%s@%s", dataset_of(p), volume, name);
}

static int list_snapshots_zfs(struct img_pool *p, const char *volume, json_t *snapshots, struct qmp_error *err)
{
	_cleanup_free_ char *name = name_of(p, volume), *output = NULL;
	const char *const argv[] = {"zfs", "list", "-Hp", "-d", "1", "-t", "snapshot", "-s", "createtxg", "-o", "name,creation,volsize,used",
				    name, NULL};
	int r = name ? zfs(p, "asking ZFS", argv, &output, err) : qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);

	for (char *save = NULL, *line = r == 0 ? strtok_r(output, "\n", &save) : NULL; line && r == 0; line = strtok_r(NULL, "\n", &save)) {
		const char *at = strchr(next_word(&line), '@'), *created = next_word(&line), *size = next_word(&line), *used = next_word(&line);
		json_t *s = at ? json_pack("{s:s, s:I, s:I, s:I}", "name", at + 1, "created", (json_int_t)strtoll(created, NULL, 10), "capacity",
					   (json_int_t)strtoll(size, NULL, 10), "allocation", (json_int_t)strtoll(used, NULL, 10))
			       : NULL;
		if (s && strncmp(at + 1, SNAPSHOT, strlen(SNAPSHOT)) == 0)
			json_object_set_new(s, "clone", json_string(at + 1 + strlen(SNAPSHOT)));
		if (at)
			r = json_array_append_new(snapshots, s) < 0 ? -ENOMEM : 0;
	}
	return r;
}

static int create_snapshot_zfs(struct img_pool *p, const char *volume, const char *name, struct qmp_error *err)
{
	_cleanup_free_ char *snapshot = snapshot_of(p, volume, name);

	return snapshot ? zfs(p, "making a snapshot", (const char *[]){"zfs", "snapshot", snapshot, NULL}, NULL, err)
			: qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);
}

static int rollback_zfs(struct img_pool *p, const char *volume, const char *name, bool newer, struct qmp_error *err)
{
	_cleanup_free_ char *snapshot = snapshot_of(p, volume, name);

	if (!snapshot)
		return qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);
	return newer ? zfs(p, "going back to a snapshot", (const char *[]){"zfs", "rollback", "-r", snapshot, NULL}, NULL, err)
		     : zfs(p, "going back to a snapshot", (const char *[]){"zfs", "rollback", snapshot, NULL}, NULL, err);
}

static int remove_snapshot_zfs(struct img_pool *p, const char *volume, const char *name, struct qmp_error *err)
{
	_cleanup_free_ char *snapshot = snapshot_of(p, volume, name);

	return snapshot ? zfs(p, "removing a snapshot", (const char *[]){"zfs", "destroy", snapshot, NULL}, NULL, err)
			: qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);
}

static const struct img_pool_snapshots snapshots_zfs = {
	.newer_go = true,
	.list = list_snapshots_zfs,
	.create = create_snapshot_zfs,
	.rollback = rollback_zfs,
	.remove = remove_snapshot_zfs,
};

static int rename_zfs(struct img_pool *p, const char *volume, const char *to, struct qmp_error *err)
{
	_cleanup_free_ char *from = name_of(p, volume), *name = name_of(p, to);

	if (!from || !name)
		return qmp_error_errno(err, -ENOMEM, "the pool %s", p->name);
	return zfs(p, "renaming a zvol", (const char *[]){"zfs", "rename", from, name, NULL}, NULL, err);
}

static int prepare_zfs(struct img_pool *p, struct qmp_error *err)
{
	json_auto_t *info = json_object();

	return measure_zfs(p, info, err);
}

const struct img_pool_type img_pool_zfs = {
	.name = "zfs",
	.zeroes = true,
	.hidden = IMG_POOL_HIDDEN,
	.list_hidden = list_hidden_zfs,
	.prepare = prepare_zfs,
	.measure = measure_zfs,
	.list = list_zfs,
	.create = create_zfs,
	.remove = remove_zfs,
	.resize = resize_zfs,
	.clone = clone_zfs,
	.identify = identify_zfs,
	.rename = rename_zfs,
	.snapshots = &snapshots_zfs,
};
