"""Disks and NICs that come and go while the VM runs: the guest ejects, or does not."""
import os
import time

import world
from world import OK, PENDING, WorldTest

CYCLES = int(os.environ.get("QMPCTL_CYCLES", "50"))


def blocks(qmp):
    return {node["node-name"] for node in qmp.execute("query-named-block-nodes", {"flat": True})}


def peripherals(qmp):
    return {item["name"] for item in qmp.execute("qom-list", {"path": "/machine/peripheral"})
            if item["name"] != "type"}


class HotPlug(WorldTest):
    def setUp(self):
        super().setUp()
        self.serial = self.w.start_tiny("a")
        self.image = os.path.join(self.w.base, "x.img")
        with open(self.image, "wb") as f:
            f.truncate(1 << 20)

    def listed(self, noun):
        rows = self.w.ok(noun, "list", "a", "-o", "json").json()
        return {row["id"] for row in rows}

    def test_a_disk_comes_and_goes(self):
        with self.w.control("a") as qmp:
            before = blocks(qmp), peripherals(qmp)
            self.w.ok("disk", "add", "a", f"id=vdx,path={self.image},format=raw")
            self.assertIn("vdx", self.listed("disk"))
            self.assertIn("vdx", peripherals(qmp))
            self.w.ok("disk", "remove", "a", "vdx")
            self.serial.expect("EJECT")
            self.assertNotIn("vdx", self.listed("disk"))
            self.assertEqual((blocks(qmp), peripherals(qmp)), before, "nothing may stay behind")
        self.assertTrue(os.path.exists(self.image), "removing a disk must not delete the user's image")

    def test_a_nic_comes_and_goes(self):
        with self.w.control("a") as qmp:
            before = peripherals(qmp)
            self.w.ok("nic", "add", "a", "user,id=netx")
            self.assertIn("netx", self.listed("nic"))
            self.w.ok("nic", "remove", "a", "netx")
            self.serial.expect("EJECT")
            self.assertNotIn("netx", self.listed("nic"))
            self.assertEqual(peripherals(qmp), before)

    def test_on_the_first_and_the_last_of_many_ports(self):
        serial = self.w.start_tiny("many", machine={"type": "q35", "ports": 32})
        for port in 1, 32:
            with self.subTest(port=port):
                self.w.ok("disk", "add", "many", f"id=vdx,path={self.image},format=raw,read-only=true,port={port}")
                self.w.ok("disk", "remove", "many", "vdx")
                serial.expect("EJECT")

    def test_many_cycles_over_the_control_socket_leave_nothing(self):
        with self.w.control("a") as qmp:
            before = blocks(qmp), peripherals(qmp)
            for cycle in range(CYCLES):
                disk = {"id": "vdx", "path": self.image, "format": "raw"}
                with self.subTest(cycle=cycle):
                    qmp.execute("qmpctl-disk-add", {"disk": disk})
                    qmp.execute("qmpctl-nic-add", {"nic": {"id": "netx", "backend": "user"}})
                    qmp.execute("qmpctl-disk-remove", {"id": "vdx"})
                    qmp.execute("qmpctl-nic-remove", {"id": "netx"})
            self.assertEqual((blocks(qmp), peripherals(qmp)), before)
            self.assertEqual(qmp.execute("query-status")["status"], "running")

    def test_what_fails_leaves_nothing_behind(self):
        with self.w.control("a") as qmp:
            before = blocks(qmp), peripherals(qmp)
            spec = self.w.ok("show", "a").out
            for disk in ("path=/nonexistent/x.img,format=raw", f"path={self.image},format=qcow2"):
                result = self.w.run("disk", "add", "a", disk)
                self.assertNotEqual(result.rc, OK, str(result))
                self.assertTrue(result.err.strip())
                self.assertEqual((blocks(qmp), peripherals(qmp)), before, str(result))
            self.assertEqual(self.w.ok("show", "a").out, spec, "a change that failed must not be kept")

    def test_a_keeper_that_leaves_begins_nothing_more(self):
        self.w.ok("disk", "add", "a", f"id=vdx,path={self.image},format=raw")
        self.serial.write("e")
        self.serial.expect("e")
        keeper = self.w.keeper_pid()
        with self.w.control("a") as waiting, self.w.control("a") as leaving:
            waiting.send("qmpctl-disk-remove", {"id": "vdx", "timeout": 60})
            waiting.send("qmpctl-stop", {"timeout": 60})
            journal = os.path.join(self.w.vm_dir("a"), "journal.json")
            self.until(lambda: os.path.exists(journal), "the removal has not begun")
            leaving.send("qmpctl-leave")
            self.w.wait_gone([keeper])
        self.serial.write("e")
        self.assertNotIn("PWRBTN", self.serial.expect("e"), "the stop that waited its turn has not had it")
        self.assertEqual(self.w.state("a"), "running")
        self.until(lambda: not self.w.status("a")["pending"], "the removal that was under way is not settled")
        self.assertNotIn("vdx", self.listed("disk"))

    def test_an_ignored_eject_is_pending_until_the_guest_gives_in(self):
        self.w.ok("disk", "add", "a", f"id=vdx,path={self.image},format=raw")
        self.serial.write("e")
        self.serial.expect("e")
        self.w.expect(PENDING, "disk", "remove", "a", "vdx", "--timeout", "1")
        self.assertIn("vdx", self.w.ok("status", "a").out, "status must say what is pending")
        with self.w.control("a") as qmp:
            self.assertIn("vdx", peripherals(qmp))
            self.serial.write("e")
            qmp.event("DEVICE_DELETED", {"device": "vdx"})
        self.serial.expect("EJECT")

        def clean():
            with self.w.control("a") as again:
                return not any("vdx" in node for node in blocks(again))
        self.until(clean, "the removed disk's nodes are still there")
        self.until(lambda: "vdx" not in self.w.ok("status", "a").out, "the removal is still pending")

    def test_a_disk_of_a_stopped_vm_is_there_after_the_start(self):
        self.w.ok("stop", "a")
        self.w.ok("disk", "add", "a", f"id=vdx,path={self.image},format=raw")
        self.w.ok("start", "a")
        self.serial.expect("TINY-READY")
        with self.w.control("a") as qmp:
            self.assertIn("vdx", peripherals(qmp))


if __name__ == "__main__":
    world.main()
