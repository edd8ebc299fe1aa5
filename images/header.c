#include "images/header.h"
#include "proto/base.h"

#include <ctype.h>
#include <fcntl.h>

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

#define DESCRIPTOR_MAX ((size_t)1 << 20)

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

/* ---- What stands elsewhere in a file ---- */

/* IMG_HEAD bytes from AT on, or as many as there are: that many. */
static ssize_t read_at(int fd, uint64_t at, unsigned char *data)
{
	size_t len = 0;

	while (len < IMG_HEAD && at <= INT64_MAX - IMG_HEAD) {
		ssize_t n = pread(fd, data + len, IMG_HEAD - len, (off_t)(at + len));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : (ssize_t)len;
		len += (size_t)n;
	}
	return (ssize_t)len;
}

/* Where, in a table of N entries of 32 bytes from FIRST on, that of the GUID begins; 0: it has none. */
static size_t entry_of(const struct head *h, size_t first, uint64_t n, const char guid[16])
{
	for (size_t at = first; n > 0 && at + 32 <= h->len; at += 32, n--)
		if (memcmp(h->d + at, guid, 16) == 0)
			return at;
	return 0;
}

#define VHDX_REGIONS   ((uint64_t)192 << 10)
#define VHDX_METADATA  "\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e"
#define VHDX_DISK_SIZE "\x24\x42\xa5\x2f\x1b\xcd\x76\x48\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8"

/* The table of regions says where the table of metadata is, and that, in what is behind it, where the size is; 0: they do not. */
static uint64_t vhdx_size(int fd, unsigned char *data)
{
	ssize_t n = read_at(fd, VHDX_REGIONS, data);
	struct head h = {data, n > 4 && memcmp(data, "regi", 4) == 0 ? (size_t)n : 0};
	size_t at = entry_of(&h, 16, little(&h, 8, 4), VHDX_METADATA);
	uint64_t metadata = at ? little(&h, at + 16, 8) : 0;

	n = metadata ? read_at(fd, metadata, data) : 0;
	h.len = n > 8 && memcmp(data, "metadata", 8) == 0 ? (size_t)n : 0;
	at = entry_of(&h, 32, little(&h, 10, 2), VHDX_DISK_SIZE);
	metadata += at ? little(&h, at + 16, 4) : 0;
	n = at && metadata <= INT64_MAX ? pread(fd, data, 8, (off_t)metadata) : 0;
	h.len = n == 8 ? 8 : 0;
	return little(&h, 0, 8);
}

/* What is behind the keys. */
static uint64_t luks_size(int fd, const struct head *h)
{
	off_t end = lseek(fd, 0, SEEK_END);
	uint64_t before = big(h, 104, 4) * SECTOR;

	return big(h, 6, 2) == 1 && end > 0 && (uint64_t)end > before ? (uint64_t)end - before : 0;
}

int img_header_read(const char *path, struct img_header *ret, struct qmp_error *err)
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	_cleanup_free_ unsigned char *data = fd >= 0 ? malloc(IMG_HEAD) : NULL;
	ssize_t n = data ? read_at(fd, 0, data) : fd < 0 ? -errno : -ENOMEM;

	if (n < 0)
		return qmp_error_errno(err, (int)n, "reading the image %s", path);
	img_header_parse(data, (size_t)n, ret);
	if (streq(ret->format, "luks"))
		ret->virtual_size = luks_size(fd, &(struct head){data, (size_t)n});
	if (streq(ret->format, "vhdx"))
		ret->virtual_size = vhdx_size(fd, data);
	return 0;
}

/* A line of a descriptor: RW 2048 FLAT "name" 0, with any blanks. */
static void take_extent(const char *line, size_t len, json_t *names)
{
	static const char *const access[] = {"RW", "RDONLY", "NOACCESS"};
	const char *end = line + len, *open, *close;
	size_t n = 0;

	while (line < end && isspace((unsigned char)*line))
		line++;
	while (line + n < end && !isspace((unsigned char)line[n]))
		n++;
	open = memchr(line, '"', (size_t)(end - line));
	close = open ? memchr(open + 1, '"', (size_t)(end - open - 1)) : NULL;
	for (size_t i = 0; close && i < ARRAY_SIZE(access); i++)
		if (n == strlen(access[i]) && memcmp(line, access[i], n) == 0)
			(void)json_array_append_new(names, json_stringn_nocheck(open + 1, (size_t)(close - open - 1)));
}

json_t *img_header_extents(const char *path)
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	_cleanup_free_ char *text = fd >= 0 ? malloc(DESCRIPTOR_MAX) : NULL;
	ssize_t n = text ? pread(fd, text, DESCRIPTOR_MAX, 0) : -1;
	json_t *names = n >= 0 ? json_array() : NULL;

	for (const char *line = text, *end = names ? text + n : text; line < end;) {
		const char *next = memchr(line, '\n', (size_t)(end - line));
		next = next ? next + 1 : end;
		take_extent(line, (size_t)(next - line), names);
		line = next;
	}
	return names;
}
