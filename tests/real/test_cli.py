"""The command line: wrong input, exit statuses, JSON for programs, deep folders."""
import json
import os

import world
from guest import tiny_spec
from world import NOT_FOUND, OK, USAGE, World, WorldTest


class Cli(WorldTest):
    def refused(self, rc, *args, says=None, **kw):
        result = self.w.expect(rc, *args, **kw)
        self.assertTrue(result.err.strip(), f"no message:\n{result}")
        self.assertEqual(result.out, "", f"an error does not belong on standard output:\n{result}")
        if says:
            self.assertIn(says, result.err)
        return result

    def test_wrong_input_is_2_and_names_what_was_wrong(self):
        self.refused(USAGE, "frobnicate", says="frobnicate")
        self.refused(USAGE, "start")
        self.refused(USAGE, "status", "a", "--no-such-option", says="no-such-option")
        self.refused(USAGE, "status", "a", "-o", "xml", says="xml")
        self.refused(USAGE, "create", "../escape")
        self.refused(USAGE, "create", "a", "--memory", "lots", says="memory")
        self.refused(USAGE, "create", "-x")
        self.refused(USAGE, "create", "a", "--disk", "size=1G,frobnicate=1", says="frobnicate")
        self.assertEqual(self.w.ok("list", "-o", "json").json(), [])

    def test_what_does_not_exist_is_3(self):
        for verb in ("start", "stop", "kill", "status", "show", "delete"):
            self.refused(NOT_FOUND, verb, "nosuch", says="nosuch")

    def test_a_wrong_spec_is_refused_with_its_line(self):
        path = os.path.join(self.w.base, "bad.json")
        with open(path, "w", encoding="utf-8") as f:
            f.write('{\n  "name": "a",\n  "disks": [\n    {"path": "/x", "format": "raw",\n     "cache": "fast"}]\n}\n')
        result = self.refused(USAGE, "create", "a", "--spec", path, says="disks[0].cache")
        self.assertIn("fast", result.err)
        self.assertIn("bad.json:5", result.err)

    def test_json_everywhere(self):
        self.assertEqual(self.w.ok("list", "-o", "json").json(), [])
        self.w.create("a", tiny_spec())
        rows = self.w.ok("list", "-o", "json").json()
        self.assertEqual([(row["name"], row["state"]) for row in rows], [("a", "stopped")])
        self.assertEqual(self.w.status("a")["state"], "stopped")
        self.assertEqual(self.w.ok("show", "a", "-o", "json").json()["spec"]["name"], "a")
        self.assertEqual(self.w.ok("disk", "list", "a", "-o", "json").json(), [])
        self.assertEqual(self.w.ok("nic", "list", "a", "-o", "json").json(), [])

    def test_creating_twice_keeps_the_first(self):
        self.w.create("a", tiny_spec(memory="17M"))
        self.assertNotEqual(self.w.run("create", "a").rc, OK)
        self.assertEqual(self.w.ok("show", "a", "-o", "json").json()["spec"]["memory"], "17M")

    def test_help_and_version(self):
        out = self.w.ok("--help").out
        for verb in ("create", "start", "stop", "status", "disk", "nic", "wait", "logs"):
            self.assertIn(verb, out)
        self.assertRegex(self.w.ok("version").out, r"\d+\.\d+\.\d+")

    def test_args_prints_what_qemu_would_get(self):
        self.w.create("a", tiny_spec())
        out = self.w.ok("args", "a").out
        self.assertIn("qemu-system-x86_64", out)
        self.assertIn("tinybios.bin", out)
        self.assertIn("-nodefaults", out)


class DeepRoot(WorldTest):
    def test_a_root_of_200_characters_works(self):
        deep = World(root="/".join(["d" * 49] * 5)[:240])
        self.addCleanup(deep.close)
        self.assertGreater(len(deep.root), 200)
        deep.start_tiny("a")
        with deep.control("a") as qmp:
            self.assertTrue(qmp.execute("query-status")["running"])
        deep.ok("stop", "a")
        self.assertEqual(json.loads(deep.ok("status", "a", "-o", "json").out)["state"], "stopped")


if __name__ == "__main__":
    world.main()
