#include "launcher/identity.h"
#include "proto/base.h"

#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define GROUPS_MAX 256
#define TRY_MS     5000

/* ---- Whom ---- */

void vm_identity_free(struct vm_identity *id)
{
	if (!id)
		return;
	free(id->user);
	free(id->groups);
	free(id);
}

static int add_groups(struct vm_identity *id)
{
	id->n_groups = GROUPS_MAX;
	id->groups = calloc(GROUPS_MAX, sizeof *id->groups);
	return id->groups && getgrouplist(id->user, id->gid, id->groups, &id->n_groups) >= 0 ? 0 : -ENOMEM;
}

static int look_up(struct vm_identity *id, const char *user, const char *group, struct qmp_error *err)
{
	const struct passwd *pw = getpwnam(user);
	const struct group *gr = group ? getgrnam(group) : NULL;

	if (!pw)
		return qmp_error_set(err, QMP_ERR_HOST, -ENOENT, "user: there is no user \"%s\" on this host", user);
	if (group && !gr)
		return qmp_error_set(err, QMP_ERR_HOST, -ENOENT, "group: there is no group \"%s\" on this host", group);
	if (pw->pw_uid == 0)
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL, "user: \"%s\" is root; leave \"user\" out, or name another", user);
	id->uid = pw->pw_uid;
	id->gid = gr ? gr->gr_gid : pw->pw_gid;
	id->user = strdup(user);
	if (!id->user || add_groups(id) < 0)
		return qmp_error_errno(err, -ENOMEM, "the groups of the user %s", user);
	return 0;
}

int vm_identity_of(const json_t *spec, struct vm_identity **ret, struct qmp_error *err)
{
	const char *user = text_of(spec, "user");
	struct vm_identity *id = NULL;
	int r = 0;

	if (user && geteuid() != 0)
		return qmp_error_set(err, QMP_ERR_HOST, -EPERM,
				     "the spec has QEMU run as the user %s, which only root can do: run qmpctl as root, or leave "
				     "\"user\" out and QEMU runs as you",
				     user);
	if (user) {
		id = calloc(1, sizeof *id);
		r = id ? look_up(id, user, text_of(spec, "group"), err) : qmp_error_errno(err, -ENOMEM, "the user %s", user);
	}
	if (r < 0) {
		vm_identity_free(id);
		return r;
	}
	*ret = id;
	return 0;
}

/* The bounding set can be emptied by root alone, the others end empty whatever we were started with. */
static int drop_capabilities(void)
{
	for (unsigned long cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0 && errno != EPERM)
			return -1;
	return prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 && errno != EINVAL ? -1 : 0;
}

int vm_identity_take(const struct vm_identity *id)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	const struct __user_cap_data_struct none[2] = {{0}};

	if (drop_capabilities() < 0 || setgroups((size_t)id->n_groups, id->groups) < 0 ||
	    setresgid(id->gid, id->gid, id->gid) < 0 || setresuid(id->uid, id->uid, id->uid) < 0)
		return -1;
	/* Until exec, what of our memory is still here is nothing for other processes of that user. */
	return syscall(SYS_capset, &header, none) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ? -1 : 0;
}

/* ---- What it needs ---- */

void vm_needs_deinit(struct vm_needs *needs)
{
	for (size_t i = 0; i < needs->n; i++) {
		free(needs->list[i].path);
		free(needs->list[i].item);
	}
	free(needs->list);
	*needs = (struct vm_needs){0};
}

int vm_needs_add(struct vm_needs *needs, const char *item, const char *path, int mode)
{
	struct vm_need *list = realloc(needs->list, (needs->n + 1) * sizeof *list);
	struct vm_need need = {strdup(path), strdup(item), mode};

	if (list)
		needs->list = list;
	if (!list || !need.path || !need.item) {
		free(need.path);
		free(need.item);
		return -ENOMEM;
	}
	list[needs->n++] = need;
	return 0;
}

/* A socket is connected to, or made in its directory. */
static int add_socket(struct vm_needs *needs, const char *item, const json_t *address, bool made)
{
	const char *path = text_of(address, "path"), *slash = path ? strrchr(path, '/') : NULL;
	_cleanup_free_ char *folder = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : NULL;

	if (!folder)
		return slash ? -ENOMEM : 0;
	return made ? vm_needs_add(needs, item, folder, W_OK | X_OK) : vm_needs_add(needs, item, path, W_OK);
}

/* What reaches another host: a UNIX socket, the cluster's configuration. A file can be opened for it. */
static int add_node(struct vm_needs *needs, const char *item, const json_t *args)
{
	const char *conf = text_of(args, "conf");
	int r = add_socket(needs, item, json_object_get(args, "server"), false);

	return r == 0 && conf ? vm_needs_add(needs, item, conf, R_OK) : r;
}

