#include "qmpctl/os.h"
#include "launcher/table.h"
#include "proto/base.h"

#include "qmpctl/os-table.h" /* made of os.json */

#include <ctype.h>
#include <stdio.h>

#define FILE_NAME "os.json"
#define LIKE_MAX  8

static const struct vm_field bus_fields[] = {{"bus", VM_T_STRING, "the bus"}, {0}};
static const struct vm_field nic_fields[] = {{"model", VM_T_STRING, "the card"}, {0}};
static const struct vm_field entry_fields[] = {
	{"description", VM_T_STRING, "for people"},
	{"like", VM_T_STRING, "the entry that this one changes"},
	{"older", VM_T_RAW, "versions, and what is before each like"},
	{"disks", VM_T_OBJECT, "of each disk", .fields = bus_fields},
	{"cdroms", VM_T_OBJECT, "of each CD-ROM drive", .fields = bus_fields},
	{"nics", VM_T_OBJECT, "of each NIC", .fields = nic_fields},
	{"drivers", VM_T_PATH, "an ISO file for a CD-ROM drive of its own"},
	{"spec", VM_T_RAW, "fields of the spec"},
	{0},
};

/* Members of FROM that TO has not, at every depth. */
static void add_missing(json_t *to, const json_t *from)
{
	const char *key;
	json_t *value, *have;

	json_object_foreach((json_t *)from, key, value)
	{
		have = json_object_get(to, key);
		if (!have)
			json_object_set_new(to, key, json_deep_copy(value));
		else if (json_is_object(have) && json_is_object(value))
			add_missing(have, value);
	}
}

/* ---- The table ---- */

/* "spec" is one without a name. */
static int check_entry(const struct vm_check *c, const char *name, const json_t *entry)
{
	json_auto_t *spec = json_copy(json_object_get(entry, "spec"));
	_cleanup_free_ char *path = qmp_asprintf("%s.spec", name), *wrong = NULL;
	const char *version;
	json_t *like;

	if (vm_check_object(c, name, entry_fields, entry) < 0)
		return -EINVAL;
	json_object_foreach(json_object_get(entry, "older"), version, like)
	{
		if (json_is_string(like) && isdigit((unsigned char)*version))
			continue;
		wrong = qmp_asprintf("%s.older.%s", name, version);
		return vm_refuse(c, wrong ? wrong : name, "a version is wanted, and the name of an entry that is there");
	}
	if (json_object_get(spec, "name")) {
		wrong = qmp_asprintf("%s.spec.name", name);
		return vm_refuse(c, wrong ? wrong : name, "is each VM's own");
	}
	return spec && path && json_object_set_new(spec, "name", json_string("x")) == 0 ? vm_check_object(c, path, vm_spec_fields, spec) : 0;
}

static int check(const json_t *table, const struct vm_check *c)
{
	const char *name;
	json_t *entry;

	if (!json_is_object(table))
		return vm_refuse(c, "", "an object is wanted, of names and what they want");
	json_object_foreach((json_t *)table, name, entry)
		if (check_entry(c, name, entry) < 0)
			return -EINVAL;
	return 0;
}

/* What people have added; new. NULL, and no error: nothing. */
static int read_own(struct cli *cli, json_t **ret)
{
	_cleanup_free_ char *path = qmp_asprintf("%s/" FILE_NAME, cli->dirs.conf), *text = NULL;
	_cleanup_fd_ int dir = vm_dir_open(cli->dirs.conf, NULL, false, NULL);
	json_auto_t *table = NULL;
	struct qmp_error why = {0};
	size_t len;
	int r = dir < 0 ? dir : vm_file_read(dir, FILE_NAME, &text, &len, &why);

	*ret = NULL;
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return qmp_error_errno(&cli->error, r, "reading %s", path);
	table = qmp_json_decode(text, len, &why);
	if (!table)
		return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "%s: %s", path, why.message);
	r = check(table, &(struct vm_check){text, len, path, &cli->error, "the table"});
	if (r == 0)
		*ret = take_ptr(table);
	return r;
}

json_t *os_table(struct cli *cli)
{
	json_auto_t *table = json_loads(os_json, 0, NULL), *own = NULL;

	if (!table) {
		qmp_error_errno(&cli->error, -ENOMEM, "reading the table of operating systems");
		return NULL;
	}
	if (read_own(cli, &own) < 0 || (own && json_object_update(table, own) < 0))
		return NULL;
	return take_ptr(table);
}

/* ---- One of it ---- */

/*
 * What stands behind KEY in NAME: "22.04" of "ubuntu22.04", "12sp5" of "sles12sp5", "22.05" of "nixos-22.05", "9-unknown" of
 * "rocky9-unknown" and "" of "rocky-unknown", as osinfo-db has them. NULL: no version. A key with a digit in it is a version
 * by itself: of win2k, win2k22 is none.
 */
static const char *version_behind(const char *key, const char *name)
{
	static const char digits[] = "0123456789";
	size_t n = strlen(key);
	const char *version, *end;

	if (strncmp(name, key, n) != 0)
		return NULL;
	version = end = name + n;
	if (strpbrk(key, digits) && *version && *version != '.')
		return NULL;
	if (*version && strspn(version + 1, digits) > 0)
		version += *version == '-' || *version == '.';
	if (isdigit((unsigned char)*version))
		end = version + strspn(version, "0123456789.");
	if (end > version && strncmp(end, "sp", 2) == 0 && isdigit((unsigned char)end[2]))
		end += 2 + strspn(end + 2, digits);
	return *end == '\0' || streq(end, "-unknown") ? version : NULL;
}

