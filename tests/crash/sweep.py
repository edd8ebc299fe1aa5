#!/usr/bin/env python3
"""The crash-point sweep: every operation, ended by SIGKILL at every boundary, and what must hold afterwards.

A boundary is what boundary.c counts: a message sent or received, a call that changes the file system, a new process. Each
case has a world of its own with a real QEMU: the operation runs, the keeper or the client is killed at its N-th boundary, and
then the program is used as anyone would, with no special recovery. These hold:

  - a VM that ran still runs, in the same process, or its end was what the operation is for; there are never two;
  - its spec is the old one or the new one, and so is what QEMU has, asked of QEMU; what differs is pending and says so;
  - the operation can be done again, and undone, and then QEMU has just what it had: no node, netdev or fd stays;
  - no temporary file, no lock, no socket stays behind, and a VM that stops leaves what a VM that stops leaves.

With --fault the call fails instead, with ENOSPC, EIO, EMFILE or ENOMEM, and the same must hold; and besides:

  - the process goes on: an operation works, or ends with a message; where memory is out it may end, with a message.

    sweep.py [--fault ERROR] [--only OPERATION[,...]] [--role keeper|cli] [--from N] [--sample K [--seed S]] [-v]

A new operation joins by a line in OPERATIONS.
"""
import argparse
import atexit
import errno
import gzip
import glob
import hashlib
import json
import mmap
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, "../real"))

import world  # noqa: E402
from guest import guest_file  # noqa: E402
from qmp import QmpError  # noqa: E402
from server import Page, Server  # noqa: E402

PRELOAD = os.environ.get("QMPCTL_PRELOAD") or os.path.realpath(
    os.path.join(HERE, "../../build/release/tests/crash/libboundary.so"))
ROLES = {"keeper": 1, "cli": 2}
# What counts, as in boundary.c, and what happens to it: an errno, or 0 for SIGKILL.
MESSAGE, FILES, PROCESS, FD, MEMORY = 1, 2, 4, 8, 16
FAULTS = {"kill": (MESSAGE | FILES | PROCESS, 0), "ENOSPC": (FILES, errno.ENOSPC), "EIO": (FILES, errno.EIO),
          "EMFILE": (FD, errno.EMFILE), "ENOMEM": (MEMORY, errno.ENOMEM)}
BOOT_ENTRY = "Boot0007"
SETTLE = world.PATIENCE  # until a keeper has settled what a crash left


class Broken(Exception):
    """A promise that does not hold."""


class Boundary:
    """The record that boundary.c shares with us."""

    LAYOUT = struct.Struct("=iiiiii24s")

    def __init__(self, path):
        with open(path, "wb") as f:
            f.write(bytes(self.LAYOUT.size))
        with open(path, "r+b") as f:
            self.map = mmap.mmap(f.fileno(), self.LAYOUT.size)

    def arm(self, role, at, fault):
        self.map[:] = self.LAYOUT.pack(ROLES[role], 0, at, 0, *FAULTS[fault], b"")

    def read(self):
        """(passed, pid that was killed or 0, the call that was not made); counts no more from now on."""
        _, seen, _, killed, _, _, name = self.LAYOUT.unpack(self.map[:])
        self.map[0:4] = bytes(4)
        return seen, killed, name.split(b"\0")[0].decode()


class Operation:
    """
    What is killed. RUNS: the VM runs before it. FIRST: what is done before it is started; BEFORE: then. A command is of
    qmpctl, or with a "!" in front of another program.
    """

    def __init__(self, name, argv, before=(), first=(), runs=True, ends=False, starts=False, reverse=None, exists=True, keys=None,
                 changes=False):
        self.name, self.argv, self.before, self.first = name, argv, before, first
        self.runs, self.ends, self.starts, self.reverse, self.exists = runs, ends, starts, reverse, exists
        self.keys = keys  # those that open the image {luks} once it is done; it may be done twice, and takes qemu-img seconds
        self.changes = changes  # images that are there: each has then what it had, or what it is to have
        self.in_turns = changes or argv[0] in ("edit", "pause", "resume", "reset")  # a sample takes every other one
        self.done = None  # what they have once it is done, found in the run that nobody ends
        words = " ".join(w for command in [argv, *before, *first] for w in command)
        self.uefi, self.btrfs, self.lvm = (word in words for word in ("{uefi}", "{btrfs}", "{vg}"))
        self.imports = next((command[2] for command in [argv, *before] if command[:2] == ["image", "import"]), None)
        self.encrypted = "{key}" in words
        self.makes_image = argv[0] == "image" and not keys and not changes


DISK = "id=vdx,path={image},format=raw"
NEW = ["image", "create", "{dir}/q.qcow2", "1M"]
DISK_OF_ITS_OWN = ["disk", "add", "a", "size=1M,id=vdx"]
ENCRYPTED = "id=vdx,path={luks},format=qcow2,key-file={key}"
# The firmware is the tiny guest, which is started once and leaves its variables alone.
UEFI = ["set", "a", "firmware={uefi}"]
BTRFS = ["pool", "create", "bt", "btrfs,path={btrfs},subvolumes=on"]
LVM = ["pool", "create", "lv", "lvm,vg={vg}"]
SEED = ["set", "a", "seed.user=me"]
MADE_SEED = ["seed", "a"]
KEY_2 = ["image", "key", "add", "{luks}", "--key-file", "{key}", "--new-key-file", "{key2}", "--iter-time", "10"]
# The image q.qcow2 has something, over.qcow2 on it has other things as well.
FILLED = [NEW, ["!qemu-io", "-c", "write -P 7 0 64k", "{dir}/q.qcow2"]]
OVER = FILLED + [["image", "create", "{dir}/over.qcow2", "--backing", "{dir}/q.qcow2"],
                 ["!qemu-io", "-c", "write -P 8 128k 64k", "{dir}/over.qcow2"]]
