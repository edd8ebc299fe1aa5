/*
 * control.sock and observe.sock: who is let in, and what becomes of those who are not.
 *
 * A connection that cannot be taken (no fd is left) stays in the socket's queue, and the socket readable: it is not looked at
 * again until a moment has passed. One that finds no place is told why, in place of a greeting. Observers leave a part of
 * the keeper's fds to others.
 *
 * Who may connect the kernel decides, by the sockets' modes. Whoever gives control.sock another mode gives it to nobody: its
 * clients are of our user, or root.
 */
#include "qmpctl/keeper.h"
#include "proto/base.h"

#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define AGAIN_MS 200

struct listener {
	uv_poll_t poll;
	uv_timer_t again;
	struct guest *guest;
	const char *file;
	int fd;
	bool read_only, starved; /* starved: no connection could be taken, and that was said */
};

static void on_connection(uv_poll_t *handle, int status, int events);

static void on_again(uv_timer_t *t)
{
	struct listener *l = t->data;

	uv_poll_start(&l->poll, UV_READABLE, on_connection);
}

/* Whoever has connected and says nothing gives way, in all of this keeper: fds are not one VM's. */
static void wait_for_fds(struct listener *l, int code)
{
	bool found = false;

	for (struct guest *g = l->guest->keeper->guests; g && !found; g = g->next)
		found = client_gives_way(g, true) || client_gives_way(g, false);
	if (!l->starved)
		fprintf(stderr, "qmpctl: %s/%s: a client waits: %s; tried again every %d ms\n", l->guest->vm->name, l->file,
			strerror(-code), AGAIN_MS);
	l->starved = true;
	uv_poll_stop(&l->poll);
	uv_timer_start(&l->again, on_again, AGAIN_MS, 0);
}

/* The last quarter of the fds is not for observers. fds are given from below: so many are taken. */
static int may_look(const struct listener *l, int fd, struct qmp_error *err)
{
	struct rlimit most;

	if (!l->read_only || getrlimit(RLIMIT_NOFILE, &most) < 0 || (rlim_t)fd < most.rlim_cur - most.rlim_cur / 4)
		return 0;
	return qmp_error_set(err, QMP_ERR_LIMIT, -EUSERS,
			     "the keeper of %s has few file descriptors left (its limit is %llu), and keeps them for control.sock",
			     l->guest->vm->name, (unsigned long long)most.rlim_cur);
}

static int may_control(const struct listener *l, int fd, struct qmp_error *err)
{
	struct ucred who;
	socklen_t size = sizeof who;

	if (l->read_only)
		return 0;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) < 0)
		return qmp_error_errno(err, -errno, "%s of %s: who has connected is not known", l->file, l->guest->vm->name);
	if (who.uid == geteuid() || who.uid == 0)
		return 0;
	return qmp_error_set(err, QMP_ERR_REFUSED, -EPERM,
			     "%s of %s is for the user %u and root, not for the user %u; observe.sock is for looking, and for a group "
			     "(\"observe-group\" in the spec)",
			     l->file, l->guest->vm->name, (unsigned)geteuid(), (unsigned)who.uid);
}

