#include "launcher/sshconf.h"
#include "proto/base.h"
#include "tests/unit/check.h"

static bool note(void *data, const char *pattern)
{
	snprintf(data, 64, "%s", pattern);
	return false;
}

static bool runs(const char *text)
{
	return vm_ssh_config_text_runs(text, strlen(text), NULL, NULL);
}

static void test_what_runs(void)
{
	CHECK(runs("Match exec \"true\"\n"));
	CHECK(runs("Host a\n  Port 1\n\tmatch user x EXEC true"));
	CHECK(runs("Match host=\"a b\" !exec x\n"));
	CHECK(!runs(""));
	CHECK(!runs("# Match exec true\n"));
	CHECK(!runs("Match user exec2\nHost exec\n"));
	CHECK(!runs("ProxyCommand nc %h %p\nProxyJump a\n")); /* QEMU connects by itself */
	CHECK(!runs("Match"));
	CHECK(!runs("\n\n=\n\"\n"));
}

static void test_includes(void)
{
	static const char text[] = "Host *\nInclude \"conf.d/a b\"\n";
	char found[64] = "";

	CHECK(!vm_ssh_config_text_runs(text, sizeof text - 1, note, found));
	CHECK_STR(found, "conf.d/a b");
}

int main(void)
{
	RUN(test_what_runs);
	RUN(test_includes);
	return 0;
}
