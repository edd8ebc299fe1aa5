/*
 * The way it goes well: identify the binary -> cached? tell : machines and schema probe -> CPU probes (until one starts)
 * -> save -> tell.
 * A probe is a QEMU with no machine, or one at -S; it is ended as soon as it has answered.
 */
#include "launcher/caps.h"
#include "launcher/buildid.h"
#include "launcher/qemu.h"
#include "launcher/record.h"
#include "proto/base.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/utsname.h>

#define PROBE_MS 15000

/* In order of preference. Some nested KVMs refuse a register that "host" sets; all take the last. */
static const char *const kvm_models[] = {"host", "host,-arch-capabilities", "qemu64"};

/*
 * What Windows heeds of Hyper-V (QEMU, docs/system/i386/hyperv.rst), likewise: the clock among them spares the guest much.
 */
static const char *const hyperv_sets[] = {
	"hv-relaxed,hv-vapic,hv-spinlocks=0x1fff,hv-time,hv-vpindex,hv-runtime,hv-synic,hv-stimer,hv-frequencies,hv-reset",
	"hv-relaxed,hv-spinlocks=0x1fff", ""};

struct probe {
	uv_loop_t *loop;
	uv_timer_t defer; /* tells a cached answer from the loop; gives each probe its deadline */
	char *binary;
	char file[64];
	int cache; /* directory */
	json_t *caps;
	size_t model; /* of kvm_models */
	size_t hyperv; /* of hyperv_sets */
	bool machines_known, cpu_probing, hyperv_probing, up;
	struct vm_qemu *qemu;
	struct qmp_error error;
	vm_caps_cb cb;
	void *data;
};

int vm_kvm_opens(struct qmp_error *err)
{
	_cleanup_fd_ int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int code = errno;

	if (fd >= 0)
		return 1;
	/* These tell of us, and of this moment. */
	if (code == EMFILE || code == ENFILE || code == ENOMEM || code == EINTR)
		return qmp_error_errno(err, -code, "looking whether /dev/kvm can be opened");
	errno = code;
	return 0;
}

static char *find_program(const char *name)
{
	const char *path = getenv("PATH");
	_cleanup_free_ char *copy = strdup(path ? path : "/usr/bin:/bin");

	if (strchr(name, '/') || !copy)
		return strdup(name);
	for (char *save = NULL, *dir = strtok_r(copy, ":", &save); dir; dir = strtok_r(NULL, ":", &save)) {
		char *whole = qmp_asprintf("%s/%s", dir, name);
		if (whole && access(whole, X_OK) == 0)
			return whole;
		free(whole);
	}
	return strdup(name);
}

/* The path of the program that BINARY (NULL: the default) names; new. */
static char *resolve_binary(const char *binary)
{
	const char *named = binary ? binary : getenv("QMPCTL_QEMU");

	return find_program(named && *named ? named : "qemu-system-x86_64");
}

static char *identify(const char *binary, struct qmp_error *err)
{
	char build_id[2 * VM_BUILD_ID_MAX + 1];
	struct utsname host;
	struct stat st;
	int kvm = vm_kvm_opens(err);

	if (kvm < 0)
		return NULL;
	if (stat(binary, &st) < 0) {
		qmp_error_set(err, QMP_ERR_HOST, -errno,
			      "%s: %s; install QEMU (Debian: qemu-system-x86) or set QMPCTL_QEMU to its path", binary,
			      strerror(errno));
		return NULL;
	}
	uname(&host);
	vm_build_id(binary, build_id);
	return qmp_asprintf("%s %lld %lld.%09ld %llu %s %s %s", binary, (long long)st.st_size, (long long)st.st_mtim.tv_sec,
			    st.st_mtim.tv_nsec, (unsigned long long)st.st_ino, build_id, host.release,
			    kvm ? "kvm" : "no-kvm");
}

static unsigned long long hash(const char *text)
{
	unsigned long long h = 14695981039346656037u;

	for (; *text; text++)
		h = (h ^ (unsigned char)*text) * 1099511628211u;
	return h;
}

/* ---- The schema ---- */

#define CAPS_FILE   "qemu-%016llx.json"
#define SCHEMA_FILE "qemu-%016llx.schema.json"

static void write_schema(int cache, const char *binary, const char *identity, const char *raw, size_t len)
{
	json_auto_t *name = qmp_json_text(identity);
	_cleanup_free_ char *quoted = name ? qmp_json_encode(name, 0, NULL) : NULL;
	_cleanup_free_ char *text =
		quoted ? qmp_asprintf("{\"identity\": %s, \"schema\": %.*s}\n", quoted, (int)len, raw) : NULL;
	char file[64];

	snprintf(file, sizeof file, SCHEMA_FILE, hash(binary));
	if (text)
		(void)vm_file_write(cache, file, text, strlen(text), NULL);
}

