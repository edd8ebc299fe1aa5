/*
 * The operations on a VM's consoles: qmpctl-console gives what was said, piece by piece, qmpctl-type types.
 *
 * A piece is asked for with the cursor that the one before brought, and comes as soon as there is something. So the
 * keeper holds nothing for a reader: one that is slow, or away for a while, misses at most what is older than the
 * console's memory, and is told how much.
 */
#pragma once

#include "qmpctl/keeper.h"

extern const struct op op_console, op_type;
