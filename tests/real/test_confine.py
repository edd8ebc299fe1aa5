"""QEMU confined: in its sandbox, as another user; what it still does, and what is refused before it is asked."""
import ctypes
import grp
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import unittest

from guest import guest_file, tiny_spec, with_serial
from qmp import Qmp, QmpClosed, QmpError, connect_unix
from world import ACCEL, FAILED, HOST, PATIENCE, STATE, USAGE, WorldTest, main

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


CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000


def sh(command):
    return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout


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
        self.assertRegex(result.err, 'its sandbox ended it, .*"sandbox": false|not permitted')
        self.stopped_clean()

    def test_an_end_by_the_sandbox_says_so(self):
        # A monitor that qmpctl does not stand before.
        path = os.path.join(self.w.base, "other.sock")
        self.w.start_tiny("a", args=["-qmp", f"unix:{path},server=on,wait=off"])
        with Qmp(path) as qmp:
            try:
                qmp.execute("migrate", {"uri": "exec:cat"})
            except (QmpClosed, ConnectionResetError):
                pass
            except QmpError as why:
                self.assertRegex(why.desc, "not permitted")
                return  # QEMU 10 refuses it itself
        self.stopped_clean()
        self.assertRegex(self.w.ok("status", "a").out,
                         r"(?m)^last end  crashed: its sandbox ended it, .*\"sandbox\": false")

    def test_what_vms_do_all_day_works_in_it(self):
        serial = self.w.start_tiny("a")
        image = os.path.join(self.w.base, "d.qcow2")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "4M"], check=True)
        self.w.ok("disk", "add", "a", f"id=vdx,path={image},format=qcow2,iothread=true,aio=io_uring,cache=none")
        self.w.ok("nic", "add", "a", "user,id=netx")
        with self.w.control("a") as qmp:
            qmp.execute("snapshot-save", {"job-id": "s", "tag": "one", "vmstate": "vdx-fmt", "devices": ["vdx-fmt"]})
            qmp.event("JOB_STATUS_CHANGE", {"id": "s", "status": "concluded"})
            self.assertNotIn("error", qmp.execute("query-jobs")[0])
            read, write = os.pipe()
            self.addCleanup(os.close, read)
            qmp.execute("getfd", {"fdname": "away"}, fds=[write])
            os.close(write)
            drain = subprocess.Popen(["cat"], stdin=read, stdout=subprocess.DEVNULL)
            self.addCleanup(drain.wait)
            qmp.execute("stop")
            qmp.execute("migrate", {"uri": "fd:away"})
            qmp.event("STOP")
            self.wait_migrated(qmp)
            qmp.execute("cont")
        self.w.ok("disk", "remove", "a", "vdx")
        self.w.ok("nic", "remove", "a", "netx")
        serial.expect("EJECT")
        self.w.ok("stop", "a")
        self.stopped_clean()

    def wait_migrated(self, qmp):
        while (now := qmp.execute("query-migrate")).get("status") not in ("completed", "failed"):
            qmp.execute("query-status")
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


