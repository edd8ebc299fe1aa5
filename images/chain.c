#include "images/chain.h"
#include "images/answer.h"
#include "images/header.h"
#include "launcher/location.h"
#include "launcher/secret.h"
#include "launcher/spec.h"
#include "proto/base.h"

#include <sys/stat.h>

static const char *or_unknown(const char *name)
{
	return *name ? name : "(a name that is not in the header's first 64 KiB)";
}

static const char *key_file(const json_t *image)
{
	return text_of(json_object_get(image, "encryption"), "key-file");
}

static int check_encryption(const json_t *image, const struct img_header *h, struct qmp_error *err)
{
	const char *path = text_of(image, "path"), *key = key_file(image);

	if (streq(h->encryption, "aes"))
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL,
				     "the image %s is encrypted in the old way of qcow2 (AES-CBC), which QEMU runs no VM with any "
				     "more; convert it (qemu-img convert)",
				     path);
	if (*h->encryption && !key)
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL,
				     "the image %s is encrypted, and the spec names no key for it; give \"encryption\": "
				     "{\"key-file\": ...}",
				     path);
	if (key && streq(h->format, "qcow2") && !*h->encryption)
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL,
				     "the image %s is not encrypted, but the spec names the key %s for it; leave \"encryption\" out", path,
				     key);
	return 0;
}

/* Whether NAME, in the header of PATH, is a file that is there, and is not OTHER. One that was moved is not. */
static bool is_another_file(const char *path, const char *name, const char *other)
{
	_cleanup_free_ char *named = *name ? img_backing_path(path, name) : NULL;
	struct stat a, b;

	return named && other && vm_location_is_file(other) && stat(named, &a) == 0 && stat(other, &b) == 0 &&
	       (a.st_dev != b.st_dev || a.st_ino != b.st_ino);
}

/* KEYS: IMAGE is a spec's, which has to say whether it is encrypted. */
static int check_image(const json_t *image, bool keys, struct qmp_error *err)
{
	const char *path = text_of(image, "path"), *format = text_of(image, "format");
	struct img_header h;
	int r = img_header_read(path, &h, err);

	if (r < 0)
		return r;
	if (!streq(h.format, format))
		return 0; /* QEMU says that it is not of that format, and opens nothing */
	if (keys && check_encryption(image, &h, err) < 0)
		return err ? err->code : -EINVAL;
	if (h.has_backing && !json_object_get(image, "backing"))
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL,
				     "the image %s wants the backing file \"%s\", which the spec does not name, so that it is not "
				     "opened; give the disk \"backing\": {\"path\": ..., \"format\": ...}",
				     path, or_unknown(h.backing));
	if (h.has_backing && is_another_file(path, h.backing, text_of(json_object_get(image, "backing"), "path")))
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL,
				     "the image %s is backed by \"%s\", as its header has it, and by %s in the spec: a guest would see "
				     "another disk than the one that was written; name the one that is meant, or have the image name it "
				     "(image rebase)",
				     path, or_unknown(h.backing), text_of(json_object_get(image, "backing"), "path"));
	if (h.has_data_file)
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL,
				     "the image %s keeps its data in another file, \"%s\", which a spec cannot name, so that it is not "
				     "opened; convert it (qemu-img convert -O qcow2)",
				     path, or_unknown(h.data_file));
	if (h.virtual_size > IMG_SIZE_MAX)
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL,
				     "the image %s says that it is %llu bytes large, more than the 1 PiB of any disk: its header is "
				     "damaged",
				     path, (unsigned long long)h.virtual_size);
	return 0;
}

static int check_chain(const json_t *disk, bool keys, struct qmp_error *err)
{
	for (const json_t *image = disk; image; image = json_object_get(image, "backing")) {
		const char *path = text_of(image, "path"), *format = text_of(image, "format");
		bool is_looked_into = path && vm_location_is_file(path) && format && !streq(format, "raw");
		int r = path && vm_location_is_file(path) ? img_answer_check(path, err) : 0;
		if (r == 0 && is_looked_into)
			r = check_image(image, keys, err);
		if (r == 0 && keys && key_file(image))
			r = vm_secret_check(key_file(image), err);
		if (r == 0 && text_of(image, "password-file"))
			r = vm_secret_check(text_of(image, "password-file"), err);
		if (r < 0)
			return r;
	}
	return 0;
}

int img_chain_check(const json_t *disk, struct qmp_error *err)
{
	return check_chain(disk, true, err);
}

