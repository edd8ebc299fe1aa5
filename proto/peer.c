/*
 * The server side of one connection: what QEMU's monitor says to a client.
 *
 * The way it goes well: greeting out -> qmp_capabilities in -> ready -> commands in, replies and events out.
 * It ends by end of file (a client that has only shut down its sending gets the replies that it is owed first), a system
 * call's error, no negotiation in time, or a client that does not read; each
 * is heard in on_close, from the loop. What is no command is answered with an error, as QEMU does; after bytes
 * that are no JSON object the rest of their line is dropped.
 *
 * A client is held back (nothing is read from it) by pause(), and while much waits to be read by it.
 */
#include "proto/base.h"
#include "proto/framer.h"
#include "proto/greeting.h"
#include "proto/link.h"
#include "proto/qmp.h"

#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>

#define DEFAULT_OUTPUT ((size_t)16 << 20)
#define READS_PER_TURN 64
/* While more than this share of max_output waits, a client is held back. */
#define HOLD_BACK_SHARE 4
#define DESC_MAX       320

struct qmp_peer {
	struct qmp_link link;
	bool ready, paused, no_more; /* no_more: the end of file was read */
	size_t owed; /* replies to what was taken */
	bool offers_oob, has_oob;
	struct qmp_peer_options opts;
	size_t max_output;
	uint64_t deadline; /* of the negotiation */
	struct qmp_framer *framer;
	int fds[QMP_COMMAND_FDS]; /* that came and wait for their command */
	size_t n_fds;
};

static bool is_alive(const struct qmp_peer *p)
{
	return qmp_link_is_alive(&p->link);
}

static void fail(struct qmp_peer *p, enum qmp_error_kind kind, int code, const char *why)
{
	struct qmp_error err = {0};

	qmp_error_set(&err, kind, code, "%s", why);
	qmp_link_fail(&p->link, &err);
}

/* No command is taken now, and none read. */
static bool is_held_back(const struct qmp_peer *p)
{
	return p->paused || p->link.wire.bytes > p->max_output / HOLD_BACK_SHARE;
}

static void update_reading(struct qmp_peer *p)
{
	qmp_link_set_reading(&p->link, !is_held_back(p) && !p->no_more);
}

/* ---- What goes out ---- */

/* Takes over TEXT, the message's line. */
static void send_consume(struct qmp_peer *p, char *text, size_t len)
{
	if (!text || !is_alive(p)) {
		free(text); /* and if it is alive, it must not wait for this in vain */
		fail(p, QMP_ERR_HOST, -ENOMEM, "no memory for a message to the client");
		return;
	}
	if (qmp_link_add_consume(&p->link, text, len, NULL, 0) < 0)
		fail(p, QMP_ERR_HOST, -ENOMEM, "no memory for a message to the client");
	else
		qmp_link_flush(&p->link);
	update_reading(p);
	if (p->no_more)
		qmp_link_wake_at(&p->link, 0); /* that may have been the last reply */
}

/* {"KEY": RAW, "id": ID} */
static void send_member(struct qmp_peer *p, const char *key, const char *raw, size_t len, json_t *id)
{
	_cleanup_free_ char *id_text = id ? qmp_json_encode(id, JSON_COMPACT | JSON_ENSURE_ASCII, NULL) : NULL;
	size_t size = len + strlen(key) + (id_text ? strlen(id_text) : 0) + 32;
	char *text = id && !id_text ? NULL : malloc(size);
	size_t n = 0;

	if (text) {
		n = (size_t)snprintf(text, size, "{\"%s\": ", key);
		memcpy(text + n, raw, len);
		n += len;
		n += (size_t)snprintf(text + n, size - n, "%s%s}\r\n", id_text ? ", \"id\": " : "",
				      id_text ? id_text : "");
	}
	p->owed -= p->owed > 0;
	send_consume(p, text, n);
}

/* VALUE for the wire; {} if it is NULL. */
static char *encode(const json_t *value, size_t *ret_len)
{
	*ret_len = 2;
	return value ? qmp_json_encode(value, JSON_COMPACT | JSON_ENSURE_ASCII, ret_len) : strdup("{}");
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
	size_t len;
	_cleanup_free_ char *text = encode(value, &len);

	if (text)
		qmp_peer_return_raw(p, id, text, len);
	else
		qmp_peer_error(p, id, "GenericError", "the reply cannot be encoded");
}

