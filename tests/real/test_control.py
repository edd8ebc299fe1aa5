"""control.sock: QMP for any number of clients at once, good ones and bad ones."""
import json
import os
import re
import socket
import threading
import time

import world
from qmp import Qmp, QmpClosed, QmpError, connect_unix
from world import WorldTest

CLIENTS = 16
COMMANDS = 200


class Control(WorldTest):
    def setUp(self):
        super().setUp()
        self.serial = self.w.start_tiny("a")

    def alive(self):
        with self.w.control("a") as qmp:
            self.assertEqual(qmp.execute("query-status")["status"], "running")

    def test_it_greets_and_negotiates_as_qemu_does(self):
        with self.w.control("a", negotiate=False) as qmp:
            self.assertIn("qemu", qmp.greeting["version"])
            with self.assertRaises(QmpError) as early:
                qmp.execute("query-status")
            self.assertEqual(early.exception.cls, "CommandNotFound")
            qmp.execute("qmp_capabilities")
            self.assertTrue(qmp.execute("query-status")["running"])

    def test_ids_of_every_json_type_come_back(self):
        with self.w.control("a") as qmp:
            for ident in (0, -1, "x", 1.5, [1, {"a": None}], {"b": [True]}, "\u20ac", ""):
                self.assertEqual(qmp.reply(qmp.send("query-name", ident=ident)), {"name": "a"})

    def test_an_unknown_command_and_a_wrong_argument_are_errors_in_qemus_classes(self):
        with self.w.control("a") as qmp:
            with self.assertRaises(QmpError) as unknown:
                qmp.execute("no-such-command")
            self.assertEqual(unknown.exception.cls, "CommandNotFound")
            with self.assertRaises(QmpError) as wrong:
                qmp.execute("qom-get", {"path": "/machine"})
            self.assertEqual(wrong.exception.cls, "GenericError")
            with self.assertRaises(QmpError):
                qmp.execute("qmpctl-disk-remove", {"id": "nosuch"})

    def test_the_big_reply_comes_whole(self):
        with self.w.control("a") as qmp:
            names = {item["name"] for item in qmp.execute("query-qmp-schema") if item["meta-type"] == "command"}
            self.assertIn("device_add", names)

    def test_own_commands_tell_what_they_are(self):
        with self.w.control("a") as qmp:
            self.assertEqual(qmp.execute("qmpctl-status")["state"], "running")
            self.assertEqual(qmp.execute("qmpctl-show")["spec"]["name"], "a")

    def test_operations_stand_beside_qemus_commands(self):
        """In query-commands, in query-qmp-schema (in QEMU's form) and in qmpctl-schema, all alike, and in the document."""
        with self.w.control("a") as qmp:
            operations = {o["name"]: o for o in qmp.execute("qmpctl-schema")["operations"]}
            commands = [c["name"] for c in qmp.execute("query-commands")]
            infos = {i["name"]: i for i in qmp.execute("query-qmp-schema")}
        self.assertIn("device_add", commands)
        self.assertEqual([c for c in commands if c.startswith("qmpctl-")], list(operations))
        self.assertEqual(sorted(commands), sorted(n for n, i in infos.items() if i["meta-type"] == "command"))
        for name, operation in operations.items():
            members = infos[infos[name]["arg-type"]]["members"]
            self.assertEqual([(m["name"], "default" in m) for m in members],
                             [(a["name"], a["optional"]) for a in operation["arguments"]])
            for member, argument in zip(members, operation["arguments"]):
                kind = infos[member["type"]]
                self.assertTrue(argument["summary"])
                self.assertEqual(kind.get("values"), argument.get("choices"))
                self.assertEqual({"int": "int", "boolean": "bool", "string": "string", "object": "object"}.get(
                    kind.get("json-type"), "string"), argument["type"])
        with open(os.path.join(os.path.dirname(__file__), "../../docs/control-protocol.md"), encoding="utf-8") as f:
            rows = {m[1]: m[2] for m in re.finditer(r"(?m)^\| `(qmpctl-[a-z-]+)` \|(.*)$", f.read())}
        self.assertEqual(sorted(rows), sorted(operations))
        for name, row in rows.items():
            self.assertEqual(row.split("|")[0].strip().startswith("yes"), operations[name]["changes"], name)
            for argument in operations[name]["arguments"]:
                shared = argument["name"] in ("live", "config", "dry-run", "timeout") and "those of a change" in row
                self.assertTrue(shared or f"`{argument['name']}`" in row, f"{name}: {argument['name']} is not in {row}")

    def test_a_client_that_sends_no_more_is_answered_first(self):
        """As in: printf ... | socat - UNIX-CONNECT:control.sock"""
        sock = connect_unix(os.path.join(self.w.vm_dir("a"), "control.sock"))
        with sock:
            sock.sendall(b'{"execute": "qmp_capabilities"}{"execute": "query-status", "id": 1}'
                         b'{"execute": "qmpctl-wait", "arguments": {"for": "running"}, "id": 2}'
                         b'{"execute": "query-block", "id": 3}')
            sock.shutdown(socket.SHUT_WR)
            got = b""
            while part := sock.recv(65536):
                got += part
        lines = [json.loads(line) for line in got.splitlines()]
        self.assertEqual([m["id"] for m in lines if "id" in m], [1, 2, 3])
        self.assertTrue(all("return" in m for m in lines if "id" in m), lines)

    def test_many_clients_pipeline_at_once_and_each_gets_its_own(self):
        failures = []

        def client(number):
            try:
                with self.w.control("a") as qmp:
                    # The same ids in every client, answered differently.
                    path = f"/machine/{'peripheral' if number % 2 else 'unattached'}"
                    for i in range(COMMANDS):
                        if i % 2:
                            qmp.send("query-name", ident=i)
                        else:
                            qmp.send("qom-get", {"path": path, "property": "type"}, ident=i)
                    for i in range(COMMANDS):
                        got = qmp.reply(i)
                        want = {"name": "a"} if i % 2 else "container"
                        if got != want:
                            failures.append(f"client {number}, id {i}: {got!r} for {want!r}")
                    if qmp.replies or qmp.stray:
                        failures.append(f"client {number}: not asked for: {qmp.replies} {qmp.stray}")
            except Exception as why:  # any of them is a failure of the test, told from the main thread
                failures.append(f"client {number}: {type(why).__name__}: {why}")

        threads = [threading.Thread(target=client, args=(n,)) for n in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        self.alive()

    def test_events_go_to_every_client(self):
        clients = [self.w.control("a") for _ in range(4)]
        try:
            clients[0].execute("stop")
            for qmp in clients:
                qmp.event("STOP")
            clients[1].execute("cont")
            for qmp in clients:
                qmp.event("RESUME")
        finally:
            for qmp in clients:
                qmp.close()

    def test_a_client_that_does_not_read_holds_nobody_up(self):
        with self.w.control("a") as deaf, self.w.control("a") as other:
            deaf.sock.settimeout(2)
            try:
                for ident in range(2000):
                    deaf.send("query-qmp-schema", ident=ident)
            except OSError:
                pass  # held back or cut off: both are fine
            for _ in range(20):
                self.assertEqual(other.execute("query-name"), {"name": "a"})
        self.alive()

    def test_a_client_that_dies_in_the_middle_harms_nobody(self):
        with self.w.control("a") as other:
            for _ in range(50):
                dying = self.w.control("a")
                dying.send("query-qmp-schema")
                dying.send("query-named-block-nodes")
                dying.sock.send(b'{"execute": "query-st')
                dying.close()
                self.assertEqual(other.execute("query-name"), {"name": "a"})
            self.assertEqual(other.stray, [])
        self.alive()

    def test_fds_reach_the_command_that_they_came_with(self):
        """QEMU keeps the fds that came last, whichever command they are for: so they must not come while it is busy."""
        path = os.path.join(self.w.root, "handed-over-{}")
        files = [open(path.format(i), "w+") for i in range(6)]
        with self.w.control("a") as one, self.w.control("a") as two:
            slow = one.send("query-qmp-schema")
            sent = [(qmp, qmp.send("add-fd", {"fdset-id": i}, fds=[file.fileno()]))
                    for i, (qmp, file) in enumerate(zip((one, two) * 3, files))]
            one.reply(slow)
            pid = self.w.qemu_pid("a")
            for i, (qmp, ident) in enumerate(sent):
                fd = qmp.reply(ident)["fd"]
                self.assertEqual(os.readlink(f"/proc/{pid}/fd/{fd}"), path.format(i))
                qmp.execute("remove-fd", {"fdset-id": i})
        for file in files:
            file.close()

    def test_rubbish_is_answered_or_cut_off_and_nothing_else(self):
        for rubbish in (b"\0" * 100, b"hello\n", b"[1,2,3]\n", b"{" * 5000, b'{"execute": 5}\n', b"}\n", b'"\xff"\n',
                        b'{"execute":"query-name","execute":"quit"}\n'):
            with self.w.control("a") as qmp:
                try:
                    qmp.sock.sendall(rubbish + b"\xff")
                    while not qmp.stray:
                        qmp._pump(time.monotonic() + 0.3)
                except (OSError, QmpClosed, AssertionError):
                    pass
            self.alive()

    def test_stop_by_the_control_socket(self):
        with self.w.control("a") as qmp:
            qmp.execute("qmpctl-stop")
        self.serial.expect("PWRBTN")
        self.w.wait_state("a", "stopped")
        self.stopped_clean()

    def test_the_observer_may_look_and_not_touch(self):
        path = f"{self.w.vm_dir('a')}/observe.sock"
        with Qmp(path) as qmp:
            self.assertTrue(qmp.execute("query-status")["running"])
            for command in ("stop", "quit", "qmpctl-kill"):
                with self.assertRaises(QmpError):
                    qmp.execute(command)
            with self.w.control("a") as control:
                control.execute("object-add", {"qom-type": "secret", "id": "s0", "data": "geheim"})
            self.assertEqual(qmp.execute("qom-get", {"path": "/objects/s0", "property": "format"}), "raw")
            for path in ("/objects/s0", "s0"):
                with self.assertRaises(QmpError) as refused:
                    qmp.execute("qom-get", {"path": path, "property": "data"})
                self.assertIn("looking only", refused.exception.desc)
        self.alive()


if __name__ == "__main__":
    world.main()
