#include "proto/base.h"
#include "tests/unit/check.h"

static const char *nearest(const char *word)
{
	static const char *const choices[] = {"start", "status", "stop", "set", "cpus", "boot", "disk remove", NULL};
	const char *found = qmp_nearest(word, choices);

	return found ? found : "none";
}

static void test_nearest(void)
{
	CHECK_STR(nearest("start"), "start");
	CHECK_STR(nearest("strat"), "start"); /* places changed: one mistake, not two */
	CHECK_STR(nearest("satrt"), "start");
	CHECK_STR(nearest("statu"), "status");
	CHECK_STR(nearest("sttaus"), "status");
	CHECK_STR(nearest("cpu"), "cpus");
	CHECK_STR(nearest("st"), "set");
	CHECK_STR(nearest("dsk remvoe"), "disk remove");
	/* What is no slip of the hand gets no suggestion. */
	CHECK_STR(nearest("smp"), "none");
	CHECK_STR(nearest("foo"), "none");
	CHECK_STR(nearest("rm"), "none");
	CHECK_STR(nearest("x"), "none");
	CHECK_STR(nearest(""), "none");
	CHECK_STR(nearest("0123456789012345678901234567890123456789012345678901234567890123456789"), "none");
}

int main(void)
{
	RUN(test_nearest);
	return 0;
}
