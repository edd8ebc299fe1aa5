#include "launcher/argv.h"
#include "launcher/spec.h"
#include "proto/base.h"

#include <ctype.h>
#include <stdio.h>

struct args {
	char **list;
	size_t n;
	bool failed;
};

static void add_consume(struct args *a, char *text)
{
	char **list = text ? realloc(a->list, (a->n + 2) * sizeof *list) : NULL;

	if (!list) {
		free(text);
		a->failed = true;
		return;
	}
	a->list = list;
	list[a->n++] = text;
	list[a->n] = NULL;
}

static void add(struct args *a, const char *text)
{
	add_consume(a, strdup(text));
}

static void add_pair(struct args *a, const char *option, const char *value)
{
	add(a, option);
	add(a, value);
}

#define add_format(a, option, ...) (add((a), (option)), add_consume((a), qmp_asprintf(__VA_ARGS__)))

static int find_fd(const struct vm_named_fd *fds, size_t n, const char *name, int *ret, struct qmp_error *err)
{
	for (size_t i = 0; i < n; i++)
		if (streq(fds[i].name, name)) {
			*ret = fds[i].fd;
			return 0;
		}
	return qmp_error_set(err, QMP_ERR_INTERNAL, -EINVAL, "no file descriptor for \"%s\" was prepared", name);
}

static void add_machine(struct args *a, const json_t *spec, const struct vm_host *host)
{
	const json_t *cpu = json_object_get(spec, "cpu");
	bool smm = json_is_true(json_object_get(host->firmware, "smm"));
	static const char *const parts[] = {"sockets", "cores", "threads"};
	char smp[160];
	uint64_t memory = 0;
	int n;

	(void)vm_size_parse(json_object_get(spec, "memory"), &memory);
	add_format(a, "-name", "guest=%s", text_of(spec, "name"));
	add_pair(a, "-uuid", text_of(spec, "uuid"));
	add(a, "-nodefaults");
	add(a, "-no-user-config");
	add_format(a, "-machine", "%s,accel=%s%s%s", host->machine, host->accel,
		   host->firmware ? ",pflash0=firmware,pflash1=firmware-vars" : "", smm ? ",smm=on" : "");
	if (smm) {
		/* The variables are the firmware's alone, not the guest's kernel's. S3 would get around that. */
		add_pair(a, "-global", "driver=cfi.pflash01,property=secure,value=on");
		add_pair(a, "-global", "ICH9-LPC.disable_s3=1");
	}
	add_pair(a, "-cpu", host->cpu_model);
	n = snprintf(smp, sizeof smp, "%lld", (long long)json_integer_value(json_object_get(cpu, "count")));
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
		if (json_object_get(cpu, parts[i]))
			n += snprintf(smp + n, sizeof smp - (size_t)n, ",%s=%lld", parts[i],
				      (long long)json_integer_value(json_object_get(cpu, parts[i])));
	add_pair(a, "-smp", smp);
	add_format(a, "-m", "size=%lluK", (unsigned long long)(memory >> 10));
	if (streq(text_of(spec, "clock"), "localtime"))
		add_pair(a, "-rtc", "base=localtime,driftfix=slew");
	add(a, "-S");
}

