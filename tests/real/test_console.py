"""console: a terminal on a guest, and what is left of the terminal afterwards; pipes; the operations beneath."""
import base64
import fcntl
import os
import pty
import select
import signal
import subprocess
import termios
import time

import world
from guest import tiny_spec
from qmp import QmpError
from world import HOST, NOT_FOUND, OK, PATIENCE, STATE, USAGE, WorldTest

ESCAPE = b"\x1d"
# What the tiny guest echoes and does not obey.
PLAIN = bytes(b for b in range(256) if b not in b"qrpxhief")


class Console:
    """`qmpctl console ...` as the foreground of a terminal of its own."""

    def __init__(self, w, *args):
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.flags = fcntl.fcntl(self.slave, fcntl.F_GETFL)
        self.said = b""
        self.mark = 0
        self.proc = subprocess.Popen(w.argv("console", *args), env=w.env, stdin=self.slave, stdout=self.slave,
                                     stderr=self.slave, preexec_fn=self.take_terminal)

    @staticmethod
    def take_terminal():
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def expect(self, text, timeout=PATIENCE):
        """Waits for TEXT behind what was found before; returns what stood before it."""
        deadline = time.monotonic() + timeout
        while (at := self.said.find(text, self.mark)) < 0:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.master], [], [], left)[0]:
                raise AssertionError(f"{text!r} did not come within {timeout} s: {self.said!r}")
            self.said += os.read(self.master, 65536)
        before, self.mark = self.said[self.mark:at], at + len(text)
        return before

    def type(self, data):
        os.write(self.master, data)

    def is_raw(self):
        return not termios.tcgetattr(self.slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def wait_raw(self, want=True):
        deadline = time.monotonic() + PATIENCE
        while self.is_raw() != want:
            if time.monotonic() > deadline:
                raise AssertionError(f"the terminal is{'' if self.is_raw() else ' not'} raw: {self.said!r}")
            time.sleep(0.01)

    def end(self):
        """Its exit status, when it has ended; the terminal must be as it was."""
        status = self.proc.wait(PATIENCE)
        while select.select([self.master], [], [], 0)[0]:
            self.said += os.read(self.master, 65536)
        if termios.tcgetattr(self.slave) != self.before:
            raise AssertionError(f"the terminal is not as it was: {self.said!r}")
        if fcntl.fcntl(self.slave, fcntl.F_GETFL) != self.flags:
            raise AssertionError("the flags of the terminal are not as they were")
        return status

    def close(self):
        if self.proc.poll() is None:
            self.proc.kill()
            self.proc.wait()
        os.close(self.master)
        os.close(self.slave)


class ConsoleTest(WorldTest):
    def start(self, name="a", **more):
        self.w.create(name, tiny_spec(**more))
        self.w.ok("start", name)
        # With the end of the line, so that nothing more comes of it later.
        self.w.ok("wait", name, "--for", "console=TINY-READY\r\n")

    def console(self, *args):
        console = Console(self.w, *args)
        self.addCleanup(console.close)
        return console

    def keeper_pid(self):
        """Beside consoles, which are processes too."""
        keeper, = [pid for pid, cmd in self.w.processes().items() if " run " in cmd and "qemu-system" not in cmd]
        return keeper

    def attached(self, *args):
        console = self.console(*args)
        console.expect(b" leaves it")
        console.wait_raw()
        return console


class Terminal(ConsoleTest):
    def test_keys_go_in_and_what_it_says_comes_out(self):
        self.start()
        c = self.attached("a")
        self.assertIn(b"console con0 of a, which is running; ^] leaves it", c.said)
        c.type(b"\x03\x1a\x04abc\r")
        c.expect(b"\x03\x1a\x04abc\r")
        self.assertNotIn(b"TINY-READY", c.said)
        c.type(b"z" + ESCAPE + b"never typed")
        self.assertEqual(c.end(), OK)
        self.assertEqual(self.w.state("a"), "running")
        self.w.ok("wait", "a", "--for", "console=z")
        self.assertRegex(self.w.ok("logs", "a").out, r"abc\s*z$")

    def test_tail_begins_with_the_last_lines(self):
        self.start()
        c = self.attached("a", "--tail", "1")
        c.expect(b"TINY-READY")
        c.type(ESCAPE)
        self.assertEqual(c.end(), OK)

    def test_another_escape_key(self):
        self.start()
        c = self.attached("a", "--escape", "^A")
        self.assertIn(b"; ^A leaves it", c.said)
        c.type(ESCAPE)
        c.expect(ESCAPE)
        c.type(b"\x01")
        self.assertEqual(c.end(), OK)

    def test_no_escape_key(self):
        self.start()
        c = self.console("a", "--escape", "none")
        c.expect(b"no key leaves it")
        c.wait_raw()
        c.type(ESCAPE + b"\x01")
        c.expect(ESCAPE + b"\x01")
        c.type(b"q")
        self.assertEqual(c.end(), OK)

    def test_it_ends_with_the_vm_and_shows_its_last_words(self):
        self.start()
        c = self.attached("a")
        self.w.ok("stop", "a")
        c.expect(b"PWRBTN")
        c.expect(b"BYE")
        c.expect(b"a has ended")
        self.assertEqual(c.end(), OK)

    def test_a_vm_that_is_killed_ends_it_too(self):
        self.start()
        c = self.attached("a")
        self.w.ok("kill", "a")
        self.assertEqual(c.end(), OK)
        c.expect(b"a has ended")

    def test_a_signal_puts_the_terminal_back(self):
        self.start()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGSEGV, signal.SIGABRT):
            with self.subTest(number):
                c = self.attached("a")
                c.proc.send_signal(number)
                self.assertEqual(c.end(), -number)
        self.assertEqual(self.w.state("a"), "running")

    def test_stopped_it_gives_the_terminal_back_and_continued_takes_it_again(self):
        self.start()
        c = self.attached("a")
        c.proc.send_signal(signal.SIGTSTP)
        c.wait_raw(False)
        c.proc.send_signal(signal.SIGCONT)
        c.wait_raw()
        c.type(b"yz")
        c.expect(b"yz")
        c.type(ESCAPE)
        self.assertEqual(c.end(), OK)

    def test_a_terminal_that_goes_away_ends_it(self):
        self.start()
        c = self.attached("a")
        os.close(c.master)
        self.assertIn(c.proc.wait(PATIENCE), (OK, -signal.SIGHUP, HOST))
        c.master = os.open("/dev/null", os.O_RDONLY)
        self.assertEqual(self.w.state("a"), "running")

    def test_several_at_once_see_the_same_and_end_by_themselves(self):
        self.start()
        several = [self.attached("a") for _ in range(3)]
        for i, c in enumerate(several):
            c.type(b"no%d." % i)
            for other in several[i:]:
                other.expect(b"no%d." % i)
            c.type(ESCAPE)
            self.assertEqual(c.end(), OK)

    def test_a_new_keeper_is_followed(self):
        self.start()
        c = self.attached("a")
        os.kill(self.keeper_pid(), signal.SIGKILL)
        c.type(b"still on")
        c.expect(b"still on")
        c.type(ESCAPE)
        self.assertEqual(c.end(), OK)

    def test_the_escape_is_heard_when_nothing_else_is(self):
        self.start()
        c = self.attached("a")
        keeper = self.keeper_pid()
        os.kill(keeper, signal.SIGSTOP)
        try:
            c.type(b"not typed" + ESCAPE)
            self.assertEqual(c.end(), OK)
        finally:
            os.kill(keeper, signal.SIGCONT)

    def test_it_stays_over_a_reboot_and_a_restart(self):
        self.start(restart={"policy": "always", "delay": 0})
        c = self.attached("a")
        for how in (lambda: self.w.ok("reboot", "a"), lambda: c.type(b"q"),
                    lambda: os.kill(self.w.qemu_pid("a"), signal.SIGKILL)):
            how()
            c.expect(b"TINY-READY")
        self.w.ok("kill", "a")
        self.assertEqual(c.end(), OK)

    def test_what_cannot_be_attached_to_leaves_the_terminal_alone(self):
        self.start()
        self.w.create("off", tiny_spec())
        self.w.create("mute", tiny_spec(consoles=[]))
        self.w.ok("start", "mute")
        for rc, says, *args in ((STATE, b"not running", "off"), (NOT_FOUND, b"nosuch", "nosuch"),
                                (NOT_FOUND, b"has no console \"con9\"; it has con0", "a", "--console", "con9"),
                                (NOT_FOUND, b"it has none", "mute"), (USAGE, b"--escape", "a", "--escape", "ab"),
                                (USAGE, b"--tail", "a", "--tail", "-1"), (USAGE, b"missing")):
            with self.subTest(args):
                c = self.console(*args)
                self.assertEqual(c.end(), rc)
                self.assertIn(says, c.said)


