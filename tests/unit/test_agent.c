/*
 * The guest agent's dialect against a scripted agent on a socketpair: silent, lying, flooding, cut anywhere.
 */
#include "proto/base.h"
#include "proto/qmp.h"
#include "tests/unit/check.h"
#include "tests/unit/dribble.h"

#include <malloc.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/socket.h>

#define SOON 40 /* ms: when a deadline passes that is to pass */

struct world {
	uv_loop_t loop;
	struct qmp_agent *a;
	int guest; /* the agent's end */
	int replies, answered, silent, closed;
	int status[80];
	char value[400], desc[400];
	bool free_in_reply, free_in_answer;
};

static void drop_agent(struct world *w)
{
	qmp_agent_free(w->a);
	w->a = NULL;
}

static void on_answer(void *data, bool answers)
{
	struct world *w = data;

	w->answered += answers;
	w->silent += !answers;
	if (w->free_in_answer)
		drop_agent(w);
}

static void on_close(void *data, const struct qmp_error *why)
{
	struct world *w = data;

	CHECK(why->code < 0);
	w->closed++;
}

static void on_reply(void *data, const struct qmp_reply *reply)
{
	struct world *w = data;

	w->status[w->replies++] = reply->status;
	snprintf(w->value, sizeof w->value, "%.*s", (int)reply->raw_len, reply->raw ? reply->raw : "");
	snprintf(w->desc, sizeof w->desc, "%s", reply->error.message);
	CHECK((reply->status == 0) == (reply->error.kind == QMP_ERR_NONE));
	if (w->free_in_reply)
		drop_agent(w);
}

static void open_world(struct world *w, size_t max_message)
{
	struct qmp_agent_options o = {.max_message = max_message,
				      .sync_timeout_ms = 60000, /* where silence is meant, the command says how long */
				      .max_queued = 4,
				      .on_answer = on_answer,
				      .on_close = on_close,
				      .data = w};
	int pair[2];

	memset(w, 0, sizeof *w);
	uv_loop_init(&w->loop);
	CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
	w->guest = pair[1];
	CHECK_INT(qmp_agent_new(&w->loop, pair[0], &o, &w->a, NULL), 0);
}

static void close_world(struct world *w)
{
	drop_agent(w);
	uv_run(&w->loop, UV_RUN_DEFAULT);
	CHECK_INT(uv_loop_close(&w->loop), 0);
	if (w->guest >= 0)
		close(w->guest);
}

static void say_bytes(struct world *w, const char *text, size_t len)
{
	CHECK_INT(write(w->guest, text, len), len);
}

static void say(struct world *w, const char *fmt, ...)
{
	char text[1000];
	va_list ap;

	va_start(ap, fmt);
	say_bytes(w, text, (size_t)vsnprintf(text, sizeof text, fmt, ap));
	va_end(ap);
}

/* Turns the loop until COUNTER reaches N; the test's own time-out ends a hang. */
static void until(struct world *w, const int *counter, int n)
{
	while (*counter < n) {
		struct pollfd wake = {uv_backend_fd(&w->loop), POLLIN, 0};
		uv_run(&w->loop, UV_RUN_NOWAIT);
		if (*counter < n)
			(void)poll(&wake, 1, uv_backend_timeout(&w->loop));
	}
}

/* Turns it until nothing is left to do at once. */
static void turn(struct world *w)
{
	for (int i = 0; i < 4; i++)
		uv_run(&w->loop, UV_RUN_NOWAIT);
}

/* What the agent has been sent; turns the loop until there is something. */
static char *heard(struct world *w)
{
	static char text[70000];
	ssize_t n;

	while ((n = recv(w->guest, text, sizeof text - 1, MSG_DONTWAIT)) < 0 && errno == EAGAIN)
		uv_run(&w->loop, UV_RUN_NOWAIT);
	CHECK(n >= 0);
	text[n] = '\0';
	return text;
}

