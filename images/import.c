/*
 * The way it goes well, from an address:
 *   (the list of digests fetched) -> looked for in the cache -> the part locked, and looked for once more -> what the part has
 *   read again -> the rest fetched -> digest, header -> in the cache -> (copied to the destination) -> done
 * and from a file:
 *   (the list read) -> looked for in the cache -> read -> digest, header -> at the destination or in the cache -> done.
 * It fails: anywhere; what is damaged or wrong goes, what can be gone on with stays as a part.
 */
#include "images/import-internal.h"
#include "images/cache-limit.h"
#include "images/cache.h"
#include "images/vet.h"
#include "proto/base.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#define SLICE   ((size_t)1 << 20)
#define RETRIES 5

int import_fail(struct img_import *i)
{
	import_finish(i);
	return i->result.error.code;
}

void import_note(struct img_import *i, const char *text)
{
	if (i->o.note)
		i->o.note(i->o.data, text);
}

void import_progress(struct img_import *i, enum img_import_phase phase, uint64_t done, uint64_t total)
{
	if (i->o.progress)
		i->o.progress(i->o.data, phase, done, total);
}

/* ---- Bytes of the source ---- */

/* Where what is unpacked goes: a file to its destination; else into the cache. */
static int begin_draft(void *data, struct img_draft *ret, struct qmp_error *err)
{
	struct img_import *i = data;
	_cleanup_free_ char *place = NULL;
	_cleanup_fd_ int cache = -1;

	if (i->wanted.path && !i->remote) {
		*ret = i->wanted;
		i->wanted = (struct img_draft){.fd = -1};
		return 0;
	}
	cache = img_cache_open(i->o.dirs, err);
	place = i->remote ? qmp_asprintf("%s/cache/%s", i->o.dirs->state, i->part.key) :
			    qmp_asprintf("%s/cache/file-%d-%p", i->o.dirs->state, (int)getpid(), (void *)i);
	if (cache < 0)
		return cache;
	return place ? img_draft_begin(place, true, ret, err) : qmp_error_errno(err, -ENOMEM, "importing %s", i->shown);
}

int import_feed(struct img_import *i, const unsigned char *bytes, size_t n)
{
	return img_intake_feed(&i->intake, bytes, n, &i->result.error);
}

bool import_can_resume(const struct img_import *i)
{
	return img_part_validator(&i->part) || *i->sha256 || *i->sha512;
}

/* The part, once: it stays where it can be gone on with. KEPT: it has become an entry of the cache. */
static void end_part(struct img_import *i, bool kept)
{
	int code = i->result.error.code;
	bool stays = code < 0 && code != -EBADMSG && code != -EFBIG && import_can_resume(i) && (i->intake.got > 0 || i->part.size > 0);

	img_part_end(&i->part, stays, kept);
}

/* ---- Whole: is it what it should be ---- */

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
	const struct img_part *p = &i->part;
	json_t *about = json_pack("{s:s, s:s, s:s, s:I}", "source", i->shown, "packing", img_packing_name(i->intake.packing), "format",
				  i->result.format, "virtual-size", (json_int_t)i->result.virtual_size);

	if (about && *sha512)
		json_object_set_new(about, "sha512", json_string(sha512));
	if (about && i->remote)
		json_object_set_new(about, "url-key", json_string(p->key));
	if (about && p->etag && *p->etag)
		json_object_set_new(about, "etag", json_string(p->etag));
	if (about && p->last_modified && *p->last_modified)
		json_object_set_new(about, "last-modified", json_string(p->last_modified));
	return about;
}

/* The cache has grown. That it is too large and cannot be made smaller is no failure of the import. */
static void trim_cache(struct img_import *i)
{
	_cleanup_free_ char *text = NULL;
	struct qmp_error err = {0};

	if (img_cache_trim(i->o.dirs, &text, &err) < 0)
		text = qmp_asprintf("the cache of images is not held against its limit: %s", err.message);
	if (text)
		import_note(i, text);
}