class Pipes(ConsoleTest):
    def pipe(self, *args, **kw):
        proc = subprocess.Popen(self.w.argv("console", *args), env=self.w.env, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, **kw)
        self.addCleanup(lambda: (proc.kill(), proc.communicate()))
        return proc

    def read(self, proc, size):
        data = b""
        while len(data) < size:
            more = os.read(proc.stdout.fileno(), size - len(data))
            if not more:
                raise AssertionError(f"it ended behind {data!r}")
            data += more
        return data

    def test_bytes_pass_as_they_are(self):
        self.start()
        proc = self.pipe("a", stdin=subprocess.PIPE)
        proc.stdin.write(PLAIN)
        proc.stdin.flush()
        self.assertEqual(self.read(proc, len(PLAIN)), PLAIN)
        proc.stdin.write(b"q")
        out, err = proc.communicate(timeout=PATIENCE)
        self.assertEqual((proc.returncode, err), (OK, b"a has ended\n"))

    def test_a_file_is_typed_and_its_end_is_not_the_end(self):
        self.start()
        text = bytes(PLAIN[i % len(PLAIN)] for i in range(1000))
        path = os.path.join(self.w.base, "typed")
        with open(path, "wb") as f:
            f.write(text)
        with open(path, "rb") as f:
            proc = self.pipe("a", stdin=f)
        self.assertEqual(self.read(proc, len(text)), text)
        self.w.ok("stop", "a")
        self.assertIn(b"BYE", proc.communicate(timeout=PATIENCE)[0])
        self.assertEqual(proc.returncode, OK)

    def test_no_input_and_closed_input_look_on(self):
        self.start()
        procs = [self.pipe("a", "--tail", "1", stdin=subprocess.DEVNULL),
                 self.pipe("a", "--tail", "1", preexec_fn=lambda: os.close(0))]
        for proc in procs:
            self.assertIn(b"TINY-READY", self.read(proc, 12))
        self.w.ok("stop", "a")
        for proc in procs:
            self.assertIn(b"BYE", proc.communicate(timeout=PATIENCE)[0])
            self.assertEqual(proc.returncode, OK)

    def test_an_output_that_is_closed_ends_it(self):
        self.start()
        proc = self.pipe("a", stdin=subprocess.PIPE)
        proc.stdout.close()
        proc.stdin.write(b"abc")
        proc.stdin.flush()
        self.assertEqual(proc.wait(PATIENCE), HOST)
        self.assertIn(b"standard output", proc.stderr.read())
        self.assertEqual(self.w.state("a"), "running")


