#include "images/sums.h"
#include "images/fetch.h"
#include "proto/base.h"

#include <ctype.h>
#include <fcntl.h>

struct img_sums {
	struct img_sums_options o;
	struct img_sums_result result;
	char *file;
	struct img_fetch *fetch;
	char *text; /* of the list, as it comes */
	size_t len;
};

/* ---- Its lines ---- */

/* A piece of a line. */
struct piece {
	const char *text;
	size_t n;
};

static struct piece without_folders(struct piece p)
{
	const char *slash = p.n > 0 ? memrchr(p.text, '/', p.n) : NULL;

	return slash ? (struct piece){slash + 1, p.n - (size_t)(slash + 1 - p.text)} : p;
}

static size_t digits_at(struct piece p)
{
	size_t n = 0;

	while (n < p.n && isxdigit((unsigned char)p.text[n]))
		n++;
	return n;
}

/* "DIGITS  NAME" or "DIGITS *NAME"; a "\" before it: names with signs that no image's has. */
static bool parse_gnu(struct piece line, struct piece *ret_name, struct piece *ret_digits)
{
	size_t n = digits_at(line);

	if (n + 2 >= line.n || line.text[n] != ' ' || (line.text[n + 1] != ' ' && line.text[n + 1] != '*'))
		return false;
	*ret_digits = (struct piece){line.text, n};
	*ret_name = (struct piece){line.text + n + 2, line.n - n - 2};
	return true;
}

/* "SHA256 (NAME) = DIGITS" */
static bool parse_bsd(struct piece line, struct piece *ret_name, struct piece *ret_digits)
{
	static const char between[] = ") = ";
	const char *open, *close = NULL;

	if (line.n < 8 || (strncmp(line.text, "SHA256 (", 8) != 0 && strncmp(line.text, "SHA512 (", 8) != 0))
		return false;
	open = line.text + 8;
	for (const char *at = open; at + 4 <= line.text + line.n; at++)
		if (memcmp(at, between, 4) == 0)
			close = at;
	if (!close)
		return false;
	*ret_name = (struct piece){open, (size_t)(close - open)};
	*ret_digits = (struct piece){close + 4, line.n - (size_t)(close + 4 - line.text)};
	return digits_at(*ret_digits) == ret_digits->n;
}

/* Into RET, which is "" or says the same already. */
static int note(struct piece digits, char *ret)
{
	char text[IMG_SHA512_LEN + 1];

	for (size_t i = 0; i < digits.n; i++)
		text[i] = (char)tolower((unsigned char)digits.text[i]);
	text[digits.n] = '\0';
	if (*ret && !streq(ret, text))
		return -EBADMSG;
	memcpy(ret, text, digits.n + 1);
	return 0;
}

int img_sums_find(const char *text, size_t len, const char *name, char ret_sha256[IMG_SHA256_LEN + 1],
		  char ret_sha512[IMG_SHA512_LEN + 1])
{
	char sha256[IMG_SHA256_LEN + 1] = "", sha512[IMG_SHA512_LEN + 1] = "";
	int r = 0;

	for (const char *at = text, *end = text + len; at < end && r == 0;) {
		const char *stop = memchr(at, '\n', (size_t)(end - at));
		struct piece line = {at, (size_t)((stop ? stop : end) - at)}, file, digits;
		at = stop ? stop + 1 : end;
		if (line.n > 0 && line.text[line.n - 1] == '\r')
			line.n--;
		if (!parse_gnu(line, &file, &digits) && !parse_bsd(line, &file, &digits))
			continue;
		file = without_folders(file);
		if (file.n == 0 || file.n != strlen(name) || memcmp(file.text, name, file.n) != 0)
			continue;
		if (digits.n == IMG_SHA256_LEN)
			r = note(digits, sha256);
		else if (digits.n == IMG_SHA512_LEN)
			r = note(digits, sha512);
	}
	if (r == 0 && !*sha256 && !*sha512)
		r = -ENOENT;
	if (r < 0)
		return r;
	memcpy(ret_sha256, sha256, sizeof sha256);
	memcpy(ret_sha512, sha512, sizeof sha512);
	return 0;
}

