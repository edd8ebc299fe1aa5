"""
A hundred thousand events a second: the keeper stays small, tells them in order, answers, and cuts off who does not read. What
happens meanwhile (the VM stops and goes on, a device goes, the power goes off) is seen among them each time.
"""
import os
import re
import select
import signal
import threading
import time

from chaos import FakeWorld, amount, cpu_seconds, figure, percentile, private_kib

import world
from qmp import Qmp, QmpClosed
from world import PATIENCE, WorldTest

EVENTS = amount("QMPCTL_EVENTS", 100000)  # a second
SECONDS = amount("QMPCTL_FLOOD_SECONDS", 4)
MOST_KIB = 32 * 1024
TRIES = 50
PATIENCE = 120  # seconds until one that does not read must be cut off, on a machine that has no time for us


class Reader(threading.Thread):
    """Reads all that comes, as quick as it can; what it misses it misses by being cut off, and then it connects again."""

    def __init__(self, connect):
        super().__init__()
        self.connect, self.ended, self.seen, self.cut, self.disorder = connect, threading.Event(), 0, 0, None
        self.first = self.last = None

    def take(self, text):
        for number in map(int, re.findall(rb'"offset": ?(\d+)\}', text)):
            if self.last is not None and number <= self.last:
                self.disorder = self.disorder or (self.last, number)
            self.first = number if self.first is None else self.first
            self.last = number
            self.seen += 1

    def run(self):
        while not self.ended.is_set():
            with self.connect() as qmp:
                rest = b""
                while not self.ended.is_set():
                    try:
                        text = qmp.sock.recv(1 << 18)
                    except TimeoutError:
                        continue
                    if not text:
                        self.cut += 1
                        break
                    text, _, rest = (rest + text).rpartition(b"\n")
                    self.take(text)


class Flood(WorldTest):
    def setUp(self):
        self.w = FakeWorld()
        self.addCleanup(self.w.close)

    def ask(self, command, arguments=None, sock="control.sock"):
        """
        As a new client each time: one that stays would have all the events to read first. One that has no time for them (the
        machine is busy) is cut off, and asks again.
        """
        for left in reversed(range(TRIES)):
            try:
                with Qmp(os.path.join(self.w.run_dir("a"), sock)) as qmp:
                    sent = time.monotonic()
                    answer = qmp.execute(command, arguments)
                    self.took.append((time.monotonic() - sent) * 1000)
                    return answer
            except (QmpClosed, ConnectionError):
                self.cut += 1
                if not left:
                    raise

    def measure(self):
        self.assertEqual(self.ask("query-status")["status"], self.wanted)
        self.most = max(self.most, private_kib(self.keeper.pid) - self.before)

    def told(self):
        """The state that everybody is told, asked once: all of them in another way."""
        return {"observe.sock": self.ask("qmpctl-status", sock="observe.sock")["state"], "status": self.w.state("a"),
                "list": self.w.ok("list", "-o", "json").json()[0]["state"]}

    def shown(self, wanted):
        self.wanted = wanted
        self.assertEqual(self.told(), dict.fromkeys(("observe.sock", "status", "list"), wanted))

    def stops_by_itself(self, wanted):
        """What QEMU says of it comes before the answer that shows it; so the keeper knows when that answer is here."""
        os.kill(self.qemu, signal.SIGUSR1)
        self.until(lambda: self.ask("query-status")["status"] == wanted, f"QEMU is not {wanted}")
        self.shown(wanted)

    def stops_by_command(self, command, wanted):
        self.ask(command)
        self.shown(wanted)

    def unplugs(self):
        """A removal waits for an event that comes in the middle of the flood."""
        self.w.ok("disk", "add", "a", f"{self.image},format=raw,id=vdx")
        remove = self.w.spawn("disk", "remove", "a", "vdx")
        self.until(lambda: self.ask("qmpctl-status").get("operation") == "qmpctl-disk-remove", "it is not removed")
        self.measure()
        # Until it has been asked there is nothing to let go of; the event comes once.
        self.until(lambda: os.kill(self.qemu, signal.SIGUSR2) or remove.poll() is not None, "the removal does not end")
        self.assertEqual(remove.wait(), world.OK, self.w.logs())
        status = self.ask("qmpctl-status")
        self.assertEqual((status["pending"], status.get("operation"), status.get("differences")), ([], None, None))
        self.assertNotIn("vdx", [d["name"] for d in self.ask("qom-list", {"path": "/machine/peripheral"})])

    def test_flood(self):
        self.w.create_fakes(["a"])
        self.image = os.path.join(self.w.base, "x.img")
        with open(self.image, "wb") as f:
            f.truncate(1 << 20)
        self.w.script("a", f"events={EVENTS} no-unplug")
        self.keeper = self.w.spawn("run", "a")
        self.w.ok("wait", "a", "--for", "running")
        self.qemu, self.wanted, self.took, self.most, self.cut = self.w.status("a")["pid"], "running", [], 0, 0
        changes = 0
        with self.w.control("a") as deaf:
            reader = Reader(lambda: self.w.control("a", timeout=10))
            self.before = private_kib(self.keeper.pid)
            begun, cpu = time.monotonic(), cpu_seconds(self.keeper.pid)
            reader.start()
            try:
                while time.monotonic() < begun + SECONDS:
                    for change, *arguments in ((self.stops_by_itself, "paused"), (self.stops_by_itself, "running"),
                                               (self.stops_by_command, "stop", "paused"),
                                               (self.stops_by_command, "cont", "running"), (self.unplugs,)):
                        self.measure()
                        change(*arguments)
                        changes += 1
                    for _ in range(20):
                        self.measure()
            finally:
                reader.ended.set()
                reader.join()
            seconds, cpu = time.monotonic() - begun, cpu_seconds(self.keeper.pid) - cpu
            figure(figure="a flood of events", wanted_a_second=EVENTS, seconds=round(seconds, 1),
                   told_a_second=round((reader.last - reader.first) / seconds), read=reader.seen, changes=changes,
                   cpu_us_an_event=round(1e6 * cpu / (reader.last - reader.first)),
                   keeper_cpu=round(cpu / seconds, 2), reader_cut_off=reader.cut,
                   commands=len(self.took), commands_cut_off=self.cut,
                   command_p50_ms=round(percentile(self.took, 50), 1), command_p99_ms=round(percentile(self.took, 99), 1),
                   command_max_ms=round(max(self.took), 1), goal_ms=50, keeper_grew_kib=self.most)
            self.assertIsNone(reader.disorder)
            self.assertGreater(reader.seen, 1000)
            self.assertLessEqual(self.most, MOST_KIB)
            self.cut_off(deaf)
        status = self.w.status("a")
        self.assertEqual((status["state"], status["pid"], status["keeper-pid"]), ("running", self.qemu, self.keeper.pid))
        # Its last words come at the end of the flood.
        self.w.ok("stop", "a")
        self.assertEqual(self.keeper.wait(PATIENCE), world.OK)
        end = self.w.status("a")
        self.assertEqual((end["state"], end["last-end"]["reason"]), ("stopped", "guest-shutdown"))

    def cut_off(self, deaf):
        """The client reads nothing, and is told no more: seen without reading."""
        ended = select.poll()
        ended.register(deaf.sock, select.POLLRDHUP)
        self.assertTrue(ended.poll(PATIENCE * 1000), "a client that does not read was not cut off")


if __name__ == "__main__":
    world.main()