OTHER = OVER + [["image", "create", "{dir}/other.qcow2", "1M"], ["!qemu-io", "-c", "write -P 9 256k 64k", "{dir}/other.qcow2"]]
SNAPSHOT = ["image", "snapshot", "{dir}/q.qcow2"]
LATER = FILLED + [SNAPSHOT + ["create", "s"], ["!qemu-io", "-c", "write -P 6 0 64k", "{dir}/q.qcow2"]]
BITMAP = ["image", "bitmap", "{dir}/q.qcow2"]
POOL = ["pool", "create", "data", "dir,path={dir}/data"]
WRITTEN = "yes {word} | dd status=none of={{btrfs}}/q/disk bs=64k count=1 iflag=fullblock conv=notrunc"
SUBVOLUME = [BTRFS, ["disk", "add", "a", "bt:q,size=1M,id=q"], ["!sh", "-c", WRITTEN.format(word="old")]]
SUBVOLUME_LATER = SUBVOLUME + [["image", "snapshot", "bt:q", "create", "s"], ["!sh", "-c", WRITTEN.format(word="new")]]
EDITOR = ("import json, sys; spec = json.load(open(sys.argv[1])); spec.update(description=\"changed\"); "
          "json.dump(spec, open(sys.argv[1], \"w\"))")
FETCHED = ["image", "import", "{url}", "{dir}/new.qcow2"]


def changing(name, argv, before):
    """Of images, while no VM runs."""
    return Operation(name, argv, before=before, runs=False, changes=True)