/* By their numbers: "9" is before "9.1", "11sp3" is "11.3". */
static int compare_versions(const char *a, const char *b)
{
	for (;;) {
		unsigned long x, y;
		a += strcspn(a, "0123456789");
		b += strcspn(b, "0123456789");
		if (!*a || !*b)
			return (*a != '\0') - (*b != '\0');
		x = strtoul(a, (char **)&a, 10);
		y = strtoul(b, (char **)&b, 10);
		if (x != y)
			return x < y ? -1 : 1;
	}
}

/* The entry that is the most of NAME, or NULL; the version behind it. */
static const json_t *look_up(const json_t *table, const char *name, const char **ret_version)
{
	const char *key, *best = NULL;
	json_t *entry;

	json_object_foreach((json_t *)table, key, entry)
	{
		const char *version = version_behind(key, name);
		if (!version || (best && strlen(key) < strlen(best)))
			continue;
		best = key;
		*ret_version = version;
	}
	return best ? json_object_get(table, best) : NULL;
}

/* What an entry is like in that version: the first of its "older" that is behind it. */
static const char *likeness(const json_t *entry, const char *version)
{
	const char *limit, *nearest = NULL, *like = text_of(entry, "like");
	json_t *older;

	json_object_foreach(json_object_get(entry, "older"), limit, older)
	{
		if (!isdigit((unsigned char)*version) || compare_versions(version, limit) >= 0 ||
		    (nearest && compare_versions(limit, nearest) > 0))
			continue;
		nearest = limit;
		like = json_string_value(older);
	}
	return like;
}

static void refuse(struct cli *cli, const json_t *table, const char *name)
{
	const char **names = calloc(json_object_size(table) + 1, sizeof *names), *near, *key;
	json_t *entry;
	size_t n = 0;

	json_object_foreach((json_t *)table, key, entry)
		if (names)
			names[n++] = key;
	near = names ? qmp_nearest(name, names) : NULL;
	if (names && !near) {
		_cleanup_free_ char *stem = strndup(name, strcspn(name, "0123456789"));
		near = stem ? qmp_nearest(stem, names) : NULL;
	}
	qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "--os %s: no such name%s%s%s; \"qmpctl os list\" has them, and %s/" FILE_NAME
		      " takes more", name, near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "", cli->dirs.conf);
	free(names);
}

/* What TO is like, but for what that one says of itself. */
static void add_likeness(json_t *to, const json_t *entry)
{
	json_auto_t *rest = json_copy((json_t *)entry);

	json_object_del(rest, "description");
	json_object_del(rest, "older");
	add_missing(to, rest);
}

json_t *os_find(struct cli *cli, const json_t *table, const char *name)
{
	const char *version = "", *like;
	const json_t *entry = look_up(table, name, &version);
	json_auto_t *whole = entry ? json_deep_copy(entry) : NULL;

	if (!entry) {
		refuse(cli, table, name);
		return NULL;
	}
	like = likeness(entry, version);
	if (like && (!text_of(entry, "like") || !streq(like, text_of(entry, "like")))) {
		json_object_set_new(whole, "like", json_string(like));
		json_object_del(whole, "description");
	}
	for (int i = 0; like; i++) {
		entry = i < LIKE_MAX ? json_object_get(table, like) : NULL;
		if (!entry) {
			qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "--os %s: it is like \"%s\", which %s", name, like,
				      i < LIKE_MAX ? "is not there" : "goes round in a circle");
			return NULL;
		}
		add_likeness(whole, entry);
		like = text_of(entry, "like");
	}
	if (*version)
		json_object_del(whole, "older");
	return take_ptr(whole);
}

/* ---- For a spec ---- */

static void suit_items(json_t *spec, const char *kind, bool cdroms, const json_t *wants)
{
	json_t *item;
	size_t i;

	json_array_foreach(json_object_get(spec, kind), i, item)
	{
		const char *type = text_of(item, "type");
		if ((type && streq(type, "cdrom")) == cdroms)
			add_missing(item, wants);
	}
}

static void add_drivers(json_t *spec, const char *path)
{
	json_t *list = json_object_get(spec, "disks");

	if (!list) {
		list = json_array();
		json_object_set_new(spec, "disks", list);
	}
	json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "type", "cdrom", "path", path, "format", "raw"));
}

void os_suit(const json_t *entry, json_t *spec)
{
	const char *drivers = text_of(entry, "drivers");

	if (drivers && access(drivers, R_OK) == 0)
		add_drivers(spec, drivers);
	suit_items(spec, "disks", false, json_object_get(entry, "disks"));
	suit_items(spec, "disks", true, json_object_get(entry, "cdroms"));
	suit_items(spec, "nics", false, json_object_get(entry, "nics"));
	add_missing(spec, json_object_get(entry, "spec"));
}

const char *os_cdrom_bus(const json_t *entry)
{
	return text_of(json_object_get(entry, "cdroms"), "bus");
}
