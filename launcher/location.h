/*
 * A location: what stands wherever an image's path goes.
 *
 *   /PATH                                                   a file, or a block device
 *   POOL:VOLUME                                             a volume of a pool (pools turn it into one of the others)
 *   nbd://HOST[:PORT]/EXPORT[?reconnect-delay=SECONDS]      port 10809; EXPORT may be empty
 *   nbd+unix:///EXPORT?socket=PATH[&reconnect-delay=...]
 *   iscsi://[USER@]HOST[:PORT]/TARGET/LUN[?initiator=NAME]  port 3260
 *   ssh://[USER@]HOST[:PORT]/PATH[?host-key=SHA256:...]     port 22; the key as ssh-keygen -l has it, else known_hosts
 *   http://HOST[:PORT]/PATH, https://...                    read-only; the query is the server's
 *   rbd://POOL[/NAMESPACE]/IMAGE[@SNAPSHOT][?conf=PATH&user=NAME]
 *
 * A host is a name, an IPv4 address, or an IPv6 address in brackets. "%XX" stands for a byte in all but the host;
 * control characters are refused, however they are written. No location holds a password. Pure: no I/O.
 */
#pragma once

#include "proto/qmp.h"

#define VM_LOCATION_MAX        4096 /* bytes of a location's text */
#define VM_RECONNECT_DELAY     60   /* seconds for which requests wait for an NBD server that went away */
#define VM_RECONNECT_DELAY_MAX 86400

enum vm_location_kind { VM_FILE, VM_VOLUME, VM_NBD, VM_NBD_UNIX, VM_ISCSI, VM_SSH, VM_HTTP, VM_HTTPS, VM_RBD };

/* What a kind does not have is NULL or 0. */
struct vm_location {
	enum vm_location_kind kind;
	char *host;      /* an IPv6 address without its brackets */
	int port;
	char *user;      /* iscsi (CHAP), ssh, rbd */
	char *pool;      /* POOL:VOLUME, rbd */
	char *space;     /* rbd: the namespace */
	char *name;      /* the path, volume, export, target or image; http and https: the URL as it is */
	char *snapshot;  /* rbd */
	int lun;         /* iscsi */
	char *socket;    /* nbd+unix */
	char *conf;      /* rbd: the cluster's configuration; NULL: librados' own, /etc/ceph/ceph.conf */
	char *initiator; /* iscsi; NULL: QEMU makes one of the VM's uuid */
	char *host_key;  /* ssh: sha256 in hexadecimal digits */
	int reconnect_delay; /* nbd */
};

/* -EINVAL (usage): it is none. A relative path is one; whether it may be is the caller's to say. */
int vm_location_parse(const char *text, struct vm_location *ret, struct qmp_error *err);
void vm_location_deinit(struct vm_location *l);
/* Told from its beginning alone: whether TEXT is a file, a volume, or a URL (VM_NBD then, whatever its scheme). */
enum vm_location_kind vm_location_looks(const char *text);
static inline bool vm_location_is_file(const char *text)
{
	return vm_location_looks(text) == VM_FILE;
}
/* TEXT as a part of a URL: each byte but letters, digits and - . _ ~ / as "%XX". New; NULL: no memory. */
char *vm_location_escape(const char *text);
/* TEXT for a message: without a web address's query, which may be a key, or a password. New; NULL: no memory. */
char *vm_location_shown(const char *text);
bool vm_location_read_only(const struct vm_location *l);
/*
 * QEMU's protocol node: BlockdevOptions of QAPI without node-name and what is common to all (cache, read-only, ...). TYPE: of
 * a file, what it is, of stat's S_IFMT; 0: not known, and what is below /dev is taken for a device. New; NULL: no memory, or a
 * volume.
 */
json_t *vm_location_node(const struct vm_location *l, unsigned type);
/*
 * A text that two locations have in common only where they are the same storage, and (RET_ANCHOR; borrowed, may be
 * NULL) the file of this host on whose identity that depends, too. Two names of one host are two hosts to it. New; NULL:
 * no memory, or a file or volume, which have none.
 */
char *vm_location_identity(const struct vm_location *l, const char **ret_anchor);
