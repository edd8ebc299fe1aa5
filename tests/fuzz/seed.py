#!/usr/bin/env python3
"""seed.py OUT: the harnesses' seeds, OUT/NAME/..., and OUT/words.dict, from the recorded session (session.txt, record.py),
the cases of specs, the golden command lines' spec and the schema of specs."""
import bz2
import glob
import gzip
import hashlib
import json
import lzma
import os
import re
import shutil
import struct
import sys
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
UNIT = os.path.join(HERE, "../unit")


def read(path):
    with open(path, "rb") as f:
        return f.read()


def session():
    """[(who, line)]"""
    lines = read(os.path.join(HERE, "session.txt")).splitlines()
    return [(line[:1], line[2:]) for line in lines]


# ---- One function a harness; each yields its seeds ----

def seeds_json():
    said = [line for who, line in session() if who == b"<"]
    for line in said:
        yield b"\x07" + line + b"\r\n"
    yield b"\x03" + b"\r\n".join(said)
    for text in (b'{"a":[1,-1,0.5,1e9,true,null,"\\u00e9\\ud83d\\ude00\\u0000"]}', b'{"return":18446744073709551615}{"return":[inf,-nan]}',
                 b'{"id":{"$number":"18446744073709551615"}} \xff{"x', b'{"' + b"[" * 1030, b'{"a":' * 40 + b"1" + b"}" * 40):
        yield b"\x01" + text
    for path in cases():
        yield b"\x11" + read(path)


def cases():
    found = sorted(glob.glob(f"{UNIT}/spec-cases/*/*.json"))
    assert len(found) > 20, f"no cases in {UNIT}"
    return found


def seeds_spec():
    for path in cases():
        yield read(path)
    for change in ("memory=2G", "cpu.count=4", "disks[0].cache=none", "disks[vda].throttle.iops-total=10", "machine.type=pc",
                   "nics[0].backend=none", "description=x", "watchdog.action=reset"):
        yield read(f"{UNIT}/spec-cases/good/chain.json") + f"\0{change}\0".encode()
        yield read(f"{UNIT}/spec-cases/good/nics.json") + f"\0{change}\0{change.split('=')[0]}\0".encode()


def ident(number):
    """What the harness replaces by the id of that command."""
    return b"\x11" + bytes([ord("A") + number])


def seeds_location():
    text = read(f"{UNIT}/test_location.c").decode()
    for found in re.findall(r'\{"((?:[^"\\]|\\.)+)", (?:"|VM_)', text):
        yield found.encode().decode("unicode_escape").encode("latin-1")


def seeds_session():
    # The recorded ids count from 1, the harness from 0.
    lines = [(who, re.sub(rb"id-(\d+)", lambda m: ident(int(m[1]) - 1), line)) for who, line in session()]
    # All of it as it was: a command of ours, then what QEMU said, and a turn of the loop.
    whole = b"\x06\x0b"
    for who, line in lines:
        whole += b"\x01" if who == b">" and b"capabilities" not in line else line + b"\r\n\x06" if who == b"<" else b""
    yield whole
    yield whole.replace(b"\x01", b"\x03", 3).replace(b"\x01", b"\x04")
    hello, up = lines[0][1] + b"\n\x06", b'{"return":{},"id":"' + ident(0) + b'"}\n\x06'
    yield hello + up + b'\x01\x01\x02\x05{"return":{},"id":"\x11B"}\x06\x07\x06'
    yield hello + up + b'\x01\x0e{"error":{"class":"GenericError","desc":"no"},"id":"\x11B"}\x06'
    yield hello + up + b'\x01\x0f{"return":[],"id":"\x11B"}{"return":1,"id":"\x11C"}\x06'
    yield hello + up + b"\x03" * 12 + b'{"return":{},"id":"\x11B"}\x06\x08\x06'
    yield b"\x01\x02\x05" + hello + b'{"return":{},"id":"\x11D"}\x06{"error":{"class":"x","desc":"y"}}\x06'
    yield b"\x01" + hello.replace(b'"oob"', b"") + b'{"return":{},"id":"\x11B"}\x06\x02\x06'
    yield b"\x01\x07\x06"
    yield hello + b'{"error":{},"id":"\x11A"}\x06\x01'


