/* What import.c and import-fetch.c share. */
#pragma once

#include "images/fetch.h"
#include "images/import.h"
#include "images/intake.h"
#include "images/part.h"
#include "images/sums.h"

#define IMPORT_DELAY_FIRST 250 /* ms before a retry; four times as much each time */

struct img_import {
	uv_loop_t *loop;
	struct img_import_options o;
	char *source, *destination, *sums, *ca_file, *netrc_file;
	char *shown;   /* of the source, for messages and for the cache */
	char *file;    /* its name, for the list of digests */
	bool remote;
	char sha256[IMG_SHA256_LEN + 1], sha512[IMG_SHA512_LEN + 1]; /* wanted; "": not known */

	uv_timer_t timer;
	uv_idle_t idle;
	int open; /* handles */
	bool ending, cancelled;
	struct img_sums *listing; /* the list of digests is being fetched */
	struct img_fetch *fetch;
	struct img_part part;
	struct img_intake intake;

	int in;           /* the file that is read, where it is not the part: the source, or an entry of the cache */
	uint64_t in_size;
	unsigned char *slice;
	bool replaying;   /* the part that was there */
	bool copying;     /* to the destination, which is WANTED */
	struct img_draft wanted;
	struct img_sparse copy;

	uint64_t got_before; /* bytes of the source, when this try began */
	bool resumed, anew, not_modified, end_is_known;
	bool reached; /* the server has answered once: it is worth waiting for */
	int retries, anews;
	uint64_t delay;

	json_t *entry; /* of the cache: what was found, or made */
	json_t *known; /* what came from this address before; NULL */
	struct img_import_result result;
};

/* It ends, as the result says; once. */
void import_finish(struct img_import *i);
/* The same where it has failed: the error's code. */
int import_fail(struct img_import *i);
void import_note(struct img_import *i, const char *text);
void import_progress(struct img_import *i, enum img_import_phase phase, uint64_t done, uint64_t total);
int import_feed(struct img_import *i, const unsigned char *bytes, size_t n);
/* Whether what has come can be gone on with. */
bool import_can_resume(const struct img_import *i);
/* Reads the file that is there (the part, the source, an entry of the cache), slice by slice. */
int import_read(struct img_import *i);
/* All has come. */
int import_whole(struct img_import *i);
/* It is in the cache, as ENTRY. */
int import_take_entry(struct img_import *i);
/* The entry of the digest that is known; new. */
json_t *import_look_up(struct img_import *i);

/* In import-fetch.c: the part, and what is missing of it. */
void import_fetch(struct img_import *i);
/* What is missing; where it is all there, or was no address's, it is whole. */
void import_fetch_rest(struct img_import *i);
/* What has come is wrong: where it came in pieces, these may be of different files. Whether it is fetched anew. */
bool import_mend(struct img_import *i);
