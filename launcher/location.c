#include "launcher/location.h"
#include "launcher/spec.h"
#include "proto/base.h"
#include "proto/base64.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

enum { HOST_MAX = 253, LUN_MAX = 16383, SHA256_LEN = 32, POOL_MIN = 2 };

/* A URL being taken apart: each piece is cut off its text, which is ours. */
struct url {
	const char *whole;
	char *authority, *path, *query; /* path without its first "/"; path and query may be NULL: not there */
	struct vm_location *l;
	struct qmp_error *err;
};

struct scheme {
	const char *name;
	enum vm_location_kind kind;
	int port; /* of the protocol; 0: the authority is no host */
	bool has_user;
	int (*take)(const struct url *u); /* the path */
	const char *keys[4];              /* of the query */
};

static int refuse(struct qmp_error *err, const char *text, const char *fmt, ...) _printf_(3, 4);

static int refuse(struct qmp_error *err, const char *text, const char *fmt, ...)
{
	_cleanup_free_ char *shown = vm_location_shown(text);
	char what[600];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof what, fmt, ap);
	va_end(ap);
	return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL, "the location \"%.300s\": %s", shown ? shown : "", what);
}

static int no_memory(struct qmp_error *err)
{
	return qmp_error_errno(err, -ENOMEM, "reading a location");
}

static int keep(const struct url *u, char **ret, char *text_consume)
{
	*ret = text_consume;
	return text_consume ? 0 : no_memory(u->err);
}

/* ---- Percent signs ---- */

static int hex_value(char c)
{
	return isdigit((unsigned char)c)    ? c - '0'
	       : isxdigit((unsigned char)c) ? tolower((unsigned char)c) - 'a' + 10
					    : -1;
}

/* TEXT decoded, as WHAT. Not empty; no control character; UTF-8, as whatever goes to QEMU. */
static int decode(const struct url *u, const char *what, const char *text, char **ret)
{
	_cleanup_free_ char *out = malloc(strlen(text) + 1);
	json_auto_t *utf8 = NULL;
	size_t n = 0;

	if (!out)
		return no_memory(u->err);
	for (; *text; text++) {
		int c = (unsigned char)*text;
		if (c == '%') {
			if (hex_value(text[1]) < 0 || hex_value(text[2]) < 0)
				return refuse(
				    u->err, u->whole,
				    "a \"%%\" stands before two hexadecimal digits; \"%%25\" is the sign itself");
			c = hex_value(text[1]) * 16 + hex_value(text[2]);
			text += 2;
		}
		if (c < 0x20 || c == 0x7f)
			return refuse(u->err, u->whole, "the %s must not hold a control character", what);
		out[n++] = (char)c;
	}
	out[n] = '\0';
	if (n == 0)
		return refuse(u->err, u->whole, "the %s is empty", what);
	utf8 = json_string(out);
	if (!utf8)
		return refuse(u->err, u->whole, "the %s is no UTF-8", what);
	*ret = take_ptr(out);
	return 0;
}

/* Decimal digits alone, up to MAX; -1: it is none. */
static long number(const char *text, long max)
{
	size_t n = strlen(text);
	long value;

	if (n == 0 || n > 9 || strspn(text, "0123456789") != n)
		return -1;
	value = strtol(text, NULL, 10);
	return value <= max ? value : -1;
}

/* ---- The host ---- */

static bool is_host_name(const char *text)
{
	size_t n = strlen(text);

	return n > 0 && n <= HOST_MAX && isalnum((unsigned char)*text) &&
	       strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == n;
}

/* "[::1]:22" in pieces: cuts the address out and leaves ":22". */
static int take_ipv6(const struct url *u, char **ret_address, char **ret_rest)
{
	char *end = strchr(u->authority, ']');
	struct in6_addr parsed;

	if (!end)
		return refuse(u->err, u->whole, "the \"[\" of its host has no \"]\"");
	*end = '\0';
	*ret_address = u->authority + 1;
	*ret_rest = end + 1;
	if (inet_pton(AF_INET6, *ret_address, &parsed) != 1)
		return refuse(u->err, u->whole, "\"%.100s\" in brackets is no IPv6 address such as ::1", *ret_address);
	return **ret_rest && **ret_rest != ':'
		   ? refuse(u->err, u->whole, "behind \"]\" stands neither \":PORT\" nor \"/\"")
		   : 0;
}

