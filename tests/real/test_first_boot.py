"""What a guest is told at its first boot other than by an image, as a Linux guest reads it; and what UEFI keeps for a VM."""
import hashlib
import json
import os
import struct

import world
from guest import BOOT, guest_file, linux_spec, with_serial
from world import USAGE, WorldTest

FW_CFG = "/sys/firmware/qemu_fw_cfg/by_name/opt/com.coreos/config"
IGNITION_MAX = 1 << 20
BLOCK = 4096
# Commas and quotes, which QEMU's options are made of; what a shell, a format or a line would be told apart by.
HOSTILE = "a,b,,c=d,id=x %s %n $(reboot) `id` \\ ' \" <&> \x7f é \u2028 \ufffd 😀\t"
URL = "http://10.0.2.2:8000/a,b,,c=d/%20'$(x)`y`&s=t/"
UEFI_BOOT = 2 * BOOT
EFIVARS = "/sys/firmware/efi/efivars"
GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"  # UEFI, EFI_GLOBAL_VARIABLE


def ignition(text, size):
    """A configuration of SIZE bytes that holds TEXT again and again."""
    config = {"ignition": {"version": "3.4.0"}, "storage": {"files": [{"path": "/x", "contents": {"source": ""}}]}}
    encode = lambda: json.dumps(config, ensure_ascii=False).encode()
    config["storage"]["files"][0]["contents"]["source"] = text * ((size - 200) // len(json.dumps(text, ensure_ascii=False).encode()))
    return encode().ljust(size, b"\n")


def boot_entry(text):
    """An EFI_LOAD_OPTION, active, for the PCI device 1e.0, which is not there (UEFI, 3.1.3 and 10.3)."""
    path = bytes.fromhex("02010c00d041030a00000000" "010106000018" "7fff0400")
    return struct.pack("<IH", 1, len(path)) + text.encode("utf-16-le") + b"\0\0" + path


class FirstBoot(WorldTest):
    def boot(self, timeout=BOOT, **more):
        serial = self.w.serial()
        self.w.create("demo", with_serial(linux_spec(**more), serial))
        self.w.ok("start", "demo")
        serial.expect("GUEST-READY", timeout)
        return serial

    def file(self, name, data):
        path = os.path.join(self.w.base, name)
        with open(path, "wb") as f:
            f.write(data)
        return path

    def variables(self, name):
        with open(os.path.join(self.w.root, "lib/firmware", name + ".fd"), "rb") as f:
            return f.read()

    def set_variable(self, serial, name, value):
        """As the kernel has it: attributes (kept, at boot, at run time), then the value, in one write."""
        data = "".join(f"\\{byte:03o}" for byte in struct.pack("<I", 7) + value)
        self.assertEqual(serial.command(f"printf '{data}' >/tmp/v && dd if=/tmp/v of={EFIVARS}/{name}-{GLOBAL} bs=4096 2>&1")[0], 0)

    def test_ignition_is_read_as_it_was_written(self):
        """For each page the kernel reads all that stands before it, byte by byte: a few of them, unless told otherwise."""
        data = ignition(HOSTILE, IGNITION_MAX)
        serial = self.boot(seed={"ignition": self.file("a,b,,c=d %s 😀.ign", data)})
        self.assertEqual(serial.command(f"cat {FW_CFG}/size"), (0, str(len(data))))
        every = os.environ.get("QMPCTL_IGNITION") == "all"
        last = len(data) // BLOCK - 1
        for skip, count in ((0, last + 1),) if every else ((0, 16), (last // 2, 1), (last, 1)):
            part = data[skip * BLOCK:(skip + count) * BLOCK]
            self.assertEqual(serial.command(f"dd if={FW_CFG}/raw bs={BLOCK} skip={skip} count={count} 2>/dev/null | sha256sum", 600),
                             (0, hashlib.sha256(part).hexdigest() + "  -"))
        self.assertNotIn("differences", self.w.status("demo"))

    def test_ignition_that_cannot_be_is_refused(self):
        good = self.file("good", ignition("x", BLOCK))
        for data, why in ((b"variant: fcos\nversion: 1.5.0\n", "butane"), (ignition("x", IGNITION_MAX + 1), "1 MiB"),
                          (b'{"ignition": {"version": "3.4.0"}}\0', "NUL"), (b'{"ignition": {"version": "\xff"}}', "line 1"),
                          (b"{}", "version"), (b"", "line")):
            bad = self.file("bad", data)
            with self.subTest(data=data[:30]):
                self.assertIn(why, self.w.expect(USAGE, "create", "a", "--ignition", bad).err)
        self.w.ok("create", "a", "--ignition", good, "--accel", "tcg", "--set", "memory=32M")
        self.assertIn("version", self.w.expect(USAGE, "set", "a", "seed.ignition=" + self.file("bad", b"{}")).err)
        self.assertEqual(self.w.ok("show", "a", "-o", "json").json()["spec"]["seed"], {"ignition": good})
        # What was good once is looked at again; and a file that is gone is what is said, not QEMU's way to say it.
        self.file("good", b"{")
        self.assertIn("is no JSON", self.w.expect(USAGE, "start", "a").err)
        os.unlink(good)
        self.assertIn(f"seed.ignition: {good}", self.w.run("start", "a").err)
        self.w.ok("set", "a", "seed=")
        self.w.ok("start", "a")
        self.w.ok("kill", "a")

    def test_uefi_keeps_its_variables_and_tells_the_seed(self):
        """One boot tells what SMBIOS says, and writes a boot entry; the firmware of the next one says what it has of it."""
        url = URL.ljust(1023, "x") + "/"
        serial = self.boot(UEFI_BOOT, firmware={"type": "uefi"}, seed={"url": url})
        self.assertEqual(serial.command("cat /sys/class/dmi/id/product_serial"), (0, f"ds=nocloud-net;s={url}"))
        self.assertEqual(serial.command(f"mount -t efivarfs efivarfs {EFIVARS}")[0], 0)
        self.set_variable(serial, "Boot0009", boot_entry("the survivor"))
        self.set_variable(serial, "BootOrder", struct.pack("<H", 9))
        self.assertNotIn("differences", self.w.status("demo"))
        self.w.ok("stop", "demo")
        self.assertIn("the survivor".encode("utf-16-le"), self.variables("demo"))

        self.w.ok("rename", "demo", "other")
        kept = self.variables("other")
        self.w.ok("clone", "other", "copy")
        self.assertEqual(self.variables("copy"), kept)
        self.assertEqual(sorted(os.listdir(os.path.join(self.w.root, "lib/firmware"))), ["copy.fd", "other.fd"])
        # With a kernel there is nothing to choose.
        self.w.ok("set", "other", "boot=")
        self.w.ok("start", "other")
        serial.expect('Boot0009 "the survivor"', UEFI_BOOT)
        self.w.ok("kill", "other")
        # A clone's are its own.
        self.w.ok("delete", "other")
        self.assertEqual(self.variables("copy"), kept)
        self.w.ok("delete", "copy")
        self.assertEqual(os.listdir(os.path.join(self.w.root, "lib/firmware")), [])

    def test_whose_variables_they_are(self):
        """x with Secure Boot and x.secure without run at the same time; what x had under its old name goes along with it."""
        folder, code = os.path.join(self.w.root, "lib/firmware"), guest_file("tinybios.bin")
        firmware = {"type": "uefi", "path": code, "vars-template": self.file("template", bytes(1 << 16))}
        self.w.create("x", {"accel": "tcg", "firmware": {**firmware, "secure-boot": True}})
        os.makedirs(folder, 0o700)
        with open(os.path.join(folder, "x.secure.fd"), "wb") as f:
            f.write(b"x's".ljust(1 << 16))
        self.w.create("x.secure", {"firmware": firmware})
        for name in ("x", "x.secure"):
            self.w.ok("start", name)
        self.assertEqual([self.variables(name)[:3] for name in ("x+secure", "x.secure")], [b"x's", bytes(3)])
        for name in ("x", "x.secure"):
            self.assertNotIn("differences", self.w.status(name))
            self.w.ok("kill", name)
        self.w.ok("delete", "x")
        self.assertEqual(os.listdir(folder), ["x.secure.fd"])


if __name__ == "__main__":
    world.main()
