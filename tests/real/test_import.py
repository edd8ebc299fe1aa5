"""Images out of files and from a server that cuts off, stalls, lies, redirects and changes its mind."""
import bz2
import gzip
import hashlib
import json
import lzma
import os
import random
import signal
import subprocess
import threading
import time

import world
from server import Page, Server, make_certificate
from world import FAILED, HOST, NOT_FOUND, OK, PATIENCE, STATE, TIMEOUT, USAGE, WorldTest

DATE = "Mon, 01 Jan 2024 00:00:00 GMT"
ANOTHER_DATE = "Tue, 02 Jan 2024 00:00:00 GMT"


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def noise(size, seed=1):
    return random.Random(seed).randbytes(size)


class Import(WorldTest):
    def setUp(self):
        super().setUp()
        self.w.env.update(no_proxy="*", NO_PROXY="*")
        self.server = Server()
        self.addCleanup(self.server.close)
        self.data = noise(3 << 20)

    def path(self, name):
        return os.path.join(self.w.base, name)

    def put(self, name, data):
        with open(self.path(name), "wb") as f:
            f.write(data)
        return self.path(name)

    def qcow2(self, *args, name="image.qcow2"):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *args, self.path(name), "4M"], check=True)
        with open(self.path(name), "rb") as f:
            return f.read()

    def serve(self, data=None, path="/image.raw", **how):
        self.server.pages[path] = Page(self.data if data is None else data, **how)
        return self.server.url(path)

    def load(self, *args, rc=OK, **kw):
        result = self.w.expect(rc, "image", "import", *args, "-o", "json", **kw)
        return result.json() if rc == OK else result.err

    def content(self, path):
        with open(path, "rb") as f:
            return f.read()

    def entries(self):
        return self.w.ok("image", "cache", "-o", "json").json()["entries"]

    def parts(self):
        return [e for e in self.entries() if e.get("partial")]

    def left(self):
        """Every file below the cache."""
        return sorted(os.path.relpath(os.path.join(d, f), self.w.root) for d, _, files in
                      os.walk(os.path.join(self.w.root, "lib", "cache")) for f in files)

    def clean(self, images=0):
        """Nothing is there but so many whole images with their descriptions."""
        left = self.left()
        self.assertEqual(len(left), 2 * images, left)
        self.assertFalse([f for f in left if "partial" in f or "qmpctl-new" in f])

    def asked(self, header=None):
        return [headers.get(header) if header else path for path, headers in self.server.requests]

    # -- files

    def test_what_is_packed_is_unpacked(self):
        image = self.qcow2() + bytes(1 << 20) + self.data[:5000]
        zstd = subprocess.run(["zstd", "-q", "-c"], input=image, stdout=subprocess.PIPE, check=True).stdout
        half = len(image) // 2
        for name, packed in (
                ("none", image), ("gzip", gzip.compress(image)), ("bzip2", bz2.compress(image)), ("xz", lzma.compress(image)),
                ("zstd", zstd), ("gzip", gzip.compress(image[:half]) + gzip.compress(image[half:])),
                ("bzip2", bz2.compress(image[:half]) + bz2.compress(image[half:])),
                ("xz", lzma.compress(image[:half]) + bytes(8) + lzma.compress(image[half:]))):
            with self.subTest(packing=name):
                source, to = self.put("source", packed), self.path("to")
                answer = self.load(source, to, "--sha256", sha256(packed))
                self.assertEqual((answer["packing"], answer["format"], answer["virtual-size"], answer["path"]),
                                 (name, "qcow2", 4 << 20, to))
                self.assertEqual(self.content(to), image)
                self.assertTrue(answer["verified"])
                os.unlink(to)
                for bad in (packed[:len(packed) * 2 // 3], packed[:-len(packed) // 3] + self.data[:len(packed) // 3]):
                    if name != "none":
                        self.load(self.put("source", bad), to, rc=HOST)
                        self.assertFalse(os.path.exists(to))
        self.clean()

    def test_zeros_are_holes(self):
        size = 64 << 20
        to = self.path("to")
        self.load(self.put("source", gzip.compress(self.data[:8192] + bytes(size - 3) + b"end")), to)
        self.assertEqual(self.content(to), self.data[:8192] + bytes(size - 3) + b"end")
        self.assertLess(os.stat(to).st_blocks * 512, 1 << 20)

    def test_a_bomb_is_refused(self):
        bomb = self.put("bomb.xz", lzma.compress(bytes(80 << 20)))
        text = self.load(bomb, self.path("to"), "--max-size", "32M", rc=FAILED)
        self.assertIn("--max-size", text)
        url = self.serve(self.content(bomb))
        self.load(url, "--max-size", "32M", rc=FAILED)
        self.load(self.serve(), "--max-size", "2M", rc=FAILED)
        self.assertFalse(os.path.exists(self.path("to")))
        self.clean()

    def test_what_is_no_image_is_refused(self):
        base = self.path("base.qcow2")
        self.qcow2(name="base.qcow2")
        over = self.qcow2("-b", base, "-F", "qcow2", name="over.qcow2")
        data = self.qcow2("-o", f"data_file={self.path('raw')}", name="data.qcow2")
        for content, named in ((over, base), (data, "raw"), (b"<!DOCTYPE html><html>login</html>", "HTML"),
                               (b"PK\3\4" + bytes(1000), "zip"), (bytes(257) + b"ustar\0" + bytes(500), "tar"), (b"", "empty"),
                               (b"no such file\n", "sectors")):
            with self.subTest(named=named):
                self.assertIn(named, self.load(self.serve(content), rc=HOST))
                self.assertIn(named, self.load(self.put("source", content), self.path("to"), rc=HOST))
        self.clean()

    def test_a_destination_that_is_there_is_left(self):
        to = self.put("to", b"mine")
        self.assertIn("already", self.load(self.serve(), to, rc=STATE))
        self.assertEqual(self.content(to), b"mine")
        self.assertEqual(self.server.requests, [])
        self.load(self.path("nowhere"), self.path("b"), rc=NOT_FOUND)
        self.load(self.serve(), "/nowhere/at/all", rc=HOST)

    def test_another_format(self):
        image = self.qcow2()
        self.put("x.qcow2", image)
        subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.path("x.qcow2"), self.path("raw")], check=True)
        url = self.serve(gzip.compress(image), "/x.qcow2.gz")
        for fmt in ("raw", "qcow2", "vmdk"):
            to = self.path(f"to.{fmt}")
            answer = self.load(url, to, "--format", fmt)
            self.assertEqual((answer["format"], answer["path"]), (fmt, to))
            subprocess.run(["qemu-img", "compare", "-q", "-f", fmt, "-F", "raw", to, self.path("raw")], check=True)
        self.clean(images=1)
        self.w.ok("image", "cache", "--delete", "all")
        self.load(url, self.path("again"), "--format", "raw", "--no-cache")
        self.load(url, "default:new.raw", "--format", "raw")
        self.assertEqual(os.listdir(os.path.join(self.w.root, "lib", "images")), ["new.raw"])
        self.clean(images=1)
        self.load(url, "--format", "raw", rc=USAGE)
        self.load(url, "--no-cache", rc=USAGE)

    # -- digests

    def test_digests(self):
        url = self.serve()
        for option, digits in (("--sha256", sha256(self.data)), ("--sha512", hashlib.sha512(self.data).hexdigest()),
                               ("--sha256", sha256(self.data).upper())):
            self.assertTrue(self.load(url, option, digits)["verified"])
            text = self.load(self.serve(path="/other"), option, "0" * len(digits), rc=FAILED)
            self.assertIn("0" * len(digits), text)
        self.load(url, "--sha256", "12", rc=USAGE)
        self.clean(images=1)

    def test_lists_of_digests(self):
        name, good = "an image (1).raw", sha256(self.data)
        url = self.serve(path="/an%20image%20(1).raw")
        big = hashlib.sha512(self.data).hexdigest()
        for text in (f"{'0' * 64}  other\n{good}  {name}\n", f"{good} *./{name}\r\n", f"SHA256 ({name}) = {good}",
                     f"# comment\nMD5 ({name}) = {'1' * 32}\nSHA512 ({name}) = {big}\nSHA256 ({name}) = {good}\n",
                     f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{big}  {name}\n"):
            with self.subTest(text=text):
                self.assertTrue(self.load(url, "--sums", self.put("SUMS", text.encode()))["verified"])
                self.assertTrue(self.load(url, "--sums", self.serve(text.encode(), "/SUMS"))["verified"])
        for text, rc in ((f"{good}  other\n", NOT_FOUND), (f"{good}  {name}\n{'0' * 64}  {name}\n", FAILED),
                         (f"{'0' * 64}  {name}\n", FAILED), ("", NOT_FOUND)):
            with self.subTest(text=text):
                self.w.ok("image", "cache", "--delete", "all")
                self.load(url, "--sums", self.put("SUMS", text.encode()), rc=rc)
        self.load(url, "--sums", self.path("none"), rc=HOST)
        self.load(url, "--sums", self.server.url("/none"), rc=NOT_FOUND)
        self.clean()

    # -- the cache

    def test_the_cache(self):
        url, good = self.serve(), sha256(self.data)
        first = self.load(url)
        self.assertFalse(first["cached"] or first["verified"])
        self.assertEqual(os.path.basename(first["path"]), f"sha256-{good}")
        self.assertEqual(os.stat(first["path"]).st_mode & 0o777, 0o400)
        again = self.load(url)
        self.assertTrue(again["cached"])
        self.assertEqual(again["path"], first["path"])
        self.assertEqual(self.asked("If-None-Match"), [None, '"1"'])
        self.assertTrue(self.load("http://127.0.0.1:1/x", "--sha256", good)["cached"], "its digest is enough")
        to = self.path("to")
        self.load(url, to)
        self.assertEqual(self.content(to), self.data)
        [entry] = self.entries()
        self.assertEqual((entry["source"], entry["format"], entry["size"]), (url, "raw", len(self.data)))
        # It changes at the server: then it is fetched, and both are there.
        self.server.pages["/image.raw"] = Page(self.data[::-1], etag='"2"')
        self.assertFalse(self.load(url)["cached"])
        self.clean(images=2)
        # It was changed here: it is no more what its name says.
        os.chmod(first["path"], 0o600)
        with open(first["path"], "ab") as f:
            f.write(b"x")
        self.server.pages["/image.raw"] = Page(self.data)
        self.assertFalse(self.load(url, "--sha256", good)["cached"])
        self.assertEqual(sha256(self.content(first["path"])), good)
        self.w.expect(NOT_FOUND, "image", "cache", "--delete", "nothing")
        self.w.ok("image", "cache", "--delete", f"sha256-{good}")
        self.clean(images=1)
        self.load(url, self.path("b"), "--no-cache")
        self.clean(images=1)

    def test_eight_at_once(self):
        url = self.serve()
        runs = [threading.Thread(target=lambda n=n: answers.append(self.load(url, self.path(f"to{n}")))) for n in range(8)]
        answers = []
        for run in runs:
            run.start()
        for run in runs:
            run.join()
        self.assertEqual(len(answers), 8)
        self.assertEqual({sha256(self.content(a["path"])) for a in answers}, {sha256(self.data)})
        self.assertEqual(len([n for n in self.asked("If-None-Match") if not n]), 1, "one has fetched it")
        self.clean(images=1)

    # -- its limit

    def cached(self, n, age=7200):
        """N images of 1 MiB in the cache, the first one used least recently, all of them longer ago than an hour; their paths."""
        paths = [self.load(self.put(f"source{i}", noise(1 << 20, 100 + i)))["path"] for i in range(n)]
        for i, path in enumerate(paths):
            self.age(path, age + 60 * (n - i))
        return paths

    def age(self, path, seconds):
        then = time.time() - seconds
        os.utime(path + ".json", (then, then))

    def there(self, paths):
        return [i for i, path in enumerate(paths) if os.path.exists(path) and os.path.exists(path + ".json")]

    def limit(self, text, rc=OK):
        return self.w.expect(rc, "image", "cache", "--limit", text).err

    def test_the_limit_is_shown_and_set(self):
        shown = self.w.ok("image", "cache", "-o", "json").json()
        self.assertTrue(shown["limit-is-default"])
        fs = os.statvfs(self.w.base)
        self.assertEqual(shown["limit"], min(64 << 30, fs.f_blocks * fs.f_frsize // 4))
        self.load(self.put("source", self.data))
        for text, limit, words in (("20G", 20 << 30, "the limit is 20.0 GiB"), ("none", None, "without a limit"),
                                   ("default", shown["limit"], "the default")):
            self.limit(text)
            now = self.w.ok("image", "cache", "-o", "json").json()
            self.assertEqual((now["limit"], now["limit-is-default"]), (limit, text == "default"))
            self.assertEqual(now["size"], sum(e["allocated"] for e in now["entries"]))
            self.assertIn(words, self.w.ok("image", "cache").out)
        self.limit("3G")
        for bad in ("", "x", "0", "-1G", "1Z"):
            self.limit(bad, rc=USAGE)
            self.assertEqual(self.w.ok("image", "cache", "-o", "json").json()["limit"], 3 << 30)
        config = os.path.join(self.w.root, "etc", "cache.json")
        for text in ('{"limit": "x"}', "{}", '{"limit": "1G", "more": 1}', "junk"):
            with open(config, "w", encoding="ascii") as f:
                f.write(text)
            self.assertIn("cache.json", self.w.expect(USAGE, "image", "cache").err)
            self.assertIn("cache.json", self.w.expect(OK, "image", "import", self.put("other", noise(4096, 9))).err)
        self.clean(images=2)

    def test_what_was_used_least_recently_goes(self):
        paths = self.cached(4)
        self.load(self.put("source0", noise(1 << 20, 100)), "--sha256", sha256(noise(1 << 20, 100)))
        self.age(paths[0], 4000)
        text = self.limit("3M")
        self.assertIn(os.path.basename(paths[1]), text)
        self.assertEqual(self.there(paths), [0, 2, 3], "the one that was used again stays")
        result = self.w.expect(OK, "image", "import", self.put("new", noise(1 << 20, 99)))
        self.assertIn(os.path.basename(paths[2]), result.err)
        self.assertEqual(self.there(paths), [0, 3])
        self.assertTrue(os.path.exists(result.out.strip()))
        self.clean(images=3)
        # What has gone comes again, to the same path.
        self.limit("none")
        self.assertEqual(self.load(self.put("source1", noise(1 << 20, 101)))["path"], paths[1])

    def test_what_was_used_just_now_stays(self):
        paths = self.cached(3, age=60)
        self.assertIn("beyond its limit", self.limit("1M"))
        self.assertEqual(self.there(paths), [0, 1, 2])

    def test_parts_go_too(self):
        url = self.serve(modes=["cut", "whole"])
        self.load(url, "--retries", "0", rc=HOST)
        [part] = self.parts()
        then = time.time() - 7200
        os.utime(part["path"], (then, then))
        self.limit("1M")
        self.assertEqual(self.left(), [])
        proc = None
        try:
            self.serve(modes=["stall"])
            proc = self.stalled(url)
            [part] = self.parts()
            os.utime(part["path"], (then, then))
            self.assertIn("beyond", self.limit("1M"))
            self.assertEqual(len(self.parts()), 1, "it is being fetched")
        finally:
            if proc:
                proc.kill()
                proc.wait(PATIENCE)

    def test_what_is_in_use_stays(self):
        paths = self.cached(7)
        elsewhere = self.path("elsewhere")
        os.mkdir(elsewhere)
        # The disk of a VM; an overlay beside the others; one that we made elsewhere, and one on that; one by a pool; one that is open.
        self.w.create("a", {"disks": [{"path": paths[0], "format": "raw", "read-only": True}]})
        self.w.ok("image", "create", "default:over.qcow2", "--backing", paths[1], "--backing-format", "raw")
        self.w.ok("image", "create", f"{elsewhere}/over.qcow2", "--backing", paths[2], "--backing-format", "raw")
        self.w.ok("image", "clone", "--linked", paths[3], self.path("cloned.qcow2"))
        self.w.ok("image", "create", f"{elsewhere}/plain.qcow2", "4M")
        self.w.ok("image", "rebase", f"{elsewhere}/plain.qcow2", paths[4], "--backing-format", "raw")
        for path in paths:
            self.age(path, 7200)
        with open(paths[5], "rb"):
            text = self.limit("1M")
        self.assertEqual(self.there(paths), [0, 1, 2, 3, 4, 5])
        self.assertIn(os.path.basename(paths[6]), text)
        self.assertIn("beyond", text)
        os.unlink(f"{elsewhere}/over.qcow2")
        self.limit("1M")
        self.assertEqual(self.there(paths), [0, 1, 3, 4], "nothing is backed by it any more, nor is it open")
        # What a VM has cannot be told: then nothing goes.
        with open(os.path.join(self.w.root, "etc", "vms", "a.json"), "w", encoding="ascii") as f:
            f.write("junk")
        for name in ("cloned.qcow2", "elsewhere/plain.qcow2"):
            os.unlink(self.path(name))
        self.assertIn("damaged", self.limit("1M", rc=STATE))
        self.assertEqual(self.there(paths), [0, 1, 3, 4])

    def test_several_at_once_beyond_the_limit(self):
        paths = self.cached(6)
        self.limit("7M")
        answers = []

        def run(i):
            answers.append(self.load(self.put(f"new{i}", noise(1 << 20, 200 + i))))
            answers.append(self.load(self.put(f"source{5 - i}", noise(1 << 20, 105 - i)), "--sha256", sha256(noise(1 << 20, 105 - i))))
        runs = [threading.Thread(target=run, args=(i,)) for i in range(3)]
        for r in runs:
            r.start()
        for r in runs:
            r.join()
        self.assertEqual(len(answers), 6)
        self.assertEqual({sha256(self.content(a["path"])) for a in answers}, {a["sha256"] for a in answers})
        self.limit("7M")
        self.assertEqual(self.there(paths)[-3:], [3, 4, 5], "those that were asked for")
        self.clean(images=7)

    def test_killed_while_it_removes(self):
        """The image goes first: what is left of it then is swept."""
        paths = self.cached(2)
        os.unlink(paths[0])
        self.assertEqual([e["path"] for e in self.entries()], [paths[1]])
        self.clean(images=1)

    # -- a server that is no good

    def test_a_cut_is_gone_on_with(self):
        for data, tag in ((self.data, "raw"), (gzip.compress(self.data), "gz")):
            for validators in ({}, {"etag": None, "modified": DATE}, {"etag": 'W/"1"', "modified": DATE}):
                with self.subTest(tag=tag, **validators):
                    self.server.requests.clear()
                    url = self.serve(data, f"/image.{tag}", modes=["cut", "cut", "whole"], **validators)
                    answer = self.load(url)
                    self.assertEqual(self.content(answer["path"]), self.data)
                    self.assertEqual(len(self.server.requests), 3)
                    self.assertEqual(self.asked("Range")[1], f"bytes={len(data) // 2}-")
                    self.w.ok("image", "cache", "--delete", "all")

    def test_another_run_goes_on(self):
        half = len(self.data) // 2
        url = self.serve(modes=["cut", "whole"])
        self.load(url, "--retries", "0", rc=HOST)
        [part] = self.parts()
        self.assertEqual((part["size"], part["source"], part["total"]), (half, url, len(self.data)))
        self.assertEqual(self.content(self.load(url)["path"]), self.data)
        self.assertEqual(self.asked("Range"), [None, f"bytes={half}-"])
        self.assertEqual(self.asked("If-Range"), [None, '"1"'])
        self.clean(images=1)

    def test_a_part_from_before_the_power_cut_needs_a_digest(self):
        url = self.serve(modes=["cut", "whole"])
        self.load(url, "--retries", "0", rc=HOST)
        [about] = [f for f in self.left() if f.endswith(".json")]
        about = os.path.join(self.w.root, about)
        text = json.loads(self.content(about))
        text["boot"] = "another"
        with open(about, "w", encoding="utf-8") as f:
            json.dump(text, f)
        with open(about[:-5], "r+b") as f:
            f.write(b"what the disk had")
        self.assertEqual(self.content(self.load(url)["path"]), self.data)
        self.assertEqual(self.asked("Range"), [None, None])

    def test_a_part_that_was_spoiled_is_fetched_anew(self):
        url = self.serve(modes=["cut", "whole"])
        self.load(url, "--retries", "0", rc=HOST)
        with open(self.parts()[0]["path"], "r+b") as f:
            f.write(b"what the disk had")
        self.assertEqual(self.content(self.load(url, "--sha256", sha256(self.data))["path"]), self.data)
        self.assertEqual(len(self.server.requests), 3)
        self.clean(images=1)

    def test_a_server_that_knows_no_ranges(self):
        url = self.serve(modes=["cut", "no-range"])
        self.assertEqual(self.content(self.load(url)["path"]), self.data)
        url = self.serve(gzip.compress(self.data), "/b.gz", modes=["cut", "no-range"])
        self.assertEqual(self.content(self.load(url)["path"]), self.data)
        # Without a word by which the file would be known again, nothing is gone on with.
        self.server.requests.clear()
        url = self.serve(noise(1 << 20, 3), "/c", etag=None, modes=["cut", "whole"])
        self.load(url, "--retries", "0", rc=HOST)
        self.clean(images=2)
        self.load(url)
        self.assertEqual(self.asked("Range"), [None, None])

    def test_the_file_changes_between_the_halves(self):
        other = noise(3 << 20, 2)
        for mode, more in (("whole", {}), ("ignores-if-range", {}), ("ignores-if-range", {"etag": None, "modified": DATE})):
            for packed in (False, True):
                with self.subTest(mode=mode, packed=packed, **more):
                    data, new = (gzip.compress(d) if packed else d for d in (self.data, other))
                    url = self.serve(data, modes=["cut", mode], **more)
                    page = self.server.pages["/image.raw"]

                    def change(page=page, new=new):
                        page.data, page.after = new, None
                        if page.etag:
                            page.etag = '"2"'
                        else:
                            page.modified = ANOTHER_DATE
                    page.after = change
                    # Where the server tells nothing of it, the digest does.
                    digest = ["--sha256", sha256(new)] if not page.etag else []
                    self.assertEqual(self.content(self.load(url, *digest)["path"]), other)
                    self.clean(images=1)
                    self.w.ok("image", "cache", "--delete", "all")

    def test_a_tag_that_is_no_text(self):
        url = self.serve(etag='"caf\xe9"', modes=["cut", "whole"])
        self.load(url, "--retries", "0", rc=HOST)
        self.clean()
        self.assertEqual(self.content(self.load(url)["path"]), self.data)
        self.assertEqual(self.asked("If-Range"), [None, None])

    def test_a_stall(self):
        url = self.serve(modes=["stall", "whole"])
        text = self.load(url, "--stall", "1", "--retries", "0", rc=TIMEOUT)
        self.assertIn("sends nothing", text)
        self.assertEqual(self.content(self.load(url)["path"]), self.data)

    def test_lies_about_the_length(self):
        url = self.serve(modes=["cut"])
        text = self.load(url, "--retries", "0", rc=HOST)
        self.assertNotIn("sha", text)
        self.w.ok("image", "cache", "--delete", "all")
        # Shorter than it is: nothing but the digest can tell.
        url = self.serve(modes=["short-length"])
        self.load(url, "--sha256", sha256(self.data), rc=FAILED)
        self.load(self.serve(gzip.compress(self.data), modes=["short-length"]), rc=HOST)
        # No length at all: a cut would look like the end.
        url = self.serve(modes=["no-length"])
        self.assertIn("--sha256", self.load(url, rc=HOST))
        self.load(url, "--sha256", sha256(self.data))
        self.w.ok("image", "cache", "--delete", "all")
        self.load(self.serve(modes=["chunked"]))
        self.w.ok("image", "cache", "--delete", "all")
        self.load(self.serve(gzip.compress(self.data), modes=["no-length"]))
        self.clean(images=1)

    def test_an_encoding_that_nobody_asked_for(self):
        self.assertIn("Content-Encoding", self.load(self.serve(modes=["gzipped"]), rc=HOST))
        self.assertEqual(set(self.asked("Accept-Encoding")), {"identity"})
        answer = self.load(self.serve(self.data, "/image.gz", modes=["gzipped"]))
        self.assertEqual(self.content(answer["path"]), self.data)
        self.clean(images=1)

    def test_errors(self):
        self.load(self.server.url("/none"), rc=NOT_FOUND)
        for status in (403, 500, 503):
            text = self.load(self.serve(modes=["error"], status=status), "--retries", "0", rc=HOST)
            self.assertIn(str(status), text)
        url = self.serve(modes=["error", "close", "whole"], status=503)
        self.assertEqual(self.content(self.load(url)["path"]), self.data)
        self.assertNotIn("again", self.load("http://127.0.0.1:1/x", rc=HOST), "nobody is there: that does not pass by itself")
        self.load("http://", rc=USAGE)
        for place in ("ftp://host/a.img", "nbd://host/a", "data:a.qcow2"):
            self.assertIn("image convert", self.load(place, rc=USAGE))
        self.clean(images=1)

    def test_redirects(self):
        url = self.serve()
        for to in (url, "/image.raw", "image.raw"):
            self.serve(path="/moved", modes=["redirect"], to=to)
            self.assertEqual(self.content(self.load(self.server.url("/moved"))["path"]), self.data)
        self.put("secret", b"secret")
        for to, named in ((self.server.url("/moved"), "again and again"), (f"file://{self.path('secret')}", "neither"),
                          ("ftp://127.0.0.1/x", "neither"), ("http://me:hunter2@127.0.0.1/x", "netrc"), ("gopher://x/", "neither")):
            with self.subTest(to=to):
                self.serve(path="/moved", modes=["redirect"], to=to)
                text = self.load(self.server.url("/moved"), rc=HOST)
                self.assertIn(named, text)
                self.assertNotIn("hunter2", text)
        self.clean(images=1)

    def test_passwords_are_nobodys(self):
        url = self.serve(password="Basic bWU6aHVudGVyMg==")
        host = url.split("//")[1]
        text = self.load(f"http://me:hunter2@{host}", rc=USAGE)
        self.assertNotIn("hunter2", text)
        self.assertIn("--netrc", self.load(url, rc=HOST))
        netrc = self.put("netrc", b"machine 127.0.0.1 login me password hunter2\n")
        answer = self.w.ok("image", "import", url + "?token=geheim", "--netrc", netrc, "-o", "json")
        everything = answer.out + answer.err + "".join(self.content(os.path.join(self.w.root, f)).decode("latin-1")
                                                       for f in self.left() if f.endswith(".json"))
        for secret in ("hunter2", "geheim", "bWU6"):
            self.assertNotIn(secret, everything)

    def test_https(self):
        ca, *certificate = make_certificate(self.w.base)
        secure = Server(certificate)
        self.addCleanup(secure.close)
        secure.pages["/image.raw"] = Page(self.data)
        text = self.load(secure.url("/image.raw"), rc=HOST)
        self.assertIn("--ca", text)
        self.assertEqual(self.content(self.load(secure.url("/image.raw"), "--ca", ca)["path"]), self.data)
        # Up is fine; down is not.
        self.serve(path="/up", modes=["redirect"], to=secure.url("/image.raw"))
        self.load(self.server.url("/up"), "--ca", ca)
        secure.pages["/down"] = Page(modes=["redirect"], to=self.serve())
        self.assertIn("from https to http", self.load(secure.url("/down"), "--ca", ca, rc=HOST))
        self.clean(images=1)

    # -- ends in the middle

    def stalled(self, url, *args):
        """An import that has half of it and waits for the rest."""
        proc = self.w.spawn("image", "import", url, *args)
        half = len(self.server.pages["/image.raw"].data) // 2
        self.until(lambda: self.parts() and self.parts()[0]["size"] == half, "half of it has come")
        return proc

    def test_it_is_taken_back(self):
        url = self.serve(gzip.compress(self.data), modes=["stall", "whole"])
        proc = self.stalled(url, self.path("to"))
        proc.send_signal(signal.SIGINT)
        self.assertNotEqual(proc.wait(PATIENCE), 0)
        self.assertIn("goes on from here", self.content(proc.log).decode())
        self.assertEqual(len(self.left()), 2, self.left())
        self.assertEqual([f for f in os.listdir(self.w.base) if "to" in f and "root" not in f], [])
        self.assertEqual(self.content(self.load(url, self.path("to"))["path"]), self.data)
        self.clean(images=1)

    def test_it_is_killed(self):
        url = self.serve(gzip.compress(self.data), modes=["stall", "whole"])
        proc = self.stalled(url, self.path("to"))
        proc.kill()
        proc.wait(PATIENCE)
        self.assertEqual(self.content(self.load(url, self.path("to"))["path"]), self.data)
        self.assertEqual(self.asked("Range")[0], None)
        self.assertIsNotNone(self.asked("Range")[1])
        self.clean(images=1)
        self.assertFalse([f for f in os.listdir(self.w.base) if "qmpctl-new" in f])

    def test_progress(self):
        result = self.w.ok("image", "import", self.serve(), "-o", "json")
        lines = [json.loads(line) for line in result.err.splitlines() if line.startswith("{")]
        self.assertEqual(lines[-1], {"progress": "fetching", "unit": "B", "done": len(self.data), "total": len(self.data)})


if __name__ == "__main__":
    world.main()