OPERATIONS = [
    Operation("create", ["create", "a", "--spec", "{spec}"], runs=False, exists=False),
    Operation("create-disk", ["create", "b", "--memory", "16M", "--disk", "size=1M,format=qcow2"], runs=False),
    Operation("disk-add-size", ["disk", "add", "a", "size=1M,id=vdx"], reverse=["disk", "remove", "a", "vdx"]),
    Operation("image-create", ["image", "create", "{dir}/new.qcow2", "1M"], runs=False),
    Operation("image-clone", ["image", "clone", "{dir}/q.qcow2", "{dir}/new.qcow2"], before=[NEW], runs=False),
    Operation("image-clone-linked", ["image", "clone", "--linked", "{dir}/q.qcow2", "{dir}/new.qcow2"], before=[NEW],
              runs=False),
    Operation("image-import", ["image", "import", "{packed}", "{dir}/new.qcow2"], runs=False),
    Operation("image-fetch", ["image", "import", "{url}", "{dir}/new.qcow2"], runs=False),
    Operation("clone", ["clone", "a", "b"], before=[DISK_OF_ITS_OWN], runs=False),
    Operation("clone-linked", ["clone", "a", "b", "--linked"], before=[DISK_OF_ITS_OWN], runs=False),
    Operation("image-convert", ["image", "convert", "{image}", "{dir}/new.qcow2"], runs=False),
    Operation("image-replace", ["image", "convert", "{image}", "{dir}/new.qcow2", "--replace"], runs=False,
              before=[["image", "create", "{dir}/new.qcow2", "2M"]]),
    changing("image-resize", ["image", "resize", "{dir}/q.qcow2", "4M"], FILLED),
    changing("image-shrink", ["image", "resize", "{dir}/q.qcow2", "512k", "--shrink"], FILLED),
    changing("image-commit", ["image", "commit", "{dir}/over.qcow2"], OVER),
    changing("image-rebase", ["image", "rebase", "{dir}/over.qcow2", "{dir}/other.qcow2"], OTHER),
    changing("image-flatten", ["image", "rebase", "{dir}/over.qcow2", "--flatten"], OVER),
    changing("image-bitmap", BITMAP + ["add", "b"], FILLED),
    changing("image-bitmap-merge", BITMAP + ["merge", "b", "--merge-from", "c"], FILLED + [BITMAP + ["add", "b"], BITMAP + ["add", "c"]]),
    changing("image-bitmap-remove", BITMAP + ["remove", "b"], FILLED + [BITMAP + ["add", "b"]]),
    changing("image-snapshot", SNAPSHOT + ["create", "s"], FILLED),
    changing("image-rollback", SNAPSHOT + ["rollback", "s"], LATER),
    changing("image-snapshot-delete", SNAPSHOT + ["delete", "s"], LATER),
    changing("image-repair", ["image", "check", "{dir}/dirty.qcow2", "--repair", "all"],
             [["!qemu-img", "create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", "{dir}/dirty.qcow2", "1M"],
              ["!sh", "-c", "qemu-io -c 'write -P 5 0 64k' -c abort {dir}/dirty.qcow2 2>&1; test $? = 134"]]),
    changing("image-delete", ["image", "delete", "{dir}/over.qcow2", "{dir}/q.qcow2"], OVER),
    changing("image-cache-delete", ["image", "cache", "--delete", "all"], [FETCHED]),
    changing("image-cache-limit", ["image", "cache", "--limit", "20G"], [FETCHED]),
    changing("volume-resize", ["image", "resize", "bt:q", "4M"], SUBVOLUME),
    changing("volume-snapshot", ["image", "snapshot", "bt:q", "create", "s"], SUBVOLUME),
    changing("volume-rollback", ["image", "snapshot", "bt:q", "rollback", "s"], SUBVOLUME_LATER),
    changing("volume-snapshot-delete", ["image", "snapshot", "bt:q", "delete", "s"], SUBVOLUME_LATER),
    changing("volume-delete", ["image", "delete", "bt:q"], SUBVOLUME + [["disk", "remove", "a", "q"]]),
    changing("pool-refresh", ["pool", "refresh", "data"], [POOL, ["!sh", "-c", "echo half > {dir}/data/.half.qcow2.qmpctl-new"]]),
    changing("pool-refresh-btrfs", ["pool", "refresh", "bt"], SUBVOLUME + [["!sh", "-c", "btrfs -q subvolume create {btrfs}/.qmpctl-new.half"]]),
    Operation("pool-create", ["pool", "create", "data", "dir,path={dir}/data"], runs=False),
    Operation("pool-delete", ["pool", "delete", "data"], before=[["pool", "create", "data", "dir,path={dir}/data"]], runs=False),
    Operation("volume-create", ["image", "create", "data:new.qcow2", "1M"],
              before=[["pool", "create", "data", "dir,path={dir}/data"]], runs=False),
    Operation("volume-disk", ["create", "b", "--memory", "16M", "--disk", "data:b.qcow2,size=1M"],
              before=[["pool", "create", "data", "dir,path={dir}/data"]], runs=False),
    Operation("volume-btrfs", ["create", "b", "--memory", "16M", "--disk", "bt:b,size=1M"], before=[BTRFS], runs=False),
    Operation("volume-btrfs-image", ["create", "b", "--memory", "16M", "--image", "{image}", "--pool", "bt"], before=[BTRFS], runs=False),
    Operation("volume-btrfs-clone", ["clone", "a", "b"], before=[BTRFS, ["disk", "add", "a", "bt:a,size=1M"]], runs=False),
    Operation("volume-lvm", ["create", "b", "--memory", "16M", "--disk", "lv:b,size=4M"], before=[LVM], runs=False),
    Operation("volume-lvm-clone", ["clone", "a", "b", "--linked"], before=[LVM, ["disk", "add", "a", "lv:a,size=4M"]], runs=False),
    Operation("start", ["start", "a"], runs=False, starts=True),
    Operation("stop", ["stop", "a", "--timeout", "10"], ends=True),
    Operation("kill", ["kill", "a"], ends=True),
    Operation("reboot", ["reboot", "a", "--timeout", "10"], ends=True, starts=True),
    Operation("pause", ["pause", "a"], reverse=["resume", "a"]),
    Operation("resume", ["resume", "a"], before=[["pause", "a"]], reverse=["pause", "a"]),
    Operation("reset", ["reset", "a"]),
    Operation("disk-add", ["disk", "add", "a", DISK], reverse=["disk", "remove", "a", "vdx"]),
    Operation("disk-add-stopped", ["disk", "add", "a", DISK], runs=False, reverse=["disk", "remove", "a", "vdx"]),
    Operation("disk-remove", ["disk", "remove", "a", "vdx"], before=[["disk", "add", "a", DISK]],
              reverse=["disk", "add", "a", DISK]),
    Operation("disk-resize", ["disk", "resize", "a", "vdx", "4M"], before=[["disk", "add", "a", DISK]],
              reverse=["disk", "resize", "a", "vdx", "1M", "--shrink"]),
    Operation("nic-add", ["nic", "add", "a", "user,id=netx"], reverse=["nic", "remove", "a", "netx"]),
    Operation("nic-remove", ["nic", "remove", "a", "netx"], before=[["nic", "add", "a", "user,id=netx"]],
              reverse=["nic", "add", "a", "user,id=netx"]),
    Operation("apply", ["apply", "{both}"], before=[["disk", "add", "a", DISK]], reverse=["apply", "{spec}"]),
    Operation("edit", ["edit", "a"], reverse=["set", "a", "description="]),
    Operation("set", ["set", "a", "description=changed"], reverse=["set", "a", "description="]),
    Operation("set-stopped", ["set", "a", "memory=24M"], runs=False, reverse=["set", "a", "memory=16M"]),
    Operation("rename", ["rename", "a", "c"], runs=False),
    Operation("delete", ["delete", "a"], runs=False),
    Operation("delete-disks", ["delete", "a", "--disks"], before=[DISK_OF_ITS_OWN], runs=False),
    Operation("delete-volumes", ["delete", "a", "--disks"], runs=False,
              before=[BTRFS, ["pool", "create", "data", "dir,path={dir}/data"], ["disk", "add", "a", "bt:a-1,size=1M"],
                      ["disk", "add", "a", "data:a-1.qcow2,size=1M"]]),
    # With the base that it shared, and which nobody else needs any more.
    Operation("delete-linked", ["delete", "a", "--disks"], runs=False,
              before=[DISK_OF_ITS_OWN, ["clone", "a", "b", "--linked"], ["delete", "b", "--disks"]]),
    Operation("rename-uefi", ["rename", "a", "c"], first=[UEFI], runs=False),
    Operation("clone-uefi", ["clone", "a", "b"], first=[UEFI], runs=False),
    Operation("delete-uefi", ["delete", "a"], first=[UEFI], runs=False),
    Operation("create-seed", ["create", "b", "--memory", "16M", "--user", "me", "--ssh-key", "{ssh}"], runs=False),
    Operation("start-seed", ["start", "a"], before=[SEED], runs=False, starts=True),
    Operation("seed", MADE_SEED, before=[SEED], runs=False),
    Operation("seed-running", MADE_SEED + ["--new-instance"], first=[SEED, MADE_SEED]),
    Operation("clone-seed", ["clone", "a", "b"], before=[SEED, MADE_SEED], runs=False),
    Operation("rename-seed", ["rename", "a", "c"], before=[SEED, MADE_SEED], runs=False),
    Operation("delete-seed", ["delete", "a"], before=[SEED, MADE_SEED], runs=False),
    Operation("create-luks", ["create", "b", "--memory", "16M", "--disk", "size=1M,key-file={key}"], runs=False),
    Operation("disk-add-luks", ["disk", "add", "a", ENCRYPTED], reverse=["disk", "remove", "a", "vdx"]),
    Operation("disk-remove-luks", ["disk", "remove", "a", "vdx"], before=[["disk", "add", "a", ENCRYPTED]],
              reverse=["disk", "add", "a", ENCRYPTED]),
    Operation("key-add", KEY_2, runs=False, keys={"key", "key2"}),
    Operation("key-replace", KEY_2[:2] + ["replace"] + KEY_2[3:], runs=False, keys={"key2"}),
    Operation("key-remove", ["image", "key", "remove", "{luks}", "--key-file", "{key}"], before=[KEY_2], runs=False, keys={"key2"}),
]


# ---- Pools whose volumes are no files

