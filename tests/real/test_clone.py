"""Clones of VMs and images: linked and full, what they do not share, and that nothing they stand on changes."""
import json
import os
import subprocess
import threading
import unittest

import world
from world import NOT_FOUND, OK, STATE, USAGE, WorldTest


def without(image, *keys):
    """A tree of images, without KEYS in any of them."""
    return {**{k: v for k, v in image.items() if k not in keys}, "overlays": [without(o, *keys) for o in image["overlays"]]}


class Clone(WorldTest):
    def path(self, name):
        return os.path.join(self.w.base, name)

    def img(self, *args):
        return subprocess.run(["qemu-img", *args], check=True, capture_output=True, text=True).stdout

    def io(self, *args):
        return subprocess.run(["qemu-io", "-f", "qcow2", *args], check=True, capture_output=True, text=True).stdout

    def fill(self, path, pattern):
        self.io("-c", f"write -P {pattern} 0 64k", path)

    def holds(self, path, pattern):
        """Also while a VM has it."""
        self.assertNotIn("verification failed", self.io("-r", "-U", "-c", f"read -P {pattern} 0 64k", path))

    def spec(self, name):
        return self.w.ok("show", name, "-o", "json").json()["spec"]

    def disk(self, name, ident="vda"):
        return next(d for d in self.spec(name)["disks"] if d["id"] == ident)

    def images(self):
        folder = os.path.join(self.w.root, "lib", "images")
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []

    def make(self, name="a", **more):
        """A stopped VM with an image of 100 MiB that has something in it."""
        image = os.path.join(self.w.root, "lib", "images", f"{name}.qcow2")
        os.makedirs(os.path.dirname(image), mode=0o700, exist_ok=True)
        os.chmod(os.path.dirname(os.path.dirname(image)), 0o700)
        self.img("create", "-q", "-f", "qcow2", image, "100M")
        self.fill(image, 1)
        self.w.create_tiny(name, disks=[{"id": "vda", "path": image, "format": "qcow2"}], **more)
        return image

    def mode(self, path):
        return os.stat(path).st_mode & 0o777

    # -- VMs

    def test_linked(self):
        base = self.make()
        result = self.w.ok("clone", "a", "b", "--linked")
        self.assertIn("write-protected", result.err)
        a, b = self.disk("a"), self.disk("b")
        self.assertEqual(len({a["path"], b["path"], base}), 3)
        for disk in (a, b):
            self.assertEqual(disk["backing"], {"path": base, "format": "qcow2"})
            self.holds(disk["path"], 1)
        self.assertEqual(self.mode(base), 0o444)
        # Each writes to its own.
        self.fill(a["path"], 2)
        self.fill(b["path"], 3)
        self.holds(base, 1)
        for name in "ab":
            self.w.ok("start", name)
        for name in "ab":
            self.w.ok("kill", name)
        self.holds(a["path"], 2)
        self.holds(b["path"], 3)

    def test_many_linked_ones_stand_on_one_base(self):
        base = self.make()
        for name in "bcd":
            self.w.ok("clone", "a", name, "--linked")
        # Nothing was written to a's overlay: it gets no other, and the chain does not grow.
        self.assertEqual({json.dumps(self.disk(n)["backing"], sort_keys=True) for n in "abcd"},
                         {json.dumps({"path": base, "format": "qcow2"}, sort_keys=True)})
        self.assertEqual(len(self.images()), 5)
        self.fill(self.disk("a")["path"], 4)
        self.w.ok("clone", "a", "e", "--linked")
        self.holds(self.disk("e")["path"], 4)
        self.assertEqual(self.disk("e")["backing"]["backing"]["path"], base)
        self.w.ok("clone", "e", "f", "--linked")
        self.assertEqual(self.disk("f")["backing"], self.disk("e")["backing"])

    def test_overlays_are_as_qemu_has_them(self):
        """Ours are written by ourselves."""
        for size, fmt in (("1M", "qcow2"), ("100G", "qcow2"), ("8T", "qcow2"), ("1000K", "raw"), ("1M", "vmdk"), ("10M", "vdi"),
                          ("10M", "vhdx")):
            with self.subTest(size=size, format=fmt):
                base, mine, its = (self.path(f"{n}.{size}.{fmt}") for n in ("base", "mine", "its"))
                self.img("create", "-q", "-f", fmt, base, size)
                self.w.ok("image", "clone", base, mine, "--linked")
                self.img("create", "-q", "-f", "qcow2", "-b", base, "-F", fmt, its)
                keys = ("virtual-size", "format", "backing-filename", "backing-filename-format", "cluster-size",
                        "format-specific")
                a, b = (json.loads(self.img("info", "--output=json", p)) for p in (mine, its))
                self.assertEqual([a.get(k) for k in keys], [b.get(k) for k in keys])
                self.img("check", "-q", mine)
                self.fill(mine, 7)
                self.io("-c", f"write -P 8 {b['virtual-size'] - 512} 512", mine)
                self.img("check", "-q", mine)
                self.holds(mine, 7)
                self.img("resize", "-q", mine, "+1G")
                self.img("check", "-q", mine)

    def test_a_grown_overlay_keeps_its_size(self):
        self.make()
        self.w.ok("clone", "a", "b", "--linked")
        self.img("resize", "-q", self.disk("b")["path"], "200M")
        self.w.ok("clone", "b", "c", "--linked")
        self.assertEqual(json.loads(self.img("info", "--output=json", self.disk("c")["path"]))["virtual-size"], 200 << 20)

    def test_full(self):
        image = self.make()
        self.img("snapshot", "-c", "kept", image)
        self.w.ok("clone", "a", "b")
        disk = self.disk("b")
        self.assertNotIn("backing", disk)
        self.assertEqual(self.disk("a")["path"], image)
        self.assertIn("kept", self.img("snapshot", "-l", disk["path"]))
        self.fill(image, 2)
        self.holds(disk["path"], 1)
        # A chain becomes one image.
        self.w.ok("clone", "a", "c", "--linked")
        self.fill(self.disk("c")["path"], 3)
        self.w.ok("clone", "c", "d", "--full")
        self.assertNotIn("backing", self.disk("d"))
        self.assertNotIn("backing-filename", json.loads(self.img("info", "--output=json", self.disk("d")["path"])))
        self.holds(self.disk("d")["path"], 3)
        self.assertEqual(self.mode(self.disk("d")["path"]), 0o600)

    def test_raw_disks_and_what_is_shared(self):
        raw, cd, data = (self.path(n) for n in ("raw.img", "cd.iso", "data.img"))
        for path in (raw, cd, data):
            self.img("create", "-q", "-f", "raw", path, "1M")
        disks = [{"id": "vda", "path": raw, "format": "raw"}, {"id": "cd0", "type": "cdrom", "path": cd, "format": "raw"},
                 {"id": "vdb", "path": data, "format": "raw", "read-only": True}, {"id": "cd1", "type": "cdrom"}]
        self.w.create_tiny("a", disks=disks)
        self.w.ok("clone", "a", "b", "--linked")
        self.w.ok("clone", "a", "c", "--full")
        for name in "bc":
            spec = {d["id"]: d for d in self.spec(name)["disks"]}
            self.assertEqual((spec["cd0"]["path"], spec["vdb"]["path"]), (cd, data))
            self.assertNotIn("path", spec["cd1"])
        self.assertEqual(self.disk("b")["backing"], {"path": raw, "format": "raw"})
        self.assertEqual((self.mode(raw), self.mode(data)), (0o444, 0o644))
        for name in "abc":
            self.w.ok("start", name)
        for name in "abc":
            self.w.ok("kill", name)

    def test_what_is_its_own(self):
        nics = [{"id": "net0", "forwards": [{"host-port": 2222, "guest-port": 22}]},
                {"id": "net1", "backend": "stream", "server": True, "socket": self.path("one.sock")},
                {"id": "net2", "backend": "dgram", "local": self.path("two.sock"), "remote": self.path("three.sock")},
                {"id": "net3", "backend": "tap", "interface": "tap77"},
                {"id": "net4", "backend": "stream", "socket": self.path("four.sock")}]
        self.make(nics=nics, description="the first")
        result = self.w.ok("clone", "a", "b")
        a, b = self.spec("a"), self.spec("b")
        self.assertEqual((b["name"], b["description"]), ("b", "the first"))
        self.assertNotEqual(a["uuid"], b["uuid"])
        self.assertFalse({n["mac"] for n in a["nics"]} & {n["mac"] for n in b["nics"]})
        self.assertEqual([n["backend"] if "backend" in n else "user" for n in b["nics"]],
                         ["user", "none", "none", "none", "stream"])
        self.assertNotIn("forwards", b["nics"][0])
        for said in ("2222", "net1", "net2", "net3"):
            self.assertIn(said, result.err)
        self.assertNotIn("net4", result.err)
        keep = ("memory", "machine", "consoles", "args")
        self.assertEqual({k: a.get(k) for k in keep}, {k: b.get(k) for k in keep})

    def test_the_firmware_s_variables_and_the_seed(self):
        self.make()
        self.w.ok("set", "a", "seed.user=me")
        folder = os.path.join(self.w.root, "lib", "firmware")
        os.mkdir(folder, 0o700)
        for name, text in (("a.fd", "of a"), ("b.fd", "of nobody"), ("a+secure.fd", "keys")):
            with open(os.path.join(folder, name), "w", encoding="ascii") as f:
                f.write(text)
        self.w.ok("start", "a")
        self.w.ok("kill", "a")
        self.w.ok("clone", "a", "b", "--linked")
        for name, text in (("b.fd", "of a"), ("b+secure.fd", "keys")):
            with open(os.path.join(folder, name), encoding="ascii") as f:
                self.assertEqual(f.read(), text)
        a, b = self.spec("a"), self.spec("b")
        self.assertNotEqual(a["seed"]["instance-id"], b["seed"]["instance-id"])
        self.assertNotEqual(self.disk("a", "seed")["path"], self.disk("b", "seed")["path"])
        self.w.ok("start", "b")
        self.assertTrue(os.path.exists(self.disk("b", "seed")["path"]))

    @unittest.skipUnless(os.geteuid() == 0, "who is not root gives no file away")
    def test_images_belong_to_whom_the_source_s_do(self):
        image = self.make()
        os.chown(image, 65534, 65534)
        for name, option in (("b", "--full"), ("c", "--linked")):
            self.w.ok("clone", "a", name, option)
            self.assertEqual(os.stat(self.disk(name)["path"]).st_uid, 65534)
        self.assertEqual(os.stat(self.disk("a")["path"]).st_uid, 65534)

    def test_refusals(self):
        image = self.make()
        self.make("other")
        before = self.images()
        self.w.ok("start", "a")
        for option in ("--linked", "--full"):
            result = self.w.expect(STATE, "clone", "a", "b", option)
            self.assertIn("cloning a: it is running, and its disks would change", result.err)
            self.assertIn("qmpctl stop a", result.err)
        result = self.w.expect(STATE, "image", "clone", image, image + ".copy")
        self.assertIn("copying it now is refused, since it would change meanwhile", result.err)
        self.w.ok("kill", "a")
        self.w.expect(NOT_FOUND, "clone", "nobody", "b")
        self.w.expect(STATE, "clone", "a", "other")
        self.w.expect(USAGE, "clone", "a", "no/name")
        self.w.expect(USAGE, "clone", "a", "b", "--linked", "--full")
        # Another VM writes to the same image.
        self.w.create_tiny("twin", disks=[{"id": "vda", "path": image, "format": "qcow2"}])
        self.assertIn("twin", self.w.expect(STATE, "clone", "a", "b", "--linked").err)
        self.assertEqual(self.images(), before)
        self.assertEqual(self.mode(image), 0o644)
        self.assertEqual(self.disk("a"), {**self.disk("a"), "path": image})
        self.assertEqual(sorted(n["name"] for n in self.w.ok("list", "-o", "json").json()), ["a", "other", "twin"])

    def test_a_base_is_not_written_to(self):
        base = self.make()
        self.w.ok("clone", "a", "b", "--linked")
        self.w.create_tiny("c", disks=[{"id": "vda", "path": base, "format": "qcow2"}])
        result = self.w.expect(STATE, "start", "c")
        self.assertIn("write-protected", result.err)
        self.w.ok("set", "c", "disks[vda].read-only=true")
        self.w.ok("start", "c")
        self.w.ok("start", "b")
        self.w.expect(STATE, "disk", "add", "b", f"{base},format=qcow2")
        self.holds(base, 1)

    def test_eight_at_once(self):
        self.make()
        for option in ("--linked", "--full"):
            names = [f"{option[2:]}{n}" for n in range(8)]
            results = []
            runs = [threading.Thread(target=lambda n=n, o=option: results.append(self.w.run("clone", "a", n, o))) for n in names]
            for run in runs:
                run.start()
            for run in runs:
                run.join()
            self.assertEqual([r.rc for r in results], [OK] * 8, "\n".join(map(str, results)))
            self.assertEqual(len({self.disk(n)["path"] for n in names}), 8)
            self.assertEqual(len({self.spec(n)["uuid"] for n in names}), 8)
            for name in names:
                self.holds(self.disk(name)["path"], 1)
        self.assertEqual(len(self.images()), 2 + 16)

    def test_delete_takes_what_nobody_needs(self):
        self.make()
        for name in "bc":
            self.w.ok("clone", "a", name, "--linked")
        self.w.ok("delete", "b", "--disks")
        self.w.ok("delete", "a", "--disks")
        self.assertEqual(len(self.images()), 2, "the base stays for c")
        self.holds(self.disk("c")["path"], 1)
        self.w.ok("delete", "c", "--disks")
        self.assertEqual(self.images(), [])

    # -- images

    def test_image_clone(self):
        base, over, full = self.path("base.qcow2"), self.path("over.qcow2"), self.path("full.qcow2")
        self.img("create", "-q", "-f", "qcow2", base, "1T")
        self.fill(base, 1)
        answer = self.w.ok("image", "clone", base, over, "--linked", "-o", "json").json()
        self.assertEqual((answer["linked"], answer["path"], answer["backing"]["path"]), (True, over, base))
        self.assertEqual(self.mode(base), 0o444 & self.mode(base))
        self.w.ok("image", "clone", over, full)
        self.assertNotIn("backing-filename", json.loads(self.img("info", "--output=json", full)))
        for path in (over, full):
            self.holds(path, 1)
        self.w.expect(STATE, "image", "clone", base, over, "--linked")
        self.w.expect(NOT_FOUND, "image", "clone", self.path("none"), self.path("x"))
        self.w.create_tiny("a", disks=[{"id": "vda", "path": full, "format": "qcow2"}])
        result = self.w.expect(STATE, "image", "clone", full, self.path("x"), "--linked")
        self.assertIn("clone --linked", result.err)
        self.w.ok("start", "a")
        self.w.expect(STATE, "image", "clone", full, self.path("x"), "--full")
        self.assertFalse(os.path.exists(self.path("x")))

    def test_tree(self):
        base = self.make()
        self.w.ok("clone", "a", "b", "--linked")
        self.fill(self.disk("b")["path"], 2)
        self.w.ok("clone", "b", "c", "--linked")
        self.w.ok("start", "c")
        text = self.w.ok("image", "tree").out
        lines = [line for line in text.splitlines() if "lib/images" in line]
        self.assertEqual(len(lines), 5, text)
        self.assertTrue(lines[0].startswith(base) and "write-protected" in lines[0], text)
        self.assertTrue(any("c.vda (running)" in line and line.startswith(("│  ", "   ")) for line in lines), text)
        [tree] = self.w.ok("image", "tree", "-o", "json").json()
        self.assertEqual(tree["path"], base)
        paths = sorted(o["path"] for o in tree["overlays"])
        self.assertEqual(paths, sorted([self.disk("a")["path"], self.disk("b")["backing"]["path"]]))
        for where in (self.disk("c")["path"], os.path.dirname(base)):
            self.assertEqual(self.w.ok("image", "tree", where, "-o", "json").json(), [tree])
        [by_pool] = self.w.ok("image", "tree", "default", "-o", "json").json()
        self.assertEqual(by_pool["volume"], "default:" + os.path.basename(base))
        self.assertEqual({o["backing-volume"] for o in by_pool["overlays"]}, {by_pool["volume"]})
        self.assertEqual(without(by_pool, "volume", "backing-volume"), tree)
        alone = self.path("alone.raw")
        self.img("create", "-q", "-f", "raw", alone, "1M")
        self.assertEqual([t["path"] for t in self.w.ok("image", "tree", alone, "-o", "json").json()], [alone])
        self.w.expect(NOT_FOUND, "image", "tree", self.path("none"))

    def test_what_a_vm_writes_is_not_imported(self):
        image = self.make()
        self.w.ok("start", "a")
        self.assertIn("in use by the VM a", self.w.expect(STATE, "image", "import", image).err)
        self.w.ok("kill", "a")
        self.w.ok("image", "import", image)

    def test_an_imported_image_as_a_base(self):
        source = self.path("source.qcow2")
        self.img("create", "-q", "-f", "qcow2", source, "10M")
        self.fill(source, 1)
        base = self.w.ok("image", "import", source, "-o", "json").json()["path"]
        over = self.path("over.qcow2")
        self.w.ok("image", "clone", base, over, "--linked")
        self.w.create_tiny("a", disks=[{"path": over, "format": "qcow2", "backing": {"path": base, "format": "qcow2"}}])
        self.w.ok("start", "a")
        name = os.path.basename(base)
        self.assertIn("needed", self.w.expect(STATE, "image", "cache", "--delete", name).err)
        self.w.ok("image", "cache", "--delete", "all")
        self.holds(base, 1)
        self.w.ok("kill", "a")
        self.w.ok("delete", "a")
        os.unlink(over)
        self.w.ok("image", "cache", "--delete", name)
        self.assertFalse(os.path.exists(base))

    @unittest.skipUnless(os.geteuid() == 0, "who is not root mounts nothing")
    def test_blocks_are_shared_where_the_file_system_can(self):
        for fs, options in (("btrfs", ["-q"]), ("xfs", ["-q", "-m", "reflink=1"])):
            with self.subTest(fs=fs):
                disk, folder = self.path(f"{fs}.img"), self.path(fs)
                self.img("create", "-q", "-f", "raw", disk, "320M")
                subprocess.run([f"mkfs.{fs}", *options, disk], check=True, capture_output=True)
                os.mkdir(folder)
                subprocess.run(["mount", "-o", "loop", disk, folder], check=True)
                self.addCleanup(subprocess.run, ["umount", folder], check=True)
                image, copy = (os.path.join(folder, name) for name in ("a.raw", "b.raw"))
                with open(image, "wb") as f:
                    f.write(os.urandom(1 << 20) * 16)
                self.w.ok("image", "clone", image, copy)
                shared = subprocess.run(["filefrag", "-v", copy], check=True, capture_output=True, text=True)
                self.assertIn("shared", shared.stdout)
                subprocess.run(["cmp", image, copy], check=True)
                # What is written to the one is not in the other.
                subprocess.run(["qemu-io", "-f", "raw", "-c", "write -P 0x55 0 4k", copy], check=True, capture_output=True)
                self.assertEqual(subprocess.run(["cmp", "-s", image, copy], check=False).returncode, 1)
                # A VM's clone, in the pool "default" elsewhere, shares nothing and is whole all the same.
                self.w.create_tiny(fs, disks=[{"path": copy, "format": "raw"}])
                self.w.ok("clone", fs, f"{fs}-clone")
                self.w.ok("delete", f"{fs}-clone", "--disks")
                self.w.ok("delete", fs)


if __name__ == "__main__":
    world.main()
