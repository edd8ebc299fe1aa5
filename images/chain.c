#include "images/chain.h"
#include "images/header.h"
#include "launcher/spec.h"
#include "proto/base.h"

static const char *or_unknown(const char *name)
{
	return *name ? name : "(a name that is not in the header's first 64 KiB)";
}

static int check_image(const json_t *image, struct qmp_error *err)
{
	const char *path = text_of(image, "path"), *format = text_of(image, "format");
	struct img_header h;
	int r = img_header_read(path, &h, err);

	if (r < 0)
		return r;
	if (!streq(h.format, format))
		return 0; /* QEMU says that it is not of that format, and opens nothing */
	if (h.has_backing && !json_object_get(image, "backing"))
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL,
				     "the image %s wants the backing file \"%s\", which the spec does not name, so that it is not "
				     "opened; give the disk \"backing\": {\"path\": ..., \"format\": ...}",
				     path, or_unknown(h.backing));
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

int img_chain_check(const json_t *disk, struct qmp_error *err)
{
	for (const json_t *image = disk; image; image = json_object_get(image, "backing")) {
		const char *format = text_of(image, "format");
		int r = text_of(image, "path") && format && !streq(format, "raw") ? check_image(image, err) : 0;
		if (r < 0)
			return r;
	}
	return 0;
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
