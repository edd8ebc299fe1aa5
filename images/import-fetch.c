#include "images/import-internal.h"
#include "images/cache.h"
#include "proto/base.h"

#define ANEW_MAX   3     /* times that a download begins from its first byte again */
#define LOCK_EVERY 200   /* ms */
#define DELAY_MAX  30000 /* ms before a retry */

/* The answer is not of the file of which we have the beginning. */
static bool is_another(const struct img_import *i, const struct img_fetch_head *h)
{
	return h->first != i->intake.got || (i->part.total >= 0 && h->total >= 0 && h->total != i->part.total) ||
	       (i->part.etag && *i->part.etag && *h->etag && !streq(i->part.etag, h->etag)) ||
	       (i->part.last_modified && *i->part.last_modified && *h->last_modified && !streq(i->part.last_modified, h->last_modified));
}

static int on_head(void *data, const struct img_fetch_head *h, struct qmp_error *err)
{
	struct img_import *i = data;
	uint64_t rest;
	int r;

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
	if (i->intake.got > 0) {
		import_note(i, "the server sends the whole file anew: it has changed there, or the server cannot go on in the middle");
		i->resumed = false;
	}
	if (img_intake_reset(&i->intake, &i->result.error) < 0)
		return i->result.error.code;
	r = img_part_begin(&i->part, h->etag, h->last_modified, h->total);
	if (r < 0)
		return qmp_error_errno(err, r, "fetching %s", i->shown);
	rest = i->part.total > 0 ? (uint64_t)i->part.total : 0;
	if (rest > i->o.max_size)
		return qmp_error_set(err, QMP_ERR_LIMIT, -EFBIG,
				     "fetching %s: it is %llu bytes, and the limit is %llu; --max-size sets another", i->shown,
				     (unsigned long long)rest, (unsigned long long)i->o.max_size);
	if (img_room_check(i->part.fd, rest, err) < 0) {
		qmp_error_wrap(err, "fetching %s", i->shown);
		return err->code;
	}
	return img_part_describe(&i->part, i->shown, err);
}

static int on_body(void *data, const unsigned char *bytes, size_t n, struct qmp_error *err)
{
	struct img_import *i = data;

	for (size_t done = 0; done < n;) {
		ssize_t k = pwrite(i->part.fd, bytes + done, n - done, (off_t)(i->intake.got + done));
		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return qmp_error_errno(err, k < 0 ? -errno : -EIO, "fetching %s: keeping what comes", i->shown);
		done += (size_t)k;
	}
	if (import_feed(i, bytes, n) < 0)
		return i->result.error.code;
	import_progress(i, IMG_IMPORT_FETCH, i->intake.got, i->part.total > 0 ? (uint64_t)i->part.total : 0);
	return 0;
}

static void on_delay(uv_timer_t *timer)
{
	import_fetch_rest(timer->data);
}

static int fetch_anew(struct img_import *i)
{
	int r = img_intake_reset(&i->intake, &i->result.error);

	i->anews++;
	i->resumed = false;
	if (r < 0)
		return import_fail(i);
	r = img_part_begin(&i->part, "", "", -1);
	if (r < 0) {
		qmp_error_errno(&i->result.error, r, "fetching %s", i->shown);
		return import_fail(i);
	}
	uv_timer_start(&i->timer, on_delay, 0, 0);
	return 0;
}

bool import_mend(struct img_import *i)
{
	if (i->result.error.code != -EBADMSG || !i->resumed || i->anews >= ANEW_MAX)
		return false;
	i->result.error = (struct qmp_error){0};
	i->result.verified = false;
	import_note(i, "what had come before does not fit to the rest: it is fetched anew");
	(void)fetch_anew(i);
	return true;
}

static bool retry(struct img_import *i, const struct img_fetch_result *r)
{
	_cleanup_free_ char *text = NULL;

	i->reached |= !r->unreached;
	if (!r->again || !i->reached || i->cancelled)
		return false;
	if (i->intake.got > i->got_before) {
		i->retries = i->o.retries;
		i->delay = IMPORT_DELAY_FIRST;
	}
	if (i->retries-- <= 0)
		return false;
	text = qmp_asprintf("%s; tried again in %g s", r->error.message, (double)i->delay / 1000);
	import_note(i, text ? text : "tried again");
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
		import_finish(i);
		return;
	}
	if (i->not_modified && r->error.kind == QMP_ERR_NONE) {
		i->entry = take_ptr(i->known);
		(void)import_take_entry(i);
		return;
	}
	if (r->error.kind == QMP_ERR_NONE) {
		(void)import_whole(i);
		return;
	}
	if ((i->anew || r->error.code == -ERANGE) && i->anews < ANEW_MAX) {
		i->anew = false;
		i->result.error = (struct qmp_error){0};
		(void)fetch_anew(i);
		return;
	}
	if (i->result.error.kind == QMP_ERR_NONE ? retry(i, r) : import_mend(i))
		return;
	if (i->result.error.kind == QMP_ERR_NONE)
		i->result.error = r->error;
	(void)import_fail(i);
}

void import_fetch_rest(struct img_import *i)
{
	struct img_fetch_options o = {.url = i->source, .from = i->intake.got, .ca_file = i->ca_file, .netrc_file = i->netrc_file,
				      .stall_s = i->o.stall_s, .head = on_head, .body = on_body, .done = on_fetched, .data = i};

	i->replaying = false;
	if (!i->remote || (i->intake.got > 0 && i->part.total >= 0 && i->intake.got == (uint64_t)i->part.total)) {
		i->end_is_known = true;
		(void)import_whole(i);
		return;
	}
	if (i->intake.got > 0 && !import_can_resume(i) && img_intake_reset(&i->intake, &i->result.error) == 0)
		o.from = 0;
	o.if_range = i->intake.got > 0 ? img_part_validator(&i->part) : NULL;
	if (i->intake.got == 0 && i->known && text_of(i->known, "etag"))
		o.if_none_match = text_of(i->known, "etag");
	i->got_before = i->intake.got;
	i->resumed |= i->intake.got > 0;
	if (img_fetch_run(i->loop, &o, &i->fetch, &i->result.error) < 0)
		(void)import_fail(i);
}

/* ---- The part that is there ---- */

/* The one who fetches it has it locked; who comes later finds it in the cache. */
static void step_lock(uv_timer_t *timer)
{
	struct img_import *i = timer->data;
	int r = img_part_open(&i->part, i->shown, &i->result.error);

	if (r == -EAGAIN) {
		import_progress(i, IMG_IMPORT_WAIT, 0, 0);
		uv_timer_start(&i->timer, step_lock, LOCK_EVERY, 0);
		return;
	}
	if (r < 0) {
		(void)import_fail(i);
		return;
	}
	i->entry = import_look_up(i);
	if (i->entry) {
		(void)import_take_entry(i);
		return;
	}
	i->known = img_cache_use(i->o.dirs, img_cache_find_url(i->o.dirs, i->part.key));
	img_part_read(&i->part, *i->sha256 || *i->sha512);
	if (i->part.size == 0) {
		import_fetch_rest(i);
		return;
	}
	i->replaying = i->resumed = true;
	(void)import_read(i);
}

void import_fetch(struct img_import *i)
{
	if (img_part_open_folder(&i->part, i->o.dirs, &i->result.error) < 0)
		(void)import_fail(i);
	else
		step_lock(&i->timer);
}
