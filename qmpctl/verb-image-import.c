/*
 * image import: from a file or an address.
 */
#include "qmpctl/image.h"
#include "qmpctl/progress.h"
#include "qmpctl/verb.h"
#include "qmpctl/words.h"
#include "images/cache.h"
#include "images/copy.h"
#include "images/fetch.h"
#include "images/import.h"
#include "launcher/location.h"
#include "launcher/spec.h"
#include "proto/base.h"

struct shown {
	const struct cli *cli;
	struct progress bar;
	int phase; /* -1: none yet */
};

static void on_progress(void *data, enum img_import_phase phase, uint64_t done, uint64_t total)
{
	static const char *const doing[] = {"waiting for another import", "fetching", "reading", "copying"};
	struct shown *s = data;

	if (s->phase != (int)phase) {
		progress_end(&s->bar);
		progress_begin(&s->bar, s->cli, doing[phase], "B");
		s->phase = (int)phase;
	}
	progress_update(&s->bar, done, total);
}

static void on_note(void *data, const char *text)
{
	struct shown *s = data;

	progress_note(&s->bar, text);
}

static int take_size(struct cli *cli, uint64_t *ret)
{
	const char *text = cli_option(cli, "max-size");
	json_auto_t *value = text ? json_string(text) : NULL;

	if (!text || (value && vm_size_parse(value, ret) == 0 && *ret > 0))
		return 0;
	return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "--max-size %s: a size is wanted, as in 20G", text);
}

static int take_number(struct cli *cli, const char *name, int fallback, int *ret)
{
	int64_t value;
	int r = cli_count(cli, name, fallback, &value);

	*ret = value > 1000000 ? 1000000 : (int)value;
	return r;
}

/* A path from the root on, or the address as it is. */
static int take_place(struct cli *cli, const char *given, char **ret)
{
	*ret = NULL;
	if (given && !img_is_http(given) && !vm_location_is_file(given))
		return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "%s is no file and no address of http or https, which alone are imported; "
				     "image convert takes images from all places; a file of that name is written with ./ before it", given);
	if (given)
		*ret = img_is_http(given) ? strdup(given) : path_absolute(cli, given);
	return *ret || !given ? 0 : qmp_error_errno(&cli->error, -ENOMEM, "reading the command line");
}

int image_import(struct cli *cli, char *const place[3], struct img_import_result *ret)
{
	struct shown shown = {.cli = cli, .phase = -1};
	struct img_import_options o = {
		.dirs = &cli->dirs, .source = place[0], .destination = place[1], .sums = place[2],
		.sha256 = cli_option(cli, "sha256"), .sha512 = cli_option(cli, "sha512"), .ca_file = cli_option(cli, "ca"),
		.netrc_file = cli_option(cli, "netrc"), .no_cache = place[1] && cli_option(cli, "no-cache"),
		.progress = on_progress, .note = on_note, .data = &shown,
	};
	int r;

	if (take_size(cli, &o.max_size) < 0 || take_number(cli, "stall", 0, &o.stall_s) < 0 ||
	    take_number(cli, "retries", -1, &o.retries) < 0)
		return cli->error.code;
	progress_begin(&shown.bar, cli, "", "B");
	r = img_import_call(cli->loop, &o, ret, &cli->error);
	progress_end(&shown.bar);
	return r;
}

static void on_copy(void *data, uint64_t done, uint64_t total)
{
	progress_update(data, done, total);
}

/* Out of the cache, as FORMAT, to PATH. */
static int convert(struct cli *cli, const struct img_import_result *r, const char *format, const char *path)
{
	json_auto_t *image = json_pack("{s:s, s:s}", "path", r->path, "format", r->format);
	struct img_target target = {.path = path, .format = format};
	struct progress bar;
	struct img_copy_options copy = {.from = r->path, .to = path, .progress = on_copy, .data = &bar};
	struct img_task *task;
	int result;

	if (!image)
		return qmp_error_errno(&cli->error, -ENOMEM, "converting %s", r->path);
	if (streq(format, r->format)) {
		progress_begin(&bar, cli, "copying", "B");
		result = img_copy_call(cli->loop, &copy, NULL, &cli->error);
		progress_end(&bar);
		return result;
	}
	result = img_convert(image, NULL, &target, false, false, &task, &cli->error);
	return result < 0 ? result : image_run(cli, task, "converting", r->virtual_size, NULL);
}

static int to_volume(struct cli *cli, const struct img_import_result *r, struct img_volume *v)
{
	json_auto_t *image = json_pack("{s:s, s:s}", "path", r->path, "format", r->format);

	return image ? image_to_volume(cli, image, NULL, v, 0) : qmp_error_errno(&cli->error, -ENOMEM, "importing %s", v->location);
}

/*
 * By way of the cache: what comes is looked into before qemu-img is to make another format of it, or a volume. VOLUME NULL: a
 * file.
 */
static int import_as(struct cli *cli, const char *format, char *source, char *destination, char *sums, struct img_volume *volume,
		     struct img_import_result *ret)
{
	_cleanup_free_ char *cached = NULL;
	int r = image_import(cli, (char *[]){source, NULL, sums}, ret);

