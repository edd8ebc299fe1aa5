/*
 * What could stand at the end of a command line: "qmpctl __complete WORDS...", called by the shells' scripts
 * (verb-completion.c).
 *
 * WORDS are what follows "qmpctl", up to the word that is completed, which may be empty. One candidate a line, the
 * whole word, possibly with a tab and what it means; one that ends with one of = . , is only the beginning of a word.
 * The lines ":path" and ":dir" stand for files and folders, whose names the shell completes itself, behind the word's
 * last = or comma.
 *
 * Everything comes from tables and files: nothing is started, connected to or waited for. What cannot be read offers
 * nothing.
 */
#include "qmpctl/complete.h"
#include "qmpctl/keeper.h"
#include "qmpctl/os.h"
#include "qmpctl/schema.h"
#include "launcher/caps.h"
#include "launcher/pool.h"
#include "launcher/spec.h"
#include "launcher/spec-table.h"
#include "proto/base.h"

#include <dirent.h>

/* Files may lie where reading hangs. */
#define SECONDS_MAX 3

struct completion {
	struct cli *cli;
	char **words; /* behind the verb: arguments alone */
	int n_words;
	const char *cur;
	size_t stem; /* how much of CUR every candidate begins with as it is */
	int offered;
};

/* ---- Candidates ---- */

/* WORD and SUFFIX behind the stem, if CUR may become that. */
static void offer(struct completion *c, const char *word, const char *suffix, const char *summary)
{
	const char *typed = c->cur + c->stem;
	_cleanup_free_ char *whole = qmp_asprintf("%s%s", word, suffix);

	if (!whole || strncmp(whole, typed, strlen(typed)) != 0)
		return;
	printf("%.*s%s%s%s\n", (int)c->stem, c->cur, whole, summary ? "\t" : "", summary ? summary : "");
	c->offered++;
}

/* "a|b=|c" */
static void offer_choices(struct completion *c, const char *choices)
{
	for (const char *p = choices; p && *p;) {
		size_t n = strcspn(p, "|");
		_cleanup_free_ char *word = strndup(p, n);
		if (word)
			offer(c, word, "", NULL);
		p += n + (p[n] == '|');
	}
}

static void offer_strings(struct completion *c, const json_t *strings)
{
	const json_t *entry;
	size_t i;

	json_array_foreach(strings, i, entry)
		if (json_is_string(entry))
			offer(c, json_string_value(entry), "", NULL);
}

static void offer_booleans(struct completion *c)
{
	offer(c, "on", "", NULL);
	offer(c, "off", "", NULL);
}

/* ---- Of VMs ---- */

static const char *vm_of(const struct completion *c)
{
	return c->n_words > 0 && vm_name_valid(c->words[0]) ? c->words[0] : NULL;
}

/* With its defaults; new; NULL: there is none. */
static json_t *spec_of(const struct completion *c)
{
	_cleanup_free_ char *file = vm_of(c) ? qmp_asprintf("%s.json", vm_of(c)) : NULL;
	_cleanup_fd_ int dir = vm_dir_open(c->cli->dirs.conf, "vms", false, NULL);

	json_auto_t *spec = file && dir >= 0 ? vm_file_read_json(dir, file) : NULL;

	return spec && vm_spec_check(spec, NULL) == 0 ? vm_spec_effective(spec) : NULL;
}

static void offer_ids(struct completion *c, const char *kind, const char *before, const char *suffix)
{
	json_auto_t *spec = spec_of(c);
	const json_t *item;
	size_t i;

	json_array_foreach(json_object_get(spec, kind), i, item) {
		const char *id = json_string_value(json_object_get(item, "id"));
		_cleanup_free_ char *word = id ? qmp_asprintf("%s%s", before, id) : NULL;
		if (word)
			offer(c, word, suffix, NULL);
	}
}

static void offer_vms(struct completion *c)
{
	json_auto_t *names = vm_names(c->cli);

	offer_strings(c, names);
}

static void offer_pools(struct completion *c, const char *suffix)
{
	json_auto_t *names = NULL;
	const json_t *name;
	size_t i;

	if (vm_pool_names(&c->cli->dirs, &names, NULL) < 0)
		return;
	json_array_foreach(names, i, name)
		offer(c, json_string_value(name), suffix, NULL);
}

