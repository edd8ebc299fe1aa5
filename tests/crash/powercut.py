#!/usr/bin/env python3
"""The power cut: every operation, cut at every change of a file, and what must hold when the machine is up again.

SIGKILL loses nothing that a process has written; a power cut does. record.c, preloaded, writes down what an operation does to
files, in its order. From that the folder is made anew as it may be after each event, in the ways that a file system may choose:

  - of a name that was made, changed or removed, nothing may be on disk until the folder that it is in was synced; or it may be,
    some folders' and not others';
  - of what was written to a file, nothing may be on disk until the file was synced; or its length alone is, and zeros.

Names stay in order within a folder, and a file that goes from one to another is in one of them. What is in the runtime directory
is gone. Then the program is used as anyone would. These hold:

  - each VM's spec is the old one or the new one, whole, and so is each image; `list` and `show` take them;
  - after the last event they are the new ones: what was told to be done is done;
  - the next verb that makes something leaves nothing behind that nobody has.

    powercut.py [--only OPERATION[,...]] [--sample K [--seed S]] [-v]

The operations are those of sweep.py.
"""
import argparse
import atexit
import glob
import json
import os
import random
import re
import shutil
import stat
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, HERE)

import sweep  # noqa: E402
from sweep import Broken  # noqa: E402

RECORD = os.environ.get("QMPCTL_RECORDER") or os.path.realpath(
    os.path.join(HERE, "../../build/release/tests/crash/librecord.so"))
FOLDER = object()  # in place of a file
EXCHANGE = 2  # RENAME_EXCHANGE


class File:
    def __init__(self, ino, content=None):
        self.ino, self.synced, self.size, self.dirty = ino, content, len(content or b""), False

    def left(self, zeros):
        """What is of it on disk."""
        kept = self.synced or b""
        return kept[:self.size] + bytes(max(0, self.size - len(kept))) if self.dirty and zeros else kept


class Change:
    """Of names: all or none of them, once one of FOLDERS was synced."""

    def __init__(self, **names):
        self.names = names["names"]
        self.folders = {os.path.dirname(path) for path, _ in self.names}


class Disk:
    """What is on it for sure, and what may be."""

    def __init__(self, tree):
        self.durable, self.now, self.pending = dict(tree), dict(tree), []
        self.inodes = {f.ino: f for f in tree.values() if f is not FOLDER}

    def change(self, *names):
        for path, what in names:
            self.put(self.now, path, what)
        self.pending.append(Change(names=names))

    @staticmethod
    def put(tree, path, what):
        if what is None:
            tree.pop(path, None)
        else:
            tree[path] = what

    def event(self, line):
        what, *words = line.split("\t")
        getattr(self, "on_" + what.replace("-", "_"))(*words)

    def on_create(self, ino, path):
        if path not in self.now:
            self.on_nameless(ino)
            self.change((path, self.inodes[ino]))

    def on_nameless(self, ino):
        self.inodes[ino] = File(ino)

    def on_size(self, ino, size):
        self.inodes[ino].size, self.inodes[ino].dirty = int(size), True

    def on_sync(self, ino, content):
        f = self.inodes[ino]
        f.synced, f.size, f.dirty = content, len(content), False

    def on_sync_folder(self, folder):
        for c in [c for c in self.pending if folder in c.folders]:
            self.pending.remove(c)
            for path, what in c.names:
                self.put(self.durable, path, what)

    def on_link(self, ino, path):
        self.change((path, self.inodes[ino]))

    def on_rename(self, old, new, flags):
        if self.now[old] is FOLDER:
            raise Broken(f"the folder {old} is renamed, which is not foreseen here")
        self.change((old, self.now[new] if int(flags) & EXCHANGE else None), (new, self.now[old]))

    def on_unlink(self, path):
        self.change((path, None))

    on_rmdir = on_unlink

    def on_mkdir(self, path):
        self.change((path, FOLDER))

    def states(self):
        """All that may be on the disk if the power is cut now: {path: bytes or FOLDER}."""
        folders = sorted({folder for c in self.pending for folder in c.folders})
        choices = [set(), set(folders)] + [{f} for f in folders] + [set(folders) - {f} for f in folders]
        for i, chosen in enumerate(choices):
            if chosen in choices[:i]:
                continue
            for zeros in (False, True):
                yield self.state(chosen, zeros)

    def state(self, chosen, zeros=False):
        tree = dict(self.durable)
        for c in self.pending:
            if c.folders & chosen:
                for path, what in c.names:
                    self.put(tree, path, what)
        return {path: f if f is FOLDER else (f.ino, f.left(zeros)) for path, f in tree.items()
                if all(tree.get(above, FOLDER) is FOLDER and (above in tree or above not in self.now) for above in parents(path))}


def parents(path):
    while len(path := os.path.dirname(path)) > 1:
        yield path


