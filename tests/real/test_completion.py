"""Completion: what the program offers, and what real shells make of it, key by key on a terminal."""
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import time

import world
from guest import tiny_spec
from world import PATIENCE, QMPCTL, USAGE, WorldTest

SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], r"""
PS1='$ '
bind 'set enable-bracketed-paste off'
bind 'set bell-style none'
show() { printf '\n[%s]\n' "$READLINE_LINE"; }
bind -x '"\C-g": show'
source <(qmpctl completion bash)
"""),
    "zsh": (["zsh", "-f", "-i"], r"""
PS1='$ '
unsetopt zle_bracketed_paste beep prompt_cr prompt_sp; unset zle_bracketed_paste
autoload -Uz compinit; compinit -u -D
show() { print -r -- $'\n'"[$BUFFER]" }
zle -N show; bindkey '^g' show; bindkey '^u' kill-whole-line
source <(qmpctl completion zsh)
"""),
    "fish": (["fish", "--no-config", "-i"], r"""
function fish_prompt; echo -n '$ '; end
set -g fish_greeting
set -g fish_autosuggestion_enabled 0
bind \cg 'printf "\n[%s]\n" (commandline -b)'
bind \cu 'commandline ""'
qmpctl completion fish | source
"""),
}


class Shell:
    """An interactive shell on a terminal of its own."""

    def __init__(self, name, w):
        argv, setup = SHELLS[name]
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            path = f"{os.path.dirname(QMPCTL)}:{os.environ['PATH']}"
            os.chdir(w.base)
            os.execvpe(argv[0], argv, dict(w.env, PATH=path, QMPCTL_ROOT=w.root, TERM="xterm", HOME=w.base, COLUMNS="200",
                                           LC_ALL="C.UTF-8"))
        script = os.path.join(w.base, f"setup.{name}")
        with open(script, "w", encoding="utf-8") as f:
            f.write(setup)
        self.text = ""
        self.send(f"source {shlex.quote(script)}; echo rea''dy\r")
        self.until("ready")

    def send(self, text):
        os.write(self.fd, text.encode())

    def until(self, pattern, timeout=PATIENCE):
        deadline = time.monotonic() + timeout
        while not (found := re.search(pattern, self.text)):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                raise AssertionError(f"no {pattern!r} within {timeout} s in:\n{self.text}")
            self.text += os.read(self.fd, 65536).decode("utf-8", "replace").replace("\r", "")
        self.text = self.text[found.end():]
        return found

    def complete(self, line):
        """The line that a TAB behind LINE makes of it."""
        self.send(line + "\t")
        self.send("\x07")
        got = self.until(r"\n\[(.*)\]")[1]
        self.send("\x15")
        return got

    def close(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


class Completion(WorldTest):
    def setUp(self):
        super().setUp()
        self.w.asks = True
        self.w.create("alpha", dict(tiny_spec(), memory="64M"))
        self.w.create("beta", dict(tiny_spec(), disks=[{"id": "data", "type": "cdrom"}, {"id": "data2", "type": "cdrom"}]))

    def know_the_schema(self):
        """The first start asks the binary."""
        self.w.ok("start", "alpha", "--paused")
        self.w.ok("kill", "alpha")

    def offered(self, *words):
        result = subprocess.run([QMPCTL, "__complete", "--root", self.w.root, *words], env=self.w.env, text=True,
                                capture_output=True, timeout=PATIENCE)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        return [line.split("\t")[0] for line in result.stdout.splitlines()]

    def test_verbs_options_and_choices(self):
        self.assertEqual(self.offered("sto"), ["stop"])
        self.assertEqual(self.offered("disk", "a"), ["add"])
        self.assertEqual(self.offered("domblk"), ["domblklist"])
        self.assertIn("disk", self.offered(""))
        self.assertEqual(self.offered("").count("disk"), 1)
        self.assertIn("--paused", self.offered("start", "--p"))
        self.assertIn("--output", self.offered("start", "alpha", "--"))
        self.assertEqual(self.offered("list", "-o", ""), ["text", "json"])
        self.assertEqual(self.offered("list", "--output=j"), ["--output=json"])
        self.assertEqual(self.offered("create", "x", "--accel", ""), ["auto", "kvm", "tcg"])
        self.assertEqual(self.offered("frobnicate", ""), [])
        self.assertEqual(self.offered("start", "--", "--"), [])
        self.assertEqual(self.offered("create", "x", "--spec", ""), [":path"])

    def test_what_the_table_has_is_all_offered(self):
        listed = re.findall(r"(?m)^  ([a-z-]+(?: [a-z-]+)?)  +\S", self.w.ok("--help").out.split("Options:")[0])
        self.assertGreater(len(listed), 20)
        for verb in listed:
            words = verb.split()
            self.assertIn(words[-1], self.offered(*words[:-1], ""), verb)

    def test_names_and_ids(self):
        self.assertEqual(self.offered("status", ""), ["alpha", "beta"])
        self.assertEqual(self.offered("disk", "remove", "beta", "da"), ["data", "data2"])
        self.assertEqual(self.offered("disk", "remove", "nosuch", ""), [])
        self.assertEqual(self.offered("disk", "remove", "../../etc", ""), [])
        self.assertEqual(self.offered("set", "beta", "disks[data2].cac"), ["disks[data2].cache="])
        self.assertEqual(self.offered("set", "beta", "disks[data2].cache=n"), ["disks[data2].cache=none"])
        self.assertEqual(self.offered("disk", "add", "beta", "size=1G,form"), ["size=1G,format="])
        self.assertIn(":path", self.offered("disk", "add", "beta", ""))

    def test_qmp(self):
        # Our own operations are known without any QEMU.
        self.assertEqual(self.offered("qmp", "alpha", "qmpctl-disk-rem"), ["qmpctl-disk-remove"])
        self.assertEqual(self.offered("qmp", "alpha", "qmpctl-wait", "for=p"), ["for=paused"])
        self.assertEqual(self.offered("qmp", "alpha", "blockdev-m"), [])
        self.know_the_schema()
        self.assertEqual(self.offered("qmp", "alpha", "blockdev-m"), ["blockdev-mirror"])
        self.assertEqual(self.offered("qmp", "alpha", "blockdev-mirror", "copy"), ["copy-mode="])
        self.assertEqual(self.offered("qmp", "alpha", "blockdev-mirror", "copy-mode="),
                         ["copy-mode=background", "copy-mode=write-blocking"])
        self.assertEqual(self.offered("qmp", "alpha", "blockdev-add", "driver=qcow2", "lazy"), ["lazy-refcounts="])
        self.assertEqual(self.offered("qmp", "alpha", "blockdev-add", "lazy"), [])
        self.assertEqual(self.offered("qmp", "alpha", "blockdev-add", "driver=raw", "file.driver=file", "file.filen"),
                         ["file.filename="])
        self.assertEqual(self.offered("qmp", "alpha", "blockdev-add", "read-only="), ["read-only=on", "read-only=off"])
        self.assertIn("win2k22", self.offered("create", "x", "--os", "win2"))
        self.assertIn("machine.type=q35", self.offered("set", "alpha", "machine.type="))

    def test_nothing_is_started_or_waited_for(self):
        self.know_the_schema()
        self.w.ok("start", "alpha", "--paused")
        os.kill(self.w.qemu_pid("alpha"), signal.SIGSTOP)
        try:
            before = self.w.processes()
            self.assertEqual(self.offered("qmp", "alpha", "query-statu"), ["query-status"])
            self.assertEqual(self.offered("status", "al"), ["alpha"])
            self.assertEqual(self.w.processes(), before)
        finally:
            os.kill(self.w.qemu_pid("alpha"), signal.SIGCONT)

    def test_shells(self):
        self.know_the_schema()
        with open(os.path.join(self.w.base, "zebra 1.iso"), "w", encoding="utf-8"):
            pass
        os.mkdir(os.path.join(self.w.base, "folder"))
        for name in SHELLS:
            with self.subTest(shell=name):
                shell = Shell(name, self.w)
                try:
                    self.on_a_terminal(shell, name)
                finally:
                    shell.close()

    def on_a_terminal(self, shell, name):
        quoted = r"zebra\ 1.iso"
        for typed, want in (("qmpctl stat", "qmpctl status "),
                            ("qmpctl status be", "qmpctl status beta "),
                            ("qmpctl disk rem", "qmpctl disk remove "),
                            ("qmpctl create x --accel=k", "qmpctl create x --accel=kvm "),
                            ("qmpctl qmp alpha blockdev-mirror copy-m", "qmpctl qmp alpha blockdev-mirror copy-mode="),
                            ("qmpctl qmp alpha blockdev-mirror copy-mode=w",
                             "qmpctl qmp alpha blockdev-mirror copy-mode=write-blocking "),
                            ("qmpctl qmp alpha blockdev-add driver=raw file.driver=file file.filen",
                             "qmpctl qmp alpha blockdev-add driver=raw file.driver=file file.filename="),
                            ("qmpctl create x --cdrom ze", f"qmpctl create x --cdrom {quoted} "),
                            ("qmpctl --root fol", "qmpctl --root folder/")):
            self.assertEqual(shell.complete(typed), want, f"{name}: {typed}")

    def test_scripts(self):
        self.assertIn("complete -F _qmpctl qmpctl", self.w.ok("completion", "bash").out)
        self.assertIn("#compdef qmpctl", self.w.ok("completion", "zsh").out)
        self.assertIn("complete -c qmpctl", self.w.ok("completion", "fish").out)
        self.assertIn("one of bash, zsh, fish", self.w.expect(USAGE, "completion", "csh").err)


if __name__ == "__main__":
    world.main()
