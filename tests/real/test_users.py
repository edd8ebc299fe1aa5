"""Who may do what: each kind of user against each socket and each file of a VM, the whole of it.

A subject is a child that has become it: user, main group, other groups. The groups are some that every Debian has.
"""
import grp
import json
import os
import shutil
import stat
import subprocess
import unittest

import world
from qmp import Qmp, QmpError, connect_unix
from world import QMPCTL, World

GROUP, OTHER_GROUP = "games", "news"
GID, OTHER_GID = (grp.getgrnam(name).gr_gid for name in (GROUP, OTHER_GROUP))
USER, MEMBER, STRANGER = 40001, 40002, 40003  # nobody's
SECRET = "geheim"

# What a socket lets one do.
ALL = {"connect": True, "query": True, "status": True, "change": True, "set": True, "agent": True, "secret": True}
LOOK = dict(ALL, change=False, set=False, agent=False, secret=False)
NOTHING = {"connect": False}


def attempt(qmp, *command):
    """True: it was done; False: it was refused to who asks; a text: something else was wrong."""
    try:
        return qmp.execute(*command)
    except QmpError as why:
        return False if "looking only" in why.desc else why.desc


def try_socket(path):
    try:
        qmp = Qmp(path)
    except PermissionError:
        return dict(NOTHING)
    with qmp:
        secret = attempt(qmp, "qom-get", {"path": "/objects/s0", "property": "data"})
        agent = attempt(qmp, "qmpctl-agent", {"command": "guest-ping", "timeout": 1})
        return {
            "connect": True,
            "query": attempt(qmp, "query-status") is not False,
            "status": attempt(qmp, "qmpctl-status")["state"] == "running",
            "change": (attempt(qmp, "stop"), attempt(qmp, "cont")) == ({}, {}),
            "set": attempt(qmp, "qmpctl-set", {"values": {"description": "x"}}) is not False,
            "agent": agent is not False,
            "secret": secret == SECRET,
        }


def try_to(what, *args):
    try:
        what(*args)
        return True
    except PermissionError:
        return False
    except BlockingIOError:  # somebody else's place is taken: QEMU's monitor has one
        return True


def try_all(run_dir, names):
    """What a subject gets: of the two sockets, and what else of the VM's folder it can open, connect to, list, write."""
    others = [n for n in names if n not in ("control.sock", "observe.sock")]
    path = lambda name: os.path.join(run_dir, name)
    return {
        "control": try_socket(path("control.sock")),
        "observe": try_socket(path("observe.sock")),
        "opens": [n for n in others if not n.endswith(".sock") and try_to(os.open, path(n), os.O_RDONLY)],
        "reaches": [n for n in others if n.endswith(".sock") and try_to(lambda: connect_unix(path(n)).close())],
        "lists": [d for d in (run_dir, os.path.dirname(run_dir)) if try_to(os.listdir, d)],
        "makes": try_to(os.mkdir, path("made")),
    }


def as_subject(uid, gid, groups, what, *args):
    """WHAT(*ARGS) in a child that is the subject; its result as JSON has it."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(read)
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            os.write(write, json.dumps(what(*args)).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as f:
        text = f.read()
    if os.waitpid(pid, 0)[1] != 0:
        raise AssertionError(f"the subject {uid}:{gid} {groups} failed")
    return json.loads(text)


class OwnedWorld(World):
    """A world whose verbs a certain user runs, so that its keepers and QEMUs are that user's."""

    def __init__(self, uid, groups):
        super().__init__()
        self.owner = dict(user=uid, group=uid, extra_groups=groups) if uid else {}
        self.program = os.path.join(self.base, "qmpctl")  # where it was built, others may have no way to
        shutil.copy(QMPCTL, self.program)
        os.chmod(self.base, 0o711)
        os.mkdir(self.root, 0o711)
        if uid:
            os.chown(self.root, uid, uid)

    def argv(self, *args):
        return [self.program, *super().argv(*args)[1:]]

    def run(self, *args, timeout=60, stdin=None):
        argv = self.argv(*args)
        done = subprocess.run(argv, env=self.env, text=True, capture_output=True, timeout=timeout, cwd="/",
                              stdin=subprocess.DEVNULL, **self.owner)
        return world.Result(argv, done.returncode, done.stdout, done.stderr)


