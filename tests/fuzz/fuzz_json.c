/*
 * Framing and JSON. Input: one byte that sets the sizes of the chunks, then the stream.
 *
 * The messages found do not depend on the chunks. What decodes can be encoded, and from then on neither the text nor the
 * value changes. The shallow scan finds what decoding finds.
 */
#include "proto/framer.h"
#include "proto/scan.h"
#include "tests/fuzz/fuzz.h"

struct texts {
	char *list[64];
	size_t lens[64], n;
	int end; /* what the framer returned at last: 0 or an error */
};

static void texts_deinit(struct texts *t)
{
	while (t->n > 0)
		free(t->list[--t->n]);
}

/* Cuts the stream, given in pieces of STEP bytes (0: as large as it takes them). */
static void cut(const uint8_t *data, size_t size, size_t step, struct texts *ret)
{
	struct qmp_framer *f = qmp_framer_new(1 << 16);
	struct qmp_error err = {0};

	*ret = (struct texts){0};
	while (size > 0 && ret->end == 0) {
		const char *text;
		size_t room, len, n;
		char *place = qmp_framer_reserve(f, &room);
		MUST(place && room > 0, "no room");
		n = step && step < room ? step : room;
		n = n < size ? n : size;
		memcpy(place, data, n);
		qmp_framer_commit(f, n);
		data += n;
		size -= n;
		while ((ret->end = qmp_framer_next(f, &text, &len, &err)) == 1) {
			MUST(len >= 2 && text[0] == '{', "no object");
			if (ret->n == ARRAY_SIZE(ret->list))
				break;
			ret->lens[ret->n] = len;
			ret->list[ret->n++] = exact_copy(text, len);
		}
		if (ret->end == 1)
			break;
	}
	if (ret->end < 0)
		must_explain(ret->end, &err);
	qmp_framer_free(f);
}

static void compare(const struct texts *a, const struct texts *b)
{
	MUST(a->n == b->n && a->end == b->end, "%zu messages and %d, or %zu and %d", a->n, a->end, b->n, b->end);
	for (size_t i = 0; i < a->n; i++)
		MUST(a->lens[i] == b->lens[i] && memcmp(a->list[i], b->list[i], a->lens[i]) == 0, "message %zu", i);
}

static void scan(const char *text, size_t len, const json_t *value)
{
	static const char *const names[] = {"return", "error", "id", "event", "QMP"};
	struct qmp_span spans[ARRAY_SIZE(names)];
	bool found = qmp_scan_members(text, len, names, spans, ARRAY_SIZE(names));

	/* A bare inf is an object, too, once it is decoded. */
	if (!json_is_object(value) || text[strspn(text, " \t\r\n")] != '{')
		return;
	MUST(found, "decoded, but not scanned");
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		json_auto_t *member = NULL;
		if (!spans[i].text) {
			/* An escaped key is not found, and QEMU sends none. */
			MUST(!json_object_get(value, names[i]) || memchr(text, '\\', len), "%s was not found", names[i]);
			continue;
		}
		member = qmp_json_decode(spans[i].text, spans[i].len, NULL);
		MUST(member && json_equal(member, json_object_get(value, names[i])), "%s differs", names[i]);
	}
}

static void round_trip(const json_t *value)
{
	static const size_t flags[] = {JSON_COMPACT, JSON_INDENT(2), JSON_COMPACT | JSON_ENSURE_ASCII};

	for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
		struct qmp_error err = {0};
		json_auto_t *again = NULL;
		_cleanup_free_ char *first = NULL, *second = NULL;
		size_t n, m;

		first = qmp_json_encode(value, flags[i], &n);
		MUST(first && strlen(first) == n, "not encoded");
		again = qmp_json_decode(first, n, &err);
		MUST(again, "%s: %s", err.message, first);
		second = qmp_json_encode(again, flags[i], &m);
		MUST(second && n == m && memcmp(first, second, n) == 0, "%s, then %s", first, second);
		/* inf and nan become null. */
		MUST(json_equal(value, again) || strstr(first, "null"), "%s", first);
	}
}

static void judge(const char *text, size_t len)
{
	struct qmp_error err = {0};
	json_auto_t *value = qmp_json_decode(text, len, &err);
	uint64_t number;

	if (!value)
		must_explain(err.code, &err);
	scan(text, len, value);
	if (!value)
		return;
	round_trip(value);
	(void)qmp_json_u64(json_object_get(value, "return"), &number);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct texts whole, pieces;
	_cleanup_free_ char *bare = NULL;

	if (size == 0)
		return 0;
	cut(data + 1, size - 1, 0, &whole);
	cut(data + 1, size - 1, data[0] % 32 + 1, &pieces);
	compare(&whole, &pieces);
	for (size_t i = 0; i < whole.n; i++)
		judge(whole.list[i], whole.lens[i]);
	/* Also what no framer has seen, such as a file. */
	bare = exact_copy(data + 1, size - 1);
	judge(bare, size - 1);
	texts_deinit(&whole);
	texts_deinit(&pieces);
	return 0;
}
