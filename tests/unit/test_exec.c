/*
 * Plans and unplugging against a QEMU that this test plays: what it is asked, in which order, and how it ends.
 */
#include "launcher/exec.h"
#include "launcher/plan.h"
#include "launcher/unplug.h"
#include "proto/base.h"
#include "tests/unit/check.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

/* What QEMU answers to a command; a NULL command ends. Where several fit, each is used once, in their order, but the last. */
struct answer {
	const char *command;
	const char *error_class; /* NULL: it returns RETURNS */
	const char *returns;     /* NULL: {} */
	const char *event;       /* sent after the answer; may be NULL */
	bool silent;             /* no answer at all */
};

struct world {
	uv_loop_t loop;
	uv_timer_t watchdog;
	struct qmp_session *s;
	struct qmp_peer *qemu;
	const struct answer *answers;
	size_t used;             /* of the answers, as bits */
	char heard[1000];        /* the commands, "device_del vda; blockdev-del vda-fmt; " */
	int ends;
	enum vm_unplug_outcome unplugged;
	enum vm_exec_outcome outcome;
	json_t *rest;
	struct qmp_error why;
	struct vm_exec *exec;
};

static const struct answer *answer_to(struct world *w, const char *command)
{
	const struct answer *last = NULL;

	for (size_t i = 0; w->answers[i].command; i++) {
		if (!streq(w->answers[i].command, command))
			continue;
		last = &w->answers[i];
		if (!(w->used & (size_t)1 << i)) {
			w->used |= (size_t)1 << i;
			break;
		}
	}
	return last;
}

static void on_command(void *data, struct qmp_peer *p, const struct qmp_peer_command *c)
{
	struct world *w = data;
	const struct answer *a = answer_to(w, c->name);
	const char *id = text_of(c->arguments, "id") ? text_of(c->arguments, "id") : text_of(c->arguments, "node-name");
	json_auto_t *value = a && a->returns ? json_loads(a->returns, JSON_DECODE_ANY, NULL) : NULL;

	const char *file = text_of(c->arguments, text_of(c->arguments, "filename") ? "filename" : "file");
	bool is_path = file && strspn(file, "/") == 1; /* of a secret or an image; else a node */
	json_t *set = json_object_get(c->arguments, "fdset-id");

	snprintf(w->heard + strlen(w->heard), sizeof w->heard - strlen(w->heard), "%s%s%s%s%s", c->name, id ? " " : "", id ? id : "",
		 is_path ? " " : "", is_path ? file : "");
	if (set)
		snprintf(w->heard + strlen(w->heard), sizeof w->heard - strlen(w->heard), " %d", (int)json_integer_value(set));
	snprintf(w->heard + strlen(w->heard), sizeof w->heard - strlen(w->heard), "%s; ", c->n_fds == 1 ? " +fd" : "");
	if (a && a->silent)
		return;
	if (a && a->error_class)
		qmp_peer_error(p, c->id, a->error_class, "QEMU's words");
	else
		qmp_peer_return(p, c->id, value);
	if (a && a->event)
		qmp_peer_send_raw(p, a->event, strlen(a->event));
}

static void on_peer_close(void *data, struct qmp_peer *p, const struct qmp_error *why)
{
	struct world *w = data;

	UNUSED(why);
	if (w->qemu == p)
		qmp_peer_free(p);
	w->qemu = NULL;
}

static void on_watchdog(uv_timer_t *t)
{
	const struct world *w = container_of(t, struct world, watchdog);

	check_fail(__FILE__, __LINE__, "the end within 20 s", "it", w->heard);
}

static void on_close(void *data, const struct qmp_error *why)
{
	UNUSED(data);
	UNUSED(why);
}

static void open_world(struct world *w, const struct answer *answers)
{
	json_auto_t *greeting = json_loads("{\"version\": {}, \"capabilities\": []}", 0, NULL);
	struct qmp_peer_options po = {.greeting = greeting, .on_command = on_command, .on_close = on_peer_close, .data = w};
	struct qmp_session_options so = {.command_timeout_ms = 300, .on_close = on_close, .data = w};
	int pair[2];

	*w = (struct world){.answers = answers};
	uv_loop_init(&w->loop);
	uv_timer_init(&w->loop, &w->watchdog);
	uv_timer_start(&w->watchdog, on_watchdog, 20000, 0);
	CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
	CHECK_INT(qmp_peer_new(&w->loop, pair[0], &po, &w->qemu, NULL), 0);
	CHECK_INT(qmp_session_new(&w->loop, pair[1], &so, &w->s, NULL), 0);
}

