"""What run tells its supervisor, as sd_notify(3) has it: to a socket with a name in the file system, and to an abstract one."""
import os
import select
import signal
import socket

import world
from world import OK, PATIENCE, STATE, WorldTest


class Supervisor:
    """The socket on which systemd listens."""

    def __init__(self, test, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        test.addCleanup(self.socket.close)
        self.socket.bind(address)

    def hears(self, timeout):
        """The next message; None where none comes in time."""
        ready = select.select([self.socket], [], [], timeout)[0]
        return self.socket.recv(4096).decode() if ready else None


class Notify(WorldTest):
    def supervise(self, abstract):
        path = os.path.join(self.w.base, "notify.sock")
        self.w.env["NOTIFY_SOCKET"] = "@" + path if abstract else path
        return Supervisor(self, "\0" + path if abstract else path)

    def environment_of(self, pid):
        with open(f"/proc/{pid}/environ", "rb") as f:
            return f.read()

    def check_life(self, abstract):
        serial = self.w.create_tiny("a")
        supervisor = self.supervise(abstract)
        keeper = self.w.spawn("run", "a")
        self.assertEqual(supervisor.hears(PATIENCE), "READY=1")
        self.assertEqual(self.w.state("a"), "running")
        self.assertNotIn(b"NOTIFY_SOCKET", self.environment_of(self.w.qemu_pid("a")))
        serial.expect("TINY-READY")
        keeper.send_signal(signal.SIGTERM)
        self.assertEqual(supervisor.hears(PATIENCE), "STOPPING=1")
        serial.expect("PWRBTN")
        self.assertEqual(keeper.wait(PATIENCE), OK)
        self.assertIsNone(supervisor.hears(0))
        self.stopped_clean()

    def test_ready_and_stopping(self):
        self.check_life(False)

    def test_ready_and_stopping_on_an_abstract_socket(self):
        self.check_life(True)

    def test_a_restarted_service_takes_the_vm_over(self):
        """What qmpctl@.service does: SIGTERM leaves the VM, the next one is ready as soon as it has it."""
        serial = self.w.create_tiny("a")
        supervisor = self.supervise(False)
        for _ in range(3):
            keeper = self.w.spawn("run", "--on-term", "detach", "a")
            self.assertEqual(supervisor.hears(PATIENCE), "READY=1")
            qemu = self.w.qemu_pid("a")
            keeper.send_signal(signal.SIGTERM)
            self.assertEqual(supervisor.hears(PATIENCE), "STOPPING=1")
            self.assertEqual(keeper.wait(PATIENCE), OK)
            self.assertEqual(self.w.qemu_pid("a"), qemu)
        serial.expect("TINY-READY")
        serial.write("z")
        serial.expect("z")
        self.assertEqual(serial.text.count("TINY-READY"), 1)

    def test_what_does_not_come_up_is_not_ready(self):
        self.w.start_tiny("a")
        supervisor = self.supervise(False)
        self.assertEqual(self.w.spawn("run", "a").wait(PATIENCE), STATE)
        self.assertIsNone(supervisor.hears(0))


if __name__ == "__main__":
    world.main()
