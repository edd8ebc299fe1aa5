#include "images/header.h"
#include "proto/base.h"

#include <fcntl.h>
#include <stdio.h>

#define SECTOR 512

/* The bytes that there are. Numbers outside of them are 0, names outside of them empty. */
struct head {
	const unsigned char *d;
	size_t len;
};

static uint64_t big(const struct head *h, size_t at, size_t n)
{
	uint64_t v = 0;

	for (size_t i = 0; i < n && at + n <= h->len; i++)
		v = v << 8 | h->d[at + i];
	return v;
}

static uint64_t little(const struct head *h, size_t at, size_t n)
{
	uint64_t v = 0;

	for (size_t i = n; i > 0 && at + n <= h->len; i--)
		v = v << 8 | h->d[at + i - 1];
	return v;
}

static void take_text(const struct head *h, uint64_t at, uint64_t n, char *out, size_t room)
{
	if (n < room && at <= h->len && n <= h->len - at)
		memcpy(out, h->d + at, n);
}

static void take_name(const struct head *h, uint64_t at, uint64_t n, char out[IMG_NAME_MAX])
{
	take_text(h, at, n, out, IMG_NAME_MAX);
}

/* ---- qcow, qcow2 ---- */

#define EXT_DATA_FILE      0x44415441
#define EXT_BACKING_FORMAT 0xe2792aca

/* {be32 type, be32 length, data, padding to 8}, after the header; a type of 0 ends them. */
static void take_extensions(const struct head *h, struct img_header *ret)
{
	uint64_t at = big(h, 4, 4) >= 3 ? big(h, 100, 4) : 72;

	while (at + 8 <= h->len && big(h, at, 4) != 0) {
		uint64_t n = big(h, at + 4, 4);
		if (big(h, at, 4) == EXT_DATA_FILE && ret->has_data_file && !*ret->data_file)
			take_name(h, at + 8, n, ret->data_file);
		if (big(h, at, 4) == EXT_BACKING_FORMAT && !*ret->backing_format)
			take_text(h, at + 8, n, ret->backing_format, sizeof ret->backing_format);
		at += 8 + ((n + 7) & ~(uint64_t)7);
	}
}

static void parse_qcow(const struct head *h, struct img_header *ret)
{
	uint64_t backing = big(h, 8, 8), method = big(h, streq(ret->format, "qcow2") ? 32 : 36, 4);

	snprintf(ret->encryption, sizeof ret->encryption, "%s", method == 0 ? "" : method == 1 ? "aes" : "luks");
	ret->virtual_size = big(h, 24, 8);
	ret->has_backing = backing != 0;
	if (backing)
		take_name(h, backing, big(h, 16, 4), ret->backing);
	ret->has_data_file = streq(ret->format, "qcow2") && big(h, 4, 4) >= 3 && (big(h, 72, 8) & 4) != 0;
	if (streq(ret->format, "qcow2"))
		take_extensions(h, ret);
}

/* ---- qed ---- */

static void parse_qed(const struct head *h, struct img_header *ret)
{
	ret->virtual_size = little(h, 48, 8);
	ret->has_backing = (little(h, 16, 8) & 1) != 0;
	if (ret->has_backing)
		take_name(h, little(h, 56, 4), little(h, 60, 4), ret->backing);
}

/* ---- vmdk ---- */

/* What stands between the quotes that follow WORD in TEXT. */
static bool quoted_after(const struct head *text, const char *word, char out[IMG_NAME_MAX])
{
	const unsigned char *at = memmem(text->d, text->len, word, strlen(word)), *end = text->d + text->len, *open, *close;

	open = at ? memchr(at, '"', (size_t)(end - at)) : NULL;
	close = open ? memchr(open + 1, '"', (size_t)(end - open - 1)) : NULL;
	if (close && close - open - 1 < IMG_NAME_MAX)
		memcpy(out, open + 1, (size_t)(close - open - 1));
	return at != NULL;
}

