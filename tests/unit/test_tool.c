#include "images/tool.h"
#include "proto/base.h"
#include "tests/unit/check.h"

#include <signal.h>
#include <stdio.h>

static uv_loop_t loop;

static int shell(const char *script, struct img_tool_options o, char **output, int *status, struct qmp_error *err)
{
	o.doing = "trying";
	o.argv = (const char *const[]){"sh", "-c", script, NULL};
	*err = (struct qmp_error){0};
	return img_tool_call(&loop, &o, output, status, err);
}

static void test_output(void)
{
	_cleanup_free_ char *output = NULL;
	struct qmp_error err;

	CHECK_INT(shell("printf 'a\\nb'; echo no >&2; echo $LC_ALL", (struct img_tool_options){0}, &output, NULL, &err), 0);
	CHECK_STR(output, "a\nbC\n");
}

static void test_input(void)
{
	_cleanup_free_ char *output = NULL;
	struct qmp_error err;

	CHECK_INT(shell("cat", (struct img_tool_options){.input = "sec\0ret", .input_len = 7}, &output, NULL, &err), 0);
	CHECK_STR(output, "sec");
	free(take_ptr(output));
	CHECK_INT(shell("cat", (struct img_tool_options){0}, &output, NULL, &err), 0);
	CHECK_STR(output, "");
}

static void test_failures(void)
{
	struct qmp_error err;
	int status = 0;

	CHECK(shell("echo first >&2; echo 'sh: the disk is full' >&2; exit 3", (struct img_tool_options){0}, NULL, &status, &err) < 0);
	CHECK_STR(err.message, "trying: sh: the disk is full");
	CHECK_INT(status, 3);
	CHECK_INT(shell("exit 3", (struct img_tool_options){.good = 1u << 3}, NULL, &status, &err), 0);
	CHECK(shell("exit 0", (struct img_tool_options){.good = 1u << 3}, NULL, &status, &err) < 0);
	CHECK(shell("kill -9 $$", (struct img_tool_options){0}, NULL, &status, &err) < 0);
	CHECK(strstr(err.message, "signal 9"));
	CHECK_INT(status, -1);
}

static void test_missing(void)
{
	struct img_tool_options o = {.doing = "trying", .argv = (const char *const[]){"no-such-program", NULL}, .package = "some-package"};
	struct qmp_error err = {0};

	CHECK(img_tool_call(&loop, &o, NULL, NULL, &err) < 0);
	CHECK(strstr(err.message, "trying: ") && strstr(err.message, "no-such-program") && strstr(err.message, "some-package"));
}

static void test_timeout(void)
{
	struct qmp_error err;

	CHECK(shell("exec sleep 60", (struct img_tool_options){.timeout_ms = 20}, NULL, NULL, &err) < 0);
	CHECK_INT(err.kind, QMP_ERR_TIMEOUT);
}

/* The child asks for it itself: by then it runs. */
static void test_taken_back(void)
{
	struct qmp_error err;

	CHECK(shell("kill -INT $PPID; exec sleep 60", (struct img_tool_options){0}, NULL, NULL, &err) < 0);
	CHECK_INT(err.kind, QMP_ERR_CANCELLED);
}

static void count_piece(void *data, const char *text)
{
	char *all = data;

	strcat(strcat(all, text), "|");
}

static void test_pieces(void)
{
	char all[64] = "";
	struct qmp_error err;

	CHECK_INT(shell("printf '(1%%)\\r(2%%)\\r\\n\\nend'", (struct img_tool_options){.piece = count_piece, .data = all}, NULL, NULL, &err), 0);
	CHECK_STR(all, "(1%)|(2%)|end|");
}

/* A grandchild that holds the pipes does not keep us. */
static void test_grandchild(void)
{
	_cleanup_free_ char *output = NULL;
	struct qmp_error err;
	int pid;

	CHECK_INT(shell("sleep 60 & echo $!", (struct img_tool_options){0}, &output, NULL, &err), 0);
	pid = output ? atoi(output) : 0;
	CHECK(pid > 1 && kill(pid, SIGKILL) == 0);
}

int main(void)
{
	uv_loop_init(&loop);
	RUN(test_output);
	RUN(test_input);
	RUN(test_failures);
	RUN(test_missing);
	RUN(test_timeout);
	RUN(test_taken_back);
	RUN(test_pieces);
	RUN(test_grandchild);
	uv_run(&loop, UV_RUN_DEFAULT);
	CHECK_INT(uv_loop_close(&loop), 0);
	return 0;
}
