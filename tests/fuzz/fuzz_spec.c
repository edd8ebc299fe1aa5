/*
 * Specs, and what is made of those that are accepted. Input: the spec; after a NUL, one or more "PATH=VALUE" to set, each
 * ended by a NUL.
 *
 * What is refused is explained. What is accepted stays acceptable (completed, with every default, written and read again),
 * renders into a command line in which options stand where options belong and every object is JSON, and into plans.
 */
#include "launcher/argv.h"
#include "launcher/plan.h"
#include "launcher/spec.h"
#include "tests/fuzz/determined.h"
#include "tests/fuzz/fuzz.h"

static const struct vm_host hosts[] = {
	{"kvm", "host", "pc-q35-7.2", true, .sandbox = true},
	{"tcg", "max", "pc-i440fx-7.2", false},
};

/* Those with one word behind them, and, at the end, those with none. */
static const char *const options[] = {
	"-name",   "-uuid",    "-machine", "-cpu",	"-smp",	   "-m",   "-action", "-boot",	  "-bios",	 "-kernel",
	"-initrd", "-append",  "-chardev", "-mon",	"-object", "-vnc", "-netdev", "-display", "-blockdev",	 "-device",
	"-sandbox", "-S",	   "-nodefaults", "-no-user-config",
};
#define WITHOUT 3

static bool is_option(const char *word, size_t from, size_t to)
{
	for (size_t i = from; i < to; i++)
		if (streq(word, options[i]))
			return true;
	return false;
}

static void check_argv(const json_t *spec, char *const *argv)
{
	const json_t *raw = json_object_get(spec, "args");
	size_t n = 0, end, i = 1;

	while (argv[n])
		n++;
	end = n - json_array_size(raw);
	while (i < end) {
		if (is_option(argv[i], ARRAY_SIZE(options) - WITHOUT, ARRAY_SIZE(options))) {
			i++;
			continue;
		}
		MUST(is_option(argv[i], 0, ARRAY_SIZE(options) - WITHOUT), "\"%s\" stands for an option", argv[i]);
		if (streq(argv[i], "-blockdev") || streq(argv[i], "-device") || streq(argv[i], "-netdev") ||
		    streq(argv[i], "-object")) {
			json_auto_t *object = qmp_json_decode(argv[i + 1], strlen(argv[i + 1]), NULL);
			MUST(json_is_object(object), "%s %s", argv[i], argv[i + 1]);
		}
		i += 2;
	}
	MUST(i == end, "a word too many");
}

static void render(const json_t *spec, const struct vm_host *host)
{
	struct vm_named_fd fds[64] = {{"qmp", 3}, {"agent", 4}};
	struct qmp_error err = {0};
	char **argv = NULL, *names[64];
	size_t n = 2, first, i;
	json_t *item;

	json_array_foreach(json_object_get(spec, "consoles"), i, item)
		if (n < ARRAY_SIZE(fds))
			fds[n++] = (struct vm_named_fd){json_string_value(json_object_get(item, "id")), 9};
	first = n;
	json_array_foreach(json_object_get(spec, "nics"), i, item)
		if (n < ARRAY_SIZE(fds)) {
			names[n] = qmp_asprintf("%s-tap", json_string_value(json_object_get(item, "id")));
			fds[n] = (struct vm_named_fd){names[n], 9};
			n++;
		}
	json_array_foreach(json_object_get(spec, "disks"), i, item)
		for (size_t depth = 0; item; item = json_object_get(item, "backing"), depth++)
			for (size_t k = 0; k < 2; k++)
				if (n < ARRAY_SIZE(fds)) {
					const char *id = json_string_value(json_object_get(json_array_get(json_object_get(spec, "disks"), i), "id"));
					_cleanup_free_ char *node = depth ? qmp_asprintf("%s-b%zu", id, depth) : strdup(id);
					names[n] = qmp_asprintf("%s-%s", node, k ? "password" : "key");
					fds[n] = (struct vm_named_fd){names[n], 9};
					n++;
				}
	if (vm_argv_render(spec, host, "qemu", fds, n, &argv, &err) == 0) {
		_cleanup_free_ char *text = vm_argv_quote(argv);
		MUST(text, "not quoted");
		check_argv(spec, argv);
		vm_argv_free(argv);
	} else {
		must_explain(err.code, &err);
		MUST(err.kind != QMP_ERR_INTERNAL || n == ARRAY_SIZE(fds), "%s", err.message);
	}
	while (n > first)
		free(names[--n]);
}