static int take_host(const struct url *u, int port)
{
	char *host = u->authority, *rest = host;
	long given;
	int r = 0;

	if (*host == '[') {
		r = take_ipv6(u, &host, &rest);
		if (r < 0)
			return r;
	} else {
		rest = host + strcspn(host, ":");
		if (*rest && strchr(rest + 1, ':'))
			return refuse(u->err, u->whole, "an IPv6 address stands in brackets, as in [::1]");
	}
	given = *rest ? number(rest + 1, 65535) : port;
	if (given < 1)
		return refuse(u->err, u->whole, "\"%.100s\" is no port (1 to 65535)", rest + 1);
	*rest = '\0';
	if (!*host)
		return refuse(u->err, u->whole, "it names no host");
	if (!strchr(host, ':') && !is_host_name(host))
		return refuse(u->err, u->whole, "\"%.100s\" is no host: letters, digits, . _ - or an address", host);
	u->l->port = (int)given;
	return keep(u, &u->l->host, strdup(host));
}

/* "USER@HOST": cuts the user off. */
static int take_user(struct url *u, const struct scheme *s)
{
	char *at = strrchr(u->authority, '@'), *user = u->authority;

	if (!at)
		return 0;
	*at = '\0';
	u->authority = at + 1;
	if (strchr(user, ':'))
		return refuse(u->err, u->whole, "a location holds no password: the spec, lists and logs would show it");
	if (!s->has_user)
		return refuse(u->err, u->whole, "%s:// takes no user", s->name);
	if (*user == '-')
		return refuse(u->err, u->whole, "a user does not begin with \"-\"");
	return decode(u, "user", user, &u->l->user);
}

/* ---- The paths ---- */

static int take_export(const struct url *u)
{
	return u->path && *u->path ? decode(u, "export", u->path, &u->l->name) : keep(u, &u->l->name, strdup(""));
}

static int take_target(const struct url *u)
{
	char *slash = u->path ? strrchr(u->path, '/') : NULL;
	long lun = slash ? number(slash + 1, LUN_MAX) : -1;

	if (lun < 0)
		return refuse(u->err, u->whole,
			      "behind the host stand the target and the LUN, as in /iqn.2024-01.org.example:disks/1");
	*slash = '\0';
	u->l->lun = (int)lun;
	return decode(u, "target", u->path, &u->l->name);
}

static int take_path(const struct url *u)
{
	_cleanup_free_ char *path = NULL;
	int r = u->path ? decode(u, "path", u->path, &path) : refuse(u->err, u->whole, "it names no path");

	return r < 0 ? r : keep(u, &u->l->name, qmp_asprintf("/%s", path));
}

/* Left as it is: what it means is the server's. */
static int take_web(const struct url *u)
{
	if (!u->path || !*u->path)
		return refuse(u->err, u->whole, "it names no path");
	for (const char *p = u->whole; *p; p++)
		if (*p <= ' ' || *p > '~' || strchr("\"<>\\^`{|}#", *p))
			return refuse(u->err, u->whole,
				      "a web address is written in plain ASCII, without blanks, quotes and \"#\"");
	return keep(u, &u->l->name, strdup(u->whole));
}

