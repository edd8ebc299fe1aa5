"""What the ids of a session rely on (qmp.h, "crossing"): a reply to a client who has left reaches the next one before the
reply to its qmp_capabilities, or never. Asked of QEMU itself, without qmpctl in between."""
import json
import os
import random
import socket
import subprocess
import tempfile
import time
import unittest

from qmp import PATIENCE

QEMU = os.environ.get("QMPCTL_QEMU") or "qemu-system-x86_64"
ENOUGH = 40  # replies that crossed
ROUNDS = 3000  # in which that many must have crossed
LONG = b'{"execute":"human-monitor-command","arguments":{"command-line":"info qtree"},"id":"old"}'
SHORT = b'{"execute":"query-version","id":"old"}'


class Gone(Exception):
    """QEMU ended the connection: QEMU 10 does so now and then to a client that comes when another has just left."""


class Client:
    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(path)
        self.file = self.sock.makefile("rb")

    def until(self, member, value=None):
        """How many messages came before the one that has MEMBER (of that VALUE)."""
        others = 0
        while True:
            try:
                line = self.file.readline()
            except ConnectionResetError:
                raise Gone from None
            if not line:
                raise Gone
            message = json.loads(line)
            if member in message and (value is None or message[member] == value):
                return others
            others += "event" not in message

    def ask(self, command, ident):
        self.send(json.dumps({"execute": command, "id": ident}).encode())
        return self.until("id", ident)

    def send(self, text):
        try:
            self.sock.sendall(text)
        except (BrokenPipeError, ConnectionResetError):
            raise Gone from None

    def close(self):
        self.file.close()
        self.sock.close()


class Crossing(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="qmpctl-")
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "qmp.sock")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.path)
            listener.listen(5)
            self.qemu = subprocess.Popen(
                [QEMU, "-S", "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35,accel=tcg", "-m", "16M",
                 "-chardev", f"socket,id=qmp,fd={listener.fileno()},server=on,wait=off", "-mon", "chardev=qmp,mode=control"],
                pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL)
        self.addCleanup(self.end)

    def end(self):
        self.qemu.kill()
        self.qemu.wait(PATIENCE)

    def leave_with_commands_running(self, draw):
        old = Client(self.path)
        try:
            old.until("QMP")
            old.ask("qmp_capabilities", "negotiation")
            old.send((LONG + SHORT) * 4)
        finally:
            time.sleep(draw.random() * 0.004)  # which of them runs then is left to chance
            old.close()

    def come_next(self):
        """How many replies for others came before the negotiation, and how many behind it."""
        new = Client(self.path)
        try:
            early = new.until("QMP") + new.ask("qmp_capabilities", "new")
            return early, sum(new.ask("query-status", f"new-{k}") for k in range(3))
        finally:
            new.close()

    def test_nothing_foreign_comes_behind_the_negotiation(self):
        draw = random.Random(1)
        crossed = 0
        for turn in range(ROUNDS):
            try:
                self.leave_with_commands_running(draw)
                early, late = self.come_next()
            except Gone:
                continue
            self.assertEqual(late, 0, f"in round {turn}")
            crossed += early
            if crossed >= ENOUGH:
                return
        self.fail(f"only {crossed} replies crossed in {ROUNDS} rounds: this has tested little")


if __name__ == "__main__":
    unittest.main(verbosity=2)