/* Into the cache: the part itself, or the draft. */
static int keep_in_cache(struct img_import *i, const char *sha512)
{
	json_auto_t *about = describe(i, sha512);
	_cleanup_fd_ int cache = img_cache_open(i->o.dirs, &i->result.error);
	struct img_draft *draft = &i->intake.draft;
	bool plain = img_intake_is_plain(&i->intake);
	int r;

	if (cache < 0 || !about)
		return about ? cache : qmp_error_errno(&i->result.error, -ENOMEM, "importing %s", i->shown);
	if (plain)
		r = img_cache_keep(i->o.dirs, i->part.folder, i->part.key, i->part.fd, i->result.sha256, about, &i->result.error);
	else
		r = img_cache_keep(i->o.dirs, cache, strrchr(draft->path, '/') + 1, draft->fd, i->result.sha256, about,
				   &i->result.error);
	if (r < 0)
		return r;
	if (!plain)
		img_draft_release(draft);
	end_part(i, plain);
	i->entry = img_cache_use(i->o.dirs, img_cache_find(i->o.dirs, i->result.sha256));
	if (i->entry && !i->o.no_cache)
		trim_cache(i);
	return i->entry ? 0 :
		qmp_error_set(&i->result.error, QMP_ERR_HOST, -EIO, "importing %s: it was changed in the cache at once", i->shown);
}

static int vet(struct img_import *i, int fd)
{
	struct img_vetted v;
	int r = img_vet(fd, i->shown, &v, &i->result.error);

	if (r < 0)
		return r;
	i->result.size = v.size;
	i->result.virtual_size = v.virtual_size;
	memcpy(i->result.format, v.format, sizeof i->result.format);
	return 0;
}

static int check_whole(struct img_import *i, char sha512[IMG_SHA512_LEN + 1])
{
	struct qmp_error *err = &i->result.error;
	int r = img_intake_end(&i->intake, i->result.sha256, sha512, err);

	i->result.packing = i->intake.packing;
	if (r == 0)
		r = compare(i, "SHA-512", i->sha512, sha512);
	if (r == 0)
		r = compare(i, "SHA-256", i->sha256, i->result.sha256);
	if (r == 0 && i->remote && !i->end_is_known && !i->result.verified && i->intake.packing == IMG_PACKING_NONE)
		r = qmp_error_set(err, QMP_ERR_HOST, -EBADMSG,
				  "fetching %s: the server does not say how long it is, so that a cut cannot be told from its end; give its "
				  "digest (--sha256)",
				  i->shown);
	return r < 0 ? r : vet(i, img_intake_is_plain(&i->intake) ? i->part.fd : i->intake.draft.fd);
}

/* ---- To the destination ---- */

static int end_copy(struct img_import *i)
{
	if (img_sparse_end(&i->copy, &i->result.error) < 0 || img_draft_keep(&i->wanted, &i->result.error) < 0)
		return import_fail(i);
	if (i->o.no_cache && !i->result.cached)
		(void)img_cache_delete(i->o.dirs, text_of(i->entry, "name"), NULL);
	import_finish(i);
	return 0;
}

/* The file that is read in slices. */
static int reading(const struct img_import *i)
{
	return i->replaying ? i->part.fd : i->in;
}