/* rbd://POOL/NAMESPACE/IMAGE@SNAPSHOT; none of the names can hold "/" or "@" (librbd). */
static int take_image(const struct url *u)
{
	char *image = u->path ? u->path : (char *)"", *slash = strchr(image, '/'), *at;
	struct vm_location *l = u->l;
	int r = decode(u, "pool", u->authority, &l->pool);

	if (r == 0 && slash) {
		*slash = '\0';
		r = decode(u, "namespace", image, &l->space);
		image = slash + 1;
	}
	at = strchr(image, '@');
	if (at)
		*at = '\0';
	if (r == 0)
		r = decode(u, "image", image, &l->name);
	if (r == 0 && at)
		r = decode(u, "snapshot", at + 1, &l->snapshot);
	if (r == 0 && (strpbrk(l->name, "/@") || strpbrk(l->pool, "/@") || (l->space && strpbrk(l->space, "/@")) ||
		       (l->snapshot && strpbrk(l->snapshot, "/@"))))
		return refuse(u->err, u->whole,
			      "it is rbd://POOL[/NAMESPACE]/IMAGE[@SNAPSHOT], none of which holds \"/\" or \"@\"");
	return r;
}

static const struct scheme schemes[] = {
    {"nbd", VM_NBD, 10809, false, take_export, {"reconnect-delay"}},
    {"nbd+unix", VM_NBD_UNIX, 0, false, take_export, {"socket", "reconnect-delay"}},
    {"iscsi", VM_ISCSI, 3260, true, take_target, {"initiator"}},
    {"ssh", VM_SSH, 22, true, take_path, {"host-key"}},
    {"http", VM_HTTP, 80, false, take_web, {NULL}},
    {"https", VM_HTTPS, 443, false, take_web, {NULL}},
    {"rbd", VM_RBD, 0, false, take_image, {"conf", "user"}},
};

/* ---- The query ---- */

static int take_delay(const struct url *u, const char *value)
{
	long seconds = number(value, VM_RECONNECT_DELAY_MAX);

	if (seconds < 0)
		return refuse(u->err, u->whole, "reconnect-delay is a number of seconds, 0 to %d",
			      VM_RECONNECT_DELAY_MAX);
	u->l->reconnect_delay = (int)seconds;
	return 0;
}

/* "SHA256:BASE64", in hexadecimal digits as QEMU wants it. */
static int take_host_key(const struct url *u, const char *value)
{
	_cleanup_free_ char *padded = NULL, *bytes = NULL;
	size_t n = 0;

	if (u->l->host_key)
		return refuse(u->err, u->whole, "host-key stands there twice");
	if (strncmp(value, "SHA256:", 7) == 0) {
		padded = qmp_asprintf("%s=", value + 7);
		if (!padded)
			return no_memory(u->err);
		(void)qmp_base64_decode(padded, &bytes, &n);
	}
	if (!bytes || n != SHA256_LEN)
		return refuse(u->err, u->whole,
			      "host-key is SHA256:... with 43 characters, as ssh-keygen -lf prints it");
	u->l->host_key = malloc(2 * SHA256_LEN + 1);
	if (!u->l->host_key)
		return no_memory(u->err);
	for (size_t i = 0; i < n; i++)
		snprintf(u->l->host_key + 2 * i, 3, "%02x", (unsigned char)bytes[i]);
	return 0;
}

static int take_file(const struct url *u, const char *key, char **member, const char *value)
{
	if (*value != '/')
		return refuse(u->err, u->whole, "%s is an absolute path", key);
	return keep(u, member, strdup(value));
}

static int take_option(const struct url *u, const char *key, const char *value)
{
	struct vm_location *l = u->l;
	const struct {
		const char *key;
		char **member;
		bool is_file;
	} texts[] = {{"socket", &l->socket, true},
		     {"conf", &l->conf, true},
		     {"user", &l->user, false},
		     {"initiator", &l->initiator, false}};

	if (streq(key, "reconnect-delay"))
		return take_delay(u, value);
	if (streq(key, "host-key"))
		return take_host_key(u, value);
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		if (streq(key, texts[i].key)) {
			if (*texts[i].member)
				return refuse(u->err, u->whole, "%s stands there twice", key);
			return texts[i].is_file ? take_file(u, key, texts[i].member, value)
						: keep(u, texts[i].member, strdup(value));
		}
	return 0;
}

