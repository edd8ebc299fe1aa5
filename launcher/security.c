#include "launcher/security.h"
#include "proto/base.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>

#define TEXT_MAX (64 << 10)

/* The file NAME of a process's directory in /proc, as text; NULL: it cannot be read. */
static char *read_text(int proc, const char *name)
{
	_cleanup_fd_ int fd = openat(proc, name, O_RDONLY | O_CLOEXEC);
	_cleanup_free_ char *text = fd >= 0 ? malloc(TEXT_MAX) : NULL;
	size_t len = 0;
	ssize_t n = 0;

	while (text && len < TEXT_MAX - 1 && (n = read(fd, text + len, TEXT_MAX - 1 - len)) > 0)
		len += (size_t)n;
	if (!text || n < 0)
		return NULL;
	text[len] = '\0';
	return take_ptr(text);
}

/* What stands behind "KEY:" at a line's beginning in a status file; borrowed, up to its line's end; NULL: nothing. */
static const char *find_value(const char *text, const char *key)
{
	size_t n = strlen(key);

	for (const char *line = text; line; line = (line = strchr(line, '\n')) ? line + 1 : NULL)
		if (strncmp(line, key, n) == 0 && line[n] == ':')
			return line + n + 1 + strspn(line + n + 1, " \t");
	return NULL;
}

static json_t *numbers_of(const char *text, const char *key)
{
	const char *p = find_value(text, key);
	json_t *list = json_array();
	char *end;

	for (; p && *p && *p != '\n'; p = end) {
		long long n = strtoll(p, &end, 10);
		if (end == p)
			break;
		json_array_append_new(list, json_integer(n));
		end += strspn(end, " \t");
	}
	return list;
}

static long long number_of(const char *text, const char *key, long long fallback)
{
	const char *p = find_value(text, key);

	return p ? strtoll(p, NULL, 10) : fallback;
}

static json_t *capabilities_of(const char *text)
{
	static const struct {
		const char *key, *name;
	} sets[] = {{"CapInh", "inheritable"}, {"CapPrm", "permitted"}, {"CapEff", "effective"},
		    {"CapBnd", "bounding"},    {"CapAmb", "ambient"}};
	json_t *all = json_object();

	for (size_t i = 0; i < ARRAY_SIZE(sets); i++) {
		const char *p = find_value(text, sets[i].key);
		if (p)
			json_object_set_new(all, sets[i].name, json_stringn(p, strcspn(p, "\n")));
	}
	return all;
}

