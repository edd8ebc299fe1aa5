#!/bin/bash
# zfs.sh DEBIAN OUT: the modules of ZFS for the kernel of the Debian that tests/guest/debian.sh has made in DEBIAN, in
# OUT/root/usr/lib/modules. Debian has ZFS as source only, and in contrib; it is built here, outside of that Debian, with this machine's
# compiler, in minutes. Nothing is installed. Made once, and again when this file or that Debian changes; takes network.
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
DEBIAN=$1
OUT=$2

mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
exec 9>"$OUT/.lock"
flock 9
want=$(cat "$HERE/zfs.sh" "$DEBIAN/.made" | sha256sum)
[ "$want" != "$(cat "$OUT/.made" 2>/dev/null)" ] || exit 0
rm -rf "$OUT/root" "$OUT/.made"

kernel=$(debugfs -R "ls -p /usr/lib/modules" "$DEBIAN/disk.img" 2>/dev/null | cut -d / -f 6 | grep cloud)
common=${kernel%-cloud-*}-common kbuild=${kernel%%-*}
"$HERE/extra.sh" "$DEBIAN" "$OUT/build" --only "linux-headers-$kernel" "linux-headers-$common" "linux-kbuild-${kbuild%.*}" zfs-dkms
echo "zfs.sh: building ZFS for $kernel; minutes" >&2
headers=$OUT/build/root/usr/src/linux-headers-$kernel
# They name each other where they are once they are installed.
sed -i "s|^include /usr/src/|include $OUT/build/root/usr/src/|" "$headers/Makefile"
(
	cd "$OUT"/build/root/usr/src/zfs-*
	./configure --with-config=kernel --with-linux="$OUT/build/root/usr/src/linux-headers-$common" --with-linux-obj="$headers"
	make -j2
	mkdir -p "$OUT/root/usr/lib/modules/$kernel/extra"
	find module -name '*.ko' -exec cp {} "$OUT/root/usr/lib/modules/$kernel/extra/" \;
	strip --strip-debug "$OUT/root/usr/lib/modules/$kernel/extra"/*.ko
) >"$OUT/build.log" 2>&1 || { tail -n 20 "$OUT/build.log" >&2; exit 1; }
rm -rf "$OUT/build"
echo "$want" >"$OUT/.made"
