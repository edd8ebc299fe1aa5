/*
 * image tree: which image stands on which, and which VM has it.
 */
#include "qmpctl/image.h"
#include "qmpctl/progress.h"
#include "qmpctl/words.h"
#include "images/chain.h"
#include "launcher/location.h"
#include "launcher/pool.h"
#include "proto/base.h"

#include <sys/stat.h>

/* An image among all. */
struct node {
	const json_t *image;  /* as the catalogue has it */
	dev_t dev;
	ino_t ino;
	struct node *below;   /* NULL: it stands on nothing, or on what is not there */
	bool missing;         /* what it stands on is not there */
	bool wanted, drawn;
};

struct forest {
	struct node *nodes;
	size_t n;
};

static struct node *find(const struct forest *f, const char *path)
{
	struct stat st;

	for (size_t i = 0; path && i < f->n; i++)
		if (streq(text_of(f->nodes[i].image, "path"), path))
			return &f->nodes[i];
	if (!path || stat(path, &st) < 0)
		return NULL;
	for (size_t i = 0; i < f->n; i++)
		if (f->nodes[i].dev == st.st_dev && f->nodes[i].ino == st.st_ino)
			return &f->nodes[i];
	return NULL;
}

static int plant(struct cli *cli, const json_t *images, struct forest *ret)
{
	struct forest f = {calloc(json_array_size(images) + 1, sizeof *f.nodes), 0};
	const json_t *image;
	size_t i;

	if (!f.nodes)
		return qmp_error_errno(&cli->error, -ENOMEM, "drawing the images");
	json_array_foreach(images, i, image)
	{
		struct stat st = {0};
		if (!text_of(image, "volume") && stat(text_of(image, "path"), &st) < 0)
			continue; /* it has gone in this moment */
		if (text_of(image, "volume"))
			(void)stat(text_of(image, "path"), &st);
		f.nodes[f.n++] = (struct node){.image = image, .dev = st.st_dev, .ino = st.st_ino, .wanted = true};
	}
	for (i = 0; i < f.n; i++) {
		const char *backing = text_of(f.nodes[i].image, "backing");
		f.nodes[i].below = find(&f, backing);
		if (f.nodes[i].below == &f.nodes[i])
			f.nodes[i].below = NULL;
		f.nodes[i].missing = backing && !f.nodes[i].below;
	}
	*ret = f;
	return 0;
}

/* At the root of N's tree. A chain that goes round in a circle has none; then N. */
static struct node *root_of(struct node *n)
{
	struct node *at = n;

	for (int depth = 0; at->below && depth < IMG_CHAIN_MAX; depth++)
		at = at->below;
	return at->below ? n : at;
}

/* ---- What is wanted ---- */

/* The trees with an image in FOLDER. */
static void want_folder(struct forest *f, const char *folder)
{
	size_t len = strlen(folder);

	for (size_t i = 0; i < f->n; i++) {
		const char *path = text_of(f->nodes[i].image, "path");
		if (strncmp(path, folder, len) == 0 && path[len] == '/' && !strchr(path + len + 1, '/'))
			root_of(&f->nodes[i])->wanted = true;
	}
}

static void want_pool(struct forest *f, const char *pool)
{
	size_t len = strlen(pool);

	for (size_t i = 0; i < f->n; i++) {
		const char *volume = text_of(f->nodes[i].image, "volume");
		if (volume && strncmp(volume, pool, len) == 0 && volume[len] == ':')
			root_of(&f->nodes[i])->wanted = true;
	}
}

static int want_volume(struct cli *cli, struct forest *f, const char *location)
{
	for (size_t i = 0; i < f->n; i++) {
		const char *volume = text_of(f->nodes[i].image, "volume");
		if (!volume || !streq(volume, location))
			continue;
		root_of(&f->nodes[i])->wanted = true;
		return 0;
	}
	return qmp_error_set(&cli->error, QMP_ERR_NOT_FOUND, -ENOENT, "there is no volume %s", location);
}

static int want_image(struct cli *cli, struct forest *f, const char *path)
{
	struct node *n = find(f, path);

	if (!n)
		return qmp_error_set(&cli->error, QMP_ERR_NOT_FOUND, -ENOENT, "there is no image %s", path);
	root_of(n)->wanted = true;
	return 0;
}

/* ---- Drawing ---- */

static json_t *describe(const struct forest *f, struct node *n)
{
	json_t *copy = json_copy((json_t *)n->image), *overlays = json_array();

	n->drawn = true;
	for (size_t i = 0; i < f->n; i++)
		if (f->nodes[i].below == n && !f->nodes[i].drawn)
			json_array_append_new(overlays, describe(f, &f->nodes[i]));
	if (n->missing)
		json_object_set_new(copy, "backing-missing", json_true());
	json_object_set_new(copy, "overlays", overlays);
	return copy;
}

/* " <- a (running), b" */
static void print_users(const json_t *users)
{
	const json_t *user;
	size_t i, n = 0;

	json_array_foreach(users, i, user)
		if (int_of(user, "depth") == 0)
			printf("%s%s.%s%s", n++ ? ", " : "  <- ", text_of(user, "vm"), text_of(user, "disk"),
			       streq(text_of(user, "state"), "running") ? " (running)" : "");
}

