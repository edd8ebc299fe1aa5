/*
 * What a keeper finds in the files of a VM. Input: one byte of flags, then parts with a NUL behind each: running.json,
 * last-end.json, qemu.lock, the spec, what was kept of a QEMU's abilities (caps), journal.json; the rest is what QEMU says once it is
 * taken over, with 06, 07 and 11 as in the session's harness (a turn of the loop, time that passes, an id), and
 * 0e: the operations begin (at the latest at the end).
 *
 * Flags: 1 QEMU lives   2 running.json is there   4 the operations change something, 8 the spec too   16 stop comes second
 *   32 those that look   64 those on disks   128 those on NICs and on the whole spec; none of the three: all
 *
 * The files are in memory: the linker puts what is below in the place of launcher/files. Whatever they hold, the VM is opened
 * or the reason is told; taken over or the reason is told; every operation completes once; no signal is sent.
 */
#include "launcher/argv.h"
#include "launcher/record.h"
#include "launcher/spec.h"
#include "qmpctl/keeper.h"
#include "tests/fuzz/determined.h"
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <sys/socket.h>

enum { LIVES = 1, HAS_RUNNING = 2, CHANGES = 4, SPEC_TOO = 8, STOPS = 16, LOOK = 32, ON_DISKS = 64, ON_OTHERS = 128 };
enum { RUNNING, LAST_END, LOCK, SPEC, CAPS, JOURNAL, PARTS };

static const char *const files[PARTS] = {"running.json", "last-end.json", "qemu.lock", "a.json", "caps", "journal.json"};

static struct {
	uint8_t flags;
	const char *parts[PARTS];
	size_t lens[PARTS];
	int qemu;
	int completed[16];
	size_t n;
	struct ids ids;
	struct guest *guest; /* NULL: the operations have begun */
} w;

/* ---- In the place of launcher/files, launcher/child and the C library ---- */

int __wrap_vm_dir_open(const char *path, const char *name, bool create, struct qmp_error *err);
int __wrap_vm_file_read(int dir, const char *name, char **ret, size_t *ret_len, struct qmp_error *err);
json_t *__wrap_vm_file_read_json(int dir, const char *name);
int __wrap_vm_file_write(int dir, const char *name, const char *data, size_t len, struct qmp_error *err);
int __wrap_vm_file_write_json(int dir, const char *name, const json_t *value, struct qmp_error *err);
int __wrap_vm_file_replace_json(int dir, const char *name, const json_t *value, struct qmp_error *err);
int __wrap_vm_file_take_json(int dir, const char *name, json_t **ret, struct qmp_error *err);
void __wrap_vm_file_remove_unfinished(int dir, const char *name);
int __wrap_vm_lock(int dir, const char *name, int *ret_fd, struct qmp_error *err);
bool __wrap_vm_is_locked(int dir, const char *name);
int __wrap_vm_socket_connect(int dir, const char *name, int *ret_fd, struct qmp_error *err);
int __wrap_vm_child_watch(uv_loop_t *loop, pid_t pid, vm_child_cb cb, void *data, struct vm_child **ret,
			  struct qmp_error *err);
int __real_vm_child_watch(uv_loop_t *loop, pid_t pid, vm_child_cb cb, void *data, struct vm_child **ret,
			  struct qmp_error *err);
int __wrap_vm_child_signal(const struct vm_child *c, int signal);
int __wrap_faccessat(int dir, const char *name, int mode, int flags);
int __wrap_unlinkat(int dir, const char *name, int flags);
int __wrap_nanosleep(const struct timespec *wanted, struct timespec *left);

static int any_fd(void)
{
	return fcntl(uv_backend_fd(the_loop()), F_DUPFD_CLOEXEC, 0);
}

int __wrap_vm_dir_open(const char *path, const char *name, bool create, struct qmp_error *err)
{
	UNUSED(path);
	UNUSED(name);
	UNUSED(create);
	UNUSED(err);
	return any_fd();
}

static int find_file(const char *name)
{
	for (int i = 0; i < PARTS; i++)
		if (streq(name, files[i]))
			return w.parts[i] && (i != RUNNING || (w.flags & HAS_RUNNING)) ? i : -1;
	return -1;
}

int __wrap_vm_file_read(int dir, const char *name, char **ret, size_t *ret_len, struct qmp_error *err)
{
	int i = find_file(name);

	UNUSED(dir);
	if (i < 0)
		return qmp_error_errno(err, -ENOENT, "reading %s", name);
	*ret = exact_copy(w.parts[i], w.lens[i] + 1);
	(*ret)[w.lens[i]] = '\0';
	*ret_len = w.lens[i];
	return 0;
}

json_t *__wrap_vm_file_read_json(int dir, const char *name)
{
	int i = find_file(name);
	json_t *value = i < 0 ? NULL : qmp_json_decode(w.parts[i], w.lens[i], NULL);

	UNUSED(dir);
	if (value && !json_is_object(value)) {
		json_decref(value);
		value = NULL;
	}
	return value;
}

