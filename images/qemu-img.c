/*
 * A task, the way it goes well: made (its words; nothing is touched) -> run: a draft, where it makes an image ->
 * qemu-img, with its progress -> ended -> the draft is durable and named, in a thread where others are on the loop ->
 * done. It fails: the draft cannot be begun, or qemu-img not started (from img_task_run); qemu-img fails or is taken
 * back; the draft cannot be kept. The draft is gone each time.
 */
#include "images/qemu-img.h"
#include "images/chain.h"
#include "images/header.h"
#include "images/tool.h"
#include "launcher/location.h"
#include "launcher/secret.h"
#include "proto/base.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>

#define DRAFT_WORD  "DRAFT"
#define FDS_MAX    64
#define IMAGES_MAX 2
#define FIRST_FD   3
#define HEAD_MS    30000

/* What people know of the word AT, from its byte SKIP on. */
struct shown {
	size_t at, skip;
	char *path;
};

struct img_task {
	char *doing;
	char **words;
	size_t n_words;
	bool lacks_memory;
	size_t draft_at; /* in WORDS; 0: there is none */
	struct shown images[IMAGES_MAX];
	size_t n_images;
	char *path, *format;
	bool replace;
	struct img_draft draft;
	int fds[FDS_MAX]; /* become FIRST_FD, ...: secrets, and where a head goes */
	size_t n_fds;
	const struct vm_identity *identity; /* whom it runs as; NULL: as we do */
	int64_t timeout_ms;                 /* 0: as long as it takes */
	unsigned good; /* exit statuses (tool.h) */
	/* What it gave as JSON; NULL: the program's output is that. */
	json_t *(*result)(const struct img_task *t, int status);
	img_whole_cb whole;
	void *whole_data;

	struct img_task_handlers handlers;
	struct img_tool *tool;
	bool waited_for; /* by img_task_call: nothing else is on the loop */
	char *output; /* without the progress */
	size_t output_len;
	json_t *value;
	struct qmp_error error;
	uv_work_t work;
};

/* ---- Words ---- */

static void add_consume(struct img_task *t, char *word)
{
	char **words = word ? realloc(t->words, (t->n_words + 2) * sizeof *words) : NULL;

	if (!words) {
		free(word);
		t->lacks_memory = true;
		return;
	}
	t->words = words;
	words[t->n_words++] = word;
	words[t->n_words] = NULL;
}

static void add(struct img_task *t, const char *word)
{
	add_consume(t, strdup(word));
}

static void add_pair(struct img_task *t, const char *option, const char *value)
{
	add(t, option);
	add(t, value);
}

static void add_bytes(struct img_task *t, uint64_t bytes)
{
	add_consume(t, qmp_asprintf("%llu", (unsigned long long)bytes));
}

/* The word at the end, to where options stand: behind the verb. */
static void move_to_options(struct img_task *t)
{
	char *word = t->words[t->n_words - 1];

	memmove(t->words + 3, t->words + 2, (t->n_words - 3) * sizeof *t->words);
	t->words[2] = word;
	t->draft_at += t->draft_at ? 1 : 0;
	for (size_t i = 0; i < t->n_images; i++)
		t->images[i].at++;
}

static void add_object_consume(struct img_task *t, char *text)
{
	add_consume(t, text);
	if (!t->lacks_memory)
		move_to_options(t);
	add(t, "--object");
	if (!t->lacks_memory)
		move_to_options(t);
}

/* The number that FD has in the program. */
static int add_fd_consume(struct img_task *t, int fd, struct qmp_error *err)
{
	if (t->n_fds == FDS_MAX) {
		(void)close(fd);
		return qmp_error_set(err, QMP_ERR_LIMIT, -E2BIG, "%s: more than %d keys and passwords", t->doing, FDS_MAX);
	}
	t->fds[t->n_fds++] = fd;
	return FIRST_FD + (int)t->n_fds - 1;
}

