"""Many VMs at once, against fake_qemu: in one keeper, in a keeper each, taken over; with few fds allowed to begin with."""
import os
import resource
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "real"))
import world  # noqa: E402
from world import PATIENCE, WorldTest  # noqa: E402

FAKE = os.environ["QMPCTL_FAKE"]
VMS = int(os.environ.get("QMPCTL_VMS", 48))
FDS = 200  # a keeper needs some nine for each VM


class Scale(WorldTest):
    def setUp(self):
        super().setUp()
        self.w.env["QMPCTL_QEMU"] = FAKE
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.assertGreater(hard, 20 * VMS, "this host allows too few open files for the test")
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (FDS, hard))
        self.names = [f"v{i:03}" for i in range(VMS)]
        for name in self.names:
            self.w.create(name, {"accel": "tcg", "memory": "32M"})

    def keeper(self):
        """One that has all the VMs."""
        keeper = self.w.spawn("run", "--on-term", "detach", *self.names)
        # Asked by list alone: any verb that names a VM gives it a keeper of its own where this one is not there yet.
        deadline = time.monotonic() + PATIENCE
        while any(vm["state"] != "running" for vm in self.w.ok("list", "-o", "json").json()):
            self.assertIsNone(keeper.poll(), self.w.logs())
            self.assertLess(time.monotonic(), deadline, self.w.logs())
            time.sleep(0.05)
        return keeper

    def listed(self, key):
        """Of every VM, which all run."""
        vms = self.w.ok("list", "-o", "json").json()
        self.assertEqual([(vm["name"], vm["state"]) for vm in vms], [(name, "running") for name in self.names])
        return [vm[key] for vm in vms]

    def test_one_keeper_has_them_all_and_another_takes_them_over(self):
        keeper = self.keeper()
        self.assertEqual(set(self.listed("keeper-pid")), {keeper.pid})
        pids = self.listed("pid")
        keeper.kill()
        keeper.wait(PATIENCE)
        keeper = self.keeper()
        self.assertEqual(self.listed("pid"), pids)
        self.assertEqual(set(self.listed("keeper-pid")), {keeper.pid})
        keeper.terminate()
        self.assertEqual(keeper.wait(PATIENCE), 0)
        self.assertTrue(set(pids) <= set(self.w.processes()), "the VMs go on without a keeper")

    def test_a_keeper_each(self):
        for name in self.names:
            self.w.ok("start", name)
        self.assertEqual(len(set(self.listed("keeper-pid"))), VMS)
        with self.w.control(self.names[-1]) as qmp:
            self.assertTrue(qmp.execute("query-status")["running"])

    def test_qemu_has_the_limit_that_the_keeper_was_started_with(self):
        self.keeper()
        pids = self.listed("pid")
        with open(f"/proc/{pids[-1]}/limits", encoding="ascii") as f:
            limits = [line.split()[3] for line in f if line.startswith("Max open files")]
        self.assertEqual(limits, [str(FDS)])
        self.assertGreater(len(os.listdir(f"/proc/{self.listed('keeper-pid')[0]}/fd")), FDS)


if __name__ == "__main__":
    world.main()
