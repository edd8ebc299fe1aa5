"""The host's clock is set, by years, forward and back: nothing that waits or counts goes by it."""
import os
import signal
import time

from chaos import FakeWorld

import world
from world import WorldTest

YEAR = 365 * 86400
HOUR = 3600  # no test takes as long


class Clock(WorldTest):
    def setUp(self):
        self.w = FakeWorld()
        self.addCleanup(self.w.close)
        self.path = os.path.join(self.w.base, "clock")
        self.w.env.update(LD_PRELOAD=os.environ["QMPCTL_CLOCK"], QMPCTL_TEST_CLOCK=self.path)
        self.set(0)

    def set(self, offset):
        self.offset = offset
        with open(self.path + ".new", "w", encoding="ascii") as f:
            f.write(str(offset))
        os.rename(self.path + ".new", self.path)

    def now(self):
        return time.time() + self.offset

    def up(self, pid=None):
        status = self.w.status("a")
        self.assertEqual(status["state"], "running")
        self.assertIn(status["uptime"], range(HOUR))
        if pid:
            self.assertEqual(status["pid"], pid)
        return status

    def test_it_is_seen(self):
        """Else the others would show nothing."""
        self.set(YEAR)
        self.w.create_fakes(["a"])
        self.w.ok("start", "a")
        self.w.ok("kill", "a")
        self.assertLess(abs(self.w.status("a")["last-end"]["time"] - self.now()), HOUR)

    def test_crashes_in_a_row_are_in_a_row(self):
        """None of these ran for healthy-after, and all are counted."""
        policy = {"policy": "on-failure", "delay": 0, "limit": 3, "healthy-after": HOUR}
        self.w.create_fakes(["a"], restart=policy)
        keeper = self.w.spawn("run", "a")
        self.w.ok("wait", "a", "--for", "running")
        for count, jump in enumerate((YEAR, -20 * YEAR, YEAR), 1):
            pid = self.up()["pid"]
            self.set(jump)
            self.up(pid)
            os.kill(pid, signal.SIGKILL)
            self.until(lambda: self.w.status("a").get("pid", pid) != pid and self.w.state("a") == "running", "it is not started")
            self.assertEqual(self.up()["restart"]["count"], count)
        os.kill(self.up()["pid"], signal.SIGKILL)
        self.assertEqual(keeper.wait(world.PATIENCE), world.CRASHED, self.w.logs())

    def test_when_the_next_start_comes(self):
        self.w.create_fakes(["a"], restart={"policy": "on-failure", "delay": HOUR, "max-delay": HOUR})
        self.w.ok("start", "a")
        os.kill(self.up()["pid"], signal.SIGKILL)
        self.until(lambda: "due" in self.w.status("a")["restart"], "no start is due")
        for jump in (YEAR, -YEAR):
            self.set(jump)
            self.assertTrue(0 < self.w.status("a")["restart"]["due"] - self.now() <= HOUR + 1)
        self.w.ok("start", "a")
        self.up()

    def test_deadlines(self):
        self.w.create_fakes(["a"])
        image = os.path.join(self.w.base, "x.img")
        with open(image, "wb") as f:
            f.truncate(1 << 20)
        self.w.script("a", "no-unplug")
        self.w.ok("start", "a")
        self.w.ok("disk", "add", "a", f"{image},format=raw,id=vdx")
        for jump in (-YEAR, YEAR):
            removal = self.w.spawn("disk", "remove", "a", "vdx", "--timeout", "2")
            event = self.w.spawn("wait", "a", "--for", "event=NEVER", "--timeout", "2")
            self.set(jump)
            self.assertEqual((removal.wait(world.PATIENCE), event.wait(world.PATIENCE)), (world.PENDING, world.TIMEOUT), self.w.logs())
        self.up()

    def test_one_that_does_not_answer_is_back(self):
        self.w.create_fakes(["a"])
        self.w.ok("start", "a")
        pid = self.up()["pid"]
        os.kill(pid, signal.SIGSTOP)
        self.w.wait_state("a", "unresponsive")
        for jump in (YEAR, -YEAR):
            self.set(jump)
            self.assertTrue(-2 <= self.now() - self.w.status("a")["unresponsive"]["since"] < HOUR)
        os.kill(pid, signal.SIGCONT)
        self.w.wait_state("a", "running")
        self.up(pid)

    def test_another_keeper_at_another_time(self):
        self.w.create_fakes(["a"])
        for jump in (YEAR, -YEAR):
            self.set(0)
            self.w.ok("start", "a")
            status = self.up()
            os.kill(status["keeper-pid"], signal.SIGKILL)
            self.w.wait_gone([status["keeper-pid"]])
            self.set(jump)
            self.up(status["pid"])
            self.w.ok("kill", "a")
            self.assertLess(abs(self.w.status("a")["last-end"]["time"] - self.now()), HOUR)


if __name__ == "__main__":
    world.main()
