#include "images/chain.h"
#include "images/answer.h"
#include "images/head.h"
#include "launcher/location.h"
#include "launcher/secret.h"
#include "launcher/spec.h"
#include "proto/base.h"

#include <stdio.h>
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

static bool same_text(const char *a, const char *b)
{
	return a && b ? streq(a, b) : a == b;
}

/* Whether NAME, in the header of PATH, is a file that is there, and is not OTHER. One that was moved is not. */
static bool is_another_file(const char *path, const char *name, const char *other)
{
	_cleanup_free_ char *named = *name ? img_backing_location(path, name) : NULL;
	struct stat a, b;

	return named && other && vm_location_is_file(named) && vm_location_is_file(other) && stat(named, &a) == 0 && stat(other, &b) == 0 &&
	       (a.st_dev != b.st_dev || a.st_ino != b.st_ino);
}

/* SPEC: IMAGE is a spec's, which has to say whether it is encrypted; ALONE: what it is backed by is not looked for. */
struct checks {
	bool spec, alone;
};

static int check_image(const json_t *image, const json_t *heads, struct checks wanted, struct qmp_error *err)
{
	const char *format = text_of(image, "format");
	_cleanup_free_ char *path = vm_location_shown(text_of(image, "path"));
	struct img_header h;
	int r = path ? img_head_of(heads, text_of(image, "path"), &h, err) : qmp_error_errno(err, -ENOMEM, "looking at an image");

	if (r < 0)
		return r;
	if (!streq(h.format, format))
		return 0; /* QEMU says that it is not of that format, and opens nothing */
	if (wanted.spec && check_encryption(image, &h, err) < 0)
		return err ? err->code : -EINVAL;
	if (h.has_backing && !wanted.alone && !json_object_get(image, "backing"))
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

static int check_chain(const json_t *disk, const json_t *heads, struct checks wanted, struct qmp_error *err)
{
	for (const json_t *image = disk; image; image = json_object_get(image, "backing")) {
		const char *path = text_of(image, "path"), *format = text_of(image, "format");
		bool is_file = path && vm_location_is_file(path), is_read = is_file || img_head_wanted(image);
		int r = is_file ? img_answer_check(path, err) : 0;
		if (r == 0 && is_read && format && !streq(format, "raw"))
			r = check_image(image, heads, wanted, err);
		if (r == 0 && wanted.spec && key_file(image))
			r = vm_secret_check(key_file(image), err);
		if (r == 0 && text_of(image, "password-file"))
			r = vm_secret_check(text_of(image, "password-file"), err);
		if (r < 0)
			return r;
	}
	return 0;
}

int img_chain_check(const json_t *disk, const json_t *heads, struct qmp_error *err)
{
	return check_chain(disk, heads, (struct checks){.spec = true}, err);
}

int img_chains_check(const json_t *spec, const json_t *have, const json_t *heads, bool missing_ok, struct qmp_error *err)
{
	json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(spec, "disks"), i, disk)
	{
		const char *id = text_of(disk, "id");
		json_t *before = id ? vm_spec_find(have, "disks", id) : NULL;
		struct qmp_error why = {0};
		int r = before && json_equal(before, disk) ? 0 : img_chain_check(disk, heads, &why);
		if (r < 0 && !(missing_ok && why.kind == QMP_ERR_HOST))
			return qmp_error_set(err, why.kind, r, "disks.%s: %s", id ? id : "(new)", why.message);
	}
	return 0;
}

/* ---- From headers ---- */

/* Of one server; what a header on it names elsewhere is no business of that server's. */
static bool is_same_server(const char *a, const char *b)
{
	struct vm_location x, y;
	bool same;

	if (vm_location_parse(a, &x, NULL) < 0)
		return false;
	if (vm_location_parse(b, &y, NULL) < 0) {
		vm_location_deinit(&x);
		return false;
	}
	same = x.kind == y.kind && x.port == y.port && same_text(x.host, y.host) && same_text(x.user, y.user) &&
	       same_text(x.socket, y.socket) && same_text(x.conf, y.conf) && same_text(x.host_key, y.host_key);
	vm_location_deinit(&x);
	vm_location_deinit(&y);
	return same;
}

/* NAME beside LOCATION, a URL whose path is one of folders. */
static char *beside(const char *location, const char *name)
{
	bool has_folders = strncmp(location, "ssh://", 6) == 0 || strncmp(location, "http://", 7) == 0 ||
			   strncmp(location, "https://", 8) == 0;
	const char *query = location + strcspn(location, "?"), *slash = memrchr(location, '/', (size_t)(query - location));
	_cleanup_free_ char *escaped = NULL;

	if (!has_folders || !slash || *name == '/' || !*name)
		return NULL;
	escaped = vm_location_escape(name);
	return escaped ? qmp_asprintf("%.*s/%s%s", (int)(slash - location), location, escaped,
				      strncmp(location, "ssh://", 6) == 0 ? query : "") :
			 NULL;
}

