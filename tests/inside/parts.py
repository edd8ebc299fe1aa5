"""What the parts in Python share. tests/systemd.sh has its guest run each of them; with --count it asks for how many checks."""
import os
import shutil
import subprocess
import sys
import time
import unittest

from guest import tiny_spec, with_serial
from volumes import MIB, Volumes
from world import STATE


def run(*argv):
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{' '.join(argv)}: {done.stderr}")
    return done.stdout.strip()


class Kind(Volumes):
    """
    What must hold for real volumes of each kind alike. For a WorldTest that has: definition, of the pool; tools, the programs that
    qmpctl calls; folder, in which a volume's node is; there(), the names of volumes and snapshots that are there, sorted; snapshot(), of one of them; remove().
    """

    pool = "vol"
    newer_go = False  # a rollback takes newer snapshots with it

    def setUp(self):
        super().setUp()
        self.assertEqual(self.there(), [], "an earlier test has left volumes")
        self.addCleanup(self.clean)
        self.tell_all()
        self.w.ok("pool", "create", self.pool, self.definition)

    def tell_all(self):
        """What is run, and how it ended, stands in what the guest has said."""
        plain = self.w.run

        def told(*args, **kw):
            began = time.monotonic()
            result = plain(*args, **kw)
            print(f"{time.monotonic() - began:5.1f} s  $ qmpctl {' '.join(map(str, args))}\n{'' if 'json' in args else result.out}{result.err}"
                  f"{'' if result.rc == 0 else f'[{result.rc}]'}", flush=True)
            return result
        self.w.run = told

    def clean(self):
        self.w.end()
        left = self.there()
        if left:
            self.remove(left)
        self.assertEqual(left, [], "it has left volumes")

    def litter(self):
        return [name for name in self.there() if "qmpctl-new" in name]

    def bytes(self, volume):
        with open(os.path.join(self.folder, volume), "rb") as f:
            return f.read()

    def write(self, volume, data, at=0):
        with open(os.path.join(self.folder, volume), "r+b") as f:
            f.seek(at)
            f.write(data)
            f.flush()
            os.fsync(f.fileno())

    def test_filled(self):
        """images go into volumes, byte for byte"""
        self.check_filled(self.pool)

    def test_bytes(self):
        """a volume has the bytes of the image, and nothing of what was in its place before it"""
        self.w.ok("image", "create", f"{self.pool}:old", "16M")
        self.write("old", os.urandom(16 * MIB))
        self.w.ok("image", "delete", f"{self.pool}:old")
        self.source()
        with open(os.path.join(self.w.base, "source.raw"), "rb") as f:
            source = f.read()
        for verb, name in (("convert", "a"), ("import", "b")):
            self.w.ok("image", verb, os.path.join(self.w.base, "source.raw"), f"{self.pool}:{name}")
            self.assertTrue(self.bytes(name) == source, verb)
        self.w.ok("image", "delete", f"{self.pool}:a", f"{self.pool}:b")

    def test_ends(self):
        """one that is taken back leaves nothing, one that is killed is the next one's"""
        self.check_ends(self.pool, self.litter)

    def test_at_once(self):
        """eight from an image at once"""
        self.check_at_once(self.pool)
        self.w.ok("image", "delete", *(f"{self.pool}:v{i}" for i in range(8)))

    def at_once(self, *commands):
        """Runs them all at once; their exit statuses."""
        procs = [subprocess.Popen(self.w.argv(*c), env=self.w.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for c in commands]
        said = [p.communicate(timeout=900)[1].decode() for p in procs]
        return [p.returncode for p in procs], said

    def test_clones_at_once(self):
        """eight clones of a volume at once"""
        self.w.ok("image", "convert", self.source(), f"{self.pool}:a")
        codes, said = self.at_once(*(("image", "clone", f"{self.pool}:a", f"{self.pool}:c{i}") for i in range(8)))
        self.assertEqual(codes, [0] * 8, said)
        self.assertEqual(sorted(self.volumes(self.pool)), ["a", *(f"c{i}" for i in range(8))])
        for i in (0, 7):
            self.same(self.source(), f"{self.pool}:c{i}")
        self.w.ok("image", "delete", *(f"{self.pool}:c{i}" for i in range(8)))
        self.w.ok("image", "delete", f"{self.pool}:a")

    def test_snapshots(self):
        """snapshots made, listed, gone back to more than once, deleted"""
        self.check_snapshots(self.pool, newer_go=self.newer_go)

    def test_rollbacks(self):
        """each way back brings the bytes of that time"""
        where = f"{self.pool}:a"
        self.w.ok("image", "create", where, "16M")
        contents = {}
        for name in ("zero", "one", "two"):
            if name != "zero":
                self.write("a", os.urandom(6 * MIB), 3 * MIB)
            contents[name] = self.bytes("a")
            self.w.ok("image", "snapshot", where, "create", name)
            self.assertEqual(self.names("a"), list(contents), "oldest first")
        self.write("a", os.urandom(16 * MIB))
        for name in ("two", "one", "one", "zero", "zero") if self.newer_go else ("one", "two", "zero", "zero", "two", "one"):
            self.w.ok("image", "snapshot", where, "rollback", name, *["--force"] * self.newer_go)
            self.assertTrue(self.bytes("a") == contents[name], name)
            self.write("a", os.urandom(MIB), 5 * MIB)
            left = list(contents)[:list(contents).index(name) + 1] if self.newer_go else list(contents)
            self.assertEqual(self.names("a"), left)
            self.assertEqual(self.there(), sorted(["a", *(self.snapshot("a", n) for n in left)]))
        for name in self.names("a"):
            self.w.ok("image", "snapshot", where, "delete", name)
        self.w.ok("image", "delete", where)

    def names(self, volume):
        return [s["name"] for s in self.w.ok("image", "snapshot", f"{self.pool}:{volume}", "list", "-o", "json").json()]

    # -- killed anywhere

    def killing(self, at):
        """From now on the maker is killed before its call number AT of a tool has done anything."""
        folder = os.path.join(self.w.base, "killing")
        os.makedirs(folder, exist_ok=True)
        for tool in self.tools:
            with open(os.path.join(folder, tool), "w", encoding="ascii") as f:
                f.write(f'#!/bin/sh\necho >>{folder}/calls\n[ "$(wc -l <{folder}/calls)" = {at} ] || '
                        f'exec {shutil.which(tool)} "$@"\nkill -9 "$PPID"\n')
            os.chmod(os.path.join(folder, tool), 0o755)
        calls = os.path.join(folder, "calls")
        if os.path.exists(calls):
            os.unlink(calls)
        before, self.w.env["PATH"] = self.w.env["PATH"], f"{folder}:{self.w.env['PATH']}"

        def undo():
            self.w.env["PATH"] = before
            self.stopped_clean()
        return undo

    def killed_everywhere(self, command, check, prepare=None):
        """COMMAND is killed at each of its calls of a tool in turn. CHECK is told whether it was, and leaves all as it found it."""
        for at in range(1, 40):
            if prepare:
                prepare()
            undo = self.killing(at)
            rc = self.w.run(*command).rc
            undo()
            print(f"killed at call {at}: {rc}", flush=True)
            check(rc == -9)
            if rc != -9:
                self.assertEqual(rc, 0)
                self.assertGreater(at, 2)
                return
        self.fail("it does not end")

    def test_killed_making(self):
        """a maker that is killed at any of its steps leaves a whole volume, or nothing that is not swept away"""
        source = self.source()

        def check(killed):
            self.w.ok("pool", "refresh", self.pool)
            self.assertEqual(self.litter(), [])
            self.assertTrue(killed or "a" in self.volumes(self.pool))
            if "a" in self.volumes(self.pool):
                self.same(source, f"{self.pool}:a")
                self.w.ok("image", "delete", f"{self.pool}:a")
        self.killed_everywhere(("image", "convert", source, f"{self.pool}:a"), check)

    def test_killed_creating(self):
        """a VM that is killed while it is made leaves no volume behind that it did not have"""
        command = ("create", "v", "--memory", "32M", "--disk", f"{self.pool}:a,size=8M", "--disk", f"{self.pool}:b,size=8M")

        def check(killed):
            names = [vm["name"] for vm in self.w.ok("list", "-o", "json").json()]
            self.w.ok("create", "next", "--memory", "32M", "--disk", f"{self.pool}:n,size=4M")
            self.assertEqual(sorted(self.volumes(self.pool)), ["a", "b", "n"] if names else ["n"])
            self.assertEqual(self.litter(), [])
            for name in [*names, "next"]:
                self.w.ok("delete", name)
            for name in self.volumes(self.pool):
                self.w.ok("image", "delete", f"{self.pool}:{name}")
        self.killed_everywhere(command, check)

    def test_killed_rolling_back(self):
        """a way back that is killed at any of its steps was gone or not, a VM starts with it, and the snapshot is there"""
        where, old, new = f"{self.pool}:a", os.urandom(MIB), os.urandom(MIB)
        self.w.ok("image", "create", where, "8M")
        self.write("a", old)
        self.w.ok("image", "snapshot", where, "create", "s")
        self.w.create("v", tiny_spec(disks=[{"path": where, "format": "raw"}]))

        def check(killed):
            self.w.ok("start", "v", "--paused")
            self.w.ok("kill", "v")
            self.assertEqual(self.names("a"), ["s"])
            self.assertIn(self.bytes("a")[:MIB], (old, new) if killed else (old,))
            self.w.ok("image", "snapshot", where, "rollback", "s")
            self.assertTrue(self.bytes("a")[:MIB] == old)
            self.assertEqual(self.there(), ["a", self.snapshot("a", "s")])
        self.killed_everywhere(("image", "snapshot", where, "rollback", "s"), check, lambda: self.write("a", new))
        self.w.ok("delete", "v")
        self.w.ok("image", "snapshot", where, "delete", "s")
        self.w.ok("image", "delete", where)

    # -- VMs

    def test_grows(self):
        """a volume grows while a VM has it, and QEMU knows"""
        serial = self.w.serial("v-serial")
        self.w.ok("image", "create", f"{self.pool}:a", "8M")
        self.w.create("v", with_serial(tiny_spec(disks=[{"id": "d", "path": f"{self.pool}:a", "format": "raw"}]), serial))
        self.w.ok("start", "v")
        serial.expect("TINY-READY")
        self.w.ok("disk", "resize", "v", "d", "24M")
        with self.w.control("v") as qmp:
            sizes = [d["inserted"]["image"]["virtual-size"] for d in qmp.execute("query-block") if "inserted" in d]
        self.assertEqual((sizes, self.volumes(self.pool)["a"]["capacity"]), ([24 * MIB], 24 * MIB))
        self.assertIn("in use by the VM v", self.w.expect(STATE, "image", "delete", f"{self.pool}:a").err)
        self.w.ok("kill", "v")
        self.w.ok("delete", "v")
        self.w.ok("image", "delete", f"{self.pool}:a")

    def test_pool_deleted(self):
        """a pool that is deleted leaves its volumes, and nothing of itself"""
        self.w.ok("image", "create", f"{self.pool}:a", "8M")
        self.w.ok("pool", "delete", self.pool)
        self.assertIn("a", self.there())
        conf = [os.path.join(d, f) for d, _, files in os.walk(self.w.root) for f in files if f.endswith(f"{self.pool}.json")]
        self.assertEqual(conf, [])
        self.w.ok("pool", "create", self.pool, self.definition)
        self.w.ok("image", "delete", f"{self.pool}:a")


class Told(unittest.TestResult):
    """A line for each test as soon as it has ended; what went wrong stands before it."""

    def told(self, word, test, why=None):
        if why:
            print(self._exc_info_to_string(why, test))
        print(f"{word}: {test.shortDescription() or test._testMethodName} ({type(test).__name__})", flush=True)

    def addSuccess(self, test):
        self.told("OK", test)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.told("FAILED", test, err)

    def addError(self, test, err):
        super().addError(test, err)
        self.told("FAILED", test, err)


def main():
    loader = unittest.TestLoader()
    names = [a for a in sys.argv[1:] if a != "--count"] or os.environ.get("QMPCTL_ONLY", "").split()
    loader.testNamePatterns = [f"*{n}*" for n in names] or None
    suite = loader.loadTestsFromModule(sys.modules["__main__"])
    if "--count" in sys.argv:
        print(suite.countTestCases())
    else:
        suite.run(Told())