class Operations(ConsoleTest):
    """qmpctl-console and qmpctl-type themselves: any QMP client may use them."""

    def setUp(self):
        super().setUp()
        self.start()
        self.reader = self.w.control("a")
        self.writer = self.w.control("a")
        self.addCleanup(self.reader.close)
        self.addCleanup(self.writer.close)

    def said(self, cursor, want):
        data = b""
        while want not in data:
            reply = self.reader.execute("qmpctl-console", {"cursor": cursor, "timeout": 30})
            self.assertTrue(reply["data"], f"{want!r} did not come: {data!r}")
            data += base64.b64decode(reply["data"])
            cursor = reply["cursor"]
        return data, cursor

    def test_from_a_cursor_on(self):
        first = self.reader.execute("qmpctl-console")
        self.assertEqual((first["console"], first["state"], first["data"]), ("con0", "running", ""))
        self.writer.execute("qmpctl-type", {"text": "abc"})
        data, cursor = self.said(first["cursor"], b"abc")
        self.assertEqual(data, b"abc")
        self.writer.execute("qmpctl-type", {"data": base64.b64encode(b"\x00\xff.").decode()})
        self.assertEqual(self.said(cursor, b".")[0], b"\x00\xff.")
        # An old one still has it all.
        self.assertEqual(self.said(first["cursor"], b".")[0], b"abc\x00\xff.")

    def test_silence_is_an_answer_without_data(self):
        first = self.reader.execute("qmpctl-console")
        again = self.reader.execute("qmpctl-console", {"cursor": first["cursor"], "timeout": 0})
        self.assertEqual((again["data"], again["cursor"]), ("", first["cursor"]))

    def test_wrong_arguments(self):
        for command, args in (("qmpctl-console", {"cursor": "x"}), ("qmpctl-console", {"cursor": "1-2-3"}),
                              ("qmpctl-type", {}), ("qmpctl-type", {"text": "a", "data": "YQ=="}),
                              ("qmpctl-type", {"data": "!"})):
            with self.subTest((command, args)), self.assertRaises(QmpError) as caught:
                self.reader.execute(command, args)
            self.assertEqual(caught.exception.data["kind"], "usage")


if __name__ == "__main__":
    world.main()
