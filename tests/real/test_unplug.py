"""Devices that must go: undone additions, guests that have not run, guests that do not let go."""
import fcntl
import json
import os
import signal
import struct

import world
from test_hotplug import blocks, peripherals
from world import FAILED, PENDING, WorldTest


class Unplug(WorldTest):
    def setUp(self):
        super().setUp()
        self.images = {}
        for name in ("vdx", "vdy"):
            self.images[name] = os.path.join(self.w.base, f"{name}.img")
            with open(self.images[name], "wb") as f:
                f.truncate(1 << 20)

    def disk(self, ident):
        return {"id": ident, "path": self.images[ident], "format": "raw"}

    def keep_from_writing(self, image):
        """Locks IMAGE as another QEMU does that bears no writer beside it: to be refused when a device takes the disk."""
        f = open(self.images[image], "rb")
        self.addCleanup(f.close)
        fcntl.fcntl(f, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 201, 1, 0))

    def apply(self, rc, change, timeout=30):
        """Applies the VM's spec after CHANGE has edited its disks."""
        spec = json.loads(self.w.ok("show", "a", "-o", "json").out)["spec"]
        spec["disks"] = change(spec.get("disks", []))
        path = os.path.join(self.w.base, "apply.json")
        with open(path, "w", encoding="utf-8") as f:
            json.dump(spec, f)
        return self.w.expect(rc, "apply", path, "--timeout", timeout)

    def settled(self, qmp, item, outcome="done"):
        data = qmp.event("QMPCTL_SETTLED", {"item": item})["data"]
        self.assertEqual(data["outcome"], outcome, data)
        return data

    def has(self, qmp):
        return blocks(qmp), peripherals(qmp)

    def test_what_was_added_before_a_failure_is_ejected_and_gone(self):
        serial = self.w.start_tiny("a")
        self.keep_from_writing("vdy")
        with self.w.control("a") as qmp:
            before = self.has(qmp)
            result = self.apply(FAILED, lambda disks: disks + [self.disk("vdx"), self.disk("vdy")])
            self.assertIn("vdy", result.err)
            serial.expect("EJECT")
            self.assertEqual(self.has(qmp), before, str(result))
        self.assertEqual(self.w.status("a")["pending"], [])

    def test_what_was_removed_before_a_failure_is_there_again(self):
        serial = self.w.start_tiny("a")
        self.w.ok("disk", "add", "a", f"id=vdx,path={self.images['vdx']},format=raw")
        with self.w.control("a") as qmp:
            before = self.has(qmp)
            missing = {"id": "vdz", "path": "/nonexistent/z.img", "format": "raw"}
            result = self.apply(FAILED, lambda disks: [d for d in disks if d["id"] != "vdx"] + [missing])
            serial.expect("EJECT")
            self.assertEqual(self.has(qmp), before, str(result))
        self.w.ok("disk", "remove", "a", "vdx")

    def test_an_undo_that_the_guest_ignores_is_pending_and_finished_later(self):
        serial = self.w.start_tiny("a")
        serial.write("e")
        serial.expect("e")
        self.keep_from_writing("vdy")
        with self.w.control("a") as qmp:
            before = self.has(qmp)
            result = self.apply(FAILED, lambda disks: disks + [self.disk("vdx"), self.disk("vdy")], timeout=2)
            self.assertIn("being undone", result.err)
            self.assertIn("vdx", peripherals(qmp))
            self.assertEqual([p["item"] for p in self.w.status("a")["pending"]], ["disks.vdx"])
            again = self.w.run("disk", "add", "a", f"id=vdx,path={self.images['vdx']},format=raw")
            self.assertNotEqual(again.rc, 0)
            self.assertIn("pending", again.err)
            serial.write("e")
            self.assertIn("disks.vdy: device_add", self.settled(qmp, "disks.vdx", "undone")["why"])
            self.assertEqual(self.has(qmp), before)
        self.assertEqual(self.w.status("a")["pending"], [])

    def test_a_vm_that_has_not_run_lets_go_at_once(self):
        for machine in ("q35", "pc"):
            for accel in sorted({world.ACCEL, "tcg"}):
                with self.subTest(machine=machine, accel=accel):
                    name = f"{machine}-{accel}"
                    serial = self.w.create_tiny(name, machine={"type": machine}, accel=accel)
                    self.w.ok("start", name, "--paused")
                    with self.w.control(name) as qmp:
                        before = self.has(qmp)
                        self.w.ok("disk", "add", name, f"id=vdx,path={self.images['vdx']},format=raw")
                        self.w.ok("disk", "remove", name, "vdx")
                        self.assertEqual(self.has(qmp), before)
                    self.w.ok("resume", name)
                    serial.expect("TINY-READY")

    def test_a_paused_vm_is_not_reset(self):
        serial = self.w.start_tiny("a")
        self.w.ok("disk", "add", "a", f"id=vdx,path={self.images['vdx']},format=raw")
        self.w.ok("pause", "a")
        with self.w.control("a") as qmp:
            self.w.expect(PENDING, "disk", "remove", "a", "vdx", "--timeout", "1")
            self.w.ok("resume", "a")
            self.settled(qmp, "disks.vdx")
            self.assertNotIn("RESET", [e["event"] for e in qmp.events])
            self.assertNotIn("vdx-fmt", blocks(qmp))
        serial.expect("EJECT")

    def test_a_device_that_another_client_already_asked_for(self):
        serial = self.w.start_tiny("a")
        serial.write("e")
        serial.expect("e")
        with self.w.control("a") as qmp:
            before = self.has(qmp)
            self.w.ok("disk", "add", "a", f"id=vdx,path={self.images['vdx']},format=raw")
            qmp.execute("device_del", {"id": "vdx"})
            self.w.expect(PENDING, "disk", "remove", "a", "vdx", "--timeout", "1")
            serial.write("e")
            self.settled(qmp, "disks.vdx")
            self.assertEqual(self.has(qmp), before)

    def test_what_is_pending_survives_a_reset_of_the_guest(self):
        serial = self.w.start_tiny("a")
        serial.write("e")
        serial.expect("e")
        with self.w.control("a") as qmp:
            before = self.has(qmp)
            self.w.ok("disk", "add", "a", f"id=vdx,path={self.images['vdx']},format=raw")
            self.w.expect(PENDING, "disk", "remove", "a", "vdx", "--timeout", "1")
            self.w.ok("reset", "a")
            self.settled(qmp, "disks.vdx")
            self.assertEqual(self.has(qmp), before)
        serial.expect("TINY-READY")

    def test_qemu_ends_while_something_is_pending(self):
        serial = self.w.start_tiny("a")
        serial.write("e")
        serial.expect("e")
        self.w.ok("disk", "add", "a", f"id=vdx,path={self.images['vdx']},format=raw")
        self.w.expect(PENDING, "disk", "remove", "a", "vdx", "--timeout", "1")
        os.kill(self.w.qemu_pid("a"), signal.SIGKILL)
        self.w.wait_state("a", "stopped")
        self.assertEqual(self.w.status("a")["pending"], [])
        self.w.ok("start", "a")
        serial.expect("TINY-READY")
        with self.w.control("a") as qmp:
            self.assertNotIn("vdx", peripherals(qmp))


if __name__ == "__main__":
    world.main()
