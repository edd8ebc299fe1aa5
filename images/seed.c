/*
 * Making it, the way it goes well: files in a hidden folder -> xorriso into a draft -> owner -> kept.
 * It fails: before the tool runs (from img_seed_make); the tool does (done, with its words). Either leaves nothing.
 */
#include "images/seed.h"
#include "images/draft.h"
#include "images/tool.h"
#include "launcher/identity.h"
#include "launcher/spec.h"
#include "proto/base.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#define FOLDER    "seeds"
#define FILES     ".files" /* the end of the hidden folder's name */
#define TEXT_MAX  ((size_t)1 << 20) /* of one file: more than any metadata service takes */
#define MARK      "QMPCTL-SEED "
#define TOOL_MS   60000
/* The application identifier in the primary volume descriptor (ECMA-119, 8.4.20). */
#define MARK_AT   (16 * 2048 + 574)
#define MARK_SIZE 128

/* In the order of the spec; the image's names are the same. */
static const char *const file_names[] = {"user-data", "meta-data", "vendor-data", "network-config"};
/* The short fields that user-data is built from. */
static const char *const user_fields[] = {"user", "ssh-keys", "password-hash-file", "hostname", "packages", "run"};

struct img_seed {
	struct img_draft draft;
	char *files; /* the hidden folder; NULL: none */
	char mark[MARK_SIZE + 1];
	uid_t owner; /* -1: us */
	struct img_tool *tool;
	void (*done)(void *data, const struct qmp_error *why); /* NULL: nobody waits */
	void *data;
};

/* ---- The section ---- */

static bool has_any(const json_t *section, const char *const *names, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (json_object_get(section, names[i]))
			return true;
	return false;
}

bool img_seed_has_image(const json_t *spec)
{
	const json_t *section = json_object_get(spec, "seed");

	return has_any(section, file_names, ARRAY_SIZE(file_names)) || has_any(section, user_fields, ARRAY_SIZE(user_fields));
}

char *img_seed_path(const struct vm_dirs *dirs, const char *name)
{
	return qmp_asprintf("%s/" FOLDER "/%s.iso", dirs->state, name);
}

static bool is_a_seed(const struct vm_dirs *dirs, const char *path)
{
	_cleanup_free_ char *folder = qmp_asprintf("%s/" FOLDER "/", dirs->state);

	return path && folder && strncmp(path, folder, strlen(folder)) == 0;
}

static int add_drive(json_t *spec, const char *bus, const char *path)
{
	json_t *list = json_object_get(spec, "disks");

	if (!list) {
		list = json_array();
		if (json_object_set_new(spec, "disks", list) < 0)
			return -ENOMEM;
	}
	return json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s, s:s}", "id", IMG_SEED_DISK, "type", "cdrom", "bus",
						     bus ? bus : "scsi", "path", path, "format", "raw")) < 0
		       ? -ENOMEM
		       : 1;
}

int img_seed_attach(const struct vm_dirs *dirs, const char *bus, json_t *spec)
{
	_cleanup_free_ char *path = img_seed_path(dirs, text_of(spec, "name"));
	json_t *drive = vm_spec_find(spec, "disks", IMG_SEED_DISK);
	const char *have = text_of(drive, "path");

	if (!path)
		return -ENOMEM;
	if (!img_seed_has_image(spec))
		return drive && is_a_seed(dirs, have) ? vm_spec_remove(spec, "disks", IMG_SEED_DISK) < 0 ? 0 : 1 : 0;
	if (!drive)
		return add_drive(spec, bus, path);
	/* One that has something else in is its owner's affair. */
	if (!is_a_seed(dirs, have) || streq(have, path))
		return 0;
	return json_object_set_new(drive, "path", json_string(path)) < 0 ? -ENOMEM : 1;
}

/* ---- What goes in ---- */

