/*
 * Fetching, the way it goes well: of each image that is wanted qemu-img reads the first bytes, of AT_ONCE at a time -> kept -> done
 * when the last has come.
 * It fails: the ssh configuration would run a program; a key cannot be read, qemu-img not started, or it fails (its server is
 * not there, refuses, or says nothing in time), or it is cancelled: the others are ended, then done, with what the first said.
 * Abandoned: those under way are ended, and nobody told.
 */
#include "images/head.h"
#include "images/chain.h"
#include "images/qemu-img.h"
#include "images/tool.h"
#include "launcher/identity.h"
#include "launcher/location.h"
#include "launcher/peril.h"
#include "launcher/sshconf.h"
#include "proto/base.h"

/* Silent servers are waited for side by side. */
#define AT_ONCE 16

/* An image that is being read. */
struct fetch {
	struct img_heads *heads;
	const json_t *image;
	struct img_task *task; /* NULL: this one is free */
};

struct img_heads {
	uv_loop_t *loop;
	json_t *wanted; /* images, without what they are backed by */
	size_t next;    /* of them: the first that was not begun */
	struct fetch fetches[AT_ONCE];
	json_t *heads;
	struct vm_identity *identity;
	struct qmp_error error; /* the first */
	bool abandoned;
	void (*done)(void *data, const struct qmp_error *why);
	void *data;
};

bool img_head_wanted(const json_t *image)
{
	const char *path = text_of(image, "path"), *format = text_of(image, "format");

	return path && vm_location_looks(path) == VM_NBD && !(format && streq(format, "raw"));
}

int img_head_of(const json_t *heads, const char *location, struct img_header *ret, struct qmp_error *err)
{
	const json_t *bytes = json_object_get(heads, location);
	_cleanup_free_ char *shown = NULL;

	if (vm_location_is_file(location))
		return img_header_read(location, ret, err);
	if (bytes) {
		img_header_parse((const unsigned char *)json_string_value(bytes), json_string_length(bytes), ret);
		return 0;
	}
	shown = vm_location_shown(location);
	return qmp_error_set(err, QMP_ERR_HOST, -ENODATA, "the header of %s, which is on a server, was not looked into",
			     shown ? shown : "an image");
}

/* ---- Which ones ---- */

/* As the VM's QEMU names itself, where its location gives no other name: a target may know its clients by that. */
static int name_initiator(json_t *image, const char *uuid)
{
	const char *path = text_of(image, "path");
	_cleanup_free_ char *url = NULL;
	struct vm_location l;
	bool wanted;

	if (!uuid || vm_location_parse(path, &l, NULL) < 0)
		return 0;
	wanted = l.kind == VM_ISCSI && !l.initiator;
	vm_location_deinit(&l);
	if (!wanted)
		return 0;
	url = qmp_asprintf("%s?initiator=iqn.2008-11.org.linux-kvm:%s", path, uuid);
	return url ? json_object_set_new(image, "path", json_string(url)) : -ENOMEM;
}

static int want(struct img_heads *h, const json_t *image, const char *uuid)
{
	json_t *mine = json_copy((json_t *)image);

	if (!mine || json_object_set(mine, "location", json_object_get(image, "path")) < 0 || name_initiator(mine, uuid) < 0) {
		json_decref(mine);
		return -ENOMEM;
	}
	(void)json_object_del(mine, "backing");
	return json_array_append_new(h->wanted, mine);
}

static int want_all(struct img_heads *h, const json_t *disks, const char *uuid)
{
	json_t *disk;
	size_t i;

	json_array_foreach(disks, i, disk)
		for (const json_t *image = disk; image; image = json_object_get(image, "backing"))
			if (img_head_wanted(image) && !json_object_get(h->heads, text_of(image, "path")) && want(h, image, uuid) < 0)
				return -ENOMEM;
	return 0;
}

/* ---- Side by side ---- */

static void heads_free(struct img_heads *h)
{
	json_decref(h->wanted);
	json_decref(h->heads);
	vm_identity_free(h->identity);
	free(h);
}

static struct fetch *free_one(struct img_heads *h)
{
	for (size_t i = 0; i < AT_ONCE; i++)
		if (!h->fetches[i].task)
			return &h->fetches[i];
	return NULL;
}

static bool is_busy(const struct img_heads *h)
{
	for (size_t i = 0; i < AT_ONCE; i++)
		if (h->fetches[i].task)
			return true;
	return false;
}

static void begin_some(struct img_heads *h);

