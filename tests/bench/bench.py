#!/usr/bin/env python3
"""Figures of the program, each with its floor measured in the same run: one JSON line a figure.

Usage: bench.py BUILD_DIR [N]. Needs QEMU and the tiny guest (tests/guest/build.sh BUILD/guest).
"ratio" is what counts; times are of this machine and this minute.
"""
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

BUILD = os.path.abspath(sys.argv[1])
N = int(sys.argv[2]) if len(sys.argv) > 2 else 5000
QMPCTL = os.path.join(BUILD, "qmpctl", "qmpctl")
RTT = os.path.join(BUILD, "tests", "bench", "bench_rtt")
ROOT = tempfile.mkdtemp(prefix="qmpctl-bench.")


def run(*args):
    return subprocess.run([QMPCTL, "--root", ROOT, *args], check=True, capture_output=True, text=True).stdout


def emit(figure, value, floor, unit, goal):
    print(json.dumps({"figure": figure, "value": round(value, 1), "floor": round(floor, 1), "unit": unit,
                      "ratio": round(value / floor, 3), "goal": goal}), flush=True)


def rtt(how, sock, n=N):
    out = subprocess.run([RTT, how, sock, str(n)], check=True, capture_output=True, text=True).stdout
    return json.loads(out)["p50_us"]


def median_ms(action, n):
    times = []
    for _ in range(n):
        start = time.monotonic()
        action()
        times.append((time.monotonic() - start) * 1000)
    return statistics.median(times)


class Qmp:
    """A bare client: the floor for plugging."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
        self.file = self.sock.makefile("rb")
        self.file.readline()
        self("qmp_capabilities")

    def __call__(self, command, **args):
        self.sock.sendall(json.dumps({"execute": command, "arguments": args}).encode())
        while True:
            reply = json.loads(self.file.readline())
            if "error" in reply:
                raise RuntimeError(reply["error"]["desc"])
            if "return" in reply:
                return reply["return"]

    def wait(self, event, device):
        while True:
            message = json.loads(self.file.readline())
            if message.get("event") == event and message["data"].get("device") == device:
                return

    def close(self):
        self.file.close()
        self.sock.close()


def plain_exec(argv):
    """The same command line, started and ended by hand: exec, greeting, one command, SIGKILL."""
    listeners = []
    fds = sum(1 for word in argv if word.startswith("socket,id="))
    for i in range(fds):
        s = socket.socket(socket.AF_UNIX)
        s.bind(os.path.join(ROOT, f"floor-{i}"))
        s.listen(1)
        os.dup2(s.fileno(), 100 + i, inheritable=True)
        listeners.append(s)
    argv = [_renumber(w) for w in argv]
    child = subprocess.Popen(argv, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for i in range(fds):
        os.close(100 + i)
    qmp = Qmp(os.path.join(ROOT, "floor-0"))
    qmp("query-status")
    qmp("cont")
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    qmp.close()
    for i, s in enumerate(listeners):
        s.close()
        os.unlink(os.path.join(ROOT, f"floor-{i}"))


def _renumber(word):
    head, mark, tail = word.partition(",fd=")
    if not mark or not head.startswith("socket,id="):
        return word
    number, _, rest = tail.partition(",")
    return f"{head},fd={int(number) + 97},{rest}"


def main():
    run("create", "b", "--memory", "32M", "--firmware", os.path.join(BUILD, "..", "guest", "tinybios.bin"))
    run("start", "b")
    qmp, control = (os.path.join(ROOT, "run", "b", s) for s in ("qmp.sock", "control.sock"))
    argv = json.loads(run("args", "b", "-o", "json"))

    # QEMU serves one client: the keeper leaves for the floor and comes back by itself.
    run("qmp", "b", "qmpctl-leave")
    floor, session = rtt("floor", qmp), rtt("session", qmp)
    emit("query-status inside one connection", session, floor, "us", 1.05)
    least = median_ms(lambda: subprocess.run([RTT, "process", qmp, "1"], check=True), 30)

    bare = Qmp(qmp)
    image = os.path.join(ROOT, "bench.raw")
    with open(image, "wb") as f:
        f.truncate(1 << 20)

    plug, unplug_nic = [], []
    for _ in range(40):
        start = time.monotonic()
        bare("blockdev-add", **{"driver": "file", "node-name": "x", "filename": image})
        bare("device_add", **{"driver": "virtio-blk-pci", "id": "d", "drive": "x", "bus": "port-16"})
        plug.append((time.monotonic() - start) * 1000)
        bare("device_del", id="d")
        bare.wait("DEVICE_DELETED", "d")
        bare("blockdev-del", **{"node-name": "x"})
        start = time.monotonic()
        bare("netdev_add", type="user", id="u")
        bare("device_add", driver="virtio-net-pci", id="n", netdev="u", bus="port-16")
        unplug_nic.append((time.monotonic() - start) * 1000)
        bare("device_del", id="n")
        bare.wait("DEVICE_DELETED", "n")
        bare("netdev_del", id="u")
    bare.close()

    run("status", "b")  # a keeper takes it over again
    emit("query-status through control.sock", rtt("floor", control), floor, "us", 1.3)
    emit("qmpctl status, the whole process", median_ms(lambda: run("status", "b"), 30), least, "ms", 1.5)

    ours = Qmp(control)
    disk, nic = [], []
    for _ in range(40):
        start = time.monotonic()
        ours("qmpctl-disk-add", disk={"path": image, "format": "raw", "id": "d"}, config=False)
        disk.append((time.monotonic() - start) * 1000)
        ours("qmpctl-disk-remove", id="d", config=False)
        start = time.monotonic()
        ours("qmpctl-nic-add", nic={"id": "n"}, config=False)
        nic.append((time.monotonic() - start) * 1000)
        ours("qmpctl-nic-remove", id="n", config=False)
    ours.close()
    emit("disk hot-plug", statistics.median(disk), statistics.median(plug), "ms", 1.2)
    emit("NIC hot-plug", statistics.median(nic), statistics.median(unplug_nic), "ms", 1.2)
    run("kill", "b")

    def start_and_kill():
        run("start", "b")
        run("kill", "b")

    emit("start and kill", median_ms(start_and_kill, 9), median_ms(lambda: plain_exec(argv), 9), "ms", 1.1)


try:
    main()
finally:
    subprocess.run([QMPCTL, "--root", ROOT, "kill", "b"], capture_output=True)
    shutil.rmtree(ROOT)
