"""Pools of ZFS, as far as that goes without ZFS: Debian's kernel has no zfs module and its main archive no zfsutils-linux, so
that a `zfs` of the test's own stands in PATH, which writes down what it was asked and answers as zfs(8) describes it. What is
missing here: that a real zpool takes these very words, which tests/inside/zfs.py shows. A zvol is a file below /dev/zvol.
"""
import os
import shutil
import stat

import world
from volumes import Volumes
from world import HOST, STATE, WorldTest

FAKE = """#!/usr/bin/python3 -IS
import os, shutil, sys
here = os.path.dirname(os.path.abspath(__file__))
argv = sys.argv[1:]
with open(here + "/asked", "a") as f:
    f.write(" ".join(argv) + "\\n")
def node(name):
    return "/dev/zvol/" + name
def origin_of(name):
    try:
        with open(here + "/origin." + name.replace("/", "!")) as f:
            return f.read()
    except OSError:
        return "-"
def age(name):
    return os.stat(node(name)).st_mtime_ns
def snapshots(dataset, volume=""):
    return sorted((dataset + "/" + n for n in os.listdir(node(dataset)) if "@" in n and n.startswith(volume)), key=age)
if not argv[-1].startswith("tank"):
    # The pool of a process of its own, whose zvols and snapshots are files.
    dataset = argv[-1].split("/vms")[0] + "/vms"
    if argv[0] == "list" and "snapshot" in argv:
        for n in snapshots(dataset, argv[-1][len(dataset) + 1:]):
            print("\\t".join([n, str(age(n) // 10**9), str(os.path.getsize(node(n))), "0"]))
    elif argv[0] == "list" and "volume" in argv:
        for n in sorted(n for n in os.listdir(node(dataset)) if "@" not in n):
            name = dataset + "/" + n
            print("%s\\t%d\\t0\\t%s" % (name, os.path.getsize(node(name)), origin_of(name)))
    elif argv[0] == "list" and "volume,snapshot" in argv:
        all = [dataset + "/" + n for n in os.listdir(node(dataset))]
        for name in all:
            print(name + "\\t" + (",".join(n for n in all if origin_of(n) == name) if "@" in name else "-"))
    elif argv[0] == "list" and "origin" in argv:
        print(origin_of(argv[-1]))
    elif argv[0] == "list" and "guid" in argv:
        print(os.stat(node(argv[-1])).st_ino)
    elif argv[0] == "list":
        print("0\\t2147483648")
    elif argv[0] == "create":
        with open(node(argv[-1]), "xb") as f:
            f.truncate(int(argv[-2]))
    elif argv[0] == "set":
        os.truncate(node(argv[-1]), int(argv[1].split("=")[1]))
    elif argv[0] == "destroy":
        for n in [dataset + "/" + n for n in os.listdir(node(dataset))]:
            if n.startswith(argv[-1] + "@") or origin_of(n) == argv[-1]:
                sys.exit("cannot destroy '%s': it has children" % argv[-1])
        os.unlink(node(argv[-1]))
        if origin_of(argv[-1]) != "-":
            os.unlink(here + "/origin." + argv[-1].replace("/", "!"))
    elif argv[0] == "rename":
        os.link(node(argv[-2]), node(argv[-1]))
        os.unlink(node(argv[-2]))
        if origin_of(argv[-2]) != "-":
            os.rename(*(here + "/origin." + n.replace("/", "!") for n in argv[-2:]))
    elif argv[0] == "snapshot":
        shutil.copyfile(node(argv[-1].split("@")[0]), node(argv[-1]))
    elif argv[0] == "clone":
        shutil.copyfile(node(argv[-2]), node(argv[-1]))
        with open(here + "/origin." + argv[-1].replace("/", "!"), "w") as f:
            f.write(argv[-2])
    elif argv[0] == "rollback":
        volume = argv[-1].split("@")[0]
        newer = [n for n in snapshots(dataset, volume[len(dataset) + 1:] + "@") if age(n) > age(argv[-1])]
        if newer and argv[1] != "-r":
            sys.exit("cannot rollback to '%s': more recent snapshots or bookmarks exist" % argv[-1])
        for n in newer:
            os.unlink(node(n))
        shutil.copyfile(node(argv[-1]), node(volume))
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
        self.assertEqual(self.changes(), ["create -V 1073741824 tank/vms/c"])
        self.w.ok("image", "create", "tank:d", "1000001K")
        self.assertEqual(self.changes(), ["create -V 1024016384 tank/vms/d"], "a multiple of its blocks")
        self.assertIn("out of space", self.w.expect(HOST, "image", "create", "tank:full", "1G").err)
        self.w.ok("pool", "create", "thin", "zfs,dataset=tank/vms,sparse=on")
        self.asked()
        self.w.ok("image", "create", "thin:c", "1G")
        self.assertEqual(self.changes(), ["create -s -V 1073741824 tank/vms/c"])

    def own(self):
        dataset = f"qmpctl-{os.getpid()}/vms"
        os.makedirs(f"/dev/zvol/{dataset}")
        self.addCleanup(lambda: os.listdir("/dev/zvol") or os.rmdir("/dev/zvol"))
        self.addCleanup(shutil.rmtree, os.path.dirname(f"/dev/zvol/{dataset}"))
        self.w.ok("pool", "create", "own", f"zfs,dataset={dataset}")
        self.asked()
        return dataset

    def changes(self):
        return [line for line in self.asked() if not line.startswith("list")]

    def test_what_goes_into_volumes(self):
        """A zvol has a name of its own until it is whole."""
        dataset = self.own()
        self.w.ok("image", "convert", self.source(), "own:x")
        self.assertEqual(self.changes(),
                         [f"create -V 8388608 {dataset}/qmpctl-new.x", f"rename {dataset}/qmpctl-new.x {dataset}/x"])
        self.w.ok("image", "delete", "own:x")
        self.check_filled("own")
        self.check_ends("own", lambda: [n for n in os.listdir(f"/dev/zvol/{dataset}") if "qmpctl-new" in n])
        self.check_at_once("own")

    def test_vms_of_volumes(self):
        self.own()
        self.check_vms("own", shares=False)

    def test_snapshots(self):
        dataset = self.own()
        self.w.ok("image", "create", "own:x", "1M")
        self.w.ok("image", "snapshot", "own:x", "create", "s1")
        self.w.ok("image", "snapshot", "own:x", "rollback", "s1")
        self.w.ok("image", "clone", "own:x", "own:y")
        self.assertIn("the clone y", self.w.expect(STATE, "image", "snapshot", "own:x", "rollback", "s1", "--force").err)
        self.assertIn("the clone y", self.w.expect(STATE, "image", "delete", "own:x").err)
        self.w.ok("image", "delete", "own:y")
        self.w.ok("image", "snapshot", "own:x", "delete", "s1")
        self.w.ok("image", "delete", "own:x")
        x, y = f"{dataset}/x", f"{dataset}/y"
        self.assertEqual(self.changes(), [f"create -V 1048576 {x}", f"snapshot {x}@s1", f"rollback {x}@s1", f"snapshot {x}@qmpctl-y",
                                          f"clone {x}@qmpctl-y {y}", f"destroy {y}", f"destroy {x}@qmpctl-y", f"destroy {x}@s1",
                                          f"destroy {x}"])
        self.check_snapshots("own", newer_go=True, runs=False)  # QEMU wants a device there

    def test_clones_that_are_cut_short(self):
        dataset = self.own()
        self.check_clone_ends("own", os.path.join(self.bin, "zfs"), ["clone"],
                              lambda: [n for n in os.listdir(f"/dev/zvol/{dataset}") if "@" in n])

    def test_nothing_is_an_option(self):
        for name in ("-r", "a@b", "a b"):
            self.w.run("image", "create", f"tank:{name}", "1G")
        for line in self.changes() if os.path.exists(os.path.join(self.bin, "asked")) else []:
            self.assertTrue(line.startswith("create -V 1073741824 tank/vms/"), line)


if __name__ == "__main__":
    world.main()