void qmp_peer_error(struct qmp_peer *p, json_t *id, const char *error_class, const char *desc)
{
	json_auto_t *error = json_pack("{s:s, s:o}", "class", error_class, "desc", qmp_json_text(desc));
	size_t len;
	_cleanup_free_ char *raw = error ? encode(error, &len) : NULL;

	if (raw)
		qmp_peer_error_raw(p, id, raw, len);
	else
		fail(p, QMP_ERR_HOST, -ENOMEM, "no memory for a message to the client");
}

void qmp_peer_send_raw(struct qmp_peer *p, const char *raw, size_t len)
{
	size_t waiting = p->link.wire.bytes;

	if (!p->ready || !is_alive(p))
		return;
	if (waiting > 0 && waiting + len > p->max_output) {
		fail(p, QMP_ERR_LIMIT, -ENOBUFS, "the client does not read what it is sent");
		return;
	}
	if (qmp_link_append(&p->link, raw, len) < 0 || qmp_link_append(&p->link, "\r\n", 2) < 0)
		fail(p, QMP_ERR_HOST, -ENOMEM, "no memory for a message to the client");
	update_reading(p);
}

/* ---- Commands ---- */

static void drop_fds(struct qmp_peer *p)
{
	for (size_t i = 0; i < p->n_fds; i++)
		if (p->fds[i] >= 0)
			(void)close(p->fds[i]);
	p->n_fds = 0;
}

