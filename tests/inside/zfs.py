"""Pools of ZFS on zvols of a real zpool, with modules built for this kernel (tests/guest/zfs.sh)."""
# Packages: zfsutils-linux
# Disks: zfs:1G
import os

from parts import Kind, main, run
from volumes import MIB
from world import HOST, STATE, WorldTest


class Zfs(Kind, WorldTest):
    definition = "zfs,dataset=tank/vms"
    folder = "/dev/zvol/tank/vms"
    tools = ("zfs",)
    newer_go = True

    @classmethod
    def setUpClass(cls):
        run("depmod")
        run("modprobe", "zfs")
        run("zpool", "create", "-O", "mountpoint=none", "tank", "/dev/disk/by-id/virtio-zfs")
        cls.addClassCleanup(run, "zpool", "destroy", "tank")
        run("zfs", "create", "tank/vms")

    def there(self):
        names = run("zfs", "list", "-H", "-o", "name", "-t", "volume,snapshot", "-r", "tank/vms").split()
        return sorted(name[len("tank/vms/"):] for name in names)

    def remove(self, names):
        for name in names:
            if "@" not in name and name in self.there():
                run("zfs", "destroy", "-R", f"tank/vms/{name}")

    def snapshot(self, volume, name):
        return f"{volume}@{name}"

    def property(self, name, of):
        return run("zfs", "get", "-Hp", "-o", "value", name, of)

    def test_vms(self):
        """VMs from an image, and clones of them, linked and full"""
        self.check_vms(self.pool, shares=False)

    def test_room(self):
        """a zvol has its room set aside, a sparse one has not; their sizes are multiples of their blocks"""
        info = self.w.ok("pool", "info", "vol", "-o", "json").json()
        whole = int(self.property("used", "tank/vms")) + int(self.property("available", "tank/vms"))
        self.assertLess(abs(info["capacity"] - whole), MIB)  # ZFS counts what it frees a little later
        self.w.ok("pool", "create", "sparse", "zfs,dataset=tank/vms,sparse=on")
        self.w.ok("image", "create", "vol:a", "1001K")
        size = self.volumes("vol")["a"]["capacity"]
        self.assertTrue(size >= 1001 << 10 and size % int(self.property("volblocksize", "tank/vms/a")) == 0, size)
        self.assertEqual(os.path.getsize(os.path.realpath("/dev/zvol/tank/vms/a")), 0, "it is a device")
        self.assertEqual(len(self.bytes("a")), size)
        self.assertGreaterEqual(int(self.property("refreservation", "tank/vms/a")), size)
        self.w.ok("image", "create", "sparse:s", "10G")
        self.assertEqual(self.property("refreservation", "tank/vms/s"), "0")
        self.assertTrue(self.w.ok("pool", "info", "sparse", "-o", "json").json()["overcommitted"])
        self.assertIn("out of space", self.w.expect(HOST, "image", "create", "vol:huge", "10G").err)
        self.assertIn("dataset does not exist", self.w.expect(HOST, "pool", "create", "nix", "zfs,dataset=tank/nix").err)
        self.w.ok("image", "delete", "vol:a", "vol:s")

    def test_clones(self):
        """a clone is of a snapshot that goes with it; what has clones stays"""
        self.w.ok("image", "convert", self.source(), "vol:a")
        for origin, clone in ("ab", "bc"):
            self.w.ok("image", "clone", f"vol:{origin}", f"vol:{clone}")
            self.assertEqual(self.volumes("vol")[clone]["origin"], f"tank/vms/{origin}@qmpctl-{clone}")
            self.same(self.source(), f"vol:{clone}")
            self.assertIn(f"the clone {clone}", self.w.expect(STATE, "image", "delete", f"vol:{origin}").err)
        self.write("b", bytes(8 * MIB))
        for name in "ac":
            self.same(self.source(), f"vol:{name}")
        self.w.ok("image", "resize", "vol:c", "12M")
        self.assertEqual((self.volumes("vol")["c"]["capacity"], len(self.bytes("c"))), (12 * MIB, 12 * MIB))
        for name in "cb":
            self.w.ok("image", "delete", f"vol:{name}")
        self.assertEqual(self.there(), ["a"])
        self.w.ok("image", "delete", "vol:a")

    def test_exported(self):
        """a zpool that is not imported says so, and has all again once it is"""
        self.w.ok("image", "create", "vol:a", "8M")
        run("zfs", "create", "-V", "8M", "tank/vms/qmpctl-new.x")
        run("zpool", "export", "tank")
        try:
            said = self.w.ok("pool", "list", "-o", "json").json()
        finally:
            run("zpool", "import", "-d", "/dev/disk/by-id", "tank")
        self.assertEqual([p["state"] for p in said if p["name"] == "vol"], ["unavailable"])
        self.w.ok("pool", "refresh", "vol")
        self.assertEqual(self.there(), ["a"])
        self.w.ok("image", "delete", "vol:a")


if __name__ == "__main__":
    main()
