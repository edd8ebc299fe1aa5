"""An installation into a temporary prefix: its files, docs/example.c built on its library and run, its units."""
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import tempfile
import threading
import unittest

CMAKE = os.environ.get("CMAKE", "cmake")
SOURCE = os.environ.get("SOURCE_DIR") or os.path.realpath(os.path.join(os.path.dirname(__file__), "../.."))
BUILD = os.environ.get("BUILD_DIR") or os.path.join(SOURCE, "build/release")
CC = os.environ.get("CC", "cc").split()
STRICT = ["-Wall", "-Wextra", "-Werror", "-pedantic"]

PATIENCE = 120  # seconds, on a machine that has no time for us

# Below the prefix. LIB: lib, or what the distribution has in its place. VERSION, MAJOR: the library's.
FILES = """
bin/qmpctl
include/qmpproto/qmp.h
LIB/libqmpproto.a
LIB/libqmpproto.so
LIB/libqmpproto.so.MAJOR
LIB/libqmpproto.so.VERSION
LIB/pkgconfig/qmpproto.pc
lib/systemd/system/qmpctl@.service
share/bash-completion/completions/qmpctl
share/doc/qmpctl/architecture.md
share/doc/qmpctl/control-protocol.md
share/doc/qmpctl/examples/example.c
share/doc/qmpctl/examples/qmpctl.openrc
share/doc/qmpctl/exit-status.md
share/doc/qmpctl/first-boot.md
share/doc/qmpctl/reliability.md
share/doc/qmpctl/spec.md
share/doc/qmpctl/storage.md
share/doc/qmpctl/testing.md
share/fish/vendor_completions.d/qmpctl.fish
share/man/man1/qmpctl.1
share/qmpctl/os.json
share/qmpctl/spec.schema.json
share/zsh/site-functions/_qmpctl
""".split()
PROGRAMS = ("bin/qmpctl", "share/doc/qmpctl/examples/qmpctl.openrc")


def run(*argv, **kw):
    done = subprocess.run(argv, text=True, capture_output=True, timeout=PATIENCE, **kw)
    if done.returncode != 0:
        raise AssertionError(f"$ {' '.join(argv)}\n[exit status {done.returncode}]\n{done.stdout}{done.stderr}")
    return done.stdout


def read(*path):
    with open(os.path.join(*path), "rb") as f:
        return f.read()


def files_below(folder):
    return sorted(os.path.relpath(os.path.join(d, f), folder) for d, _, names in os.walk(folder) for f in names)