class Cut:
    """One operation, recorded; then its cuts."""

    def __init__(self, op):
        self.case, self.op = sweep.Case(op), op
        self.w = self.case.w
        self.record = tempfile.mkdtemp(prefix="qmpctl-record.")

    def close(self):
        shutil.rmtree(self.record)
        self.case.close()

    # -- files

    def counts(self, path):
        return not path.startswith((os.path.join(self.w.root, "run"), self.case.words["dir"] + "/boundary", self.case.words["dir"] + "/seen"))

    def walk(self):
        for folder, folders, files in os.walk(self.w.base):
            for name in folders + files:
                path = os.path.join(folder, name)
                if self.counts(path) and (stat.S_ISREG(os.lstat(path).st_mode) or name in folders):
                    yield path

    def tree(self):
        """What there is; all of it on disk."""
        found = {}
        for path in self.walk():
            if os.path.isdir(path):
                found[path] = FOLDER
            else:
                with open(path, "rb") as f:
                    found[path] = File(str(os.stat(path).st_ino), f.read())
        return found

    def restore(self, state):
        """Makes STATE of what there is. Files that are noted by their inodes' numbers have others now."""
        self.w.end()
        shutil.rmtree(os.path.join(self.w.root, "run"), ignore_errors=True)
        for path in sorted(self.walk(), reverse=True):
            if os.path.isdir(path):
                os.rmdir(path)
            else:
                os.unlink(path)
        inodes = {}
        for path, what in sorted(state.items(), key=lambda item: ("/made/" in item[0], item[0])):
            if what is FOLDER:
                os.mkdir(path, 0o700)
                continue
            ino, content = what
            if ino in inodes and inodes[ino] != path:
                os.link(inodes[ino], path)
                continue
            if "/made/" in path:
                content = re.sub(rb'("ino":\s*)(\d+)', lambda m: m[1] + self.number_of(inodes.get(m[2].decode())), content)
            if "/partial/" in path:  # what notes in which run of the machine it was made
                content = re.sub(rb'("boot":\s*")[^"]*', rb"\1another", content)
            with open(path, "wb", opener=lambda p, f: os.open(p, f, self.modes.get(path, 0o600))) as f:
                f.write(content)
            inodes[ino] = path

    @staticmethod
    def number_of(path):
        return str(os.stat(path).st_ino if path else 0).encode()

    # -- the recording

    def perform(self):
        """Runs the operation. Returns the disk before it and the events."""
        self.w.env.update(QMPCTL_RECORDED=self.w.base, QMPCTL_RECORD=self.record)
        self.case.prepare(RECORD)
        old = self.tree()
        open(os.path.join(self.record, "log"), "w", encoding="ascii").close()
        self.old, self.old_bytes = self.specs(), {f.synced for f in old.values() if f is not FOLDER}
        self.modes = {path: stat.S_IMODE(os.stat(path).st_mode) for path in old}
        self.w.ok(*self.case.argv(self.op.argv))
        for name in ("LD_PRELOAD", "QMPCTL_RECORDED", "QMPCTL_RECORD"):
            self.w.env.pop(name)
        self.w.end()
        if self.op.changes:
            self.op.done = self.case.look_at_images()
        self.final = self.tree()
        self.new, self.new_bytes = self.specs(), {f.synced for f in self.final.values() if f is not FOLDER}
        self.modes.update({path: stat.S_IMODE(os.stat(path).st_mode) for path in self.final})
        return old, self.events()

    def events(self):
        with open(os.path.join(self.record, "log"), encoding="utf-8") as f:
            lines = f.read().splitlines()
        found = []
        for line in lines:
            words = line.split("\t")
            paths = [os.path.normpath(w) for w in words[1:] if w.startswith("/")]
            if not all(self.counts(p) for p in paths):
                continue
            found.append("\t".join([words[0]] + [os.path.normpath(w) if w.startswith("/") else w for w in words[1:]]))
        return found

    def content(self, name):
        with open(os.path.join(self.record, name), "rb") as f:
            return f.read()

    def cuts(self):
        """[(after which event, what may be on the disk)], each once."""
        old, events = self.perform()
        disk, seen, found = Disk(old), set(), []
        known = set(disk.inodes)
        for n, line in enumerate(["", *events]):
            what, *words = line.split("\t")
            if what in ("create", "nameless", "link"):
                known.add(words[0])
            if what in ("size", "sync") and words[0] not in known:
                continue  # of a file in the runtime directory
            if what == "sync":
                disk.on_sync(words[0], self.content(words[1]))
            elif line:
                disk.event(line)
            for state in disk.states():
                key = frozenset((path, f if f is FOLDER else f[1]) for path, f in state.items())
                if key not in seen:
                    seen.add(key)
                    found.append((f"{n}: {line}", state))
        if set(disk.now) != set(self.final):
            raise Broken(f"not all was recorded: {sorted(set(disk.now) ^ set(self.final))}")
        # What is sure once it is told to be done.
        lost, zeros = (disk.state(set(), zeros) for zeros in (False, True))
        return found, [("the end", lost)] + [("the end", zeros)] * (lost != zeros)

    # -- what must hold

    def specs(self):
        return {name.removesuffix(".json"): self.nameless(spec) for name, spec in self.case.specs().items()}

    @staticmethod
    def nameless(spec):
        """The file's name counts, and what stands inside follows."""
        return {k: v for k, v in spec.items() if k != "name"}

    def is_ours(self, path):
        """Not one that is being made or edited, a lock, or what can be found out again."""
        name, lib = os.path.basename(path), os.path.join(self.w.root, "lib")
        return not ("/." in path or name.startswith("qmpctl-") or
                    path.startswith((f"{lib}/made/", f"{lib}/cache/qemu-", f"{lib}/cache/partial/", f"{lib}/pools/")))

    def check_files(self, state):
        """What has its name is whole."""
        for path, what in state.items():
            if what is not FOLDER and self.is_ours(path) and not self.op.changes:
                self.case.require(what[1] in self.old_bytes | self.new_bytes,
                                  f"{path} has neither what it had nor what it is to have: {what[1][:80]}")

    def check(self, state, ended):
        """That, and the program takes it."""
        require = self.case.require
        self.check_files(state)
        self.restore(state)
        listed = {vm["name"] for vm in self.w.ok("list", "-o", "json").json()}
        require(listed in (set(self.old), set(self.new)), f"there are {sorted(listed)}, not {sorted(self.old)} nor {sorted(self.new)}")
        for name in listed:
            shown = self.nameless(self.w.ok("show", name, "-o", "json").json()["spec"])
            renamed = self.op.argv[0] == "rename"  # what stands inside of the file follows
            allowed = [spec for specs in (self.old, self.new) for known, spec in specs.items() if renamed or known == name]
            require(shown in allowed, f"{name} is {shown}, not one of {allowed}")
        if ended:
            require(self.specs() == self.new, f"it was done, and lost: {self.specs()}, not {self.new}")
            lost = [path for path in self.final if path not in state and self.is_ours(path)]
            require(not lost, f"it was done, and lost: {lost}")
        self.case.check_images()
        if self.op.changes:
            self.case.check_changed(True, True)
        if self.op.uefi:
            self.case.check_variables()
        self.case.check_files()

    def run(self, args, chance):
        """(cuts, those that did not hold)."""
        found, end = self.cuts()
        tried = chance.sample(found, min(args.sample, len(found))) if args.sample else found
        bad = 0
        for at, state in found + end:
            try:
                if at == "the end" or any(state is s for _, s in tried):
                    self.check(state, at == "the end")
                else:
                    self.check_files(state)
                if args.v:
                    print(f"  {self.op.name}, cut after {at}: holds", flush=True)
            except (Broken, AssertionError, OSError, subprocess.CalledProcessError, UnicodeDecodeError, ValueError) as why:
                bad += 1
                print(f"BROKEN {self.op.name}, cut after {at}: {why}", flush=True)
        return len(found + end), bad


