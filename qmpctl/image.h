/*
 * What the verbs on images do alike: finding the image that a word means, looking who has it, and running a task on it.
 */
#pragma once

#include "images/catalogue.h"
#include "images/import.h"
#include "images/qemu-img.h"
#include "images/volume.h"
#include "qmpctl/verb.h"

/* An image that is there. */
struct found {
	struct img_catalogue *catalogue;
	char *path;      /* the location */
	json_t *image;   /* with its chain (chain.h) */
	json_t *users, *overlays; /* catalogue.h; those directly above it */
	uint64_t size;   /* virtual; 0: not known from the header */
	bool is_volume;  /* VOLUME: its pool's own tools have it, not qemu-img */
	struct img_volume volume;
};

/*
 * What it takes to reach an image and to open it stands in the options PREFIX"key-file"SUFFIX, ..."password-file"..., ..."tls"...
 * (IMAGE_ACCESS), or else in the spec of a VM that has it.
 */
struct image_access {
	const char *prefix, *suffix;
};
#define IMAGE_ITS_OWN (&(const struct image_access){"", ""})
#define IMAGE_ACCESS_OF(PREFIX, SUFFIX, WHOSE)                                                                               \
	{PREFIX "key-file" SUFFIX, "FILE", WHOSE " is encrypted, with the key that this file holds; again: of what it is backed by", \
	 .kind = ARG_PATH},                                                                                                  \
	{PREFIX "password-file" SUFFIX, "FILE", WHOSE " is on iSCSI or Ceph, which ask for what this file holds", .kind = ARG_PATH}, \
	{PREFIX "tls" SUFFIX, "WORDS", WHOSE " is on NBD with TLS: DIR[,hostname=NAME], and the other fields of a disk's tls", .kind = ARG_PATH}
#define IMAGE_ACCESS IMAGE_ACCESS_OF("", "", "IMAGE")

/*
 * WORD is a location. FORMAT: as an option has it; NULL: as a VM has it in its spec, else as its header looks. ACCESS NULL: no
 * options. ALONE: what it is backed by is not looked for.
 */
int image_find(struct cli *cli, const char *word, const char *format, const struct image_access *access, bool alone,
	       struct found *ret);
void found_deinit(struct found *f);
#define _cleanup_found_ __attribute__((cleanup(found_deinit)))

/*
 * Whether DOING ("resizing it") may go on: it is refused, with the names of those who would be hurt, where a VM that
 * runs has F's image; WRITES: only where it writes it.
 */
int image_refuse_running(struct cli *cli, const struct found *f, bool writes, const char *doing);
/*
 * Likewise, unless --force is given: where USERS or OVERLAYS (NULL: none) is not empty, or it cannot be told who has
 * what. HURTS says what would become of them.
 */
int image_refuse_hurt(struct cli *cli, const struct found *f, const json_t *users, const json_t *overlays,
		      const char *hurts);

/* Its virtual size, as qemu-img finds it. */
int image_size_now(struct cli *cli, const struct found *f, uint64_t *ret);

/* The image that another one is to be backed by: image_find, and nobody writes to it, which would destroy both. */
int image_find_base(struct cli *cli, const char *word, const char *format, const struct image_access *access, struct found *ret);
/*
 * PLACE: the source (a path or an address), the destination (absolute; NULL: the cache) and a list of digests (NULL:
 * none); the rest is options' (verb_image_import has them), with its progress. RET's path is new.
 */
int image_import(struct cli *cli, char *const place[3], struct img_import_result *ret);

/*
 * An image that is to be made at WORD: it is not there; or --replace is given, and nobody is hurt. The location,
 * absolute; new. NULL: cli->error.
 */
char *image_new_path(struct cli *cli, const char *word);
/*
 * What IMAGE (chain.h) has, at its internal SNAPSHOT (may be NULL), into the volume V that is not there yet, with progress. SIZE:
 * that of the new one, 0: IMAGE's.
 */
int image_to_volume(struct cli *cli, const json_t *image, const char *snapshot, struct img_volume *v, uint64_t size);
/*
 * WORD as a new image of a pool whose own tools make it: 1, and RET; 0: it is a file. Options that are for files alone are
 * refused: those of LIST, which ends with NULL.
 */
int image_new_volume(struct cli *cli, const char *word, const char *const *list, struct img_volume *ret);
/* What was made: RESULT as JSON where asked for, else PATH. */
void image_print(const struct cli *cli, const json_t *result, const char *path);
/* The format of a new image: of --format, else of the PATH's extension, else qcow2. */
const char *image_new_format(const struct cli *cli, const char *path);
#define IMAGE_FORMATS "raw|qcow2|qcow|qed|vmdk|vdi|vhdx|vpc|parallels|luks"

/* The name of the pool that WORD is, or in which it is POOL:VOLUME; new; NULL: it is something else. */
char *image_pool_of(struct cli *cli, const char *word);
/*
 * Adds the volumes of POOL to IMAGES, which are C's (catalogue.h), in the same form, with "volume": POOL:VOLUME, "snapshots"?: how many,
 * and "backing", "backing-volume"?: what it is a clone of. One that stands there already is filled up.
 */
int image_add_volumes(struct cli *cli, const struct img_catalogue *c, const char *pool, json_t *images);
/*
 * OVERLAY, a path from the root on, was made with BASE (chain.h) behind it: an image of the cache that it stands on does not go
 * by itself.
 */
int image_note_overlay(struct cli *cli, const json_t *base, const char *overlay);
/* Whether they are the same file. */
bool image_is_same(const char *a, const char *b);

/* The values of a repeated option, ending with NULL; to be freed. */
const char **image_options(const struct cli *cli, const char *name);
/* To its end, with its progress where it tells one; BYTES: what it is about, 0: not known. */
int image_run(struct cli *cli, struct img_task *task, const char *doing, uint64_t bytes, json_t **ret);
