#include "images/import.h"
#include "images/tool.h"
#include "proto/base.h"

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
