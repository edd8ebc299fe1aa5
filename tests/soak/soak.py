#!/usr/bin/env python3
"""Hours of mixed trouble: keepers and QEMUs are killed, disks and NICs come and go, consoles and events flood, VMs hang and stop.

    soak.py [--minutes M] [--vms N] [--real K] [--seed S]

K of the VMs are real QEMUs with the tiny guest, which takes a processor each; the others are tests/fake. Half of the VMs are in
one keeper that is never killed, and must not grow; each other one has its own. After every act of trouble what must hold of its
VM is checked; at the end, that all of them run as they should and that nothing is left over. The last line is the count of
what went wrong, each of which must be zero.
"""
import argparse
import json
import os
import shutil
import signal
import sys
import threading
import time

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, "../chaos"))

from chaos import FakeWorld, GROWTH_KIB, chance, fds, private_kib  # noqa: E402
import world  # noqa: E402
from guest import tiny_spec, with_serial  # noqa: E402

THREADS = 3
PACE = 0.1  # seconds between two acts of a thread, about
SETTLE = 60
RESTART = {"policy": "on-failure", "delay": 0, "limit": 0}
REAL_QEMU = shutil.which(os.environ.get("QMPCTL_QEMU") or "qemu-system-x86_64")
STOPPED_FILES = {"lock", "last-end.json", "fake-qemu", "fake-answers", "fake-starts", "fake-alive"}
RUNNING_FILES = STOPPED_FILES | {"qemu.lock", "qmp.sock", "control.sock", "observe.sock", "running.json", "journal.json",
                                 "con-con0.sock", "agent.sock", "vnc.sock"}


class Wrong(Exception):
    """What does not hold: (which count, in words)."""

    def __init__(self, count, text):
        super().__init__(f"{count}: {text}")
        self.count = count


