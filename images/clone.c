#include "images/clone.h"
#include "launcher/spec.h"
#include "proto/base.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

/* ---- Bases ---- */

#define WRITERS (S_IWUSR | S_IWGRP | S_IWOTH)

int img_protect(const char *path, struct qmp_error *err)
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return qmp_error_errno(err, -errno, "protecting the base %s", path);
	if (!S_ISREG(st.st_mode) || (st.st_mode & WRITERS) == 0)
		return 0;
	if (fchmod(fd, st.st_mode & 07777 & ~(mode_t)WRITERS) < 0) {
		if (access(path, W_OK) < 0)
			return 0;
		return qmp_error_errno(err, -errno, "protecting the base %s", path);
	}
	return fsync(fd) < 0 ? qmp_error_errno(err, -errno, "protecting the base %s", path) : 0;
}

static bool writes(const json_t *disk)
{
	const char *type = text_of(disk, "type");

	return !json_is_true(json_object_get(disk, "read-only")) && !(type && streq(type, "cdrom"));
}

int img_protect_check(const json_t *spec, const json_t *have, struct qmp_error *err)
{
	const json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(spec, "disks"), i, disk)
	{
		const char *path = text_of(disk, "path"), *id = text_of(disk, "id");
		const json_t *before = have && id ? vm_spec_find(have, "disks", id) : NULL;
		struct stat st;
		if (!path || *path != '/' || !writes(disk) || (before && json_equal(before, disk)) || stat(path, &st) < 0 ||
		    !S_ISREG(st.st_mode) || (st.st_mode & WRITERS) != 0)
			continue;
		return qmp_error_set(err, QMP_ERR_STATE, -EACCES,
				     "disks.%s: %s is write-protected (mode %04o), as the base of a clone is, and this VM would write to "
				     "it. Give it an overlay (image clone --linked), or \"read-only\": true; if nothing stands on it (image "
				     "tree), chmod u+w makes it writable again",
				     id ? id : "?", path, (unsigned)(st.st_mode & 07777));
	}
	return 0;
}

/* ---- Its spec ---- */

static int note(json_t *notes, const char *fmt, ...) _printf_(2, 3);
static int note(json_t *notes, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	return json_array_append_new(notes, json_string(text));
}

static void clone_nic(json_t *nic, json_t *notes)
{
	static const char *const ends[] = {"interface", "socket", "server", "local", "remote"};
	const char *id = text_of(nic, "id") ? text_of(nic, "id") : "?", *backend = text_of(nic, "backend");
	const json_t *forward;
	size_t i;

	json_object_del(nic, "mac");
	json_array_foreach(json_object_get(nic, "forwards"), i, forward)
		(void)note(notes, "%s: the forward of the host's port %lld is not the clone's, too: give it one of its own", id,
			   (long long)int_of(forward, "host-port"));
	json_object_del(nic, "forwards");
	if (!backend || !(streq(backend, "tap") || streq(backend, "dgram") ||
			  (streq(backend, "stream") && json_is_true(json_object_get(nic, "server")))))
		return;
	(void)note(notes, "%s: not connected (backend none): the %s of the one that was cloned can have one end alone", id,
		   streq(backend, "tap") ? "tap" : "socket");
	json_object_set_new(nic, "backend", json_string("none"));
	for (i = 0; i < ARRAY_SIZE(ends); i++)
		json_object_del(nic, ends[i]);
}

static void clone_seed(json_t *spec, const char *from)
{
	json_t *seed = json_object_get(spec, "seed");
	const char *hostname = text_of(seed, "hostname");

	json_object_del(seed, "instance-id");
	if (hostname && streq(hostname, from))
		json_object_del(seed, "hostname");
}

int img_clone_spec(const json_t *spec, const char *name, json_t **ret, json_t **ret_notes, struct qmp_error *err)
{
	json_auto_t *mine = json_deep_copy(spec), *notes = json_array();
	_cleanup_free_ char *from = text_of(spec, "name") ? strdup(text_of(spec, "name")) : NULL;
	json_t *nic;
	size_t i;

	if (!mine || !notes || json_object_set_new(mine, "name", json_string(name)) < 0)
		return qmp_error_errno(err, -ENOMEM, "cloning to %s", name);
	json_object_del(mine, "uuid");
	json_array_foreach(json_object_get(mine, "nics"), i, nic)
		clone_nic(nic, notes);
	if (from)
		clone_seed(mine, from);
	if (json_array_size(json_object_get(mine, "args")) > 0)
		(void)note(notes, "args: copied as they are; see whether two can have what they name");
	*ret = take_ptr(mine);
	*ret_notes = take_ptr(notes);
	return 0;
}
