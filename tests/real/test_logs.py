"""Logs do not fill the disk, whoever writes to them."""
import json
import os
import re
import signal

import world
from guest import tiny_spec
from qmp import Qmp
from world import WorldTest

KEPT = 64 << 10
ALL = 8 << 20


def limit(of=ALL):
    """What QEMU or a keeper may say of it; and what one console may, in each of its two files."""
    return of // 8, (of - 2 * (of // 8 + KEPT)) // 2



class Logs(WorldTest):
    def flood(self, pid, fd, name, most=limit()[0]):
        """PID's own standard error, as it would write to it."""
        path = os.path.join(self.w.vm_dir("a"), name)
        keeper = self.w.keeper_pid()
        # It looks at the log now and then: not before the last words are in it.
        os.kill(keeper, signal.SIGSTOP)
        try:
            with open(f"/proc/{pid}/fd/{fd}", "ab", buffering=0) as f:
                for _ in range(3 * 16):
                    f.write(b"x" * 65535 + b"\n")
                f.write(b"the last words\n")
        finally:
            os.kill(keeper, signal.SIGCONT)
        self.until(lambda: os.stat(path).st_size <= most, lambda: f"{path} has {os.stat(path).st_size} bytes")
        with open(path + ".1", "rb") as f:
            kept = f.read()
        self.assertLessEqual(len(kept), KEPT)
        self.assertTrue(kept.endswith(b"the last words\n"))
        with open(f"/proc/{pid}/fd/{fd}", "ab", buffering=0) as f:
            f.write(b"and on\n")
        with open(path, "rb") as f:
            self.assertEqual(f.read(), b"and on\n", "it goes on at the beginning, with no hole before it")

    def test_what_qemu_says(self):
        self.w.start_tiny("a")
        self.flood(self.w.qemu_pid("a"), 2, "qemu.log")
        self.w.ok("set", "a", "log-limit=1M")
        self.flood(self.w.qemu_pid("a"), 2, "qemu.log", limit(1 << 20)[0])
        self.assertEqual(self.w.state("a"), "running")

    def test_what_a_detached_keeper_says(self):
        self.w.start_tiny("a")
        self.flood(self.w.keeper_pid(), 2, "keeper.log")

    def test_lines_as_json(self):
        self.w.start_tiny("a")
        with open(f"/proc/{self.w.qemu_pid('a')}/fd/2", "ab", buffering=0) as f:
            f.write(b'one "two"\r\n')
            self.assertTrue(self.w.ok("logs", "a", "--of", "qemu").out.endswith('one "two"\n'))
            f.write(b"\xff\xfe\nthree")
        lines = [json.loads(line) for line in self.w.ok("logs", "a", "--of", "qemu", "-o", "json").out.splitlines()]
        self.assertEqual(lines[-3:], [{"vm": "a", "log": "qemu", "line": line} for line in ('one "two"', "\ufffd\ufffd", "three")])


class Consoles(WorldTest):
    """A guest that says more than anybody reads. Its port takes some 50 KiB a second: what it said before is nearly enough."""

    def start(self, most=ALL):
        self.most, self.file_most = most, limit(most)[1]
        self.w.create("a", {**tiny_spec(accel="tcg"), **({"log-limit": most} if most != ALL else {})})
        self.folder = os.path.join(self.w.root, "run", "a")
        os.makedirs(self.folder, mode=0o700)
        self.before = b"of an earlier run\n" * 250000
        for name, size in (("console-con0.log", self.file_most - (32 << 10)), ("console-con0.log.1", self.file_most)):
            with open(os.path.join(self.folder, name), "wb") as f:
                f.write(self.before[:size])
        self.w.ok("start", "a")
        self.w.ok("wait", "a", "--for", "console=TINY-READY\r\n")

    def log(self, name="console-con0.log"):
        with open(os.path.join(self.folder, name), "rb") as f:
            return f.read()

    def sizes(self):
        logs = {name: os.stat(os.path.join(self.folder, name)).st_size for name in os.listdir(self.folder) if ".log" in name}
        sizes = [size for name, size in logs.items() if "console" in name]
        self.assertLessEqual(max(sizes), self.file_most)
        self.assertLessEqual(len(sizes), 2)
        self.assertLessEqual(sum(logs.values()), self.most, logs)
        return sizes

    def type(self, byte):
        self.w.ok("type", "a", byte, "--no-newline")

    def numbers(self, text):
        return [int(n, 16) for n in re.findall(rb"FLOOD ([0-9a-f]{8}) a guest that says more than anybody wants to read\r\n", text)]

    def said(self):
        """The lines of the flood that the new log has whole."""
        self.sizes()
        return self.numbers(self.log())

    def test_a_guest_that_floods_its_serial_port(self):
        self.start(1 << 20)
        self.type("f")
        self.until(lambda: min(self.sizes()) < self.file_most // 2 and len(self.said()) > 100, "no new log was begun")
        self.assertEqual(self.w.state("a"), "running")
        self.type("x")
        self.w.ok("wait", "a", "--for", "console=FLOOD-END")
        old, new = self.log("console-con0.log.1"), self.log()
        self.assertTrue(old.startswith(self.before[:self.file_most - (32 << 10)]), "what is older went with the oldest file")
        numbers = self.numbers(old[self.file_most - (32 << 10):] + new)
        self.assertEqual(numbers, list(range(len(numbers))), "all that it said last is there")
        self.assertTrue(new.endswith(b"FLOOD-END\r\n"), new[-100:])
        self.w.ok("stop", "a")  # by a button that the guest itself heeds
        self.assertTrue(self.log().endswith(b"PWRBTN\r\nBYE\r\n"), self.log()[-100:])
        self.sizes()

    def line(self, qmp):
        """Which one the guest is at: it counts in a register."""
        text = qmp.execute("human-monitor-command", {"command-line": "info registers"})
        return int(re.search("EBX=([0-9a-f]{8})", text)[1], 16)

    def test_nobody_reads(self):
        """The guest says it all the same; whoever takes the VM over hears what comes then."""
        self.start()
        self.type("f")
        self.until(self.said, "it says nothing")
        self.w.kill_keeper()
        with Qmp(os.path.join(self.folder, "qmp.sock")) as qmp:
            first = self.line(qmp)
            self.until(lambda: self.line(qmp) > first + 500, "it is held up")
        self.w.ok("status", "a")
        self.until(lambda: max(self.said() + self.numbers(self.log("console-con0.log.1"))) > first + 500, "it is not heard")
        self.type("x")
        self.w.ok("wait", "a", "--for", "console=FLOOD-END")
        self.w.ok("stop", "a")


if __name__ == "__main__":
    world.main()
