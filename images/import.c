/*
 * The way it goes well, from an address:
 *   (the list of digests fetched) -> looked for in the cache -> the part locked, and looked for once more -> what the part has
 *   read again -> the rest fetched -> digest, header -> in the cache -> (copied to the destination) -> done
 * and from a file:
 *   (the list read) -> looked for in the cache -> read -> digest, header -> at the destination or in the cache -> done.
 * It fails: anywhere; what is damaged or wrong goes, what can be gone on with stays as a part.
 */
#include "images/import.h"
#include "images/cache.h"
#include "images/draft.h"
#include "images/fetch.h"
#include "images/header.h"
#include "images/sparse.h"
#include "images/tool.h"
#include "proto/base.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#define SLICE       ((size_t)1 << 20)
#define SUMS_MAX    ((size_t)4 << 20)
#define RETRIES     5
#define ANEW_MAX    3     /* times that a download begins from its first byte again */
#define LOCK_EVERY  200   /* ms */
#define DELAY_FIRST 250   /* ms before a retry; four times as much each time */
#define DELAY_MAX   30000

struct img_import {
	uv_loop_t *loop;
	struct img_import_options o;
	char *source, *destination, *sums, *ca_file, *netrc_file;
	char *shown;   /* of the source, for messages and for the cache */
	char *file;    /* its name, for the list of digests */
	bool remote;
	char sha256[IMG_SHA256_LEN + 1], sha512[IMG_SHA512_LEN + 1]; /* wanted; "": not known */
	char key[IMG_SHA256_LEN + 1]; /* of the address: the part's name */

	uv_timer_t timer;
	uv_idle_t idle;
	int open; /* handles */
	bool ending, cancelled;
	struct img_fetch *fetch;
	char *list; /* of digests, as it comes */
	size_t list_len;

	int in;          /* the file that is read: the source, the part, or an entry of the cache */
	int folder;      /* of the parts */
	bool replaying;
	uint64_t in_size, part_size;
	unsigned char *slice;

	struct img_digest *digest;
	struct img_unpack *unpack;
	struct img_sparse sparse;
	struct img_draft draft; /* what is unpacked or copied into; path NULL: none */
	struct img_draft wanted; /* at the destination */
	unsigned char head[IMG_PACKING_MAGIC];
	size_t head_len;
	bool decided;
	enum img_packing packing;

	uint64_t got, got_before; /* bytes of the source; when this try began */
	int64_t total;
	char *etag, *last_modified;
	bool resumed, anew, not_modified, end_is_known, copying;
	bool reached; /* the server has answered once: it is worth waiting for */
	int retries, anews;
	uint64_t delay;

	json_t *entry; /* of the cache: what was found, or made */
	json_t *known; /* what came from this address before; NULL */
	bool kept, settled; /* the part has become an entry; nothing is to be done about it any more */
	struct img_import_result result;
};

static void finish(struct img_import *i);
static void step_fetch(struct img_import *i);

static int fail(struct img_import *i)
{
	finish(i);
	return i->result.error.code;
}

static void note(struct img_import *i, const char *text)
{
	if (i->o.note)
		i->o.note(i->o.data, text);
}

static void progress(struct img_import *i, enum img_import_phase phase, uint64_t done, uint64_t total)
{
	if (i->o.progress)
		i->o.progress(i->o.data, phase, done, total);
}

/* ---- Bytes of the source ---- */

static void drop_draft(struct img_import *i)
{
	if (i->draft.path)
		img_draft_discard(&i->draft);
}

/* Nothing has come yet. */
static int begin_anew(struct img_import *i)
{
	img_unpack_free(take_ptr(i->unpack));
	drop_draft(i);
	i->head_len = 0;
	i->decided = false;
	i->got = 0;
	return img_digest_reset(i->digest) < 0 ? qmp_error_errno(&i->result.error, -ENOMEM, "importing %s", i->shown) : 0;
}

static int sink(void *data, const unsigned char *bytes, size_t n, struct qmp_error *err)
{
	struct img_import *i = data;

	return img_sparse_write(&i->sparse, bytes, n, err);
}

/* Whether what comes is kept as it comes: then the part is the image. */
static bool part_is_image(const struct img_import *i)
{
	return i->remote && i->packing == IMG_PACKING_NONE;
}

static int open_draft(struct img_import *i, struct qmp_error *err)
{
	_cleanup_free_ char *place = NULL;
	_cleanup_fd_ int cache = -1;

	if (i->wanted.path && !i->remote) {
		i->draft = i->wanted;
		i->wanted = (struct img_draft){.fd = -1};
		return 0;
	}
	cache = img_cache_open(i->o.dirs, err);
	place = i->remote ? qmp_asprintf("%s/cache/%s", i->o.dirs->state, i->key) :
			    qmp_asprintf("%s/cache/file-%d-%p", i->o.dirs->state, (int)getpid(), (void *)i);
	if (cache < 0)
		return cache;
	return place ? img_draft_begin(place, true, &i->draft, err) : qmp_error_errno(err, -ENOMEM, "importing %s", i->shown);
}

