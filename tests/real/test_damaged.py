"""Files of a VM that are damaged, gone, something else than files, or changed by hand: said, and no VM is lost, here or beside it."""
import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import unittest

import world
from guest import tiny_spec
from world import HOST, NOT_FOUND, USAGE, WorldTest

TEXTS = {"empty": b"", "cut off": b'{"na', "no object": b"[5]", "bytes": b"\xff\x00{", "another": b"{}"}


def make_text(text):
    def make(path):
        with open(path, "wb") as f:
            f.write(text)
    return make


def make_large(path):
    with open(path, "wb") as f:
        f.truncate(17 << 20)


DAMAGES = {**{name: make_text(text) for name, text in TEXTS.items()}, "large": make_large, "a folder": os.mkdir,
           "a FIFO": os.mkfifo, "a link": lambda path: os.symlink("/etc/passwd", path)}


def remove(path):
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


class Damaged(WorldTest):
    def setUp(self):
        super().setUp()
        self.image = os.path.join(self.w.base, "x.img")
        with open(self.image, "wb") as f:
            f.truncate(1 << 20)

    def place(self, *parts):
        return os.path.join(self.w.root, *parts)

    def spec_file(self, name="a"):
        return self.place("etc", "vms", f"{name}.json")

    def edit(self, **more):
        """As an editor does it."""
        with open(self.spec_file(), encoding="utf-8") as f:
            spec = json.load(f)
        with open(self.spec_file() + "~", "w", encoding="utf-8") as f:
            json.dump(dict(spec, **more), f)
        os.rename(self.spec_file() + "~", self.spec_file())

    def spec(self):
        return self.w.ok("show", "a", "-o", "json").json()["spec"]

    def test_a_spec_that_is_damaged_keeps_nobody_from_a_vm_that_runs(self):
        self.w.start_tiny("a")
        self.w.create("b", tiny_spec())
        pid, path = self.w.qemu_pid("a"), self.spec_file()
        os.rename(path, path + ".good")
        for name, damage in DAMAGES.items():
            with self.subTest(name):
                damage(path)
                before = os.lstat(path)
                for _ in "with its keeper", "with another one":
                    status = self.w.status("a")
                    self.assertEqual((status["state"], status["pid"]), ("running", pid))
                    self.assertIn("a.json", status["spec-error"])
                    self.assertIn(path if name in TEXTS else "a.json", self.w.ok("status", "a").out)
                    for args in (["set", "a", "description=x"], ["disk", "add", "a", f"id=vdx,path={self.image},format=raw"]):
                        result = self.w.run(*args)
                        self.assertIn(result.rc, (USAGE, HOST), str(result))
                        self.assertIn("a was not changed", result.err)
                    self.w.ok("disk", "add", "a", f"id=vdx,path={self.image},format=raw", "--live")
                    self.w.ok("disk", "remove", "a", "vdx", "--live")
                    self.assertIn("runs with", self.w.ok("show", "a").err)
                    self.w.kill_keeper()
                after = os.lstat(path)
                self.assertEqual((before.st_ino, before.st_size, before.st_mtime_ns), (after.st_ino, after.st_size, after.st_mtime_ns))
                rows = {row["name"]: row["state"] for row in self.w.ok("list", "-o", "json").json()}
                self.assertEqual(rows, {"a": "unattended", "b": "stopped"})
                self.w.ok("set", "b", f"description={name}")
                remove(path)
        os.rename(path + ".good", path)
        self.w.ok("set", "a", "description=mended")
        self.assertEqual((self.spec()["description"], self.w.qemu_pid("a")), ("mended", pid))

    def test_a_vm_whose_spec_is_gone_is_there_while_it_runs(self):
        self.w.start_tiny("a")
        pid = self.w.qemu_pid("a")
        os.unlink(self.spec_file())
        for state in "running", "unattended":
            self.assertEqual([(row["name"], row["state"]) for row in self.w.ok("list", "-o", "json").json()], [("a", state)])
            if state == "running":
                self.w.kill_keeper()
        self.assertEqual(self.w.status("a")["pid"], pid)
        self.assertIn("spec is gone", self.w.expect(HOST, "set", "a", "description=x").err)
        self.w.ok("kill", "a")
        self.stopped_clean()
        self.w.expect(NOT_FOUND, "status", "a")
        self.assertEqual(self.w.ok("list", "-o", "json").json(), [])

    def test_a_spec_that_is_damaged_while_nothing_runs(self):
        self.w.create("a", tiny_spec())
        os.rename(self.spec_file(), self.spec_file() + ".good")
        self.w.create("b", tiny_spec())
        for name, damage in DAMAGES.items():
            with self.subTest(name):
                damage(self.spec_file())
                for args in (["start", "a"], ["set", "a", "description=x"], ["show", "a"]):
                    result = self.w.run(*args)
                    self.assertIn(result.rc, (USAGE, HOST), str(result))
                    self.assertIn("a.json", result.err)
                self.w.ok("set", "b", f"description={name}")
                self.w.ok("image", "list")
                remove(self.spec_file())

    def test_what_is_edited_by_hand_is_not_lost(self):
        serial = self.w.start_tiny("a", restart={"policy": "always", "delay": 0})
        self.edit(description="by hand")
        self.assertEqual(self.spec()["description"], "by hand")
        self.w.ok("set", "a", "memory=24M")
        self.edit(uuid="00000000-0000-4000-8000-000000000001")
        self.w.ok("disk", "add", "a", f"id=vdx,path={self.image},format=raw")
        spec = self.spec()
        self.assertEqual((spec["description"], spec["memory"], spec["uuid"][-1]), ("by hand", "24M", "1"))
        self.assertEqual([disk["id"] for disk in spec["disks"]], ["vdx"])
        # A start by the policy, in the same keeper, is one of what stands there then.
        self.edit(memory="32M")
        keeper = self.w.keeper_pid()
        os.kill(self.w.qemu_pid("a"), signal.SIGKILL)
        serial.expect("TINY-READY")
        self.w.wait_state("a", "running")
        shown = self.w.ok("show", "a", "-o", "json").json()
        self.assertEqual((shown["running"]["memory"], self.w.keeper_pid()), ("32M", keeper))

    def test_what_is_edited_while_a_change_is_under_way_is_not_lost(self):
        self.w.start_tiny("a")
        qemu = self.w.qemu_pid("a")
        os.kill(qemu, signal.SIGSTOP)
        try:
            change = self.w.spawn("disk", "add", "a", f"id=vdx,path={self.image},format=raw")
            self.until(lambda: self.w.status("a").get("operation"), "the change has not begun")
            self.edit(description="by hand")
        finally:
            os.kill(qemu, signal.SIGCONT)
        self.assertNotEqual(change.wait(world.PATIENCE), 0)
        with open(change.log, encoding="utf-8") as f:
            self.assertIn("changed by another program", f.read())
        shown = self.w.ok("show", "a", "-o", "json").json()
        self.assertEqual((shown["spec"]["description"], shown["spec"].get("disks", [])), ("by hand", []))
        self.assertEqual(shown["running"].get("disks", []), [], "and it was undone")

    def test_what_else_is_kept_of_a_vm(self):
        """Damaged, it is set aside or taken for nothing; the VM is taken over, or goes on and says why it is not."""
        self.w.start_tiny("a")
        pid = self.w.qemu_pid("a")
        for name, damage in DAMAGES.items():
            for file in ("journal.json", "last-end.json"):
                with self.subTest(file=file, damage=name):
                    path = self.place("run", "a", file)
                    self.w.kill_keeper()
                    damage(path)
                    told = self.w.ok("set", "a", f"description={name}").err
                    self.assertEqual(self.w.status("a")["pid"], pid)
                    if file == "journal.json" and name != "another":
                        self.assertIn("journal.json is damaged; it was set aside", told)
                        self.assertFalse(os.path.lexists(path))
                    for left in (path, path + ".damaged"):
                        if os.path.lexists(left):
                            remove(left)
        record = self.place("run", "a", "running.json")
        self.w.create("b", tiny_spec())
        self.w.kill_keeper()
        os.rename(record, record + ".good")
        for name, damage in DAMAGES.items():
            with self.subTest(file="running.json", damage=name):
                damage(record)
                result = self.w.expect(HOST, "status", "a")
                self.assertIn(record, result.err)
                self.assertIn("goes on", result.err)
                self.assertEqual(self.w.qemu_pid("a"), pid)
                self.w.ok("set", "b", f"description={name}")
                remove(record)
        os.rename(record + ".good", record)
        self.assertEqual(self.w.status("a")["pid"], pid)


    def test_a_link_is_followed_nowhere(self):
        """Not to what would be good either: who can make one may not be who can write what it leads to."""
        self.w.create("b", tiny_spec())
        self.w.start_tiny("a")
        pid = self.w.qemu_pid("a")
        self.w.kill_keeper()
        for path, verb in ((self.spec_file("b"), ("show", "b")), (self.place("run", "a", "running.json"), ("status", "a"))):
            good = os.path.join(self.w.base, "good")
            os.rename(path, good)
            os.symlink(good, path)
            told = self.w.expect(HOST, *verb).err
            self.assertIn(os.path.dirname(path), told)
            self.assertIn(os.path.basename(path), told)
            os.rename(good, path)
            self.w.ok(*verb)
        self.assertEqual(self.w.qemu_pid("a"), pid)