static void close_world(struct world *w)
{
	qmp_session_free(w->s);
	qmp_peer_free(w->qemu);
	json_decref(w->rest);
	uv_close((uv_handle_t *)&w->watchdog, NULL);
	uv_run(&w->loop, UV_RUN_DEFAULT);
	CHECK_INT(uv_loop_close(&w->loop), 0); /* no handle is left */
}

static void until_end(struct world *w)
{
	while (w->ends == 0)
		uv_run(&w->loop, UV_RUN_ONCE);
	CHECK_INT(w->ends, 1);
}

/* ---- Unplugging ---- */

#define RUNNING "{\"status\": \"running\", \"running\": true}"
#define AT_S    "{\"status\": \"prelaunch\", \"running\": false}"
#define PAUSED  "{\"status\": \"paused\", \"running\": false}"
#define RESET_VECTOR "\"\\r\\nCPU#0\\r\\nEIP=0000fff0 EFL=00000002\\r\\nCS =f000 ffff0000 0000ffff 00009b00\\r\\n\""
#define ELSEWHERE    "\"\\r\\nCPU#0\\r\\nEIP=000ea664 EFL=00000006\\r\\nCS =0008 00000000 ffffffff 00c09b00\\r\\n\""
#define EVENT(name, data) \
	"{\"timestamp\": {\"seconds\": 1, \"microseconds\": 0}, \"event\": \"" name "\", \"data\": " data "}\r\n"
#define DELETED(id) EVENT("DEVICE_DELETED", "{\"path\": \"/machine/peripheral/vda\", \"device\": \"" id "\"}")
#define INNER       EVENT("DEVICE_DELETED", "{\"path\": \"/machine/peripheral/vda/virtio-backend\"}")

static void on_unplugged(void *data, enum vm_unplug_outcome outcome, const struct qmp_error *why)
{
	struct world *w = data;

	w->ends++;
	w->unplugged = outcome;
	CHECK_INT(why == NULL, outcome == VM_UNPLUG_GONE);
	if (why)
		w->why = *why;
}

static void unplugs(const struct answer *answers, uint64_t timeout, enum vm_unplug_outcome outcome, const char *heard)
{
	struct vm_unplug *u;
	struct world w;

	open_world(&w, answers);
	CHECK_INT(vm_unplug_run(&w.loop, w.s, "vda", timeout, on_unplugged, &w, &u, NULL), 0);
	CHECK_INT(w.ends, 0); /* never from inside */
	until_end(&w);
	CHECK_STR(w.heard, heard);
	CHECK_INT(w.unplugged, outcome);
	close_world(&w);
}

static void test_a_running_guest(void)
{
	unplugs((const struct answer[]){{"query-status", NULL, RUNNING, NULL, false},
					{"device_del", NULL, NULL, INNER DELETED("vdb") DELETED("vda"), false}, {0}},
		5000, VM_UNPLUG_GONE, "query-status; device_del vda; ");
}

