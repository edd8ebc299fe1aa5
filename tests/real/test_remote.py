"""Images that servers have: their headers are looked into before QEMU opens them, and the verbs on images reach them."""
import os
import shutil
import struct
import subprocess

import servers
import world
from world import USAGE, WorldTest

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


if __name__ == "__main__":
    world.main()
