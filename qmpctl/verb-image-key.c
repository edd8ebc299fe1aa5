/*
 * image key: the key slots of an encrypted image that nobody uses.
 */
#include "qmpctl/image.h"
#include "images/header.h"
#include "images/key.h"
#include "launcher/location.h"
#include "launcher/secret.h"
#include "proto/base.h"

#include <stdio.h>

/* ---- Keys ---- */

/* WORD: "", or "new-" for the options of the new one. */
static int read_key(struct cli *cli, const char *word, int *ret)
{
	char by_file[24], by_fd[24];
	const char *file, *number;
	char *end;
	long fd;

	(void)snprintf(by_file, sizeof by_file, "%skey-file", word);
	(void)snprintf(by_fd, sizeof by_fd, "%skey-fd", word);
	file = cli_option(cli, by_file);
	number = cli_option(cli, by_fd);
	if (!file == !number)
		return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "either --%s or --%s is wanted%s", by_file, by_fd,
				     file ? ", and not both" : "");
	if (file)
		return streq(file, "-") ? vm_secret_read(0, "on standard input", false, ret, &cli->error)
					: vm_secret_open(file, false, ret, &cli->error);
	errno = 0;
	fd = strtol(number, &end, 10);
	if (errno || !*number || *end || fd < 0 || fd > INT32_MAX)
		return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "--%s %s: a number is wanted", by_fd, number);
	return vm_secret_read((int)fd, by_fd, false, ret, &cli->error);
}

static int read_new_key(struct cli *cli, int key, int *ret)
{
	int r = read_key(cli, "new-", ret);

	if (r == 0)
		r = img_key_equal(key, *ret);
	if (r == 1)
		return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "the new key is the old one; nothing was changed");
	return r < 0 ? qmp_error_errno(&cli->error, r, "comparing the keys") : 0;
}

/* ---- The image ---- */

static int find_encrypted(struct cli *cli, struct found *f)
{
	struct img_header h;
	int r = image_find(cli, cli->args[1], cli_option(cli, "from"), NULL, true, f);

	if (r == 0)
		r = image_refuse_running(cli, f, false, "changing its keys");
	if (r < 0 || !vm_location_is_file(f->path))
		return r;
	r = img_header_read(f->path, &h, &cli->error);
	if (r == 0 && streq(h.format, text_of(f->image, "format")) && streq(h.format, "qcow2") && !streq(h.encryption, "luks"))
		return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL,
				     "the image %s is not encrypted with LUKS, and has no keys; \"image create --key-file\" makes one that is",
				     f->path);
	return r;
}

/* VMs whose specs name a file with its key: that is not changed here. */
static void tell_users(const struct found *f)
{
	_cleanup_free_ char *names = NULL;
	int many;

	names = img_catalogue_names(f->users, NULL, &many);
	if (many > 0 && names)
		fprintf(stderr, "what the spec of %s names as its key file has to hold a key that still opens it\n", names);
}

static int iter_time(struct cli *cli, int64_t *ret)
{
	const char *text = cli_option(cli, "iter-time");
	char *end;

	*ret = 0;
	if (!text)
		return 0;
	errno = 0;
	*ret = strtoll(text, &end, 10);
	if (errno || !*text || *end || *ret < 1 || *ret > 600000)
		return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "--iter-time %s: milliseconds are wanted, 1 to 600000", text);
	return 0;
}

/* ---- The verb ---- */

static int add(struct cli *cli, const struct found *f, int key)
{
	_cleanup_fd_ int new_key = -1;
	struct img_task *task;
	int64_t time;
	int r = read_new_key(cli, key, &new_key);

	if (r == 0)
		r = iter_time(cli, &time);
	if (r == 0)
		r = img_key_add(f->image, key, new_key, time, &task, &cli->error);
	return r < 0 ? r : image_run(cli, task, "adding the key", 0, NULL);
}

