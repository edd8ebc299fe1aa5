#include "qmpctl/console.h"
#include "launcher/console.h"
#include "proto/base.h"
#include "proto/base64.h"
#include "tests/unit/check.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

/* A console between us and a socket that stands for QEMU's, in a guest that is no more than it takes. */
struct world {
	uv_loop_t loop;
	struct keeper keeper;
	struct vm vm;
	struct guest guest;
	int qemu;
	json_t *result;
	struct qmp_error error;
};

static void on_console(void *data, const char *id, const char *text, size_t len)
{
	struct world *w = data;

	UNUSED(text);
	for (struct op_call *c = w->guest.watching, *next; c; c = next) {
		next = c->next;
		c->on_console(c, id, len);
	}
}

static void open_console(struct world *w)
{
	int pair[2];

	CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
	CHECK_INT(vm_console_new(&w->loop, w->vm.run_dir, "con0", pair[0], on_console, w, &w->vm.consoles, NULL), 0);
	w->qemu = pair[1];
}

static void world_init(struct world *w)
{
	*w = (struct world){0};
	CHECK_INT(uv_loop_init(&w->loop), 0);
	w->keeper.loop = &w->loop;
	w->vm.name = "a";
	w->vm.state = VM_RUNNING;
	w->vm.run_dir = open("/dev/null", O_RDONLY | O_CLOEXEC); /* no folder: no log */
	w->vm.running = json_pack("{s:[{s:s}]}", "consoles", "id", "con0");
	w->guest.keeper = &w->keeper;
	w->guest.vm = &w->vm;
	open_console(w);
}

static void world_deinit(struct world *w)
{
	vm_console_free(w->vm.consoles);
	(void)close(w->qemu);
	(void)close(w->vm.run_dir);
	json_decref(w->vm.running);
	json_decref(w->result);
	uv_run(&w->loop, UV_RUN_DEFAULT);
	CHECK_INT(uv_loop_close(&w->loop), 0);
}

static void on_done(void *data, json_t *result, const struct qmp_error *why)
{
	struct world *w = data;

	json_decref(w->result);
	w->result = why ? NULL : json_incref(result);
	w->error = why ? *why : (struct qmp_error){0};
}

static void ask(struct world *w, const char *operation, json_t *args)
{
	json_decref(w->result);
	w->result = NULL;
	w->error = (struct qmp_error){0};
	op_run(&w->guest, op_find(operation), args, on_done, w);
	json_decref(args);
}

static void until_answered(struct world *w)
{
	while (!w->result && w->error.kind == QMP_ERR_NONE)
		uv_run(&w->loop, UV_RUN_ONCE);
}

static const char *cursor_of(const struct world *w)
{
	return json_string_value(json_object_get(w->result, "cursor"));
}

/* Returns when the console has read it. */
static void say(struct world *w, const char *text, size_t len)
{
	uint64_t want = vm_console_said(w->vm.consoles) + len;

	while (len > 0) {
		ssize_t n = write(w->qemu, text, len);
		text += n > 0 ? n : 0;
		len -= n > 0 ? (size_t)n : 0;
		uv_run(&w->loop, UV_RUN_NOWAIT);
	}
	while (vm_console_said(w->vm.consoles) < want)
		uv_run(&w->loop, UV_RUN_NOWAIT);
}

static void check_data(struct world *w, const char *want)
{
	_cleanup_free_ char *text = NULL;
	size_t len;

	CHECK_INT(qmp_base64_decode(json_string_value(json_object_get(w->result, "data")), &text, &len), 0);
	CHECK_STR(text, want);
}

static void test_a_piece_comes_when_something_is_said(void)
{
	struct world w;

	world_init(&w);
	say(&w, "before", 6);
	ask(&w, "qmpctl-console", json_object());
	check_data(&w, "");
	ask(&w, "qmpctl-console", json_pack("{s:s}", "cursor", cursor_of(&w)));
	uv_run(&w.loop, UV_RUN_NOWAIT);
	CHECK(!w.result);
	CHECK_INT(write(w.qemu, "abc", 3), 3);
	until_answered(&w);
	check_data(&w, "abc");
	world_deinit(&w);
}

static void test_the_last_lines(void)
{
	static const struct {
		int lines;
		const char *want;
	} cases[] = {{0, ""}, {1, "three"}, {2, "two\nthree"}, {3, "one\ntwo\nthree"}, {9, "one\ntwo\nthree"}};
	struct world w;

	world_init(&w);
	say(&w, "one\ntwo\nthree", 13);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		ask(&w, "qmpctl-console", json_pack("{s:i}", "tail", cases[i].lines));
		check_data(&w, cases[i].want);
	}
	say(&w, "\n", 1);
	ask(&w, "qmpctl-console", json_pack("{s:i}", "tail", 1));
	check_data(&w, "three\n");
	world_deinit(&w);
}

