"""The guest agent of a real Linux guest: asked, waited for, the first way to stop, and in the worst of moods."""
import os
import time

import world
from guest import BOOT, linux_spec, with_serial
from qmp import Qmp, QmpError
from world import STATE, TIMEOUT, USAGE, FAILED, WorldTest

AGENT = "/dev/virtio-ports/org.qemu.guest_agent.0"


class Agent(WorldTest):
    def boot(self, words="test.qga", **more):
        serial = self.w.serial()
        self.w.create("demo", with_serial(linux_spec(words, **more), serial))
        self.w.ok("start", "demo")
        serial.expect("GUEST-READY", BOOT)
        return serial

    def agent_state(self):
        return self.w.status("demo")["agent"]["state"]

    def wait_agent_state(self, state):
        self.until(lambda: self.agent_state() == state, lambda: f"the agent is {self.agent_state()}, not {state}")

    def ask(self, *words, **kw):
        return self.w.ok("agent", "demo", *words, **kw).json()

    def test_it_answers_and_stops_the_guest(self):
        serial = self.boot()
        self.w.ok("wait", "demo", "--for", "agent")
        self.assertEqual(self.agent_state(), "answers")
        info = self.ask("guest-info")
        names = [c["name"] for c in info["supported_commands"]]
        self.assertIn("guest-shutdown", names)
        self.assertEqual(self.w.status("demo")["agent"]["version"], info["version"])

        # Arguments both ways, a large reply, an error, and what is no command at all.
        started = self.ask("guest-exec", "path=/bin/sh", 'arg=["-c", "seq 1 20000"]', "capture-output=true")

        def ended():
            now = self.ask("guest-exec-status", f'{{"pid": {started["pid"]}}}')
            return now["exited"] and now
        result = self.until(ended, "what was run in the guest does not end")
        self.assertGreater(len(result["out-data"]), 100000)
        refused = self.w.expect(FAILED, "agent", "demo", "guest-exec-status", "pid=1234567")
        self.assertIn("the guest agent of demo refused", refused.err)
        self.w.expect(FAILED, "agent", "demo", "guest-no-such-command")
        self.w.expect(USAGE, "agent", "demo", "guest-ping", "what")
        self.w.expect(USAGE, "agent", "demo", "guest-exec", "path=/bin/\udcff")
        observer = os.path.join(self.w.vm_dir("demo"), "observe.sock")
        with self.w.control("demo") as control, Qmp(observer) as observe:
            self.assertEqual(control.execute("qmpctl-agent", {"command": "guest-ping"}), {})
            with self.assertRaises(QmpError):
                observe.execute("qmpctl-agent", {"command": "guest-ping"})
            for limit in 0, -1, 10 ** 18:
                with self.assertRaises(QmpError) as wrong:
                    control.execute("qmpctl-agent", {"command": "guest-ping", "timeout": limit})
                self.assertEqual(wrong.exception.data["kind"], "usage")

        # A new keeper hears no event of an agent that has been there all along.
        self.w.kill_keeper()
        self.assertEqual(self.ask("guest-ping"), {})
        self.w.kill_keeper()
        self.w.ok("wait", "demo", "--for", "agent")

        result = self.w.ok("stop", "demo", "-o", "json").json()
        self.assertEqual(result["how"], "guest agent")
        self.assertEqual(result["last-end"]["reason"], "guest-shutdown")
        self.assertNotIn("POWERBUTTON", serial.text)
        self.stopped_clean()

    def test_a_reboot_goes_through_it_and_guest_shutdown_is_an_end_that_was_asked_for(self):
        serial = self.boot(restart={"policy": "always"})
        qemu = self.w.qemu_pid("demo")
        self.w.ok("wait", "demo", "--for", "agent")
        result = self.w.ok("reboot", "demo", "-o", "json").json()
        self.assertEqual(result["how"], "guest agent")
        self.assertNotIn("POWERBUTTON", serial.text)
        serial.expect("GUEST-OFF")
        serial.expect("GUEST-READY", BOOT)
        self.assertNotEqual(self.w.qemu_pid("demo"), qemu)

        self.w.ok("wait", "demo", "--for", "agent")
        self.assertEqual(self.ask("guest-shutdown"), {})
        self.w.ok("wait", "demo", "--for", "stopped")
        self.stopped_clean()

    def test_one_that_comes_up_while_a_stop_waits_is_asked(self):
        self.w.create("demo", linux_spec("test.qga"))
        self.w.ok("start", "demo")
        # The firmware runs: it does not hear the power button, and no agent is there yet.
        result = self.w.ok("stop", "demo", "--timeout", "120", "-o", "json", timeout=150).json()
        self.assertEqual(result["how"], "guest agent")
        self.stopped_clean()

    def test_one_that_hangs_delays_a_stop_by_seconds(self):
        serial = self.boot()
        self.w.ok("wait", "demo", "--for", "agent")
        self.assertEqual(serial.command("kill -STOP $(pidof qemu-ga)")[0], 0)
        started = time.monotonic()
        silent = self.w.expect(TIMEOUT, "agent", "demo", "guest-ping", "--timeout", "110")
        self.assertIn("nothing else was sent", silent.err)
        self.assertLess(time.monotonic() - started, 55, "it is not waited for as long as an answer may take")
        self.assertEqual(self.agent_state(), "silent")
        self.w.expect(TIMEOUT, "wait", "demo", "--for", "agent", "--timeout", "2")

        # It is found again by itself, and hangs once more.
        self.assertEqual(serial.command("kill -CONT $(pidof qemu-ga)")[0], 0)
        self.wait_agent_state("answers")
        self.assertEqual(serial.command("kill -STOP $(pidof qemu-ga)")[0], 0)
        started = time.monotonic()
        result = self.w.ok("stop", "demo", "-o", "json", "--timeout", "110").json()
        self.assertLess(time.monotonic() - started, 55, "half of the time is for an agent that answers")
        self.assertEqual(result["how"], "power button")
        self.assertIn("does not answer", result["agent"])
        serial.expect("POWERBUTTON")
        self.stopped_clean()

    def test_one_that_died_is_not_asked(self):
        serial = self.boot()
        self.w.ok("wait", "demo", "--for", "agent")
        with self.w.control("demo") as control:
            self.assertEqual(serial.command("kill -KILL $(pidof qemu-ga)")[0], 0)
            self.assertEqual(control.event("QMPCTL_AGENT")["data"], {"name": "demo", "state": "absent"})
        gone = self.w.expect(STATE, "agent", "demo", "guest-ping")
        self.assertIn("no guest agent runs in demo", gone.err)

        # Another one is heard of by its event, and after an adoption by asking QEMU.
        serial.command(f"setsid qemu-ga -m virtio-serial -p {AGENT} -t /run >/dev/null 2>&1 </dev/null &")
        self.wait_agent_state("answers")
        self.assertEqual(serial.command("kill -KILL $(pidof qemu-ga)")[0], 0)
        self.wait_agent_state("absent")
        self.w.kill_keeper()
        self.w.ok("status", "demo")
        self.wait_agent_state("absent")
        self.w.expect(STATE, "agent", "demo", "guest-ping")

        stopped = self.w.ok("stop", "demo")
        self.assertEqual(stopped.out, "demo is stopped (power button)\n")
        self.assertEqual(stopped.err, "")
        serial.expect("POWERBUTTON")

    def test_a_liar_that_does_not_power_off_is_followed_by_the_power_button(self):
        serial = self.boot()
        self.w.ok("wait", "demo", "--for", "agent")
        self.assertEqual(serial.command("printf '#!/bin/sh\\n' > /sbin/shutdown")[0], 0)
        result = self.w.ok("stop", "demo", "--timeout", "20", "-o", "json").json()
        self.assertEqual(result["how"], "power button")
        self.assertIn("did not power off", result["agent"])
        serial.expect("POWERBUTTON")

    def test_a_flood_delays_nothing_but_the_agent(self):
        serial = self.boot("")
        self.assertEqual(serial.command(f"cat /dev/zero > {AGENT} &")[0], 0)
        self.wait_agent_state("silent")
        self.w.expect(TIMEOUT, "agent", "demo", "guest-ping", "--timeout", "2")
        self.w.ok("pause", "demo")
        self.w.ok("resume", "demo")
        keeper = self.w.status("demo")["keeper-pid"]
        with open(f"/proc/{keeper}/status", encoding="ascii") as f:
            peak = next(int(line.split()[1]) for line in f if line.startswith("VmHWM"))
        self.assertLess(peak, 32 * 1024)
        result = self.w.ok("stop", "demo", "-o", "json").json()
        self.assertEqual(result["how"], "power button")

    def test_without_a_channel_it_is_said(self):
        self.w.start_tiny("demo")
        self.assertEqual(self.agent_state(), "absent")
        none = self.w.expect(STATE, "agent", "demo", "guest-ping")
        self.assertIn("set agent to true", none.err)
        self.w.expect(STATE, "wait", "demo", "--for", "agent")
        self.w.ok("pause", "demo")
        self.w.ok("kill", "demo")
        self.w.expect(STATE, "agent", "demo", "guest-ping")


if __name__ == "__main__":
    world.main()