static int empty(struct cli *cli, const struct found *f, int key, int64_t slot)
{
	struct img_task *task;
	int r = img_key_remove(f->image, key, slot, &task, &cli->error);

	return r < 0 ? r : image_run(cli, task, "removing the key", 0, NULL);
}

static int remove_key(struct cli *cli, const struct found *f, int key)
{
	const char *slot = cli_option(cli, "slot");

	if (slot && (slot[0] < '0' || slot[0] > '7' || slot[1]))
		return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "--slot %s: LUKS has the slots 0 to 7", slot);
	return empty(cli, f, key, slot ? slot[0] - '0' : -1);
}

/* Between the two halves both open it: a run that is cut short has lost nobody's. */
static int replace(struct cli *cli, const struct found *f, int key)
{
	int r = add(cli, f, key);

	if (r == 0 && empty(cli, f, key, -1) < 0)
		r = qmp_error_wrap(&cli->error, "the new key opens it, and so does the old one still");
	return r;
}

static const struct action {
	const char *name;
	int (*run)(struct cli *cli, const struct found *f, int key);
	bool takes_new, takes_slot, loses;
	const char *done;
} actions[] = {
	{"add", add, true, false, false, "one more key opens it"},
	{"remove", remove_key, false, true, true, "a key less opens it"},
	{"replace", replace, true, false, true, "the new key opens it, the old one does not any more"},
};

static int check_options(struct cli *cli, const struct action *a)
{
	static const char *const of_new[] = {"new-key-file", "new-key-fd", "iter-time"};

	for (size_t i = 0; i < ARRAY_SIZE(of_new) && !a->takes_new; i++)
		if (cli_option(cli, of_new[i]))
			return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "image key %s: there is no new key, and so no --%s",
					     a->name, of_new[i]);
	if (cli_option(cli, "slot") && !a->takes_slot)
		return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "image key %s: --slot is for remove", a->name);
	return 0;
}

static int run_image_key(struct cli *cli)
{
	_cleanup_found_ struct found f = {0};
	_cleanup_fd_ int key = -1;
	const struct action *a = actions;

	while (!streq(a->name, cli->args[0]))
		a++; /* the table of arguments lets no other in */
	if (check_options(cli, a) < 0 || find_encrypted(cli, &f) < 0 || read_key(cli, "", &key) < 0 || a->run(cli, &f, key) < 0)
		return cli_fail(cli);
	if (a->loses)
		tell_users(&f);
	if (cli->json) {
		json_auto_t *result = json_pack("{s:o}", "path", qmp_json_text(f.path));
		cli_print_json(result);
	} else {
		printf("%s: %s\n", f.path, a->done);
	}
	return 0;
}

const struct verb verb_image_key = {
	.name = "image key",
	.group = GROUP_IMAGE,
	.args = {{"ACTION", .kind = ARG_CHOICE, .choices = "add|remove|replace"}, {"IMAGE", .kind = ARG_PATH}},
	.summary = "Add, remove or replace a key of a stopped VM's encrypted image (qcow2, luks)",
	.notes = "add: a new key opens it, too. replace: a new one in place of one that opens it. remove: each slot that the key opens "
		 "is emptied; the last key is never removed. A key is what its file holds, byte for byte, and stands in no command "
		 "line.",
	.options = (const struct cli_option[]){
		{"key-file", "FILE", "a key that opens it: of remove and replace, the one that goes; -: standard input", .kind = ARG_PATH},
		{"key-fd", "N", "the same, read from the open file N"},
		{"new-key-file", "FILE", "the new key; -: standard input", .kind = ARG_PATH},
		{"new-key-fd", "N", "the same, read from the open file N"},
		{"iter-time", "MS", "what a trial of the new key is to cost, in milliseconds (default: qemu-img's)"},
		{"slot", "N", "remove: empty this slot, in place of those that the key opens"},
		{"from", "FORMAT", "its format (default: as a VM has it, else as its header looks)", .kind = ARG_CHOICE,
		 .choices = IMAGE_FORMATS},
		{0},
	},
	.run = run_image_key,
};
