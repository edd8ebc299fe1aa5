"""A libvirtd of the bench's own, and the same VM in it: to measure beside virsh.

It runs in a mount namespace in which /run and /var/lib, where it keeps its things, are empty and its own; so it neither sees nor
touches a libvirt that the host may have. Its socket is in the bench's folder.
"""
import os
import shutil
import subprocess
import tempfile
import time

CONF = """unix_sock_dir = "{base}/sock"
auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_group = "root"
log_outputs = "3:file:{base}/libvirtd.log"
"""
QEMU_CONF = """security_driver = "none"
user = "root"
group = "root"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
"""
# What the spec of qmpctl's own VM comes to: q35, root ports, no guest but a tiny firmware.
DOMAIN = """<domain type='kvm'>
  <name>b</name>
  <memory unit='MiB'>32</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type><loader readonly='yes' type='rom'>{firmware}</loader></os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact' check='none'><model fallback='allow'>qemu64</model></cpu>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>{qemu}</emulator>
    {ports}
    <serial type='file'><source path='{base}/console'/></serial>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <memballoon model='virtio'/>
  </devices>
</domain>
"""
PORTS = 16


def why_not():
    """None, or why there is nothing to measure beside."""
    for program in ("virsh", "libvirtd"):
        if not shutil.which(program):
            return f"{program} is not installed (Debian: libvirt-clients libvirt-daemon libvirt-daemon-driver-qemu)"
    if os.getuid() != 0:
        return "a libvirtd of its own needs root"
    return None


class Libvirt:
    def __init__(self, firmware):
        self.base = tempfile.mkdtemp(prefix="qmpctl-libvirt.")
        for folder in ("etc", "sock"):
            os.mkdir(os.path.join(self.base, folder))
        self._write("etc/libvirtd.conf", CONF)
        self._write("etc/qemu.conf", QEMU_CONF)
        ports = "<controller type='pci' model='pcie-root'/>" + "".join("<controller type='pci' model='pcie-root-port'/>" for _ in range(PORTS))
        self.domain = self._write("b.xml", DOMAIN, firmware=os.path.realpath(firmware), ports=ports,
                                  qemu=shutil.which("qemu-system-x86_64"))
        # It asks for its users at its start, whatever is configured.
        for name, line in (("passwd", "libvirt-qemu:x:64055:64055::/:/bin/false"), ("group", "libvirt-qemu:x:64055:\nkvm:x:64054:")):
            with open(f"/etc/{name}", encoding="utf-8") as f:
                self._write(name, f.read().rstrip("\n") + f"\n{line}\n")
        script = ("mount -t tmpfs none /run && mount -t tmpfs none /var/lib && mkdir -p /etc/libvirt && "
                  f"mount --bind {self.base}/etc /etc/libvirt && mount --bind {self.base}/passwd /etc/passwd && "
                  f"mount --bind {self.base}/group /etc/group && libvirtd -f /etc/libvirt/libvirtd.conf -p {self.base}/pid; exit")
        # In a PID namespace of its own, too, with a shell that reaps: the shell's end is the end of all that was started.
        self.daemon = subprocess.Popen(["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.uri = f"qemu+unix:///system?socket={self.base}/sock/libvirt-sock"
        try:
            self._await()
            self.virsh("define", self.domain)
        except BaseException:
            self.close()
            raise

    def _write(self, name, text, **more):
        path = os.path.join(self.base, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text.format(base=self.base, **more) if more or "{base}" in text else text)
        return path

    def _await(self):
        deadline = time.monotonic() + 60
        while subprocess.run(["virsh", "-c", self.uri, "version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             check=False).returncode:
            if self.daemon.poll() is not None or time.monotonic() > deadline:
                with open(os.path.join(self.base, "libvirtd.log"), encoding="utf-8") as f:
                    raise RuntimeError(f"libvirtd does not answer: {f.read()}")
            time.sleep(0.05)

    def virsh(self, *args):
        done = subprocess.run(["virsh", "-q", "-c", self.uri, *args], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"virsh {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout

    def device(self, name, text):
        return self._write(name, text)

    def pid(self):
        """Of libvirtd, as we see it: unshare's child is the shell, and it is the shell's first."""
        pid = self.daemon.pid
        for _ in range(2):
            with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
                pid = int(f.read().split()[0])
        return pid

    def close(self):
        self.daemon.kill()  # --kill-child: the namespace, and all in it, with it
        self.daemon.wait()
        shutil.rmtree(self.base)