/* A reset is for a guest that has not run, and for no other. */
static void test_reset_at_the_reset_vector_alone(void)
{
	unplugs((const struct answer[]){{"query-status", NULL, AT_S, NULL, false},
					{"human-monitor-command", NULL, RESET_VECTOR, NULL, false},
					{"system_reset", NULL, NULL, DELETED("vda"), false}, {0}},
		5000, VM_UNPLUG_GONE, "query-status; human-monitor-command; device_del vda; system_reset; ");
	/* -loadvm, or a snapshot that was loaded: at prelaunch, and yet with a state of its own */
	unplugs((const struct answer[]){{"query-status", NULL, AT_S, NULL, false},
					{"human-monitor-command", NULL, ELSEWHERE, NULL, false}, {0}},
		100, VM_UNPLUG_SILENT, "query-status; human-monitor-command; device_del vda; ");
	unplugs((const struct answer[]){{"query-status", NULL, AT_S, NULL, false},
					{"human-monitor-command", "CommandNotFound", NULL, NULL, false}, {0}},
		100, VM_UNPLUG_SILENT, "query-status; human-monitor-command; device_del vda; ");
	unplugs((const struct answer[]){{"query-status", NULL, PAUSED, NULL, false}, {0}}, 100, VM_UNPLUG_SILENT,
		"query-status; device_del vda; ");
	unplugs((const struct answer[]){{"query-status", "GenericError", NULL, NULL, false}, {0}}, 100, VM_UNPLUG_SILENT,
		"query-status; device_del vda; ");
}

static void test_asked_again(void)
{
	unplugs((const struct answer[]){{"query-status", NULL, RUNNING, NULL, false},
					{"device_del", NULL, NULL, NULL, false},
					{"device_del", NULL, NULL, DELETED("vda"), false}, {0}},
		5000, VM_UNPLUG_GONE, "query-status; device_del vda; device_del vda; ");
	unplugs((const struct answer[]){{"query-status", NULL, PAUSED, NULL, false},
					{"device_del", NULL, NULL, EVENT("RESUME", "{}"), false},
					{"device_del", NULL, NULL, DELETED("vda"), false}, {0}},
		900, VM_UNPLUG_GONE, "query-status; device_del vda; device_del vda; ");
	unplugs((const struct answer[]){{"query-status", NULL, RUNNING, NULL, false},
					{"device_del", NULL, NULL, EVENT("VSERPORT_CHANGE", "{\"id\": \"agent-port\", \"open\": true}"),
					 false},
					{"device_del", NULL, NULL, DELETED("vda"), false}, {0}},
		900, VM_UNPLUG_GONE, "query-status; device_del vda; device_del vda; ");
}

static void test_refusals(void)
{
	unplugs((const struct answer[]){{"query-status", NULL, RUNNING, NULL, false},
					{"device_del", "GenericError", NULL, NULL, false},
					{"qom-get", NULL, "false", NULL, false}, {0}},
		5000, VM_UNPLUG_REFUSED, "query-status; device_del vda; qom-get; ");
	/* somebody has asked for it before */
	unplugs((const struct answer[]){{"query-status", NULL, RUNNING, NULL, false},
					{"device_del", "GenericError", NULL, NULL, false},
					{"qom-get", NULL, "true", DELETED("vda"), false}, {0}},
		5000, VM_UNPLUG_GONE, "query-status; device_del vda; qom-get; ");
	unplugs((const struct answer[]){{"query-status", NULL, RUNNING, NULL, false},
					{"device_del", NULL, NULL, EVENT("DEVICE_UNPLUG_GUEST_ERROR", "{\"device\": \"vda\"}"), false},
					{0}},
		5000, VM_UNPLUG_REFUSED, "query-status; device_del vda; ");
}

/* It has no name any more, and its backend may still be held. */
static void test_gone_already(void)
{
	unplugs((const struct answer[]){{"query-status", NULL, RUNNING, NULL, false},
					{"device_del", "DeviceNotFound", NULL, NULL, false}, {0}},
		5000, VM_UNPLUG_GONE, "query-status; device_del vda; ");
	unplugs((const struct answer[]){{"query-status", NULL, RUNNING, NULL, false},
					{"device_del", "DeviceNotFound", NULL, DELETED("vda"), false}, {0}},
		5000, VM_UNPLUG_GONE, "query-status; device_del vda; ");
}

static void test_a_qemu_that_does_not_answer(void)
{
	unplugs((const struct answer[]){{"query-status", NULL, RUNNING, NULL, false}, {"device_del", NULL, NULL, NULL, true}, {0}},
		100, VM_UNPLUG_SILENT, "query-status; device_del vda; ");
}

/* ---- Plans ---- */