/* "POOL:" or, behind that, what lies in the folder of its volumes. */
static void offer_locations(struct completion *c)
{
	const char *typed = c->cur + c->stem, *colon = strchr(typed, ':'), *why;
	_cleanup_free_ char *name = colon ? strndup(typed, (size_t)(colon - typed)) : NULL, *path = NULL;
	json_auto_t *pool = NULL;
	const struct dirent *entry;
	DIR *dir;

	puts(":path");
	if (!colon) {
		offer_pools(c, ":");
		return;
	}
	if (!name || vm_pool_read(&c->cli->dirs, name, &pool, NULL) < 0)
		return;
	c->stem += (size_t)(colon + 1 - typed);
	path = vm_pool_type_of(pool)->locate(pool, "", &why);
	dir = path && *path == '/' ? opendir(path) : NULL;
	while (dir && (entry = readdir(dir)))
		if (vm_volume_name_valid(entry->d_name))
			offer(c, entry->d_name, "", NULL);
	if (dir)
		(void)closedir(dir);
}

static void offer_machines(struct completion *c)
{
	json_auto_t *caps = vm_caps_load(&c->cli->dirs, NULL);
	const char *alias;
	json_t *name;

	json_object_foreach(json_object_get(caps, "machines"), alias, name) {
		offer(c, alias, "", json_string_value(name));
		if (json_is_string(name))
			offer(c, json_string_value(name), "", NULL);
	}
}

static void offer_systems(struct completion *c)
{
	json_auto_t *table = os_table(c->cli);
	const char *name;
	json_t *entry;

	json_object_foreach(table, name, entry)
		offer(c, name, "", text_of(entry, "description"));
}

/* ---- Fields of a spec ---- */

static const struct vm_field *find_field(const struct vm_field *fields, const char *name, size_t len)
{
	for (const struct vm_field *f = fields; f && f->name; f++)
		if (strlen(f->name) == len && memcmp(f->name, name, len) == 0)
			return f;
	return NULL;
}

static void offer_field_values(struct completion *c, const struct vm_field *f)
{
	for (const char *const *choice = f->choices; choice && *choice; choice++)
		offer(c, *choice, "", NULL);
	if (f->type == VM_T_BOOL) {
		offer(c, "true", "", NULL);
		offer(c, "false", "", NULL);
	} else if (f->type == VM_T_MACHINE) {
		offer_machines(c);
	} else if (f->type == VM_T_PATH || f->type == VM_T_LOCATION) {
		puts(":path");
	}
}

/* KEY=VALUE at the stem: "cpu.count=2", "disks[vda].cache=none". */
static void offer_fields(struct completion *c, const struct vm_field *fields)
{
	const char *p = c->cur + c->stem;
	const struct vm_field *f;
	size_t n = strcspn(p, ".=[");
	size_t index = p[n] == '[' ? strcspn(p + n, "]") : 0;

	f = find_field(fields, p, n);
	if (f && index > 0 && p[n + index] == ']')
		n += index + 1;
	if (f && p[n] == '=') {
		c->stem += n + 1;
		offer_field_values(c, f);
	} else if (f && p[n] == '.') {
		c->stem += n + 1;
		offer_fields(c, f->recursive ? fields : f->fields);
	} else {
		for (f = fields; f && f->name; f++) {
			_cleanup_free_ char *before = qmp_asprintf("%s[", f->name);
			if (f->type == VM_T_LIST && before)
				offer_ids(c, f->name, before, "].");
			else
				offer(c, f->name, f->type == VM_T_OBJECT ? "." : "=", f->summary);
		}
	}
}

/* "dir,path=": the type, then its fields. */
static void offer_pool_words(struct completion *c)
{
	const char *comma = strrchr(c->cur + c->stem, ',');
	size_t n = strcspn(c->cur + c->stem, ",");

	for (const struct vm_pool_type *t = vm_pool_types; t->name; t++)
		if (!comma)
			offer(c, t->name, ",", t->summary);
		else if (strlen(t->name) == n && strncmp(t->name, c->cur + c->stem, n) == 0) {
			c->stem = (size_t)(comma + 1 - c->cur);
			offer_fields(c, t->fields);
			return;
		}
}

/*
 * "size=10G,cache=none": what stands behind the last comma. FIRST are what the first word may be beside a field, or a
 * path.
 */
static void offer_item_words(struct completion *c, const char *kind, const char *first, bool is_path)
{
	const char *comma = strrchr(c->cur + c->stem, ',');
	const struct vm_field *list = find_field(vm_spec_fields, kind, strlen(kind));

	if (comma)
		c->stem = (size_t)(comma + 1 - c->cur);
	else
		offer_choices(c, first);
	if (!comma && is_path && !strchr(c->cur + c->stem, '=')) {
		bool in_pool = strchr(c->cur + c->stem, ':');
		offer_locations(c);
		if (in_pool)
			return;
	}
	offer_fields(c, list ? list->fields : NULL);
}

/* ---- QMP ---- */

static struct qmp_schema *schema_at(const struct completion *c, const char *command)
{
	struct qmp_schema *s = NULL;

	if (vm_of(c) && strncmp(command, "qmpctl-", strlen("qmpctl-")) != 0)
		s = schema_for(c->cli, vm_of(c), command, NULL, false);
	return s ? s : schema_of_operations();
}

