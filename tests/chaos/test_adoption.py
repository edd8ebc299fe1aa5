"""Many real QEMUs whose keeper is killed are taken over by another, all of them, unharmed."""
import signal
import os
import time

from chaos import amount, figure

import world
from world import PATIENCE, WorldTest

VMS = amount("QMPCTL_VMS", 20)


class Adoption(WorldTest):
    def test_all_are_taken_over(self):
        names = [f"v{i}" for i in range(VMS)]
        serials = [self.w.create_tiny(name) for name in names]
        # Paused: the tiny guest waits for its serial port in a loop, and so many take all of the machine.
        keeper = self.w.spawn("run", "--paused", *names)
        for name in names:
            self.w.ok("wait", name, "--for", "paused", "--timeout", "120", timeout=4 * PATIENCE)
        pids = {name: self.status(name)["pid"] for name in names}
        os.kill(keeper.pid, signal.SIGKILL)
        keeper.wait(PATIENCE)
        begun = time.monotonic()
        keeper = self.w.spawn("run", *names)
        clients = [self.connect(name) for name in names]
        for qmp in clients:
            self.addCleanup(qmp.close)
            self.assertEqual(qmp.execute("qmpctl-wait", {"for": "paused", "timeout": 60}, timeout=2 * PATIENCE)["outcome"], "done")
        figure(figure=f"a keeper takes over {VMS} QEMUs", seconds=round(time.monotonic() - begun, 2), goal_s=2)
        self.assertEqual({name: self.status(name)["pid"] for name in names}, pids)
        self.assertEqual({name: self.status(name)["keeper-pid"] for name in names}, dict.fromkeys(names, keeper.pid))
        for qmp, serial in zip(clients, serials):
            qmp.execute("cont")
            serial.expect("TINY-READY")
            qmp.execute("qmpctl-kill")
        self.assertEqual(keeper.wait(PATIENCE), world.KILLED)
        self.stopped_clean()

    def status(self, name):
        with self.w.control(name) as qmp:
            return qmp.execute("qmpctl-status")

    def connect(self, name):
        """The new keeper may not listen yet, and the old one's socket is still there."""
        def connected():
            try:
                return self.w.control(name)
            except OSError:
                return None
        return self.until(connected, f"nobody listens for {name}")


if __name__ == "__main__":
    world.main()
