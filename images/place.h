/*
 * What a place for images stands on: the mount that a path is in, whether locks on it reach other hosts, the health of an md
 * array. Read from /proc and /sys; nothing is changed.
 */
#pragma once

#include "proto/qmp.h"

#include <sys/types.h>

/* {"path", "filesystem", "source", "options"} of the mount that PATH, which is there, is in; new; NULL: not known. */
json_t *img_place_mount(const char *path);
/* The same by PATH's words, whose links are not followed: it is not touched. */
json_t *img_place_mount_by_name(const char *path);
/* The same by a text like /proc/self/mountinfo (proc(5)) and the real path. Pure. */
json_t *img_place_mount_in(const char *mountinfo, const char *path);
/* Whether PATH is FOLDER or below it, by their words. Pure. */
bool img_place_is_below(const char *path, const char *folder);
/*
 * A sentence where locks on files there do not, or may not, hold between hosts: QEMU and qmpctl keep two VMs off one image by
 * them. NULL: they hold, or no other host is there. Pure.
 */
const char *img_place_locks(const char *filesystem, const char *options);
/*
 * The md array that the block device DEV is: {"level", "devices", "degraded", "state", "sync"?, "progress"? (percent),
 * "healthy", "health": in words}; new; NULL: it is none.
 */
json_t *img_place_md(dev_t dev);
/* The same by the folder of its files, /sys/dev/block/MAJOR:MINOR/md. */
json_t *img_place_md_in(int folder);
/* Whether the host itself has the block device at PATH: mounted, swap, part of an array or of a volume group. */
bool img_place_host_has(const char *path);
