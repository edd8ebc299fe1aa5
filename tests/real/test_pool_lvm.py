"""What is told LVM and what is not, by commands that only write down what they were asked. LVM itself: tests/systemd.sh."""
import json
import os
import shutil
import stat

import world
from guest import tiny_spec
from world import HOST, NOT_FOUND, OK, STATE, WorldTest

MIB = 1 << 20
FAKE = """#!/bin/sh
echo "$(basename "$0") $*" >>{folder}/asked
[ "$(basename "$0")" != lvs ] || cat {folder}/lvs.json
[ "$(basename "$0")" != vgs ] || echo '{{"report": [{{"vg": [{{"vg_size": "1073741824", "vg_free": "1073741824"}}]}}]}}'
exit {status}
"""
# Of thin volumes that are files; killed: who asked it to give a volume the name A, for the first time.
THIN = """#!/usr/bin/python3 -I
import json, os, shutil, sys
here, node = {folder!r}, "/dev/{vg}/{{}}".format
program, names = os.path.basename(sys.argv[0]), sys.argv[sys.argv.index("--") + 1:]
with open(here + "/lvs.json") as f:
    whole = json.load(f)
rows = {{row["lv_name"]: row for row in whole["report"][0]["lv"]}}
if program == "lvcreate":
    name, origin = sys.argv[sys.argv.index("--name") + 1], names[0].partition("/")[2]
    rows[name] = dict(rows[origin], lv_name=name, lv_tags="")
    shutil.copy(node(origin), node(name))
elif program == "lvremove":
    name = names[0].partition("/")[2]
    del rows[name]
    os.unlink(node(name))
elif names[2] == "a" and not os.path.exists(here + "/killed"):
    open(here + "/killed", "w").close()
    os.kill(os.getppid(), 9)
    sys.exit()  # others are at work from now on
else:
    rows[names[2]] = dict(rows.pop(names[1]), lv_name=names[2])
    os.rename(node(names[1]), node(names[2]))
whole["report"][0]["lv"] = list(rows.values())
with open(here + "/lvs.json", "w") as f:
    json.dump(whole, f)
"""


