"""The test guests: their specs, and talking to them over a serial port that belongs to the test.

The guest's COM1 is a chardev that connects to a socket on which the test listens. So nothing that the guest says is
lost, whoever starts and restarts QEMU, and the tests do not depend on qmpctl's own consoles.
"""
import os
import select
import socket
import threading
import time

from qmp import PATIENCE

BOOT = 6 * PATIENCE  # a Linux guest under TCG: seconds, and minutes where many others want the processors
LINUX_CMDLINE = "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off nokaslr no_timer_check"


def guest_file(name):
    folder = os.environ.get("QMPCTL_GUEST") or os.path.join(os.path.dirname(__file__), "../../build/guest")
    path = os.path.realpath(os.path.join(folder, name))
    if not os.path.exists(path):
        raise AssertionError(f"{path} is missing: run tests/guest/build.sh")
    return path


class Serial:
    """The far end of a guest's serial port; a new QEMU connects to the same one again."""

    def __init__(self, path):
        self.path = path
        self.text = ""
        self.mark = 0
        self.peer = None
        self.cond = threading.Condition()
        self.closed = False
        self.wake_r, self.wake_w = os.pipe()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(path)
        self.listener.listen(8)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while not self.closed:
            ready = [self.listener, self.wake_r] + ([self.peer] if self.peer else [])
            ready = select.select(ready, [], [])[0]
            if self.peer in ready:
                try:
                    data = self.peer.recv(1 << 16)
                except OSError:
                    data = b""
                with self.cond:
                    if data:
                        self.text += data.decode("utf-8", "replace")
                    else:
                        self.peer.close()
                        self.peer = None
                    self.cond.notify_all()
            elif self.listener in ready:
                with self.cond:
                    if self.peer:
                        self.peer.close()
                    self.peer = self.listener.accept()[0]
                    self.cond.notify_all()

    def _until(self, what, timeout, done):
        deadline = time.monotonic() + timeout
        with self.cond:
            while True:
                value = done()
                if value is not None:
                    return value
                left = deadline - time.monotonic()
                if left <= 0 or not self.cond.wait(left):
                    raise AssertionError(f"the guest did not {what} within {timeout} s; its last words: "
                                         f"{self.text[-400:]!r}")

    def expect(self, text, timeout=PATIENCE):
        """Waits for TEXT after what the last expect found; returns what stood before it."""

        def found():
            at = self.text.find(text, self.mark)
            if at < 0:
                return None
            before, self.mark = self.text[self.mark:at], at + len(text)
            return before

        return self._until(f"say {text!r}", timeout, found)

    def write(self, text, timeout=PATIENCE):
        peer = self._until("connect its serial port", timeout, lambda: self.peer)
        peer.sendall(text.encode())

    def command(self, command, timeout=PATIENCE):
        """Runs a shell command in the Linux guest: (status, output)."""
        self.serial_id = getattr(self, "serial_id", 0) + 1
        ident = f"t{self.serial_id}"
        self.write(f"{ident} {command}\n")
        self.expect(f"@{ident} BEGIN", timeout)
        output = self.expect(f"@{ident} END ", timeout)
        status = self.expect("\n", timeout)
        return int(status), output.strip()

    def close(self):
        self.closed = True
        os.write(self.wake_w, b"x")
        self.thread.join(PATIENCE)
        for end in (self.peer, self.listener):
            if end:
                end.close()
        os.close(self.wake_r)
        os.close(self.wake_w)


def with_serial(spec, serial):
    """SPEC with its COM1 led to SERIAL in the place of the console that qmpctl would make."""
    spec = dict(spec, consoles=[])
    spec["args"] = list(spec.get("args", [])) + [
        "-chardev", f"socket,id=testserial,path={serial.path}",
        "-device", "isa-serial,chardev=testserial,iobase=0x3f8,irq=4",
    ]
    return spec


def tiny_spec(**more):
    """The tiny firmware guest: up in milliseconds under KVM."""
    spec = {"memory": "16M", "agent": False, "balloon": False, "rng": False,
            "firmware": {"type": "bios", "path": guest_file("tinybios.bin")}}
    spec.update(more)
    return spec


def linux_spec(words="", **more):
    """The Linux guest, under TCG everywhere: KVM may be a nested one in which Linux does not come up."""
    spec = {"accel": "tcg", "memory": "256M",
            "boot": {"kernel": guest_file("vmlinuz"), "initrd": guest_file("initrd.img"),
                     "cmdline": f"{LINUX_CMDLINE} {words}".strip()}}
    spec.update(more)
    return spec