static void offer_commands(struct completion *c)
{
	struct qmp_schema *s = schema_at(c, "");
	json_auto_t *names = s ? qmp_schema_commands(s) : NULL;

	offer_strings(c, names);
	qmp_schema_free(s);
}

/* What was given of the arguments so far; new, possibly empty. */
static json_t *given_so_far(const struct completion *c)
{
	json_t *given = schema_words(c->cli, c->words + 2, c->n_words - 2);

	c->cli->error = (struct qmp_error){0};
	return given ? given : json_object();
}

/* A member's name with what comes behind it. */
static void offer_member(struct completion *c, const json_t *member)
{
	const char *name = json_string_value(json_object_get(member, "name"));
	const char *type = json_string_value(json_object_get(member, "type"));

	if (!name || !type)
		return;
	if (!streq(type, "object") && !streq(type, "array"))
		offer(c, name, "=", type);
	if (strstr(type, "object"))
		offer(c, name, ".", type);
	if (streq(type, "array"))
		offer(c, name, ".0", type);
}

static void offer_member_values(struct completion *c, const json_t *member)
{
	const char *type = json_string_value(json_object_get(member, "type"));

	offer_strings(c, json_object_get(member, "choices"));
	if (type && streq(type, "boolean"))
		offer_booleans(c);
	/* Most strings are names of nodes or devices; some are files. */
	if (type && streq(type, "string") && strstr(c->cur, "filename="))
		puts(":path");
}

/* "file.driver=qcow2": the members at the path before the last dot, or the values of one of them. */
static void offer_arguments(struct completion *c)
{
	const char *equals = strchr(c->cur, '=');
	size_t key_len = equals ? (size_t)(equals - c->cur) : strlen(c->cur), path_len = key_len, i;
	struct qmp_schema *s;
	json_auto_t *given = NULL, *members = NULL;
	_cleanup_free_ char *path = NULL;
	const json_t *member;

	if (c->n_words < 2)
		return;
	while (path_len > 0 && c->cur[path_len - 1] != '.')
		path_len--;
	path = strndup(c->cur, path_len > 0 ? path_len - 1 : 0);
	s = schema_at(c, c->words[1]);
	given = given_so_far(c);
	members = s && path ? qmp_schema_arguments(s, c->words[1], path, given) : NULL;
	c->stem = equals ? key_len + 1 : path_len;
	json_array_foreach(members, i, member) {
		const json_t *name = json_object_get(member, "name");
		if (!equals)
			offer_member(c, member);
		else if (json_string_length(name) == key_len - path_len &&
			 memcmp(json_string_value(name), c->cur + path_len, key_len - path_len) == 0)
			offer_member_values(c, member);
	}
	qmp_schema_free(s);
}

/* ---- Arguments and options ---- */

static void offer_kind(struct completion *c, enum arg_kind kind, const char *choices)
{
	switch (kind) {
	case ARG_TEXT:
	case ARG_CHOICE:
		break;
	case ARG_POOL:
		offer_pools(c, "");
		break;
	case ARG_POOL_WORDS:
		offer_pool_words(c);
		break;
	case ARG_VM:
		offer_vms(c);
		break;
	case ARG_PATH:
		puts(":path");
		break;
	case ARG_FOLDER:
		puts(":dir");
		break;
	case ARG_DISK:
		offer_ids(c, "disks", "", "");
		break;
	case ARG_NIC:
		offer_ids(c, "nics", "", "");
		break;
	case ARG_CONSOLE:
		offer_ids(c, "consoles", "", "");
		break;
	case ARG_DISK_WORDS:
		offer_item_words(c, "disks", "size=", true);
		break;
	case ARG_NIC_WORDS:
		offer_item_words(c, "nics", "user|tap=|bridge=", false);
		break;
	case ARG_FIELD:
		offer_fields(c, vm_spec_fields);
		break;
	case ARG_MACHINE:
		offer_machines(c);
		break;
	case ARG_OS:
		offer_systems(c);
		break;
	case ARG_QMP_COMMAND:
		offer_commands(c);
		break;
	case ARG_QMP_ARGUMENT:
		offer_arguments(c);
		break;
	}
	offer_choices(c, choices);
}

static void offer_options(struct completion *c, const struct cli_option *options)
{
	for (const struct cli_option *o = options; o && o->name; o++) {
		_cleanup_free_ char *word = qmp_asprintf("--%s", o->name);
		if (word)
			offer(c, word, "", o->summary);
	}
}

static void offer_argument(struct completion *c, const struct verb *v)
{
	const struct cli_arg *a = v->args;

	for (int i = 0; i < c->n_words && a->name; i++)
		if (!a->repeated)
			a++;
	if (a->name)
		offer_kind(c, a->kind, a->choices);
}

