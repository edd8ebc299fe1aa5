/*
 * Cold rendering: the command line of QEMU. Pure.
 */
#pragma once

#include "launcher/fragment.h"

/* An fd that the child inherits and that the command line names. */
struct vm_named_fd {
	const char *name;      /* "qmp", "con0", "agent", "net0-tap" */
	int fd;                /* its number in the child */
};

/*
 * SPEC is an effective spec. FDS must have "qmp" (a listening UNIX socket), "agent" if the spec has the agent, one
 * for each console of its id, one for every object with fd_name, and for every secret one of its id; it may have one for a file node of
 * its name, which QEMU then opens as a set of fds (-add-fd). Chardevs' ids are "qmp", "agent", "con-ID".
 * The VM starts stopped (-S): who starts it sends cont. Returns a NULL-ended vector; free with vm_argv_free.
 */
int vm_argv_render(const json_t *spec, const struct vm_host *host, const char *binary, const struct vm_named_fd *fds,
		   size_t n_fds, char ***ret, struct qmp_error *err);
void vm_argv_free(char **argv);
/* ARGV as one would type it into a shell, quoted, one option a line (" \\\n  "). New. */
char *vm_argv_quote(char *const *argv);