static json_t *disk_plan(bool removal)
{
	static const char *const nodes[] = {"vda-file", "vda-fmt"};
	struct vm_object objects[3] = {{VM_BLOCKDEV, NULL, NULL}, {VM_BLOCKDEV, NULL, NULL}, {VM_DEVICE, NULL, NULL}};
	struct vm_fragment f = {(char *)"disks.vda", objects, 3};
	json_t *plan = json_array();

	for (size_t i = 0; i < 2; i++)
		objects[i].args = json_pack("{s:s}", "node-name", nodes[i]);
	objects[2].args = json_pack("{s:s}", "id", "vda");
	CHECK_INT(removal ? vm_plan_remove(plan, &f, 100, NULL) : vm_plan_add(plan, &f, NULL), 0);
	for (size_t i = 0; i < 3; i++)
		json_decref(objects[i].args);
	return plan;
}

static void on_exec_done(void *data, enum vm_exec_outcome outcome, json_t *rest, const struct qmp_error *why)
{
	struct world *w = data;

	w->ends++;
	w->outcome = outcome;
	w->rest = rest;
	w->exec = NULL;
	if (why)
		w->why = *why;
}

/* Hands over the image of vda-file alone. */
static int one_image(void *data, const json_t *step, int *ret_fd, struct qmp_error *err)
{
	UNUSED(data);
	UNUSED(err);
	if (!streq(text_of(json_object_get(step, "arguments"), "node-name"), "vda-file"))
		return 0;
	*ret_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	return 1;
}

static int no_image(void *data, const json_t *step, int *ret_fd, struct qmp_error *err)
{
	UNUSED(data);
	UNUSED(step);
	UNUSED(ret_fd);
	return qmp_error_set(err, QMP_ERR_HOST, -EACCES, "not for that user");
}

static int (*image)(void *data, const json_t *step, int *ret_fd, struct qmp_error *err);

static void begin(struct world *w, json_t *plan)
{
	struct vm_exec_options o = {.image = image, .done = on_exec_done, .data = w};

	CHECK_INT(vm_exec_run(&w->loop, w->s, plan, &o, &w->exec, NULL), 0);
	CHECK_INT(w->ends, 0);
}

static void runs(bool removal, const struct answer *answers, enum vm_exec_outcome outcome, size_t rest, const char *heard)
{
	json_auto_t *plan = disk_plan(removal);
	struct world w;

	open_world(&w, answers);
	begin(&w, plan);
	until_end(&w);
	CHECK_STR(w.heard, heard);
	CHECK_INT(w.outcome, outcome);
	CHECK_INT(json_array_size(w.rest), rest);
	CHECK_INT(w.why.kind == QMP_ERR_NONE, outcome == VM_EXEC_DONE);
	CHECK(!strstr(w.why.message, "leaves something"));
	close_world(&w);
}

static void test_done(void)
{
	runs(false, (const struct answer[]){{0}}, VM_EXEC_DONE, 0, "blockdev-add vda-file; blockdev-add vda-fmt; device_add vda; ");
	runs(true,
	     (const struct answer[]){{"query-status", NULL, RUNNING, NULL, false}, {"device_del", NULL, NULL, DELETED("vda"), false}, {0}},
	     VM_EXEC_DONE, 0, "query-status; device_del vda; blockdev-del vda-fmt; blockdev-del vda-file; ");
}

/* ---- Secrets ---- */

static void put_key(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	CHECK(f != NULL);
	CHECK_INT(fchmod(fileno(f), 0600), 0);
	CHECK(fputs(text, f) >= 0);
	CHECK_INT(fclose(f), 0);
}

/* Its key stands in FILE. */
static json_t *encrypted_plan(const char *file)
{
	json_t *plan = disk_plan(false);

	json_array_insert_new(plan, 0,
			      json_pack("{s:s, s:s, s:{s:s, s:s}, s:s, s:{s:s, s:{s:s}}}", "item", "disks.vda", "execute", "object-add",
					"arguments", "qom-type", "secret", "id", "vda-key", "secret", file, "undo", "execute",
					"object-del", "arguments", "id", "vda-key"));
	return plan;
}

