#include "proto/base.h"

#include <stdarg.h>
#include <stdio.h>

char *qmp_asprintf(const char *fmt, ...)
{
	va_list ap;
	char *s = NULL;

	va_start(ap, fmt);
	if (vasprintf(&s, fmt, ap) < 0)
		s = NULL;
	va_end(ap);
	return s;
}

/* The well-formed sequences of more than one byte: Unicode, table 3-7. The rest of their bytes are 80..BF. */
static const struct {
	unsigned char first, last, low, high; /* of the first byte, and of the second */
	unsigned char len;
} sequences[] = {
	{0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3}, {0xe1, 0xec, 0x80, 0xbf, 3},
	{0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3}, {0xf0, 0xf0, 0x90, 0xbf, 4},
	{0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
};

static bool is_between(char c, unsigned char low, unsigned char high)
{
	return (unsigned char)c >= low && (unsigned char)c <= high;
}

size_t qmp_character_length(const char *p, const char *end)
{
	if (p < end && (unsigned char)*p < 0x80)
		return 1;
	for (size_t i = 0; i < ARRAY_SIZE(sequences); i++) {
		size_t n = 2, len = sequences[i].len;
		if ((size_t)(end - p) < len || !is_between(*p, sequences[i].first, sequences[i].last))
			continue;
		if (!is_between(p[1], sequences[i].low, sequences[i].high))
			return 0;
		while (n < len && is_between(p[n], 0x80, 0xbf))
			n++;
		return n == len ? n : 0;
	}
	return 0;
}

/* Levenshtein's distance, in which two neighbours that changed places count as one ("strat"); words are short. */
static size_t distance(const char *a, const char *b)
{
	size_t la = strlen(a), lb = strlen(b), rows[3][65];

	if (lb >= ARRAY_SIZE(rows[0]) || la >= ARRAY_SIZE(rows[0]))
		return SIZE_MAX;
	for (size_t j = 0; j <= lb; j++)
		rows[0][j] = j;
	for (size_t i = 1; i <= la; i++) {
		size_t *row = rows[i % 3];
		const size_t *above = rows[(i - 1) % 3], *before = rows[(i + 1) % 3];

		row[0] = i;
		for (size_t j = 1; j <= lb; j++) {
			size_t best = above[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
			if (above[j] + 1 < best)
				best = above[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && before[j - 2] + 1 < best)
				best = before[j - 2] + 1;
			row[j] = best;
		}
	}
	return rows[la % 3][lb];
}

const char *qmp_nearest(const char *word, const char *const *choices)
{
	const char *best = NULL;
	size_t n = strlen(word), best_distance = (n / 3 > 0 ? n / 3 : n / 2) + 1;

	for (; *choices; choices++) {
		size_t d = distance(word, *choices);
		if (d < best_distance) {
			best_distance = d;
			best = *choices;
		}
	}
	return best;
}