def seeds_peer():
    said = [line for who, line in session() if who == b">"]
    yield b"\r\n\x01".join(said) + b"\x01"
    yield b"".join(said) + b"\x01"
    up = b'{"execute":"qmp_capabilities"}\x01'
    oob = b'{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}\x01'
    yield up + b'\x02{"execute":"fds"}\x01\x03{"execute":"fds","id":[1]}\x01{"execute":"x","arguments":{"a":"\\u0000"}}\x01'
    yield oob + b'{"exec-oob":"x","id":1}{"execute":"keep","id":2}{"execute":"keep"}\x01\x0c\x0c\x06\x01'
    yield up + b'\x04{"execute":"x"}{"execute":"x"}\x01\x05\x01{"execute":"pause"}{"execute":"error"}\x01\x05\x01'
    yield up + b'garbage {"a"\n{"execute":"raw"}\x01{"execute":"x",}\x01{"half\xff{"execute":"x"}\x01'
    yield up + b'\x0e' + b'{"execute":"big"}\x01' * 40 + b"\x06" * 4 + b"\x01"
    yield up + b'\x0b{"execute":"x"}\x01'
    yield b"\x07\x01" + up + b"\x08\x01"
    yield b'{"execute":"x","id":{"a":[null]}}\x01{"execute":"qmp_capabilities","arguments":{"enable":["no"],"x":1}}\x01'


def seeds_agent():
    # What qemu-ga says: it complains of the 0xFF, then answers the sync.
    answer = b'\x06\x06{"error": {"class": "GenericError", "desc": "JSON parse error, stray"}}\n\xff{"return": \x11}\n\x06\x06'
    info = (b'{"return": {"version": "7.2.22", "supported_commands": [{"enabled": true, "name": "guest-ping", '
            b'"success-response": true}, {"enabled": false, "name": "guest-exec", "success-response": true}]}}\n\x06')
    yield b"\x01" + answer + info + b"\x01" + answer + b'{"return": {}}\n\x06\x08\x06'
    yield b"\x01\x01\x05" + answer + b'{"error": {"class": "CommandNotFound", "desc": "no"}}\n\x06\x06'
    yield b"\x02" + answer + b'\xff{"return": \x11}\n\x06'
    yield b"\x02" + answer + b"\x08\x06"
    yield b"\x02" + answer + b"\x07\x07\x06"
    yield b"\x03" + answer + b'\x03\x06\x07\xff{"return": \x11}\n\x03' + answer
    yield b'{"return": {"stale": 1}}\n\xff{"ret\x01' + answer + b'{"return": [1, "}\\""]}{"return": 2}\n\x06\x0f\x01' + answer + info
    yield b"\x01" + answer + b"\x07\x07\x06\x01" + answer + info + b"\x09\x06\x06\x01"
    yield b"\x0e\x01" + answer
    yield b"\x01\x06\x09\x06\x06\x01"


def compact(value):
    return json.dumps(value, separators=(",", ":")).encode()


def state_journals(spec, text):
    """Entries as change.c writes them, one a stage, and all of them."""
    step = {"item": "disks.vda", "execute": "device_del", "arguments": {"id": "vda"},
            "wait": {"event": "DEVICE_DELETED", "match": {"device": "vda"}, "timeout": 30000}}
    add = {"item": "disks.vdb", "execute": "blockdev-add", "arguments": {"driver": "null-co", "node-name": "vdb-file"},
           "undo": {"execute": "blockdev-del", "arguments": {"node-name": "vdb-file"}}}
    entries = [{"stage": stage, "operation": "qmpctl-disk-remove", "since": 1, "plan": plan, "want": spec, "config": json.loads(text)}
               for stage, plan in (("begun", [step]), ("waiting", [step]), ("undoing", [add]))]
    return [compact({"entries": [entry]}) for entry in entries] + [compact({"entries": entries})]


