#include "images/vet.h"
#include "images/header.h"
#include "proto/base.h"

#include <sys/stat.h>

#define VIRTUAL_MAX ((uint64_t)1 << 50)
#define SECTOR      512

/* What the publisher's server sends instead of an image, or archives that have one in them. */
static int refuse_others(int fd, const char *shown, struct qmp_error *err)
{
	static const struct {
		const char *magic, *what;
		size_t at;
	} others[] = {
		{"<!doctype", "a page of HTML", 0},     {"<html", "a page of HTML", 0},
		{"<?xml", "an XML document", 0},        {"ustar", "a tar archive; unpack it, and import the image in it", 257},
		{"PK\003\004", "a zip archive; unpack it, and import the image in it", 0},
		{"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it, and import the image in it", 0},
	};
	char head[512] = "";
	ssize_t n = pread(fd, head, sizeof head, 0);

	if (n == 0)
		return qmp_error_set(err, QMP_ERR_HOST, -EBADMSG, "importing %s: it is empty", shown);
	for (size_t k = 0; k < ARRAY_SIZE(others); k++)
		if (n > (ssize_t)(others[k].at + strlen(others[k].magic)) &&
		    strncasecmp(head + others[k].at, others[k].magic, strlen(others[k].magic)) == 0)
			return qmp_error_set(err, QMP_ERR_HOST, -EBADMSG, "importing %s: that is no image but %s", shown, others[k].what);
	return 0;
}

int img_vet(int fd, const char *shown, struct img_vetted *ret, struct qmp_error *err)
{
	_cleanup_free_ char *path = qmp_asprintf("/proc/self/fd/%d", fd);
	struct img_vetted v = {0};
	struct img_header h;
	struct stat st;
	int r;

	if (!path || fstat(fd, &st) < 0)
		return qmp_error_errno(err, path ? -errno : -ENOMEM, "importing %s", shown);
	r = img_header_read(path, &h, err);
	if (r == 0)
		r = refuse_others(fd, shown, err);
	if (r < 0)
		return r;
	if (h.has_backing || h.has_data_file)
		return qmp_error_set(err, QMP_ERR_HOST, -EBADMSG,
				     "importing %s: the image would have QEMU open another file, %s \"%s\"; it was not kept. Its publisher can "
				     "flatten it (qemu-img convert)",
				     shown, h.has_backing ? "its backing file" : "its data file", h.has_backing ? h.backing : h.data_file);
	if (streq(h.format, "raw") && st.st_size % SECTOR != 0)
		return qmp_error_set(err, QMP_ERR_HOST, -EBADMSG, "importing %s: that is no image: it looks like none but a raw one, and %lld bytes are "
				     "no whole number of sectors (%d)", shown, (long long)st.st_size, SECTOR);
	v.size = (uint64_t)st.st_size;
	v.virtual_size = h.virtual_size ? h.virtual_size : v.size;
	if (v.virtual_size > VIRTUAL_MAX)
		return qmp_error_set(err, QMP_ERR_HOST, -EBADMSG, "importing %s: its header says that it is %llu bytes large", shown,
				     (unsigned long long)h.virtual_size);
	memcpy(v.format, h.format, sizeof v.format);
	*ret = v;
	return 0;
}