class Security(WorldTest):
    """status --security against what /proc says here."""

    def proc(self, pid):
        status = proc_status(pid)
        fds = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        numbers = {"core": "Max core file size", "memlock": "Max locked memory", "nofile": "Max open files",
                   "nproc": "Max processes", "address-space": "Max address space"}
        with open(f"/proc/{pid}/cgroup", encoding="utf-8") as f:
            cgroups = [line.rstrip("\n").split(":", 2)[1:] for line in f]
        return {
            "uids": [int(n) for n in status["Uid"].split()],
            "gids": [int(n) for n in status["Gid"].split()],
            "groups": [int(n) for n in status["Groups"].split()],
            "capabilities": {"inheritable": status["CapInh"], "permitted": status["CapPrm"],
                             "effective": status["CapEff"], "bounding": status["CapBnd"], "ambient": status["CapAmb"]},
            "no-new-privs": status["NoNewPrivs"] == "1",
            "limits": {name: [None if n == "unlimited" else int(n) for n in limit(pid, row)]
                       for name, row in numbers.items()},
            "cgroups": {name or "unified": path for name, path in cgroups},
            "mode": {"0": "none", "2": "filter"}[status["Seccomp"]],
            "sockets": sum(fd.startswith("socket:") for fd in fds),
            "paths": sorted(fd for fd in fds if fd.startswith("/")),
        }

    def check(self, told, pid):
        seen = self.proc(pid)
        self.assertEqual(told["pid"], pid)
        for key in ("uids", "gids", "groups", "capabilities", "no-new-privs", "limits", "cgroups"):
            self.assertEqual(told[key], seen[key], key)
        self.assertEqual(told["seccomp"]["mode"], seen["mode"])
        self.assertEqual(told["fds"]["kinds"]["socket"], seen["sockets"])
        self.assertEqual(sorted(told["fds"]["paths"]), seen["paths"])
        self.assertEqual(told["fds"]["count"], sum(told["fds"]["kinds"].values()))

    def test_it_is_what_proc_says(self):
        image = os.path.join(self.w.base, "x.img")
        with open(image, "wb") as f:
            f.truncate(1 << 20)
        self.w.start_tiny("a", disks=[{"path": image, "format": "raw"}])
        self.w.start_tiny("b", sandbox=False)
        for name, mode in (("a", "filter"), ("b", "none")):
            told = self.w.ok("status", name, "--security", "-o", "json").json()
            self.check(told, self.w.status(name)["pid"])
            self.assertEqual(told["seccomp"]["mode"], mode)
            self.assertEqual(told["user"], pwd.getpwuid(os.geteuid()).pw_name)
            self.assertEqual(told["limits"]["core"], [0, 0])
        told = self.w.ok("status", "a", "--security", "-o", "json").json()
        self.assertEqual(told["seccomp"]["threads-filtered"], told["seccomp"]["threads"])
        self.assertIn(os.path.realpath(image), told["fds"]["paths"])
        text = self.w.ok("status", "a", "--security").out
        self.assertRegex(text, r"(?m)^seccomp   filter, on (\d+) of \1 threads$")
        self.assertRegex(text, r"(?m)^limits    core 0, ")
        with Qmp(os.path.join(self.w.vm_dir("a"), "observe.sock")) as looker:
            self.check(looker.execute("qmpctl-security"), told["pid"])

    def test_there_must_be_a_qemu(self):
        self.w.create_tiny("a")
        self.assertIn("not running", self.w.expect(STATE, "status", "a", "--security").err)


