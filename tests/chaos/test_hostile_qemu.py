"""A QEMU that answers with anything: its keeper goes on, ends no QEMU that was up, and the other VMs notice nothing.

A session is a start of tests/fake with answers that a seeded generator has spoiled: bytes that are no JSON, depth, types, ids,
replies that are missing, cut or endless, events that are none. QMPCTL_SESSIONS: how many; QMPCTL_SEED: which;
QMPCTL_EVERY=1: instead of them each member of each reply with each wrong type, and a start cut at each byte.
"""
import json
import os
import shutil
import signal
import sys
import threading
import time

from chaos import FakeWorld, GROWTH_KIB, amount, chance, fds, figure, private_kib, seed

import world
from qmp import QmpError, QmpTimeout
from world import PATIENCE, WorldTest

SESSIONS = amount("QMPCTL_SESSIONS", 60)
FIRST = amount("QMPCTL_FIRST", 0)  # with QMPCTL_SEED: one that failed, again
EVERY = amount("QMPCTL_EVERY", 0)  # not drawn: every member of every reply, every byte
CUTS = 700  # bytes that a start takes, and more
AT_ONCE = 15
FAILURES = 5  # then it ends
DRIBBLE = "a byte a second"
HANGING = ("missing", "part", "other id", DRIBBLE)
START_DEADLINE = 2 * PATIENCE  # QEMU has 30 s to come up

sys.setrecursionlimit(20000)  # our own client reads what the keeper passes on

STARTING = ["greeting", "qmp_capabilities", "query-status", "cont"]
RUNNING = ["query-status", "query-named-block-nodes", "qom-list", "query-chardev", "human-monitor-command", "query-pci",
           "blockdev-add", "device_add", "device_del", "blockdev-del", "stop"]
PROBED = ["greeting", "qmp_capabilities", "query-status", "query-machines", "query-qmp-schema"]
WRONG = [None, True, 0, -1, 5, 1e300, 18446744073709551615, "", "x", "x" * 70000, "\0", [], [[]], {}, [None],
         [5], [{}], {"a": None}]
EVENTS = ["STOP", "RESUME", "SHUTDOWN", "RESET", "GUEST_PANICKED", "DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR",
          "VSERPORT_CHANGE", "QMPCTL_STATE", "", "x" * 5000]


# ---- The generator

def paths(value, at=()):
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        yield from paths(below, at + (key,))


def replaced(value, at, new):
    """A copy of VALUE with what is AT replaced; NEW ... (the Ellipsis): removed."""
    if not at:
        return None if new is ... else new
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(at) > 1:
        copy[at[0]] = replaced(copy[at[0]], at[1:], new)
    elif new is ...:
        del copy[at[0]]
    else:
        copy[at[0]] = new
    return copy


def message(**members):
    return json.dumps(members).replace('"$ID"', "$ID") + "\r\n"


def event(draw):
    return draw.choice([
        lambda: message(event=draw.choice(EVENTS), data=draw.choice(WRONG), timestamp={"seconds": 1, "microseconds": 2}),
        lambda: message(event=draw.choice(EVENTS), timestamp=draw.choice(WRONG)),
        lambda: message(event=draw.choice(WRONG)),
        lambda: message(event=draw.choice(EVENTS), data={k: draw.choice(WRONG) for k in (
            "device", "path", "guest", "reason", "id", "open", "action", "state")}),
        lambda: message(event="STOP", id="$ID", **{"return": {}}),
    ])()


def garbage(draw, most):
    return "".join(map(chr, draw.randbytes(draw.randrange(1, most))))