char *img_backing_location(const char *location, const char *name)
{
	const char *slash = strrchr(location, '/'), *colon = strchr(name, ':');
	struct vm_location l;

	if (vm_location_looks(name) == VM_NBD) {
		if (vm_location_parse(name, &l, NULL) < 0)
			return NULL;
		vm_location_deinit(&l);
		return vm_location_is_file(location) || is_same_server(location, name) ? strdup(name) : NULL;
	}
	if (strncmp(name, "file:", 5) == 0) {
		name += 5;
		colon = strchr(name, ':');
	}
	if (!*name || (colon && !memchr(name, '/', (size_t)(colon - name))))
		return NULL;
	if (!vm_location_is_file(location))
		return beside(location, name);
	return *name == '/' || !slash ? strdup(name) : qmp_asprintf("%.*s/%s", (int)(slash - location), location, name);
}

static bool is_fifo(const char *path)
{
	struct stat st;

	return vm_location_is_file(path) && img_answer_stat(path, &st) == 0 && S_ISFIFO(st.st_mode);
}

static bool read_header(const char *path, struct img_header *ret)
{
	return vm_location_is_file(path) && img_answer_check(path, NULL) == 0 && img_header_read(path, ret, NULL) == 0;
}

/* What holds the data of the image PATH, whose header is H. That of a vmdk may be another descriptor; LEFT: how many more are read. */
static char *data_fifo(const char *path, const struct img_header *h, int *left)
{
	json_auto_t *names = !h->has_data_file		  ? NULL
			     : streq(h->format, "vmdk") ? img_header_extents(path)
							  : json_pack("[s]", h->data_file);
	const json_t *name;
	size_t i;

	json_array_foreach(names, i, name) {
		_cleanup_free_ char *data = img_backing_location(path, json_string_value(name));
		struct img_header inner;
		char *found = NULL;
		if (data && is_fifo(data))
			return take_ptr(data);
		if (data && (*left)-- > 0 && read_header(data, &inner) && streq(inner.format, "vmdk"))
			found = data_fifo(data, &inner, left);
		if (found)
			return found;
	}
	return NULL;
}

char *img_data_fifo(const char *path)
{
	struct img_header h;
	int left = IMG_CHAIN_MAX;

	return read_header(path, &h) ? data_fifo(path, &h, &left) : NULL;
}

char *img_chain_fifo(const char *path)
{
	_cleanup_free_ char *image = strdup(path);

	for (int i = 0, left = IMG_CHAIN_MAX; image && i < IMG_CHAIN_MAX; i++) {
		_cleanup_free_ char *data = NULL, *below = image;
		struct img_header h;
		image = NULL;
		if (!read_header(below, &h))
			return NULL;
		data = data_fifo(below, &h, &left);
		if (data)
			return take_ptr(data);
		image = h.has_backing ? img_backing_location(below, h.backing) : NULL;
		if (image && is_fifo(image))
			return take_ptr(image);
	}
	return NULL;
}

static int refuse_backing(const char *shown, const char *name, bool is_file, struct qmp_error *err)
{
	if (is_file)
		return qmp_error_set(err, QMP_ERR_UNSUPPORTED, -ENOTSUP,
				     "the image %s is backed by \"%s\", which is no file; name a file with \"image rebase --unsafe\"",
				     shown, or_unknown(name));
	return qmp_error_set(err, QMP_ERR_UNSUPPORTED, -ENOTSUP,
			     "the image %s wants the backing file \"%s\", which is nothing on its own server, so that it is not opened",
			     shown, or_unknown(name));
}

struct reading {
	const struct img_chain_options *o;
	json_t *heads;
	char known[16]; /* the format of the next one, as the header above it has it; "": it does not say */
};

static int header_of(struct reading *x, const json_t *image, struct img_header *ret, struct qmp_error *err)
{
	json_auto_t *alone = json_copy((json_t *)image), *one = json_pack("[O]", alone);
	int r = one ? 0 : qmp_error_errno(err, -ENOMEM, "reading an image");

	/* Whether or not its format is known: what it is about to be read for may need its size and its encryption. */
	if (r == 0 && x->o->loop)
		r = img_heads_fetch_now(x->o->loop, one, x->heads, err);
	return r < 0 ? r : img_head_of(x->heads, text_of(image, "path"), ret, err);
}

