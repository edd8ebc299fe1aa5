/*
 * image convert, compare, map, measure: what reads images.
 */
#include "qmpctl/image.h"
#include "qmpctl/words.h"
#include "images/key.h"
#include "launcher/location.h"
#include "proto/base.h"

/* What is written at this moment cannot be copied: its parts would be of different moments. */
static int find_source(struct cli *cli, const char *word, const char *format, const struct image_access *access, const char *doing,
		       struct found *ret)
{
	int r = image_find(cli, word, format, access, false, ret);

	return r < 0 ? r : image_refuse_running(cli, ret, true, doing);
}

/* Those that PATH stands on, or is: a copy over what it is read from. */
static int refuse_itself(struct cli *cli, const struct found *source, const char *path)
{
	for (const json_t *image = source->image; image; image = json_object_get(image, "backing"))
		if (image_is_same(text_of(image, "path"), path))
			return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL,
					     "%s is what %s is read from, and cannot be replaced by it", path,
					     source->path);
	return 0;
}

static const struct image_access copy_access = {"new-", ""};

static int convert(struct cli *cli, struct img_target *target, json_t **ret)
{
	_cleanup_found_ struct found source = {0}, backing = {0};
	_cleanup_free_ const char **options = image_options(cli, "option");
	/* Of one that is there, it stands in the image itself. */
	const char *key_file = target->made_at ? NULL : cli_option(cli, "new-key-file");
	_cleanup_free_ char *key = key_file ? path_absolute(cli, key_file) : NULL;
	struct img_task *task;
	int r = key_file && !key ? cli->error.code : 0;

	if (r == 0)
		r = find_source(cli, cli->args[0], cli_option(cli, "from"), IMAGE_ITS_OWN, "a copy of it", &source);
	if (r == 0)
		r = refuse_itself(cli, &source, target->path);
	if (r == 0 && cli_option(cli, "backing"))
		r = image_find(cli, cli_option(cli, "backing"), NULL, NULL, false, &backing);
	target->backing = backing.image;
	target->options = options;
	if (r == 0)
		r = img_convert_with_key(source.image, cli_option(cli, "snapshot"), target, cli_option(cli, "compress"),
					 cli_option(cli, "bitmaps"), key, &task, &cli->error);
	return r < 0 ? r : image_run(cli, task, "converting", source.size, ret);
}

static int convert_to_volume(struct cli *cli, struct img_volume *v, json_t **ret)
{
	_cleanup_found_ struct found source = {0};
	int r = find_source(cli, cli->args[0], cli_option(cli, "from"), IMAGE_ITS_OWN, "a copy of it", &source);

	if (r == 0)
		r = image_to_volume(cli, source.image, cli_option(cli, "snapshot"), v, 0);
	if (r == 0)
		*ret = json_pack("{s:s, s:s, s:s}", "path", v->path, "format", "raw", "volume", v->location);
	return r;
}

/* Onto what is there on a server, as it is: qemu-img makes nothing there. */
static int convert_onto(struct cli *cli, json_t **ret)
{
	static const char *const of_new[] = {"option", "backing", "bitmaps"};
	_cleanup_found_ struct found there = {0};
	_cleanup_free_ char *shown = vm_location_shown(cli->args[1]);
	struct img_target target = {0};
	struct vm_location l;
	int r = vm_location_parse(cli->args[1], &l, &cli->error);
	bool read_only = r == 0 && vm_location_read_only(&l);

	if (r == 0)
		vm_location_deinit(&l);
	if (read_only)
		return qmp_error_set(&cli->error, QMP_ERR_UNSUPPORTED, -EROFS, "%s can only be read", shown);
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(of_new); i++)
		if (cli_option(cli, of_new[i]))
			r = qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL,
					  "--%s is for a new image, and %s is written as it is there", of_new[i], shown);
	if (r == 0 && !cli_option(cli, "replace"))
		r = qmp_error_set(&cli->error, QMP_ERR_EXISTS, -EEXIST,
				  "%s is on a server, where nothing is made: what is there is overwritten. --replace does it", shown);
	if (r == 0)
		r = image_find(cli, cli->args[1], cli_option(cli, "format"), &copy_access, true, &there);
	if (r == 0)
		r = image_refuse_running(cli, &there, false, "overwriting it");
	if (r == 0)
		r = image_refuse_hurt(cli, &there, there.users, there.overlays, "others have it, and would lose what they have");
	if (r < 0)
		return r;
	target = (struct img_target){.path = there.path, .format = text_of(there.image, "format"), .made_at = there.path,
				       .access = there.image};
	return convert(cli, &target, ret);
}