class Btrfs:
    """A file system in a loop device, made once; each case has a pool of its own in it."""

    def __init__(self):
        self.top, self.cases = None, 0

    def pool(self):
        if not self.top:
            folder = tempfile.mkdtemp(prefix="qmpctl-btrfs.")
            atexit.register(shutil.rmtree, folder)
            image, self.top = (os.path.join(folder, name) for name in ("image", "mnt"))
            with open(image, "wb") as f:
                f.truncate(256 << 20)
            os.mkdir(self.top)
            run("mkfs.btrfs", "-q", image)
            run("mount", "-t", "btrfs", "-o", "loop", image, self.top)
            atexit.register(run, "umount", self.top)
        self.cases += 1
        return os.path.join(self.top, str(self.cases))

    @staticmethod
    def remove(pool):
        if os.path.exists(pool):
            subvolumes = [d for d, _, _ in os.walk(pool) if os.stat(d).st_ino == 256]
            run("btrfs", "-q", "subvolume", "delete", *subvolumes[::-1])


btrfs = Btrfs()

# LVM's commands, as far as they are asked: a logical volume is a loop device, and a file that says what LVM knows of it.
FAKE_LVM = """#!/usr/bin/python3 -IS
import json, os, subprocess, sys, uuid
here, vg = {state!r}, {vg!r}
program, words = os.path.basename(sys.argv[0]), sys.argv[1:]
option = dict(zip(words, words[1:])).get
names = words[words.index("--") + 1:]
place = lambda name: os.path.join(here, name)
node = lambda name: os.path.join("/dev", vg, name)
load = lambda name: json.load(open(place(name)))
if program == "vgs":
    print(json.dumps(dict(report=[dict(vg=[dict(vg_size="1073741824", vg_free="1073741824", vg_missing_pv_count="0")])])))
elif program == "lvs":
    wanted = [names[0].partition("/")[2]] if "/" in names[0] else sorted(os.listdir(here))
    print(json.dumps(dict(report=[dict(lv=[load(name) for name in wanted])])))
elif program == "lvcreate":
    name, origin = option("--name"), names[0].partition("/")[2]
    if os.path.exists(place(name)):
        sys.exit(f'Logical Volume "{{name}}" already exists in volume group "{{vg}}"')
    size = int(load(origin)["lv_size"]) if origin else int(option("--size")[:-1])
    with open(here + ".data/" + (key := str(uuid.uuid4())), "w") as f:
        f.truncate(size)
    loop = subprocess.run(["losetup", "--find", "--show", f.name], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    os.symlink(loop, node(name))
    with open(place(name), "w") as f:
        json.dump(dict(lv_name=name, lv_size=str(size), lv_attr="swi-a-s---" if origin else "-wi-a-----", origin=origin,
                       origin_size=str(size) if origin else "", lv_uuid=key, data_percent="", pool_lv=""), f)
elif program == "lvremove":
    name = names[0].partition("/")[2]
    subprocess.run(["losetup", "--detach", os.path.realpath(node(name))], check=True)
    os.unlink(node(name))
    os.unlink(place(name))
elif program == "lvrename":
    row = dict(load(names[1]), lv_name=names[2])
    os.rename(node(names[1]), node(names[2]))
    with open(place(names[1]), "w") as f:
        json.dump(row, f)
    os.rename(place(names[1]), place(names[2]))
"""


class Lvm:
    """A volume group of a case's own."""

    def __init__(self, folder):
        self.bin, self.state, self.vg = os.path.join(folder, "bin"), os.path.join(folder, "lvm"), "qmpctl-" + os.path.basename(folder)
        for path in (self.bin, self.state, self.state + ".data", f"/dev/{self.vg}"):
            os.mkdir(path)
        for name in ("vgs", "vgchange", "lvs", "lvcreate", "lvremove", "lvrename"):
            with open(os.path.join(self.bin, name), "w", encoding="utf-8", opener=lambda p, f: os.open(p, f, 0o700)) as f:
                f.write(FAKE_LVM.format(state=self.state, vg=self.vg))

    def close(self):
        folder = f"/dev/{self.vg}"
        for name in os.listdir(folder):
            run("losetup", "--detach", os.path.realpath(os.path.join(folder, name)))
        shutil.rmtree(folder)


def run(*argv):
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


# ---- Encrypted images