/* What an image needs to be reached and opened (fragment.h). */
static int add_need(struct img_task *t, const struct vm_object *o)
{
	json_auto_t *args = json_copy(o->args);
	int fd, r;

	if (o->secret_file) {
		r = vm_secret_open(o->secret_file, o->secret_is_line, &fd, &t->error);
		if (r == 0)
			r = add_fd_consume(t, fd, &t->error);
		if (r < 0)
			return r;
		json_object_set_new(args, "file", json_sprintf("/proc/self/fd/%d", r));
	}
	add_object_consume(t, qmp_json_encode(args, JSON_COMPACT, NULL));
	return 0;
}

/*
 * Never taken for an option, nor for anything else than the image that it names; people know it as SHOWN. BEFORE stands before
 * it in its word.
 */
static void add_node(struct img_task *t, const char *before, const json_t *image, const char *shown)
{
	struct vm_fragment needs = {.item = strdup(t->n_images ? "other" : "image")}; /* ids are told apart by that */
	json_auto_t *node = img_node(image, &needs);
	_cleanup_free_ char *text = node ? json_dumps(node, JSON_COMPACT) : NULL;

	for (size_t i = 0; i < needs.n_objects && t->error.kind == QMP_ERR_NONE; i++)
		(void)add_need(t, &needs.objects[i]);
	vm_fragment_deinit(&needs);
	if (t->n_images < IMAGES_MAX)
		t->images[t->n_images++] = (struct shown){t->n_words, strlen(before), vm_location_shown(shown)};
	add_consume(t, text ? qmp_asprintf("%sjson:%s", before, text) : NULL);
}

static void add_image(struct img_task *t, const json_t *image)
{
	add_node(t, "", image, text_of(image, "path"));
}

/* Those verbs that have no use for what it is backed by refuse to be told of it. */
static void add_image_alone(struct img_task *t, const json_t *image)
{
	json_auto_t *alone = json_copy((json_t *)image);

	json_object_del(alone, "backing");
	add_image(t, alone);
}

const char *const *img_task_argv(const struct img_task *t)
{
	return (const char *const *)t->words;
}

static struct img_task *task_new(const char *verb, const char *fmt, ...) _printf_(2, 3);
static struct img_task *task_new(const char *verb, const char *fmt, ...)
{
	const char *program = getenv("QMPCTL_QEMU_IMG");
	struct img_task *t = calloc(1, sizeof *t);
	va_list ap;

	if (!t)
		return NULL;
	t->draft.fd = -1;
	va_start(ap, fmt);
	if (vasprintf(&t->doing, fmt, ap) < 0)
		t->doing = NULL;
	va_end(ap);
	t->lacks_memory = !t->doing;
	add(t, program && *program ? program : "qemu-img");
	add(t, verb);
	return t;
}

static int task_give(struct img_task *t, struct img_task **ret, struct qmp_error *err)
{
	if (t && t->error.kind != QMP_ERR_NONE) {
		int code = t->error.code;
		if (err)
			*err = t->error;
		img_task_free(t);
		return code;
	}
	if (!t || t->lacks_memory) {
		img_task_free(t);
		return qmp_error_errno(err, -ENOMEM, "running qemu-img");
	}
	*ret = t;
	return 0;
}

void img_task_free(struct img_task *t)
{
	if (!t)
		return;
	img_draft_discard(&t->draft);
	for (size_t i = 0; i < t->n_words; i++)
		free(t->words[i]);
	for (size_t i = 0; i < t->n_fds; i++)
		(void)close(t->fds[i]);
	for (size_t i = 0; i < t->n_images; i++)
		free(t->images[i].path);
	free(t->words);
	free(t->doing);
	free(t->path);
	free(t->format);
	free(t->output);
	json_decref(t->value);
	free(t);
}