static int refuse_option(const struct url *u, const struct scheme *s, const char *key)
{
	const char *near = qmp_nearest(key, s->keys);
	char list[100] = "";

	for (size_t i = 0, n = 0; s->keys[i]; i++)
		n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", n ? ", " : "", s->keys[i]);
	if (near)
		return refuse(u->err, u->whole, "unknown option \"%.60s\"; did you mean \"%s\"?", key, near);
	return refuse(u->err, u->whole, "unknown option \"%.60s\"; %s:// knows %s", key, s->name, list);
}

static int take_query(const struct url *u, const struct scheme *s)
{
	int r = 0;

	if (!u->query)
		return 0;
	for (char *save = NULL, *word = strtok_r(u->query, "&", &save); word && r == 0;
	     word = strtok_r(NULL, "&", &save)) {
		char *equals = strchr(word, '=');
		_cleanup_free_ char *value = NULL;
		size_t i = 0;
		if (equals)
			*equals = '\0';
		while (s->keys[i] && !streq(s->keys[i], word))
			i++;
		if (!s->keys[i])
			return refuse_option(u, s, word);
		r = decode(u, word, equals ? equals + 1 : "", &value);
		if (r == 0)
			r = take_option(u, word, value);
	}
	return r;
}

/* ---- The whole ---- */

static const struct scheme *find_scheme(const char *text, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(schemes); i++)
		if (strlen(schemes[i].name) == len && memcmp(schemes[i].name, text, len) == 0)
			return &schemes[i];
	return NULL;
}

static int refuse_scheme(const char *text, size_t len, struct qmp_error *err)
{
	const char *names[ARRAY_SIZE(schemes) + 1] = {NULL}, *near;
	char word[32];

	for (size_t i = 0; i < ARRAY_SIZE(schemes); i++)
		names[i] = schemes[i].name;
	snprintf(word, sizeof word, "%.*s", len < sizeof word ? (int)len : (int)sizeof word - 1, text);
	near = qmp_nearest(word, names);
	return refuse(err, text,
		      "\"%s://\" is not known%s%s%s; there are nbd, nbd+unix, iscsi, ssh, http, https and rbd, and a "
		      "file of that name is written with ./ before it",
		      word, near ? " (did you mean " : "", near ? near : "", near ? "?)" : "");
}

static int parse_url(const char *text, struct vm_location *l, struct qmp_error *err)
{
	size_t len = strcspn(text, ":");
	const struct scheme *s = find_scheme(text, len);
	_cleanup_free_ char *copy = strdup(text + len + 3);
	struct url u = {text, copy, NULL, NULL, l, err};
	int r = 0;

	if (!s)
		return refuse_scheme(text, len, err);
	if (!copy)
		return no_memory(err);
	l->kind = s->kind;
	l->reconnect_delay = s->kind == VM_NBD || s->kind == VM_NBD_UNIX ? VM_RECONNECT_DELAY : 0;
	if (strchr(copy, '#'))
		return refuse(err, text, "a \"#\" is written %%23");
	u.query = strchr(copy, '?');
	if (u.query)
		*u.query++ = '\0';
	u.path = strchr(copy, '/');
	if (u.path)
		*u.path++ = '\0';
	if (s->kind == VM_HTTP || s->kind == VM_HTTPS)
		u.query = NULL;
	r = take_user(&u, s);
	if (r == 0 && s->port > 0)
		r = take_host(&u, s->port);
	if (r == 0)
		r = s->take(&u);
	if (r == 0)
		r = take_query(&u, s);
	if (r == 0 && s->kind == VM_NBD_UNIX && (*u.authority || !l->socket))
		r = refuse(err, text, "it names no host, but a socket: nbd+unix:///EXPORT?socket=PATH");
	return r;
}

