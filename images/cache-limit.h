/*
 * How much the cache of images (cache.h) may take on disk, and what goes when it takes more: what was used least recently.
 *
 * Never goes: what a VM or another image is backed by, as far as that is known (catalogue.h: defined and running VMs, the
 * images beside theirs, those of pools that are folders; and overlays that image create, clone or rebase have made elsewhere),
 * what anybody has open, what is being fetched, and what was used within the last hour: somebody may be about to make an
 * overlay of it.
 * Two at once are safe: whoever removes, and whoever takes an entry (img_cache_use), holds the cache's lock.
 */
#pragma once

#include "launcher/files.h"

struct img_cache_limit {
	uint64_t bytes;  /* UINT64_MAX: none */
	bool is_default; /* 64 GiB, or a quarter of the file system where that is less */
};

/* As CONFDIR/cache.json says: {"limit": a size, or null for none}. -EINVAL (usage): that file is wrong. */
int img_cache_limit_read(const struct vm_dirs *dirs, struct img_cache_limit *ret, struct qmp_error *err);
/* BYTES: UINT64_MAX for none, 0 for the default. */
int img_cache_limit_write(const struct vm_dirs *dirs, uint64_t bytes, struct qmp_error *err);
/* What the entries and parts of LIST (img_cache_list) take on disk. */
uint64_t img_cache_size(const json_t *list);
/*
 * Removes what is beyond the limit. RET_NOTE: what became of it, in a sentence or more, new; NULL: nothing was removed, and
 * nothing is beyond.
 */
int img_cache_trim(const struct vm_dirs *dirs, char **ret_note, struct qmp_error *err);
