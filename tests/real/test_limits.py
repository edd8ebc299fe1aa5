"""limits of a spec: a control group of the VM's own.

Inside a Linux guest, whose kernel has the controllers whatever this host has. What runs there is the qmpctl under test;
its QEMU is the fake one, which any kernel can run.
"""
import json
import os
import shutil
import struct
import subprocess

from guest import BOOT, guest_file, linux_spec, with_serial
from world import FAILED, OK, QMPCTL, WorldTest, main

FAKE = os.environ.get("QMPCTL_FAKE") or os.path.join(os.path.dirname(QMPCTL), "../tests/fake/fake_qemu")
CG = "/sys/fs/cgroup"


def libraries(program):
    out = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    return {word for line in out.splitlines() for word in line.split() if word.startswith("/")}


class Limits(WorldTest):
    def setUp(self):
        super().setUp()
        self.serial = self.w.serial()
        spec = linux_spec(disks=[{"path": self.partitioned(), "format": "raw"}, {"path": self.formatted(), "format": "raw"}])
        spec["boot"]["initrd"] = self.initrd({"qmpctl": QMPCTL, "qemu": FAKE})
        self.w.create("host", with_serial(spec, self.serial))
        self.w.ok("start", "host")
        self.serial.expect("GUEST-READY", BOOT)
        self.qmpctl("create", "t", "--memory", "16M")
        self.qmpctl("set", "t", "accel=tcg", "limits.cpu=150", "limits.memory=64M", "limits.pids=199")

    def image(self, name):
        path = os.path.join(self.w.base, name)
        with open(path, "wb") as f:
            f.truncate(16 << 20)
        return path

    def partitioned(self):
        """The guest's /dev/vda, with /dev/vda1 in it."""
        path = self.image("parts.img")
        with open(path, "r+b") as f:
            f.seek(446)
            f.write(struct.pack("<8BII", 0, 0, 0, 0, 0x83, 0, 0, 0, 2048, 8192))
            f.seek(510)
            f.write(b"\x55\xaa")
        return path

    def formatted(self):
        """The guest's /dev/vdb."""
        path = self.image("fs.img")
        subprocess.run(["/sbin/mkfs.ext4", "-q", "-F", path], check=True)
        return path

    def initrd(self, programs):
        """The guest's own, and behind it an archive with the programs and their libraries."""
        tree, out = os.path.join(self.w.base, "tree"), os.path.join(self.w.base, "initrd")
        files = {f"/bin/{name}": path for name, path in programs.items()}
        files.update({lib: lib for path in programs.values() for lib in libraries(path)})
        for name, path in files.items():
            os.makedirs(os.path.dirname(tree + name), exist_ok=True)
            shutil.copy(path, tree + name)
        folders = {os.path.dirname(name) for name in files}
        folders |= {up for f in folders for up in (os.path.dirname(f), os.path.dirname(os.path.dirname(f)))} - {"/"}
        names = "".join(f".{name}\n" for name in sorted(folders) + list(files))
        extra = subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=tree, input=names.encode(), check=True,
                               stdout=subprocess.PIPE).stdout
        shutil.copyfile(guest_file("initrd.img"), out)
        with open(out, "ab") as f:
            f.write(extra)
        return out

    def sh(self, command, status=0):
        """In the guest."""
        rc, out = self.serial.command(command)
        self.assertEqual(rc, status, f"{command}\n{out}")
        return out.replace("\r", "")

    def qmpctl(self, *args, status=OK, before=""):
        return self.sh(f"{before}QMPCTL_QEMU=/bin/qemu qmpctl --root /r {' '.join(args)} 2>&1", status)

    def groups(self):
        return self.sh(f"find {CG} -name 'qmpctl-*'").split()

    def start_in(self, group, expected):
        """Starts t with the shell that does so in GROUP; the VM's group is to be made in EXPECTED."""
        self.qmpctl("start", "t", before=f"echo 0 > {CG}{group}/cgroup.procs; ")
        folder, = self.groups()
        self.assertEqual(os.path.dirname(folder), CG + expected)
        self.assertEqual(self.sh(f"cat {folder}/cpu.max {folder}/memory.max {folder}/pids.max").split(),
                         ["150000", "100000", str(64 << 20), "199"])
        pid = self.sh(f"cat {folder}/cgroup.procs")
        self.assertEqual(pid, self.sh("cat /r/run/t/qemu.lock"))
        self.assertIn(f"cgroup    unified {folder[len(CG):]}\n", self.qmpctl("status", "t", "--security") + "\n")
        return pid

    def test_a_group_of_its_own_that_goes_with_it(self):
        self.assertIn("no cgroup2 file system is mounted", self.qmpctl("start", "t", status=FAILED))
        self.sh(f"mount -t cgroup2 none {CG}")
        self.start_in("", "")
        self.qmpctl("kill", "t")
        self.assertEqual(self.groups(), [])

        # One with processes gives nothing to its children: its parent's.
        self.sh(f"mkdir -p {CG}/a/b && echo '+cpu +memory +pids' > {CG}/cgroup.subtree_control")
        self.start_in("/a/b", "/a")
        # Nobody is there when it ends: who comes next removes it.
        status = json.loads(self.qmpctl("status", "t", "-o", "json"))
        keeper, qemu = status["keeper-pid"], status["pid"]
        self.sh(f"kill -9 {keeper} {qemu}; while kill -0 {qemu} 2>/dev/null; do usleep 10000; done")
        self.assertEqual(len(self.groups()), 1)
        self.assertIn("stopped", self.qmpctl("status", "t"))
        self.assertEqual(self.groups(), [])

        # A start that fails leaves none.
        self.sh("mkdir -p /r/run/t && echo exit-at=query-status > /r/run/t/fake-qemu")
        self.qmpctl("start", "t", status=FAILED)
        self.assertEqual(self.groups(), [])

    def test_the_disks_that_images_stand_on(self):
        self.sh(f"mount -t cgroup2 none {CG} && mkdir /x && mount -t ext4 /dev/vdb /x && truncate -s 1M /x/1.raw /ram.raw")
        vda, vdb = (self.sh(f"cat /sys/block/{name}/dev") for name in ("vda", "vdb"))
        held = "rbps=1000000 wbps=max riops=max wiops=50"
        self.qmpctl("set", "t", "limits.io.bps-read=1000000", "limits.io.iops-write=50")
        self.qmpctl("disk", "add", "t", "path=/dev/vda1,format=raw")
        self.qmpctl("start", "t")
        folder, = self.groups()
        self.assertEqual(self.sh(f"cat {folder}/io.max"), f"{vda} {held}")
        # A disk that comes later, on another one.
        self.qmpctl("disk", "add", "t", "path=/x/1.raw,format=raw", "--dry-run")
        self.assertEqual(self.sh(f"cat {folder}/io.max"), f"{vda} {held}")
        self.qmpctl("disk", "add", "t", "path=/x/1.raw,format=raw")
        self.assertEqual(sorted(self.sh(f"cat {folder}/io.max").split("\n")), sorted([f"{vda} {held}", f"{vdb} {held}"]))
        # What no disk is below cannot be held: it is not taken, and what starts with it does not start.
        before = self.qmpctl("show", "t")
        said = self.qmpctl("disk", "add", "t", "path=/ram.raw,format=raw", status=FAILED)
        self.assertIn("/ram.raw stands on no disk of this host", said)
        self.assertEqual(self.qmpctl("show", "t"), before)
        self.qmpctl("kill", "t")
        self.assertEqual(self.groups(), [])
        self.qmpctl("disk", "add", "t", "path=/ram.raw,format=raw")
        self.assertIn("stands on no disk", self.qmpctl("start", "t", status=FAILED))
        self.assertEqual(self.groups(), [])


if __name__ == "__main__":
    main()