static int decide(struct img_import *i)
{
	struct qmp_error *err = &i->result.error;
	int r;

	i->decided = true;
	i->packing = i->result.packing = img_packing_of(i->head, i->head_len);
	if (part_is_image(i))
		return 0;
	r = open_draft(i, err);
	if (r < 0)
		return r;
	img_sparse_init(&i->sparse, i->draft.fd, i->o.max_size);
	r = img_unpack_new(i->packing, sink, i, &i->unpack, err);
	return r < 0 ? r : img_unpack_feed(i->unpack, i->head, i->head_len, err);
}

static int feed(struct img_import *i, const unsigned char *bytes, size_t n)
{
	struct qmp_error *err = &i->result.error;
	int r = img_digest_update(i->digest, bytes, n);

	if (r < 0)
		return qmp_error_errno(err, r, "importing %s: its digest", i->shown);
	i->got += n;
	while (!i->decided && n > 0) {
		i->head[i->head_len++] = *bytes++;
		n--;
		r = i->head_len == sizeof i->head ? decide(i) : 0;
		if (r < 0)
			return r;
	}
	if (part_is_image(i) && i->got > i->o.max_size)
		return qmp_error_set(err, QMP_ERR_LIMIT, -EFBIG,
				     "importing %s: it is larger than %llu bytes, which is the limit; --max-size sets another", i->shown,
				     (unsigned long long)i->o.max_size);
	r = i->unpack && n > 0 ? img_unpack_feed(i->unpack, bytes, n, err) : 0;
	return r < 0 ? qmp_error_wrap(err, "importing %s", i->shown) : 0;
}

/* ---- Whole: is it what it should be ---- */

/* What the publisher's server sends instead of an image, or archives that have one in them. */
static int refuse_others(struct img_import *i, int fd)
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
		return qmp_error_set(&i->result.error, QMP_ERR_HOST, -EBADMSG, "importing %s: it is empty", i->shown);
	for (size_t k = 0; k < ARRAY_SIZE(others); k++)
		if (n > (ssize_t)(others[k].at + strlen(others[k].magic)) &&
		    strncasecmp(head + others[k].at, others[k].magic, strlen(others[k].magic)) == 0)
			return qmp_error_set(&i->result.error, QMP_ERR_HOST, -EBADMSG, "importing %s: that is no image but %s", i->shown,
					     others[k].what);
	return 0;
}

static int look_into(struct img_import *i, int fd)
{
	_cleanup_free_ char *path = qmp_asprintf("/proc/self/fd/%d", fd);
	struct img_header h;
	struct stat st;

	if (!path || fstat(fd, &st) < 0)
		return qmp_error_errno(&i->result.error, path ? -errno : -ENOMEM, "importing %s", i->shown);
	if (img_header_read(path, &h, &i->result.error) < 0 || refuse_others(i, fd) < 0)
		return i->result.error.code;
	if (h.has_backing || h.has_data_file)
		return qmp_error_set(&i->result.error, QMP_ERR_HOST, -EBADMSG,
				     "importing %s: the image would have QEMU open another file, %s \"%s\"; it was not kept. Its publisher can "
				     "flatten it (qemu-img convert)",
				     i->shown, h.has_backing ? "its backing file" : "its data file", h.has_backing ? h.backing : h.data_file);
	i->result.size = (uint64_t)st.st_size;
	i->result.virtual_size = h.virtual_size ? h.virtual_size : (uint64_t)st.st_size;
	if (i->result.virtual_size > (uint64_t)1 << 50)
		return qmp_error_set(&i->result.error, QMP_ERR_HOST, -EBADMSG, "importing %s: its header says that it is %llu bytes large",
				     i->shown, (unsigned long long)h.virtual_size);
	memcpy(i->result.format, h.format, sizeof i->result.format);
	return 0;
}

static int compare(struct img_import *i, const char *what, const char *wanted, const char *is)
{
	if (!*wanted)
		return 0;
	i->result.verified = true;
	return streq(wanted, is) ? 0 :
		qmp_error_set(&i->result.error, QMP_ERR_REFUSED, -EBADMSG,
			      "importing %s: its %s is %s, and not %s as it should be; it was not kept", i->shown, what, is, wanted);
}

static json_t *describe(const struct img_import *i, const char *sha512)
{
	json_t *about = json_pack("{s:s, s:s, s:s, s:I}", "source", i->shown, "packing", img_packing_name(i->packing), "format",
				  i->result.format, "virtual-size", (json_int_t)i->result.virtual_size);

	if (about && *sha512)
		json_object_set_new(about, "sha512", json_string(sha512));
	if (about && i->remote)
		json_object_set_new(about, "url-key", json_string(i->key));
	if (about && i->etag && *i->etag)
		json_object_set_new(about, "etag", json_string(i->etag));
	if (about && i->last_modified && *i->last_modified)
		json_object_set_new(about, "last-modified", json_string(i->last_modified));
	return about;
}

