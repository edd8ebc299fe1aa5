"""QEMUs that crash as soon as they run, started again each time: none runs twice, each start counts once, and it gives up."""
import os
import time

from chaos import GROWTH_KIB, FakeWorld, amount, fds, figure, private_kib

import world
from world import PATIENCE, WorldTest

LOOPS = amount("QMPCTL_LOOPS", 200)
VMS = 4  # side by side in one keeper
UP_AND_CRASH = {"cont": [{"say": '{"return": {}, "id": $ID}\r\n', "then": "exit"}]}


class CrashLoop(WorldTest):
    def setUp(self):
        self.w = FakeWorld()
        self.addCleanup(self.w.close)

    def starts(self, name):
        with open(os.path.join(self.w.run_dir(name), "fake-starts"), encoding="ascii") as f:
            return f.read().splitlines()

    def status(self, name):
        with self.w.control(name) as qmp:
            return qmp.execute("qmpctl-status")

    def test_until_it_gives_up(self):
        limit = LOOPS // VMS
        names = [f"v{i}" for i in range(VMS)]
        self.w.create_fakes(["good"])
        self.w.create_fakes(names, restart={"policy": "always", "delay": 0, "limit": limit, "healthy-after": 86400})
        for name in names:
            self.w.script(name, "count signal=11", UP_AND_CRASH)
        begun = time.monotonic()
        keeper = self.w.spawn("run", "good", *names)
        self.w.ok("wait", "good", "--for", "running")
        good = self.w.control("good")
        self.addCleanup(good.close)
        pid = good.execute("qmpctl-status")["pid"]
        # A client of the first one hears all of it; of the others what counts is the end.
        first, counts, memory = self.w.control(names[0]), [], None
        self.addCleanup(first.close)
        while not counts or counts[-1] != "gave-up":
            told = first.event("QMPCTL_RESTART")["data"]
            counts += {"waiting": [told["count"]], "gave-up": ["gave-up"]}.get(told["outcome"], [])
            first.events.clear()
            if not memory and told["count"] > limit // 4:
                memory = private_kib(keeper.pid), fds(keeper.pid)
        self.assertEqual(counts, [*range(counts[0], limit + 1), "gave-up"])
        for name in names:
            self.until(lambda: self.status(name).get("restart", {}).get("gave-up"), f"{name} goes on", PATIENCE + LOOPS)
            status, lines = self.status(name), self.starts(name)
            self.assertEqual([line for line in lines if "double" in line], [])
            self.assertEqual(len(lines), limit + 1, "the first start, and each that is allowed")
            self.assertEqual(status["state"], "stopped")
            self.assertEqual(status["restart"], {"policy": "always", "count": limit, "gave-up": True})
            self.assertEqual((status["last-end"]["reason"], status["last-end"]["signal"]), ("crashed", 11))
        grown = private_kib(keeper.pid) - memory[0]
        figure(figure="crash loops", starts=VMS * (limit + 1), double=0, seconds=round(time.monotonic() - begun, 1),
               keeper_grew_kib=grown)
        self.assertLessEqual(grown, GROWTH_KIB)
        # A client that has just left is forgotten in a moment.
        self.until(lambda: fds(keeper.pid) <= memory[1], lambda: f"{fds(keeper.pid)} fds, there were {memory[1]}")
        self.assertEqual(good.execute("qmpctl-status")["pid"], pid)
        good.execute("qmpctl-kill")
        self.assertEqual(keeper.wait(PATIENCE), world.CRASHED)

    def test_a_keeper_that_dies_in_the_middle_starts_none_twice(self):
        """SIGKILL at any moment of the loop, and another keeper at once: the lock decides."""
        self.w.create_fakes(["a"], restart={"policy": "always", "delay": 0, "limit": 0})
        self.w.script("a", "count signal=11", UP_AND_CRASH)
        for turn in range(max(5, LOOPS // 10)):
            keeper = self.w.spawn("run", "a")
            target = (len(self.starts("a")) if turn else 0) + 1 + turn % 3
            deadline = time.monotonic() + PATIENCE
            while not os.path.exists(os.path.join(self.w.run_dir("a"), "fake-starts")) or len(self.starts("a")) < target:
                self.assertLess(time.monotonic(), deadline, self.w.logs())
                # A QEMU that the last keeper had just forked holds its lock until it is executed.
                if keeper.poll() == world.STATE:
                    keeper = self.w.spawn("run", "a")
                self.assertIsNone(keeper.poll(), self.w.logs())
                time.sleep(0.001 * (turn % 7))
            keeper.kill()
            keeper.wait(PATIENCE)
        # The last one may wait at its start for a keeper, that would start it on and on.
        def ended():
            self.w.run("kill", "a")
            return not self.w.fakes() and not self.w.keepers()
        self.until(ended, self.w.processes)
        self.assertEqual([line for line in self.starts("a") if "double" in line], [])
        self.assertEqual(self.w.state("a"), "stopped")
        figure(figure="keepers killed in a crash loop", kills=max(5, LOOPS // 10), starts=len(self.starts("a")), double=0)


if __name__ == "__main__":
    world.main()
