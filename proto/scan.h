/*
 * A look at a message: that it is JSON, and where its top-level members stand, without decoding them. Lets large
 * replies and events that nobody looks into pass through undecoded. Internal.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct qmp_span {
	const char *text; /* NULL: the member is not there */
	size_t len;
};

/*
 * Finds the members named NAMES[0..N) of the object TEXT; SPANS[i] is the value of NAMES[i]. False if TEXT
 * is no object, or one of those names stands twice. What JSON's grammar does not show is not seen: other names
 * that stand twice, halves of surrogate pairs.
 */
bool qmp_scan_members(const char *text, size_t len, const char *const *names, struct qmp_span *spans, size_t n);