static void refuse(struct qmp_peer *p, json_t *id, const char *fmt, ...) _printf_(3, 4);
static void refuse(struct qmp_peer *p, json_t *id, const char *fmt, ...)
{
	char desc[DESC_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(desc, sizeof desc, fmt, ap);
	va_end(ap);
	qmp_peer_error(p, id, "GenericError", desc);
}

/* One member of a command. False: it was answered with an error, in the words of QEMU's qmp_dispatch_check_obj. */
static bool check_member(struct qmp_peer *p, json_t *id, const char *key, const json_t *value)
{
	if (streq(key, "execute") || (p->has_oob && streq(key, "exec-oob"))) {
		if (json_is_string(value))
			return true;
		refuse(p, id, "QMP input member '%s' must be a string", key);
	} else if (streq(key, "arguments")) {
		if (json_is_object(value))
			return true;
		refuse(p, id, "QMP input member 'arguments' must be an object");
	} else {
		if (streq(key, "id"))
			return true;
		refuse(p, id, "QMP input member '%.100s' is unexpected", key);
	}
	return false;
}

static bool check_command(struct qmp_peer *p, json_t *id, json_t *message)
{
	const char *key;
	json_t *value;

	json_object_foreach(message, key, value)
		if (!check_member(p, id, key, value))
			return false;
	if (json_object_get(message, "execute") && json_object_get(message, "exec-oob")) {
		refuse(p, id, "QMP input member 'exec-oob' clashes with 'execute'");
		return false;
	}
	if (!json_object_get(message, "execute") && !json_object_get(message, "exec-oob")) {
		refuse(p, id, "QMP input lacks member 'execute'");
		return false;
	}
	return true;
}

/* The arguments of qmp_capabilities. False: it was answered with an error. */
static bool check_enable(struct qmp_peer *p, json_t *id, json_t *arguments, bool *ret_oob)
{
	json_t *enable = json_object_get(arguments, "enable"), *entry;
	const char *key;
	size_t i;

	json_object_foreach(arguments, key, entry) {
		if (!streq(key, "enable")) {
			refuse(p, id, "Parameter '%.100s' is unexpected", key);
			return false;
		}
	}
	if (enable && !json_is_array(enable)) {
		refuse(p, id, "Invalid parameter type for 'enable', expected: array");
		return false;
	}
	json_array_foreach(enable, i, entry) {
		if (!json_is_string(entry)) {
			refuse(p, id, "Invalid parameter type for 'enable[%zu]', expected: string", i);
			return false;
		}
		if (!p->offers_oob || !streq(json_string_value(entry), "oob")) {
			refuse(p, id, "Parameter 'enable' does not accept value '%.100s'", json_string_value(entry));
			return false;
		}
	}
	*ret_oob = json_array_size(enable) > 0;
	return true;
}

static void negotiate(struct qmp_peer *p, const struct qmp_peer_command *command)
{
	if (p->ready) {
		qmp_peer_error(p, command->id, "CommandNotFound",
			       "Capabilities negotiation is already complete, command ignored");
		return;
	}
	if (!check_enable(p, command->id, command->arguments, &p->has_oob))
		return;
	p->ready = true;
	qmp_peer_return(p, command->id, NULL);
}

static void take_command(struct qmp_peer *p, const struct qmp_peer_command *command)
{
	if (streq(command->name, "qmp_capabilities"))
		negotiate(p, command);
	else if (!p->ready)
		qmp_peer_error(p, command->id, "CommandNotFound",
			       "Expecting capabilities negotiation with 'qmp_capabilities'");
	else
		p->opts.on_command(p->opts.data, p, command);
}

static void take_message(struct qmp_peer *p, const char *text, size_t len)
{
	struct qmp_error err = {0};
	json_auto_t *message = qmp_json_decode(text, len, &err);
	json_auto_t *none = json_object();
	struct qmp_peer_command command = {.fds = p->fds, .n_fds = p->n_fds};

	if (!none || (!message && err.code == -ENOMEM)) {
		fail(p, QMP_ERR_HOST, -ENOMEM, "no memory for a command of the client");
		return;
	}
	if (!message) {
		refuse(p, NULL, "JSON parse error, %.250s", err.message);
		return;
	}
	command.id = json_object_get(message, "id");
	if (!check_command(p, command.id, message))
		return;
	command.oob = json_object_get(message, "exec-oob") != NULL;
	command.name = json_string_value(json_object_get(message, command.oob ? "exec-oob" : "execute"));
	command.arguments = json_object_get(message, "arguments");
	if (!command.arguments)
		command.arguments = none;
	take_command(p, &command);
}

static void take_messages(struct qmp_peer *p)
{
	while (is_alive(p) && !is_held_back(p)) {
		struct qmp_error err = {0};
		const char *text;
		size_t len;
		int r = qmp_framer_next(p->framer, &text, &len, &err);

		if (r == 0)
			return;
		p->owed++;
		if (r == 1) {
			take_message(p, text, len);
		} else {
			refuse(p, NULL, "JSON parse error, %.250s", err.message);
			qmp_framer_skip_line(p->framer);
		}
		drop_fds(p);
	}
}

/* ---- Reading ---- */

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

/*
 * How much to read so that fds stay with their command: the kernel joins the bytes that were sent before
 * them to the same read, so what brings fds is read byte by byte, as QEMU reads everything.
 */
static ssize_t peek(int fd, void *place, size_t size)
{
	struct iovec iov = {place, size};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n = recvmsg(fd, &msg, MSG_PEEK | MSG_DONTWAIT);

	return n > 0 && (msg.msg_flags & MSG_CTRUNC) ? 1 : n;
}

static ssize_t receive(struct qmp_peer *p, void *place, size_t size)
{
	union {
		char space[CMSG_SPACE(sizeof(int) * QMP_COMMAND_FDS)];
		struct cmsghdr align;
	} control;
	ssize_t n = peek(p->link.fd, place, size);
	struct iovec iov = {place, n > 0 ? (size_t)n : 0};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};

	if (n <= 0)
		return n;
	n = recvmsg(p->link.fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n > 0)
		take_rights(p, &msg);
	return n;
}

/* Reads once. False: there was nothing (more) to read, or there was less than is taken at once. */
static bool read_once(struct qmp_peer *p)
{
	size_t size;
	void *place = qmp_framer_reserve(p->framer, &size);
	ssize_t n = place ? receive(p, place, size) : -1;

	if (!place) {
		fail(p, QMP_ERR_HOST, -ENOMEM, "no memory to read from the client");
	} else if (n == 0) {
		p->no_more = true;
		p->link.half_closed = true;
		if (qmp_link_is_gone(&p->link))
			fail(p, QMP_ERR_CLOSED, -ECONNRESET, "the client left");
	} else if (n > 0) {
		qmp_framer_commit(p->framer, (size_t)n);
		take_messages(p);
		return (size_t)n == size || n == 1; /* byte by byte: see peek() */
	} else if (errno != EAGAIN && errno != EINTR) {
		fail(p, QMP_ERR_CLOSED, -errno, "reading from the client failed");
	}
	return n < 0 && errno == EINTR;
}

/* ---- What the link tells ---- */

static struct qmp_peer *peer_of(struct qmp_link *l)
{
	return container_of(l, struct qmp_peer, link);
}

static void on_readable(struct qmp_link *l)
{
	struct qmp_peer *p = peer_of(l);

	take_messages(p); /* before fds are read that belong to later ones */
	for (int i = 0; i < READS_PER_TURN && is_alive(p) && !is_held_back(p) && !p->no_more; i++)
		if (!read_once(p))
			break;
}

