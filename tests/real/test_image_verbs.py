"""The verbs on images, with the real qemu-img."""
import glob
import json
import os
import pty
import random
import re
import signal
import subprocess

import world
from world import FAILED, HOST, NOT_FOUND, OK, PATIENCE, STATE, USAGE, WorldTest

MIB = 1 << 20
FORMATS = ("raw", "vmdk", "vhdx", "vdi")
HOSTILE = ("nbd:x", "a,b=c", "-f", "json:{}", "new\nline", "quo\"te'", "back\\slash", "ünï", "%s", "$(id)", "file:x", "a b")


class ImageTest(WorldTest):
    def path(self, name):
        return os.path.join(self.w.base, name)

    def qemu_img(self, *args):
        return subprocess.run([self.w.env.get("QMPCTL_QEMU_IMG", "qemu-img"), *args], check=True, capture_output=True).stdout

    def write(self, path, content, fmt="qcow2"):
        """CONTENT, at 0, into the image."""
        raw = self.path("content")
        with open(raw, "wb") as f:
            f.write(content)
        self.qemu_img("convert", "-n", "-f", "raw", "-O", fmt, raw, path)
        os.unlink(raw)

    def read(self, path, fmt):
        raw = self.path("read back")
        self.qemu_img("convert", "-f", fmt, "-O", "raw", path, raw)
        with open(raw, "rb") as f:
            content = f.read()
        os.unlink(raw)
        return content

    def chain(self):
        """A base with content and an overlay with other content in its middle: (their paths, what a guest sees)."""
        content = random.Random(5).randbytes(3 * MIB)
        base, over = self.path("base.qcow2"), self.path("over.qcow2")
        self.w.ok("image", "create", base, "4M")
        self.write(base, content + bytes(MIB))
        self.w.ok("image", "create", over, "--backing", base)
        json_name = json.dumps({"driver": "qcow2", "file": {"driver": "file", "filename": over}})
        with open(self.path("middle"), "wb") as f:
            f.write(b"m" * MIB)
        subprocess.run(["qemu-io", "-c", f"write -s {self.path('middle')} 1M 1M", "json:" + json_name], check=True,
                       capture_output=True)
        return base, over, content[:MIB] + b"m" * MIB + content[2 * MIB:] + bytes(MIB)

    def drafts(self):
        return glob.glob(os.path.join(self.w.base, ".*.qmpctl-new"))

    def refused(self, rc, *args, says):
        result = self.w.expect(rc, *args)
        for text in [says] if isinstance(says, str) else says:
            self.assertIn(text, result.err)


class Formats(ImageTest):
    def test_every_format_both_ways(self):
        _, over, content = self.chain()
        for fmt in FORMATS:
            with self.subTest(format=fmt):
                there, back = self.path(f"c.{fmt}"), self.path(f"{fmt}.qcow2")
                self.w.ok("image", "convert", over, there)
                self.assertEqual(self.read(there, fmt), content)
                self.w.ok("image", "convert", there, back, "--from", fmt)
                self.assertEqual(self.read(back, "qcow2"), content)
                self.assertEqual(self.w.ok("image", "compare", over, there).out, "identical\n")
        with open(self.path("c.vmdk"), "rb") as f:
            self.assertIn(b'SPARSE "c.vmdk"', f.read(65536))
        self.assertEqual(self.drafts(), [])

    def test_options(self):
        path = self.path("a.qcow2")
        self.w.ok("image", "create", path, "10M", "--option", "cluster_size=2M", "--option", "lazy_refcounts=on")
        info = self.w.ok("image", "info", path, "-o", "json").json()
        self.assertEqual(info["cluster-size"], 2 * MIB)
        self.assertTrue(info["format-specific"]["data"]["lazy-refcounts"])
        self.refused(HOST, "image", "create", self.path("b.qcow2"), "1M", "--option", "bogus=1", says="bogus")
        self.refused(USAGE, "image", "create", self.path("b.qcow2"), "1M", "--option", "data_file=/etc/passwd", says="data_file")
        self.assertFalse(os.path.exists(self.path("b.qcow2")))

    def test_measure_and_map(self):
        base, over, _ = self.chain()
        sizes = self.w.ok("image", "measure", over, "--format", "raw", "-o", "json").json()
        self.assertEqual(sizes["fully-allocated"], 4 * MIB)
        parts = self.w.ok("image", "map", over, "-o", "json").json()
        self.assertEqual({p["depth"] for p in parts if p["data"]}, {0, 1})
        self.refused(USAGE, "image", "measure", says="--size")
        self.assertEqual(self.w.expect(FAILED, "image", "compare", base, over).out, "Content mismatch at offset 1048576!\n")
        larger = self.path("larger.raw")
        self.w.ok("image", "convert", over, larger)
        self.w.ok("image", "resize", larger, "+1M")
        self.w.ok("image", "compare", over, larger)
        self.w.expect(FAILED, "image", "compare", over, larger, "--strict")


