/*
 * What the QEMU of a VM takes, beside our own operations: for typing and completing what people write.
 *
 * It comes from the cache (launcher/caps.h). Where that has nothing, a VM that runs is asked, once.
 */
#pragma once

#include "qmpctl/cli.h"

/*
 * New; NULL where QEMU's part is not known. ASK: a VM that runs may be asked, which can start its keeper and take as
 * long as QEMU does; else nothing is started, connected to or waited for.
 */
struct qmp_schema *schema_of(struct cli *cli, const char *vm, bool ask);
/* The same for one COMMAND with arguments so far: a device has its own (device-list-properties of its driver). */
struct qmp_schema *schema_for(struct cli *cli, const char *vm, const char *command, const json_t *given, bool ask);
/* Our operations alone; new. */
struct qmp_schema *schema_of_operations(void);

/*
 * The object that WORDS are: one JSON object, or KEY=VALUE each, dotted keys for what is nested, JSON where the value
 * begins with { or [. Else the values are qmp_text. New; NULL: cli->error says why.
 */
json_t *schema_words(struct cli *cli, char *const *words, int n);