static int read_file(const char *field, const char *path, char **ret, struct qmp_error *err)
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	_cleanup_free_ char *text = malloc(TEXT_MAX + 1);
	struct stat st;
	size_t len = 0;
	ssize_t n;

	if (!text)
		return qmp_error_errno(err, -ENOMEM, "seed.%s", field);
	if (fd < 0 || fstat(fd, &st) < 0)
		return qmp_error_errno(err, -errno, "seed.%s: %s", field, path);
	if (!S_ISREG(st.st_mode))
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL, "seed.%s: %s is no regular file", field, path);
	while (len <= TEXT_MAX && (n = read(fd, text + len, TEXT_MAX + 1 - len)) != 0)
		if (n > 0)
			len += (size_t)n;
		else if (errno != EINTR)
			return qmp_error_errno(err, -errno, "seed.%s: %s", field, path);
	if (len > TEXT_MAX)
		return qmp_error_set(err, QMP_ERR_USAGE, -EFBIG,
				     "seed.%s: %s has more than %zu MiB; have the guest fetch the most of it from a server", field, path,
				     TEXT_MAX >> 20);
	text[len] = '\0';
	if (strlen(text) != len)
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL,
				     "seed.%s: %s holds a NUL character; compressed data is not taken", field, path);
	*ret = take_ptr(text);
	return 0;
}

/* As Ignition wants it: its documentation, "Configuration specification". What it means is Ignition's affair. */
static int check_ignition(const char *path, struct qmp_error *err)
{
	_cleanup_free_ char *text = NULL;
	json_auto_t *config = NULL;
	json_error_t why;
	int r = read_file("ignition", path, &text, err);

	if (r < 0)
		return r;
	config = json_loads(text, JSON_ALLOW_NUL, &why);
	if (!config)
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL,
				     "seed.ignition: %s is no JSON, in line %d; a Butane file (.bu) becomes it by \"butane --strict\"", path,
				     why.line);
	if (!text_of(json_object_get(config, "ignition"), "version"))
		return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL,
				     "seed.ignition: %s is no configuration of Ignition: there is no \"ignition\" with a \"version\" in it",
				     path);
	return 0;
}

int img_seed_check(const json_t *spec, struct qmp_error *err)
{
	const char *ignition = text_of(json_object_get(spec, "seed"), "ignition");
	json_auto_t *files = NULL;

	if (ignition)
		return check_ignition(ignition, err);
	files = img_seed_has_image(spec) ? img_seed_files(spec, err) : NULL;
	return files || !img_seed_has_image(spec) ? 0 : err->code;
}

/*
 * JSON as YAML 1.1 reads it, too: there some characters must not stand, and others end a line (YAML 1.1, 5.1 and 5.4); all
 * of them only ever stand in strings. They are escaped, and nothing else is: YAML knows no surrogate pairs.
 */
static char *yaml_of_json(const char *json)
{
	static const struct {
		const char *bytes;
		unsigned code;
	} others[] = {{"\x7f", 0x7f}, {"\xe2\x80\xa8", 0x2028}, {"\xe2\x80\xa9", 0x2029}, {"\xef\xbb\xbf", 0xfeff},
		      {"\xef\xbf\xbe", 0xfffe}, {"\xef\xbf\xbf", 0xffff}};
	char *text = malloc(6 * strlen(json) + 1), *out = text;

	while (text && *json) {
		const unsigned char *c = (const unsigned char *)json;
		unsigned code = 0;
		size_t n = 1;
		if (c[0] == 0xc2 && c[1] < 0xa0) { /* C1 controls */
			code = c[1];
			n = 2;
		}
		for (size_t i = 0; i < ARRAY_SIZE(others); i++)
			if (strncmp(json, others[i].bytes, strlen(others[i].bytes)) == 0) {
				code = others[i].code;
				n = strlen(others[i].bytes);
			}
		if (code)
			out += sprintf(out, "\\u%04x", code);
		else
			*out++ = *json;
		json += n;
	}
	if (text)
		*out = '\0';
	return text;
}

/* HEAD, and DOCUMENT as YAML. */
static json_t *document(const char *head, const json_t *document)
{
	_cleanup_free_ char *json = json_dumps(document, JSON_INDENT(1));
	_cleanup_free_ char *yaml = json ? yaml_of_json(json) : NULL;

	return yaml ? json_sprintf("%s%s\n", head, yaml) : NULL;
}

static void copy(json_t *to, const char *to_key, const json_t *from, const char *key)
{
	if (json_object_get(from, key))
		json_object_set(to, to_key, json_object_get(from, key));
}

/* The first line of the file alone. */
static int read_hash(const char *path, char **ret, struct qmp_error *err)
{
	int r = path ? read_file("password-hash-file", path, ret, err) : 0;

	if (r < 0 || !path)
		return r;
	(*ret)[strcspn(*ret, "\r\n")] = '\0';
	if (**ret == '$' && !strchr(*ret, ':') && !strchr(*ret, ' '))
		return 0;
	free(take_ptr(*ret));
	return qmp_error_set(err, QMP_ERR_USAGE, -EINVAL,
			     "seed.password-hash-file: the first line of %s is no password hash, as \"mkpasswd\" or \"openssl passwd "
			     "-6\" prints it", path);
}

