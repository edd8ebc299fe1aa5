"""What create makes of an image, of an operating system's name, and of what cloud-init is to be told."""
import json
import os
import subprocess
import unittest

import world
from world import NOT_FOUND, OK, STATE, USAGE, WorldTest


class Create(WorldTest):
    def setUp(self):
        super().setUp()
        self.state = os.path.join(self.w.root, "lib")

    def file(self, name, text, mode=0o644):
        path = os.path.join(self.w.base, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        os.chmod(path, mode)
        return path

    def image(self, name, fmt="raw", size="8M"):
        path = os.path.join(self.w.base, name)
        subprocess.run(["qemu-img", "create", "-q", "-f", fmt, path, size], check=True)
        return path

    def spec(self, name):
        return self.w.ok("show", name, "-o", "json").json()["spec"]

    def files(self, folder):
        path = os.path.join(self.state, folder)
        return sorted(os.listdir(path)) if os.path.exists(path) else []

    def seed(self, name):
        """The files in the VM's seed, by their names."""
        iso = os.path.join(self.state, "seeds", f"{name}.iso")
        out = os.path.join(self.w.base, "seed-of-" + name)
        subprocess.run(["xorriso", "-osirrox", "on", "-indev", iso, "-extract", "/", out], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        found = {}
        for entry in os.listdir(out):
            with open(os.path.join(out, entry), encoding="utf-8") as f:
                found[entry] = f.read()
            os.unlink(os.path.join(out, entry))
        os.chmod(out, 0o700)
        os.rmdir(out)
        return found

    # -- images

    def test_a_disk_begins_as_the_image(self):
        base = self.image("base.raw")
        self.w.ok("create", "a", "--image", base, "--size", "16M")
        disk = self.spec("a")["disks"][0]
        self.assertEqual(disk["backing"], {"path": base, "format": "raw"})
        info = json.loads(subprocess.run(["qemu-img", "info", "--output=json", disk["path"]], check=True,
                                         stdout=subprocess.PIPE).stdout)
        self.assertEqual((info["virtual-size"], info["backing-filename"]), (16 << 20, base))
        self.assertEqual(os.stat(base).st_mode & 0o222, 0)
        # A format for exchange is copied.
        self.w.ok("create", "b", "--image", self.image("base.vmdk", "vmdk"), "--size", "16M")
        disk = self.spec("b")["disks"][0]
        self.assertNotIn("backing", disk)
        info = json.loads(subprocess.run(["qemu-img", "info", "--output=json", disk["path"]], check=True,
                                         stdout=subprocess.PIPE).stdout)
        self.assertEqual((info["virtual-size"], info["format"]), (16 << 20, "qcow2"))

    def test_what_cannot_be_leaves_nothing(self):
        base = self.image("base.raw")
        for rc, words in ((USAGE, ["--image", base, "--size", "1M"]), (USAGE, ["--size", "1G"]),
                          (NOT_FOUND, ["--image", base + "x"]), (USAGE, ["--image", base, "--set", "nonsense=1"]),
                          (USAGE, ["--image", base, "--os", "winxpp"]),
                          (USAGE, ["--image", base, "--wait", "for-godot"]),
                          (USAGE, ["--image", base, "--sha256", "0" * 64])):
            with self.subTest(words=words):
                self.w.expect(rc, "create", "a", *words)
                self.assertEqual(self.files("images"), [])
        self.w.ok("create", "a", "--image", base)
        self.w.expect(STATE, "create", "a", "--image", base)
        self.assertEqual(self.files("images"), ["a-1.qcow2"])
        # An image that a VM writes to is no base.
        self.w.ok("create", "b", "--disk", base + ",format=raw")
        result = self.w.run("create", "c", "--image", base)
        self.assertNotEqual(result.rc, OK, result)
        self.assertIn("b", result.err)

    def test_an_image_from_an_address(self):
        self.image("base.raw")
        port, _ = self.serve_folder(self.w.base)
        url = f"http://127.0.0.1:{port}/base.raw"
        result = self.w.run("create", "a", "--image", url, "--sha256", "0" * 64)
        self.assertNotEqual(result.rc, OK, result)
        self.assertEqual(self.files("images"), [])
        self.w.ok("create", "a", "--image", url)
        self.assertTrue(self.spec("a")["disks"][0]["backing"]["path"].startswith(self.state))

    # -- operating systems

    def test_an_os_name_chooses_devices(self):
        self.w.ok("create", "a", "--os", "win2k22", "--disk", "size=1M", "--nic", "user", "--set", "memory=64M")
        spec = self.spec("a")
        self.assertEqual((spec["disks"][0]["bus"], spec["nics"][0]["model"], spec["memory"], spec["clock"]),
                         ("sata", "e1000e", "64M", "localtime"))
        self.assertEqual(spec["firmware"], {"type": "uefi", "secure-boot": True})
        self.w.ok("create", "b", "--os", "ubuntu22.04", "--disk", "size=1M,bus=nvme", "--nic", "user")
        self.assertEqual(self.spec("b")["disks"][0]["bus"], "nvme")
        self.assertNotIn("model", self.spec("b")["nics"][0])

    def test_every_os_starts(self):
        """Each kind of machine that the table asks for is one that QEMU makes."""
        for name, entry in self.w.ok("os", "list", "-o", "json").json().items():
            if "description" not in entry:
                continue
            with self.subTest(os=name):
                self.w.ok("create", name, "--os", name, "--disk", "size=1M", "--nic", "user", "--cdrom", self.image("x.iso"),
                          "--user", "me", "--set", "memory=64M", "--accel", "tcg", "--start")
                self.w.ok("kill", name)

    # -- seeds

    def test_a_seed_follows_its_section_and_its_files(self):
        user_data = self.file("user-data", "#cloud-config\n{}\n")
        self.w.ok("create", "a", "--user-data", user_data, "--accel", "tcg", "--set", "memory=32M")
        self.w.ok("start", "a")
        first = os.stat(os.path.join(self.state, "seeds/a.iso"))
        self.assertEqual(first.st_mode & 0o777, 0o600)
        self.assertEqual(self.seed("a")["user-data"], "#cloud-config\n{}\n")
        self.assertIn('"local-hostname": "a"', self.seed("a")["meta-data"])
        self.assertEqual([d["id"] for d in self.w.ok("disk", "list", "a", "-o", "json").json()], ["seed"])
        self.w.ok("kill", "a")
        # The same section and the same files: the same image.
        self.w.ok("start", "a")
        self.assertEqual(os.stat(os.path.join(self.state, "seeds/a.iso")).st_ino, first.st_ino)
        self.w.ok("kill", "a")
        self.file("user-data", "#cloud-config\n{\"x\": 1}\n")
        self.w.ok("start", "a")
        self.assertIn('"x"', self.seed("a")["user-data"])
        self.w.ok("kill", "a")
        # What is gone does not keep a VM from starting that has its seed.
        os.unlink(user_data)
        self.w.ok("start", "a")
        self.w.ok("kill", "a")
        self.assertIn(user_data, self.w.run("seed", "a").err)
        self.assertIn('"x"', self.seed("a")["user-data"])

        self.w.ok("rename", "a", "b")
        self.assertEqual(self.files("seeds"), ["b.iso"])
        self.assertEqual(self.spec("b")["disks"][0]["path"], os.path.join(self.state, "seeds/b.iso"))
        self.w.ok("delete", "b")
        self.assertEqual(self.files("seeds"), [])

    def test_a_seed_comes_and_goes_with_its_section(self):
        self.w.ok("create", "a", "--accel", "tcg", "--set", "memory=32M", "--start")
        self.w.ok("set", "a", "seed.user=me")
        self.assertNotIn("seed", [d["id"] for d in self.w.ok("disk", "list", "a", "-o", "json").json() if d["live"]])
        self.w.ok("kill", "a")
        self.w.ok("start", "a")
        self.assertIn('"name": "me"', self.seed("a")["user-data"])
        before = self.spec("a")["seed"]["instance-id"]
        self.w.ok("seed", "a", "--new-instance")
        self.assertNotEqual(self.spec("a")["seed"]["instance-id"], before)
        self.w.ok("kill", "a")
        self.w.ok("set", "a", "seed=")
        self.assertEqual(self.spec("a").get("disks", []), [])
        self.w.expect(STATE, "seed", "a")

    def test_secrets_stay_out(self):
        key = self.file("id", "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n-----END OPENSSH PRIVATE KEY-----\n", 0o600)
        result = self.w.expect(USAGE, "create", "a", "--user", "me", "--ssh-key", key)
        self.assertIn(".pub", result.err)
        result = self.w.expect(USAGE, "create", "a", "--user", "me", "--ssh-key", self.file("password", "hunter2\n", 0o600))
        self.assertIn("no file of public keys", result.err)
        self.assertIn("no password hash", self.w.expect(USAGE, "create", "a", "--password-hash",
                                                        self.file("hash", "plain text\n")).err)
        self.assertFalse(os.path.exists(os.path.join(self.w.root, "etc/vms/a.json")))

    @unittest.skipUnless(os.getuid() == 0, "only root can have QEMU run as somebody else")
    def test_another_user_reads_the_seed(self):
        os.chmod(self.w.base, 0o711)
        os.makedirs(self.w.root, exist_ok=True)
        os.chmod(self.w.root, 0o711)
        self.w.ok("create", "a", "--user", "me", "--accel", "tcg", "--set", "memory=32M", "--set", "user=nobody", "--start")
        st = os.stat(os.path.join(self.state, "seeds/a.iso"))
        self.assertEqual((st.st_mode & 0o777, st.st_uid != 0), (0o600, True))
        self.w.ok("kill", "a")


if __name__ == "__main__":
    world.main()
