#include "images/library.h"
#include "proto/base.h"

#include <dlfcn.h>

int img_library_load(const char *soname, const char *package, const struct img_symbol *symbols, struct qmp_error *err)
{
	void *library;

	if (*symbols->pointer)
		return 0;
	library = dlopen(soname, RTLD_NOW | RTLD_LOCAL);
	if (!library)
		return qmp_error_set(err, QMP_ERR_HOST, -ENOENT, "the library %s cannot be loaded (%s); install it (Debian: %s)", soname,
				     dlerror(), package);
	for (const struct img_symbol *s = symbols; s->name; s++)
		if (!dlsym(library, s->name))
			return qmp_error_set(err, QMP_ERR_HOST, -ENOENT, "the library %s has no %s: it is too old", soname, s->name);
	for (const struct img_symbol *s = symbols; s->name; s++)
		*s->pointer = dlsym(library, s->name);
	return 0;
}
