/*
 * The server side of one connection: what QEMU's monitor says to a client.
 *
 * The way it goes well: greeting out -> qmp_capabilities in -> ready -> commands in, replies and events out.
 * It ends by end of file, a system call's error, or a client that does not read (max_output); each is heard in
 * on_close, from the loop.
 */
#include "proto/base.h"
#include "proto/qmp.h"
#include "proto/wire.h"

#include <stdio.h>
#include <sys/socket.h>

#define DEFAULT_OUTPUT ((size_t)16 << 20)
#define READS_PER_TURN 16

struct qmp_peer {
	uv_poll_t poll;
	uv_timer_t timer; /* the end is told from here; the negotiation's deadline */
	int open_handles;
	int fd;
	int poll_events;
	bool ready, paused, dead, failed;
	struct qmp_peer_options opts;
	struct qmp_framer *framer;
	struct qmp_wire wire;
	int fds[QMP_COMMAND_FDS]; /* that came and wait for their command */
	size_t n_fds;
	struct qmp_error error;
};

static void on_poll(uv_poll_t *handle, int status, int events);

static void poll_for(struct qmp_peer *p)
{
	int events = (p->paused ? 0 : UV_READABLE) | (p->wire.head ? UV_WRITABLE : 0) | UV_DISCONNECT;

	if (p->dead || p->failed || events == p->poll_events)
		return;
	p->poll_events = events;
	uv_poll_start(&p->poll, events, on_poll);
}

static void on_timer(uv_timer_t *t)
{
	struct qmp_peer *p = t->data;

	if (!p->failed) {
		p->failed = true;
		qmp_error_set(&p->error, QMP_ERR_TIMEOUT, -ETIMEDOUT, "the client did not negotiate in time");
	}
	uv_poll_stop(&p->poll);
	if (p->opts.on_close)
		p->opts.on_close(p->opts.data, p, &p->error);
}

static void fail(struct qmp_peer *p, enum qmp_error_kind kind, int code, const char *why)
{
	if (p->dead || p->failed)
		return;
	p->failed = true;
	qmp_error_set(&p->error, kind, code, "%s", why);
	uv_poll_stop(&p->poll);
	uv_timer_start(&p->timer, on_timer, 0, 0);
}

static void send_consume(struct qmp_peer *p, char *text, size_t len)
{
	size_t limit = p->opts.max_output ? p->opts.max_output : DEFAULT_OUTPUT;
	int r;

	if (!text || p->dead || p->failed) {
		free(text);
		return;
	}
	if (p->wire.bytes + len > limit) {
		free(text);
		fail(p, QMP_ERR_LIMIT, -ENOBUFS, "the client does not read what it is sent");
		return;
	}
	r = qmp_wire_add_consume(&p->wire, text, len, NULL, 0);
	if (r >= 0)
		r = qmp_wire_flush(&p->wire, p->fd);
	if (r < 0)
		fail(p, QMP_ERR_CLOSED, r, "writing to the client failed");
	else
		poll_for(p);
}

/* {"KEY": RAW, "id": ID} */
static void send_member(struct qmp_peer *p, const char *key, const char *raw, size_t len, json_t *id)
{
	_cleanup_free_ char *id_text = id ? qmp_json_encode(id, JSON_COMPACT | JSON_ENSURE_ASCII, NULL) : NULL;
	size_t size = len + strlen(key) + (id_text ? strlen(id_text) : 0) + 32;
	char *text = malloc(size);
	int n;

	if (!text)
		return;
	n = snprintf(text, size, "{\"%s\": ", key);
	memcpy(text + n, raw, len);
	n += (int)len;
	n += snprintf(text + n, size - (size_t)n, id_text ? ", \"id\": %s}\r\n" : "%s}\r\n", id_text ? id_text : "");
	send_consume(p, text, (size_t)n);
}

void qmp_peer_return_raw(struct qmp_peer *p, json_t *id, const char *raw, size_t len)
{
	send_member(p, "return", raw, len, id);
}

void qmp_peer_error_raw(struct qmp_peer *p, json_t *id, const char *raw, size_t len)
{
	send_member(p, "error", raw, len, id);
}

void qmp_peer_return(struct qmp_peer *p, json_t *id, const json_t *value)
{
	_cleanup_free_ char *text = NULL;
	size_t len = 2;

	if (value) {
		text = qmp_json_encode(value, JSON_COMPACT | JSON_ENSURE_ASCII, &len);
		if (!text)
			return;
	}
	qmp_peer_return_raw(p, id, text ? text : "{}", len);
}