/* Into the cache: the part itself, or the draft. */
static int keep_in_cache(struct img_import *i, const char *sha512)
{
	json_auto_t *about = describe(i, sha512);
	_cleanup_fd_ int cache = img_cache_open(i->o.dirs, &i->result.error);
	int r;

	if (cache < 0 || !about)
		return about ? cache : qmp_error_errno(&i->result.error, -ENOMEM, "importing %s", i->shown);
	if (part_is_image(i))
		r = img_cache_keep(i->o.dirs, i->folder, i->key, i->in, i->result.sha256, about, &i->result.error);
	else
		r = img_cache_keep(i->o.dirs, cache, strrchr(i->draft.path, '/') + 1, i->draft.fd, i->result.sha256, about,
				   &i->result.error);
	if (r < 0)
		return r;
	if (!part_is_image(i))
		img_draft_release(&i->draft);
	i->kept = part_is_image(i);
	i->entry = img_cache_find(i->o.dirs, i->result.sha256);
	return i->entry ? 0 :
		qmp_error_set(&i->result.error, QMP_ERR_HOST, -EIO, "importing %s: it was changed in the cache at once", i->shown);
}

static const char *validator(const struct img_import *i);
static bool can_resume(const struct img_import *i);

/* The part, once: it stays where it can be gone on with. */
static void settle_part(struct img_import *i)
{
	_cleanup_free_ char *about = qmp_asprintf("%s.json", i->key);
	int code = i->result.error.code;

	if (i->settled || i->folder < 0 || i->in < 0)
		return;
	i->settled = true;
	if (code < 0 && code != -EBADMSG && code != -EFBIG && can_resume(i) && (i->got > 0 || i->part_size > 0))
		return;
	if (!i->kept)
		(void)unlinkat(i->folder, i->key, 0);
	if (about)
		(void)unlinkat(i->folder, about, 0);
}

static int check_whole(struct img_import *i, char sha512[IMG_SHA512_LEN + 1])
{
	struct qmp_error *err = &i->result.error;
	int r = i->decided ? 0 : decide(i);

	if (r == 0 && i->unpack)
		r = img_unpack_end(i->unpack, err);
	if (r == 0 && i->unpack)
		r = img_sparse_end(&i->sparse, err);
	if (r == 0 && img_digest_finish(i->digest, i->result.sha256, sha512) < 0)
		r = qmp_error_errno(err, -EIO, "importing %s: its digest", i->shown);
	if (r == 0)
		r = compare(i, "SHA-512", i->sha512, sha512);
	if (r == 0)
		r = compare(i, "SHA-256", i->sha256, i->result.sha256);
	if (r == 0 && i->remote && !i->end_is_known && !i->result.verified && i->packing == IMG_PACKING_NONE)
		r = qmp_error_set(err, QMP_ERR_HOST, -EBADMSG,
				  "fetching %s: the server does not say how long it is, so that a cut cannot be told from its end; give its "
				  "digest (--sha256)",
				  i->shown);
	return r < 0 ? r : look_into(i, part_is_image(i) ? i->in : i->draft.fd);
}

static int fetch_anew(struct img_import *i);

/* What has come is wrong: where it came in pieces, these may be of different files. Whether it is fetched anew. */
static bool mend(struct img_import *i)
{
	if (i->result.error.code != -EBADMSG || !i->resumed || i->anews >= ANEW_MAX)
		return false;
	i->result.error = (struct qmp_error){0};
	i->result.verified = false;
	note(i, "what had come before does not fit to the rest: it is fetched anew");
	(void)fetch_anew(i);
	return true;
}

/* ---- To the destination ---- */

static int end_copy(struct img_import *i)
{
	if (img_sparse_end(&i->sparse, &i->result.error) < 0 || img_draft_keep(&i->wanted, &i->result.error) < 0)
		return fail(i);
	if (i->o.no_cache && !i->result.cached)
		(void)img_cache_delete(i->o.dirs, text_of(i->entry, "name"), NULL);
	finish(i);
	return 0;
}

/* A slice of what is in a file; holes are passed over where nothing but the copy wants them. */
static void on_idle(uv_idle_t *handle)
{
	struct img_import *i = handle->data;
	ssize_t n = pread(i->in, i->slice, SLICE, (off_t)(i->copying ? i->sparse.size : i->got));
	int r;

	if (n < 0 && errno == EINTR)
		return;
	if (n < 0) {
		qmp_error_errno(&i->result.error, -errno, "importing %s: reading it", i->shown);
		(void)fail(i);
		return;
	}
	if (i->copying)
		r = n > 0 ? img_sparse_write(&i->sparse, i->slice, (size_t)n, &i->result.error) : 0;
	else
		r = n > 0 ? feed(i, i->slice, (size_t)n) : 0;
	if (r < 0) {
		uv_idle_stop(&i->idle);
		if (i->copying || !mend(i))
			(void)fail(i);
		return;
	}
	progress(i, i->copying ? IMG_IMPORT_COPY : IMG_IMPORT_READ, i->copying ? i->sparse.size : i->got, i->in_size);
	if (n > 0 && !(i->replaying && i->got >= i->part_size))
		return;
	uv_idle_stop(&i->idle);
	if (i->copying) {
		(void)end_copy(i);
		return;
	}
	step_fetch(i); /* where there is nothing to fetch, it is whole */
}

