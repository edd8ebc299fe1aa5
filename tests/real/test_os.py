"""The table of operating systems against osinfo-db (Debian: osinfo-db), and a host's own table."""
import glob
import os
import re
import xml.etree.ElementTree as ElementTree

import world
from world import USAGE, WorldTest

DATABASE = "/usr/share/osinfo/os"
# Of the PCI SIG's: virtio-blk and virtio-net, as legacy devices and since version 1.
LEGACY_BLOCK, BLOCK, LEGACY_NET, NET = (f"http://pcisig.com/pci/1af4/{n}" for n in ("1001", "1042", "1000", "1041"))
# Ours: kinds, and what the database does not have (yet).
OWN = {"none", "linux-virtio-0.9", "linux-old", "bsd", "bsd-old", "windows", "windows-uefi", "windows-vista", "windows-xp",
       "other", "generic", "flatcar", "linuxmint", "win2k25"}
# Of the database's what is one of these families, and a version of it that no name of ours has.
FAMILIES = re.compile(r"(almalinux|alpinelinux|archlinux|centos|centos-stream|cirros|debian|dragonflybsd|fedora|fedora-coreos|freebsd|"
                      r"gentoo|linux|mageia|manjaro|netbsd|nixos|oel|ol|openbsd|opensuse|popos|rhel|rocky|scientificlinux|silverblue|"
                      r"slackware|sle|sled|slem|sles|ubuntu|voidlinux|win)(-?[0-9].*|-[a-z].*|testing|tumbleweed|)")
OTHER_NAMES = re.compile(r"rhel-atomic.*|win[0-9]\.[0-9]|win9.|winme|dragonflybsd.*A|(debian|ubuntu)[a-z]+$")
# It tells of no devices there: Alpine 3.5 has Linux 4.4; NetBSD has virtio from 6 on, DragonFly from 3.6 on; what goes on changing.
KNOWN_BETTER = re.compile(r"alpinelinux|netbsd|dragonflybsd|slackware-current|.*-unknown")


class Database:
    """What osinfo-db says, by short id."""

    def __init__(self):
        self.by_id, self.names = {}, {}
        for path in glob.glob(f"{DATABASE}/**/*.xml", recursive=True):
            for entry in ElementTree.parse(path).getroot().iter("os"):
                self.by_id[entry.get("id")] = entry
                for short in entry.findall("short-id"):
                    self.names[short.text] = entry

    def devices(self, entry):
        found = set()
        for parent in entry.findall("derives-from") + entry.findall("clones"):
            if parent.get("id") in self.by_id:
                found |= self.devices(self.by_id[parent.get("id")])
        for device in entry.findall("devices/device"):
            (found.discard if device.get("removed") == "true" else found.add)(device.get("id"))
        return found

    @staticmethod
    def minimum(entry, what):
        """On x86_64; 0 where nothing is said."""
        return max((int(value.text) for group in entry.findall("resources") if group.get("arch") in ("x86_64", "all")
                    for value in group.findall(f"minimum/{what}")), default=0)

    @staticmethod
    def needs_uefi(entry):
        return any(f.get("arch") == "x86_64" and f.get("type") == "bios" and f.get("supported") == "false"
                   for f in entry.findall("firmware"))


def size(text):
    return int(text[:-1]) << {"M": 20, "G": 30}[text[-1]]