static int convert_new(struct cli *cli, json_t **ret)
{
	_cleanup_free_ char *path = image_new_path(cli, cli->args[1]);
	struct img_target target = {.path = path, .replace = cli_option(cli, "replace")};

	if (!path)
		return cli->error.code;
	target.format = image_new_format(cli, path);
	return convert(cli, &target, ret);
}

static int run_image_convert(struct cli *cli)
{
	static const char *const of_files[] = {"backing", "compress", "bitmaps", "option", "replace", "new-key-file", NULL};
	_cleanup_volume_ struct img_volume volume = {0};
	json_auto_t *result = NULL;
	bool onto = vm_location_looks(cli->args[1]) == VM_NBD;
	int r = onto ? 0 : image_new_volume(cli, cli->args[1], of_files, &volume);

	if (r == 0)
		r = onto ? convert_onto(cli, &result) : convert_new(cli, &result);
	else if (r > 0)
		r = convert_to_volume(cli, &volume, &result);
	if (r < 0)
		return cli_fail(cli);
	image_print(cli, result, text_of(result, "path"));
	return 0;
}

const struct verb verb_image_convert = {
	.name = "image convert",
	.group = GROUP_IMAGE,
	.args = {{"IMAGE", .kind = ARG_PATH}, {"PATH", .kind = ARG_PATH}},
	.summary = "Copy an image, in the same or another format",
	.notes = "The copy has all that the image has, of what it is backed by, too. Its format is that of the name's extension, else "
		 "qcow2; a volume of LVM, ZFS, Ceph or a Btrfs subvolume is raw. A copy that is stopped, by ^C or otherwise, leaves nothing. "
		 "A PATH that is a URL is there already: it is overwritten (--replace), and has something of both where the copy is "
		 "stopped.",
	.options = (const struct cli_option[]){
		{"format", "FORMAT", "another format than the name says", .kind = ARG_CHOICE, .choices = IMAGE_FORMATS},
		{"from", "FORMAT", "IMAGE's format (default: as a VM has it, else as its header looks)", .kind = ARG_CHOICE,
		 .choices = IMAGE_FORMATS},
		{"snapshot", "NAME", "IMAGE as it was at this internal snapshot"},
		IMAGE_ACCESS,
		{"backing", "BASE", "leave out what BASE has just so: an overlay on it", .kind = ARG_PATH},
		IMAGE_ACCESS_OF("new-", "", "the copy"),
		{"compress", NULL, "compressed, where the format can"},
		{"bitmaps", NULL, "with its dirty bitmaps"},
		{"option", "KEY=VALUE", "an option of the format, as qemu-img -o has it; repeatable"},
		{"replace", NULL, "also where there is an image of that name"},
		{"force", NULL, "also where a VM or an overlay is hurt"},
		{0},
	},
	.settles = true,
	.run = run_image_convert,
};

/* ---- compare ---- */

static int compare(struct cli *cli, json_t **ret)
{
	_cleanup_found_ struct found a = {0}, b = {0};
	struct img_task *task;
	int r = find_source(cli, cli->args[0], cli_option(cli, "from"), IMAGE_ITS_OWN, "comparing it", &a);

	if (r == 0)
		r = find_source(cli, cli->args[1], cli_option(cli, "from2"), &(const struct image_access){"", "2"}, "comparing it", &b);
	if (r == 0)
		r = img_compare(a.image, b.image, cli_option(cli, "strict"), false, &task, &cli->error);
	return r < 0 ? r : image_run(cli, task, "comparing", a.size > b.size ? a.size : b.size, ret);
}

static int run_image_compare(struct cli *cli)
{
	json_auto_t *result = NULL;

	if (compare(cli, &result) < 0)
		return cli_fail(cli);
	if (cli->json)
		cli_print_json(result);
	else
		printf("%s\n", text_of(result, "why") ? text_of(result, "why") : "identical");
	return json_is_true(json_object_get(result, "identical")) ? 0 : EXIT_FAILED;
}

const struct verb verb_image_compare = {
	.name = "image compare",
	.group = GROUP_IMAGE,
	.args = {{"IMAGE", .kind = ARG_PATH}, {"OTHER", .kind = ARG_PATH}},
	.summary = "Whether a guest would see the same in two images",
	.notes = "Exit status 1 where it would not.",
	.options = (const struct cli_option[]){
		{"strict", NULL, "their sizes count, too"},
		{"from", "FORMAT", "IMAGE's format", .kind = ARG_CHOICE, .choices = IMAGE_FORMATS},
		{"from2", "FORMAT", "OTHER's format", .kind = ARG_CHOICE, .choices = IMAGE_FORMATS},
		IMAGE_ACCESS,
		IMAGE_ACCESS_OF("", "2", "OTHER"),
		{0},
	},
	.run = run_image_compare,
};