static json_t *smallest(void)
{
	static json_t *spec;

	if (!spec) {
		json_auto_t *plain = json_pack("{s:s}", "name", "t");
		vm_spec_complete(plain, NULL);
		spec = vm_spec_effective(plain);
	}
	return spec;
}

static void plan(const json_t *have, const json_t *want, const struct vm_host *host)
{
	json_auto_t *steps = json_array(), *later = json_array();
	struct qmp_error err = {0};
	json_t *step;
	size_t i;
	int r = vm_diff(have, want, host, 1000, steps, later, &err);

	if (r < 0)
		must_explain(r, &err);
	else if (json_equal(have, want))
		MUST(json_array_size(steps) == 0 && json_array_size(later) == 0, "a plan for nothing");
	json_array_foreach(steps, i, step)
		MUST(json_is_string(json_object_get(step, "item")), "a step without an item");
}

static void use(const json_t *spec, const struct vm_host *host)
{
	json_auto_t *effective = vm_spec_effective(spec);
	struct qmp_error err = {0};

	MUST(effective, "no memory");
	MUST(vm_spec_check(effective, &err) == 0, "its effective spec is refused: %s", err.message);
	render(effective, host);
	plan(smallest(), effective, host);
	plan(effective, smallest(), host);
	plan(effective, effective, host);
}

static bool take(json_t *spec)
{
	struct qmp_error err = {0};
	json_auto_t *again = NULL;
	_cleanup_free_ char *text = NULL;
	size_t len;

	MUST(vm_spec_check(spec, &err) == 0, "parsed, then refused: %s", err.message);
	if (vm_spec_complete(spec, &err) < 0) {
		must_explain(err.code, &err);
		return false;
	}
	MUST(vm_spec_check(spec, &err) == 0, "completed, then refused: %s", err.message);
	MUST(vm_spec_complete(spec, &err) == 0, "completed, and not complete");
	text = qmp_json_encode(spec, JSON_INDENT(2), &len);
	MUST(text && vm_spec_parse(text, len, "again", &again, &err) == 0, "written, then refused: %s", err.message);
	MUST(json_equal(spec, again), "written, then another: %s", text);
	return true;
}

/* PATH=VALUE, with a NUL behind it. */
static bool set(json_t *spec, char *text)
{
	char *equals = strchr(text, '=');
	struct qmp_error err = {0};
	json_auto_t *before = json_deep_copy(spec);
	int r;

	if (equals)
		*equals = '\0';
	r = vm_spec_set(spec, text, equals ? equals + 1 : NULL, &err);
	if (r < 0) {
		must_explain(r, &err);
		MUST(json_equal(before, spec), "refused, and changed: %s", text);
	} else if (vm_spec_check(spec, &err) < 0) {
		must_explain(err.code, &err);
		(void)json_object_clear(spec);
		json_object_update(spec, before);
	} else {
		return take(spec);
	}
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
	size_t len = nul ? (size_t)(nul - data) : size;
	_cleanup_free_ char *text = exact_copy(data, len);
	struct qmp_error err = {0};
	json_auto_t *spec = NULL;

	determined_begin();
	if (vm_spec_parse(text, len, "t.json", &spec, &err) < 0) {
		must_explain(err.code, &err);
		MUST(!spec && err.kind == QMP_ERR_USAGE, "%s", err.message);
		return 0;
	}
	if (!take(spec))
		return 0;
	while (nul) {
		const uint8_t *from = nul + 1, *end = data + size;
		nul = from < end ? memchr(from, 0, (size_t)(end - from)) : NULL;
		if (nul) {
			_cleanup_free_ char *words = exact_copy(from, (size_t)(nul - from) + 1);
			if (!set(spec, words))
				return 0;
		}
	}
	use(spec, &hosts[size % ARRAY_SIZE(hosts)]);
	return 0;
}
