"""A world of its own for each test: a --root folder, the program under test in it, and nothing left of it afterwards."""
import fcntl
import glob
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import unittest
import zlib

from guest import Serial, with_serial
from qmp import PATIENCE, Qmp

OK, FAILED, USAGE, NOT_FOUND, STATE, TIMEOUT, PENDING, UNREACHABLE, HOST = range(9)
# What run adds to them.
KILLED, CRASHED, PANICKED, EXITED = 20, 21, 22, 23

QMPCTL = os.environ.get("QMPCTL") or os.path.realpath(
    os.path.join(os.path.dirname(__file__), "../../build/release/qmpctl/qmpctl"))
QEMU = os.environ.get("QMPCTL_QEMU")
# The one that came with it, where there is one.
QEMU_IMG = os.path.join(os.path.dirname(QEMU), "qemu-img") if QEMU and "/" in QEMU else "qemu-img"


def have_kvm():
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
        return True
    except OSError:
        return False


ACCEL = "kvm" if have_kvm() else "tcg"


class Result:
    """How a run of the program ended."""

    def __init__(self, argv, rc, out, err):
        self.argv, self.rc, self.out, self.err = argv, rc, out, err

    def json(self):
        try:
            return json.loads(self.out)
        except ValueError as why:
            raise AssertionError(f"{self}\nis not JSON: {why}") from None

    def __iter__(self):
        return iter((self.rc, self.out, self.err))

    def __str__(self):
        return f"$ {' '.join(self.argv)}\n[exit status {self.rc}]\n{self.out}{self.err}"


def learn(folder):
    """What the program finds out of QEMU before the first start, into the new FOLDER."""
    w = World(asks=True)
    try:
        w.create("x", {"memory": "16M"})
        w.ok("args", "x")
        found = w.known()
        with open([path for path in found if not path.endswith(".schema.json")][0], encoding="utf-8") as f:
            if ACCEL == "kvm" and not json.load(f)["kvm-cpu"]:
                return  # it was not to be had just now
        os.mkdir(folder + ".new")
        for path in found:
            shutil.copy(path, folder + ".new")
        os.rename(folder + ".new", folder)
    finally:
        w.close()