static void hands_over(const struct answer *answers, const char *file, enum vm_exec_outcome outcome, const char *heard)
{
	json_auto_t *plan = encrypted_plan(file);
	struct world w;

	open_world(&w, answers);
	begin(&w, plan);
	until_end(&w);
	CHECK_STR(w.heard, heard);
	CHECK_INT(w.outcome, outcome);
	close_world(&w);
}

#define ADDED "{\"fdset-id\": 3, \"fd\": 41}"

static void test_a_secret_is_handed_over(void)
{
	char folder[] = "/tmp/test-exec-XXXXXX", key[sizeof folder + 4];

	CHECK(mkdtemp(folder) != NULL);
	snprintf(key, sizeof key, "%s/key", folder);
	put_key(key, "CANARY");
	hands_over((const struct answer[]){{"add-fd", NULL, ADDED, NULL, false}, {0}}, key, VM_EXEC_DONE,
		   "add-fd +fd; object-add vda-key /proc/self/fd/41; remove-fd 3; blockdev-add vda-file; blockdev-add vda-fmt; "
		   "device_add vda; ");
	/* a wrong key: the secret goes, too */
	hands_over((const struct answer[]){{"add-fd", NULL, ADDED, NULL, false},
					   {"blockdev-add", NULL, NULL, NULL, false},
					   {"blockdev-add", "GenericError", NULL, NULL, false},
					   {"device_add", "GenericError", NULL, NULL, false},
					   {0}},
		   key, VM_EXEC_FAILED,
		   "add-fd +fd; object-add vda-key /proc/self/fd/41; remove-fd 3; blockdev-add vda-file; blockdev-add vda-fmt; "
		   "device_add vda; blockdev-del vda-file; object-del vda-key; ");
	hands_over((const struct answer[]){{"add-fd", "GenericError", NULL, NULL, false}, {0}}, key, VM_EXEC_FAILED, "add-fd +fd; ");
	hands_over((const struct answer[]){{"add-fd", NULL, NULL, NULL, true}, {0}}, key, VM_EXEC_FAILED, "add-fd +fd; ");
	CHECK_INT(chmod(key, 0644), 0);
	hands_over((const struct answer[]){{0}}, key, VM_EXEC_FAILED, "");
	CHECK_INT(unlink(key), 0);
	CHECK_INT(rmdir(folder), 0);
}

/* ---- Images ---- */

#define SETS "[{\"fdset-id\": 1, \"fds\": [{\"fd\": 9, \"opaque\": \"vdb-file\"}]}," \
	     " {\"fdset-id\": 3, \"fds\": [{\"fd\": 41, \"opaque\": \"vda-file\"}]}]"

/* What is sent when it has ended comes after. */
static void hands_image(bool removal, const struct answer *answers, enum vm_exec_outcome outcome, const char *heard)
{
	json_auto_t *plan = disk_plan(removal);
	struct world w;

	open_world(&w, answers);
	begin(&w, plan);
	until_end(&w);
	for (int turns = 0; turns < 100 && strlen(w.heard) < strlen(heard); turns++)
		uv_run(&w.loop, UV_RUN_NOWAIT);
	CHECK_STR(w.heard, heard);
	CHECK_INT(w.outcome, outcome);
	close_world(&w);
}

static void test_an_image_is_handed_over(void)
{
	image = one_image;
	hands_image(false, (const struct answer[]){{"add-fd", NULL, ADDED, NULL, false}, {0}}, VM_EXEC_DONE,
		    "query-fdsets; add-fd +fd; blockdev-add vda-file /dev/fdset/3; blockdev-add vda-fmt; device_add vda; ");
	hands_image(false,
		    (const struct answer[]){{"add-fd", NULL, ADDED, NULL, false}, {"query-fdsets", NULL, "[]", NULL, false},
					    {"query-fdsets", NULL, SETS, NULL, false},
					    {"blockdev-add", "GenericError", NULL, NULL, false},
					    {"device_add", "GenericError", NULL, NULL, false}, {0}},
		    VM_EXEC_FAILED, "query-fdsets; add-fd +fd; blockdev-add vda-file /dev/fdset/3; blockdev-add vda-fmt; device_add vda; "
				    "query-fdsets; remove-fd 3; ");
	/* One that an earlier keeper has left goes; that of another disk stays. */
	hands_image(false,
		    (const struct answer[]){{"add-fd", NULL, "{\"fdset-id\": 4, \"fd\": 42}", NULL, false},
					    {"query-fdsets", NULL, SETS, NULL, false}, {0}},
		    VM_EXEC_DONE, "query-fdsets; add-fd +fd; remove-fd 3; blockdev-add vda-file /dev/fdset/4; blockdev-add vda-fmt; "
				  "device_add vda; ");
	hands_image(true,
		    (const struct answer[]){{"query-status", NULL, RUNNING, NULL, false}, {"device_del", NULL, NULL, DELETED("vda"), false},
					    {"query-fdsets", NULL, SETS, NULL, false}, {0}},
		    VM_EXEC_DONE, "query-status; device_del vda; blockdev-del vda-fmt; blockdev-del vda-file; query-fdsets; remove-fd 3; ");
	image = no_image;
	hands_image(false, (const struct answer[]){{0}}, VM_EXEC_FAILED, "");
	image = NULL;
}

