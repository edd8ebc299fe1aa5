"""Pools of ZFS, as far as that goes without ZFS: Debian's kernel has no zfs module and its main archive no zfsutils-linux, so
that a `zfs` of the test's own stands in PATH, which writes down what it was asked and answers as zfs(8) describes it. What is
missing here: that a real zpool takes these very words. A zvol is a file below /dev/zvol.
"""
import os
import shutil
import stat

import world
from volumes import Volumes
from world import HOST, WorldTest

FAKE = """#!/usr/bin/env python3
import os, shutil, sys
here = os.path.dirname(os.path.abspath(__file__))
argv = sys.argv[1:]
with open(here + "/asked", "a") as f:
    f.write(" ".join(argv) + "\\n")
def node(name):
    return "/dev/zvol/" + name
if not argv[-1].startswith("tank"):
    # The pool of a process of its own, whose zvols are there.
    if argv[0] == "list" and argv[-1].endswith("/vms"):
        names = sorted(os.listdir(node(argv[-1])))
        if "volume" in argv:
            for n in names:
                size = os.path.getsize(node(argv[-1] + "/" + n))
                print("%s/%s\\t%d\\t%d\\t-" % (argv[-1], n, size, 0))
        else:
            print("0\\t2147483648")
    elif argv[0] == "list":
        print("-")
    elif argv[0] == "create":
        with open(node(argv[-1]), "xb") as f:
            f.truncate(int(argv[-2]))
    elif argv[0] == "destroy":
        os.unlink(node(argv[-1]))
    elif argv[0] == "rename":
        os.link(node(argv[-2]), node(argv[-1]))
        os.unlink(node(argv[-2]))
elif argv[0] == "list" and "volume" in argv:
    print("tank/vms/a\\t1073741824\\t8388608\\t-")
    print("tank/vms/b\\t1073741824\\t4096\\ttank/vms/a@qmpctl-b")
elif argv[0] == "list" and "origin" in argv:
    print("tank/vms/a@qmpctl-b" if argv[-1] == "tank/vms/b" else "-")
elif argv[0] == "list" and argv[-1] == "tank/vms":
    print("12582912\\t2147483648")
elif argv[0] == "list":
    sys.exit("cannot open '%s': dataset does not exist" % argv[-1])
elif argv[0] == "create" and argv[-1] == "tank/vms/full":
    sys.exit("cannot create 'tank/vms/full': out of space")
"""


class Zfs(Volumes, WorldTest):
    def setUp(self):
        super().setUp()
        self.bin = os.path.join(self.w.base, "bin")
        os.mkdir(self.bin)
        path = os.path.join(self.bin, "zfs")
        with open(path, "w", encoding="utf-8") as f:
            f.write(FAKE)
        os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)
        self.w.env["PATH"] = f"{self.bin}:{self.w.env['PATH']}"
        self.w.ok("pool", "create", "tank", "zfs,dataset=tank/vms")
        self.asked()

    def asked(self):
        """What zfs was asked since the last time."""
        path = os.path.join(self.bin, "asked")
        with open(path, encoding="utf-8") as f:
            lines = f.read().splitlines()
        os.unlink(path)
        return lines

    def test_info(self):
        info = self.w.ok("pool", "info", "tank", "-o", "json").json()
        self.assertEqual((info["capacity"], info["used"], info["available"]), (12582912 + (2 << 30), 12582912, 2 << 30))
        a, b = info["content"]
        self.assertEqual((a["name"], a["capacity"], a["allocation"], a["path"]), ("a", 1 << 30, 8 << 20, "/dev/zvol/tank/vms/a"))
        self.assertEqual((b["name"], b["origin"]), ("b", "tank/vms/a@qmpctl-b"))
        self.assertEqual((info["promised"], info["overcommitted"]), (2 << 30, False))

    def test_a_dataset_that_is_not_there(self):
        result = self.w.expect(HOST, "pool", "create", "nix", "zfs,dataset=tank/nix")
        self.assertIn("dataset does not exist", result.err)

    def test_create(self):
        self.w.ok("image", "create", "tank:c", "1G")
        self.assertEqual(self.asked(), ["create -V 1073741824 tank/vms/c"])
        self.w.ok("image", "create", "tank:d", "1000001K")
        self.assertEqual(self.asked(), ["create -V 1024016384 tank/vms/d"], "a multiple of its blocks")
        self.assertIn("out of space", self.w.expect(HOST, "image", "create", "tank:full", "1G").err)
        self.w.ok("pool", "create", "thin", "zfs,dataset=tank/vms,sparse=on")
        self.asked()
        self.w.ok("image", "create", "thin:c", "1G")
        self.assertEqual(self.asked(), ["create -s -V 1073741824 tank/vms/c"])

    def test_what_goes_into_volumes(self):
        """A zvol has a name of its own until it is whole."""
        dataset = f"qmpctl-{os.getpid()}/vms"
        os.makedirs(f"/dev/zvol/{dataset}")
        self.addCleanup(lambda: os.listdir("/dev/zvol") or os.rmdir("/dev/zvol"))
        self.addCleanup(shutil.rmtree, os.path.dirname(f"/dev/zvol/{dataset}"))
        self.w.ok("pool", "create", "own", f"zfs,dataset={dataset}")
        self.asked()
        self.w.ok("image", "convert", self.source(), "own:x")
        self.assertEqual([line for line in self.asked() if not line.startswith("list")],
                         [f"create -V 8388608 {dataset}/qmpctl-new.x", f"rename {dataset}/qmpctl-new.x {dataset}/x"])
        self.w.ok("image", "delete", "own:x")
        self.check_filled("own")
        self.check_ends("own", lambda: [n for n in os.listdir(f"/dev/zvol/{dataset}") if "qmpctl-new" in n])
        self.check_at_once("own")

    def test_nothing_is_an_option(self):
        for name in ("-r", "a@b", "a b"):
            self.w.run("image", "create", f"tank:{name}", "1G")
        for line in self.asked() if os.path.exists(os.path.join(self.bin, "asked")) else []:
            self.assertTrue(line.startswith("create -V 1073741824 tank/vms/"), line)


if __name__ == "__main__":
    world.main()