class Os(WorldTest):
    def listed(self, *names):
        return self.w.ok("os", "list", *names, "-o", "json").json()

    def setUp(self):
        super().setUp()
        self.assertTrue(os.path.isdir(DATABASE), "no osinfo-db: run tests/setup.sh --tests")

    def test_names_are_those_of_the_database(self):
        known = Database().names
        for name in self.listed():
            versions = re.compile(re.escape(name) + r"(-?[0-9].*|-unknown)?$")
            with self.subTest(os=name):
                self.assertTrue(name in OWN or any(versions.match(short) for short in known))

    def test_entries_fit_the_database(self):
        """Every name of the database that is of a family of ours is taken, and gets what that system can use."""
        database = Database()
        names = [name for name in database.names if FAMILIES.fullmatch(name) and not OTHER_NAMES.fullmatch(name)]
        self.assertGreater(len(names), 300)
        for name, ours in self.listed(*names).items():
            entry = database.names[name]
            devices, spec = database.devices(entry), ours.get("spec", {})
            modern = spec.get("machine", {}).get("type") != "pc"
            for kind, field, new, old in (("disks", "bus", BLOCK, LEGACY_BLOCK), ("nics", "model", NET, LEGACY_NET)):
                if ours.get(kind, {}).get(field, "virtio") == "virtio" and not KNOWN_BETTER.match(name):
                    with self.subTest(os=name, kind=kind):
                        # A q35's slots are PCI Express, and have no legacy devices.
                        self.assertTrue(new in devices or (not modern and old in devices), sorted(devices))
            with self.subTest(os=name):
                self.assertGreaterEqual(size(spec.get("memory", "512M")), database.minimum(entry, "ram"))
                self.assertGreaterEqual(spec.get("cpu", {}).get("count", 1), database.minimum(entry, "n-cpus"))
                if database.needs_uefi(entry):
                    self.assertEqual(spec["firmware"]["type"], "uefi")

    def test_versions(self):
        for name, like in (("debian4", "linux-old"), ("debian8", "linux-virtio-0.9"), ("debian12", "linux"), ("debian31.2", "linux"),
                           ("ubuntu8.10", "linux-old"), ("ubuntu24.04", "linux"), ("sles12sp1", "linux-virtio-0.9"),
                           ("sles12sp2", "linux"), ("rhel7", "linux-virtio-0.9"), ("rhel7.10", "linux"), ("rocky-unknown", "linux"),
                           ("nixos-22.05", "linux"), ("freebsd9.3", "bsd-old"), ("freebsd14.1", "bsd"), ("win8.1", "windows")):
            with self.subTest(os=name):
                self.assertEqual(self.listed(name)[name]["like"], like)
        # Another Windows is not Windows 2000.
        for name, near in (("win2k28", "win2k"), ("win12", "win"), ("linux-odl", "linux-old"), ("debina12", "debian"), ("debian-", "debian")):
            with self.subTest(os=name):
                self.assertIn(f'did you mean "{near}', self.w.expect(USAGE, "os", "list", name).err)

    def test_a_table_of_the_host(self):
        """It adds, it takes the place of what is there, and what is wrong in it is told with its line."""
        own = os.path.join(self.w.root, "etc", "os.json")
        os.makedirs(os.path.dirname(own))

        def write(*lines):
            with open(own, "w", encoding="utf-8") as f:
                f.write("\n".join(lines))

        write('{"plan": {"like": "other", "nics": {"model": "rtl8139"}, "older": {"4": "linux-old"},',
              '  "spec": {"memory": "96M"}},', ' "alpinelinux": {"like": "linux", "spec": {"memory": "64M"}}}')
        listed = self.listed("plan", "plan3", "plan-4.1", "alpinelinux3.17", "debian12")
        self.assertEqual([listed[name]["disks"]["bus"] for name in ("plan", "plan3", "plan-4.1")], ["sata", "ide", "sata"])
        self.assertEqual({listed[name]["nics"]["model"] for name in ("plan", "plan3", "plan-4.1")}, {"rtl8139"})
        self.assertEqual([listed[name]["spec"]["memory"] for name in ("alpinelinux3.17", "debian12")], ["64M", "1G"])
        for line, why in (('"dsiks": {}', "x.1.dsiks: unknown field"), ('"spec": {"memroy": "1G"}', 'did you mean "memory"'),
                          ('"spec": {"memory": "1"}', "x.1.spec.memory"), ('"spec": {"name": "a"}', "x.1.spec.name"),
                          ('"nics": {"model": 1}', "x.1.nics.model: must be a string"), ('"older": {"x": "linux"}', "x.1.older.x"),
                          ('"like": "linux",,', "line 3")):
            with self.subTest(line=line):
                write('{"a": {},', ' "x.1": {"description": "d",', f"  {line}", " }", "}")
                result = self.w.expect(USAGE, "create", "b", "--os", "x.1")
                self.assertIn(why, result.err)
                if not why.startswith("line"):
                    self.assertIn(f"{own}:3: ", result.err)
        for like, why in (("nobody", "is not there"), ("x.1", "circle")):
            write(f'{{"x.1": {{"like": "{like}"}}}}')
            self.assertIn(why, self.w.expect(USAGE, "create", "b", "--os", "x.1").err)
        write("[]")
        self.assertIn("the table: an object is wanted", self.w.expect(USAGE, "os", "list").err)
        self.w.ok("create", "c")


if __name__ == "__main__":
    world.main()
