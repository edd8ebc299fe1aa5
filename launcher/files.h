/*
 * Where things live, and how they are written: directories, durable files, locks, sockets.
 *
 * Everything below a VM's run directory is reached through a directory fd, so that no path is too long for
 * a UNIX socket. Directories are 0700 and must be ours; files are replaced as a whole or not at all.
 */
#pragma once

#include "proto/qmp.h"

struct vm_dirs {
	char *conf, *state, *run;
};

/* ROOT: all three below it; NULL: $QMPCTL_ROOT, else the system's (root) or the user's own. */
int vm_dirs_init(const char *root, struct vm_dirs *ret, struct qmp_error *err);
void vm_dirs_deinit(struct vm_dirs *d);

/* The names of CONF/FOLDER/NAME.json, sorted; a new array, empty where there is no such folder. */
int vm_conf_names(const char *conf, const char *folder, json_t **ret, struct qmp_error *err);
/* The entry of the array NAMES that NAME may have been meant to be; borrowed; NULL: none is near. */
const char *vm_nearest_of(const json_t *names, const char *name);

/* Syncs the directory that PATH is in, so that its name, or that it has gone, outlasts a power cut. A negative errno. */
int vm_folder_sync_of(const char *path);
/* The directory itself, 0700; over a power cut, too. One that is there is as good. A negative errno. */
int vm_folder_make(const char *path);
/* An fd of the directory PATH[/NAME]; with CREATE it and its parents are made. -ENOENT without. */
int vm_dir_open(const char *path, const char *name, bool create, struct qmp_error *err);
/* The whole file; malloc'ed, ends with NUL. At most 16 MiB. */
int vm_file_read(int dir, const char *name, char **ret, size_t *ret_len, struct qmp_error *err);
/* Temporary, fsync, rename, fsync of the directory: old or new after a power cut. Mode 0600. */
int vm_file_write(int dir, const char *name, const char *data, size_t len, struct qmp_error *err);
int vm_file_write_json(int dir, const char *name, const json_t *value, struct qmp_error *err);
/* The same for one that is not there yet, and will not be where this fails: also when only its folder could not be synced. */
int vm_file_make_json(int dir, const char *name, const json_t *value, struct qmp_error *err);
/*
 * vm_file_write_json in two halves: the draft is on disk, but has no name yet (where the file system can: else .NAME.tmp);
 * publishing gives it the file's, durably. Either ends the draft, also when it fails. FD -1: there is none.
 */
struct vm_draft {
	int fd;
	bool nameless;
};
int vm_draft_json(int dir, const char *name, const json_t *value, struct vm_draft *ret, struct qmp_error *err);
int vm_draft_publish(int dir, const char *name, struct vm_draft *d, struct qmp_error *err);
void vm_draft_discard(int dir, const char *name, struct vm_draft *d);
/*
 * A log that others append to (O_APPEND) and that has grown beyond MAX bytes starts anew; its last part is kept as
 * NAME.1, of at most VM_FILE_TRIM_KEEPS. Words that are written in that very moment may be lost.
 */
#define VM_FILE_TRIM_KEEPS ((size_t)64 << 10)
void vm_file_trim(int dir, const char *name, off_t max);
/* Removes what a write of NAME that was cut short has left; only for who alone may write it. */
void vm_file_remove_unfinished(int dir, const char *name);
/*
 * The JSON object in the file; new. -ENOENT: there is none. -EBADMSG: it is damaged, and has been renamed to NAME.damaged,
 * which ERR says.
 */
int vm_file_take_json(int dir, const char *name, json_t **ret, struct qmp_error *err);
/*
 * Temporary and rename alone: old or new whoever is killed, but not after a power cut. For what is beside a QEMU in RUNDIR,
 * which no host's end survives.
 */
int vm_file_replace_json(int dir, const char *name, const json_t *value, struct qmp_error *err);
/* NULL where it does not exist or does not hold a JSON object. New. */
json_t *vm_file_read_json(int dir, const char *name);

/*
 * Takes the lock of that name: the fd holds it until every process that has it is gone. -EBUSY: held by
 * somebody else. The lock survives exec when its fd does.
 */
int vm_lock(int dir, const char *name, int *ret_fd, struct qmp_error *err);
/* Whether somebody holds it. */
bool vm_is_locked(int dir, const char *name);

/* A listening UNIX socket of mode 0600; an old file of that name is replaced. Non-blocking, close-on-exec. */
int vm_socket_listen(int dir, const char *name, int *ret_fd, struct qmp_error *err);
int vm_socket_connect(int dir, const char *name, int *ret_fd, struct qmp_error *err);
