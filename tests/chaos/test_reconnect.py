"""A command is blocked inside QEMU when its keeper is killed: its late reply is nobody's, the VM is unharmed, and goes on."""
import os
import threading
import time

from chaos import amount, chance, figure, seed

import world
from qmp import QmpError
from world import WorldTest

ROUNDS = amount("QMPCTL_ROUNDS", 10)
IDENT = "the same in every round"


class Reconnect(WorldTest):
    def block(self, fifo):
        """
        QEMU's main loop waits for somebody to write to the fifo. Its client is left, with the reply to come. By its name, the fifo
        would be refused.
        """
        with self.w.control("a") as qmp:
            here = os.open(fifo, os.O_PATH)
            there = qmp.reply(qmp.send("add-fd", fds=[here]))["fd"]
            os.close(here)
            qmp.send("blockdev-add", {"driver": "file", "node-name": "blocked", "filename": f"/proc/self/fd/{there}",
                                      "read-only": True}, ident=IDENT)
            for i in range(3):
                qmp.send("query-version", ident=i)
            wchan = f"/proc/{self.qemu}/wchan"
            self.until(lambda: any(where in self.read(wchan) for where in (b"fifo", b"wait_for_partner")),
                       lambda: f"QEMU is not blocked: {self.read(wchan)}")

    @staticmethod
    def read(path):
        with open(path, "rb") as f:
            return f.read()

    def release(self, fifo):
        os.close(os.open(fifo, os.O_WRONLY))

    def ask(self, qmp):
        """Pairs that could be taken for each other."""
        wanted = {IDENT: {"name": "a"}, 0: "container", 1: {"name": "a"}, 2: "container"}
        for ident, want in wanted.items():
            if isinstance(want, dict):
                qmp.send("query-name", ident=ident)
            else:
                qmp.send("qom-get", {"path": "/machine/peripheral", "property": "type"}, ident=ident)
        return wanted

    def test_replies_that_come_late(self):
        draw = chance(seed())
        self.w.start_tiny("a")
        self.qemu = self.w.qemu_pid("a")
        fifo = os.path.join(self.w.base, "fifo")
        os.mkfifo(fifo)
        wrong, begun = [], time.monotonic()
        for turn in range(ROUNDS):
            self.block(fifo)
            for _ in range(1 + (draw.random() < 0.1)):
                self.w.state("a")  # it has a keeper
                self.w.kill_keeper()
            self.assertEqual(self.w.state("a"), "unresponsive")
            late = threading.Timer(draw.random() * 0.05, self.release, [fifo])
            late.start()
            self.w.wait_state("a", "running")
            late.join()
            with self.w.control("a") as qmp:
                for ident, want in self.ask(qmp).items():
                    try:
                        got = qmp.reply(ident)
                    except QmpError as why:
                        got = str(why)
                    if got != want:
                        wrong.append(f"round {turn}, id {ident}: {got!r} for {want!r}")
                wrong += [f"round {turn}: not asked for: {m}" for m in list(qmp.replies.values()) + qmp.stray]
                nodes = qmp.execute("query-named-block-nodes", {"flat": True})
            self.assertNotIn("blocked", [n["node-name"] for n in nodes])
        figure(figure="keepers killed with a command inside QEMU", rounds=ROUNDS, misattributed=len(wrong), harmed=0,
               seconds=round(time.monotonic() - begun, 1))
        self.assertEqual(wrong, [])
        self.assertEqual(self.w.qemu_pid("a"), self.qemu)
        self.w.ok("kill", "a")
        self.stopped_clean()


if __name__ == "__main__":
    world.main()
