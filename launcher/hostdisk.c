#include "launcher/hostdisk.h"
#include "proto/base.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

struct numbers {
	unsigned major, minor;
};

/* The source of the mount of that number in LINE of mountinfo; borrowed, cut out of it. NULL: it is another's. */
static char *source_in(char *line, uint64_t mount)
{
	char *fields = strstr(line, " - "), *save = NULL;

	if (strtoull(line, NULL, 10) != mount || !fields)
		return NULL;
	return strtok_r(fields + 3, " \n", &save) ? strtok_r(NULL, " \n", &save) : NULL; /* behind the file system's name */
}

/* Of a file system with numbers of its own (btrfs) the disk is only known by the mount. */
static int disk_of_mount(uint64_t mount, struct numbers *ret)
{
	FILE *mounts = fopen("/proc/self/mountinfo", "re");
	char *line = NULL, *source = NULL;
	size_t size = 0;
	struct stat st;
	int r = -ENODEV;

	while (mounts && !source && getline(&line, &size, mounts) > 0)
		source = source_in(line, mount);
	if (source && *source == '/' && stat(source, &st) == 0 && S_ISBLK(st.st_mode)) {
		*ret = (struct numbers){major(st.st_rdev), minor(st.st_rdev)};
		r = 0;
	}
	free(line);
	if (mounts)
		(void)fclose(mounts);
	return r;
}

/* Of a partition the disk that it is of; of anything else itself. */
static int whole_disk(struct numbers *n)
{
	char path[64], text[32] = "";
	_cleanup_fd_ int fd = -1;

	snprintf(path, sizeof path, "/sys/dev/block/%u:%u/partition", n->major, n->minor);
	if (access(path, F_OK) < 0)
		return 0;
	snprintf(path, sizeof path, "/sys/dev/block/%u:%u/../dev", n->major, n->minor);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof text - 1) < 0)
		return -errno;
	return sscanf(text, "%u:%u", &n->major, &n->minor) == 2 ? 0 : -ENODEV;
}

int vm_host_disk(const char *path, unsigned *ret_major, unsigned *ret_minor, struct qmp_error *err)
{
	struct statx st;
	struct numbers n;
	int r = 0;

	if (statx(AT_FDCWD, path, 0, STATX_BASIC_STATS | STATX_MNT_ID, &st) < 0)
		return qmp_error_errno(err, -errno, "looking for the disk below %s", path);
	n = S_ISBLK(st.stx_mode) ? (struct numbers){st.stx_rdev_major, st.stx_rdev_minor}
				 : (struct numbers){st.stx_dev_major, st.stx_dev_minor};
	if (n.major == 0)
		r = (st.stx_mask & STATX_MNT_ID) ? disk_of_mount(st.stx_mnt_id, &n) : -ENODEV;
	if (r == 0)
		r = whole_disk(&n);
	if (r == -ENODEV)
		return qmp_error_set(err, QMP_ERR_UNSUPPORTED, r, "%s stands on no disk of this host", path);
	if (r < 0)
		return qmp_error_errno(err, r, "looking for the disk below %s", path);
	*ret_major = n.major;
	*ret_minor = n.minor;
	return 0;
}
