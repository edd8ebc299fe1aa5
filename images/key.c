#include "images/key.h"
#include "launcher/secret.h"
#include "proto/base.h"

#define KEY "key" /* the id of qemu-img's secret */

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

int img_create_with_key(const struct img_target *t, uint64_t size, const char *key_file, struct img_task **ret,
			struct qmp_error *err)
{
	struct img_target target = *t;
	_cleanup_free_ const char **options = NULL;
	_cleanup_fd_ int key = -1;
	struct img_task *task;
	int r;

	if (!key_file && streq(t->format, "luks"))
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL,
				     "making the image %s: one of the format luks is encrypted; name the file with its key (key-file)",
				     t->path);
	if (!key_file)
		return img_create(t, size, ret, err);
	if (!new_options(t->format))
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL,
				     "making the image %s: one of the format %s cannot be encrypted; luks or qcow2", t->path, t->format);
	options = joined(new_options(t->format), t->options);
	target.options = options;
	r = options ? vm_secret_open(key_file, false, &key, err) : qmp_error_errno(err, -ENOMEM, "making the image %s", t->path);
	if (r == 0)
		r = img_create(&target, size, &task, err);
	if (r < 0)
		return r;
	r = img_task_add_secret(task, KEY, key, err);
	if (r < 0)
		img_task_free(task);
	else
		*ret = task;
	return r;
}
