#include "images/part.h"
#include "images/cache.h"
#include "images/draft.h"
#include "proto/base.h"

#include <fcntl.h>
#include <sys/stat.h>

void img_part_init(struct img_part *p)
{
	*p = (struct img_part){.folder = -1, .fd = -1, .total = -1};
}

static void let_go(struct img_part *p)
{
	if (p->fd >= 0)
		(void)close(take_fd(&p->fd));
	if (p->folder >= 0)
		(void)close(take_fd(&p->folder));
}

void img_part_deinit(struct img_part *p)
{
	let_go(p);
	free(p->etag);
	free(p->last_modified);
	img_part_init(p);
}

int img_part_name(struct img_part *p, const char *url, struct qmp_error *err)
{
	char none[IMG_SHA512_LEN + 1];
	struct img_digest *d;
	int r = img_digest_new(false, &d, err);

	if (r < 0)
		return r;
	r = img_digest_update(d, url, strcspn(url, "#"));
	if (r == 0)
		r = img_digest_finish(d, p->key, none);
	img_digest_free(d);
	return r < 0 ? qmp_error_errno(err, r, "the digest of an address") : 0;
}

int img_part_open_folder(struct img_part *p, const struct vm_dirs *dirs, struct qmp_error *err)
{
	p->folder = img_cache_open_partial(dirs, err);
	return p->folder < 0 ? p->folder : 0;
}

int img_part_open(struct img_part *p, const char *shown, struct qmp_error *err)
{
	struct stat named, ours;
	_cleanup_fd_ int fd = openat(p->folder, p->key, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	int r;

	if (fd < 0)
		return qmp_error_errno(err, -errno, "fetching %s: keeping what comes", shown);
	r = img_draft_lock(fd, true);
	if (r < 0)
		return r == -EAGAIN ? r : qmp_error_errno(err, r, "fetching %s: its lock", shown);
	if (fstatat(p->folder, p->key, &named, AT_SYMLINK_NOFOLLOW) < 0 || fstat(fd, &ours) < 0 || named.st_ino != ours.st_ino ||
	    named.st_dev != ours.st_dev)
		return -EAGAIN;
	if (!S_ISREG(ours.st_mode))
		return qmp_error_set(err, QMP_ERR_HOST, -EINVAL, "fetching %s: its part is no file", shown);
	p->size = (uint64_t)ours.st_size;
	p->fd = take_fd(&fd);
	return 0;
}

static char *boot_id(void)
{
	_cleanup_fd_ int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	char text[64] = "";

	if (fd >= 0 && read(fd, text, sizeof text - 1) > 0)
		text[strcspn(text, "\n")] = '\0';
	return strdup(text);
}

static int set_text(char **slot, const char *text)
{
	free(*slot);
	*slot = strdup(text ? text : "");
	return *slot ? 0 : -ENOMEM;
}

void img_part_read(struct img_part *p, bool digest)
{
	_cleanup_free_ char *file = qmp_asprintf("%s.json", p->key), *boot = boot_id();
	json_auto_t *about = file ? vm_file_read_json(p->folder, file) : NULL;

	/* After a power cut what was not written yet may be missing anywhere: only a digest tells. */
	if (about && boot && text_of(about, "boot") && (digest || streq(boot, text_of(about, "boot")))) {
		if (set_text(&p->etag, text_of(about, "etag")) < 0 || set_text(&p->last_modified, text_of(about, "last-modified")) < 0)
			return;
		p->total = json_is_integer(json_object_get(about, "total")) ? int_of(about, "total") : -1;
	}
	if (!about || (!digest && !img_part_validator(p)))
		p->size = 0;
}

/* A header may have any byte; what is no ASCII cannot be kept as JSON, and is no word to ask by. */
static const char *plain(const char *header)
{
	for (const char *at = header; *at; at++)
		if (*at < ' ' || *at > '~')
			return "";
	return header;
}

int img_part_begin(struct img_part *p, const char *etag, const char *last_modified, int64_t total)
{
	p->total = total;
	if (set_text(&p->etag, plain(etag)) < 0 || set_text(&p->last_modified, plain(last_modified)) < 0)
		return -ENOMEM;
	return ftruncate(p->fd, 0) < 0 ? -errno : 0;
}

int img_part_describe(struct img_part *p, const char *shown, struct qmp_error *err)
{
	_cleanup_free_ char *boot = boot_id();
	json_auto_t *about = json_pack("{s:s, s:s, s:s, s:I, s:s}", "source", shown, "etag", p->etag ? p->etag : "", "last-modified",
				       p->last_modified ? p->last_modified : "", "total", (json_int_t)p->total, "boot", boot ? boot : "");

	if (!about)
		return qmp_error_errno(err, -ENOMEM, "fetching %s", shown);
	return img_cache_describe_part(p->folder, p->key, about, err);
}

const char *img_part_validator(const struct img_part *p)
{
	if (p->etag && *p->etag && strncmp(p->etag, "W/", 2) != 0)
		return p->etag;
	return p->last_modified && *p->last_modified ? p->last_modified : NULL;
}

void img_part_end(struct img_part *p, bool stays, bool kept)
{
	_cleanup_free_ char *about = qmp_asprintf("%s.json", p->key);

	if (p->folder >= 0 && p->fd >= 0 && !stays) {
		if (!kept)
			(void)unlinkat(p->folder, p->key, 0);
		if (about)
			(void)unlinkat(p->folder, about, 0);
	}
	let_go(p);
}