/* What IMAGE, {"path"}, is itself; RET_BELOW: what it is backed by, new, or NULL. */
static int read_one(struct reading *x, json_t *image, int depth, char **ret_below, struct qmp_error *err)
{
	const char *path = text_of(image, "path"), *format = depth == 0 ? x->o->format : *x->known ? x->known : NULL;
	_cleanup_free_ char *shown = vm_location_shown(path);
	struct img_header h = {.format = "raw"};
	bool needs_none = format && streq(format, "raw") && !vm_location_is_file(path);
	int r = x->o->access ? x->o->access(x->o->data, image, depth, err) : 0;

	if (r == 0 && format)
		json_object_set_new(image, "format", json_string(format));
	if (r == 0 && !needs_none)
		r = header_of(x, image, &h, err);
	if (r < 0)
		return r;
	if (!format)
		json_object_set_new(image, "format", json_string(h.format));
	format = text_of(image, "format");
	if (!shown || !format)
		return qmp_error_errno(err, -ENOMEM, "reading the image %s", path);
	x->known[0] = '\0';
	if (!streq(format, "luks") && !(streq(format, h.format) && *h.encryption))
		(void)json_object_del(image, "encryption");
	if (streq(format, "raw") || !streq(format, h.format) || !h.has_backing || x->o->alone)
		return 0;
	*ret_below = img_backing_location(path, h.backing);
	memcpy(x->known, h.backing_format, sizeof x->known);
	return *ret_below ? 0 : refuse_backing(shown, h.backing, vm_location_is_file(path), err);
}

int img_chain_read(const char *path, const struct img_chain_options *o, json_t **ret, struct qmp_error *err)
{
	_cleanup_free_ char *next = strdup(path);
	json_auto_t *top = NULL, *heads = json_object();
	struct reading x = {o, heads, ""};
	json_t *above = NULL;
	int r = next && heads ? 0 : qmp_error_errno(err, -ENOMEM, "reading the image %s", path);

	for (int depth = 0; r == 0 && next; depth++) {
		_cleanup_free_ char *name = take_ptr(next);
		json_t *image = json_pack("{s:s}", "path", name);
		if (depth == IMG_CHAIN_MAX) {
			json_decref(image);
			return qmp_error_set(err, QMP_ERR_USAGE, -ELOOP, "the image %s is backed by more than %d others, or by itself",
					     path, IMG_CHAIN_MAX);
		}
		if (above)
			json_object_set_new(above, "backing", image);
		else
			top = image;
		above = image;
		r = image ? read_one(&x, image, depth, &next, err) : qmp_error_errno(err, -ENOMEM, "reading the image %s", path);
		if (r < 0 && depth > 0 && r != -ENOTSUP)
			qmp_error_wrap(err, "the backing chain of %s", path);
	}
	/* A file alone is opened for what is in itself, or is deleted. */
	if (r == 0 && !(o->alone && vm_location_is_file(path)))
		r = check_chain(top, heads, (struct checks){.alone = o->alone}, err);
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
	node = vm_location_node(&l, 0);
	vm_location_deinit(&l);
	return node;
}

/* The id of the secret that opens IMAGE; new. NULL: none is wanted, or (RET negative) no memory. */
static json_t *key_id(const json_t *image, const char *prefix, struct vm_fragment *needs, int *ret)
{
	json_t *given = json_object_get(image, "key-secret");
	char id[40];

	*ret = 0;
	if (given || !key_file(image) || !needs)
		return json_incref(given);
	snprintf(id, sizeof id, "%s-key", prefix);
	*ret = vm_fragment_add_secret(needs, id, key_file(image), false);
	return *ret < 0 ? NULL : json_string(id);
}

json_t *img_node(const json_t *image, struct vm_fragment *needs)
{
	const char *format = text_of(image, "format"), *path = text_of(image, "path");
	json_auto_t *file = path ? protocol_node(path) : NULL, *key = NULL, *node = NULL;
	json_t *below = json_object_get(image, "backing");
	char prefix[24];
	int r = 0;

	snprintf(prefix, sizeof prefix, "%.8s-%zu", needs && needs->item ? needs->item : "image", needs ? needs->n_objects : 0);
	if (file && needs)
		r = vm_fragment_add_access(needs, image, prefix, file);
	if (file && r == 0)
		key = key_id(image, prefix, needs, &r);
	node = file && r == 0 ? json_pack("{s:s, s:O}", "driver", format, "file", file) : NULL;
	if (node && key && streq(format, "luks"))
		json_object_set(node, "key-secret", key);
	else if (node && key)
		json_object_set_new(node, "encrypt", json_pack("{s:O}", "key-secret", key));
	if (node && vm_format_has_backing(format))
		json_object_set_new(node, "backing", below ? img_node(below, needs) : json_null());
	return json_incref(node);
}