int img_task_add_secret(struct img_task *t, const char *id, int fd, struct qmp_error *err)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, FIRST_FD), r;

	if (copy < 0)
		return qmp_error_errno(err, -errno, "%s: a key", t->doing);
	r = add_fd_consume(t, copy, err);
	if (r < 0)
		return r;
	add_object_consume(t, qmp_asprintf("secret,id=%s,file=/proc/self/fd/%d", id, r));
	return t->lacks_memory ? qmp_error_errno(err, -ENOMEM, "%s: a key", t->doing) : 0;
}

/* ---- Options of a format ---- */

static int check_option(const char *option, struct qmp_error *err)
{
	static const char *const other_files[] = {"backing_file", "backing_fmt", "data_file", "data_file_raw", NULL};
	static const char *const flat[] = {"monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", NULL};
	size_t n = strspn(option, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-");

	if (n == 0 || option[n] != '=')
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL,
				     "\"%s\" is no option of a format: KEY=VALUE, as in cluster_size=2M", option);
	for (size_t i = 0; other_files[i]; i++)
		if (strlen(other_files[i]) == n && memcmp(option, other_files[i], n) == 0)
			return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL,
					     "the option %s: an image has its data in itself alone, and what "
					     "it is backed by is given as its backing",
					     option);
	for (size_t i = 0; flat[i] && strncmp(option, "subformat=", 10) == 0; i++)
		if (strcasecmp(option + 10, flat[i]) == 0)
			return qmp_error_set(
			    err, QMP_ERR_USAGE, -EINVAL,
			    "the option %s: an image has its data in itself alone; monolithicSparse and "
			    "streamOptimized do",
			    option);
	return 0;
}

/* A value among others that commas part. */
static char *doubled(const char *text)
{
	char *copy = calloc(2, strlen(text) + 1), *at = copy;

	for (; copy && *text; text++) {
		if (*text == ',')
			*at++ = ',';
		*at++ = *text;
	}
	return copy;
}

static int add_options(struct img_task *t, const char *const *options, struct qmp_error *err)
{
	for (; options && *options; options++) {
		int r = check_option(*options, err);
		if (r < 0)
			return r;
		add(t, "-o");
		add_consume(t, doubled(*options));
	}
	return 0;
}

/* ---- What is made ---- */

static json_t *made(const struct img_task *t, int status)
{
	UNUSED(status);
	return json_pack("{s:s, s:s}", "path", t->path, "format", t->format);
}

static void add_backing(struct img_task *t, const char *option, const json_t *backing)
{
	if (!backing)
		return;
	add_pair(t, option, text_of(backing, "path"));
	add_pair(t, "-F", text_of(backing, "format"));
}

/* The path, last of the words so far. */
static void add_target(struct img_task *t, const struct img_target *target)
{
	t->path = strdup(target->path);
	t->format = strdup(target->format);
	t->replace = target->replace;
	t->lacks_memory |= !t->path || !t->format;
	t->result = made;
	if (target->made_at) {
		json_auto_t *there = json_pack("{s:s, s:s}", "path", target->made_at, "format", target->format);
		t->lacks_memory |= !there || (target->access && json_object_update_missing(there, (json_t *)target->access) < 0);
		if (there)
			add_node(t, "", there, target->path);
		return;
	}
	t->draft_at = t->n_words;
	add(t, DRAFT_WORD);
}

static int check_target(const struct img_target *t, struct qmp_error *err)
{
	if (!t->made_at && (*t->path != '/' || !t->path[1] || t->path[strlen(t->path) - 1] == '/'))
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL, "\"%s\" is no path of an image", t->path);
	if (t->backing && vm_location_is_file(text_of(t->backing, "path")) && *text_of(t->backing, "path") != '/')
		return qmp_error_set(err, QMP_ERR_INTERNAL, -EINVAL, "the backing %s: no absolute path",
				     text_of(t->backing, "path"));
	return 0;
}