class Inside(ImageTest):
    """What qcow2 images have in themselves: snapshots and bitmaps."""

    def fill(self, path, byte):
        self.write(path, bytes([byte]) * MIB)

    def holds(self, path, byte, fmt="qcow2"):
        self.assertEqual(self.read(path, fmt)[:MIB], bytes([byte]) * MIB)

    def snapshots(self, path):
        return [s["name"] for s in self.w.ok("image", "snapshot", path, "list", "-o", "json").json()]

    def test_snapshots(self):
        path, out = self.path("a.qcow2"), self.path("out.raw")
        self.w.ok("image", "create", path, "2M")
        # qemu-img takes a name for an id first, and the ids are 1, 2, 3.
        for byte, name in enumerate(("2", "3", "x"), 1):
            self.fill(path, byte)
            self.w.ok("image", "snapshot", path, "create", name)
        self.assertEqual(self.snapshots(path), ["2", "3", "x"])
        self.assertRegex(self.w.ok("image", "snapshot", path, "list").out, r"x +\d{4}-")
        for rc, action, name in ((STATE, "create", "3"), (NOT_FOUND, "rollback", "1"), (NOT_FOUND, "delete", "1"), (USAGE, "create", "")):
            self.w.expect(rc, "image", "snapshot", path, action, name)
        self.holds(path, 3)
        for byte, name in ((1, "2"), (3, "x"), (2, "3")):
            self.w.ok("image", "snapshot", path, "rollback", name)
            self.holds(path, byte)
            self.w.ok("image", "convert", path, out, "--snapshot", "2", "--replace")
            self.holds(out, 1, "raw")
        self.w.ok("image", "snapshot", path, "delete", "3")
        self.assertEqual(self.snapshots(path), ["2", "x"])
        self.w.ok("image", "snapshot", path, "rollback", "2")
        over = self.path("over.qcow2")
        self.w.ok("image", "create", over, "--backing", path)
        self.refused(STATE, "image", "snapshot", path, "rollback", "x", says=over)
        self.holds(path, 1)
        self.w.ok("image", "check", path)

    def bitmaps(self, path):
        info = json.loads(self.qemu_img("info", "--output=json", path))
        return {b["name"]: (b["granularity"], b["flags"]) for b in info["format-specific"]["data"].get("bitmaps", [])}

    def test_bitmaps(self):
        path, copy = self.path("a.qcow2"), self.path("copy.qcow2")
        self.w.ok("image", "create", path, "2M")
        for name in "ab":
            self.w.ok("image", "bitmap", path, "add", name, "--granularity", "128K")
        self.assertEqual(self.bitmaps(path), {"a": (131072, ["auto"]), "b": (131072, ["auto"])})
        self.w.ok("image", "bitmap", path, "disable", "a")
        self.assertEqual(self.bitmaps(path)["a"], (131072, []))
        self.w.ok("image", "bitmap", path, "enable", "a")
        self.assertEqual(self.bitmaps(path)["a"], (131072, ["auto"]))
        self.w.ok("image", "bitmap", path, "merge", "b", "--merge-from", "a")
        self.w.ok("image", "bitmap", path, "clear", "b")
        self.w.ok("image", "convert", path, copy, "--bitmaps")
        self.assertEqual(set(self.bitmaps(copy)), {"a", "b"})
        self.w.ok("image", "bitmap", path, "remove", "a")
        self.assertEqual(set(self.bitmaps(path)), {"b"})
        self.refused(HOST, "image", "bitmap", path, "remove", "a", says='"a"')
        self.refused(USAGE, "image", "bitmap", path, "merge", "b", says="--merge-from")
        self.refused(USAGE, "image", "bitmap", path, "frob", "b", says="enable")


