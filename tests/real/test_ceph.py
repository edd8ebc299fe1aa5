"""Disks and pools on Ceph: a real cluster of one monitor and one OSD in memory, made once for all of it."""
import json
import os
import shutil

import servers
import world
from volumes import Volumes
from world import NOT_FOUND, STATE, WorldTest


class Ceph(Volumes, WorldTest):
    @classmethod
    def setUpClass(cls):
        cls.home = world.World()
        cls.addClassCleanup(cls.home.close)
        cls.cluster = servers.Ceph(cls.home)
        cls.addClassCleanup(cls.cluster.end)
        cls.cluster.start()

    def url(self, image):
        return f"rbd://rbd/{image}?conf={self.cluster.conf}&user=admin"

    def rbd(self, *words):
        return self.cluster.run("rbd", *words)

    def images(self):
        return set(json.loads(self.rbd("ls", "--format", "json")))

    def nodes(self, name):
        with self.w.control(name) as qmp:
            return {n["node-name"] for n in qmp.execute("query-named-block-nodes", {"flat": True})}

    def test_disks(self):
        """Cold, hot, unplugged; an image that is not there; a snapshot, which is only read; two VMs with one image."""
        self.rbd("create", "--size", "16M", "one")
        self.rbd("create", "--size", "16M", "two")
        self.rbd("snap", "create", "two@before")
        self.w.start_tiny("demo", disks=[{"path": self.url("one"), "format": "raw"}])
        before = self.nodes("demo")
        self.w.ok("disk", "add", "demo", f"{self.url('two')},format=raw")
        self.w.ok("disk", "remove", "demo", "vdb")
        self.assertEqual(self.nodes("demo"), before)
        result = self.w.run("disk", "add", "demo", f"{self.url('none')},format=raw")
        self.assertIn("No such file", result.err)
        self.assertEqual(self.nodes("demo"), before)
        result = self.w.run("disk", "add", "demo", f"{self.url('two@before')},format=raw")
        self.assertIn("can only be read", result.err)
        self.w.ok("disk", "add", "demo", f"{self.url('two@before')},format=raw,read-only=true")
        self.w.create_tiny("other", disks=[{"path": self.url("one"), "format": "raw"}])
        result = self.w.expect(STATE, "start", "other")
        self.assertIn("in use by the VM demo", result.err)
        self.assertEqual(self.w.state("demo"), "running")

    def test_a_key_of_its_own(self):
        """Where the configuration names no keyring, the key comes from a file; without it nobody is let in."""
        self.rbd("create", "--size", "16M", "locked")
        conf, key = os.path.join(self.w.base, "ceph.conf"), os.path.join(self.w.base, "key")
        with open(self.cluster.conf, encoding="ascii") as f, open(conf, "w", encoding="ascii") as to:
            to.write("".join(line for line in f if not line.startswith(("keyring", "log", "admin", "run"))))
        with open(os.open(key, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="ascii") as f:
            f.write(self.cluster.run("ceph-authtool", "-p", "-n", "client.admin", "client.admin.keyring"))
        self.w.start_tiny("demo")
        before = self.nodes("demo")
        url = f"rbd://rbd/locked?conf={conf}&user=admin,format=raw"
        self.assertEqual(self.w.run("disk", "add", "demo", url).rc, world.FAILED)
        self.assertEqual(self.nodes("demo"), before)
        self.w.ok("disk", "add", "demo", f"{url},password-file={key}")
        self.w.ok("disk", "remove", "demo", "vda")
        self.assertEqual(self.nodes("demo"), before)

    def test_pool(self):
        self.w.ok("pool", "create", "ceph", f"rbd,pool=rbd,conf={self.cluster.conf},user=admin")
        self.w.ok("image", "create", "ceph:root", "8M")
        result = self.w.run("image", "create", "ceph:root", "8M")
        self.assertNotEqual(result.rc, 0)
        self.assertIn("is there already", result.err)
        self.assertIn("root", self.images())
        self.w.ok("image", "resize", "ceph:root", "12M")
        volumes = self.w.ok("pool", "info", "ceph", "-o", "json").json()["content"]
        root = [v for v in volumes if v["name"] == "root"][0]
        self.assertEqual((root["capacity"], root["format"]), (12 << 20, "raw"))
        self.assertTrue(root["path"].startswith("rbd://rbd/root?conf="))
        self.w.start_tiny("demo", disks=[{"path": "ceph:root", "format": "raw"}])
        self.assertIn("vda-file", self.nodes("demo"))
        self.w.ok("disk", "resize", "demo", "vda", "16M")
        self.assertEqual(json.loads(self.rbd("info", "root", "--format", "json"))["size"], 16 << 20)
        with self.w.control("demo") as qmp:
            sizes = {n["node-name"]: n["image"]["virtual-size"]
                     for n in qmp.execute("query-named-block-nodes", {"flat": True})}
        self.assertEqual(sizes["vda-fmt"], 16 << 20)
        result = self.w.run("image", "delete", "ceph:root")
        self.assertEqual(result.rc, STATE, result)
        self.assertIn("demo", result.err)
        self.w.ok("stop", "demo")
        self.w.ok("delete", "demo")
        self.w.ok("image", "delete", "ceph:root")
        self.assertNotIn("root", self.images())
        self.w.expect(NOT_FOUND, "image", "delete", "ceph:root")

    def test_a_clone(self):
        """It shares its origin's blocks, which stays for as long; the snapshot between them goes with it."""
        self.w.ok("pool", "create", "ceph", f"rbd,pool=rbd,conf={self.cluster.conf},user=admin")
        self.w.ok("image", "create", "ceph:base", "8M")
        self.w.ok("image", "clone", "ceph:base", "ceph:copy")
        content = {v["name"]: v for v in self.w.ok("pool", "info", "ceph", "-o", "json").json()["content"]}
        self.assertEqual(content["copy"]["origin"], "rbd/base@qmpctl-copy")
        self.assertNotEqual(self.w.run("image", "delete", "ceph:base").rc, 0)
        self.w.ok("image", "delete", "ceph:copy")
        self.assertEqual(json.loads(self.rbd("snap", "ls", "base", "--format", "json")), [])
        self.w.ok("image", "delete", "ceph:base")
        self.assertFalse({"base", "copy"} & self.images())

    def test_clones_that_are_cut_short(self):
        self.rbd("namespace", "create", "rbd/cut")
        self.w.ok("pool", "create", "ceph", f"rbd,pool=rbd,namespace=cut,conf={self.cluster.conf},user=admin")

        def snapshots():
            rows = json.loads(self.rbd("ls", "--long", "rbd/cut", "--format", "json"))
            return [row["snapshot"] for row in rows if "snapshot" in row]

        self.check_clone_ends("ceph", shutil.which("rbd"), ["protect", "clone"], snapshots)

    def test_what_goes_into_volumes(self):
        self.rbd("namespace", "create", "rbd/volumes")
        self.w.ok("pool", "create", "ceph", f"rbd,pool=rbd,namespace=volumes,conf={self.cluster.conf},user=admin")
        self.check_filled("ceph")
        self.check_ends("ceph", lambda: [n for n in json.loads(self.rbd("ls", "rbd/volumes", "--format", "json")) if "qmpctl-new" in n])
        self.check_at_once("ceph")

    def test_vms_of_volumes(self):
        self.rbd("namespace", "create", "rbd/vms")
        self.w.ok("pool", "create", "ceph", f"rbd,pool=rbd,namespace=vms,conf={self.cluster.conf},user=admin")
        self.check_vms("ceph", shares=False)

    def test_snapshots(self):
        self.rbd("namespace", "create", "rbd/snapshots")
        self.w.ok("pool", "create", "ceph", f"rbd,pool=rbd,namespace=snapshots,conf={self.cluster.conf},user=admin")
        self.check_snapshots("ceph")

    def test_a_pool_that_the_cluster_does_not_have(self):
        result = self.w.run("pool", "create", "ceph", f"rbd,pool=none,conf={self.cluster.conf},user=admin")
        self.assertNotEqual(result.rc, 0)
        self.assertIn("Ceph's pool none", result.err)
        self.assertNotIn("ceph", self.w.ok("pool", "list").out)


if __name__ == "__main__":
    world.main()
