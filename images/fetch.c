/*
 * The way it goes well: asked -> the answer's head (a redirect: asked again, elsewhere) -> its bytes -> all closed -> done.
 * It fails: no connection, no trust, a status that is none of a file, a head that cannot be (body and head said no), a cut,
 * a stall, taken back. Always: the transfer is taken out of curl, every handle closed, then done.
 */
#include "images/fetch.h"
#include "images/library.h"
#include "proto/base.h"

#define CURL_DISABLE_TYPECHECK
#include <curl/curl.h>
#include <stdio.h>
#include <strings.h>

static IMG_SYMBOL(curl_easy_cleanup);
static IMG_SYMBOL(curl_easy_getinfo);
static IMG_SYMBOL(curl_easy_init);
static IMG_SYMBOL(curl_easy_setopt);
static IMG_SYMBOL(curl_easy_strerror);
static IMG_SYMBOL(curl_free);
static IMG_SYMBOL(curl_global_init);
static IMG_SYMBOL(curl_multi_add_handle);
static IMG_SYMBOL(curl_multi_assign);
static IMG_SYMBOL(curl_multi_cleanup);
static IMG_SYMBOL(curl_multi_info_read);
static IMG_SYMBOL(curl_multi_init);
static IMG_SYMBOL(curl_multi_remove_handle);
static IMG_SYMBOL(curl_multi_setopt);
static IMG_SYMBOL(curl_multi_socket_action);
static IMG_SYMBOL(curl_slist_append);
static IMG_SYMBOL(curl_slist_free_all);
static IMG_SYMBOL(curl_url);
static IMG_SYMBOL(curl_url_cleanup);
static IMG_SYMBOL(curl_url_get);
static IMG_SYMBOL(curl_url_set);
static const struct img_symbol symbols[] = {
	IMG_SYMBOL_OF(curl_easy_cleanup),
	IMG_SYMBOL_OF(curl_easy_getinfo),
	IMG_SYMBOL_OF(curl_easy_init),
	IMG_SYMBOL_OF(curl_easy_setopt),
	IMG_SYMBOL_OF(curl_easy_strerror),
	IMG_SYMBOL_OF(curl_free),
	IMG_SYMBOL_OF(curl_global_init),
	IMG_SYMBOL_OF(curl_multi_add_handle),
	IMG_SYMBOL_OF(curl_multi_assign),
	IMG_SYMBOL_OF(curl_multi_cleanup),
	IMG_SYMBOL_OF(curl_multi_info_read),
	IMG_SYMBOL_OF(curl_multi_init),
	IMG_SYMBOL_OF(curl_multi_remove_handle),
	IMG_SYMBOL_OF(curl_multi_setopt),
	IMG_SYMBOL_OF(curl_multi_socket_action),
	IMG_SYMBOL_OF(curl_slist_append),
	IMG_SYMBOL_OF(curl_slist_free_all),
	IMG_SYMBOL_OF(curl_url),
	IMG_SYMBOL_OF(curl_url_cleanup),
	IMG_SYMBOL_OF(curl_url_get),
	IMG_SYMBOL_OF(curl_url_set),
	{0},
};

#define STALL_S        30
#define CONNECT_S      30
#define SLOWEST        512 /* bytes a second; less is a stall */
#define CHATTER_MAX    ((uint64_t)1 << 20) /* of a body that is not the file: a redirect's, an error's */
#define HEADERS_MAX    ((size_t)256 << 10)

struct socket_watch {
	uv_poll_t poll;
	struct img_fetch *fetch;
	curl_socket_t fd;
};

struct head {
	int status;
	int64_t length, first, total; /* -1: not said */
	bool chunked, multiplexed, encoded;
	char *etag, *last_modified, *location;
};

struct img_fetch {
	uv_loop_t *loop;
	CURLM *multi;
	CURL *easy;
	struct curl_slist *headers;
	uv_timer_t timer;
	int open; /* handles that are not closed */
	char *url, *shown, *if_range, *if_none_match, *ca_file, *netrc_file;
	char words[CURL_ERROR_SIZE];
	struct head head;
	size_t header_bytes;
	uint64_t chatter;
	int redirects;
	bool said_head, ending;
	struct img_fetch_options o;
	struct img_fetch_result result;
};

static int load(struct qmp_error *err)
{
	return img_library_load("libcurl.so.4", "libcurl4", symbols, err);
}

/* ---- URLs ---- */

