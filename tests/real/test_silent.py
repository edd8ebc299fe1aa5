"""Storage that does not answer any more: NFS whose server is away, here a FUSE whose daemon is stopped by SIGSTOP. It holds up
nobody but those who want it.
"""
import os
import shutil
import signal
import subprocess
import unittest

import world
from guest import tiny_spec
from world import HOST, STATE, WorldTest

DAEMON = shutil.which("qemu-storage-daemon")


@unittest.skipUnless(os.geteuid() == 0, "mounting takes root")
class Silent(WorldTest):
    def setUp(self):
        super().setUp()
        self.image = os.path.join(self.w.base, "image")
        for path in (self.image, self.image + ".behind", os.path.join(self.w.base, "local")):
            with open(path, "wb") as f:
                f.truncate(1 << 20)
        self.daemon = subprocess.Popen(
            [DAEMON, "--blockdev", f"driver=file,node-name=n,filename={self.image}.behind",
             "--export", f"type=fuse,id=e,node-name=n,writable=on,mountpoint={self.image}"], env=self.w.env)
        self.addCleanup(self.end_daemon)
        self.until(lambda: os.path.ismount(self.image), "qemu-storage-daemon mounts nothing")

    def end_daemon(self):
        if self.daemon.poll() is None:
            self.daemon.send_signal(signal.SIGCONT)
            self.daemon.terminate()
            self.daemon.wait(60)
        if os.path.ismount(self.image):
            subprocess.run(["umount", "-l", self.image], check=True)

    def test_others_do_not_wait_for_it(self):
        spec = tiny_spec(disks=[{"path": self.image, "format": "raw"}])
        self.w.create("has", spec)
        self.w.create("other", tiny_spec(disks=[{"path": os.path.join(self.w.base, "local"), "format": "raw"}]))
        self.w.ok("start", "has")
        self.daemon.send_signal(signal.SIGSTOP)

        self.w.ok("start", "other")
        self.assertEqual(self.w.state("other"), "running")
        result = self.w.expect(HOST, "disk", "add", "other", f"{self.image},id=x,format=raw,read-only=true")
        self.assertIn(f"{self.image}: what it is on does not answer", result.err)
        self.assertIn("does not answer", self.w.expect(HOST, "disk", "add", "other", self.image).err)
        self.w.ok("disk", "add", "other", "size=1M")
        self.assertEqual(self.w.state("has"), "running")

        self.daemon.send_signal(signal.SIGCONT)
        # What was silent is not asked for some seconds.
        self.until(lambda: self.w.run("disk", "add", "other", f"{self.image},id=x,format=raw").rc == STATE,
                   "the image of another VM is not refused again")
        for name in ("has", "other"):
            self.w.ok("kill", name)
        self.end_daemon()
        self.stopped_clean()


if __name__ == "__main__":
    world.main()