static int read_on(struct img_import *i)
{
	struct stat st;

	if (!i->slice)
		i->slice = malloc(SLICE);
	if (!i->slice || fstat(i->in, &st) < 0) {
		qmp_error_errno(&i->result.error, i->slice ? -errno : -ENOMEM, "importing %s", i->shown);
		return fail(i);
	}
	i->in_size = (uint64_t)st.st_size;
	return uv_idle_start(&i->idle, on_idle);
}

/* It is in the cache, as i->entry. */
static int step_copy(struct img_import *i)
{
	const char *path = text_of(i->entry, "path");

	settle_part(i);
	if (!i->wanted.path) {
		finish(i);
		return 0;
	}
	if (i->in >= 0)
		(void)close(take_fd(&i->in));
	i->in = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (i->in < 0) {
		qmp_error_errno(&i->result.error, -errno, "copying %s out of the cache", path);
		return fail(i);
	}
	i->copying = true;
	img_sparse_init(&i->sparse, i->wanted.fd, UINT64_MAX / 2);
	if (ioctl(i->wanted.fd, FICLONE, i->in) == 0) {
		i->sparse.size = i->result.size;
		return end_copy(i);
	}
	return read_on(i);
}

static int take_entry(struct img_import *i)
{
	snprintf(i->result.sha256, sizeof i->result.sha256, "%s", text_of(i->entry, "sha256"));
	snprintf(i->result.format, sizeof i->result.format, "%s", text_of(i->entry, "format"));
	for (enum img_packing p = IMG_PACKING_NONE; p <= IMG_PACKING_ZSTD; p++)
		if (text_of(i->entry, "packing") && streq(img_packing_name(p), text_of(i->entry, "packing")))
			i->result.packing = p;
	i->result.size = (uint64_t)int_of(i->entry, "size");
	i->result.virtual_size = (uint64_t)int_of(i->entry, "virtual-size");
	i->result.verified = *i->sha256 || *i->sha512;
	i->result.cached = true;
	return step_copy(i);
}

/* ---- All has come ---- */

static int step_whole(struct img_import *i)
{
	char sha512[IMG_SHA512_LEN + 1];
	int r = check_whole(i, sha512);

	if (r < 0 && mend(i))
		return r;
	if (r == 0 && i->draft.path && !i->remote && i->destination) {
		r = img_draft_keep(&i->draft, &i->result.error);
		finish(i);
		return r;
	}
	if (r == 0)
		r = keep_in_cache(i, sha512);
	if (r < 0)
		return fail(i);
	return step_copy(i);
}

/* ---- Fetching ---- */

static char *boot_id(void)
{
	_cleanup_fd_ int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	char text[64] = "";

	if (fd >= 0 && read(fd, text, sizeof text - 1) > 0)
		text[strcspn(text, "\n")] = '\0';
	return strdup(text);
}

static int describe_part(struct img_import *i)
{
	_cleanup_free_ char *boot = boot_id();
	json_auto_t *about = json_pack("{s:s, s:s, s:s, s:I, s:s}", "source", i->shown, "etag", i->etag ? i->etag : "",
				       "last-modified", i->last_modified ? i->last_modified : "", "total", (json_int_t)i->total,
				       "boot", boot ? boot : "");

	if (!about)
		return qmp_error_errno(&i->result.error, -ENOMEM, "fetching %s", i->shown);
	return img_cache_describe_part(i->folder, i->key, about, &i->result.error);
}

static int set_text(char **slot, const char *text)
{
	free(*slot);
	*slot = strdup(text);
	return *slot ? 0 : -ENOMEM;
}

/* The answer is not of the file of which we have the beginning. */
static bool is_another(const struct img_import *i, const struct img_fetch_head *h)
{
	return h->first != i->got || (i->total >= 0 && h->total >= 0 && h->total != i->total) ||
	       (i->etag && *i->etag && *h->etag && !streq(i->etag, h->etag)) ||
	       (i->last_modified && *i->last_modified && *h->last_modified && !streq(i->last_modified, h->last_modified));
}

static int on_head(void *data, const struct img_fetch_head *h, struct qmp_error *err)
{
	struct img_import *i = data;
	uint64_t rest;

	if (h->status == 304) {
		i->not_modified = true;
		return 0;
	}
	i->end_is_known = h->end_is_known;
	if (h->status == 206 && is_another(i, h)) {
		i->anew = true;
		return qmp_error_set(err, QMP_ERR_STATE, -ESTALE, "fetching %s: the file has changed in the meantime", i->shown);
	}
	if (h->status == 206)
		return 0;
	/* The whole, though a part was wanted: the file has changed, or the server knows no parts. */
	if (i->got > 0) {
		note(i, "the server sends the whole file anew: it has changed there, or the server cannot go on in the middle");
		i->resumed = false;
	}
	if (begin_anew(i) < 0)
		return i->result.error.code;
	i->total = h->total;
	if (set_text(&i->etag, h->etag) < 0 || set_text(&i->last_modified, h->last_modified) < 0 || ftruncate(i->in, 0) < 0)
		return qmp_error_errno(err, -errno, "fetching %s", i->shown);
	rest = i->total > 0 ? (uint64_t)i->total : 0;
	if (rest > i->o.max_size)
		return qmp_error_set(err, QMP_ERR_LIMIT, -EFBIG,
				     "fetching %s: it is %llu bytes, and the limit is %llu; --max-size sets another", i->shown,
				     (unsigned long long)rest, (unsigned long long)i->o.max_size);
	if (img_room_check(i->in, rest, err) < 0) {
		qmp_error_wrap(err, "fetching %s", i->shown);
		return err->code;
	}
	return describe_part(i);
}

