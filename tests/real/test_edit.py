"""edit: nothing changes unless all is well, and what was written is not lost."""
import json
import os
import re
import subprocess

import world
from guest import tiny_spec
from world import HOST, OK, PATIENCE, STATE, USAGE, WorldTest


class Edit(WorldTest):
    def setUp(self):
        super().setUp()
        self.w.create("a", tiny_spec(description="before"))
        self.before = self.spec()
        self.temporary = os.path.join(self.w.base, "tmp")
        os.mkdir(self.temporary)
        self.w.env["TMPDIR"] = self.temporary

    def spec(self):
        return self.w.ok("show", "a", "-o", "json").json()["spec"]

    def edit(self, script, rc, *args, **env):
        """Edits with SCRIPT, a shell's words; "$1" is the file."""
        editor = os.path.join(self.w.base, "editor")
        with open(editor, "w", encoding="utf-8") as f:
            f.write(f"#!/bin/sh\n{script}\n")
        os.chmod(editor, 0o755)
        result = subprocess.run(self.w.argv("edit", "a", *args), env={**self.w.env, "EDITOR": editor, **env}, text=True,
                                capture_output=True, stdin=subprocess.DEVNULL, timeout=PATIENCE)
        self.assertEqual(result.returncode, rc, result.stderr)
        return result

    def kept(self, result, text):
        """What was written is in the file that the message names, and nowhere else; nothing was changed."""
        path = re.search(r"kept in (\S+);", result.stderr)[1]
        with open(path, encoding="utf-8") as f:
            self.assertIn(text, f.read())
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        self.assertEqual(self.left(), [os.path.basename(path)])
        self.assertEqual(self.spec(), self.before)

    def left(self):
        return os.listdir(self.temporary)

    def test_a_change_is_applied_and_the_file_goes(self):
        self.edit("""sed -i s/before/after/ "$1" """, OK)
        self.assertEqual(self.spec(), dict(self.before, description="after"))
        self.assertEqual(self.left(), [])

    def test_no_change_is_none(self):
        self.assertIn("nothing was changed", self.edit("exit 0", OK).stderr)
        self.assertEqual(self.spec(), self.before)
        self.assertEqual(self.left(), [])

    def test_an_editor_that_fails(self):
        self.assertIn("exit status 3", self.edit("exit 3", HOST).stderr)
        self.assertEqual(self.spec(), self.before)
        self.assertEqual(self.left(), [])
        self.assertIn("127", self.edit("", HOST, VISUAL="/nonexistent/editor").stderr)
        self.assertEqual(self.left(), [])
        self.kept(self.edit("""sed -i s/before/after/ "$1"; kill -9 $$""", HOST), "after")

    def test_what_is_no_spec_is_kept(self):
        result = self.edit("""echo '{"name": "a",' > "$1" """, USAGE)
        self.kept(result, '{"name": "a",')

    def test_what_is_refused_is_kept(self):
        self.kept(self.edit("""sed -i 's/"16M"/"lots"/' "$1" """, USAGE), "lots")

    def test_another_name_is_refused(self):
        self.assertIn("rename", self.edit("""sed -i 's/"name": "a"/"name": "b"/' "$1" """, USAGE).stderr)
        self.assertEqual(self.spec(), self.before)

    def test_somebody_else_was_quicker(self):
        set_it = " ".join(self.w.argv("set", "a", "memory=17M"))
        result = self.edit(f"""{set_it} && sed -i s/before/after/ "$1" """, STATE)
        self.assertIn("changed by somebody else", result.stderr)
        self.before["memory"] = "17M"
        self.kept(result, "after")

    def test_a_dry_run_keeps_the_file(self):
        self.kept(self.edit("""sed -i s/before/after/ "$1" """, OK, "--dry-run"), "after")

    def test_visual_goes_before_editor_and_may_have_words(self):
        self.edit("exit 3", OK, VISUAL="sed -i -e s/before/between/")
        self.assertEqual(self.spec()["description"], "between")
        self.edit("exit 0", OK, VISUAL="")

    def test_apply_takes_a_pipe(self):
        text = json.dumps(dict(self.before, description="piped"))
        self.w.ok("apply", "-", stdin=text)
        self.assertEqual(self.spec()["description"], "piped")
        self.w.expect(USAGE, "apply", "-", stdin="")
        self.w.expect(USAGE, "apply", "-", stdin=text + "x")
        self.assertEqual(self.spec()["description"], "piped")


if __name__ == "__main__":
    world.main()
