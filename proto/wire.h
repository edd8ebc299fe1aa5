/*
 * What goes out on a non-blocking stream socket: a queue of messages, each with the fds that go with its
 * first byte. Used by both ends of a connection. Internal.
 */
#pragma once

#include <stddef.h>

struct qmp_wire_chunk;

struct qmp_wire {
	struct qmp_wire_chunk *head, **tail;
	size_t bytes; /* that wait */
};

void qmp_wire_init(struct qmp_wire *w);
void qmp_wire_deinit(struct qmp_wire *w);
/* Takes over TEXT (malloc'ed). FDS are duplicated. 0 or negative errno (TEXT is freed then, too). */
int qmp_wire_add_consume(struct qmp_wire *w, char *text, size_t len, const int *fds, size_t n_fds);
/* Sends what FD takes now. 1: everything is out; 0: the socket is full; negative errno. */
int qmp_wire_flush(struct qmp_wire *w, int fd);
