/*
 * Starting, the way it goes well:
 *   complete the spec -> ask what QEMU can -> sockets, taps, lock -> command line -> spawn -> up -> cont -> running.
 * Every way it fails (no binary, bad argument, QEMU ends while starting, no answer in time) ends in start_failed(), which
 * leaves nothing behind and tells QEMU's own words. From "up" on it is vm.c's.
 */
#include "launcher/vm-internal.h"
#include "launcher/argv.h"
#include "launcher/cgroup.h"
#include "launcher/firmware.h"
#include "launcher/hostnet.h"
#include "launcher/identity.h"
#include "launcher/secret.h"
#include "launcher/spec.h"
#include "proto/base.h"

#include <fcntl.h>
#include <stdio.h>

#define MAX_FDS 200
#define UP_MS   30000
#define KEY_MS  60000 /* for each image that is encrypted: trying a key is made to cost seconds */

/* ---- Starting ---- */

struct inherited {
	struct vm_named_fd named[MAX_FDS];
	int fds[MAX_FDS]; /* ours; become named[i].fd = 3 + i */
	char *names[MAX_FDS];
	size_t n;
	size_t n_secrets;
};

static void inherited_deinit(struct inherited *in)
{
	for (size_t i = 0; i < in->n; i++) {
		if (in->fds[i] >= 0)
			(void)close(in->fds[i]);
		free(in->names[i]);
	}
	in->n = 0;
}

static int inherit_consume(struct inherited *in, const char *name, int fd, struct qmp_error *err)
{
	char *copy = in->n < MAX_FDS ? strdup(name) : NULL;

	if (!copy) {
		if (fd >= 0)
			(void)close(fd);
		return qmp_error_set(err, QMP_ERR_LIMIT, -E2BIG, "more than %d file descriptors for one QEMU", MAX_FDS);
	}
	in->fds[in->n] = fd;
	in->names[in->n] = copy;
	in->named[in->n] = (struct vm_named_fd){copy, 3 + (int)in->n};
	in->n++;
	return 0;
}

static int inherit_socket(struct vm *vm, struct inherited *in, const char *file, const char *name, struct qmp_error *err)
{
	int fd, r = vm_socket_listen(vm->run_dir, file, &fd, err);

	return r < 0 ? r : inherit_consume(in, name, fd, err);
}

static int open_image(const json_t *spec, const char *item, const json_t *args, int *ret_fd, struct qmp_error *err)
{
	const char *driver = text_of(args, "driver"), *file = text_of(args, "filename");
	bool direct = json_is_true(json_object_get(json_object_get(args, "cache"), "direct"));
	int flags = (json_is_true(json_object_get(args, "read-only")) ? O_RDONLY : O_RDWR) | (direct ? O_DIRECT : 0);
	_cleanup_identity_ struct vm_identity *id = NULL;
	int r;

	if (!driver || !file || !(streq(driver, "file") || streq(driver, "host_device")))
		return 0;
	r = vm_identity_of(spec, &id, err);
	return r == 0 && id ? vm_identity_open(id, item, file, flags, ret_fd, err) : r;
}

int vm_open_image(const struct vm *vm, const char *item, const json_t *args, int *ret_fd, struct qmp_error *err)
{
	return open_image(vm->running, item, args, ret_fd, err);
}

bool vm_has_user(const struct vm *vm)
{
	return text_of(vm->running, "user");
}

/* Its name in the command line; NULL: the object needs none. */
static const char *fd_name_of(const struct vm_object *o)
{
	return o->secret_file || o->kind == VM_BLOCKDEV ? vm_object_id(o) : o->fd_name;
}

/* Of an object with a name: a secret, an image that QEMU may not open, or the tap of a NIC ("nics.net0"). RET -1: not needed. */
static int open_object(const json_t *spec, const char *item, const struct vm_object *o, int *ret, struct qmp_error *err)
{
	const char *dot = strchr(item, '.');
	int r;

	if (o->kind == VM_BLOCKDEV) {
		r = open_image(spec, item, o->args, ret, err);
		return r < 0 ? r : 0;
	}
	if (!o->secret_file)
		return vm_hostnet_open(vm_spec_find(spec, "nics", dot ? dot + 1 : ""), ret, err);
	if (vm_secret_open(o->secret_file, o->secret_is_line, ret, err) < 0)
		return qmp_error_wrap(err, "%s", item);
	return 0;
}