/* A slice of what is in a file; holes are passed over where nothing but the copy wants them. */
static void on_idle(uv_idle_t *handle)
{
	struct img_import *i = handle->data;
	ssize_t n = pread(reading(i), i->slice, SLICE, (off_t)(i->copying ? i->copy.size : i->intake.got));
	int r;

	if (n < 0 && errno == EINTR)
		return;
	if (n < 0) {
		qmp_error_errno(&i->result.error, -errno, "importing %s: reading it", i->shown);
		(void)import_fail(i);
		return;
	}
	if (i->copying)
		r = n > 0 ? img_sparse_write(&i->copy, i->slice, (size_t)n, &i->result.error) : 0;
	else
		r = n > 0 ? import_feed(i, i->slice, (size_t)n) : 0;
	if (r < 0) {
		uv_idle_stop(&i->idle);
		if (i->copying || !import_mend(i))
			(void)import_fail(i);
		return;
	}
	import_progress(i, i->copying ? IMG_IMPORT_COPY : IMG_IMPORT_READ, i->copying ? i->copy.size : i->intake.got, i->in_size);
	if (n > 0 && !(i->replaying && i->intake.got >= i->part.size))
		return;
	uv_idle_stop(&i->idle);
	if (i->copying) {
		(void)end_copy(i);
		return;
	}
	import_fetch_rest(i); /* where there is nothing to fetch, it is whole */
}

int import_read(struct img_import *i)
{
	struct stat st;

	if (!i->slice)
		i->slice = malloc(SLICE);
	if (!i->slice || fstat(reading(i), &st) < 0) {
		qmp_error_errno(&i->result.error, i->slice ? -errno : -ENOMEM, "importing %s", i->shown);
		return import_fail(i);
	}
	i->in_size = (uint64_t)st.st_size;
	return uv_idle_start(&i->idle, on_idle);
}

/* It is in the cache, as i->entry. */
static int step_copy(struct img_import *i)
{
	const char *path = text_of(i->entry, "path");

	end_part(i, false);
	if (!i->wanted.path) {
		import_finish(i);
		return 0;
	}
	if (i->in >= 0)
		(void)close(take_fd(&i->in));
	i->in = open(path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
	if (i->in < 0) {
		qmp_error_errno(&i->result.error, -errno, "copying %s out of the cache", path);
		return import_fail(i);
	}
	i->copying = true;
	img_sparse_init(&i->copy, i->wanted.fd, UINT64_MAX / 2);
	if (ioctl(i->wanted.fd, FICLONE, i->in) == 0) {
		i->copy.size = i->result.size;
		return end_copy(i);
	}
	return import_read(i);
}

int import_take_entry(struct img_import *i)
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

int import_whole(struct img_import *i)
{
	char sha512[IMG_SHA512_LEN + 1];
	int r = check_whole(i, sha512);

	if (r < 0 && import_mend(i))
		return r;
	if (r == 0 && i->intake.draft.path && !i->remote && i->destination) {
		r = img_draft_keep(&i->intake.draft, &i->result.error);
		import_finish(i);
		return r;
	}
	if (r == 0)
		r = keep_in_cache(i, sha512);
	if (r < 0)
		return import_fail(i);
	return step_copy(i);
}

/* ---- The cache ---- */

json_t *import_look_up(struct img_import *i)
{
	if (*i->sha256)
		return img_cache_use(i->o.dirs, img_cache_find(i->o.dirs, i->sha256));
	return *i->sha512 ? img_cache_use(i->o.dirs, img_cache_find_sha512(i->o.dirs, i->sha512)) : NULL;
}

static void step_look(struct img_import *i)
{
	img_cache_sweep(i->o.dirs);
	if (img_intake_open(&i->intake, *i->sha512 != '\0', &i->result.error) < 0) {
		(void)import_fail(i);
		return;
	}
	i->entry = i->remote || !i->destination ? import_look_up(i) : NULL;
	if (i->entry) {
		(void)import_take_entry(i);
		return;
	}
	if (!i->remote) {
		(void)import_read(i);
		return;
	}
	import_fetch(i);
}

/* ---- The list of digests ---- */

static int take_listed(struct img_import *i, const struct img_sums_result *r)
{
	if ((*i->sha256 && *r->sha256 && !streq(i->sha256, r->sha256)) || (*i->sha512 && *r->sha512 && !streq(i->sha512, r->sha512)))
		return qmp_error_set(&i->result.error, QMP_ERR_REFUSED, -EBADMSG,
				     "the digest that was given is not that of \"%s\" in the list of digests", i->file);
	if (*r->sha256)
		memcpy(i->sha256, r->sha256, sizeof i->sha256);
	if (*r->sha512)
		memcpy(i->sha512, r->sha512, sizeof i->sha512);
	return 0;
}

static void on_listed(void *data, const struct img_sums_result *r)
{
	struct img_import *i = data;

	i->listing = NULL;
	if (!i->cancelled && r->error.kind != QMP_ERR_NONE)
		i->result.error = r->error;
	if (i->result.error.kind == QMP_ERR_NONE && take_listed(i, r) == 0)
		step_look(i);
	else
		(void)import_fail(i);
}

static void on_start(uv_timer_t *timer)
{
	struct img_import *i = timer->data;
	struct img_sums_options o = {.url = i->sums, .file = i->file, .ca_file = i->ca_file, .netrc_file = i->netrc_file,
				     .stall_s = i->o.stall_s, .done = on_listed, .data = i};
	struct img_sums_result listed;

	if (!i->sums)
		step_look(i);
	else if (img_is_http(i->sums) && img_sums_run(i->loop, &o, &i->listing, &i->result.error) < 0)
		(void)import_fail(i);
	else if (img_is_http(i->sums))
		return;
	else if (img_sums_read(i->sums, i->file, &listed, &i->result.error) < 0 || take_listed(i, &listed) < 0)
		(void)import_fail(i);
	else
		step_look(i);
}

/* ---- Its end ---- */

static void free_all(struct img_import *i)
{
	if (i->in >= 0)
		(void)close(i->in);
	img_part_deinit(&i->part);
	img_intake_deinit(&i->intake);
	img_draft_discard(&i->wanted);
	json_decref(i->entry);
	json_decref(i->known);
	free(i->slice);
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
		img_intake_deinit(&i->intake);
		img_draft_discard(&i->wanted);
		i->result.path = i->destination ? i->destination : text_of(i->entry, "path");
		i->o.done(i->o.data, &i->result);
	}
	free_all(i);
}

