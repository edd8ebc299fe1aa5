"""One image, two VMs: refused where one of them writes, by whatever name it goes; the VM that has it is not disturbed."""
import os
import subprocess

import world
from world import STATE, USAGE, WorldTest


class Share(WorldTest):
    def setUp(self):
        super().setUp()
        self.image = os.path.join(self.w.base, "x.img")
        with open(self.image, "wb") as f:
            f.truncate(1 << 20)

    def disk(self, path, **more):
        return dict({"id": "vda", "path": path, "format": "raw"}, **more)

    def hold(self, **more):
        """The VM a runs and has the image."""
        self.w.create_tiny("a", disks=[self.disk(self.image, **more)])
        self.w.ok("start", "a")
        self.pid = self.w.qemu_pid("a")

    def refused(self, name, path, **more):
        self.w.create_tiny(name, disks=[self.disk(path, **more)])
        result = self.w.expect(STATE, "start", name)
        for word in ("in use by the VM a", "disks.vda"):
            self.assertIn(word, result.err)
        self.assertEqual(self.w.status(name)["state"], "stopped")
        self.assertEqual(self.w.qemu_pid("a"), self.pid, "the one that has it goes on")
        self.assertEqual(self.w.state("a"), "running")

    def test_by_its_own_name_a_symlink_and_a_hard_link(self):
        self.hold()
        soft, hard = self.image + ".soft", self.image + ".hard"
        os.symlink(self.image, soft)
        os.link(self.image, hard)
        for name, path in (("b", self.image), ("c", soft), ("d", hard)):
            with self.subTest(path=path):
                self.refused(name, path)

    def test_a_reader_beside_a_writer(self):
        self.hold()
        self.refused("b", self.image, **{"read-only": True})

    def test_a_writer_beside_a_reader(self):
        self.hold(**{"read-only": True})
        self.refused("b", self.image)

    def test_readers_share(self):
        self.hold(**{"read-only": True})
        self.w.create_tiny("b", disks=[self.disk(self.image, **{"read-only": True})])
        self.w.ok("start", "b")
        self.assertEqual((self.w.state("a"), self.w.state("b")), ("running", "running"))

    def test_a_bind_mount(self):
        self.hold()
        bound = os.path.join(self.w.base, "bound.img")
        open(bound, "wb").close()
        mounted = subprocess.run(["mount", "--bind", self.image, bound], capture_output=True, text=True)
        if mounted.returncode != 0:
            self.skipTest(f"no bind mount to be had here: {mounted.stderr.strip()}")
        try:
            self.refused("b", bound)
        finally:
            subprocess.run(["umount", bound], check=True)

    def test_a_backing_file_of_one_that_is_written_to(self):
        self.hold()
        top = os.path.join(self.w.base, "top.qcow2")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", self.image, "-F", "raw", top], check=True)
        self.refused("b", top, format="qcow2", backing={"path": self.image, "format": "raw"})

    def test_hot_plug(self):
        self.hold()
        self.w.start_tiny("b")
        before = self.w.ok("show", "b", "-o", "json").json()
        result = self.w.expect(STATE, "disk", "add", "b", f"{self.image},format=raw")
        self.assertIn("in use by the VM a", result.err)
        self.assertEqual(self.w.ok("show", "b", "-o", "json").json(), before, "nothing was changed")

    def test_twice_in_one_vm(self):
        self.w.create_tiny("a", disks=[self.disk(self.image), self.disk(self.image, id="vdb")])
        result = self.w.expect(USAGE, "start", "a")
        self.assertIn("disks.vdb: {} is the same image as that of disks.vda".format(self.image), result.err)

    def damage(self, text="{"):
        with open(os.path.join(self.w.root, "run/a/running.json"), "w", encoding="ascii") as f:
            f.write(text)

    def test_one_of_which_what_is_kept_is_damaged_has_its_images_all_the_same(self):
        """Also one that is plugged, and that its spec on disk does not name."""
        self.hold()
        plugged, other = self.image + ".plugged", self.image + ".other"
        for path in (plugged, other):
            with open(path, "wb") as f:
                f.truncate(1 << 20)
        self.w.ok("disk", "add", "a", f"{plugged},id=vdb,format=raw", "--live")
        for text in ("{", "{}", '{"spec": 5}'):
            with self.subTest(text):
                self.damage(text)
                for path in (self.image, plugged):
                    self.w.create_tiny("b", disks=[self.disk(path)])
                    result = self.w.expect(STATE, "start", "b")
                    self.assertIn(f"{path} is in use by the VM a, whose running.json cannot be read", result.err)
                    self.w.ok("delete", "b")
                    self.w.serials.pop().close()
                    os.unlink(os.path.join(self.w.base, "b-serial.sock"))
        self.w.create_tiny("c", disks=[self.disk(other)])
        self.w.ok("start", "c")  # one that it has not is no concern of its
        self.assertEqual(self.w.qemu_pid("a"), self.pid)

    def test_one_of_which_nothing_can_be_told_keeps_writers_away(self):
        self.hold()
        self.damage()
        with open(os.path.join(self.w.root, "run/a/qemu.lock"), "w", encoding="ascii"):
            pass  # of no pid
        self.w.create_tiny("b", disks=[self.disk(self.image)])
        self.assertIn("cannot be told", self.w.expect(STATE, "start", "b").err)
        self.w.create_tiny("c")
        self.w.ok("start", "c")

    def test_it_outlives_the_keeper_and_ends_with_qemu(self):
        self.hold()
        self.w.kill_keeper()
        self.refused("b", self.image)
        self.w.ok("kill", "a")
        self.w.ok("start", "b")


if __name__ == "__main__":
    world.main()