class Keys:
    """Two keys, and an image that the first opens: made once, since qemu-img measures this machine for seconds each time."""

    def __init__(self):
        self.folder = None

    def path(self, name):
        if not self.folder:
            self.folder = tempfile.mkdtemp(prefix="qmpctl-keys.")
            atexit.register(shutil.rmtree, self.folder)
            for key in ("key", "key2"):
                with open(self.path(key), "w", encoding="ascii", opener=lambda p, f: os.open(p, f, 0o600)) as f:
                    f.write(f"the {key} of a test")
            self.make()
        return os.path.join(self.folder, name)

    def make(self):
        argv = [world.QEMU_IMG, "create", "-q", "-f", "qcow2", "--object", f"secret,id=k,file={self.path('key')}", "-o",
                "encrypt.format=luks,encrypt.key-secret=k,encrypt.iter-time=10", self.path("luks"), "1M"]
        # It asks for its share of the processor's time, which is not to be had while others have it.
        while "Unable to get accurate CPU usage" in (said := subprocess.run(argv, stderr=subprocess.PIPE, text=True, check=False).stderr):
            pass
        if said:
            raise SystemExit(said)

    def stand_in(self, folder):
        """A qemu-img that takes that image where it is to make one with a key; the real one for all else."""
        path = os.path.join(folder, "qemu-img")
        with open(path, "w", encoding="utf-8", opener=lambda p, f: os.open(p, f, 0o700)) as f:
            f.write(f"""#!/bin/sh
case "$*" in
create*encrypt.key-secret*) for last; do before=$to; to=$last; done; exec cp {self.path("luks")} "$before" ;;
*) exec {shutil.which(world.QEMU_IMG)} "$@" ;;
esac
""")
        return path

    def that_open(self, image):
        """Which of the keys."""
        spec = f"driver=qcow2,encrypt.format=luks,encrypt.key-secret=k,file.driver=file,file.filename={image}"
        return {key for key in ("key", "key2")
                if not subprocess.run(["qemu-io", "-r", "--object", f"secret,id=k,file={self.path(key)}", "--image-opts", spec,
                                       "-c", "read 0 512"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                      check=False).returncode}


keys = Keys()


# ---- One world

class Case:
    def __init__(self, operation):
        self.op = operation
        self.w = world.World(asks=operation.starts and not operation.runs)
        self.boundary = Boundary(os.path.join(self.w.base, "boundary"))
        self.image = os.path.join(self.w.base, "x.img")
        with open(self.image, "wb") as f:
            f.truncate(1 << 20)
        self.serial = self.w.create_tiny("a")
        self.words = {"image": self.image, "dir": self.w.base, "spec": os.path.join(self.w.base, "a.json"),
                      "both": os.path.join(self.w.base, "both.json")}
        self.write_both()
        self.server = None
        if operation.imports:
            self.pack()
        if operation.encrypted:
            self.encrypt()
        self.lvm = Lvm(self.w.base) if operation.lvm else None
        if self.lvm:
            self.w.env["PATH"] = f"{self.lvm.bin}:{self.w.env['PATH']}"
            self.words["vg"] = self.lvm.vg
        if operation.btrfs:
            self.words["btrfs"] = btrfs.pool()
        template = os.path.join(self.w.base, "vars.fd")
        with open(template, "wb") as f:
            f.truncate(1 << 16)
        self.words["uefi"] = json.dumps({"type": "uefi", "path": guest_file("tinybios.bin"), "vars-template": template})
        self.words["ssh"] = os.path.join(self.w.base, "ssh.pub")
        with open(self.words["ssh"], "w", encoding="ascii") as f:
            f.write("ssh-ed25519 AAAA me\n")
        self.w.env.update(EDITOR=f"{sys.executable} -c '{EDITOR}'", TMPDIR=self.w.base)

    def boot_once(self):
        """What the firmware would have written from then on stands in its variables."""
        self.w.ok("start", "a")
        self.w.ok("kill", "a")
        with open(self.variables("a"), "r+", encoding="ascii") as f:
            f.write(BOOT_ENTRY)

    def variables(self, name):
        return os.path.join(self.w.root, "lib", "firmware", f"{name}.fd")

    def encrypt(self):
        self.words.update(key=keys.path("key"), key2=keys.path("key2"), luks=os.path.join(self.w.base, "luks.qcow2"))
        shutil.copy(keys.path("luks"), self.words["luks"])
        self.w.env["QMPCTL_QEMU_IMG"] = keys.stand_in(self.w.base)

    def pack(self):
        """An image to import, out of a file and from a server."""
        plain, packed = (os.path.join(self.w.base, n) for n in ("p.qcow2", "p.qcow2.gz"))
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", plain, "1M"], check=True)
        with open(plain, "rb") as f, open(packed, "wb") as g:
            data = gzip.compress(f.read())
            g.write(data)
        self.server = Server()
        self.server.pages["/p.qcow2.gz"] = Page(data)
        self.w.env.update(no_proxy="*", NO_PROXY="*")
        self.words.update(packed=packed, url=self.server.url("/p.qcow2.gz"))

    def close(self):
        if self.server:
            self.server.close()
        self.w.end()
        if self.op.btrfs:
            btrfs.remove(self.words["btrfs"])
        if self.lvm:
            self.lvm.close()
        self.w.close()

    def write_both(self):
        """A spec with another disk than the one that is there, and a NIC."""
        with open(self.words["spec"], encoding="utf-8") as f:
            spec = json.load(f)
        other = os.path.join(self.w.base, "y.img")
        shutil.copy(self.image, other)
        spec["disks"] = [{"id": "vdy", "path": other, "format": "raw"}]
        spec["nics"] = [{"id": "nety", "backend": "user"}]
        with open(self.words["both"], "w", encoding="utf-8") as f:
            json.dump(spec, f)

    def argv(self, words):
        return [w.format(**self.words) for w in words]

    def prepare(self, preload=PRELOAD):
        op = self.op
        if not op.exists:
            self.w.ok("delete", "a")
        self.w.env.update(LD_PRELOAD=preload, QMPCTL_BOUNDARY=os.path.join(self.w.base, "boundary"))
        for argv in op.first:
            self.do(argv)
        if op.uefi:
            self.boot_once()
        if op.runs:
            self.w.ok("start", "a")
            self.serial.expect("TINY-READY")
            self.pid = self.w.qemu_pid("a")
        for argv in op.before:
            self.do(argv)
        if op.runs:
            self.fds = self.qemu_fds()
        self.old = self.look_at_images() if op.changes else None

    def do(self, words):
        argv = self.argv(words)
        if argv[0].startswith("!"):
            run(argv[0][1:], *argv[1:])
        else:
            self.w.ok(*argv)

    # -- asking

    def specs(self):
        """Every spec on disk, by its file's name."""
        found = {}
        folder = os.path.join(self.w.root, "etc", "vms")
        for name in os.listdir(folder):
            with open(os.path.join(folder, name), encoding="utf-8") as f:
                found[name] = json.load(f) if name.endswith(".json") and not name.startswith(".") else "?"
        return found

    def qemus(self):
        return [pid for pid, cmd in self.w.processes().items() if "qemu-system" in cmd.split(" ")[0]]

    def qemu_fds(self):
        """What QEMU has open, but for its own events and timers."""
        folder = f"/proc/{self.qemus()[0]}/fd"
        names = []
        for fd in os.listdir(folder):
            try:
                names.append(os.readlink(os.path.join(folder, fd)).split(":")[0])
            except OSError:
                pass
        return sorted(n for n in names if not n.startswith(("anon_inode", "/dev/", "pipe")))

    def has(self):
        """What QEMU has of disks and NICs, asked of QEMU. A monitor that was lost for want of memory comes back."""
        deadline = time.monotonic() + SETTLE
        while True:
            try:
                return self.ask_what_it_has()
            except QmpError as why:
                if "does not answer" not in str(why) or time.monotonic() > deadline:
                    raise
            time.sleep(0.05)

    def ask_what_it_has(self):
        with self.w.control("a") as qmp:
            nodes = {n["node-name"] for n in qmp.execute("query-named-block-nodes", {"flat": True})}
            devices = {d["name"] for d in qmp.execute("qom-list", {"path": "/machine/peripheral"})}
            nets = qmp.execute("human-monitor-command", {"command-line": "info network"})
            objects = {o["name"] for o in qmp.execute("qom-list", {"path": "/objects"})}
        backends = {line.split(":")[0].strip("\\ ") for line in nets.splitlines() if "type=" in line}
        return {name for group in (nodes, devices, backends, objects) for name in group
                if name.startswith(("vdx", "vdy", "netx", "nety", "seed"))}

    def look_at_images(self, mend=False):
        """What there is of images, bit by bit: {(file, what): value}. MEND: they may have to be repaired first."""
        found = {}
        for path in glob.glob(os.path.join(self.w.base, "*.qcow2")):
            found.update({(os.path.basename(path), what): value for what, value in self.look_at(path, mend).items()})
        top = self.words.get("btrfs")
        for folder, _, files in os.walk(top) if top else []:
            for name in files:
                with open(os.path.join(folder, name), "rb") as f:
                    found[os.path.relpath(os.path.join(folder, name), top), "bytes"] = hashlib.sha256(f.read()).hexdigest()
        return found

    def look_at(self, path, mend):
        asked = subprocess.run(["qemu-img", "info", "--output=json", path], check=True, stdout=subprocess.PIPE)
        info, raw = json.loads(asked.stdout), os.path.join(self.w.base, "seen")
        data = info["format-specific"]["data"]
        checked = subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                 text=True, check=False)
        if checked.returncode not in (0, 3):  # 3: clusters that nobody has, which do no harm
            self.require(mend or info["dirty-flag"], f"{path} is damaged: {checked.stdout}")
            self.w.run("image", "check", path, "--repair", "all")
        run("qemu-img", "convert", "-O", "raw", path, raw)
        with open(raw, "rb") as f:
            seen = hashlib.sha256(f.read()).hexdigest()
        return {"there": True, "size": info["virtual-size"], "backing": os.path.basename(info.get("backing-filename", "")), "seen": seen,
                "bitmaps": sorted((b["name"], *sorted(b["flags"])) for b in data.get("bitmaps", [])),
                "snapshots": sorted(s["name"] for s in info.get("snapshots", []))}

    # -- what must hold

    def require(self, truth, text):
        if not truth:
            raise Broken(text)

    def settled(self, name="a"):
        """The status once nothing is under way or pending any more."""
        deadline = time.monotonic() + SETTLE
        while True:
            status = self.w.status(name)
            busy = status["pending"] or status.get("operation") or status["state"] in ("starting", "unresponsive")
            if not busy:
                return status
            if time.monotonic() > deadline:
                raise Broken(f"not settled after {SETTLE} s: {status}")
            time.sleep(0.02)

    def check_agreement(self):
        """What the spec says is what QEMU has, whole: every item with all its parts, or with none."""
        shown = self.w.ok("show", "a", "-o", "json").json()
        has = self.has()
        for where in ("spec", "running"):
            ids = {i["id"] for kind in ("disks", "nics") for i in shown[where].get(kind, [])}
            roots = {name.split("-")[0] for name in has}
            self.require(ids == roots, f"the {where} has {sorted(ids)}, QEMU has {sorted(has)}")
        for root in roots:
            parts = {name for name in has if name.split("-")[0] == root}
            self.require(len(parts) >= 2 and root in parts, f"a part only: {sorted(parts)}")

    def check_files(self):
        bad = [os.path.join(d, f) for d, _, files in os.walk(self.w.root) for f in files if f.endswith(".tmp")]
        self.require(not bad, f"left behind: {bad}")
        self.require("?" not in self.specs().values(), f"left behind: {sorted(self.specs())}")

    def check_images(self):
        """The next one that makes an image settles it: what is there is whole, has its name, and belongs to a VM."""
        new = self.words["dir"] + ("/data" if "data:new.qcow2" in self.op.argv else "") + "/new.qcow2"
        for again in (False, True):
            if self.op.makes_image and again:
                self.again(self.op.argv)
            if os.path.exists(new):
                subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", new], check=True)
            else:
                self.require(not again and "--replace" not in self.op.argv or not self.op.makes_image, "no image")
        self.w.ok("create", "z", "--disk", "size=1M")
        self.w.ok("delete", "z", "--disks")
        if self.op.imports:
            self.import_another()
        for pool in ("data", "bt"):
            if os.path.exists(os.path.join(self.w.root, "etc", "pools", f"{pool}.json")):
                self.w.ok("pool", "refresh", pool)
        named = json.dumps(self.specs())
        state = os.path.join(self.w.root, "lib")
        images = [os.path.join(d, f) for d, _, files in os.walk(os.path.join(state, "images")) for f in files]
        lost = [i for i in images if json.dumps(i) not in named]
        lost += glob.glob(os.path.join(state, "made", "*")) + glob.glob(os.path.join(self.w.base, ".*.qmpctl-new"))
        cache = glob.glob(os.path.join(state, "cache", "*")) + glob.glob(os.path.join(state, "cache", ".*"))
        entries = {c for c in cache if os.path.basename(c).startswith("sha256-")}
        known = re.compile(r"partial|qemu-\w+(\.schema)?\.json")  # the latter: what a QEMU was asked once
        lost += [c for c in cache if c not in entries and not known.fullmatch(os.path.basename(c))]
        lost += [c for c in entries if (c[:-5] if c.endswith(".json") else f"{c}.json") not in entries]
        lost += glob.glob(os.path.join(state, "cache", "partial", "*"))
        lost += self.lost_volumes(named)
        lost += [s for s in glob.glob(os.path.join(state, "seeds", "*")) + glob.glob(os.path.join(state, "seeds", ".*"))
                 if json.dumps(s) not in named]
        lost += glob.glob(os.path.join(self.w.base, "data", ".*.qmpctl-new"))
        lost += [i for i in glob.glob(os.path.join(self.w.base, "data", "b.*")) if "data:b.qcow2" not in named]
        self.require(not lost, f"left behind: {lost}")
        pools = os.path.join(self.w.root, "etc", "pools")
        for name in os.listdir(pools) if os.path.isdir(pools) else []:
            self.require(name in ("data.json", "bt.json", "lv.json"), f"left behind: {name}")
            self.w.ok("pool", "info", name[:-5])
        self.check_chains()

    def import_another(self):
        """A part of a download that could not be removed is taken up, or removed, by the next import."""
        another = os.path.join(self.w.base, "another.qcow2")
        self.w.ok("image", "import", *self.argv([self.op.imports]), another)
        os.unlink(another)

    def lost_volumes(self, named):
        folders = {"bt": self.words.get("btrfs"), "lv": self.lvm and f"/dev/{self.lvm.vg}"}
        return [f"{pool}:{name}" for pool, folder in folders.items() for name in (os.listdir(folder) if folder else [])
                if json.dumps(f"{pool}:{name}") not in named and name != ".qmpctl-snapshots" and not (self.op.changes and name == "q")]

    def check_changed(self, killed, mend=False):
        """Each image has what it had or what it is to have; what was not done can be done, to its end."""
        now, op = self.look_at_images(mend), self.op
        if killed:
            old = self.old
            bad = {key: (old.get(key), now.get(key), op.done.get(key)) for key in {*old, *now, *op.done}
                   if now.get(key) not in (old.get(key), op.done.get(key)) and not key[0].startswith(".qmpctl-new")}
            self.require(not bad, f"neither what it was nor what it is to be: {bad}")
            self.again(op.argv)
            self.require(self.look_at_images() == op.done, f"done again: {self.look_at_images()}, not {op.done}")
        elif op.done is None:
            op.done = now

    def check_keys(self):
        """At least one key opens the image at any time; once it is done to its end, just those that are to."""
        self.require(keys.that_open(self.words["luks"]), "no key opens the image")
        result = self.w.run(*self.argv(self.op.argv))
        opens = keys.that_open(self.words["luks"])
        self.require(opens == self.op.keys, f"{sorted(opens)} open it, not {sorted(self.op.keys)}: {result}")

    def check_variables(self):
        """Each VM has those that it had, and there are no others."""
        left = set(os.listdir(os.path.join(self.w.root, "lib", "firmware")))
        names = {name[:-5] for name in self.specs()}
        self.require(left == {f"{name}.fd" for name in names}, f"VMs: {sorted(names)}; variables: {sorted(left)}")
        for name in names:
            with open(self.variables(name), encoding="ascii") as f:
                self.require(f.read(len(BOOT_ENTRY)) == BOOT_ENTRY, f"{name} has lost its boot entries")

    def check_chains(self):
        """Every disk's image can be opened with all that it stands on, as the spec has it. A seed is made at the next start."""
        for spec in self.specs().values():
            for disk in spec.get("disks", []):
                if disk["path"].startswith(self.w.root) and disk["id"] != "seed":
                    subprocess.run(["qemu-img", "info", "-U", "--backing-chain", disk["path"]], check=True,
                                   stdout=subprocess.DEVNULL)

    def check_alive(self, killed):
        op, now = self.op, self.qemus()
        self.require(len(now) <= 1, f"{len(now)} QEMUs run")
        if op.runs and not op.ends:
            self.require(now == [self.pid], f"the VM was lost: {now}, not {[self.pid]}")
        if not op.runs and not op.starts:
            self.require(not now, f"a VM was started: {now}")

    def check_survived(self, role, pid, result):
        """A call that failed is no reason to die, nor to end without a word."""
        self.require(result.rc >= 0 and result.rc < 128, f"died: {result}")
        self.require(result.rc == 0 or "qmpctl: " in result.err, f"no message: {result}")
        if role == "keeper" and self.op.runs and not self.op.ends:
            self.require(pid in self.w.processes() or "out of memory" in self.w.logs(), f"the keeper died: {result}")

    def again(self, words):
        """Does it (again): it works, or says that it is so already."""
        result = self.w.run(*self.argv(words))
        fine = [world.OK, world.FAILED, world.USAGE, world.NOT_FOUND, world.STATE] + [world.HOST] * self.op.changes  # as qemu-img says it
        self.require(result.rc in fine, f"done again: {result}")
        self.require(result.rc == 0 or any(s in result.err for s in ("already", "same id", "has no", "there is no",
                                                                   "not running", "not found")),
                     f"done again: {result}")
        return result

    def check_running(self):
        op = self.op
        self.settled()
        self.check_agreement()
        self.check_files()
        if op.reverse:
            self.again(op.argv)
            self.settled()
            self.check_agreement()
            self.again(op.reverse)
            self.settled()
            self.check_agreement()
            if not op.before or op.reverse[1] == "add":
                self.require(self.qemu_fds() == self.fds, f"fds: {self.fds} before, {self.qemu_fds()} now")
        self.check_files()

    def check_stopped(self):
        self.check_files()
        known = {n for n in ("a", "b", "c") if f"{n}.json" in self.specs()}
        self.require(known or self.op.argv[0] in ("delete", "create"), "the spec is gone")
        self.require(len(known & {"a", "c"}) < 2, "the VM has two names")
        for name in known:
            self.require(self.w.status(name)["state"] == "stopped", f"{name} is {self.w.status(name)}")
        if self.op.reverse:
            self.again(self.op.argv)
            self.again(self.op.reverse)
        elif not self.op.ends and not self.op.keys and not self.op.changes:
            self.again(self.op.argv)
            if self.op.argv[0] == "clone":
                self.require("b.json" in self.specs(), "there is no clone")
                self.w.ok("start", "b")
                self.w.ok("kill", "b")
            self.require(self.op.argv[0] in ("delete", "rename", "start", "image", "pool", "seed") or self.op.argv[1] in
                         {n[:-5] for n in self.specs()}, f"after {self.op.name}: {sorted(self.specs())}")
        self.check_files()

    def check_end(self):
        """A VM that ran is stopped, and leaves what a VM that stops leaves; one that can start still starts."""
        name = "c" if "c.json" in self.specs() else "a"
        if f"{name}.json" not in self.specs() or (self.op.changes and not self.op.btrfs):
            return
        if not self.qemus():
            self.w.ok("start", name)
        self.require(len(self.qemus()) == 1, "it does not start any more")
        self.w.ok("kill", name)
        self.w.wait_gone([p for p in self.w.processes()])
        folder = os.path.join(self.w.root, "run", name)
        left = {f for f in os.listdir(folder) if not f.endswith(".log")}
        self.require(left <= {"lock", "last-end.json"}, f"left in the run directory: {sorted(left)}")

    # -- the whole case

    def run(self, role, at, fault):
        """(boundaries passed, whether the kill came, the call that was not made)."""
        self.prepare()
        self.boundary.arm(role, at, fault)
        result = self.w.run(*self.argv(self.op.argv))
        if role == "keeper" and at:
            self.wait_quiet()
        seen, killed, call = self.boundary.read()
        self.w.env.pop("LD_PRELOAD")
        if killed and fault == "kill":
            self.w.wait_gone([killed])
        elif killed:
            self.check_survived(role, killed, result)
        elif result.rc != 0:
            raise Broken(f"without a kill: {result}")
        # What probed a QEMU binary ends with the keeper; it is no VM.
        self.w.wait_gone([pid for pid, cmd in self.w.processes().items() if "qemu-system" in cmd.split(" ")[0]
                          and "-name" not in cmd])
        self.check_alive(killed)
        # A status is all that anyone has to ask for.
        for name in [n[:-5] for n in self.specs() if not n.startswith(".")]:
            self.settled(name)
        self.check_images()
        if self.op.keys:
            self.check_keys()
        if self.op.changes:
            self.check_changed(killed)
        if self.op.uefi:
            self.check_variables()
        if self.qemus():
            self.check_running()
        else:
            self.check_stopped()
        self.check_alive(killed) if not self.op.starts else self.require(len(self.qemus()) <= 1, "two QEMUs run")
        self.check_end()
        return seen, killed, call

    def wait_quiet(self):
        """Until the keeper is dead or the operation has ended in it; a client whose keeper dies ends at once."""
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline and self.op.ends and not self.boundary.LAYOUT.unpack(self.boundary.map[:])[3]:
            if not self.w.processes():
                return
            time.sleep(0.01)


