#include "launcher/location.h"
#include "proto/base.h"
#include "tests/unit/check.h"

#include <sys/stat.h>

static void test_kinds(void)
{
	static const struct {
		const char *text;
		enum vm_location_kind kind;
		const char *pool, *name;
	} good[] = {
	    {"/a:b", VM_FILE, NULL, "/a:b"},
	    {"/nbd://x", VM_FILE, NULL, "/nbd://x"},
	    {"./fast:root", VM_FILE, NULL, "./fast:root"},
	    {"a:b", VM_FILE, NULL, "a:b"}, /* a pool's name has two characters at least */
	    {"-f", VM_FILE, NULL, "-f"},
	    {"fast:root", VM_VOLUME, "fast", "root"},
	    {"fast:a/b=c,d:e", VM_VOLUME, "fast", "a/b=c,d:e"},
	    {"nbd:unix:/x", VM_VOLUME, "nbd", "unix:/x"},
	    {"_ast:root", VM_FILE, NULL, "_ast:root"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		struct qmp_error err = {0};
		struct vm_location l = {0};
		CHECK_INT(vm_location_parse(good[i].text, &l, &err), 0);
		CHECK_INT(l.kind, good[i].kind);
		CHECK_STR(l.name, good[i].name);
		CHECK(!l.pool == !good[i].pool);
		if (l.pool)
			CHECK_STR(l.pool, good[i].pool);
		vm_location_deinit(&l);
	}
}

static void test_nodes(void)
{
	static const struct {
		const char *text, *node;
	} good[] = {
	    {"/a,b=c", "{\"driver\": \"file\", \"filename\": \"/a,b=c\"}"},
	    {"/dev/vg/a", "{\"driver\": \"host_device\", \"filename\": \"/dev/vg/a\"}"},
	    {"nbd://h/", "{\"driver\": \"nbd\", \"server\": {\"host\": \"h\", \"port\": \"10809\", \"type\": "
			 "\"inet\"}, \"export\": \"\", "
			 "\"reconnect-delay\": 60}"},
	    {"nbd://[::1]:9/a%2fb/c?reconnect-delay=0", "{\"driver\": \"nbd\", \"server\": {\"host\": \"::1\", "
							"\"port\": \"9\", \"type\": \"inet\"}, \"export\": \"a/b/c\", "
							"\"reconnect-delay\": 0}"},
	    {"nbd+unix:///x?socket=/run/a%26b,c&reconnect-delay=5",
	     "{\"driver\": \"nbd\", \"server\": {\"type\": \"unix\", \"path\": \"/run/a&b,c\"}, \"export\": \"x\", "
	     "\"reconnect-delay\": 5}"},
	    {"iscsi://10.0.0.1/iqn.2024-01.org.example:a/7",
	     "{\"driver\": \"iscsi\", \"transport\": \"tcp\", \"portal\": \"10.0.0.1:3260\", \"target\": "
	     "\"iqn.2024-01.org.example:a\", \"lun\": 7}"},
	    {"iscsi://me@[fe80::1]:99/iqn.x/0?initiator=iqn.y",
	     "{\"driver\": \"iscsi\", \"transport\": \"tcp\", \"portal\": \"[fe80::1]:99\", \"target\": \"iqn.x\", "
	     "\"lun\": 0, "
	     "\"user\": \"me\", \"initiator-name\": \"iqn.y\"}"},
	    {"ssh://me@host/srv/a%20b", "{\"driver\": \"ssh\", \"server\": {\"host\": \"host\", \"port\": \"22\"}, "
					"\"path\": \"/srv/a b\", \"user\": \"me\", "
					"\"host-key-check\": {\"mode\": \"known_hosts\"}}"},
	    {"ssh://h:2222/a?host-key=SHA256:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
	     "{\"driver\": \"ssh\", \"server\": {\"host\": \"h\", \"port\": \"2222\"}, \"path\": \"/a\", "
	     "\"host-key-check\": {\"mode\": "
	     "\"hash\", \"type\": \"sha256\", \"hash\": "
	     "\"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\"}}"},
	    {"https://h:8443/a?b=c&d=%41", "{\"driver\": \"https\", \"url\": \"https://h:8443/a?b=c&d=%41\"}"},
	    {"http://h/a", "{\"driver\": \"http\", \"url\": \"http://h/a\"}"},
	    {"rbd://pool/image", "{\"driver\": \"rbd\", \"pool\": \"pool\", \"image\": \"image\"}"},
	    {"rbd://p/ns/i@s?conf=/etc/c.conf&user=me", "{\"driver\": \"rbd\", \"pool\": \"p\", \"namespace\": \"ns\", "
							"\"image\": \"i\", \"snapshot\": \"s\", \"conf\": "
							"\"/etc/c.conf\", \"user\": \"me\"}"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		struct qmp_error err = {0};
		struct vm_location l = {0};
		json_auto_t *node = NULL;
		_cleanup_free_ char *text = NULL;
		if (vm_location_parse(good[i].text, &l, &err) < 0)
			check_fail(__FILE__, __LINE__, good[i].text, "a location", err.message);
		node = vm_location_node(&l, 0);
		text = node ? json_dumps(node, 0) : NULL;
		CHECK_STR(text ? text : "(none)", good[i].node);
		vm_location_deinit(&l);
	}
}

/* QEMU has a driver for each, and where what is there is known, its path does not say which. */
static void test_files_and_devices(void)
{
	static const struct {
		const char *text;
		unsigned type;
		const char *driver;
	} cases[] = {{"/a", 0, "file"},		      {"/dev/sda", 0, "host_device"},	    {"/a", S_IFREG, "file"},
		     {"/a", S_IFBLK, "host_device"},  {"/dev/shm/a", S_IFREG, "file"},	    {"/dev/sda", S_IFBLK, "host_device"},
		     {"/dev/sg0", S_IFCHR, "host_device"}};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct vm_location l = {0};
		json_auto_t *node = NULL;
		CHECK_INT(vm_location_parse(cases[i].text, &l, NULL), 0);
		node = vm_location_node(&l, cases[i].type);
		CHECK_STR(text_of(node, "driver"), cases[i].driver);
		vm_location_deinit(&l);
	}
}

static void test_refused(void)
{
	static const struct {
		const char *text, *why;
	} bad[] = {
	    {"", "empty"},
	    {"ndb://h/x", "did you mean nbd?"},
	    {"NBD://h/x", "is not known"},
	    {"gluster://h/x", "there are nbd"},
	    {"fast:", "name of a volume"},
	    {"fast:/x", "does not begin"},
	    {"http:/x", "a URL has two"},
	    {"nbd:///x", "no host"},
	    {"nbd://h:0/x", "no port"},
	    {"nbd://h:65536/x", "no port"},
	    {"nbd://h:/x", "no port"},
	    {"nbd://h:+1/x", "no port"},
	    {"nbd://h:99999999999999999999/x", "no port"},
	    {"nbd://::1/x", "in brackets"},
	    {"nbd://[::1/x", "has no \"]\""},
	    {"nbd://[::g]/x", "no IPv6 address"},
	    {"nbd://[127.0.0.1]/x", "no IPv6 address"},
	    {"nbd://[::1]x/y", "neither"},
	    {"nbd://-h/x", "no host"},
	    {"nbd://h%41/x", "no host"},
	    {"nbd://h\n/x", "no host"},
	    {"nbd://h/%00", "control character"},
	    {"nbd://h/a%0ab", "control character"},
	    {"nbd://h/a\x7f", "control character"},
	    {"nbd://h/%", "two hexadecimal digits"},
	    {"nbd://h/%4", "two hexadecimal digits"},
	    {"nbd://h/%+1", "two hexadecimal digits"},
	    {"nbd://h/%ff", "no UTF-8"},
	    {"nbd://h/x#y", "%23"},
	    {"nbd://u@h/x", "takes no user"},
	    {"nbd://h/x?reconect-delay=1", "did you mean \"reconnect-delay\"?"},
	    {"nbd://h/x?socket=/s", "nbd:// knows reconnect-delay"},
	    {"nbd://h/x?reconnect-delay=-1", "number of seconds"},
	    {"nbd://h/x?reconnect-delay", "is empty"},
	    {"nbd+unix:///x", "socket"},
	    {"nbd+unix://h/x?socket=/s", "no host"},
	    {"nbd+unix:///x?socket=s", "absolute path"},
	    {"nbd+unix:///x?socket=/s&socket=/t", "twice"},
	    {"iscsi://h/iqn.x", "target and the LUN"},
	    {"iscsi://h/iqn.x/", "target and the LUN"},
	    {"iscsi://h/iqn.x/16384", "target and the LUN"},
	    {"iscsi://h//1", "target is empty"},
	    {"iscsi://u:secret@h/iqn.x/1", "no password"},
	    {"ssh://-oProxyCommand=x@h/x", "does not begin with"},
	    {"ssh://h", "no path"},
	    {"ssh://h/", "path is empty"},
	    {"ssh://h/x?host-key=MD5:aa", "SHA256:"},
	    {"ssh://h/x?host-key=SHA256:AAAA", "43 characters"},
	    {"https://h", "no path"},
	    {"https://h/a b", "plain ASCII"},
	    {"https://h/a?b\xc3\xa4", "plain ASCII"},
	    {"https://u:p@h/a", "no password"},
	    {"rbd:///image", "pool is empty"},
	    {"rbd://pool", "image is empty"},
	    {"rbd://pool/a/b/c", "none of which"},
	    {"rbd://pool/a@b@c", "none of which"},
	    {"rbd://pool/a%2fb", "none of which"},
	    {"rbd://pool/i?conf=etc", "absolute path"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct qmp_error err = {0};
		struct vm_location l = {0};
		if (vm_location_parse(bad[i].text, &l, &err) == 0)
			check_fail(__FILE__, __LINE__, bad[i].text, "refused", "taken");
		CHECK_INT(err.kind, QMP_ERR_USAGE);
		CHECK_CONTAINS(err.message, bad[i].why);
		CHECK(!l.name && !l.host);
	}
}

static void test_too_long(void)
{
	_cleanup_free_ char *text = malloc(VM_LOCATION_MAX + 2);
	struct qmp_error err = {0};
	struct vm_location l = {0};

	memset(text, 'a', VM_LOCATION_MAX + 1);
	text[VM_LOCATION_MAX + 1] = '\0';
	CHECK_INT(vm_location_parse(text, &l, &err), -EINVAL);
	CHECK_CONTAINS(err.message, "longer than");
}

/* The same storage has the same, another one another. */
static void test_identity(void)
{
	static const struct {
		const char *a, *b;
		bool same;
	} pairs[] = {
	    {"nbd://Host/X", "nbd://hOST:10809/X?reconnect-delay=1", true},
	    {"nbd://host/X", "nbd://host/x", false},
	    {"nbd://host/x", "nbd://host:1/x", false},
	    {"iscsi://a/iqn.x/1", "iscsi://u@b:9/iqn.x/1", true},
	    {"iscsi://a/iqn.x/1", "iscsi://a/iqn.x/2", false},
	    {"ssh://u@h/x", "ssh://v@H:22/x", true},
	    {"ssh://h/x", "ssh://h/X", false},
	    {"rbd://p/i", "rbd://p/i?user=x", true},
	    {"rbd://p/i", "rbd://p/n/i", false},
	    {"rbd://p/i", "rbd://p/i@s", false},
	};

	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
		struct vm_location a = {0}, b = {0};
		const char *anchor;
		_cleanup_free_ char *one = NULL, *two = NULL;
		CHECK_INT(vm_location_parse(pairs[i].a, &a, NULL), 0);
		CHECK_INT(vm_location_parse(pairs[i].b, &b, NULL), 0);
		one = vm_location_identity(&a, &anchor);
		two = vm_location_identity(&b, &anchor);
		if (streq(one, two) != pairs[i].same)
			check_fail(__FILE__, __LINE__, pairs[i].a, pairs[i].same ? "the same" : "another", pairs[i].b);
		vm_location_deinit(&a);
		vm_location_deinit(&b);
	}
}

/* What is escaped is read back. */
static void test_escape(void)
{
	_cleanup_free_ char *part = vm_location_escape("a b/%?&#@\xc3\xa4-._~"), *url = qmp_asprintf("nbd://h/%s", part);
	struct vm_location l = {0};

	CHECK_STR(part, "a%20b/%25%3F%26%23%40%C3%A4-._~");
	CHECK_INT(vm_location_parse(url, &l, NULL), 0);
	CHECK_STR(l.name, "a b/%?&#@\xc3\xa4-._~");
	vm_location_deinit(&l);
}

static void test_shown(void)
{
	_cleanup_free_ char *web = vm_location_shown("https://h/a?token=x"),
			    *nbd = vm_location_shown("nbd+unix:///x?socket=/s");
	_cleanup_free_ char *secret = vm_location_shown("ssh://u:a:b@h/a:b@c"),
			    *secret_web = vm_location_shown("http://u:p@h/x?y");

	CHECK_STR(web, "https://h/a");
	CHECK_STR(secret, "ssh://u:...@h/a:b@c");
	CHECK_STR(secret_web, "http://u:...@h/x");
	CHECK_STR(nbd, "nbd+unix:///x?socket=/s");
}

int main(void)
{
	RUN(test_kinds);
	RUN(test_nodes);
	RUN(test_files_and_devices);
	RUN(test_refused);
	RUN(test_too_long);
	RUN(test_identity);
	RUN(test_escape);
	RUN(test_shown);
	return 0;
}