void import_finish(struct img_import *i)
{
	if (i->ending)
		return;
	i->ending = true;
	end_part(i, false);
	uv_close((uv_handle_t *)&i->timer, on_closed);
	uv_close((uv_handle_t *)&i->idle, on_closed);
}

void img_import_cancel(struct img_import *i)
{
	if (i->cancelled || i->ending)
		return;
	i->cancelled = true;
	qmp_error_set(&i->result.error, QMP_ERR_CANCELLED, -ECANCELED, "importing %s: stopped on request%s", i->shown,
		      i->remote && i->intake.got > 0 && import_can_resume(i) ? "; the same command goes on from here" : "");
	if (i->listing)
		img_sums_cancel(i->listing);
	else if (i->fetch)
		img_fetch_cancel(i->fetch);
	else
		import_finish(i);
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
	int r = img_url_shown(i->source, &i->shown, err);

	if (r == 0)
		r = img_part_name(&i->part, i->source, err);
	if (r < 0)
		return r;
	i->file = img_url_file(i->source);
	return i->file ? 0 : qmp_error_errno(err, -ENOMEM, "importing %s", i->shown);
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
	i->delay = IMPORT_DELAY_FIRST;
	i->remote = img_is_http(o->source);
	r = i->remote ? take_address(i, err) : take_file(i, err);
	i->intake.shown = i->shown;
	i->intake.max_size = i->o.max_size;
	i->intake.keeps_plain = i->remote;
	i->intake.begin = begin_draft;
	i->intake.data = i;
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
	i->in = i->wanted.fd = -1;
	img_part_init(&i->part);
	uv_timer_init(loop, &i->timer);
	uv_idle_init(loop, &i->idle);
	i->timer.data = i->idle.data = i;
	i->open = 2;
	r = take_options(i, o, err);
	if (r < 0) {
		i->o.done = NULL;
		import_finish(i);
		return r;
	}
	uv_timer_start(&i->timer, on_start, 0, 0);
	*ret = i;
	return 0;
}
