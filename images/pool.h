/*
 * Pools as storage: what there is in them, how full they are, and volumes made, cloned and removed by each type's own tools.
 *
 * A type whose volumes are files leaves making and removing them to whoever makes files (draft.h, qemu-img.h): it has no
 * function for it. All of this runs programs to their end (tool.h): for verbs, never in a keeper. Sizes are bytes.
 * Does not own: definitions, and where a volume is (launcher/pool.h); what is in a volume (qemu-img.h).
 */
#pragma once

#include "launcher/pool.h"

struct img_pool_type;

/* What the name of a volume begins with that is being made (volume.h). */
#define IMG_POOL_HIDDEN "qmpctl-new."
/* Where a clone is one of a snapshot: what the name begins with of the one that is made for it, and goes with it. */
#define IMG_POOL_SNAPSHOT "qmpctl-"

struct img_pool {
	uv_loop_t *loop;
	const struct vm_dirs *dirs;
	json_t *definition;
	const char *name; /* in it */
	const struct img_pool_type *type;
	json_t *notes;    /* what people must know: sentences */
};

/* Of a volume; each is 0 or an error, and called under the pool's lock. */
struct img_pool_snapshots {
	bool newer_go; /* a rollback takes those that are newer with it */
	/*
	 * Appends each, oldest first, once nothing is half done that somebody was killed at: {"name", "created"?: seconds since 1970,
	 * "capacity"?: what a guest sees, "allocation"?: what it takes by itself; or "clone": the volume that it was made for, and goes
	 * with}.
	 */
	int (*list)(struct img_pool *p, const char *volume, json_t *snapshots, struct qmp_error *err);
	int (*create)(struct img_pool *p, const char *volume, const char *name, struct qmp_error *err);
	/* The volume has what it had then; the snapshot stays. NEWER: and those that are newer go. */
	int (*rollback)(struct img_pool *p, const char *volume, const char *name, bool newer, struct qmp_error *err);
	int (*remove)(struct img_pool *p, const char *volume, const char *name, struct qmp_error *err);
};

/* One a type, each in a file of its own. Each is 0 or an error. */
struct img_pool_type {
	const char *name; /* as in vm_pool_types */
	bool zeroes;           /* a new volume reads as zeros */
	bool clones_are_free;  /* a clone outlives what it is of */
	bool clones_are_fixed; /* a clone keeps the size of what it is of */
	const char *hidden;    /* IMG_POOL_HIDDEN, or another one where names may be hidden better */
	/* Before it is defined: what can be made without harm is made. May be NULL. */
	int (*prepare)(struct img_pool *p, struct qmp_error *err);
	/* After a boot, or what somebody did by hand: volumes are there again, what was left half made is not. May be NULL. */
	int (*refresh)(struct img_pool *p, struct qmp_error *err);
	/* Sets "capacity", "used" and "available" in INFO, and what else is to be known of the type; adds notes. */
	int (*measure)(struct img_pool *p, json_t *info, struct qmp_error *err);
	/*
	 * Appends each volume: {"name", "path", "format" (NULL: look into it), "capacity": what a guest sees, "allocation": what it
	 * takes in the pool now, its snapshots too, "physical": the length of the file or device, "origin"?: what it is a clone of,
	 * "snapshots"?: how many it has, ...}.
	 */
	int (*list)(struct img_pool *p, json_t *volumes, struct qmp_error *err);
	/*
	 * Appends what is there with a name that is hidden, as a string; and VOLUME@SNAPSHOT, where that was made for a clone, and there
	 * is none of it; once what else somebody was killed at has been ended. NULL where volumes are files.
	 */
	int (*list_hidden)(struct img_pool *p, json_t *names, struct qmp_error *err);
	/* These are called under the pool's lock. create NULL: volumes are files. */
	int (*create)(struct img_pool *p, const char *volume, uint64_t size, struct qmp_error *err);
	int (*remove)(struct img_pool *p, const char *volume, struct qmp_error *err);
	int (*resize)(struct img_pool *p, const char *volume, uint64_t size, struct qmp_error *err);
	/* Bytes that a guest sees; QMP_ERR_NOT_FOUND: it is not there. NULL: a volume is a node of this host, which says so itself. */
	int (*size)(struct img_pool *p, const char *volume, uint64_t *ret, struct qmp_error *err);
	/*
	 * A volume that has what another has now, and takes no room for it; written to by itself. NULL: it cannot. -EOPNOTSUPP: not of
	 * this volume.
	 */
	int (*clone)(struct img_pool *p, const char *volume, const char *to, struct qmp_error *err);
	/* What tells a volume from others that had its name, or will; stays where it is given another. RET is new. */
	int (*identify)(struct img_pool *p, const char *volume, char **ret, struct qmp_error *err);
	/* Gives a volume another name; at once. */
	int (*rename)(struct img_pool *p, const char *volume, const char *to, struct qmp_error *err);
	const struct img_pool_snapshots *snapshots; /* NULL: it has none, or volumes are files */
};

