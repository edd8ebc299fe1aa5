"""wait --for ready, with a Linux guest that plays cloud-init on its console."""
import world
from guest import linux_spec
from world import FAILED, OK, STATE, TIMEOUT, WorldTest

SEED = {"user": "me"}


class Ready(WorldTest):
    def boot(self, words="", **more):
        self.w.create("demo", linux_spec(words, **more))
        self.w.ok("start", "demo")
        self.w.ok("wait", "demo", "--for", "console=GUEST-READY", "--timeout", "120", timeout=150)

    def say(self, text):
        """On the guest's console."""
        self.w.ok("type", "demo", f"t0 echo '{text}'")

    def ended(self, proc, rc, *says):
        self.until(lambda: proc.poll() is not None, lambda: f"it does not end: {self.told(proc)}", 30)
        text = self.told(proc)
        self.assertEqual(proc.returncode, rc, text)
        for words in says:
            self.assertIn(words, text)

    @staticmethod
    def told(proc):
        with open(proc.log, encoding="utf-8") as f:
            return f.read()

    def test_the_agent_is_enough_where_there_is_no_seed(self):
        self.boot("test.qga")
        self.w.ok("wait", "demo", "--for", "ready", "--timeout", "60", timeout=90)

    def test_a_seed_wants_cloud_init(self):
        self.boot("test.qga", seed=SEED)
        result = self.w.expect(FAILED, "wait", "demo", "--for", "ready", "--timeout", "60", timeout=90)
        self.assertIn("has no cloud-init", result.err)
        self.assertIn("The console's last lines:", result.err)
        self.assertIn("GUEST-READY", result.err)

    def test_the_console_tells_where_no_agent_does(self):
        self.boot(seed=SEED)
        result = self.w.expect(TIMEOUT, "wait", "demo", "--for", "ready", "--timeout", "1")
        self.assertIn("was not ready within 1 s", result.err)
        self.assertIn("GUEST-READY", result.err)
        wait = self.w.spawn("wait", "demo", "--for", "ready", "--timeout", "60")
        self.say("Cloud-init v. 22.4.2 running init at some time.")
        self.until(lambda: "running init" in self.told(wait), lambda: f"no stage is told: {self.told(wait)}", 30)
        self.assertIsNone(wait.poll())
        self.w.ok("kill", "demo")
        self.ended(wait, STATE, "has ended (killed) before it was ready")

        self.w.ok("start", "demo")
        self.w.ok("wait", "demo", "--for", "console=GUEST-READY", "--timeout", "120", timeout=150)
        wait = self.w.spawn("wait", "demo", "--for", "ready", "--timeout", "60")
        self.say("Cloud-init v. 22.4.2 finished at some time. Datasource DataSourceNoCloud. Up 1 seconds")
        self.ended(wait, OK, "finished")

    def test_a_seed_that_was_not_found_is_told(self):
        self.boot(seed=SEED)
        self.say("Cloud-init v. 22.4.2 finished at some time. Datasource DataSourceNone. Up 1 seconds")
        result = self.w.expect(FAILED, "wait", "demo", "--for", "ready", "--timeout", "30")
        self.assertIn("has not found its seed", result.err)


if __name__ == "__main__":
    world.main()
