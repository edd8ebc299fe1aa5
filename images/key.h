/*
 * Encrypted images for qemu-img: the options that it takes, with the key handed over as img_task_add_secret does.
 * The key stands in a file alone (launcher/secret.h).
 */
#pragma once

#include "images/qemu-img.h"

/*
 * img_create; KEY_FILE: encrypted, with what that file holds; NULL: not. -EINVAL (usage): the format cannot be encrypted, or
 * (luks) always is. Those of vm_secret_open.
 */
int img_create_with_key(const struct img_target *t, uint64_t size, const char *key_file, struct img_task **ret,
			struct qmp_error *err);

/* img_convert, likewise. */
int img_convert_with_key(const json_t *image, const char *snapshot, const struct img_target *t, bool compress, bool bitmaps,
			 const char *key_file, struct img_task **ret, struct qmp_error *err);

/*
 * The key slots of IMAGE, a LUKS or qcow2 image that nobody uses. KEY and NEW_KEY are keys in memory (vm_secret_open, vm_secret_read),
 * borrowed; KEY opens it. ITER_TIME: milliseconds that a trial of the new key is to cost; 0: qemu-img's own.
 */
int img_key_add(const json_t *image, int key, int new_key, int64_t iter_time, struct img_task **ret, struct qmp_error *err);
/* SLOT: 0 to 7; -1: each slot that KEY opens. The last one is not removed: that would be the end of what is in the image. */
int img_key_remove(const json_t *image, int key, int64_t slot, struct img_task **ret, struct qmp_error *err);
/* Whether both hold the same. Negative: they cannot be read. */
int img_key_equal(int a, int b);