	if (r < 0)
		return r;
	cached = (char *)ret->path;
	r = volume ? to_volume(cli, ret, volume) : convert(cli, ret, format, destination);
	if (cli_option(cli, "no-cache") && !ret->cached)
		(void)img_cache_delete(&cli->dirs, strrchr(cached, '/') + 1, NULL);
	ret->path = r < 0 ? NULL : strdup(destination);
	snprintf(ret->format, sizeof ret->format, "%s", format);
	return r < 0 || ret->path ? r : qmp_error_errno(&cli->error, -ENOMEM, "importing %s", source);
}

static int check_options(struct cli *cli)
{
	static const char *const wanting[] = {"no-cache", "format"};

	for (size_t i = 0; i < ARRAY_SIZE(wanting) && cli->n_args < 2; i++)
		if (cli_option(cli, wanting[i]))
			return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL, "--%s goes with a DESTINATION", wanting[i]);
	return 0;
}

/* A file that changes while it is read gives nothing whole. */
static int refuse_running(struct cli *cli, const char *source)
{
	_cleanup_found_ struct found f = {0};

	if (img_is_http(source))
		return 0;
	return image_find(cli, source, NULL, NULL, true, &f) < 0 ? cli->error.code : image_refuse_running(cli, &f, true, "importing it");
}

static int run_image_import(struct cli *cli)
{
	const char *format = cli_option(cli, "format");
	_cleanup_free_ char *source = NULL, *destination = NULL, *sums = NULL, *path = NULL;
	_cleanup_volume_ struct img_volume volume = {0};
	struct img_import_result result;
	int r, is_volume;

	if (check_options(cli) < 0 || take_place(cli, cli->args[0], &source) < 0 ||
	    take_place(cli, cli_option(cli, "sums"), &sums) < 0 || refuse_running(cli, source) < 0)
		return cli_fail(cli);
	is_volume = cli->n_args > 1 ? image_new_volume(cli, cli->args[1], (const char *[]){NULL}, &volume) : 0;
	if (is_volume < 0)
		return cli_fail(cli);
	if (cli->n_args > 1 && !(destination = is_volume ? strdup(volume.path) : image_new_path(cli, cli->args[1])))
		return cli_fail(cli);
	r = is_volume ? import_as(cli, "raw", source, destination, sums, &volume, &result) :
	    format ? import_as(cli, format, source, destination, sums, NULL, &result) :
		     image_import(cli, (char *[]){source, destination, sums}, &result);
	if (r < 0)
		return cli_fail(cli);
	path = (char *)result.path;
	if (cli->json) {
		json_auto_t *answer = json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:b, s:b}", "path", path, "format", result.format,
						"sha256", result.sha256, "packing", img_packing_name(result.packing), "size",
						(json_int_t)result.size, "virtual-size", (json_int_t)result.virtual_size, "cached",
						result.cached, "verified", result.verified);
		cli_print_json(answer);
	} else {
		printf("%s\n", path);
		if (!result.verified)
			fprintf(stderr, "held against no digest; what came has the SHA-256 %s\n", result.sha256);
	}
	return 0;
}

const struct verb verb_image_import = {
	.name = "image import",
	.group = GROUP_IMAGE,
	.args = {{"SOURCE", .kind = ARG_PATH}, {"DESTINATION", .kind = ARG_PATH, .optional = true}},
	.summary = "Take an image from a file or an address",
	.notes = "SOURCE is a file, or an address of http or https. What is packed by gzip, bzip2, xz or zstd is unpacked. Without "
		 "DESTINATION the image is kept in the cache, read-only, as a base for overlays; image cache lists those. What was cut "
		 "off goes on where it stopped. DESTINATION may be a volume of a pool. An image that would have QEMU open other files is refused.",
	.options = (const struct cli_option[]){
		{"sha256", "DIGITS", "the SHA-256 that SOURCE, as it comes, must have"},
		{"sha512", "DIGITS", "likewise the SHA-512"},
		{"sums", "FILE", "a list of digests in which SOURCE's file name stands, as SHA256SUMS; a file or an address",
		 .kind = ARG_PATH},
		{"format", "FORMAT", "what DESTINATION is to be; default: what came", .kind = ARG_CHOICE,
		 .choices = "raw|qcow2|qcow|qed|vmdk|vdi|vhdx|vpc|parallels"},
		{"max-size", "SIZE", "refuse what is larger, unpacked; default 256G"},
		{"no-cache", NULL, "nothing stays in the cache; with DESTINATION"},
		{"stall", "SECONDS", "leave a server that sends nothing for so long; default 30"},
		{"retries", "N", "try again so many times without a byte in between; default 5"},
		{"ca", "FILE", "certificates of the authorities to trust, instead of the system's", .kind = ARG_PATH},
		{"netrc", "FILE", "names and passwords for servers, as netrc(5) describes it", .kind = ARG_PATH},
		{0},
	},
	.settles = true,
	.run = run_image_import,
};
