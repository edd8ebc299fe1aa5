"""Servers of images, on this host: each started, known to answer, and ended with the test.

servers.py http PORT DIR [CERT KEY]: the web server itself, which serves the files of DIR, in parts where it is asked for
a part.
"""
import http.server
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import uuid

from qmp import PATIENCE


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """One process, in the test's world, that is up when it can be connected to."""

    def __init__(self, world, argv, address):
        self.world, self.argv, self.address = world, argv, address
        self.proc = None
        # A file: what a server forks could hold a pipe open beyond its end.
        self.log = os.path.join(world.base, f"server-{os.path.basename(argv[0])}-{id(self)}.log")

    def connect(self):
        with socket.socket(socket.AF_INET if isinstance(self.address, tuple) else socket.AF_UNIX) as s:
            s.settimeout(PATIENCE)
            s.connect(self.address)

    def run(self):
        with open(self.log, "ab") as log:
            self.proc = subprocess.Popen(self.argv, env=self.world.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def start(self, timeout=PATIENCE):
        deadline = time.monotonic() + timeout
        self.run()
        while True:
            try:
                self.connect()
                return self
            except OSError:
                ended = self.proc.poll() is not None
                if ended or time.monotonic() > deadline:
                    self.end()
                    with open(self.log, encoding="utf-8", errors="replace") as log:
                        raise AssertionError(f"{self.argv}: {'ended' if ended else 'no answer'}: {log.read()}") from None
                time.sleep(0.02)

    def stall(self):
        """It has its connections, and says nothing any more."""
        self.proc.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.proc.send_signal(signal.SIGCONT)

    def end(self):
        if self.proc and self.proc.returncode is None:
            self.proc.kill()
            self.proc.wait(PATIENCE)
        if isinstance(self.address, str) and os.path.exists(self.address):
            os.unlink(self.address)


def image(world, name, size="8M", *options, format="raw"):
    path = os.path.join(world.base, name)
    subprocess.run(["qemu-img", "create", "-q", "-f", format, *options, path, size], check=True)
    return path


def nbd(world, path, export="", port=None, name="nbd.sock", options=(), objects=(), format="raw"):
    """qemu-nbd with PATH, on a port or a UNIX socket NAME; not started yet."""
    address = ("127.0.0.1", port) if port else os.path.join(world.base, name)
    where = ["--bind=127.0.0.1", f"--port={port}"] if port else [f"--socket={address}"]
    argv = ["qemu-nbd", "--persistent", "--shared=8", f"--format={format}", f"--export-name={export}", *where]
    for o in objects:
        argv += ["--object", o]
    return Server(world, argv + list(options) + [path], address)


class Authority:
    """Certificates of an authority of its own: folders ca-cert.pem, {server,client}-{cert,key}.pem, as QEMU reads them."""

    def __init__(self, folder):
        self.folder = folder
        os.makedirs(folder)
        self.config = os.path.join(folder, "openssl.cnf")
        with open(self.config, "w", encoding="ascii") as f:
            f.write("[req]\ndistinguished_name=dn\n[dn]\n")
        self.request("ca-key.pem", "ca-cert.pem", "/CN=test authority", ("basicConstraints=critical,CA:TRUE",
                                                                        "keyUsage=critical,keyCertSign"))

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def request(self, key, cert, subject, extensions, *options):
        argv = ["openssl", "req", "-x509", "-config", self.config, "-newkey", "ec", "-pkeyopt",
                "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", subject, "-keyout", self.path(key), "-out",
                self.path(cert), *options]
        for e in extensions:
            argv += ["-addext", e]
        subprocess.run(argv, check=True, capture_output=True)

    def issue(self, role, names="DNS:localhost,IP:127.0.0.1"):
        """A folder with the authority's certificate, and a ROLE's ("server", "client") own; its path."""
        os.makedirs(self.path(role), exist_ok=True)
        shutil.copy(self.path("ca-cert.pem"), self.path(role, "ca-cert.pem"))
        self.request(f"{role}/{role}-key.pem", f"{role}/{role}-cert.pem", f"/CN={role}",
                     ("basicConstraints=critical,CA:FALSE", "keyUsage=digitalSignature",
                      f"extendedKeyUsage={role}Auth", f"subjectAltName={names}"),
                     "-CA", self.path("ca-cert.pem"), "-CAkey", self.path("ca-key.pem"))
        return self.path(role)


# ---- The web ----

class Files(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, with_body):
        path = os.path.join(sys.argv[3], os.path.basename(self.path.split("?")[0]))
        if not os.path.isfile(path):
            self.send_error(404)
            return
        size = os.path.getsize(path)
        first, last = 0, size - 1
        if part := self.headers.get("Range"):
            begin, _, end = part.partition("=")[2].partition("-")
            first, last = int(begin), min(int(end or last), last)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        if with_body:
            with open(path, "rb") as f:
                f.seek(first)
                self.wfile.write(f.read(last - first + 1))


def web(world, port, folder, certificate=()):
    """CERTIFICATE: the files of a certificate and its key, for https."""
    return Server(world, [sys.executable, "-B", __file__, "http", str(port), folder, *certificate], ("127.0.0.1", port))


def serve_files():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Files)
    if len(sys.argv) > 4:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[4], sys.argv[5])
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


# ---- SSH ----

