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

static int check(const json_t *table, const char *path, struct qmp_error *err)
{
	const struct vm_check c = {.err = err};
	const char *name;
	json_t *entry;

	if (!json_is_object(table))
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL, "%s: an object is wanted, of names and what they want", path);
	json_object_foreach((json_t *)table, name, entry)
		if (vm_check_object(&c, name, entry_fields, entry) < 0)
			return qmp_error_wrap(err, "%s", path), -EINVAL;
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
	r = check(table, path, &cli->error);
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

/* "ubuntu22.04" -> "ubuntu22" -> "ubuntu": the entry, or NULL. */
static json_t *look_up(const json_t *table, const char *name)
{
	_cleanup_free_ char *key = strdup(name);

	while (key && *key) {
		size_t n = strlen(key), before = n;
		json_t *entry = json_object_get(table, key);
		if (entry)
			return entry;
		while (n > 0 && isdigit((unsigned char)key[n - 1]))
			n--;
		if (n > 0 && n < before && key[n - 1] == '.')
			n--;
		if (n == before)
			return NULL;
		key[n] = '\0';
	}
	return NULL;
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
	qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "--os %s: no such name%s%s%s; \"qmpctl os list\" has them, and %s/" FILE_NAME
		      " takes more", name, near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "", cli->dirs.conf);
	free(names);
}

json_t *os_find(struct cli *cli, const json_t *table, const char *name)
{
	const json_t *entry = look_up(table, name);
	json_auto_t *whole = entry ? json_deep_copy(entry) : NULL;
	const char *like = text_of(entry, "like");

	if (!entry) {
		refuse(cli, table, name);
		return NULL;
	}
	for (int i = 0; like; i++) {
		entry = i < LIKE_MAX ? json_object_get(table, like) : NULL;
		if (!entry) {
			qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "--os %s: it is like \"%s\", which %s", name, like,
				      i < LIKE_MAX ? "is not there" : "goes round in a circle");
			return NULL;
		}
		add_missing(whole, entry);
		like = text_of(entry, "like");
	}
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