/* The id of the sync that TEXT begins with. */
static long long sync_in(const char *text)
{
	static const char begins[] = "\xff{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":";
	long long id;

	CHECK(strncmp(text, begins, sizeof begins - 1) == 0);
	id = strtoll(text + sizeof begins - 1, NULL, 10);
	CHECK(id >= 0 && id < 1LL << 53);
	return id;
}

static void execute(struct world *w, const char *name, uint64_t timeout_ms)
{
	struct qmp_command c = {.name = name, .timeout_ms = timeout_ms};
	int before = w->replies;

	CHECK_INT(qmp_agent_execute(w->a, &c, on_reply, w, NULL, NULL), 0);
	CHECK_INT(w->replies, before); /* never from inside */
}

static void answer_sync(struct world *w)
{
	say(w, "\xff{\"return\": %lld}\n", sync_in(heard(w)));
}

/* A whole exchange that goes well: what follows a failure must work. */
static void works(struct world *w)
{
	int before = w->replies;

	execute(w, "guest-ping", 0);
	answer_sync(w);
	CHECK_STR(heard(w), "{\"execute\":\"guest-ping\"}\n");
	say(w, "{\"return\": {\"fresh\": true}}\n");
	until(w, &w->replies, before + 1);
	CHECK_INT(w->status[before], 0);
	CHECK_STR(w->value, "{\"fresh\": true}");
}

static void test_reply_and_error(void)
{
	struct world w;
	json_auto_t *arguments = json_pack("{s:i}", "pid", 7);
	struct qmp_command c = {.name = "guest-exec-status", .arguments = arguments};

	open_world(&w, 0);
	CHECK_INT(qmp_agent_execute(w.a, &c, on_reply, &w, NULL, NULL), 0);
	answer_sync(&w);
	CHECK_STR(heard(&w), "{\"execute\":\"guest-exec-status\",\"arguments\":{\"pid\":7}}\n");
	CHECK_INT(w.answered, 1);
	say(&w, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such process\"}}\n");
	until(&w, &w.replies, 1);
	CHECK_INT(w.status[0], -EREMOTEIO);
	CHECK_STR(w.desc, "guest-exec-status: no such process");
	works(&w);
	close_world(&w);
}

static void test_sync_alone(void)
{
	struct world w;

	open_world(&w, 0);
	CHECK_INT(qmp_agent_sync(w.a, 0, on_reply, &w, NULL, NULL), 0);
	answer_sync(&w);
	until(&w, &w.replies, 1);
	CHECK_INT(w.status[0], 0);
	CHECK_INT(w.answered, 1);
	works(&w);
	close_world(&w);
}

/* What stands before the delimiter is dropped: late replies, an agent's complaint about the 0xFF, an old sync's reply. */
static void test_stale_replies(void)
{
	struct world w;
	long long id;

	open_world(&w, 0);
	say(&w, "{\"return\": {\"stale\": 1}}\n{\"ret");
	execute(&w, "guest-ping", 0);
	id = sync_in(heard(&w));
	say(&w, "urn\": {}}\xff{\"return\": %lld}\n{\"return\": {\"stale\": 2}}\n", id ^ 1);
	say(&w, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error\"}}\n\xff{\"half\xff{\"return\": %lld}", id);
	CHECK_STR(heard(&w), "{\"execute\":\"guest-ping\"}\n");
	say(&w, "{\"return\": {}}\n");
	until(&w, &w.replies, 1);
	CHECK_INT(w.status[0], 0);
	CHECK_STR(w.value, "{}");
	close_world(&w);
}