/* A filter is a thread's: it counts where all of them have one. */
static json_t *seccomp_of(int proc, const char *text)
{
	static const char *const modes[] = {"none", "strict", "filter"};
	long long mode = number_of(text, "Seccomp", 0), filters = number_of(text, "Seccomp_filters", -1);
	int threads = 0, filtered = 0, fd = openat(proc, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	const struct dirent *entry;
	json_t *seccomp;

	while (dir && (entry = readdir(dir))) {
		char name[sizeof entry->d_name + 16];
		_cleanup_free_ char *status = NULL;
		snprintf(name, sizeof name, "task/%s/status", entry->d_name);
		status = *entry->d_name != '.' ? read_text(proc, name) : NULL;
		threads += status != NULL;
		filtered += status && number_of(status, "Seccomp", 0) == 2;
	}
	if (dir)
		closedir(dir);
	else if (fd >= 0)
		(void)close(fd);
	seccomp = json_pack("{s:s, s:i, s:i}", "mode", mode >= 0 && mode <= 2 ? modes[mode] : "unknown", "threads", threads,
			    "threads-filtered", filtered);
	if (filters >= 0)
		json_object_set_new(seccomp, "filters", json_integer(filters));
	return seccomp;
}

/* "socket:[17]", "anon_inode:[eventfd]", "anon_inode:kvm-vm", "/dev/kvm", "/memfd:x (deleted)", "/srv/x.img". */
static void kind_of(const char *link, char *kind, size_t size)
{
	const char *colon = strchr(link, ':');

	if (strncmp(link, "anon_inode:", 11) == 0) {
		const char *name = link + 11 + (link[11] == '[');
		snprintf(kind, size, "%.*s", (int)strcspn(name, "]"), name);
	} else if (strncmp(link, "/memfd:", 7) == 0) {
		snprintf(kind, size, "memfd");
	} else if (*link == '/') {
		snprintf(kind, size, "%s", strncmp(link, "/dev/", 5) == 0 ? "device" : "file");
	} else {
		snprintf(kind, size, "%.*s", colon ? (int)(colon - link) : (int)strlen(link), link);
	}
}

static void add_fd(int dir, const char *name, json_t *kinds, json_t *paths)
{
	char link[PATH_MAX], kind[64];
	ssize_t n = readlinkat(dir, name, link, sizeof link - 1);

	if (n < 0)
		return; /* closed meanwhile */
	link[n] = '\0';
	kind_of(link, kind, sizeof kind);
	json_object_set_new(kinds, kind, json_integer(json_integer_value(json_object_get(kinds, kind)) + 1));
	if (*link == '/')
		json_array_append_new(paths, qmp_json_text(link));
}

static json_t *fds_of(int proc)
{
	int fd = openat(proc, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	json_t *kinds, *paths;
	const struct dirent *entry;
	int count = 0;

	if (!dir) {
		if (fd >= 0)
			(void)close(fd);
		return json_null();
	}
	kinds = json_object();
	paths = json_array();
	while ((entry = readdir(dir)))
		if (*entry->d_name != '.') {
			count++;
			add_fd(dirfd(dir), entry->d_name, kinds, paths);
		}
	closedir(dir);
	return json_pack("{s:i, s:o, s:o}", "count", count, "kinds", kinds, "paths", paths);
}

static json_t *limit_value(const char **p)
{
	char *end;
	long long n;

	*p += strspn(*p, " ");
	if (strncmp(*p, "unlimited", 9) == 0) {
		*p += 9;
		return json_null();
	}
	n = strtoll(*p, &end, 10);
	*p = end;
	return json_integer(n);
}

static json_t *limits_of(const char *text)
{
	static const struct {
		const char *row, *name;
	} rows[] = {{"Max core file size", "core"},
		    {"Max locked memory", "memlock"},
		    {"Max open files", "nofile"},
		    {"Max processes", "nproc"},
		    {"Max address space", "address-space"}};
	json_t *all = json_object();

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		const char *p = text ? strstr(text, rows[i].row) : NULL;
		json_t *pair = p ? json_array() : NULL;
		if (!pair)
			continue;
		p += strlen(rows[i].row);
		json_array_append_new(pair, limit_value(&p));
		json_array_append_new(pair, limit_value(&p));
		json_object_set_new(all, rows[i].name, pair);
	}
	return all;
}

/* Lines of "ID:CONTROLLERS:PATH"; version 2 names no controllers. */
static json_t *cgroups_of(char *text)
{
	json_t *all = json_object();

	for (char *save = NULL, *line = text ? strtok_r(text, "\n", &save) : NULL; line; line = strtok_r(NULL, "\n", &save)) {
		char *name = strchr(line, ':'), *path = name ? strchr(name + 1, ':') : NULL;
		if (!path)
			continue;
		*path++ = '\0';
		json_object_set_new(all, name[1] ? name + 1 : "unified", qmp_json_text(path));
	}
	return all;
}

json_t *vm_security_of(pid_t pid, struct qmp_error *err)
{
	char path[32];
	_cleanup_fd_ int proc = -1;
	_cleanup_free_ char *status = NULL, *limits = NULL, *cgroups = NULL;
	const struct passwd *pw;
	json_t *uids, *r;

	snprintf(path, sizeof path, "/proc/%d", (int)pid);
	proc = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	status = proc >= 0 ? read_text(proc, "status") : NULL;
	if (!status || !find_value(status, "Uid")) {
		qmp_error_set(err, QMP_ERR_STATE, -ESRCH, "the process %d is gone", (int)pid);
		return NULL;
	}
	limits = read_text(proc, "limits");
	cgroups = read_text(proc, "cgroup");
	uids = numbers_of(status, "Uid");
	pw = getpwuid((uid_t)json_integer_value(json_array_get(uids, 1)));
	r = json_pack("{s:i, s:s?, s:o, s:o, s:o, s:o, s:b, s:o, s:o, s:o, s:o}", "pid", (int)pid, "user",
		      pw ? pw->pw_name : NULL, "uids", uids, "gids", numbers_of(status, "Gid"), "groups", numbers_of(status, "Groups"), "capabilities",
		      capabilities_of(status), "no-new-privs", number_of(status, "NoNewPrivs", 0) == 1, "seccomp",
		      seccomp_of(proc, status), "fds", fds_of(proc), "limits", limits_of(limits), "cgroups", cgroups_of(cgroups));
	if (!r)
		qmp_error_errno(err, -ENOMEM, "reading %s", path);
	return r;
}
