/*
 * A secret (the passphrase or key of an encrypted image, a password), which stands in a file and nowhere else: a spec and a
 * plan name that file, and QEMU or qemu-img is given what it holds as an fd in memory. So it stands in no command line,
 * environment, message, log or state file.
 */
#pragma once

#include "proto/qmp.h"

#define VM_SECRET_MAX ((size_t)64 << 10)

/*
 * A new memfd, read from its start by whoever opens it in /proc/PID/fd, with what the file PATH holds, byte for byte; LINE:
 * but for a line's end at its end. Sealed: nobody changes it.
 *
 * -EACCES (usage): others than its owner may read it, or its owner is neither we nor root, or such a one's symlink leads to
 * it. -EINVAL (usage): it is no regular file, is empty, or holds what QEMU takes for no passphrase (a NUL, or no UTF-8).
 * -E2BIG. Others (host): it cannot be opened or read.
 */
int vm_secret_open(const char *path, bool line, int *ret_fd, struct qmp_error *err);
/* The same of what is read from FD to its end: a pipe, or a file that the caller has opened. NAME is for messages. */
int vm_secret_read(int fd, const char *name, bool line, int *ret_fd, struct qmp_error *err);
/* Whether vm_secret_open would give it. */
int vm_secret_check(const char *path, struct qmp_error *err);
