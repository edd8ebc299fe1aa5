/*
 * An image and those that it is backed by, as a spec's disk names them, held against what their headers name: QEMU is to
 * open what the spec says and nothing else.
 */
#pragma once

#include "launcher/fragment.h"

#define IMG_CHAIN_MAX 200 /* images on one another: a longer chain goes round in a circle */
#define IMG_SIZE_MAX ((uint64_t)1 << 50) /* a virtual size beyond it is a damaged or a hostile header */

/*
 * DISK: an item of a spec ({"path", "format", "backing"?}), its locations looked up (pool.h). Images of the format raw are not
 * looked into; of those on a server, what HEADS has (head.h; NULL: nothing). -EINVAL (usage): a header names a backing file where DISK has none, or a data file or an extent; or has an
 * absurd size; or it and DISK differ on whether it is encrypted. Those of vm_secret_check, of its key.
 * Others: it cannot be read.
 */
int img_chain_check(const json_t *disk, const json_t *heads, struct qmp_error *err);
/*
 * The same of each of SPEC's disks; those that stand in HAVE (may be NULL) just the same are left out. MISSING_OK: what
 * cannot be read now, or was not fetched, is left to be checked at the start.
 */
int img_chains_check(const json_t *spec, const json_t *have, const json_t *heads, bool missing_ok, struct qmp_error *err);
struct img_chain_options {
	uv_loop_t *loop;    /* on which images on servers are asked for their headers; NULL: they are not, and it fails */
	const char *format; /* of the image itself; NULL: what its header looks like */
	bool alone;         /* what it is backed by is not looked for */
	/*
	 * Gives IMAGE ({"path"}), DEPTH images below the top, what it takes to reach and to open it: "tls", "password-file",
	 * "encryption" (which goes again where it is not encrypted). NULL: nothing.
	 */
	int (*access)(void *data, json_t *image, int depth, struct qmp_error *err);
	void *data;
};

/*
 * The image PATH (absolute, or a URL) and what its header and theirs name, as a disk has it: {"path", "format", "backing"?, and
 * what ACCESS gave}. New. Fails where one of them cannot be read, names what is not opened (img_backing_location: -ENOTSUP), or
 * would be refused by img_chain_check, for more than that they are encrypted. A raw one on a server is not asked for anything.
 */
int img_chain_read(const char *path, const struct img_chain_options *o, json_t **ret, struct qmp_error *err);
/*
 * Where NAME, as the header of the image at LOCATION has it, is: new. An image in a file may name files and what is on servers;
 * one on a server only what is on the same server. NULL: it is none of these, or no memory.
 */
char *img_backing_location(const char *location, const char *name);
/*
 * The FIFO that QEMU would open with the image PATH, as its header and those that it names say: new. NULL: none, or that cannot be
 * told.
 */
char *img_chain_fifo(const char *path);
/* The same without what it is backed by. */
char *img_data_fifo(const char *path);
/*
 * The image, at any location but a volume, as QEMU's JSON for a block node with its chain; nothing else is looked for. What
 * it takes to reach and to open them ("tls", "password-file", "encryption") goes to NEEDS as objects, whose ids begin with its item;
 * NULL: none of it is wanted. "key-secret", beside a path: the id of a secret that opens it (img_task_add_secret). New; NULL: no memory.
 */
json_t *img_node(const json_t *image, struct vm_fragment *needs);
