/*
 * The words of the command line that describe a disk or a NIC: "PATH,format=qcow2,cache=none", "size=10G",
 * "nbd://host/export,format=raw", "user,forward=2222:22", or the JSON object itself, as it stands in the spec. Between
 * words stands a comma; a comma of a word's own is written twice.
 */
#pragma once

#include "images/volume.h"
#include "qmpctl/cli.h"

/*
 * The item; new. NULL: cli->error says why. An image that "size=" asks for is made, in STATEDIR/images where no path is
 * given.
 */
json_t *parse_disk_words(struct cli *cli, const char *name, const char *text);
/* "DIR[,type=psk][,username=NAME][,hostname=NAME]": a disk's "tls". */
json_t *parse_tls_words(struct cli *cli, const char *text);
json_t *parse_nic_words(struct cli *cli, const char *text);
/* "10G" as bytes, not 0; WHAT stands before it in the message. */
int parse_size(struct cli *cli, const char *what, const char *text, uint64_t *ret);
/*
 * An empty image for VM, never over something that is there. KEY_FILE: encrypted with what that file holds; NULL: not.
 */
int image_create(struct cli *cli, const char *vm, const char *path, const char *format, uint64_t size, const char *key_file);
/* cli->made is begun, for images of VM (NULL: of none) that are made otherwise, or that are to go. */
int images_begin(struct cli *cli, const char *vm);
/* What is made by way of V is noted when that is begun. */
void images_note_volume(struct cli *cli, struct img_volume *v);
/* What makers and removers that are gone have left: before each verb whose entry says so. */
void images_settle(struct cli *cli);
/* An img_whole_cb of what is made when that is begun: it is noted, and has the owner of OF, as far as we may give it. */
struct image_like {
	struct cli *cli;
	const char *of;
};
int image_whole_like(void *like, const struct img_draft *d, struct qmp_error *err);
/*
 * What the firmware keeps, boot entries and keys, of VM for TO, which there is not yet, so that what there may be of it is
 * nobody's. cli->made is begun.
 */
int image_copy_variables(struct cli *cli, const char *vm, const char *to);
/*
 * The first of VM-1, VM-2, ... that is free in POOL (NULL: as a path in STATEDIR/images), with the extension FORMAT where it is a
 * file. MAKE makes it: the volume V, or (V NULL) a file at PATH; -EEXIST or -EBUSY: that name is taken. RET is
 * the location; new.
 */
typedef int (*image_make_cb)(void *data, struct img_volume *v, const char *path);
int images_place(struct cli *cli, const char *vm, const char *pool, const char *format, image_make_cb make, void *data, char **ret);
/*
 * An image for VM, in POOL (NULL: as a path in STATEDIR/images), that begins as BASE is. As a file it is an overlay on it or, of
 * a format that is for exchange, a copy; as a volume a clone of the pool's own, else a copy. SIZE: its own, 0: the same. The disk;
 * new. NULL: cli->error.
 */
struct found;
json_t *image_disk_from(struct cli *cli, const char *vm, const char *pool, struct found *base, uint64_t size);
/* What these have made is the VM's; or is not wanted, and goes. One of them at the end of a verb that makes images. */
void images_keep(struct cli *cli);
void images_undo(struct cli *cli);
/* PATH from the root on; new. NULL, with the error in CLI, where that cannot be found out. */
char *path_absolute(struct cli *cli, const char *path);
/* The same of a location (launcher/location.h): what is no path stays as it is, once it is known to be right. */
char *location_absolute(struct cli *cli, const char *text);