/* cloud-init's modules users, ssh, set_passwords, set_hostname, package_update_upgrade_install and runcmd. */
static int cloud_config(const json_t *section, json_t **ret, struct qmp_error *err)
{
	const char *user = text_of(section, "user");
	json_auto_t *config = json_object(), *account = json_object();
	_cleanup_free_ char *hash = NULL;
	int r = read_hash(text_of(section, "password-hash-file"), &hash, err);

	if (r < 0)
		return r;
	copy(config, "hostname", section, "hostname");
	copy(config, "packages", section, "packages");
	copy(config, "runcmd", section, "run");
	if (json_object_get(section, "packages"))
		json_object_set_new(config, "package_update", json_true());
	copy(user ? account : config, "ssh_authorized_keys", section, "ssh-keys");
	if (hash && user) {
		json_object_set_new(account, "passwd", json_string(hash));
		json_object_set_new(account, "lock_passwd", json_false());
	} else if (hash) {
		json_object_set_new(config, "password", json_string(hash));
		json_object_set_new(config, "chpasswd", json_pack("{s:b}", "expire", 0));
	}
	if (user) {
		json_object_set_new(account, "name", json_string(user));
		json_object_set_new(account, "shell", json_string("/bin/bash"));
		json_object_set_new(account, "sudo", json_string("ALL=(ALL) NOPASSWD:ALL"));
		json_object_set_new(config, "users", json_pack("[O]", account));
	}
	*ret = document("#cloud-config\n", config);
	return *ret ? 0 : qmp_error_errno(err, -ENOMEM, "making the seed");
}

/* A guest without a name of its own has the VM's, where that can be one. */
static json_t *meta_data(const json_t *section, const char *name)
{
	json_auto_t *data = json_object();

	copy(data, "instance-id", section, "instance-id");
	copy(data, "local-hostname", section, "hostname");
	if (!json_object_get(data, "local-hostname") && !strchr(name, '_'))
		json_object_set_new(data, "local-hostname", json_string(name));
	return document("", data);
}

json_t *img_seed_files(const json_t *spec, struct qmp_error *err)
{
	const json_t *section = json_object_get(spec, "seed");
	json_auto_t *files = json_object();

	for (size_t i = 0; i < ARRAY_SIZE(file_names); i++) {
		const char *name = file_names[i], *path = text_of(section, name);
		_cleanup_free_ char *text = NULL;
		json_t *value = NULL;
		if (path && read_file(name, path, &text, err) < 0)
			return NULL;
		if (path && !(value = json_string(text))) {
			qmp_error_set(err, QMP_ERR_USAGE, -EILSEQ, "seed.%s: %s is not UTF-8", name, path);
			return NULL;
		}
		if (!path && streq(name, "user-data") && cloud_config(section, &value, err) < 0)
			return NULL;
		if (!path && streq(name, "meta-data"))
			value = meta_data(section, text_of(spec, "name"));
		if (value)
			json_object_set_new(files, name, value);
	}
	return take_ptr(files);
}

/* ---- What it was made from ---- */

/* FNV-1a over all of it: to see that something has changed, not to guard it. */
static void mark_of(const json_t *files, const json_t *spec, char mark[MARK_SIZE + 1])
{
	json_auto_t *all = json_pack("{s:O, s:O*}", "files", files, "user", json_object_get(spec, "user"));
	_cleanup_free_ char *text = json_dumps(all, JSON_SORT_KEYS | JSON_COMPACT);
	uint64_t h = 14695981039346656037u;

	for (const char *p = text; p && *p; p++)
		h = (h ^ (unsigned char)*p) * 1099511628211u;
	snprintf(mark, MARK_SIZE + 1, MARK "%016llX", (unsigned long long)h);
}

/* Whether the image of that path has the mark. *RET_THERE: there is one at all. */
static bool has_mark(const char *path, const char *mark, bool *ret_there)
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	char have[MARK_SIZE + 1] = "";

	*ret_there = fd >= 0;
	if (fd < 0 || pread(fd, have, MARK_SIZE, MARK_AT) != MARK_SIZE)
		return false;
	for (size_t n = MARK_SIZE; n > 0 && have[n - 1] == ' '; n--)
		have[n - 1] = '\0';
	return streq(have, mark);
}