static int parse_volume(const char *text, struct vm_location *l, struct qmp_error *err)
{
	const char *colon = strchr(text, ':');

	l->kind = VM_VOLUME;
	if (!colon[1])
		return refuse(err, text, "behind \"%.*s:\" stands the name of a volume of that pool",
			      (int)(colon - text), text);
	if (colon[1] == '/')
		return refuse(err, text,
			      "a volume's name does not begin with \"/\", and a URL has two of them; a file of that name "
			      "is written with ./ before it");
	l->pool = strndup(text, (size_t)(colon - text));
	l->name = strdup(colon + 1);
	return l->pool && l->name ? 0 : no_memory(err);
}

/* Whether the LEN bytes at TEXT are a pool's name. */
static bool is_pool(const char *text, size_t len)
{
	char name[VM_NAME_MAX + 1];

	if (len < POOL_MIN || len > VM_NAME_MAX)
		return false;
	memcpy(name, text, len);
	name[len] = '\0';
	return vm_name_valid(name);
}

enum vm_location_kind vm_location_looks(const char *text)
{
	size_t word = strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+.-");

	if (word > 0 && isalpha((unsigned char)*text) && strncmp(text + word, "://", 3) == 0)
		return VM_NBD;
	word = strcspn(text, ":");
	return text[word] && is_pool(text, word) ? VM_VOLUME : VM_FILE;
}

int vm_location_parse(const char *text, struct vm_location *ret, struct qmp_error *err)
{
	struct vm_location l = {.kind = vm_location_looks(text)};
	int r = 0;

	if (!*text)
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL,
				     "a location is empty; it is a path, POOL:VOLUME or a URL");
	if (strlen(text) > VM_LOCATION_MAX)
		return refuse(err, text, "it is longer than %d bytes", VM_LOCATION_MAX);
	if (l.kind == VM_VOLUME)
		r = parse_volume(text, &l, err);
	else if (l.kind != VM_FILE)
		r = parse_url(text, &l, err);
	else if (!(l.name = strdup(text)))
		r = no_memory(err);
	if (r < 0)
		vm_location_deinit(&l);
	else
		*ret = l;
	return r;
}

void vm_location_deinit(struct vm_location *l)
{
	char *const all[] = {l->host,     l->user,   l->pool, l->space,     l->name,
			     l->snapshot, l->socket, l->conf, l->initiator, l->host_key};

	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		free(all[i]);
	*l = (struct vm_location){0};
}

char *vm_location_escape(const char *text)
{
	char *out = malloc(3 * strlen(text) + 1), *p = out;

	for (; out && *text; text++)
		if (isalnum((unsigned char)*text) || strchr("-._~/", *text))
			*p++ = *text;
		else
			p += sprintf(p, "%%%02X", (unsigned)(unsigned char)*text);
	if (out)
		*p = '\0';
	return out;
}

char *vm_location_shown(const char *text)
{
	bool is_web = strncmp(text, "http://", 7) == 0 || strncmp(text, "https://", 8) == 0;
	int len = (int)(is_web ? strcspn(text, "?") : strlen(text));
	const char *host = strstr(text, "://"), *end = host ? host + 3 + strcspn(host + 3, "/?#") : NULL;
	const char *at = host ? memrchr(host, '@', (size_t)(end - host)) : NULL;
	const char *colon = at ? memchr(host + 3, ':', (size_t)(at - host - 3)) : NULL;

	return colon ? qmp_asprintf("%.*s...%.*s", (int)(colon + 1 - text), text, len - (int)(at - text), at)
		     : strndup(text, (size_t)len);
}

bool vm_location_read_only(const struct vm_location *l)
{
	return l->kind == VM_HTTP || l->kind == VM_HTTPS || l->snapshot;
}

/* ---- What QEMU makes of it ---- */

/* InetSocketAddress: the port is text. */
static json_t *inet(const struct vm_location *l, bool tagged)
{
	char port[16];
	json_t *address;

	snprintf(port, sizeof port, "%d", l->port);
	address = json_pack("{s:s, s:s}", "host", l->host, "port", port);
	if (tagged)
		json_object_set_new(address, "type", json_string("inet"));
	return address;
}

