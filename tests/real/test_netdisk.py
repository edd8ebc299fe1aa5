"""Disks that an iSCSI target, an SSH server or a web server has."""
import os
import re
import secrets
import subprocess

import servers
import world
from world import FAILED, STATE, USAGE, WorldTest


class NetDisk(WorldTest):
    def serve(self, server):
        self.addCleanup(server.end)
        return server.start()

    def io(self, name, where, command):
        """A command of qemu-io on a device or one of QEMU's nodes; what it printed, which is in QEMU's log."""
        log = os.path.join(self.w.vm_dir(name), "qemu.log")
        before = os.path.getsize(log)
        device = f"-d /machine/peripheral/{where}/virtio-backend" if "-" not in where else where
        with self.w.control(name) as qmp:
            refused = qmp.execute("human-monitor-command", {"command-line": f'qemu-io {device} "{command}"'}, timeout=30)
        self.assertEqual(refused, "")
        with open(log, "rb") as f:
            f.seek(before)
            return f.read().decode()

    def has_bytes(self, name, where, pattern):
        said = self.io(name, where, f"read -P {pattern} 0 512")
        self.assertIn("read 512/512", said)
        self.assertNotIn("verification failed", said)

    def nodes(self, name):
        with self.w.control(name) as qmp:
            return {n["node-name"] for n in qmp.execute("query-named-block-nodes", {"flat": True})}

    def objects(self, name):
        with self.w.control(name) as qmp:
            return {o["name"] for o in qmp.execute("qom-list", {"path": "/objects"})}

    def refused(self, words, *why, name="demo"):
        """The VM goes on, and nothing is left of it."""
        before = self.nodes(name)
        result = self.w.run("disk", "add", name, words)
        self.assertEqual(result.rc, FAILED, result)
        self.assertRegex(result.err, re.compile("|".join(why)))
        self.assertEqual(self.nodes(name), before)
        self.assertEqual(self.w.state(name), "running")


class Web(NetDisk):
    def setUp(self):
        super().setUp()
        self.port = servers.free_port()
        self.folder = os.path.join(self.w.base, "web")
        os.mkdir(self.folder)
        self.base = servers.image(self.w, "web/base.qcow2", format="qcow2")
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 0x41 0 64k", self.base], check=True, capture_output=True)

    def overlay(self, url):
        path = servers.image(self.w, "over.qcow2", "8M", "-u", "-b", url, "-F", "qcow2", format="qcow2")
        return {"path": path, "format": "qcow2", "backing": {"path": url, "format": "qcow2"}}

    def test_a_base_that_is_only_read(self):
        self.serve(servers.web(self.w, self.port, self.folder))
        url = f"http://127.0.0.1:{self.port}/base.qcow2"
        with open(self.base, "rb") as f:
            before = f.read()
        self.w.start_tiny("demo", disks=[self.overlay(url)])
        self.has_bytes("demo", "vda", "0x41")
        self.assertIn("wrote 512/512", self.io("demo", "vda", "write -P 0x42 0 512"))
        self.has_bytes("demo", "vda", "0x42")
        self.has_bytes("demo", "vda-b1", "0x41")
        with open(self.base, "rb") as f:
            self.assertEqual(f.read(), before)
        result = self.w.expect(USAGE, "disk", "add", "demo", f"{url},format=qcow2")
        self.assertIn("can only be read", result.err)
        self.w.ok("disk", "add", "demo", f"{url}?key=1,format=qcow2,read-only=true")
        self.refused(f"http://127.0.0.1:{self.port}/none,format=raw,read-only=true", "404")

    def test_https_by_the_authorities_of_the_host(self):
        """Trusted where the host's authorities are; in a mount namespace, one of our own is."""
        authority = servers.Authority(f"{self.w.base}/ca")
        own = authority.issue("server")
        self.serve(servers.web(self.w, self.port, self.folder, (f"{own}/server-cert.pem", f"{own}/server-key.pem")))
        url = f"https://localhost:{self.port}/base.qcow2"
        self.w.create_tiny("demo", disks=[self.overlay(url)])
        result = self.w.run("start", "demo")
        self.assertNotEqual(result.rc, 0)
        self.assertIn("certificate", result.err)
        subprocess.run(["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/ssl/certs/ca-certificates.crt && exec "$@"',
                        f"{own}/ca-cert.pem", *self.w.argv("start", "demo")], check=True, env=self.w.env, timeout=60,
                       stdout=subprocess.DEVNULL)
        self.has_bytes("demo", "vda", "0x41")