/* What the cache holds of a binary, of its identity; new; NULL: nothing, or of another identity. */
static json_t *load(const struct vm_dirs *dirs, const char *binary, const char *id, bool schema)
{
	_cleanup_free_ char *found = resolve_binary(binary);
	_cleanup_free_ char *identity = id ? strdup(id) : found ? identify(found, NULL) : NULL;
	_cleanup_fd_ int cache = vm_dir_open(dirs->state, "cache", false, NULL);
	json_auto_t *kept = NULL;
	const char *of;
	char file[64];

	if (!found || !identity || cache < 0)
		return NULL;
	snprintf(file, sizeof file, schema ? SCHEMA_FILE : CAPS_FILE, hash(found));
	kept = vm_file_read_json(cache, file);
	of = json_string_value(json_object_get(kept, "identity"));
	return of && streq(of, identity) ? take_ptr(kept) : NULL;
}

json_t *vm_caps_load(const struct vm_dirs *dirs, const char *binary)
{
	return load(dirs, binary, NULL, false);
}

json_t *vm_schema_load(const struct vm_dirs *dirs, const char *binary, const char *id)
{
	json_auto_t *kept = load(dirs, binary, id, true);

	return json_incref(json_object_get(kept, "schema"));
}

void vm_schema_save(const struct vm_dirs *dirs, const char *binary, const char *id, const char *raw, size_t len)
{
	_cleanup_free_ char *found = resolve_binary(binary);
	_cleanup_free_ char *identity = id ? strdup(id) : found ? identify(found, NULL) : NULL;
	_cleanup_fd_ int cache = vm_dir_open(dirs->state, "cache", true, NULL);

	if (found && identity && cache >= 0)
		write_schema(cache, found, identity, raw, len);
}

/* ---- Probing ---- */

static void on_closed(uv_handle_t *h)
{
	struct probe *p = h->data;

	json_decref(p->caps);
	free(p->binary);
	(void)close(p->cache);
	free(p);
}

static void tell(struct probe *p, bool ok)
{
	uv_timer_stop(&p->defer);
	p->cb(p->data, ok ? p->caps : NULL, &p->error);
	uv_close((uv_handle_t *)&p->defer, on_closed);
}

static void start_probe(struct probe *p);

static void on_deadline(uv_timer_t *t)
{
	struct probe *p = t->data;

	vm_child_signal(vm_qemu_child(p->qemu), 9);
}

static void save(struct probe *p)
{
	json_object_set_new(p->caps, "hyperv", json_string(hyperv_sets[p->hyperv]));
	/* A cache that cannot be written costs time, nothing else. */
	(void)vm_file_write_json(p->cache, p->file, p->caps, NULL);
	tell(p, true);
}

static void on_exit_probe(void *data, const struct vm_exit *how)
{
	struct probe *p = data;
	int kvm;

	vm_qemu_free(take_ptr(p->qemu));
	uv_timer_stop(&p->defer);
	if (!p->machines_known) {
		qmp_error_set(&p->error, QMP_ERR_HOST, -EIO,
			      "%s does not start at all (exit status %d, signal %d); try \"%s -version\"", p->binary,
			      how->code, how->signal, p->binary);
		tell(p, false);
		return;
	}
	if (p->hyperv_probing) {
		if (p->up || !*hyperv_sets[++p->hyperv])
			save(p);
		else
			start_probe(p);
		return;
	}
	if (p->cpu_probing && p->up) {
		json_object_set_new(p->caps, "kvm-cpu", json_string(kvm_models[p->model]));
		p->hyperv_probing = true;
		start_probe(p);
		return;
	}
	p->model = p->cpu_probing ? p->model + 1 : 0;
	p->cpu_probing = true;
	kvm = vm_kvm_opens(&p->error);
	if (kvm < 0) {
		tell(p, false);
		return;
	}
	if (kvm && p->model < ARRAY_SIZE(kvm_models)) {
		start_probe(p);
		return;
	}
	json_object_set_new(p->caps, "kvm-cpu", json_null());
	p->hyperv = ARRAY_SIZE(hyperv_sets) - 1;
	save(p);
}

static void end_probe(struct probe *p)
{
	vm_child_signal(vm_qemu_child(p->qemu), 9);
}

static void on_machines(void *data, const struct qmp_reply *reply)
{
	struct probe *p = data;
	json_t *machines, *machine;
	size_t i;

	if (reply->status < 0)
		qmp_error_set(&p->error, QMP_ERR_PROTOCOL, -EPROTO, "asking %s for its machines: %s", p->binary,
			      reply->error.message);
	if (reply->status < 0)
		return;
	machines = json_object();
	json_array_foreach(reply->value, i, machine)
	{
		json_t *alias = json_object_get(machine, "alias");
		if (json_is_string(alias))
			json_object_set(machines, json_string_value(alias), json_object_get(machine, "name"));
	}
	json_object_set_new(p->caps, "machines", machines);
}

/* A QEMU without seccomp, or on a kernel without it, does not know the option. */
static void on_sandbox(void *data, const struct qmp_reply *reply)
{
	struct probe *p = data;

	json_object_set_new(p->caps, "sandbox", json_boolean(reply->status == 0 && json_array_size(reply->value) > 0));
}

