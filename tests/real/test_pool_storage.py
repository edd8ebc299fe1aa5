"""Pools on what is mounted here: XFS with its reflinks; Btrfs with its subvolumes, reflinks and nodatacow; a file system that may
be mounted or not; the md arrays and devices of the host. Loop devices are the test's own, and go with it. LVM and md proper:
tests/systemd.sh.
"""
import ctypes
import fcntl
import os
import struct
import subprocess

import world
from guest import tiny_spec, with_serial
from volumes import Volumes
from world import HOST, STATE, USAGE, WorldTest

GETFLAGS, NOCOW = 0x80086601, 0x00800000


def run(*argv):
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{' '.join(argv)}: {done.stderr}")
    return done.stdout.strip()


class Storage(Volumes, WorldTest):
    def setUp(self):
        super().setUp()
        self.top = os.path.join(self.w.base, "mnt")
        os.mkdir(self.top)

    def loop(self, name="disk.img", size=256 << 20):
        """A loop device on a file of the world, detached when the test ends, however it ends."""
        path = os.path.join(self.w.base, name)
        with open(path, "wb") as f:
            f.truncate(size)
        device = run("losetup", "--find", "--show", path)
        self.addCleanup(subprocess.run, ["losetup", "--detach", device], check=True)
        self.addCleanup(self.w.end)
        return device

    def mount(self, fs, *options, size=256 << 20):
        device = self.loop(size=size)
        run(f"mkfs.{fs}", *options, device)
        run("mount", "-t", fs, device, self.top)
        self.addCleanup(subprocess.run, ["umount", self.top], check=True)
        self.addCleanup(self.w.end)  # what a failed test has left running would keep it busy
        return device

    def info(self, name):
        return self.w.ok("pool", "info", name, "-o", "json").json()

    def content(self, name):
        return {v["name"]: v for v in self.info(name)["content"]}

    def flags(self, path):
        with open(path, "rb") as f:
            return struct.unpack("l", fcntl.ioctl(f, GETFLAGS, b"\0" * ctypes.sizeof(ctypes.c_long)))[0]

    def litter(self):
        return [n for d, folders, files in os.walk(self.top) for n in folders + files if "qmpctl-new" in n]

    def vm(self, name, location, form="raw"):
        serial = self.w.serial(f"{name}-serial")
        self.w.create(name, with_serial(tiny_spec(disks=[{"path": location, "format": form}]), serial))
        self.w.ok("start", name)
        serial.expect("TINY-READY")

    # -- XFS

    def used(self):
        """Of the file system, with nothing left to be written."""
        run("sync", "--file-system", self.top)
        st = os.statvfs(self.top)
        return (st.f_blocks - st.f_bfree) * st.f_frsize

    def test_xfs_shares_blocks(self):
        self.mount("xfs", "-q", "-m", "reflink=1", size=400 << 20)
        self.w.ok("pool", "create", "xf", f"mount,path={self.top}")
        self.assertEqual(self.info("xf")["filesystem"], "xfs")
        self.w.ok("image", "create", "xf:a.raw", "64M")
        a, b, c = (os.path.join(self.top, name) for name in ("a.raw", "b.raw", "c.raw"))
        data = os.urandom(32 << 20)
        with open(a, "r+b") as f:
            f.write(data)
            f.seek(48 << 20)
            f.write(b"behind a hole")
        before = self.used()
        self.w.ok("image", "clone", "xf:a.raw", "xf:b.raw")
        self.assertLess(self.used() - before, 4 << 20, "a clone takes room")
        self.assertIn("shared", run("filefrag", "-v", b))
        # An import is read, and copied. XFS sets room aside behind a file that grows: not where its holes are.
        self.w.ok("image", "import", a, c, "--no-cache")
        self.assertLess(self.used() - before, 36 << 20)

        self.vm("v", "xf:b.raw")
        before = self.used()
        with open(b, "r+b") as f:
            f.write(bytes(4 << 20))
        self.assertGreaterEqual(self.used() - before, 4 << 20)
        for path in (a, c):
            with open(path, "rb") as f:
                self.assertEqual(f.read(len(data)), data, f"{path} has what was written to another")
        self.w.ok("kill", "v")
        self.w.ok("delete", "v")

    # -- Btrfs

    def test_btrfs_files(self):
        self.mount("btrfs", "-q")
        pool = os.path.join(self.top, "pool")
        self.w.ok("pool", "create", "bt", f"btrfs,path={pool}")
        self.assertEqual(os.stat(pool).st_ino, 256, "the pool is a subvolume")
        self.w.ok("image", "create", "bt:a.qcow2", "64M")
        self.vm("v", "bt:a.qcow2", "qcow2")
        self.assertEqual(self.info("bt")["filesystem"], "btrfs")
        self.assertIn("a.qcow2", self.content("bt"))
        self.assertIn("in use by", self.w.expect(STATE, "image", "delete", "bt:a.qcow2").err)
        self.w.ok("kill", "v")
        self.w.ok("delete", "v")
        self.w.ok("image", "delete", "bt:a.qcow2")
        self.assertEqual(self.content("bt"), {})

    def test_btrfs_subvolumes(self):
        self.mount("btrfs", "-q")
        pool = os.path.join(self.top, "pool")
        self.w.ok("pool", "create", "bt", f"btrfs,path={pool},subvolumes=on,nodatacow=on")
        self.w.ok("image", "create", "bt:a", "64M")
        disk = os.path.join(pool, "a", "disk")
        self.assertEqual(os.stat(os.path.dirname(disk)).st_ino, 256, "a volume is a subvolume")
        self.assertEqual(os.stat(disk).st_size, 64 << 20)
        self.assertTrue(self.flags(disk) & NOCOW, "nodatacow")
        self.assertIn("there already", self.w.expect(STATE, "image", "create", "bt:a", "64M").err)
        self.assertIn("is raw, not qcow2", self.w.expect(USAGE, "image", "create", "bt:b", "64M", "--format", "qcow2").err)
        volume = self.content("bt")["a"]
        self.assertEqual((volume["capacity"], volume["allocation"]), (64 << 20, 0))
        self.vm("v", "bt:a")
        self.assertIn("in use by", self.w.expect(STATE, "image", "delete", "bt:a").err)
        self.w.ok("image", "resize", "bt:a", "96M")
        with self.w.control("v") as qmp:
            sizes = {b["inserted"]["image"]["virtual-size"] for b in qmp.execute("query-block") if "inserted" in b}
        self.assertEqual((os.stat(disk).st_size, sizes), (96 << 20, {96 << 20}), "the guest sees it at once")
        self.assertIn("in use by", self.w.expect(STATE, "image", "resize", "bt:a", "64M", "--shrink").err)
        self.w.ok("kill", "v")
        self.w.ok("delete", "v")
        self.assertIn("would be lost", self.w.expect(STATE, "image", "resize", "bt:a", "64M").err)
        self.w.ok("image", "resize", "bt:a", "64M", "--shrink")
        self.assertEqual(os.stat(disk).st_size, 64 << 20)
        self.w.ok("image", "delete", "bt:a")
        self.assertEqual((os.listdir(pool), self.litter()), ([], []))

    def test_btrfs_a_disk_that_is_made_for_a_vm(self):
        self.mount("btrfs", "-q")
        pool = os.path.join(self.top, "pool")
        self.w.ok("pool", "create", "bt", f"btrfs,path={pool},subvolumes=on")
        self.w.ok("create", "v", "--memory", "32M", "--disk", "bt:new,size=10M")
        disk = self.w.ok("show", "v", "-o", "json").json()["spec"]["disks"][0]
        self.assertEqual((disk["path"], disk["format"]), ("bt:new", "raw"))
        self.assertEqual(self.content("bt")["new"]["capacity"], 10 << 20)
        self.w.expect(USAGE, "create", "w", "--disk", "bt:x,size=10M", "--disk", "bt:y,size=1M,bus=nix")
        self.assertEqual(os.listdir(pool), ["new"], "what is refused after its volume was made leaves none")

    def test_btrfs_clones(self):
        """A clone shares its blocks, and is written to by itself: by reflink, or as a snapshot of the subvolume."""
        self.mount("btrfs", "-q")
        for pool, words, name in (("bf", "", ".raw"), ("bs", ",subvolumes=on", "")):
            with self.subTest(pool=pool):
                folder = os.path.join(self.top, pool)
                self.w.ok("pool", "create", pool, f"btrfs,path={folder}{words}")
                self.w.ok("image", "create", f"{pool}:a{name}", "32M")
                where = {v: self.content(pool)["a" + name]["path"].replace("/a", f"/{v}") for v in "ab"}
                with open(where["a"], "r+b") as f:
                    f.write(os.urandom(32 << 20))
                    os.fsync(f.fileno())
                before = os.statvfs(self.top)
                self.w.ok("image", "clone", f"{pool}:a{name}", f"{pool}:b{name}")
                run("sync", "-f", self.top)
                after = os.statvfs(self.top)
                taken = (before.f_bfree - after.f_bfree) * before.f_frsize
                self.assertLess(taken, 8 << 20, "the clone of 32 MiB takes no room")
                with open(where["a"], "rb") as a, open(where["b"], "r+b") as b:
                    self.assertEqual(a.read(), b.read())
                    b.seek(0)
                    b.write(b"x" * 4096)
                with open(where["a"], "rb") as a:
                    self.assertNotEqual(a.read(4096), b"x" * 4096)
                self.w.expect(STATE, "image", "clone", f"{pool}:a{name}", f"{pool}:b{name}")
                self.w.ok("image", "delete", f"{pool}:a{name}", f"{pool}:b{name}")
                self.assertEqual(os.listdir(folder), [])

    def test_btrfs_what_a_killed_maker_has_left(self):
        self.mount("btrfs", "-q")
        pool = os.path.join(self.top, "pool")
        self.w.ok("pool", "create", "bt", f"btrfs,path={pool},subvolumes=on")
        run("btrfs", "subvolume", "create", os.path.join(pool, ".qmpctl-new.x"))
        self.w.ok("image", "create", "bt:a", "1M")
        self.assertEqual(os.listdir(pool), ["a"])
        run("btrfs", "subvolume", "create", os.path.join(pool, ".qmpctl-new.y"))
        self.w.ok("pool", "refresh", "bt")
        self.assertEqual(os.listdir(pool), ["a"])

    def test_btrfs_eight_at_once(self):
        self.mount("btrfs", "-q")
        pool = os.path.join(self.top, "pool")
        self.w.ok("pool", "create", "bt", f"btrfs,path={pool},subvolumes=on")
        self.create_many("bt", "")
        self.assertEqual(sorted(os.listdir(pool)), [f"v{i}" for i in range(8)])

    def create_many(self, pool, suffix):
        """Eight volumes at once, and each of them twice: one of the two is the first."""
        procs = [subprocess.Popen(self.w.argv("image", "create", f"{pool}:v{i % 8}{suffix}", "1M"), env=self.w.env,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for i in range(16)]
        codes = [p.wait(120) for p in procs]
        for i in range(8):
            self.assertEqual(sorted((codes[i], codes[i + 8])).count(0), 1, f"v{i}: {codes}")
        self.assertEqual(self.litter(), [])

    def test_btrfs_what_goes_into_volumes(self):
        self.mount("btrfs", "-q")
        self.w.ok("pool", "create", "bt", f"btrfs,path={self.top}/pool,subvolumes=on")
        self.check_filled("bt")
        self.check_ends("bt", self.litter)
        self.check_at_once("bt")

    def test_btrfs_vms_of_volumes(self):
        self.mount("btrfs", "-q")
        self.w.ok("pool", "create", "bt", f"btrfs,path={self.top}/pool,subvolumes=on")
        self.check_vms("bt", shares=True)

    def test_btrfs_snapshots(self):
        self.mount("btrfs", "-q")
        self.w.ok("pool", "create", "bt", f"btrfs,path={self.top}/pool,subvolumes=on")
        self.check_snapshots("bt")
        self.assertEqual(self.litter(), [])

    # -- what is mounted

    def test_mount(self):
        """While nothing is mounted there, nothing is written there."""
        device = self.mount("ext4", "-q")
        self.w.ok("pool", "create", "mo", f"mount,path={self.top}")
        self.w.ok("image", "create", "mo:a.raw", "1M")
        self.create_many("mo", ".raw")
        info = self.info("mo")
        self.assertEqual((info["filesystem"], info["source"], info["volumes"]), ("ext4", device, 9))
        run("umount", self.top)
        try:
            self.assertIn("nothing is mounted", self.w.expect(HOST, "pool", "info", "mo").err)
        finally:
            run("mount", device, self.top)
        self.assertEqual(self.info("mo")["state"], "ready")

    # -- devices that are there

    def test_block(self):
        device = self.loop()
        name = os.path.basename(device)
        self.w.ok("pool", "create", "bl", f"block,path=/dev,only={name}")
        volume = self.content("bl")[name]
        self.assertEqual((volume["capacity"], volume["physical"], volume["in-use-by-host"]), (256 << 20, 256 << 20, False))
        self.vm("v", f"bl:{name}")
        self.w.ok("kill", "v")
        self.assertEqual(self.w.run("image", "create", "bl:x", "1M").rc, USAGE, '"only" leaves it out')
        self.assertIn("the tools that they are from", self.w.run("image", "delete", f"bl:{name}", "--force").err)
        run("mkfs.ext4", "-q", device)
        run("mount", device, self.top)
        try:
            self.assertTrue(self.content("bl")[name]["in-use-by-host"])
            self.assertIn("the host itself uses", self.w.expect(STATE, "start", "v").err)
            self.w.create_tiny("w")
            self.w.ok("start", "w", "--paused")
            self.w.expect(STATE, "disk", "add", "w", f"{device},format=raw")
            self.w.ok("disk", "add", "w", f"{device},format=raw,id=ro,read-only=true")
            self.w.ok("kill", "w")
        finally:
            self.w.end()
            run("umount", self.top)
        self.w.ok("start", "v")


if __name__ == "__main__":
    world.main()