bool img_is_http(const char *source)
{
	return strncasecmp(source, "http://", 7) == 0 || strncasecmp(source, "https://", 8) == 0;
}

static bool is_https(const char *url)
{
	return strncasecmp(url, "https://", 8) == 0;
}

/* That part of URL; new. NULL: it has none. */
static char *part_of(const char *url, CURLUPart part, unsigned flags)
{
	CURLU *u = load(NULL) == 0 ? sym_curl_url() : NULL;
	char *text = NULL, *copy = NULL;

	if (!u)
		return NULL;
	if (sym_curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK && sym_curl_url_get(u, part, &text, flags) == CURLUE_OK) {
		copy = strdup(text);
		sym_curl_free(text);
	}
	sym_curl_url_cleanup(u);
	return copy;
}

int img_url_shown(const char *url, char **ret, struct qmp_error *err)
{
	_cleanup_free_ char *user = part_of(url, CURLUPART_USER, 0), *password = part_of(url, CURLUPART_PASSWORD, 0);
	CURLU *u;
	char *text = NULL;

	if (load(err) < 0)
		return -ENOENT;
	if (user || password)
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL,
				     "the address has a user's name or a password in it, which every list of processes would show; put "
				     "them into a file as netrc(5) describes it, and name that with --netrc");
	u = sym_curl_url();
	if (u && sym_curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK && sym_curl_url_set(u, CURLUPART_QUERY, NULL, 0) == CURLUE_OK &&
	    sym_curl_url_set(u, CURLUPART_FRAGMENT, NULL, 0) == CURLUE_OK && sym_curl_url_get(u, CURLUPART_URL, &text, 0) == CURLUE_OK)
		*ret = strdup(text);
	sym_curl_free(text);
	sym_curl_url_cleanup(u);
	if (!text)
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL, "this is no address of http or https that can be used");
	return *ret ? 0 : qmp_error_errno(err, -ENOMEM, "reading an address");
}

char *img_url_file(const char *url)
{
	_cleanup_free_ char *path = part_of(url, CURLUPART_PATH, CURLU_URLDECODE);
	const char *slash = path ? strrchr(path, '/') : NULL;

	return strdup(slash ? slash + 1 : "");
}

/* ---- Its end ---- */

static void on_closed(uv_handle_t *handle)
{
	struct img_fetch *f = handle->data;

	if (--f->open > 0)
		return;
	f->o.done(f->o.data, &f->result);
	sym_curl_slist_free_all(f->headers);
	free(f->url);
	free(f->shown);
	free(f->if_range);
	free(f->if_none_match);
	free(f->ca_file);
	free(f->netrc_file);
	free(f->head.etag);
	free(f->head.last_modified);
	free(f->head.location);
	free(f);
}

static void on_socket_closed(uv_handle_t *handle)
{
	struct socket_watch *w = container_of((uv_poll_t *)handle, struct socket_watch, poll);
	struct img_fetch *f = w->fetch;

	free(w);
	on_closed(&(uv_handle_t){.data = f});
}

/* From the loop, never out of curl's own calls. */
static void end(struct img_fetch *f)
{
	if (f->ending)
		return;
	f->ending = true;
	if (f->easy) {
		(void)sym_curl_multi_remove_handle(f->multi, f->easy);
		sym_curl_easy_cleanup(f->easy);
	}
	if (f->multi)
		(void)sym_curl_multi_cleanup(f->multi); /* tells of each socket that it goes */
	uv_close((uv_handle_t *)&f->timer, on_closed);
}

void img_fetch_cancel(struct img_fetch *f)
{
	if (f->ending)
		return;
	qmp_error_set(&f->result.error, QMP_ERR_CANCELLED, -ECANCELED, "fetching %s: stopped on request", f->shown);
	end(f);
}

/* ---- What comes ---- */

static int keep_text(char **slot, const char *value, size_t n)
{
	free(*slot);
	*slot = strndup(value, n);
	return *slot ? 0 : -ENOMEM;
}

static void reset_head(struct img_fetch *f)
{
	free(f->head.etag);
	free(f->head.last_modified);
	free(f->head.location);
	f->head = (struct head){.length = -1, .first = -1, .total = -1};
}

static bool has_word(const char *value, size_t n, const char *word)
{
	size_t k = strlen(word);

	for (size_t i = 0; i + k <= n; i++)
		if (strncasecmp(value + i, word, k) == 0)
			return true;
	return false;
}

