#include "launcher/files.h"
#include "proto/base.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define FILE_MAX ((off_t)16 << 20)

/* ---- Directories ---- */

static char *home_dir(const char *variable, const char *fallback)
{
	const char *set = getenv(variable), *home = getenv("HOME");

	if (set && *set == '/')
		return qmp_asprintf("%s/qmpctl", set);
	return qmp_asprintf("%s/%s/qmpctl", home ? home : "/nonexistent", fallback);
}

static char *user_run_dir(void)
{
	const char *set = getenv("XDG_RUNTIME_DIR");

	return set && *set == '/' ? qmp_asprintf("%s/qmpctl", set) : qmp_asprintf("/tmp/qmpctl-%d", (int)getuid());
}

int vm_dirs_init(const char *root, struct vm_dirs *ret, struct qmp_error *err)
{
	_cleanup_free_ char *absolute = NULL;
	struct vm_dirs d;

	if (!root)
		root = getenv("QMPCTL_ROOT");
	if (root && *root) {
		_cleanup_free_ char *cwd = *root == '/' ? NULL : getcwd(NULL, 0);
		absolute = *root == '/' ? strdup(root) : cwd ? qmp_asprintf("%s/%s", cwd, root) : NULL;
		if (!absolute)
			return qmp_error_errno(err, *root == '/' || cwd ? -ENOMEM : -errno, "finding out where the root %s is", root);
		d.conf = qmp_asprintf("%s/etc", absolute);
		d.state = qmp_asprintf("%s/lib", absolute);
		d.run = qmp_asprintf("%s/run", absolute);
	} else if (getuid() == 0) {
		d = (struct vm_dirs){strdup("/etc/qmpctl"), strdup("/var/lib/qmpctl"), strdup("/run/qmpctl")};
	} else {
		d = (struct vm_dirs){home_dir("XDG_CONFIG_HOME", ".config"), home_dir("XDG_DATA_HOME", ".local/share"),
				     user_run_dir()};
	}
	if (!d.conf || !d.state || !d.run) {
		vm_dirs_deinit(&d);
		return qmp_error_errno(err, -ENOMEM, "finding the directories");
	}
	*ret = d;
	return 0;
}

void vm_dirs_deinit(struct vm_dirs *d)
{
	free(d->conf);
	free(d->state);
	free(d->run);
	*d = (struct vm_dirs){0};
}