/* What was done is undone, the last first; what was refused is not. */
static void test_undone(void)
{
	runs(false, (const struct answer[]){{"device_add", "GenericError", NULL, NULL, false}, {0}}, VM_EXEC_FAILED, 0,
	     "blockdev-add vda-file; blockdev-add vda-fmt; device_add vda; blockdev-del vda-fmt; blockdev-del vda-file; ");
	runs(false,
	     (const struct answer[]){{"blockdev-add", NULL, NULL, NULL, false}, {"blockdev-add", "GenericError", NULL, NULL, false},
				     {"device_add", NULL, NULL, NULL, false}, {"query-status", NULL, RUNNING, NULL, false},
				     {"device_del", NULL, NULL, DELETED("vda"), false}, {0}},
	     VM_EXEC_FAILED, 0,
	     "blockdev-add vda-file; blockdev-add vda-fmt; device_add vda; query-status; device_del vda; blockdev-del vda-file; ");
	/* a removal: what is gone comes back */
	runs(true,
	     (const struct answer[]){{"query-status", NULL, RUNNING, NULL, false}, {"device_del", NULL, NULL, DELETED("vda"), false},
				     {"blockdev-del", NULL, NULL, NULL, false}, {"blockdev-del", "GenericError", NULL, NULL, false}, {0}},
	     VM_EXEC_FAILED, 0,
	     "query-status; device_del vda; blockdev-del vda-fmt; blockdev-del vda-file; blockdev-add vda-fmt; device_add vda; ");
}

/* The rest of a removal whose device went unseen: it may still hold its nodes for a moment. */
static void test_a_node_that_is_held_for_a_moment(void)
{
	json_auto_t *plan = disk_plan(true);
	struct world w;

	json_array_remove(plan, 0);
	open_world(&w, (const struct answer[]){{"blockdev-del", "GenericError", NULL, NULL, false},
					       {"blockdev-del", "GenericError", NULL, NULL, false},
					       {"blockdev-del", "GenericError", NULL, NULL, false},
					       {"blockdev-del", NULL, NULL, NULL, false},
					       {0}});
	begin(&w, plan);
	until_end(&w);
	CHECK_STR(w.heard, "blockdev-del vda-fmt; blockdev-del vda-file; blockdev-del vda-fmt; blockdev-del vda-file; "
			   "blockdev-del vda-fmt; ");
	CHECK_INT(w.outcome, VM_EXEC_DONE);
	close_world(&w);
}

/* No answer in time is no refusal: QEMU may still do it, so it is undone, too, and that there was nothing to undo is no failure. */
static void test_what_may_have_been_done_is_undone(void)
{
	runs(false,
	     (const struct answer[]){{"blockdev-add", NULL, NULL, NULL, false}, {"blockdev-add", NULL, NULL, NULL, true},
				     {"device_add", "GenericError", NULL, NULL, false},
				     {"blockdev-del", "GenericError", NULL, NULL, false}, {"blockdev-del", NULL, NULL, NULL, false}, {0}},
	     VM_EXEC_FAILED, 0,
	     "blockdev-add vda-file; blockdev-add vda-fmt; device_add vda; blockdev-del vda-fmt; blockdev-del vda-file; ");
	runs(false,
	     (const struct answer[]){{"device_add", NULL, NULL, NULL, true}, {"query-status", NULL, RUNNING, NULL, false},
				     {"device_del", NULL, NULL, DELETED("vda"), false}, {0}},
	     VM_EXEC_FAILED, 0,
	     "blockdev-add vda-file; blockdev-add vda-fmt; device_add vda; query-status; device_del vda; blockdev-del vda-fmt; "
	     "blockdev-del vda-file; ");
}

