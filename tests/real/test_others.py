"""Beside qmpctl, another client changes the same VM over control.sock: QEMU is asked, not remembered."""
import os

import world
from qmp import Qmp, QmpError
from test_hotplug import blocks, peripherals
from world import FAILED, PENDING, WorldTest


class Others(WorldTest):
    def setUp(self):
        super().setUp()
        self.image = os.path.join(self.w.base, "x.img")
        with open(self.image, "wb") as f:
            f.truncate(1 << 20)

    def disk(self, ident="vdx"):
        return f"id={ident},path={self.image},format=raw,read-only=true"

    def free_port(self, qmp):
        """The lowest port that nothing of the spec has, which is what would be chosen next."""
        spec = qmp.execute("qmpctl-show")["running"]
        taken = {item.get("port") for kind in ("disks", "nics") for item in spec[kind]}
        return min(set(range(1, 17)) - taken)

    def plug(self, qmp, port, ident):
        qmp.execute("device_add", {"driver": "virtio-rng-pci", "id": ident, "bus": f"port-{port}"})

    def test_a_port_that_another_client_uses_is_not_chosen(self):
        self.w.start_tiny("a", machine={"type": "q35", "ports": 4})
        with self.w.control("a") as qmp:
            port = self.free_port(qmp)
            self.plug(qmp, port, "theirs")
            self.w.ok("disk", "add", "a", self.disk())
            found = [d for d in qmp.execute("qmpctl-show")["running"]["disks"] if d["id"] == "vdx"][0]
            self.assertEqual(found["port"], port + 1)

    def test_a_slot_of_pc_that_another_client_uses_is_not_chosen(self):
        self.w.start_tiny("a", machine={"type": "pc", "ports": 6})
        with self.w.control("a") as qmp:
            port = self.free_port(qmp)
            qmp.execute("device_add", {"driver": "virtio-rng-pci", "id": "theirs", "bus": "pci.0", "addr": f"{port + 2:x}.0"})
            self.w.ok("disk", "add", "a", self.disk())
            found = [d for d in qmp.execute("qmpctl-show")["running"]["disks"] if d["id"] == "vdx"][0]
            self.assertEqual(found["port"], port + 1)

    def test_no_free_port_says_how_many_there_are(self):
        self.w.start_tiny("a", machine={"type": "q35", "ports": 2})
        with self.w.control("a") as qmp:
            before = blocks(qmp), peripherals(qmp)
            for port in range(self.free_port(qmp), 3):
                self.plug(qmp, port, f"theirs{port}")
            result = self.w.run("disk", "add", "a", self.disk())
            self.assertNotEqual(result.rc, 0)
            self.assertIn("the machine has 2", result.err)
            self.assertIn("machine.ports", result.err)
            self.assertEqual(blocks(qmp), before[0])

    def test_a_port_is_found_before_the_firmware_has_numbered_the_buses(self):
        self.w.create_tiny("a", machine={"type": "q35", "ports": 4})
        self.w.ok("start", "a", "--paused")
        with self.w.control("a") as qmp:
            self.plug(qmp, self.free_port(qmp), "theirs")
            self.w.ok("disk", "add", "a", self.disk())

    def test_a_disk_that_another_client_removed_can_be_removed(self):
        serial = self.w.start_tiny("a")
        with self.w.control("a") as qmp:
            for nodes in ((), ("vdx-fmt",), ("vdx-fmt", "vdx-file")):
                with self.subTest(removed=nodes):
                    before = blocks(qmp), peripherals(qmp)
                    self.w.ok("disk", "add", "a", self.disk())
                    qmp.execute("device_del", {"id": "vdx"})
                    qmp.event("DEVICE_DELETED", {"device": "vdx"})
                    serial.expect("EJECT")
                    for node in nodes:
                        qmp.execute("blockdev-del", {"node-name": node})
                    self.w.ok("disk", "remove", "a", "vdx")
                    self.assertEqual((blocks(qmp), peripherals(qmp)), before)
                    self.assertNotIn("vdx", [d["id"] for d in qmp.execute("qmpctl-show")["running"]["disks"]])

    def test_a_node_of_another_client_is_not_taken_for_ours(self):
        self.w.start_tiny("a")
        with self.w.control("a") as qmp:
            qmp.execute("blockdev-add", {"driver": "null-co", "node-name": "vdx-file", "read-zeroes": True})
            result = self.w.expect(FAILED, "disk", "add", "a", self.disk())
            self.assertIn("vdx-file", result.err)
            self.assertIn("vdx-file", blocks(qmp), "what is not ours is not undone")
            self.assertNotIn("vdx-fmt", blocks(qmp))

    def differences(self):
        return {d["item"]: d for d in self.w.status("a").get("differences", [])}

    def until_differences(self, condition):
        self.until(lambda: condition(self.differences()), self.differences)

    def test_status_shows_what_another_client_took_away(self):
        serial = self.w.start_tiny("a")
        self.w.ok("disk", "add", "a", self.disk())
        self.assertEqual(self.differences(), {})
        with self.w.control("a") as qmp:
            qmp.execute("device_del", {"id": "vdx"})
            serial.expect("EJECT")
            self.until_differences(lambda found: "disks.vdx" in found)
            self.assertEqual(self.differences()["disks.vdx"],
                             {"item": "disks.vdx", "state": "partial", "missing": ["vdx"]})
            self.assertIn("vdx", self.w.ok("status", "a").out)
        self.w.ok("disk", "remove", "a", "vdx")
        self.until_differences(lambda found: not found)

    def others(self):
        return {(o["kind"], o["id"]) for o in self.w.status("a").get("others", [])}

    def test_status_shows_what_another_client_made(self):
        self.w.start_tiny("a", args=["-device", "isa-debug-exit,id=by-args", "-serial", "null", "-monitor", "null"])
        self.w.ok("disk", "add", "a", self.disk())
        self.w.ok("nic", "add", "a", "user,id=netx")
        self.w.kill_keeper()
        self.w.state("a")  # brings up another
        made = [("object-add", {"qom-type": "iothread", "id": "their-thread"}, ("object", "their-thread")),
                ("chardev-add", {"id": "their-chardev", "backend": {"type": "null", "data": {}}}, ("chardev", "their-chardev")),
                ("netdev_add", {"type": "user", "id": "their-netdev"}, ("netdev", "their-netdev")),
                ("blockdev-add", {"driver": "raw", "node-name": "their-node", "file": {"driver": "null-co", "read-zeroes": True}},
                 ("node", "their-node")),
                ("device_add", {"driver": "virtio-rng-pci", "id": "their-device", "bus": "port-9"}, ("device", "their-device"))]
        with self.w.control("a") as qmp:
            self.assertEqual(self.others(), set())  # neither what is ours, nor what its command line names, nor QEMU's own
            for command, arguments, _ in made:
                qmp.execute(command, arguments)
            self.until(lambda: self.others() == {what for *_, what in made}, self.others)
            self.assertIn("not in the spec: the object their-thread (iothread)", self.w.ok("status", "a").out)
            self.assertEqual(self.differences(), {})
            self.w.kill_keeper()
        self.until(lambda: self.others() == {what for *_, what in made}, self.others)
        with self.w.control("a") as qmp:
            for command, arguments in (("object-del", {"id": "their-thread"}), ("chardev-remove", {"id": "their-chardev"}),
                                       ("netdev_del", {"id": "their-netdev"}), ("blockdev-del", {"node-name": "their-node"}),
                                       ("device_del", {"id": "their-device"})):
                qmp.execute(command, arguments)
        self.until(lambda: not self.others(), self.others)

    def test_a_removal_of_ours_is_no_difference(self):
        serial = self.w.start_tiny("a")
        self.w.ok("disk", "add", "a", self.disk())
        serial.write("e")
        serial.expect("e")
        self.w.expect(PENDING, "disk", "remove", "a", "vdx", "--timeout", "1")
        self.assertEqual(self.differences(), {})
        with self.w.control("a") as qmp:
            serial.write("e")
            qmp.event("QMPCTL_SETTLED", {"item": "disks.vdx", "outcome": "done"})
        self.assertEqual(self.differences(), {})

    def test_an_adopted_vm_is_held_against_what_qemu_has(self):
        self.w.start_tiny("a")
        self.w.ok("disk", "add", "a", self.disk())
        self.w.ok("nic", "add", "a", "user,id=netx")
        folder = self.w.vm_dir("a")
        self.w.kill_keeper()
        with Qmp(os.path.join(folder, "qmp.sock")) as qmp:
            for ident in ("vdx", "netx"):
                qmp.execute("device_del", {"id": ident})
                qmp.event("DEVICE_DELETED", {"device": ident})
            qmp.execute("netdev_del", {"id": "netx-netdev"})
            qmp.execute("blockdev-del", {"node-name": "vdx-fmt"})
            qmp.execute("blockdev-del", {"node-name": "vdx-file"})
            qmp.execute("blockdev-add", {"driver": "file", "node-name": "vdx-file", "filename": __file__, "read-only": True})
        self.until_differences(lambda found: len(found) == 2)
        found = self.differences()
        self.assertEqual(found["nics.netx"]["state"], "gone")
        self.assertEqual(found["disks.vdx"], {"item": "disks.vdx", "state": "changed", "wants": self.image, "has": __file__})
        self.w.ok("nic", "remove", "a", "netx")
        self.until_differences(lambda left: "nics.netx" not in left)

    def test_no_request_ends_qemu(self):
        self.w.start_tiny("a")
        pid = self.w.qemu_pid("a")
        raw = {"type": "tap", "id": "n", "ifname": "qmpctl-none", "script": "no", "downscript": "no", "vhost": True}
        with self.w.control("a") as qmp:
            for command, arguments in (
                    ("netdev_add", raw),
                    ("human-monitor-command", {"command-line": "netdev_add tap,id=n,ifname=qmpctl-none,script=no,vhost=on"}),
                    ("qmpctl-nic-add", {"nic": {"id": "n", "backend": "tap", "interface": "qmpctl-none",
                                                "qemu": {"netdev": {"vhost": True}}}})):
                with self.subTest(command=command):
                    if os.path.exists("/dev/vhost-net"):
                        continue  # then QEMU does what it is asked
                    with self.assertRaises(QmpError) as caught:
                        qmp.execute(command, arguments)
                    self.assertIn("/dev/vhost-net", caught.exception.desc)
            self.assertEqual(qmp.execute("query-status")["status"], "running")
        self.assertEqual(self.w.qemu_pid("a"), pid)


if __name__ == "__main__":
    world.main()