int img_create(const struct img_target *target, uint64_t size, struct img_task **ret, struct qmp_error *err)
{
	struct img_task *t;
	int r = check_target(target, err);

	if (r < 0)
		return r;
	if (size == 0 && !target->backing)
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL, "making the image %s: a size is wanted",
				     target->path);
	t = task_new("create", "making the image %s", target->path);
	if (!t)
		return task_give(t, ret, err);
	add(t, "-q");
	if (target->backing && size > 0 && !vm_location_is_file(text_of(target->backing, "path")))
		add(t, "-u"); /* by its name alone qemu-img would not find it */
	add_pair(t, "-f", target->format);
	add_backing(t, "-b", target->backing);
	r = add_options(t, target->options, err);
	if (r < 0) {
		img_task_free(t);
		return r;
	}
	add_target(t, target);
	if (size > 0)
		add_bytes(t, size);
	return task_give(t, ret, err);
}

/* What an image is to be backed by is opened by its name alone where its contents matter. */
static int check_backing(const json_t *backing, const char *instead, struct qmp_error *err)
{
	_cleanup_free_ char *shown = backing ? vm_location_shown(text_of(backing, "path")) : NULL;

	if (!backing || (vm_location_is_file(text_of(backing, "path")) && !json_object_get(backing, "encryption")))
		return 0;
	return qmp_error_set(err, QMP_ERR_UNSUPPORTED, -ENOTSUP,
			     "%s: qemu-img compares with a file that is not encrypted, and with nothing else; %s",
			     shown ? shown : "the backing", instead);
}

int img_convert(const json_t *image, const char *snapshot, const struct img_target *target, bool compress, bool bitmaps,
		struct img_task **ret, struct qmp_error *err)
{
	struct img_task *t;
	int r = check_target(target, err);

	if (r == 0)
		r = check_backing(target->backing, "make a whole copy (without --backing)", err);
	if (r < 0)
		return r;
	t = task_new("convert", "converting %s to %s", text_of(image, "path"), target->path);
	if (!t)
		return task_give(t, ret, err);
	add(t, "-p");
	if (target->made_at) {
		add(t, "-n");
		add_pair(t, "-t", "writeback"); /* else nothing is flushed */
	}
	if (target->zeroes)
		add(t, "--target-is-zero");
	if (compress)
		add(t, "-c");
	if (bitmaps)
		add(t, "--bitmaps");
	if (snapshot) {
		_cleanup_free_ char *name = doubled(snapshot);
		add(t, "-l");
		add_consume(t, name ? qmp_asprintf("snapshot.name=%s", name) : NULL);
	}
	add_pair(t, "-O", target->format);
	add_backing(t, "-B", target->backing);
	r = add_options(t, target->options, err);
	if (r < 0) {
		img_task_free(t);
		return r;
	}
	add_image(t, image);
	add_target(t, target);
	return task_give(t, ret, err);
}

/* ---- What is looked at ---- */

static struct img_task *looking(const char *verb, const char *doing, const json_t *image, bool in_use)
{
	struct img_task *t = task_new(verb, "%s %s", doing, text_of(image, "path"));

	if (!t)
		return NULL;
	add(t, "--output=json");
	if (in_use)
		add(t, "-U");
	return t;
}

int img_info(const json_t *image, bool in_use, struct img_task **ret, struct qmp_error *err)
{
	struct img_task *t = looking("info", "reading the image", image, in_use);

	if (t)
		add_image_alone(t, image);
	return task_give(t, ret, err);
}

int img_map(const json_t *image, bool in_use, struct img_task **ret, struct qmp_error *err)
{
	struct img_task *t = looking("map", "reading the map of", image, in_use);

	if (t)
		add_image(t, image);
	return task_give(t, ret, err);
}

int img_check(const json_t *image, const char *repair, bool in_use, struct img_task **ret, struct qmp_error *err)
{
	struct img_task *t = looking("check", repair ? "repairing" : "checking", image, in_use);

	if (!t)
		return task_give(t, ret, err);
	if (repair)
		add_pair(t, "-r", repair);
	add_image(t, image);
	t->good = 1u << 0 | 1u << 2 | 1u << 3; /* corrupt; leaks */
	return task_give(t, ret, err);
}

