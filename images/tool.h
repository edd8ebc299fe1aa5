/*
 * A program of the field (qemu-img, xorriso, lvcreate, rbd, ...) run to its end, beside everything else on the loop.
 *
 * Its words are read as C's locale has them, its standard input is empty or what the caller gives (secrets: from memory,
 * never argv), and it dies with us. It is ended by its own pidfd, when its time is up or the caller takes it back.
 * Does not own: what the arguments mean.
 */
#pragma once

#include "proto/qmp.h"

struct img_tool;
struct vm_identity;

struct img_tool_result {
	int status;            /* exit status; -1: it has not ended by itself */
	const char *output;    /* standard output, at most IMG_TOOL_OUTPUT_MAX bytes, ends with NUL; lent */
	size_t output_len;
	const char *errors;    /* standard error, its first 64 KiB, ends with NUL; lent */
	struct qmp_error error; /* kind QMP_ERR_NONE: it ended with a status that the caller takes as good */
};

#define IMG_TOOL_OUTPUT_MAX ((size_t)64 << 20)

struct img_tool_options {
	const char *doing;    /* for messages: "making the image /x/a.qcow2" */
	const char *const *argv;
	const char *package;  /* the Debian package that has it, for the message when it is missing */
	const char *input;    /* its standard input, INPUT_LEN bytes; NULL: empty */
	size_t input_len;
	const int *fds;       /* become 3, 4, ...; borrowed */
	size_t n_fds;
	const struct vm_identity *identity; /* whom it runs as; NULL: as we do; borrowed */
	unsigned good;        /* bit N: exit status N (< 32) is no error. 0: status 0 alone */
	int64_t timeout_ms;   /* 0: as long as it takes */
	/* Each piece of its standard output as it comes, without the \n or \r at its end. Nothing is kept then. May be NULL. */
	void (*piece)(void *data, const char *text);
	/* Once, from the loop; R is valid meanwhile, and the tool is freed after it. */
	void (*done)(void *data, const struct img_tool_result *r);
	void *data;
};

/* All that is in O is copied, but DATA. RET is valid until done was called. */
int img_tool_run(uv_loop_t *loop, const struct img_tool_options *o, struct img_tool **ret, struct qmp_error *err);
/* SIGTERM, and SIGKILL 5 s later. Done is called when it has ended, with QMP_ERR_CANCELLED unless it ended well. */
void img_tool_cancel(struct img_tool *t);
/*
 * For verbs, never in a keeper: from begin to end, SIGINT, SIGTERM and SIGHUP call CANCEL (in LOOP) in place of ending the
 * program; not one that is ignored, as nohup and a shell's background have it. The end runs LOOP until *DONE.
 */
struct img_wait {
	uv_loop_t *loop;
	void (*cancel)(void *data);
	void *data;
	uv_signal_t signals[3];
	int signum; /* the last one that came; 0: none */
	int open;
};
void img_wait_begin(struct img_wait *w, uv_loop_t *loop, void (*cancel)(void *data), void *data);
void img_wait_end(struct img_wait *w, const bool *done);
/*
 * Runs LOOP until it has ended: for verbs, never in a keeper. SIGINT, SIGTERM and SIGHUP take it back. RET_OUTPUT (may be
 * NULL) is new; RET_STATUS may be NULL. DONE of O is not used.
 */
int img_tool_call(uv_loop_t *loop, const struct img_tool_options *o, char **ret_output, int *ret_status,
		  struct qmp_error *err);