int img_chains_check(const json_t *spec, const json_t *have, bool missing_ok, struct qmp_error *err)
{
	json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(spec, "disks"), i, disk)
	{
		const char *id = text_of(disk, "id");
		json_t *before = id ? vm_spec_find(have, "disks", id) : NULL;
		struct qmp_error why = {0};
		int r = before && json_equal(before, disk) ? 0 : img_chain_check(disk, &why);
		if (r < 0 && !(missing_ok && why.kind == QMP_ERR_HOST))
			return qmp_error_set(err, why.kind, r, "disks.%s: %s", id ? id : "(new)", why.message);
	}
	return 0;
}

/* ---- From headers ---- */

char *img_backing_path(const char *path, const char *name)
{
	const char *slash = strrchr(path, '/'), *colon;

	if (strncmp(name, "file:", 5) == 0)
		name += 5;
	colon = strchr(name, ':');
	if (!*name || (colon && !memchr(name, '/', (size_t)(colon - name))))
		return NULL;
	return *name == '/' || !slash ? strdup(name) : qmp_asprintf("%.*s/%s", (int)(slash - path), path, name);
}

/* The image alone; RET_BELOW: what it is backed by, new, or NULL; RET_FORMAT as the header has it. */
static int read_one(const char *path, const char *format, json_t **ret, char **ret_below, char below_format[16],
		    struct qmp_error *err)
{
	struct img_header h;
	int r = img_header_read(path, &h, err);

	if (r < 0)
		return r;
	*ret = json_pack("{s:s, s:s}", "path", path, "format", format ? format : h.format);
	if (!*ret)
		return qmp_error_errno(err, -ENOMEM, "reading the image %s", path);
	if (streq(text_of(*ret, "format"), "raw") || !streq(text_of(*ret, "format"), h.format) || !h.has_backing)
		return 0;
	*ret_below = img_backing_path(path, h.backing);
	memcpy(below_format, h.backing_format, sizeof h.backing_format);
	return *ret_below ? 0 :
			    qmp_error_set(err, QMP_ERR_UNSUPPORTED, -ENOTSUP,
					  "the image %s is backed by \"%s\", which is no file; name a file with "
					  "\"image rebase --unsafe\"", path, or_unknown(h.backing));
}

int img_chain_read(const char *path, const char *format, json_t **ret, struct qmp_error *err)
{
	_cleanup_free_ char *next = strdup(path);
	json_auto_t *top = NULL;
	json_t *above = NULL;
	char known[16] = "";
	int r = next ? 0 : qmp_error_errno(err, -ENOMEM, "reading the image %s", path);

	for (int depth = 0; r == 0 && next; depth++) {
		_cleanup_free_ char *name = take_ptr(next);
		json_t *image = NULL;
		if (depth == IMG_CHAIN_MAX)
			return qmp_error_set(err, QMP_ERR_USAGE, -ELOOP, "the image %s is backed by more than %d others, or by itself",
					     path, IMG_CHAIN_MAX);
		char below[16] = "";
		r = read_one(name, depth == 0 ? format : *known ? known : NULL, &image, &next, below, err);
		memcpy(known, below, sizeof known);
		if (!image) {
			if (depth > 0)
				qmp_error_wrap(err, "the backing chain of %s", path);
			return r;
		}
		if (above)
			json_object_set_new(above, "backing", image);
		else
			top = image;
		above = image;
	}
	if (r == 0)
		r = check_chain(top, false, err);
	if (r == 0)
		*ret = take_ptr(top);
	return r;
}

static json_t *file_node(const char *path)
{
	struct stat st;
	bool device = stat(path, &st) == 0 && S_ISBLK(st.st_mode);

	return json_pack("{s:s, s:s}", "driver", device ? "host_device" : "file", "filename", path);
}

static json_t *protocol_node(const char *location)
{
	struct vm_location l;
	json_t *node;

	if (vm_location_is_file(location))
		return file_node(location);
	if (vm_location_parse(location, &l, NULL) < 0)
		return NULL;
	node = vm_location_node(&l);
	vm_location_deinit(&l);
	return node;
}

json_t *img_node(const json_t *image)
{
	const char *format = text_of(image, "format"), *path = text_of(image, "path");
	json_t *file = path ? protocol_node(path) : NULL, *below = json_object_get(image, "backing"), *node;
	json_t *key = json_object_get(image, "key-secret");

	node = file ? json_pack("{s:s, s:o}", "driver", format, "file", file) : NULL;
	if (node && key && streq(format, "luks"))
		json_object_set(node, "key-secret", key);
	else if (node && key)
		json_object_set_new(node, "encrypt", json_pack("{s:O}", "key-secret", key));
	if (node && vm_format_has_backing(format))
		json_object_set_new(node, "backing", below ? img_node(below) : json_null());
	return node;
}
