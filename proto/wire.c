#include "proto/wire.h"
#include "proto/base.h"
#include "proto/qmp.h"

#include <sys/socket.h>

#define WIRE_BATCH 16
/* Short messages share the place of one chunk. */
#define WIRE_CHUNK 4096

struct qmp_wire_chunk {
	struct qmp_wire_chunk *next;
	char *text;
	size_t len, sent, size;
	int *fds; /* NULL once they are sent */
	size_t n_fds;
};

/* The ancillary data of one sendmsg, aligned as the kernel wants it. */
union control {
	char space[CMSG_SPACE(sizeof(int) * QMP_COMMAND_FDS)];
	struct cmsghdr align;
};

void qmp_fds_free(int *fds, size_t n_fds)
{
	for (size_t i = 0; i < n_fds; i++)
		(void)close(fds[i]);
	free(fds);
}

void qmp_wire_init(struct qmp_wire *w)
{
	w->head = NULL;
	w->tail = &w->head;
	w->bytes = 0;
}

static void drop_fds(struct qmp_wire_chunk *c)
{
	qmp_fds_free(take_ptr(c->fds), c->n_fds);
	c->n_fds = 0;
}

static void pop(struct qmp_wire *w)
{
	struct qmp_wire_chunk *c = w->head;

	w->head = c->next;
	if (!w->head)
		w->tail = &w->head;
	drop_fds(c);
	free(c->text);
	free(c);
}

void qmp_wire_deinit(struct qmp_wire *w)
{
	while (w->head)
		pop(w);
	w->bytes = 0;
}

int qmp_wire_add_consume(struct qmp_wire *w, char *text, size_t len, int *fds, size_t n_fds)
{
	struct qmp_wire_chunk *c = malloc(sizeof *c);

	if (!c) {
		free(text);
		qmp_fds_free(fds, n_fds);
		return -ENOMEM;
	}
	*c = (struct qmp_wire_chunk){.text = text, .len = len, .size = len, .fds = fds, .n_fds = n_fds};
	*w->tail = c;
	w->tail = &c->next;
	w->bytes += len;
	return 0;
}

static int add_room(struct qmp_wire *w, size_t size)
{
	char *text = malloc(size);
	int r = text ? qmp_wire_add_consume(w, text, 0, NULL, 0) : -ENOMEM;

	if (r == 0)
		container_of(w->tail, struct qmp_wire_chunk, next)->size = size;
	return r;
}

int qmp_wire_append(struct qmp_wire *w, const char *text, size_t len)
{
	struct qmp_wire_chunk *last = w->head ? container_of(w->tail, struct qmp_wire_chunk, next) : NULL;

	if (!last || last->size - last->len < len) {
		int r = add_room(w, len > WIRE_CHUNK ? len : WIRE_CHUNK);
		if (r < 0)
			return r;
		last = container_of(w->tail, struct qmp_wire_chunk, next);
	}
	memcpy(last->text + last->len, text, len);
	last->len += len;
	w->bytes += len;
	return 0;
}

/* Fills IOV with chunks that may go out in one call: only the first may bring fds. */
static size_t gather(const struct qmp_wire *w, struct iovec *iov)
{
	size_t n = 0;

	for (struct qmp_wire_chunk *c = w->head; c && n < WIRE_BATCH; c = c->next) {
		if (n > 0 && c->n_fds > 0)
			break;
		iov[n++] = (struct iovec){c->text + c->sent, c->len - c->sent};
	}
	return n;
}

static void attach_fds(struct msghdr *msg, union control *control, const struct qmp_wire_chunk *c)
{
	size_t size = sizeof(int) * c->n_fds;
	struct cmsghdr *cmsg;

	if (c->n_fds == 0)
		return;
	memset(control, 0, sizeof *control);
	msg->msg_control = control;
	msg->msg_controllen = CMSG_SPACE(size);
	cmsg = CMSG_FIRSTHDR(msg);
	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(size);
	memcpy(CMSG_DATA(cmsg), c->fds, size);
}

static void advance(struct qmp_wire *w, size_t n)
{
	w->bytes -= n;
	while (w->head && n >= w->head->len - w->head->sent) {
		n -= w->head->len - w->head->sent;
		pop(w);
	}
	if (w->head && n > 0) {
		w->head->sent += n;
		drop_fds(w->head); /* they went with the first byte */
	}
}

int qmp_wire_flush(struct qmp_wire *w, int fd)
{
	while (w->head) {
		union control control;
		struct iovec iov[WIRE_BATCH];
		struct msghdr msg = {.msg_iov = iov, .msg_iovlen = gather(w, iov)};
		ssize_t n;

		attach_fds(&msg, &control, w->head);
		n = sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		advance(w, (size_t)n);
	}
	return 1;
}
