"""The real cloud-init: one command makes a VM from an image and returns when its first boot is over."""
import base64
import hashlib
import json
import os
import subprocess
import time
import unittest

import world
from world import WorldTest

DEBIAN = os.environ.get("QMPCTL_DEBIAN") or os.path.join(os.path.dirname(__file__), "../../build/debian")
# The last ones: where many others want the processors, a service that takes minutes is not one that hangs.
CMDLINE = ("root=/dev/vda rw console=ttyS0 quiet loglevel=3 mitigations=off nokaslr no_timer_check "
           "systemd.default_timeout_start_sec=900 systemd.service_watchdogs=no")
# What asks for an address by DHCP as cloud-init tells it to; nothing in this Debian does by itself.
NETWORK = " systemd.wants=systemd-networkd.service systemd.wants=systemd-networkd-wait-online.service"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIXFGkiQr3sVmcDmFGYr0cIbY6G9rPTvm5UpMzjYPUvC tester@host"

HASH = "$6$UerF8DM6SH3vdo4D$OZhgCPyUAF.Vymor0uEvd3A68jq2zRWML.5JVGsxx0bKOmvUUYVryvABzgvEopQKhQh41k4zAjOK4AW2uN7sm0"

STUCK = 300  # seconds without progress, after which nobody is waited for
LONG = 3600  # and in all


def debian_file(name):
    return os.path.realpath(os.path.join(DEBIAN, name))


