/*
 * What the fake VM has, and what each command does to it: enough for a launcher to start it, to plug disks and NICs
 * and to ask what is there. It does no I/O: replies and events go out through the two hooks.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>

struct machine {
	json_t *blockdevs, *netdevs, *devices, *objects; /* by node-name or id: the arguments that made them */
	json_t *unplugging;                              /* ids of devices that the guest has not let go of */
	const char *name, *uuid;
	const char *status; /* as query-status has it */
	bool unplugs, powers_down, quits;
	bool ends; /* to be ended with status 0 as soon as the reply is out */
	void (*event)(const char *name, json_t *data_consume);
};

void machine_init(struct machine *m);
/*
 * Runs a command. New: what it returns; NULL: refused, with the words of CLASS and DESC (a buffer of 200 bytes).
 * QEMU's order is kept: events that a command causes go out before its reply.
 */
json_t *machine_run(struct machine *m, const char *command, json_t *arguments, const char **ret_class, char *desc);
/* Its part of the command line: an object of that option ("-device", ...). False: it is no such option. */
bool machine_take_option(struct machine *m, const char *option, const char *value);
/* The power goes off, for REASON as SHUTDOWN has it. */
void machine_end(struct machine *m, const char *reason, bool guest);
/* The guest lets go of what it was asked to, if it is one that does. To be called when the replies are out. */
void machine_settle(struct machine *m);
/* What happens by itself, that is by no command: it stops, or goes on; the guest lets go of what it was asked to. */
void machine_toggle(struct machine *m);
void machine_let_go(struct machine *m);
