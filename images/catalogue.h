/*
 * Which images there are in the places that are known, what each is backed by, and which VMs have it: read once, then
 * asked.
 *
 * An image is known by its device and inode, so that a symlink, a hard link or a bind mount of it is the same one. VMs
 * are those that are defined, by their specs, and those that run, by what their QEMU has; a change that is under way
 * counts as if it were done. What a server has is known by what its URL names, and stands among what VMs have, not
 * among the images. Places are STATEDIR/images, the folders in which an image of a VM lies, and those that the caller
 * adds. Does not own: what a pool's volumes are.
 */
#pragma once

#include "launcher/files.h"

struct img_catalogue;

/* DIRS stays the caller's, for as long as the catalogue. */
int img_catalogue_read(const struct vm_dirs *dirs, struct img_catalogue **ret, struct qmp_error *err);
void img_catalogue_free(struct img_catalogue *c);
#define _cleanup_catalogue_ __attribute__((cleanup(img_catalogue_cleanup)))
void img_catalogue_cleanup(struct img_catalogue **c);

/* Also the images in FOLDER. RAW: files that look like none are images, too. */
int img_catalogue_add_folder(struct img_catalogue *c, const char *folder, bool raw, struct qmp_error *err);
/* Also this one, wherever it is, and what it is backed by. */
int img_catalogue_add(struct img_catalogue *c, const char *path, struct qmp_error *err);

/*
 * Who has the image PATH, which may be a URL: [{"vm", "disk", "state": "running" or "defined", "writes": bool, "depth":
 * 0 for the disk itself, n for what it is backed by, "path", "format"}], sorted. One that runs stands there once, as it
 * runs. New; NULL: no memory.
 */
json_t *img_catalogue_users(const struct img_catalogue *c, const char *path);
/* What the spec of a VM that has it says of how it is reached and opened: {"tls", "password-file", "encryption"}; NULL: nothing. Borrowed. */
const json_t *img_catalogue_access(const struct img_catalogue *c, const char *path);
/* The images that are backed by it: [{"path", "format"}]; ALL: also those that are backed by these. Sorted, new. */
json_t *img_catalogue_overlays(const struct img_catalogue *c, const char *path, bool all);
/*
 * All of them, sorted by path: {"path", "format", "virtual-size" (0: not in its header), "allocated", "backing"? (as
 * its header has it, made absolute), "users": as above}. New.
 */
json_t *img_catalogue_images(const struct img_catalogue *c);
/* The names of VMs of which it cannot be told what they have: their files are damaged. Borrowed. */
const json_t *img_catalogue_unknown(const struct img_catalogue *c);
/*
 * People's names of users and overlays, "the VM a (running), the image /x/b", the first few; new; NULL where there are
 * none (or no memory: then RET_MANY is -1).
 */
char *img_catalogue_names(const json_t *users, const json_t *overlays, int *ret_many);
