"""What an image's header names is not opened unless the spec names it; a raw disk stays raw whatever is in it."""
import os
import shutil
import struct
import subprocess
import tempfile

import world
from qmp import QmpError
from world import USAGE, WorldTest


def nodes(qmp):
    return {n["node-name"]: n for n in qmp.execute("query-named-block-nodes", {"flat": True})}


class Images(WorldTest):
    def path(self, name):
        return os.path.join(self.w.base, name)

    def image(self, name, *args, fmt="qcow2", size="1M"):
        subprocess.run(["qemu-img", "create", "-q", "-f", fmt, *args, self.path(name), size], check=True)
        return self.path(name)

    def traps(self):
        """Images that would have QEMU open a file: (disk, what its refusal must name)."""
        base = self.image("the base.qcow2")
        over = self.image("over.qcow2", "-b", base, "-F", "qcow2")
        middle = self.image("middle.qcow2", "-b", base, "-F", "qcow2")
        top = self.image("top.qcow2", "-b", middle, "-F", "qcow2")
        data = self.image("d.qcow2", "-o", f"data_file={self.path('raw data')}")
        flat = self.image("f.vmdk", "-o", "subformat=monolithicFlat", fmt="vmdk")
        qed = self.image("o.qed", "-b", base, "-F", "qcow2", fmt="qed")
        large = self.image("large.qcow2")
        with open(large, "r+b") as f:
            f.seek(24)
            f.write(struct.pack(">Q", 1 << 60))
        return [
            ({"path": over, "format": "qcow2"}, base),
            ({"path": top, "format": "qcow2", "backing": {"path": middle, "format": "qcow2"}}, base),
            ({"path": data, "format": "qcow2"}, self.path("raw data")),
            ({"path": flat, "format": "vmdk"}, "f-flat.vmdk"),
            ({"path": qed, "format": "qed"}, base),
            ({"path": large, "format": "qcow2"}, str(1 << 60)),
        ]

    def test_hot_plug_refuses_what_the_spec_does_not_name(self):
        self.w.start_tiny("a")
        with self.w.control("a") as qmp:
            before = set(nodes(qmp))
            for disk, named in self.traps():
                with self.subTest(image=os.path.basename(disk["path"])):
                    reply = self.refused(qmp, disk)
                    self.assertIn(named, reply)
                    self.assertIn(disk["path"] if "backing" not in disk else disk["backing"]["path"], reply)
                    self.assertEqual(set(nodes(qmp)), before)

    def refused(self, qmp, disk):
        ident = qmp.send("qmpctl-disk-add", {"disk": dict(disk, id="vdx")})
        try:
            qmp.reply(ident)
        except QmpError as why:
            self.assertEqual(why.data.get("kind"), "usage", why.data)
            return why.desc
        return self.fail(f"{disk} was opened")

    def test_extents_behind_the_first(self):
        """Whatever they are: nothing opens them, and nothing waits at them."""
        self.image("two.vmdk", "-o", "subformat=twoGbMaxExtentFlat", fmt="vmdk", size="5G")
        os.mkfifo(self.path("pipe"))
        with open(self.path("two.vmdk"), encoding="ascii") as f:
            good = f.read()
        self.w.start_tiny("a")
        for second in ("pipe", self.path("pipe"), "absent", "/dev/zero", "../../etc/shadow"):
            with self.subTest(second), self.w.control("a") as qmp:
                path = self.path("bad.vmdk")
                with open(path, "w", encoding="ascii") as f:
                    f.write(good.replace("two-f002.vmdk", second))
                self.assertIn(path, self.refused(qmp, {"path": path, "format": "vmdk"}))
                for verb in (("check", path), ("convert", path, self.path("out.qcow2"))):
                    self.assertIn(path, self.w.expect(USAGE, "image", *verb).err)
                if second.endswith("pipe"):
                    self.assertIn(self.path("pipe"), self.w.expect(USAGE, "image", "info", path).err)
        self.assertFalse(os.path.exists(self.path("out.qcow2")))

    def test_a_cold_start_refuses_it_too(self):
        for number, (disk, named) in enumerate(self.traps()):
            with self.subTest(image=os.path.basename(disk["path"])):
                name = f"vm{number}"
                hidden = self.path("hidden")
                os.rename(disk["path"], hidden)  # it may come into being after the VM
                self.w.create_tiny(name, disks=[disk])
                os.rename(hidden, disk["path"])
                result = self.w.expect(USAGE, "start", name)
                self.assertIn(named, result.err)
                self.assertEqual(self.w.state(name), "stopped")
        self.stopped_clean()

    def test_what_the_spec_names_is_opened(self):
        self.w.start_tiny("a")
        base = self.image("base.qcow2")
        over = self.image("over.qcow2", "-b", base, "-F", "qcow2")
        with self.w.control("a") as qmp:
            qmp.execute("qmpctl-disk-add", {"disk": {
                "id": "vdx", "path": over, "format": "qcow2", "backing": {"path": base, "format": "qcow2"}}})
            found = nodes(qmp)
            self.assertEqual(found["vdx-fmt"]["backing_file"], base)
            self.assertEqual(found["vdx-b1-file"]["file"], base)

    def test_raw_stays_raw(self):
        inside = self.image("inside.raw", "-b", self.image("base.qcow2"), "-F", "qcow2")
        size = os.path.getsize(inside)
        over = self.image("over.qcow2")
        disks = [{"id": "vdx", "path": inside, "format": "raw", "read-only": True},
                 {"id": "vdy", "path": over, "format": "qcow2", "backing": {"path": inside, "format": "raw"}}]
        self.w.create_tiny("a", disks=disks[:1])
        self.w.ok("start", "a")
        with self.w.control("a") as qmp:
            qmp.execute("qmpctl-disk-add", {"disk": disks[1]})
            found = nodes(qmp)
            self.assertEqual({n["drv"] for n in found.values()}, {"raw", "file", "qcow2"})
            for node in ("vdx-fmt", "vdy-b1"):
                self.assertEqual(found[node]["drv"], "raw")
                self.assertEqual(found[node]["image"]["virtual-size"], (size + 511) // 512 * 512)
            self.assertFalse([n for n in found.values() if "base.qcow2" in n["file"]])

    def test_a_format_that_is_said_is_believed(self):
        self.w.start_tiny("a")
        over = self.image("over.qcow2", "-b", self.image("base.qcow2"), "-F", "qcow2")
        self.w.ok("disk", "add", "a", f"id=vdx,path={over},format=raw")
        result = self.w.run("disk", "add", "a", f"id=vdy,path={over}")
        self.assertEqual(result.rc, USAGE, str(result))
        self.assertIn("base.qcow2", result.err)

    def test_a_file_in_dev_is_a_file_and_a_link_to_a_device_is_one(self):
        """QEMU has a driver for each and refuses the other's; a path's beginning does not tell which."""
        folder = tempfile.mkdtemp(prefix="qmpctl-", dir="/dev/shm")
        self.addCleanup(shutil.rmtree, folder)
        cold, hot = (os.path.join(folder, name) for name in ("cold.raw", "hot.raw"))
        places = {"vda": cold, "vdb": self.link_to_device("cold"), "vdx": hot, "vdy": self.link_to_device("hot")}
        for path in (cold, hot):
            self.raw(path)
        disks = [{"id": disk, "path": path, "format": "raw"} for disk, path in places.items()]
        self.w.create_tiny("a", disks=disks[:2])
        self.w.ok("start", "a")
        for disk in ("vdx", "vdy"):
            self.w.ok("disk", "add", "a", f"id={disk},path={places[disk]},format=raw")
        with self.w.control("a") as qmp:
            drivers = {name: node["drv"] for name, node in nodes(qmp).items() if name.endswith("-file")}
        self.assertEqual(drivers, {"vda-file": "file", "vdb-file": "host_device", "vdx-file": "file", "vdy-file": "host_device"})

    @staticmethod
    def raw(path):
        with open(path, "wb") as f:
            f.truncate(1 << 20)

    def link_to_device(self, name):
        image, link = self.path(name + ".image"), self.path(name)
        self.raw(image)
        device = subprocess.run(["losetup", "--find", "--show", image], check=True, capture_output=True, text=True).stdout.strip()
        self.addCleanup(subprocess.run, ["losetup", "--detach", device], check=True)
        os.symlink(device, link)
        return link


if __name__ == "__main__":
    world.main()
