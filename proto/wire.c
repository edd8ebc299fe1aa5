#include "proto/wire.h"
#include "proto/base.h"
#include "proto/qmp.h"

#include <fcntl.h>
#include <sys/socket.h>

#define WIRE_BATCH 16

struct qmp_wire_chunk {
	struct qmp_wire_chunk *next;
	char *text;
	size_t len, sent;
	size_t n_fds;
	int fds[]; /* duplicates; closed once they are sent */
};

void qmp_wire_init(struct qmp_wire *w)
{
	w->head = NULL;
	w->tail = &w->head;
	w->bytes = 0;
}

static void close_fds(struct qmp_wire_chunk *c)
{
	for (size_t i = 0; i < c->n_fds; i++)
		(void)close(c->fds[i]);
	c->n_fds = 0;
}

static void pop(struct qmp_wire *w)
{
	struct qmp_wire_chunk *c = w->head;

	w->head = c->next;
	if (!w->head)
		w->tail = &w->head;
	close_fds(c);
	free(c->text);
	free(c);
}

void qmp_wire_deinit(struct qmp_wire *w)
{
	while (w->head)
		pop(w);
	w->bytes = 0;
}

int qmp_wire_add_consume(struct qmp_wire *w, char *text, size_t len, const int *fds, size_t n_fds)
{
	struct qmp_wire_chunk *c = malloc(sizeof *c + n_fds * sizeof(int));
	int r;

	if (!c) {
		free(text);
		return -ENOMEM;
	}
	*c = (struct qmp_wire_chunk){.text = text, .len = len};
	while (c->n_fds < n_fds) {
		int fd = fcntl(fds[c->n_fds], F_DUPFD_CLOEXEC, 0);
		if (fd < 0) {
			r = -errno;
			close_fds(c);
			free(text);
			free(c);
			return r;
		}
		c->fds[c->n_fds++] = fd;
	}
	*w->tail = c;
	w->tail = &c->next;
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

static void advance(struct qmp_wire *w, size_t n)
{
	w->bytes -= n;
	while (w->head && n >= w->head->len - w->head->sent) {
		n -= w->head->len - w->head->sent;
		pop(w);
	}
	if (w->head) {
		w->head->sent += n;
		if (w->head->sent > 0)
			close_fds(w->head); /* they went with the first byte */
	}
}

int qmp_wire_flush(struct qmp_wire *w, int fd)
{
	while (w->head) {
		union {
			char space[CMSG_SPACE(sizeof(int) * QMP_COMMAND_FDS)];
			struct cmsghdr align;
		} control;
		struct iovec iov[WIRE_BATCH];
		struct msghdr msg = {.msg_iov = iov, .msg_iovlen = gather(w, iov)};
		size_t n_fds = w->head->n_fds;
		ssize_t n;

		if (n_fds > 0) {
			struct cmsghdr *cmsg;
			memset(&control, 0, sizeof control);
			msg.msg_control = &control;
			msg.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
			cmsg = CMSG_FIRSTHDR(&msg);
			cmsg->cmsg_level = SOL_SOCKET;
			cmsg->cmsg_type = SCM_RIGHTS;
			cmsg->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
			memcpy(CMSG_DATA(cmsg), w->head->fds, sizeof(int) * n_fds);
		}
		n = sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		advance(w, (size_t)n);
	}
	return 1;
}
