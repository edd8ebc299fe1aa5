/*
 * Images that were imported, below STATEDIR/cache, each under the SHA-256 of its source as the publisher has it: "sha256-DIGITS",
 * and beside it "sha256-DIGITS.json", which says where it came from. They are unpacked, read-only, and bases for
 * overlays. Downloads that were cut off are in STATEDIR/cache/partial.
 *
 * What is here is listed, and deleted on request; by itself goes what is beyond a limit (cache-limit.h).
 */
#pragma once

#include "images/digest.h"
#include "launcher/files.h"

/*
 * What stands beside an image:
 *   {"source": its address as it is shown, or path, "url-key"?, "etag"?, "last-modified"?, "sha512"?, "packing", "format",
 *    "virtual-size", "size", "mtime": ns since the epoch; of the file, so that a change of it is seen,
 *    "overlays"?: paths of those that were made by image create, clone and rebase}; its own time is when the image was used last;
 * beside a part: {"source", "etag", "last-modified", "total": or -1, "boot": the host's boot in which it came}.
 */

/* Its folder; made where it is not there. */
int img_cache_open(const struct vm_dirs *dirs, struct qmp_error *err);
int img_cache_open_partial(const struct vm_dirs *dirs, struct qmp_error *err);
/* "sha256-DIGITS"; new. */
char *img_cache_name(const char *sha256);
/* The entry's description, with "name", "path" and "used" (seconds since the epoch) in it; new. NULL: there is none, or the image was changed since. */
json_t *img_cache_find(const struct vm_dirs *dirs, const char *sha256);
json_t *img_cache_find_sha512(const struct vm_dirs *dirs, const char *sha512);
/* What came from the address of that key last. */
json_t *img_cache_find_url(const struct vm_dirs *dirs, const char *url_key);
/* It is used now, and does not go for a while. NULL: it has just gone (or ENTRY is NULL). */
json_t *img_cache_use(const struct vm_dirs *dirs, json_t *entry_consume);
/* OVERLAY is backed by BASE: where that is an entry, it is noted beside it. Both are paths from the root on. */
int img_cache_note_overlay(const struct vm_dirs *dirs, const char *base, const char *overlay, struct qmp_error *err);
/*
 * The file FD, NAME in the folder DIR (on the cache's file system), is whole: it becomes the entry of SHA256, durably, in the place
 * of an older one. ABOUT is its description, but for what the file itself says.
 */
int img_cache_keep(const struct vm_dirs *dirs, int dir, const char *name, int fd, const char *sha256, json_t *about,
		   struct qmp_error *err);
/* What stands beside a part; DIR is their folder. */
int img_cache_describe_part(int dir, const char *name, const json_t *about, struct qmp_error *err);
/* All entries, and then the parts (with "partial": true), as img_cache_find gives them, with "allocated"; new. */
json_t *img_cache_list(const struct vm_dirs *dirs, struct qmp_error *err);
/* By its name as list has it. -ENOENT; -EBUSY: a part that is being fetched. */
int img_cache_delete(const struct vm_dirs *dirs, const char *name, struct qmp_error *err);
/* Removes what was left by somebody who was killed: descriptions without an image, images without one, drafts. */
void img_cache_sweep(const struct vm_dirs *dirs);