static void test_silence_before_and_after_the_sync(void)
{
	struct world w;
	long long id;

	open_world(&w, 0);
	execute(&w, "guest-ping", SOON);
	id = sync_in(heard(&w));
	until(&w, &w.replies, 1);
	CHECK_INT(w.status[0], -ETIMEDOUT);
	CHECK_INT(w.silent, 1);
	CHECK_CONTAINS(w.desc, "nothing else was sent");
	CHECK_INT(recv(w.guest, &id, 1, MSG_DONTWAIT), -1);

	execute(&w, "guest-slow", SOON);
	answer_sync(&w);
	CHECK_STR(heard(&w), "{\"execute\":\"guest-slow\"}\n");
	until(&w, &w.replies, 2);
	CHECK_INT(w.status[1], -ETIMEDOUT);
	CHECK_CONTAINS(w.desc, "unknown");
	CHECK_INT(w.silent, 2);
	say(&w, "\xff{\"return\": %lld}\n{\"return\": {\"late\": true}}\n", id);
	works(&w);
	close_world(&w);
}

/* A deadline is for the whole: no byte renews it. */
static void test_byte_by_byte(void)
{
	static const char text[] = "{\"return\": {\"slow\": \"and more, and more\"}}\n";
	struct dribble d;
	struct world w;

	open_world(&w, 0);
	execute(&w, "guest-ping", SOON);
	(void)sync_in(heard(&w));
	dribble(&d, &w.loop, w.guest, text);
	until(&w, &w.replies, 1);
	CHECK(dribble_end(&d) > 0);
	CHECK_INT(w.status[0], -ETIMEDOUT);

	execute(&w, "guest-slow", SOON);
	answer_sync(&w);
	CHECK_STR(heard(&w), "{\"execute\":\"guest-slow\"}\n");
	dribble(&d, &w.loop, w.guest, text);
	until(&w, &w.replies, 2);
	CHECK(dribble_end(&d) > 0);
	CHECK_INT(w.status[1], -ETIMEDOUT);
	works(&w);
	close_world(&w);
}

/* None of these is the answer to the sync, whatever it looks like. */
static void test_lies_to_the_sync(void)
{
	static const char *const lies[] = {
		"{\"return\": %lld}\n",		       "\xff{\"return\": \"%lld\"}",
		"\xff{\"return\": %lld5}",	       "\xff{\"return\": [%lld]}",
		"\xff{\"return\": {\"id\": %lld}}",    "\xff{\"error\": %lld}",
		"\xff%lld",			       "\xff{\"return\": %lld",
		"\xff\xff\xff",			       "\xff{\"return\": %lld, \"return\": 1}",
		"\xff]]]]%lld{}",		       "\xff{\"return\": {\"$number\": \"%lld\"}}",
		"\xff{\"return\": %lld.0}",	       "\xff{\"x\": \"%lld\\\\\\",
	};

	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		struct world w;
		open_world(&w, 0);
		execute(&w, "guest-ping", SOON);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		say(&w, lies[i], sync_in(heard(&w)));
#pragma GCC diagnostic pop
		until(&w, &w.replies, 1);
		CHECK_INT(w.status[0], -ETIMEDOUT);
		CHECK_INT(w.answered, 0);
		works(&w);
		close_world(&w);
	}
}

static void lie(const char *text, size_t len, size_t max_message, int status)
{
	struct world w;

	open_world(&w, max_message);
	execute(&w, "guest-ping", 0);
	answer_sync(&w);
	(void)heard(&w);
	for (size_t at = 0; at < len && w.replies == 0;) {
		ssize_t n = write(w.guest, text + at, len - at);
		at += n > 0 ? (size_t)n : 0;
		uv_run(&w.loop, UV_RUN_NOWAIT);
	}
	until(&w, &w.replies, 1);
	CHECK_INT(w.status[0], status);
	/* The rest of it, and a second reply that nobody asked for, fall to the next sync. */
	works(&w);
	close_world(&w);
}