/* Not OPENED: the names stand for fds that nobody has. */
static int inherit_objects(const struct vm *vm, const json_t *spec, struct inherited *in, bool opened, struct qmp_error *err)
{
	struct vm_host host = vm_host_of(vm);
	struct vm_fragments all;
	int r = vm_fragments_all(spec, &host, &all, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < all.n; i++)
		for (size_t k = 0; k < all.list[i].n_objects && r == 0; k++) {
			const struct vm_object *o = &all.list[i].objects[k];
			int fd = -1;
			if (!fd_name_of(o))
				continue;
			r = opened ? open_object(spec, all.list[i].item, o, &fd, err) : 0;
			if (r == 0 && (fd >= 0 || o->kind != VM_BLOCKDEV))
				r = inherit_consume(in, fd_name_of(o), fd, err);
			in->n_secrets += o->secret_file != NULL;
		}
	vm_fragments_deinit(&all);
	return r;
}

/* Everything that QEMU inherits; the lock is the last. */
static int prepare(struct vm *vm, json_t *spec, struct inherited *in, struct qmp_error *err)
{
	json_t *console;
	size_t i;
	int fd, r = inherit_socket(vm, in, "qmp.sock", "qmp", err);

	json_array_foreach(json_object_get(spec, "consoles"), i, console)
	{
		_cleanup_free_ char *name = qmp_asprintf("con-%s.sock", text_of(console, "id"));
		if (r == 0)
			r = inherit_socket(vm, in, name, text_of(console, "id"), err);
	}
	if (r == 0 && json_is_true(json_object_get(spec, "agent")))
		r = inherit_socket(vm, in, "agent.sock", "agent", err);
	if (r == 0)
		r = inherit_objects(vm, spec, in, true, err);
	if (r == 0)
		r = vm_lock(vm->run_dir, QEMU_LOCK, &fd, err);
	return r < 0 ? r : inherit_consume(in, "lock", fd, err);
}

static int refuse_kvm(const struct vm_identity *id, struct qmp_error *err)
{
	if (vm_kvm_opens(NULL) > 0)
		return qmp_error_set(err, QMP_ERR_HOST, -EACCES,
				     "the spec insists on kvm, but the user %s cannot open /dev/kvm; make it a member of the group "
				     "that can (usermod -aG kvm %s), or set group to that, or accel to auto or tcg",
				     id->user, id->user);
	return qmp_error_set(err, QMP_ERR_HOST, -ENODEV,
			     "the spec insists on kvm, but /dev/kvm cannot be opened (%s); set accel to auto or tcg",
			     strerror(errno));
}

/* What is "auto" or an alias in the spec, resolved for this host and QEMU. */
static int resolve(struct vm *vm, const json_t *spec, json_t *caps, struct qmp_error *err)
{
	const char *accel = text_of(spec, "accel"), *model = text_of(json_object_get(spec, "cpu"), "model");
	const char *type = text_of(json_object_get(spec, "machine"), "type"), *kvm_cpu = text_of(caps, "kvm-cpu");
	const char *versioned = text_of(json_object_get(caps, "machines"), type);
	bool wants_sandbox = json_is_true(json_object_get(spec, "sandbox"));
	bool has_sandbox = json_is_true(json_object_get(caps, "sandbox"));
	_cleanup_identity_ struct vm_identity *id = NULL;
	_cleanup_free_ char *with_hyperv = NULL;
	json_auto_t *firmware = NULL;
	int opens;
	bool kvm;
	json_t *facts;

	if (vm_identity_of(spec, &id, err) < 0)
		return err->code;
	opens = vm_kvm_opens(err);
	if (opens < 0)
		return opens;
	opens = opens && (!id || vm_identity_opens(id, "/dev/kvm"));
	kvm = streq(accel, "kvm") || (streq(accel, "auto") && opens && kvm_cpu);
	if (streq(accel, "kvm") && !opens)
		return refuse_kvm(id, err);
	if (streq(model, "auto"))
		model = kvm ? (kvm_cpu ? kvm_cpu : "host") : "max";
	if (kvm && json_is_true(json_object_get(json_object_get(spec, "cpu"), "hyperv")) && *text_of(caps, "hyperv"))
		model = with_hyperv = qmp_asprintf("%s,%s", model, text_of(caps, "hyperv"));
	facts = json_pack("{s:s, s:s, s:s, s:O, s:O, s:O, s:b}", "accel", kvm ? "kvm" : "tcg", "cpu-model", model, "machine",
			  versioned ? versioned : type, "qemu-version", json_object_get(caps, "version"), "binary",
			  json_object_get(caps, "binary"), "binary-id", json_object_get(caps, "identity"), "sandbox",
			  wants_sandbox && has_sandbox);
	if (!facts)
		return qmp_error_errno(err, -ENOMEM, "starting %s", vm->name);
	if (vm_firmware_find(vm->dirs, spec, text_of(facts, "machine"), NULL, &firmware, err) < 0) {
		json_decref(facts);
		return qmp_error_wrap(err, "starting %s", vm->name);
	}
	if (firmware)
		json_object_set(facts, "firmware", firmware);
	if (wants_sandbox && !has_sandbox)
		json_object_set_new(facts, "sandbox-note", json_string("this QEMU, or the kernel, has no seccomp"));
	if (id)
		json_object_set_new(facts, "vhost-net", json_boolean(vm_identity_opens(id, "/dev/vhost-net")));
	vm_replace(&vm->host_facts, facts);
	return vm_know_pools(vm, spec, err);
}