int img_measure(const json_t *image, uint64_t size, const char *format, const char *const *options, bool in_use,
		struct img_task **ret, struct qmp_error *err)
{
	struct img_task *t = task_new("measure", "measuring %s", image ? text_of(image, "path") : "an image");
	int r;

	if (!t)
		return task_give(t, ret, err);
	add(t, "--output=json");
	if (in_use)
		add(t, "-U");
	add_pair(t, "-O", format);
	r = add_options(t, options, err);
	if (r < 0) {
		img_task_free(t);
		return r;
	}
	if (image) {
		add_image(t, image);
	} else {
		add(t, "--size");
		add_bytes(t, size);
	}
	return task_give(t, ret, err);
}

static json_t *compared(const struct img_task *t, int status)
{
	/* A line that warns may stand before the one that says it. */
	const char *last = t->output ? strrchr(t->output, '\n') : NULL;

	if (status == 0)
		return json_pack("{s:b}", "identical", 1);
	return json_pack("{s:b, s:s}", "identical", 0, "why", last ? last + 1 : t->output ? t->output : "");
}

int img_compare(const json_t *a, const json_t *b, bool strict, bool in_use, struct img_task **ret,
		struct qmp_error *err)
{
	struct img_task *t = task_new("compare", "comparing %s and %s", text_of(a, "path"), text_of(b, "path"));

	if (!t)
		return task_give(t, ret, err);
	add(t, "-p");
	if (strict)
		add(t, "-s");
	if (in_use)
		add(t, "-U");
	add_image(t, a);
	add_image(t, b);
	t->good = 1u << 0 | 1u << 1;
	t->result = compared;
	return task_give(t, ret, err);
}

/* Bytes, as text that is none. */
static json_t *head(const struct img_task *t, int status)
{
	_cleanup_free_ char *bytes = malloc(IMG_HEAD);
	ssize_t n = bytes ? pread(t->fds[t->n_fds - 1], bytes, IMG_HEAD, 0) : -1;

	UNUSED(status);
	return n >= 0 ? json_stringn_nocheck(bytes, (size_t)n) : NULL;
}

int img_read_head(const json_t *image, const struct vm_identity *identity, struct img_task **ret, struct qmp_error *err)
{
	_cleanup_free_ char *shown = vm_location_shown(text_of(image, "path"));
	json_auto_t *raw = json_copy((json_t *)image);
	struct img_task *t = shown && raw ? task_new("dd", "reading the header of %s", shown) : NULL;
	int fd = t ? memfd_create("head", MFD_CLOEXEC) : -1, number;

	if (!t)
		return task_give(t, ret, err);
	if (fd < 0)
		qmp_error_errno(&t->error, -errno, "%s", t->doing);
	t->identity = identity;
	t->timeout_ms = HEAD_MS;
	json_object_set_new(raw, "format", json_string("raw"));
	json_object_del(raw, "backing");
	json_object_del(raw, "encryption");
	add_pair(t, "-f", "raw");
	add_pair(t, "-O", "raw");
	add_consume(t, qmp_asprintf("bs=%zu", IMG_HEAD));
	add(t, "count=1");
	add_node(t, "if=", raw, text_of(image, "path"));
	number = fd < 0 ? fd : add_fd_consume(t, fd, &t->error); /* the last one: head() counts on it */
	add_consume(t, qmp_asprintf("of=/proc/self/fd/%d", number));
	t->result = head;
	return task_give(t, ret, err);
}

/* ---- What is changed ---- */

static json_t *nothing(const struct img_task *t, int status)
{
	UNUSED(t);
	UNUSED(status);
	return json_object();
}

