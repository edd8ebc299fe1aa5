"""Images that a running VM has: their size through its QEMU, what reads them, and what is refused with its name."""
import os

import world
from qmp import QmpError
from world import NOT_FOUND, STATE, USAGE, WorldTest

MIB = 1 << 20


class Live(WorldTest):
    def setUp(self):
        super().setUp()
        self.base, self.over = (os.path.join(self.w.base, n) for n in ("base.qcow2", "over.qcow2"))
        self.w.ok("image", "create", self.base, "4M")
        self.w.ok("image", "create", self.over, "--backing", self.base)
        self.raw = os.path.join(self.w.base, "x.raw")
        self.w.ok("image", "create", self.raw, "1M")
        over = {"id": "vda", "path": self.over, "format": "qcow2", "backing": {"path": self.base, "format": "qcow2"}}
        self.w.start_tiny("a", disks=[over, {"id": "vdb", "path": self.raw, "format": "raw", "throttle": {"iops-total": 1000}}])

    def size(self, disk):
        """As the guest's device has it, asked of QEMU."""
        with self.w.control("a") as qmp:
            for block in qmp.execute("query-block"):
                if f"/{disk}/" in block.get("qdev", "") + "/":
                    return block["inserted"]["image"]["virtual-size"]
        return self.fail(f"no disk {disk}")

    def refused(self, rc, *args, says):
        result = self.w.expect(rc, *args)
        self.assertIn(says, result.err)

    def test_resize(self):
        self.assertEqual(self.w.ok("disk", "resize", "a", "vda", "8M").out, f"{8 * MIB}\n")
        self.assertEqual(self.size("vda"), 8 * MIB)
        self.assertEqual(self.w.ok("image", "resize", self.over, "+2M").out, f"{10 * MIB}\n")
        self.assertEqual(self.size("vda"), 10 * MIB)
        self.refused(STATE, "disk", "resize", "a", "vda", "1M", says="--shrink")
        self.refused(STATE, "image", "resize", self.base, "8M", says="the VM a (running")
        self.assertEqual(self.size("vda"), 10 * MIB)
        self.w.ok("disk", "resize", "a", "vda", "2M", "--shrink")
        self.assertEqual(self.size("vda"), 2 * MIB)
        self.refused(NOT_FOUND, "disk", "resize", "a", "nix", "8M", says="nix")
        self.w.ok("kill", "a")
        self.assertEqual(self.w.ok("image", "info", self.over, "-o", "json").json()["virtual-size"], 2 * MIB)

    def test_resize_below_a_limit(self):
        """Its guest sees it through the throttle that stands on the image."""
        self.w.ok("disk", "resize", "a", "vdb", "2M")
        self.assertEqual(self.size("vdb"), 2 * MIB)
        self.assertEqual(os.path.getsize(self.raw), 2 * MIB)

    def test_the_operation(self):
        with self.w.control("a") as qmp:
            done = qmp.execute("qmpctl-disk-resize", {"id": "vdb", "size": 2 * MIB})
            self.assertEqual((done["outcome"], done["before"], done["size"]), ("done", MIB, 2 * MIB))
            for args, kind in (({"id": "vdb", "size": MIB}, "state"), ({"id": "vdb", "size": 1000}, "usage"),
                               ({"id": "nix", "size": MIB}, "not-found")):
                with self.assertRaises(QmpError) as why:
                    qmp.execute("qmpctl-disk-resize", args)
                self.assertEqual(why.exception.data.get("kind"), kind, args)
            done = qmp.execute("qmpctl-disk-resize", {"id": "vdb", "size": MIB, "shrink": True})
            self.assertEqual(done["before"], 2 * MIB)

    def test_reading(self):
        info = self.w.ok("image", "info", "--chain", self.over, "-o", "json").json()
        self.assertEqual([(u["vm"], u["state"]) for u in info["users"]], [("a", "running")])
        self.assertEqual(len(info["chain"]), 2)
        self.w.ok("image", "map", self.over)
        self.w.ok("image", "measure", self.over)
        self.w.ok("image", "check", self.base)  # nobody writes it

    def test_what_is_refused(self):
        other = os.path.join(self.w.base, "other.qcow2")
        for args in (["commit", self.over], ["rebase", self.over, "--flatten"], ["check", self.over],
                     ["check", "--repair", "leaks", self.base], ["delete", "--force", self.over], ["delete", "--force", self.base],
                     ["convert", self.over, other], ["convert", self.raw, self.base, "--replace", "--force"],
                     ["create", self.raw, "1M", "--replace", "--force"], ["bitmap", self.over, "add", "b"],
                     ["snapshot", self.over, "create", "s"], ["compare", self.over, self.base],
                     ["create", other, "--backing", self.over]):
            with self.subTest(args=args):
                self.refused(STATE, "image", *args, says="the VM a (running")
        self.assertFalse(os.path.exists(other))
        self.w.ok("image", "create", other, "--backing", self.base)  # which nobody writes
        self.refused(USAGE, "image", "resize", self.over, "lots", says="no size")
        self.assertEqual(self.w.state("a"), "running")


if __name__ == "__main__":
    world.main()
