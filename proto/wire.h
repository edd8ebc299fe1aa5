/*
 * What goes out on a non-blocking stream socket: a queue of messages, each with the fds that go with its
 * first byte.
 *
 * Owns: the messages and fds that wait. Does not own: the socket, nor when it can be written to (link.h). Internal.
 */
#pragma once

#include <stddef.h>

struct qmp_wire_chunk;

struct qmp_wire {
	struct qmp_wire_chunk *head, **tail;
	size_t bytes; /* that wait */
};

void qmp_wire_init(struct qmp_wire *w);
/* Drops what waits; W is empty then, as after init. */
void qmp_wire_deinit(struct qmp_wire *w);
/* Takes over TEXT and FDS (malloc'ed, the fds open), also when it fails: 0 or -ENOMEM. */
int qmp_wire_add_consume(struct qmp_wire *w, char *text, size_t len, int *fds, size_t n_fds);
/* Queues a copy of TEXT: 0 or -ENOMEM. */
int qmp_wire_append(struct qmp_wire *w, const char *text, size_t len);
/* Sends what FD takes now. 1: everything is out; 0: the socket is full; negative errno. */
int qmp_wire_flush(struct qmp_wire *w, int fd);

/* Closes FDS and frees the array. */
void qmp_fds_free(int *fds, size_t n_fds);
