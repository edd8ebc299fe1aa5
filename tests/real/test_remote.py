"""Images that servers have: their headers are looked into before QEMU opens them, and the verbs on images reach them."""
import os
import shutil
import signal
import socket
import struct
import subprocess

import servers
import world
from world import FAILED, PATIENCE, USAGE, WorldTest

SHADOW = "/etc/shadow"


class Remote(WorldTest):
    """One server of each kind, with the same files: a good image, and some that would have QEMU open other files."""

    def setUp(self):
        super().setUp()
        self.folder = os.path.join(self.w.base, "images")
        os.mkdir(self.folder)
        self.image("good")
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 0x41 0 64k", self.path("good")], check=True, capture_output=True)
        self.image("backed", "-u", "-b", SHADOW, "-F", "raw")
        self.image("data", "-o", f"data_file={self.w.base}/outside")
        self.image("large")
        with open(self.path("large"), "r+b") as f:
            f.seek(24)
            f.write(struct.pack(">Q", 1 << 60))
        with open(self.path("flat"), "w", encoding="ascii") as f:
            f.write(f'# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\n\nRW 2048 FLAT "{SHADOW}" 0\n')
        with open(self.path("flat"), "a", encoding="ascii") as f:
            f.write("\n" * (65536 - f.tell()))

    #: (image, format, what its refusal names)
    TRAPS = [("backed", "qcow2", SHADOW), ("data", "qcow2", "outside"), ("flat", "vmdk", SHADOW), ("large", "qcow2", str(1 << 60))]

    def path(self, name):
        return os.path.join(self.folder, name)

    def image(self, name, *options, size="8M"):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, self.path(name), size], check=True)

    def serve(self, server):
        self.addCleanup(server.end)
        return server.start()

    def nodes(self, name):
        with self.w.control(name) as qmp:
            return {n["node-name"]: n for n in qmp.execute("query-named-block-nodes", {"flat": True})}

    def looks(self, url, more="", traps=TRAPS, **access):
        """URL(name) is where the image of that name is; MORE: words, ACCESS: members of a disk that reaches it."""
        read_only = {"read-only": True} if url("good").startswith("http") else {}
        words = more + (",read-only=true" if read_only else "")
        good = {"path": url("good"), "format": "qcow2", **read_only, **access}
        self.w.start_tiny("good", disks=[good])
        self.assertEqual(self.nodes("good")["vda-fmt"]["drv"], "qcow2")
        self.w.ok("stop", "good")
        self.w.start_tiny("hot")
        before = set(self.nodes("hot"))
        for name, fmt, named in traps:
            with self.subTest(url=url(name)):
                self.w.create_tiny(name, disks=[{**good, "path": url(name), "format": fmt}])
                result = self.w.expect(USAGE, "start", name)
                self.assertIn(named, result.err)
                self.assertIn(url(name).split("?")[0], result.err)
                self.assertEqual(self.w.state(name), "stopped")
                result = self.w.expect(USAGE, "disk", "add", "hot", f"{url(name)},format={fmt}{words}")
                self.assertIn(named, result.err)
                result = self.w.expect(USAGE, "disk", "add", "hot", url(name) + words)
                self.assertIn(named, result.err)
                self.assertEqual(set(self.nodes("hot")), before)
        # Its format is read from its header.
        self.w.ok("disk", "add", "hot", url("good") + words)
        self.assertEqual([d["format"] for d in self.w.ok("disk", "list", "hot", "-o", "json").json()], ["qcow2"])
        self.assertEqual(self.nodes("hot")["vda-fmt"]["drv"], "qcow2")
        self.w.ok("disk", "remove", "hot", "vda")
        self.assertEqual(set(self.nodes("hot")), before)

    def test_nbd_with_tls(self):
        authority = servers.Authority(f"{self.w.base}/ca")
        client, own = authority.issue("client"), authority.issue("server")
        ports = {name: servers.free_port() for name in ("good", *(trap[0] for trap in self.TRAPS))}
        for name, port in ports.items():
            self.serve(servers.nbd(self.w, self.path(name), export=name, port=port, options=["--tls-creds=t"],
                                   objects=[f"tls-creds-x509,id=t,endpoint=server,verify-peer=on,dir={own}"]))
        self.looks(lambda name: f"nbd://127.0.0.1:{ports[name]}/{name}", f",tls.dir={client}", tls={"dir": client})

    def test_http(self):
        port = servers.free_port()
        self.serve(servers.web(self.w, port, self.folder))
        self.looks(lambda name: f"http://127.0.0.1:{port}/{name}?key=1")

    def test_ssh(self):
        port = servers.free_port()
        server = self.serve(servers.Ssh(self.w, port))
        self.w.env["SSH_AUTH_SOCK"] = server.agent_socket
        self.looks(lambda name: f"ssh://127.0.0.1:{port}{self.path(name)}?host-key={server.fingerprint}", traps=self.TRAPS[:2])

    def test_iscsi_with_a_password(self):
        password = os.path.join(self.w.base, "password")
        with open(os.open(password, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="ascii") as f:
            f.write("secret12chars\n")
        ports = {name: servers.free_port() for name in ("good", "backed")}
        for name, port in ports.items():
            os.truncate(self.path(name), 1 << 20)
            self.serve(servers.Iscsi(self.w, port, self.path(name), user=("me", "secret12chars")))
        self.looks(lambda name: f"iscsi://me@127.0.0.1:{ports[name]}/{servers.Iscsi.TARGET}/1", f",password-file={password}",
                   traps=self.TRAPS[:1], **{"password-file": password})

    def test_what_is_in_the_way(self):
        """A server that is not there, or says nothing; each step says so, and a raw image is not asked for anything."""
        port = servers.free_port()
        url = f"nbd://127.0.0.1:{port}/x"
        self.w.create_tiny("demo", disks=[{"path": url, "format": "qcow2"}])
        result = self.w.run("start", "demo")
        self.assertNotEqual(result.rc, 0)
        self.assertIn(f"reading the header of {url}", result.err)
        self.assertIn("refused", result.err)
        self.assertEqual(self.w.state("demo"), "stopped")
        result = self.w.run("disk", "add", "demo", f"{url}y")
        self.assertIn("refused", result.err)
        self.w.ok("disk", "add", "demo", f"{url}y,format=qcow2")
        self.w.ok("disk", "remove", "demo", "vdb")
        raw = shutil.copy(self.path("good"), self.path("raw"))
        self.serve(servers.nbd(self.w, raw, export="raw", name="raw.sock"))
        self.w.start_tiny("raw", disks=[{"path": f"nbd+unix:///raw?socket={self.w.base}/raw.sock", "format": "raw"}])
        self.assertEqual(self.nodes("raw")["vda-fmt"]["drv"], "raw")

    def silent(self):
        """A server that takes connections, and says nothing; the URL of an image there, and what counts who waits for it."""
        server = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(server.close)

        def waiting():
            return sum("qemu-img" in cmd and " dd " in cmd for cmd in self.w.processes().values())
        return f"nbd://127.0.0.1:{server.getsockname()[1]}/x", waiting

    def said(self, name, proc):
        """What was said last by PROC, and by the VM's keeper."""
        words = []
        for path in (proc.log, os.path.join(self.w.root, "run", name, "keeper.log")):
            if os.path.exists(path):
                with open(path, encoding="utf-8") as f:
                    words += f.read().splitlines()[-1:]
        return "\n".join(words)

    def test_a_start_that_waits_for_silent_servers_is_cut_short(self):
        """By kill, stop, ^C and where who asked is gone; all of its servers are waited for side by side. Nothing is left."""
        url, waiting = self.silent()
        self.w.create_tiny("demo", disks=[{"path": f"{url}{i}", "format": "qcow2"} for i in range(3)])

        def start(*verb):
            proc = self.w.spawn(*verb, "demo")
            self.until(lambda: waiting() == 3, "not all of its servers are asked")
            self.assertEqual(self.w.state("demo"), "starting")
            return proc

        for words in (("kill",), ("stop",), ("stop", "--force")):
            with self.subTest(words=words):
                proc = start("start")
                self.assertIn("start cancelled", self.w.ok(*words, "demo").out)
                self.assertEqual(proc.wait(PATIENCE), FAILED)
                self.assertIn("starting demo: stopped on request", self.said("demo", proc))
                self.stopped_clean()
        for verb, number in (("start", signal.SIGINT), ("start", signal.SIGKILL), ("run", signal.SIGINT), ("run", signal.SIGTERM)):
            with self.subTest(verb=verb, number=number):
                proc = start(verb)
                proc.send_signal(number)
                self.assertNotEqual(proc.wait(PATIENCE), 0)
                self.stopped_clean()
                self.assertNotIn("in time", self.said("demo", proc))
        self.assertEqual(self.w.state("demo"), "stopped")

    def test_what_waits_for_a_silent_server_ends_with_its_vm(self):
        """A disk that was to be added goes no further, and the keeper has nothing to wait for."""
        url, waiting = self.silent()
        self.w.create_tiny("other")
        self.w.ok("start", "other")
        add = self.w.spawn("disk", "add", "other", f"{url},format=qcow2")
        self.until(waiting, "the server is not asked")
        self.w.ok("kill", "other")
        self.assertNotEqual(add.wait(PATIENCE), 0)
        self.assertIn("stopped on request", self.said("other", add))
        self.stopped_clean()

    # -- verbs

    def key(self, name, text):
        path = os.path.join(self.w.base, name)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="ascii") as f:
            f.write(text)
        return path

    def same(self, *words):
        self.assertEqual(self.w.ok("image", "compare", *words).out, "identical\n")

    def test_verbs_on_encrypted_images(self):
        one, two = self.key("one", "the key number one"), self.key("two", "the key number two")
        plain, enc, luks, raw = (self.path(n) for n in ("good", "enc.qcow2", "other.luks", "back.raw"))
        fast = ["--option", "encrypt.iter-time=10"]
        self.w.ok("image", "convert", plain, enc, "--new-key-file", one, *fast)
        self.w.ok("image", "convert", enc, luks, "--key-file", one, "--new-key-file", two, "--option", "iter-time=10")
        self.w.ok("image", "convert", luks, raw, "--key-file", two)
        self.same(plain, raw)
        self.same(enc, luks, "--key-file", one, "--key-file2", two)
        self.assertIn("sound", self.w.ok("image", "check", enc, "--key-file", one).out)
        self.assertEqual(self.w.ok("image", "map", enc, "--key-file", one, "-o", "json").json()[0]["length"], 65536)
        self.w.ok("image", "measure", enc, "--key-file", one)
        self.w.ok("image", "resize", enc, "+1M", "--key-file", one)
        for rc, words, why in ((world.HOST, ["convert", enc, raw + "2"], "(key-file)"),
                               (world.HOST, ["convert", enc, raw + "2", "--key-file", two], "Invalid password"),
                               (USAGE, ["info", plain, "--key-file", one], "not encrypted"),
                               (USAGE, ["info", plain, "--tls", self.w.base], "NBD"),
                               (USAGE, ["info", plain, "--password-file", one], "iSCSI"),
                               (USAGE, ["convert", plain, raw + "2", "--format", "luks"], "key-file")):
            with self.subTest(words=words):
                self.assertIn(why, self.w.expect(rc, "image", *words).err)
                self.assertFalse(os.path.exists(raw + "2"))
        os.chmod(one, 0o644)
        self.assertIn("chmod 600", self.w.expect(USAGE, "image", "check", enc, "--key-file", one).err)
        # A VM's spec says what opens it.
        os.chmod(one, 0o600)
        self.w.create_tiny("demo", disks=[{"path": enc, "format": "qcow2", "encryption": {"key-file": one}}])
        self.same(enc, luks, "--key-file2", two)

    def test_verbs_on_servers(self):
        """From a server and onto one; what it would have opened here is refused; a VM whose disk begins as what is there."""
        authority = servers.Authority(f"{self.w.base}/ca")
        client, own = authority.issue("client"), authority.issue("server")
        good = shutil.copy(self.path("good"), os.path.join(self.w.base, "good.qcow2"))  # whose server has it locked
        with open(self.path("room"), "wb") as f:
            f.truncate(8 << 20)
        ports = {name: servers.free_port() for name in ("good", "backed", "room")}
        for name, port in ports.items():
            self.serve(servers.nbd(self.w, self.path(name), export=name, port=port, options=["--tls-creds=t"],
                                   objects=[f"tls-creds-x509,id=t,endpoint=server,verify-peer=on,dir={own}"]))
        url = {name: f"nbd://127.0.0.1:{port}/{name}" for name, port in ports.items()}
        tls, copy = ["--tls", client], os.path.join(self.w.base, "copy.raw")
        info = self.w.ok("image", "info", url["good"], *tls, "-o", "json").json()
        self.assertEqual((info["format"], info["virtual-size"], info["filename"]), ("qcow2", 8 << 20, url["good"]))
        self.assertIn("sound", self.w.ok("image", "check", url["good"], *tls).out)
        self.w.ok("image", "convert", url["good"], copy, *tls)
        self.same(copy, good)
        for verb, more in (("convert", [copy + "2"]), ("map", []), ("measure", []), ("check", [])):
            with self.subTest(verb=verb):
                result = self.w.run("image", verb, url["backed"], *more, *tls)
                self.assertNotEqual(result.rc, 0)
                self.assertIn(SHADOW, result.err)
                self.assertFalse(os.path.exists(copy + "2"))
        self.assertIn("--replace", self.w.run("image", "convert", copy, url["room"], "--new-tls", client).err)
        self.w.ok("image", "convert", good, url["room"], "--new-tls", client, "--replace")
        self.same(url["room"], copy, *tls)
        self.assertIn("TLS", self.w.run("image", "info", url["good"]).err)
        self.w.ok("create", "vm", "--image", url["good"], "--image-tls", client, "--size", "16M")
        disk = self.w.ok("show", "vm").json()["disks"][0]
        self.assertNotIn("backing", disk)
        self.assertEqual(self.w.ok("image", "info", disk["path"], "-o", "json").json()["virtual-size"], 16 << 20)
        self.same(disk["path"], good)
        result = self.w.run("create", "bad", "--image", url["backed"], "--image-tls", client)
        self.assertIn(SHADOW, result.err)

    def test_a_disk_that_begins_as_a_volume(self):
        self.w.ok("pool", "create", "data", f"dir,path={self.folder}")
        self.w.ok("create", "vm", "--image", "data:good")
        self.same(self.w.ok("show", "vm").json()["disks"][0]["path"], self.path("good"))
        result = self.w.run("create", "bad", "--image", "data:none")
        self.assertIn("there is no image", result.err)


if __name__ == "__main__":
    world.main()
