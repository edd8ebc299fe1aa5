"""Encrypted images and passwords: they work, and what is secret stands nowhere but in its file."""
import base64
import json
import os
import secrets
import signal
import shutil
import subprocess
import tempfile
import threading

import world
from guest import tiny_spec, with_serial
from qmp import connect_unix
from world import ACCEL, FAILED, HOST, OK, STATE, USAGE, WorldTest

def forms(secret):
    """SECRET as it may stand somewhere: itself, in hexadecimal digits, and by base64 wherever it begins in what is encoded."""
    secret = secret.encode()
    found = [secret, secret.hex().encode(), secret.hex().upper().encode()]
    for before in range(3):
        text = base64.b64encode(b"\0" * before + secret)
        # Whole groups that hold nothing but the secret's own bytes.
        found.append(text[4 if before else 0:len(secret) // 3 * 4 - 4])
    return found


class Made:
    """Images with their keys. Making one is a measurement of this machine by qemu-img, which takes seconds: so each is made once
    for all tests, and copied."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="qmpctl-made-")
        self.known = {}

    def image(self, path, key, fmt, size):
        if not key:
            subprocess.run(["qemu-img", "create", "-q", "-f", fmt, path, size], check=True)
            return
        with open(key, encoding="ascii") as f:
            what = (f.read(), fmt, size)
        if what not in self.known:
            self.known[what] = os.path.join(self.folder.name, str(len(self.known)))
            self.make(self.known[what], key, fmt, size)
        shutil.copyfile(self.known[what], path)

    @staticmethod
    def make(path, key, fmt, size):
        prefix = "" if fmt == "luks" else "encrypt."
        options = [f"{prefix}key-secret=k", f"{prefix}iter-time=10"] + (["encrypt.format=luks"] if fmt == "qcow2" else [])
        argv = ["qemu-img", "create", "-q", "-f", fmt, "--object", f"secret,id=k,file={key}", "-o", ",".join(options)]
        said = measured_again(lambda: subprocess.run([*argv, path, size], stderr=subprocess.PIPE, text=True, check=False).stderr)
        if said:
            raise AssertionError(said)


def measured_again(attempt, times=10):
    """Does ATTEMPT until qemu-img has been able to measure how fast this machine is; gives what was said at last."""
    for _ in range(times):
        said = attempt()
        if "Unable to get accurate CPU usage" not in said:
            break
    return said


class Watch(threading.Thread):
    """Looks, again and again, at the command lines and environments of all processes and at all small files of a world."""

    def __init__(self, folder, needles):
        super().__init__(daemon=True)
        self.folder, self.needles = folder, needles
        self.hits, self.rounds = set(), 0
        self.done = threading.Event()

    def look(self, where, data):
        for needle in self.needles:
            if needle in data:
                self.hits.add(f"{where}: {needle!r}")

    def look_into(self, path, limit=1 << 20):
        try:
            with open(path, "rb") as f:
                self.look(path, f.read(limit))
        except OSError:
            pass

    def once(self):
        for pid in filter(str.isdigit, os.listdir("/proc")):
            self.look_into(f"/proc/{pid}/cmdline")
            self.look_into(f"/proc/{pid}/environ")
        for folder, _, files in os.walk(self.folder):
            for name in files:
                path = os.path.join(folder, name)
                if os.path.isfile(path):
                    self.look_into(path)
        self.rounds += 1

    def run(self):
        while not self.done.wait(0.02):
            self.once()

    def stop(self):
        self.done.set()
        self.join(30)
        self.once()


TEXTS = [f"CANARY-{i}-{secrets.token_hex(12)}" for i in range(3)]
made = Made()


class Secrets(WorldTest):
    def setUp(self):
        super().setUp()
        self.said = []
        self.needles = []
        # Neither keys nor images stand below the root, all of which is looked through.
        self.aside = os.path.join(self.w.base, "aside")
        os.mkdir(self.aside)
        run = self.w.run

        def recorded(*args, **kw):
            result = run(*args, **kw)
            self.said.append((" ".join(map(str, args)), result.out + result.err))
            return result
        self.w.run = recorded

    def key(self, name, text=None, mode=0o600):
        """A file with a secret, which is looked for from now on. TEXT: of its own where it is not given."""
        path = os.path.join(self.aside, name)
        text = text or f"CANARY-{name}-{secrets.token_hex(12)}"
        with open(path, "w", encoding="ascii") as f:
            f.write(text)
        os.chmod(path, mode)
        self.needles += forms(text)
        return path

    def image(self, name, key=None, fmt="qcow2", backing=None, size="1M"):
        path = os.path.join(self.aside, name)
        made.image(path, key, fmt, size)
        if backing:
            subprocess.run(["qemu-img", "rebase", "--object", f"secret,id=k,file={key}", "--image-opts", "-u", "-b", backing[0],
                            "-F", backing[1], f"driver={fmt},file.filename={path},encrypt.key-secret=k"], check=True)
        return path

    @staticmethod
    def disk(path, key, fmt="qcow2", **more):
        return dict({"path": path, "format": fmt, "encryption": {"key-file": key}}, **more)

    def holds(self, path, key, fmt, pattern):
        """Whether the image opens in another program with that key, and has PATTERN (unless None) in its first 4 KiB."""
        image = {"driver": fmt, "file.filename": path}
        image.update({"key-secret": "k"} if fmt == "luks" else {"encrypt.key-secret": "k"})
        words = ",".join(f"{k}={v}" for k, v in image.items())
        done = subprocess.run(["qemu-io", "--object", f"secret,id=k,file={key}", "--image-opts", "-r", "-c",
                               "read 0 4k" if pattern is None else f"read -P {pattern:#x} 0 4k", words], capture_output=True, text=True, check=False)
        return done.returncode == 0 and "Pattern verification failed" not in done.stdout, done.stdout + done.stderr

    @staticmethod
    def objects(qmp):
        return ({node["node-name"] for node in qmp.execute("query-named-block-nodes", {"flat": True})},
                {item["name"] for item in qmp.execute("qom-list", {"path": "/objects"})},
                {item["name"] for item in qmp.execute("qom-list", {"path": "/machine/peripheral"})},
                json.dumps(qmp.execute("query-fdsets")))

    def write(self, qmp, disk, pattern):
        out = qmp.execute("human-monitor-command", {
            "command-line": f'qemu-io -d /machine/peripheral/{disk}/virtio-backend "write -P {pattern:#x} 0 4k"'})
        self.assertEqual(out, "", "QEMU prints that it is done, and says what is wrong")

    def test_disks_cold_and_plugged(self):
        keys = [self.key(f"k{i}", text) for i, text in enumerate(TEXTS)]
        cold = self.image("cold.qcow2", keys[0])
        plain = self.image("plug.luks", keys[1], fmt="luks")
        base = self.image("base.luks", keys[1], fmt="luks")
        top = self.image("top.qcow2", keys[2], backing=("base.luks", "luks"))
        serial = self.w.start_tiny("a", disks=[self.disk(cold, keys[0])])
        with self.w.control("a") as qmp:
            before = self.objects(qmp)
            self.write(qmp, "vda", 0x5a)
            self.w.ok("disk", "add", "a", f"id=vdx,path={plain},format=luks,key-file={keys[1]}")
            self.write(qmp, "vdx", 0x5b)
            chain = self.disk(top, keys[2], id="vdy", backing=self.disk(base, keys[1], "luks"))
            self.w.ok("disk", "add", "a", json.dumps(chain))
            self.write(qmp, "vdy", 0x5c)
            self.assertLessEqual({"vda-key", "vdx-key", "vdy-key", "vdy-b1-key"}, self.objects(qmp)[1])
            self.assertEqual(self.w.status("a").get("drift", []), [])
            for disk in ("vdx", "vdy"):
                self.w.ok("disk", "remove", "a", disk)
                serial.expect("EJECT")
            self.assertEqual(self.objects(qmp), before, "the keys go with their disks")
            qmp.send("quit")
        self.w.wait_state("a", "stopped")
        for path, key, fmt, pattern in ((cold, keys[0], "qcow2", 0x5a), (plain, keys[1], "luks", 0x5b)):
            self.assertTrue(*self.holds(path, key, fmt, pattern))
            with open(path, "rb") as f:
                self.assertNotIn(bytes([pattern]) * 512, f.read(), "what was written is encrypted")

    def test_what_fails_leaves_no_key(self):
        key, wrong = self.key("k", TEXTS[0]), self.key("wrong")
        image, plain = self.image("x.qcow2", key), self.image("plain.qcow2")
        self.w.start_tiny("a")
        with self.w.control("a") as qmp:
            before = self.objects(qmp)
            spec = self.w.ok("show", "a").out
            readable = self.key("readable", mode=0o644)
            for words, rc, said in ((f"path={image},format=qcow2,key-file={wrong}", FAILED, "Invalid password"),
                                    (f"path={image},format=qcow2,key-file={readable}", USAGE, "chmod 600"),
                                    (f"path={image},format=qcow2,key-file={self.aside}/none", HOST, "No such file"),
                                    (f"path={image},format=qcow2", USAGE, "names no key"),
                                    (f"path={plain},format=qcow2,key-file={key}", USAGE, "is not encrypted"),
                                    (f"path={plain},format=raw,key-file={key}", USAGE, "cannot be encrypted"),
                                    (f"path={image},format=luks,key-file={key}", FAILED, "not in LUKS format")):
                with self.subTest(words=words):
                    result = self.w.expect(rc, "disk", "add", "a", words)
                    self.assertIn(said, result.err)
                    self.assertEqual(self.objects(qmp), before)
            self.assertEqual(self.w.ok("show", "a").out, spec)

    def test_an_image_is_made_with_its_key(self):
        key = self.key("k")
        self.w.create("a", tiny_spec())
        self.assertEqual(measured_again(lambda: self.w.run("disk", "add", "a", f"size=1M,key-file={key}").err), "")
        disk = self.w.ok("show", "a", "-o", "json").json()["spec"]["disks"][-1]
        self.assertEqual((disk["format"], disk["encryption"]), ("qcow2", {"key-file": key}))
        self.assertTrue(*self.holds(disk["path"], key, "qcow2", None))
        plain = os.path.join(self.aside, "x.luks")
        words = ("image", "create", plain, "1M", "--format", "luks", "--key-file", key)
        self.assertEqual(measured_again(lambda: self.w.run(*words).err), "")
        self.assertTrue(*self.holds(plain, key, "luks", None))
        self.assertIn("key-file", self.w.expect(USAGE, "image", "create", plain + "2", "1M", "--format", "luks").err)
        self.w.ok("start", "a", timeout=120)

    # -- Key slots

    def change_keys(self, rc, what, path, *words, **kw):
        """image key WHAT, again while qemu-img cannot measure how fast this machine is."""
        status = []

        def attempt():
            result = self.w.run("image", "key", what, path, *words, **kw)
            status.append(result.rc)
            return result.err
        said = measured_again(attempt)
        self.assertEqual(status[-1], rc, said)
        return said

    def opens(self, path, fmt, *keys):
        return [self.holds(path, key, fmt, None)[0] for key in keys]

    def test_key_slots(self):
        first, second, third = self.key("k0", TEXTS[0]), self.key("second"), self.key("third")
        quick = ("--iter-time", "10")
        for fmt in ("qcow2", "luks"):
            with self.subTest(fmt=fmt):
                path = self.image(f"x.{fmt}", first, fmt)
                self.assertIn("Invalid password", self.change_keys(HOST, "add", path, "--key-file", second, "--new-key-file", third))
                self.assertIn("the old one", self.change_keys(USAGE, "add", path, "--key-file", first, "--new-key-file", first))
                self.change_keys(OK, "add", path, "--key-file", first, "--new-key-file", second, *quick)
                self.assertEqual(self.opens(path, fmt, first, second, third), [True, True, False])
                self.change_keys(OK, "replace", path, "--key-file", first, "--new-key-file", third, *quick)
                self.assertEqual(self.opens(path, fmt, first, second, third), [False, True, True])
                self.change_keys(OK, "remove", path, "--key-file", third, "--slot", "1")
                self.assertEqual(self.opens(path, fmt, second, third), [False, True])
                for words in ((), ("--slot", "2")):
                    self.assertIn("refusing", self.change_keys(HOST, "remove", path, "--key-file", third, *words))
                self.assertEqual(self.opens(path, fmt, third), [True], "the last key stays")

    def test_keys_by_fd_and_of_what_has_none(self):
        first, second = self.key("k0", TEXTS[0]), self.key("second")
        path, plain = self.image("x.qcow2", first), self.image("plain.qcow2")
        with open(second, encoding="ascii") as f:
            text = f.read()
        self.change_keys(OK, "add", path, "--key-file", first, "--new-key-file", "-", "--iter-time", "10", stdin=text)
        self.assertEqual(self.opens(path, "qcow2", first, second), [True, True])
        self.change_keys(OK, "remove", path, "--key-fd", "0", stdin=text)
        self.assertEqual(self.opens(path, "qcow2", first, second), [True, False])
        self.assertIn("not encrypted", self.change_keys(USAGE, "remove", plain, "--key-file", first))
        self.assertIn("has no keys", self.change_keys(USAGE, "remove", plain, "--key-file", first, "--from", "raw"))
        self.assertIn("either --key-file or --key-fd", self.change_keys(USAGE, "remove", path))
        self.assertIn("slots 0 to 7", self.change_keys(USAGE, "remove", path, "--key-file", first, "--slot", "8"))

    def test_without_a_key_it_can_be_copied_and_looked_at(self):
        key = self.key("k0", TEXTS[0])
        path, copy = self.image("x.qcow2", key), os.path.join(self.aside, "copy.qcow2")
        self.w.ok("image", "info", "--chain", path)
        self.w.ok("image", "clone", path, copy)
        self.assertEqual(self.opens(copy, "qcow2", key), [True])

    def test_keys_of_a_vm_that_runs_stay(self):
        first, second = self.key("k0", TEXTS[0]), self.key("second")
        path = self.image("x.qcow2", first)
        self.w.start_tiny("a", disks=[self.disk(path, first)])
        for what, words in (("add", ("--new-key-file", second)), ("remove", ()), ("replace", ("--new-key-file", second))):
            said = self.change_keys(STATE, what, path, "--key-file", first, *words)
            self.assertIn("in use by the VM a (running", said)
        self.w.ok("kill", "a")
        said = self.change_keys(OK, "replace", path, "--key-file", first, "--new-key-file", second, "--iter-time", "10")
        self.assertIn("the spec of the VM a", said)

    def test_a_confined_user_needs_no_right_on_the_key(self):
        if os.geteuid() != 0:
            self.skipTest("only root can make QEMU another user's")
        keys = [self.key("k", TEXTS[0]), self.key("l", TEXTS[1])]
        images = [self.image("x.qcow2", keys[0]), self.image("y.luks", keys[1], fmt="luks")]
        for path in (self.w.base, self.aside):
            os.chmod(path, 0o711)
        for path in images:
            os.chown(path, 65534, 65534)
        self.w.create("a", tiny_spec(accel="tcg", user="nobody", disks=[self.disk(images[0], keys[0])]))
        self.w.ok("start", "a")
        self.w.ok("disk", "add", "a", json.dumps(self.disk(images[1], keys[1], "luks", id="vdx")))
        with self.w.control("a") as qmp:
            self.assertLessEqual({"vda-key", "vdx-key"}, self.objects(qmp)[1])

    # -- VNC

    def knock(self, password=None):
        """Speaks RFB as far as the authentication: what is asked for, and whether PASSWORD is let in."""
        with connect_unix(os.path.join(self.w.vm_dir("a"), "vnc.sock")) as sock, sock.makefile("rwb", 0) as vnc:
            vnc.write(vnc.read(12))
            kinds = vnc.read(vnc.read(1)[0])
            if password is None:
                return list(kinds), None
            vnc.write(b"\2")
            # DES with the bits of each byte of the key the other way round.
            key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in password.encode()[:8].ljust(8, b"\0"))
            answer = subprocess.run(["openssl", "enc", "-des-ecb", "-nopad", "-K", key.hex(), "-provider", "legacy", "-provider",
                                     "default"], input=vnc.read(16), stdout=subprocess.PIPE, check=True).stdout
            vnc.write(answer)
            return list(kinds), int.from_bytes(vnc.read(4), "big") == 0

    def test_vnc_asks_for_its_password(self):
        password = secrets.token_hex(3)
        path = self.key("vnc", password + "\n")
        self.w.start_tiny("a", display={"type": "vnc", "password-file": path})
        self.assertEqual(self.knock(), ([2], None), "VNC authentication, and no other way in")
        self.assertEqual(self.knock(password), ([2], True), "the line's end in the file is not of the password")
        self.assertEqual(self.knock(password + "x"), ([2], False))
        self.w.ok("kill", "a")
        os.chmod(path, 0o640)
        self.assertIn("chmod 600", self.w.expect(USAGE, "start", "a").err)

    # -- The canary

    def talk(self, name, commands):
        """A conversation on a socket of the VM, of which every byte is kept."""
        heard = b""
        with connect_unix(os.path.join(self.w.vm_dir("a"), name)) as sock, sock.makefile("rwb", 0) as link:
            for command, arguments in [("qmp_capabilities", {}), *commands]:
                link.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
                while True:
                    line = link.readline()
                    heard += line
                    if b'"return"' in line or b'"error"' in line:
                        break
        self.said.append((name, heard.decode()))

    def converse(self):
        asked = [("query-block", {}), ("query-named-block-nodes", {}), ("qom-list", {"path": "/objects"}), ("qmpctl-show", {}),
                 ("qmpctl-status", {}), ("query-vnc", {})]
        for secret in ("vda-key", "vdx-key", "vnc-password"):
            asked += [("qom-get", {"path": f"/objects/{secret}", "property": name}) for name in ("data", "rawdata", "file")]
            asked.append(("human-monitor-command", {"command-line": f"qom-get /objects/{secret} data"}))
        self.talk("control.sock", asked)
        self.talk("observe.sock", asked)

    def killed_in_the_middle(self, disk):
        """QEMU does not answer while the disk is added, and its keeper is killed."""
        qemu, keeper = self.w.qemu_pid("a"), next(pid for pid, line in self.w.processes().items() if line.startswith("qmpctl run "))
        journal = os.path.join(self.w.vm_dir("a"), "journal.json")
        os.kill(qemu, signal.SIGSTOP)
        try:
            with self.w.control("a") as qmp:
                qmp.send("qmpctl-disk-add", {"disk": disk})
                self.until(lambda: os.path.exists(journal), "the change has not begun")
                os.kill(keeper, signal.SIGKILL)
                self.w.wait_gone([keeper])
            with open(journal, encoding="utf-8") as f:
                self.assertIn(disk["encryption"]["key-file"], f.read(), "the journal says which secret is wanted")
        finally:
            os.kill(qemu, signal.SIGCONT)
        self.w.wait_state("a", "running")
        self.until(lambda: not os.path.exists(journal), "what was cut short is not settled")

    def test_no_secret_stands_anywhere(self):
        keys = [self.key(f"k{i}", text) for i, text in enumerate(TEXTS)]
        wrong, password = self.key("wrong"), self.key("vnc")
        cold, plug = self.image("cold.qcow2", keys[0]), self.image("plug.luks", keys[1], fmt="luks")
        late = self.image("late.qcow2", keys[2])
        # Not all can be seen from outside in the moment that it is there, but what is seen is looked through.
        watch = Watch(self.w.root, self.needles)
        watch.start()
        self.addCleanup(watch.stop)
        serial = self.w.serial("a-serial")
        spec = with_serial(tiny_spec(disks=[self.disk(cold, keys[0])],
                                           display={"type": "vnc", "password-file": password}), serial)
        self.w.create("a", spec)
        self.w.ok("args", "a")
        self.w.ok("start", "a")
        serial.expect("TINY-READY")
        events = self.w.spawn("events", "a")
        words = f"id=vdx,path={plug},format=luks,key-file={keys[1]}"
        self.w.ok("disk", "add", "a", words, "--dry-run")
        self.w.ok("disk", "add", "a", words)
        self.converse()
        for verb in (["args"], ["show"], ["status"], ["logs", "--of", "qemu"], ["logs", "--of", "keeper"]):
            self.w.ok(*verb, "a")
            self.w.ok(*verb, "a", "-o", "json")
        self.w.ok("disk", "list", "a")
        self.w.ok("qmp", "a", "query-named-block-nodes")
        self.w.expect(FAILED, "disk", "add", "a", f"path={late},format=qcow2,key-file={wrong}")
        self.w.ok("disk", "remove", "a", "vdx")
        serial.expect("EJECT")
        self.killed_in_the_middle(self.disk(late, keys[2], id="vdl"))
        self.assertIn("vdl", {row["id"] for row in self.w.ok("disk", "list", "a", "-o", "json").json()})
        with self.w.control("a") as qmp:
            self.write(qmp, "vdl", 0x5d)
            self.assertEqual(qmp.execute("query-fdsets"), [])
        self.converse()
        self.w.ok("disk", "remove", "a", "vdl")
        serial.expect("EJECT")
        self.apply(spec, plug, keys[1])
        serial.expect("EJECT")
        self.w.ok("kill", "a")
        self.change_keys(OK, "add", late, "--key-file", keys[2], "--new-key-file", wrong, "--iter-time", "10")
        self.w.ok("set", "a", f"disks[vda].encryption.key-file={wrong}")
        self.assertIn("Invalid password", self.w.expect(FAILED, "start", "a").err)
        self.w.ok("logs", "a", "--of", "qemu")
        self.w.ok("delete", "a")
        self.assertGreater(watch.rounds, 20)
        watch.stop()
        with open(events.log, encoding="utf-8") as f:
            self.said.append(("events", f.read()))
        self.assertIn("DEVICE_DELETED", self.said[-1][1])
        hits = sorted(watch.hits)
        hits += [f"{what}: {needle!r}" for what, text in self.said for needle in self.needles if needle in text.encode()]
        self.assertEqual(hits, [])

    def apply(self, spec, path, key):
        """The disk comes by apply, and goes by apply."""
        document = os.path.join(self.w.base, "apply.json")
        for disks in (spec["disks"] + [self.disk(path, key, "luks", id="vdx")], spec["disks"]):
            with open(document, "w", encoding="utf-8") as f:
                json.dump(dict(spec, name="a", accel=ACCEL, disks=disks), f)
            self.w.ok("apply", document)


if __name__ == "__main__":
    world.main()