extern const struct img_pool_type img_pool_dir, img_pool_mount, img_pool_btrfs, img_pool_btrfs_subvolumes, img_pool_lvm, img_pool_lvm_thin, img_pool_zfs,
	img_pool_block, img_pool_rbd;

/* -ENOENT: there is no such pool. */
int img_pool_open(uv_loop_t *loop, const struct vm_dirs *dirs, const char *name, struct img_pool *ret, struct qmp_error *err);
void img_pool_close(struct img_pool *p);
#define _cleanup_pool_ __attribute__((cleanup(img_pool_close)))
/* Makes the pool of DEFINITION, which has not been checked yet. -EEXIST: there is one of that name; nothing was changed. */
int img_pool_define(uv_loop_t *loop, const struct vm_dirs *dirs, const json_t *definition, struct img_pool *ret,
		    struct qmp_error *err);
/* Forgets it; its volumes stay. */
int img_pool_undefine(const struct vm_dirs *dirs, const char *name, struct qmp_error *err);
int img_pool_refresh(struct img_pool *p, struct qmp_error *err);
/* Waits for whoever changes the pool. Ends with the fd, or its process. */
int img_pool_lock(const struct img_pool *p, int *ret_fd, struct qmp_error *err);
/*
 * The lock of whoever makes the volume NAME, for as long as that takes; by whatever pool it goes. -EBUSY: somebody does. Ends as
 * the other one.
 */
int img_pool_lock_making(const struct img_pool *p, const char *name, int *ret_fd, struct qmp_error *err);
/* Removes what killed makers have left, as far as that goes; the first error. Under the pool's lock. */
int img_pool_sweep(struct img_pool *p, struct qmp_error *err);
/* Sorted by name; new. */
int img_pool_volumes(struct img_pool *p, json_t **ret, struct qmp_error *err);
/*
 * {"name", "type", "description"?, "state": "ready" or "unavailable", "why"?, and, when it is ready: "capacity", "used",
 * "available", "volumes": how many, "allocation" and "promised": what they take and what guests were promised,
 * "overcommitted": whether there is less room than that, "committed-percent": promised by room, "notes": sentences, ...}. New; NULL: no
 * memory.
 */
json_t *img_pool_info(struct img_pool *p);

/* ---- For the types ---- */

/* Whether NAME is that of a volume that is being made. */
bool img_pool_is_hidden(const struct img_pool *p, const char *name);
/* NAME, as it is once the volume is made. */
const char *img_pool_final_name(const struct img_pool *p, const char *name);
/* Where VOLUME is; new; NULL: no memory, or there can be none. */
char *img_pool_path(const struct img_pool *p, const char *volume);
/* Runs a program of the pool's; OUTPUT (may be NULL) is new. ARGV ends with NULL. */
int img_pool_tool(struct img_pool *p, const char *doing, const char *package, const char *const *argv, char **ret_output,
		  struct qmp_error *err);
void img_pool_note(struct img_pool *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The file system at PATH: its room into INFO, with "filesystem", and what is to be said of its locks and its md array. */
int img_pool_measure_folder(struct img_pool *p, const char *path, json_t *info, struct qmp_error *err);
/* Each regular file in FOLDER but hidden ones. */
int img_pool_list_folder(struct img_pool *p, const char *folder, json_t *volumes, struct qmp_error *err);
/* Counts a snapshot of VOLUME, which is among VOLUMES, and what it takes. */
void img_pool_count_snapshot(json_t *volumes, const char *volume, int64_t allocation);
/* Appends the volume NAME, which is a file or device at PATH. -ENOENT: it is none. */
int img_pool_add_file(json_t *volumes, const char *name, const char *path);
