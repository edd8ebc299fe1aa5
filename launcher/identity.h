/*
 * Another user whom QEMU runs as, and what that user may open. Only root can make QEMU somebody else's.
 */
#pragma once

#include "launcher/files.h"
#include "launcher/fragment.h"

#include <sys/types.h>

struct vm_identity {
	char *user;
	uid_t uid;
	gid_t gid;
	gid_t *groups;
	int n_groups;
};

/*
 * What "user" and "group" of SPEC name: the user's groups, and as the main one GROUP where it is given, else the user's
 * own. NULL, and no error, where there is no "user". -EPERM: we are not root; -ENOENT: no such user or group; -EINVAL: it
 * is root.
 */
int vm_identity_of(const json_t *spec, struct vm_identity **ret, struct qmp_error *err);
void vm_identity_free(struct vm_identity *id);
static inline void vm_identity_cleanup(struct vm_identity **id)
{
	vm_identity_free(*id);
}
#define _cleanup_identity_ __attribute__((cleanup(vm_identity_cleanup)))
/* In a forked child: becomes it, for good, with no capability left. Async-signal-safe. -1 with errno. */
int vm_identity_take(const struct vm_identity *id);

/* What is to be opened, and for whom. */
struct vm_need {
	char *path, *item; /* "disks.vda" */
	int mode;          /* of access(): R_OK, W_OK, X_OK */
};
struct vm_needs {
	struct vm_need *list;
	size_t n;
};
void vm_needs_deinit(struct vm_needs *needs);
int vm_needs_add(struct vm_needs *needs, const char *item, const char *path, int mode);
/* What QEMU opens by itself for an object, images apart (vm_identity_open): COMMAND is blockdev-add or netdev_add, others need nothing. */
int vm_needs_add_object(struct vm_needs *needs, const char *item, const char *command, const json_t *args);
/*
 * Has a child that is ID try all of them. -EACCES: the first that it may not, with what stands in the way and what to do.
 * What is not there at all is for QEMU to say.
 */
int vm_identity_check(const struct vm_identity *id, const struct vm_needs *needs, struct qmp_error *err);
/*
 * Lets another user than us pass STATEDIR and FOLDER in it, to what is given to that user there. Nobody can look around in
 * them by that.
 */
int vm_identity_let_in(const struct vm_dirs *dirs, const char *folder, struct qmp_error *err);
/*
 * The file or block device PATH, to be opened with FLAGS of open(), for ITEM ("disks.vda"). 0: ID opens it itself. 1: it may not,
 * and RET_FD is the file, opened by us in its place. -EACCES: likewise, but it could put another file in that place, and so have
 * us open what it should not have; -ELOOP: a symlink leads there. Others: it cannot be opened by us either.
 */
int vm_identity_open(const struct vm_identity *id, const char *item, const char *path, int flags, int *ret_fd,
		     struct qmp_error *err);
/* Whether ID (NULL: ourselves) may read and write PATH. */
bool vm_identity_opens(const struct vm_identity *id, const char *path);
