#!/bin/bash
# build.sh [OUT]: the test guests, in OUT (default build/guest): tinybios.bin, vmlinuz, initrd.img.
# Makes what is missing or older than its sources, and prints nothing where nothing was to do.
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
OUT=${1:-${QMPCTL_BUILD:-$HERE/../../build}/guest}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
# ctest -j may want it twice at once.
exec 9>"$OUT/.lock"
flock 9

if [ ! "$OUT/tinybios.bin" -nt "$HERE/tinybios.S" ]; then
	as --32 "$HERE/tinybios.S" -o "$OUT/tinybios.o"
	ld -m elf_i386 -Ttext=0 --oformat binary -e 0 "$OUT/tinybios.o" -o "$OUT/tinybios.new"
	rm "$OUT/tinybios.o"
	mv "$OUT/tinybios.new" "$OUT/tinybios.bin"
	echo "made $OUT/tinybios.bin"
fi

# The newest cloud kernel whose modules are here too.
KV=
while read -r image; do
	v=${image#/boot/vmlinuz-}
	[ ! -d "/lib/modules/$v" ] || KV=$v
done < <(find /boot -maxdepth 1 -name 'vmlinuz-*-cloud-amd64' | sort -V)
[ -n "$KV" ] || { echo "build.sh: no /boot/vmlinuz-*-cloud-amd64 with its modules: run tests/setup.sh --tests" >&2; exit 1; }

want="$KV $(cat "$HERE/mkinitrd.sh" "$(command -v busybox)" | sha256sum)"
if [ ! -e "$OUT/initrd.img" ] || [ "$want" != "$(cat "$OUT/.initrd" 2>/dev/null)" ]; then
	qga=()
	PATH=$PATH:/usr/sbin
	! command -v qemu-ga >/dev/null || qga=(--qga)
	KV=$KV "$HERE/mkinitrd.sh" "$OUT/initrd.new" "${qga[@]}"
	# A copy, not a link: the pair stays a pair when the distribution upgrades its kernel.
	cp "/boot/vmlinuz-$KV" "$OUT/vmlinuz.new"
	mv "$OUT/vmlinuz.new" "$OUT/vmlinuz"
	mv "$OUT/initrd.new" "$OUT/initrd.img"
	echo "$want" >"$OUT/.initrd"
	echo "made $OUT/vmlinuz and $OUT/initrd.img ($KV)"
fi