/* ---- What another user's QEMU may open ---- */

/* Of a QEMU that is to start as ID: its program, and what it opens by a path. */
static int add_needs(struct vm *vm, const json_t *spec, const json_t *caps, struct vm_needs *needs, struct qmp_error *err)
{
	static const char *const commands[] = {
		[VM_OBJECT] = "object-add", [VM_BLOCKDEV] = "blockdev-add", [VM_NETDEV] = "netdev_add", [VM_DEVICE] = "device_add"};
	const struct {
		const char *item, *path;
		int mode;
	} files[] = {{"qemu-binary", text_of(caps, "binary"), X_OK},
		     {"firmware.path", text_of(json_object_get(spec, "firmware"), "path"), R_OK},
		     {"boot.kernel", text_of(json_object_get(spec, "boot"), "kernel"), R_OK},
		     {"boot.initrd", text_of(json_object_get(spec, "boot"), "initrd"), R_OK},
		     {"seed.ignition", text_of(json_object_get(spec, "seed"), "ignition"), R_OK}};
	struct vm_host host = vm_host_of(vm);
	struct vm_fragments all;
	int r = vm_fragments_all(spec, &host, &all, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(files) && r == 0; i++)
		r = files[i].path ? vm_needs_add(needs, files[i].item, files[i].path, files[i].mode) : 0;
	for (size_t i = 0; i < all.n; i++)
		for (size_t k = 0; k < all.list[i].n_objects && r == 0; k++)
			r = vm_needs_add_object(needs, all.list[i].item, commands[all.list[i].objects[k].kind],
						all.list[i].objects[k].args);
	vm_fragments_deinit(&all);
	return r;
}

static int may_run_as(struct vm *vm, const struct vm_identity *id, const json_t *spec, const json_t *caps,
		      struct qmp_error *err)
{
	struct vm_needs needs = {0};
	int r = add_needs(vm, spec, caps, &needs, err);

	if (r == 0)
		r = vm_identity_check(id, &needs, err);
	vm_needs_deinit(&needs);
	return r < 0 ? qmp_error_errno(err, r, "starting %s", vm->name) : 0;
}

int vm_may_open(const struct vm *vm, const json_t *plan, struct qmp_error *err)
{
	_cleanup_identity_ struct vm_identity *id = NULL;
	struct vm_needs needs = {0};
	const json_t *step;
	size_t i;
	int r = vm_identity_of(vm->running, &id, err);

	json_array_foreach(plan, i, step)
		if (r == 0 && id)
			r = vm_needs_add_object(&needs, text_of(step, "item"), text_of(step, "execute"),
						json_object_get(step, "arguments"));
	if (r == 0 && id)
		r = vm_identity_check(id, &needs, err);
	vm_needs_deinit(&needs);
	return r;
}

/* The machine type is fixed by the first start, so that an upgrade of QEMU does not change the guest's hardware. */
static int pin_machine(struct vm *vm, struct qmp_error *err)
{
	json_auto_t *spec = json_deep_copy(vm->spec);
	json_t *machine = json_object_get(spec, "machine");
	json_t *resolved = json_object_get(vm->host_facts, "machine");
	int changed = vm_spec_complete(spec, err);

	if (changed < 0)
		return changed;
	if (!machine) {
		machine = json_object();
		json_object_set_new(spec, "machine", machine);
	}
	if (!json_equal(json_object_get(machine, "type"), resolved)) {
		json_object_set(machine, "type", resolved);
		changed = 1;
	}
	return changed ? vm_save_spec(vm, spec, err) : 0;
}

