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