/* ---- map ---- */

static void print_map(const json_t *map)
{
	json_auto_t *rows = json_array();
	json_t *part;
	size_t i;

	json_array_foreach(map, i, part)
	{
		char start[24], length[24], depth[24];
		bool zero = json_is_true(json_object_get(part, "zero")),
		     data = json_is_true(json_object_get(part, "data"));
		snprintf(start, sizeof start, "%lld", (long long)int_of(part, "start"));
		snprintf(length, sizeof length, "%lld", (long long)int_of(part, "length"));
		snprintf(depth, sizeof depth, "%lld", (long long)int_of(part, "depth"));
		json_array_append_new(rows, json_pack("[s, s, s, s]", start, length,
						      data   ? "data"
						      : zero ? "zero"
							     : "hole",
						      depth));
	}
	cli_print_table((const char *const[]){"START", "LENGTH", "WHAT", "DEPTH", NULL}, rows);
}

static int run_image_map(struct cli *cli)
{
	_cleanup_found_ struct found f = {0};
	json_auto_t *map = NULL;
	struct img_task *task;

	if (image_find(cli, cli->args[0], cli_option(cli, "from"), IMAGE_ITS_OWN, false, &f) < 0 ||
	    img_map(f.image, json_array_size(f.users) > 0, &task, &cli->error) < 0 ||
	    image_run(cli, task, "reading", 0, &map) < 0)
		return cli_fail(cli);
	if (cli->json)
		cli_print_json(map);
	else
		print_map(map);
	return 0;
}

const struct verb verb_image_map = {
	.name = "image map",
	.group = GROUP_IMAGE,
	.args = {{"IMAGE", .kind = ARG_PATH}},
	.summary = "Where an image has data, and at which depth of its chain",
	.options = (const struct cli_option[]){
		{"from", "FORMAT", "its format", .kind = ARG_CHOICE, .choices = IMAGE_FORMATS},
		IMAGE_ACCESS,
		{0},
	},
	.run = run_image_map,
};

/* ---- measure ---- */

static int measure(struct cli *cli, json_t **ret)
{
	_cleanup_found_ struct found f = {0};
	_cleanup_free_ const char **options = image_options(cli, "option");
	const char *format = cli_option(cli, "format") ? cli_option(cli, "format") : "qcow2";
	struct img_task *task;
	uint64_t size = 0;
	int r;

	if (!cli_option(cli, "size") == !cli->n_args)
		return qmp_error_set(&cli->error, QMP_ERR_USAGE, -EINVAL,
				     "image measure: either an IMAGE or --size is wanted");
	r = cli->n_args ? image_find(cli, cli->args[0], cli_option(cli, "from"), IMAGE_ITS_OWN, false, &f) :
			  parse_size(cli, "--size ", cli_option(cli, "size"), &size);
	if (r == 0)
		r = img_measure(f.image, size, format, options, json_array_size(f.users) > 0, &task, &cli->error);
	return r < 0 ? r : image_run(cli, task, "measuring", 0, ret);
}

static int run_image_measure(struct cli *cli)
{
	json_auto_t *result = NULL;

	if (measure(cli, &result) < 0)
		return cli_fail(cli);
	if (cli->json)
		cli_print_json(result);
	else
		printf("%-16s %lld\n%-16s %lld\n", "required", (long long)int_of(result, "required"), "fully allocated",
		       (long long)int_of(result, "fully-allocated"));
	return 0;
}

const struct verb verb_image_measure = {
	.name = "image measure",
	.group = GROUP_IMAGE,
	.args = {{"IMAGE", .kind = ARG_PATH, .optional = true}},
	.summary = "How many bytes an image would take in another format",
	.notes = "The bytes that what is in it takes, and those once all of it is written.",
	.options = (const struct cli_option[]){
		{"size", "SIZE", "in place of IMAGE: an empty one of this size"},
		{"format", "FORMAT", "the format that it would have (qcow2)", .kind = ARG_CHOICE, .choices = "raw|qcow2|luks"},
		{"from", "FORMAT", "IMAGE's format", .kind = ARG_CHOICE, .choices = IMAGE_FORMATS},
		IMAGE_ACCESS,
		{"option", "KEY=VALUE", "an option of the format; repeatable"},
		{0},
	},
	.run = run_image_measure,
};