def seeds_state():
    """
    As vm_save_running and record_end write them: the spec, what "auto" became, the command line; and what QEMU says then. An input
    is read some four times, so each is short: a small record with everything that may be around it, and each spec in a record alone.
    """
    hello = b'{"QMP":{"version":{"qemu":{"micro":2,"minor":2,"major":7}},"capabilities":["oob"]}}\n\x06'
    up = b'{"return":{},"id":"\x11A"}\n\x06'
    status = b'{"return":{"running":true,"status":"running"},"id":"\x11B"}\n\x06'
    lost = b'{"return":{"running":false,"status":"prelaunch"},"id":"\x11B"}\n\x06\x07\x07'
    answers = b"".join(b'{"return":{},"id":"' + ident(n) + b'"}\x06' for n in range(2, 9))
    end = compact({"reason": "guest-shutdown", "time": 1, "exit-code": 0})
    version = {"major": 7, "minor": 2, "micro": 2}
    caps = compact({"identity": "/q 1 2", "binary": "/q", "kvm-cpu": None, "hyperv": "", "sandbox": True, "version": version,
                    "machines": {"q35": "pc-q35-7.2", "pc": "pc-i440fx-7.2"}})
    host = {"accel": "tcg", "cpu-model": "max", "machine": "q35", "qemu-version": version, "binary": "/q"}

    def record(spec):
        return compact({"spec": dict(spec, uuid="6a2d4c1e-7b0f-4a65-9d0a-5f3f2b6c1d10"), "host": host, "argv": ["q"], "started": 1,
                        "paused": False, "boot": "b"})
    disk = {"name": "a", "disks": [{"id": "vda", "path": "/x", "format": "raw", "port": 1}]}
    nic = {"name": "a", "nics": [{"id": "net0", "mac": "52:54:00:46:c0:f2", "port": 2}]}
    for spec in ({"name": "a"}, disk, nic):
        text = compact({"name": "a", **{key: spec[key] for key in ("disks", "nics") if key in spec}})
        for kind in (0, 32, 64, 128):
            for flags, says in ((7, hello + up + status + b"\x0e\x06" + answers + b"\x07" + answers),
                                (23, hello + up + status + b"\x0e\x06" + answers), (3, hello + up + status),
                                (7, hello + up + lost), (15, b"\x06\x07")):
                yield bytes([flags | kind]) + b"\0".join([record(spec), b"", b"4711", text, b"", b"", says])
        for journal in state_journals(spec, text):
            for flags, says in ((7, hello + up + status + answers), (23, hello + up + lost), (39, hello + up + status + answers), (3, b"\x06")):
                yield bytes([flags]) + b"\0".join([record(spec), b"", b"4711", text, b"", journal, says])
        for flags in (0, 2, 6, 34, 66, 130):
            yield bytes([flags]) + b"\0".join([record(spec), end, b"4711\n", text, caps, b"", b"\x06"])
            yield bytes([flags]) + b"\0".join([b"", b"", b"", text, caps, b"", b""])
    for path in [os.path.join(HERE, "effective.json")] + [p for p in cases() if "/good/" in p]:
        spec = json.loads(read(path))
        yield b"\x07" + b"\0".join([record(spec), b"", b"4711", b"", b"", b"", hello + up + status + answers])
        yield b"\0" + b"\0".join([b"", end, b"", compact(dict(spec, name="a")), caps, b"", b""])
    yield b"\x03{}\x000\x001\x00"
    yield b'\x03{"spec": []}\0{}\x0017\0\0\0'