static int note_header(struct img_fetch *f, const char *name, size_t name_len, const char *value, size_t n)
{
	_cleanup_free_ char *text = strndup(value, n);
	struct head *h = &f->head;
	long long first, total;

#define IS(word) (name_len == sizeof(word) - 1 && strncasecmp(name, word, name_len) == 0)
	if (!text)
		return -ENOMEM;
	if (IS("etag"))
		return keep_text(&h->etag, value, n);
	if (IS("last-modified"))
		return keep_text(&h->last_modified, value, n);
	if (IS("location"))
		return keep_text(&h->location, value, n);
	if (IS("transfer-encoding"))
		h->chunked |= has_word(value, n, "chunked");
	else if (IS("content-encoding"))
		h->encoded |= n > 0 && !(n == 8 && strncasecmp(value, "identity", 8) == 0);
	else if (IS("content-length"))
		h->length = strtoll(text, NULL, 10);
	else if (IS("content-range") && sscanf(text, "bytes %lld-%*d/%lld", &first, &total) == 2)
		h->first = first, h->total = total;
	else if (IS("content-range") && sscanf(text, "bytes %lld-", &first) == 1)
		h->first = first;
#undef IS
	return 0;
}

static bool is_redirect(const struct head *h)
{
	return h->location && (h->status == 301 || h->status == 302 || h->status == 303 || h->status == 307 || h->status == 308);
}

static int tell_head(struct img_fetch *f)
{
	struct img_fetch_head h = {.status = f->head.status, .total = f->head.length,
				   .end_is_known = f->head.length >= 0 || f->head.chunked || f->head.multiplexed,
				   .etag = f->head.etag ? f->head.etag : "",
				   .last_modified = f->head.last_modified ? f->head.last_modified : ""};
	_cleanup_free_ char *file = img_url_file(f->url);
	size_t n = file ? strlen(file) : 0;

	if (h.status == 206) {
		h.first = f->head.first < 0 ? UINT64_MAX : (uint64_t)f->head.first;
		h.total = f->head.total;
	}
	/* Some servers call a file that ends in .gz an encoded one, and send it as it is. */
	if (f->head.encoded && !(n > 3 && streq(file + n - 3, ".gz")))
		return qmp_error_set(&f->result.error, QMP_ERR_HOST, -EBADMSG,
				     "fetching %s: the server sends it in an encoding (Content-Encoding), though it was asked for the file "
				     "as it is; its digest and its length would be those of something else",
				     f->shown);
	f->said_head = true;
	return f->o.head(f->o.data, &h, &f->result.error);
}

/* Each line of an answer's head. 0 ends the transfer. */
static size_t on_header(char *line, size_t size, size_t count, void *data)
{
	struct img_fetch *f = data;
	size_t n = size * count, len = n;
	const char *colon;
	int major = 1, status;

	f->header_bytes += n;
	if (f->header_bytes > HEADERS_MAX) {
		qmp_error_set(&f->result.error, QMP_ERR_LIMIT, -E2BIG, "fetching %s: the server's headers have no end", f->shown);
		return 0;
	}
	while (len > 0 && (line[len - 1] == '\n' || line[len - 1] == '\r'))
		len--;
	if (f->said_head)
		return n; /* what follows a chunked body */
	if (len >= 12 && strncmp(line, "HTTP/", 5) == 0) {
		_cleanup_free_ char *text = strndup(line, len);
		reset_head(f);
		if (text && (sscanf(text, "HTTP/%d.%*d %d", &major, &status) == 2 || sscanf(text, "HTTP/%d %d", &major, &status) == 2))
			f->head.status = status;
		f->head.multiplexed = major >= 2;
		return n;
	}
	if (len == 0) {
		int s = f->head.status;
		return (s == 200 || s == 206 || s == 304) && tell_head(f) < 0 ? 0 : n;
	}
	colon = memchr(line, ':', len);
	if (!colon)
		return n;
	size_t at = (size_t)(colon + 1 - line);
	while (at < len && (line[at] == ' ' || line[at] == '\t'))
		at++;
	return note_header(f, line, (size_t)(colon - line), line + at, len - at) < 0 ? 0 : n;
}

static size_t on_body(char *bytes, size_t size, size_t count, void *data)
{
	struct img_fetch *f = data;
	size_t n = size * count;

	if (!f->said_head) {
		f->chatter += n;
		return f->chatter > CHATTER_MAX ? 0 : n;
	}
	return f->o.body(f->o.data, (const unsigned char *)bytes, n, &f->result.error) < 0 ? 0 : n;
}

/* ---- How it ended ---- */