/* The files that are not there are not asked for. */
static int add_credentials(struct vm_needs *needs, const char *item, const json_t *args)
{
	static const char *const files[] = {"ca-cert.pem", "client-cert.pem", "client-key.pem", "keys.psk"};
	const char *type = text_of(args, "qom-type"), *dir = text_of(args, "dir");
	int r = 0;

	if (!dir || !type || strncmp(type, "tls-creds-", 10) != 0)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(files) && r == 0; i++) {
		_cleanup_free_ char *path = qmp_asprintf("%s/%s", dir, files[i]);
		r = path ? vm_needs_add(needs, item, path, R_OK) : -ENOMEM;
	}
	return r;
}

int vm_needs_add_object(struct vm_needs *needs, const char *item, const char *command, const json_t *args)
{
	int r;

	if (streq(command, "blockdev-add"))
		return add_node(needs, item, args);
	if (streq(command, "object-add"))
		return add_credentials(needs, item, args);
	if (!streq(command, "netdev_add"))
		return 0;
	r = add_socket(needs, item, json_object_get(args, "addr"), json_is_true(json_object_get(args, "server")));
	if (r == 0)
		r = add_socket(needs, item, json_object_get(args, "local"), true);
	return r < 0 ? r : add_socket(needs, item, json_object_get(args, "remote"), false);
}

/* ---- Trying ---- */

/*
 * What the child found: which one it may not open, and how much of its path cannot be passed (0: the file itself); how much of
 * its path leads to what the user could put something else in place of (0: nothing).
 */
struct finding {
	size_t index, barrier, changeable;
};

static size_t find_barrier(const char *path)
{
	char part[PATH_MAX];

	for (size_t n = 0; path[n] && n < sizeof part - 1; n++) {
		part[n] = path[n];
		part[n + 1] = '\0';
		if (path[n + 1] == '/' && n > 0 && access(part, X_OK) < 0)
			return n + 1;
	}
	return 0;
}

/* Of a folder with the sticky bit, what is another's stays. Behind a folder that may not be entered nothing can be changed. */
static size_t find_changeable(const char *path, uid_t uid)
{
	bool in_sticky = false;
	char part[PATH_MAX];
	struct stat st;

	for (size_t n = 0; path[n] && n < sizeof part - 1; n++) {
		bool last = !path[n + 1];
		part[n] = path[n];
		part[n + 1] = '\0';
		if (n > 0 && path[n + 1] != '/' && !last)
			continue;
		if (lstat(part, &st) < 0)
			return 0;
		if (st.st_uid == uid && (in_sticky || S_ISDIR(st.st_mode)))
			return n + 1;
		in_sticky = S_ISDIR(st.st_mode) && (st.st_mode & S_ISVTX) != 0;
		if (S_ISDIR(st.st_mode) && !in_sticky && access(part, W_OK) == 0)
			return n + 1;
	}
	return 0;
}

static _Noreturn void try_all(const struct vm_identity *id, const struct vm_needs *needs, int out)
{
	struct finding f;

	if (vm_identity_take(id) < 0)
		_exit(1);
	for (f.index = 0; f.index < needs->n; f.index++)
		if (access(needs->list[f.index].path, needs->list[f.index].mode) < 0 && errno == EACCES)
			break;
	f.barrier = f.index < needs->n ? find_barrier(needs->list[f.index].path) : 0;
	f.changeable = f.index < needs->n ? find_changeable(needs->list[f.index].path, id->uid) : 0;
	_exit(write(out, &f, sizeof f) == sizeof f ? 0 : 1);
}

/* Storage that hangs is found by the deadline: the child may have to be left to it. */
static int try_in_child(const struct vm_identity *id, const struct vm_needs *needs, struct finding *ret)
{
	_cleanup_fd_ int in = -1;
	struct pollfd ready = {.events = POLLIN};
	int ends[2], r = -ETIMEDOUT;
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	in = ready.fd = ends[0];
	pid = fork();
	if (pid == 0)
		try_all(id, needs, ends[1]);
	(void)close(ends[1]);
	if (pid < 0)
		return -EAGAIN;
	if (poll(&ready, 1, TRY_MS) == 1)
		r = read(in, ret, sizeof *ret) == sizeof *ret ? 0 : -EPERM;
	else
		(void)kill(pid, SIGKILL);
	(void)waitpid(pid, NULL, r == -ETIMEDOUT ? WNOHANG : 0);
	return r;
}

