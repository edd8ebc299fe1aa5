/*
 * The seed of a VM: what cloud-init reads at the first boot (NoCloud: an ISO 9660 image with the volume id "cidata" that holds
 * user-data, meta-data and, where given, vendor-data and network-config), made from the section "seed" of its spec.
 *
 * STATEDIR/seeds/NAME.iso, mode 0600, of the user that QEMU runs as; a CD-ROM drive with the id "seed" has it in. What it
 * was made from is told by a mark in it, so it is made anew where that has changed, and only there. The section's other ways
 * (a URL, Ignition) need no image: launcher/argv.h has them.
 * Source: cloud-init's documentation, "NoCloud". Does not own: when a VM starts.
 */
#pragma once

#include "launcher/files.h"

#define IMG_SEED_DISK "seed"

/* Whether the section of SPEC makes an image. */
bool img_seed_has_image(const json_t *spec);
/* STATEDIR/seeds/NAME.iso; new. */
char *img_seed_path(const struct vm_dirs *dirs, const char *name);
/*
 * Puts the drive "seed" into SPEC's disks where its section makes an image, with the path that its name asks for; takes out
 * one that has such an image where it makes none. BUS: of a new drive; NULL: scsi. 1: SPEC has changed; 0; -ENOMEM.
 */
int img_seed_attach(const struct vm_dirs *dirs, const char *bus, json_t *spec);
/* What goes into the image: {"user-data": TEXT, "meta-data": TEXT, ...}; reads the files that the section names. New. */
json_t *img_seed_files(const json_t *spec, struct qmp_error *err);
/* Whether what the section names can be had, and is what it should be; a configuration of Ignition as well. */
int img_seed_check(const json_t *spec, struct qmp_error *err);

struct img_seed;
/*
 * Makes the image where it is missing or was made from something else, FORCE: in any case. Where a file that it is made from
 * cannot be read any more, one that is there stays as it is. A section without an image is checked. SPEC is complete
 * (vm_spec_complete). 1: nothing is to be done; 0: DONE is called once, from the loop, WHY NULL when it is made. RET is valid
 * until then.
 */
int img_seed_make(uv_loop_t *loop, const struct vm_dirs *dirs, const json_t *spec, bool force,
		  void (*done)(void *data, const struct qmp_error *why), void *data, struct img_seed **ret,
		  struct qmp_error *err);
/* What was begun is taken back, unless it was done already; then DONE is called. NULL is fine. */
void img_seed_cancel(struct img_seed *s);
/* The same, and DONE is not called any more. */
void img_seed_abandon(struct img_seed *s);
/* The same for a verb: runs LOOP until it is done. 1: nothing was to be done. */
int img_seed_make_now(uv_loop_t *loop, const struct vm_dirs *dirs, const json_t *spec, bool force, struct qmp_error *err);
/* What the VM NAME has of it is TO's now. Where that fails, TO's is made at its start. */
void img_seed_rename(const struct vm_dirs *dirs, const char *name, const char *to);
/* Removes what NAME has of it. */
void img_seed_remove(const struct vm_dirs *dirs, const char *name);
