"""One VM's life: up, down in every way, and what the exit status says about it."""
import contextlib
import json
import os
import signal

import world
from guest import tiny_spec
from qmp import QmpError
from world import CRASHED, FAILED, KILLED, NOT_FOUND, OK, PANICKED, PATIENCE, STATE, TIMEOUT, WorldTest


class Lifecycle(WorldTest):
    def test_start_returns_when_the_vm_runs(self):
        self.w.create_tiny("a")
        self.w.ok("start", "a")
        self.assertEqual(self.w.state("a"), "running")
        self.w.qemu_pid("a")

    def test_power_button_stops_the_guest(self):
        serial = self.w.start_tiny("a")
        self.w.ok("stop", "a")
        serial.expect("PWRBTN")
        serial.expect("BYE")
        self.assertEqual(self.w.state("a"), "stopped")
        self.stopped_clean()

    def test_an_ignored_power_button_is_a_timeout_and_force_ends_it(self):
        serial = self.w.start_tiny("a")
        serial.write("i")
        serial.expect("i")
        qemu = self.w.qemu_pid("a")
        self.w.expect(TIMEOUT, "stop", "a", "--timeout", "1")
        self.assertEqual(self.w.state("a"), "running")
        self.assertIn(qemu, self.w.processes())
        self.w.ok("stop", "a", "--timeout", "1", "--force")
        self.assertEqual(self.w.state("a"), "stopped")
        self.stopped_clean()

    def test_kill_ends_it_at_once(self):
        self.w.start_tiny("a")
        self.w.ok("kill", "a")
        self.assertEqual(self.w.state("a"), "stopped")
        self.stopped_clean()

    def test_a_reboot_returns_when_it_runs_again(self):
        serial = self.w.start_tiny("a")
        before = self.w.qemu_pid("a")
        with self.w.control("a") as qmp:
            qmp.execute("qmpctl-reboot", {"timeout": 30})
            self.assertEqual(qmp.execute("qmpctl-status")["state"], "running")
        self.assertNotEqual(self.w.qemu_pid("a"), before)
        serial.expect("TINY-READY")

    def test_kill_ends_a_reboot_too(self):
        serial = self.w.start_tiny("a")
        serial.write("i")
        serial.expect("i")
        with self.w.control("a") as qmp:
            reboot = qmp.send("qmpctl-reboot", {"timeout": 60})
            self.until(lambda: self.w.status("a").get("operation") == "qmpctl-reboot", "the reboot has not begun")
            self.w.ok("kill", "a")
            with self.assertRaisesRegex(QmpError, "was killed while it rebooted"):
                qmp.reply(reboot)
        self.assertEqual(self.w.state("a"), "stopped")
        self.stopped_clean()

    def test_stopping_what_is_stopped_changes_nothing(self):
        self.w.create_tiny("a")
        self.assertIn(self.w.run("stop", "a").rc, (OK, STATE))
        self.assertEqual(self.w.state("a"), "stopped")

    def test_starting_twice_leaves_one_qemu(self):
        self.w.start_tiny("a")
        qemu = self.w.qemu_pid("a")
        self.assertIn(self.w.run("start", "a").rc, (OK, STATE))
        self.assertEqual(self.w.qemu_pid("a"), qemu)

    def test_it_starts_again_after_each_way_of_ending(self):
        serial = self.w.create_tiny("a")
        for verb in ("stop", "kill", "stop"):
            self.w.ok("start", "a")
            serial.expect("TINY-READY")
            self.w.ok(verb, "a")
            self.assertEqual(self.w.state("a"), "stopped")

    def test_pause_and_resume(self):
        serial = self.w.start_tiny("a")
        self.w.ok("pause", "a")
        self.assertEqual(self.w.state("a"), "paused")
        self.w.ok("resume", "a")
        self.assertEqual(self.w.state("a"), "running")
        serial.write("z")
        serial.expect("z")

    def test_reset_restarts_the_guest_in_the_same_qemu(self):
        serial = self.w.start_tiny("a")
        qemu = self.w.qemu_pid("a")
        self.w.ok("reset", "a")
        serial.expect("TINY-READY")
        self.assertEqual(self.w.qemu_pid("a"), qemu)

    def test_a_guest_that_resets_itself_goes_on(self):
        serial = self.w.start_tiny("a")
        serial.write("r")
        serial.expect("TINY-READY")
        self.assertEqual(self.w.state("a"), "running")

    def test_a_guest_that_powers_off_is_stopped(self):
        serial = self.w.start_tiny("a")
        serial.write("q")
        self.w.wait_state("a", "stopped")
        self.stopped_clean()

    def test_a_panic_ends_the_vm(self):
        serial = self.w.start_tiny("a", **{"on-panic": "shutdown"})
        serial.write("p")
        self.w.wait_state("a", "stopped")

    def test_a_killed_qemu_is_noticed(self):
        self.w.start_tiny("a")
        os.kill(self.w.qemu_pid("a"), signal.SIGKILL)
        self.w.wait_state("a", "stopped")

    def test_qemu_that_cannot_start_is_a_failure_with_its_words(self):
        self.w.create("a", tiny_spec(args=["-device", "no-such-device"]))
        result = self.w.expect(FAILED, "start", "a")
        self.assertIn("no-such-device", result.err)
        self.stopped_clean()

    def test_delete_takes_a_stopped_vm_alone(self):
        self.w.start_tiny("a")
        self.w.expect(STATE, "delete", "a")
        self.w.ok("kill", "a")
        self.w.ok("delete", "a")
        self.w.expect(NOT_FOUND, "status", "a")


