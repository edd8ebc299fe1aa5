#include "launcher/peril.h"
#include "proto/base.h"

static int refuse_vhost(struct qmp_error *err)
{
	return qmp_error_set(err, QMP_ERR_UNSUPPORTED, -EOPNOTSUPP,
			     "netdev_add: vhost is asked for, and /dev/vhost-net cannot be opened, at which QEMU may end, VM and "
			     "all, so it was not asked; load the kernel module vhost_net, or leave vhost off");
}

static bool is_tap_with_vhost(const json_t *netdev)
{
	const char *type = json_string_value(json_object_get(netdev, "type"));

	return type && streq(type, "tap") && json_is_true(json_object_get(netdev, "vhost")) &&
	       !json_object_get(netdev, "vhostfd") && !json_object_get(netdev, "vhostfds");
}

/* "netdev_add tap,id=x,vhost=on": everything but what is plainly off counts as on. */
static bool line_has_vhost(const char *line)
{
	const char *at = strstr(line, "vhost=");

	return at && !strstr(line, "vhostfd") && strncmp(at + 6, "off", 3) != 0 && at[6] != 'f' && at[6] != 'n';
}

int vm_peril_check(const char *command, const json_t *arguments, const struct vm_host *host, struct qmp_error *err)
{
	const char *line = NULL;

	if (streq(command, "human-monitor-command"))
		line = json_string_value(json_object_get(arguments, "command-line"));
	if (!host->vhost_net && streq(command, "netdev_add") && is_tap_with_vhost(arguments))
		return refuse_vhost(err);
	if (!host->vhost_net && line && strstr(line, "netdev_add") && line_has_vhost(line))
		return refuse_vhost(err);
	if (streq(command, "x-blockdev-amend") && host->qemu_major != 7)
		return qmp_error_set(err, QMP_ERR_UNSUPPORTED, -EOPNOTSUPP,
				     "x-blockdev-amend: QEMU 10.0 ends at it, VM and all, so it was not asked; use qemu-img amend "
				     "while nothing uses the image");
	return 0;
}
