/*
 * What a QEMU binary can on this host, found by asking it once and kept on disk by its identity (path, size, times, and
 * the kernel that runs): {"identity", "binary", "version", "machines": {"q35": "pc-q35-7.2", ...}, "kvm-cpu": model | null,
 * "kvm-note": why a model other than host}.
 */
#pragma once

#include "launcher/files.h"

/* CAPS is borrowed; NULL with WHY on failure. Once, from the loop. */
typedef void (*vm_caps_cb)(void *data, json_t *caps, const struct qmp_error *why);

/* BINARY: NULL for qemu-system-x86_64 in PATH, or $QMPCTL_QEMU. */
int vm_caps_get(uv_loop_t *loop, const struct vm_dirs *dirs, const char *binary, vm_caps_cb cb, void *data,
		struct qmp_error *err);
bool vm_kvm_opens(void);
