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
