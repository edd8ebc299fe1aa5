/*
 * Locations. Input: the text. What is taken has a node that QEMU can be sent, or is a volume; it names what it must,
 * without control characters where it is a URL; and its identity is the same whenever it is asked for.
 */
#include "launcher/location.h"
#include "tests/fuzz/fuzz.h"

static void must_be_clean(const char *text)
{
	for (; text && *text; text++)
		MUST((unsigned char)*text >= 0x20 && *text != 0x7f, "0x%02x", (unsigned char)*text);
}

static void check_url(const struct vm_location *l)
{
	const char *const all[] = {l->host,     l->user,   l->pool, l->space,     l->name,
				   l->snapshot, l->socket, l->conf, l->initiator, l->host_key};
	const char *anchor;
	_cleanup_free_ char *one = vm_location_identity(l, &anchor), *two = vm_location_identity(l, &anchor);

	MUST(one && two && streq(one, two), "%s, %s", one ? one : "none", two ? two : "none");
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		must_be_clean(all[i]);
	MUST(!l->host || (*l->host && l->port > 0 && l->port < 65536), "port %d", l->port);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_free_ char *bytes = exact_copy(data, size), *text = strndup(bytes, size),
			    *shown = vm_location_shown(text);
	struct qmp_error err = {0};
	struct vm_location l = {0};
	json_auto_t *node = NULL;
	int r = vm_location_parse(text, &l, &err);

	MUST(shown && strlen(shown) <= strlen(text) + 3, "%s", text);
	if (r < 0) {
		must_explain(r, &err);
		MUST(!l.name, "something of what was refused");
		return 0;
	}
	node = vm_location_node(&l, 0);
	MUST(l.name, "no name");
	MUST((l.kind == VM_FILE) == vm_location_is_file(text), "%s", text);
	if (l.kind == VM_VOLUME)
		MUST(!node && l.pool, "%s", text);
	else if (l.kind != VM_FILE) /* a path need be no UTF-8 */
		MUST(json_is_string(json_object_get(node, "driver")), "%s", text);
	if (l.kind != VM_FILE && l.kind != VM_VOLUME)
		check_url(&l);
	vm_location_deinit(&l);
	return 0;
}