static void test_lies_to_a_command(void)
{
	static const char *const lies[] = {
		"garbage",
		"[]",
		"{}",
		"{\"neither\": 1}",
		"{\"return\": {}, \"return\": {}}",
		"{\"return\": {}, \"error\": {}}",
		"{\"return\": tru}{\"return\": {}}",
		"{\"return\": [}]}",
	};
	size_t many = 2 * QMP_AGENT_VALUES_MAX;
	_cleanup_free_ char *text = malloc(many * 3 + 100);

	for (size_t i = 0; i < ARRAY_SIZE(lies); i++)
		lie(lies[i], strlen(lies[i]), 0, -EPROTO);
	lie("{\"error\": 1}{\"return\": {\"second\": 1}}", 37, 0, -EREMOTEIO);
	memset(text, 'x', 5000);
	memcpy(text, "{\"return\": \"", 12);
	lie(text, 5000, 4096, -EMSGSIZE);
	memset(text, '[', 5000);
	memcpy(text, "{\"return\":", 10);
	lie(text, 5000, 0, -EMSGSIZE);
	strcpy(text, "{\"return\":[0");
	for (size_t i = 0; i < many; i++)
		memcpy(text + 12 + 2 * i, ",0", 2);
	strcpy(text + 12 + 2 * many, "]}");
	lie(text, strlen(text), 0, -EMSGSIZE);
}

enum cut { IN_TWO, SILENCE, END_OF_FILE };

/* All that an agent says in one exchange, cut behind each of its bytes. */
static void cut_everywhere(enum cut how)
{
	for (size_t at = 0;; at++) {
		struct world w;
		char said[2][100];
		size_t n[2], total = 0;
		open_world(&w, 0);
		execute(&w, "guest-ping", how == SILENCE ? SOON : 0);
		n[0] = (size_t)snprintf(said[0], sizeof said[0], "old\xff{\"return\": %lld}", sync_in(heard(&w)));
		n[1] = (size_t)snprintf(said[1], sizeof said[1], "{\"return\": [\"a}\\\"\"]}");
		for (int i = 0; i < 2 && (total <= at || how == IN_TWO); i++) {
			size_t first = at < total ? 0 : at - total;
			if (first > n[i])
				first = n[i];
			if (i == 1)
				CHECK_STR(heard(&w), "{\"execute\":\"guest-ping\"}\n");
			say_bytes(&w, said[i], first);
			turn(&w);
			if (how == IN_TWO)
				say_bytes(&w, said[i] + first, n[i] - first);
			total += n[i];
		}
		if (how == END_OF_FILE) {
			close(w.guest);
			w.guest = -1;
			until(&w, &w.closed, 1);
		}
		until(&w, &w.replies, 1);
		CHECK_INT(w.replies, 1);
		CHECK_INT(w.status[0], how == IN_TWO || at >= n[0] + n[1] ? 0
				       : how == SILENCE			  ? -ETIMEDOUT
									  : -ECONNRESET);
		if (how == SILENCE)
			works(&w);
		close_world(&w);
		if (at >= n[0] + n[1])
			return;
	}
}

static void test_cut_at_every_byte(void)
{
	cut_everywhere(IN_TWO);
	cut_everywhere(SILENCE);
	cut_everywhere(END_OF_FILE);
}

/* There only where a sanitizer has taken malloc's place. */
size_t __sanitizer_get_current_allocated_bytes(void) __attribute__((weak));

/* Bytes that this process has allocated. */
static size_t allocated(void)
{
	struct mallinfo2 m;

	if (__sanitizer_get_current_allocated_bytes)
		return __sanitizer_get_current_allocated_bytes();
	m = mallinfo2();
	return m.uordblks + m.hblkhd;
}

/* Says TEXT as often as the socket takes it now; how many bytes. */
static size_t flood(struct world *w, const char *text, size_t len)
{
	ssize_t n, total = 0;

	while ((n = write(w->guest, text, len)) > 0)
		total += n;
	CHECK(errno == EAGAIN);
	return (size_t)total;
}