int __wrap_vm_file_write(int dir, const char *name, const char *data, size_t len, struct qmp_error *err)
{
	UNUSED(dir);
	UNUSED(name);
	UNUSED(data);
	UNUSED(len);
	UNUSED(err);
	return 0;
}

int __wrap_vm_file_write_json(int dir, const char *name, const json_t *value, struct qmp_error *err)
{
	struct qmp_error why = {0};

	UNUSED(dir);
	UNUSED(err);
	MUST(json_is_object(value), "%s", name);
	MUST(!streq(name, files[SPEC]) || vm_spec_check(value, &why) == 0, "a wrong spec is kept: %s", why.message);
	return 0;
}

int __wrap_vm_file_replace_json(int dir, const char *name, const json_t *value, struct qmp_error *err)
{
	return __wrap_vm_file_write_json(dir, name, value, err);
}

int __wrap_vm_file_take_json(int dir, const char *name, json_t **ret, struct qmp_error *err)
{
	json_t *value = __wrap_vm_file_read_json(dir, name);

	if (!value)
		return qmp_error_errno(err, find_file(name) < 0 ? -ENOENT : -EBADMSG, "reading %s", name);
	*ret = value;
	return 0;
}

void __wrap_vm_file_remove_unfinished(int dir, const char *name)
{
	UNUSED(dir);
	UNUSED(name);
}

int __wrap_vm_lock(int dir, const char *name, int *ret_fd, struct qmp_error *err)
{
	UNUSED(dir);
	UNUSED(name);
	UNUSED(err);
	*ret_fd = any_fd();
	return 0;
}

bool __wrap_vm_is_locked(int dir, const char *name)
{
	UNUSED(dir);
	UNUSED(name);
	return w.flags & LIVES;
}

int __wrap_vm_socket_connect(int dir, const char *name, int *ret_fd, struct qmp_error *err)
{
	int pair[2];

	UNUSED(dir);
	if (!streq(name, "qmp.sock") || w.qemu >= 0)
		return qmp_error_errno(err, -ECONNREFUSED, "connecting to %s", name);
	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0, "no sockets");
	w.qemu = pair[1];
	*ret_fd = pair[0];
	return 0;
}

int __wrap_vm_child_watch(uv_loop_t *loop, pid_t pid, vm_child_cb cb, void *data, struct vm_child **ret,
			  struct qmp_error *err)
{
	MUST(pid > 1, "pid %d", (int)pid);
	return __real_vm_child_watch(loop, getpid(), cb, data, ret, err);
}

int __wrap_vm_child_signal(const struct vm_child *c, int signal)
{
	UNUSED(c);
	MUST(signal == 0, "signal %d to a QEMU that runs", signal);
	return 0;
}

int __wrap_faccessat(int dir, const char *name, int mode, int flags)
{
	UNUSED(dir);
	UNUSED(mode);
	UNUSED(flags);
	errno = ENOENT;
	return find_file(name) >= 0 ? 0 : -1;
}

int __wrap_unlinkat(int dir, const char *name, int flags)
{
	UNUSED(dir);
	UNUSED(flags);
	MUST(!(w.flags & LIVES) || !streq(name, files[RUNNING]), "the record of a QEMU that runs is removed");
	return 0;
}

int __wrap_nanosleep(const struct timespec *wanted, struct timespec *left)
{
	UNUSED(wanted);
	UNUSED(left);
	return 0;
}

/* ---- Operations ---- */

static void on_done(void *data, json_t *result, const struct qmp_error *why)
{
	int *completed = data;

	MUST(++*completed == 1 && (!result || !why), "it completed %d times", *completed);
	if (why)
		must_explain(why->code, why);
}

static void op(struct guest *g, const char *name, json_t *args_consume)
{
	json_auto_t *args = args_consume ? args_consume : json_object();

	MUST(w.n < ARRAY_SIZE(w.completed), "too many");
	if (args_consume && !(w.flags & CHANGES))
		json_object_set_new(args, "dry-run", json_true());
	if (args_consume)
		json_object_set_new(args, "config", json_boolean(w.flags & SPEC_TOO));
	op_run(g, op_find(name), args, on_done, &w.completed[w.n++]);
}

/* Whether the operations of KIND are among those that are asked for. */
static bool is_asked(int kind)
{
	return (w.flags & kind) || !(w.flags & (LOOK | ON_DISKS | ON_OTHERS));
}

static void run_on_others(struct guest *g)
{
	static const char text[] = "{\"name\": \"a\", \"memory\": \"1G\", \"disks\": [{\"type\": \"cdrom\"}], \"nics\": [{}]}";

	op(g, "qmpctl-nic-add", json_pack("{s:{}}", "nic"));
	op(g, "qmpctl-nic-remove", json_pack("{s:s}", "id", "net0"));
	op(g, "qmpctl-set", json_pack("{s:{s:s}}", "values", "disks[vda].throttle.iops-total", "10"));
	op(g, "qmpctl-apply", json_pack("{s:o}", "spec", qmp_json_decode(text, sizeof text - 1, NULL)));
}

