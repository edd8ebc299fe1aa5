"""Many users of one host, each with VMs and images of their own, and some that look at all of them, at once: nobody is in
another's way, and in the end nothing is left. Real QEMUs, that run no guest."""
import os
import threading
import traceback

from chaos import amount, chance, figure, seed

import world
from world import PATIENCE, WorldTest

USERS = amount("QMPCTL_USERS", 8)
ROUNDS = amount("QMPCTL_ROUNDS", 1)
LOOKS = (["list"], ["list", "-o", "json"], ["image", "list"], ["image", "tree"], ["image", "cache"], ["pool", "list"], ["pool", "info", "default"],
         ["status", "base"], ["show", "base"], ["args", "base"])


class Parallel(WorldTest):
    def setUp(self):
        super().setUp()
        self.seed = seed()
        self.failures, self.verbs, self.ended = [], 0, threading.Event()
        self.base = os.path.join(self.w.base, "base.qcow2")
        self.w.ok("image", "create", self.base, "64M")
        self.raw = os.path.join(self.w.base, "base.raw")
        with open(self.raw, "wb") as f:
            f.write(os.urandom(1 << 20))

    def ok(self, *args):
        result = self.w.run(*args)
        self.verbs += 1
        if result.rc != world.OK:
            raise AssertionError(str(result))
        return result

    def guarded(self, work, *args):
        try:
            work(*args)
        except Exception:  # pylint: disable=broad-except
            self.failures.append(traceback.format_exc())

    def use_images(self, me, turn):
        """Of bases and a VM that all share."""
        mine = os.path.join(self.w.base, f"mine{me}-{turn}")
        self.ok("image", "clone", self.base, f"{mine}.qcow2", "--linked")
        self.ok("image", "import", self.raw, f"{mine}.raw")
        self.ok("pool", "create", f"p{me}-{turn}", f"dir,path={mine}.pool")
        self.ok("image", "convert", f"{mine}.qcow2", f"p{me}-{turn}:a.qcow2")
        self.ok("clone", "base", f"base{me}-{turn}", "--linked")
        self.ok("delete", f"base{me}-{turn}", "--disks")
        self.ok("image", "delete", f"p{me}-{turn}:a.qcow2")
        self.ok("pool", "delete", f"p{me}-{turn}")
        for ending in "qcow2", "raw":
            self.ok("image", "delete", f"{mine}.{ending}")

    def use(self, me):
        """Makes VMs of each kind, starts them, changes them as they run, and removes them, in an order by chance."""
        for turn in range(ROUNDS):
            if me % 2:
                self.use_images(me, turn)
            name = f"vm{me}-{turn}"
            r = chance(self.seed, me, turn)
            disk = r.choice((["--disk", "size=8M"], ["--image", self.base], ["--disk", "size=8M", "--disk", "size=4M"]))
            self.ok("create", name, "--memory", "16M", "--accel", "tcg", *disk)
            clone = r.choice((None, "--linked", "--full"))
            if clone:
                self.ok("clone", name, f"{name}-c", clone)
            self.ok("start", name)
            acts = [lambda: self.ok("disk", "add", name, "size=4M,id=vdx"), lambda: self.ok("set", name, "description=x"),
                    lambda: self.ok("status", name), lambda: self.ok("pause", name), lambda: self.ok("disk", "list", name)]
            r.shuffle(acts)
            for act in acts:
                act()
            if clone and r.random() < 0.5:
                self.ok("start", f"{name}-c")
                self.ok("kill", f"{name}-c")
            self.ok("kill", name)
            # Its keeper may still be there; that is nobody's concern.
            for words in r.sample((["args", name], ["show", name], ["set", name, "description=y"], ["status", name], ["start", name],
                                   ["disk", "add", name, "size=4M"], ["clone", name, f"{name}-d"]), 3):
                self.ok(*words)
                if words[0] == "start":
                    self.ok("kill", name)
                elif words[0] == "clone":
                    self.ok("delete", words[2], "--disks")
            self.ok("rename", name, f"{name}-r")
            for each in [f"{name}-c", f"{name}-r"] if clone else [f"{name}-r"]:
                self.ok("delete", each, "--disks")

    def look(self, me):
        r = chance(self.seed, "look", me)
        while not self.ended.is_set():
            self.ok(*r.choice(LOOKS))

    def test_nobody_is_in_anothers_way(self):
        self.w.ok("create", "base", "--memory", "16M", "--accel", "tcg", "--disk", "size=8M")
        users = [threading.Thread(target=self.guarded, args=(self.use, i)) for i in range(USERS)]
        lookers = [threading.Thread(target=self.guarded, args=(self.look, i)) for i in range(2)]
        for thread in users + lookers:
            thread.start()
        for thread in users:
            thread.join(PATIENCE * 10 * ROUNDS)
        self.ended.set()
        for thread in lookers:
            thread.join(PATIENCE)
        figure(users=USERS, rounds=ROUNDS, verbs=self.verbs, failures=len(self.failures))
        self.assertEqual(self.failures, [], "\n".join(self.failures) + self.w.logs())
        self.assertFalse([t for t in users + lookers if t.is_alive()])
        self.w.ok("delete", "base", "--disks")
        self.assertEqual([n["name"] for n in self.w.ok("list", "-o", "json").json()], [])
        for folder in ("images", "made", "firmware"):
            path = os.path.join(self.w.root, "lib", folder)
            self.assertEqual(os.listdir(path) if os.path.isdir(path) else [], [], folder)
        self.stopped_clean()


if __name__ == "__main__":
    world.main()