/* ---- Making it ---- */

static void remove_files(const char *folder)
{
	for (size_t i = 0; i < ARRAY_SIZE(file_names); i++) {
		_cleanup_free_ char *path = qmp_asprintf("%s/%s", folder, file_names[i]);
		if (path)
			(void)unlink(path);
	}
	(void)rmdir(folder);
}

static int write_file(int dir, const char *name, const char *text)
{
	_cleanup_fd_ int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0400);
	size_t len = strlen(text);

	if (fd < 0)
		return -errno;
	for (ssize_t n; len > 0; text += n, len -= (size_t)n)
		if ((n = write(fd, text, len)) < 0)
			return -errno;
	return 0;
}

/* What ENTRY of FOLDER, the files of a seed, has to do with: that seed, whose draft is theirs; new; NULL: it is something else. */
static char *seed_of_files(const char *folder, const char *entry)
{
	size_t n = strlen(entry), tail = sizeof FILES - 1;

	return *entry == '.' && n > tail + 1 && streq(entry + n - tail, FILES)
		       ? qmp_asprintf("%s/%.*s.iso", folder, (int)(n - tail - 1), entry + 1)
		       : NULL;
}

/* What makers that are gone have left. Who has a seed's draft may write its files: nobody else has them. */
static void sweep(const struct vm_dirs *dirs)
{
	_cleanup_free_ char *folder = qmp_asprintf("%s/" FOLDER, dirs->state);
	DIR *d = folder ? opendir(folder) : NULL;
	const struct dirent *entry;

	while (d && (entry = readdir(d))) {
		_cleanup_free_ char *seed = seed_of_files(folder, entry->d_name), *files = qmp_asprintf("%s/%s", folder, entry->d_name);
		_cleanup_draft_ struct img_draft draft = {.fd = -1};
		if (seed && files && img_draft_begin(seed, true, &draft, NULL) == 0)
			remove_files(files);
	}
	if (d) {
		(void)closedir(d);
		img_draft_sweep(folder);
	}
}

