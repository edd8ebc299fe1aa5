"""What ends QEMU or has it hang, though it should refuse it: it is refused before, and the VM goes on as if nothing had been.

QMPCTL_PERIL=1 tries instead whether each still is one: a QEMU of its own for each is asked without us, and has to end or hang.
"""
import os
import signal
import subprocess
import unittest

from guest import tiny_spec
from qmp import Qmp, QmpClosed, QmpError, QmpTimeout, connect_unix
from world import ACCEL, QEMU, QEMU_IMG, WorldTest, main

TRIED = os.environ.get("QMPCTL_PERIL")


def server(path, **more):
    return {"id": "c0", "backend": {"type": "socket", "data": {
        "addr": {"type": "unix", "data": {"path": path}}, "server": True, **more}}}


def hmp(line):
    return "human-monitor-command", {"command-line": line}


def perils(path):
    """Commands, each with those before it that QEMU carries out. PATH: of a socket that it may make; PATH.fifo is there."""
    silent = ("chardev-add", server(path, wait=False))
    fifo = path + ".fifo"
    return {
        "a FIFO as an image": [("blockdev-add", {"driver": "file", "node-name": "f", "filename": fifo, "read-only": True})],
        "a FIFO below a format": [("blockdev-add", {"driver": "raw", "node-name": "f", "read-only": True, "file": {
            "driver": "file", "filename": fifo}})],
        "a FIFO behind an image": [("blockdev-add", {"driver": "qcow2", "node-name": "f", "read-only": True, "file": {
            "driver": "file", "filename": path + ".over"}})],
        "a FIFO behind an image's base, by a line": [hmp(f"drive_add 0 if=none,id=f,readonly=on,file={path}.top")],
        "a FIFO as an image's data": [("blockdev-add", {"driver": "qcow2", "node-name": "f", "read-only": True, "file": {
            "driver": "file", "filename": path + ".data"}})],
        "a FIFO as an image's second extent": [("blockdev-add", {"driver": "vmdk", "node-name": "f", "read-only": True, "file": {
            "driver": "file", "filename": path + ".vmdk"}})],
        "a FIFO for a chardev": [("chardev-add", {"id": "c0", "backend": {"type": "file", "data": {"out": fifo}}})],
        "a FIFO as a secret": [("object-add", {"qom-type": "secret", "id": "s", "file": fifo})],
        "a FIFO for memory": [("pmemsave", {"val": 0, "size": 4096, "filename": fifo})],
        "a FIFO, by a line": [hmp(f"drive_add 0 if=none,id=f,readonly=on,format=raw,file={fifo}")],
        "a FIFO for memory, by a line": [hmp(f'pmemsave 0 4096 "{fifo}"')],
        "a server that waits": [("chardev-add", server(path, wait=True))],
        "a server that waits, by a line": [hmp(f"chardev-add socket,id=c0,path={path},server=on")],
        "a debugger's server": [hmp(f"gdbserver unix:{path},server=on")],
        "netdev vhost-user": [silent, ("netdev_add", {"type": "vhost-user", "id": "n", "chardev": "c0"})],
        "vhost-user-blk": [silent, ("device_add", {"driver": "vhost-user-blk-pci", "id": "v", "chardev": "c0", "num-queues": 1,
                                                   "bus": "port0"})],
        "vhost-user-blk, by a line": [silent, hmp("device_add vhost-user-blk-pci,id=v,chardev=c0,num-queues=1,bus=port0")],
        "a look at colo-compare": [("qom-list-properties", {"typename": "colo-compare"})],
        "a look at x-remote-object": [("qom-list-properties", {"typename": "x-remote-object"})],
        "colo-compare": [("object-add", {"qom-type": "colo-compare", "id": "o", "primary_in": "a", "secondary_in": "b",
                                         "outdev": "c", "iothread": "i"})],
        "x-remote-object": [("object-add", {"qom-type": "x-remote-object", "id": "o", "fd": "9", "devid": "x"})],
        "a fuse export": [("blockdev-add", {"driver": "null-co", "node-name": "b", "read-zeroes": True}),
                          ("block-export-add", {"type": "fuse", "id": "e", "node-name": "b", "mountpoint": path + ".mount"})],
    }


