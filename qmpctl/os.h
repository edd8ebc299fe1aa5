/*
 * What a guest's operating system wants of its VM: which buses and cards it has drivers for, its clock, firmware, screen.
 *
 * A table of names, osinfo-db's where that has one: os.json, which is part of the program, and over it CONFDIR/os.json. A name
 * that is not there is looked for without its version: debian12 is "debian". An entry:
 *   {"description"?, "like"?: the entry that it changes, "older"?: {VERSION: what it is like before that one}, "disks"?: {"bus"},
 *    "cdroms"?: {"bus"}, "nics"?: {"model"}, "drivers"?: an ISO file for another CD-ROM, where it is there,
 *    "spec"?: fields of the spec}
 * Whatever is given otherwise goes before it.
 */
#pragma once

#include "qmpctl/cli.h"

/* Name to entry, new; NULL: cli->error. */
json_t *os_table(struct cli *cli);
/* The entry NAME with what it is like; new. NULL: cli->error says which names are near. */
json_t *os_find(struct cli *cli, const json_t *table, const char *name);
/* Completes SPEC by ENTRY (NULL: nothing). */
void os_suit(const json_t *entry, json_t *spec);
/* The bus of a CD-ROM drive that is added later; NULL: the default. Borrowed. */
const char *os_cdrom_bus(const json_t *entry);
