/*
 * Memory that runs out at every place in turn: the N-th allocation of the library fails, for each N that a conversation
 * makes. Nothing crashes or leaks (the sanitizers say so), each command's callback fires once or execute refused it, and the
 * connection either works or says that it has ended.
 *
 * The linker puts these in the place of the allocator's functions, for the library and jansson's own calls of it alike.
 */
#include "proto/base.h"
#include "proto/qmp.h"
#include "tests/unit/check.h"

#include <fcntl.h>
#include <sys/socket.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
char *__real_strdup(const char *s);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);
char *__wrap_strdup(const char *s);
char *__real_strndup(const char *s, size_t n);
char *__wrap_strndup(const char *s, size_t n);

static long countdown = -1; /* allocations until one fails; negative: none does */

static bool failed; /* one did */

static bool fails(void)
{
	bool now = countdown >= 0 && countdown-- == 0;

	failed |= now;
	return now;
}

static void fail_at(long n)
{
	countdown = n;
	failed = false;
}

void *__wrap_malloc(size_t size)
{
	return fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t size)
{
	return fails() ? NULL : __real_realloc(p, size);
}

char *__wrap_strdup(const char *s)
{
	if (!fails())
		return __real_strdup(s);
	errno = ENOMEM;
	return NULL;
}

char *__wrap_strndup(const char *s, size_t n)
{
	if (!fails())
		return __real_strndup(s, n);
	errno = ENOMEM;
	return NULL;
}

static void *json_malloc(size_t size)
{
	return __wrap_malloc(size);
}

/* ---- A session and a peer that talk to one another ---- */

struct world {
	uv_loop_t loop;
	struct qmp_session *s;
	struct qmp_peer *p;
	int accepted, fired, events;
	bool closed;
};

static void on_reply(void *data, const struct qmp_reply *reply)
{
	struct world *w = data;

	w->fired++;
	CHECK(reply->status == 0 || reply->error.message[0]);
}

static void on_session_close(void *data, const struct qmp_error *why)
{
	struct world *w = data;

	CHECK(why->message[0]);
	CHECK_INT(w->fired, w->accepted); /* all before that */
	w->closed = true;
}

static void on_event(void *data, const struct qmp_event *event)
{
	struct world *w = data;

	CHECK_STR(event->name, "STOP");
	w->events++;
}

static void on_command(void *data, struct qmp_peer *p, const struct qmp_peer_command *c)
{
	static const char stop[] = "{\"event\": \"STOP\", \"data\": {\"a\": [18446744073709551615]}}";

	UNUSED(data);
	qmp_peer_send_raw(p, stop, sizeof stop - 1);
	if (streq(c->name, "fail"))
		qmp_peer_error(p, c->id, "GenericError", "\xff no");
	else if (streq(c->name, "raw"))
		qmp_peer_return_raw(p, c->id, "[1]", 3);
	else
		qmp_peer_return(p, c->id, c->arguments);
}

static void on_peer_close(void *data, struct qmp_peer *p, const struct qmp_error *why)
{
	struct world *w = data;

	CHECK(why->message[0]);
	qmp_peer_free(p);
	w->p = NULL;
}

static void execute(struct world *w, const char *name, json_t *arguments, int fd, bool raw)
{
	struct qmp_error err = {0};
	struct qmp_command c = {.name = name, .arguments = arguments, .fds = &fd, .n_fds = fd >= 0, .raw = raw};

	if (w->s && qmp_session_execute(w->s, &c, on_reply, w, NULL, &err) == 0)
		w->accepted++;
	else
		CHECK(!w->s || err.message[0]);
}

static bool open_world(struct world *w, json_t *greeting)
{
	struct qmp_session_options so = {.on_close = on_session_close, .data = w};
	struct qmp_peer_options po = {.greeting = greeting, .on_command = on_command, .on_close = on_peer_close, .data = w};
	int pair[2];

	CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
	if (qmp_session_new(&w->loop, pair[0], &so, &w->s, NULL) < 0) {
		close(pair[0]);
		w->s = NULL;
	}
	if (qmp_peer_new(&w->loop, pair[1], &po, &w->p, NULL) < 0) {
		close(pair[1]);
		w->p = NULL;
	}
	return w->s && w->p;
}