def learned():
    """
    The files of what this very program finds out of this QEMU: asked once for all worlds, for that is three starts of QEMU. Where
    there is none, or they cannot be kept beside the program: none, and each world asks.
    """
    qemu = QEMU or shutil.which("qemu-system-x86_64")
    if not qemu or not os.access(os.path.dirname(QMPCTL), os.W_OK):
        return []
    above, build = os.path.join(os.path.dirname(QMPCTL), "learned"), f"{os.stat(QMPCTL).st_mtime_ns:x}"
    folder = os.path.join(above, f"{build}-{zlib.crc32(os.path.realpath(qemu).encode()):08x}")
    os.makedirs(above, exist_ok=True)
    with open(os.path.join(above, "lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for old in os.listdir(above):
            if old != "lock" and (not old.startswith(build) or old.endswith(".new")):
                shutil.rmtree(os.path.join(above, old))
        if not os.path.isdir(folder):
            learn(folder)
    return glob.glob(os.path.join(folder, "*"))


class World:
    """
    A --root folder. Every process started in it carries its path in its environment. ASKS: the first start finds out what QEMU
    can, as it is on a new host; else that is known.
    """

    def __init__(self, root=None, asks=False):
        self.asks = asks
        self.base = tempfile.mkdtemp(prefix="qmpctl-")
        self.root = os.path.join(self.base, root or "root")
        self.serials = []
        self.spawned = []
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("QMPCTL_", "XDG_"))}
        self.env["QMPCTL_TEST_WORLD"] = self.base
        if QEMU:
            self.env["QMPCTL_QEMU"] = QEMU
        if os.access(QEMU_IMG, os.X_OK):
            self.env["QMPCTL_QEMU_IMG"] = QEMU_IMG

    # -- the program

    def argv(self, *args):
        return [QMPCTL, "--root", self.root, *map(str, args)]

    def run(self, *args, timeout=2 * PATIENCE, stdin=None):
        """Runs a verb to its end. A run that does not end in time is a failure of the test."""
        argv = self.argv(*args)
        proc = subprocess.Popen(argv, env=self.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL)
        try:
            out, err = proc.communicate(stdin, timeout)
        except subprocess.TimeoutExpired:
            proc.kill()
            # A child that holds the pipes would hold us too.
            try:
                out, err = proc.communicate(timeout=2)
            except subprocess.TimeoutExpired:
                out = err = "(its output is still held open by a child)\n"
            raise AssertionError(f"no end within {timeout} s: {Result(argv, None, out, err)}") from None
        return Result(argv, proc.returncode, out, err)

    def ok(self, *args, **kw):
        return self.expect(OK, *args, **kw)

    def expect(self, rc, *args, **kw):
        """Runs a verb that must end with RC."""
        result = self.run(*args, **kw)
        if result.rc != rc:
            raise AssertionError(f"exit status {rc} expected:\n{result}\n{self.logs()}")
        return result

    def spawn(self, *args):
        """Starts a verb that goes on, in the background; its output goes to a file in the world."""
        log = open(os.path.join(self.base, f"spawn-{args[0]}.log"), "a+b")
        proc = subprocess.Popen(self.argv(*args), env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        proc.log = log.name
        log.close()
        self.spawned.append(proc)
        return proc

    def create(self, name, spec):
        """Makes the VM from a spec document."""
        spec = dict(spec, name=name)
        spec.setdefault("accel", ACCEL)
        path = os.path.join(self.base, f"{name}.json")
        with open(path, "w", encoding="utf-8") as f:
            json.dump(spec, f)
        made = self.ok("create", name, "--spec", path)
        if not self.asks and self.env.get("QMPCTL_QEMU") == QEMU and "qemu-binary" not in spec and not self.known():
            cache = os.path.join(self.root, "lib", "cache")
            os.makedirs(os.path.dirname(cache), mode=0o700, exist_ok=True)
            os.makedirs(cache, mode=0o700, exist_ok=True)
            for path in learned():
                shutil.copy(path, cache)
        return made

    def known(self):
        """The files of what has been found out of QEMUs."""
        return glob.glob(os.path.join(self.root, "lib", "cache", "qemu-*.json"))

    def serial(self, name="serial"):
        end = Serial(os.path.join(self.base, f"{name}.sock"))
        self.serials.append(end)
        return end

    def create_tiny(self, name, **more):
        """Makes a tiny guest whose serial port is the returned one."""
        from guest import tiny_spec
        serial = self.serial(f"{name}-serial")
        self.create(name, with_serial(tiny_spec(**more), serial))
        return serial

    def start_tiny(self, name, **more):
        serial = self.create_tiny(name, **more)
        self.ok("start", name)
        serial.expect("TINY-READY")
        return serial

    def status(self, name):
        """The state as `status -o json` says it."""
        return self.ok("status", name, "-o", "json").json()

    def state(self, name):
        return self.status(name)["state"]

    def wait_state(self, name, *states, timeout=PATIENCE):
        deadline = time.monotonic() + timeout
        while True:
            now = self.state(name)
            if now in states:
                return now
            if time.monotonic() > deadline:
                raise AssertionError(f"{name} is {now} after {timeout} s, not {' or '.join(states)}\n{self.logs()}")
            time.sleep(0.02)

    # -- its files

    def vm_dir(self, name):
        """The VM's folder under RUNDIR, known by its control socket."""
        for folder, _, files in os.walk(self.root):
            if os.path.basename(folder) == name and "control.sock" in files:
                return folder
        raise AssertionError(f"no {name}/control.sock under {self.root}:\n{self.tree()}")

    def control(self, name, timeout=PATIENCE, **kw):
        return Qmp(os.path.join(self.vm_dir(name), "control.sock"), timeout, **kw)

    def tree(self):
        return "\n".join(os.path.join(d, f) for d, _, files in os.walk(self.base) for f in files)

    def logs(self):
        """The ends of what was written to logs in here, for the message of a failing test."""
        text = []
        for folder, _, files in os.walk(self.base):
            for name in files:
                if not name.endswith(".log") and "log" not in os.path.basename(folder):
                    continue
                path = os.path.join(folder, name)
                if not os.path.isfile(path):
                    continue
                with open(path, "rb") as f:
                    end = f.read()[-3000:].decode("utf-8", "replace")
                if end:
                    text.append(f"--- {path}\n{end}")
        return "\n".join(text)

    # -- its processes

    def processes(self):
        """pid -> command line of every living process of this world: found by its path, not by what we remember."""
        found = {}
        marks = [self.base.encode(), os.path.realpath(self.base).encode()]
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if int(pid) == os.getpid():
                continue
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    cmdline = f.read()
                with open(f"/proc/{pid}/environ", "rb") as f:
                    environ = f.read()
                cwd = os.readlink(f"/proc/{pid}/cwd").encode()
            except OSError:
                continue
            if cmdline and any(mark in text for mark in marks for text in (cmdline, environ, cwd)):
                found[int(pid)] = cmdline.replace(b"\0", b" ").decode("utf-8", "replace").strip()
        return found

    def qemu_pid(self, name):
        """The QEMU of that VM, by /proc: -name is on its command line."""
        hits = [pid for pid, cmd in self.processes().items()
                if "qemu-system" in cmd.split(" ")[0] and re.search(rf" -name guest={re.escape(name)}[ ,]", cmd)]
        if len(hits) != 1:
            raise AssertionError(f"one QEMU of {name} expected, found {hits}: {self.processes()}")
        return hits[0]

    def keeper_pid(self):
        """The one process that is no QEMU, once it is alone: a keeper that leaves lets go of its VM before it ends."""
        deadline = time.monotonic() + PATIENCE
        while True:
            hits = [pid for pid, cmd in self.processes().items() if "qemu-system" not in cmd.split(" ")[0]]
            if len(hits) == 1:
                return hits[0]
            if time.monotonic() > deadline:
                raise AssertionError(f"one keeper expected, found {hits}: {self.processes()}")
            time.sleep(0.02)

    def kill_keeper(self):
        """Any verb brings up another, which takes over the QEMU that lives."""
        pid = self.keeper_pid()
        os.kill(pid, signal.SIGKILL)
        self.wait_gone([pid])

    @staticmethod
    def is_gone(pid):
        """With all its threads, and so with its files and locks: those outlive its command line."""
        try:
            with open(f"/proc/{pid}/stat", "rb") as f:
                dead = f.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
            return dead and len(os.listdir(f"/proc/{pid}/task")) == 1
        except (OSError, IndexError):
            return True

    def wait_gone(self, pids, timeout=PATIENCE):
        deadline = time.monotonic() + timeout
        while True:
            left = [pid for pid in pids if not self.is_gone(pid)]
            if not left:
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"still there after {timeout} s: {left} of {self.processes()}")
            time.sleep(0.02)

    def end(self):
        """Ends what is left, and says so if something cannot be ended."""
        deadline = time.monotonic() + PATIENCE
        while self.processes():
            for pid in self.processes():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            if time.monotonic() > deadline:
                raise AssertionError(f"processes that do not end: {self.processes()}")
            time.sleep(0.01)
        for proc in self.spawned:
            proc.wait(PATIENCE)

    def close(self):
        """Ends what is left; then the files go."""
        self.end()
        for serial in self.serials:
            serial.close()
        shutil.rmtree(self.base)


class WorldTest(unittest.TestCase):
    """A test case with self.w, a fresh world. A failing test shows the world's logs."""

    maxDiff = None

    def setUp(self):
        self.w = World()
        self.addCleanup(self.w.close)

    def serve_folder(self, folder):
        """A web server on 127.0.0.1: (its port, the paths that it was asked for, as they come)."""
        asked = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args):
                super().__init__(*args, directory=folder)

            def log_message(self, *args):
                asked.append(self.path)

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        return server.server_port, asked

    def until(self, condition, message, timeout=PATIENCE):
        """Waits until CONDITION() holds; returns what it gave. MESSAGE: a text, or what makes one when time is up."""
        deadline = time.monotonic() + timeout
        while not (found := condition()):
            self.assertLess(time.monotonic(), deadline, message() if callable(message) else message)
            time.sleep(0.05)
        return found

    def stopped_clean(self):
        """Nothing of the world runs any more, though nobody killed it."""
        self.w.wait_gone(list(self.w.processes()))


def main():
    if not os.access(QMPCTL, os.X_OK):
        raise SystemExit(f"{QMPCTL}: no program to test; build it, or name it in QMPCTL")
    unittest.main(verbosity=2)