static void parse_descriptor(const struct head *text, struct img_header *ret)
{
	ret->has_backing = quoted_after(text, "parentFileNameHint=", ret->backing);
}

/* A text: its extents are other files. */
static void parse_vmdk_text(const struct head *h, struct img_header *ret)
{
	parse_descriptor(h, ret);
	ret->has_data_file = true;
	if (!quoted_after(h, "\nRW ", ret->data_file) && !quoted_after(h, "\nRDONLY ", ret->data_file))
		(void)quoted_after(h, "\nNOACCESS ", ret->data_file);
}

static void parse_vmdk4(const struct head *h, struct img_header *ret)
{
	uint64_t sectors = little(h, 12, 8), at = little(h, 28, 8), n = little(h, 36, 8);
	struct head text = {h->d, 0}; /* none */

	ret->virtual_size = sectors > UINT64_MAX / SECTOR ? UINT64_MAX : sectors * SECTOR;
	if (at > 0 && at < h->len / SECTOR)
		text = (struct head){h->d + at * SECTOR, h->len - at * SECTOR};
	if (n < text.len / SECTOR)
		text.len = n * SECTOR;
	/* With no capacity of its own QEMU takes the text as if it were alone. */
	if (sectors == 0 && at > 0)
		parse_vmdk_text(&text, ret);
	else
		parse_descriptor(&text, ret);
}

/* ---- Others, which QEMU opens no other file for ---- */

static void parse_vdi(const struct head *h, struct img_header *ret)
{
	ret->virtual_size = little(h, 368, 8);
}

static void parse_vpc(const struct head *h, struct img_header *ret)
{
	ret->virtual_size = big(h, 48, 8);
}

void img_header_parse(const unsigned char *d, size_t len, struct img_header *ret)
{
	static const struct {
		const char *format, *magic;
		size_t at, n;
		void (*parse)(const struct head *h, struct img_header *ret);
	} magics[] = {
		{"qcow", "QFI\xfb\0\0\0\1", 0, 8, parse_qcow},
		{"qcow2", "QFI\xfb", 0, 4, parse_qcow},
		{"qed", "QED\0", 0, 4, parse_qed},
		{"vmdk", "KDMV", 0, 4, parse_vmdk4},
		{"vmdk", "COWD", 0, 4, NULL},
		{"vmdk", "# Disk DescriptorFile", 0, 21, parse_vmdk_text},
		{"vdi", "\x7f\x10\xda\xbe", 64, 4, parse_vdi},
		{"vhdx", "vhdxfile", 0, 8, NULL},
		{"vpc", "conectix", 0, 8, parse_vpc},
		{"parallels", "WithoutFreeSpace", 0, 16, NULL},
		{"parallels", "WithouFreSpacExt", 0, 16, NULL},
		{"luks", "LUKS\xba\xbe", 0, 6, NULL},
	};
	struct head head = {d, len};

	*ret = (struct img_header){.format = "raw"};
	for (size_t i = 0; i < ARRAY_SIZE(magics); i++) {
		if (len < magics[i].at + magics[i].n || memcmp(d + magics[i].at, magics[i].magic, magics[i].n) != 0)
			continue;
		snprintf(ret->format, sizeof ret->format, "%s", magics[i].format);
		if (magics[i].parse)
			magics[i].parse(&head, ret);
		return;
	}
}

int img_header_read(const char *path, struct img_header *ret, struct qmp_error *err)
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	_cleanup_free_ unsigned char *data = fd >= 0 ? malloc(IMG_HEAD) : NULL;
	size_t len = 0;

	if (!data)
		return qmp_error_errno(err, fd < 0 ? -errno : -ENOMEM, "reading the image %s", path);
	while (len < IMG_HEAD) {
		ssize_t n = pread(fd, data + len, IMG_HEAD - len, (off_t)len);
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