static int on_body(void *data, const unsigned char *bytes, size_t n, struct qmp_error *err)
{
	struct img_import *i = data;

	for (size_t done = 0; done < n;) {
		ssize_t k = pwrite(i->in, bytes + done, n - done, (off_t)(i->got + done));
		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return qmp_error_errno(err, k < 0 ? -errno : -EIO, "fetching %s: keeping what comes", i->shown);
		done += (size_t)k;
	}
	if (feed(i, bytes, n) < 0)
		return i->result.error.code;
	progress(i, IMG_IMPORT_FETCH, i->got, i->total > 0 ? (uint64_t)i->total : 0);
	return 0;
}

static void on_delay(uv_timer_t *timer)
{
	step_fetch(timer->data);
}

static int fetch_anew(struct img_import *i)
{
	i->anews++;
	i->resumed = false;
	i->total = -1;
	if (begin_anew(i) < 0)
		return fail(i);
	if (set_text(&i->etag, "") < 0 || set_text(&i->last_modified, "") < 0 || ftruncate(i->in, 0) < 0) {
		qmp_error_errno(&i->result.error, -errno, "fetching %s", i->shown);
		return fail(i);
	}
	uv_timer_start(&i->timer, on_delay, 0, 0);
	return 0;
}

/* What a request can name of the file that we have the beginning of; NULL: nothing. */
static const char *validator(const struct img_import *i)
{
	if (i->etag && *i->etag && strncmp(i->etag, "W/", 2) != 0)
		return i->etag;
	return i->last_modified && *i->last_modified ? i->last_modified : NULL;
}

static bool can_resume(const struct img_import *i)
{
	return validator(i) || *i->sha256 || *i->sha512;
}

static bool retry(struct img_import *i, const struct img_fetch_result *r)
{
	_cleanup_free_ char *text = NULL;

	i->reached |= !r->unreached;
	if (!r->again || !i->reached || i->cancelled)
		return false;
	if (i->got > i->got_before) {
		i->retries = i->o.retries;
		i->delay = DELAY_FIRST;
	}
	if (i->retries-- <= 0)
		return false;
	text = qmp_asprintf("%s; tried again in %g s", r->error.message, (double)i->delay / 1000);
	note(i, text ? text : "tried again");
	uv_timer_start(&i->timer, on_delay, i->delay, 0);
	i->delay = 4 * i->delay < DELAY_MAX ? 4 * i->delay : DELAY_MAX;
	return true;
}

static void on_fetched(void *data, const struct img_fetch_result *r)
{
	struct img_import *i = data;

	i->fetch = NULL;
	if (i->ending)
		return;
	if (i->cancelled) {
		finish(i);
		return;
	}
	if (i->not_modified && r->error.kind == QMP_ERR_NONE) {
		i->entry = take_ptr(i->known);
		(void)take_entry(i);
		return;
	}
	if (r->error.kind == QMP_ERR_NONE) {
		(void)step_whole(i);
		return;
	}
	if ((i->anew || r->error.code == -ERANGE) && i->anews < ANEW_MAX) {
		i->anew = false;
		i->result.error = (struct qmp_error){0};
		(void)fetch_anew(i);
		return;
	}
	if (i->result.error.kind == QMP_ERR_NONE ? retry(i, r) : mend(i))
		return;
	if (i->result.error.kind == QMP_ERR_NONE)
		i->result.error = r->error;
	(void)fail(i);
}

static void step_fetch(struct img_import *i)
{
	struct img_fetch_options o = {.url = i->source, .from = i->got, .ca_file = i->ca_file, .netrc_file = i->netrc_file,
				      .stall_s = i->o.stall_s, .head = on_head, .body = on_body, .done = on_fetched, .data = i};

	i->replaying = false;
	if (!i->remote || (i->got > 0 && i->total >= 0 && i->got == (uint64_t)i->total)) {
		i->end_is_known = true;
		(void)step_whole(i);
		return;
	}
	if (i->got > 0 && !can_resume(i) && begin_anew(i) == 0)
		o.from = 0;
	o.if_range = i->got > 0 ? validator(i) : NULL;
	if (i->got == 0 && i->known && text_of(i->known, "etag"))
		o.if_none_match = text_of(i->known, "etag");
	i->got_before = i->got;
	i->resumed |= i->got > 0;
	if (img_fetch_run(i->loop, &o, &i->fetch, &i->result.error) < 0)
		(void)fail(i);
}