def spoiled(draw, good, greeting):
    """(what kind, what is sent in place of the message GOOD)."""
    text = message(**good)
    body = next(iter(good))

    def wrong_type():
        at = draw.choice(list(paths(good[body])))
        return message(**dict(good, **{body: replaced(good[body], at, draw.choice(WRONG + [...] * 4))}))

    def deep():
        n = draw.choice([500, 1021, 1023, 1024, 1025, 100000])
        a, b = draw.choice([("[", "]"), ('{"a":', "}")])
        return message(**dict(good, **{body: "DEEP"})).replace('"DEEP"', a * n + ("1" if b == "}" else "") + b * n)

    kinds = {
        "type": wrong_type,
        "type2": wrong_type,
        "garbage": lambda: garbage(draw, 5000),
        "garbage and the answer": lambda: garbage(draw, 20) + text,
        "depth": deep,
        "cut": lambda: {"say": text[:draw.randrange(len(text))], "then": "close"},
        "part": lambda: text[:draw.randrange(len(text))],
        "missing": lambda: "",
        "twice": lambda: text + text,
        "other id": lambda: message(**dict(good, id=draw.choice(WRONG))) + draw.choice(["", text]),
        "no id": lambda: message(**{body: good[body]}),
        "error": lambda: message(error=draw.choice(WRONG + [{"class": 5}, {"desc": "x"}, {"class": "x"}, {"class": None, "desc": []}]),
                                 id="$ID"),
        "both": lambda: message(error={"class": "GenericError", "desc": "x"}, id="$ID", **{"return": {}}),
        "neither": lambda: message(id="$ID"),
        "id twice": lambda: text.replace('"id"', '"id": 1, "id"', 1),
        "error without an id": lambda: message(error={"class": "GenericError", "desc": "x"}),
        "event before": lambda: "".join(event(draw) for _ in range(draw.randrange(1, 5))) + text,
        "event behind": lambda: text + event(draw),
        "bytes": lambda: text.replace('"', '"' + draw.choice(["\xff", "\xc0\x80", "\xed\xa0\x80", "\\ud800", "\\u0000", "\0"]), 4),
        "number": lambda: message(**dict(good, **{body: "N"})).replace('"N"', draw.choice(["1e999", "-", "1" * 4000, "0x1", "-inf.0"])),
        "greeting again": lambda: greeting + text,
        "endless": lambda: {"say": draw.choice(['{"return": "', "", '{"event": "']), "then": "endless"},
        "big": lambda: message(**dict(good, **{body: "x" * (4 << 20)})),
        "exit": lambda: {"say": text[:draw.randrange(len(text))], "then": "exit"},
        "close": lambda: {"say": draw.choice(["", text]), "then": "close"},
    }
    kind = draw.choice([k for k in kinds if k != "endless"] * 3 + ["endless"])
    return kind, kinds[kind]()


def reply(good, place):
    return {"QMP": good["greeting"]} if place == "greeting" else {"return": good[place], "id": "$ID"}


class Case:
    """One session."""

    def __init__(self, number, place, kind, answers, words=""):
        self.number, self.place, self.kind, self.answers, self.words = number, place, kind, answers, words

    @classmethod
    def drawn(cls, number, seed_, good, places):
        """By the seed, so that it can be had again."""
        draw = chance(seed_, number)
        place = draw.choice(places)
        kind, answer = spoiled(draw, reply(good, place), message(QMP=good["greeting"]))
        before = 0
        if place not in STARTING or (place == "query-status" and draw.random() < 0.5):
            before = draw.randrange(1, 4) if place in ("query-status", "qom-list") else draw.randrange(2)
        # What comes after it is right, or goes on so.
        answers = {place: [None] * before + [answer] + draw.choice([[None], []])}
        way = draw.random()
        if way < 0.06:
            return cls(number, place, "cut at a byte", {}, f"cut={draw.randrange(CUTS)}")
        if way < 0.10:
            return cls(number, place, "byte by byte", {}, f"trickle={draw.choice([0, 1])}")
        return cls(number, place, kind, answers)

    @classmethod
    def every(cls, good):
        """Each member of each reply, of each wrong type and missing; each byte of a start, cut off there."""
        cases = []
        for place in STARTING + RUNNING:
            shown, seen = reply(good, place), set()
            body = next(iter(shown))
            for at in paths(shown[body]):
                member = tuple("*" if isinstance(key, int) else key for key in at)  # elements of a list are alike
                if member in seen:
                    continue
                seen.add(member)
                cases += [(place, "type", {place: [message(**dict(shown, **{body: replaced(shown[body], at, new)})), None]}, "")
                          for new in WRONG + [...]]
        cases += [("greeting", "cut at a byte", {}, f"cut={n}") for n in range(CUTS)]
        return [cls(number, *case) for number, case in enumerate(cases)]

    @classmethod
    def dribbling(cls, good):
        """Each byte comes long before a deadline, the last one long after it."""
        return [cls(place, place, DRIBBLE, {place: [{"say": message(**reply(good, place)), "trickle": 1000}]})
                for place in ("greeting", "qmp_capabilities", "query-status")]

    def hangs(self):
        """It may take QEMU's 30 s to come up."""
        return self.place in STARTING and self.kind in HANGING

    def __str__(self):
        return f"session {self.number}: {self.place}, {self.kind}, {self.words} {json.dumps(self.answers)[:300]}"