@unittest.skipUnless(os.geteuid() == 0, "only root can be each of these users")
class Users(unittest.TestCase):
    maxDiff = None

    def open_world(self, uid=0, groups=(), **spec):
        self.w = OwnedWorld(uid, list(groups))
        self.addCleanup(self.w.close)
        path = os.path.join(self.w.base, "a.json")
        with open(path, "w", encoding="utf-8") as f:
            json.dump(dict(spec, name="a", memory="16M", accel="tcg", consoles=[{"id": "c"}]), f)
        os.chmod(path, 0o644)
        self.w.ok("create", "a", "--spec", path)
        self.w.ok("start", "a")
        self.run_dir = os.path.join(self.w.root, "run", "a")
        with self.w.control("a") as qmp:
            qmp.execute("object-add", {"qom-type": "secret", "id": "s0", "data": SECRET})

    def expect(self, subject, control, observe, opens=False):
        """SUBJECT (uid, gid, groups) gets just this; OPENS: everything else, too."""
        names = os.listdir(self.run_dir)
        self.assertIn("qmp.sock", names)
        got = as_subject(*subject, try_all, self.run_dir, names)
        if opens:
            self.assertEqual((got["control"], got["observe"]), (control, observe), subject)
            os.rmdir(os.path.join(self.run_dir, "made"))
            return
        self.assertEqual(got, {"control": control, "observe": observe, "opens": [], "reaches": [], "lists": [], "makes": False},
                         subject)

    def modes(self):
        """Of the folder of all VMs, this one's, and the sockets, with the latter's groups."""
        paths = [os.path.dirname(self.run_dir), self.run_dir] + [
            os.path.join(self.run_dir, n) for n in ("control.sock", "observe.sock")]
        found = [os.stat(path) for path in paths]
        return [stat.S_IMODE(st.st_mode) for st in found] + [found[1].st_gid, found[3].st_gid]

    def test_without_a_group_it_is_the_owners_and_roots(self):
        self.open_world()
        self.assertEqual(self.modes()[:4], [0o700, 0o700, 0o600, 0o600])
        self.expect((0, 0, []), ALL, LOOK, opens=True)
        for groups in ([], [GID], [0]):
            self.expect((STRANGER, STRANGER, groups), NOTHING, NOTHING)

    def test_a_group_may_look_and_nothing_else(self):
        self.open_world(**{"observe-group": GROUP})
        self.assertEqual(self.modes(), [0o711, 0o710, 0o600, 0o660, GID, GID])
        self.expect((0, 0, []), ALL, LOOK, opens=True)
        self.expect((MEMBER, MEMBER, [GID]), NOTHING, LOOK)
        self.expect((MEMBER, GID, []), NOTHING, LOOK)
        for groups in ([], [OTHER_GID], [0]):
            self.expect((STRANGER, STRANGER, groups), NOTHING, NOTHING)

    def test_another_users_vm_is_that_users_and_roots(self):
        self.open_world(USER, [GID], **{"observe-group": GROUP})
        self.expect((USER, USER, [GID]), ALL, LOOK, opens=True)
        self.expect((0, 0, []), ALL, LOOK, opens=True)
        self.expect((MEMBER, MEMBER, [GID]), NOTHING, LOOK)
        self.expect((STRANGER, USER, []), NOTHING, NOTHING)
        self.expect((STRANGER, STRANGER, [OTHER_GID]), NOTHING, NOTHING)

    def test_the_group_changes_while_the_vm_runs(self):
        self.open_world()
        member, other = (MEMBER, MEMBER, [GID]), (STRANGER, STRANGER, [OTHER_GID])
        self.assertNotIn("next start", self.w.ok("set", "a", f"observe-group={GROUP}").err)
        self.expect(member, NOTHING, LOOK)
        self.expect(other, NOTHING, NOTHING)
        self.w.ok("set", "a", f"observe-group={OTHER_GROUP}")
        self.expect(member, NOTHING, NOTHING)
        self.expect(other, NOTHING, LOOK)
        refused = self.w.expect(world.HOST, "set", "a", "observe-group=no-such-group")
        self.assertIn('there is no group "no-such-group"', refused.err)
        self.expect(other, NOTHING, LOOK)
        self.assertEqual(self.w.ok("show", "a", "-o", "json").json()["spec"]["observe-group"], OTHER_GROUP)
        self.w.ok("set", "a", "observe-group=")
        self.assertEqual(self.modes()[1:4], [0o700, 0o600, 0o600])
        self.expect(other, NOTHING, NOTHING)

    def test_another_keeper_gives_it_to_the_same_group(self):
        self.open_world(**{"observe-group": GROUP})
        pid = self.w.ok("status", "a", "-o", "json").json()["keeper-pid"]
        os.kill(pid, 9)
        self.w.wait_gone([pid])
        self.w.ok("status", "a")
        self.assertEqual(self.modes(), [0o711, 0o710, 0o600, 0o660, GID, GID])
        self.expect((MEMBER, MEMBER, [GID]), NOTHING, LOOK)

    def test_who_is_no_member_cannot_give_it_away(self):
        with self.assertRaises(AssertionError) as refused:
            self.open_world(USER, [], **{"observe-group": GROUP})
        self.assertIn("only root and members of the group", str(refused.exception))
        self.assertEqual(self.w.processes(), {})
        self.assertEqual([n for n in os.listdir(os.path.join(self.w.root, "run", "a")) if n.endswith(".sock")], [])

    def test_wrong_modes_make_nobody_a_controller(self):
        self.open_world()
        for path, mode in ((os.path.dirname(self.run_dir), 0o755), (self.run_dir, 0o755),
                           (os.path.join(self.run_dir, "control.sock"), 0o666)):
            os.chmod(path, mode)

        def knock(path):
            with connect_unix(path) as sock:
                return sock.recv(65536).decode()

        said = as_subject(STRANGER, STRANGER, [], knock, os.path.join(self.run_dir, "control.sock"))
        self.assertIn(f"for the user 0 and root, not for the user {STRANGER}", json.loads(said)["error"]["desc"])


if __name__ == "__main__":
    world.main()
