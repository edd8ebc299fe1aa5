"""Disks that an NBD server has: over UNIX and TCP, encrypted, gone and back, stalled; two VMs with one of them."""
import os
import re
import secrets
import signal
import socket
import time

import servers
import world
from guest import BOOT, linux_spec, with_serial
from qmp import QmpError
from world import FAILED, PATIENCE, STATE, USAGE, WorldTest


class NbdTest(WorldTest):
    def serve(self, path, **kw):
        server = servers.nbd(self.w, path, **kw)
        self.addCleanup(server.end)
        return server.start()

    def has(self, name, what):
        """The names of QEMU's block nodes or objects."""
        with self.w.control(name) as qmp:
            if what == "nodes":
                return {n["node-name"] for n in qmp.execute("query-named-block-nodes", {"flat": True})}
            return {o["name"] for o in qmp.execute("qom-list", {"path": "/objects"})} - {"type"}

    def stopped_but_for_servers(self):
        self.w.wait_gone([pid for pid, cmd in self.w.processes().items() if not cmd.startswith("qemu-nbd")])


class Nbd(NbdTest):
    def test_unix_and_tcp_cold_and_hot(self):
        port = servers.free_port()
        self.serve(servers.image(self.w, "a.img"), export="an export/ä", name="a,b.sock")
        self.serve(servers.image(self.w, "b.img"), export="b", port=port)
        unix = f"nbd+unix:///an%20export/%C3%A4?socket={self.w.base}/a,b.sock"
        self.w.start_tiny("demo", disks=[{"path": unix, "format": "raw"}])
        before = self.has("demo", "nodes")
        self.assertEqual(self.w.ok("disk", "add", "demo", f"nbd://127.0.0.1:{port}/b,format=raw").out.split()[0], "vdb")
        self.assertIn("vdb-file", self.has("demo", "nodes"))
        listed = self.w.ok("disk", "list", "demo", "-o", "json").json()
        self.assertEqual([d["path"] for d in listed], [unix, f"nbd://127.0.0.1:{port}/b"])

        # The next keeper finds what it knows.
        keeper = [pid for pid, cmd in self.w.processes().items() if cmd.startswith("qmpctl run")]
        os.kill(keeper[0], signal.SIGKILL)
        self.w.wait_gone(keeper[:1])
        self.assertEqual(self.w.wait_state("demo", "running"), "running")
        self.assertNotIn("drift", self.w.status("demo"))

        self.w.ok("disk", "remove", "demo", "vdb")
        self.assertEqual(self.has("demo", "nodes"), before)
        self.w.ok("stop", "demo")
        self.stopped_but_for_servers()

    def test_words_with_commas(self):
        self.serve(servers.image(self.w, "a.img"), export="a,b", name="a,b.sock")
        self.w.create_tiny("demo")
        self.w.ok("disk", "add", "demo", f"nbd+unix:///a,,b?socket={self.w.base}/a,,b.sock,format=raw,serial=x")
        disk = self.w.ok("disk", "list", "demo", "-o", "json").json()[0]
        self.assertEqual((disk["path"], disk["serial"]), (f"nbd+unix:///a,b?socket={self.w.base}/a,b.sock", "x"))
        self.w.ok("start", "demo")

    def test_no_server(self):
        """A start says why and leaves nothing; a plug, too, and the VM goes on."""
        port = servers.free_port()
        self.w.create_tiny("cold", disks=[{"path": f"nbd://127.0.0.1:{port}/x", "format": "raw"}])
        result = self.w.run("start", "cold")
        self.assertNotEqual(result.rc, 0)
        self.assertIn("refused", result.err)
        self.assertEqual(self.w.state("cold"), "stopped")
        self.w.start_tiny("hot")
        before = self.has("hot", "nodes")
        result = self.w.run("disk", "add", "hot", f"nbd://127.0.0.1:{port}/x,format=raw")
        self.assertEqual(result.rc, FAILED, result)
        self.assertIn("refused", result.err)
        self.assertEqual(self.has("hot", "nodes"), before)
        self.assertEqual(self.w.state("hot"), "running")

    def test_a_url_that_is_none(self):
        self.w.create_tiny("demo")
        result = self.w.expect(USAGE, "disk", "add", "demo", "nbd://127.0.0.1/x?reconect-delay=3,format=raw")
        self.assertIn('did you mean "reconnect-delay"', result.err)

    def test_two_vms(self):
        """One export is one image, by whatever socket's name it goes; another export is another."""
        path = servers.image(self.w, "a.img")
        self.serve(path, export="x", name="a.sock")
        os.symlink("a.sock", os.path.join(self.w.base, "soft.sock"))

        def disk(export, sock):
            return [{"path": f"nbd+unix:///{export}?socket={self.w.base}/{sock}&reconnect-delay=1", "format": "raw"}]

        self.w.start_tiny("a", disks=disk("x", "a.sock"))
        self.w.create_tiny("b", disks=disk("x", "soft.sock"))
        result = self.w.expect(STATE, "start", "b")
        self.assertIn("in use by the VM a", result.err)
        self.w.create_tiny("c", disks=disk("y", "a.sock"))
        result = self.w.run("start", "c")  # the server has no such export
        self.assertNotIn("in use", result.err)
        self.assertEqual(self.w.state("a"), "running")

    def test_tls(self):
        """Certificates: the right authority, another one, another name, none. Nothing is left of what was refused."""
        own, other = servers.Authority(f"{self.w.base}/own"), servers.Authority(f"{self.w.base}/other")
        port = servers.free_port()
        folder, wrong = own.issue("client"), other.issue("client")
        self.serve(servers.image(self.w, "a.img"), export="a", port=port, options=["--tls-creds=t"],
                   objects=[f"tls-creds-x509,id=t,endpoint=server,verify-peer=on,dir={own.issue('server')}"])
        self.w.start_tiny("demo")
        before = self.has("demo", "nodes"), self.has("demo", "objects")
        disk = f"nbd://127.0.0.1:{port}/a,format=raw"
        for words in ("", f",tls.dir={wrong}", f",tls.dir={folder},tls.hostname=elsewhere", f",tls.dir={self.w.base}/none"):
            with self.subTest(words=words):
                result = self.w.run("disk", "add", "demo", disk + words)
                self.assertEqual(result.rc, FAILED, result)
                self.assertRegex(result.err, re.compile("(?i)TLS|certificate|credentials"))
                self.assertEqual((self.has("demo", "nodes"), self.has("demo", "objects")), before)
        self.w.ok("disk", "add", "demo", f"{disk},tls.dir={folder}")
        self.assertIn("vda-tls", self.has("demo", "objects"))
        self.w.ok("disk", "remove", "demo", "vda")
        self.assertEqual((self.has("demo", "nodes"), self.has("demo", "objects")), before)
        self.w.ok("disk", "add", "demo", f"{disk},tls.dir={folder}")
        self.w.ok("stop", "demo")
        self.w.ok("start", "demo")

    def test_psk(self):
        folder, wrong = f"{self.w.base}/psk", f"{self.w.base}/wrong"
        for path in (folder, wrong):
            os.mkdir(path, 0o700)
            with open(f"{path}/keys.psk", "w", encoding="ascii") as f:
                f.write(f"vms:{secrets.token_hex(32)}\n")
        self.serve(servers.image(self.w, "a.img"), export="a", options=["--tls-creds=t"],
                   objects=[f"tls-creds-psk,id=t,endpoint=server,dir={folder}"])
        self.w.start_tiny("demo")
        disk = f"nbd+unix:///a?socket={self.w.base}/nbd.sock,format=raw,tls.type=psk,tls.username=vms"
        self.assertEqual(self.w.run("disk", "add", "demo", f"{disk},tls.dir={wrong}").rc, FAILED)
        self.w.ok("disk", "add", "demo", f"{disk},tls.dir={folder}")

    def test_a_stalled_server_holds_up_nobody_but_the_guest(self):
        server = self.serve(servers.image(self.w, "a.img"), export="a")
        self.w.start_tiny("other")
        self.w.start_tiny("demo", disks=[{"path": f"nbd+unix:///a?socket={self.w.base}/nbd.sock", "format": "raw"}])
        with self.w.control("demo") as qmp:
            server.stall()
            qmp.execute("blockdev-add", {"driver": "null-co", "node-name": "sink", "size": 8 << 20})
            qmp.execute("blockdev-backup", {"device": "vda-fmt", "target": "sink", "sync": "full", "job-id": "j"})
            for _ in range(3):
                begun = time.monotonic()
                self.assertEqual((self.w.state("demo"), self.w.state("other")), ("running", "running"))
                self.w.ok("disk", "list", "demo")
                self.assertLess(time.monotonic() - begun, PATIENCE)
            self.assertFalse([e for e in qmp.events if e["event"] == "BLOCK_JOB_COMPLETED"])
            server.go_on()
            self.assertNotIn("error", qmp.event("BLOCK_JOB_COMPLETED")["data"])
            server.stall()
            qmp.execute("blockdev-backup", {"device": "vda-fmt", "target": "sink", "sync": "full", "job-id": "k"})
        self.w.ok("kill", "demo")


    def test_a_server_that_says_nothing_holds_up_its_vm_alone(self):
        """By a raw command, and by a disk whose header is not looked into; both VMs are of one keeper."""
        server = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(server.close)
        server.settimeout(PATIENCE)
        port = server.getsockname()[1]
        for name in ("demo", "other"):
            self.w.create_tiny(name)
        self.w.spawn("run", "demo", "other")
        sockets = [os.path.join(self.w.root, "run", name, "control.sock") for name in ("demo", "other")]
        self.until(lambda: all(map(os.path.exists, sockets)), "no keeper")  # a status would take the lock before it does
        for name in ("demo", "other"):
            self.w.wait_state(name, "running")
        before = self.has("demo", "nodes")
        with self.w.control("demo") as qmp:
            ident = qmp.send("blockdev-add", {"driver": "nbd", "node-name": "n", "export": "x", "server": {
                "type": "inet", "host": "127.0.0.1", "port": str(port)}})
            taken = server.accept()[0]
            self.w.wait_state("demo", "unresponsive")
            self.assertEqual(self.w.state("other"), "running")
            self.w.ok("disk", "add", "other", "size=1M")
            taken.close()
            self.w.wait_state("demo", "running")
            with self.assertRaises(QmpError):
                qmp.reply(ident)
        self.assertEqual(self.has("demo", "nodes"), before)
        add = self.w.spawn("disk", "add", "demo", f"nbd://127.0.0.1:{port}/x,format=raw")
        with server.accept()[0]:
            self.w.ok("kill", "demo")
        self.assertNotEqual(add.wait(PATIENCE), 0)
        self.w.ok("kill", "other")
        self.stopped_clean()


class Returning(NbdTest):
    """The Linux guest writes on while its server is away."""

    def test_a_server_that_dies_and_returns(self):
        path = servers.image(self.w, "a.img")
        port = servers.free_port()
        server = self.serve(path, export="a", port=port)
        serial = self.w.serial()
        self.w.create("demo", with_serial(linux_spec(disks=[{"path": f"nbd://127.0.0.1:{port}/a", "format": "raw"}]), serial))
        self.w.ok("start", "demo")
        serial.expect("GUEST-READY", BOOT)
        self.assertEqual(serial.command("echo one | dd of=/dev/vda conv=fsync 2>/dev/null")[0], 0)
        server.end()
        serial.write("w1 echo two | dd of=/dev/vda bs=512 seek=1 conv=fsync 2>&1\n")
        serial.expect("@w1 BEGIN")
        for _ in range(3):
            self.assertEqual(self.w.state("demo"), "running")
        server.start()
        serial.expect("@w1 END 0")
        with open(path, "rb") as f:
            text = f.read(1024)
        self.assertEqual((text[:4], text[512:516]), (b"one\n", b"two\n"))


if __name__ == "__main__":
    world.main()