@unittest.skipUnless(os.geteuid() == 0, "only root can make QEMU another user's")
class User(WorldTest):
    """QEMU as a user of no rights: what it is, what it may open, and what is said of the rest."""

    def setUp(self):
        super().setUp()
        self.nobody = pwd.getpwnam("nobody")
        os.chmod(self.w.base, 0o711)  # root/ in it stays closed
        self.images = os.path.join(self.w.base, "images")
        os.mkdir(self.images, 0o711)
        # tests/guest may lie where others cannot go.
        self.bios = os.path.join(self.images, "tinybios.bin")
        shutil.copyfile(guest_file("tinybios.bin"), self.bios)

    def image(self, owner=None, folder=None):
        path = os.path.join(folder or self.images, "x.img")
        with open(path, "wb") as f:
            f.truncate(1 << 20)
        os.chmod(path, 0o600)
        if owner is not None:
            os.chown(path, owner, owner)
        return path

    def spec(self, **more):
        """Any host has nobody; the group of /dev/kvm lets it in."""
        more.setdefault("accel", ACCEL)
        if ACCEL == "kvm":
            more.setdefault("group", grp.getgrgid(os.stat("/dev/kvm").st_gid).gr_name)
        return tiny_spec(user="nobody", firmware={"type": "bios", "path": self.bios}, **more)

    def start(self, **more):
        serial = self.w.serial()
        os.chown(serial.path, self.nobody.pw_uid, -1)
        self.w.create("a", with_serial(self.spec(**more), serial))
        self.w.ok("start", "a")
        serial.expect("TINY-READY")
        return serial

    def test_who_it_is(self):
        self.start()
        pid = self.w.qemu_pid("a")
        status = proc_status(pid)
        self.assertEqual(status["Uid"].split(), [str(self.nobody.pw_uid)] * 4)
        gid = os.stat("/dev/kvm").st_gid if ACCEL == "kvm" else self.nobody.pw_gid
        self.assertEqual(status["Gid"].split(), [str(gid)] * 4)
        self.assertNotIn("0", status["Groups"].split())
        for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            self.assertEqual(int(status[kind], 16), 0, kind)
        self.assertEqual((status["NoNewPrivs"], status["Seccomp"]), ("1", "2"))
        self.assertEqual(self.w.status("a")["accel"], ACCEL)
        text = self.w.ok("status", "a", "--security").out
        self.assertRegex(text, r"(?m)^user      nobody ")
        self.assertRegex(text, r"(?m)^caps      none$")
        self.assertRegex(text, r"(?m)^privs     none can be won")

    def test_disks_and_nics_come_and_go_and_it_is_taken_over(self):
        serial = self.start(disks=[{"id": "vda", "path": self.image(self.nobody.pw_uid), "format": "raw"}])
        other = os.path.join(self.images, "y.img")
        shutil.copyfile(os.path.join(self.images, "x.img"), other)
        os.chown(other, self.nobody.pw_uid, -1)
        self.w.ok("disk", "add", "a", f"id=vdx,path={other},format=raw")
        self.w.ok("disk", "remove", "a", "vdx")
        serial.expect("EJECT")
        self.w.kill_keeper()
        self.w.wait_state("a", "running")
        self.w.ok("nic", "add", "a", "user,id=netx")
        self.w.ok("stop", "a")
        self.stopped_clean()

    def refused(self, words, *args):
        result = self.w.run(*args)
        self.assertEqual(result.rc, HOST, str(result))
        for word in words:
            self.assertIn(word, result.err)

    # -- Images that it may not open are opened for it

    def sets(self, qmp):
        return [fd["opaque"] for found in qmp.execute("query-fdsets") for fd in found["fds"]]

    def write(self, qmp, disk):
        said = qmp.execute("human-monitor-command", {
            "command-line": f'qemu-io -d /machine/peripheral/{disk}/virtio-backend "write -P 0x5a 0 4k"'})
        self.assertEqual(said, "", "QEMU prints that it is done, and says what is wrong")

    def is_free(self, path):
        """Whether nobody has locked it: another program may write to it."""
        done = subprocess.run(["qemu-io", "-f", "raw", "-c", "write 4k 4k", path], capture_output=True, text=True, check=False)
        return done.returncode == 0

    def nodes(self, qmp):
        return {node["node-name"] for node in qmp.execute("query-named-block-nodes", {"flat": True})}

    def opened_for_it(self, cache):
        folder = os.path.join(self.w.base, "closed")
        os.mkdir(folder, 0o700)
        cold, closed = self.image(), self.image(folder=folder)
        serial = self.start(disks=[{"id": "vda", "path": cold, "format": "raw", "cache": cache}])
        with self.w.control("a") as qmp:
            before = self.nodes(qmp)
            self.assertEqual(self.sets(qmp), ["vda-file"])
            self.write(qmp, "vda")
            self.w.ok("disk", "add", "a", f"id=vdx,path={closed},format=raw,cache={cache}")
            self.write(qmp, "vdx")
            self.assertEqual(sorted(self.sets(qmp)), ["vda-file", "vdx-file"])
            self.assertEqual(self.w.status("a").get("drift", []), [])
        self.assertFalse(self.is_free(closed))
        self.w.kill_keeper()
        self.w.wait_state("a", "running")
        self.w.ok("disk", "remove", "a", "vdx")
        serial.expect("EJECT")
        with self.w.control("a") as qmp:
            self.until(lambda: self.sets(qmp) == ["vda-file"], "the set of fds of the disk that went is still there")
            self.assertEqual(self.nodes(qmp), before)
        self.until(lambda: self.is_free(closed), "the image is still locked")

    def test_images_that_it_may_not_open_are_opened_for_it(self):
        self.opened_for_it("writeback")

    def test_past_the_hosts_cache_too(self):
        self.opened_for_it("none")

    def test_a_change_that_was_cut_short_opens_it_again(self):
        self.start()
        path = self.image()
        qemu, keeper = self.w.qemu_pid("a"), self.w.keeper_pid()
        journal = os.path.join(self.w.vm_dir("a"), "journal.json")
        os.kill(qemu, signal.SIGSTOP)
        try:
            with self.w.control("a") as qmp:
                qmp.send("qmpctl-disk-add", {"disk": {"id": "vdx", "path": path, "format": "raw"}})
                self.until(lambda: os.path.exists(journal), "the change has not begun")
                os.kill(keeper, signal.SIGKILL)
                self.w.wait_gone([keeper])
        finally:
            os.kill(qemu, signal.SIGCONT)
        self.w.wait_state("a", "running")
        self.until(lambda: not os.path.exists(journal), "what was cut short is not settled")
        with self.w.control("a") as qmp:
            self.assertEqual(self.sets(qmp), ["vdx-file"])
            self.write(qmp, "vdx")

    def test_an_image_that_is_made_for_it_is_plugged(self):
        self.start()
        self.w.ok("disk", "add", "a", "size=1M,id=vdx")
        with self.w.control("a") as qmp:
            self.write(qmp, "vdx")

    def test_what_is_opened_for_it_can_be_read_only(self):
        self.start(disks=[{"id": "vda", "path": self.image(), "format": "raw", "read-only": True}])
        with self.w.control("a") as qmp:
            node = next(n for n in qmp.execute("query-named-block-nodes", {"flat": True}) if n["node-name"] == "vda-file")
            self.assertIs(node["ro"], True)
            sets = qmp.execute("query-fdsets")
        pid = self.w.qemu_pid("a")
        for fd in sets[0]["fds"]:
            with open(f"/proc/{pid}/fdinfo/{fd['fd']}", encoding="ascii") as f:
                self.assertEqual(int(re.search(r"flags:\s+(\d+)", f.read()).group(1), 8) & os.O_ACCMODE, os.O_RDONLY)

    def test_what_fails_leaves_no_set_and_no_lock(self):
        self.start()
        path = self.image()
        with self.w.control("a") as qmp:
            before = qmp.execute("query-named-block-nodes", {"flat": True})
            self.w.expect(FAILED, "disk", "add", "a", f"id=vdx,path={path},format=qcow2")
            self.assertEqual(qmp.execute("query-named-block-nodes", {"flat": True}), before)
            self.until(lambda: self.sets(qmp) == [], "a set of fds is left")
        self.assertTrue(self.is_free(path))
        self.assertNotIn("vdx", self.w.ok("show", "a").out)

    def test_what_it_could_put_something_else_in_place_of_is_not_opened(self):
        its = os.path.join(self.images, "its")
        os.mkdir(its, 0o755)
        path = self.image(folder=its)
        link = os.path.join(self.images, "link.img")
        os.symlink(self.image(), link)
        sticky = os.path.join(self.images, "sticky")
        os.mkdir(sticky)
        os.chmod(sticky, 0o1777)
        ours = self.image(folder=sticky)
        self.start()
        for folder_mode, owner in ((0o755, self.nobody.pw_uid), (0o777, 0)):
            os.chown(its, owner, -1)
            os.chmod(its, folder_mode)
            self.refused(["disks.vdx", "nobody", f"at {its}", f"chown nobody {path}"],
                         "disk", "add", "a", f"id=vdx,path={path},format=raw")
        self.refused(["disks.vdx", "symlink"], "disk", "add", "a", f"id=vdx,path={link},format=raw")
        self.w.ok("disk", "add", "a", f"id=vdx,path={ours},format=raw")
        self.w.ok("kill", "a")
        os.chown(ours, self.nobody.pw_uid, -1)
        os.chmod(ours, 0o400)
        self.refused(["disks.vdx", f"at {ours}"], "start", "a")

    def test_the_display_is_there_all_the_same(self):
        self.start(display={"type": "vnc"})
        with connect_unix(os.path.join(self.w.vm_dir("a"), "vnc.sock")) as vnc:
            self.assertEqual(vnc.recv(4), b"RFB ")

    def test_who_is_not_there_or_cannot_be_it(self):
        self.w.create("a", tiny_spec(user="no-such-user"))
        self.refused(['no user "no-such-user"'], "start", "a")
        self.w.ok("set", "a", "user=nobody", "group=no-such-group")
        self.refused(['no group "no-such-group"'], "start", "a")
        self.w.ok("set", "a", "user=root", "group=")
        result = self.w.expect(USAGE, "start", "a")
        self.assertIn("is root", result.err)
        if ACCEL == "kvm":
            self.w.ok("set", "a", "user=nobody", "group=nogroup")
            self.refused(["nobody cannot open /dev/kvm", "usermod"], "start", "a")

    def test_who_is_not_root_cannot(self):
        self.w.create("a", tiny_spec(user="nobody"))
        os.chown(self.w.base, self.nobody.pw_uid, -1)
        sh(f"chown -R nobody {self.w.root}")
        result = subprocess.run(self.w.argv("start", "a"), env=self.w.env, user="nobody", capture_output=True,
                                text=True, timeout=PATIENCE)
        self.assertEqual(result.returncode, HOST, result)
        self.assertIn("which only root can do", result.stderr)


class Bridge(WorldTest):
    """A tap on a bridge comes from QEMU's helper, which qmpctl runs itself: in a network of its own."""

    def test_a_nic_on_a_bridge_at_the_start_and_plugged(self):
        # The namespaces are this process's own, so the test proper runs in another one.
        if os.geteuid() != 0:
            self.skipTest("namespaces with a bridge need root")
        subprocess.run([sys.executable, "-B", __file__, "Bridge.in_a_namespace"], check=True, timeout=4 * PATIENCE)

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