int img_resize(const json_t *image, uint64_t size, bool shrink, struct img_task **ret, struct qmp_error *err)
{
	struct img_task *t = task_new("resize", "resizing %s", text_of(image, "path"));

	if (!t)
		return task_give(t, ret, err);
	add(t, "-q");
	if (shrink)
		add(t, "--shrink");
	add_image(t, image);
	add_bytes(t, size);
	t->result = nothing;
	return task_give(t, ret, err);
}

int img_commit(const json_t *image, struct img_task **ret, struct qmp_error *err)
{
	struct img_task *t;

	if (!json_object_get(image, "backing"))
		return qmp_error_set(err, QMP_ERR_STATE, -EINVAL,
				     "the image %s is backed by no other, into which it could be committed",
				     text_of(image, "path"));
	t = task_new("commit", "committing %s", text_of(image, "path"));
	if (!t)
		return task_give(t, ret, err);
	add(t, "-p");
	add_image(t, image);
	t->result = nothing;
	return task_give(t, ret, err);
}

int img_amend(const json_t *image, const char *const *options, struct img_task **ret, struct qmp_error *err)
{
	json_auto_t *alone = json_copy((json_t *)image);
	struct img_task *t = task_new("amend", "changing %s", text_of(image, "path"));
	int r;

	if (!t || !alone)
		return task_give(t, ret, err);
	json_object_del(alone, "backing");
	add(t, "-q");
	r = add_options(t, options, err);
	if (r < 0) {
		img_task_free(t);
		return r;
	}
	add_image(t, alone);
	t->result = nothing;
	return task_give(t, ret, err);
}

int img_rebase(const json_t *image, const json_t *backing, bool unsafe, struct img_task **ret, struct qmp_error *err)
{
	json_auto_t *alone = json_copy((json_t *)image);
	int r = unsafe ? 0 : check_backing(backing, "--unsafe writes its name alone, where it holds the same", err);
	struct img_task *t = r < 0 ? NULL : task_new("rebase", "rebasing %s", text_of(image, "path"));

	if (r < 0)
		return r;
	if (!t || !alone)
		return task_give(t, ret, err);
	add(t, "-p");
	if (unsafe) {
		add(t, "-u");
		json_object_del(alone, "backing");
	} else {
		/* What was copied is to be on disk before the new name is: else who is cut short has neither. */
		add_pair(t, "-t", "writethrough");
	}
	if (backing)
		add_backing(t, "-b", backing);
	else
		add_pair(t, "-b", "");
	add_image(t, alone);
	t->result = nothing;
	return task_give(t, ret, err);
}

int img_bitmap(const json_t *image, const char *action, const char *name, const char *from, uint64_t granularity,
	       struct img_task **ret, struct qmp_error *err)
{
	struct img_task *t = task_new("bitmap", "the bitmap \"%s\" of %s", name, text_of(image, "path"));

	if (!t)
		return task_give(t, ret, err);
	add_consume(t, qmp_asprintf("--%s", action));
	if (from)
		add(t, from);
	if (granularity > 0) {
		add(t, "-g");
		add_bytes(t, granularity);
	}
	add(t, "--"); /* the name may begin with one */
	add_image_alone(t, image);
	add(t, name);
	t->result = nothing;
	return task_give(t, ret, err);
}

int img_snapshot(const json_t *image, const char *action, const char *name, const char *id, struct img_task **ret,
		 struct qmp_error *err)
{
	struct img_task *t = task_new("snapshot", "the snapshot \"%s\" of %s", name, text_of(image, "path"));

	if (!t)
		return task_give(t, ret, err);
	add(t, "-q");
	if (streq(action, "apply"))
		add_pair(t, "-a", id);
	else
		add_pair(t, streq(action, "create") ? "-c" : "-d", name);
	add_image(t, image);
	t->result = nothing;
	return task_give(t, ret, err);
}

/* ---- Running it ---- */

void img_task_before_naming(struct img_task *t, img_whole_cb cb, void *data)
{
	t->whole = cb;
	t->whole_data = data;
}

