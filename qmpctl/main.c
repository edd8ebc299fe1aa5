#include "qmpctl/cli.h"

#include <jansson.h>
#include <stdlib.h>
#include <unistd.h>

int cli_main(int argc, char **argv);

/*
 * jansson drops a character, or a member, where it gets no memory, and says so in results that are easily missed. What
 * is not whole must not be kept or sent: the program ends instead, which no VM notices (docs/reliability.md).
 */
static void *take_memory(size_t size)
{
	static const char words[] = "qmpctl: out of memory: this process ends; VMs that run go on, and are taken over by the "
				    "next command\n";
	void *p = malloc(size);

	if (p || size == 0)
		return p;
	if (write(STDERR_FILENO, words, sizeof words - 1) < 0)
		_exit(EXIT_HOST);
	_exit(EXIT_HOST);
}

int main(int argc, char **argv)
{
	json_set_alloc_funcs(take_memory, free);
	return cli_main(argc, argv);
}