def seeds_header():
    def qcow2(version, backing=b"", features=0, size=1 << 30):
        head = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", version, 112 if backing else 0, len(backing), 16, size, 0, 1, 0x30000,
                           0x10000, 1, 0, 0)
        return (head + struct.pack(">QQQII", features, 0, 0, 4, 104)).ljust(112, b"\0") + backing
    yield qcow2(2)
    yield qcow2(3)
    yield qcow2(3, b"/images/base.qcow2", 4)
    yield qcow2(2, b'json:{"driver":"null-co"}')
    yield qcow2(1)
    text = b'# Disk DescriptorFile\nversion=1\nparentFileNameHint="/base.vmdk"\nRW 2048 FLAT "x-flat.vmdk" 0\n'
    vmdk4 = b"KDMV" + struct.pack("<II5Q", 3, 0, 2048, 128, 1, 2, 0)
    yield text
    yield vmdk4.ljust(512, b"\0") + text.ljust(1024, b"\0")
    yield (b"KDMV" + struct.pack("<II5Q", 3, 0, 0, 128, 1, 2, 0)).ljust(512, b"\0") + text.ljust(1024, b"\0")
    yield b"QED\0" + struct.pack("<III4QQII", 65536, 4, 1, 1, 0, 0, 65536, 1 << 30, 80, 10).ljust(76, b"\0") + b"/base.qed\0"
    yield qcow2(3, b"", 4)[:104] + struct.pack(">II", 0x44415441, 9) + b"/data.raw".ljust(16, b"\0")
    # A vhdx: the tables are at 192 KiB, and the file has its bytes from 16 on there once more (fuzz_header.c).
    regions = (struct.pack("<4sIII", b"regi", 0, 1, 0) + uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le +
               struct.pack("<QII", (192 << 10) + 64, 1 << 20, 1))
    metadata = (struct.pack("<8sHH20x", b"metadata", 0, 1) + uuid.UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8").bytes_le +
                struct.pack("<IIII", 80, 8, 6, 0))
    yield b"vhdxfile".ljust(16, b"\0") + regions.ljust(64, b"\0") + metadata.ljust(80, b"\0") + struct.pack("<Q", 1 << 30)
    yield b"LUKS\xba\xbe\0\1".ljust(104, b"\0") + struct.pack(">I", 1).ljust(600, b"\0")
    for magic in (b"QED\0", b"KDMV", b"COWD", b"\0" * 64 + b"\x7f\x10\xda\xbe", b"vhdxfile", b"conectix", b"WithoutFreeSpace",
                  b"WithouFreSpacExt", b"LUKS\xba\xbe\0\2", b"# Disk DescriptorFile\n", b"", b"\0" * 512):
        yield magic.ljust(600, b"\0")
        yield magic


