"""Whole specs: apply. What was chosen once stays chosen."""
import json
import os

import world
from guest import tiny_spec
from world import WorldTest


class Apply(WorldTest):
    def setUp(self):
        super().setUp()
        self.base = tiny_spec(name="a", accel=world.ACCEL, consoles=[], nics=[{"id": "net0", "backend": "user"}])
        self.w.create("a", self.base)

    def spec(self):
        return self.w.ok("show", "a", "-o", "json").json()["spec"]

    def apply(self, rc=world.OK, **more):
        path = os.path.join(self.w.base, "new.json")
        with open(path, "w", encoding="utf-8") as f:
            json.dump(dict(self.base, **more), f)
        return self.w.expect(rc, "apply", path)

    def test_what_was_chosen_once_is_kept(self):
        self.w.ok("start", "a")
        before = self.spec()
        self.assertRegex(before["machine"]["type"], r"^pc-q35-\d+\.\d+$")
        for state in ("running", "stopped"):
            self.assertEqual(self.w.state("a"), state)
            result = self.apply(description=state)
            self.assertNotIn("waits for the next start: machine", result.err)
            after = self.spec()
            self.assertEqual(after["description"], state)
            for key in ("machine", "uuid"):
                self.assertEqual(after[key], before[key], key)
            for key in ("mac", "port"):
                self.assertEqual(after["nics"][0][key], before["nics"][0][key], key)
            if state == "running":
                self.w.ok("kill", "a")

    def test_the_other_members_of_machine_are_taken(self):
        self.w.ok("start", "a")
        self.w.ok("kill", "a")
        pinned = self.spec()["machine"]["type"]
        self.apply(machine={"ports": 9})
        self.assertEqual(self.spec()["machine"], {"type": pinned, "ports": 9})

    def test_an_alias_keeps_its_version_and_says_so(self):
        self.w.ok("start", "a")
        self.w.ok("kill", "a")
        pinned = self.spec()["machine"]["type"]
        self.assertIn(f"stays {pinned}", self.apply(machine={"type": "q35"}).err)
        self.assertEqual(self.spec()["machine"], {"type": pinned})
        self.w.ok("set", "a", "machine.type=q35")
        self.assertEqual(self.spec()["machine"], {"type": "q35"})

    def test_another_machine_is_taken(self):
        self.w.ok("start", "a")
        self.w.ok("kill", "a")
        for other in ("pc", "pc-q35-6.0"):
            self.assertNotIn("stays", self.apply(machine={"type": other}).err)
            self.assertEqual(self.spec()["machine"], {"type": other})

    def test_what_cannot_change_live_is_refused_where_live_alone_is_asked_for(self):
        self.w.ok("start", "a")
        before = self.w.ok("show", "a", "-o", "json").json()
        self.assertIn("memory", self.w.expect(world.STATE, "set", "a", "memory=32M", "--live").err)
        self.assertEqual(self.w.ok("show", "a", "-o", "json").json(), before)
        self.assertIn("memory", self.w.ok("set", "a", "memory=32M").err)

    def test_what_never_started_has_nothing_to_keep(self):
        self.apply()
        self.assertNotIn("machine", self.spec())


if __name__ == "__main__":
    world.main()