static void test_a_flood_between_exchanges_is_not_read(void)
{
	struct world w;
	char text[4096];

	memset(text, '{', sizeof text);
	open_world(&w, 0);
	works(&w);
	CHECK(flood(&w, text, sizeof text) > 0);
	turn(&w);
	CHECK_INT(flood(&w, text, 1), 0);
	close_world(&w);
}

/* BEGIN, then TEXT for as long as the exchange lasts: it ends, and costs no more memory than MOST. */
static void flood_exchange(bool synced, const char *begin, const char *text, size_t len, size_t most, int status)
{
	struct world w;
	size_t said = 0, before;

	open_world(&w, 16 * 1024);
	execute(&w, "guest-ping", status == -ETIMEDOUT ? 2 * SOON : 0);
	if (synced)
		answer_sync(&w);
	(void)heard(&w);
	before = allocated();
	say(&w, "%s", begin);
	while (w.replies == 0) {
		said += flood(&w, text, len);
		CHECK(allocated() - before <= most);
		uv_run(&w.loop, UV_RUN_NOWAIT);
	}
	CHECK_INT(w.status[0], status);
	CHECK(said > most);
	close_world(&w);
}

static void test_floods(void)
{
	static char text[65536];
	const size_t little = 16 * 1024, much = 64 * 1024;

	memset(text, 'x', sizeof text);
	flood_exchange(false, "", text, sizeof text, little, -ETIMEDOUT);
	flood_exchange(false, "\xff{\"return\": \"", text, sizeof text, little, -ETIMEDOUT);
	flood_exchange(true, "", text, sizeof text, much, -EPROTO);
	flood_exchange(true, "{\"return\": \"", text, sizeof text, much, -EMSGSIZE);
	memset(text, 0xff, sizeof text);
	flood_exchange(false, "", text, sizeof text, little, -ETIMEDOUT);
	flood_exchange(true, "", text, sizeof text, much, -ETIMEDOUT);
	memset(text, ' ', sizeof text);
	flood_exchange(true, "", text, sizeof text, much, -ETIMEDOUT);
	memset(text, '{', sizeof text);
	flood_exchange(true, "", text, sizeof text, much, -EMSGSIZE);
	for (size_t i = 0; i < sizeof text; i += 16)
		memcpy(text + i, "\xff{\"return\": 123}", 16);
	flood_exchange(false, "", text, sizeof text, little, -ETIMEDOUT);
}

/* Who does not read gets a bounded amount, then the channel is given up. */
static void test_an_agent_that_does_not_read(void)
{
	struct world w;
	json_auto_t *arguments = json_object();
	_cleanup_free_ char *big = malloc(QMP_AGENT_MESSAGE_MAX + 1);
	struct qmp_command c = {.name = "guest-file-write", .arguments = arguments, .timeout_ms = 100};

	memset(big, 'A', QMP_AGENT_MESSAGE_MAX);
	big[QMP_AGENT_MESSAGE_MAX - 1000] = '\0';
	json_object_set_new(arguments, "buf-b64", json_string(big));
	open_world(&w, 0);
	CHECK_INT(qmp_agent_execute(w.a, &c, on_reply, &w, NULL, NULL), 0);
	answer_sync(&w);
	execute(&w, "guest-ping", 0);
	until(&w, &w.closed, 1);
	CHECK_INT(w.replies, 2);
	CHECK_INT(w.status[0], -ETIMEDOUT);
	CHECK_INT(w.status[1], -ECONNRESET);
	CHECK_INT(qmp_agent_execute(w.a, &c, on_reply, &w, NULL, NULL), -ENOTCONN);
	close_world(&w);

	json_object_clear(arguments);
	memset(big, 'A', QMP_AGENT_MESSAGE_MAX);
	big[QMP_AGENT_MESSAGE_MAX] = '\0';
	json_object_set_new(arguments, "buf-b64", json_string(big));
	open_world(&w, 0);
	CHECK_INT(qmp_agent_execute(w.a, &c, on_reply, &w, NULL, NULL), -EMSGSIZE);
	close_world(&w);
}