class Perils(WorldTest):
    def setUp(self):
        super().setUp()
        self.path = os.path.join(self.w.base, "peer.sock")
        with open(self.path + ".mount", "w", encoding="ascii"):
            pass
        fifo = self.path + ".fifo"
        for name, options in ((".over", ["-u", "-b", "peer.sock.fifo", "-F", "raw"]), (".top", ["-u", "-b", self.path + ".over", "-F", "qcow2"]),
                              (".data", ["-o", f"data_file={fifo}"])):
            subprocess.run([QEMU_IMG, "create", "-q", "-f", "qcow2", *options, self.path + name, "1M"], check=True)
        with open(self.path + ".vmdk", "w", encoding="ascii") as f:
            f.write('# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="twoGbMaxExtentFlat"\n'
                    'RW 2048 FLAT "peer.sock.data" 0\n RW\t2048 FLAT "peer.sock.fifo" 0\n')
        if os.path.exists(fifo):
            os.unlink(fifo)
        os.mkfifo(fifo)

    @unittest.skipIf(TRIED, "QMPCTL_PERIL: they are tried on QEMU itself")
    def test_each_is_refused_and_the_vm_goes_on(self):
        self.w.create("a", tiny_spec())
        self.w.ok("start", "a", "--paused")
        pid = self.w.qemu_pid("a")
        for name, commands in perils(self.path).items():
            with self.subTest(name), self.w.control("a") as qmp:
                for command in commands[:-1]:
                    qmp.execute(*command)
                # What comes behind it, unasked for yet, is answered behind it.
                refused, behind = qmp.send(*commands[-1]), qmp.send("query-name")
                with self.assertRaises(QmpError) as why:
                    qmp.reply(refused)
                self.assertIn("so it was not asked", why.exception.desc)
                self.assertEqual(qmp.reply(behind), {"name": "a"})
                if commands[0][0] == "chardev-add" and len(commands) > 1:
                    qmp.execute("chardev-remove", {"id": "c0"})
        self.assertEqual((self.w.qemu_pid("a"), self.w.state("a")), (pid, "paused"))
        # Help is for people who look, and looking ends no VM.
        self.w.run("qmp", "a", "device_add", "driver=virtio-gpu-gl-pci", "--help")
        self.assertEqual(self.w.qemu_pid("a"), pid)

    @unittest.skipIf(TRIED, "QMPCTL_PERIL: they are tried on QEMU itself")
    def test_a_back_end_that_is_there_is_left_to_qemu(self):
        self.w.create("a", tiny_spec())
        self.w.ok("start", "a", "--paused")
        with self.w.control("a") as qmp:
            qmp.execute("chardev-add", server(self.path, wait=False))
            peer = connect_unix(self.path)
            self.until(lambda: not any(c["label"] == "c0" and c["filename"].startswith("disconnected")
                                       for c in qmp.execute("query-chardev")), "it did not see its peer")
            peer.shutdown(2)  # one that would not answer is what QEMU waits for; one that leaves is an error
            ident = qmp.send("device_add", {"driver": "vhost-user-blk-pci", "id": "v", "chardev": "c0", "num-queues": 1})
            with self.assertRaises(QmpError) as why:
                qmp.reply(ident)
            self.assertNotEqual(why.exception.desc, "")
            peer.close()

    @unittest.skipUnless(TRIED, "by hand, when another QEMU is taken in: QMPCTL_PERIL=1")
    def test_each_still_is_one(self):
        for name, commands in perils(self.path).items():
            with self.subTest(name):
                self.assertIn(self.try_on_qemu(commands), ("ended", "hangs"))

    @staticmethod
    def monitor(path):
        try:
            return Qmp(path)
        except OSError:
            return None

    def try_on_qemu(self, commands):
        monitor = os.path.join(self.w.base, "qmp.sock")
        for path in (monitor, self.path):
            if os.path.exists(path):
                os.unlink(path)
        qemu = subprocess.Popen([QEMU or "qemu-system-x86_64", "-nodefaults", "-S", "-machine", "q35", "-accel", ACCEL, "-display",
                                 "none", "-sandbox", "on,spawn=deny", "-device", "pcie-root-port,id=port0,chassis=1",
                                 "-qmp", f"unix:{monitor},server=on,wait=off"], stdin=subprocess.DEVNULL, env=self.w.env)
        try:
            with self.until(lambda: self.monitor(monitor), "no monitor") as qmp:
                for command in commands[:-1]:
                    qmp.execute(*command)
                qmp.execute(*commands[-1], timeout=3)
        except QmpTimeout:
            return "hangs"
        except (QmpClosed, ConnectionError):
            return "ended"
        except QmpError as why:
            return f"refused: {why}"
        finally:
            qemu.send_signal(signal.SIGKILL)
            qemu.wait()
        return "done"


if __name__ == "__main__":
    main()