/* ---- The part that is there ---- */

static void read_part(struct img_import *i)
{
	_cleanup_free_ char *file = qmp_asprintf("%s.json", i->key), *boot = boot_id();
	json_auto_t *about = file ? vm_file_read_json(i->folder, file) : NULL;
	bool wanted = *i->sha256 || *i->sha512;

	/* After a power cut what was not written yet may be missing anywhere: only a digest tells. */
	if (about && boot && text_of(about, "boot") && (wanted || streq(boot, text_of(about, "boot")))) {
		if (set_text(&i->etag, text_of(about, "etag") ? text_of(about, "etag") : "") < 0 ||
		    set_text(&i->last_modified, text_of(about, "last-modified") ? text_of(about, "last-modified") : "") < 0)
			return;
		i->total = json_is_integer(json_object_get(about, "total")) ? int_of(about, "total") : -1;
	}
	if (!about || !can_resume(i) || (!wanted && !validator(i)))
		i->part_size = 0;
}

static int open_part(struct img_import *i)
{
	struct stat named, ours;
	_cleanup_fd_ int fd = openat(i->folder, i->key, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);

	if (fd < 0)
		return qmp_error_errno(&i->result.error, -errno, "fetching %s: keeping what comes", i->shown);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? -EAGAIN : qmp_error_errno(&i->result.error, -errno, "fetching %s: its lock", i->shown);
	if (fstatat(i->folder, i->key, &named, AT_SYMLINK_NOFOLLOW) < 0 || fstat(fd, &ours) < 0 || named.st_ino != ours.st_ino ||
	    named.st_dev != ours.st_dev)
		return -EAGAIN;
	if (!S_ISREG(ours.st_mode))
		return qmp_error_set(&i->result.error, QMP_ERR_HOST, -EINVAL, "fetching %s: its part is no file", i->shown);
	i->part_size = (uint64_t)ours.st_size;
	i->in = take_fd(&fd);
	return 0;
}

static json_t *look_up(struct img_import *i)
{
	if (*i->sha256)
		return img_cache_find(i->o.dirs, i->sha256);
	return *i->sha512 ? img_cache_find_sha512(i->o.dirs, i->sha512) : NULL;
}

/* The one who fetches it has it locked; who comes later finds it in the cache. */
static void step_lock(uv_timer_t *timer)
{
	struct img_import *i = timer->data;
	int r = open_part(i);

	if (r == -EAGAIN) {
		progress(i, IMG_IMPORT_WAIT, 0, 0);
		uv_timer_start(&i->timer, step_lock, LOCK_EVERY, 0);
		return;
	}
	if (r < 0) {
		(void)fail(i);
		return;
	}
	i->entry = look_up(i);
	if (i->entry) {
		(void)take_entry(i);
		return;
	}
	i->known = img_cache_find_url(i->o.dirs, i->key);
	read_part(i);
	if (i->part_size == 0) {
		step_fetch(i);
		return;
	}
	i->replaying = i->resumed = true;
	(void)read_on(i);
}

static void step_look(struct img_import *i)
{
	img_cache_sweep(i->o.dirs);
	if (img_digest_new(*i->sha512 != '\0', &i->digest, &i->result.error) < 0) {
		(void)fail(i);
		return;
	}
	i->entry = i->remote || !i->destination ? look_up(i) : NULL;
	if (i->entry) {
		(void)take_entry(i);
		return;
	}
	if (!i->remote) {
		(void)read_on(i);
		return;
	}
	i->folder = img_cache_open_partial(i->o.dirs, &i->result.error);
	if (i->folder < 0)
		(void)fail(i);
	else
		step_lock(&i->timer);
}

/* ---- The list of digests ---- */

static int look_up_sums(struct img_import *i)
{
	char sha256[IMG_SHA256_LEN + 1], sha512[IMG_SHA512_LEN + 1];
	int r = img_sums_find(i->list ? i->list : "", i->list_len, i->file, sha256, sha512);

	if (r == -ENOENT)
		return qmp_error_set(&i->result.error, QMP_ERR_NOT_FOUND, r,
				     "the list of digests has no SHA-256 or SHA-512 of the file \"%s\"", i->file);
	if (r < 0)
		return qmp_error_set(&i->result.error, QMP_ERR_REFUSED, r, "the list of digests says two different things of \"%s\"", i->file);
	if ((*i->sha256 && *sha256 && !streq(i->sha256, sha256)) || (*i->sha512 && *sha512 && !streq(i->sha512, sha512)))
		return qmp_error_set(&i->result.error, QMP_ERR_REFUSED, -EBADMSG,
				     "the digest that was given is not that of \"%s\" in the list of digests", i->file);
	if (*sha256)
		memcpy(i->sha256, sha256, sizeof sha256);
	if (*sha512)
		memcpy(i->sha512, sha512, sizeof sha512);
	return 0;
}

static int sums_head(void *data, const struct img_fetch_head *h, struct qmp_error *err)
{
	UNUSED(data);
	return h->status == 200 ? 0 : qmp_error_set(err, QMP_ERR_HOST, -EREMOTEIO, "the list of digests: status %d", h->status);
}

