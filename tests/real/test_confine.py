"""QEMU in its sandbox: what it still does, what would end it there and is refused, and what the kernel says of it."""
import ctypes
import os
import re
import subprocess
import sys

from guest import tiny_spec
from qmp import QmpError
from world import FAILED, HOST, WorldTest, main

# Each has QEMU run a program.
PROGRAMS = [
    ("migrate", {"uri": "exec:cat >/dev/null"}),
    ("migrate-incoming", {"uri": "exec:cat /dev/null"}),
    ("netdev_add", {"type": "tap", "id": "n"}),
    ("netdev_add", {"type": "tap", "id": "n", "script": "no"}),
    ("netdev_add", {"type": "tap", "id": "n", "helper": "/usr/lib/qemu/qemu-bridge-helper"}),
    ("netdev_add", {"type": "bridge", "id": "n", "br": "br0"}),
    ("netdev_add", {"type": "user", "id": "n", "guestfwd": [{"str": "tcp:10.0.2.100:9-cmd:/bin/cat"}]}),
    ("human-monitor-command", {"command-line": "migrate -dexec:cat"}),
    ("human-monitor-command", {"command-line": "netdev_add bridge,id=n,br=br0"}),
]


def proc_status(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def limit(pid, name):
    with open(f"/proc/{pid}/limits", encoding="ascii") as f:
        return re.search(rf"^{name} +(\S+) +(\S+)", f.read(), re.M).groups()


class Sandbox(WorldTest):
    def test_it_is_there_by_default(self):
        self.w.start_tiny("a")
        pid = self.w.qemu_pid("a")
        status = proc_status(pid)
        self.assertEqual((status["Seccomp"], status["NoNewPrivs"]), ("2", "1"))
        self.assertEqual(limit(pid, "Max core file size"), ("0", "0"))
        shown = self.w.ok("show", "a", "-o", "json").json()
        self.assertIs(shown["host"]["sandbox"], True)
        self.assertIn("-sandbox", shown["argv"])

    def test_what_would_run_a_program_is_refused_and_the_vm_goes_on(self):
        self.w.start_tiny("a")
        pid = self.w.qemu_pid("a")
        with self.w.control("a") as qmp:
            for command, arguments in PROGRAMS:
                with self.subTest(command=command, arguments=arguments):
                    with self.assertRaises(QmpError) as why:
                        qmp.execute(command, arguments)
                    self.assertIn("sandbox", why.exception.desc)
                    self.assertEqual(why.exception.data["kind"], "unsupported")
                    self.assertEqual(qmp.execute("query-status")["status"], "running")
                self.assertEqual(self.w.qemu_pid("a"), pid)

    def test_a_raw_member_that_would_run_a_program_is_refused_before_the_start(self):
        nic = {"backend": "user", "qemu": {"netdev": {"smb": "/tmp"}}}
        self.w.create("a", tiny_spec(nics=[nic]))
        result = self.w.expect(FAILED, "start", "a")
        self.assertIn("nics.net0: netdev_add: smb", result.err)
        self.assertIn('"sandbox": false', result.err)

    def test_a_raw_argument_that_runs_a_program_is_a_start_that_fails_with_words(self):
        self.w.create("a", tiny_spec(args=["-incoming", "exec:cat /dev/null"]))
        result = self.w.run("start", "a")
        self.assertIn(result.rc, (FAILED, HOST), str(result))
        self.assertRegex(result.err, "sandbox|not permitted")
        self.stopped_clean()

    def test_what_vms_do_all_day_works_in_it(self):
        serial = self.w.start_tiny("a")
        image = os.path.join(self.w.base, "d.qcow2")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "4M"], check=True)
        self.w.ok("disk", "add", "a", f"id=vdx,path={image},format=qcow2,iothread=true,aio=io_uring,cache=none")
        self.w.ok("nic", "add", "a", "user,id=netx")
        with self.w.control("a") as qmp:
            qmp.execute("snapshot-save", {"job-id": "s", "tag": "one", "vmstate": "vdx-fmt", "devices": ["vdx-fmt"]})
            qmp.event("JOB_STATUS_CHANGE", {"id": "s", "status": "concluded"}, 30)
            self.assertNotIn("error", qmp.execute("query-jobs")[0])
            read, write = os.pipe()
            self.addCleanup(os.close, read)
            qmp.execute("getfd", {"fdname": "away"}, fds=[write])
            os.close(write)
            drain = subprocess.Popen(["cat"], stdin=read, stdout=subprocess.DEVNULL)
            self.addCleanup(drain.wait)
            qmp.execute("stop")
            qmp.execute("migrate", {"uri": "fd:away"})
            qmp.event("STOP", timeout=5)
            self.wait_migrated(qmp)
            qmp.execute("cont")
        self.w.ok("disk", "remove", "a", "vdx")
        self.w.ok("nic", "remove", "a", "netx")
        serial.expect("EJECT")
        self.w.ok("stop", "a")
        self.stopped_clean()

    def wait_migrated(self, qmp):
        while (now := qmp.execute("query-migrate")).get("status") not in ("completed", "failed"):
            qmp.execute("query-status", timeout=5)
        self.assertEqual(now["status"], "completed", now)

    def test_without_it_programs_run_and_nothing_else_changes(self):
        self.w.start_tiny("a", sandbox=False)
        pid = self.w.qemu_pid("a")
        status = proc_status(pid)
        self.assertEqual((status["Seccomp"], status["NoNewPrivs"]), ("0", "1"))
        state = os.path.join(self.w.base, "state")
        with self.w.control("a") as qmp:
            qmp.execute("migrate", {"uri": f"exec:cat >{state}"})
            self.wait_migrated(qmp)
        self.assertGreater(os.path.getsize(state), 1000)


CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000


def sh(command):
    return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout


class Bridge(WorldTest):
    """A tap on a bridge comes from QEMU's helper, which qmpctl runs itself: in a network of its own."""

    def test_a_nic_on_a_bridge_at_the_start_and_plugged(self):
        # The namespaces are this process's own, so the test proper runs in another one.
        if os.geteuid() != 0:
            self.skipTest("namespaces with a bridge need root")
        subprocess.run([sys.executable, "-B", __file__, "Bridge.in_a_namespace"], check=True, timeout=120)

    def in_a_namespace(self):
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS | CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        conf = os.path.join(self.w.base, "etc-qemu")
        os.makedirs(conf)
        with open(os.path.join(conf, "bridge.conf"), "w", encoding="ascii") as f:
            f.write("allow br0\n")
        sh(f"mount --make-rprivate / && mkdir -p /etc/qemu && mount --bind {conf} /etc/qemu")
        sh("ip link add br0 type bridge && ip link set br0 up && ip link set lo up")
        nic = {"id": "net0", "backend": "bridge", "bridge": "br0"}
        serial = self.w.start_tiny("a", nics=[nic])
        self.assertEqual(len(self.ports()), 1)
        self.w.ok("nic", "add", "a", "bridge,bridge=br0,id=netx")
        self.assertEqual(len(self.ports()), 2)
        self.assertEqual(proc_status(self.w.qemu_pid("a"))["Seccomp"], "2")
        self.w.ok("nic", "remove", "a", "netx")
        serial.expect("EJECT")
        self.assertEqual(len(self.ports()), 1)
        self.w.ok("stop", "a")
        self.stopped_clean()
        self.assertEqual(self.ports(), [])

    @staticmethod
    def ports():
        return sh("ip -o link show master br0").splitlines()


if __name__ == "__main__":
    main()
