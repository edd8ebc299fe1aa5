#include "images/place.h"
#include "launcher/files.h"
#include "proto/base.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/sysmacros.h>

/* ---- Mounts ---- */

/* "\040" is a blank. In place. */
static void unescape(char *text)
{
	char *out = text;

	for (; *text; out++)
		if (text[0] == '\\' && text[1] >= '0' && text[1] <= '3' && strspn(text + 1, "01234567") >= 3) {
			*out = (char)((text[1] - '0') * 64 + (text[2] - '0') * 8 + (text[3] - '0'));
			text += 4;
		} else {
			*out = *text++;
		}
	*out = '\0';
}

bool img_place_is_below(const char *path, const char *folder)
{
	size_t n = strlen(folder);

	return strncmp(path, folder, n) == 0 && (path[n] == '/' || path[n] == '\0' || streq(folder, "/"));
}

json_t *img_place_mount_in(const char *mountinfo, const char *path)
{
	_cleanup_free_ char *copy = strdup(mountinfo);
	json_t *found = NULL;
	size_t best = 0;

	for (char *save = NULL, *line = copy ? strtok_r(copy, "\n", &save) : NULL; line; line = strtok_r(NULL, "\n", &save)) {
		char *words[32], *next = NULL;
		size_t n = 0, dash = 0;
		for (char *w = strtok_r(line, " ", &next); w && n < ARRAY_SIZE(words); w = strtok_r(NULL, " ", &next)) {
			if (!dash && n > 5 && streq(w, "-"))
				dash = n;
			words[n++] = w;
		}
		if (!dash || n < dash + 4)
			continue;
		unescape(words[4]);
		unescape(words[dash + 2]);
		/* Of two at one place the later hides the earlier. */
		if (!img_place_is_below(path, words[4]) || strlen(words[4]) < best)
			continue;
		best = strlen(words[4]);
		json_decref(found);
		found = json_pack("{s:o, s:o, s:o, s:o}", "path", qmp_json_text(words[4]), "filesystem", qmp_json_text(words[dash + 1]),
				  "source", qmp_json_text(words[dash + 2]), "options",
				  json_sprintf("%s,%s", words[5], words[dash + 3]));
	}
	return found;
}

/* A file of /proc or /sys, up to 1 MiB; new; NULL: it cannot be read. */
static char *read_all(int folder, const char *name)
{
	_cleanup_fd_ int fd = openat(folder, name, O_RDONLY | O_CLOEXEC);
	const size_t max = 1 << 20;
	_cleanup_free_ char *text = fd >= 0 ? malloc(max + 1) : NULL;
	size_t len = 0;
	ssize_t n;

	while (text && len < max && (n = read(fd, text + len, max - len)) > 0)
		len += (size_t)n;
	if (text)
		text[len] = '\0';
	return take_ptr(text);
}

json_t *img_place_mount_by_name(const char *path)
{
	_cleanup_free_ char *text = read_all(AT_FDCWD, "/proc/self/mountinfo");

	return text ? img_place_mount_in(text, path) : NULL;
}

json_t *img_place_mount(const char *path)
{
	_cleanup_free_ char *real = realpath(path, NULL);

	return real ? img_place_mount_by_name(real) : NULL;
}

/* Whether WORD is one of the comma-separated OPTIONS. */
static bool has_option(const char *options, const char *word)
{
	size_t n = strlen(word);

	for (const char *p = options; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL)
		if (strncmp(p, word, n) == 0 && (p[n] == '\0' || p[n] == ','))
			return true;
	return false;
}

const char *img_place_locks(const char *filesystem, const char *options)
{
	static const char *const shared[] = {"cifs", "smb3", "9p", "afs", "ceph", "glusterfs", "fuse.glusterfs", "fuse.sshfs", "fuse.s3fs",
					     "fuse.rclone", "davfs", "virtiofs", "vboxsf", NULL};

	if (strncmp(filesystem, "nfs", 3) == 0) {
		if (has_option(options, "nolock") || has_option(options, "local_lock=all") || has_option(options, "local_lock=flock") ||
		    has_option(options, "local_lock=posix"))
			return "NFS that is mounted with nolock or local_lock: a lock on an image holds on this host alone, and nothing "
			       "keeps a VM on another host off it; mount it without";
		if (has_option(options, "soft") || has_option(options, "softerr"))
			return "NFS that is mounted soft: a guest gets I/O errors when the server is slow for a while; mount it hard";
		return "NFS: QEMU's locks keep a VM on another host off an image; what qmpctl itself looks up (who shares an image, "
		       "which VM has it) is this host's alone";
	}
	for (size_t i = 0; shared[i]; i++)
		if (streq(filesystem, shared[i]))
			return "a network file system: whether locks on images hold between hosts is its own affair, and what qmpctl looks "
			       "up (who shares an image) is this host's alone; do not start VMs on two hosts from it unless you know";
	return NULL;
}

/* ---- md ---- */

/* One line of FOLDER/NAME; new; "" where there is none. */
static char *read_line(int folder, const char *name)
{
	char *text = read_all(folder, name);

	if (!text)
		return strdup("");
	text[strcspn(text, "\n")] = '\0';
	return text;
}

json_t *img_place_md_in(int folder)
{
	_cleanup_free_ char *level = read_line(folder, "level"), *state = read_line(folder, "array_state");
	_cleanup_free_ char *disks = read_line(folder, "raid_disks"), *degraded = read_line(folder, "degraded");
	_cleanup_free_ char *sync = read_line(folder, "sync_action"), *done = read_line(folder, "sync_completed");
	unsigned long long at = 0, total = 0;
	long missing;
	bool stopped, syncs;
	char health[200];
	json_t *md;

	if (!level || !state || !disks || !degraded || !sync || !done || !*level)
		return NULL;
	missing = strtol(degraded, NULL, 10);
	stopped = streq(state, "clear") || streq(state, "inactive") || streq(state, "suspended") || streq(state, "broken");
	syncs = *sync && !streq(sync, "idle") && !streq(sync, "frozen");
	if (stopped)
		snprintf(health, sizeof health, "%s", state);
	else if (missing > 0)
		snprintf(health, sizeof health, "degraded: %ld of %s devices missing%s%s", missing, disks, syncs ? ", " : "", syncs ? sync : "");
	else
		snprintf(health, sizeof health, "whole%s%s", syncs ? ", " : "", syncs ? sync : "");
	md = json_pack("{s:s, s:I, s:I, s:s, s:b, s:s}", "level", level, "devices", (json_int_t)strtol(disks, NULL, 10), "degraded",
		       (json_int_t)missing, "state", state, "healthy", !stopped && missing == 0, "health", health);
	if (md && syncs) {
		json_object_set_new(md, "sync", json_string(sync));
		if (sscanf(done, "%llu / %llu", &at, &total) == 2 && total > 0)
			json_object_set_new(md, "progress", json_integer((json_int_t)(at * 100 / total)));
	}
	return md;
}

json_t *img_place_md(dev_t dev)
{
	_cleanup_free_ char *path = qmp_asprintf("/sys/dev/block/%u:%u/md", major(dev), minor(dev));
	_cleanup_fd_ int folder = path ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

	return folder >= 0 ? img_place_md_in(folder) : NULL;
}

/* The kernel lends a device to one only: a file system, swap, md, device-mapper. */
bool img_place_host_has(const char *path)
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_EXCL | O_NONBLOCK | O_CLOEXEC);

	return fd < 0 && errno == EBUSY;
}