static void test_pending(void)
{
	runs(true, (const struct answer[]){{"query-status", NULL, RUNNING, NULL, false}, {0}}, VM_EXEC_PENDING, 3,
	     "query-status; device_del vda; ");
}

/* An undo that fails goes on, and is told. */
static void test_an_undo_that_fails(void)
{
	json_auto_t *plan = disk_plan(false);
	struct world w;

	open_world(&w, (const struct answer[]){{"device_add", "GenericError", NULL, NULL, false},
					       {"blockdev-del", "GenericError", NULL, NULL, false},
					       {"blockdev-del", NULL, NULL, NULL, false}, {0}});
	begin(&w, plan);
	until_end(&w);
	CHECK_STR(w.heard, "blockdev-add vda-file; blockdev-add vda-fmt; device_add vda; blockdev-del vda-fmt; blockdev-del vda-file; ");
	CHECK_CONTAINS(w.why.message, "disks.vda: device_add: QEMU's words");
	CHECK_CONTAINS(w.why.message, "leaves something in QEMU: disks.vda: blockdev-del");
	close_world(&w);
}

/* The session ends while a step or a guest is waited for: told once, and nothing is sent any more. */
static void test_the_session_ends(void)
{
	for (int removal = 0; removal <= 1; removal++)
		for (int abandoned = 0; abandoned <= 1; abandoned++) {
			json_auto_t *plan = disk_plan(removal);
			struct world w;
			open_world(&w, (const struct answer[]){{"device_add", NULL, NULL, NULL, true},
							       {"query-status", NULL, RUNNING, NULL, false},
							       {"device_del", NULL, NULL, NULL, true}, {0}});
			begin(&w, plan);
			while (!strstr(w.heard, removal ? "device_del" : "device_add"))
				uv_run(&w.loop, UV_RUN_ONCE);
			if (abandoned)
				vm_exec_abandon(w.exec);
			qmp_session_free(take_ptr(w.s));
			until_end(&w);
			CHECK_INT(w.outcome, VM_EXEC_FAILED);
			CHECK(!strstr(w.heard, "blockdev-del"));
			close_world(&w);
			CHECK_INT(w.ends, 1);
		}
}

/* It ends by what QEMU says, and not by its going: then, too, nothing can be undone, and nobody is told that it failed. */
static void test_the_session_ends_by_an_error(void)
{
	json_auto_t *plan = disk_plan(false);
	struct world w;

	open_world(&w, (const struct answer[]){{"blockdev-add", NULL, NULL, "{\"error\": {\"desc\": \"whose?\"}}\r\n", false}, {0}});
	begin(&w, plan);
	until_end(&w);
	CHECK_INT(w.outcome, VM_EXEC_FAILED);
	CHECK_CONTAINS(w.why.message, "an error without an id");
	CHECK(!strstr(w.why.message, "undoing"));
	close_world(&w);
}

int main(void)
{
	RUN(test_a_running_guest);
	RUN(test_reset_at_the_reset_vector_alone);
	RUN(test_asked_again);
	RUN(test_refusals);
	RUN(test_gone_already);
	RUN(test_a_qemu_that_does_not_answer);
	RUN(test_done);
	RUN(test_a_secret_is_handed_over);
	RUN(test_an_image_is_handed_over);
	RUN(test_undone);
	RUN(test_a_node_that_is_held_for_a_moment);
	RUN(test_what_may_have_been_done_is_undone);
	RUN(test_pending);
	RUN(test_an_undo_that_fails);
	RUN(test_the_session_ends);
	RUN(test_the_session_ends_by_an_error);
	return 0;
}