/* The last question: the commands' order is that of their answers. */
static void on_schema(void *data, const struct qmp_reply *reply)
{
	struct probe *p = data;

	if (reply->status == 0)
		write_schema(p->cache, p->binary, json_string_value(json_object_get(p->caps, "identity")), reply->raw,
			     reply->raw_len);
	p->machines_known = json_object_get(p->caps, "machines") != NULL;
	end_probe(p);
}

static void on_up(void *data, json_t *status)
{
	struct probe *p = data;
	struct qmp_session *s = vm_qemu_session(p->qemu);
	json_auto_t *option = NULL;
	json_t *version;

	UNUSED(status);
	if (p->machines_known) {
		p->up = true;
		end_probe(p);
		return;
	}
	option = json_pack("{s:s}", "option", "sandbox");
	version = json_object_get(json_object_get(qmp_session_greeting(s), "version"), "qemu");
	if (!vm_version_is_whole(version)) {
		qmp_error_set(&p->error, QMP_ERR_PROTOCOL, -EPROTO, "%s greets without a version of QEMU; is it QEMU?", p->binary);
		end_probe(p);
		return;
	}
	json_object_set(p->caps, "version", version);
	(void)qmp_session_execute(s, &(struct qmp_command){.name = "query-machines"}, on_machines, p, NULL, NULL);
	(void)qmp_session_execute(s, &(struct qmp_command){.name = "query-command-line-options", .arguments = option},
				  on_sandbox, p, NULL, NULL);
	(void)qmp_session_execute(s, &(struct qmp_command){.name = "query-qmp-schema", .raw = true}, on_schema, p, NULL, NULL);
}

static void on_lost(void *data, const struct qmp_error *why)
{
	struct probe *p = data;

	if (!p->machines_known)
		qmp_error_set(&p->error, why->kind, why->code, "asking %s what it can: %s", p->binary, why->message);
	end_probe(p);
}

static void start_probe(struct probe *p)
{
	_cleanup_free_ char *machine =
		p->machines_known ? strdup("q35,accel=kvm") : strdup("none");
	_cleanup_free_ char *with_hyperv =
		p->hyperv_probing ? qmp_asprintf("%s,%s", kvm_models[p->model], hyperv_sets[p->hyperv]) : NULL;
	const char *model = with_hyperv ? with_hyperv : p->machines_known ? kvm_models[p->model] : NULL;
	const char *argv[] = {p->binary, "-S", "-nodefaults", "-no-user-config", "-display", "none", "-chardev",
			      "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control", "-machine", machine,
			      model ? "-cpu" : NULL, model, "-m", "16M", NULL};
	struct vm_qemu_options o = {
		.child = {.argv = (char *const *)argv, .n_fds = 1, .output = -1, .directory = -1, .pid_file = -1, .cgroup_procs = -1,
			  .confined = true, .dies_with_us = true},
		.up_timeout_ms = PROBE_MS,
		.on_up = on_up,
		.on_lost = on_lost,
		.on_exit = on_exit_probe,
		.data = p,
	};
	int pair[2];

	p->up = false;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0) {
		qmp_error_errno(&p->error, -errno, "asking %s what it can", p->binary);
		tell(p, false);
		return;
	}
	o.child.fds = &pair[1];
	o.qmp_fd = pair[0];
	if (vm_qemu_new(p->loop, &o, &p->qemu, &p->error) < 0) {
		(void)close(pair[0]);
		(void)close(pair[1]);
		tell(p, false);
		return;
	}
	(void)close(pair[1]);
	uv_timer_start(&p->defer, on_deadline, PROBE_MS, 0);
}

static void on_deferred(uv_timer_t *t)
{
	struct probe *p = t->data;

	if (p->machines_known)
		tell(p, true);
	else
		start_probe(p);
}

int vm_caps_get(uv_loop_t *loop, const struct vm_dirs *dirs, const char *binary, vm_caps_cb cb, void *data,
		struct qmp_error *err)
{
	_cleanup_free_ char *found = resolve_binary(binary);
	_cleanup_free_ char *identity = found ? identify(found, err) : NULL;
	json_auto_t *cached = NULL;
	struct probe *p;
	int cache;

	if (!identity)
		return err && err->code ? err->code : -ENOMEM;
	cache = vm_dir_open(dirs->state, "cache", true, err);
	if (cache < 0)
		return cache;
	p = calloc(1, sizeof *p);
	if (!p) {
		(void)close(cache);
		return qmp_error_errno(err, -ENOMEM, "asking %s what it can", found);
	}
	p->loop = loop;
	p->cache = cache;
	p->cb = cb;
	p->data = data;
	snprintf(p->file, sizeof p->file, CAPS_FILE, hash(found));
	cached = vm_file_read_json(cache, p->file);
	if (vm_caps_are_whole(cached) &&
	    streq(json_string_value(json_object_get(cached, "identity")), identity)) {
		p->caps = take_ptr(cached);
		p->machines_known = true;
	} else {
		p->caps = json_pack("{s:s, s:s}", "identity", identity, "binary", found);
	}
	p->binary = take_ptr(found);
	uv_timer_init(loop, &p->defer);
	p->defer.data = p;
	uv_timer_start(&p->defer, on_deferred, 0, 0);
	return 0;
}