def seeds_sums():
    big, small = hashlib.sha512(b"x").hexdigest(), hashlib.sha256(b"x").hexdigest()
    other = hashlib.sha256(b"y").hexdigest()
    for text in (f"{small}  a.img\n", f"{small} *a.img", f"junk\n\n{small}  ./x/a.img\r\n{big}  a.img\r\n",
                 f"SHA256 (a.img) = {small}\nSHA512 (x/a.img) = {big}\n", f"SHA256 (a) = b (a.img) = {small}\n",
                 f"# comment\nMD5 (a.img) = {'1' * 32}\n{small.upper()}  a.img\n", f"{small}  a.img\n{other}  a.img\n",
                 f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{small}  a.img\n", f"0{small}  a.img\n", f"{small} a.img\n"):
        yield b"a.img\0" + text.encode()
    yield f"a) = {small}\0SHA256 (a) = {small}) = {small}\n".encode()


def seeds_unpack():
    image = b"QFI\xfb" + bytes(9000) + b"image bytes " * 20
    # Two frames of zstd, which Python's library does not make: a text, and 100,000 zeros; and one that is skipped.
    text = bytes.fromhex("28b52ffd045895000060696d6167652062797465732001004e962486fc23b3")
    zeros = bytes.fromhex("28b52ffd04684d0000080001009c86391002db234ef3")
    skipped = bytes.fromhex("502a4d1804000000736b6970")
    window = bytes.fromhex("28b52ffd00a8") + bytes(6) # it wants 1 GiB and more
    bombs = [gzip.compress(bytes(1 << 21)), bz2.compress(bytes(1 << 21)), lzma.compress(bytes(1 << 21))]
    packed = [gzip.compress(image, mtime=0), bz2.compress(image), lzma.compress(image), text + zeros, zeros, text + skipped + text, window,
              lzma.compress(image, preset=0, check=lzma.CHECK_NONE), b"raw image", b"BZ", b""] + bombs
    for i, source in enumerate(packed):
        for step, limit in ((0, 255), (1, 30), (7, 0)):
            yield bytes([step, limit]) + source
        yield bytes([3, 255]) + source + source
        yield bytes([0, 255]) + source + bytes(8) + source
        yield bytes([16, 255]) + source[:len(source) * 2 // 3]
        yield bytes([5, 255]) + source + packed[(i + 1) % len(packed)]


def seeds_pool():
    types = {"dir": {"path": "/srv"}, "mount": {"path": "/mnt/nfs"}, "btrfs": {"path": "/", "subvolumes": True, "nodatacow": True},
             "lvm": {"vg": "v0"}, "lvm-thin": {"vg": "v0", "thin-pool": "t"}, "zfs": {"dataset": "tank/vms", "sparse": True},
             "block": {"path": "/dev/md", "only": ["web*", "[a-c]?"]},
             "rbd": {"pool": "rbd", "namespace": "n", "conf": "/srv/ceph.conf", "user": "me"}}
    for kind, fields in types.items():
        text = json.dumps(dict({"name": "ab", "type": kind, "description": "x"}, **fields)).encode()
        yield b"web\0" + text
        yield b"a:b@c%20\xc3\xa9\0" + text
    yield b'x\0{"name": "a", "type": "dir"}'


def seeds_schema():
    infos = {info["name"]: info for info in json.loads(read(f"{UNIT}/data/schema.json"))}

    def needed(name, found):
        if name in infos and name not in found:
            found[name] = infos[name]
            for word in re.findall(r'"([^"]+)"', json.dumps(infos[name])):
                needed(word, found)
        return found
    for command, path, arguments in (
            ("query-status", "query-status", {}), ("stop", "stop", {}),
            ("blockdev-mirror", "blockdev-mirror/copy-mode", {"device": ":d", "target": "t", "sync": ":full", "speed": ":1"}),
            ("blockdev-add", "file.file", {"driver": ":qcow2", "file": {"driver": "file", "filename": "/x"}}),
            ("screendump", "screendump/format=png", {"filename": ":1", "head": ":3"}),
            ("migrate-set-capabilities", "migrate-set-capabilities/capabilities/capability=multifd",
             {"capabilities": [{"capability": "multifd", "state": True}]})):
        schema = json.dumps(list(needed(command, {}).values())).encode()
        yield b"\0".join([command.encode(), path.encode(), json.dumps(arguments).encode(), schema])
    yield (b'c\0c/a/a/a\0{"a": {"a": {"a": 1}}}\0[{"name":"c","meta-type":"command","arg-type":"o"},{"name":"o","meta-type":"object",'
           b'"members":[{"name":"a","type":"x","default":null}]},{"name":"x","meta-type":"alternate","members":[{"type":"o"},{"type":"x"}]}]')


# ---- Writing ----

def words(schema, found):
    """Every key and every string that the schema of specs knows."""
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key == "properties":
                found.update(value)
            elif key in ("enum", "const", "default"):
                found.update(w for w in (value if isinstance(value, list) else [value]) if isinstance(w, str))
            words(value, found)
    elif isinstance(schema, list):
        for entry in schema:
            words(entry, found)
    return found


def write_dict(path):
    schema = json.loads(read(os.path.join(HERE, "../../docs/spec.schema.json")))
    found = sorted(words(schema, set()))
    assert len(found) > 50, found
    text = read(os.path.join(HERE, "qmp.dict")).decode("ascii")
    with open(path, "w", encoding="ascii") as out:
        out.write(text + "".join('"\\"%s\\""\n' % w for w in found if w.isprintable() and '"' not in w and "\\" not in w))


def main(out):
    for name, function in sorted(globals().items()):
        if not name.startswith("seeds_"):
            continue
        folder = os.path.join(out, name[len("seeds_"):])
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        for seed in function():
            with open(os.path.join(folder, hashlib.sha1(seed).hexdigest()[:16]), "wb") as f:
                f.write(seed)
    write_dict(os.path.join(out, "words.dict"))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
