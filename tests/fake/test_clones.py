"""A hundred linked clones: made, drawn, started against fake_qemu, and deleted with nothing left."""
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "real"))
import world  # noqa: E402
from world import WorldTest  # noqa: E402

FAKE = os.environ["QMPCTL_FAKE"]
CLONES = int(os.environ.get("QMPCTL_CLONES", 100))


class Clones(WorldTest):
    def setUp(self):
        super().setUp()
        self.w.env["QMPCTL_QEMU"] = FAKE
        self.images = os.path.join(self.w.root, "lib", "images")
        self.names = [f"c{i:03}" for i in range(CLONES)]

    def files(self):
        return [os.path.join(d, f) for d, _, files in os.walk(self.w.root) for f in files]

    def test_a_hundred(self):
        self.w.ok("create", "template", "--accel", "tcg", "--memory", "32M", "--disk", "size=100G")
        base = os.path.join(self.images, "template-1.qcow2")
        before = time.monotonic()
        for name in self.names:
            self.w.ok("clone", "template", name, "--linked")
        print(f"{(time.monotonic() - before) / CLONES * 1000:.0f} ms a clone", file=sys.stderr)

        [tree] = self.w.ok("image", "tree", "-o", "json").json()
        self.assertEqual(tree["path"], base)
        overlays = tree["overlays"]
        self.assertEqual(sorted(o["users"][0]["vm"] for o in overlays), sorted([*self.names, "template"]))
        self.assertFalse([o for o in overlays if o["overlays"] or len(o["users"]) != 1])
        self.assertEqual(len(self.w.ok("image", "tree").out.splitlines()), CLONES + 2)
        self.assertLess(sum(o["allocated"] for o in overlays), CLONES * (1 << 20))

        for name in ("template", *self.names):
            self.w.ok("start", name)
        vms = self.w.ok("list", "-o", "json").json()
        self.assertEqual({(vm["name"], vm["state"]) for vm in vms}, {(n, "running") for n in ("template", *self.names)})
        specs = [self.w.ok("show", vm["name"], "-o", "json").json()["spec"] for vm in vms]
        self.assertEqual(len({s["uuid"] for s in specs}), CLONES + 1)
        self.assertEqual(len({s["disks"][0]["path"] for s in specs}), CLONES + 1)
        self.assertEqual(subprocess.run(["qemu-img", "check", "-q", base], check=False).returncode, 0)

        for name in self.names:
            self.w.ok("kill", name)
            self.w.ok("delete", name, "--disks")
        self.assertEqual(sorted(os.listdir(self.images)), ["template-1.qcow2", "template-2.qcow2"])
        self.w.ok("kill", "template")
        self.w.ok("delete", "template", "--disks")
        self.stopped_clean()
        self.assertEqual(os.listdir(self.images), [])
        self.assertEqual(self.w.ok("list", "-o", "json").json(), [])
        # What is known of QEMU's abilities is nobody's VM's.
        self.assertEqual([f for f in self.files() if os.sep + "cache" + os.sep not in f and not f.endswith("caps.json")], [])


if __name__ == "__main__":
    world.main()
