#include "qmpctl/restart.h"
#include "proto/base.h"
#include "tests/unit/check.h"

static bool wanted(const char *policy, const char *reason, bool asked)
{
	json_auto_t *p = json_pack("{s:s}", "policy", policy), *end = json_pack("{s:s}", "reason", reason);

	return restart_wanted(p, end, asked);
}

static void test_what_is_started_again(void)
{
	static const char *const orderly[] = {"guest-shutdown", "guest-reset", "host-quit", "host-qmp-quit", "host-signal"};
	static const char *const failures[] = {"crashed", "exited", "guest-panic", "unknown", "killed"};

	for (size_t i = 0; i < ARRAY_SIZE(orderly); i++) {
		CHECK(!wanted("never", orderly[i], false));
		CHECK(!wanted("on-failure", orderly[i], false));
		CHECK(wanted("always", orderly[i], false));
		CHECK(!wanted("always", orderly[i], true));
	}
	for (size_t i = 0; i < ARRAY_SIZE(failures); i++) {
		CHECK(!wanted("never", failures[i], false));
		CHECK(wanted("on-failure", failures[i], false));
		CHECK(wanted("always", failures[i], false));
		CHECK(!wanted("on-failure", failures[i], true));
	}
	CHECK(!restart_wanted(NULL, NULL, false));
}

static void test_delays(void)
{
	json_auto_t *p = json_pack("{s:i, s:i}", "delay", 3, "max-delay", 20);
	json_auto_t *none = json_pack("{s:i, s:i}", "delay", 0, "max-delay", 20);
	json_auto_t *low = json_pack("{s:i, s:i}", "delay", 30, "max-delay", 20);

	CHECK_INT(restart_delay_ms(p, 1), 3000);
	CHECK_INT(restart_delay_ms(p, 2), 6000);
	CHECK_INT(restart_delay_ms(p, 3), 12000);
	CHECK_INT(restart_delay_ms(p, 4), 20000);
	CHECK_INT(restart_delay_ms(p, INT64_MAX), 20000);
	CHECK_INT(restart_delay_ms(none, INT64_MAX), 0);
	CHECK_INT(restart_delay_ms(low, 1), 20000);
}

int main(void)
{
	RUN(test_what_is_started_again);
	RUN(test_delays);
	return 0;
}