static void test_what_is_kept_no_more_is_counted(void)
{
	static char much[1 << 20];
	json_auto_t *first = NULL;
	struct world w;
	json_int_t lost;

	world_init(&w);
	ask(&w, "qmpctl-console", json_object());
	first = json_string(cursor_of(&w));
	for (size_t i = 0; i < sizeof much; i++)
		much[i] = (char)('a' + i % 26);
	say(&w, much, sizeof much);
	ask(&w, "qmpctl-console", json_pack("{s:O}", "cursor", first));
	lost = json_integer_value(json_object_get(w.result, "lost"));
	CHECK(lost > 0 && lost < (json_int_t)sizeof much - VM_CONSOLE_RECENT + 1);
	much[sizeof much - 1] = '\0';
	{
		_cleanup_free_ char *text = NULL;
		size_t len;
		CHECK_INT(qmp_base64_decode(json_string_value(json_object_get(w.result, "data")), &text, &len), 0);
		CHECK_INT(lost + (json_int_t)len, sizeof much);
		CHECK(memcmp(text, much + lost, len - 1) == 0);
	}
	ask(&w, "qmpctl-console", json_pack("{s:s, s:i}", "cursor", cursor_of(&w), "timeout", 0));
	check_data(&w, "");
	world_deinit(&w);
}

static void check_log(const struct world *w, const char *name, const char *end)
{
	static char text[VM_CONSOLE_LOG + 1];
	int fd = openat(w->vm.run_dir, name, O_RDONLY | O_CLOEXEC);
	ssize_t n = read(fd, text, sizeof text);

	CHECK(n > 0 && n <= VM_CONSOLE_LOG);
	text[n < VM_CONSOLE_LOG ? n : VM_CONSOLE_LOG] = '\0';
	CHECK_CONTAINS(text + (n > 100 ? n - 100 : 0), end);
	CHECK_INT(unlinkat(w->vm.run_dir, name, 0), 0);
	(void)close(fd);
}

/* Three times what is kept, and then some. */
static void test_its_logs_have_a_limit(void)
{
	static char much[1 << 20];
	char folder[] = "/tmp/qmpctl-console-XXXXXX";
	struct stat st;
	struct world w;

	CHECK(mkdtemp(folder));
	world_init(&w);
	(void)close(w.qemu);
	vm_console_free(take_ptr(w.vm.consoles));
	(void)close(w.vm.run_dir);
	w.vm.run_dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	open_console(&w);
	memset(much, '.', sizeof much);
	for (int i = 0; i < 25; i++) {
		say(&w, much, sizeof much);
		CHECK_INT(fstatat(w.vm.run_dir, "console-con0.log", &st, 0), 0);
		CHECK(st.st_size <= VM_CONSOLE_LOG);
	}
	say(&w, "the end", 7);
	check_log(&w, "console-con0.log", "the end");
	check_log(&w, "console-con0.log.1", "....");
	world_deinit(&w);
	CHECK_INT(rmdir(folder), 0);
}

static void test_another_run_is_read_from_its_beginning(void)
{
	struct world w;

	world_init(&w);
	say(&w, "the first run said more", 23);
	ask(&w, "qmpctl-console", json_object());
	vm_console_hang_up(w.vm.consoles);
	vm_console_free(w.vm.consoles);
	(void)close(w.qemu);
	open_console(&w);
	ask(&w, "qmpctl-console", json_pack("{s:s}", "cursor", cursor_of(&w)));
	say(&w, "anew", 4);
	until_answered(&w);
	check_data(&w, "anew");
	world_deinit(&w);
}

static void test_the_last_words_are_heard(void)
{
	struct world w;

	world_init(&w);
	ask(&w, "qmpctl-console", json_object());
	ask(&w, "qmpctl-console", json_pack("{s:s}", "cursor", cursor_of(&w)));
	CHECK_INT(write(w.qemu, "bye", 3), 3);
	vm_console_hang_up(w.vm.consoles);
	until_answered(&w);
	check_data(&w, "bye");
	ask(&w, "qmpctl-type", json_pack("{s:s}", "text", "x"));
	CHECK(w.error.kind != QMP_ERR_NONE);
	world_deinit(&w);
}

static void on_other(uv_poll_t *handle, int status, int events)
{
	UNUSED(status);
	UNUSED(events);
	*(bool *)handle->data = true;
	uv_poll_stop(handle);
}

/* Of a VM that has ended the console stays, and its socket's number is somebody else's. */
static void test_one_that_is_freed_late_takes_nobody_out_of_the_loop(void)
{
	struct world w;
	uv_poll_t poll;
	bool heard = false;
	int pair[2];

	world_init(&w);
	vm_console_hang_up(w.vm.consoles);
	CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
	CHECK_INT(uv_poll_init(&w.loop, &poll, pair[0]), 0);
	poll.data = &heard;
	uv_poll_start(&poll, UV_READABLE, on_other);
	uv_run(&w.loop, UV_RUN_NOWAIT);
	vm_console_free(w.vm.consoles);
	w.vm.consoles = NULL;
	CHECK_INT(write(pair[1], "x", 1), 1);
	for (int i = 0; i < 10; i++)
		uv_run(&w.loop, UV_RUN_NOWAIT);
	CHECK(heard);
	uv_close((uv_handle_t *)&poll, NULL);
	(void)close(pair[0]);
	(void)close(pair[1]);
	world_deinit(&w);
}

int main(void)
{
	RUN(test_a_piece_comes_when_something_is_said);
	RUN(test_the_last_lines);
	RUN(test_what_is_kept_no_more_is_counted);
	RUN(test_its_logs_have_a_limit);
	RUN(test_another_run_is_read_from_its_beginning);
	RUN(test_the_last_words_are_heard);
	RUN(test_one_that_is_freed_late_takes_nobody_out_of_the_loop);
	return 0;
}
