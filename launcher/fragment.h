/*
 * Fragments: the QEMU objects that one item of a spec is made of, in the order in which QEMU takes them.
 * The one place that knows what a disk or a NIC is in QEMU. Rendered cold by argv.h, live by plan.h. Pure.
 */
#pragma once

#include "proto/qmp.h"

/* What of the host and of the QEMU binary the rendering needs. Strings borrowed. */
struct vm_host {
	const char *accel;     /* "kvm" or "tcg": resolved, never "auto" */
	const char *cpu_model; /* resolved: "host", "host,-arch-capabilities", "max", "qemu64", ... */
	const char *machine;   /* resolved: "pc-q35-7.2" */
	bool vhost_net;        /* /dev/vhost-net can be opened */
	int qemu_major;        /* 7, 10, ...; 0: not known */
	bool sandbox;          /* QEMU has its seccomp filter: it ends at making a process */
	const json_t *pools;   /* definitions of those that the spec names (pool.h); NULL: their volumes stay words */
	const char *user;      /* whom QEMU runs as; NULL: as we do */
	bool (*ssh_runs)(const char *user); /* whether that one's ssh configuration runs programs (sshconf.h); NULL: it does not */
	/* The type of the file that PATH leads to from QEMU's DIRECTORY, of stat's S_IFMT; 0: not known. NULL: none is. */
	unsigned (*file_type)(int directory, const char *path);
	/* The FIFO that the image at PATH, a regular file, would have QEMU open; new; NULL: none. NULL: none is known. */
	char *(*fifo_behind)(int directory, const char *path);
	int directory;
	const json_t *firmware; /* resolved (firmware.h); NULL: QEMU's own, or the spec's path */
};

enum vm_object_kind { VM_OBJECT, VM_BLOCKDEV, VM_NETDEV, VM_DEVICE };

struct vm_object {
	enum vm_object_kind kind;
	json_t *args;          /* the QAPI object exactly as QMP takes it; its id is args.id / args["node-name"] */
	char *fd_name;         /* NULL, or the name of the fd that args.fd stands for ("net0-tap") */
	char *secret_file;     /* of a secret: the file that holds it (secret.h); QEMU reads args.file, an fd in memory */
	bool secret_is_line;
};

/* The id of the secret that VNC takes its password from. */
#define VM_VNC_SECRET "vnc-password"

struct vm_fragment {
	char *item;            /* "disks.vda", "nics.net0", "scsi", "rng", "balloon", "agent", "consoles.con0" */
	struct vm_object *objects;
	size_t n_objects;
};

void vm_fragment_deinit(struct vm_fragment *f);
/* Its id in QEMU; borrowed. */
const char *vm_object_id(const struct vm_object *o);

/* ITEM is an effective item (every default filled) of SPEC, an effective spec. */
int vm_fragment_disk(const json_t *spec, const json_t *item, const struct vm_host *host,
		     struct vm_fragment *ret, struct qmp_error *err);
int vm_fragment_nic(const json_t *spec, const json_t *item, const struct vm_host *host,
		    struct vm_fragment *ret, struct qmp_error *err);
/* The controller that disks on the scsi bus need (its port is SPEC["scsi-port"]). */
int vm_fragment_scsi(const json_t *spec, const struct vm_host *host, struct vm_fragment *ret, struct qmp_error *err);

/*
 * The secret ID: what FILE holds; LINE: a line's end at its end is not of it. -ENOMEM.
 */
int vm_fragment_add_secret(struct vm_fragment *f, const char *id, const char *file, bool line);
/*
 * What NODE, the protocol node of IMAGE (a disk, or an image that it is backed by), shows its server: credentials of TLS
 * "PREFIX-tls", a secret "PREFIX-password". They go to F, their names to NODE. -ENOMEM.
 */
int vm_fragment_add_access(struct vm_fragment *f, const json_t *image, const char *prefix, json_t *node);

struct vm_fragments {
	struct vm_fragment *list;
	size_t n;
};
void vm_fragments_deinit(struct vm_fragments *f);
/* All fragments of an effective spec, in the order of the command line (root ports first). */
int vm_fragments_all(const json_t *spec, const struct vm_host *host, struct vm_fragments *ret, struct qmp_error *err);

/* Where the PCI port PORT (1 ...) of SPEC's machine is: sets "bus" and "addr" (as it needs them) in DEVICE. */
int vm_pci_place(const json_t *spec, int64_t port, json_t *device, struct qmp_error *err);
/* On pc: the port that SLOT of bus 0 is; may be none of those that there are. */
int64_t vm_pci_port_of_slot(int64_t slot);