static void judge_status(struct img_fetch *f)
{
	int s = f->head.status;

	f->result.again = s == 408 || s == 429 || s == 500 || s == 502 || s == 503 || s == 504;
	if (s == 404 || s == 410)
		qmp_error_set(&f->result.error, QMP_ERR_NOT_FOUND, -ENOENT, "fetching %s: the server has no such file (status %d)",
			      f->shown, s);
	else if (s == 401 || s == 403 || s == 407)
		qmp_error_set(&f->result.error, QMP_ERR_HOST, -EACCES,
			      "fetching %s: the server does not let us (status %d); a name and a password for it go into a file, "
			      "--netrc FILE",
			      f->shown, s);
	else if (s == 416)
		qmp_error_set(&f->result.error, QMP_ERR_HOST, -ERANGE, "fetching %s: the file is shorter now than what has come", f->shown);
	else
		qmp_error_set(&f->result.error, QMP_ERR_HOST, -EREMOTEIO, "fetching %s: the server answered with status %d", f->shown, s);
}

static void judge_failure(struct img_fetch *f, CURLcode code)
{
	const char *words = *f->words ? f->words : sym_curl_easy_strerror(code);

	switch (code) {
	case CURLE_OPERATION_TIMEDOUT:
		f->result.again = true;
		qmp_error_set(&f->result.error, QMP_ERR_TIMEOUT, -ETIMEDOUT, "fetching %s: the server does not answer, or sends nothing "
			      "any more (%s)", f->shown, words);
		return;
	case CURLE_COULDNT_CONNECT:
	case CURLE_COULDNT_RESOLVE_HOST:
		f->result.unreached = true;
		__attribute__((fallthrough));
	case CURLE_PARTIAL_FILE:
	case CURLE_RECV_ERROR:
	case CURLE_SEND_ERROR:
	case CURLE_GOT_NOTHING:
	case CURLE_HTTP2:
	case CURLE_HTTP2_STREAM:
	case CURLE_SSL_CONNECT_ERROR:
		f->result.again = true;
		qmp_error_set(&f->result.error, QMP_ERR_HOST, -EIO, "fetching %s: %s", f->shown, words);
		return;
	case CURLE_PEER_FAILED_VERIFICATION:
		qmp_error_set(&f->result.error, QMP_ERR_HOST, -EACCES,
			      "fetching %s: the server cannot be trusted: %s. An authority of your own is named with --ca FILE", f->shown,
			      words);
		return;
	case CURLE_OUT_OF_MEMORY:
		qmp_error_errno(&f->result.error, -ENOMEM, "fetching %s", f->shown);
		return;
	default:
		qmp_error_set(&f->result.error, QMP_ERR_HOST, -EIO, "fetching %s: %s", f->shown, words);
	}
}

static int ask(struct img_fetch *f);

/* The answer sends us elsewhere: asked there, or refused. */
static int follow(struct img_fetch *f)
{
	_cleanup_free_ char *shown = NULL;
	struct qmp_error why = {0};
	char *to = NULL;

	if (sym_curl_easy_getinfo(f->easy, CURLINFO_REDIRECT_URL, &to) != CURLE_OK || !to)
		return qmp_error_set(&f->result.error, QMP_ERR_HOST, -EBADMSG, "fetching %s: it redirects to nowhere", f->shown);
	if (++f->redirects > IMG_FETCH_REDIRECTS)
		return qmp_error_set(&f->result.error, QMP_ERR_HOST, -ELOOP, "fetching %s: it redirects again and again", f->shown);
	if (!img_is_http(to))
		return qmp_error_set(&f->result.error, QMP_ERR_HOST, -EACCES,
				     "fetching %s: it redirects to something that is neither http nor https, which is not followed",
				     f->shown);
	if (is_https(f->url) && !is_https(to))
		return qmp_error_set(&f->result.error, QMP_ERR_HOST, -EACCES,
				     "fetching %s: it redirects from https to http, where anybody could change the file; not followed",
				     f->shown);
	if (img_url_shown(to, &shown, &why) < 0)
		return qmp_error_set(&f->result.error, QMP_ERR_HOST, -EACCES, "fetching %s: it redirects to where we do not go: %s", f->shown,
				     why.message);
	if (keep_text(&f->url, to, strlen(to)) < 0)
		return qmp_error_errno(&f->result.error, -ENOMEM, "fetching %s", f->shown);
	return ask(f);
}