static json_t *iscsi_node(const struct vm_location *l)
{
	_cleanup_free_ char *portal = qmp_asprintf(strchr(l->host, ':') ? "[%s]:%d" : "%s:%d", l->host, l->port);

	return json_pack("{s:s, s:s, s:s, s:s, s:i, s:s*, s:s*}", "driver", "iscsi", "transport", "tcp", "portal",
			 portal, "target", l->name, "lun", l->lun, "user", l->user, "initiator-name", l->initiator);
}

static json_t *ssh_node(const struct vm_location *l)
{
	json_t *check = l->host_key
			    ? json_pack("{s:s, s:s, s:s}", "mode", "hash", "type", "sha256", "hash", l->host_key)
			    : json_pack("{s:s}", "mode", "known_hosts");

	return json_pack("{s:s, s:o, s:s, s:s*, s:o}", "driver", "ssh", "server", inet(l, false), "path", l->name,
			 "user", l->user, "host-key-check", check);
}

/* Each of QEMU's two drivers refuses what is the other's. */
static const char *file_driver(const char *path, unsigned type)
{
	bool is_device = type ? type == S_IFBLK || type == S_IFCHR : strncmp(path, "/dev/", 5) == 0;

	return is_device ? "host_device" : "file";
}

json_t *vm_location_node(const struct vm_location *l, unsigned type)
{
	switch (l->kind) {
	case VM_FILE:
		return json_pack("{s:s, s:s}", "driver", file_driver(l->name, type), "filename", l->name);
	case VM_NBD:
		return json_pack("{s:s, s:o, s:s, s:i}", "driver", "nbd", "server", inet(l, true), "export", l->name,
				 "reconnect-delay", l->reconnect_delay);
	case VM_NBD_UNIX:
		return json_pack("{s:s, s:{s:s, s:s}, s:s, s:i}", "driver", "nbd", "server", "type", "unix", "path",
				 l->socket, "export", l->name, "reconnect-delay", l->reconnect_delay);
	case VM_ISCSI:
		return iscsi_node(l);
	case VM_SSH:
		return ssh_node(l);
	case VM_HTTP:
	case VM_HTTPS:
		return json_pack("{s:s, s:s}", "driver", l->kind == VM_HTTP ? "http" : "https", "url", l->name);
	case VM_RBD:
		return json_pack("{s:s, s:s, s:s*, s:s, s:s*, s:s*, s:s*}", "driver", "rbd", "pool", l->pool,
				 "namespace", l->space, "image", l->name, "snapshot", l->snapshot, "conf", l->conf,
				 "user", l->user);
	case VM_VOLUME:
		break;
	}
	return NULL;
}

char *vm_location_identity(const struct vm_location *l, const char **ret_anchor)
{
	char *text = NULL;

	*ret_anchor = NULL;
	switch (l->kind) {
	case VM_FILE:
	case VM_VOLUME:
		return NULL;
	case VM_NBD:
		text = qmp_asprintf("nbd:%s:%d/%s", l->host, l->port, l->name);
		break;
	case VM_NBD_UNIX:
		*ret_anchor = l->socket;
		return qmp_asprintf("nbd:%s", l->name);
	case VM_ISCSI: /* a target's name is the same at each of its portals (RFC 7143) */
		return qmp_asprintf("iscsi:%s/%d", l->name, l->lun);
	case VM_SSH:
		text = qmp_asprintf("ssh:%s:%d%s", l->host, l->port, l->name);
		break;
	case VM_HTTP:
	case VM_HTTPS:
		return strdup(l->name);
	case VM_RBD:
		*ret_anchor = l->conf ? l->conf : "/etc/ceph/ceph.conf";
		return qmp_asprintf("rbd:%s/%s/%s@%s", l->pool, l->space ? l->space : "", l->name,
				    l->snapshot ? l->snapshot : "");
	}
	for (size_t i = 4; text && i < 4 + strlen(l->host); i++)
		text[i] = (char)tolower((unsigned char)text[i]); /* the host alone: "nbd:" and "ssh:" are 4 */
	return text;
}
