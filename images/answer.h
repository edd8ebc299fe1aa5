/*
 * Whether what a file is on still answers. A call on NFS whose server is away, or on a FUSE whose daemon hangs, ends when that
 * is back, if ever; a keeper that waited for it would leave all its VMs alone, also those that have nothing there.
 *
 * The call is made in a thread of its own, which is left behind where nothing comes of it; it ends when the file system
 * answers, or with the process.
 */
#pragma once

#include "proto/qmp.h"

#include <sys/stat.h>

/*
 * What PATH is: st_mode, st_dev, st_ino and st_rdev as of stat(2), the rest is not set. 0, or a negative errno. What the host
 * remembers is enough, and then nobody is asked. -ETIMEDOUT: nothing came of it within five seconds; for as long again that is
 * said of all that is below the same mount, at once.
 */
int img_answer_stat(const char *path, struct stat *ret);
/*
 * Asks the file system of PATH itself, not what the host remembers of it; what it has answered is believed for the moment that
 * one step of an operation takes. -ETIMEDOUT (host): it does not answer; 0: it does, or PATH is not there, which is for others
 * to say.
 */
int img_answer_check(const char *path, struct qmp_error *err);
