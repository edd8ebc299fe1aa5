#!/bin/bash
# extra.sh DEBIAN OUT [--only] PACKAGE...: what the Debian that tests/guest/debian.sh has made in DEBIAN lacks to have these packages, in
# OUT/root: unpacked alone, to be copied over its root; --only: without what they depend on. No maintainer script runs. Made once, and
# again when this file, that Debian or the list changes; takes network. contrib is asked, too, by lists of its own: the
# machine's configuration stays.
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
DEBIAN=$1
OUT=$2
shift 2

mkdir -p "$OUT"/{lists,cache/archives/partial,sources}
OUT=$(cd "$OUT" && pwd)
exec 9>"$OUT/.lock"
flock 9
want="$(cat "$HERE/extra.sh" "$DEBIAN/.made" | sha256sum) $*"
[ "$want" != "$(cat "$OUT/.made" 2>/dev/null)" ] || exit 0

echo "extra.sh: fetching $*" >&2
rm -rf "$OUT/root" "$OUT/.made" "$OUT"/cache/archives/*.deb
key=/usr/share/keyrings/debian-archive-keyring.gpg
cat >"$OUT/sources/debian.list" <<EOS
deb [signed-by=$key] http://deb.debian.org/debian bookworm main contrib
deb [signed-by=$key] http://deb.debian.org/debian-security bookworm-security main contrib
EOS
# Apt resolves against what that Debian has.
debugfs -R "dump /var/lib/dpkg/status $OUT/status" "$DEBIAN/disk.img" 2>/dev/null
apt=(apt-get -qq -y -o "Dir::Etc::SourceList=/dev/null" -o "Dir::Etc::SourceParts=$OUT/sources" -o "Dir::State::Lists=$OUT/lists"
	-o "Dir::State::Status=$OUT/status" -o "Dir::Cache=$OUT/cache" -o APT::Sandbox::User=root)
"${apt[@]}" update
if [ "$1" = --only ]; then
	shift
	(cd "$OUT/cache/archives" && "${apt[@]}" download "$@" >/dev/null)
else
	"${apt[@]}" --no-install-recommends --download-only install "$@" >/dev/null
fi
mkdir "$OUT/root"
for package in "$OUT"/cache/archives/*.deb; do
	dpkg -x "$package" "$OUT/root"
done
# There these are links into /usr.
for folder in bin sbin lib; do
	[ ! -d "$OUT/root/$folder" ] || { mkdir -p "$OUT/root/usr"; cp -a "$OUT/root/$folder" "$OUT/root/usr/"; rm -rf "${OUT:?}/root/$folder"; }
done
rm -rf "$OUT"/root/usr/share/{doc,man,locale,bug,lintian} "$OUT"/cache/archives/*.deb
echo "$want" >"$OUT/.made"