static void on_transfer_end(struct img_fetch *f, CURLcode code)
{
	(void)sym_curl_multi_remove_handle(f->multi, f->easy);
	if (f->result.error.kind) {
		/* said already, by the head, the body or us */
	} else if (code == CURLE_OK && is_redirect(&f->head)) {
		if (follow(f) == 0)
			return;
	} else if (f->head.status >= 300 && f->head.status != 304 && !f->said_head) {
		judge_status(f);
	} else if (code != CURLE_OK) {
		judge_failure(f, code);
	} else if (!f->said_head) {
		judge_status(f);
	}
	end(f);
}

static void look_for_end(struct img_fetch *f)
{
	CURLMsg *m;
	int left;

	while (!f->ending && (m = sym_curl_multi_info_read(f->multi, &left)))
		if (m->msg == CURLMSG_DONE) {
			on_transfer_end(f, m->data.result);
			return;
		}
}

/* ---- curl on the loop ---- */

static void on_ready(uv_poll_t *poll, int status, int events)
{
	struct socket_watch *w = container_of(poll, struct socket_watch, poll);
	struct img_fetch *f = w->fetch;
	int flags = status < 0 ? CURL_CSELECT_ERR : 0, running;

	flags |= (events & UV_READABLE ? CURL_CSELECT_IN : 0) | (events & UV_WRITABLE ? CURL_CSELECT_OUT : 0);
	(void)sym_curl_multi_socket_action(f->multi, w->fd, flags, &running);
	look_for_end(f);
}

static void on_time(uv_timer_t *timer)
{
	struct img_fetch *f = timer->data;
	int running;

	(void)sym_curl_multi_socket_action(f->multi, CURL_SOCKET_TIMEOUT, 0, &running);
	look_for_end(f);
}

static int set_timer(CURLM *multi, long ms, void *data)
{
	struct img_fetch *f = data;

	UNUSED(multi);
	if (f->ending)
		return 0;
	if (ms < 0)
		uv_timer_stop(&f->timer);
	else
		uv_timer_start(&f->timer, on_time, (uint64_t)ms, 0);
	return 0;
}

static int watch_socket(CURL *easy, curl_socket_t fd, int what, void *data, void *socket)
{
	struct img_fetch *f = data;
	struct socket_watch *w = socket;
	int events = (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0);

	UNUSED(easy);
	if (what == CURL_POLL_REMOVE) {
		if (w) {
			uv_poll_stop(&w->poll);
			uv_close((uv_handle_t *)&w->poll, on_socket_closed);
			(void)sym_curl_multi_assign(f->multi, fd, NULL);
		}
		return 0;
	}
	if (!w) {
		w = calloc(1, sizeof *w);
		if (!w || uv_poll_init_socket(f->loop, &w->poll, fd) < 0) {
			free(w);
			return -1;
		}
		w->fetch = f;
		w->fd = fd;
		f->open++;
		(void)sym_curl_multi_assign(f->multi, fd, w);
	}
	return uv_poll_start(&w->poll, events, on_ready) < 0 ? -1 : 0;
}

/* ---- Its start ---- */

static bool add_header(struct img_fetch *f, const char *name, const char *value)
{
	_cleanup_free_ char *line = qmp_asprintf("%s: %s", name, value);
	struct curl_slist *list = line ? sym_curl_slist_append(f->headers, line) : NULL;

	if (list)
		f->headers = list;
	return list != NULL;
}

