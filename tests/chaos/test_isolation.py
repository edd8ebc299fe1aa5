"""
One VM of many in one keeper does not answer: it alone is unresponsive, the others are as quick as before. A keeper that does not
answer is named, and nothing is done behind its back.
"""
import os
import signal
import subprocess
import time

from chaos import FakeWorld, amount, figure, percentile

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


class StoppedKeeper(WorldTest):
    def setUp(self):
        self.w = FakeWorld()
        self.addCleanup(self.w.close)
        self.w.create_fakes(["a"])
        self.w.ok("start", "a")
        self.pid, self.keeper = (self.w.status("a")[key] for key in ("pid", "keeper-pid"))
        os.kill(self.keeper, signal.SIGSTOP)

    def test_it_is_named_and_goes_on(self):
        asked = (("status", "a"), ("set", "a", "description=x"), ("disk", "list", "a"), ("stop", "a"), ("kill", "a"))
        procs = [subprocess.Popen(self.w.argv(*words), env=self.w.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                 for words in asked]
        self.assertIn("another keeper", self.w.expect(world.STATE, "run", "a").err)
        self.assertIn("does not answer", self.w.ok("list").out)
        for proc, words in zip(procs, asked):
            out, err = proc.communicate(timeout=PATIENCE)
            self.assertEqual((proc.returncode, out), (world.TIMEOUT, ""), (words, err))
            for part in (f"the process {self.keeper}", "stopped", "nothing was asked of it", f"kill -CONT {self.keeper}"):
                self.assertIn(part, err, words)
        os.kill(self.keeper, signal.SIGCONT)
        status = self.w.status("a")
        self.assertEqual((status["state"], status["pid"], status["keeper-pid"]), ("running", self.pid, self.keeper))
        self.assertNotIn("description", self.w.ok("show", "a", "-o", "json").json()["spec"])

    def test_it_is_ended_and_the_vm_is_taken_over(self):
        os.kill(self.keeper, signal.SIGKILL)
        self.w.wait_gone([self.keeper])
        status = self.w.status("a")
        self.assertEqual((status["state"], status["pid"]), ("running", self.pid))
        self.assertNotEqual(status["keeper-pid"], self.keeper)

    def test_what_has_ended_meanwhile_is_known(self):
        os.kill(self.pid, signal.SIGKILL)
        os.kill(self.keeper, signal.SIGCONT)
        self.until(lambda: self.w.state("a") == "stopped", "its end is not noticed")
        end = self.w.status("a")["last-end"]
        self.assertEqual((end["reason"], end["signal"]), ("crashed", 9))


if __name__ == "__main__":
    world.main()
