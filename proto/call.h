/*
 * A command on its way: its line, its fds, and the one who waits for the reply.
 *
 * Owns: what one call needs from execute() to its callback, which fires exactly once; lists of calls.
 * Does not own: the connection, ids. Internal.
 */
#pragma once

#include "proto/qmp.h"
#include "proto/scan.h"

struct qmp_call {
	struct qmp_call *next;
	uint64_t serial;
	uint64_t deadline; /* ms of qmp_now_ms; UINT64_MAX: none */
	char *name;
	char *text; /* NULL once it is written */
	size_t len;
	int *fds; /* duplicates; NULL once they are written */
	size_t n_fds;
	qmp_reply_cb cb;
	void *data;
	bool oob, raw;
	bool no_reply; /* silence means success (the agent's guest-shutdown) */
	/* How it ended without a reply, while the callback waits to be fired from the loop. */
	int status;
	enum qmp_error_kind kind;
	const char *why;
};

/* A queue; a call is on one at a time. */
struct qmp_calls {
	struct qmp_call *head, **tail;
	size_t n;
};

/* NULL: no memory, or an fd could not be duplicated; errno says. The line is set apart (encode). */
struct qmp_call *qmp_call_new(const struct qmp_command *command, qmp_reply_cb cb, void *data);
/* Without firing the callback: for a call that was never accepted. */
void qmp_call_free(struct qmp_call *c);
/* {"execute":NAME,"arguments":…,"id":"ID"}\n. ID may be NULL; empty arguments are left out. malloc'ed; NULL: no memory. */
char *qmp_call_encode(const struct qmp_command *command, const char *id, size_t *ret_len);
/* Fires the callback with RETURN or ERROR of a reply (text NULL: absent), frees. Negative: it could not be decoded. */
int qmp_call_answer_consume(struct qmp_call *c, const struct qmp_span *value, const struct qmp_span *error);
/* Fires the callback with an error, or without a value for status 0; frees. */
void qmp_call_end_consume(struct qmp_call *c, int status, enum qmp_error_kind kind, const char *why);

void qmp_calls_init(struct qmp_calls *l);
void qmp_calls_append(struct qmp_calls *l, struct qmp_call *c);
struct qmp_call *qmp_calls_pop(struct qmp_calls *l);
/* NULL: not on this list. */
struct qmp_call *qmp_calls_take(struct qmp_calls *l, uint64_t serial);
/* Appends C, with how it ended, for qmp_calls_fire. */
void qmp_calls_append_ended(struct qmp_calls *l, struct qmp_call *c, int status, enum qmp_error_kind kind,
			    const char *why);
/* Moves all of L to ENDED. */
void qmp_calls_end_all(struct qmp_calls *l, struct qmp_calls *ended, int status, enum qmp_error_kind kind,
		       const char *why);
/* Fires the callbacks of the ended. One that comes back to here, through freeing the connection, fires the rest. */
void qmp_calls_fire(struct qmp_calls *ended);
/* Moves what is due at NOW to ENDED, as timed out with WHY. Returns the next deadline. */
uint64_t qmp_calls_expire(struct qmp_calls *l, uint64_t now, struct qmp_calls *ended, const char *why);
