"""One VM of many in one keeper does not answer: it alone is unresponsive, the others are as quick as before."""
import os
import signal
import time

from chaos import amount, figure, percentile

import world
from world import PATIENCE, WorldTest

VMS = amount("QMPCTL_VMS", 20)
ASKED = amount("QMPCTL_ASKED", 50)  # how often each, before and meanwhile
UNRESPONSIVE_AFTER = 5


class Isolation(WorldTest):
    def ask_all(self, clients, command):
        """Milliseconds of each answer."""
        took = []
        for _ in range(ASKED):
            for qmp in clients:
                begun = time.monotonic()
                qmp.execute(command)
                took.append((time.monotonic() - begun) * 1000)
        return took

    def test_one_of_many_stops(self):
        names = [f"v{i}" for i in range(VMS)]
        for name in names:
            self.w.create_tiny(name)
        # Paused: the tiny guest waits for its serial port in a loop, and so many take all of the machine.
        keeper = self.w.spawn("run", "--paused", *names)
        for name in names:
            self.w.ok("wait", name, "--for", "paused")
        clients = []
        for name in names:
            clients.append(self.w.control(name))
            self.addCleanup(clients[-1].close)
        victim, others = clients[0], clients[1:]
        pids = [qmp.execute("qmpctl-status")["pid"] for qmp in clients]
        before = {command: self.ask_all(others, command) for command in ("qmpctl-status", "query-status")}
        os.kill(pids[0], signal.SIGSTOP)
        begun = time.monotonic()
        ident = victim.send("query-name")
        victim.event("QMPCTL_STATE", {"state": "unresponsive"})
        noticed = time.monotonic() - begun
        meanwhile = {command: self.ask_all(others, command) for command in before}
        status = self.w.status(names[0])
        self.assertEqual(status["state"], "unresponsive")
        self.assertIn("SIGSTOP", status["unresponsive"]["why"])
        os.kill(pids[0], signal.SIGCONT)
        begun = time.monotonic()
        victim.event("QMPCTL_STATE", {"state": "paused"})
        back = time.monotonic() - begun
        self.assertEqual(victim.reply(ident), {"name": names[0]})  # what was sent meanwhile was not lost
        for command in before:
            p99 = [percentile(times[command], 99) for times in (before, meanwhile)]
            figure(figure=f"{command} of {VMS - 1} VMs while another one does not answer, p99", before_ms=round(p99[0], 2),
                   meanwhile_ms=round(p99[1], 2), ratio=round(p99[1] / p99[0], 2),
                   noticed_s=round(noticed, 1), goal_s=UNRESPONSIVE_AFTER, back_s=round(back, 2))
        for qmp, pid in zip(others, pids[1:]):
            self.assertEqual([e for e in qmp.events if e["event"] == "QMPCTL_STATE"], [])
            self.assertEqual(qmp.execute("qmpctl-status")["pid"], pid)
        self.assertEqual(victim.execute("qmpctl-status")["pid"], pids[0])
        for qmp in clients:
            qmp.execute("qmpctl-kill")
        self.assertEqual(keeper.wait(PATIENCE), world.KILLED)


if __name__ == "__main__":
    world.main()
