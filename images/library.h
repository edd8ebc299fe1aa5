/*
 * Shared libraries that are loaded when they are first needed: no verb and no keeper pays for what it does not use (libcurl alone
 * brings thirty others, and takes longer to load than most verbs run).
 *
 *	#include <zlib.h>
 *	static IMG_SYMBOL(inflate);
 *	static const struct img_symbol symbols[] = {IMG_SYMBOL_OF(inflate), {0}};
 *	r = img_library_load("libz.so.1", "zlib1g", symbols, err);
 *	sym_inflate(...);
 */
#pragma once

#include "proto/qmp.h"

struct img_symbol {
	const char *name;
	void **pointer;
};

#define IMG_SYMBOL(name)    __typeof__(name) *sym_##name
#define IMG_SYMBOL_OF(name) {#name, (void **)&sym_##name}

/* PACKAGE: Debian's, for the message where it is missing. Once loaded it stays. SYMBOLS ends with a NULL name. */
int img_library_load(const char *soname, const char *package, const struct img_symbol *symbols, struct qmp_error *err);