class Names(ImageTest):
    def test_hostile_names(self):
        """Every name is a file's: of the new image, of what it is backed by, of what is read."""
        folder = self.path("hostile")
        os.mkdir(folder)
        for name in HOSTILE:
            with self.subTest(name=name):
                base, over, copy = (os.path.join(folder, p + name) for p in ("", "over-", "copy-"))
                self.w.ok("image", "create", base, "1M", "--format", "qcow2")
                self.write(base, b"x" * 4096)
                self.w.ok("image", "create", over, "--backing", base, "--format", "qcow2")
                self.w.ok("image", "convert", over, copy, "--format", "raw")
                self.assertEqual(self.read(copy, "raw")[:4097], b"x" * 4096 + b"\0")
                self.w.ok("image", "resize", over, "2M")
                self.w.ok("image", "check", over)
                self.w.ok("image", "rebase", over, "--flatten")
                self.w.ok("image", "snapshot", "--from", "qcow2", "--", over, "create", name)
                self.assertEqual(self.w.ok("image", "info", over, "-o", "json").json()["snapshots"][0]["name"], name)
                self.w.ok("image", "bitmap", base, "add", "--", name)
                self.w.ok("image", "delete", base, over, copy)
        self.assertEqual(os.listdir(folder), [])

    def test_relative_names(self):
        os.mkdir(self.path("in"))
        here = os.getcwd()
        os.chdir(self.path("in"))
        self.addCleanup(os.chdir, here)
        for name in HOSTILE:
            with self.subTest(name=name):
                self.w.ok("image", "create", "--", "./" + name, "1M")
                self.assertEqual(os.listdir("."), [name])
                self.w.ok("image", "delete", "--", "./" + name)

    def test_what_a_header_names_is_not_guessed(self):
        base, over, _ = self.chain()
        os.rename(base, self.path("gone"))
        self.refused(HOST, "image", "convert", over, self.path("x.raw"), says=base)
        self.w.ok("image", "info", over)
        self.w.ok("image", "rebase", over, self.path("gone"), "--unsafe")
        self.w.ok("image", "convert", over, self.path("x.raw"))


class Ends(ImageTest):
    """A copy that is stopped leaves nothing: by ^C at once, by kill -9 after the next one there."""

    def large(self, mib=256):
        path = self.path("large.raw")
        with open(path, "wb") as f:
            for _ in range(mib // 4):
                f.write(random.Random(1).randbytes(MIB) * 4)
        return path

    def begin(self, mib=256):
        """A copy under way, slow enough to be stopped; its draft."""
        large = self.large(mib)
        proc = self.w.spawn("image", "convert", large, self.path("copy.qcow2"), "--compress", "-o", "json")
        draft = self.path(".copy.qcow2.qmpctl-new")
        self.until(lambda: os.path.exists(draft) and os.path.getsize(draft) > MIB and os.path.getsize(proc.log) > 0,
                   "it does not begin, or does not say so")
        return proc, draft

    def test_stopped_on_request(self):
        proc, draft = self.begin()
        proc.send_signal(signal.SIGINT)
        self.assertNotEqual(proc.wait(PATIENCE), 0)
        self.assertFalse(os.path.exists(draft) or os.path.exists(self.path("copy.qcow2")))
        self.stopped_clean()
        with open(proc.log, encoding="utf-8") as f:
            lines = f.read().splitlines()
        self.assertIn("stopped on request", lines[-1])
        progress = json.loads(lines[0])
        self.assertEqual((progress["progress"], progress["total"]), ("converting", 256 * MIB))

    def test_what_is_ignored_stops_nothing(self):
        """As under nohup, or of a shell's that runs it in the background."""
        old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            proc, _ = self.begin(24)
        finally:
            signal.signal(signal.SIGHUP, old)
        proc.send_signal(signal.SIGHUP)
        self.assertEqual(proc.wait(PATIENCE), 0)
        self.w.ok("image", "compare", self.path("large.raw"), self.path("copy.qcow2"))

    def test_on_a_terminal(self):
        """A bar with the rate and the time left; ^C, which comes to qemu-img as well, leaves nothing of the copy nor of the bar."""
        argv = self.w.argv("image", "convert", self.large(), self.path("copy.qcow2"), "--compress")
        pid, terminal = pty.fork()
        if pid == 0:
            os.execvpe(argv[0], argv, self.w.env)
        said, bar = b"", re.compile(rb"\rconverting \[#*-*\] +\d+ %  [\d.]+ MiB of 256\.0 MiB, [\d.]+ [KMG]iB/s, \d+ s left\x1b\[K")
        try:
            while not bar.search(said):
                said += os.read(terminal, 4096)
            os.write(terminal, b"\3")
            while piece := os.read(terminal, 4096):
                said += piece
        except OSError:
            pass  # it has ended, and nobody has the terminal any more
        finally:
            os.close(terminal)
        self.assertNotIn(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), (0, -signal.SIGINT), said)
        self.assertRegex(said, bar)
        self.assertRegex(said.replace(b"^C", b""), rb"\r\x1b\[Kqmpctl: [^\r]*stopped on request\r\n\Z")
        self.assertFalse(self.drafts() or os.path.exists(self.path("copy.qcow2")))
        self.stopped_clean()

    def test_killed(self):
        proc, draft = self.begin()
        proc.kill()
        proc.wait()
        self.stopped_clean()  # qemu-img goes with it
        self.assertFalse(os.path.exists(self.path("copy.qcow2")))
        self.assertTrue(os.path.exists(draft))
        self.w.ok("image", "create", self.path("other.qcow2"), "1M")
        self.assertEqual(self.drafts(), [])

    def test_no_room(self):
        """What fails in the middle leaves nothing, and what it was to replace stays."""
        old = self.path("old.qcow2")
        self.w.ok("image", "create", old, "1M")
        with open(old, "rb") as f:
            before = f.read()
        large = self.large()
        argv = ["prlimit", f"--fsize={8 * MIB}", *self.w.argv("image", "convert", large, old, "--replace")]
        result = subprocess.run(argv, env=self.w.env, capture_output=True, text=True)
        self.assertEqual(result.returncode, HOST, result.stderr)
        self.assertIn("old.qcow2", result.stderr)
        with open(old, "rb") as f:
            self.assertEqual(f.read(), before)
        self.assertEqual(self.drafts(), [])