int vm_folder_sync_of(const char *path)
{
	_cleanup_free_ char *above = strdup(path);
	char *slash = above ? strrchr(above, '/') : NULL;
	_cleanup_fd_ int fd = -1;

	if (!above)
		return -ENOMEM;
	if (slash)
		slash[slash == above] = '\0';
	fd = open(slash ? above : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

int vm_folder_make(const char *path)
{
	int r;

	if (mkdir(path, 0700) < 0)
		return errno == EEXIST ? 0 : -errno;
	r = vm_folder_sync_of(path);
	return r == -EACCES || r == -EINVAL ? 0 : r; /* one above that we may not read, or that its file system does not sync */
}

static int make_parents(const char *path)
{
	_cleanup_free_ char *copy = strdup(path);
	int r;

	if (!copy)
		return -ENOMEM;
	for (char *p = copy + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = '\0';
		r = vm_folder_make(copy);
		if (r < 0)
			return r;
		*p = '/';
	}
	return vm_folder_make(copy);
}

static int check_ours(int fd, const char *path, struct qmp_error *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return qmp_error_errno(err, -errno, "%s", path);
	if (st.st_uid != geteuid() && st.st_uid != 0)
		return qmp_error_set(err, QMP_ERR_HOST, -EPERM, "%s belongs to the user %u, not to us; not used", path,
				     (unsigned)st.st_uid);
	if (st.st_mode & 022)
		return qmp_error_set(err, QMP_ERR_HOST, -EPERM,
				     "%s can be written by others (mode %03o); not used: chmod go-w it", path,
				     (unsigned)(st.st_mode & 0777));
	return 0;
}

int vm_dir_open(const char *path, const char *name, bool create, struct qmp_error *err)
{
	_cleanup_free_ char *whole = name ? qmp_asprintf("%s/%s", path, name) : strdup(path);
	_cleanup_fd_ int fd = -1;
	int r = whole ? 0 : -ENOMEM;

	if (r == 0 && create)
		r = make_parents(whole);
	if (r < 0)
		return qmp_error_errno(err, r, "making the directory %s", whole ? whole : path);
	fd = open(whole, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return qmp_error_errno(err, -errno, "%s", whole);
	r = check_ours(fd, whole, err);
	return r < 0 ? r : take_fd(&fd);
}

/* ---- Files ---- */

int vm_file_read(int dir, const char *name, char **ret, size_t *ret_len, struct qmp_error *err)
{
	_cleanup_fd_ int fd = openat(dir, name, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC); /* a FIFO is not waited for */
	_cleanup_free_ char *data = NULL;
	struct stat st;
	size_t len = 0;

	if (fd < 0 || fstat(fd, &st) < 0)
		return qmp_error_errno(err, -errno, "reading %s", name);
	if (!S_ISREG(st.st_mode))
		return qmp_error_set(err, QMP_ERR_HOST, -EINVAL, "reading %s: it is no file", name);
	if (st.st_size > FILE_MAX)
		return qmp_error_set(err, QMP_ERR_HOST, -EFBIG, "reading %s: it has more than %d MiB", name, (int)(FILE_MAX >> 20));
	data = malloc((size_t)st.st_size + 1);
	if (!data)
		return qmp_error_errno(err, -ENOMEM, "reading %s", name);
	while (len < (size_t)st.st_size) {
		ssize_t n = read(fd, data + len, (size_t)st.st_size - len);
		if (n < 0)
			return qmp_error_errno(err, -errno, "reading %s", name);
		if (n == 0)
			break;
		len += (size_t)n;
	}
	data[len] = '\0';
	*ret = take_ptr(data);
	*ret_len = len;
	return 0;
}

static int write_all(int fd, const char *data, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, data, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

static char *temporary_of(const char *name)
{
	return qmp_asprintf(".%s.tmp", name);
}

void vm_file_remove_unfinished(int dir, const char *name)
{
	_cleanup_free_ char *temporary = temporary_of(name);

	if (temporary)
		(void)unlinkat(dir, temporary, 0);
}

/* A file without a name, so that a writer that is ended leaves none; where the file system has no such, one with a name. */
static int open_unfinished(int dir, const char *temporary, bool *ret_nameless)
{
	int fd = openat(dir, ".", O_WRONLY | O_TMPFILE | O_CLOEXEC, 0600);

	*ret_nameless = fd >= 0;
	if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT))
		fd = openat(dir, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	return fd < 0 ? -errno : fd;
}

/* -EEXIST: something of that name is there. */
static int give_name(int fd, int dir, const char *name)
{
	char path[32];

	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return linkat(AT_FDCWD, path, dir, name, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
}

static int put_in_place(int fd, int dir, const char *temporary, const char *name, bool nameless)
{
	int r = nameless ? give_name(fd, dir, name) : -EEXIST;

	if (r != -EEXIST)
		return r;
	if (nameless) {
		(void)unlinkat(dir, temporary, 0); /* of a writer that was ended */
		r = give_name(fd, dir, temporary);
		if (r < 0)
			return r;
	}
	return renameat(dir, temporary, dir, name) < 0 ? -errno : 0;
}

static int write_draft(int dir, const char *name, const char *data, size_t len, bool durable, struct vm_draft *ret,
		       struct qmp_error *err)
{
	_cleanup_free_ char *temporary = temporary_of(name);
	struct vm_draft d = {.fd = -1};
	int r = -ENOMEM;

	if (temporary)
		r = d.fd = open_unfinished(dir, temporary, &d.nameless);
	if (r >= 0)
		r = write_all(d.fd, data, len);
	if (r == 0 && durable && fsync(d.fd) < 0)
		r = -errno;
	if (r < 0) {
		vm_draft_discard(dir, name, &d);
		return qmp_error_errno(err, r, "writing %s", name);
	}
	*ret = d;
	return 0;
}

static int publish(int dir, const char *name, struct vm_draft *d, bool durable, struct qmp_error *err)
{
	_cleanup_free_ char *temporary = temporary_of(name);
	int r = temporary ? put_in_place(d->fd, dir, temporary, name, d->nameless) : -ENOMEM;

	if (r == 0 && durable && fsync(dir) < 0)
		r = -errno;
	if (r < 0) {
		vm_draft_discard(dir, name, d);
		return qmp_error_errno(err, r, "writing %s", name);
	}
	(void)close(take_fd(&d->fd));
	return 0;
}

static int write_file(int dir, const char *name, const char *data, size_t len, bool durable, struct qmp_error *err)
{
	struct vm_draft d;
	int r = write_draft(dir, name, data, len, durable, &d, err);

	return r < 0 ? r : publish(dir, name, &d, durable, err);
}

int vm_draft_publish(int dir, const char *name, struct vm_draft *d, struct qmp_error *err)
{
	return publish(dir, name, d, true, err);
}

void vm_draft_discard(int dir, const char *name, struct vm_draft *d)
{
	if (d->fd < 0)
		return;
	(void)close(take_fd(&d->fd));
	vm_file_remove_unfinished(dir, name);
}

int vm_file_write(int dir, const char *name, const char *data, size_t len, struct qmp_error *err)
{
	return write_file(dir, name, data, len, true, err);
}

/* A line of text for the file; malloc'ed. */
static char *encode(const json_t *value, size_t *ret_len)
{
	_cleanup_free_ char *text = qmp_json_encode(value, JSON_INDENT(2), ret_len);
	char *line = text ? realloc(text, *ret_len + 2) : NULL;

	if (!line)
		return NULL;
	memcpy(line + *ret_len, "\n", 2);
	*ret_len += 1;
	text = NULL;
	return line;
}

int vm_draft_json(int dir, const char *name, const json_t *value, struct vm_draft *ret, struct qmp_error *err)
{
	size_t len;
	_cleanup_free_ char *text = encode(value, &len);

	return text ? write_draft(dir, name, text, len, true, ret, err) : qmp_error_errno(err, -ENOMEM, "writing %s", name);
}

static int write_json(int dir, const char *name, const json_t *value, bool durable, struct qmp_error *err)
{
	size_t len;
	_cleanup_free_ char *text = encode(value, &len);

	return text ? write_file(dir, name, text, len, durable, err) : qmp_error_errno(err, -ENOMEM, "writing %s", name);
}

void vm_file_trim(int dir, const char *name, off_t max)
{
	static const size_t room = VM_FILE_TRIM_KEEPS;
	_cleanup_fd_ int fd = openat(dir, name, O_RDWR | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC), old = -1;
	_cleanup_free_ char *aside = NULL, *tail = NULL;
	struct stat st;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size <= max)
		return;
	aside = qmp_asprintf("%s.1", name);
	tail = malloc(room);
	n = tail ? pread(fd, tail, room, st.st_size > (off_t)room ? st.st_size - (off_t)room : 0) : -1;
	if (aside && n > 0) {
		old = openat(dir, aside, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (old >= 0 && write(old, tail, (size_t)n) < n)
			(void)unlinkat(dir, aside, 0);
	}
	(void)!ftruncate(fd, 0); /* where that fails, it is tried again in a while */
}

int vm_file_write_json(int dir, const char *name, const json_t *value, struct qmp_error *err)
{
	return write_json(dir, name, value, true, err);
}

int vm_file_make_json(int dir, const char *name, const json_t *value, struct qmp_error *err)
{
	int r = vm_file_write_json(dir, name, value, err);

	if (r < 0)
		(void)unlinkat(dir, name, 0);
	return r;
}

int vm_file_replace_json(int dir, const char *name, const json_t *value, struct qmp_error *err)
{
	return write_json(dir, name, value, false, err);
}

json_t *vm_file_read_json(int dir, const char *name)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	json_t *value;

	if (vm_file_read(dir, name, &text, &len, NULL) < 0)
		return NULL;
	value = qmp_json_decode(text, len, NULL);
	if (value && !json_is_object(value)) {
		json_decref(value);
		value = NULL;
	}
	return value;
}

int vm_file_take_json(int dir, const char *name, json_t **ret, struct qmp_error *err)
{
	_cleanup_free_ char *aside = qmp_asprintf("%s.damaged", name);

	*ret = vm_file_read_json(dir, name);
	if (*ret)
		return 0;
	if (faccessat(dir, name, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
		return qmp_error_errno(err, -ENOENT, "reading %s", name);
	if (!aside || renameat(dir, name, dir, aside) < 0)
		return qmp_error_errno(err, aside ? -errno : -ENOMEM, "%s is damaged, and setting it aside failed", name);
	return qmp_error_set(err, QMP_ERR_HOST, -EBADMSG, "%s is damaged; it was set aside as %s", name, aside);
}

/* ---- Locks ---- */

/* FD is not locked afterwards. */
static bool is_locked(int fd)
{
	if (flock(fd, LOCK_SH | LOCK_NB) < 0)
		return errno == EWOULDBLOCK;
	(void)flock(fd, LOCK_UN);
	return false;
}

/* Who looks whether FD is locked locks it for an instant, and with others; that is waited for, but not for ever: one may be stopped. */
static int lock_file(int fd)
{
	static const struct timespec instant = {.tv_nsec = 100 * 1000};

	for (int i = 0; flock(fd, LOCK_EX | LOCK_NB) < 0; i++) {
		if (errno != EWOULDBLOCK || i == 10000 || is_locked(fd))
			return -errno;
		(void)nanosleep(&instant, NULL);
	}
	return 0;
}

int vm_lock(int dir, const char *name, int *ret_fd, struct qmp_error *err)
{
	_cleanup_fd_ int fd = openat(dir, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	int r;

	if (fd < 0)
		return qmp_error_errno(err, -errno, "the lock %s", name);
	r = lock_file(fd);
	if (r == -EWOULDBLOCK)
		return qmp_error_set(err, QMP_ERR_BUSY, -EBUSY, "the lock %s is held by another process", name);
	if (r < 0)
		return qmp_error_errno(err, r, "the lock %s", name);
	*ret_fd = take_fd(&fd);
	return 0;
}

bool vm_is_locked(int dir, const char *name)
{
	_cleanup_fd_ int fd = openat(dir, name, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);

	return fd >= 0 && is_locked(fd);
}

/* ---- Sockets ---- */

/* A new socket, and the address of NAME in DIR: through the folder's fd, since a path has a limit of 107 bytes. */
static int socket_for(int dir, const char *name, struct sockaddr_un *ret_address, struct qmp_error *err)
{
	int fd, n;

	*ret_address = (struct sockaddr_un){.sun_family = AF_UNIX};
	n = snprintf(ret_address->sun_path, sizeof ret_address->sun_path, "/proc/self/fd/%d/%s", dir, name);
	if (n >= (int)sizeof ret_address->sun_path)
		return qmp_error_set(err, QMP_ERR_USAGE, -ENAMETOOLONG, "the socket's name %s is too long", name);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	return fd < 0 ? qmp_error_errno(err, -errno, "the socket %s", name) : fd;
}

int vm_socket_listen(int dir, const char *name, int *ret_fd, struct qmp_error *err)
{
	struct sockaddr_un address;
	_cleanup_fd_ int fd = socket_for(dir, name, &address, err);
	mode_t mask;
	int r;

	if (fd < 0)
		return fd;
	(void)unlinkat(dir, name, 0);
	mask = umask(0177);
	r = bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 128) < 0 ? -errno : 0;
	umask(mask);
	if (r < 0)
		return qmp_error_errno(err, r, "listening on %s", name);
	*ret_fd = take_fd(&fd);
	return 0;
}

int vm_socket_connect(int dir, const char *name, int *ret_fd, struct qmp_error *err)
{
	struct sockaddr_un address;
	_cleanup_fd_ int fd = socket_for(dir, name, &address, err);

	if (fd < 0)
		return fd;
	if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
		return qmp_error_errno(err, -errno, "connecting to %s", name);
	*ret_fd = take_fd(&fd);
	return 0;
}

/* ---- Names in the configuration ---- */

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The name that the file FILE is of, appended to the N of *NAMES: 1; 0: it is none; -ENOMEM. */
static int add_name(char ***names, size_t n, const char *file)
{
	size_t len = strlen(file);
	char **more, *name;

	if (len < 6 || !streq(file + len - 5, ".json") || file[0] == '.')
		return 0;
	more = realloc(*names, (n + 1) * sizeof **names);
	if (!more)
		return -ENOMEM;
	*names = more;
	name = strndup(file, len - 5);
	if (!name)
		return -ENOMEM;
	more[n] = name;
	return 1;
}

int vm_conf_names(const char *conf, const char *folder, json_t **ret, struct qmp_error *err)
{
	struct qmp_error why = {0};
	int fd = vm_dir_open(conf, folder, false, &why), r = 0;
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	json_auto_t *list = json_array();
	struct dirent *entry;
	char **names = NULL;
	size_t n = 0;

	if (fd < 0 && fd != -ENOENT)
		return qmp_error_set(err, why.kind, fd, "%s", why.message);
	while (r >= 0 && dir && (entry = readdir(dir))) {
		r = add_name(&names, n, entry->d_name);
		n += r > 0;
	}
	if (dir)
		closedir(dir);
	if (n > 0)
		qsort(names, n, sizeof *names, compare_names);
	for (size_t i = 0; i < n; i++) {
		json_array_append_new(list, json_string(names[i]));
		free(names[i]);
	}
	free(names);
	if (r < 0)
		return qmp_error_errno(err, r, "listing %s/%s", conf, folder);
	*ret = take_ptr(list);
	return 0;
}

const char *vm_nearest_of(const json_t *names, const char *name)
{
	size_t n = json_array_size(names);
	const char **known = calloc(n + 1, sizeof *known), *near;

	for (size_t i = 0; known && i < n; i++)
		known[i] = json_string_value(json_array_get(names, i));
	near = known ? qmp_nearest(name, known) : NULL;
	free(known);
	return near;
}
