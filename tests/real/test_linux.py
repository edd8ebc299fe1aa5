"""A real Linux guest: what hot-plug and the power button look like from inside."""
import os
import re
import time

import world
from guest import BOOT, linux_spec, with_serial
from world import WorldTest


class Linux(WorldTest):
    def boot(self, words="", **more):
        serial = self.w.serial()
        self.w.create("demo", with_serial(linux_spec(words, **more), serial))
        self.w.ok("start", "demo")
        serial.expect("GUEST-READY", BOOT)
        return serial

    def test_disks_and_nics_appear_and_vanish_inside(self):
        serial = self.boot()
        image = os.path.join(self.w.base, "x.img")
        with open(image, "wb") as f:
            f.write(b"from the host".ljust(512, b"\n"))
            f.truncate(8 << 20)

        self.w.ok("disk", "add", "demo", f"id=vdx,path={image},format=raw,serial=S1")
        serial.expect("UEVENT add block vda")
        self.assertEqual(serial.command("cat /sys/block/vda/size"), (0, str((8 << 20) // 512)))
        self.assertEqual(serial.command("cat /sys/block/vda/serial"), (0, "S1"))
        self.assertIn("from the host", serial.command("head -n 1 /dev/vda")[1])
        self.assertEqual(serial.command("echo from the guest | dd of=/dev/vda conv=fsync 2>/dev/null")[0], 0)
        self.w.ok("disk", "remove", "demo", "vdx")
        serial.expect("UEVENT remove block vda")
        with open(image, "rb") as f:
            self.assertEqual(f.read(15), b"from the guest\n")

        self.w.ok("nic", "add", "demo", "user,id=netx,mac=52:54:00:11:22:33")
        serial.expect("UEVENT add net")
        name = serial.command("ls /sys/class/net | grep -v lo")[1]
        self.assertEqual(serial.command(f"cat /sys/class/net/{name}/address")[1], "52:54:00:11:22:33")
        self.w.ok("nic", "remove", "demo", "netx")
        serial.expect("UEVENT remove net")

        self.w.ok("stop", "demo")
        serial.expect("POWERBUTTON")
        serial.expect("GUEST-OFF")
        self.assertEqual(self.w.state("demo"), "stopped")
        self.stopped_clean()

    def test_a_disk_can_go_before_the_guest_has_a_driver(self):
        """What device_del asks of a guest that still boots is lost; it is asked again."""
        for delay in (0, 2):
            with self.subTest(delay=delay):
                name = f"early{delay}"
                image = os.path.join(self.w.base, f"{name}.img")
                with open(image, "wb") as f:
                    f.truncate(1 << 20)
                serial = self.w.serial(name)
                self.w.create(name, with_serial(linux_spec(), serial))
                self.w.ok("disk", "add", name, f"id=vdx,path={image},format=raw")
                self.w.ok("start", name)
                time.sleep(delay)  # where in its boot it is asked: any moment will do
                self.w.ok("disk", "remove", name, "vdx", "--timeout", str(BOOT), timeout=2 * BOOT)
                serial.expect("GUEST-READY", BOOT)
                self.assertNotIn("vda", serial.command("ls /sys/block")[1])

    def test_qmpctl_waits_for_a_line_on_its_own_console_and_keeps_it(self):
        self.w.create("demo", linux_spec())
        self.w.ok("start", "demo")
        self.w.ok("wait", "demo", "--for", "console=GUEST-READY", timeout=BOOT)
        self.assertRegex(self.w.ok("logs", "demo").out, re.compile("GUEST-READY"))

    def test_a_reboot_stays_in_the_same_qemu(self):
        serial = self.boot()
        qemu = self.w.qemu_pid("demo")
        serial.write("t0 reboot -f\n")
        serial.expect("GUEST-READY", BOOT)
        self.assertEqual(self.w.qemu_pid("demo"), qemu)


if __name__ == "__main__":
    world.main()