static void print_image(const json_t *image)
{
	const char *path = text_of(image, "path"), *name = text_of(image, "volume") ? text_of(image, "volume") : path;
	uint64_t size = (uint64_t)int_of(image, "virtual-size");
	long long snapshots = (long long)int_of(image, "snapshots");
	char virtual[32], allocated[32];
	struct stat st;

	progress_bytes(size, virtual);
	progress_bytes((uint64_t)int_of(image, "allocated"), allocated);
	printf("%s  %s %s, %s on disk%s", name, text_of(image, "format"), size ? virtual : "?", allocated,
	       stat(path, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 0222) == 0 ? ", write-protected" : "");
	if (snapshots)
		printf(", %lld snapshot%s", snapshots, snapshots > 1 ? "s" : "");
	print_users(json_object_get(image, "users"));
	printf("\n");
	if (json_is_true(json_object_get(image, "backing-missing")))
		fprintf(stderr, "missing: %s, on which %s stands\n", text_of(image, "backing"), name);
}

/* BEFORE: what stands before the lines of IMAGE's overlays. */
static void print_tree(const json_t *image, const char *before)
{
	const json_t *overlays = json_object_get(image, "overlays"), *overlay;
	size_t i;

	print_image(image);
	json_array_foreach(overlays, i, overlay)
	{
		bool last = i + 1 == json_array_size(overlays);
		_cleanup_free_ char *deeper = qmp_asprintf("%s%s", before, last ? "   " : "│  ");
		printf("%s%s", before, last ? "└─ " : "├─ ");
		print_tree(overlay, deeper ? deeper : before);
	}
}

static json_t *draw(struct forest *f)
{
	json_t *trees = json_array();

	for (size_t i = 0; i < f->n; i++)
		if (f->nodes[i].wanted && !f->nodes[i].drawn && root_of(&f->nodes[i]) == &f->nodes[i])
			json_array_append_new(trees, describe(f, &f->nodes[i]));
	return trees;
}

/* ---- The whole ---- */

/* The volumes of POOL, or (NULL) of all pools whose volumes are no files: of those, what cannot be asked now is left out. */
static int gather_volumes(struct cli *cli, const struct img_catalogue *c, const char *pool, json_t *images)
{
	json_auto_t *names = NULL;
	const json_t *name;
	size_t i;
	int r = pool ? image_add_volumes(cli, c, pool, images) : vm_pool_names(&cli->dirs, &names, &cli->error);

	json_array_foreach(names, i, name) {
		_cleanup_pool_ struct img_pool p = {0};
		struct qmp_error none = {0};
		if (img_pool_open(cli->loop, &cli->dirs, json_string_value(name), &p, &none) < 0 || !p.type->clone ||
		    image_add_volumes(cli, c, json_string_value(name), images) == 0)
			continue;
		fprintf(stderr, "%s: %s\n", json_string_value(name), cli->error.message);
		cli->error = (struct qmp_error){0};
	}
	return r;
}

/* Where the images are that may be meant: all of them, or (WORD) those of FOLDER, PATH or POOL, with what they belong to. */
static int gather(struct cli *cli, const char *word, const char *folder, const char *path, const char *pool, json_t **ret)
{
	_cleanup_catalogue_ struct img_catalogue *c = NULL;
	_cleanup_free_ char *cache = qmp_asprintf("%s/cache", cli->dirs.state);
	int r = cache ? img_catalogue_read(&cli->dirs, &c, &cli->error) : qmp_error_errno(&cli->error, -ENOMEM, "looking for images");

	if (r == 0)
		r = img_catalogue_add_folder(c, cache, false, &cli->error);
	if (r == 0 && folder)
		r = img_catalogue_add_folder(c, folder, true, &cli->error);
	if (r == 0 && path)
		r = img_catalogue_add(c, path, &cli->error);
	*ret = r == 0 ? img_catalogue_images(c) : NULL;
	if (r == 0 && !*ret)
		return qmp_error_errno(&cli->error, -ENOMEM, "looking for images");
	return r == 0 && (pool || !word) ? gather_volumes(cli, c, pool, *ret) : r;
}

static int run_image_tree(struct cli *cli)
{
	const char *word = cli->n_args > 0 ? cli->args[0] : NULL;
	_cleanup_free_ char *pool = word ? image_pool_of(cli, word) : NULL, *folder = NULL;
	_cleanup_free_ char *path = word && !pool ? path_absolute(cli, word) : NULL;
	const char *volume = pool ? vm_pool_volume(word, NULL) : NULL;
	json_auto_t *images = NULL, *trees = NULL;
	struct forest f = {0};
	const json_t *tree;
	struct stat st;
	size_t i;
	int r = word && !pool && !path ? cli->error.code : 0;

	if (path && stat(path, &st) == 0 && S_ISDIR(st.st_mode))
		folder = take_ptr(path);
	if (r == 0)
		r = gather(cli, word, folder, path, pool, &images);
	if (r == 0)
		r = plant(cli, images, &f);
	for (i = 0; i < f.n && word; i++)
		f.nodes[i].wanted = false;
	if (r == 0 && folder)
		want_folder(&f, folder);
	if (r == 0 && pool && !volume)
		want_pool(&f, pool);
	if (r == 0 && volume)
		r = want_volume(cli, &f, word);
	if (r == 0 && path)
		r = want_image(cli, &f, path);
	trees = r == 0 ? draw(&f) : NULL;
	free(f.nodes);
	if (!trees)
		return cli_fail(cli);
	if (cli->json) {
		cli_print_json(trees);
		return 0;
	}
	json_array_foreach(trees, i, tree)
		print_tree(tree, "");
	return 0;
}

const struct verb verb_image_tree = {
	.name = "image tree",
	.group = GROUP_IMAGE,
	.args = {{"WHERE", .kind = ARG_PATH, .optional = true}},
	.summary = "Draw which image stands on which, and which VM has it",
	.notes = "WHERE is an image (its whole tree), a volume, a folder or a pool; without it, all that image list knows, the cache, and the "
		 "volumes of pools that are no files.",
	.run = run_image_tree,
};
