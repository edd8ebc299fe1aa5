#!/usr/bin/env python3
"""record.py QEMU: a session with a real QEMU, written to session.txt: "> " what the client sent, "< " what QEMU said."""
import json
import os
import subprocess
import sys

COMMANDS = [
    ("qmp_capabilities", {"enable": ["oob"]}),
    ("query-status", None),
    ("query-version", None),
    ("no-such-command", None),
    ("blockdev-add", {"driver": "null-co", "node-name": "vda-file", "size": 1 << 20, "read-zeroes": True}),
    ("blockdev-add", {"driver": "null-co", "node-name": "vda-file"}),
    ("device_add", {"driver": "virtio-blk-pci", "id": "vda", "drive": "vda-file", "bus": "rp1"}),
    ("query-named-block-nodes", {"flat": True}),
    ("object-add", {"qom-type": "iothread", "id": "io"}),
    ("qom-list", {"path": "/objects"}),
    ("qom-get", {"path": "/machine", "property": "type"}),
    ("qom-get", {"path": "/machine/unattached/system[0]", "property": "size"}),
    ("cont", None),
    ("system_reset", None),
    ("stop", None),
    ("device_del", {"id": "vda"}),
    ("system_reset", None),
    ("query-jobs", None),
    ("quit", None),
]


def record(qemu):
    proc = subprocess.Popen(
        [qemu, "-S", "-nodefaults", "-no-user-config", "-accel", "tcg", "-machine", "q35", "-display", "none", "-m", "16",
         "-device", "pcie-root-port,id=rp1,slot=1", "-qmp", "stdio"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    lines = [f"< {proc.stdout.readline().rstrip()}"]
    for serial, (name, arguments) in enumerate(COMMANDS, 1):
        command = {"execute": name, "id": f"id-{serial}"}
        if arguments is not None:
            command["arguments"] = arguments
        text = json.dumps(command, separators=(",", ":"))
        proc.stdin.write(text + "\n")
        proc.stdin.flush()
        lines.append(f"> {text}")
        while True:
            line = proc.stdout.readline().rstrip()
            if not line:
                break
            lines.append(f"< {line}")
            if "event" not in json.loads(line):
                break
    lines += [f"< {line.rstrip()}" for line in proc.stdout]
    proc.wait(10)
    return lines


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "session.txt"), "w", encoding="ascii") as out:
        out.write("\n".join(record(sys.argv[1])) + "\n")