static void finish(struct img_task *t)
{
	const struct qmp_error *why = t->error.kind == QMP_ERR_NONE ? NULL : &t->error;

	img_draft_discard(&t->draft);
	t->handlers.done(t->handlers.data, why ? NULL : t->value, why);
	img_task_free(t);
}

/*
 * In a monolithic vmdk its own name stands, padded with zeros: the draft's until now. QEMU does not look at it, others
 * do.
 */
static int rename_vmdk(const struct img_draft *d)
{
	char head[64 << 10], *at = head, *text, *end;
	_cleanup_free_ char *before = qmp_asprintf("\"%s\"", strrchr(d->path, '/') + 1),
			    *after = qmp_asprintf("\"%s\"", strrchr(d->final, '/') + 1);
	ssize_t n = pread(d->fd, head, sizeof head - 1, 0);
	size_t tail, cut;

	if (!before || !after || n < 0)
		return n < 0 ? -errno : -ENOMEM;
	head[n] = '\0';
	text = memmem(at, (size_t)n, before, strlen(before));
	if (!text)
		return 0;
	end = memchr(text, '\0', (size_t)(head + n - text));
	if (!end)
		return 0;
	cut = strlen(before) - strlen(after); /* the draft's is the longer one */
	tail = (size_t)(end - text) - strlen(before);
	memmove(text + strlen(after), text + strlen(before), tail);
	memcpy(text, after, strlen(after));
	memset(end - cut, 0, cut);
	return pwrite(d->fd, text, (size_t)(end - text), text - head) == end - text ? 0 : -EIO;
}

static void keep(struct img_task *t)
{
	int r = streq(t->format, "vmdk") ? rename_vmdk(&t->draft) : 0;

	if (r < 0)
		qmp_error_errno(&t->error, r, "%s: its name in it", t->doing);
	else if (!t->whole || t->whole(t->whole_data, &t->draft, &t->error) == 0)
		(void)img_draft_keep(&t->draft, &t->error);
}

static void keep_in_thread(uv_work_t *work)
{
	keep(container_of(work, struct img_task, work));
}

static void on_kept(uv_work_t *work, int status)
{
	struct img_task *t = container_of(work, struct img_task, work);

	if (status < 0)
		qmp_error_set(&t->error, QMP_ERR_CANCELLED, status, "%s: stopped on request", t->doing);
	finish(t);
}

