/*
 * Completion of command lines, for the shells' scripts.
 */
#pragma once

#include "qmpctl/cli.h"

/* "qmpctl __complete WORDS...". The exit status. */
int complete_main(int argc, char **argv);