class CloudInit(WorldTest):
    def file(self, name, text):
        path = os.path.join(self.w.base, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return path

    def progress(self):
        """What grows while a guest boots: what everybody has said, and the time of a processor, in pieces of five seconds."""
        said = sum(os.path.getsize(os.path.join(folder, name)) for folder, _, files in os.walk(self.w.base)
                   for name in files if name.endswith(".log"))
        ticks = 0
        for pid in self.w.processes():
            try:
                with open(f"/proc/{pid}/stat", "rb") as f:
                    ticks += sum(map(int, f.read().rpartition(b")")[2].split()[11:13]))
            except OSError:
                pass
        return said, ticks // (5 * os.sysconf("SC_CLK_TCK"))

    def boots(self, *args):
        """Runs a verb that waits for a guest; what it printed. On a busy machine a boot takes many minutes, and has them as long
        as it gets on."""
        verb, before = self.w.spawn(*args), None
        while verb.poll() is None:
            if before != (now := self.progress()):
                before, stuck_at = now, time.monotonic() + STUCK
            self.assertLess(time.monotonic(), stuck_at, f"no progress for {STUCK} s\n{self.w.logs()}")
            time.sleep(0.5)
        with open(verb.log, encoding="utf-8") as f:
            said = f.read()
        self.assertEqual(verb.returncode, world.OK, f"{said}\n{self.w.logs()}")
        return said

    def repository(self):
        """Vendor data that gives the guest, which has no network, an archive with one package, tiny."""
        folder = os.path.join(self.w.base, "tiny")
        os.makedirs(os.path.join(folder, "DEBIAN"))
        control = "Package: tiny\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\nDescription: nothing\n"
        self.file("tiny/DEBIAN/control", control)
        subprocess.run(["dpkg-deb", "--build", folder, f"{folder}.deb"], check=True, stdout=subprocess.DEVNULL)
        with open(f"{folder}.deb", "rb") as f:
            deb = f.read()
        index = f"{control}Filename: ./tiny.deb\nSize: {len(deb)}\nSHA256: {hashlib.sha256(deb).hexdigest()}\n"
        files = [{"path": f"/srv/archive/{name}", "encoding": "b64", "content": base64.b64encode(content).decode()}
                 for name, content in (("tiny.deb", deb), ("Packages", index.encode()))]
        apt = {"preserve_sources_list": False, "sources_list": "deb [trusted=yes] file:/srv/archive ./\n"}
        return self.file("vendor-data", "#cloud-config\n" + json.dumps({"write_files": files, "apt": apt}))

    def create(self, *words, more=""):
        return self.boots(
            "create", "demo", "--memory", "512M", "--accel", "tcg",
            "--kernel", debian_file("vmlinuz"), "--initrd", debian_file("initrd.img"), "--cmdline", CMDLINE + more,
            "--image", debian_file("disk.img"), *words, "--wait", "ready", "--timeout", str(LONG))

    def guest(self, *command):
        """Runs it in the guest; what it prints."""
        arguments = json.dumps({"path": command[0], "arg": command[1:], "capture-output": True})
        pid = self.w.ok("agent", "demo", "guest-exec", arguments).json()["pid"]
        status = self.until(lambda: self.exited(pid), f"{command} does not end", 60)
        self.assertEqual(status["exitcode"], 0, status)
        return base64.b64decode(status.get("out-data", "")).decode().strip()

    def exited(self, pid):
        status = self.w.ok("agent", "demo", "guest-exec-status", f"pid={pid}").json()
        return status["exited"] and status

    def test_one_command_makes_a_vm_that_is_ready(self):
        said = self.create(
            "--size", "6G", "--user", "me", "--ssh-key", self.file("id.pub", KEY + "\n"), "--hostname", "gu-est",
            "--password-hash", self.file("hash", HASH + "\n"), "--package", "tiny", "--vendor-data", self.repository(),
            "--run", "echo 'it ran: ä\u2028 😀' >/ran", "--run", "exit 0")
        self.assertEqual(said.splitlines()[-1], "demo is ready")
        self.assertIn("Cloud-init v. ", said, "no progress was told")

        self.assertEqual(self.guest("cat", "/ran"), "it ran: ä\u2028 😀")
        self.assertEqual(self.guest("hostname"), "gu-est")
        self.assertEqual(self.guest("dpkg-query", "-W", "-f", "${Version} ${Status}", "tiny"), "1 install ok installed")
        self.assertEqual(self.guest("cat", "/home/me/.ssh/authorized_keys"), KEY)
        self.assertIn(f"me:{HASH}:", self.guest("cat", "/etc/shadow"))
        self.assertIn("me ALL=(ALL) NOPASSWD:ALL", self.guest("cat", "/etc/sudoers.d/90-cloud-init-users"))
        self.assertEqual(self.guest("cat", "/run/cloud-init/cloud-id"), "nocloud")
        # The file system has grown to the size of the disk.
        self.assertGreater(int(self.guest("stat", "-f", "-c", "%b", "/")) * 4096, 5 << 30)

        # Who comes later is answered at once; a password's hash is in no command line and in no state but the seed.
        self.w.ok("wait", "demo", "--for", "ready", "--timeout", "60", timeout=90)
        for pid in self.w.processes():
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                self.assertNotIn(HASH.encode(), f.read())
        holders = subprocess.run(["grep", "-rlF", "--exclude-dir=images", HASH, self.w.root], stdout=subprocess.PIPE,
                                 text=True).stdout.split()
        seed = os.path.join(self.w.root, "lib/seeds/demo.iso")
        self.assertEqual(holders, [seed])
        self.assertEqual(os.stat(seed).st_mode & 0o777, 0o600)

        self.w.ok("stop", "demo", "--force", timeout=200)
        self.w.ok("delete", "demo", "--disks")
        for folder in ("seeds", "images"):
            self.assertEqual(os.listdir(os.path.join(self.w.root, "lib", folder)), [])
        self.stopped_clean()

    @unittest.skipUnless(os.environ.get("QMPCTL_SEED_URL"), "boots another Debian, a minute of a processor: QMPCTL_SEED_URL=1")
    def test_a_seed_from_a_url(self):
        folder = os.path.join(self.w.base, "web", "a,b")
        os.makedirs(folder)
        for name, text in (("meta-data", '{"instance-id": "i-1", "local-hostname": "from-afar"}\n'), ("vendor-data", ""),
                           ("user-data", "#cloud-config\nruncmd: [\"echo it ran >/ran\"]\n")):
            with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
                f.write(text)
        port, asked = self.serve_folder(os.path.dirname(folder))
        said = self.create("--seed-url", f"http://10.0.2.2:{port}/a,b/", "--nic", "user", more=NETWORK)
        self.assertEqual(said.splitlines()[-1], "demo is ready")
        self.assertEqual(self.guest("cat", "/ran"), "it ran")
        self.assertEqual(self.guest("hostname"), "from-afar")
        self.assertIn("/a,b/user-data", asked)
        self.assertEqual(self.guest("cat", "/sys/class/dmi/id/product_serial"), f"ds=nocloud-net;s=http://10.0.2.2:{port}/a,b/")
        self.assertEqual(self.guest("cat", "/run/cloud-init/cloud-id"), "nocloud")
        self.w.ok("stop", "demo", "--force", timeout=200)


if __name__ == "__main__":
    world.main()
