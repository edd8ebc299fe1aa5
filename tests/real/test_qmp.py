"""The verb qmp: arguments typed by the schema of the QEMU that runs, hints before anything is sent, help."""
import glob
import json
import os
import unittest

import world
from world import FAILED, NOT_FOUND, STATE, TIMEOUT, USAGE, WorldTest


class QmpVerb(WorldTest):
    def setUp(self):
        super().setUp()
        self.serial = self.w.start_tiny("a")

    def test_values_have_the_types_of_the_schema(self):
        disk = os.path.join(self.w.base, "007")
        with open(disk, "wb") as f:
            f.truncate(1 << 20)
        # A file and a node whose names look like numbers, a boolean, an integer, what is nested, what is JSON.
        self.w.ok("qmp", "a", "blockdev-add", "driver=raw", "node-name=true", "read-only=on", "offset=512",
                  "file.driver=file", f"file.filename={disk}", 'cache={"direct":false}')
        self.assertEqual(
            self.w.ok("qmp", "a", "object-add", "qom-type=throttle-group", "id=g5", "limits.iops-total=100").json(), {})
        nodes = self.w.ok("qmp", "a", "query-named-block-nodes", "flat=yes").json()
        node = next(n for n in nodes if n.get("node-name") == "true")
        self.assertEqual((node["ro"], node["drv"]), (True, "raw"))
        self.w.ok("qmp", "a", "blockdev-del", '{"node-name": "true"}')
        self.w.ok("qmp", "a", "object-del", "id=g5")

    def test_a_list_by_numbered_keys(self):
        self.w.ok("qmp", "a", "migrate-set-capabilities", "capabilities.0.capability=events", "capabilities.0.state=on")
        caps = {c["capability"]: c["state"] for c in self.w.ok("qmp", "a", "query-migrate-capabilities").json()}
        self.assertIs(caps["events"], True)

    def test_what_is_wrong_is_said_before_anything_is_sent(self):
        for words, says in (
                (["query-statuss"], 'there is no command "query-statuss"; did you mean "query-status"?'),
                (["screendump", "filname=x"], 'there is no argument "filname"; did you mean "filename"?'),
                (["screendump", "filename=x", "format=pnng"], 'unknown value "pnng"; did you mean "png"? (one of: ppm, png)'),
                (["screendump"], "the argument filename is missing (string)"),
                (["human-monitor-command", "command-line=info", "cpu-index=x"], "cpu-index: wrong type, wanted is int"),
                (["blockdev-add", "driver=qcow2", "file.driver=file", "file.filname=x"], 'file: there is no argument "filname"'),
                (["stop", "nonsense"], "KEY=VALUE"),
                (["stop", "a=1", "a=2"], "given twice"),
                (["stop", "{bad json"], "JSON"),
                (["qmpctl-wait", "for=runing"], 'did you mean "running"? (one of: running, stopped,'),
                (["qmpctl-stopp"], 'did you mean "qmpctl-stop"?')):
            result = self.w.expect(USAGE, "qmp", "a", *words)
            self.assertIn(says, result.err)
            self.assertEqual(result.out, "")
        self.assertEqual(self.w.state("a"), "running")

    def test_what_qemu_refuses_is_qemus_error(self):
        result = self.w.expect(FAILED, "qmp", "a", "qom-get", "path=/nosuch", "property=x")
        self.assertIn("/nosuch", result.err)
        self.assertIn("qom-get: QEMU refused: ", result.err)

    def test_a_wait_that_was_in_vain_says_for_what(self):
        result = self.w.expect(TIMEOUT, "wait", "a", "--for", "console=NEVER SAID", "--timeout", "0")
        self.assertIn('a: "console=NEVER SAID" did not come within 0 s', result.err)
        result = self.w.expect(TIMEOUT, "wait", "a", "--for", "event=BLOCK_IO_ERROR", "--timeout", "0")
        self.assertIn('a: "event=BLOCK_IO_ERROR" did not come within 0 s', result.err)

    def test_a_text_is_printed_as_one(self):
        words = ["qmp", "a", "human-monitor-command", "command-line=info status"]
        self.assertEqual(self.w.ok(*words).out, "VM status: running\n")
        self.assertEqual(self.w.ok(*words, "-o", "json").json(), "VM status: running\r\n")

    def test_a_device_has_the_properties_of_its_driver(self):
        result = self.w.expect(USAGE, "qmp", "a", "device_add", "driver=virtio-rng-pci", "id=r", "max-bytez=1")
        self.assertIn('did you mean "max-bytes"?', result.err)
        ports = self.w.ok("qmp", "a", "qom-list", "path=/machine/peripheral").json()
        ports = [f"bus={p['name']}" for p in ports if "pcie-root-port" in p["type"]]
        self.w.ok("qmp", "a", "device_add", "driver=virtio-rng-pci", "id=r", "max-bytes=4096", "period=1000", "ats=off",
                  *ports[-1:])
        self.assertEqual(self.w.ok("qmp", "a", "qom-get", "path=/machine/peripheral/r", "property=max-bytes").json(), 4096)
        self.assertIn("max-bytes", self.w.ok("qmp", "a", "device_add", "driver=virtio-rng-pci", "--help").out)
        self.assertIn("driver", self.w.ok("qmp", "a", "device_add", "--help").out)
        # QEMU's own words for a driver that is none.
        self.assertIn("virtio-nosuch", self.w.expect(FAILED, "qmp", "a", "device_add", "driver=virtio-nosuch").err)

    def test_help(self):
        out = self.w.ok("qmp", "a", "blockdev-mirror", "--help").out
        self.assertRegex(out, r"(?m)^\* sync +enum: top \| full")
        self.assertRegex(out, r"(?m)^  copy-mode +enum: background \| write-blocking")
        self.assertIn("lazy-refcounts", self.w.ok("qmp", "a", "blockdev-add", "driver=qcow2", "--help").out)
        self.assertNotIn("lazy-refcounts", self.w.ok("qmp", "a", "blockdev-add", "--help").out)
        self.assertRegex(self.w.ok("qmp", "a", "qmpctl-wait", "--help").out, r"(?m)^\* for +enum: running \| stopped")
        listed = self.w.ok("qmp", "a", "screendump", "--help", "-o", "json").json()
        self.assertIn({"name": "format", "type": "enum", "optional": True, "choices": ["ppm", "png"]}, listed)
        self.assertIn("did you mean", self.w.expect(USAGE, "qmp", "a", "screendumpp", "--help").err)
        self.assertIn("KEY=VALUE", self.w.ok("qmp", "--help").out)

    def cached(self):
        return glob.glob(os.path.join(self.w.root, "**", "cache", "*.schema.json"), recursive=True)

    def test_the_schema_is_cached_by_the_binary_and_asked_for_again(self):
        self.assertEqual(len(self.cached()), 1)
        path = self.cached()[0]
        # Another binary's: not believed, asked again, and kept.
        with open(path, encoding="utf-8") as f:
            kept = json.load(f)
        with open(path, "w", encoding="utf-8") as f:
            json.dump({"identity": "another", "schema": []}, f)
        self.assertIn("did you mean", self.w.expect(USAGE, "qmp", "a", "query-statuss").err)
        with open(path, encoding="utf-8") as f:
            again = json.load(f)
        self.assertEqual(again["identity"], kept["identity"])
        self.assertEqual(again["schema"], kept["schema"])
        # Damaged: the same.
        with open(path, "w", encoding="utf-8") as f:
            f.write("{")
        self.assertIn("did you mean", self.w.expect(USAGE, "qmp", "a", "query-statuss").err)

    def test_stopped(self):
        self.w.ok("kill", "a")
        self.assertIn("copy-mode", self.w.ok("qmp", "a", "blockdev-mirror", "--help").out)
        self.assertIn("did you mean", self.w.expect(USAGE, "qmp", "a", "query-statuss").err)
        self.assertIn("not running", self.w.expect(STATE, "qmp", "a", "query-status").err)
        self.assertEqual(self.w.ok("qmp", "a", "qmpctl-status").json()["state"], "stopped")
        for path in self.cached():
            os.unlink(path)
        self.assertIn("never asked", self.w.expect(NOT_FOUND, "qmp", "a", "blockdev-mirror", "--help").err)
        self.assertIn("not running", self.w.expect(STATE, "qmp", "a", "query-statuss", "n=5").err)


if __name__ == "__main__":
    world.main()
