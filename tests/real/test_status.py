"""status and list: what they say of a VM that is not simply up or down, as text and as JSON."""
import os
import signal

import world
from world import WorldTest


class Status(WorldTest):
    def row(self, name="a"):
        rows = {row["name"]: row for row in self.w.ok("list", "-o", "json").json()}
        return rows[name]

    def line(self, name="a"):
        for line in self.w.ok("list").out.splitlines():
            if line.split()[0] == name:
                return line
        raise AssertionError(f"{name} is not listed")

    def test_a_qemu_that_does_not_answer(self):
        self.w.start_tiny("a")
        qemu = self.w.qemu_pid("a")
        os.kill(qemu, signal.SIGSTOP)
        try:
            self.w.wait_state("a", "unresponsive")
            why = self.w.status("a")["unresponsive"]["why"]
            text = self.w.ok("status", "a").out
            self.assertRegex(text, r"(?m)^state +unresponsive$")
            self.assertRegex(text, r"(?m)^silent +for \d+ s: ")
            self.assertIn(why[:20], text)
            self.assertEqual(self.row()["unresponsive"]["why"][:20], why[:20])
            self.assertIn(why[:20], self.line())
        finally:
            os.kill(qemu, signal.SIGCONT)
        self.w.wait_state("a", "running")
        self.assertNotIn("silent", self.w.ok("status", "a").out)

    def test_a_restart_that_is_to_come(self):
        self.w.start_tiny("a", restart={"policy": "always", "delay": 600, "max-delay": 600})
        self.assertRegex(self.w.ok("status", "a").out, r"(?m)^restart +always$")
        os.kill(self.w.qemu_pid("a"), signal.SIGKILL)
        self.w.wait_state("a", "stopped")
        self.assertRegex(self.w.ok("status", "a").out, r"(?m)^restart +always, 1 in a row, the next in \d+ s$")
        self.assertRegex(self.line(), r"stopped .* starts again in \d+ s$")
        self.assertIn("due", self.row()["restart"])
        self.w.ok("stop", "a")
        self.stopped_clean()

    def test_a_qemu_without_a_keeper_is_not_stopped(self):
        self.w.start_tiny("a")
        qemu = self.w.qemu_pid("a")
        self.w.kill_keeper()
        self.assertEqual(self.row()["state"], "unattended")
        self.assertIn("no keeper", self.line())
        self.assertEqual(self.w.state("a"), "running")
        self.assertEqual(self.w.qemu_pid("a"), qemu)
        self.assertEqual(self.row()["state"], "running")


if __name__ == "__main__":
    world.main()
