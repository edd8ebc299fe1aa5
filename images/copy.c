/*
 * The way it goes well: a draft -> blocks shared, or slice by slice copied between turns of the loop -> whole -> named.
 * It fails: the draft cannot be begun; reading, writing; no room; taken back. The draft is gone each time.
 */
#include "images/copy.h"
#include "images/sparse.h"
#include "images/tool.h"
#include "proto/base.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#define SLICE ((size_t)1 << 20)

struct copy {
	const struct img_copy_options *o;
	struct img_draft draft;
	struct img_sparse sparse;
	int in;
	uint64_t size;
	unsigned char *slice;
	uv_idle_t idle;
	bool done, closed;
	struct qmp_error error;
};

static void on_closed(uv_handle_t *handle)
{
	struct copy *c = handle->data;

	c->closed = true;
}

static void cancel(void *data)
{
	struct copy *c = data;

	if (!c->done)
		qmp_error_set(&c->error, QMP_ERR_CANCELLED, -ECANCELED, "copying %s: stopped on request", c->o->from);
	c->done = true;
}

/* What is a hole there needs no reading. */
static void skip_hole(struct copy *c)
{
	off_t data = lseek(c->in, (off_t)c->sparse.size, SEEK_DATA);

	if (data < 0 && errno == ENXIO)
		c->sparse.size = c->size;
	else if (data > (off_t)c->sparse.size)
		c->sparse.size = (uint64_t)data;
}

static void on_idle(uv_idle_t *idle)
{
	struct copy *c = idle->data;
	ssize_t n;

	if (c->done)
		return;
	skip_hole(c);
	n = c->sparse.size < c->size ? pread(c->in, c->slice, SLICE, (off_t)c->sparse.size) : 0;
	if (n < 0 && errno == EINTR)
		return;
	if (n < 0)
		qmp_error_errno(&c->error, -errno, "copying %s: reading it", c->o->from);
	else if (n > 0 && img_sparse_write(&c->sparse, c->slice, (size_t)n, &c->error) < 0)
		qmp_error_wrap(&c->error, "copying %s to %s", c->o->from, c->o->to);
	if (c->o->progress && c->error.kind == QMP_ERR_NONE)
		c->o->progress(c->o->data, c->sparse.size, c->size);
	c->done = n == 0 || c->error.kind != QMP_ERR_NONE;
}

static void copy_slices(uv_loop_t *loop, struct copy *c)
{
	struct img_wait wait;

	c->slice = malloc(SLICE);
	if (!c->slice) {
		qmp_error_errno(&c->error, -ENOMEM, "copying %s", c->o->from);
		return;
	}
	img_sparse_init(&c->sparse, c->draft.fd, UINT64_MAX / 2);
	uv_idle_init(loop, &c->idle);
	c->idle.data = c;
	uv_idle_start(&c->idle, on_idle);
	img_wait_begin(&wait, loop, cancel, c);
	img_wait_end(&wait, &c->done);
	uv_close((uv_handle_t *)&c->idle, on_closed);
	while (!c->closed)
		uv_run(loop, UV_RUN_ONCE);
	free(c->slice);
	if (c->error.kind == QMP_ERR_NONE)
		(void)img_sparse_end(&c->sparse, &c->error);
}

static int open_source(struct copy *c)
{
	struct stat st;

	c->in = open(c->o->from, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (c->in < 0 || fstat(c->in, &st) < 0)
		return qmp_error_errno(&c->error, -errno, "copying %s", c->o->from);
	if (!S_ISREG(st.st_mode))
		return qmp_error_set(&c->error, QMP_ERR_USAGE, -EINVAL, "copying %s: it is no file", c->o->from);
	c->size = (uint64_t)st.st_size;
	return 0;
}

int img_copy_call(uv_loop_t *loop, const struct img_copy_options *o, bool *ret_shared, struct qmp_error *err)
{
	struct copy c = {.o = o, .in = -1, .draft = {.fd = -1}};
	bool shared = false;
	int r = open_source(&c);

	if (r == 0)
		r = img_draft_begin(o->to, false, &c.draft, &c.error);
	if (r == 0) {
		shared = ioctl(c.draft.fd, FICLONE, c.in) == 0;
		if (!shared)
			copy_slices(loop, &c);
	}
	if (c.error.kind == QMP_ERR_NONE && o->whole)
		(void)o->whole(o->whole_data, &c.draft, &c.error);
	if (c.error.kind == QMP_ERR_NONE)
		(void)img_draft_keep(&c.draft, &c.error);
	else if (c.draft.path)
		img_draft_discard(&c.draft);
	if (c.in >= 0)
		(void)close(c.in);
	if (c.error.kind != QMP_ERR_NONE)
		return qmp_error_set(err, c.error.kind, c.error.code, "%s", c.error.message);
	if (ret_shared)
		*ret_shared = shared;
	return 0;
}
