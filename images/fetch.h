/*
 * One file fetched over HTTP or HTTPS, beside everything else on the loop.
 *
 * Redirects are followed by ourselves: so many at most, to http and https alone, and never from https to http. The bytes are
 * the file's as the server has it: it is asked for no encoding, and one that it uses all the same is refused. A server that
 * sends nothing for a while is left. Certificates are checked. Proxies are the environment's (https_proxy, ...), as with curl.
 * Does not own: resuming, digests, what the bytes are; see import.h.
 */
#pragma once

#include "proto/qmp.h"

struct img_fetch;

/* Of the answer that brings the file, before its first byte. */
struct img_fetch_head {
	int status;              /* 200, 206 or 304 */
	uint64_t first;          /* the first byte that comes; 0 but with 206 */
	int64_t total;           /* of the whole file; -1: not said */
	bool end_is_known;       /* a cut can be told from the end */
	const char *etag;        /* "": none; lent, as all that follows */
	const char *last_modified;
};

struct img_fetch_result {
	struct qmp_error error; /* kind QMP_ERR_NONE: it came whole, or was not needed (304) */
	bool again;             /* it failed in a way that may pass: cut, stalled, 503, ... */
	bool unreached;         /* nobody was there to answer: a wrong name, a closed port */
};

struct img_fetch_options {
	const char *url;
	uint64_t from;             /* the first byte wanted */
	const char *if_range;      /* ... if the file is still the one of this ETag or date; else the whole. NULL: no condition */
	const char *if_none_match; /* 304 where it is still the one of this ETag; NULL: no condition */
	const char *ca_file;       /* certificates of authorities, instead of the system's; NULL */
	const char *netrc_file;    /* names and passwords for hosts; NULL */
	int stall_s;               /* so long without a byte; 0: 30 */
	/* Negative, with the error filled, ends it. */
	int (*head)(void *data, const struct img_fetch_head *h, struct qmp_error *err);
	int (*body)(void *data, const unsigned char *bytes, size_t n, struct qmp_error *err);
	/* Once, from the loop, when nothing of it is left. */
	void (*done)(void *data, const struct img_fetch_result *r);
	void *data;
};

#define IMG_FETCH_REDIRECTS 10

bool img_is_http(const char *source);
/*
 * The URL as it is shown and kept: without its query, which may be a password in all but name. -EINVAL (usage): it is none,
 * or has a user's name or password in it, which the list of processes would show.
 */
int img_url_shown(const char *url, char **ret, struct qmp_error *err);
/* The last part of its path, decoded; new. "" where there is none. */
char *img_url_file(const char *url);

/* All of O is copied, but DATA. RET is valid until done was called. */
int img_fetch_run(uv_loop_t *loop, const struct img_fetch_options *o, struct img_fetch **ret, struct qmp_error *err);
/* Done is called soon, with QMP_ERR_CANCELLED. */
void img_fetch_cancel(struct img_fetch *f);
