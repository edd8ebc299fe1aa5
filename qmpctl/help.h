/*
 * What the table of verbs says to people: usage, help, the man page. Owns how it looks; what it says stands in the table.
 */
#pragma once

#include "qmpctl/cli.h"

/* " NAME [ID...]"; new. */
char *help_args(const struct verb *v);
/* One verb; the verbs that begin with the word NOUN (false: there are none); all. */
void help_verb(const struct verb *v);
bool help_noun(const char *noun);
void help_all(void);
void help_man(void);
/* "add, remove, list" of a noun; new, "" where it is none. */
char *help_verbs_of(const char *noun);