static void on_hung_up(struct qmp_link *l)
{
	fail(peer_of(l), QMP_ERR_CLOSED, -ECONNRESET, "the client left");
}

static void on_write_failed(struct qmp_link *l, int code)
{
	fail(peer_of(l), QMP_ERR_CLOSED, code, "writing to the client failed");
}

static void on_tick(struct qmp_link *l)
{
	struct qmp_peer *p = peer_of(l);

	if (p->ready)
		return;
	if (qmp_now_ms() < p->deadline) {
		qmp_link_wake_at(l, p->deadline);
		return;
	}
	qmp_peer_error(p, NULL, "GenericError", "no qmp_capabilities came in time; connect again");
	fail(p, QMP_ERR_TIMEOUT, -ETIMEDOUT, "the client did not negotiate in time");
}

static void on_settle(struct qmp_link *l)
{
	struct qmp_peer *p = peer_of(l);

	take_messages(p); /* that came while it was held back */
	if (p->no_more && p->owed == 0 && !is_held_back(p) && !l->wire.head)
		fail(p, QMP_ERR_CLOSED, -ECONNRESET, "the client left");
	update_reading(p);
}

static void on_ended(struct qmp_link *l)
{
	struct qmp_peer *p = peer_of(l);

	if (p->opts.on_close)
		p->opts.on_close(p->opts.data, p, &l->error);
}

static void peer_free(struct qmp_peer *p)
{
	qmp_framer_free(p->framer);
	free(p);
}

static void on_gone(struct qmp_link *l)
{
	peer_free(peer_of(l));
}

static const struct qmp_link_ops link_ops = {
	.readable = on_readable,
	.hung_up = on_hung_up,
	.write_failed = on_write_failed,
	.tick = on_tick,
	.settle = on_settle,
	.ended = on_ended,
	.gone = on_gone,
};

/* ---- The public operations ---- */

static void send_greeting(struct qmp_peer *p, json_t *greeting)
{
	size_t len;
	_cleanup_free_ char *text = encode(greeting, &len);
	char *line = text ? qmp_asprintf("{\"QMP\": %s}\r\n", text) : NULL;

	send_consume(p, line, line ? strlen(line) : 0);
}

int qmp_peer_new(uv_loop_t *loop, int fd_consume, const struct qmp_peer_options *opts, struct qmp_peer **ret,
		 struct qmp_error *err)
{
	struct qmp_peer *p = calloc(1, sizeof *p);
	int r;

	if (!p)
		return qmp_error_errno(err, -ENOMEM, "taking a client");
	p->opts = *opts;
	p->opts.greeting = NULL; /* borrowed for this call alone */
	p->max_output = opts->max_output ? opts->max_output : DEFAULT_OUTPUT;
	p->offers_oob = qmp_greeting_offers_oob(opts->greeting);
	p->framer = qmp_framer_new(opts->max_message);
	r = p->framer ? qmp_link_init(&p->link, loop, fd_consume, &link_ops) : -ENOMEM;
	if (r < 0) {
		peer_free(p);
		return qmp_error_errno(err, r, "taking a client");
	}
	p->deadline = qmp_deadline_in(opts->negotiation_timeout_ms ? opts->negotiation_timeout_ms : UINT64_MAX);
	if (opts->negotiation_timeout_ms)
		qmp_link_wake_at(&p->link, p->deadline);
	send_greeting(p, opts->greeting);
	*ret = p;
	return 0;
}

void qmp_peer_free(struct qmp_peer *p)
{
	if (!p || !qmp_link_is_open(&p->link))
		return;
	drop_fds(p);
	qmp_link_flush(&p->link); /* the last events */
	qmp_link_close(&p->link);
}

void *qmp_peer_data(const struct qmp_peer *p)
{
	return p->opts.data;
}

void qmp_peer_pause(struct qmp_peer *p)
{
	p->paused = true;
	update_reading(p);
}

/* What was read already is taken from the loop, not in here: a handler that answers at once may call this. */
void qmp_peer_resume(struct qmp_peer *p)
{
	if (!p->paused)
		return;
	p->paused = false;
	update_reading(p);
	qmp_link_wake_at(&p->link, 0);
}

bool qmp_peer_is_ready(const struct qmp_peer *p)
{
	return p->ready && is_alive(p);
}