class Ssh(Server):
    """sshd with a host key of its own, that lets in whoever has the key in the agent at .agent_socket."""

    def __init__(self, world, port):
        self.folder = os.path.join(world.base, "ssh")
        os.mkdir(self.folder, 0o700)
        os.makedirs("/run/sshd", exist_ok=True)
        for key in ("host", "id"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.path(key)], check=True)
        said = subprocess.run(["ssh-keygen", "-lf", self.path("host.pub")], check=True, capture_output=True, text=True)
        self.fingerprint = said.stdout.split()[1]
        with open(self.path("config"), "w", encoding="ascii") as f:
            f.write(f"Port {port}\nListenAddress 127.0.0.1\nHostKey {self.path('host')}\nAuthorizedKeysFile {self.path('id.pub')}\n"
                    "PidFile none\nStrictModes no\nUsePAM no\nSubsystem sftp internal-sftp\n")
        self.agent_socket = self.path("agent.sock")
        self.agent = Server(world, ["ssh-agent", "-D", "-a", self.agent_socket], self.agent_socket)
        sshd = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin")
        super().__init__(world, [sshd, "-D", "-e", "-f", self.path("config")], ("127.0.0.1", port))

    def path(self, name):
        return os.path.join(self.folder, name)

    def start(self, timeout=PATIENCE):
        self.agent.start()
        subprocess.run(["ssh-add", "-q", self.path("id")], check=True, env=dict(os.environ, SSH_AUTH_SOCK=self.agent_socket))
        return super().start(timeout)

    def end(self):
        self.agent.end()
        super().end()


# ---- iSCSI ----

class Iscsi(Server):
    """tgtd with one target, whose LUN 1 is PATH; USER: (name, password) that CHAP asks for."""

    TARGET = "iqn.2024-01.org.example:disks"

    def __init__(self, world, port, path, user=None):
        os.makedirs("/run/tgtd", exist_ok=True)
        self.channel, self.path, self.user = port % 32768, path, user
        super().__init__(world, ["tgtd", "-f", "-C", str(self.channel), "--iscsi", f"portal=127.0.0.1:{port}"], ("127.0.0.1", port))

    def admin(self, *args):
        subprocess.run(["tgtadm", "-C", str(self.channel), "--lld", "iscsi", *args], check=True, capture_output=True)

    def start(self, timeout=PATIENCE):
        super().start(timeout)
        self.admin("--op", "new", "--mode", "target", "--tid", "1", "-T", self.TARGET)
        self.admin("--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", self.path)
        if self.user:
            self.admin("--op", "new", "--mode", "account", "--user", self.user[0], "--password", self.user[1])
            self.admin("--op", "bind", "--mode", "account", "--tid", "1", "--user", self.user[0])
        self.admin("--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL")
        return self

    def end(self):
        super().end()
        for name in (f"socket.{self.channel}", f"socket.{self.channel}.lock"):
            if os.path.exists(f"/run/tgtd/{name}"):
                os.unlink(f"/run/tgtd/{name}")


# ---- Ceph ----

class Ceph:
    """A cluster: one monitor, one OSD that keeps all in memory, no manager; with one pool, "rbd". All in one folder, .conf is
    what a client needs."""

    CONF = """[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{port}/0,v1:127.0.0.1:{port1}/0]
public addr = 127.0.0.1
keyring = {folder}/$name.keyring
run dir = {folder}
admin socket = {folder}/$name.$pid.asok
log file = {folder}/$name.log
crash dir = {folder}
mon data = {folder}/mon
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 268435456
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
mon allow pool size one = true
"""

    def __init__(self, world):
        self.world, self.folder = world, os.path.join(world.base, "ceph")
        self.conf = self.path("ceph.conf")
        os.makedirs(self.path("mon"))
        os.mkdir(self.path("osd"))
        self.port, self.port1 = free_port(), free_port()
        self.servers = []

    def path(self, name):
        return os.path.join(self.folder, name)

    def run(self, *argv, timeout=60):
        done = subprocess.run(argv, env=dict(self.world.env, CEPH_CONF=self.conf), stdin=subprocess.DEVNULL, cwd=self.folder,
                              capture_output=True, text=True, timeout=timeout, check=False)
        if done.returncode != 0:
            raise AssertionError(f"{argv}: exit status {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def start(self):
        fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
        with open(self.conf, "w", encoding="ascii") as f:
            f.write(self.CONF.format(fsid=fsid, port=self.port, port1=self.port1, folder=self.folder))
        self.run("ceph-authtool", "--create-keyring", "mon..keyring", "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        self.run("ceph-authtool", "--create-keyring", "client.admin.keyring", "--gen-key", "-n", "client.admin", "--cap", "mon",
                 "allow *", "--cap", "osd", "allow *")
        self.run("ceph-authtool", "mon..keyring", "--import-keyring", "client.admin.keyring")
        self.run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{self.port},v1:127.0.0.1:{self.port1}]",
                 "monmap")
        self.run("ceph-mon", "-i", "a", "--mkfs", "--monmap", "monmap", "--keyring", "mon..keyring")
        self.serve("ceph-mon", "-f", "-i", "a")
        self.run("ceph", "--connect-timeout", "30", "osd", "new", osd, "0")
        with open(self.path("osd.0.keyring"), "w", encoding="ascii") as f:
            f.write(self.run("ceph", "auth", "get-or-create", "osd.0", "mon", "allow *", "osd", "allow *"))
        self.run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self.serve("ceph-osd", "-f", "-i", "0", ready=False)
        self.run("ceph", "osd", "pool", "create", "rbd", "8")
        self.run("rbd", "pool", "init", "rbd")
        return self

    def serve(self, *argv, ready=True):
        server = Server(self.world, [*argv, "--conf", self.conf], ("127.0.0.1", self.port))
        self.servers.append(server)
        if ready:
            server.start(30)
        else:
            server.run()

    def end(self):
        for server in reversed(self.servers):
            server.end()


if __name__ == "__main__":
    serve_files()