static void run_operations(void)
{
	struct guest *g = take_ptr(w.guest);

	if (!g)
		return;
	if (is_asked(LOOK)) {
		op(g, "qmpctl-status", NULL);
		op(g, "qmpctl-show", NULL);
	}
	if (is_asked(ON_DISKS))
		op(g, "qmpctl-disk-add", json_pack("{s:{s:s}}", "disk", "type", "cdrom"));
	if (w.flags & STOPS)
		op(g, "qmpctl-stop", NULL);
	if (is_asked(ON_DISKS))
		op(g, "qmpctl-disk-remove", json_pack("{s:s}", "id", "vda"));
	if (is_asked(ON_OTHERS))
		run_on_others(g);
	if (is_asked(LOOK)) {
		json_auto_t *wait = json_pack("{s:s, s:s, s:i}", "for", "event", "event", "STOP", "timeout", 1);
		op_run(g, op_find("qmpctl-wait"), wait, on_done, &w.completed[w.n++]);
	}
}

/* ---- QEMU's end ---- */

static void turn(void)
{
	static char heard[1 << 16];
	ssize_t n;

	uv_run(the_loop(), UV_RUN_NOWAIT);
	while (w.qemu >= 0 && (n = recv(w.qemu, heard, sizeof heard, MSG_DONTWAIT)) > 0)
		ids_collect(&w.ids, heard, (size_t)n);
}

static void say(const void *data, size_t len)
{
	if (w.qemu >= 0 && len > 0)
		(void)!send(w.qemu, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void play(const uint8_t *data, size_t size)
{
	size_t from = 0, turns = 0;

	for (size_t i = 0; i < size; i++) {
		if (data[i] != 0x06 && data[i] != 0x07 && data[i] != 0x0e && data[i] != 0x11)
			continue;
		say(data + from, i - from);
		from = i + 1;
		if (data[i] == 0x07)
			time_passes(3000);
		if (data[i] == 0x0e)
			run_operations();
		if (data[i] == 0x11 && i + 1 < size) {
			const char *id = ids_get(&w.ids, data[++i]);
			say(id, strlen(id));
			from = i + 1;
		} else if (turns++ < 32) {
			turn();
		}
	}
	say(data + from, size - from);
	turn();
}

static void on_adopted(void *data, const struct qmp_error *why)
{
	int *told = data;

	MUST(++*told == 1, "told %d times", *told);
	if (why)
		must_explain(why->code, why);
}

static void preview(struct vm *vm)
{
	json_auto_t *caps = __wrap_vm_file_read_json(-1, files[CAPS]);
	struct qmp_error err = {0};
	char **argv = NULL;
	int r = vm_caps_are_whole(caps) ? vm_preview_argv(vm, caps, &argv, &err) : 0;

	if (r < 0)
		must_explain(r, &err);
	else
		vm_argv_free(argv);
}

static void live(const uint8_t *data, size_t size)
{
	struct vm_dirs dirs = {(char *)"/c", (char *)"/s", (char *)"/r"};
	struct qmp_error err = {0};
	static struct keeper k; /* libuv lets go of its timer in a later turn */
	struct guest *g;
	int r, told = 0;

	keeper_init(&k, the_loop(), &dirs);
	r = keeper_add(&k, "a", false, &g, &err);
	if (r < 0) {
		must_explain(r, &err);
		keeper_close(&k);
		return;
	}
	if (w.flags & LIVES) {
		r = vm_adopt(g->vm, on_adopted, &told, &err);
		if (r < 0)
			must_explain(r, &err);
	} else {
		preview(g->vm);
	}
	w.guest = g;
	play(data, size);
	run_operations();
	turn();
	keeper_close(&k);
	for (size_t i = 0; i < w.n; i++)
		MUST(w.completed[i] == 1, "operation %zu completed %d times", i, w.completed[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char plain[] = "{\"name\": \"a\"}";
	int fd = next_fd();
	const uint8_t *at = data + 1, *end = data + size, *nul;

	if (size == 0)
		return 0;
	determined_begin();
	memset(&w, 0, sizeof w);
	w.flags = data[0];
	w.qemu = -1;
	for (int i = 0; i < PARTS && at < end && (nul = memchr(at, 0, (size_t)(end - at))); i++) {
		w.parts[i] = (const char *)at;
		w.lens[i] = (size_t)(nul - at);
		at = nul + 1;
	}
	if (!w.parts[SPEC] || w.lens[SPEC] == 0) {
		w.parts[SPEC] = plain;
		w.lens[SPEC] = sizeof plain - 1;
	}
	live(at, (size_t)(end - at));
	turn();
	turn();
	if (w.qemu >= 0)
		(void)close(w.qemu);
	MUST(!uv_loop_alive(the_loop()), "handles stay");
	MUST(fd == next_fd(), "a file descriptor stays");
	return 0;
}
