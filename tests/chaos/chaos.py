"""What the chaos tests share: worlds whose QEMUs are tests/fake, figures of a process, and how much is done."""
import json
import os
import random
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, "../real"))

from world import World  # noqa: E402

FAKE = os.environ.get("QMPCTL_FAKE") or os.path.realpath(os.path.join(HERE, "../../build/release/tests/fake/fake_qemu"))
GROWTH_KIB = int(os.environ.get("QMPCTL_GROWTH_KIB") or 1024)  # what a keeper may grow by; AddressSanitizer needs more


def amount(variable, default):
    """How much of it is done: a few in ctest, many by hand."""
    return int(os.environ.get(variable) or default)


def seed():
    value = int(os.environ.get("QMPCTL_SEED") or int.from_bytes(os.urandom(3), "big"))
    print(f"QMPCTL_SEED={value}", flush=True)
    return value


def chance(*parts):
    return random.Random(":".join(map(str, parts)))


def figure(**values):
    """One line of figures, as tests/bench prints them."""
    print(json.dumps(values), flush=True)


def private_kib(pid):
    """What it has of its own; also what it shares for a moment with a child that it has just forked."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
        return sum(int(line.split()[1]) for line in f if line.startswith("Anonymous:"))


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", "rb") as f:
        fields = f.read().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def fds(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * p / 100))]


class FakeWorld(World):
    """A world in which fake_qemu stands in for QEMU."""

    def __init__(self):
        super().__init__()
        self.env["QMPCTL_QEMU"] = FAKE
        self.env.pop("FAKE_QEMU", None)

    def create_fakes(self, names, **more):
        for name in names:
            self.create(name, dict({"memory": "16M", "accel": "tcg"}, **more))

    def run_dir(self, name):
        return os.path.join(self.root, "run", name)

    def script(self, name, words="", answers=None):
        """How the next QEMU of that VM behaves."""
        folder = self.run_dir(name)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with open(os.path.join(folder, "fake-qemu"), "w", encoding="utf-8") as f:
            f.write(words)
        with open(os.path.join(folder, "fake-answers"), "w", encoding="utf-8") as f:
            json.dump(answers or {}, f)

    def fakes(self):
        return [pid for pid, cmd in self.processes().items() if "fake_qemu" in cmd.split(" ")[0]]

    def keepers(self):
        return [pid for pid, cmd in self.processes().items() if "fake_qemu" not in cmd.split(" ")[0]]
