#include "qmpctl/schema.h"
#include "qmpctl/keeper.h"
#include "launcher/caps.h"
#include "launcher/vm.h"
#include "proto/base.h"

/* ---- Which QEMU ---- */

struct of_vm {
	char *binary; /* NULL: the default one */
	char *id;     /* of the QEMU that runs; NULL: none does */
};

/* Read from the VM's files: nothing is asked. */
static void find_qemu(struct cli *cli, const char *vm, struct of_vm *ret)
{
	_cleanup_fd_ int conf = vm_dir_open(cli->dirs.conf, "vms", false, NULL);
	_cleanup_free_ char *file = qmp_asprintf("%s.json", vm);
	json_auto_t *spec = conf >= 0 && file ? vm_file_read_json(conf, file) : NULL;
	const char *binary = json_string_value(json_object_get(spec, "qemu-binary"));

	*ret = (struct of_vm){0};
	if (!vm_running_qemu(&cli->dirs, vm, &ret->binary, &ret->id) && binary)
		ret->binary = strdup(binary);
}

/* ---- Asking ---- */

/* What the VM answers to a command; new; NULL: it does not, and that is no error here. */
static json_t *ask_vm(struct cli *cli, const char *vm, const char *command, json_t *args_consume)
{
	struct qmp_error kept = cli->error;
	json_t *result = NULL;

	if (client_call(cli, vm, command, args_consume, &result) < 0)
		result = NULL;
	cli->error = kept;
	return result;
}

static bool is_ours(const json_t *info)
{
	const char *name = json_string_value(json_object_get(info, "name"));

	return name && strncmp(name, "qmpctl-", 7) == 0;
}

static json_t *ask_schema(struct cli *cli, const char *vm, const struct of_vm *qemu)
{
	json_auto_t *all = ask_vm(cli, vm, "query-qmp-schema", NULL);
	json_t *of_qemu = json_is_array(all) ? json_array() : NULL, *info;
	_cleanup_free_ char *text = NULL;
	size_t i, len;

	json_array_foreach(all, i, info)
		if (!is_ours(info))
			json_array_append(of_qemu, info);
	text = of_qemu ? qmp_json_encode(of_qemu, JSON_COMPACT | JSON_ENSURE_ASCII, &len) : NULL;
	if (text && *qemu->id)
		vm_schema_save(&cli->dirs, qemu->binary, qemu->id, text, len);
	return of_qemu;
}

/* ---- Devices: query-qmp-schema leaves their properties out ---- */

/* The type of a property, in the words of SchemaInfo. Integers may be written in other ways ("05.0"): text passes, too. */
static const char *property_type(const char *name, const char *type)
{
	if (streq(type, "bool"))
		return "bool";
	if (streq(type, "str") || streq(name, "addr")) /* as an integer a PCI address means something else */
		return "str";
	if (strncmp(type, "int", 3) == 0 || strncmp(type, "uint", 4) == 0 || streq(type, "size"))
		return "qmpctl-number";
	return "any";
}

/* device_add with the driver's own members, as SchemaInfo. */
static void add_device(json_t *infos, const json_t *properties)
{
	json_t *members = json_pack("[{s:s, s:s}, {s:s, s:s, s:n}, {s:s, s:s, s:n}]", "name", "driver", "type", "str", "name",
				    "id", "type", "str", "default", "name", "bus", "type", "str", "default");
	json_t *property;
	size_t i;

	json_array_foreach(properties, i, property) {
		const char *name = json_string_value(json_object_get(property, "name"));
		const char *type = json_string_value(json_object_get(property, "type"));
		if (name && type)
			json_array_append_new(members, json_pack("{s:s, s:s, s:n}", "name", name, "type",
								 property_type(name, type), "default"));
	}
	json_array_append_new(infos, json_pack("{s:s, s:s, s:[{s:s}, {s:s}]}", "name", "qmpctl-number", "meta-type", "alternate",
					       "members", "type", "int", "type", "str"));
	json_array_append_new(infos, json_pack("{s:s, s:s, s:o}", "name", "qmpctl-device", "meta-type", "object", "members",
					       members));
	json_array_append_new(infos, json_pack("{s:s, s:s, s:s}", "name", "device_add", "meta-type", "command", "arg-type",
					       "qmpctl-device"));
}