class Vm:
    def __init__(self, soak, name, real, own_keeper):
        self.soak, self.w, self.name, self.real, self.own_keeper = soak, soak.w, name, real, own_keeper
        self.pid = None
        self.image = os.path.join(self.w.base, f"{name}.img")
        with open(self.image, "wb") as f:
            f.truncate(1 << 20)

    def create(self):
        spec = {"memory": "16M", "accel": "tcg", "agent": False, "restart": RESTART}
        if self.real:
            spec = with_serial(tiny_spec(restart=RESTART, **{"qemu-binary": REAL_QEMU}), self.w.serial(f"{self.name}-serial"))
        self.w.create(self.name, spec)
        if not self.real:
            self.w.script(self.name, f"count events=200{' talks' if self.own_keeper else ''}")

    # -- what must hold

    def settled(self):
        """The status, once it runs and nothing is under way."""
        deadline = time.monotonic() + SETTLE
        while True:
            status = self.w.status(self.name)
            if status["state"] == "running" and not status["pending"] and "operation" not in status:
                return status
            if time.monotonic() > deadline:
                raise Wrong("lost", f"{self.name} is not settled after {SETTLE} s: {status}")
            time.sleep(0.05)

    def same(self):
        """It runs, in the same process."""
        pid = self.settled()["pid"]
        if pid != self.pid:
            raise Wrong("lost", f"{self.name} was {self.pid}, and is {pid}")

    def anew(self):
        old, deadline = self.pid, time.monotonic() + SETTLE
        while self.settled()["pid"] == old:
            if time.monotonic() > deadline:
                raise Wrong("lost", f"{self.name} is still {old}")
        self.pid = self.settled()["pid"]

    def has(self):
        with self.w.control(self.name, timeout=SETTLE) as qmp:
            names = {n["node-name"] for n in qmp.execute("query-named-block-nodes", {"flat": True})}
            names |= {d["name"] for d in qmp.execute("qom-list", {"path": "/machine/peripheral"})}
            text = qmp.execute("human-monitor-command", {"command-line": "info network"})
        names |= {line.split(":")[0].strip("\\ ") for line in text.splitlines() if "type=" in line}
        return {name for name in names if name.startswith(("vds", "nets"))}

    def items(self, where="spec"):
        shown = self.w.ok("show", self.name, "-o", "json").json()[where]
        return {i["id"] for kind in ("disks", "nics") for i in shown.get(kind, []) if i["id"].startswith(("vds", "nets"))}

    def agrees(self):
        self.same()
        has, roots = self.has(), None
        roots = {name.split("-")[0] for name in has}
        if not self.items() == self.items("running") == roots:
            raise Wrong("leaked", f"{self.name}: spec {self.items()}, running {self.items('running')}, QEMU {has}")
        return roots

    # -- the trouble

    def keeper(self):
        return self.w.status(self.name)["keeper-pid"]

    def kill_keeper(self):
        pid = self.keeper()
        os.kill(pid, signal.SIGKILL)
        self.w.wait_gone([pid])

    def plug(self, draw):
        """A disk or a NIC comes and goes, now and then with its keeper killed in the middle."""
        ident = draw.choice(["vds", "nets"])
        family = "disk" if ident == "vds" else "nic"
        words = f"id=vds,path={self.image},format=raw" if family == "disk" else "user,id=nets"
        self.under_way(draw, family, "add", self.name, words)
        if ident in self.agrees():
            self.under_way(draw, family, "remove", self.name, ident)
        for _ in range(3):
            if not self.agrees():
                return
            self.w.run(family, "remove", self.name, ident, timeout=SETTLE)
        raise Wrong("leaked", f"{self.name}: {ident} does not go: {self.has()}")

    def under_way(self, draw, *argv):
        if not self.own_keeper or draw.random() < 0.6:
            result = self.w.run(*argv, timeout=SETTLE)
            if result.rc != world.OK and result.rc != world.PENDING:
                raise Wrong("failed", str(result))
            return
        keeper = self.keeper()
        verb = self.w.spawn(*argv)
        time.sleep(draw.random() * 0.06)
        os.kill(keeper, signal.SIGKILL)
        self.w.wait_gone([keeper])
        verb.wait(SETTLE)
        self.w.spawned.remove(verb)

    def lose_keeper(self, _):
        if self.own_keeper:
            self.kill_keeper()
        self.same()

    def crash(self, draw):
        os.kill(self.pid, draw.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT]))
        self.anew()

    def stop(self, draw):
        self.w.ok(*draw.choice([["stop", self.name, "--timeout", "20"], ["kill", self.name]]))
        self.w.wait_gone([self.pid])
        if self.w.state(self.name) != "stopped":
            raise Wrong("failed", f"{self.name} was stopped, and is {self.w.status(self.name)}")
        self.files(STOPPED_FILES | ({"control.sock", "observe.sock"} if not self.own_keeper else set()))
        if self.own_keeper:
            self.w.ok("start", self.name)
        else:
            with self.w.control(self.name) as qmp:
                qmp.execute("qmpctl-start", timeout=SETTLE)
        self.anew()

    def reboot(self, _):
        self.w.ok("reboot", self.name, "--timeout", "20")
        self.anew()

    def hang(self, draw):
        os.kill(self.pid, signal.SIGSTOP)
        try:
            time.sleep(draw.random() * 5)
            if self.own_keeper and draw.random() < 0.3:
                self.kill_keeper()
                self.w.status(self.name)
        finally:
            os.kill(self.pid, signal.SIGCONT)
        self.same()

    def edit(self, draw):
        text = str(draw.random())
        self.w.ok("set", self.name, f"description={text}")
        if self.w.ok("show", self.name, "-o", "json").json()["spec"]["description"] != text:
            raise Wrong("failed", f"{self.name}: set, and not kept")

    def files(self, allowed):
        left = {f for f in os.listdir(self.w.run_dir(self.name)) if not f.endswith((".log", ".log.1"))} - allowed
        if left:
            raise Wrong("files", f"{self.name}: {sorted(left)}")

    ACTS = [plug] * 6 + [lose_keeper] * 2 + [crash, stop, reboot, hang, edit]


