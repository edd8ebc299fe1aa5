"""Many clients change one VM at once, and want the same ids: what each was told fits one order, and the spec is what QEMU has.

Every id is a thing that is there or not. An add that was done needs one that is not there and makes it there, one that was
refused needs one that is there; a removal the other way round. An order of all operations of an id is looked for that fits
this and when each was begun and answered.
"""
import json
import os
import threading
import time

from chaos import amount, chance, figure, seed

import world
from qmp import QmpError
from world import PATIENCE, WorldTest

CLIENTS = amount("QMPCTL_CLIENTS", 32)
OPERATIONS = amount("QMPCTL_OPERATIONS", 6)  # of each client
DISKS, NICS = ("vdx", "vdy"), ("netx", "nety")
ADD, REMOVE = "add", "remove"


class Done:
    """An operation: when it was begun and answered, and whether it was done."""

    def __init__(self, kind, begun, answered, done):
        self.kind, self.begun, self.answered, self.done = kind, begun, answered, done

    def needs(self):
        """Whether the thing is there before it."""
        return (self.kind == REMOVE) == self.done

    def __repr__(self):
        return f"{self.kind} {'done' if self.done else 'refused'} {self.begun:.4f}-{self.answered:.4f}"


def order_of(history, there=False):
    """Whether one is there at the end of an order that fits; None: there is no such order."""
    left = sorted(history, key=lambda d: d.answered)
    seen = set()

    def search(left, there):
        # What was refused changes nothing: it goes as early as it may.
        while True:
            first = min((d.answered for d in left), default=None)
            now = [d for d in left if not d.done and d.begun <= first and d.needs() == there]
            if not now:
                break
            left = [d for d in left if d not in now]
        if not left:
            return there
        key = (frozenset(map(id, left)), there)
        if key in seen:
            return None
        seen.add(key)
        for d in left:
            if d.done and d.begun <= first and d.needs() == there:
                end = search([e for e in left if e is not d], not there)
                if end is not None:
                    return end
        return None

    return search(left, there)


class Conflicts(WorldTest):
    def one(self, qmp, draw, number, turn):
        """An operation, drawn: (id, what, arguments)."""
        ident = draw.choice(DISKS + NICS + ("description",))
        if ident == "description":
            return ident, "qmpctl-set", {"values": {"description": f"{number}.{turn}"}}
        kind, family = draw.choice((ADD, REMOVE)), "disk" if ident in DISKS else "nic"
        if kind == REMOVE:
            return ident, f"qmpctl-{family}-remove", {"id": ident}
        more = {"path": self.images[ident], "format": "raw"} if family == "disk" else {"backend": "user"}
        item = dict(more, id=ident)
        return ident, f"qmpctl-{family}-add", {family: item}

    def client(self, number, seed_):
        draw = chance(seed_, number)
        try:
            with self.w.control("a", timeout=4 * PATIENCE) as qmp:
                self.ready.wait()
                for turn in range(OPERATIONS):
                    ident, command, arguments = self.one(qmp, draw, number, turn)
                    begun = time.monotonic()
                    try:
                        result, done = qmp.execute(command, arguments), True
                    except QmpError as why:
                        result, done = why, False
                    answered = time.monotonic()
                    if done and result["outcome"] != "done":
                        self.failures.append(f"{command} {arguments}: {result}")
                    if not done and not any(w in str(result) for w in ("already", "same id", "there is no", "has no")):
                        self.failures.append(f"{command} {arguments}: {result}")
                    self.histories[ident].append(Done(command.rpartition("-")[2], begun, answered, done))
                    if ident == "description":
                        self.set_to.append((begun, answered, arguments["values"]["description"]))
        except Exception as why:  # any of them is a failure of the test, told from the main thread
            self.failures.append(f"client {number}: {type(why).__name__}: {why}")

    def has(self):
        """What QEMU has of them: id -> its parts."""
        with self.w.control("a") as qmp:
            names = {n["node-name"] for n in qmp.execute("query-named-block-nodes", {"flat": True})}
            names |= {d["name"] for d in qmp.execute("qom-list", {"path": "/machine/peripheral"})}
            text = qmp.execute("human-monitor-command", {"command-line": "info network"})
        names |= {line.split(":")[0].strip("\\ ") for line in text.splitlines() if "type=" in line}
        parts = {}
        for name in names:
            parts.setdefault(name.split("-")[0], set()).add(name)
        return {ident: parts[ident] for ident in DISKS + NICS if ident in parts}

    def test_all_at_once(self):
        seed_ = seed()
        self.images = {ident: os.path.join(self.w.base, f"{ident}.img") for ident in DISKS}
        for path in self.images.values():
            with open(path, "wb") as f:
                f.truncate(1 << 20)
        self.w.start_tiny("a", machine={"ports": 12})
        pid = self.w.qemu_pid("a")
        self.ready, self.failures, self.set_to = threading.Event(), [], []
        self.histories = {ident: [] for ident in DISKS + NICS + ("description",)}
        threads = [threading.Thread(target=self.client, args=(n, seed_)) for n in range(CLIENTS)]
        for thread in threads:
            thread.start()
        begun = time.monotonic()
        self.ready.set()
        for thread in threads:
            thread.join()
        self.assertEqual(self.failures, [])
        shown, has = self.w.ok("show", "a", "-o", "json").json(), self.has()
        last = self.histories.pop("description")
        ends = {ident: order_of(history) for ident, history in self.histories.items()}
        figure(figure="conflicting operations", clients=CLIENTS, operations=sum(map(len, self.histories.values())) + len(last),
               done=sum(d.done for h in self.histories.values() for d in h), seconds=round(time.monotonic() - begun, 1))
        for ident, history in self.histories.items():
            self.assertIsNotNone(ends[ident], f"{ident}: no order fits {sorted(history, key=lambda d: d.begun)}")
            for where in ("spec", "running"):
                there = any(i["id"] == ident for kind in ("disks", "nics") for i in shown[where].get(kind, []))
                self.assertEqual(there, ends[ident], f"{ident} in the {where}: {json.dumps(shown[where])[:500]}")
            self.assertEqual(ident in has, ends[ident], f"{ident}: QEMU has {has}")
        for ident, parts in has.items():
            self.assertEqual(len(parts), 3 if ident in DISKS else 2, parts)
        latest = max(begun for begun, _, _ in self.set_to)
        self.assertIn(shown["spec"]["description"], [text for _, answered, text in self.set_to if answered >= latest])
        status = self.w.status("a")
        self.assertEqual((status["pending"], status["pid"]), ([], pid))
        self.assertEqual(status.get("differences", []), [], f"{ends} {has}")


if __name__ == "__main__":
    world.main()