/* False: the driver or its properties are not known, so nothing can be said of the arguments. */
static bool add_driver(struct cli *cli, const char *vm, const json_t *given, json_t *infos)
{
	json_auto_t *plain = given ? qmp_untyped(given) : NULL, *properties = NULL;
	const char *driver = json_string_value(json_object_get(plain, "driver"));

	if (driver)
		properties = ask_vm(cli, vm, "device-list-properties", json_pack("{s:s}", "typename", driver));
	if (!json_is_array(properties))
		return false;
	add_device(infos, properties);
	return true;
}

/* ---- Together ---- */

static struct qmp_schema *schema_from(const json_t *infos)
{
	struct qmp_schema *s = NULL;

	return infos && qmp_schema_new(infos, &s, NULL) == 0 ? s : NULL;
}

struct qmp_schema *schema_for(struct cli *cli, const char *vm, const char *command, const json_t *given, bool ask)
{
	struct of_vm qemu;
	json_auto_t *infos = NULL, *ours = op_infos();
	bool known = true;

	find_qemu(cli, vm, &qemu);
	infos = vm_schema_load(&cli->dirs, qemu.binary, qemu.id);
	if (!infos && ask && qemu.id)
		infos = ask_schema(cli, vm, &qemu);
	free(qemu.binary);
	free(qemu.id);
	if (!infos)
		return NULL;
	json_array_extend(infos, ours);
	if (ask && streq(command, "device_add"))
		known = add_driver(cli, vm, given, infos);
	return known ? schema_from(infos) : NULL;
}

struct qmp_schema *schema_of(struct cli *cli, const char *vm, bool ask)
{
	return schema_for(cli, vm, "", NULL, ask);
}

struct qmp_schema *schema_of_operations(void)
{
	json_auto_t *infos = op_infos();

	/* QEMU's own names of them. */
	json_array_append_new(infos, json_pack("{s:s, s:s, s:s}", "name", "str", "meta-type", "builtin", "json-type", "string"));
	json_array_append_new(infos, json_pack("{s:s, s:s, s:s}", "name", "int", "meta-type", "builtin", "json-type", "int"));
	json_array_append_new(infos, json_pack("{s:s, s:s, s:s}", "name", "bool", "meta-type", "builtin", "json-type", "boolean"));
	return schema_from(infos);
}

/* ---- Words ---- */

static int refuse_word(struct cli *cli, const char *word, const char *why)
{
	return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "\"%s\": %s", word, why);
}

static json_t *parse_value(struct cli *cli, const char *word, const char *text)
{
	struct qmp_error err = {0};
	json_t *value;

	if (*text != '{' && *text != '[')
		return qmp_text(text);
	value = qmp_json_decode(text, strlen(text), &err);
	if (!value)
		refuse_word(cli, word, err.message);
	return value;
}

/* KEY, of LEN bytes: a place in OBJECT, made on the way. */
static int set_at(struct cli *cli, json_t *object, const char *word, size_t len, json_t *value_consume)
{
	json_auto_t *value = value_consume;
	size_t n = strcspn(word, ".=");
	_cleanup_free_ char *name = strndup(word, n);
	json_t *inner;

	if (!name || n == 0)
		return refuse_word(cli, word, "a key is missing before the \"=\" or beside a \".\"");
	inner = json_object_get(object, name);
	if (n == len)
		return inner ? refuse_word(cli, name, "given twice") : json_object_set(object, name, value);
	if (!inner) {
		inner = json_object();
		if (json_object_set_new(object, name, inner) < 0)
			return refuse_word(cli, name, "is no UTF-8");
	}
	if (!json_is_object(inner) || json_object_get(inner, "$text"))
		return refuse_word(cli, name, "given twice, as a value and with members");
	return set_at(cli, inner, word + n + 1, len - n - 1, json_incref(value));
}

json_t *schema_words(struct cli *cli, char *const *words, int n)
{
	json_auto_t *object = json_object();

	if (n == 1 && words[0][0] == '{')
		return parse_value(cli, words[0], words[0]);
	for (int i = 0; i < n; i++) {
		const char *equals = strchr(words[i], '=');
		json_t *value = equals ? parse_value(cli, words[i], equals + 1) : NULL;
		if (!equals)
			refuse_word(cli, words[i], "KEY=VALUE or one JSON object is wanted");
		if (!value || set_at(cli, object, words[i], (size_t)(equals - words[i]), value) < 0) {
			if (cli->error.kind == QMP_ERR_NONE)
				refuse_word(cli, words[i], "is no UTF-8");
			return NULL;
		}
	}
	return json_incref(object);
}
