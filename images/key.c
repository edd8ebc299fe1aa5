#include "images/key.h"
#include "launcher/secret.h"
#include "proto/base.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* Ids of qemu-img's secrets. */
#define KEY     "key"
#define NEW_KEY "new-key"

/* What makes a new image of FORMAT encrypted; NULL: nothing does. */
static const char *const *new_options(const char *format)
{
	static const char *const luks[] = {"key-secret=" KEY, NULL};
	static const char *const qcow2[] = {"encrypt.format=luks", "encrypt.key-secret=" KEY, NULL};

	return streq(format, "luks") ? luks : streq(format, "qcow2") ? qcow2 : NULL;
}

static const char **joined(const char *const *a, const char *const *b)
{
	const char *const *const lists[] = {a, b};
	size_t n = 0;
	const char **all;

	for (size_t i = 0; i < ARRAY_SIZE(lists); i++)
		for (const char *const *o = lists[i]; o && *o; o++)
			n++;
	all = calloc(n + 1, sizeof *all);
	n = 0;
	for (size_t i = 0; all && i < ARRAY_SIZE(lists); i++)
		for (const char *const *o = lists[i]; o && *o; o++)
			all[n++] = *o;
	return all;
}

struct new_image {
	struct img_target target;
	const char **options;
	int key; /* -1: none */
};

static void new_image_deinit(struct new_image *n)
{
	free(n->options);
	if (n->key >= 0)
		(void)close(n->key);
}
#define _cleanup_new_ __attribute__((cleanup(new_image_deinit)))

static int take_key(const struct img_target *t, const char *key_file, struct new_image *n, struct qmp_error *err)
{
	n->target = *t;
	if (!key_file && streq(t->format, "luks") && !t->made_at)
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL,
				     "making the image %s: one of the format luks is encrypted; name the file with its key (key-file)",
				     t->path);
	if (!key_file)
		return 0;
	if (!new_options(t->format))
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL,
				     "making the image %s: one of the format %s cannot be encrypted; luks or qcow2", t->path, t->format);
	n->target.options = n->options = joined(new_options(t->format), t->options);
	return n->options ? vm_secret_open(key_file, false, &n->key, err) :
			    qmp_error_errno(err, -ENOMEM, "making the image %s", t->path);
}

/* R: what making the TASK came to. */
static int give_key(const struct new_image *n, int r, struct img_task *task, struct img_task **ret, struct qmp_error *err)
{
	if (r == 0 && n->key >= 0 && (r = img_task_add_secret(task, KEY, n->key, err)) < 0)
		img_task_free(task);
	if (r == 0)
		*ret = task;
	return r;
}

int img_create_with_key(const struct img_target *t, uint64_t size, const char *key_file, struct img_task **ret,
			struct qmp_error *err)
{
	_cleanup_new_ struct new_image n = {.key = -1};
	struct img_task *task = NULL;
	int r = take_key(t, key_file, &n, err);

	if (r == 0)
		r = img_create(&n.target, size, &task, err);
	return give_key(&n, r, task, ret, err);
}

int img_convert_with_key(const json_t *image, const char *snapshot, const struct img_target *t, bool compress, bool bitmaps,
			 const char *key_file, struct img_task **ret, struct qmp_error *err)
{
	_cleanup_new_ struct new_image n = {.key = -1};
	struct img_task *task = NULL;
	int r = take_key(t, key_file, &n, err);

	if (r == 0)
		r = img_convert(image, snapshot, &n.target, compress, bitmaps, &task, err);
	return give_key(&n, r, task, ret, err);
}

/* ---- Slots ---- */

#define OPTIONS_MAX 4
#define OPTION_MAX  48

struct amendment {
	const char *prefix;
	char text[OPTIONS_MAX][OPTION_MAX];
	const char *list[OPTIONS_MAX + 1];
	size_t n;
};

static void add_option(struct amendment *a, const char *name, const char *value)
{
	(void)snprintf(a->text[a->n], OPTION_MAX, "%s%s=%s", a->prefix, name, value);
	a->list[a->n] = a->text[a->n];
	a->n++;
}

static void add_number(struct amendment *a, const char *name, int64_t number)
{
	char text[24];

	(void)snprintf(text, sizeof text, "%lld", (long long)number);
	add_option(a, name, text);
}

static int begin(const json_t *image, struct amendment *ret, struct qmp_error *err)
{
	const char *format = text_of(image, "format");

	if (!new_options(format))
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL, "the image %s is of the format %s, which has no keys; luks and qcow2 do",
				     text_of(image, "path"), format);
	*ret = (struct amendment){.prefix = streq(format, "luks") ? "" : "encrypt."};
	return 0;
}

/* NEW_KEY: -1: none. */
static int amend(const json_t *image, const struct amendment *a, int key, int new_key, struct img_task **ret,
		 struct qmp_error *err)
{
	json_auto_t *opened = json_copy((json_t *)image);
	struct img_task *task;
	int r = opened && json_object_set_new(opened, "key-secret", json_string(KEY)) == 0
			? img_amend(opened, a->list, &task, err)
			: qmp_error_errno(err, -ENOMEM, "changing the keys of %s", text_of(image, "path"));

	if (r < 0)
		return r;
	r = img_task_add_secret(task, KEY, key, err);
	if (r == 0 && new_key >= 0)
		r = img_task_add_secret(task, NEW_KEY, new_key, err);
	if (r < 0)
		img_task_free(task);
	else
		*ret = task;
	return r;
}

int img_key_add(const json_t *image, int key, int new_key, int64_t iter_time, struct img_task **ret, struct qmp_error *err)
{
	struct amendment a;
	int r = begin(image, &a, err);

	if (r < 0)
		return r;
	add_option(&a, "state", "active");
	add_option(&a, "new-secret", NEW_KEY);
	if (iter_time > 0)
		add_number(&a, "iter-time", iter_time);
	return amend(image, &a, key, new_key, ret, err);
}

int img_key_remove(const json_t *image, int key, int64_t slot, struct img_task **ret, struct qmp_error *err)
{
	struct amendment a;
	int r = begin(image, &a, err);

	if (r < 0)
		return r;
	add_option(&a, "state", "inactive");
	if (slot >= 0)
		add_number(&a, "keyslot", slot);
	else
		add_option(&a, "old-secret", KEY);
	return amend(image, &a, key, -1, ret, err);
}

int img_key_equal(int a, int b)
{
	struct stat x, y;
	void *p, *q;
	size_t n;
	int r = -1;

	if (fstat(a, &x) < 0 || fstat(b, &y) < 0)
		return -errno;
	if (x.st_size != y.st_size)
		return 0;
	n = (size_t)x.st_size;
	p = mmap(NULL, n, PROT_READ, MAP_PRIVATE, a, 0);
	q = mmap(NULL, n, PROT_READ, MAP_PRIVATE, b, 0);
	if (p != MAP_FAILED && q != MAP_FAILED)
		r = memcmp(p, q, n) == 0;
	if (p != MAP_FAILED)
		(void)munmap(p, n);
	if (q != MAP_FAILED)
		(void)munmap(q, n);
	return r < 0 ? -ENOMEM : r;
}
