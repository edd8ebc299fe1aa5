/*
 * qemu-img: one function an operation, which says what is to be done; then it runs beside everything else on a loop.
 *
 * An image that is read or changed is given as a spec's disk has it, {"path", "format", "backing"?} (img_chain_read):
 * no name is ever taken for an option, a protocol or a list of options, no format is guessed, and no file is opened
 * that is not named. One on a server, or that is encrypted, has beside its path what a disk has: "tls", "password-file",
 * "encryption"; what these files hold is handed over as memory. A new image is a draft until it is whole (draft.h). The arguments of the functions are copied.
 * Does not own: whether the image may be touched now (catalogue.h says who has it).
 */
#pragma once

#include "images/draft.h"

struct img_task;
struct vm_identity;

struct img_target {
	const char *path, *format; /* absolute */
	const char *const *options; /* KEY=VALUE, as qemu-img -o has them; ends with NULL; NULL: none */
	const json_t *backing; /* an image; NULL: none */
	bool replace;          /* one that is there */
	/*
	 * The volume that is to be PATH, or what is there on a server, stands there, is large enough, and is written as it is. NULL: a
	 * draft.
	 */
	const char *made_at;
	const json_t *access; /* an image with what it takes to reach and to open it there; NULL: nothing */
	bool zeroes; /* it reads as zeros so far */
};

/* Each: 0 and the task; or an error that says why it is refused. */
/* SIZE in bytes; 0 with a backing: its size. Gives {"path", "format"}. */
int img_create(const struct img_target *t, uint64_t size, struct img_task **ret, struct qmp_error *err);
/* SNAPSHOT: the internal one of IMAGE; NULL: its state now. COMPRESS and BITMAPS where the target's format can. */
int img_convert(const json_t *image, const char *snapshot, const struct img_target *t, bool compress, bool bitmaps,
		struct img_task **ret, struct qmp_error *err);
/*
 * Gives what "qemu-img info" says of the image itself. IN_USE, here and below: somebody writes it, and it may be read.
 */
int img_info(const json_t *image, bool in_use, struct img_task **ret, struct qmp_error *err);
/*
 * The first IMG_HEAD bytes of IMAGE, whatever its format says, for img_header_parse: gives them as a JSON string that need
 * be no text. Fails when a server has not answered in 30 s. IDENTITY (borrowed until it runs; NULL: nobody else): as whom.
 */
int img_read_head(const json_t *image, const struct vm_identity *identity, struct img_task **ret, struct qmp_error *err);
/* To SIZE bytes. SHRINK: it may lose what is behind that. */
int img_resize(const json_t *image, uint64_t size, bool shrink, struct img_task **ret, struct qmp_error *err);
/*
 * REPAIR: NULL, "leaks" or "all". Gives what "qemu-img check" says; also where it found errors ("corruptions", "leaks")
 * or could not check it ("check-errors").
 */
int img_check(const json_t *image, const char *repair, bool in_use, struct img_task **ret, struct qmp_error *err);
/* What IMAGE has, into what it is backed by; then it is empty. Gives {}. */
int img_commit(const json_t *image, struct img_task **ret, struct qmp_error *err);
/*
 * IMAGE is backed by BACKING (NULL: by nothing) from then on. Its contents stay: what they took from the old one, and
 * the new one has otherwise, is copied. UNSAFE: not copied, and the old one is not looked for. Gives {}.
 */
int img_rebase(const json_t *image, const json_t *backing, bool unsafe, struct img_task **ret, struct qmp_error *err);
/* The OPTIONS of its format are changed in place. What it is backed by is not looked for. Gives {}. */
int img_amend(const json_t *image, const char *const *options, struct img_task **ret, struct qmp_error *err);
/* What a guest would see in them. STRICT: also their sizes. Gives {"identical": bool, "why"?}. */
int img_compare(const json_t *a, const json_t *b, bool strict, bool in_use, struct img_task **ret,
		struct qmp_error *err);
/* Gives an array, as "qemu-img map" has it. */
int img_map(const json_t *image, bool in_use, struct img_task **ret, struct qmp_error *err);
/*
 * Of IMAGE, or (NULL) of one of SIZE bytes, as FORMAT with OPTIONS. Gives {"required", "fully-allocated", "bitmaps"?}.
 */
int img_measure(const json_t *image, uint64_t size, const char *format, const char *const *options, bool in_use,
		struct img_task **ret, struct qmp_error *err);
/* ACTION: add, remove, clear, enable, disable, or merge (of the bitmap FROM). GRANULARITY: 0, or bytes, of one that is
 * added. */
int img_bitmap(const json_t *image, const char *action, const char *name, const char *from, uint64_t granularity,
	       struct img_task **ret, struct qmp_error *err);
/* Internal snapshots. ACTION: create, apply or delete. ID: of apply; a name alone may be another one's id, which goes before it. */
int img_snapshot(const json_t *image, const char *action, const char *name, const char *id, struct img_task **ret,
		 struct qmp_error *err);

/* ---- Running it ---- */

/*
 * A key, which qemu-img reads as its object "secret" ID: from an open file (a copy of FD), never from its command line.
 * The image's node, or an option of the target, names it.
 */
int img_task_add_secret(struct img_task *t, const char *id, int fd, struct qmp_error *err);

/* A new image is whole, and has no name yet: an error, and it goes. May be called in another thread. */
typedef int (*img_whole_cb)(void *data, const struct img_draft *d, struct qmp_error *err);
void img_task_before_naming(struct img_task *t, img_whole_cb cb, void *data);

struct img_task_handlers {
	void (*progress)(void *data, double part); /* 0 to 1; may be NULL */
	void (*done)(void *data, json_t *result,
		     const struct qmp_error *why); /* RESULT borrowed; one of them is NULL */
	void *data;
};

/* T is ours from now on, also where this fails; until DONE was called it can be cancelled. */
int img_task_run(uv_loop_t *loop, struct img_task *t, const struct img_task_handlers *h, struct qmp_error *err);
/* It ends with QMP_ERR_CANCELLED, unless it was done already; of a new image nothing stays. */
void img_task_cancel(struct img_task *t);
/* For verbs: to its end, taken back by SIGINT, SIGTERM and SIGHUP. T goes. RET (may be NULL) is new. */
int img_task_call(uv_loop_t *loop, struct img_task *t, void (*progress)(void *data, double part), void *data,
		  json_t **ret, struct qmp_error *err);
/* Of one that was not run; NULL is fine. */
void img_task_free(struct img_task *t);
/* The program's words, ending with NULL, to be looked at; DRAFT stands where the new image's path will. Borrowed. */
const char *const *img_task_argv(const struct img_task *t);