static bool set_up(struct img_fetch *f)
{
	_cleanup_free_ char *range = f->o.from > 0 ? qmp_asprintf("%llu-", (unsigned long long)f->o.from) : NULL;
	CURL *e = f->easy;
	bool good = add_header(f, "Accept-Encoding", "identity");

	if (f->o.from > 0)
		good = good && range && sym_curl_easy_setopt(e, CURLOPT_RANGE, range) == CURLE_OK;
	if (f->o.from > 0 && f->if_range)
		good = good && add_header(f, "If-Range", f->if_range);
	if (f->if_none_match)
		good = good && add_header(f, "If-None-Match", f->if_none_match);
	good = good && sym_curl_easy_setopt(e, CURLOPT_HTTPHEADER, f->headers) == CURLE_OK &&
	       sym_curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK &&
	       sym_curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
	       sym_curl_easy_setopt(e, CURLOPT_USERAGENT, "qmpctl") == CURLE_OK &&
	       sym_curl_easy_setopt(e, CURLOPT_BUFFERSIZE, 256L << 10) == CURLE_OK &&
	       sym_curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_S) == CURLE_OK &&
	       sym_curl_easy_setopt(e, CURLOPT_LOW_SPEED_LIMIT, (long)SLOWEST) == CURLE_OK &&
	       sym_curl_easy_setopt(e, CURLOPT_LOW_SPEED_TIME, f->o.stall_s > 0 ? (long)f->o.stall_s : (long)STALL_S) == CURLE_OK &&
	       sym_curl_easy_setopt(e, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L) == CURLE_OK &&
	       sym_curl_easy_setopt(e, CURLOPT_ERRORBUFFER, f->words) == CURLE_OK &&
	       sym_curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header) == CURLE_OK &&
	       sym_curl_easy_setopt(e, CURLOPT_HEADERDATA, f) == CURLE_OK &&
	       sym_curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body) == CURLE_OK &&
	       sym_curl_easy_setopt(e, CURLOPT_WRITEDATA, f) == CURLE_OK;
	if (f->ca_file)
		good = good && sym_curl_easy_setopt(e, CURLOPT_CAINFO, f->ca_file) == CURLE_OK &&
		       sym_curl_easy_setopt(e, CURLOPT_CAPATH, NULL) == CURLE_OK;
	if (f->netrc_file)
		good = good && sym_curl_easy_setopt(e, CURLOPT_NETRC, (long)CURL_NETRC_REQUIRED) == CURLE_OK &&
		       sym_curl_easy_setopt(e, CURLOPT_NETRC_FILE, f->netrc_file) == CURLE_OK;
	return good;
}

static int ask(struct img_fetch *f)
{
	reset_head(f);
	f->header_bytes = 0;
	f->chatter = 0;
	*f->words = '\0';
	if (sym_curl_easy_setopt(f->easy, CURLOPT_URL, f->url) != CURLE_OK || sym_curl_multi_add_handle(f->multi, f->easy) != CURLM_OK)
		return qmp_error_errno(&f->result.error, -ENOMEM, "fetching %s", f->shown);
	return 0;
}

static int copy_options(struct img_fetch *f, const struct img_fetch_options *o)
{
	f->o = *o;
	f->url = strdup(o->url);
	f->if_range = o->if_range ? strdup(o->if_range) : NULL;
	f->if_none_match = o->if_none_match ? strdup(o->if_none_match) : NULL;
	f->ca_file = o->ca_file ? strdup(o->ca_file) : NULL;
	f->netrc_file = o->netrc_file ? strdup(o->netrc_file) : NULL;
	return f->url && (f->if_range || !o->if_range) && (f->if_none_match || !o->if_none_match) && (f->ca_file || !o->ca_file) &&
		       (f->netrc_file || !o->netrc_file) ? 0 : -ENOMEM;
}

static void ignore(void *data, const struct img_fetch_result *r)
{
	UNUSED(data);
	UNUSED(r);
}

int img_fetch_run(uv_loop_t *loop, const struct img_fetch_options *o, struct img_fetch **ret, struct qmp_error *err)
{
	_cleanup_free_ char *shown = NULL;
	struct img_fetch *f;
	int r = img_url_shown(o->url, &shown, err);

	if (r < 0)
		return r;
	f = calloc(1, sizeof *f);
	if (!f)
		return qmp_error_errno(err, -ENOMEM, "fetching %s", shown);
	f->loop = loop;
	f->shown = take_ptr(shown);
	f->open = 1;
	uv_timer_init(loop, &f->timer);
	f->timer.data = f;
	r = copy_options(f, o);
	if (r == 0 && sym_curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
		r = -ENOMEM;
	f->multi = r == 0 ? sym_curl_multi_init() : NULL;
	f->easy = f->multi ? sym_curl_easy_init() : NULL;
	if (!f->easy || !set_up(f) || sym_curl_multi_setopt(f->multi, CURLMOPT_SOCKETFUNCTION, watch_socket) != CURLM_OK ||
	    sym_curl_multi_setopt(f->multi, CURLMOPT_SOCKETDATA, f) != CURLM_OK ||
	    sym_curl_multi_setopt(f->multi, CURLMOPT_TIMERFUNCTION, set_timer) != CURLM_OK ||
	    sym_curl_multi_setopt(f->multi, CURLMOPT_TIMERDATA, f) != CURLM_OK || ask(f) < 0) {
		qmp_error_errno(err, r < 0 ? r : -ENOMEM, "fetching %s", f->shown);
		f->o.done = ignore;
		end(f);
		return err ? err->code : -ENOMEM;
	}
	*ret = f;
	return 0;
}