class FakeMonitor(threading.Thread):
    """A QMP server for one client and one command: an event, then the command's arguments as its reply."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(1)
        self.start()

    def run(self):
        peer = self.listener.accept()[0]
        with peer, peer.makefile("rw", encoding="ascii") as wire:
            def say(message):
                wire.write(json.dumps(message) + "\r\n")
                wire.flush()
            say({"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}, "capabilities": []}})
            say({"return": {}, "id": json.loads(wire.readline())["id"]})
            command = json.loads(wire.readline())
            say({"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}})
            if command["execute"] == "fail":
                say({"error": {"class": "GenericError", "desc": "it fails"}, "id": command["id"]})
            else:
                say({"return": command.get("arguments", {}), "id": command["id"]})
            wire.readline()


class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.base = tempfile.mkdtemp(prefix="qmpctl-install-")
        cls.addClassCleanup(shutil.rmtree, cls.base)
        cls.prefix = os.path.join(cls.base, "prefix")
        run(CMAKE, "--install", BUILD, "--prefix", cls.prefix)
        pc = [f for f in files_below(cls.prefix) if f.endswith("qmpproto.pc")]
        assert len(pc) == 1, files_below(cls.prefix)
        cls.lib = os.path.dirname(os.path.dirname(pc[0]))
        cls.env = dict(os.environ, PKG_CONFIG_PATH=os.path.join(cls.prefix, cls.lib, "pkgconfig"))

    def pkg_config(self, *options):
        return run("pkg-config", *options, "qmpproto", env=self.env).split()

    # -- the files

    def expected(self):
        version = self.pkg_config("--modversion")[0]
        found = {}
        for f in FILES:
            # LIB may be a multiarch folder.
            name = f.replace("LIB/", self.lib + "/").replace("MAJOR", version.split(".")[0]).replace("VERSION", version)
            found[name] = f
        return found

    def test_what_is_where(self):
        self.assertEqual(files_below(self.prefix), sorted(self.expected()))
        for name, listed in self.expected().items():
            mode = stat.S_IMODE(os.stat(os.path.join(self.prefix, name)).st_mode)
            self.assertEqual(mode & 0o022, 0, name)
            self.assertEqual(bool(mode & 0o111), listed in PROGRAMS, f"{name} has mode {mode:o}")

    def test_destdir(self):
        root = os.path.join(self.base, "root")
        run(CMAKE, "--install", BUILD, "--prefix", "/usr", env=dict(os.environ, DESTDIR=root))
        self.assertEqual(files_below(os.path.join(root, "usr")), sorted(self.expected()))
        self.assertEqual(os.listdir(root), ["usr"])
        for name in files_below(root):
            self.assertNotIn(root.encode(), read(root, name), name)
        self.assertIn(b"\nprefix=/usr\n", b"\n" + read(root, "usr", self.lib, "pkgconfig/qmpproto.pc"))
        self.assertIn(b"ExecStart=/usr/bin/qmpctl run", read(root, "usr/lib/systemd/system/qmpctl@.service"))

    def test_no_path_of_the_build_is_in_it(self):
        for name in files_below(self.prefix):
            data = read(self.prefix, name)
            for path in (SOURCE, BUILD):
                self.assertNotIn(path.encode(), data, f"{name} names {path}")

    def test_nothing_but_the_public_symbols_is_exported(self):
        header = read(self.prefix, "include/qmpproto/qmp.h").decode()
        public = set(re.findall(r"QMP_API\s[^;{]*?\b(qmp_\w+)\s*\(", header))
        self.assertGreater(len(public), 30)
        exported = run("nm", "-D", "--defined-only", os.path.join(self.prefix, self.lib, "libqmpproto.so"))
        self.assertEqual({line.split()[-1] for line in exported.splitlines()}, public)

    def test_the_program_runs(self):
        program = os.path.join(self.prefix, "bin/qmpctl")
        self.assertIn(self.pkg_config("--modversion")[0], run(program, "version"))
        self.assertIn(".TH", read(self.prefix, "share/man/man1/qmpctl.1").decode()[:200])

    # -- the library

    def check_example(self, program):
        for command, status, out, err in (("query-x", 0, '{\n  "a": [\n    18446744073709551615\n  ]\n}\n', ""),
                                          ("fail", 1, "", "example: fail: it fails\n")):
            path = os.path.join(self.base, f"{os.path.basename(program)}-{command}.sock")
            monitor = FakeMonitor(path)
            env = dict(os.environ, LD_LIBRARY_PATH=os.path.join(self.prefix, self.lib))
            done = subprocess.run([program, path, command, '{"a": [18446744073709551615]}'], text=True, capture_output=True,
                                  timeout=PATIENCE, env=env)
            monitor.join(PATIENCE)
            monitor.listener.close()
            event, _, rest = done.stdout.partition("\n")
            self.assertIn('"event": "STOP"', event)
            self.assertEqual((done.returncode, rest, done.stderr), (status, out, err))

    def build_example(self, name, *flags):
        program = os.path.join(self.base, name)
        example = os.path.join(self.prefix, "share/doc/qmpctl/examples/example.c")
        run(*CC, "-std=c11", "-D_DEFAULT_SOURCE", *STRICT, example, "-o", program, *flags)
        return program

    def test_the_example_on_the_shared_library(self):
        program = self.build_example("shared", *self.pkg_config("--cflags", "--libs"))
        self.assertIn("libqmpproto.so.0", run("readelf", "-d", program))
        self.check_example(program)

    def test_the_example_on_the_static_library(self):
        # Of libuv Debian has no static one.
        flags = [{"-lqmpproto": "-l:libqmpproto.a"}.get(f, f) for f in self.pkg_config("--static", "--cflags", "--libs")]
        program = self.build_example("static", *flags)
        self.assertNotIn("libqmpproto", run("readelf", "-d", program))
        self.check_example(program)

    def test_the_header_is_c11_and_cxx17(self):
        """As far as libuv's is: in strict C11 that one needs _DEFAULT_SOURCE."""
        for compiler, suffix in (([*CC, "-std=c11", "-D_DEFAULT_SOURCE"], "c"), (["g++", "-std=c++17"], "cc")):
            source = os.path.join(self.base, f"header.{suffix}")
            with open(source, "w", encoding="ascii") as f:
                f.write("#include <qmp.h>\n#include <qmp.h>\nint main() { return qmp_json_u64(nullptr_or_null, 0) == 0; }\n"
                        .replace("nullptr_or_null", "nullptr" if suffix == "cc" else "NULL"))
            program = os.path.join(self.base, f"header-{suffix}")
            run(*compiler, *STRICT, source, "-o", program, *self.pkg_config("--cflags", "--libs"))

    # -- the units

    def test_systemd_takes_the_unit(self):
        unit = os.path.join(self.prefix, "lib/systemd/system/qmpctl@.service")
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], text=True, capture_output=True, timeout=PATIENCE)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))

    def test_openrc_takes_the_script(self):
        script = os.path.join(self.prefix, "share/doc/qmpctl/examples/qmpctl.openrc")
        run("sh", "-n", script)
        self.assertIn(f"qmpctl={self.prefix}/bin/qmpctl", read(script).decode())


if __name__ == "__main__":
    unittest.main(verbosity=2)