/* ---- All of it ---- */

static int look_up(struct img_sums *s, const char *file, struct qmp_error *err)
{
	int r = img_sums_find(s->text ? s->text : "", s->len, file, s->result.sha256, s->result.sha512);

	if (r == -ENOENT)
		return qmp_error_set(err, QMP_ERR_NOT_FOUND, r, "the list of digests has no SHA-256 or SHA-512 of the file \"%s\"", file);
	if (r < 0)
		return qmp_error_set(err, QMP_ERR_REFUSED, r, "the list of digests says two different things of \"%s\"", file);
	return 0;
}

static int add(struct img_sums *s, const void *bytes, size_t n, struct qmp_error *err)
{
	char *text;

	if (s->len + n > IMG_SUMS_MAX)
		return qmp_error_set(err, QMP_ERR_LIMIT, -EFBIG, "the list of digests is larger than 4 MiB");
	text = realloc(s->text, s->len + n);
	if (!text)
		return qmp_error_errno(err, -ENOMEM, "reading the list of digests");
	memcpy(text + s->len, bytes, n);
	s->text = text;
	s->len += n;
	return 0;
}

int img_sums_read(const char *path, const char *file, struct img_sums_result *ret, struct qmp_error *err)
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	struct img_sums s = {0};
	char buffer[65536];
	ssize_t n = -1;
	int r = fd < 0 ? -errno : 0;

	while (r == 0 && (n = read(fd, buffer, sizeof buffer)) > 0)
		r = add(&s, buffer, (size_t)n, err);
	if (r < 0 || n < 0)
		r = qmp_error_errno(err, r < 0 ? r : -errno, "reading the list of digests %s", path);
	else
		r = look_up(&s, file, err);
	free(s.text);
	if (r == 0)
		*ret = s.result;
	return r;
}

/* ---- From a server ---- */

static int on_head(void *data, const struct img_fetch_head *h, struct qmp_error *err)
{
	UNUSED(data);
	return h->status == 200 ? 0 : qmp_error_set(err, QMP_ERR_HOST, -EREMOTEIO, "the list of digests: status %d", h->status);
}

static int on_body(void *data, const unsigned char *bytes, size_t n, struct qmp_error *err)
{
	return add(data, bytes, n, err);
}

static void free_all(struct img_sums *s)
{
	free(s->text);
	free(s->file);
	free(s);
}

static void on_fetched(void *data, const struct img_fetch_result *r)
{
	struct img_sums *s = data;

	s->result.error = r->error;
	if (s->result.error.kind == QMP_ERR_NONE)
		(void)look_up(s, s->file, &s->result.error);
	s->o.done(s->o.data, &s->result);
	free_all(s);
}

int img_sums_run(uv_loop_t *loop, const struct img_sums_options *o, struct img_sums **ret, struct qmp_error *err)
{
	struct img_sums *s = calloc(1, sizeof *s);
	struct img_fetch_options fetch = {.url = o->url, .ca_file = o->ca_file, .netrc_file = o->netrc_file, .stall_s = o->stall_s,
					  .head = on_head, .body = on_body, .done = on_fetched, .data = s};
	int r;

	if (!s || !(s->file = strdup(o->file))) {
		free(s);
		return qmp_error_errno(err, -ENOMEM, "fetching the list of digests");
	}
	s->o = *o;
	r = img_fetch_run(loop, &fetch, &s->fetch, err);
	if (r < 0) {
		free_all(s);
		return r;
	}
	*ret = s;
	return 0;
}

void img_sums_cancel(struct img_sums *s)
{
	img_fetch_cancel(s->fetch);
}
