#include "launcher/cgroup.h"
#include "launcher/hostdisk.h"
#include "launcher/spec.h"
#include "proto/base.h"

#include <fcntl.h>
#include <mntent.h>
#include <stdio.h>
#include <sys/stat.h>

#define PREFIX	   "qmpctl-"
#define CPU_PERIOD 100000 /* microseconds, the kernel's default */

/* ---- Files of a group ---- */

static int read_file(const char *folder, const char *file, char *text, size_t size)
{
	_cleanup_free_ char *path = qmp_asprintf("%s/%s", folder, file);
	_cleanup_fd_ int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	ssize_t n = fd >= 0 ? read(fd, text, size - 1) : -1;

	text[n > 0 ? n : 0] = '\0';
	return n < 0 ? -errno : 0;
}

static int open_file(const char *folder, const char *file)
{
	_cleanup_free_ char *path = qmp_asprintf("%s/%s", folder, file);
	int fd = path ? open(path, O_WRONLY | O_CLOEXEC) : -1;

	return fd < 0 ? -errno : fd;
}

static int write_file(const char *folder, const char *file, const char *text)
{
	_cleanup_fd_ int fd = open_file(folder, file);

	if (fd < 0)
		return fd;
	return write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

/* ---- Limits ---- */

struct limit {
	const char *controller, *file; /* file NULL: the controller alone */
	char value[48];
};

#define LIMITS 5

static size_t read_limits(const json_t *spec, struct limit limits[LIMITS])
{
	const json_t *all = json_object_get(spec, "limits"), *memory = json_object_get(all, "memory");
	json_int_t cpu = json_integer_value(json_object_get(all, "cpu"));
	json_int_t pids = json_integer_value(json_object_get(all, "pids"));
	uint64_t bytes = 0;
	size_t n = 0;

	if (cpu > 0) {
		limits[n] = (struct limit){"cpu", "cpu.max", ""};
		snprintf(limits[n++].value, sizeof limits->value, "%lld %d", (long long)cpu * (CPU_PERIOD / 100), CPU_PERIOD);
	}
	if (memory && vm_size_parse(memory, &bytes) == 0) {
		limits[n] = (struct limit){"memory", "memory.max", ""};
		snprintf(limits[n++].value, sizeof limits->value, "%llu", (unsigned long long)bytes);
	}
	if (pids > 0) {
		limits[n] = (struct limit){"pids", "pids.max", ""};
		snprintf(limits[n++].value, sizeof limits->value, "%lld", (long long)pids);
	}
	if (json_object_size(json_object_get(all, "io")) > 0) {
		/* What is written to a file is written to the disk later: whose it is, only both together know. */
		limits[n++] = (struct limit){"io", NULL, ""};
		limits[n++] = (struct limit){"memory", NULL, ""};
	}
	return n;
}

static void list_controllers(const struct limit *limits, size_t n, char *text, size_t size)
{
	size_t len = 0;

	text[0] = '\0';
	for (size_t i = 0; i < n; i++)
		len += (size_t)snprintf(text + len, size - len, "%s%s", i ? ", " : "", limits[i].controller);
}

/* ---- Where ---- */

static char *find_mount(void)
{
	FILE *mounts = setmntent("/proc/self/mounts", "re");
	const struct mntent *m;
	char *folder = NULL;

	while (mounts && !folder && (m = getmntent(mounts)))
		if (streq(m->mnt_type, "cgroup2"))
			folder = strdup(m->mnt_dir);
	if (mounts)
		endmntent(mounts);
	return folder;
}

/* The directory of our own group; new. */
static char *find_own(const char *mount)
{
	char text[8192];
	const char *line = read_file("/proc/self", "cgroup", text, sizeof text) == 0 ? text : NULL;

	for (; line; line = (line = strchr(line, '\n')) ? line + 1 : NULL)
		if (strncmp(line, "0::/", 4) == 0) {
			int n = (int)strcspn(line + 4, "\n");
			return n > 0 ? qmp_asprintf("%s/%.*s", mount, n, line + 4) : strdup(mount);
		}
	return NULL;
}

static bool has_word(const char *text, const char *word)
{
	size_t n = strlen(word);

	for (const char *p = text; (p = strstr(p, word)); p += n)
		if ((p == text || p[-1] == ' ') && (p[n] == ' ' || p[n] == '\n' || p[n] == '\0'))
			return true;
	return false;
}

/* Whether FOLDER gives its children all the controllers, or does now. */
static bool offers(const char *folder, const struct limit *limits, size_t n)
{
	char given[256];

	if (access(folder, W_OK) < 0 || read_file(folder, "cgroup.subtree_control", given, sizeof given) < 0)
		return false;
	for (size_t i = 0; i < n; i++) {
		char word[24];
		snprintf(word, sizeof word, "+%s", limits[i].controller);
		if (!has_word(given, limits[i].controller) && write_file(folder, "cgroup.subtree_control", word) < 0)
			return false;
	}
	return true;
}

static int find_parent(const struct limit *limits, size_t n, char **ret, struct qmp_error *err)
{
	_cleanup_free_ char *mount = find_mount(), *at = mount ? find_own(mount) : NULL;
	char wanted[64], *slash;

	list_controllers(limits, n, wanted, sizeof wanted);
	if (!at)
		return qmp_error_set(err, QMP_ERR_UNSUPPORTED, -EOPNOTSUPP,
				     "limits: they need control groups of version 2, and %s; leave limits out, or boot the host with "
				     "them", mount ? "we are in none" : "no cgroup2 file system is mounted");
	while (!offers(at, limits, n)) {
		slash = streq(at, mount) ? NULL : strrchr(at, '/');
		if (!slash)
			return qmp_error_set(err, QMP_ERR_UNSUPPORTED, -EOPNOTSUPP,
					     "limits: no control group from our own up to %s lets us have the controllers %s; run qmpctl "
					     "as root or in a delegated group (systemd: Delegate=yes), or leave limits out",
					     mount, wanted);
		*slash = '\0';
	}
	*ret = take_ptr(at);
	return 0;
}

/* ---- Making and removing ---- */

static bool is_populated(const char *folder)
{
	char events[256];

	return read_file(folder, "cgroup.events", events, sizeof events) < 0 || strstr(events, "populated 1");
}

static int make(const char *folder, const struct limit *limits, size_t n, int *ret_procs, struct qmp_error *err)
{
	_cleanup_fd_ int procs = -1;

	if (mkdir(folder, 0755) < 0 && errno != EEXIST)
		return qmp_error_errno(err, -errno, "making the control group %s", folder);
	if (is_populated(folder))
		return qmp_error_set(err, QMP_ERR_BUSY, -EBUSY, "the control group %s has processes already", folder);
	for (size_t i = 0; i < n; i++) {
		int r = limits[i].file ? write_file(folder, limits[i].file, limits[i].value) : 0;
		if (r < 0)
			return qmp_error_errno(err, r, "writing %s to %s/%s", limits[i].value, folder, limits[i].file);
	}
	procs = open_file(folder, "cgroup.procs");
	if (procs < 0)
		return qmp_error_errno(err, procs, "opening %s/cgroup.procs", folder);
	*ret_procs = take_fd(&procs);
	return 0;
}

int vm_cgroup_make(const json_t *spec, const char *name, char **ret_path, int *ret_procs, struct qmp_error *err)
{
	struct limit limits[LIMITS];
	size_t n = read_limits(spec, limits);
	const char *uuid = json_string_value(json_object_get(spec, "uuid"));
	_cleanup_free_ char *parent = NULL, *folder = NULL;
	int r;

	*ret_path = NULL;
	*ret_procs = -1;
	if (n == 0)
		return 0;
	r = find_parent(limits, n, &parent, err);
	if (r < 0)
		return r;
	folder = qmp_asprintf("%s/" PREFIX "%s-%.8s", parent, name, uuid ? uuid : "");
	if (!folder)
		return qmp_error_errno(err, -ENOMEM, "the control group of %s", name);
	r = make(folder, limits, n, ret_procs, err);
	if (r < 0 && r != -EBUSY)
		vm_cgroup_remove(folder);
	if (r == 0)
		*ret_path = take_ptr(folder);
	return r;
}

int vm_cgroup_limit_io(const char *path, const json_t *spec, const char *image, struct qmp_error *err)
{
	static const struct {
		const char *field, *key;
	} keys[] = {{"bps-read", "rbps"}, {"bps-write", "wbps"}, {"iops-read", "riops"}, {"iops-write", "wiops"}};
	const json_t *io = json_object_get(json_object_get(spec, "limits"), "io");
	unsigned major, minor;
	char line[160];
	int n, r;

	if (json_object_size(io) == 0)
		return 0;
	r = vm_host_disk(image, &major, &minor, err);
	if (r < 0)
		return qmp_error_wrap(err, "limits.io cannot be held (leave it out, or give the disk a throttle)");
	n = snprintf(line, sizeof line, "%u:%u", major, minor);
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (json_object_get(io, keys[i].field))
			n += snprintf(line + n, sizeof line - (size_t)n, " %s=%lld", keys[i].key,
				      (long long)json_integer_value(json_object_get(io, keys[i].field)));
	r = path ? write_file(path, "io.max", line) : -ENOENT;
	return r < 0 ? qmp_error_errno(err, r, "limits.io: writing %s to %s/io.max", line, path ? path : "") : 0;
}

void vm_cgroup_remove(const char *path)
{
	const char *slash = path ? strrchr(path, '/') : NULL;

	if (slash && strncmp(slash + 1, PREFIX, strlen(PREFIX)) == 0)
		(void)rmdir(path);
}
