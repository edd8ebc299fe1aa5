"""A hundred thousand events a second: the keeper stays small, tells them in order, answers, and cuts off who does not read."""
import re
import select
import threading
import time

from chaos import FakeWorld, amount, cpu_seconds, figure, percentile, private_kib

import world
from world import PATIENCE, WorldTest

EVENTS = amount("QMPCTL_EVENTS", 100000)  # a second
SECONDS = amount("QMPCTL_FLOOD_SECONDS", 4)
MOST_KIB = 32 * 1024
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

    def test_flood(self):
        self.w.create_fakes(["a"])
        self.w.script("a", f"events={EVENTS}")
        keeper = self.w.spawn("run", "a")
        self.w.ok("wait", "a", "--for", "running")
        pid = self.w.status("a")["pid"]
        with self.w.control("a") as deaf:
            reader = Reader(lambda: self.w.control("a", timeout=10))
            before, most, took = private_kib(keeper.pid), 0, []
            begun, cpu = time.monotonic(), cpu_seconds(keeper.pid)
            reader.start()
            try:
                while time.monotonic() < begun + SECONDS:
                    # A new one each time: it is not what others are told that is measured.
                    with self.w.control("a") as other:
                        sent = time.monotonic()
                        self.assertEqual(other.execute("query-status")["status"], "running")
                        took.append((time.monotonic() - sent) * 1000)
                    most = max(most, private_kib(keeper.pid) - before)
            finally:
                reader.ended.set()
                reader.join()
            seconds, cpu = time.monotonic() - begun, cpu_seconds(keeper.pid) - cpu
            figure(figure="a flood of events", wanted_a_second=EVENTS, seconds=round(seconds, 1),
                   told_a_second=round((reader.last - reader.first) / seconds), read=reader.seen,
                   cpu_us_an_event=round(1e6 * cpu / (reader.last - reader.first)),
                   keeper_cpu=round(cpu / seconds, 2), reader_cut_off=reader.cut,
                   command_p50_ms=round(percentile(took, 50), 1), command_p99_ms=round(percentile(took, 99), 1), goal_ms=50,
                   keeper_grew_kib=most)
            self.assertIsNone(reader.disorder)
            self.assertGreater(reader.seen, 1000)
            self.assertLessEqual(most, MOST_KIB)
            self.cut_off(deaf)
        status = self.w.status("a")
        self.assertEqual((status["state"], status["pid"], status["keeper-pid"]), ("running", pid, keeper.pid))
        self.w.ok("kill", "a")
        self.assertEqual(keeper.wait(PATIENCE), world.KILLED)

    def cut_off(self, deaf):
        """The client reads nothing, and is told no more: seen without reading."""
        ended = select.poll()
        ended.register(deaf.sock, select.POLLRDHUP)
        self.assertTrue(ended.poll(PATIENCE * 1000), "a client that does not read was not cut off")


if __name__ == "__main__":
    world.main()
