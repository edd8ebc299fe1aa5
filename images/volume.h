/*
 * Volumes that are no files: made, removed, resized and cloned by their pool's own tools, under the pool's lock. What is a
 * file, in a pool or not, is qemu-img's (qemu-img.h) and is none here.
 *
 * Does not own: who has a volume (catalogue.h), and whether it may be touched.
 */
#pragma once

#include "images/pool.h"

struct img_volume {
	struct img_pool pool;
	char *location; /* POOL:VOLUME */
	const char *name; /* in it */
	char *path;
	/*
	 * Who is told of the volume LOCATION that is made by way of this one: that it is begun, with a hidden name (ID NULL); then,
	 * before it has its own, what tells it from others of that (img_volume_is). NULL: nobody.
	 */
	int (*note)(void *data, const char *location, const char *id, struct qmp_error *err);
	void *note_data;
};

/* 1: LOCATION is one; 0: it is something else, and RET is not set. -ENOENT: there is no such pool. */
int img_volume_open(uv_loop_t *loop, const struct vm_dirs *dirs, const char *location, struct img_volume *ret,
		    struct qmp_error *err);
void img_volume_close(struct img_volume *v);
#define _cleanup_volume_ __attribute__((cleanup(img_volume_close)))

/* SIZE bytes or a little more, as the storage's units are. FORMAT: a volume of this kind is "raw". Never over one that is there. */
int img_volume_create(struct img_volume *v, const char *format, uint64_t size, struct qmp_error *err);
int img_volume_remove(struct img_volume *v, struct qmp_error *err);
/* What tells it from others of its name, before and after; new. NULL: nothing does. QMP_ERR_NOT_FOUND: it is not there. */
int img_volume_id(struct img_volume *v, char **ret, struct qmp_error *err);
/* That it is there, as all verbs below find it: brought back where somebody was killed half way back to a snapshot. QMP_ERR_NOT_FOUND: it is not. */
int img_volume_look(struct img_volume *v, struct qmp_error *err);
/* Whether it is there, and the one that was noted with that ID: 1, 0 or an error. ERR is wanted. */
int img_volume_is(struct img_volume *v, const char *id, struct qmp_error *err);
/* SHRINK: it may lose what is behind SIZE. */
int img_volume_resize(struct img_volume *v, uint64_t size, bool shrink, struct qmp_error *err);
/*
 * A new one of SIZE bytes or a little more that has its name only when it is whole: FILL writes it, at PATH; ZEROES: it reads as
 * zeros so far. What is left of one that fails, or is taken back, is nothing; of one that was killed: what the next one that is
 * made, or a refresh, removes.
 */
typedef int (*img_volume_fill_cb)(void *data, const char *path, bool zeroes, struct qmp_error *err);
int img_volume_fill(struct img_volume *v, uint64_t size, img_volume_fill_cb fill, void *data, struct qmp_error *err);
/* TO: another of the same pool, which is not there yet. */
int img_volume_clone(struct img_volume *v, const char *to, struct qmp_error *err);

/* ---- Snapshots ---- */

/* As the pool has them (pool.h), oldest first; new. */
int img_volume_snapshots(struct img_volume *v, json_t **ret, struct qmp_error *err);
/* NAME: up to 64 letters, digits and + _ . -, a letter or digit first. */
int img_volume_snapshot_create(struct img_volume *v, const char *name, struct qmp_error *err);
/* The volume has what it had then. NEWER: also where that takes newer snapshots with it. */
int img_volume_snapshot_rollback(struct img_volume *v, const char *name, bool newer, struct qmp_error *err);
int img_volume_snapshot_remove(struct img_volume *v, const char *name, struct qmp_error *err);
/* Bytes. */
int img_volume_size(struct img_volume *v, uint64_t *ret, struct qmp_error *err);