/* Puts TO where FROM stands in TEXT. */
static void put_for(char text[QMP_ERROR_MAX], const char *from, const char *to)
{
	char *at = from && *from && to ? strstr(text, from) : NULL;
	_cleanup_free_ char *whole = NULL;

	if (!at)
		return;
	whole = qmp_asprintf("%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
	if (whole)
		snprintf(text, QMP_ERROR_MAX, "%s", whole);
}

/* It speaks of the names that it was given: people know others. */
static void translate(const struct img_task *t, char text[QMP_ERROR_MAX])
{
	for (size_t i = 0; i < t->n_images; i++)
		put_for(text, t->words[t->images[i].at] + t->images[i].skip, t->images[i].path);
	put_for(text, t->draft.path, t->path);
}

static json_t *result_of(const struct img_task *t, int status)
{
	if (t->result)
		return t->result(t, status);
	return t->output ? qmp_json_decode(t->output, t->output_len, NULL) : NULL;
}

static void on_end(void *data, const struct img_tool_result *r)
{
	struct img_task *t = data;

	t->tool = NULL;
	t->error = r->error;
	translate(t, t->error.message);
	if (t->error.kind == QMP_ERR_NONE) {
		t->value = result_of(t, r->status);
		if (!t->value)
			qmp_error_set(&t->error, QMP_ERR_HOST, -EPROTO, "%s: what qemu-img says of it cannot be read",
				      t->doing);
	}
	if (t->error.kind == QMP_ERR_NONE && t->draft.path && t->waited_for)
		keep(t);
	else if (t->error.kind == QMP_ERR_NONE && t->draft.path) {
		int code = uv_queue_work(t->work.loop, &t->work, keep_in_thread, on_kept);
		if (code == 0)
			return;
		qmp_error_errno(&t->error, code, "%s: a thread to keep it", t->doing);
	}
	finish(t);
}

static void on_piece(void *data, const char *text)
{
	struct img_task *t = data;
	double percent;
	size_t n = strlen(text);
	char *more;

	if (sscanf(text, " (%lf/100%%", &percent) == 1) {
		if (t->handlers.progress)
			t->handlers.progress(t->handlers.data, percent / 100);
		return;
	}
	more = t->output_len + n < IMG_TOOL_OUTPUT_MAX ? realloc(t->output, t->output_len + n + 2) : NULL;
	if (!more)
		return; /* what is cut cannot be read, which is said then */
	t->output = more;
	t->output_len += (size_t)sprintf(more + t->output_len, "%s%s", t->output_len ? "\n" : "", text);
}

static int begin(uv_loop_t *loop, struct img_task *t, struct qmp_error *err)
{
	struct img_tool_options o = {
		.doing = t->doing, .argv = (const char *const *)t->words, .package = "qemu-utils", .fds = t->fds,
		.n_fds = t->n_fds, .timeout_ms = t->timeout_ms, .identity = t->identity, .good = t->good, .piece = on_piece, .done = on_end, .data = t,
	};
	char *path;

	if (t->draft_at) {
		int r = img_draft_begin(t->path, t->replace, &t->draft, err);
		if (r < 0)
			return r;
		path = strdup(t->draft.path);
		if (!path)
			return qmp_error_errno(err, -ENOMEM, "%s", t->doing);
		free(t->words[t->draft_at]);
		t->words[t->draft_at] = path;
	}
	t->work.loop = loop;
	return img_tool_run(loop, &o, &t->tool, err);
}

int img_task_run(uv_loop_t *loop, struct img_task *t, const struct img_task_handlers *h, struct qmp_error *err)
{
	int r;

	t->handlers = *h;
	r = begin(loop, t, err);
	if (r < 0)
		img_task_free(t);
	return r;
}

void img_task_cancel(struct img_task *t)
{
	if (t->tool)
		img_tool_cancel(t->tool);
	else
		(void)uv_cancel((uv_req_t *)&t->work); /* unless it is being named by now */
}

/* ---- The whole of it ---- */

struct call {
	struct img_task *task;
	void (*progress)(void *data, double part);
	void *data;
	json_t *value;
	struct qmp_error error;
	bool done;
};

static void call_progress(void *data, double part)
{
	struct call *c = data;

	if (c->progress)
		c->progress(c->data, part);
}

static void call_done(void *data, json_t *value, const struct qmp_error *why)
{
	struct call *c = data;

	c->value = json_incref(value);
	if (why)
		c->error = *why;
	c->done = true;
}

static void call_cancel(void *data)
{
	struct call *c = data;

	if (!c->done)
		img_task_cancel(c->task);
}

int img_task_call(uv_loop_t *loop, struct img_task *t, void (*progress)(void *data, double part), void *data,
		  json_t **ret, struct qmp_error *err)
{
	struct call c = {.task = t, .progress = progress, .data = data};
	struct img_task_handlers handlers = {call_progress, call_done, &c};
	struct img_wait wait;
	int r;

	t->waited_for = true;
	img_wait_begin(&wait, loop, call_cancel, &c);
	r = img_task_run(loop, t, &handlers, err);
	c.done |= r < 0;
	img_wait_end(&wait, &c.done);
	if (r < 0)
		return r;
	if (c.error.kind != QMP_ERR_NONE)
		return qmp_error_set(err, c.error.kind, c.error.code, "%s", c.error.message);
	if (ret)
		*ret = take_ptr(c.value);
	json_decref(c.value);
	return 0;
}