class AtOnce(ImageTest):
    def test_eight_at_once(self):
        base, _, _ = self.chain()
        procs = [subprocess.Popen(self.w.argv("image", "create", self.path(f"clone{i}.qcow2"), "--backing", base), env=self.w.env)
                 for i in range(8)]
        self.assertEqual([p.wait(PATIENCE) for p in procs], [OK] * 8)
        images = self.w.ok("image", "list", self.w.base, "-o", "json").json()
        self.assertEqual(sum(i.get("backing") == base for i in images), 9)

    def test_eight_for_one_name(self):
        procs = [subprocess.Popen(self.w.argv("image", "create", self.path("one.qcow2"), "1M"), env=self.w.env,
                                  stderr=subprocess.DEVNULL) for _ in range(8)]
        self.assertEqual(sorted(p.wait(PATIENCE) for p in procs), [OK] + [STATE] * 7)
        self.w.ok("image", "check", self.path("one.qcow2"))
        self.assertEqual(self.drafts(), [])

    def test_eight_disks_for_one_vm(self):
        self.w.create_tiny("a")
        procs = [subprocess.Popen(self.w.argv("disk", "add", "a", "size=1M"), env=self.w.env) for _ in range(8)]
        self.assertEqual([p.wait(PATIENCE) for p in procs], [OK] * 8)
        paths = [d["path"] for d in self.w.ok("show", "a", "-o", "json").json()["spec"]["disks"]]
        self.assertEqual(len(set(paths)), 8)
        for path in paths:
            self.qemu_img("check", "-f", "qcow2", path)