/* Nothing that a VM needs: no program is run, no privilege is won, no priority is changed. */
static void add_sandbox(struct args *a, const struct vm_host *host)
{
	if (host->sandbox)
		add_pair(a, "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
}

static void add_actions(struct args *a, const json_t *spec)
{
	const json_t *watchdog = json_object_get(spec, "watchdog");

	add_format(a, "-action", "reboot=%s,shutdown=%s,panic=%s%s%s", text_of(spec, "on-reboot"),
		   text_of(spec, "on-shutdown"), text_of(spec, "on-panic"), watchdog ? ",watchdog=" : "",
		   watchdog ? text_of(watchdog, "action") : "");
}

static void add_boot(struct args *a, const json_t *spec, const struct vm_host *host)
{
	const json_t *boot = json_object_get(spec, "boot"), *firmware = json_object_get(spec, "firmware");
	char order[4] = "";
	json_t *what;
	size_t i;

	json_array_foreach(json_object_get(boot, "order"), i, what)
	{
		const char *w = json_string_value(what);
		if (i < 3)
			order[i] = streq(w, "disk") ? 'c' : streq(w, "cdrom") ? 'd' : 'n';
	}
	if (*order || json_is_true(json_object_get(boot, "menu")))
		add_format(a, "-boot", "menu=%s%s%s", json_is_true(json_object_get(boot, "menu")) ? "on" : "off",
			   *order ? ",order=" : "", order);
	if (text_of(firmware, "path") && !host->firmware)
		add_pair(a, "-bios", text_of(firmware, "path"));
	if (text_of(boot, "kernel"))
		add_pair(a, "-kernel", text_of(boot, "kernel"));
	if (text_of(boot, "initrd"))
		add_pair(a, "-initrd", text_of(boot, "initrd"));
	if (text_of(boot, "cmdline"))
		add_pair(a, "-append", text_of(boot, "cmdline"));
}

/* QEMU's options of the form key=value: a comma in a value is doubled. */
static char *doubled(const char *text)
{
	char *out = malloc(2 * strlen(text) + 1), *p = out;

	for (; out && *text; *p++ = *text++)
		if (*text == ',')
			*p++ = ',';
	if (out)
		*p = '\0';
	return out;
}

/* What of the seed is no image. Sources: cloud-init's "NoCloud" (DMI serial), Ignition's "qemu" platform. */
static void add_seed(struct args *a, const json_t *spec)
{
	const json_t *seed = json_object_get(spec, "seed");
	const char *given = text_of(seed, "url") ? text_of(seed, "url") : text_of(seed, "ignition");
	_cleanup_free_ char *value = given ? doubled(given) : NULL;

	if (!given)
		return;
	if (!value)
		a->failed = true;
	else if (text_of(seed, "url"))
		add_format(a, "-smbios", "type=1,serial=ds=nocloud-net;s=%s", value);
	else
		add_format(a, "-fw_cfg", "name=opt/com.coreos/config,file=%s", value);
}

static int add_chardev(struct args *a, const char *id, const char *fd_name, const struct vm_named_fd *fds, size_t n,
		       struct qmp_error *err)
{
	int fd = -1, r = find_fd(fds, n, fd_name, &fd, err);

	if (r == 0)
		add_format(a, "-chardev", "socket,id=%s,fd=%d,server=on,wait=off", id, fd);
	return r;
}

static int add_chardevs(struct args *a, const json_t *spec, const struct vm_named_fd *fds, size_t n,
			struct qmp_error *err)
{
	json_t *console;
	size_t i;
	int r = add_chardev(a, "qmp", "qmp", fds, n, err);

	add_pair(a, "-mon", "chardev=qmp,mode=control");
	json_array_foreach(json_object_get(spec, "consoles"), i, console)
	{
		_cleanup_free_ char *id = qmp_asprintf("con-%s", text_of(console, "id"));
		if (r == 0)
			r = id ? add_chardev(a, id, text_of(console, "id"), fds, n, err) : -ENOMEM;
	}
	if (r == 0 && json_is_true(json_object_get(spec, "agent")))
		r = add_chardev(a, "agent", "agent", fds, n, err);
	return r;
}

/* An image that QEMU is given: FDS may have it, by its node's name. Told apart by that name in query-fdsets, too. */
static void take_image(struct args *a, const struct vm_object *o, json_t *args, const struct vm_named_fd *fds, size_t n)
{
	int fd = -1;

	if (o->kind != VM_BLOCKDEV || find_fd(fds, n, vm_object_id(o), &fd, NULL) < 0)
		return;
	add_format(a, "-add-fd", "fd=%d,set=%d,opaque=%s", fd, fd, vm_object_id(o));
	json_object_set_new(args, "filename", json_sprintf("/dev/fdset/%d", fd));
}

static int add_object(struct args *a, const struct vm_object *o, const struct vm_named_fd *fds, size_t n,
		      struct qmp_error *err)
{
	static const char *const options[] = {
		[VM_OBJECT] = "-object", [VM_BLOCKDEV] = "-blockdev", [VM_NETDEV] = "-netdev", [VM_DEVICE] = "-device"};
	json_auto_t *args = json_copy(o->args);
	char number[32];
	int fd = -1;

	if (o->fd_name) {
		int r = find_fd(fds, n, o->fd_name, &fd, err);
		if (r < 0)
			return r;
		snprintf(number, sizeof number, "%d", fd);
		json_object_set_new(args, "fd", json_string(number));
	}
	take_image(a, o, args, fds, n);
	if (o->secret_file) {
		int r = find_fd(fds, n, vm_object_id(o), &fd, err);
		if (r < 0)
			return r;
		snprintf(number, sizeof number, "/proc/self/fd/%d", fd);
		json_object_set_new(args, "file", json_string(number));
	}
	add(a, options[o->kind]);
	add_consume(a, qmp_json_encode(args, JSON_COMPACT | JSON_ENSURE_ASCII, NULL));
	return 0;
}

static int add_objects(struct args *a, const json_t *spec, const struct vm_host *host, const struct vm_named_fd *fds,
		       size_t n, struct qmp_error *err)
{
	struct vm_fragments all;
	int r = vm_fragments_all(spec, host, &all, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < all.n && r == 0; i++)
		for (size_t k = 0; k < all.list[i].n_objects && r == 0; k++)
			r = add_object(a, &all.list[i].objects[k], fds, n, err);
	vm_fragments_deinit(&all);
	return r;
}

int vm_argv_render(const json_t *spec, const struct vm_host *host, const char *binary, const struct vm_named_fd *fds,
		   size_t n_fds, char ***ret, struct qmp_error *err)
{
	const json_t *display = json_object_get(spec, "display");
	struct args a = {0};
	json_t *raw;
	size_t i;
	int r;

	add(&a, binary);
	add_machine(&a, spec, host);
	add_sandbox(&a, host);
	add_actions(&a, spec);
	r = add_chardevs(&a, spec, fds, n_fds, err);
	add_pair(&a, "-display", "none");
	if (streq(text_of(display, "type"), "vnc"))
		/* Who starts it hands over the socket: -vnc takes no fd. */
		add_pair(&a, "-vnc", text_of(display, "password-file") ? "none,password-secret=" VM_VNC_SECRET : "none");
	add_boot(&a, spec, host);
	add_seed(&a, spec);
	if (r == 0)
		r = add_objects(&a, spec, host, fds, n_fds, err);
	json_array_foreach(json_object_get(spec, "args"), i, raw)
		add(&a, json_string_value(raw));
	if (r == 0 && a.failed)
		r = qmp_error_errno(err, -ENOMEM, "making QEMU's command line");
	if (r < 0) {
		vm_argv_free(a.list);
		return r;
	}
	*ret = a.list;
	return 0;
}

void vm_argv_free(char **argv)
{
	for (char **p = argv; p && *p; p++)
		free(*p);
	free(argv);
}

static bool is_plain(const char *word)
{
	return *word && strspn(word, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-+=./,:@%") ==
				strlen(word);
}

static void quote_word(FILE *out, const char *word)
{
	if (is_plain(word)) {
		fputs(word, out);
		return;
	}
	fputc('\'', out);
	for (; *word; word++) {
		if (*word == '\'')
			fputs("'\\''", out);
		else
			fputc(*word, out);
	}
	fputc('\'', out);
}

char *vm_argv_quote(char *const *argv)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return NULL;
	for (size_t i = 0; argv[i]; i++) {
		if (i > 0)
			fputs(argv[i][0] == '-' && isalpha((unsigned char)argv[i][1]) ? " \\\n  " : " ", out);
		quote_word(out, argv[i]);
	}
	return fclose(out) == 0 ? text : (free(text), NULL);
}