class Soak:
    def __init__(self, args):
        self.args, self.w = args, FakeWorld()
        self.seed = args.seed
        self.counts = dict.fromkeys(("lost", "double", "leaked", "files", "failed", "fds", "memory"), 0)
        self.acts, self.lock = {}, threading.Lock()
        self.vms = [Vm(self, f"v{i}", i < args.real, i % 2 == 0) for i in range(args.vms)]

    def wrong(self, why, context=""):
        with self.lock:
            count = why.count if isinstance(why, Wrong) else "failed"
            self.counts[count] += 1
            print(f"WRONG {context} {type(why).__name__} {str(why)[:3000]}", flush=True)

    def start(self):
        for vm in self.vms:
            vm.create()
        shared = [vm.name for vm in self.vms if not vm.own_keeper]
        self.shared = self.w.spawn("run", "--on-term", "detach", *shared) if shared else None
        for vm in self.vms:
            if vm.own_keeper:
                self.w.ok("start", vm.name)
            else:
                self.w.ok("wait", vm.name, "--for", "running", "--timeout", "60", timeout=90)
            vm.pid = vm.settled()["pid"]

    def trouble(self, number, until):
        draw = chance(self.seed, number)
        mine = self.vms[number::THREADS]
        while mine and time.monotonic() < until and not any(self.counts.values()):
            vm = draw.choice(mine)
            act = draw.choice(Vm.ACTS)
            try:
                act(vm, draw)
                with self.lock:
                    self.acts[act.__name__] = self.acts.get(act.__name__, 0) + 1
            except Exception as why:  # whatever it is, it went wrong, and is told
                self.wrong(why, f"{vm.name} {act.__name__}")
            time.sleep(draw.random() * 2 * PACE)

    def doubles(self):
        """VMs that run twice."""
        names = [cmd.split("guest=")[1].split(" ")[0].split(",")[0] for cmd in self.w.processes().values() if "guest=" in cmd]
        for name in set(names):
            if names.count(name) > 1:
                self.wrong(Wrong("double", f"{name} runs {names.count(name)} times"))

    def measure(self):
        return (private_kib(self.shared.pid), fds(self.shared.pid)) if self.shared else (0, 0)

    def run(self):
        self.start()
        quiet = self.quiet_fds()
        begun = time.monotonic()
        length = self.args.minutes * 60
        threads = [threading.Thread(target=self.trouble, args=(n, begun + length)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        first, told = None, begun
        while any(thread.is_alive() for thread in threads):
            threads[0].join(1)
            time.sleep(1)
            self.doubles()
            if not first and time.monotonic() > begun + length / 3:
                first = self.measure()
            if time.monotonic() > told + 60:
                told = time.monotonic()
                print(json.dumps({"minutes": round((told - begun) / 60, 1), "acts": sum(self.acts.values()),
                                  "keeper_kib": self.measure()[0], "keeper_fds": self.measure()[1]}), flush=True)
        self.finish(first or self.measure(), quiet)

    def quiet_fds(self):
        """The shared keeper's, with all VMs up: the fewest of a second, because clients that have left may still be there."""
        samples = []
        for _ in range(20):
            samples.append(self.measure()[1])
            time.sleep(0.05)
        return min(samples)

    def finish(self, first, quiet):
        """All run, and when they have stopped nothing is left."""
        grown = [0, 0]
        try:
            for vm in self.vms:
                if vm.agrees():
                    raise Wrong("leaked", f"{vm.name} has {vm.has()}")
                vm.files(RUNNING_FILES)
            grown = [self.measure()[0] - first[0], self.quiet_fds() - quiet]
            if grown[0] > GROWTH_KIB:
                raise Wrong("memory", f"the keeper grew by {grown[0]} KiB")
            if grown[1] > 0:
                raise Wrong("fds", f"the keeper has {grown[1]} fds more")
            for vm in self.vms:
                self.w.ok("kill", vm.name)
            self.w.wait_gone(list(self.w.processes()), timeout=30)
            for vm in self.vms:
                vm.files(STOPPED_FILES)
            bad = [os.path.join(d, f) for d, _, files in os.walk(self.w.root) for f in files if f.endswith(".tmp")]
            if bad:
                raise Wrong("files", str(bad))
            for vm in self.vms:
                if not vm.real:
                    with open(os.path.join(self.w.run_dir(vm.name), "fake-starts"), encoding="ascii") as f:
                        if "double" in f.read():
                            raise Wrong("double", f"{vm.name} was started twice")
        except Exception as why:  # told as the others are
            self.wrong(why, "at the end:")
        print(json.dumps({"seed": self.seed, "acts": self.acts, "keeper_grew_kib": grown[0], "keeper_more_fds": grown[1]}))
        print(json.dumps(self.counts), flush=True)


def main():
    p = argparse.ArgumentParser(description="mixed trouble for many VMs")
    p.add_argument("--minutes", type=float, default=60)
    p.add_argument("--vms", type=int, default=20)
    p.add_argument("--real", type=int, default=2, help="so many of them are real QEMUs")
    p.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    soak = Soak(p.parse_args())
    print(f"seed {soak.seed}", flush=True)
    try:
        soak.run()
        if any(soak.counts.values()):
            print(soak.w.logs()[-8000:])
    finally:
        soak.w.close()
    sys.exit(any(soak.counts.values()))


if __name__ == "__main__":
    main()