# Volumes are their file system's or LVM's own; a bitmap that was being changed is marked as of no use by qemu-img.
LEFT_OUT = ("image-bitmap-merge", "image-bitmap-remove")


def operations(args):
    for op in sweep.OPERATIONS:
        if op.btrfs or op.lvm or op.keys or op.name in LEFT_OUT or (args.only and op.name not in args.only):
            continue
        yield op


def main():
    p = argparse.ArgumentParser(description="cut the power at every change of a file by every operation")
    p.add_argument("--only", type=lambda t: t.split(","), help="operations")
    p.add_argument("--sample", type=int, help="files are looked at after each cut, but the program is run after so many of each operation alone, "
                                                "chosen by --seed, and after its end")
    p.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    p.add_argument("-v", action="store_true")
    args = p.parse_args()
    for path in (RECORD, sweep.world.QMPCTL):
        if not os.path.exists(path):
            raise SystemExit(f"{path}: not built")
    if args.sample:
        print(f"seed {args.seed}")
    if "QMPCTL_GUEST" in os.environ:
        os.environ["QMPCTL_GUEST"] = os.path.abspath(os.environ["QMPCTL_GUEST"])
    chance = random.Random(args.seed)
    cuts = broken = 0
    for op in operations(args):
        cut = Cut(op)
        try:
            n, bad = cut.run(args, chance)
        except (Broken, AssertionError) as why:
            n, bad = 0, 1
            print(f"BROKEN {op.name}: {why}", flush=True)
        finally:
            cut.close()
        print(f"{op.name}: {n} cuts, {bad} broken", flush=True)
        cuts, broken = cuts + n, broken + bad
    print(json.dumps({"cuts": cuts, "broken": broken}))
    sys.exit(1 if broken or not cuts else 0)


if __name__ == "__main__":
    main()
