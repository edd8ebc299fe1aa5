#include "images/header.h"
#include "proto/base.h"

#include <fcntl.h>
#include <stdio.h>

#define HEAD 4096

static uint64_t big(const unsigned char *p, size_t n)
{
	uint64_t v = 0;

	while (n--)
		v = v << 8 | *p++;
	return v;
}

static void parse_qcow2(const unsigned char *d, size_t len, struct img_header *h)
{
	uint64_t at = big(d + 8, 8), n = big(d + 16, 4);

	h->virtual_size = big(d + 24, 8);
	if (at != 0) {
		h->has_backing = true;
		if (n < sizeof h->backing && at <= len && n <= len - at)
			memcpy(h->backing, d + at, n);
	}
	if (big(d + 4, 4) >= 3 && len >= 80)
		h->has_data_file = (big(d + 72, 8) & 4) != 0;
}

void img_header_parse(const unsigned char *d, size_t len, struct img_header *ret)
{
	static const struct {
		const char *format, *magic;
		size_t at, n;
	} magics[] = {
		{"qcow2", "QFI\xfb", 0, 4},	  {"qed", "QED\0", 0, 4},     {"vmdk", "KDMV", 0, 4},
		{"vmdk", "COWD", 0, 4},		  {"vdi", "\x7f\x10\xda\xbe", 64, 4}, {"vhdx", "vhdxfile", 0, 8},
		{"vpc", "conectix", 0, 8},	  {"parallels", "WithoutFreeSpace", 0, 16},
		{"parallels", "WithouFreSpacExt", 0, 16}, {"luks", "LUKS\xba\xbe", 0, 6},
		{"vmdk", "# Disk DescriptorFile", 0, 21},
	};

	*ret = (struct img_header){.format = "raw"};
	for (size_t i = 0; i < ARRAY_SIZE(magics); i++) {
		if (len < magics[i].at + magics[i].n || memcmp(d + magics[i].at, magics[i].magic, magics[i].n) != 0)
			continue;
		snprintf(ret->format, sizeof ret->format, "%s", magics[i].format);
		break;
	}
	if (streq(ret->format, "qcow2") && len >= 72) {
		if (big(d + 4, 4) == 1)
			snprintf(ret->format, sizeof ret->format, "qcow");
		else
			parse_qcow2(d, len, ret);
	}
}

int img_header_read(const char *path, struct img_header *ret, struct qmp_error *err)
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	unsigned char data[HEAD];
	size_t len = 0;

	if (fd < 0)
		return qmp_error_errno(err, -errno, "reading the image %s", path);
	while (len < sizeof data) {
		ssize_t n = pread(fd, data + len, sizeof data - len, (off_t)len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return qmp_error_errno(err, -errno, "reading the image %s", path);
		if (n == 0)
			break;
		len += (size_t)n;
	}
	img_header_parse(data, len, ret);
	return 0;
}
