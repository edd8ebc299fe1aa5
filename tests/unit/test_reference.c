/*
 * docs/spec.md has a table for each object of the spec, and they say what launcher/spec-table.c says: the same fields in
 * the same order, with type, default and summary. UPDATE_GOLDEN=1 writes the tables anew; the prose around them is kept.
 */
#include "launcher/files.h"
#include "launcher/spec-table.h"
#include "proto/base.h"
#include "tests/unit/check.h"

#include <fcntl.h>

#define FIRST "## The document\n"
#define AFTER "## Chosen once and kept\n"

static void put_choices(FILE *out, const struct vm_field *f)
{
	for (const char *const *c = f->choices; *c; c++)
		fprintf(out, "%s`%s`", c == f->choices ? "" : ", ", *c);
}

static void put_size(FILE *out, int64_t bytes)
{
	static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
	size_t unit = 0;

	for (; bytes >= 1024 && bytes % 1024 == 0 && unit + 1 < ARRAY_SIZE(units); bytes /= 1024)
		unit++;
	fprintf(out, "%lld %s", (long long)bytes, units[unit]);
}

static void put_type(FILE *out, const struct vm_field *f)
{
	static const char *const names[] = {
		[VM_T_STRING] = "string",	 [VM_T_INT] = "integer",	  [VM_T_BOOL] = "boolean",
		[VM_T_SIZE] = "size",		 [VM_T_CHOICE] = "",		  [VM_T_PATH] = "absolute path",
		[VM_T_LOCATION] = "location",
		[VM_T_NAME] = "name",		 [VM_T_ID] = "id",		  [VM_T_MAC] = "MAC address",
		[VM_T_UUID] = "UUID",		 [VM_T_MACHINE] = "machine",	  [VM_T_OBJECT] = "object",
		[VM_T_LIST] = "list of objects", [VM_T_STRINGS] = "list of strings", [VM_T_RAW] = "object, as QEMU takes it"};

	fputs(f->type == VM_T_STRINGS && f->choices ? "list of: " : names[f->type], out);
	if (f->choices)
		put_choices(out, f);
	if (f->type == VM_T_INT && f->max)
		fprintf(out, ", %lld to %lld", (long long)f->min, (long long)f->max);
	if (f->type == VM_T_SIZE && f->max) {
		fputs(", ", out);
		put_size(out, f->min);
		fputs(" to ", out);
		put_size(out, f->max);
	}
}

static void put_table(FILE *out, const char *path, const struct vm_field *table)
{
	if (*path)
		fprintf(out, "## `%s`\n\n", path);
	else
		fputs(FIRST "\n", out);
	fputs("| field | type | default | what it is |\n|---|---|---|---|\n", out);
	for (const struct vm_field *f = table; f->name; f++) {
		fprintf(out, "| `%s` | ", f->name);
		put_type(out, f);
		if (f->required)
			fputs(" | **required**", out);
		else if (f->default_json)
			fprintf(out, " | `%s`", f->default_json);
		else
			fputs(" | ", out);
		fprintf(out, " | %s |\n", f->summary);
	}
	fputc('\n', out);
	for (const struct vm_field *f = table; f->name; f++) {
		_cleanup_free_ char *below =
			qmp_asprintf("%s%s%s%s", path, *path ? "." : "", f->name, f->type == VM_T_LIST ? "[]" : "");
		if (f->fields)
			put_table(out, below, f->fields);
	}
}

static char *reference(void)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	CHECK(out);
	put_table(out, "", vm_spec_fields);
	CHECK_INT(fclose(out), 0);
	return text;
}

static void test_tables_are_the_program(void)
{
	_cleanup_fd_ int dir = open(SOURCE_DIR "/docs", O_RDONLY | O_DIRECTORY);
	_cleanup_free_ char *page = NULL, *tables = reference(), *whole = NULL;
	char *first, *after;
	size_t len;

	CHECK(dir >= 0);
	CHECK_INT(vm_file_read(dir, "spec.md", &page, &len, NULL), 0);
	first = strstr(page, FIRST);
	after = strstr(page, AFTER);
	CHECK(first && after && first < after);
	if (getenv("UPDATE_GOLDEN")) {
		whole = qmp_asprintf("%.*s%s%s", (int)(first - page), page, tables, after);
		CHECK_INT(vm_file_write(dir, "spec.md", whole, strlen(whole), NULL), 0);
		return;
	}
	*after = '\0';
	CHECK_STR(first, tables);
}

int main(void)
{
	RUN(test_tables_are_the_program);
	return 0;
}
