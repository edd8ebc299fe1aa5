"""Strings that somebody might take for something else: QEMU must report exactly what was given, cold and hot."""
import json
import os
import shlex
import shutil

import world
from guest import guest_file
from world import World, WorldTest

# As a file's name; each is also used as a serial number.
NAMES = [
    "a,b=c", "with space", "tab\tnew\nline", "-leading-dash", "--", "json:{\"driver\":\"null-co\"}", "nbd:host:10809", "fat:rw:x",
    "Größe-雪-🖴", "'single' \"double\" `back`", "100%s%n%%d", "back\\slash\\", "$(reboot);&|<>*?[]{}", "#comment", "x:y", "\x01\x7f",
    "a" * 255,
]
CMDLINE = "console=ttyS0 a,b=c --  two  spaces 'q' \"d\" %s \\n $(x) json:{} -S\tü雪 end,"


def as_serial(name):
    return name[:20]


class Hostile(WorldTest):
    def disks(self, folder):
        """A disk a name, of all buses that hot-plug, with ids of every shape that is allowed."""
        found = []
        for i, name in enumerate(NAMES):
            path = os.path.join(folder, name)
            with open(path, "wb") as f:
                f.truncate(65536 + 512 * i)
            found.append({"id": ("d" + "_" * i + "9")[:16] if i < 15 else f"z{i}", "path": path, "format": "raw",
                          "bus": ("virtio", "scsi")[i % 2], "serial": as_serial(name)})
        return found

    def ask(self, qmp, disks):
        """What QEMU has of DISKS, disk by disk, is what was given."""
        nodes = {n["node-name"]: n for n in qmp.execute("query-named-block-nodes", {"flat": True})}
        for i, disk in enumerate(disks):
            with self.subTest(path=disk["path"]):
                ident = disk["id"]
                self.assertEqual(nodes[f"{ident}-file"]["file"], disk["path"])
                self.assertEqual(nodes[f"{ident}-file"]["drv"], "file")
                self.assertEqual(nodes[f"{ident}-fmt"]["drv"], "raw")
                self.assertEqual(nodes[f"{ident}-fmt"]["image"]["virtual-size"], os.path.getsize(disk["path"]))
                path = f"/machine/peripheral/{ident}"
                self.assertEqual(qmp.execute("qom-get", {"path": path, "property": "serial"}), disk["serial"])
                if disk["bus"] == "virtio":
                    self.assertEqual(qmp.execute("qom-get", {"path": path, "property": "drive"}), f"{ident}-fmt")
        self.assertEqual(self.w.status("a").get("differences", []), [])

    def test_cold(self):
        folder = os.path.join(self.w.base, "d,x=y z")
        os.mkdir(folder)
        kernel = os.path.join(folder, "-kernel,initrd=x \"'\n%s")
        shutil.copyfile(guest_file("vmlinuz"), kernel)
        disks = self.disks(folder)
        self.w.create("a", {"memory": "128M", "machine": {"ports": 24}, "disks": disks, "description": "\n,\"'%s --",
                            "boot": {"kernel": kernel, "cmdline": CMDLINE}})
        self.w.ok("start", "a", "--paused")
        with self.w.control("a") as qmp:
            self.ask(qmp, disks)
            machine = {key: qmp.execute("qom-get", {"path": "/machine", "property": key}) for key in ("kernel", "append")}
            self.assertEqual(machine, {"kernel": kernel, "append": CMDLINE})

    def test_hot(self):
        folder = os.path.join(self.w.base, "h,x=y z")
        os.mkdir(folder)
        disks = self.disks(folder)
        self.w.start_tiny("a")
        with self.w.control("a") as qmp:
            for disk in disks:
                qmp.execute("qmpctl-disk-add", {"disk": disk})
            self.ask(qmp, disks)
            for disk in disks:
                if disk["bus"] == "virtio":
                    qmp.execute("qmpctl-disk-remove", {"id": disk["id"]})
            left = {n["node-name"] for n in qmp.execute("query-named-block-nodes", {"flat": True})}
            self.assertFalse([d for d in disks if d["bus"] == "virtio" and f"{d['id']}-file" in left])

    def test_sockets_of_nics(self):
        paths = [os.path.join(self.w.base, name) for name in NAMES if len(self.w.base + name) < 100]
        self.w.create_tiny("a", machine={"type": "q35", "ports": 24}, nics=[
            {"id": "cold", "backend": "stream", "server": True, "socket": os.path.join(self.w.base, "cold,\n'\"%s")}])
        self.w.ok("start", "a")
        self.until(lambda: os.path.exists(os.path.join(self.w.base, "cold,\n'\"%s")), "no socket of the cold NIC")
        with self.w.control("a") as qmp:
            for i, path in enumerate(paths):
                with self.subTest(path=path):
                    qmp.execute("qmpctl-nic-add", {"nic": {"id": f"n{i}", "backend": "stream", "server": True, "socket": path}})
                    # QEMU answers before a thread of its own has made the socket.
                    self.until(lambda: os.path.exists(path), f"no socket {path!r}")
            self.assertEqual(self.w.status("a").get("differences", []), [])

    def test_on_the_command_line(self):
        folder = os.path.join(self.w.base, "c")
        os.mkdir(folder)
        self.w.create("a", {"disks": []})
        paths = [disk["path"] for disk in self.disks(folder) if not set(disk["path"]) & set(",\n")]
        for i, path in enumerate(paths):
            self.w.ok("disk", "add", "a", f"id=vd{i},path={path},format=raw")
        shown = self.w.ok("show", "a", "-o", "json").json()["spec"]["disks"]
        self.assertEqual([disk["path"] for disk in shown], paths)
        argv = shlex.split(self.w.ok("args", "a").out)
        given = [json.loads(argv[i + 1]) for i, word in enumerate(argv) if word == "-blockdev"]
        self.assertEqual([node["filename"] for node in given if "filename" in node], paths)


class DeepRoot(WorldTest):
    """A root whose sockets' paths are at, and far beyond, what a socket address has room for."""

    def setUp(self):
        pass

    def test_roots(self):
        for length in (106, 107, 108, 109, 250, 1000):
            with self.subTest(length=length):
                self.check(length)

    def check(self, length):
        probe = World()
        fixed = len(os.path.join(probe.base, "", "run", "a", "control.sock"))
        probe.close()
        room, parts = length - fixed, []
        while room > 0:  # each part takes its length and a slash
            size = min(200, room - 1)
            size -= room - size - 1 == 1
            part = "ü, \n'%s"
            part = part + "x" * (size - len(part.encode())) if size >= len(part.encode()) else "x" * size
            parts.append(part)
            room -= size + 1
        self.w = World(os.path.join(*parts))
        self.addCleanup(self.w.close)
        image = os.path.join(self.w.base, "x.img")
        with open(image, "wb") as f:
            f.truncate(1 << 20)
        serial = self.w.start_tiny("a", consoles=[{"id": "con0", "type": "virtio"}])
        self.w.ok("disk", "add", "a", f"id=vdx,path={image},format=raw")
        self.w.ok("disk", "remove", "a", "vdx")
        serial.expect("EJECT")
        self.assertEqual(self.w.state("a"), "running")
        self.assertEqual(len(os.fsencode(os.path.join(self.w.vm_dir("a"), "control.sock"))), length)
        self.w.ok("stop", "a")
        self.w.wait_gone(list(self.w.processes()))


if __name__ == "__main__":
    world.main()
