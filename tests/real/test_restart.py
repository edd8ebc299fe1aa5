"""The restart policy: what is started again, what is not, and when it gives up."""
import os
import signal

import world
from qmp import QmpError
from world import CRASHED, PATIENCE, WorldTest


class Restart(WorldTest):
    def start(self, **policy):
        serial = self.w.start_tiny("a", restart=policy)
        return serial, self.w.qemu_pid("a")

    def crash(self):
        pid = self.w.qemu_pid("a")
        os.kill(pid, signal.SIGKILL)
        self.w.wait_gone([pid])

    def test_a_crash_is_followed_by_a_start_and_a_power_off_is_not(self):
        serial, qemu = self.start(policy="on-failure", delay=0)
        keeper = self.w.keeper_pid()
        self.crash()
        serial.expect("TINY-READY")
        self.w.wait_state("a", "running")
        self.assertNotEqual(self.w.qemu_pid("a"), qemu)
        self.assertEqual(self.w.keeper_pid(), keeper)
        self.assertEqual(self.w.status("a")["restart"], {"policy": "on-failure", "count": 1})
        serial.write("q")
        self.w.wait_state("a", "stopped")
        self.stopped_clean()

    def test_one_that_was_taken_over_and_never_answered_is_started_again(self):
        """It hung when its keeper was killed, and was killed itself: the next keeper knows that it was there."""
        serial, qemu = self.start(policy="always", delay=0)
        self.w.kill_keeper()
        os.kill(qemu, signal.SIGSTOP)
        self.w.wait_state("a", "unresponsive")
        os.kill(qemu, signal.SIGKILL)
        serial.expect("TINY-READY")
        self.w.wait_state("a", "running")
        self.assertNotEqual(self.w.qemu_pid("a"), qemu)
        self.w.ok("kill", "a")
        self.stopped_clean()

    def test_a_panic_is_a_failure(self):
        serial, _ = self.start(policy="on-failure", delay=0)
        serial.write("p")
        serial.expect("TINY-READY")
        self.w.wait_state("a", "running")

    def test_always_means_a_power_off_too_but_not_a_stop(self):
        serial, _ = self.start(policy="always", delay=0)
        serial.write("q")
        serial.expect("TINY-READY")
        self.w.wait_state("a", "running")
        self.w.ok("stop", "a")
        serial.expect("BYE")
        self.assertEqual(self.w.state("a"), "stopped")
        self.stopped_clean()

    def test_kill_and_quit_are_wanted_ends(self):
        serial, _ = self.start(policy="always", delay=0)
        self.w.ok("kill", "a")
        self.stopped_clean()
        self.w.ok("start", "a")
        serial.expect("TINY-READY")
        with self.w.control("a") as qmp:
            qmp.send("quit")
            self.w.wait_state("a", "stopped")
        self.stopped_clean()

    def test_a_kill_while_it_starts_again_is_the_end(self):
        hang, qemu = os.path.join(self.w.base, "hang"), os.path.join(self.w.base, "qemu")
        with open(qemu, "w", encoding="utf-8") as f:
            f.write(f'#!/bin/sh\n[ -e "{hang}" ] && exec sleep 600\nexec {world.QEMU or "qemu-system-x86_64"} "$@"\n')
        os.chmod(qemu, 0o755)
        serial = self.w.start_tiny("a", restart={"policy": "always", "delay": 0}, **{"qemu-binary": qemu})
        with open(hang, "w", encoding="utf-8"):
            pass
        serial.write("q")
        self.w.wait_state("a", "starting")
        self.w.ok("kill", "a")
        self.stopped_clean()
        self.assertEqual(self.w.state("a"), "stopped")

    def test_never_is_the_default(self):
        self.start()
        self.crash()
        self.w.wait_state("a", "stopped")
        self.stopped_clean()

    def test_it_gives_up_at_the_limit(self):
        serial = self.w.create_tiny("a", restart={"policy": "on-failure", "delay": 0, "limit": 2, "healthy-after": 86400})
        keeper = self.w.spawn("run", "a")
        for starts in range(3):
            serial.expect("TINY-READY")
            self.w.wait_state("a", "running")
            self.assertEqual(self.w.status("a")["restart"]["count"], starts)
            self.crash()
        self.assertEqual(keeper.wait(PATIENCE), CRASHED, self.w.logs())
        self.stopped_clean()

    def test_while_it_waits_it_can_be_started_at_once_or_stopped(self):
        serial, _ = self.start(policy="on-failure", delay=3600, **{"max-delay": 3600})
        with self.w.control("a") as qmp:
            self.crash()
            qmp.event("QMPCTL_RESTART", {"outcome": "waiting", "delay": 3600})
            self.assertEqual(self.w.state("a"), "stopped")
            self.assertIn("due", self.w.status("a")["restart"])
            self.w.ok("start", "a")
            serial.expect("TINY-READY")
            self.assertEqual(self.w.state("a"), "running")
            self.crash()
            qmp.event("QMPCTL_RESTART", {"outcome": "waiting"})
            self.w.ok("stop", "a")
            self.stopped_clean()

    def test_a_start_that_fails_counts(self):
        image = os.path.join(self.w.base, "x.raw")
        with open(image, "wb") as f:
            f.truncate(1 << 20)
        self.start_with_disk(image)
        os.rename(image, image + ".away")
        with self.w.control("a") as qmp:
            self.crash()
            qmp.event("QMPCTL_RESTART", {"outcome": "gave-up"})
        self.w.wait_state("a", "stopped")
        self.stopped_clean()

    def start_with_disk(self, image):
        self.w.start_tiny("a", disks=[{"path": image, "format": "raw"}],
                          restart={"policy": "on-failure", "delay": 0, "limit": 3})

    def test_the_policy_changes_at_once(self):
        serial, _ = self.start()
        result = self.w.ok("set", "a", "restart.policy=on-failure", "restart.delay=0", "-o", "json").json()
        self.assertEqual(result["next-start"], [])
        self.crash()
        serial.expect("TINY-READY")
        self.w.wait_state("a", "running")

    def test_start_of_what_runs_is_refused_on_the_socket(self):
        self.start()
        with self.w.control("a") as qmp, self.assertRaises(QmpError) as caught:
            qmp.execute("qmpctl-start")
        self.assertEqual(caught.exception.data["kind"], "state")


if __name__ == "__main__":
    world.main()
