/*
 * What a QEMU binary can on this host, found by asking it once and kept on disk by its identity (path, size, time,
 * inode, build id, and the kernel that runs), in STATEDIR/cache: {"identity", "binary", "version", "machines": {"q35":
 * "pc-q35-7.2", ...}, "kvm-cpu": model | null, "hyperv": what can stand behind that model for Windows, "sandbox": whether it knows -sandbox}.
 */
#pragma once

#include "launcher/files.h"

/* CAPS is borrowed; NULL with WHY on failure. Once, from the loop. */
typedef void (*vm_caps_cb)(void *data, json_t *caps, const struct qmp_error *why);

/* BINARY: NULL for qemu-system-x86_64 in PATH, or $QMPCTL_QEMU. */
int vm_caps_get(uv_loop_t *loop, const struct vm_dirs *dirs, const char *binary, vm_caps_cb cb, void *data,
		struct qmp_error *err);
/* 1, 0 (errno says why not), or negative: it could not be found out just now. */
int vm_kvm_opens(struct qmp_error *err);
/* What is kept of that binary, of its present identity; new; NULL: nothing. Starts nothing. */
json_t *vm_caps_load(const struct vm_dirs *dirs, const char *binary);

/*
 * What query-qmp-schema of that binary returned, kept beside the above when it was asked; an array, new; NULL: not
 * there, or of another identity. ID is the identity of a QEMU that runs (its binary may have been replaced since);
 * NULL: the one that the binary has now. Starts nothing.
 */
json_t *vm_schema_load(const struct vm_dirs *dirs, const char *binary, const char *id);
/* Keeps it; RAW is the array as QEMU wrote it. That it cannot be kept costs time, nothing else. */
void vm_schema_save(const struct vm_dirs *dirs, const char *binary, const char *id, const char *raw, size_t len);
