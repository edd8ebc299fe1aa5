#include "images/intake.h"
#include "proto/base.h"

int img_intake_open(struct img_intake *n, bool with_sha512, struct qmp_error *err)
{
	return img_digest_new(with_sha512, &n->digest, err);
}

void img_intake_deinit(struct img_intake *n)
{
	if (n->draft.path)
		img_draft_discard(&n->draft);
	img_digest_free(take_ptr(n->digest));
	img_unpack_free(take_ptr(n->unpack));
}

int img_intake_reset(struct img_intake *n, struct qmp_error *err)
{
	img_unpack_free(take_ptr(n->unpack));
	if (n->draft.path)
		img_draft_discard(&n->draft);
	n->head_len = 0;
	n->decided = false;
	n->got = 0;
	return img_digest_reset(n->digest) < 0 ? qmp_error_errno(err, -ENOMEM, "importing %s", n->shown) : 0;
}

bool img_intake_is_plain(const struct img_intake *n)
{
	return n->keeps_plain && n->packing == IMG_PACKING_NONE;
}

static int sink(void *data, const unsigned char *bytes, size_t len, struct qmp_error *err)
{
	struct img_intake *n = data;

	return img_sparse_write(&n->sparse, bytes, len, err);
}

static int decide(struct img_intake *n, struct qmp_error *err)
{
	int r;

	n->decided = true;
	n->packing = img_packing_of(n->head, n->head_len);
	if (img_intake_is_plain(n))
		return 0;
	r = n->begin(n->data, &n->draft, err);
	if (r < 0)
		return r;
	img_sparse_init(&n->sparse, n->draft.fd, n->max_size);
	r = img_unpack_new(n->packing, sink, n, &n->unpack, err);
	return r < 0 ? r : img_unpack_feed(n->unpack, n->head, n->head_len, err);
}

int img_intake_feed(struct img_intake *n, const unsigned char *bytes, size_t len, struct qmp_error *err)
{
	int r = img_digest_update(n->digest, bytes, len);

	if (r < 0)
		return qmp_error_errno(err, r, "importing %s: its digest", n->shown);
	n->got += len;
	while (!n->decided && len > 0) {
		n->head[n->head_len++] = *bytes++;
		len--;
		r = n->head_len == sizeof n->head ? decide(n, err) : 0;
		if (r < 0)
			return r;
	}
	if (img_intake_is_plain(n) && n->got > n->max_size)
		return qmp_error_set(err, QMP_ERR_LIMIT, -EFBIG,
				     "importing %s: it is larger than %llu bytes, which is the limit; --max-size sets another", n->shown,
				     (unsigned long long)n->max_size);
	r = n->unpack && len > 0 ? img_unpack_feed(n->unpack, bytes, len, err) : 0;
	return r < 0 ? qmp_error_wrap(err, "importing %s", n->shown) : 0;
}

int img_intake_end(struct img_intake *n, char ret_sha256[IMG_SHA256_LEN + 1], char ret_sha512[IMG_SHA512_LEN + 1],
		   struct qmp_error *err)
{
	int r = n->decided ? 0 : decide(n, err);

	if (r == 0 && n->unpack)
		r = img_unpack_end(n->unpack, err);
	if (r == 0 && n->unpack)
		r = img_sparse_end(&n->sparse, err);
	if (r == 0 && img_digest_finish(n->digest, ret_sha256, ret_sha512) < 0)
		r = qmp_error_errno(err, -EIO, "importing %s: its digest", n->shown);
	return r;
}
