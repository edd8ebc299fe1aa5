"""Every exit status in docs/exit-status.md, provoked: one test a status, and none in the table without one."""
import os
import re
import signal
import socket
import subprocess
import threading
import unittest

import world
from guest import tiny_spec
from qmp import Qmp
from world import (CRASHED, EXITED, FAILED, HOST, KILLED, NOT_FOUND, OK, PANICKED, PATIENCE, PENDING, STATE, TIMEOUT,
                   UNREACHABLE, USAGE, WorldTest)

DOCUMENT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../docs/exit-status.md")


class Impostor:
    """Listens in the place of a keeper and says TEXT to whoever comes, and hangs up."""

    def __init__(self, path, text):
        self.text = text
        if os.path.exists(path):
            os.unlink(path)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(8)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while True:
            try:
                peer = self.listener.accept()[0]
            except OSError:
                return
            with peer:
                try:
                    peer.sendall(self.text)
                except OSError:
                    pass

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(5)


class Verbs(WorldTest):
    def fails(self, status, *args, says="", **kw):
        result = self.w.expect(status, *args, **kw)
        self.assertRegex(result.err, r"\S")
        self.assertIn(says, result.err)
        return result

    def test_0_done(self):
        self.w.ok("list")
        self.w.start_tiny("a")
        self.w.ok("pause", "a")
        self.w.ok("resume", "a")
        self.w.ok("stop", "a")

    def test_1_failed(self):
        self.w.create("bad", tiny_spec(args=["-device", "no-such-device"]))
        self.fails(FAILED, "start", "bad", says="no-such-device")
        self.w.start_tiny("a")
        self.fails(FAILED, "qmp", "a", "device_del", "id=nosuch", says="nosuch")

    def test_2_usage(self):
        self.w.expect(USAGE)
        self.fails(USAGE, "no-such-verb")
        self.fails(USAGE, "list", "--no-such-option")
        self.fails(USAGE, "create", "a", "--memory", "much")
        self.w.start_tiny("a")
        self.fails(USAGE, "set", "a", "cpu.count=many", says="cpu.count")
        self.fails(USAGE, "disk", "add", "a", "path=/x,format=nonsense", says="nonsense")

    def test_3_not_found(self):
        for verb in ("start", "run", "stop", "status", "show", "delete"):
            self.fails(NOT_FOUND, verb, "nosuch", says="nosuch")
        self.w.start_tiny("a")
        self.fails(NOT_FOUND, "disk", "remove", "a", "nosuch", says="nosuch")
        self.fails(NOT_FOUND, "nic", "remove", "a", "nosuch", says="nosuch")

    def test_4_state(self):
        self.w.create_tiny("a")
        self.fails(STATE, "stop", "a")
        self.fails(STATE, "pause", "a")
        self.fails(STATE, "create", "a")
        self.w.ok("start", "a")
        self.fails(STATE, "start", "a")
        self.fails(STATE, "run", "a")
        self.fails(STATE, "delete", "a")

    def test_5_timeout(self):
        serial = self.w.start_tiny("a")
        serial.write("i")
        serial.expect("i")
        self.fails(TIMEOUT, "stop", "a", "--timeout", "1")
        self.fails(TIMEOUT, "wait", "a", "--for", "event=NEVER", "--timeout", "1")
        self.w.create_tiny("b")
        self.fails(TIMEOUT, "wait", "b", "--for", "running", "--timeout", "1")
        self.assertEqual(self.w.state("a"), "running")

    def test_6_pending(self):
        image = os.path.join(self.w.base, "x.raw")
        with open(image, "wb") as f:
            f.truncate(1 << 20)
        serial = self.w.start_tiny("a")
        self.w.ok("disk", "add", "a", f"path={image},format=raw")
        serial.write("e")
        serial.expect("e")
        self.fails(PENDING, "disk", "remove", "a", "vda", "--timeout", "1", says="pending")
        self.w.expect(PENDING, "disk", "remove", "a", "vda", "--timeout", "1", "-o", "json")

    def test_7_unreachable(self):
        """A keeper that is none: it speaks no QMP, or hangs up."""
        self.w.create_tiny("a")
        folder = os.path.join(self.w.root, "run", "a")
        os.makedirs(folder, 0o700, exist_ok=True)
        for text in (b"220 mail.example.org ESMTP\r\n", b'{"QMP": {"version": {}, "capabilities": []}}\r\n', b""):
            with self.subTest(text=text):
                impostor = Impostor(os.path.join(folder, "control.sock"), text)
                try:
                    self.fails(UNREACHABLE, "status", "a", says="control.sock" if text[:1] in b"{" else "QMP")
                finally:
                    impostor.close()

    def test_7_qemu_that_has_gone_from_the_keeper(self):
        """Its process stopped: what needs QEMU cannot be had, and its keeper says so."""
        self.w.start_tiny("a")
        self.w.kill_keeper()
        qemu = self.w.qemu_pid("a")
        os.kill(qemu, signal.SIGSTOP)
        self.fails(UNREACHABLE, "pause", "a")
        os.kill(qemu, signal.SIGCONT)
        self.w.wait_state("a", "running")

    def test_8_host(self):
        self.w.create_tiny("a")
        self.w.env["QMPCTL_QEMU"] = "/no/such/qemu"
        self.fails(HOST, "start", "a", says="/no/such/qemu")
        with open("/dev/full", "wb") as full:
            done = subprocess.run(self.w.argv("show", "a"), env=self.w.env, stdout=full, stderr=subprocess.PIPE,
                                  timeout=PATIENCE)
        self.assertEqual(done.returncode, HOST, done.stderr)
        self.assertIn("standard output", done.stderr.decode())


class Run(WorldTest):
    def ends(self, status, name, **more):
        serial = self.w.create_tiny(name, **more)
        keeper = self.w.spawn("run", name)
        serial.expect("TINY-READY")
        self.w.wait_state(name, "running")
        yield serial
        self.assertEqual(keeper.wait(PATIENCE), status, self.w.logs())
        self.stopped_clean()

    def test_0_well(self):
        for serial in self.ends(OK, "a"):
            serial.write("q")
        for _ in self.ends(OK, "b"):
            with Qmp(os.path.join(self.w.vm_dir("b"), "control.sock")) as qmp:
                qmp.send("quit")
                self.w.wait_state("b", "stopped")

    def test_20_killed(self):
        for _ in self.ends(KILLED, "a"):
            self.w.ok("kill", "a")

    def test_21_crashed(self):
        for _ in self.ends(CRASHED, "a"):
            os.kill(self.w.qemu_pid("a"), signal.SIGSEGV)

    def test_22_panicked(self):
        for serial in self.ends(PANICKED, "a"):
            serial.write("p")

    def test_23_exited(self):
        for serial in self.ends(EXITED, "a", args=["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]):
            serial.write("x")


class Table(unittest.TestCase):
    def test_each_status_of_the_table_has_a_test(self):
        with open(DOCUMENT, encoding="ascii") as f:
            listed = {int(n) for n in re.findall(r"^\| (\d+) \|", f.read(), re.MULTILINE)}
        self.assertEqual(len(listed), 13)
        provoked = {int(m[1]) for case in (Verbs, Run) for name in dir(case) if (m := re.match(r"test_(\d+)_", name))}
        self.assertEqual(listed, provoked)


if __name__ == "__main__":
    world.main()
