"""QEMU ends in every state and every way: it is noticed by its pidfd, told, recorded, and nothing of it is left."""
import json
import os
import signal
import time

from chaos import FAKE, amount, figure, percentile

import world
from qmp import QmpClosed, QmpError
from world import PATIENCE, WorldTest

ROUNDS = amount("QMPCTL_ENDS", 1)  # how often each
KEPT = {"lock", "last-end.json"}


class Ends(WorldTest):
    def setUp(self):
        super().setUp()
        self.latencies = []
        self.begun = int(time.time())

    def tearDown(self):
        if self.latencies:
            figure(figure="a QEMU's end, from the signal to the event at a client", test=self.id().split(".")[-1],
                   n=len(self.latencies), p50_ms=round(percentile(self.latencies, 50), 1),
                   max_ms=round(max(self.latencies), 1), goal_ms=100)

    def kill(self, qmp, number=signal.SIGKILL):
        """Ends QEMU by that signal, and waits until a client is told."""
        pid = self.w.qemu_pid("a")
        qmp.events.clear()
        begun = time.monotonic()
        os.kill(pid, number)
        qmp.event("QMPCTL_STATE", {"state": "stopped"})
        self.latencies.append((time.monotonic() - begun) * 1000)

    def ended(self, reason, **more):
        """Nothing runs any more, and the record says how it came."""
        self.stopped_clean()
        folder = os.path.join(self.w.root, "run", "a")
        with open(os.path.join(folder, "last-end.json"), encoding="utf-8") as f:
            end = json.load(f)
        at = end.pop("time")
        self.assertTrue(self.begun <= at <= time.time(), (self.begun, at, time.time()))
        self.assertEqual(end, dict(more, reason=reason))
        left = {f for f in os.listdir(folder) if not f.endswith(".log")}
        self.assertLessEqual(left, KEPT)
        self.assertEqual(self.w.status("a")["last-end"]["reason"], reason)

    def rounds(self, **spec):
        serial = self.w.create_tiny("a", **spec)
        for _ in range(ROUNDS):
            self.begun = int(time.time())
            self.w.ok("start", "a")
            serial.expect("TINY-READY")
            with self.w.control("a") as qmp:
                yield serial, qmp

    def test_running(self):
        for number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT):
            with self.subTest(number):
                for _, qmp in self.rounds():
                    self.kill(qmp, number)
                    self.ended("crashed", signal=int(number))
                self.w.ok("delete", "a")
                self.w.serials.pop().close()
                os.unlink(os.path.join(self.w.base, "a-serial.sock"))

    def test_by_sigterm(self):
        for _, qmp in self.rounds():
            self.kill(qmp, signal.SIGTERM)
            self.ended("host-signal", **{"exit-code": 0})

    def test_paused(self):
        for _, qmp in self.rounds():
            qmp.execute("stop")
            qmp.event("QMPCTL_STATE", {"state": "paused"})
            self.kill(qmp)
            self.ended("crashed", signal=9)

    def test_by_the_guest(self):
        for byte, reason, more in (("q", "guest-shutdown", {"exit-code": 0}), ("p", "guest-panic", {"exit-code": 0}),
                                   ("x", "exited", None)):
            with self.subTest(byte):
                device = {"args": ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]} if byte == "x" else {}
                for serial, qmp in self.rounds(**device):
                    serial.write(byte)
                    qmp.event("QMPCTL_STATE", {"state": "stopped"})
                    code = {"exit-code": self.w.status("a")["last-end"].get("exit-code")}
                    self.ended(reason, **(code if more is None else more))
                self.w.ok("delete", "a")
                self.w.serials.pop().close()
                os.unlink(os.path.join(self.w.base, "a-serial.sock"))

    def test_by_quit(self):
        for _, qmp in self.rounds():
            qmp.send("quit")
            qmp.event("QMPCTL_STATE", {"state": "stopped"})
            self.ended("host-quit", **{"exit-code": 0})

    def test_starting(self):
        self.w.env.update(QMPCTL_QEMU=FAKE, FAKE_QEMU="silent=qmp_capabilities")
        self.w.create("a", {"memory": "16M", "accel": "tcg"})
        for _ in range(ROUNDS):
            start = self.w.spawn("start", "a")
            qemu = self.until(lambda: [p for p, cmd in self.w.processes().items() if "fake_qemu -name" in cmd],
                              "no QEMU was started")
            begun = time.monotonic()
            os.kill(qemu[0], signal.SIGKILL)
            self.assertEqual(start.wait(PATIENCE), world.FAILED, self.w.logs())
            self.latencies.append((time.monotonic() - begun) * 1000)  # with the end of two processes
            self.assertIn("signal 9", self.w.logs())
            self.ended("crashed", signal=9)

    def test_one_that_hangs_in_it_ends_all_the_same(self):
        self.w.env.update(QMPCTL_QEMU=FAKE, FAKE_QEMU="hang-at-end")
        self.w.create("a", {"memory": "16M", "accel": "tcg"})
        for verb, reason in (("stop", "guest-shutdown"), ("qmp", "host-quit")):
            with self.subTest(verb):
                self.w.ok("start", "a")
                self.w.ok(verb, "a", *(["quit"] if verb == "qmp" else []))
                self.ended(reason, **{"exit-code": 0})

    def fakes(self):
        """The QEMU of each VM, and everything that is none."""
        found = {pid: cmd.split(" ") for pid, cmd in self.w.processes().items()}
        qemus = {words[2].partition("=")[2].partition(",")[0]: pid for pid, words in found.items() if "fake_qemu" in words[0]}
        return qemus, [pid for pid in found if pid not in qemus.values()]

    def kill_keepers(self):
        keepers = self.fakes()[1]
        for pid in keepers:
            os.kill(pid, signal.SIGKILL)
        self.w.wait_gone(keepers)

    def test_one_that_hangs_in_it_is_ended_by_the_next_keeper_too(self):
        self.w.env.update(QMPCTL_QEMU=FAKE, FAKE_QEMU="hang-at-end")
        self.w.create("a", {"memory": "16M", "accel": "tcg", "restart": {"policy": "always"}})
        for command, reason in (("system_powerdown", "guest-shutdown"), ("quit", "host-quit")):
            with self.subTest(command):
                self.begun = int(time.time())
                self.w.ok("start", "a")
                with self.w.control("a") as qmp:
                    qmp.send(command)
                    qmp.event("SHUTDOWN")
                self.kill_keepers()
                self.assertEqual(list(self.fakes()[0]), ["a"])
                self.w.state("a")  # brings up the next one
                self.ended(reason)  # and it is not started again: its end was asked for

    def test_one_that_ends_with_nobody_there_is_known_by_what_it_said(self):
        self.w.env.update(QMPCTL_QEMU=FAKE, FAKE_QEMU="hang-at-end")
        self.w.create("a", {"memory": "16M", "accel": "tcg"})
        self.w.ok("start", "a")
        with self.w.control("a") as qmp:
            qmp.send("system_powerdown")
            qmp.event("SHUTDOWN")
        self.kill_keepers()
        os.kill(self.fakes()[0]["a"], signal.SIGTERM)
        self.stopped_clean()
        self.assertEqual(self.w.status("a")["last-end"]["reason"], "guest-shutdown")

    def test_the_next_keeper_ends_no_other_that_is_silent(self):
        self.w.env.update(QMPCTL_QEMU=FAKE, FAKE_QEMU="hang-at-end")
        names = ["by-spec", "by-command", "silent", "anew", "ends"]
        for name in names:
            self.w.create(name, dict({"memory": "16M", "accel": "tcg"}, **({"on-shutdown": "pause"} if name == "by-spec" else {})))
            self.w.ok("start", name)
        with self.w.control("by-command") as qmp:
            qmp.send("set-action", {"shutdown": "pause"})
            qmp.execute("query-name")
        self.w.ok("reboot", "anew", "--timeout", "60")  # what is known of the end of its first QEMU is none of the second
        for name in set(names) - {"silent", "anew"}:
            with self.w.control(name) as qmp:
                qmp.send("system_powerdown")
                qmp.event("SHUTDOWN")
        self.kill_keepers()
        qemus = self.fakes()[0]
        spared = [qemus[name] for name in names[:-1]]
        for pid in spared:
            os.kill(pid, signal.SIGSTOP)  # so that what it is sent can be seen
        self.w.spawn("run", *names)
        self.w.wait_gone([qemus["ends"]])  # whatever is done to the others has been done
        for name, pid in zip(names, spared):
            self.assertFalse(self.is_pending(pid, signal.SIGTERM), name)
            self.assertFalse(self.w.is_gone(pid), name)

    def is_pending(self, pid, number):
        """Whether a process that is stopped gets the signal when it goes on."""
        with open(f"/proc/{pid}/status", encoding="ascii") as f:
            masks = [int(line.split()[1], 16) for line in f if line.startswith(("SigPnd:", "ShdPnd:"))]
        return any(mask >> (number - 1) & 1 for mask in masks)

    def test_one_that_is_told_to_stay_does(self):
        serial = self.w.start_tiny("a", args=["-no-shutdown"])
        pid = self.w.qemu_pid("a")
        with self.w.control("a") as qmp:
            serial.write("q")
            qmp.event("SHUTDOWN")
            qmp.event("STOP")
            os.kill(pid, signal.SIGSTOP)
            qmp.event("QMPCTL_STATE", {"state": "unresponsive"})
            qmp.execute("qmpctl-status")  # what was done about it has been done
            self.assertFalse(self.is_pending(pid, signal.SIGTERM))
            os.kill(pid, signal.SIGCONT)
            qmp.event("QMPCTL_STATE", {"state": "paused"})
        self.assertEqual(self.w.status("a")["pid"], pid)
        self.w.ok("kill", "a")

    def test_during_hot_plug(self):
        image = os.path.join(self.w.base, "x.img")
        with open(image, "wb") as f:
            f.truncate(1 << 20)
        for _, qmp in self.rounds():
            os.kill(self.w.qemu_pid("a"), signal.SIGSTOP)
            ident = qmp.send("qmpctl-disk-add", {"disk": {"id": "vdx", "path": image, "format": "raw"}})
            self.until(lambda: "operation" in self.w.status("a"), "it has not begun")
            self.kill(qmp)
            try:
                qmp.reply(ident)
                self.fail("a disk was added to a VM that has ended")
            except (QmpError, QmpClosed):
                pass
            self.ended("crashed", signal=9)
            self.assertEqual(self.w.ok("show", "a", "-o", "json").json()["spec"].get("disks", []), [])

    def test_during_stop(self):
        for serial, qmp in self.rounds():
            serial.write("i")
            serial.expect("i")
            ident = qmp.send("qmpctl-stop", {"timeout": 60})
            qmp.event("POWERDOWN")
            self.kill(qmp)
            self.assertEqual(qmp.reply(ident)["outcome"], "done")
            self.ended("crashed", signal=9)

    def test_unresponsive(self):
        for _, qmp in self.rounds():
            os.kill(self.w.qemu_pid("a"), signal.SIGSTOP)
            qmp.event("QMPCTL_STATE", {"state": "unresponsive"})
            self.kill(qmp)
            self.ended("crashed", signal=9)


if __name__ == "__main__":
    world.main()