# ---- The tests

class HostileQemu(WorldTest):
    def setUp(self):
        self.w = FakeWorld()
        self.addCleanup(self.w.close)
        self.quiet = threading.Event()  # never set: what is waited for is the time
        self.failures = []
        self.kinds = {}

    def sample(self):
        """What a real QEMU answers."""
        real = world.World()
        try:
            image = os.path.join(real.base, "x.img")
            with open(image, "wb") as f:
                f.truncate(1 << 20)
            real.create_tiny("r", disks=[{"path": image, "format": "raw"}], nics=[{"backend": "user"}])
            real.ok("start", "r", "--paused")
            with real.control("r") as qmp:
                good = {"greeting": qmp.greeting, "qmp_capabilities": {}, "cont": {}, "blockdev-add": {}, "device_add": {},
                        "device_del": {}, "blockdev-del": {}, "stop": {}}
                for command, arguments in (("query-status", None), ("query-named-block-nodes", {"flat": True}),
                                           ("qom-list", {"path": "/machine/peripheral"}), ("query-chardev", None),
                                           ("human-monitor-command", {"command-line": "info network"}), ("query-pci", None),
                                           ("query-machines", None)):
                    good[command] = qmp.execute(command, arguments)
                good["query-qmp-schema"] = qmp.execute("query-qmp-schema")[:40]
            return good
        finally:
            real.close()

    def note(self, text):
        if len(self.failures) < FAILURES:
            self.failures.append(text[:1500])

    def alive(self, pid):
        return not self.w.is_gone(pid)

    def use(self, qmp, name):
        """Asks whatever makes the keeper ask QEMU; what comes of it is not the point."""
        image = os.path.join(self.w.base, f"{name}.img")
        disk = {"id": "vdx", "path": image, "format": "raw"}
        sent = [qmp.send(command, arguments) for command, arguments in (
            ("qmpctl-status", None), ("qmpctl-disk-add", {"disk": disk, "config": False, "timeout": 1}),
            ("query-named-block-nodes", None), ("query-status", None),
            ("qmpctl-disk-remove", {"id": "vdx", "config": False, "timeout": 1}), ("stop", None), ("qmpctl-status", None))]
        deadline = time.monotonic() + 0.4
        answered = 0
        for ident in sent:
            try:
                qmp.reply(ident, max(0, deadline - time.monotonic()))
                answered += 1
            except QmpError:
                answered += 1
            except ValueError:  # passed on as it is
                answered += 1
            except QmpTimeout:
                break
        return sent[answered:]

    def session(self, name, case):
        self.w.script(name, case.words, case.answers)
        with self.w.control(name, timeout=START_DEADLINE) as qmp:
            try:
                qmp.execute("qmpctl-start")
                if case.kind == DRIBBLE:
                    self.note(f"{case}: it came up")
            except QmpError as why:
                status = qmp.execute("qmpctl-status")
                if status["state"] != "stopped" or "pid" in status:
                    self.note(f"{case}: it did not start, and is {status}")
                if case.kind == DRIBBLE and why.data.get("kind") != "timeout":
                    self.note(f"{case}: no deadline ended it: {why}")
                return False
            with self.w.control(name) as other:  # the first one's replies may never come
                pid = other.execute("qmpctl-status").get("pid")
                left = self.use(qmp, name)
                status = other.execute("qmpctl-status")
                ended = case.kind == "exit"
                if pid and not ended and (not self.alive(pid) or status["state"] == "stopped"):
                    self.note(f"{case}: it was up, and has ended: {status}")
                if status["state"] != "stopped":
                    try:
                        other.execute("qmpctl-kill")
                    except QmpError as why:
                        if not ended:
                            self.note(f"{case}: kill: {why}")
            for ident in left:  # with the QEMU every wait has ended
                try:
                    qmp.reply(ident)
                except (QmpError, ValueError):
                    pass
            if not ended and qmp.execute("qmpctl-status")["state"] != "stopped":
                self.note(f"{case}: killed, and it is {qmp.execute('qmpctl-status')}")
            return True

    def worker(self, name, cases):
        for case in iter(cases, None):
            try:
                begun = time.monotonic()
                up = self.session(name, case)
                took = time.monotonic() - begun
                entry = self.kinds.setdefault(case.kind, [0, 0, 0.0])
                entry[0] += 1
                entry[1] += up
                entry[2] = max(entry[2], took)
            except Exception as why:  # any of them is a failure of the test, told from the main thread
                self.note(f"{case}: {type(why).__name__}: {why}")
                if not self.alive(self.keeper) or len(self.failures) >= FAILURES:
                    return
                self.w.run("kill", name)

    def run_sessions(self, cases):
        lock = threading.Lock()
        cases = iter(cases)

        def next_case():
            with lock:
                return next(cases, None)

        threads = [threading.Thread(target=self.worker, args=(name, next_case)) for name in self.bad]
        for thread in threads:
            thread.start()
        while any(t.is_alive() for t in threads):
            self.assertEqual(self.bystander.execute("query-status")["status"], "running")
            self.quiet.wait(0.1)
        for thread in threads:
            thread.join()

    def test_sessions(self):
        seed_, good = seed(), self.sample()
        self.bad = [f"bad{i}" for i in range(AT_ONCE)]
        self.w.create_fakes(["good", *self.bad])
        for name in self.bad:
            with open(os.path.join(self.w.base, f"{name}.img"), "wb") as f:
                f.truncate(1 << 20)
        keeper = self.w.spawn("run", "good", *self.bad)
        self.keeper = keeper.pid
        for name in ["good", *self.bad]:
            self.w.ok("wait", name, "--for", "running")
        for name in self.bad:
            with self.w.control(name) as qmp:
                qmp.execute("qmpctl-kill")
        self.bystander = self.w.control("good")
        self.addCleanup(self.bystander.close)
        pid = self.bystander.execute("qmpctl-status")["pid"]
        begun = time.monotonic()
        if EVERY:
            cases = Case.every(good)
            chance(seed_).shuffle(cases)
        else:
            cases = [Case.drawn(n, seed_, good, STARTING + RUNNING) for n in range(FIRST, FIRST + SESSIONS)]
            cases += Case.dribbling(good)
        # First what takes the most memory; last, and so side by side, what takes the most time.
        cases.sort(key=lambda case: (case.hangs(), case.kind not in ("endless", "big", "depth")))
        self.run_sessions(cases[:len(cases) // 3])
        memory, open_fds = private_kib(self.keeper), fds(self.keeper)
        self.run_sessions(cases[len(cases) // 3:])
        grown = private_kib(self.keeper) - memory
        figure(figure="sessions with a hostile QEMU", sessions=len(cases), seconds=round(time.monotonic() - begun, 1),
               up=sum(k[1] for k in self.kinds.values()), kinds={k: v[0] for k, v in sorted(self.kinds.items())},
               longest=round(max(k[2] for k in self.kinds.values()), 1), keeper_grew_kib=grown)
        self.assertFalse(self.failures, "\n".join(self.failures) + "\n" + self.w.logs())
        self.assertTrue(self.alive(self.keeper))
        self.assertEqual(self.bystander.execute("qmpctl-status")["pid"], pid)
        self.assertFalse([e for e in self.bystander.events if e["event"] != "QMPCTL_PROGRESS"])
        self.assertLessEqual(grown, GROWTH_KIB)
        # A client that has just left is forgotten in a moment.
        self.until(lambda: fds(self.keeper) <= open_fds, lambda: f"{fds(self.keeper)} fds, there were {open_fds}")
        self.bystander.execute("qmpctl-kill")
        self.assertIn(keeper.wait(PATIENCE), (world.KILLED, world.CRASHED, world.PANICKED, world.EXITED), self.w.logs())
        self.assertNotIn("Sanitizer", self.w.logs())

    def test_what_the_pulse_hears(self):
        """It is asked for its status every 2 s: an answer that says nothing is no silence, and no reason to leave."""
        again = {"error": '{"error": {"class": "GenericError", "desc": "x"}, "id": $ID}\r\n',
                 "type": '{"return": 5, "id": $ID}\r\n',
                 "empty": '{"return": {}, "id": $ID}\r\n'}
        lost = {"garbage": ["}{\r\n"], "close": [{"say": "", "then": "close"}], "missing": [""], "missing-thrice": [""] * 3}
        never = {"missing-always": ""}
        answers = {name: [None, answer] + [None] * (name in again) for name, answer in {**again, **never}.items()}
        answers.update({name: [None, *bad, None] for name, bad in lost.items()})
        self.w.create_fakes(answers)
        keeper = self.w.spawn("run", *answers)
        for name in answers:
            self.w.ok("wait", name, "--for", "running")
        # Once more, with a client that hears it from the start.
        clients = {name: self.w.control(name) for name in answers}
        for name, qmp in clients.items():
            self.addCleanup(qmp.close)
            qmp.execute("qmpctl-kill")
            self.w.script(name, answers={"query-status": answers[name]})
            qmp.execute("qmpctl-start")
            qmp.event("QMPCTL_STATE", {"state": "running"})
            qmp.events.clear()
        pids = {name: self.w.status(name)["pid"] for name in clients}
        for name in (*lost, *never):
            clients[name].event("QMPCTL_STATE", {"state": "unresponsive"})
        for name in lost:
            clients[name].event("QMPCTL_STATE", {"state": "running"})
        for name in again:  # two turns were more than enough
            with self.assertRaises(QmpTimeout):
                clients[name].event("QMPCTL_STATE", timeout=1)
        for name, pid in pids.items():
            status = self.w.status(name)
            self.assertEqual((status["pid"], status["state"]), (pid, "unresponsive" if name in never else "running"))
            self.w.ok("kill", name)
        self.assertEqual(keeper.wait(PATIENCE), world.KILLED)

    def test_an_answer_that_is_lost(self):
        """Whatever is answered later says that it is: nobody waits for it for ever, and no place of QEMU's 8 is lost."""
        self.w.create_fakes(["a"])
        self.w.script("a", answers={"query-name": [""] * 20 + [None]})
        self.w.ok("start", "a")
        with self.w.control("a") as one, self.w.control("a") as other:
            for _ in range(20):
                ident = one.send("query-name")
                self.assertEqual(other.execute("query-status")["status"], "running")
                with self.assertRaises(QmpError) as lost:
                    one.reply(ident)
                self.assertIn("answered a later command", lost.exception.desc)
            self.assertEqual(one.execute("query-name"), {"name": "a"})
            self.assertEqual(one.execute("qmpctl-status")["state"], "running")

    def test_an_answer_that_is_lost_while_it_is_taken_over(self):
        self.w.create_fakes(["a"])
        self.w.script("a", answers={"query-status": [None, "", "", None]})
        self.w.ok("start", "a")
        qemu, keeper = self.w.fakes(), self.w.keepers()
        os.kill(keeper[0], signal.SIGKILL)
        self.w.wait_gone(keeper)
        self.w.ok("wait", "a", "--for", "running", "--timeout", "30")
        self.assertEqual(self.w.fakes(), qemu)

    def test_what_a_probe_hears(self):
        """While it is asked what it can: the start fails, or goes on, in time and in words."""
        seed_, good = seed(), self.sample()
        self.w.create_fakes(["a"])
        self.w.env["FAKE_ANSWERS"] = os.path.join(self.w.base, "answers")
        for number in range(FIRST, FIRST + max(4, SESSIONS // 8)):
            case = Case.drawn(number, f"{seed_}:probe", good, PROBED)
            if case.kind in HANGING:
                continue  # each takes 15 s; its deadline is in the sessions above
            with open(self.w.env["FAKE_ANSWERS"], "w", encoding="utf-8") as f:
                json.dump(case.answers, f)
            shutil.rmtree(os.path.join(self.w.root, "lib", "cache"), ignore_errors=True)
            self.w.env["FAKE_QEMU"] = f"probe {case.words}"
            result = self.w.run("start", "a", timeout=2 * PATIENCE)
            self.assertIn(result.rc, range(9), f"{case}\n{result}")
            self.assertNotIn("memory", result.err, f"{case}\n{result}")
            if result.rc == 0:
                self.w.ok("kill", "a")
            self.w.wait_gone(list(self.w.processes()))


if __name__ == "__main__":
    world.main()