static int refuse(const struct vm_identity *id, const struct vm_need *need, size_t barrier, struct qmp_error *err)
{
	const char *way = need->mode & W_OK ? "write" : need->mode & R_OK ? "read" : "run";

	if (barrier > 0)
		return qmp_error_set(err, QMP_ERR_HOST, -EACCES,
				     "%s: QEMU is to run as the user %s, who cannot reach %s: it may not enter %.*s; let it in "
				     "(setfacl -m u:%s:x %.*s), or put the file elsewhere",
				     need->item, id->user, need->path, (int)barrier, need->path, id->user, (int)barrier, need->path);
	return qmp_error_set(err, QMP_ERR_HOST, -EACCES,
			     "%s: QEMU is to run as the user %s, who cannot %s %s; give it to that user (chown %s %s) or to a group "
			     "of its own",
			     need->item, id->user, way, need->path, id->user, need->path);
}

int vm_identity_check(const struct vm_identity *id, const struct vm_needs *needs, struct qmp_error *err)
{
	struct finding f = {0};
	int r = needs->n > 0 ? try_in_child(id, needs, &f) : 0;

	if (r < 0)
		return qmp_error_errno(err, r, "trying what the user %s may open", id->user);
	return f.index < needs->n ? refuse(id, &needs->list[f.index], f.barrier, err) : 0;
}

/* ---- In its place ---- */

static int refuse_changeable(const struct vm_identity *id, const struct vm_need *need, size_t n, struct qmp_error *err)
{
	return qmp_error_set(err, QMP_ERR_HOST, -EACCES,
			     "%s: QEMU runs as the user %s, who cannot open %s; it is not opened for it, for %s can put something else in "
			     "place of what is in or at %.*s. Give the image to that user (chown %s %s), or put it where only root makes "
			     "files",
			     need->item, id->user, need->path, id->user, (int)n, need->path, id->user, need->path);
}

/* No symlink but a device's: it could lead elsewhere by what the user may change. */
static int open_for(const struct vm_need *need, int flags, struct qmp_error *err)
{
	bool is_in_dev = strncmp(need->path, "/dev/", 5) == 0;
	_cleanup_free_ char *real = realpath(need->path, NULL);
	struct stat st;
	int fd;

	if (!real || stat(real, &st) < 0)
		return qmp_error_errno(err, -errno, "%s: opening %s for QEMU", need->item, need->path);
	if (!(is_in_dev && S_ISBLK(st.st_mode)) && !streq(real, need->path))
		return qmp_error_set(err, QMP_ERR_HOST, -ELOOP,
				     "%s: opening %s for QEMU: a symlink leads to it; name the file itself, %s", need->item, need->path, real);
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return qmp_error_set(err, QMP_ERR_HOST, -EINVAL, "%s: opening %s for QEMU: it is neither a file nor a block device",
				     need->item, need->path);
	fd = open(real, flags | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY);
	return fd >= 0 ? fd : qmp_error_errno(err, -errno, "%s: opening %s for QEMU", need->item, need->path);
}

int vm_identity_open(const struct vm_identity *id, const char *item, const char *path, int flags, int *ret_fd,
		     struct qmp_error *err)
{
	bool writes = (flags & O_ACCMODE) != O_RDONLY;
	struct vm_needs needs = {0};
	struct finding f = {0};
	int fd = -1, r = vm_needs_add(&needs, item, path, writes ? R_OK | W_OK : R_OK);

	if (r == 0)
		r = try_in_child(id, &needs, &f);
	if (r < 0)
		qmp_error_errno(err, r, "%s: trying whether the user %s may open %s", item, id->user, path);
	else if (f.index < needs.n && f.changeable > 0)
		r = refuse_changeable(id, needs.list, f.changeable, err);
	else if (f.index < needs.n)
		r = fd = open_for(needs.list, flags, err);
	vm_needs_deinit(&needs);
	if (fd < 0)
		return r;
	*ret_fd = fd;
	return 1;
}

bool vm_identity_opens(const struct vm_identity *id, const char *path)
{
	struct vm_needs needs = {0};
	bool opens;

	if (!id || access(path, F_OK) < 0)
		return access(path, R_OK | W_OK) == 0;
	opens = vm_needs_add(&needs, "", path, R_OK | W_OK) == 0 && vm_identity_check(id, &needs, NULL) == 0;
	vm_needs_deinit(&needs);
	return opens;
}

int vm_identity_let_in(const struct vm_dirs *dirs, const char *folder, struct qmp_error *err)
{
	const char *const names[] = {NULL, folder};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		_cleanup_fd_ int fd = vm_dir_open(dirs->state, names[i], false, err);
		struct stat st;
		if (fd < 0)
			return fd;
		if (fstat(fd, &st) < 0 || ((st.st_mode & 0111) != 0111 && fchmod(fd, (st.st_mode & 0777) | 0111) < 0))
			return qmp_error_errno(err, -errno, "letting the user that QEMU runs as into %s", dirs->state);
	}
	return 0;
}
