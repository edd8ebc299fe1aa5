#!/usr/bin/env python3
"""Figures of the program, each with its floor measured in the same run: one JSON line a figure.

The machine's noise must not decide: what is compared is measured in turns (A B A B ...), and "ratio" is the median of the
turns' ratios. Times are of this machine and this minute; the ratio is what counts.

Needs QEMU and the tiny guest (guest/ beside BUILD_DIR: tests/guest/build.sh). virsh is compared where it is installed.
"""
import argparse
import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time

import libvirt

options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
options.add_argument("build", metavar="BUILD_DIR")
options.add_argument("--turns", type=int, default=15, help="how often each is measured in turn (15)")
options.add_argument("--vms", type=int, default=1000, help="how many fake VMs at once (1000)")
options.add_argument("--only", default="", help="only the groups with one of these words: images rtt process plug start memory virsh scale")
ARGS = options.parse_args()

BUILD = os.path.abspath(ARGS.build)
QMPCTL = os.path.join(BUILD, "qmpctl", "qmpctl")
RTT = os.path.join(BUILD, "tests", "bench", "bench_rtt")
FAKE = os.path.join(BUILD, "tests", "fake", "fake_qemu")
TINY = os.path.join(BUILD, "..", "guest", "tinybios.bin")


# ---- Measuring


def emit(figure, unit, value, goal, floor=None, ratio=None, **more):
    line = {"figure": figure, "value": round(value, 2), "unit": unit}
    if floor is not None:
        line.update(floor=round(floor, 2), ratio=round(ratio, 3))
    line.update(goal=goal, met=(value if ratio is None else ratio) <= goal, **more)
    print(json.dumps(line), flush=True)


def skip(figure, why):
    print(json.dumps({"figure": figure, "skipped": why}), flush=True)


def in_turns(turns, **measures):
    """name -> [one value a turn]; who begins changes with each turn."""
    values = {name: [] for name in measures}
    names = list(measures)
    for turn in range(turns):
        for name in names[turn % len(names):] + names[:turn % len(names)]:
            values[name].append(measures[name]())
    return values


def compare(figure, unit, values, floors, goal, **more):
    emit(figure, unit, statistics.median(values), goal, statistics.median(floors),
         statistics.median(v / f for v, f in zip(values, floors)), **more)


def ms(action):
    start = time.monotonic()
    action()
    return (time.monotonic() - start) * 1000


def private_kib(pid):
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
        return sum(int(line.split()[1]) for line in f if line.startswith("Private"))


# ---- The program


class Root:
    """A --root folder, and the program in it. What is under /run on a host is in memory here, too."""

    def __init__(self, qemu=None):
        self.path = tempfile.mkdtemp(prefix="qmpctl-bench.")
        self.run = tempfile.mkdtemp(prefix="qmpctl-bench.", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        os.symlink(self.run, os.path.join(self.path, "run"))
        self.env = dict(os.environ, **({"QMPCTL_QEMU": qemu} if qemu else {}))

    def __call__(self, *args):
        return subprocess.run([QMPCTL, "--root", self.path, *args], check=True, capture_output=True, text=True,
                              env=self.env).stdout

    def json(self, *args):
        return json.loads(self(*args, "-o", "json"))

    def spawn(self, *args):
        return subprocess.Popen([QMPCTL, "--root", self.path, *args], env=self.env, stdout=subprocess.DEVNULL,
                                stderr=subprocess.PIPE, text=True)

    def sock(self, name, which):
        return os.path.join(self.path, "run", name, which)

    def keeper_pid(self, name):
        return self.json("status", name)["keeper-pid"]

    def close(self):
        """Ends every process of this root: each has its path on its command line or in its environment."""
        mark = self.path.encode()
        while True:
            left = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
                    if pid != os.getpid() and self._is_ours(pid, mark)]
            if not left:
                break
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        shutil.rmtree(self.run)
        shutil.rmtree(self.path)

    def _is_ours(self, pid, mark):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                if mark in f.read():
                    return True
            return self.run in os.readlink(f"/proc/{pid}/cwd")
        except OSError:
            return False