static int sums_body(void *data, const unsigned char *bytes, size_t n, struct qmp_error *err)
{
	struct img_import *i = data;
	char *list;

	if (i->list_len + n > SUMS_MAX)
		return qmp_error_set(err, QMP_ERR_LIMIT, -EFBIG, "the list of digests is larger than 4 MiB");
	list = realloc(i->list, i->list_len + n);
	if (!list)
		return qmp_error_errno(err, -ENOMEM, "reading the list of digests");
	memcpy(list + i->list_len, bytes, n);
	i->list = list;
	i->list_len += n;
	return 0;
}

static void sums_done(void *data, const struct img_fetch_result *r)
{
	struct img_import *i = data;

	i->fetch = NULL;
	if (!i->cancelled && r->error.kind != QMP_ERR_NONE)
		i->result.error = r->error;
	if (i->result.error.kind == QMP_ERR_NONE && look_up_sums(i) == 0)
		step_look(i);
	else
		(void)fail(i);
}

static void read_sums(struct img_import *i)
{
	_cleanup_fd_ int fd = open(i->sums, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	unsigned char buffer[65536];
	ssize_t n = -1;
	int r = fd < 0 ? -errno : 0;

	while (r == 0 && (n = read(fd, buffer, sizeof buffer)) > 0)
		r = sums_body(i, buffer, (size_t)n, &i->result.error);
	if (r < 0 || n < 0)
		qmp_error_errno(&i->result.error, r < 0 ? r : -errno, "reading the list of digests %s", i->sums);
	if (i->result.error.kind == QMP_ERR_NONE && look_up_sums(i) == 0)
		step_look(i);
	else
		(void)fail(i);
}

static void on_start(uv_timer_t *timer)
{
	struct img_import *i = timer->data;
	struct img_fetch_options o = {.url = i->sums, .ca_file = i->ca_file, .netrc_file = i->netrc_file, .stall_s = i->o.stall_s,
				      .head = sums_head, .body = sums_body, .done = sums_done, .data = i};

	if (!i->sums)
		step_look(i);
	else if (!img_is_http(i->sums))
		read_sums(i);
	else if (img_fetch_run(i->loop, &o, &i->fetch, &i->result.error) < 0)
		(void)fail(i);
}

/* ---- Its end ---- */

static void free_all(struct img_import *i)
{
	if (i->in >= 0)
		(void)close(i->in);
	if (i->folder >= 0)
		(void)close(i->folder);
	drop_draft(i);
	img_draft_discard(&i->wanted);
	img_digest_free(i->digest);
	img_unpack_free(i->unpack);
	json_decref(i->entry);
	json_decref(i->known);
	free(i->slice);
	free(i->list);
	free(i->etag);
	free(i->last_modified);
	free(i->source);
	free(i->destination);
	free(i->sums);
	free(i->ca_file);
	free(i->netrc_file);
	free(i->shown);
	free(i->file);
	free(i);
}

static void on_closed(uv_handle_t *handle)
{
	struct img_import *i = handle->data;

	if (--i->open > 0)
		return;
	if (i->o.done) {
		/* Nothing half-made, and no lock, when the caller hears of it. */
		drop_draft(i);
		img_draft_discard(&i->wanted);
		i->result.path = i->destination ? i->destination : text_of(i->entry, "path");
		i->o.done(i->o.data, &i->result);
	}
	free_all(i);
}

static void finish(struct img_import *i)
{
	if (i->ending)
		return;
	i->ending = true;
	settle_part(i);
	uv_close((uv_handle_t *)&i->timer, on_closed);
	uv_close((uv_handle_t *)&i->idle, on_closed);
}

void img_import_cancel(struct img_import *i)
{
	if (i->cancelled || i->ending)
		return;
	i->cancelled = true;
	qmp_error_set(&i->result.error, QMP_ERR_CANCELLED, -ECANCELED, "importing %s: stopped on request%s", i->shown,
		      i->remote && i->got > 0 && can_resume(i) ? "; the same command goes on from here" : "");
	if (i->fetch)
		img_fetch_cancel(i->fetch);
	else
		finish(i);
}

/* ---- Its start ---- */

static char *copy_text(const char *text, bool *good)
{
	char *copy = text ? strdup(text) : NULL;

	*good = *good && (copy || !text);
	return copy;
}

static int take_digests(struct img_import *i, const struct img_import_options *o, struct qmp_error *err)
{
	if (o->sha256 && img_digest_take(o->sha256, IMG_SHA256_LEN, i->sha256) < 0)
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL, "\"%s\" is no SHA-256: 64 hexadecimal digits", o->sha256);
	if (o->sha512 && img_digest_take(o->sha512, IMG_SHA512_LEN, i->sha512) < 0)
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL, "\"%s\" is no SHA-512: 128 hexadecimal digits", o->sha512);
	return 0;
}