class Foreground(WorldTest):
    def run_tiny(self):
        serial = self.w.create_tiny("a")
        proc = self.w.spawn("run", "a")
        serial.expect("TINY-READY")
        self.w.wait_state("a", "running")
        return serial, proc

    def test_run_ends_well_when_the_guest_powers_off(self):
        serial, proc = self.run_tiny()
        serial.write("q")
        self.assertEqual(proc.wait(PATIENCE), OK, self.w.logs())
        self.stopped_clean()

    def test_the_status_of_run_tells_how_it_ended(self):
        def outside(_):
            os.kill(self.w.qemu_pid("a"), signal.SIGKILL)

        def verb(_):
            self.w.ok("kill", "a")

        def panic(serial):
            serial.write("p")

        serial, proc = self.run_tiny()
        for end, status in ((outside, CRASHED), (verb, KILLED), (panic, PANICKED)):
            with self.subTest(status=status):
                end(serial)
                self.assertEqual(proc.wait(PATIENCE), status, self.w.logs())
            proc = self.w.spawn("run", "a")
            serial.expect("TINY-READY")
            self.w.wait_state("a", "running")

    def test_sigterm_to_run_stops_the_guest_by_its_power_button(self):
        serial, proc = self.run_tiny()
        proc.send_signal(signal.SIGTERM)
        serial.expect("PWRBTN")
        self.assertEqual(proc.wait(PATIENCE), OK, self.w.logs())
        self.stopped_clean()

    def test_verbs_work_while_it_runs(self):
        _, proc = self.run_tiny()
        self.w.ok("stop", "a")
        self.assertEqual(proc.wait(PATIENCE), OK, self.w.logs())