static void on_head(void *data, json_t *bytes, const struct qmp_error *why)
{
	struct fetch *f = data;
	struct img_heads *h = f->heads;

	f->task = NULL;
	if (why && h->error.kind == QMP_ERR_NONE)
		h->error = *why;
	else if (!why && json_object_set(h->heads, text_of(f->image, "location"), bytes) < 0)
		qmp_error_errno(&h->error, -ENOMEM, "reading a header");
	begin_some(h);
	if (is_busy(h))
		return;
	if (!h->abandoned)
		h->done(h->data, h->error.kind == QMP_ERR_NONE ? NULL : &h->error);
	heads_free(h);
}

/* The driver ssh may have qemu-img run a program, as it may QEMU. */
static int check(const struct img_heads *h, const json_t *image, struct qmp_error *err)
{
	struct vm_host host = {.sandbox = true, .ssh_runs = vm_ssh_config_runs, .user = h->identity ? h->identity->user : NULL};
	json_auto_t *node = img_node(image, NULL);

	return vm_peril_check("blockdev-add", node, &host, err);
}

static void begin(struct fetch *f, struct img_heads *h, const json_t *image)
{
	const struct img_task_handlers handlers = {.done = on_head, .data = f};
	struct img_task *task;

	*f = (struct fetch){.heads = h, .image = image};
	if (check(h, image, &h->error) == 0 && img_read_head(image, h->identity, &task, &h->error) == 0 &&
	    img_task_run(h->loop, task, &handlers, &h->error) == 0)
		f->task = task;
}

/* Once one has failed no other is begun, and those under way are ended. */
static void begin_some(struct img_heads *h)
{
	struct fetch *f;

	while (h->error.kind == QMP_ERR_NONE && h->next < json_array_size(h->wanted) && (f = free_one(h)))
		begin(f, h, json_array_get(h->wanted, h->next++));
	for (size_t i = 0; h->error.kind != QMP_ERR_NONE && i < AT_ONCE; i++)
		if (h->fetches[i].task)
			img_task_cancel(h->fetches[i].task);
}

int img_heads_fetch(uv_loop_t *loop, const struct img_heads_options *o, struct img_heads **ret, struct qmp_error *err)
{
	struct img_heads *h = calloc(1, sizeof *h);
	int r;

	if (!h)
		return qmp_error_errno(err, -ENOMEM, "reading headers");
	*h = (struct img_heads){.loop = loop, .wanted = json_array(), .heads = json_incref(o->heads), .done = o->done, .data = o->data};
	r = h->wanted && want_all(h, o->disks, text_of(o->spec, "uuid")) == 0 ? 0 : qmp_error_errno(err, -ENOMEM, "reading headers");
	if (r == 0 && o->spec && json_array_size(h->wanted) > 0)
		r = vm_identity_of(o->spec, &h->identity, err);
	if (r == 0)
		begin_some(h);
	if (is_busy(h)) {
		*ret = h;
		return 0;
	}
	if (h->error.kind != QMP_ERR_NONE)
		r = qmp_error_set(err, h->error.kind, h->error.code, "%s", h->error.message);
	heads_free(h);
	return r < 0 ? r : 1;
}

void img_heads_cancel(struct img_heads *h)
{
	if (!h)
		return;
	qmp_error_set(&h->error, QMP_ERR_CANCELLED, -ECANCELED, "reading headers: stopped on request");
	begin_some(h);
}

void img_heads_abandon(struct img_heads *h)
{
	if (!h)
		return;
	h->abandoned = true;
	img_heads_cancel(h);
}

/* ---- For verbs ---- */

struct call {
	struct img_heads *heads;
	struct qmp_error error;
	bool done;
};

static void call_done(void *data, const struct qmp_error *why)
{
	struct call *c = data;

	if (why)
		c->error = *why;
	c->done = true;
}

static void call_cancel(void *data)
{
	struct call *c = data;

	if (!c->done)
		img_heads_cancel(c->heads);
}

int img_heads_fetch_now(uv_loop_t *loop, const json_t *disks, json_t *heads, struct qmp_error *err)
{
	struct call c = {0};
	const struct img_heads_options o = {.disks = disks, .heads = heads, .done = call_done, .data = &c};
	struct img_wait wait;
	int r;

	img_wait_begin(&wait, loop, call_cancel, &c);
	r = img_heads_fetch(loop, &o, &c.heads, err);
	c.done |= r != 0;
	img_wait_end(&wait, &c.done);
	if (r < 0)
		return r;
	if (c.error.kind != QMP_ERR_NONE)
		return qmp_error_set(err, c.error.kind, c.error.code, "%s", c.error.message);
	return 0;
}
