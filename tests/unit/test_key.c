/*
 * Encrypted images: the words that qemu-img is given, in which no key stands.
 */
#include "images/key.h"
#include "proto/base.h"
#include "tests/unit/check.h"
#include "tests/unit/words.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

static char file[] = "/tmp/test-key-XXXXXX";

/* In none of them stands the key. */
static const char *keyless_words(struct img_task *t)
{
	const char *text = words(t);

	CHECK(!strstr(text, "CANARY"));
	return text;
}

static int key_of(const char *text)
{
	int fd = memfd_create("key", MFD_CLOEXEC);

	CHECK(fd >= 0);
	CHECK_INT(write(fd, text, strlen(text)), strlen(text));
	return fd;
}

#define SECRET(id, n) "--object|secret,id=" id ",file=/proc/self/fd/" n "|"

static void test_create(void)
{
	static const struct {
		const char *format, *words;
	} formats[] = {{"qcow2", "-o|encrypt.format=luks|-o|encrypt.key-secret=key|"}, {"luks", "-o|key-secret=key|"}};
	struct img_target target = {.path = "/x/new", .options = (const char *const[]){"x=y", NULL}};
	struct qmp_error err = {0};
	struct img_task *t;

	for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
		char want[256];
		target.format = formats[i].format;
		CHECK_INT(img_create_with_key(&target, 1024, file, &t, NULL), 0);
		snprintf(want, sizeof want, "qemu-img|create|" SECRET("key", "3") "-q|-f|%s|%s-o|x=y|DRAFT|1024|", formats[i].format,
			 formats[i].words);
		CHECK_STR(keyless_words(t), want);
	}
	CHECK_INT(img_create_with_key(&target, 1024, NULL, &t, &err), -EINVAL);
	CHECK_CONTAINS(err.message, "is encrypted");
	target.format = "raw";
	CHECK_INT(img_create_with_key(&target, 1024, file, &t, NULL), -EINVAL);
	CHECK_INT(img_create_with_key(&target, 1024, NULL, &t, NULL), 0);
	CHECK_STR(keyless_words(t), "qemu-img|create|-q|-f|raw|-o|x=y|DRAFT|1024|");
	target.format = "qcow2";
	CHECK_INT(img_create_with_key(&target, 1024, "/nonexistent/key", &t, NULL), -ENOENT);
}

static void test_slots(void)
{
	json_auto_t *base = json_pack("{s:s, s:s}", "path", "/b", "format", "raw");
	json_auto_t *qcow2 = json_pack("{s:s, s:s, s:O}", "path", "/x", "format", "qcow2", "backing", base);
	json_auto_t *luks = json_pack("{s:s, s:s}", "path", "/x", "format", "luks");
	_cleanup_fd_ int old = key_of("CANARY1"), new = key_of("CANARY2");
	struct qmp_error err = {0};
	struct img_task *t;

#define FILE_NODE "\"file\":{\"driver\":\"file\",\"filename\":\"/x\"}"
#define QCOW2 "json:{\"driver\":\"qcow2\"," FILE_NODE ",\"encrypt\":{\"key-secret\":\"key\"},\"backing\":null}|"
#define LUKS  "json:{\"driver\":\"luks\"," FILE_NODE ",\"key-secret\":\"key\"}|"
	CHECK_INT(img_key_add(qcow2, old, new, 10, &t, NULL), 0);
	CHECK_STR(keyless_words(t), "qemu-img|amend|" SECRET("new-key", "4") SECRET("key", "3") "-q|-o|encrypt.state=active|-o|"
			    "encrypt.new-secret=new-key|-o|encrypt.iter-time=10|" QCOW2);
	CHECK_INT(img_key_remove(luks, old, -1, &t, NULL), 0);
	CHECK_STR(keyless_words(t), "qemu-img|amend|" SECRET("key", "3") "-q|-o|state=inactive|-o|old-secret=key|" LUKS);
	CHECK_INT(img_key_remove(luks, old, 7, &t, NULL), 0);
	CHECK_STR(keyless_words(t), "qemu-img|amend|" SECRET("key", "3") "-q|-o|state=inactive|-o|keyslot=7|" LUKS);
	CHECK_INT(img_key_remove(base, old, -1, &t, &err), -EINVAL);
	CHECK_CONTAINS(err.message, "has no keys");
}

static void test_equal(void)
{
	_cleanup_fd_ int a = key_of("CANARY1"), b = key_of("CANARY1"), c = key_of("CANARY2"), d = key_of("CANARY");

	CHECK_INT(img_key_equal(a, b), 1);
	CHECK_INT(img_key_equal(a, c), 0);
	CHECK_INT(img_key_equal(a, d), 0);
	CHECK_INT(img_key_equal(a, -1), -EBADF);
}

int main(void)
{
	int fd = mkstemp(file);

	CHECK(fd >= 0);
	CHECK_INT(write(fd, "CANARY", 6), 6);
	CHECK_INT(close(fd), 0);
	RUN(test_create);
	RUN(test_slots);
	RUN(test_equal);
	CHECK_INT(unlink(file), 0);
	return 0;
}