void qmp_peer_error(struct qmp_peer *p, json_t *id, const char *error_class, const char *desc)
{
	json_auto_t *error = json_pack("{s:s, s:s}", "class", error_class, "desc", desc);
	_cleanup_free_ char *text = error ? json_dumps(error, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;

	if (text)
		qmp_peer_error_raw(p, id, text, strlen(text));
}

void qmp_peer_send_raw(struct qmp_peer *p, const char *raw, size_t len)
{
	char *text;

	if (!p->ready || p->dead || p->failed || !(text = malloc(len + 2)))
		return;
	memcpy(text, raw, len);
	memcpy(text + len, "\r\n", 2);
	send_consume(p, text, len + 2);
}

/* ---- Commands ---- */

static void drop_fds(struct qmp_peer *p)
{
	for (size_t i = 0; i < p->n_fds; i++)
		if (p->fds[i] >= 0)
			(void)close(p->fds[i]);
	p->n_fds = 0;
}

/* The errors of QEMU's qmp_dispatch_check_obj, in its words. */
static const char *check_members(const json_t *message, char *place, size_t size)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)message, key, value)
	{
		if (streq(key, "execute") || streq(key, "exec-oob")) {
			if (!json_is_string(value)) {
				snprintf(place, size, "QMP input member '%s' must be a string", key);
				return place;
			}
		} else if (streq(key, "arguments")) {
			if (!json_is_object(value))
				return "QMP input member 'arguments' must be an object";
		} else if (!streq(key, "id")) {
			snprintf(place, size, "QMP input member '%s' is unexpected", key);
			return place;
		}
	}
	if (json_object_get(message, "execute") && json_object_get(message, "exec-oob"))
		return "QMP input member 'exec-oob' clashes with 'execute'";
	if (!json_object_get(message, "execute") && !json_object_get(message, "exec-oob"))
		return "QMP input lacks member 'execute'";
	return NULL;
}

static void take_command(struct qmp_peer *p, const struct qmp_peer_command *command)
{
	char desc[200];

	if (streq(command->name, "qmp_capabilities")) {
		if (p->ready) {
			qmp_peer_error(p, command->id, "CommandNotFound",
				       "Capabilities negotiation is already complete, command ignored");
			return;
		}
		p->ready = true;
		uv_timer_stop(&p->timer);
		qmp_peer_return(p, command->id, NULL);
	} else if (!p->ready) {
		snprintf(desc, sizeof desc, "Expecting capabilities negotiation with 'qmp_capabilities'");
		qmp_peer_error(p, command->id, "CommandNotFound", desc);
	} else {
		p->opts.on_command(p->opts.data, p, command);
	}
}

static void take_message(struct qmp_peer *p, const char *text, size_t len)
{
	struct qmp_error err = {0};
	json_auto_t *message = qmp_json_decode(text, len, &err);
	json_auto_t *none = NULL;
	struct qmp_peer_command command = {0};
	char desc[256];
	const char *wrong;

	if (!message) {
		snprintf(desc, sizeof desc, "JSON parse error, %.200s", err.message);
		qmp_peer_error(p, NULL, "GenericError", desc);
		return;
	}
	command.id = json_object_get(message, "id");
	wrong = check_members(message, desc, sizeof desc);
	if (wrong) {
		qmp_peer_error(p, command.id, "GenericError", wrong);
		return;
	}
	command.oob = json_object_get(message, "exec-oob") != NULL;
	command.name = json_string_value(json_object_get(message, command.oob ? "exec-oob" : "execute"));
	command.arguments = json_object_get(message, "arguments");
	if (!command.arguments)
		command.arguments = none = json_object();
	command.fds = p->fds;
	command.n_fds = p->n_fds;
	take_command(p, &command);
	drop_fds(p);
}

static void take_messages(struct qmp_peer *p)
{
	struct qmp_error err = {0};
	const char *text;
	size_t len;
	int r = 0;

	while (!p->dead && !p->failed && !p->paused && (r = qmp_framer_next(p->framer, &text, &len, &err)) == 1)
		take_message(p, text, len);
	if (r < 0 && !p->dead && !p->failed) {
		char desc[256];
		snprintf(desc, sizeof desc, "JSON parse error, %.200s", err.message);
		qmp_peer_error(p, NULL, "GenericError", desc);
		fail(p, QMP_ERR_PROTOCOL, r, desc);
	}
}

static void take_rights(struct qmp_peer *p, struct msghdr *msg)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t n;
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
			if (p->n_fds < QMP_COMMAND_FDS)
				p->fds[p->n_fds++] = fd;
			else
				(void)close(fd);
		}
	}
}

static ssize_t receive(struct qmp_peer *p, void *place, size_t size)
{
	union {
		char space[CMSG_SPACE(sizeof(int) * QMP_COMMAND_FDS)];
		struct cmsghdr align;
	} control;
	struct iovec iov = {place, size};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	ssize_t n = recvmsg(p->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n > 0)
		take_rights(p, &msg);
	return n;
}

