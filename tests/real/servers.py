"""Servers of images, on this host: each started, known to answer, and ended with the test."""
import os
import shutil
import signal
import socket
import subprocess
import time


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """One process, in the test's world, that is up when it can be connected to."""

    def __init__(self, world, argv, address, **kw):
        self.world, self.argv, self.address, self.kw = world, argv, address, kw
        self.proc = None

    def connect(self):
        with socket.socket(socket.AF_INET if isinstance(self.address, tuple) else socket.AF_UNIX) as s:
            s.settimeout(5)
            s.connect(self.address)

    def start(self, timeout=10):
        deadline = time.monotonic() + timeout
        self.proc = subprocess.Popen(self.argv, env=dict(self.world.env, **self.kw.get("env", {})), stdin=subprocess.DEVNULL,
                                     stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        while True:
            try:
                self.connect()
                return self
            except OSError:
                ended = self.proc.poll() is not None
                if ended or time.monotonic() > deadline:
                    self.end()
                    raise AssertionError(f"{self.argv}: {'ended' if ended else 'no answer'}: {self.said}") from None
                time.sleep(0.02)

    def stall(self):
        """It has its connections, and says nothing any more."""
        self.proc.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.proc.send_signal(signal.SIGCONT)

    def end(self):
        if self.proc and self.proc.returncode is None:
            self.proc.kill()
            self.said = self.proc.communicate()[0]
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
