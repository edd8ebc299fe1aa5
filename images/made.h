/*
 * Images that are made for a VM whose spec does not name them yet, or that are to go with a spec that names them. Whoever
 * does it notes each: a new one before it has its name, one that is to go before the spec goes. Once that is done, or undone,
 * the note goes. Who is killed leaves the note, and the next verb that makes or removes something settles it: what a VM has
 * stays, what nobody has is removed. So the spec alone decides, in one step.
 *
 * What a VM has by its name alone (firmware.h, seed.h) is known by that.
 *
 * The notes stand below STATEDIR/made, a file each maker, which it holds locked.
 */
#pragma once

#include "images/draft.h"
#include "images/volume.h"
#include "launcher/files.h"

struct img_made_image;

struct img_made {
	int dir, fd;  /* of STATEDIR/made and the note; -1: nothing was begun */
	char name[32]; /* of the note */
	uv_loop_t *loop;
	const struct vm_dirs *dirs;
	struct img_made_image *images;
	size_t n;
	json_t *gone; /* paths that are to have gone before the note does */
};

/* LOOP and DIRS stay the caller's until it has ended. VM: NULL where it is for none, as a volume's way back to a snapshot. */
int img_made_begin(uv_loop_t *loop, const struct vm_dirs *dirs, const char *vm, struct img_made *ret, struct qmp_error *err);
/* A struct img_volume's note, with the struct img_made: notes the volume, durably. */
int img_made_note_volume(void *made, const char *location, const char *id, struct qmp_error *err);
/* An img_whole_cb, with the struct img_made: notes the image, durably. */
int img_made_note(void *made, const struct img_draft *d, struct qmp_error *err);
/* Also PATH, which is there and is to go, where it is a file; nothing here removes it but settling. */
int img_made_condemn(struct img_made *m, const char *path, struct qmp_error *err);
/* ERR is wanted. */
int img_made_condemn_volume(struct img_made *m, struct img_volume *v, struct qmp_error *err);
/* Each ends it; of one that was not begun: nothing. The images are their VM's, and what is to go has gone. */
void img_made_keep(struct img_made *m);
/* They are removed. */
void img_made_undo(struct img_made *m);
/* It is not known whose they are: left to be settled. */
void img_made_leave(struct img_made *m);
/* The path, or POOL:VOLUME, of the I-th; NULL: there are no more. */
const char *img_made_path(const struct img_made *m, size_t i);

/*
 * Settles what makers that are gone have left. QUIET says whether nothing is under way for a VM that might give it an
 * image yet; else that one's are left for another time.
 */
void img_made_settle(uv_loop_t *loop, const struct vm_dirs *dirs, bool (*quiet)(void *data, const char *vm),
		     void *data);
