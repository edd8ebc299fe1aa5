"""Pools of files: named, looked up wherever a path goes, told how full they are; two VMs and one image by two names."""
import json
import os
import subprocess

import world
from guest import tiny_spec, with_serial
from world import HOST, NOT_FOUND, PATIENCE, STATE, USAGE, WorldTest


class Pool(WorldTest):
    def setUp(self):
        super().setUp()
        self.folder = os.path.join(self.w.base, "data")

    def make(self, name="data", words=None):
        self.w.ok("pool", "create", name, words or f"dir,path={self.folder}")

    def image(self, name, size="1M", form="qcow2"):
        path = os.path.join(self.folder, name)
        subprocess.run(["qemu-img", "create", "-q", "-f", form, path, size], check=True)
        return path

    def info(self, name="data"):
        return self.w.ok("pool", "info", name, "-o", "json").json()

    def definitions(self):
        folder = os.path.join(self.w.root, "etc", "pools")
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []

    # -- definitions

    def test_life(self):
        self.assertEqual([p["name"] for p in self.w.ok("pool", "list", "-o", "json").json()], ["default"])
        self.make()
        self.assertEqual(os.stat(self.folder).st_mode & 0o777, 0o700)
        self.assertEqual([p["name"] for p in self.w.ok("pool", "list", "-o", "json").json()], ["data", "default"])
        self.image("a.qcow2", "10G")
        with open(os.path.join(self.folder, "b.img"), "wb") as f:
            f.write(b"x" * 8192)
            f.truncate(1 << 20)
        info = self.info()
        a, b = info["content"]
        self.assertEqual((a["name"], a["format"], a["capacity"]), ("a.qcow2", "qcow2", 10 << 30))
        self.assertEqual((b["name"], b["format"], b["capacity"], b["physical"]), ("b.img", "raw", 1 << 20, 1 << 20))
        self.assertLess(b["allocation"], 1 << 20)
        self.assertEqual((info["state"], info["volumes"], info["promised"]), ("ready", 2, (10 << 30) + (1 << 20)))
        fs = os.statvfs(self.folder)
        self.assertEqual(info["capacity"], fs.f_blocks * fs.f_frsize)
        self.assertIn("a.qcow2", self.w.ok("pool", "info", "data").out)
        self.w.ok("pool", "delete", "data")
        self.assertEqual(self.definitions(), [])
        self.assertTrue(os.path.exists(os.path.join(self.folder, "a.qcow2")), "a pool that is forgotten keeps its volumes")
        self.w.expect(NOT_FOUND, "pool", "delete", "data")

    def test_capacity_is_what_a_guest_sees(self):
        """Also where it does not stand at the beginning of the file."""
        self.make()
        formats = ("raw", "qcow2", "vmdk", "vhdx", "vdi", "qed")
        for form in formats:
            self.image(f"a.{form}", "80M", form)
        info = self.info()
        self.assertEqual({v["name"]: v["capacity"] for v in info["content"]}, {f"a.{form}": 80 << 20 for form in formats})
        self.assertEqual(info["promised"], len(formats) * 80 << 20)

    def test_completion(self):
        self.make()
        self.image("a.qcow2")

        def offered(*words):
            argv = [world.QMPCTL, "__complete", "--root", self.w.root, *words]
            out = subprocess.run(argv, env=self.w.env, capture_output=True, text=True, check=True).stdout
            return {line.split("\t")[0] for line in out.splitlines()}

        self.assertIn("data:", offered("create", "v", "--disk", "da"))
        self.assertEqual(offered("create", "v", "--disk", "data:") - {":path"}, {"data:a.qcow2"})
        self.assertEqual(offered("pool", "info", ""), {"data", "default"})
        self.assertEqual(offered("pool", "create", "x", "lvm"), {"lvm,", "lvm-thin,"})
        self.assertIn("lvm,vg=", offered("pool", "create", "x", "lvm,v"))

    def test_what_is_refused_changes_nothing(self):
        self.make()
        other = os.path.join(self.w.base, "other")
        for rc, words, says in (
                (STATE, ("data", f"dir,path={other}"), "there is a pool named data already"),
                (USAGE, ("x", f"dir,path={other}"), "two characters"),
                (USAGE, ("p2", "dri,path=/x"), "did you mean dir?"),
                (USAGE, ("p2", f"dir,pth={other}"), 'did you mean "path"?'),
                (USAGE, ("p2", f"dir,path={other},vg=x"), "vg: unknown field"),
                (USAGE, ("p2", "dir"), '"path" is missing'),
                (USAGE, ("../p2", f"dir,path={other}"), "name"),
                (HOST, ("p2", f"dir,path={other}/not/there"), "No such file"),
                (HOST, ("p2", f"btrfs,path={self.w.base}"), "is not on Btrfs"),
                (HOST, ("p2", f"mount,path={self.folder}"), "nothing is mounted at"),
                (HOST, ("p2", "lvm,vg=qmpctl-no-such"), "qmpctl-no-such")):
            with self.subTest(words=words):
                result = self.w.run("pool", "create", *words)
                self.assertEqual(result.rc, rc, result)
                self.assertIn(says, result.err)
                self.assertEqual(self.definitions(), ["data.json"])
                self.assertFalse(os.path.exists(other))
        self.w.expect(STATE, "pool", "delete", "default")

    def test_overcommitment(self):
        self.make()
        room = os.statvfs(self.folder)
        self.image("huge.qcow2", str(4 * room.f_blocks * room.f_frsize))
        info = self.info()
        self.assertTrue(info["overcommitted"])
        self.assertGreater(info["committed-percent"], 400)
        self.assertIn("overcommitted", self.w.ok("pool", "list").out)

    def test_a_pool_that_cannot_be_used(self):
        self.make()
        os.rmdir(self.folder)
        result = self.w.expect(HOST, "pool", "info", "data")
        self.assertIn("cannot be used", result.err)
        listed = {p["name"]: p for p in self.w.ok("pool", "list", "-o", "json").json()}
        self.assertEqual(listed["data"]["state"], "unavailable")
        self.assertEqual(listed["default"]["state"], "ready")

    def test_many_at_once(self):
        procs = [subprocess.Popen(self.w.argv("pool", "create", f"p{i % 8}", f"dir,path={self.w.base}/d{i}"), env=self.w.env,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for i in range(16)]
        codes = [p.wait(PATIENCE) for p in procs]
        for p in procs:
            p.stderr.close()
        self.assertEqual(sorted(codes), [0] * 8 + [STATE] * 8)
        self.assertEqual(self.definitions(), [f"p{i}.json" for i in range(8)])
        for i, code in enumerate(codes):
            self.assertEqual(os.path.isdir(f"{self.w.base}/d{i}"), code == 0, "who was refused has made nothing")

    # -- VMs

    def tiny(self, name, *disks):
        serial = self.w.serial(f"{name}-serial")
        self.w.create(name, with_serial(tiny_spec(disks=list(disks)), serial))
        return serial

    def test_a_vm_of_a_pool(self):
        self.make()
        base = self.image("base.qcow2")
        top = os.path.join(self.folder, "top.qcow2")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top], check=True)
        self.tiny("v", {"path": "data:top.qcow2", "format": "qcow2", "backing": {"path": "data:base.qcow2", "format": "qcow2"}})
        self.assertIn(f'"filename":"{top}"', self.w.ok("args", "v").out)
        self.w.ok("start", "v")
        # the words stay words, on disk and in what runs
        shown = self.w.ok("show", "v", "-o", "json").json()
        self.assertEqual(shown["spec"]["disks"][0]["path"], "data:top.qcow2")
        self.assertEqual(shown["running"]["disks"][0]["path"], "data:top.qcow2")
        self.assertNotIn("differences", self.w.status("v"), "QEMU has what the spec says")
        # hot
        hot = self.image("hot.qcow2")
        self.assertEqual(self.w.ok("disk", "add", "v", "data:hot.qcow2,id=hot").out.strip(), "hot")
        with self.w.control("v") as qmp:
            files = {b["file"] for b in qmp.execute("query-named-block-nodes", {"flat": True})}
        self.assertIn(hot, files)
        self.assertNotIn("differences", self.w.status("v"))
        # another keeper knows it, too
        self.w.kill_keeper()
        self.assertEqual(self.w.status("v")["state"], "running")
        self.w.ok("disk", "remove", "v", "hot")
        result = self.w.expect(STATE, "pool", "delete", "data")
        self.assertIn("has disks of v", result.err)
        self.w.ok("kill", "v")

    def test_a_disk_that_is_made_in_a_pool(self):
        self.make()
        self.w.ok("create", "v", "--memory", "32M", "--disk", "data:new.qcow2,size=10M")
        disk = self.w.ok("show", "v", "-o", "json").json()["spec"]["disks"][0]
        self.assertEqual((disk["path"], disk["format"]), ("data:new.qcow2", "qcow2"))
        self.assertEqual(self.info()["content"][0]["capacity"], 10 << 20)
        self.w.expect(STATE, "create", "w", "--disk", "data:new.qcow2,size=10M")
        # what is refused after its image was made leaves none
        self.w.expect(USAGE, "create", "w", "--disk", "data:x.qcow2,size=10M", "--disk", "data:y.qcow2,size=1M,bus=nix")
        self.assertEqual(os.listdir(self.folder), ["new.qcow2"])

    def test_a_pool_that_is_not_there(self):
        result = self.w.expect(NOT_FOUND, "create", "v", "--disk", "nowhere:a.raw,format=raw")
        self.assertIn('there is no pool named "nowhere"', result.err)
        self.make()
        self.image("a.raw", form="raw")
        self.tiny("v", {"path": "data:a.raw", "format": "raw"})
        self.w.ok("start", "v")
        result = self.w.expect(NOT_FOUND, "disk", "add", "v", "dat:b.raw,format=raw")
        self.assertIn('did you mean "data"?', result.err)
        self.w.ok("kill", "v")
        os.unlink(os.path.join(self.w.root, "etc", "pools", "data.json"))
        self.w.expect(NOT_FOUND, "start", "v")

    def test_one_image_by_two_names(self):
        self.make()
        path = self.image("a.raw", form="raw")
        self.tiny("one", {"path": "data:a.raw", "format": "raw"})
        self.tiny("two", {"path": path, "format": "raw"})
        self.w.ok("start", "one")
        self.assertIn("in use by the VM one", self.w.expect(STATE, "start", "two").err)
        self.w.ok("kill", "one")
        self.w.ok("start", "two")
        self.assertIn("in use by the VM two", self.w.expect(STATE, "start", "one").err)
        self.tiny("three")
        self.w.ok("start", "three")
        self.assertIn("in use by the VM two", self.w.expect(STATE, "disk", "add", "three", "data:a.raw,format=raw").err)
        self.w.ok("kill", "two")
        self.w.ok("kill", "three")

    def test_who_has_a_volume_when_another_pool_is_gone(self):
        self.make()
        self.make("gone", f"dir,path={self.w.base}/gone")
        self.image("a.raw", form="raw")
        subprocess.run(["qemu-img", "create", "-q", "-f", "raw", f"{self.w.base}/gone/b.raw", "1M"], check=True)
        self.tiny("v", {"path": "gone:b.raw", "format": "raw"}, {"path": "data:a.raw", "format": "raw"})
        os.unlink(os.path.join(self.w.root, "etc", "pools", "gone.json"))
        self.assertIn("the VM v", self.w.expect(STATE, "image", "delete", "data:a.raw").err)

    def test_what_runs_stays_where_it_was(self):
        """The definition is another one by now: the VM that runs has its image all the same, and the next start the other."""
        self.make()
        path = self.image("a.raw", form="raw")
        self.tiny("one", {"path": "data:a.raw", "format": "raw"})
        self.w.ok("start", "one")
        with open(os.path.join(self.w.root, "etc", "pools", "data.json"), "w", encoding="utf-8") as f:
            json.dump({"name": "data", "type": "dir", "path": self.w.base}, f)
        self.w.kill_keeper()
        self.assertNotIn("differences", self.w.status("one"))
        self.tiny("two", {"path": path, "format": "raw"})
        self.assertIn("in use by the VM one", self.w.expect(STATE, "start", "two").err)
        self.w.ok("delete", "two")
        self.assertIn("in use by the VM one", self.w.expect(STATE, "image", "delete", path, "--force").err)
        self.w.ok("kill", "one")
        self.assertIn(f"{self.w.base}/a.raw", self.w.ok("args", "one").out)

    def test_commands_that_are_missing_do_not_say_that_a_volume_is_gone(self):
        folder = os.path.join(self.w.root, "etc", "pools")
        os.makedirs(folder, mode=0o700)
        with open(os.path.join(folder, "ceph.json"), "w", encoding="utf-8") as f:
            json.dump({"name": "ceph", "type": "rbd", "pool": "vms"}, f)
        self.w.create("v", {"disks": [{"path": "ceph:v-1", "format": "raw"}]})
        self.w.env["PATH"] = folder
        self.assertIn("ceph-common", self.w.expect(HOST, "image", "delete", "--force", "ceph:v-1").err)
        result = self.w.expect(HOST, "delete", "v", "--disks", "-o", "json")
        self.assertEqual(result.json()["kept"], ["ceph:v-1"])
        self.assertIn("ceph-common", result.err)

    def test_what_is_made_of_images_in_it(self):
        """A disk for an image, and clones of VMs, are where they are wanted, or where the disk is that is cloned."""
        folder = os.path.join(self.w.base, "vms")
        self.w.ok("pool", "create", "data", "dir", f"path={folder}")
        self.w.ok("image", "create", "data:base.qcow2", "8M")
        self.assertEqual(self.w.ok("image", "list", "data:").out, self.w.ok("image", "list", "data").out)
        self.w.ok("create", "a", "--image", "data:base.qcow2", "--size", "16M", "--pool", "data", "--memory", "32M")

        def disk(name):
            return self.w.ok("show", name, "-o", "json").json()["spec"]["disks"][0]

        self.assertEqual((disk("a")["path"], disk("a")["format"]), ("data:a-1.qcow2", "qcow2"))
        self.assertEqual(self.w.ok("image", "info", "data:a-1.qcow2", "-o", "json").json()["virtual-size"], 16 << 20)
        self.w.ok("clone", "a", "b", "--linked")
        self.w.ok("clone", "a", "c", "--full")
        self.assertEqual([disk(n)["path"] for n in "abc"], ["data:a-1.qcow2", "data:b-1.qcow2", "data:c-1.qcow2"])
        self.assertEqual(sorted(os.listdir(folder)), ["a-1.qcow2", "b-1.qcow2", "base.qcow2", "c-1.qcow2"])
        for name in "abc":
            self.w.ok("start", name, "--paused")
            self.w.ok("kill", name)
        self.assertIn("no pool named", self.w.expect(NOT_FOUND, "create", "d", "--image", "data:base.qcow2", "--pool", "dta").err)
        self.assertIn("for an --image", self.w.expect(USAGE, "create", "d", "--pool", "data").err)

        # What got its name with a VM goes with it; what was named by hand stays, and that is said.
        self.w.ok("disk", "add", "b", "data:by-hand.qcow2,size=1M")
        result = self.w.ok("delete", "b", "--disks")
        self.assertIn("kept: data:by-hand.qcow2 (its name was given by hand", result.err)
        self.assertIn("kept: data:c-1.qcow2 (--disks deletes", self.w.ok("delete", "c").err)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", "a-1.qcow2", "-F", "qcow2", f"{folder}/over.qcow2"], check=True)
        self.assertIn("kept: data:a-1.qcow2 (another image stands on it)", self.w.ok("delete", "a", "--disks").err)
        self.assertEqual(sorted(os.listdir(folder)), ["a-1.qcow2", "base.qcow2", "by-hand.qcow2", "c-1.qcow2", "over.qcow2"])


if __name__ == "__main__":
    world.main()