class Refusals(ImageTest):
    """Whoever would be hurt is named, and nothing is changed unless it is asked for."""

    def setUp(self):
        super().setUp()
        self.base, self.over, self.content = self.chain()
        disk = {"path": self.over, "format": "qcow2", "backing": {"path": self.base, "format": "qcow2"}}
        self.w.create_tiny("owner", disks=[disk])

    def test_delete(self):
        self.refused(STATE, "image", "delete", self.base, says=["owner", self.over, "--force"])
        self.refused(STATE, "image", "delete", self.over, says="owner")
        self.refused(NOT_FOUND, "image", "delete", self.path("nothing"), says="nothing")
        self.assertEqual(self.read(self.over, "qcow2"), self.content)
        self.w.ok("image", "delete", self.over, "--force")
        self.w.ok("delete", "owner")
        self.w.ok("image", "delete", self.base)

    def test_by_another_name(self):
        os.link(self.base, self.path("hard"))
        os.symlink(self.base, self.path("soft"))
        for name in ("hard", "soft"):
            self.refused(STATE, "image", "delete", self.path(name), says="owner")

    def test_overwriting(self):
        self.refused(STATE, "image", "create", self.over, "1M", says="already")
        self.refused(STATE, "image", "create", self.over, "1M", "--replace", says="owner")
        self.refused(STATE, "image", "convert", self.over, self.base, "--replace", says="owner")
        self.refused(USAGE, "image", "convert", self.over, self.base, "--replace", "--force", says="read from")
        self.assertEqual(self.read(self.over, "qcow2"), self.content)
        other = self.path("other.raw")
        self.w.ok("image", "create", other, "1M")
        self.w.ok("image", "convert", self.over, other, "--replace")
        self.assertEqual(self.read(other, "raw"), self.content)

    def test_shrinking(self):
        self.refused(STATE, "image", "resize", self.over, "1M", says=["--shrink", "lost"])
        self.refused(STATE, "image", "resize", self.base, "2M", "--shrink", says=self.over)
        self.assertEqual(self.w.ok("image", "resize", self.over, "+1M").out, f"{5 * MIB}\n")
        self.assertEqual(self.w.ok("disk", "resize", "owner", "vda", "1M", "--shrink").out, f"{MIB}\n")
        self.assertEqual(self.read(self.over, "qcow2"), self.content[:MIB])

    def test_commit(self):
        other = self.path("other.qcow2")
        self.w.ok("image", "create", other, "--backing", self.base)
        self.refused(STATE, "image", "commit", self.over, says=["other.qcow2", "--force"])
        self.w.ok("image", "delete", other)
        self.w.ok("image", "commit", self.over)  # its own VM sees no difference
        self.assertEqual(self.read(self.base, "qcow2"), self.content)
        self.refused(STATE, "image", "commit", self.base, says="backed by no other")

    def test_rebase(self):
        self.refused(STATE, "image", "rebase", self.over, "--flatten", says="owner")
        self.w.ok("delete", "owner")
        self.w.ok("image", "rebase", self.over, "--flatten")
        os.rename(self.base, self.path("gone"))
        self.assertEqual(self.read(self.over, "qcow2"), self.content)
        self.refused(USAGE, "image", "rebase", self.over, says="--flatten")
        self.w.ok("image", "create", self.base, "4M")
        self.w.ok("image", "rebase", self.over, self.base)
        self.assertEqual(self.read(self.over, "qcow2"), self.content)
        self.refused(USAGE, "image", "rebase", self.base, self.over, says="itself")

    def test_a_spec_that_names_the_old_base(self):
        """After a rebase a guest would see what the old base has where the new one has the same."""
        new = self.path("new.qcow2")
        self.w.ok("image", "convert", self.over, new)
        self.w.ok("image", "rebase", self.over, new, "--force")
        self.refused(USAGE, "start", "owner", says=[new, self.base])
        self.w.ok("set", "owner", f"disks[vda].backing.path={new}")
        self.w.ok("start", "owner")

    def test_a_base_that_is_written(self):
        self.refused(STATE, "image", "create", self.path("x.qcow2"), "--backing", self.over, says="owner")
        self.w.ok("image", "create", self.path("x.qcow2"), "--backing", self.base)

    def test_a_damaged_spec_is_not_taken_for_none(self):
        spec = os.path.join(self.w.root, "etc", "vms", "owner.json")
        with open(spec, "w", encoding="utf-8") as f:
            f.write("{")
        os.unlink(self.over)
        self.refused(STATE, "image", "delete", self.base, says="owner")

    def test_check(self):
        self.assertEqual(self.w.ok("image", "check", self.over).out, "sound\n")
        with open(self.base, "r+b") as f:
            f.seek(65536)  # the refcount table
            f.write(bytes(8))
        result = self.w.expect(FAILED, "image", "check", self.base)
        self.assertIn("damaged", result.out)
        self.w.ok("image", "check", self.base, "--repair", "all")
        self.assertEqual(self.w.ok("image", "check", self.base).out, "sound\n")
        self.assertEqual(self.read(self.over, "qcow2"), self.content)

    def test_list(self):
        images = {i["path"]: i for i in self.w.ok("image", "list", "-o", "json").json()}
        self.assertEqual([u["vm"] for u in images[self.base]["users"]], ["owner"])
        self.assertEqual(images[self.over]["backing"], self.base)
        table = self.w.ok("image", "list").out
        self.assertIn("owner", table)


if __name__ == "__main__":
    world.main()