/* In place of a greeting. What a socket's buffer does not take at once is not worth waiting for. */
static void tell_why(int fd, const struct qmp_error *why)
{
	json_auto_t *error = json_pack("{s:{s:s, s:o}}", "error", "class", "GenericError", "desc", qmp_json_text(why->message));
	size_t len = 0;
	_cleanup_free_ char *text = error ? qmp_json_encode(error, JSON_COMPACT | JSON_ENSURE_ASCII, &len) : NULL;
	_cleanup_free_ char *line = text ? qmp_asprintf("%s\r\n", text) : NULL;

	if (line)
		(void)send(fd, line, len + 2, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void on_connection(uv_poll_t *handle, int status, int events)
{
	struct listener *l = handle->data;
	int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), code = -errno;
	struct qmp_error err = {0};

	UNUSED(status);
	UNUSED(events);
	if (fd < 0) {
		if (code != -EAGAIN && code != -EINTR && code != -ECONNABORTED)
			wait_for_fds(l, code);
		return;
	}
	l->starved = false;
	if (may_control(l, fd, &err) == 0 && may_look(l, fd, &err) == 0 && client_new(l->guest, fd, l->read_only, &err) == 0)
		return;
	tell_why(fd, &err);
	(void)close(fd);
}

/* ---- Which group may look ---- */

static int find_group(const char *name, gid_t *ret, struct qmp_error *err)
{
	const struct group *group = getgrnam(name);

	if (!group)
		return qmp_error_set(err, QMP_ERR_HOST, -ENOENT, "observe-group: there is no group \"%s\" on this host", name);
	*ret = group->gr_gid;
	return 0;
}

/* Passing through is all that the folder of all VMs lets others do: they see no name, and open what they are given. */
static int let_through(const struct vm_dirs *dirs)
{
	_cleanup_fd_ int dir = open(dirs->run, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	if (dir < 0 || fstat(dir, &st) < 0)
		return -errno;
	return (st.st_mode & 0111) == 0111 || fchmod(dir, (st.st_mode & 07777) | 0111) == 0 ? 0 : -errno;
}

/* The socket first, so that it is never the former group's when the folder is open to this one. */
static int give_to(int run_dir, gid_t group)
{
	if (fchownat(run_dir, "observe.sock", (uid_t)-1, group, AT_SYMLINK_NOFOLLOW) < 0 ||
	    fchmodat(run_dir, "observe.sock", 0660, 0) < 0 || fchown(run_dir, (uid_t)-1, group) < 0 || fchmod(run_dir, 0710) < 0)
		return -errno;
	return 0;
}

static int keep_to_ourselves(int run_dir)
{
	return fchmod(run_dir, 0700) < 0 || fchmodat(run_dir, "observe.sock", 0600, 0) < 0 ? -errno : 0;
}

int listener_share(struct guest *g, const json_t *spec, struct qmp_error *err)
{
	const char *name = text_of(spec, "observe-group");
	gid_t group = 0;
	int r = 0;

	if (!g->observe)
		return 0;
	if (name && find_group(name, &group, err) < 0)
		return -ENOENT;
	if (!name)
		r = keep_to_ourselves(g->vm->run_dir);
	else if ((r = give_to(g->vm->run_dir, group)) == 0)
		r = let_through(g->vm->dirs);
	if (r == -EPERM && name)
		return qmp_error_set(err, QMP_ERR_HOST, r,
				     "observe-group: only root and members of the group %s can give it the socket; become one, or "
				     "run qmpctl as root",
				     name);
	return r < 0 ? qmp_error_errno(err, r, "observe-group: giving observe.sock of %s to %s", g->vm->name,
				       name ? name : "nobody") : 0;
}

/* ---- Listening ---- */

int listener_new(struct guest *g, const char *file, bool read_only, struct listener **ret, struct qmp_error *err)
{
	struct listener *l = calloc(1, sizeof *l);
	int r;

	if (!l)
		return qmp_error_errno(err, -ENOMEM, "listening on %s", file);
	l->fd = -1;
	r = vm_socket_listen(g->vm->run_dir, file, &l->fd, err);
	if (r == 0)
		r = uv_poll_init(g->keeper->loop, &l->poll, l->fd);
	if (r < 0) {
		if (l->fd >= 0)
			(void)close(l->fd);
		free(l);
		return qmp_error_errno(err, r, "listening on %s", file);
	}
	uv_timer_init(g->keeper->loop, &l->again);
	l->guest = g;
	l->file = file;
	l->read_only = read_only;
	l->poll.data = l->again.data = l;
	uv_poll_start(&l->poll, UV_READABLE, on_connection);
	*ret = l;
	return 0;
}

static void on_timer_closed(uv_handle_t *h)
{
	free(h->data);
}

static void on_poll_closed(uv_handle_t *h)
{
	struct listener *l = h->data;

	uv_close((uv_handle_t *)&l->again, on_timer_closed);
}

void listener_free(struct listener *l)
{
	if (!l)
		return;
	uv_poll_stop(&l->poll);
	uv_timer_stop(&l->again);
	uv_close((uv_handle_t *)&l->poll, on_poll_closed);
	(void)close(l->fd);
}
