/*
 * Lists of digests. Input: the file's name, a NUL, the list.
 *
 * What is found are digits that stand in the list; lines of other files change nothing, nor does the list once more; another
 * digest of the same file is a contradiction. Where nothing is found, nothing is given.
 */
#include "images/sums.h"
#include "tests/fuzz/fuzz.h"

#define UNTOUCHED "untouched"

struct found {
	int r;
	char sha256[IMG_SHA256_LEN + 1], sha512[IMG_SHA512_LEN + 1];
};

static struct found find(const char *list, size_t len, const char *name)
{
	struct found f = {.sha256 = UNTOUCHED, .sha512 = UNTOUCHED};
	_cleanup_free_ char *exact = exact_copy(list, len);

	f.r = img_sums_find(exact, len, name, f.sha256, f.sha512);
	MUST(f.r == 0 || f.r == -ENOENT || f.r == -EBADMSG, "%d", f.r);
	if (f.r < 0)
		MUST(streq(f.sha256, UNTOUCHED) && streq(f.sha512, UNTOUCHED), "\"%s\", \"%s\"", f.sha256, f.sha512);
	return f;
}

/* Whether DIGITS, in lower case, stand in the list in either. */
static bool stands_in(const char *list, size_t len, const char *digits)
{
	size_t n = strlen(digits);

	for (size_t i = 0; i + n <= len; i++)
		if (strncasecmp(list + i, digits, n) == 0)
			return true;
	return false;
}

static void check_digits(const char *list, size_t len, const char *digits, size_t n)
{
	if (!*digits)
		return;
	MUST(strlen(digits) == n && strspn(digits, "0123456789abcdef") == n, "%s", digits);
	MUST(stands_in(list, len, digits), "%s stands nowhere", digits);
}

/* The list, and MORE behind it. */
static struct found find_with(const char *list, size_t len, const char *more, size_t n, const char *name)
{
	_cleanup_free_ char *both = malloc(len + 1 + n);

	MUST(both, "no memory");
	memcpy(both, list, len);
	both[len] = '\n';
	memcpy(both + len + 1, more, n);
	return find(both, len + 1 + n, name);
}

static void must_be_same(const struct found *a, const struct found *b)
{
	MUST(a->r == b->r && streq(a->sha256, b->sha256) && streq(a->sha512, b->sha512), "%d %s %s, %d %s %s", a->r, a->sha256,
	     a->sha512, b->r, b->sha256, b->sha512);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char other[] = "0123456789012345678901234567890123456789012345678901234567890123 *";
	_cleanup_free_ char *all = text_copy(data, size), *line = NULL;
	const char *name = all, *list;
	size_t n = strlen(name), len;
	struct found f, again;

	if (n >= size)
		return 0;
	list = all + n + 1;
	len = size - n - 1;
	f = find(list, len, name);
	if (f.r == 0) {
		MUST(*f.sha256 || *f.sha512, "found, and nothing");
		check_digits(list, len, f.sha256, IMG_SHA256_LEN);
		check_digits(list, len, f.sha512, IMG_SHA512_LEN);
	}
	again = find_with(list, len, list, len, name);
	must_be_same(&f, &again);
	line = qmp_asprintf("%s%s.sig\n", other, name);
	again = find_with(list, len, line, strlen(line), name);
	if (!strchr(name, '\n')) /* else that were a line of its own */
		must_be_same(&f, &again);
	/* A name may end as a line does in BSD's lists alone, where it does not end the line. */
	if (f.r == 0 && *f.sha256 && strncmp(f.sha256, other, IMG_SHA256_LEN) != 0 && name[n - 1] != '\r') {
		line[strlen(line) - strlen(".sig\n")] = '\0';
		again = find_with(list, len, line, strlen(line), name);
		MUST(again.r == -EBADMSG, "two digests, and %d", again.r);
	}
	return 0;
}
