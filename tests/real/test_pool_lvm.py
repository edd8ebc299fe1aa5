"""What is told LVM and what is not, by commands that only write down what they were asked. LVM itself: tests/systemd.sh."""
import json
import os
import shutil
import stat

import world
from world import NOT_FOUND, STATE, WorldTest

MIB = 1 << 20
FAKE = """#!/bin/sh
echo "$(basename "$0") $*" >>{folder}/asked
[ "$(basename "$0")" != lvs ] || cat {folder}/lvs.json
[ "$(basename "$0")" != vgs ] || echo '{{"report": [{{"vg": [{{"vg_size": "1073741824", "vg_free": "1073741824"}}]}}]}}'
"""


class Lvm(WorldTest):
    def setUp(self):
        super().setUp()
        self.vg = f"qmpctl-{os.getpid()}"
        os.mkdir(f"/dev/{self.vg}")
        self.addCleanup(shutil.rmtree, f"/dev/{self.vg}")
        self.bin = os.path.join(self.w.base, "bin")
        os.mkdir(self.bin)
        for name in ("lvs", "vgs", "lvresize"):
            path = os.path.join(self.bin, name)
            with open(path, "w", encoding="ascii") as f:
                f.write(FAKE.format(folder=self.bin))
            os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)
        self.w.env["PATH"] = f"{self.bin}:{self.w.env['PATH']}"
        self.rows = []

    def volume(self, name, **row):
        """One of 8 MiB, as LVM has it."""
        with open(f"/dev/{self.vg}/{name}", "wb") as f:
            f.truncate(8 * MIB)
        self.rows.append({"lv_name": name, "lv_size": str(8 * MIB), "lv_attr": "-wi-a-----", "origin": "", "origin_size": "", "lv_tags": "",
                          "data_percent": "", "metadata_percent": "", "pool_lv": "", "lv_time": "0", **row})
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


if __name__ == "__main__":
    world.main()
