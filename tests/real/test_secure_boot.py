"""Secure Boot as the firmware has it: what it refuses, and that a distribution's signed boot chain comes up behind it."""
import os
import struct
import subprocess
import unittest

import world
from guest import BOOT, LINUX_CMDLINE, guest_file, with_serial
from world import WorldTest

EFIVARS = "/sys/firmware/efi/efivars"
SECURE_BOOT = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
UEFI_BOOT = 2 * BOOT
# The kernel that is not what was signed comes first.
GRUB = f"""
if linux /tampered {LINUX_CMDLINE}; then
	echo TAKES-THE-TAMPERED
else
	echo TAKES-THE-SIGNED
	linux /vmlinuz {LINUX_CMDLINE}
fi
initrd /initrd.img
boot
"""


def other(data, at):
    """DATA with one bit of the byte AT the other way."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]


class SecureBoot(WorldTest):
    def setUp(self):
        super().setUp()
        self.data = {}
        for name in ("shimx64.efi.signed", "grubx64.efi.signed", "vmlinuz", "initrd.img"):
            with open(guest_file(name), "rb") as f:
                self.data[name] = f.read()

    def esp(self, name, files):
        """A disk that is one FAT file system with FILES."""
        path = os.path.join(self.w.base, name + ".img")
        with open(path, "wb") as f:
            f.truncate(sum(map(len, files.values())) + (8 << 20) & -(1 << 20))
        folders = sorted({"::/" + "/".join(parts[:i]) for parts in (file.split("/") for file in files) for i in range(1, len(parts))})
        subprocess.run(["mformat", "-i", path, "-v", "ESP", "::"], check=True)
        subprocess.run(["mmd", "-i", path, *folders], check=True)
        for file, data in files.items():
            subprocess.run(["mcopy", "-i", path, "-", "::/" + file], input=data, check=True)
        return {"path": path, "format": "raw", "read-only": True}

    def chain(self):
        """shim, signed by Microsoft; GRUB and the kernel, by Debian, whose key shim has."""
        kernel = self.data["vmlinuz"]
        self.assertIn(b"Debian Secure Boot", kernel, "a kernel that nobody signed")
        return self.esp("chain", {
            "EFI/BOOT/BOOTX64.EFI": self.data["shimx64.efi.signed"], "EFI/BOOT/grubx64.efi": self.data["grubx64.efi.signed"],
            "EFI/debian/grub.cfg": GRUB.encode(), "tampered": other(kernel, len(kernel) // 2), "vmlinuz": kernel,
            "initrd.img": self.data["initrd.img"]})

    def start(self, disks, **firmware):
        for i, disk in enumerate(disks):
            disk["boot-index"] = i
        serial = self.w.serial()
        self.w.create("demo", with_serial({"accel": "tcg", "memory": "512M", "firmware": dict(firmware, type="uefi"),
                                           "disks": disks}, serial))
        self.w.ok("start", "demo")
        return serial

    def secure_boot(self, serial):
        """What the kernel found, and the firmware's variable: its attributes, then the value."""
        self.assertEqual(serial.command(f"mount -t efivarfs efivarfs {EFIVARS}")[0], 0)
        status, dump = serial.command(f"od -An -tx1 {EFIVARS}/{SECURE_BOOT}")
        self.assertEqual(status, 0)
        return serial.command("dmesg | grep -i 'secure boot'")[1], bytes.fromhex(dump)[4]

    def test_what_is_not_signed_is_refused_and_what_is_comes_up(self):
        """All in one boot: so the refusals are refusals, not a guest that cannot boot at all."""
        shim = self.data["shimx64.efi.signed"]
        serial = self.start([self.esp("unsigned", {"EFI/BOOT/BOOTX64.EFI": other(shim, len(shim) // 2)}), self.chain()],
                            **{"secure-boot": True})
        serial.expect("Access Denied", UEFI_BOOT)
        serial.expect("bad shim signature", UEFI_BOOT)
        serial.expect("TAKES-THE-SIGNED", UEFI_BOOT)
        serial.expect("GUEST-READY", UEFI_BOOT)
        said, value = self.secure_boot(serial)
        self.assertEqual(value, 1)
        self.assertIn("Secure boot enabled", said)
        self.assertNotIn("differences", self.w.status("demo"))
        self.assertEqual(os.listdir(os.path.join(self.w.root, "lib/firmware")), ["demo+secure.fd"])

    @unittest.skipUnless(os.environ.get("QMPCTL_SECURE_BOOT"), "boots another Linux behind UEFI: QMPCTL_SECURE_BOOT=1")
    def test_without_it_the_same_comes_up(self):
        """The kernel that Secure Boot refuses is one that runs."""
        serial = self.start([self.chain()])
        serial.expect("TAKES-THE-TAMPERED", UEFI_BOOT)
        serial.expect("GUEST-READY", UEFI_BOOT)
        said, value = self.secure_boot(serial)
        self.assertEqual(value, 0)
        self.assertNotIn("Secure boot enabled", said)


if __name__ == "__main__":
    world.main()