class Lvm(WorldTest):
    def setUp(self):
        super().setUp()
        self.vg = f"qmpctl-{os.getpid()}"
        os.mkdir(f"/dev/{self.vg}")
        self.addCleanup(shutil.rmtree, f"/dev/{self.vg}")
        self.bin = os.path.join(self.w.base, "bin")
        os.mkdir(self.bin)
        self.install("lvs", "vgs", "lvresize", "lvremove")
        self.w.env["PATH"] = f"{self.bin}:{self.w.env['PATH']}"
        self.rows = []

    def install(self, *names, status=0, text=FAKE):
        for name in names:
            path = os.path.join(self.bin, name)
            with open(path, "w", encoding="ascii") as f:
                f.write(text.format(folder=self.bin, vg=self.vg, status=status))
            os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)

    def uninstall(self, *names):
        """Nobody finds it any more, where the host has it, too."""
        self.w.env["PATH"] = self.bin
        for name in names:
            os.unlink(os.path.join(self.bin, name))

    def volume(self, name, **row):
        """One of 8 MiB, as LVM has it."""
        with open(f"/dev/{self.vg}/{name}", "wb") as f:
            f.truncate(8 * MIB)
        self.rows.append({"lv_name": name, "lv_size": str(8 * MIB), "lv_attr": "-wi-a-----", "origin": "", "origin_size": "", "lv_tags": "",
                          "data_percent": "", "metadata_percent": "", "pool_lv": "", "lv_time": "0", **row})
        self.tell()

    def tell(self):
        with open(os.path.join(self.bin, "lvs.json"), "w", encoding="ascii") as f:
            json.dump({"report": [{"lv": self.rows}]}, f)

    def changes(self):
        """What LVM was asked but for reports."""
        with open(os.path.join(self.bin, "asked"), encoding="ascii") as f:
            return [line for line in f.read().splitlines() if line.split()[0] not in ("lvs", "vgs")]

    def test_a_clone_keeps_its_size(self):
        """lvresize would give it more room for its changes, and its guest the same disk."""
        self.volume("a")
        self.volume("b", lv_attr="swi-a-s---", origin="a", origin_size=str(8 * MIB))
        self.volume("c")
        self.volume("c.s1", lv_attr="swi-a-s---", origin="c", origin_size=str(8 * MIB), lv_tags="qmpctl-snapshot=c:s1")
        self.w.ok("pool", "create", "lv", f"lvm,vg={self.vg}")
        for words in (["16M"], ["4M", "--shrink"]):
            self.assertIn("lv:b is a clone of lv:a", self.w.expect(STATE, "image", "resize", "lv:b", *words).err)
        self.assertIn("no volume c.s1", self.w.expect(NOT_FOUND, "image", "resize", "lv:c.s1", "16M").err)
        self.assertEqual(self.changes(), [])
        self.w.ok("image", "resize", "lv:c", "16M")
        self.assertEqual(self.changes(), [f"lvresize --quiet --yes --force --size {16 * MIB}b -- {self.vg}/c"])

    def notes(self):
        return os.listdir(os.path.join(self.w.root, "lib", "made"))

    def test_what_cannot_be_asked_is_not_gone(self):
        """Neither where LVM's commands are missing, nor where a volume is not active: "delete --disks" says what it has not deleted."""
        self.w.ok("pool", "create", "lv", f"lvm,vg={self.vg}")
        node = f"/dev/{self.vg}/v-1"

        def delete(rc, *says):
            self.w.create("v", {"disks": [{"path": "lv:v-1", "format": "raw"}]})
            result = self.w.expect(rc, "delete", "v", "--disks", "-o", "json")
            self.assertEqual(result.json(), {"name": "v", "deleted": [] if says else ["lv:v-1"], "kept": ["lv:v-1"] if says else []})
            for text in says:
                self.assertIn(text, result.err)

        self.volume("v-1", lv_uuid="one")
        path = self.w.env["PATH"]
        self.uninstall("lvs")
        delete(HOST, "kept, for", "lv:v-1", "lvs", "lvm2")
        self.assertIn("lvs", self.w.expect(HOST, "image", "delete", "lv:v-1").err)
        os.unlink(node)
        delete(HOST, "kept, for", "lv:v-1", "lvs", "lvm2")

        self.w.env["PATH"] = path
        self.install("lvs")
        delete(HOST, "kept, for", "lv:v-1 is there", "pool refresh lv")
        self.assertIn("pool refresh lv", self.w.expect(HOST, "image", "delete", "lv:v-1").err)
        self.assertEqual((self.changes(), self.notes()), ([], []))

        # It is noted, and cannot be deleted, nor asked for: the note stays until it can.
        self.volume("v-1", lv_uuid="one")
        self.install("lvremove", status=5)
        delete(HOST, "kept until a later verb can delete it", "lvremove")
        asked = self.changes()
        self.uninstall("lvs", "lvremove")
        for name in "wx":
            self.w.create(name, {})
        self.w.ok("delete", "w")
        self.assertEqual(len(self.notes()), 1)
        self.w.env["PATH"] = path
        self.install("lvs", "lvremove")
        self.w.ok("delete", "x")
        self.assertEqual(self.changes(), 2 * asked)
        self.assertEqual(self.notes(), [])

        os.unlink(node)
        self.rows = []
        self.tell()
        delete(OK)

    def test_a_start_ends_a_way_back(self):
        """Who was killed between its two renames has left no volume of that name: its VM starts all the same."""
        thin = {"lv_attr": "Vwi-a-tz--", "pool_lv": "thin"}
        self.volume("thin", lv_attr="twi-aotz--")
        self.volume("a", **thin)
        self.volume("a.s", lv_tags="qmpctl-snapshot=a:s:1", **thin)
        self.install("lvcreate", "lvremove", "lvrename", text=THIN)
        a = f"/dev/{self.vg}/a"
        with open(f"{a}.s", "r+b") as f:
            f.write(b"as it was")
        self.w.ok("pool", "create", "th", f"lvm-thin,vg={self.vg},thin-pool=thin")
        self.w.create("v", tiny_spec(disks=[{"path": "th:a", "format": "raw"}]))
        self.w.expect(NOT_FOUND, "image", "snapshot", "th:a", "rollback", "none")
        self.assertEqual(self.notes(), [], "what was refused")
        for start in (self.w.ok, self.w.spawn):
            self.assertEqual(self.w.run("image", "snapshot", "th:a", "rollback", "s").rc, -9)
            self.assertFalse(os.path.exists(a))
            start("start" if start == self.w.ok else "run", "v", "--paused")
            self.w.wait_state("v", "paused")
            with open(a, "rb") as f:
                self.assertEqual(f.read(9), b"as it was")
            self.assertEqual((sorted(os.listdir(f"/dev/{self.vg}")), self.notes()), (["a", "a.s", "thin"], []))
            self.w.ok("kill", "v")
            self.stopped_clean()
            os.unlink(os.path.join(self.bin, "killed"))


if __name__ == "__main__":
    world.main()
