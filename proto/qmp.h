/*
 * libqmpproto: the QEMU Machine Protocol over connected UNIX sockets, on libuv and jansson.
 *
 * Owns: bytes <-> QMP. Errors, JSON without loss, framing, the client session (ids, slots, events,
 * deadlines), the server side of one connection, the guest agent's dialect, look-ups in query-qmp-schema.
 * Does not own: sockets' paths, processes, what any command means. It prints nothing.
 *
 * Conventions: functions that can fail return 0 or a negative errno and fill a caller-owned
 * struct qmp_error (which may be NULL); outputs named ret_* are set on success alone; json_t
 * arguments are borrowed unless the name says _consume; times are milliseconds.
 * One thread: all calls on objects of one uv_loop_t come from the thread that runs it.
 * Source of the protocol: QEMU docs/interop/qmp-spec.
 */
#ifndef QMP_H
#define QMP_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#ifdef __cplusplus
extern "C" {
#endif

#define QMP_API __attribute__((visibility("default")))

/* ---- Errors ------------------------------------------------------------------------------- */

/* What sort of failure it was. One table in the program maps a kind to an exit status. */
enum qmp_error_kind {
	QMP_ERR_NONE = 0,
	QMP_ERR_USAGE,       /* the input is wrong: nothing was changed */
	QMP_ERR_NOT_FOUND,   /* what was named does not exist */
	QMP_ERR_EXISTS,      /* what was to be made is there already */
	QMP_ERR_STATE,       /* not possible in the present state */
	QMP_ERR_BUSY,        /* somebody else owns it, or a limit of places is reached */
	QMP_ERR_REFUSED,     /* QEMU answered with an error */
	QMP_ERR_TIMEOUT,     /* a deadline passed; the outcome is unknown until QEMU is asked */
	QMP_ERR_PENDING,     /* accepted, waits for the guest */
	QMP_ERR_CLOSED,      /* the connection ended */
	QMP_ERR_PROTOCOL,    /* the peer does not speak QMP */
	QMP_ERR_CANCELLED,   /* the caller took it back */
	QMP_ERR_LIMIT,       /* larger than allowed */
	QMP_ERR_UNSUPPORTED, /* this QEMU or this host cannot */
	QMP_ERR_HOST,        /* a system call failed */
	QMP_ERR_ENDED,       /* QEMU ended in a way that was not wanted */
	QMP_ERR_INTERNAL,    /* a defect of ours */
};

#define QMP_ERROR_MAX 2048

/* Zero-initialise. Holds no memory: copy it by value, never free it. */
struct qmp_error {
	enum qmp_error_kind kind;
	int code;                     /* negative errno */
	char message[QMP_ERROR_MAX];  /* one sentence or more, no trailing newline; cut with "..." */
};

/*
 * Fills ERR, unless it is NULL or holds an error already (the first one wins), and returns CODE, a
 * negative errno. The message says what was tried, on what, why it failed, and what to do about it.
 */
QMP_API int qmp_error_set(struct qmp_error *err, enum qmp_error_kind kind, int code,
			  const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* The same for a failed system call: appends ": " and the text of CODE. Kind is QMP_ERR_HOST. */
QMP_API int qmp_error_errno(struct qmp_error *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* Puts "context: " before the message. Returns err->code (or -EIO for a NULL or empty ERR). */
QMP_API int qmp_error_wrap(struct qmp_error *err, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* The kind's name as it stands in JSON output: "usage", "not-found", ... */
QMP_API const char *qmp_error_kind_name(enum qmp_error_kind kind);
/* The kind of that name; QMP_ERR_INTERNAL where there is none. */
QMP_API enum qmp_error_kind qmp_error_kind_from_name(const char *name);

/* ---- JSON --------------------------------------------------------------------------------- */

/*
 * jansson's integers end at INT64_MAX, and it refuses a message that holds more; QEMU sends uint64.
 * A number that json_int_t cannot hold exactly, a real of 1e308 and more, and QEMU's bare inf and nan are decoded
 * as the object {"$number": "<its text>"}, a key that no QAPI type can have, and encoded back to the bare number
 * (inf and nan: null). Depth is limited to QMP_JSON_DEPTH; duplicate keys are refused; NUL in strings
 * is kept.
 */
#define QMP_JSON_DEPTH 1024

/* Decodes exactly one value (surrounded by white space at most). NULL on failure. */
QMP_API json_t *qmp_json_decode(const char *text, size_t len, struct qmp_error *err);
/* Encodes with jansson's FLAGS (JSON_COMPACT, JSON_INDENT(n), JSON_SORT_KEYS). malloc'ed, ends with NUL. */
QMP_API char *qmp_json_encode(const json_t *value, size_t flags, size_t *ret_len);
/*
 * A new string of TEXT (NULL: ""), whose bytes need not be UTF-8 (a file's name, a message that was cut): what is
 * not becomes U+FFFD. NULL only when memory is out.
 */
QMP_API json_t *qmp_json_text(const char *text);
/* The value as uint64, from an integer >= 0 or a $number. 0, or -ERANGE / -EINVAL. */
QMP_API int qmp_json_u64(const json_t *value, uint64_t *ret);

/* ---- Framing ------------------------------------------------------------------------------ */

#define QMP_MESSAGE_MAX ((size_t)64 << 20) /* QEMU's own limit */

/*
 * Cuts a byte stream into JSON objects, in linear time whatever the chunks. A message ends with its
 * closing brace (clients need not send newlines). White space between messages is skipped; a byte
 * 0xFF drops what is half read and starts anew, as QEMU does.
 */
struct qmp_framer;
QMP_API struct qmp_framer *qmp_framer_new(size_t max_message); /* 0: QMP_MESSAGE_MAX */
QMP_API void qmp_framer_free(struct qmp_framer *f);
/* A place to read at most *RET_SIZE > 0 bytes into; valid until the next call on F. NULL: no memory. */
QMP_API void *qmp_framer_reserve(struct qmp_framer *f, size_t *ret_size);
/* N bytes have been read to that place. */
QMP_API void qmp_framer_commit(struct qmp_framer *f, size_t n);
/*
 * The next whole message: 1 and its span (valid until the next call of reserve), 0 when there is none
 * yet, negative errno when the stream is not JSON objects (-EPROTO) or exceeds a limit (-EMSGSIZE).
 */
QMP_API int qmp_framer_next(struct qmp_framer *f, const char **ret_text, size_t *ret_len,
			    struct qmp_error *err);

/* ---- The client session ------------------------------------------------------------------- */

/*
 *   connected -> greeting -> negotiating -> ready -> closed
 *
 * At most QMP_IN_FLIGHT in-band commands are in flight to QEMU, the rest are queued; as many out-of-band ones
 * beside them, which overtake those queued. Commands of a kind go out in the order of execute. One with fds goes out when
 * all before it are answered, and those of its kind behind it when it is: QEMU reads ahead and keeps only the fds that came
 * last (chardev/char-socket.c: tcp_chr_recv), so that a command would take those of the next; and until they are taken it
 * sets each of them to blocking again with every byte that it reads, in a thread of its own, beside a netdev_add that has
 * just set it to non-blocking: then its main loop hangs in read() of a tap that has no packet.
 *
 * Crossing: when a client dies with a command running, QEMU sends that reply to the next client. It does so before
 * the next client's qmp_capabilities is answered: it runs in-band commands one at a time, answers each before it takes
 * another, and drops those that a client who left had not got to run. So the id of qmp_capabilities carries 64 random
 * bits, and until that very id is answered every reply is dropped and counted, and so is an error without an id. What
 * comes after is of this connection; its ids still carry 18 of the bits, and a reply with any other is dropped. An
 * error without an id then means that QEMU lost track of the stream: that closes it.
 */
#define QMP_IN_FLIGHT    8
#define QMP_COMMAND_FDS  16

struct qmp_session;

/* An event. Everything is valid during the callback alone. */
struct qmp_event {
	const char *name;
	const char *raw;         /* the whole message as QEMU wrote it, without the line's end */
	size_t raw_len;
	json_t **message;        /* what raw says, once somebody has asked for a member; whoever tells it owns that */
};

/*
 * The member NAME of an event ("data", an object; "timestamp"); NULL: it has none. Borrowed. The event is decoded when
 * the first one is asked for: many are only passed on.
 */
QMP_API json_t *qmp_event_member(const struct qmp_event *event, const char *name);

/* How a command ended. Everything is valid during the callback alone. */
struct qmp_reply {
	int status;              /* 0, or negative errno: -EREMOTEIO when QEMU answered with an error,
				    -ETIMEDOUT, -ECANCELED, -ECONNRESET (end of file), -EPROTO, -EMSGSIZE,
				    -EOPNOTSUPP (out of band, queued before that was known) */
	json_t *value;           /* "return", on status 0 and unless the command asked for raw */
	const char *raw;         /* on status 0: "return" as QEMU wrote it, and for -EREMOTEIO "error" */
	size_t raw_len;
	const char *error_class; /* for -EREMOTEIO: "GenericError", ... */
	const char *error_desc;  /* for -EREMOTEIO: QEMU's words, for people; never parse them */
	struct qmp_error error;  /* filled whenever status != 0: "blockdev-add: <QEMU's words>" */
};

typedef void (*qmp_reply_cb)(void *data, const struct qmp_reply *reply);
typedef void (*qmp_event_cb)(void *data, const struct qmp_event *event);

struct qmp_command {
	const char *name;
	json_t *arguments;       /* borrowed, an object or NULL; encoded before execute returns */
	const int *fds;          /* borrowed until execute returns: they are duplicated */
	size_t n_fds;            /* at most QMP_COMMAND_FDS */
	uint64_t timeout_ms;     /* from now; 0: the session's default; UINT64_MAX: none */
	bool oob;                /* exec-oob; -EOPNOTSUPP where it was not negotiated */
	bool raw;                /* don't decode "return": large replies that are only passed on */
};

struct qmp_session_options {
	size_t max_message;           /* 0: QMP_MESSAGE_MAX */
	uint64_t command_timeout_ms;  /* 0: 30,000 */
	uint64_t greeting_timeout_ms; /* until negotiated; 0: 10,000 */
	size_t max_queued;            /* commands that wait; 0: 4,096; more: -EBUSY */
	/*
	 * The other side answers in-band commands in their order, as QEMU does (see "crossing"): one that it has passed over
	 * gets no answer any more, and ends with -ETIMEDOUT when a later one is answered.
	 */
	bool in_order;
	/* Negotiated; GREETING is the object behind "QMP"; borrowed. Never called from inside _new. */
	void (*on_ready)(void *data, json_t *greeting);
	/*
	 * The connection has ended, for good: each waiter has had its reply before. Called once, also
	 * when the session never became ready; not called by qmp_session_free, which is still to be called, here or later.
	 */
	void (*on_close)(void *data, const struct qmp_error *why);
	void *data;
};

/* Takes over FD (a connected stream socket, made non-blocking) on success. OPTS is copied. */
QMP_API int qmp_session_new(uv_loop_t *loop, int fd_consume, const struct qmp_session_options *opts,
			    struct qmp_session **ret, struct qmp_error *err);
/*
 * Closes. Every waiter hears of it inside this call (-ECANCELED, or how its command had ended already); no callback
 * after it returns, and none to on_close. From any callback; what the session gave is valid until that returns. NULL is
 * fine. The memory goes when the loop has run once more: that must be before uv_loop_close. So it is with a peer and an
 * agent, too.
 */
QMP_API void qmp_session_free(struct qmp_session *s);

/*
 * Sends COMMAND (or queues it: also before the session is ready). On success CB fires exactly once, never
 * from inside this call; the callback may execute, cancel and free. RET_SERIAL (may be NULL) names it for cancel. Errors:
 * -EINVAL, -EBUSY, -ENOTCONN, -EOPNOTSUPP, -EMSGSIZE (more than QEMU takes: 64 MiB, or 2 Mi tokens of JSON), -ENOMEM and those of dup.
 */
QMP_API int qmp_session_execute(struct qmp_session *s, const struct qmp_command *command, qmp_reply_cb cb,
				void *data, uint64_t *ret_serial, struct qmp_error *err);
/*
 * CB fires with -ECANCELED from the loop; the slot in QEMU stays taken until the late reply came, which
 * is dropped. A serial that has ended already is fine.
 */
QMP_API void qmp_session_cancel(struct qmp_session *s, uint64_t serial);

/* NAME: one event, or NULL for all. Returns > 0, for unsubscribe. Order: as subscribed. */
QMP_API uint64_t qmp_session_subscribe(struct qmp_session *s, const char *name, qmp_event_cb cb, void *data);
QMP_API void qmp_session_unsubscribe(struct qmp_session *s, uint64_t subscription);

QMP_API bool qmp_session_is_ready(const struct qmp_session *s);
QMP_API bool qmp_session_has_oob(const struct qmp_session *s);
/* The object behind "QMP" in the greeting; NULL before it came. Borrowed. */
QMP_API json_t *qmp_session_greeting(const struct qmp_session *s);

struct qmp_session_stats {
	uint64_t commands, replies, events;
	uint64_t stray_replies;   /* with an id that is not ours: dropped */
	uint64_t late_replies;    /* to commands that were cancelled or timed out: dropped */
	size_t in_flight, queued;
};
QMP_API void qmp_session_stats(const struct qmp_session *s, struct qmp_session_stats *ret);

/* Every message in and out, for a log. One hook a process; NULL turns it off. */
typedef void (*qmp_trace_cb)(void *data, const void *session, bool sent, const char *text, size_t len);
QMP_API void qmp_set_trace(qmp_trace_cb cb, void *data);

/* ---- The server side of one connection ---------------------------------------------------- */

/*
 * Speaks to one client as QEMU's monitor does: greeting, negotiation, errors in QEMU's words. While much waits
 * to be read by the client, none of its commands is taken: so replies are bounded by what the handler has under
 * way for it (see pause), and each of them is delivered, however large. A client that does not read is cut off by
 * the event with which more than max_output bytes would wait for it (a single message may be larger). What is no
 * JSON object is answered with an error, and the rest of its line dropped.
 */
struct qmp_peer;

struct qmp_peer_command {
	const char *name;
	json_t *arguments;       /* an object, never NULL; borrowed */
	json_t *id;              /* or NULL; borrowed: incref it to answer later */
	bool oob;                /* only where the client enabled it */
	int *fds;                /* passed with it; the handler takes what it wants (sets it to -1) */
	size_t n_fds;
};

struct qmp_peer_options {
	json_t *greeting;        /* the object behind "QMP"; borrowed */
	size_t max_message;      /* 0: QMP_MESSAGE_MAX */
	size_t max_output;       /* 0: 16 MiB */
	uint64_t negotiation_timeout_ms; /* 0: none */
	/* A command other than qmp_capabilities, after negotiation. */
	void (*on_command)(void *data, struct qmp_peer *p, const struct qmp_peer_command *command);
	/* The connection has ended; free the peer here or later. Not called by qmp_peer_free. */
	void (*on_close)(void *data, struct qmp_peer *p, const struct qmp_error *why);
	void *data;
};

/* Takes over FD on success, sends the greeting. */
QMP_API int qmp_peer_new(uv_loop_t *loop, int fd_consume, const struct qmp_peer_options *opts,
			 struct qmp_peer **ret, struct qmp_error *err);
QMP_API void qmp_peer_free(struct qmp_peer *p);
QMP_API void *qmp_peer_data(const struct qmp_peer *p);
/* Stops / goes on reading commands: how a client is held back. Commands read already are kept. */
QMP_API void qmp_peer_pause(struct qmp_peer *p);
QMP_API void qmp_peer_resume(struct qmp_peer *p);
/* Answers. VALUE may be NULL for {}. None fails: a client that is gone simply gets nothing. */
QMP_API void qmp_peer_return(struct qmp_peer *p, json_t *id, const json_t *value);
QMP_API void qmp_peer_return_raw(struct qmp_peer *p, json_t *id, const char *raw, size_t len);
QMP_API void qmp_peer_error(struct qmp_peer *p, json_t *id, const char *error_class, const char *desc);
/* A whole error object, as QEMU sent it or with further members beside class and desc. */
QMP_API void qmp_peer_error_raw(struct qmp_peer *p, json_t *id, const char *raw, size_t len);
/* A whole message (an event). Nothing is sent before negotiation. */
QMP_API void qmp_peer_send_raw(struct qmp_peer *p, const char *raw, size_t len);
QMP_API bool qmp_peer_is_ready(const struct qmp_peer *p);

/* ---- The guest agent ---------------------------------------------------------------------- */

/*
 * qemu-ga at the far end of a virtio-serial port (a UNIX socket on this side). It speaks QMP without greeting, events
 * and ids, and everything that it says is the guest's to say. So each command is preceded by a sync of its own
 * (guest-sync-delimited with a random id; what comes before its reply is dropped), one is under way at a time, and
 * nothing is read between two. An agent that does not answer the sync is sent nothing else.
 * Source of the protocol: QEMU qga/qapi-schema.json.
 */
#define QMP_AGENT_MESSAGE_MAX  ((size_t)1 << 20)  /* of a command, and by default of a reply */
#define QMP_AGENT_VALUES_MAX   ((size_t)32 << 10) /* JSON values in a reply, counted by its punctuation */
#define QMP_AGENT_COMMANDS_MAX 256                /* kept of guest-info */
#define QMP_AGENT_NAME_MAX     64

struct qmp_agent;

struct qmp_agent_options {
	size_t max_message;          /* of a reply; 0: QMP_AGENT_MESSAGE_MAX */
	uint64_t sync_timeout_ms;    /* 0: 5,000; never longer than the command's own */
	uint64_t command_timeout_ms; /* 0: 30,000 */
	size_t max_queued;           /* commands that wait; 0: 64; more: -EBUSY */
	/* Each time: a sync was answered (the reply of a command may still come), or a deadline passed in silence. */
	void (*on_answer)(void *data, bool answers);
	/* The connection has ended, for good: each waiter has had its reply before. Not called by qmp_agent_free. */
	void (*on_close)(void *data, const struct qmp_error *why);
	void *data;
};

/* Takes over FD (a connected stream socket) on success. Sends nothing. */
QMP_API int qmp_agent_new(uv_loop_t *loop, int fd_consume, const struct qmp_agent_options *opts,
			  struct qmp_agent **ret, struct qmp_error *err);
/* Fails every waiter with -ECANCELED, then closes; no callback after it returns. NULL is fine. */
QMP_API void qmp_agent_free(struct qmp_agent *a);
/* The agent is known to have left (VSERPORT_CHANGE): what it said last is still taken, then as for end of file. */
QMP_API void qmp_agent_hang_up(struct qmp_agent *a);
/*
 * Sends COMMAND (no fds, not oob) when its turn comes; its deadline counts from here. On success CB fires exactly once,
 * never from inside this call; reply->status as for a session, and -EMSGSIZE for a reply above the limits. A command
 * that has no reply on success (guest-shutdown, guest-suspend-...) ends with status 0 and no value: when the agent
 * answers a sync behind it, when the channel closes, or when its deadline passes in silence.
 * Errors: -EINVAL, -EMSGSIZE, -EBUSY, -ENOTCONN.
 */
QMP_API int qmp_agent_execute(struct qmp_agent *a, const struct qmp_command *command, qmp_reply_cb cb, void *data,
			      uint64_t *ret_serial, struct qmp_error *err);
/* The sync alone: whether it answers. TIMEOUT_MS 0: that of the options. */
QMP_API int qmp_agent_sync(struct qmp_agent *a, uint64_t timeout_ms, qmp_reply_cb cb, void *data,
			   uint64_t *ret_serial, struct qmp_error *err);
/* CB fires with -ECANCELED from the loop. A serial that has ended already is fine. */
QMP_API void qmp_agent_cancel(struct qmp_agent *a, uint64_t serial);
/*
 * What guest-info returned, cut to what may be kept: {"version": "7.2.22", "commands": {"guest-ping": true, ...}}, false
 * where a command is switched off. Whatever GUEST_INFO is, so new.
 */
QMP_API json_t *qmp_agent_info(const json_t *guest_info);

/* ---- query-qmp-schema --------------------------------------------------------------------- */

/*
 * What this QEMU takes. Type names are masked in it, so every look-up walks from a command or an event.
 */
struct qmp_schema;
/* REPLY: what query-qmp-schema returned, an array; borrowed for this call. */
QMP_API int qmp_schema_new(const json_t *reply, struct qmp_schema **ret, struct qmp_error *err);
QMP_API void qmp_schema_free(struct qmp_schema *s);
/*
 * "blockdev-mirror", "blockdev-mirror/copy-mode", "blockdev-add/driver=qcow2/discard-no-unref",
 * "migrate-set-capabilities/capabilities/capability=multifd": a command or event, then members; member=VALUE
 * asks whether an enum has VALUE, and goes on into that branch of a union or beside it. Arrays and alternates
 * are walked through.
 */
QMP_API bool qmp_schema_has(const struct qmp_schema *s, const char *path);
/*
 * [{"name","type","optional","choices"?}] of a command's arguments, or of the members at PATH in them ("file.file",
 * "nodes.0"; NULL: at the top), sorted by name; NULL: no such command. New. Of a union's branches that one is there
 * whose tag GIVEN (arguments so far, qmp_text or not; NULL: none) has.
 */
QMP_API json_t *qmp_schema_arguments(const struct qmp_schema *s, const char *command, const char *path,
				     const json_t *given);
/*
 * ARGUMENTS (an object) for COMMAND as this QEMU takes them; new. NULL where it would refuse them: an unknown command,
 * name or value (ERR has the nearest, and the choices), a wrong type, one that is missing. In it, qmp_text() stands
 * for what somebody wrote without a type, and becomes the one that the schema has there ("on" for a boolean, an
 * object with the keys "0", "1", ... for an array). JSON is checked and not converted.
 */
QMP_API json_t *qmp_schema_type_arguments(const struct qmp_schema *s, const char *command, const json_t *arguments,
					  struct qmp_error *err);
QMP_API json_t *qmp_text(const char *text);
/* The same without a schema: each text as JSON where it is JSON, else a string; new. NULL only when memory is out. */
QMP_API json_t *qmp_untyped(const json_t *value);
/* All names of commands (or events), sorted. New. */
QMP_API json_t *qmp_schema_commands(const struct qmp_schema *s);
QMP_API json_t *qmp_schema_events(const struct qmp_schema *s);

#ifdef __cplusplus
}
#endif
#endif