static int take_address(struct img_import *i, struct qmp_error *err)
{
	char none[IMG_SHA512_LEN + 1];
	struct img_digest *d = NULL;
	int r = img_url_shown(i->source, &i->shown, err);

	if (r == 0)
		r = img_digest_new(false, &d, err);
	if (r < 0)
		return r;
	r = img_digest_update(d, i->source, strcspn(i->source, "#"));
	if (r == 0)
		r = img_digest_finish(d, i->key, none);
	img_digest_free(d);
	i->file = img_url_file(i->source);
	return r < 0 || !i->file ? qmp_error_errno(err, -ENOMEM, "importing %s", i->shown) : 0;
}

static int take_file(struct img_import *i, struct qmp_error *err)
{
	const char *slash = strrchr(i->source, '/');
	struct stat st;

	i->shown = strdup(i->source);
	i->file = strdup(slash ? slash + 1 : i->source);
	if (!i->shown || !i->file)
		return qmp_error_errno(err, -ENOMEM, "importing %s", i->source);
	i->in = open(i->source, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (i->in < 0 || fstat(i->in, &st) < 0)
		return qmp_error_errno(err, -errno, "importing %s", i->source);
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL, "importing %s: it is neither a file nor a block device", i->source);
	return 0;
}

static int take_options(struct img_import *i, const struct img_import_options *o, struct qmp_error *err)
{
	bool good = true;
	int r = take_digests(i, o, err);

	i->o = *o;
	i->source = copy_text(o->source, &good);
	i->destination = copy_text(o->destination, &good);
	i->sums = copy_text(o->sums, &good);
	i->ca_file = copy_text(o->ca_file, &good);
	i->netrc_file = copy_text(o->netrc_file, &good);
	if (!good)
		return qmp_error_errno(err, -ENOMEM, "importing %s", o->source);
	if (r < 0)
		return r;
	i->o.max_size = o->max_size ? o->max_size : IMG_IMPORT_MAX;
	i->o.retries = i->retries = o->retries < 0 ? RETRIES : o->retries;
	i->delay = DELAY_FIRST;
	i->remote = img_is_http(o->source);
	r = i->remote ? take_address(i, err) : take_file(i, err);
	if (r == 0 && i->ca_file && access(i->ca_file, R_OK) < 0)
		r = qmp_error_errno(err, -errno, "--ca %s", i->ca_file);
	if (r == 0 && i->netrc_file && access(i->netrc_file, R_OK) < 0)
		r = qmp_error_errno(err, -errno, "--netrc %s", i->netrc_file);
	if (r == 0 && i->destination)
		r = img_draft_begin(i->destination, false, &i->wanted, err);
	return r;
}

int img_import_run(uv_loop_t *loop, const struct img_import_options *o, struct img_import **ret, struct qmp_error *err)
{
	struct img_import *i = calloc(1, sizeof *i);
	int r;

	if (!i)
		return qmp_error_errno(err, -ENOMEM, "importing an image");
	i->loop = loop;
	i->in = i->folder = -1;
	i->total = -1;
	i->draft.fd = i->wanted.fd = -1;
	uv_timer_init(loop, &i->timer);
	uv_idle_init(loop, &i->idle);
	i->timer.data = i->idle.data = i;
	i->open = 2;
	r = take_options(i, o, err);
	if (r < 0) {
		i->o.done = NULL;
		finish(i);
		return r;
	}
	uv_timer_start(&i->timer, on_start, 0, 0);
	*ret = i;
	return 0;
}

/* ---- The whole of it ---- */

struct call {
	struct img_import *import;
	const struct img_import_options *o;
	struct img_import_result *result;
	char *path;
	bool done;
};

static void call_progress(void *data, enum img_import_phase phase, uint64_t done, uint64_t total)
{
	struct call *c = data;

	c->o->progress(c->o->data, phase, done, total);
}

static void call_note(void *data, const char *text)
{
	struct call *c = data;

	c->o->note(c->o->data, text);
}

static void call_done(void *data, const struct img_import_result *r)
{
	struct call *c = data;

	*c->result = *r;
	c->path = r->path ? strdup(r->path) : NULL;
	c->result->path = c->path;
	c->done = true;
}

static void call_cancel(void *data)
{
	struct call *c = data;

	if (c->import && !c->done)
		img_import_cancel(c->import);
}

int img_import_call(uv_loop_t *loop, const struct img_import_options *o, struct img_import_result *ret, struct qmp_error *err)
{
	struct img_import_options mine = *o;
	struct call c = {.o = o, .result = ret};
	struct img_wait wait;
	int r;

	*ret = (struct img_import_result){0};
	mine.progress = o->progress ? call_progress : NULL;
	mine.note = o->note ? call_note : NULL;
	mine.done = call_done;
	mine.data = &c;
	img_wait_begin(&wait, loop, call_cancel, &c);
	r = img_import_run(loop, &mine, &c.import, err);
	c.done |= r < 0;
	img_wait_end(&wait, &c.done);
	if (r < 0)
		return r;
	if (ret->error.kind == QMP_ERR_NONE)
		return 0;
	*err = ret->error;
	free(c.path);
	ret->path = NULL;
	return err->code;
}