static void read_some(struct qmp_peer *p)
{
	for (int i = 0; i < READS_PER_TURN && !p->dead && !p->failed && !p->paused; i++) {
		size_t size;
		void *place = qmp_framer_reserve(p->framer, &size);
		ssize_t n = place ? receive(p, place, size) : -1;

		if (!place) {
			fail(p, QMP_ERR_HOST, -ENOMEM, "out of memory");
		} else if (n == 0) {
			fail(p, QMP_ERR_CLOSED, -ECONNRESET, "the client left");
		} else if (n > 0) {
			qmp_framer_commit(p->framer, (size_t)n);
			take_messages(p);
			if ((size_t)n < size)
				return;
		} else if (errno == EAGAIN) {
			return;
		} else if (errno != EINTR) {
			fail(p, QMP_ERR_CLOSED, -errno, "reading from the client failed");
		}
	}
}

static void on_poll(uv_poll_t *handle, int status, int events)
{
	struct qmp_peer *p = handle->data;
	int r = 1;

	if (status < 0) {
		fail(p, QMP_ERR_CLOSED, status, "polling the client failed");
		return;
	}
	if (events & UV_READABLE)
		read_some(p);
	if (!p->dead && !p->failed && p->wire.head)
		r = qmp_wire_flush(&p->wire, p->fd);
	if (r < 0)
		fail(p, QMP_ERR_CLOSED, r, "writing to the client failed");
	else if ((events & UV_DISCONNECT) && p->paused && !p->dead)
		fail(p, QMP_ERR_CLOSED, -ECONNRESET, "the client left");
	poll_for(p);
}

void qmp_peer_pause(struct qmp_peer *p)
{
	p->paused = true;
	poll_for(p);
}

void qmp_peer_resume(struct qmp_peer *p)
{
	if (!p->paused)
		return;
	p->paused = false;
	take_messages(p);
	if (!p->dead)
		poll_for(p);
}

/* ---- Life ---- */

static int send_greeting(struct qmp_peer *p)
{
	json_auto_t *message = json_pack("{s:O}", "QMP", p->opts.greeting);
	size_t len;
	char *text = message ? qmp_json_encode(message, JSON_COMPACT, &len) : NULL;
	char *line = text ? realloc(text, len + 3) : NULL;

	if (!line) {
		free(text);
		return -ENOMEM;
	}
	memcpy(line + len, "\r\n", 3);
	send_consume(p, line, len + 2);
	return 0;
}

int qmp_peer_new(uv_loop_t *loop, int fd_consume, const struct qmp_peer_options *opts, struct qmp_peer **ret,
		 struct qmp_error *err)
{
	struct qmp_peer *p = calloc(1, sizeof *p);
	int r;

	if (!p)
		return qmp_error_errno(err, -ENOMEM, "taking a client");
	p->opts = *opts;
	p->fd = fd_consume;
	qmp_wire_init(&p->wire);
	p->framer = qmp_framer_new(opts->max_message);
	r = p->framer ? uv_poll_init(loop, &p->poll, p->fd) : -ENOMEM;
	if (r < 0) {
		qmp_framer_free(p->framer);
		free(p);
		return qmp_error_errno(err, r, "taking a client");
	}
	uv_timer_init(loop, &p->timer);
	p->open_handles = 2;
	p->poll.data = p->timer.data = p;
	if (opts->negotiation_timeout_ms)
		uv_timer_start(&p->timer, on_timer, opts->negotiation_timeout_ms, 0);
	poll_for(p);
	(void)send_greeting(p);
	p->opts.greeting = NULL; /* borrowed for this call alone */
	*ret = p;
	return 0;
}

static void on_handle_closed(uv_handle_t *h)
{
	struct qmp_peer *p = h->data;

	if (--p->open_handles > 0)
		return;
	qmp_framer_free(p->framer);
	free(p);
}

void qmp_peer_free(struct qmp_peer *p)
{
	if (!p || p->dead)
		return;
	p->dead = true;
	drop_fds(p);
	qmp_wire_deinit(&p->wire);
	uv_poll_stop(&p->poll);
	uv_close((uv_handle_t *)&p->poll, on_handle_closed);
	uv_close((uv_handle_t *)&p->timer, on_handle_closed);
	(void)close(p->fd);
	p->fd = -1;
}

void *qmp_peer_data(const struct qmp_peer *p)
{
	return p->opts.data;
}

bool qmp_peer_is_ready(const struct qmp_peer *p)
{
	return p->ready && !p->dead && !p->failed;
}
