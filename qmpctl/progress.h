/*
 * How far something has come, on standard error: a bar with rate and time left on a terminal, lines of JSON with -o json,
 * nothing elsewhere.
 */
#pragma once

#include "qmpctl/cli.h"

struct progress {
	const struct cli *cli;
	const char *doing; /* borrowed: "fetching" */
	const char *unit;  /* "B" (shown as KiB, MiB, ...), or NULL: none, DONE of TOTAL is a share */
	uint64_t begun_at, shown_at; /* ns */
	uint64_t first; /* what was done already when it began */
	bool begun, visible, terminal;
	int columns;
};

/* Before the first of a phase. */
void progress_begin(struct progress *p, const struct cli *cli, const char *doing, const char *unit);
/* TOTAL 0: not known. As often as one likes: it is shown ten times a second at most. */
void progress_update(struct progress *p, uint64_t done, uint64_t total);
/* A line of its own, for people; the bar goes on below it. */
void progress_note(struct progress *p, const char *text);
/* The bar is gone. */
void progress_end(struct progress *p);
/* "1.5 GiB"; RET has room for 32 bytes. */
void progress_bytes(uint64_t bytes, char *ret);