/* The whole conversation; how it ended does not matter, that it is clean does. */
static void converse(json_t *greeting, json_t *arguments, int fd)
{
	struct world w = {0};

	uv_loop_init(&w.loop);
	if (open_world(&w, greeting)) {
		(void)qmp_session_subscribe(w.s, "STOP", on_event, &w);
		execute(&w, "one", arguments, -1, false);
		execute(&w, "getfd", arguments, fd, false);
		execute(&w, "fail", NULL, -1, false);
		execute(&w, "raw", NULL, -1, true);
		for (int i = 0; i < 200 && w.fired < w.accepted && !w.closed; i++)
			uv_run(&w.loop, UV_RUN_NOWAIT);
		/* Else a reply was lost (jansson calls a lack of memory a syntax error): its deadline would come. */
		if (!failed || w.closed)
			CHECK_INT(w.fired, w.accepted);
	}
	qmp_session_free(w.s);
	CHECK_INT(w.fired, w.accepted);
	qmp_peer_free(w.p);
	uv_run(&w.loop, UV_RUN_DEFAULT);
	CHECK_INT(uv_loop_close(&w.loop), 0);
}

static int count_open_fds(void)
{
	int n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void test_conversation(void)
{
	json_t *greeting = json_pack("{s:{}, s:[s]}", "version", "capabilities", "oob");
	json_t *arguments = json_pack("{s:{s:s}, s:[i]}", "big", "$number", "18446744073709551615", "list", 1);
	int fd = open("/dev/null", O_RDONLY), before;
	long n = 0;

	converse(greeting, arguments, fd); /* libuv opens some for the process, once */
	before = count_open_fds();
	do {
		fail_at(n++);
		converse(greeting, arguments, fd);
		CHECK_INT(count_open_fds(), before);
	} while (failed);
	countdown = -1;
	CHECK(n > 100); /* that many places there are at least */
	json_decref(greeting);
	json_decref(arguments);
	close(fd);
}

/* ---- What has no connection ---- */

static void use_schema(const json_t *reply, const json_t *given)
{
	struct qmp_error err = {0};
	struct qmp_schema *s;
	json_t *value;

	if (qmp_schema_new(reply, &s, &err) < 0) {
		CHECK(err.message[0]);
		return;
	}
	(void)qmp_schema_has(s, "blockdev-add/driver=qcow2/lazy-refcounts");
	json_decref(qmp_schema_arguments(s, "blockdev-add", NULL, given));
	json_decref(qmp_schema_commands(s));
	value = qmp_schema_type_arguments(s, "blockdev-add", given, &err);
	CHECK(value ? json_object_size(value) == json_object_size(given) : err.message[0]); /* all of them or none */
	json_decref(value);
	value = qmp_untyped(given);
	CHECK(!value || json_object_size(value) == json_object_size(given));
	json_decref(value);
	qmp_schema_free(s);
}

static void use_json(void)
{
	struct qmp_error err = {0};
	json_t *value = qmp_json_decode("{\"a\":[1e400,\"x\"],\"b\":inf}", 25, &err), *text = qmp_json_text("a\xff");

	CHECK(value || err.message[0]);
	if (value)
		free(qmp_json_encode(value, JSON_COMPACT, NULL));
	json_decref(value);
	json_decref(text);
}

static void test_json_and_schema(void)
{
	json_t *reply = json_load_file(SOURCE_DIR "/tests/unit/data/schema.json", 0, NULL);
	json_t *given = json_pack("{s:o, s:{s:o, s:o}, s:o}", "driver", qmp_text("qcow2"), "file", "driver", qmp_text("file"),
				  "filename", qmp_text("/x"), "lazy-refcounts", qmp_text("on"));
	long n = 0;

	CHECK(reply && given);
	do {
		fail_at(n++);
		use_json();
		use_schema(reply, given);
	} while (failed);
	countdown = -1;
	json_decref(reply);
	json_decref(given);
}

int main(void)
{
	json_set_alloc_funcs(json_malloc, free);
	RUN(test_conversation);
	RUN(test_json_and_schema);
	return 0;
}