/* ---- Verbs ---- */

/* One that has two words offers its first, once. */
static void offer_first_words(struct completion *c)
{
	const char *last = "";

	for (const struct verb *const *v = all_verbs; *v; v++) {
		size_t n = strcspn((*v)->name, " ");
		_cleanup_free_ char *word = strndup((*v)->name, n);
		if (!word || (strlen(last) >= n && strncmp(last, word, n) == 0 && last[n] == ' '))
			continue;
		offer(c, word, "", (*v)->name[n] ? NULL : (*v)->summary);
		last = (*v)->name;
	}
	if (c->offered > 0)
		return;
	for (const struct verb *const *v = all_verbs; *v; v++)
		if ((*v)->alias)
			offer(c, (*v)->alias, "", (*v)->summary);
}

static void offer_second_words(struct completion *c, const char *first)
{
	size_t n = strlen(first);

	for (const struct verb *const *v = all_verbs; *v; v++)
		if (strncmp((*v)->name, first, n) == 0 && (*v)->name[n] == ' ')
			offer(c, (*v)->name + n + 1, "", (*v)->summary);
}

/* ---- The whole line ---- */

/* The option that WORD names, of V or a common one; *RET_VALUE: what stands behind its "=", or NULL. */
static const struct cli_option *option_named(const struct verb *v, const char *word, const char **ret_value)
{
	const char *name = streq(word, "-o") ? "--output" : streq(word, "-h") ? "--help" : word;
	const char *equals = strchr(name, '=');
	size_t n = equals ? (size_t)(equals - name) : strlen(name);
	const struct cli_option *o;

	*ret_value = equals ? equals + 1 : NULL;
	if (n < 3 || strncmp(name, "--", 2) != 0)
		return NULL;
	o = v ? cli_find_option(v->options, name + 2, n - 2) : NULL;
	return o ? o : cli_find_option(common_options, name + 2, n - 2);
}

/*
 * Takes the options out of the words, so that arguments are left. The option whose value CUR is; NULL: it is none's. Of two
 * passes the first is without a verb: its options are not known yet, and what follows one of them may pass for an argument.
 */
static const struct cli_option *take_options(struct completion *c, const struct verb *v, char **words, int n, bool *ret_ended)
{
	const struct cli_option *waiting = NULL;

	c->n_words = 0;
	*ret_ended = false;
	for (int i = 0; i < n; i++) {
		const char *value = NULL;
		const struct cli_option *o = !*ret_ended && !waiting ? option_named(v, words[i], &value) : NULL;

		if (waiting && streq(waiting->name, "root"))
			c->cli->root = words[i];
		if (o && value && streq(o->name, "root"))
			c->cli->root = value;
		if (waiting)
			waiting = NULL;
		else if (o)
			waiting = o->metavar && !value ? o : NULL;
		else if (!*ret_ended && streq(words[i], "--"))
			*ret_ended = true;
		else if (*ret_ended || words[i][0] != '-')
			c->words[c->n_words++] = words[i];
	}
	return waiting;
}

static void complete(struct completion *c, char **words, int n)
{
	const struct cli_option *waiting, *o;
	const struct verb *v = NULL;
	const char *value;
	int verb_words = 0;
	bool ended;

	waiting = take_options(c, NULL, words, n, &ended);
	if (c->n_words > 0)
		v = cli_find_verb(c->n_words, c->words, &verb_words);
	if (v)
		waiting = take_options(c, v, words, n, &ended);
	c->words += verb_words;
	c->n_words -= verb_words;
	if (vm_dirs_init(c->cli->root, &c->cli->dirs, NULL) < 0)
		return;
	o = ended ? NULL : option_named(v, c->cur, &value);
	if (waiting) {
		offer_kind(c, waiting->kind, waiting->choices);
	} else if (o && value) {
		c->stem = (size_t)(value - c->cur);
		offer_kind(c, o->kind, o->choices);
	} else if (!ended && c->cur[0] == '-') {
		offer_options(c, v ? v->options : NULL);
		offer_options(c, common_options);
	} else if (v) {
		offer_argument(c, v);
	} else if (c->n_words == 0) {
		offer_first_words(c);
	} else if (c->n_words == 1) {
		offer_second_words(c, c->words[0]);
	}
}

int complete_main(int argc, char **argv)
{
	struct cli cli = {.program = "qmpctl"};
	struct completion c = {.cli = &cli, .cur = argc > 0 ? argv[argc - 1] : ""};
	char **words = calloc((size_t)argc + 1, sizeof *words);

	(void)alarm(SECONDS_MAX);
	c.words = words;
	if (words)
		complete(&c, argv, argc > 0 ? argc - 1 : 0);
	vm_dirs_deinit(&cli.dirs);
	free(words);
	return 0;
}
