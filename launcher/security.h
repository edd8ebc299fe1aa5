/*
 * How a process is confined, as the kernel says (proc(5)): not what was asked for, what there is.
 */
#pragma once

#include "proto/qmp.h"

#include <sys/types.h>

/*
 * New, an object:
 *   {"pid", "user": name | null, "uids", "gids": [real, effective, saved, of the file system], "groups": [...],
 *    "capabilities": {"inheritable", "permitted", "effective", "bounding", "ambient": hexadecimal masks},
 *    "no-new-privs": bool,
 *    "seccomp": {"mode": "none" | "strict" | "filter", "filters"?: how many, "threads", "threads-filtered"},
 *    "fds": {"count", "kinds": {"socket": n, ...}, "paths": [...]} | null where we may not look,
 *    "limits": {"core", "memlock", "nofile", "nproc", "address-space": [soft, hard]; null: unlimited},
 *    "cgroups": {controllers, "unified" for version 2: path}}
 * NULL: it is gone (-ESRCH), or no memory.
 */
json_t *vm_security_of(pid_t pid, struct qmp_error *err);