class Places(WorldTest):
    """Folders of ours that are a link, somebody else's, or that others can write to."""

    def bad(self, path):
        yield "can be written", lambda: os.chmod(path, 0o770), lambda: os.chmod(path, 0o700)
        if os.geteuid() == 0:
            yield "belongs to the user 65534", lambda: os.chown(path, 65534, -1), lambda: os.chown(path, 0, -1)

        def link():
            os.rename(path, path + ".real")
            os.symlink(path + ".real", path)

        def unlink():
            os.unlink(path)
            os.rename(path + ".real", path)
        yield os.path.basename(path), link, unlink

    def test_they_are_not_used(self):
        self.w.create("a", tiny_spec())
        self.w.create("b", tiny_spec())
        self.w.ok("start", "a")
        self.w.ok("kill", "a")
        for parts in (["run", "a"], ["etc", "vms"]):
            path = os.path.join(self.w.root, *parts)
            for says, damage, mend in self.bad(path):
                with self.subTest(path=path, says=says):
                    damage()
                    result = self.w.expect(HOST, "start", "a")
                    self.assertIn(says, result.err)
                    self.assertEqual(self.w.processes(), {})
                    if parts[0] == "run":
                        self.w.ok("set", "b", "description=x")
                    mend()
        self.w.ok("start", "a")
        mode = stat.S_IMODE(os.stat(os.path.join(self.w.root, "run", "a")).st_mode)
        self.assertEqual(mode, 0o700)

    def test_a_socket_is_not_put_where_a_link_leads(self):
        self.w.create("a", tiny_spec())
        self.w.ok("start", "a")
        self.w.ok("kill", "a")
        self.stopped_clean()
        target = os.path.join(self.w.base, "target")
        with open(target, "w", encoding="ascii") as f:
            f.write("kept")
        for name in ("control.sock", "qmp.sock", "running.json", "qemu.log", "keeper.log", "last-end.json", "qemu.lock"):
            path = os.path.join(self.w.root, "run", "a", name)
            if os.path.lexists(path):
                os.unlink(path)
            os.symlink(target, path)
        self.w.run("start", "a")
        self.w.run("kill", "a")
        with open(target, encoding="ascii") as f:
            self.assertEqual(f.read(), "kept")

    @unittest.skipUnless(shutil.which("mount") and os.geteuid() == 0, "a file system of its own needs root")
    def test_a_disk_that_is_full(self):
        """Of what is kept: a change that cannot be kept is none, and says so; the VM that runs goes on."""
        os.mkdir(self.w.root, 0o700)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", self.w.root], check=True)
        try:
            self.w.start_tiny("a")
            pid, before = self.w.qemu_pid("a"), self.w.ok("show", "a").out
            with open(os.path.join(self.w.root, "filler"), "wb", buffering=0) as f, contextlib.suppress(OSError):
                while True:
                    f.write(b"x" * 4096)
            self.unchanged(before, pid, "No space left")
            self.w.kill_keeper()
            self.assertEqual(self.w.status("a")["pid"], pid)
            self.unchanged(before, pid, "No space left")
            os.unlink(os.path.join(self.w.root, "filler"))
            self.w.ok("set", "a", "description=x")
            self.w.ok("kill", "a")
            self.stopped_clean()
        finally:
            self.w.end()
            subprocess.run(["umount", self.w.root], check=True)

    @unittest.skipUnless(shutil.which("unshare") and os.geteuid() == 0, "a mount of its own needs root")
    def test_a_folder_that_is_read_only(self):
        """Nothing is changed, and the error says why; what has a keeper goes on with it."""
        self.w.create("a", tiny_spec())
        self.w.start_tiny("b")
        before, pid = self.w.ok("list").out, self.w.qemu_pid("b")

        def read_only(*words):
            script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
            return subprocess.run(["unshare", "-m", "sh", "-c", script, self.w.root, *self.w.argv(*words)], env=self.w.env,
                                  text=True, capture_output=True, timeout=world.PATIENCE, check=False)

        for words in (("start", "a"), ("set", "a", "description=x"), ("nic", "add", "a", "user"), ("rename", "a", "c"),
                      ("delete", "a"), ("create", "c"), ("clone", "a", "c")):
            result = read_only(*words)
            self.assertEqual((result.returncode, result.stdout), (HOST, ""), (words, result.stderr))
            self.assertIn("Read-only file system", result.stderr, words)
        self.assertEqual(read_only("list").stdout, before)
        self.assertEqual(read_only("set", "b", "description=x").returncode, world.OK)  # its keeper's own world is none
        self.assertEqual((self.w.ok("list").out, self.w.qemu_pid("b")), (before, pid))

    def unchanged(self, before, pid, says):
        self.assertIn(says, self.w.expect(HOST, "set", "a", f"description={'x' * 5000}").err)
        self.assertEqual(self.w.ok("show", "a").out, before)
        self.assertEqual((self.w.state("a"), self.w.qemu_pid("a")), ("running", pid))


if __name__ == "__main__":
    world.main()
