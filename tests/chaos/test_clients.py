"""More clients than the keeper has places or file descriptors for, and clients that connect and say nothing."""
import json
import os
import resource
import select
import unittest

from chaos import FakeWorld, cpu_seconds, figure

import world
from qmp import PATIENCE, Qmp, QmpError, connect_unix

PLACES = 256
CPU_GOAL_S = 0.15  # of a keeper that has nothing to do; one that spins takes all of the 3 s it is watched
WATCHED_S, EVENTS_A_SECOND = 3, 10


class Clients(unittest.TestCase):
    def setUp(self):
        self.w = FakeWorld()
        self.addCleanup(self.w.close)
        self.w.create_fakes(["a"])
        self.w.script("a", f"events={EVENTS_A_SECOND}")
        self.w.ok("start", "a")
        self.keeper = self.w.keepers()[0]

    def connect(self, sock="control.sock", **kw):
        qmp = Qmp(os.path.join(self.w.vm_dir("a"), sock), **kw)
        self.addCleanup(qmp.close)
        return qmp

    def mute(self, sock="control.sock"):
        """A client that never says anything."""
        sock = connect_unix(os.path.join(self.w.vm_dir("a"), sock))
        self.addCleanup(sock.close)
        return sock

    @staticmethod
    def said(sock, timeout=PATIENCE):
        """What was said to SOCK until it was closed."""
        sock.settimeout(timeout)
        got = b""
        while part := sock.recv(65536):
            got += part
        return [json.loads(line) for line in got.splitlines()]

    @staticmethod
    def is_greeted(sock, timeout=0):
        return bool(select.select([sock], [], [], timeout)[0])

    def leave(self, free):
        """The keeper may open FREE more fds and no more: it is given the lowest number that is free."""
        taken = {int(fd) for fd in os.listdir(f"/proc/{self.keeper}/fd")}
        limit = [fd for fd in range(max(taken) + free + 2) if fd not in taken][free]
        hard = resource.prlimit(self.keeper, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(self.keeper, resource.RLIMIT_NOFILE, (limit, hard))

    def watch(self, qmp):
        """CPU seconds of the keeper while it passes a number of events on."""
        before = cpu_seconds(self.keeper)
        for _ in range(WATCHED_S * EVENTS_A_SECOND):
            qmp.event("RTC_CHANGE")
        return cpu_seconds(self.keeper) - before

    def test_without_fds_it_waits_and_does_not_spin(self):
        served = self.connect()
        self.leave(free=4)
        taken = []
        while len(taken) < 4:
            taken.append(self.connect())
        waiting = [self.mute() for _ in range(20)]
        served.execute("query-status")  # the keeper has looked at the socket since
        used = self.watch(served)
        figure(figure="a keeper without fds, and 20 clients that wait, CPU", cpu_s=round(used, 2), watched_s=WATCHED_S,
               goal_s=CPU_GOAL_S)
        self.assertLess(used, CPU_GOAL_S)
        self.assertEqual([self.is_greeted(sock) for sock in waiting], [False] * 20)
        with open(os.path.join(self.w.run_dir("a"), "keeper.log"), encoding="utf-8") as f:
            self.assertEqual(f.read().count("a client waits: Too many open files"), 1)
        for qmp in taken:
            self.assertEqual(qmp.execute("query-name"), {"name": "a"})
            qmp.close()
        for sock in waiting[:4]:  # in the order in which they came
            self.assertTrue(self.is_greeted(sock, timeout=PATIENCE))
            sock.close()
        self.assertTrue(self.is_greeted(waiting[4], timeout=PATIENCE))
        for sock in waiting:
            sock.close()
        self.assertEqual(self.connect().execute("query-name"), {"name": "a"})

    def test_those_who_say_nothing_give_their_fds_back(self):
        self.leave(free=3)
        mute = [self.mute() for _ in range(3)]
        for sock in mute:
            self.assertTrue(self.is_greeted(sock, timeout=PATIENCE))
        self.assertEqual(self.connect().execute("query-name"), {"name": "a"})
        words = self.said(mute[0])
        self.assertIn("qmp_capabilities", words[-1]["error"]["desc"])
        self.assertEqual(self.w.status("a")["state"], "running")

    def test_those_who_say_nothing_give_their_places_to_who_speaks(self):
        slow = self.connect(negotiate=False)
        mute = [self.mute() for _ in range(PLACES - 1)]
        self.assertTrue(self.is_greeted(mute[-1], timeout=PATIENCE))
        slow.execute("qmp_capabilities")  # late, and still in time
        # A verb tries again for as long as it takes until the first of them has had its time.
        self.assertEqual(self.w.status("a")["state"], "running")
        words = self.said(mute[0])
        self.assertIn("QMP", words[0])
        self.assertIn("connect again", words[1]["error"]["desc"])
        self.assertEqual(slow.execute("query-name"), {"name": "a"})
        speaking = [self.connect() for _ in range(PLACES - 1)]
        for qmp in [slow] + speaking:  # each is served, and the last of the mute ones has gone
            self.assertEqual(qmp.execute("query-name"), {"name": "a"})
        self.assertIn("connect again", self.said(mute[-1])[-1]["error"]["desc"])

    def test_where_all_places_are_taken_it_says_so(self):
        speaking = [self.connect() for _ in range(PLACES)]
        words = self.said(self.mute())
        self.assertIn(f"{PLACES} clients of a are served already", words[0]["error"]["desc"])
        result = self.w.expect(world.UNREACHABLE, "pause", "a")
        self.assertIn(f"{PLACES} clients of a are served already", result.err)
        speaking.pop().close()
        self.w.ok("pause", "a")
        self.assertEqual(speaking[0].execute("query-status")["status"], "paused")

    def test_observers_take_no_place_and_no_last_fd_of_a_controller(self):
        observers = [self.connect("observe.sock") for _ in range(PLACES)]
        self.assertIn("are served already", self.said(self.mute("observe.sock"))[0]["error"]["desc"])
        self.assertEqual(self.connect().execute("query-name"), {"name": "a"})
        self.leave(free=3)
        words = self.said(self.mute("observe.sock"))
        self.assertIn("few file descriptors", words[0]["error"]["desc"])
        self.assertEqual(self.connect().execute("query-name"), {"name": "a"})
        self.assertEqual(observers[0].execute("query-name"), {"name": "a"})
        with self.assertRaises(QmpError):
            observers[0].execute("stop")


if __name__ == "__main__":
    world.main()