class Ssh(NetDisk):
    def test_key_from_the_agent_and_the_hosts_key(self):
        port = servers.free_port()
        server = self.serve(servers.Ssh(self.w, port))
        self.w.env["SSH_AUTH_SOCK"] = server.agent_socket
        path = servers.image(self.w, "a b.img")
        url = f"ssh://127.0.0.1:{port}{path.replace(' ', '%20')}"
        self.w.start_tiny("demo", disks=[{"path": f"{url}?host-key={server.fingerprint}", "format": "raw"}])
        self.assertIn("wrote 512/512", self.io("demo", "vda", "write -P 0x42 0 512"))
        self.io("demo", "vda", "flush")
        with open(path, "rb") as f:
            self.assertEqual(f.read(512), b"B" * 512)
        other = servers.image(self.w, "b.img")
        url = f"ssh://127.0.0.1:{port}{other}"
        wrong = "SHA256:" + "A" * 43
        self.refused(f"{url}?host-key={wrong},format=raw", "fingerprint .* does not match")
        self.refused(f"{url},format=raw", "known_hosts|host key")
        self.refused(f"ssh://127.0.0.1:{port}/none?host-key={server.fingerprint},format=raw", "No such file")
        self.w.ok("disk", "add", "demo", f"{url}?host-key={server.fingerprint},format=raw")
        self.w.ok("disk", "remove", "demo", "vdb")

    def test_a_configuration_that_runs_programs(self):
        """libssh would have QEMU run one, at which its sandbox ends it: refused, cold and hot, and the VM goes on."""
        port = servers.free_port()
        server = self.serve(servers.Ssh(self.w, port))
        config = os.path.join(self.w.base, "ssh_config")
        with open(config, "w", encoding="ascii") as f:
            f.write(f'Match exec "touch {self.w.base}/ran"\n  Compression no\n')
        url = f"ssh://127.0.0.1:{port}{servers.image(self.w, 'a.img')}?host-key={server.fingerprint}"
        self.w.create_tiny("demo")
        self.w.create_tiny("cold", disks=[{"path": url, "format": "raw"}])
        env = dict(self.w.env, SSH_AUTH_SOCK=server.agent_socket)

        def within(*args):
            return subprocess.run(["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/ssh/ssh_config && exec "$@"', config,
                                   *self.w.argv(*args)], env=env, capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(within("start", "demo").returncode, 0)
        qemu = self.w.qemu_pid("demo")
        for args in (("disk", "add", "demo", f"{url},format=raw"), ("start", "cold")):
            result = within(*args)
            self.assertNotEqual(result.returncode, 0)
            self.assertIn("Match exec", result.stderr)
        self.assertEqual((self.w.qemu_pid("demo"), self.w.state("demo")), (qemu, "running"))
        self.assertFalse(os.path.exists(f"{self.w.base}/ran"))


class Iscsi(NetDisk):
    def test_cold_and_hot_and_one_target_by_two_names(self):
        port = servers.free_port()
        path = servers.image(self.w, "a.img")
        server = self.serve(servers.Iscsi(self.w, port, path))
        url = f"iscsi://127.0.0.1:{port}/{server.TARGET}"
        self.w.start_tiny("cold", disks=[{"path": f"{url}/1", "format": "raw"}])
        self.assertIn("wrote 512/512", self.io("cold", "vda", "write -P 0x42 0 512"))
        self.io("cold", "vda", "flush")
        with open(path, "rb") as f:
            self.assertEqual(f.read(512), b"B" * 512)
        self.w.start_tiny("hot")
        result = self.w.expect(STATE, "disk", "add", "hot", f"{url.replace('127.0.0.1', 'localhost')}/1,format=raw")
        self.assertIn("in use by the VM cold", result.err)
        self.refused(f"{url}/9,format=raw", "LUN", name="hot")
        self.refused(f"iscsi://127.0.0.1:{port}/iqn.none/1,format=raw", "Target not found", name="hot")
        self.w.ok("stop", "cold")
        self.w.ok("disk", "add", "hot", f"{url}/1,format=raw")
        self.has_bytes("hot", "vda", "0x42")
        self.w.ok("disk", "remove", "hot", "vda")

    def test_chap(self):
        """A password in a file: the right one cold and hot; a wrong one; none; and it stands nowhere."""
        port, password = servers.free_port(), secrets.token_hex(8)
        server = self.serve(servers.Iscsi(self.w, port, servers.image(self.w, "a.img"), user=("me", password)))
        right, wrong = (os.path.join(self.w.base, name) for name in ("right", "wrong"))
        for path, text in ((right, password), (wrong, secrets.token_hex(8))):
            with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="ascii") as f:
                f.write(f"{text}\n")
        url = f"iscsi://me@127.0.0.1:{port}/{server.TARGET}/1,format=raw"
        self.w.start_tiny("demo")
        objects = self.objects("demo")
        self.refused(f"{url},password-file={wrong}", "Failed to log in")
        self.refused(url.replace("me@", ""), "Failed to log in")
        self.assertEqual(self.objects("demo"), objects)
        self.w.ok("disk", "add", "demo", f"{url},password-file={right}")
        self.has_bytes("demo", "vda", "0x00")
        self.w.ok("stop", "demo")
        self.w.ok("start", "demo")
        self.has_bytes("demo", "vda", "0x00")
        self.assertFalse(any(password in cmd for cmd in self.w.processes().values()))
        self.assertNotIn(password, self.w.logs() + self.w.ok("show", "demo").out + self.w.ok("args", "demo").out)
        self.w.ok("disk", "remove", "demo", "vda")
        self.assertEqual(self.objects("demo"), objects)


if __name__ == "__main__":
    world.main()
