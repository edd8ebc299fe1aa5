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
		struct stat st;
		if (stat(text_of(image, "path"), &st) < 0)
			continue; /* it has gone in this moment */
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

static int want_image(struct cli *cli, struct forest *f, const char *path)
{
	struct node *n = find(f, path);

	if (!n)
		return qmp_error_set(&cli->error, QMP_ERR_NOT_FOUND, -ENOENT, "there is no image %s", path);
	root_of(n)->wanted = true;
	return 0;
}

/* The folder of a pool of that name; new. NULL: there is none, or it has no folder. */
static char *folder_of_pool(struct cli *cli, const char *word)
{
	json_auto_t *pool = NULL;
	_cleanup_free_ char *own = qmp_asprintf("%s/images", cli->dirs.state);

	if (strchr(word, '/') || vm_pool_read(&cli->dirs, word, &pool, NULL) < 0)
		return NULL;
	return text_of(pool, "path") ? strdup(text_of(pool, "path")) : streq(word, VM_POOL_DEFAULT) ? take_ptr(own) : NULL;
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
	const char *path = text_of(image, "path");
	uint64_t size = (uint64_t)int_of(image, "virtual-size");
	char virtual[32], allocated[32];
	struct stat st;

	progress_bytes(size, virtual);
	progress_bytes((uint64_t)int_of(image, "allocated"), allocated);
	printf("%s  %s %s, %s on disk%s", path, text_of(image, "format"), size ? virtual : "?", allocated,
	       stat(path, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 0222) == 0 ? ", write-protected" : "");
	print_users(json_object_get(image, "users"));
	printf("\n");
	if (json_is_true(json_object_get(image, "backing-missing")))
		fprintf(stderr, "missing: %s, on which %s stands\n", text_of(image, "backing"), path);
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

/* Where the images are that may be meant. */
static int gather(struct cli *cli, const char *folder, const char *path, json_t **ret)
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
	return r < 0 || *ret ? r : qmp_error_errno(&cli->error, -ENOMEM, "looking for images");
}

static int run_image_tree(struct cli *cli)
{
	const char *word = cli->n_args > 0 ? cli->args[0] : NULL;
	_cleanup_free_ char *folder = word ? folder_of_pool(cli, word) : NULL;
	_cleanup_free_ char *path = word && !folder ? path_absolute(cli, word) : NULL;
	json_auto_t *images = NULL, *trees = NULL;
	struct forest f = {0};
	const json_t *tree;
	struct stat st;
	size_t i;
	int r = word && !folder && !path ? cli->error.code : 0;

	if (path && stat(path, &st) == 0 && S_ISDIR(st.st_mode))
		folder = take_ptr(path);
	if (r == 0)
		r = gather(cli, folder, path, &images);
	if (r == 0)
		r = plant(cli, images, &f);
	for (i = 0; i < f.n && word; i++)
		f.nodes[i].wanted = false;
	if (r == 0 && folder)
		want_folder(&f, folder);
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
	.notes = "WHERE is an image (its whole tree), a folder or a pool; without it, all that image list knows, and the cache.",
	.run = run_image_tree,
};