static int spawn(struct vm *vm, char *const *argv, const struct vm_identity *id, int cgroup_procs, struct inherited *in,
		 struct qmp_error *err)
{
	_cleanup_fd_ int log = openat(vm->run_dir, LOG, O_WRONLY | O_CREAT | O_NONBLOCK | O_TRUNC | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
	struct vm_qemu_options o = {
		.child = {.argv = argv,
			  .fds = in->fds,
			  .n_fds = in->n,
			  .output = log,
			  .directory = vm->run_dir,
			  .identity = id,
			  .cgroup_procs = cgroup_procs,
			  .confined = true,
			  .pid_file = in->fds[in->n - 1]},
		.up_timeout_ms = UP_MS + in->n_secrets * KEY_MS,
	};
	int r = vm_socket_connect(vm->run_dir, "qmp.sock", &o.qmp_fd, err);

	if (r < 0)
		return r;
	vm_fill_qemu_options(vm, &o);
	vm_open_consoles(vm);
	r = vm_qemu_new(vm->loop, &o, &vm->qemu, err);
	if (r < 0)
		(void)close(o.qmp_fd);
	return r;
}

static json_t *argv_json(char *const *argv)
{
	json_t *list = json_array();

	for (; *argv; argv++)
		json_array_append_new(list, json_string(*argv));
	return list;
}

/* ---- Limits ---- */

/* An image, of a disk, that is a path of this host. */
static int limit_node(const char *cgroup, const json_t *spec, const char *item, const json_t *args, struct qmp_error *err)
{
	const char *file = text_of(args, "filename");

	return file && *file == '/' && strncmp(item, "disks.", strlen("disks.")) == 0 ? vm_cgroup_limit_io(cgroup, spec, file, err)
										    : 0;
}

int vm_limit_io(const struct vm *vm, const json_t *plan, struct qmp_error *err)
{
	const json_t *step;
	size_t i;
	int r = 0;

	json_array_foreach(plan, i, step)
		if (r == 0 && streq(text_of(step, "execute"), "blockdev-add"))
			r = limit_node(text_of(vm->host_facts, "cgroup"), vm->running, text_of(step, "item"),
				       json_object_get(step, "arguments"), err);
	return r;
}

static int limit_start(const struct vm *vm, const char *cgroup, const json_t *spec, struct qmp_error *err)
{
	struct vm_host host = vm_host_of(vm);
	struct vm_fragments all;
	int r = vm_fragments_all(spec, &host, &all, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < all.n; i++)
		for (size_t k = 0; k < all.list[i].n_objects && r == 0; k++)
			if (all.list[i].objects[k].kind == VM_BLOCKDEV)
				r = limit_node(cgroup, spec, all.list[i].item, all.list[i].objects[k].args, err);
	vm_fragments_deinit(&all);
	return r;
}

/* Removed with the other things of this QEMU: known by the facts that are kept of it. */
static int make_cgroup(struct vm *vm, const json_t *spec, int *ret_procs, struct qmp_error *err)
{
	_cleanup_free_ char *path = NULL;
	int r = vm_cgroup_make(spec, vm->name, &path, ret_procs, err);

	if (path)
		json_object_set_new(vm->host_facts, "cgroup", qmp_json_text(path));
	return r == 0 && path ? limit_start(vm, path, spec, err) : r;
}

static int launch(struct vm *vm, json_t *caps, struct qmp_error *err)
{
	_cleanup_identity_ struct vm_identity *id = NULL;
	_cleanup_fd_ int cgroup_procs = -1;
	struct inherited in = {0};
	json_auto_t *effective = NULL;
	char **argv = NULL;
	struct vm_host host;
	int r;

	effective = vm_spec_effective(vm->spec);
	r = effective ? 0 : qmp_error_errno(err, -ENOMEM, "starting %s", vm->name);
	if (r == 0)
		r = vm_identity_of(effective, &id, err);
	if (r == 0)
		r = vm_firmware_make(vm->dirs, effective, json_object_get(vm->host_facts, "firmware"), err);
	if (r == 0 && id)
		r = may_run_as(vm, id, effective, caps, err);
	if (r == 0)
		r = make_cgroup(vm, effective, &cgroup_procs, err);
	if (r == 0)
		r = prepare(vm, effective, &in, err);
	host = vm_host_of(vm);
	if (r == 0)
		r = vm_argv_render(effective, &host, text_of(caps, "binary"), in.named, in.n, &argv, err);
	if (r == 0) {
		vm_replace(&vm->argv, argv_json(argv));
		vm_forget_ending(vm);
		vm->started = vm_seconds();
		r = vm_save_running(vm, effective, err);
	}
	/* Only now, when others can see what we have: of two that start at the same time, one at least sees the other. */
	if (r == 0 && vm->handlers.may_start)
		r = vm->handlers.may_start(vm->handlers.data, vm, effective, err);
	if (r == 0)
		r = spawn(vm, argv, id, cgroup_procs, &in, err);
	vm_argv_free(argv);
	inherited_deinit(&in);
	return r;
}

static void start_failed(struct vm *vm, const struct qmp_error *why)
{
	vm_cleanup_run(vm);
	vm_set_state(vm, VM_STOPPED);
	vm_tell_started(vm, why);
}

static int refuse_cancelled(const struct vm *vm, struct qmp_error *err)
{
	return vm->start_cancelled ? qmp_error_set(err, QMP_ERR_CANCELLED, -ECANCELED, "starting %s: stopped on request, before QEMU was "
						   "started", vm->name)
				   : 0;
}

void vm_start_ready(struct vm *vm, const struct qmp_error *why)
{
	json_auto_t *caps = take_ptr(vm->caps);
	struct qmp_error err = {0};

	if (refuse_cancelled(vm, &err) < 0)
		start_failed(vm, &err);
	else if (why || launch(vm, caps, &err) < 0)
		start_failed(vm, why ? why : &err);
}

bool vm_cancel_start(struct vm *vm)
{
	if (vm->state != VM_STARTING || vm->qemu)
		return false;
	vm->start_cancelled = vm->wanted_end = true;
	if (vm->caps && vm->handlers.take_back)
		vm->handlers.take_back(vm->handlers.data);
	return true;
}

static void on_caps(void *data, json_t *caps, const struct qmp_error *why)
{
	struct vm *vm = data;
	json_auto_t *effective = NULL;
	struct qmp_error err = {0};
	int r;

	if (!caps) {
		start_failed(vm, why);
		return;
	}
	effective = vm_spec_effective(vm->spec);
	r = refuse_cancelled(vm, &err);
	if (r == 0)
		r = resolve(vm, effective, caps, &err);
	if (r == 0)
		r = pin_machine(vm, &err);
	vm->caps = json_incref(caps);
	if (r == 0)
		r = vm->handlers.make_ready ? vm->handlers.make_ready(vm->handlers.data, vm, &err) : 1;
	if (r != 0)
		vm_start_ready(vm, r < 0 ? &err : NULL);
}

int vm_start(struct vm *vm, bool paused, void (*cb)(void *data, const struct qmp_error *why), void *data,
	     struct qmp_error *err)
{
	int r;

