"""Pools of LVM and LVM-thin on real logical volumes."""
# Packages:
# Disks: pv:1G
import os

from parts import Kind, main, run
from volumes import MIB
from world import STATE, WorldTest


class Logical(Kind):
    """Of both kinds."""

    folder = "/dev/vg1"
    tools = ("lvs", "vgs", "lvcreate", "lvremove", "lvrename", "lvconvert", "lvchange", "lvresize")

    @classmethod
    def setUpClass(cls):
        run("vgcreate", "-q", "vg1", "/dev/disk/by-id/virtio-pv")
        cls.addClassCleanup(run, "vgremove", "-q", "-y", "-ff", "vg1")

    def there(self):
        return sorted(set(run("lvs", "--noheadings", "-o", "lv_name", "vg1").split()) - {"thin"})

    def remove(self, names):
        run("lvremove", "-q", "-y", "-f", *[f"vg1/{name}" for name in names])

    def snapshot(self, volume, name):
        return f"{volume}.{name}"

    def test_rollback_of_what_is_open(self):
        """a volume that somebody else has open does not go back, and stays as it is"""
        where = f"{self.pool}:a"
        self.w.ok("image", "convert", self.source(), where)
        self.w.ok("image", "snapshot", where, "create", "s")
        self.write("a", bytes(8 * MIB))
        before = self.bytes("a")
        with open(os.path.join(self.folder, "a"), "rb"):
            said = self.w.expect(STATE, "image", "snapshot", where, "rollback", "s").err
        self.assertIn("has /dev/vg1/a open", said)
        self.assertTrue(self.bytes("a") == before)
        self.assertEqual(self.names("a"), ["s"])
        self.w.ok("image", "snapshot", where, "rollback", "s")
        self.same(self.source(), where)
        self.w.ok("image", "snapshot", where, "delete", "s")
        self.w.ok("image", "delete", where)


class Lvm(Logical, WorldTest):
    definition = "lvm,vg=vg1"

    def same(self, a, b):
        """Behind what it was filled with, a volume has whatever was there before."""
        pool, _, volume = b.partition(":")
        if pool != self.pool:
            return super().same(a, b)
        with open(a if a.endswith(".raw") else os.path.join(self.w.base, "source.raw"), "rb") as f:
            image = f.read()
        return self.assertTrue(self.bytes(volume)[:len(image)] == image, f"{b} is not as {a}")

    def test_vms(self):
        """VMs from an image, and clones of them, linked and full"""
        self.check_vms(self.pool, shares=False, chains=False)

    def test_clones_have_their_size(self):
        """a clone is as large as its origin, for ever, and says so"""
        self.w.ok("image", "create", f"{self.pool}:a", "8M")
        self.w.ok("image", "clone", f"{self.pool}:a", f"{self.pool}:b")
        said = self.w.run("image", "resize", f"{self.pool}:b", "16M")
        self.assertEqual(said.rc, STATE, said)
        self.assertIn("clone", said.err)
        self.assertEqual(self.volumes(self.pool)["b"]["capacity"], 8 * MIB)
        self.w.ok("image", "delete", f"{self.pool}:b", f"{self.pool}:a")


class LvmThin(Logical, WorldTest):
    definition = "lvm-thin,vg=vg1,thin-pool=thin"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        run("lvcreate", "-q", "--type", "thin-pool", "-L", "800M", "-n", "thin", "vg1")

    def test_vms(self):
        """VMs from an image, and clones of them, linked and full"""
        self.check_vms(self.pool, shares=True)


if __name__ == "__main__":
    main()