/* Secrets may be among them: nobody else comes in. */
static int write_files(struct img_seed *s, const json_t *files, struct qmp_error *err)
{
	_cleanup_fd_ int dir = -1;
	const char *name;
	json_t *text;
	int r = 0;

	if (mkdir(s->files, 0700) < 0 || (dir = open(s->files, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) < 0)
		return qmp_error_errno(err, -errno, "making the seed: %s", s->files);
	json_object_foreach((json_t *)files, name, text)
		if (r == 0)
			r = write_file(dir, name, json_string_value(text));
	return r < 0 ? qmp_error_errno(err, r, "making the seed: writing to %s", s->files) : 0;
}

/* While the draft, which makes them ours, is there. */
static void forget_files(struct img_seed *s)
{
	if (s->files)
		remove_files(s->files);
	free(take_ptr(s->files));
}

static void seed_free(struct img_seed *s)
{
	forget_files(s);
	img_draft_discard(&s->draft);
	free(s);
}

static int settle(struct img_seed *s, struct qmp_error *err)
{
	if (s->owner != (uid_t)-1 && fchown(s->draft.fd, s->owner, (gid_t)-1) < 0)
		return qmp_error_errno(err, -errno, "giving %s to the user that QEMU runs as", s->draft.final);
	forget_files(s);
	return img_draft_keep(&s->draft, err);
}

static void on_tool(void *data, const struct img_tool_result *r)
{
	struct img_seed *s = data;
	void (*done)(void *, const struct qmp_error *) = s->done;
	void *done_data = s->data;
	struct qmp_error why = r->error;

	if (why.kind == QMP_ERR_NONE && done)
		(void)settle(s, &why);
	seed_free(s);
	if (done)
		done(done_data, why.kind == QMP_ERR_NONE ? NULL : &why);
}

static int set_owner(struct img_seed *s, const struct vm_dirs *dirs, const json_t *spec, struct qmp_error *err)
{
	_cleanup_identity_ struct vm_identity *id = NULL;
	int r = vm_identity_of(spec, &id, err);

	s->owner = r == 0 && id ? id->uid : (uid_t)-1;
	return r == 0 && id ? vm_identity_let_in(dirs, FOLDER, err) : r;
}

/* 1: the image is as it should be. */
static int begin(struct img_seed *s, const struct vm_dirs *dirs, const json_t *spec, bool force, struct qmp_error *err)
{
	_cleanup_free_ char *path = img_seed_path(dirs, text_of(spec, "name"));
	_cleanup_fd_ int folder = vm_dir_open(dirs->state, FOLDER, true, err);
	json_auto_t *files = NULL;
	struct qmp_error why = {0};
	bool there;
	int r;

	if (folder < 0 || !path)
		return folder < 0 ? folder : qmp_error_errno(err, -ENOMEM, "making the seed");
	sweep(dirs);
	files = img_seed_files(spec, &why);
	if (files)
		mark_of(files, spec, s->mark);
	if (has_mark(path, s->mark, &there) && !force)
		return 1;
	if (!files && there && !force)
		return 1;
	if (!files) {
		*err = why;
		return err->code;
	}
	r = set_owner(s, dirs, spec, err);
	if (r == 0)
		r = img_draft_begin(path, true, &s->draft, err);
	if (r == 0 && !(s->files = qmp_asprintf("%s/" FOLDER "/.%s" FILES, dirs->state, text_of(spec, "name"))))
		r = qmp_error_errno(err, -ENOMEM, "making the seed");
	return r < 0 ? r : write_files(s, files, err);
}

int img_seed_make(uv_loop_t *loop, const struct vm_dirs *dirs, const json_t *spec, bool force,
		  void (*done)(void *data, const struct qmp_error *why), void *data, struct img_seed **ret,
		  struct qmp_error *err)
{
	struct img_seed *s;
	_cleanup_free_ char *doing = NULL;
	int r;

	if (!img_seed_has_image(spec)) {
		r = img_seed_check(spec, err);
		return r < 0 ? r : 1;
	}
	s = calloc(1, sizeof *s);
	if (!s)
		return qmp_error_errno(err, -ENOMEM, "making the seed");
	s->draft.fd = -1;
	s->done = done;
	s->data = data;
	r = begin(s, dirs, spec, force, err);
	doing = r == 0 ? qmp_asprintf("making the seed %s", s->draft.final) : NULL;
	if (doing) {
		const char *const argv[] = {"xorriso", "-as", "mkisofs", "-quiet", "-V", "cidata", "-A", s->mark, "-J", "-R",
					    "-no-pad", "-o", s->draft.path, s->files, NULL};
		struct img_tool_options o = {.doing = doing, .argv = argv, .package = "xorriso", .timeout_ms = TOOL_MS,
					     .done = on_tool, .data = s};
		r = img_tool_run(loop, &o, &s->tool, err);
	}
	if (r != 0) {
		seed_free(s);
		return r;
	}
	*ret = s;
	return 0;
}

void img_seed_cancel(struct img_seed *s)
{
	if (s)
		img_tool_cancel(s->tool);
}

void img_seed_abandon(struct img_seed *s)
{
	if (s)
		s->done = NULL;
	img_seed_cancel(s);
}

struct now {
	bool done;
	struct qmp_error error;
};

static void on_now(void *data, const struct qmp_error *why)
{
	struct now *n = data;

	n->done = true;
	if (why)
		n->error = *why;
}

int img_seed_make_now(uv_loop_t *loop, const struct vm_dirs *dirs, const json_t *spec, bool force, struct qmp_error *err)
{
	struct now n = {0};
	struct img_seed *s;
	int r = img_seed_make(loop, dirs, spec, force, on_now, &n, &s, err);

	while (r == 0 && !n.done)
		uv_run(loop, UV_RUN_ONCE);
	if (r == 0 && n.error.kind != QMP_ERR_NONE) {
		*err = n.error;
		r = err->code;
	}
	return r;
}

void img_seed_rename(const struct vm_dirs *dirs, const char *name, const char *to)
{
	_cleanup_free_ char *from_path = img_seed_path(dirs, name), *to_path = img_seed_path(dirs, to);

	if (from_path && to_path && rename(from_path, to_path) < 0)
		img_seed_remove(dirs, name);
}

void img_seed_remove(const struct vm_dirs *dirs, const char *name)
{
	_cleanup_free_ char *path = img_seed_path(dirs, name);

	if (path)
		(void)unlink(path);
	sweep(dirs);
}