class Expendable(WorldTest):
    """The keeper may die; the guest goes on and the next verb finds it."""

    def test_a_killed_keeper_leaves_the_guest_running(self):
        serial = self.w.start_tiny("a")
        qemu = self.w.qemu_pid("a")
        for _ in range(3):
            self.w.kill_keeper()
            serial.write("z")
            serial.expect("z")
            self.assertEqual(self.w.state("a"), "running")
            self.w.ok("pause", "a")
            self.w.ok("resume", "a")
            self.assertEqual(self.w.qemu_pid("a"), qemu)
        self.w.ok("stop", "a")
        serial.expect("PWRBTN")
        self.stopped_clean()

    def test_a_qemu_that_hangs_is_shown_and_not_killed(self):
        self.w.start_tiny("a")
        qemu = self.w.qemu_pid("a")
        os.kill(qemu, signal.SIGSTOP)
        try:
            self.w.wait_state("a", "unresponsive")
            self.assertIn("stopped", self.w.status("a")["unresponsive"]["why"])
            self.assertIn(qemu, self.w.processes())
        finally:
            os.kill(qemu, signal.SIGCONT)
        self.w.wait_state("a", "running")
        self.assertNotIn("unresponsive", self.w.status("a"))

    def test_a_qemu_that_hangs_is_taken_over_all_the_same(self):
        serial = self.w.start_tiny("a")
        qemu = self.w.qemu_pid("a")
        os.kill(qemu, signal.SIGSTOP)
        try:
            self.w.kill_keeper()
            self.assertEqual(self.w.state("a"), "unresponsive")
            self.assertIn(qemu, self.w.processes())
        finally:
            os.kill(qemu, signal.SIGCONT)
        self.w.wait_state("a", "running")
        self.w.ok("stop", "a")
        serial.expect("PWRBTN")

    def test_wait_takes_over_what_has_no_keeper(self):
        self.w.start_tiny("a")
        self.w.kill_keeper()
        self.w.expect(TIMEOUT, "wait", "a", "--for", "stopped", "--timeout", "1")
        self.assertEqual(self.w.state("a"), "running")
        self.w.ok("kill", "a")

    def test_a_qemu_that_ended_unseen_is_told_and_its_files_are_gone(self):
        self.w.start_tiny("a")
        folder = self.w.vm_dir("a")
        keeper, qemu = self.w.keeper_pid(), self.w.qemu_pid("a")
        os.kill(keeper, signal.SIGKILL)
        os.kill(qemu, signal.SIGKILL)
        self.w.wait_gone([keeper, qemu])
        status = self.w.status("a")
        self.assertEqual((status["state"], status["last-end"]["reason"]), ("stopped", "unseen"))
        for name in ("running.json", "qmp.sock", "qemu.lock"):
            self.assertNotIn(name, os.listdir(folder))

    def test_taking_over_starts_nothing(self):
        self.w.create_tiny("a")
        result = self.w.expect(STATE, "run", "a", "--adopt")
        self.assertIn("none to adopt", result.err)
        self.assertEqual(self.w.state("a"), "stopped")
        self.stopped_clean()

    def test_a_host_that_was_rebooted_is_told(self):
        self.w.start_tiny("a")
        record = os.path.join(self.w.vm_dir("a"), "running.json")
        with open(record, encoding="utf-8") as f:
            old = f.read()
        boot = json.loads(old)["boot"]
        self.assertRegex(boot, "^[0-9a-f-]{36}$")
        self.w.ok("kill", "a")
        self.stopped_clean()
        with open(record, "w", encoding="utf-8") as f:
            f.write(old.replace(boot, "00000000-0000-0000-0000-000000000000"))
        self.assertEqual(self.w.status("a")["last-end"]["reason"], "host-reboot")
        self.assertFalse(os.path.exists(record))

    @contextlib.contextmanager
    def hanging(self):
        """A verb that adds a disk to a VM whose QEMU hangs until the end."""
        self.w.start_tiny("a")
        qemu = self.w.qemu_pid("a")
        image = os.path.join(self.w.base, "x.raw")
        with open(image, "wb") as f:
            f.truncate(1 << 20)
        os.kill(qemu, signal.SIGSTOP)
        try:
            yield self.w.spawn("disk", "add", "a", f"{image},format=raw")
        finally:
            os.kill(qemu, signal.SIGCONT)

    def disks(self):
        return [d["id"] for d in self.w.ok("disk", "list", "a", "-o", "json").json()]

    def test_a_change_goes_on_when_qemu_comes_back(self):
        """A QEMU that is silent is no lost one: what it was told is waited for."""
        with self.hanging() as proc:
            self.w.wait_state("a", "unresponsive")
            self.assertIsNone(proc.poll())
        self.assertEqual(proc.wait(PATIENCE), OK, self.w.logs())
        self.assertEqual(self.disks(), ["vda"])

    def test_who_no_longer_waits_is_told_that_a_change_goes_on(self):
        with self.hanging() as proc:
            self.until(lambda: self.w.status("a").get("operation") == "qmpctl-disk-add", "the disk is not being added")
            proc.send_signal(signal.SIGINT)
            self.assertEqual(proc.wait(PATIENCE), -signal.SIGINT)
            with open(proc.log, encoding="utf-8") as f:
                self.assertIn('no longer waits for "disk add", which goes on', f.read())
        self.until(lambda: self.disks() == ["vda"], "the disk does not come")


if __name__ == "__main__":
    world.main()