class Qmp:
    """A bare client."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
        self.file = self.sock.makefile("rb")
        self.file.readline()
        self("qmp_capabilities")

    def encode(self, command, args):
        return json.dumps({"execute": command, "arguments": args}, separators=(",", ":")).encode() + b"\n"

    def send(self, text):
        self.sock.sendall(text)

    def reply(self):
        while True:
            line = self.file.readline()
            if b'"error"' in line:
                raise RuntimeError(line.decode())
            if b'"return"' in line:
                return json.loads(line)["return"]

    def __call__(self, command, args=None):
        self.send(self.encode(command, args or {}))
        return self.reply()

    def wait(self, event, device):
        while True:
            message = json.loads(self.file.readline())
            if message.get("event") == event and message["data"].get("device") == device:
                return

    def close(self):
        self.file.close()
        self.sock.close()


def leave(root, name):
    """The keeper goes, QEMU stays: its one monitor is free for somebody else."""
    if os.path.exists(root.sock(name, "control.sock")):
        root("qmp", name, "qmpctl-leave")


def come_back(root, name):
    root("status", name)


# ---- Round trips


def rtt(how, sock, *id_):
    out = subprocess.run([RTT, how, sock, "1000", *id_], check=True, capture_output=True, text=True).stdout
    return json.loads(out)["p50_us"]


def through_relay(root, qmp):
    path = os.path.join(root.path, "relay.sock")
    with subprocess.Popen([RTT, "relay", path, qmp]) as relay:
        while not os.path.exists(path):
            time.sleep(0.002)
        value = rtt("floor", path)
        relay.wait()
    os.unlink(path)
    return value


def bench_rtt(root):
    qmp, control = root.sock("b", "qmp.sock"), root.sock("b", "control.sock")

    def direct(measure):
        leave(root, "b")
        return measure()

    def kept():
        come_back(root, "b")
        return rtt("floor", control)

    v = in_turns(ARGS.turns,
                 floor=lambda: direct(lambda: rtt("floor", qmp)),
                 floor_id=lambda: direct(lambda: rtt("floor", qmp, ID)),
                 session=lambda: direct(lambda: rtt("session", qmp)),
                 relay=lambda: direct(lambda: through_relay(root, qmp)),
                 control=kept)
    compare("query-status inside one connection", "us", v["session"], v["floor_id"], 1.05, floor_is="a C loop, same id")
    compare("query-status inside one connection", "us", v["session"], v["floor"], 1.05, floor_is="a C loop, no id")
    compare("query-status through control.sock", "us", v["control"], v["floor_id"], 1.3, floor_is="a C loop, same id")
    compare("query-status through control.sock", "us", v["control"], v["floor"], 1.3, floor_is="a C loop, no id")
    compare("query-status through control.sock", "us", v["control"], v["relay"], 1.3,
            floor_is="a C loop through a relay that reads nothing")
    come_back(root, "b")


# As long as a session's, see proto/session.c.
ID = "AAABB"


def bench_process(root):
    control = root.sock("b", "control.sock")
    v = in_turns(ARGS.turns * 4,
                 floor=lambda: ms(lambda: subprocess.run([RTT, "process", control], check=True)),
                 ours=lambda: ms(lambda: subprocess.run([QMPCTL, "--root", root.path, "status", "b"], check=True,
                                                        stdout=subprocess.DEVNULL)))
    compare("qmpctl status, the whole process", "ms", v["ours"], v["floor"], 1.5, floor_is="a minimal C client")
# ---- Plugging


def bench_plug(root):
    image = os.path.join(root.path, "bench.raw")
    with open(image, "wb") as f:
        f.truncate(1 << 20)
    kinds = {"disk": {"disk": {"path": image, "format": "raw", "id": "x"}}, "nic": {"nic": {"id": "x"}}}
    come_back(root, "b")
    control = Qmp(root.sock("b", "control.sock"))
    plans = {kind: control(f"qmpctl-{kind}-add", dict(args, **{"dry-run": True}))["plan"]
             for kind, args in kinds.items()}
    control.close()

    def bare(kind, keeps, n=10):
        """The commands of the plan and nothing else: all sent at once, then all replies awaited; then a file kept."""
        leave(root, "b")
        qmp = Qmp(root.sock("b", "qmp.sock"))
        steps = plans[kind]
        text = b"".join(qmp.encode(s["execute"], s["arguments"]) for s in steps)
        times = []
        for _ in range(n):
            start = time.monotonic()
            qmp.send(text)
            for _ in steps:
                qmp.reply()
            if keeps:
                keep_file(os.path.join(root.path, "etc", "vms"))
            times.append((time.monotonic() - start) * 1000)
            qmp("device_del", {"id": "x"})
            qmp.wait("DEVICE_DELETED", "x")
            for s in reversed(steps[:-1]):
                qmp(s["undo"]["execute"], s["undo"]["arguments"])
        qmp.close()
        return statistics.median(times)

    def ours(kind, keeps, n=10):
        come_back(root, "b")
        qmp = Qmp(root.sock("b", "control.sock"))
        times = []
        for _ in range(n):
            start = time.monotonic()
            qmp(f"qmpctl-{kind}-add", dict(kinds[kind], config=keeps))
            times.append((time.monotonic() - start) * 1000)
            qmp(f"qmpctl-{kind}-remove", {"id": "x", "config": keeps})
        qmp.close()
        return statistics.median(times)

    for kind, name in (("disk", "disk hot-plug"), ("nic", "NIC hot-plug")):
        v = in_turns(ARGS.turns, floor=lambda: bare(kind, False), ours=lambda: ours(kind, False),
                     keeping_floor=lambda: bare(kind, True), keeping=lambda: ours(kind, True))
        compare(f"{name}, live alone", "ms", v["ours"], v["floor"], 1.2, floor_is="the plan's bare QMP commands")
        compare(f"{name}, kept in the spec", "ms", v["keeping"], v["keeping_floor"], 1.2,
                floor_is="the same, then a file as durably replaced")


def keep_file(folder):
    """What replacing the spec costs: the file and its folder fsynced."""
    new = os.path.join(folder, ".floor.tmp")
    with open(new, "wb") as f:
        f.write(b"x" * 1024)
        f.flush()
        os.fsync(f.fileno())
    os.rename(new, os.path.join(folder, ".floor"))
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)


# ---- Starting


def plain_exec(root, argv):
    """The same command line, started and ended by hand: exec, greeting, one command, SIGKILL."""
    listeners = []
    fds = sum(1 for word in argv if word.startswith("socket,id="))
    for i in range(fds):
        s = socket.socket(socket.AF_UNIX)
        s.bind(os.path.join(root.path, f"floor-{i}"))
        s.listen(1)
        os.dup2(s.fileno(), 100 + i, inheritable=True)
        listeners.append(s)
    with subprocess.Popen([_renumber(w) for w in argv], close_fds=False, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as child:
        for i in range(fds):
            os.close(100 + i)
        qmp = Qmp(os.path.join(root.path, "floor-0"))
        qmp("query-status")
        qmp("cont")
        os.kill(child.pid, signal.SIGKILL)
    qmp.close()
    for i, s in enumerate(listeners):
        s.close()
        os.unlink(os.path.join(root.path, f"floor-{i}"))


def _renumber(word):
    head, mark, tail = word.partition(",fd=")
    if not mark or not head.startswith("socket,id="):
        return word
    number, _, rest = tail.partition(",")
    return f"{head},fd={int(number) + 97},{rest}"


def bench_start(root):
    argv = root.json("args", "b")
    root("kill", "b")

    def start_and_kill():
        root("start", "b")
        root("kill", "b")

    v = in_turns(ARGS.turns, floor=lambda: ms(lambda: plain_exec(root, argv)), ours=lambda: ms(start_and_kill))
    compare("start and kill", "ms", v["ours"], v["floor"], 1.1, floor_is="exec of the same command line, SIGKILL")
    root("start", "b")


# ---- Memory and number


def bench_memory(root):
    emit("a keeper's private memory, one VM", "KiB", private_kib(root.keeper_pid("b")), 1024)


def fake_world(n):
    root = Root(FAKE)
    root("create", "v0", "--memory", "32M")
    with open(os.path.join(root.path, "etc", "vms", "v0.json"), encoding="utf-8") as f:
        spec = json.load(f)
    for i in range(1, n):
        name = f"v{i}"
        with open(os.path.join(root.path, "etc", "vms", f"{name}.json"), "w", encoding="utf-8") as f:
            json.dump(dict(spec, name=name, uuid=f"00000000-0000-4000-8000-{i:012x}"), f)
    return root


def one_keeper(root, names, action="running"):
    """A keeper that holds all of NAMES; returns when the last one runs."""
    keeper = root.spawn("run", "--on-term", "detach", *names)
    for name in (names[0], names[-1]):
        subprocess.run([QMPCTL, "--root", root.path, "wait", name, "--for", action, "--timeout", "120"], check=True,
                       stdout=subprocess.DEVNULL)
    return keeper


def end(keeper):
    keeper.terminate()
    _, said = keeper.communicate(timeout=60)
    if keeper.returncode:
        raise RuntimeError(f"the keeper ended with {keeper.returncode}: {said}")


def states(root):
    found = {}
    for vm in root.json("list"):
        found[vm["state"]] = found.get(vm["state"], 0) + 1
    return found


def expect_running(root, n):
    found = states(root)
    if found != {"running": n}:
        raise RuntimeError(f"{n} running VMs expected, found {found}")


def bench_scale(_):
    n = ARGS.vms
    names = [f"v{i}" for i in range(n)]
    root = fake_world(n)
    try:
        keeper = one_keeper(root, names[:1])
        first = private_kib(keeper.pid)
        end(keeper)
        start = time.monotonic()
        keeper = one_keeper(root, names)
        expect_running(root, n)
        started = time.monotonic() - start
        emit(f"a keeper's private memory, each further VM, {n} VMs", "KiB", (private_kib(keeper.pid) - first) / (n - 1), 64)
        v = in_turns(ARGS.turns, ours=lambda: ms(lambda: root("list")))
        emit(f"list over {n} VMs in one keeper", "ms", statistics.median(v["ours"]), 1000)
        end(keeper)
        start = time.monotonic()
        keeper = one_keeper(root, names)
        expect_running(root, n)
        emit(f"adopting {n} QEMUs", "s", time.monotonic() - start, 5, starting_took=round(started, 2))
        end(keeper)
        start = time.monotonic()
        for name in names:
            root("status", name)  # starts a keeper for each
        emit(f"a keeper for each of {n} QEMUs, one verb after the other", "s", time.monotonic() - start, 60)
        v = in_turns(ARGS.turns, ours=lambda: ms(lambda: root("list")))
        expect_running(root, n)
        emit(f"list over {n} VMs in {n} keepers", "ms", statistics.median(v["ours"]), 2000)
        keepers = [vm["keeper-pid"] for vm in root.json("list")]
        emit(f"a keeper's private memory, {n} keepers, the median", "KiB", statistics.median(map(private_kib, keepers)), 1024)
    finally:
        root.close()


# ---- Beside virsh


def bench_virsh(root):
    """The same task by the verb of each, as whole processes, on a VM that is as alike as each can make it."""
    why = libvirt.why_not()
    if why:
        skip("qmpctl beside virsh", why)
        return
    come_back(root, "b")
    image = os.path.join(root.path, "virsh.raw")
    with open(image, "wb") as f:
        f.truncate(1 << 20)
    other = libvirt.Libvirt(TINY)
    virsh = other.virsh
    nic = other.device("nic.xml", "<interface type='user'><mac address='52:54:00:00:00:99'/><model type='virtio'/></interface>")
    rows = [  # the task, what each does, what each does to undo it (not measured)
        ("state of a VM", ["status", "b"], None, ["domstate", "b"], None),
        ("list", ["list"], None, ["list", "--all"], None),
        ("query-status", ["qmp", "b", "query-status"], None, ["qemu-monitor-command", "b", '{"execute":"query-status"}'], None),
        ("disk hot-plug", ["disk", "add", "b", f"{image},id=x,format=raw", "--live"], ["disk", "remove", "b", "x", "--live"],
         ["attach-disk", "b", image, "vdx", "--live"], ["detach-disk", "b", "vdx", "--live"]),
        ("NIC hot-plug", ["nic", "add", "b", "user,id=y", "--live"], ["nic", "remove", "b", "y", "--live"],
         ["attach-device", "b", nic, "--live"], ["detach-device", "b", nic, "--live"]),
    ]

    def measured(call, args, undo):
        took = ms(lambda: call(*args))
        if undo:
            call(*undo)
        return took

    try:
        virsh("start", "b")
        for task, ours, ours_undo, theirs, theirs_undo in rows:
            gone = (lambda: None) if not theirs_undo else lambda: _detached(virsh, image)
            def beside(theirs=theirs, theirs_undo=theirs_undo, gone=gone):
                took = measured(virsh, theirs, theirs_undo)
                gone()
                return took
            v = in_turns(ARGS.turns, virsh=beside, ours=lambda o=ours, u=ours_undo: measured(root, o, u))
            compare(f"{task}, the whole process", "ms", v["ours"], v["virsh"], 1, floor_is=f"virsh {theirs[0]}")
        virsh("destroy", "b")
        root("kill", "b")

        def ours():
            root("start", "b")
            root("kill", "b")

        def theirs():
            virsh("start", "b")
            virsh("destroy", "b")

        v = in_turns(ARGS.turns, virsh=lambda: ms(theirs), ours=lambda: ms(ours))
        compare("start and kill, whole processes", "ms", v["ours"], v["virsh"], 1, floor_is="virsh start, virsh destroy")
        root("start", "b")
        compare("the controller's private memory", "KiB", [private_kib(root.keeper_pid("b"))], [private_kib(other.pid())], 1,
                floor_is="libvirtd")
    finally:
        other.close()


def _detached(virsh, image):
    """virsh returns from a detach before the guest has let go."""
    deadline = time.monotonic() + 30
    while image in (text := virsh("dumpxml", "b")) or "52:54:00:00:00:99" in text:
        if time.monotonic() > deadline:
            raise RuntimeError("virsh: the device is still there")
        time.sleep(0.01)


# ---- Images


def bench_images(root):
    with tempfile.TemporaryDirectory(prefix="qmpctl-bench-", dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        base, clone, source, copy = (os.path.join(folder, n) for n in ("base.qcow2", "clone.qcow2", "source.raw", "copy.qcow2"))

        def run(*argv):
            subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)

        def made(path, *argv):
            took = ms(lambda: run(*argv))
            os.unlink(path)
            return took

        run("qemu-img", "create", "-q", "-f", "qcow2", base, "100G")
        ours, plain = [QMPCTL, "--root", root.path], ["qemu-img"]
        v = in_turns(ARGS.turns,
                     floor=lambda: made(clone, *plain, "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", clone),
                     ours=lambda: made(clone, *ours, "image", "clone", "--linked", base, clone),
                     created=lambda: made(clone, *ours, "image", "create", clone, "--backing", base))
        compare("a linked clone of 100 GiB, the whole process", "ms", v["ours"], v["floor"], 1.5, floor_is="qemu-img create -b")
        compare("image create --backing, the whole process", "ms", v["created"], v["floor"], 1.5, floor_is="qemu-img create -b")
        with open(source, "wb") as f:
            for _ in range(1024):
                f.write(os.urandom(1 << 20))
        run("sync", source)
        v = in_turns(max(ARGS.turns // 3, 1),
                     floor=lambda: made(copy, *plain, "convert", "-f", "raw", "-O", "qcow2", source, copy),
                     durable=lambda: made(copy, "sh", "-c", 'qemu-img convert -f raw -O qcow2 "$0" "$1" && sync "$1"', source, copy),
                     ours=lambda: made(copy, *ours, "image", "convert", source, copy))
        compare("converting 1 GiB, kept on disk", "ms", v["ours"], v["durable"], 1.03, floor_is="qemu-img convert, sync")
        compare("converting 1 GiB, beside one that is not kept", "ms", v["ours"], v["floor"], 1.03,
                floor_is="qemu-img convert")


GROUPS = {"images": bench_images, "rtt": bench_rtt, "process": bench_process, "plug": bench_plug, "start": bench_start, "memory": bench_memory,
          "virsh": bench_virsh, "scale": bench_scale}


def main():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = [g for g in GROUPS if not ARGS.only or g in ARGS.only]
    print(json.dumps({"kernel": os.uname().release, "cpus": os.cpu_count(), "turns": ARGS.turns, "open files": hard}),
          flush=True)
    root = Root()
    try:
        if set(wanted) - {"scale", "images"}:
            root("create", "b", "--memory", "32M", "--firmware", TINY)
            root("start", "b")
        for group in wanted:
            GROUPS[group](root)
    finally:
        root.close()


main()