enum shutdown { REFUSED, TAKEN, GONE, SAYS_NOTHING, SAYS_SOMETHING };

static void shutdown_that_is(enum shutdown what, int status)
{
	struct world w;
	/* No 0xFF: a real agent complains of one with an error, which would be taken for the command's. */
	static const char begins[] = "{\"execute\":\"guest-shutdown\"}\n"
				     "{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":";
	const char *text;

	open_world(&w, 0);
	execute(&w, "guest-shutdown", 40);
	answer_sync(&w);
	text = heard(&w);
	CHECK(strncmp(text, begins, sizeof begins - 1) == 0);
	if (what == REFUSED)
		say(&w, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\n");
	else if (what == TAKEN)
		say(&w, "\xff{\"return\": %lld}\n", strtoll(text + sizeof begins - 1, NULL, 10));
	else if (what == SAYS_SOMETHING)
		say(&w, "{\"return\": {}}\n");
	else if (what == GONE)
		shutdown(w.guest, SHUT_RDWR);
	until(&w, &w.replies, 1);
	CHECK_INT(w.status[0], status);
	if (status == 0)
		CHECK_STR(w.value, "");
	if (what != GONE)
		works(&w);
	close_world(&w);
}

static void test_no_reply_is_success_of_a_shutdown(void)
{
	shutdown_that_is(REFUSED, -EREMOTEIO);
	shutdown_that_is(TAKEN, 0);
	shutdown_that_is(GONE, 0);
	shutdown_that_is(SAYS_NOTHING, 0);
	shutdown_that_is(SAYS_SOMETHING, 0);
}

/* But it is none where the agent was not there to take it. */
static void test_a_shutdown_without_a_sync_fails(void)
{
	struct world w;

	open_world(&w, 0);
	execute(&w, "guest-shutdown", SOON);
	until(&w, &w.replies, 1);
	CHECK_INT(w.status[0], -ETIMEDOUT);
	execute(&w, "guest-shutdown", 0);
	turn(&w);
	shutdown(w.guest, SHUT_RDWR);
	until(&w, &w.closed, 1);
	CHECK_INT(w.status[1], -ECONNRESET);
	close_world(&w);
}

static void test_one_at_a_time(void)
{
	struct world w;
	struct qmp_command c = {.name = "guest-ping"};

	open_world(&w, 0);
	for (int i = 0; i < 4; i++)
		execute(&w, "guest-ping", 0);
	CHECK_INT(qmp_agent_execute(w.a, &c, on_reply, &w, NULL, NULL), -EBUSY);
	for (int i = 0; i < 4; i++) {
		answer_sync(&w);
		CHECK_STR(heard(&w), "{\"execute\":\"guest-ping\"}\n");
		CHECK_INT(recv(w.guest, &c, 1, MSG_DONTWAIT), -1);
		say(&w, "{\"return\": {}}\n");
		until(&w, &w.replies, i + 1);
		CHECK_INT(w.status[i], 0);
	}
	c.fds = &w.guest;
	c.n_fds = 1;
	CHECK_INT(qmp_agent_execute(w.a, &c, on_reply, &w, NULL, NULL), -EINVAL);
	close_world(&w);
}

static void test_cancel(void)
{
	struct world w;
	struct qmp_command c = {.name = "guest-ping"};
	uint64_t serials[3];

	open_world(&w, 0);
	for (int i = 0; i < 3; i++)
		CHECK_INT(qmp_agent_execute(w.a, &c, on_reply, &w, &serials[i], NULL), 0);
	(void)heard(&w);
	qmp_agent_cancel(w.a, serials[0]); /* in its sync */
	qmp_agent_cancel(w.a, serials[2]); /* queued */
	CHECK_INT(w.replies, 0);
	until(&w, &w.replies, 2);
	answer_sync(&w);
	(void)heard(&w);
	qmp_agent_cancel(w.a, serials[1]); /* asked */
	qmp_agent_cancel(w.a, serials[1]);
	until(&w, &w.replies, 3);
	for (int i = 0; i < 3; i++)
		CHECK_INT(w.status[i], -ECANCELED);
	works(&w);
	close_world(&w);
}

static void test_free_from_callbacks(void)
{
	struct world w;

	open_world(&w, 0);
	w.free_in_reply = true;
	execute(&w, "guest-ping", 0);
	execute(&w, "guest-ping", 0);
	answer_sync(&w);
	(void)heard(&w);
	say(&w, "{\"return\": {}}\n{\"return\": {}}\n");
	until(&w, &w.replies, 2);
	CHECK_INT(w.status[0], 0);
	CHECK_INT(w.status[1], -ECANCELED);
	close_world(&w);

	open_world(&w, 0);
	w.free_in_answer = true;
	execute(&w, "guest-ping", 0);
	answer_sync(&w);
	until(&w, &w.replies, 1);
	CHECK_INT(w.status[0], -ECANCELED);
	CHECK_INT(w.closed, 0);
	close_world(&w);
}

/* The port was closed: what came before still counts, the rest ends at once and not at its deadline. */
static void test_hang_up(void)
{
	struct world w;

	open_world(&w, 0);
	execute(&w, "guest-ping", 0);
	execute(&w, "guest-ping", 0);
	answer_sync(&w);
	(void)heard(&w);
	say(&w, "{\"return\": {}}\n");
	qmp_agent_hang_up(w.a);
	until(&w, &w.closed, 1);
	CHECK_INT(w.replies, 2);
	CHECK_INT(w.status[0], 0);
	CHECK_INT(w.status[1], -ECONNRESET);
	close_world(&w);
}

static void test_guest_info(void)
{
	json_auto_t *said = json_pack("{s:s, s:[{s:s, s:b}, {s:s, s:b}, {s:i}, i, {s:s}]}", "version", "7.2\x1b[2J",
				      "supported_commands", "name", "guest-ping", "enabled", 1, "name", "guest-exec",
				      "enabled", 0, "name", 5, 7, "name", "guest-x");
	json_auto_t *want = json_pack("{s:s, s:{s:b, s:b}}", "version", "7.2\\x1b[2J", "commands", "guest-ping", 1,
				      "guest-exec", 0);
	json_auto_t *info = qmp_agent_info(said), *many, *none = qmp_agent_info(NULL);
	json_t *list = json_array();
	char name[100];

	CHECK(said && json_equal(info, want));
	CHECK_INT(json_object_size(json_object_get(none, "commands")), 0);
	for (int i = 0; i < 2 * QMP_AGENT_COMMANDS_MAX; i++) {
		snprintf(name, sizeof name, "%0*d", i % 90 + 5, i);
		json_array_append_new(list, json_pack("{s:s, s:b}", "name", name, "enabled", 1));
	}
	json_object_set_new(said, "supported_commands", list);
	many = qmp_agent_info(said);
	CHECK_INT(json_object_size(json_object_get(many, "commands")), QMP_AGENT_COMMANDS_MAX);
}

int main(void)
{
	RUN(test_reply_and_error);
	RUN(test_sync_alone);
	RUN(test_stale_replies);
	RUN(test_silence_before_and_after_the_sync);
	RUN(test_byte_by_byte);
	RUN(test_lies_to_the_sync);
	RUN(test_lies_to_a_command);
	RUN(test_cut_at_every_byte);
	RUN(test_a_flood_between_exchanges_is_not_read);
	RUN(test_floods);
	RUN(test_an_agent_that_does_not_read);
	RUN(test_no_reply_is_success_of_a_shutdown);
	RUN(test_a_shutdown_without_a_sync_fails);
	RUN(test_one_at_a_time);
	RUN(test_cancel);
	RUN(test_free_from_callbacks);
	RUN(test_hang_up);
	RUN(test_guest_info);
	return 0;
}
