#include "launcher/hostnet.h"
#include "proto/base.h"

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define HELPER    "/usr/lib/qemu/qemu-bridge-helper"
#define HELPER_MS 5000

static int open_tap(const char *name, int *ret_fd, struct qmp_error *err)
{
	_cleanup_fd_ int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};

	if (fd < 0)
		return qmp_error_errno(err, -errno, "opening /dev/net/tun for the tap %s", name);
	if (strlen(name) >= sizeof request.ifr_name)
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL, "the tap's name \"%s\" is longer than 15 characters", name);
	memcpy(request.ifr_name, name, strlen(name));
	if (ioctl(fd, TUNSETIFF, &request) < 0)
		return qmp_error_errno(err, -errno,
				       "taking the tap %s (make it first: ip tuntap add %s mode tap user NAME)", name, name);
	*ret_fd = take_fd(&fd);
	return 0;
}

/* The helper sends the tap's fd over the socket that it was given. */
static int receive_fd(int socket, int *ret_fd)
{
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	char byte;
	struct iovec iov = {&byte, 1};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	struct pollfd ready = {socket, POLLIN, 0};
	struct cmsghdr *c;

	if (poll(&ready, 1, HELPER_MS) != 1 || recvmsg(socket, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) <= 0)
		return -EIO;
	c = CMSG_FIRSTHDR(&msg);
	if (!c || c->cmsg_type != SCM_RIGHTS)
		return -EIO;
	memcpy(ret_fd, CMSG_DATA(c), sizeof *ret_fd);
	return 0;
}

static int open_bridge(const char *bridge, int *ret_fd, struct qmp_error *err)
{
	_cleanup_free_ char *br = qmp_asprintf("--br=%s", bridge);
	_cleanup_fd_ int ours = -1, theirs = -1;
	char fd_arg[24];
	int pair[2], status = 0, r;
	pid_t pid;

	if (!br || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return qmp_error_errno(err, br ? -errno : -ENOMEM, "a tap on the bridge %s", bridge);
	ours = pair[0];
	theirs = pair[1];
	snprintf(fd_arg, sizeof fd_arg, "--fd=%d", theirs);
	pid = fork();
	if (pid == 0) {
		(void)fcntl(theirs, F_SETFD, 0);
		execl(HELPER, HELPER, "--use-vnet", fd_arg, br, (char *)NULL);
		_exit(127);
	}
	if (pid < 0)
		return qmp_error_errno(err, -errno, "running %s", HELPER);
	(void)close(take_fd(&theirs));
	r = receive_fd(ours, ret_fd);
	(void)waitpid(pid, &status, 0);
	if (r < 0)
		return qmp_error_set(err, QMP_ERR_HOST, r,
				     "a tap on the bridge %s: %s ended with status %d; does the bridge exist, and does "
				     "/etc/qemu/bridge.conf say \"allow %s\"?",
				     bridge, HELPER, WIFEXITED(status) ? WEXITSTATUS(status) : -1, bridge);
	return 0;
}

int vm_hostnet_open(const json_t *nic, int *ret_fd, struct qmp_error *err)
{
	const char *backend = json_string_value(json_object_get(nic, "backend"));

	*ret_fd = -1;
	if (streq(backend, "tap"))
		return open_tap(json_string_value(json_object_get(nic, "interface")), ret_fd, err);
	if (streq(backend, "bridge"))
		return open_bridge(json_string_value(json_object_get(nic, "bridge")), ret_fd, err);
	return 0;
}

bool vm_hostnet_has_vhost(void)
{
	return access("/dev/vhost-net", R_OK | W_OK) == 0;
}
