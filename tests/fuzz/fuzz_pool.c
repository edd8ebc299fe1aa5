/*
 * Definitions of pools. Input: a volume's name, a NUL, the definition.
 *
 * What is refused is explained. What is accepted is accepted again when it is written and read; where a volume is does not
 * depend on when it is asked, and is a location within what the pool names.
 */
#include "launcher/location.h"
#include "launcher/pool.h"
#include "launcher/table.h"
#include "tests/fuzz/fuzz.h"

static void check_again(const json_t *pool)
{
	struct qmp_error err = {0};
	json_auto_t *again = NULL;
	size_t len;
	_cleanup_free_ char *text = qmp_json_encode(pool, JSON_INDENT(2), &len);

	MUST(text, "not written");
	again = qmp_json_decode(text, len, &err);
	MUST(again && vm_pool_check(again, text, len, "again", &err) == 0, "written, then refused: %s", err.message);
	MUST(json_equal(pool, again), "written, then another: %s", text);
}

static void locate(const json_t *pool, const char *volume)
{
	const char *name = text_of(pool, "name");
	json_auto_t *pools = json_pack("{s:O}", name, (json_t *)(uintptr_t)pool);
	_cleanup_free_ char *location = qmp_asprintf("%s:%s", name, volume), *first = NULL, *second = NULL;
	struct vm_location l = {0};
	struct qmp_error err = {0};
	int r;

	MUST(pools, "no memory");
	r = vm_pools_locate(pools, location, &first, &err);
	if (r < 0) {
		must_explain(r, &err);
		return;
	}
	MUST(vm_pools_locate(pools, location, &second, &err) == 0 && streq(first, second), "%s, then %s", first, second);
	/* What is no volume of it stays as it is. */
	if (!vm_pool_volume(location, NULL))
		return;
	MUST(vm_volume_name_valid(volume), "%s", volume);
	r = vm_location_parse(first, &l, &err);
	if (r < 0)
		must_explain(r, &err);
	else
		MUST(l.kind != VM_VOLUME, "%s is %s", location, first);
	vm_location_deinit(&l);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_free_ char *all = text_copy(data, size), *text = NULL;
	size_t n = strlen(all), len;
	struct qmp_error err = {0};
	json_auto_t *pool = NULL;
	int r;

	if (n >= size)
		return 0;
	len = size - n - 1;
	text = exact_copy(data + n + 1, len);
	pool = qmp_json_decode(text, len, &err);
	if (!pool) {
		must_explain(err.code, &err);
		return 0;
	}
	r = vm_pool_check(pool, text, len, "p.json", &err);
	if (r < 0) {
		must_explain(r, &err);
		MUST(err.kind == QMP_ERR_USAGE, "%s", err.message);
		return 0;
	}
	MUST(vm_pool_type_of(pool), "of no type");
	check_again(pool);
	MUST(vm_fill_defaults(vm_pool_type_of(pool)->fields, pool) == 0, "no memory");
	MUST(vm_pool_check(pool, NULL, 0, NULL, &err) == 0, "with its defaults, refused: %s", err.message);
	check_again(pool);
	locate(pool, all);
	return 0;
}
