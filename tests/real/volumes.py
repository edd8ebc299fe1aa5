"""What holds for volumes of each kind of pool alike: the tests of the kinds call it with a pool of theirs."""
import os
import random
import shutil
import signal
import stat
import subprocess
import time

from qmp import PATIENCE
from world import NOT_FOUND, QEMU_IMG, STATE, USAGE

MIB = 1 << 20


class Volumes:
    """For a WorldTest."""

    def source(self, name="source.qcow2", size=8 * MIB):
        """An image with something in it, and its path."""
        raw, path = (os.path.join(self.w.base, n) for n in ("source.raw", name))
        with open(raw, "wb") as f:
            f.write(random.Random(7).randbytes(MIB))
            f.seek(5 * MIB)
            f.write(random.Random(8).randbytes(MIB))
            f.truncate(size)
        if not os.path.exists(path):
            self.w.ok("image", "convert", raw, path)
        return path

    def volumes(self, pool):
        return {v["name"]: v for v in self.w.ok("pool", "info", pool, "-o", "json").json()["content"]}

    def qemu_name(self, pool, volume):
        """As qemu-img has it."""
        path = self.volumes(pool)[volume]["path"]
        return path if path.startswith("/") else path.replace("rbd://", "rbd:").replace("?conf=", ":conf=").replace("&user=", ":id=")

    def same(self, a, b):
        self.w.ok("image", "compare", a, b)

    def hanging_qemu_img(self):
        """From now on qemu-img converts without end. What undoes it."""
        path, mark = os.path.join(self.w.base, "qemu-img"), os.path.join(self.w.base, "converting")
        with open(path, "w", encoding="ascii") as f:
            f.write(f'#!/bin/sh\n[ "$1" = convert ] || exec {QEMU_IMG} "$@"\n: >{mark}\nexec sleep 600\n')
        os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)
        before, self.w.env["QMPCTL_QEMU_IMG"] = self.w.env.get("QMPCTL_QEMU_IMG", "qemu-img"), path

        def undo():
            self.w.env["QMPCTL_QEMU_IMG"] = before
        return mark, undo

    def check_filled(self, pool):
        """Images go into volumes: converted, imported, cloned from a file and from another volume."""
        source = self.source()
        self.w.ok("image", "convert", source, f"{pool}:conv")
        self.same(source, f"{pool}:conv")
        self.assertEqual(self.volumes(pool)["conv"]["capacity"], 8 * MIB)
        self.assertIn("is there already", self.w.expect(STATE, "image", "convert", source, f"{pool}:conv").err)
        self.assertIn("--compress is for files", self.w.expect(USAGE, "image", "convert", source, f"{pool}:x", "--compress").err)
        self.assertIn("is raw, not", self.w.expect(USAGE, "image", "convert", source, f"{pool}:x", "--format", "qcow2").err)
        self.w.ok("image", "import", source, f"{pool}:imp")
        self.same(source, f"{pool}:imp")
        self.w.ok("image", "clone", source, f"{pool}:file")
        self.same(source, f"{pool}:file")
        self.w.ok("image", "clone", f"{pool}:conv", f"{pool}:full", "--full")
        self.same(source, f"{pool}:full")
        self.assertNotIn("origin", self.volumes(pool)["full"])
        out = os.path.join(self.w.base, "out.qcow2")
        self.w.ok("image", "convert", f"{pool}:full", out)
        self.same(source, out)
        for name in ("conv", "imp", "file", "full"):
            self.w.ok("image", "delete", f"{pool}:{name}")
        os.unlink(out)
        self.assertEqual(self.volumes(pool), {})

    def check_ends(self, pool, litter):
        """One that is taken back leaves nothing; one that is killed leaves what the next one removes. LITTER lists such things."""
        source = self.source()
        mark, undo = self.hanging_qemu_img()
        for sig in (signal.SIGINT, signal.SIGKILL):
            proc = self.w.spawn("image", "convert", source, f"{pool}:x")
            self.until(lambda: os.path.exists(mark), "it does not begin")
            self.assertEqual((len(litter()), self.volumes(pool)), (1, {}), "it is hidden while it is made")
            self.assertIn("is being made by another", self.w.run("image", "create", f"{pool}:x", "1M").err)
            self.w.ok("pool", "refresh", pool)
            self.assertEqual(len(litter()), 1, "a refresh leaves what is being made")
            proc.send_signal(sig)
            self.assertNotEqual(proc.wait(60), 0)
            self.assertEqual(len(litter()), 0 if sig == signal.SIGINT else 1)
            os.unlink(mark)
        undo()
        self.stopped_clean()
        self.w.ok("image", "convert", source, f"{pool}:y")
        self.assertEqual((litter(), sorted(self.volumes(pool))), ([], ["y"]))
        self.w.ok("image", "delete", f"{pool}:y")

    def hanging_tool(self, program, word):
        """From now on PROGRAM never gets done what is asked of it with WORD, a shell's pattern. What undoes it."""
        folder, mark = os.path.join(self.w.base, "hanging"), os.path.join(self.w.base, "hangs")
        os.mkdir(folder)
        path, before = os.path.join(folder, os.path.basename(program)), self.w.env["PATH"]
        with open(path, "w", encoding="ascii") as f:
            f.write(f'#!/bin/sh\nfor w; do case "$w" in {word}) : >{mark}; exec sleep 600 ;; esac; done\nexec {program} "$@"\n')
        os.chmod(path, 0o755)
        self.w.env["PATH"] = f"{folder}:{before}"

        def undo():
            self.w.env["PATH"] = before
            shutil.rmtree(folder)
            os.unlink(mark)
        return mark, undo

    def check_clone_ends(self, pool, program, words, snapshots):
        """
        What a clone that is killed at one of the WORDS, or a removal, has left of the SNAPSHOTS that are made for clones goes with
        what is made or removed next.
        """
        clone = ("image", "clone", f"{pool}:a", f"{pool}:b")

        def kill_at(word, *argv):
            mark, undo = self.hanging_tool(program, word)
            proc = self.w.spawn(*argv)
            self.until(lambda: os.path.exists(mark), f"it does not come to {word}")
            proc.kill()
            proc.wait(60)
            undo()
            self.stopped_clean()

        self.w.ok("image", "create", f"{pool}:a", "1M")
        kill_at(words[0], *clone)
        self.assertEqual(len(snapshots()), 1)
        self.w.ok("image", "create", f"{pool}:c", "1M")
        self.assertEqual(snapshots(), [])
        # Where it is in the way of what is asked.
        kill_at(words[-1], *clone)
        self.w.ok(*clone)
        kill_at("*@qmpctl-*", "image", "delete", f"{pool}:b")
        self.assertEqual(len(snapshots()), 1)
        self.w.ok("image", "delete", f"{pool}:a")
        self.assertEqual((snapshots(), list(self.volumes(pool))), ([], ["c"]))

    def check_at_once(self, pool):
        """Eight that are made from an image at once, one name of them twice: one of the two is the first."""
        source = self.source()
        procs = [subprocess.Popen(self.w.argv("image", "convert", source, f"{pool}:v{i % 8}"), env=self.w.env,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for i in range(9)]
        codes = [p.wait(4 * PATIENCE) for p in procs]
        self.assertEqual((codes[1:8], (codes[0], codes[8]).count(0)), ([0] * 7, 1))
        self.assertEqual(sorted(self.volumes(pool)), [f"v{i}" for i in range(8)])
        for name in ("v0", "v7"):
            self.same(source, f"{pool}:{name}")

    def check_vms(self, pool, shares, chains=True):
        """
        VMs from an image into the pool, and clones of them, linked and full. SHARES: a full clone needs its origin no more. CHAINS: a
        clone can be cloned.
        """
        source = self.source()
        vm = ("--memory", "32M")

        def disk(name):
            return self.w.ok("show", name, "-o", "json").json()["spec"]["disks"][0]

        self.w.ok("create", "a", "--image", source, "--size", "16M", "--pool", pool, *vm)
        self.assertEqual(disk("a"), dict(disk("a"), path=f"{pool}:a-1", format="raw"))
        self.assertNotIn("backing", disk("a"))
        self.assertEqual(self.volumes(pool)["a-1"]["capacity"], 16 * MIB)
        self.same(source, f"{pool}:a-1")
        result = self.w.expect(USAGE, "create", "x", "--image", source, "--pool", pool, "--disk", f"{pool}:y,size=1M", "--nic", "nix")
        self.assertEqual(sorted(self.volumes(pool)), ["a-1"], f"what is refused leaves nothing: {result}")
        self.w.ok("create", "b", "--image", f"{pool}:a-1", *vm)
        self.assertEqual(disk("b")["path"], f"{pool}:b-1")
        if not chains:
            self.assertIn(f"{pool}:b-1 is a clone of {pool}:a-1", self.w.expect(STATE, "clone", "b", "c", "--linked").err)
            self.assertEqual(sorted(self.volumes(pool)), ["a-1", "b-1"])
            self.w.ok("create", "e", "--image", f"{pool}:b-1", *vm)
            self.assertNotIn("origin", self.volumes(pool)["e-1"])
            self.same(source, f"{pool}:e-1")
            self.w.ok("delete", "e", "--disks")
        for vm_of, name, option in (("b" if chains else "a", "c", "--linked"), ("b", "d", "--full")):
            self.w.ok("clone", vm_of, name, option)
            self.assertEqual(disk(name), dict(disk("b"), path=f"{pool}:{name}-1"))
            self.same(source, f"{pool}:{name}-1")
        volumes = self.volumes(pool)
        self.assertEqual(sorted(volumes), ["a-1", "b-1", "c-1", "d-1"])
        listed = self.w.ok("image", "list", pool, "-o", "json").json()
        self.assertEqual([(i["volume"], [u["vm"] for u in i["users"]]) for i in listed], [(f"{pool}:{n}-1", [n]) for n in "abcd"])
        self.assertIn(f"{pool}:b-1", self.w.ok("image", "list", pool).out)
        info = self.w.ok("image", "info", f"{pool}:c-1", "-o", "json").json()
        self.assertEqual((info["volume"], info["virtual-size"], info["users"][0]["vm"]), (f"{pool}:c-1", 16 * MIB, "c"))
        trees = {t["volume"]: t for t in self.w.ok("image", "tree", pool, "-o", "json").json()}
        if not shares:
            self.assertIn("b-1" if chains else "a-1", volumes["c-1"]["origin"])
            self.assertNotIn("origin", volumes["d-1"])
            on_a = {o["volume"]: [c["volume"] for c in o.get("overlays", [])] for o in trees[f"{pool}:a-1"]["overlays"]}
            self.assertEqual(on_a, {f"{pool}:b-1": [f"{pool}:c-1"]} if chains else {f"{pool}:b-1": [], f"{pool}:c-1": []})
            tree = self.w.ok("image", "tree", f"{pool}:c-1").out
            self.assertTrue(f"{pool}:a-1" in tree and f"{pool}:d-1" not in tree, tree)
        else:
            # The second disk, of a file with a base, is copied by qemu-img.
            over = os.path.join(self.w.base, "over.qcow2")
            self.w.ok("image", "create", over, "--backing", source)
            self.w.ok("disk", "add", "b", f"{over},format=qcow2,backing.path={source},backing.format=qcow2")
        mark, undo = self.hanging_qemu_img()
        proc = self.w.spawn("clone", "b", "e")
        self.until(lambda: os.path.exists(mark), "it does not begin")
        proc.send_signal(signal.SIGINT)
        self.assertNotEqual(proc.wait(60), 0)
        undo()
        self.assertEqual(sorted(self.volumes(pool)), ["a-1", "b-1", "c-1", "d-1"], "what is taken back leaves none")
        for name in "dcba":
            kept = [os.path.join(self.w.base, "over.qcow2")] if shares and name == "b" else []
            self.assertEqual(self.w.ok("delete", name, "--disks", "-o", "json").json(),
                             {"name": name, "deleted": [f"{pool}:{name}-1"], "kept": kept})
            self.assertNotIn(f"{name}-1", self.w.ok("image", "list", pool).out)

    def check_snapshots(self, pool, newer_go=False, runs=True):
        """Made, listed, gone back to (which one can do again), deleted; a VM that runs; what hangs on them."""
        source = self.source()
        self.w.ok("image", "convert", source, f"{pool}:a")

        def names():
            return [s["name"] for s in self.w.ok("image", "snapshot", f"{pool}:a", "list", "-o", "json").json()]

        self.assertEqual(names(), [])
        self.w.ok("image", "snapshot", f"{pool}:a", "create", "s1")
        self.assertIn("already", self.w.expect(STATE, "image", "snapshot", f"{pool}:a", "create", "s1").err)
        for bad in ("-x", "a/b", "a@b", "qmpctl-x", ".", "x" * 65):
            self.assertIn("no name", self.w.expect(USAGE, "image", "snapshot", f"{pool}:a", "create", "--", bad).err)
        empty = os.path.join(self.w.base, "empty.raw")
        with open(empty, "wb") as f:
            f.truncate(8 * MIB)
        subprocess.run([QEMU_IMG, "convert", "-n", "-O", "raw", "-f", "raw", empty, self.qemu_name(pool, "a")], check=True)
        self.same(empty, f"{pool}:a")
        self.w.ok("image", "snapshot", f"{pool}:a", "create", "s2")
        listed = self.w.ok("image", "snapshot", f"{pool}:a", "list", "-o", "json").json()
        self.assertEqual([(s["name"], s["capacity"]) for s in listed], [("s1", 8 * MIB), ("s2", 8 * MIB)])
        self.assertTrue(all(abs(s["created"] - time.time()) < 3600 for s in listed), listed)
        self.assertIn("s1", self.w.ok("image", "snapshot", f"{pool}:a", "list").out)
        volume = self.volumes(pool)["a"]
        self.assertEqual((volume["snapshots"], volume["capacity"]), (2, 8 * MIB))
        self.assertIn("2 snapshots", self.w.ok("pool", "info", pool).out)
        if runs:
            self.w.ok("create", "v", "--memory", "32M", "--disk", f"{pool}:a,format=raw")
            self.w.ok("start", "v", "--paused")
            self.assertIn("in use by the VM v (running", self.w.expect(STATE, "image", "snapshot", f"{pool}:a", "rollback", "s1").err)
            self.w.ok("image", "snapshot", f"{pool}:a", "create", "live")
            self.w.ok("image", "snapshot", f"{pool}:a", "delete", "live")
            self.w.ok("kill", "v")
            self.w.ok("delete", "v")
        if newer_go:
            self.assertIn("newer snapshots", self.w.expect(STATE, "image", "snapshot", f"{pool}:a", "rollback", "s1").err)
            self.w.ok("image", "snapshot", f"{pool}:a", "rollback", "s1", "--force")
            self.assertEqual(names(), ["s1"])
        else:
            self.w.ok("image", "snapshot", f"{pool}:a", "rollback", "s1")
            self.same(source, f"{pool}:a")
            self.w.ok("image", "snapshot", f"{pool}:a", "rollback", "s2")
            self.same(empty, f"{pool}:a")
            self.w.ok("image", "snapshot", f"{pool}:a", "rollback", "s1")
            self.assertEqual(sorted(names()), ["s1", "s2"])
            self.w.ok("image", "snapshot", f"{pool}:a", "delete", "s2")
        self.same(source, f"{pool}:a")
        self.assertIn("the snapshot s1", self.w.expect(STATE, "image", "delete", f"{pool}:a").err)
        self.w.expect(NOT_FOUND, "image", "snapshot", f"{pool}:a", "delete", "none")
        self.w.expect(NOT_FOUND, "image", "snapshot", f"{pool}:a", "rollback", "none")
        self.w.expect(NOT_FOUND, "image", "snapshot", f"{pool}:none", "create", "s1")
        self.w.ok("image", "snapshot", f"{pool}:a", "delete", "s1")
        self.w.ok("image", "delete", f"{pool}:a")
        self.assertEqual(self.volumes(pool), {})
