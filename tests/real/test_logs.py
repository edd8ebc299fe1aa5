"""Logs do not fill the disk, whoever writes to them."""
import json
import os
import signal

import world
from world import WorldTest

LIMIT = 1 << 20


class Logs(WorldTest):
    def flood(self, pid, fd, name):
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
        self.until(lambda: os.stat(path).st_size <= LIMIT, lambda: f"{path} has {os.stat(path).st_size} bytes")
        with open(path + ".1", "rb") as f:
            kept = f.read()
        self.assertLessEqual(len(kept), 64 << 10)
        self.assertTrue(kept.endswith(b"the last words\n"))
        with open(f"/proc/{pid}/fd/{fd}", "ab", buffering=0) as f:
            f.write(b"and on\n")
        with open(path, "rb") as f:
            self.assertEqual(f.read(), b"and on\n", "it goes on at the beginning, with no hole before it")

    def test_what_qemu_says(self):
        self.w.start_tiny("a")
        self.flood(self.w.qemu_pid("a"), 2, "qemu.log")
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


if __name__ == "__main__":
    world.main()