	if (vm->state != VM_STOPPED || vm_qemu_lives(vm))
		return qmp_error_set(err, QMP_ERR_STATE, -EALREADY, "the VM %s is %s already", vm->name,
				     vm->state == VM_STOPPED ? "running" : vm_state_name(vm->state));
	r = vm_renew_spec(vm, err);
	if (r == 0)
		r = vm_caps_get(vm->loop, vm->dirs, text_of(vm->spec, "qemu-binary"), on_caps, vm, err);
	if (r < 0)
		return r;
	vm->start_cb = cb;
	vm->start_data = data;
	vm->start_paused = paused;
	vm->was_up = vm->start_cancelled = vm->wanted_end = false;
	vm->start_error = (struct qmp_error){0};
	vm_set_state(vm, VM_STARTING);
	return 0;
}

/* ---- The command line alone ---- */

/* The fds that prepare() would make, in its order. */
static int name_fds(const struct vm *vm, const json_t *spec, struct inherited *in, struct qmp_error *err)
{
	json_t *console;
	size_t i;
	int r = inherit_consume(in, "qmp", -1, err);

	json_array_foreach(json_object_get(spec, "consoles"), i, console)
		if (r == 0)
			r = inherit_consume(in, text_of(console, "id"), -1, err);
	if (r == 0 && json_is_true(json_object_get(spec, "agent")))
		r = inherit_consume(in, "agent", -1, err);
	return r < 0 ? r : inherit_objects(vm, spec, in, false, err);
}

int vm_preview_argv(struct vm *vm, json_t *caps, char ***ret, struct qmp_error *err)
{
	json_auto_t *spec = json_deep_copy(vm->spec), *effective = NULL, *facts = json_incref(vm->host_facts);
	struct inherited in = {0};
	struct vm_host host;
	int r = vm_spec_complete(spec, err);

	if (r < 0)
		return r;
	effective = vm_spec_effective(spec);
	r = resolve(vm, effective, caps, err);
	host = vm_host_of(vm);
	if (r == 0)
		r = name_fds(vm, effective, &in, err);
	if (r == 0)
		r = vm_argv_render(effective, &host, text_of(caps, "binary"), in.named, in.n, ret, err);
	inherited_deinit(&in);
	vm_replace(&vm->host_facts, take_ptr(facts));
	return r;
}