def one(op, role, at, fault):
    case = Case(op)
    try:
        return case.run(role, at, fault)
    except (Broken, AssertionError, QmpError, OSError, subprocess.CalledProcessError) as why:
        logs = case.w.logs()
        raise Broken(f"({case.boundary.read()[2]}) {why}\n{logs}") from None
    finally:
        case.close()


# ---- The sweep

def points(args):
    """(operation, role) and how many boundaries it has, counted once without a kill."""
    turns = args.fault != "kill"
    for op in OPERATIONS:
        turns ^= op.in_turns
        if op.name not in args.only if args.only else args.sample and (op.keys or (op.in_turns and turns)):
            continue
        for role in ROLES:
            if (args.role and role != args.role) or (role == "keeper" and not op.runs and not op.starts):
                continue
            yield op, role


def main():
    p = argparse.ArgumentParser(description="kill qmpctl at every boundary of every operation")
    p.add_argument("--fault", choices=[*FAULTS, "any"], default="kill", help="any: a random error for each operation")
    p.add_argument("--only", type=lambda t: t.split(","), help="operations")
    p.add_argument("--role", choices=ROLES)
    p.add_argument("--from", dest="first", type=int, default=1, help="the first boundary")
    p.add_argument("--to", dest="last", type=int, default=1 << 30, help="the last boundary")
    p.add_argument("--sample", type=int,
                   help="so many boundaries of each operation and role, chosen by --seed; none of those that take seconds; of those that "
                        "change images every other one, and the others with --fault")
    p.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    p.add_argument("-v", action="store_true")
    args = p.parse_args()
    for path in (PRELOAD, world.QMPCTL):
        if not os.path.exists(path):
            raise SystemExit(f"{path}: not built")
    if args.sample or args.fault == "any":
        print(f"seed {args.seed}")
    # A folder of its own to be called in: nothing may be made there.
    if "QMPCTL_GUEST" in os.environ:
        os.environ["QMPCTL_GUEST"] = os.path.abspath(os.environ["QMPCTL_GUEST"])
    here = tempfile.mkdtemp(prefix="qmpctl-called-in.")
    os.chdir(here)
    atexit.register(shutil.rmtree, here)
    chance = random.Random(args.seed)
    broken = cases = kills = 0
    for op, role in points(args):
        fault = chance.choice([f for f in FAULTS if f != "kill"]) if args.fault == "any" else args.fault
        try:
            total = one(op, role, 0, fault)[0]
        except Broken as why:
            print(f"BROKEN {op.name} without a kill: {why}")
            broken += 1
            continue
        which = range(args.first, min(total, args.last) + 1)
        if args.sample:
            which = sorted(chance.sample(which, min(args.sample, len(which))))
        bad = 0
        for at in which:
            cases += 1
            try:
                _, killed, call = one(op, role, at, fault)
                kills += bool(killed)
                if args.v:
                    print(f"  {op.name} {role} {at}/{total} {call if killed else 'not reached'}: holds", flush=True)
            except Broken as why:
                bad += 1
                print(f"BROKEN {op.name} {fault} {role} {at}/{total}: {why}", flush=True)
        for name in os.listdir("."):
            bad += 1
            print(f"BROKEN {op.name} {fault} {role}: {name} was made in the folder that it was called in", flush=True)
            shutil.rmtree(name)
        broken += bad
        print(f"{op.name}: {fault} in the {role} at {len(which)} of {total} boundaries, {bad} broken", flush=True)
    print(json.dumps({"cases": cases, "hits": kills, "broken": broken}))
    sys.exit(1 if broken or not kills else 0)


if __name__ == "__main__":
    main()
