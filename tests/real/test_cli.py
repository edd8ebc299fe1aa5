"""The command line: wrong input, exit statuses, JSON for programs, deep folders."""
import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import termios

import world
from guest import tiny_spec
from world import HOST, NOT_FOUND, OK, STATE, USAGE, World, WorldTest


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

    def test_every_verb_of_a_vm_refuses_a_name_that_is_none_or_of_none(self):
        self.w.create("demo", tiny_spec())
        before = self.w.tree()
        for verb in ("start", "stop", "kill", "reboot", "reset", "pause", "resume", "status", "show", "edit", "delete", "args",
                     "logs", "events", "console", "run", "disk list", "nic list"):
            self.refused(NOT_FOUND, *verb.split(), "dem", says="did you mean \"demo\"?")
            for name in ("", "../etc", "a/b", ".", "-", "x" * 65, "a b"):
                self.refused(USAGE, *verb.split(), "--", name, says="no name for a VM")
        for args in (["set", "NAME", "memory=1G"], ["disk", "add", "NAME", "size=1M"], ["disk", "remove", "NAME", "vda"],
                     ["nic", "add", "NAME"], ["rename", "NAME", "b"], ["type", "NAME", "x"], ["qmp", "NAME", "query-status"],
                     ["wait", "NAME", "--for", "running"], ["wait", "NAME", "--for", "stopped"]):
            self.refused(NOT_FOUND, *(word if word != "NAME" else "dem" for word in args), says="demo")
            self.refused(USAGE, *(word if word != "NAME" else "../etc" for word in args), says="no name for a VM")
        self.assertEqual(self.w.tree(), before)

    def test_what_is_wrong_is_named_with_what_to_do(self):
        self.w.create("demo", tiny_spec())
        path = os.path.join(self.w.base, "other.json")
        with open(path, "w", encoding="utf-8") as f:
            json.dump(dict(tiny_spec(), name="other"), f)
        before = self.w.ok("show", "demo").out
        for verb in (["strat", "demo"], ["strat"]):
            self.refused(USAGE, *verb, says='did you mean "start"?')
        self.assertNotIn("did you mean", self.w.expect(USAGE, "disk", "rm", "demo", "vda").err)
        self.refused(USAGE, "set", "demo", "memory=12X", says='memory: "12X" is none: a size is a number with')
        self.refused(HOST, "disk", "add", "demo", "1G", says='as in size=10G')
        self.refused(NOT_FOUND, "apply", path, says=f'"qmpctl create other --spec {path}" makes it')
        self.assertEqual(self.w.ok("show", "demo").out, before)

    def test_a_folder_that_cannot_be_read_is_not_an_empty_one(self):
        os.makedirs(os.path.join(self.w.root, "etc"), 0o700)
        with open(os.path.join(self.w.root, "etc/vms"), "w", encoding="utf-8"):
            pass
        self.refused(HOST, "list", says="etc/vms")
        self.refused(HOST, "events", says="etc/vms")
        self.refused(HOST, "status", "a", says="etc/vms")

    def images(self):
        folder = os.path.join(self.w.root, "lib/images")
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []

    def test_os_chooses_what_the_guest_has_drivers_for(self):
        devices = ["--disk", "size=1M", "--disk", "size=1M,bus=virtio", "--nic", "user", "--nic", "user,model=virtio"]
        self.refused(USAGE, "create", "a", "--os", "linus", says='did you mean "linux"?')
        for name, bus, model, screen in (("linux", None, None, None), ("bsd", None, None, None),
                                         ("windows", "sata", "e1000e", "vnc"), ("other", "sata", "e1000e", "vnc")):
            with self.subTest(name):
                spec = self.w.ok("create", name, "--os", name, "-o", "json", *devices).json()
                self.assertEqual([disk.get("bus") for disk in spec["disks"]], [bus, "virtio"])
                self.assertEqual([nic.get("model") for nic in spec["nics"]], [model, "virtio"])
                self.assertEqual(spec.get("display", {}).get("type"), screen)
                self.assertEqual(spec.get("clock"), "localtime" if name == "windows" else None)
                self.w.ok("start", name)
                self.w.ok("kill", name)

    def test_what_was_not_created_leaves_nothing(self):
        missing = os.path.join(self.w.base, "missing")
        for words in (["--disk", "size=1M", "--disk", missing], ["--disk", "size=1M", "--nic", "bogus"],
                      ["--disk", "size=1M,bus=bogus"], ["--disk", "size=1M,id=x", "--disk", "size=1M,id=x"],
                      ["--disk", "size=1M", "--set", "bogus=1"], ["--disk", "size=lots"], ["--cdrom", missing],
                      ["--spec", missing], ["--disk", "size=1M,path=/proc/x"]):
            with self.subTest(words):
                self.assertNotEqual(self.w.run("create", "a", *words).rc, OK)
                self.assertEqual(self.images(), [])
                self.assertEqual(self.w.ok("list", "-o", "json").json(), [])
        self.w.ok("create", "a", "--disk", "size=1M", "--disk", "size=2M")
        self.assertEqual(self.images(), ["a-1.qcow2", "a-2.qcow2"])
        self.w.run("create", "a", "--disk", "size=1M")
        self.assertEqual(self.images(), ["a-1.qcow2", "a-2.qcow2"])

    def test_a_disk_that_was_not_added_leaves_nothing(self):
        self.w.create("a", tiny_spec())
        self.w.ok("disk", "add", "a", "size=1M", "--dry-run")
        self.refused(USAGE, "disk", "add", "a", "size=1M,bus=bogus")
        self.refused(USAGE, "disk", "add", "a", "size=1M,format=bogus", says="qcow2")
        self.refused(STATE, "disk", "add", "a", "size=1M", "--live")
        self.w.run("disk", "add", "a", "size=1M,id=con0")
        self.assertEqual(self.images(), [])
        self.w.ok("disk", "add", "a", "size=1M")
        self.assertEqual(self.images(), ["a-1.qcow2"])

    def test_a_rename_that_fails_is_none(self):
        self.w.create("a", tiny_spec())
        os.mkdir(os.path.join(self.w.root, "etc/vms/.b.json.tmp"))
        self.refused(HOST, "rename", "a", "b", says="b.json")
        self.assertEqual([row["name"] for row in self.w.ok("list", "-o", "json").json()], ["a"])
        self.w.ok("rename", "a", "c")
        self.assertEqual(self.w.ok("show", "c").json()["name"], "c")

    def test_lists_are_as_wide_as_what_is_in_them(self):
        self.w.create("a", tiny_spec())
        self.w.create("a-longer-name", tiny_spec(disks=[], nics=[{"id": "net0", "mac": "52:54:00:00:00:01"}]))
        self.assertEqual(self.w.ok("list").out, "NAME           STATE    PID\n"
                                                "a              stopped  -\n"
                                                "a-longer-name  stopped  -\n")
        self.assertEqual(self.w.ok("nic", "list", "a-longer-name").out, "ID    WHERE   MODEL  MAC                BACKEND\n"
                                                                        "net0  config  -      52:54:00:00:00:01  -\n")
        self.assertEqual(self.w.ok("disk", "list", "a").out, "ID  WHERE  BUS  FORMAT  PATH\n")

    def test_delete_takes_only_what_is_nobody_elses(self):
        self.w.ok("create", "a", "--disk", "size=1M", "--disk", "size=2M")
        spec = self.w.ok("show", "a", "-o", "json").json()["spec"]
        self.w.create("b", {"disks": [dict(spec["disks"][0])]})
        result = self.w.ok("delete", "a", "--disks", "-o", "json")
        self.assertIn("another VM", result.err)
        paths = [disk["path"] for disk in spec["disks"]]
        self.assertEqual(result.json(), {"name": "a", "deleted": paths[1:], "kept": paths[:1]})
        self.assertEqual(self.images(), ["a-1.qcow2"])
        self.w.ok("delete", "b", "--disks")
        self.assertEqual(self.images(), [])

    def test_json_of_what_prints_a_line(self):
        self.w.create("a", tiny_spec())
        self.assertEqual(self.w.ok("rename", "a", "b", "-o", "json").json(), {"name": "b", "was": "a"})
        self.assertEqual(self.w.ok("args", "b", "-o", "json").json()[1:3], ["-name", "guest=b"])
        self.assertEqual(self.w.ok("start", "b", "-o", "json").json()["outcome"], "done")
        self.assertEqual(self.w.ok("args", "b", "-o", "json").json()[1:3], ["-name", "guest=b"])
        for verb in ("pause", "resume", "reset"):
            self.assertEqual(self.w.ok(verb, "b", "-o", "json").json(), {})
        self.assertEqual(self.w.ok("kill", "b", "-o", "json").json()["outcome"], "done")
        self.assertEqual(self.w.ok("delete", "b", "-o", "json").json(), {"name": "b", "deleted": [], "kept": []})

    def test_logs_names_what_there_is(self):
        self.w.create("a", tiny_spec(consoles=[{"id": "ttyx"}]))
        self.refused(NOT_FOUND, "logs", "a", says="never run")
        self.w.ok("start", "a")
        self.w.ok("wait", "a", "--for", "console=TINY-READY")
        self.assertIn("TINY-READY", self.w.ok("logs", "a").out)
        self.refused(NOT_FOUND, "logs", "a", "--of", "con0", says="con0")
        self.refused(USAGE, "logs", "a", "--of", "../x", says="../x")

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

    def test_help_fits_a_terminal_and_the_man_page_is_clean(self):
        verbs = re.findall(r"(?m)^  ([a-z][a-z-]*(?: [a-z]+)?)  ", self.w.ok("--help").out)
        self.assertGreater(len(verbs), 30)
        texts = {"": self.w.ok("--help").out, "disk": self.w.ok("disk", "--help").out}
        for verb in verbs:
            texts[verb] = self.w.ok(*verb.split(), "--help").out
            self.assertTrue(texts[verb].startswith(f"Usage: qmpctl {verb}"), texts[verb])
        for verb, text in texts.items():
            for line in text.splitlines():
                self.assertLessEqual(len(line), 79, f"{verb}: {line}")
        page = os.path.join(self.w.base, "qmpctl.1")
        man = subprocess.run([world.QMPCTL, "--man"], capture_output=True, check=True).stdout
        with open(page, "wb") as f:
            f.write(man)
        for verb in verbs:
            self.assertIn(f"\\fB{verb}\\fR".replace("-", "\\-").encode(), man)
        check = subprocess.run(["groff", "-man", "-ww", "-z", page], capture_output=True, check=True)
        self.assertEqual(check.stderr, b"")

    def test_help_is_a_word_too(self):
        for args in ([], ["create"], ["disk"], ["disk", "add"]):
            asked = [subprocess.run([world.QMPCTL, *words], capture_output=True, check=True).stdout
                     for words in (["help", *args], [*args, "--help"])]
            self.assertEqual(*asked)

    def on_terminal(self, *args, columns=50, **more):
        """What ARGS print on a terminal of so many COLUMNS."""
        master, slave = pty.openpty()
        env = {k: v for k, v in self.w.env.items() if k not in ("TERM", "NO_COLOR")}
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        subprocess.run([world.QMPCTL, *args, "--root", self.w.root], env={**env, **more}, stdout=slave, check=True)
        os.close(slave)
        said = b""
        with contextlib.suppress(OSError):
            while block := os.read(master, 65536):
                said += block
        os.close(master)
        return said.decode().replace("\r\n", "\n")

    def test_bold_is_for_terminals_that_want_it(self):
        for more, bold in (({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False), ({"TERM": "xterm", "NO_COLOR": "1"}, False),
                           ({"TERM": "xterm", "NO_COLOR": ""}, True)):
            with self.subTest(more):
                said = self.on_terminal("help", "create", **more)
                self.assertEqual("\x1b" in said, bold)
                lines = re.sub(r"\x1b\[\d*m", "", said).splitlines()
                self.assertLessEqual(max(map(len, lines)), 49)

    def test_a_table_fits_the_terminal(self):
        folder = os.path.join(self.w.base, "a-folder-" + "x" * 60)
        os.mkdir(folder)
        path = os.path.join(folder, "\N{SNOWMAN}.raw")
        with open(path, "wb") as image:
            image.truncate(4096)
        with open(os.path.join(folder, "\x1b[31m.raw"), "wb") as image:
            image.truncate(4096)
        for columns in (60, 79):
            lines = self.on_terminal("image", "list", folder, columns=columns, TERM="dumb").splitlines()
            self.assertLessEqual(max(map(len, lines)), columns)
            self.assertTrue(any(line.startswith("...") and "xxxx/\N{SNOWMAN}.raw  " in line for line in lines), lines)
        wide = self.on_terminal("image", "list", folder, columns=300, TERM="dumb")
        self.assertIn(path, wide)
        self.assertIn(path, self.w.ok("image", "list", folder).out)
        self.assertNotIn("\x1b", wide)
        self.assertIn("/?[31m.raw", wide)

    def test_a_noun_says_which_verbs_it_has(self):
        self.refused(USAGE, "disk", says="add, remove, resize, list")
        self.refused(USAGE, "disk", "lst", "a", says="did you mean \"disk list\"?")
        self.refused(USAGE, "image", "x", says="create")

    def test_values_and_words_that_cannot_be(self):
        self.refused(USAGE, "create", "a", "--accel", "xen", says="one of auto, kvm, tcg")
        self.refused(USAGE, "wait", "a", "--for", "console=", says="console=...")
        self.refused(USAGE, "image", "create", os.path.join(self.w.base, "x"), "1M", "--format", "bogus", says="bogus")
        for args in (["status", b"a\xff"], ["set", "a", b"description=\xff"], ["create", "a", "--memory", b"\xff"]):
            result = subprocess.run([world.QMPCTL, "--root", self.w.root, *args], env=self.w.env, capture_output=True)
            self.assertEqual(result.returncode, USAGE)
            self.assertIn(b"not UTF-8", result.stderr)
        self.assertEqual(self.w.ok("list", "-o", "json").json(), [])

    def test_an_output_that_cannot_be_written_is_told(self):
        self.w.create("a", tiny_spec())
        for args in (["list"], ["--help"], ["version"], ["--man"], ["show", "a"], ["status", "a", "-o", "json"]):
            with self.subTest(args), open("/dev/full", "wb") as full:
                argv = [world.QMPCTL, *args] if args[0].startswith("--") else self.w.argv(*args)
                result = subprocess.run(argv, env=self.w.env, stdout=full, stderr=subprocess.PIPE)
                self.assertEqual(result.returncode, HOST)
                self.assertIn(b"standard output", result.stderr)
                closed = subprocess.run(argv, env=self.w.env, stderr=subprocess.PIPE, preexec_fn=lambda: os.close(1))
                self.assertEqual(closed.returncode, HOST)

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
