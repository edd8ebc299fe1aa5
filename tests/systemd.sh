#!/bin/bash
# systemd.sh [PART...]: what takes a whole Debian that has systemd, device-mapper, md and servers in its kernel, in a guest that it
# makes. The parts are the files of tests/inside; without any named, all but zfs, whose modules take minutes to build.
#
# The guest is tests/guest/debian.sh's. It is booted once, under TCG (a Linux guest does not come up under every nested KVM),
# and saved with its memory, where a root shell waits on its serial port; each run goes on from there, with the release build
# on a disk that it gets plugged. A line is printed for each check. The guest is given up when it makes no progress any more, or
# after two hours. QMPCTL_BUILD names another folder than build/.
set -euo pipefail

cd "$(dirname "$0")/.."
BUILD=${QMPCTL_BUILD:-$PWD/build}
STUCK=300
LONGEST=7200
WORK=$BUILD/systemd
PAYLOAD=$WORK/payload
PARTS=("$@")
[ $# -gt 0 ] || PARTS=(pools lvm nfs units)

[ "$(id -u)" = 0 ] || { echo "systemd.sh: making the guest's file system takes root" >&2; exit 1; }
has() { case " ${PARTS[*]} " in *" $1 "*) ;; *) return 1 ;; esac; }

# ---- The guest: its serial port and QEMU's monitor are pipes ----

guest_start() { # IMAGE [OPTION...]: sets GUEST; what it says comes on fd 3, what it is told goes to fd 4, and to the monitor fd 5
	local image=$1 pipe
	shift
	for pipe in serial.in serial.out monitor; do
		rm -f "$WORK/$pipe"
		mkfifo "$WORK/$pipe"
	done
	qemu-system-x86_64 -accel tcg -smp 2 -cpu max -m 1536 -display none -nodefaults -no-reboot \
		-kernel "$BUILD/debian/vmlinuz" -initrd "$BUILD/debian/initrd.img" -append "$CMDLINE" \
		-drive "file=$image,format=qcow2,if=none,id=root,cache=unsafe" -device virtio-blk-pci,drive=root \
		-serial "pipe:$WORK/serial" -monitor stdio "$@" <>"$WORK/monitor" >"$WORK/monitor.txt" &
	GUEST=$!
	trap 'kill "$GUEST" 2>/dev/null || :' EXIT
	# Open for both, so that none of them waits for a QEMU that may not come up.
	exec 3<>"$WORK/serial.out" 4<>"$WORK/serial.in" 5<>"$WORK/monitor"
}

guest_end() {
	exec 3<&- 4>&- 5>&-
	wait "$GUEST" || :
	trap - EXIT
}

guest_worked() { # how many times five seconds of a processor it has had; fails when it has ended
	awk -v hz="$(getconf CLK_TCK)" '{sub(/.*\) /, ""); print int(($12 + $13) / hz / 5); exit $1 == "Z"}' "/proc/$GUEST/stat" 2>/dev/null
}

# Copies what the guest says to the file LOG, until a line has UNTIL in it (0), or it ends, is stuck, or has not ended after LONGEST
# (1): each line, and five seconds of a processor, give it time for the next.
guest_says() { # LOG UNTIL
	local line part= worked= now since=$SECONDS
	while [ $((SECONDS - since)) -lt "$STUCK" ] && [ "$SECONDS" -lt "$LONGEST" ]; do
		if ! IFS= read -r -t 2 -u 3 line; then
			part+=$line
			now=$(guest_worked) || return 1
			[ "$now" = "$worked" ] || { worked=$now since=$SECONDS; }
			continue
		fi
		line=${part}${line%$'\r'} part= since=$SECONDS
		printf '%s\n' "$line" >>"$1"
		case $line in
		*"$2"*) return 0 ;;
		"OK: "* | "FAILED: "* | "== "*) printf '%4d s  %s\n' "$SECONDS" "$line" ;;
		esac
	done
	echo "systemd.sh: the guest makes no progress for $STUCK s, or has not ended within $LONGEST s; it is ended" >&2
	kill "$GUEST"
	return 1
}

CMDLINE='root=/dev/vda rw console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off nokaslr no_timer_check'
# Nobody here needs these, and they take their time.
CMDLINE+=' cloud-init=disabled systemd.mask=ssh.service systemd.mask=systemd-binfmt.service systemd.mask=systemd-pstore.service'
CMDLINE+=' systemd.mask=systemd-logind.service'
# The last ones: where many others want the processors, nothing of it is late.
CMDLINE+=' systemd.default_timeout_start_sec=1800 udev.event_timeout=1800'

guest_hears() { # UNTIL, while it boots
	guest_says "$WORK/boot.txt" "$1" || { echo "systemd.sh: it does not boot; see $WORK/boot.txt" >&2; exit 1; }
}

boot_once() {
	local want asking
	want=$({ cat "$BUILD/debian/.made" && declare -f guest_start boot_once && echo "$CMDLINE" && qemu-system-x86_64 --version; } | sha256sum)
	[ "$want" != "$(cat "$BUILD/booted.made" 2>/dev/null)" ] || return 0
	echo "systemd.sh: booting the guest once" >&2
	rm -f "$BUILD/booted.made" "$WORK/boot.txt"
	qemu-img create -q -f qcow2 -F raw -b "$BUILD/debian/disk.img" "$BUILD/booted.qcow2"
	guest_start "$BUILD/booted.qcow2"
	guest_hears "automatic login"
	# A shell that is just coming throws away what was typed before.
	while kill -0 "$GUEST" 2>/dev/null; do
		echo "PS1=; stty -echo; printf 'SHELL-%s\\n' HERE" >&4
		sleep 10
	done &
	asking=$!
	guest_hears SHELL-HERE
	kill "$asking"
	echo "systemctl is-system-running --wait; sync; printf 'SHELL-%s\\n' READY" >&4
	guest_hears SHELL-READY
	echo "savevm booted" >&5
	echo quit >&5
	guest_end
	qemu-img snapshot -l "$BUILD/booted.qcow2" | grep -q booted
	echo "$want" >"$BUILD/booted.made"
	echo "systemd.sh: booted in $SECONDS s" >&2
}

plug() { # NAME FILE: a disk with this serial number
	echo "drive_add 0 file=$2,format=raw,if=none,id=$1,cache=unsafe" >&5
	echo "device_add virtio-blk-pci,drive=$1,serial=$1,id=disk-$1" >&5
}

# ---- What it is to run ----

tests/setup.sh --debian
tests/guest/build.sh "$BUILD/guest"
tests/guest/debian.sh "$BUILD/debian"
cmake --preset release -B "$BUILD/release" >/dev/null
cmake --build "$BUILD/release" -- --quiet

rm -rf "$WORK"
mkdir -p "$PAYLOAD/root"
packages=() disks=() want=0
for part in "${PARTS[@]}"; do
	file=$(ls "tests/inside/$part".{sh,py} 2>/dev/null) || :
	[ -n "$file" ] || { echo "systemd.sh: no part is called $part" >&2; exit 2; }
	cp "$file" "$PAYLOAD/"
	[ -z "$(sed -n 's/^# Packages: *//p' "$file")" ] || packages=($(sed -n 's/^# Packages://p' tests/inside/*.sh tests/inside/*.py))
	disks+=($(sed -n 's/^# Disks://p' "$file"))
	case $file in
	*.sh) n=$(grep -cE "^\s*(check|refused) " "$file") || : ;;
	*.py) n=$(PYTHONPATH=tests/real python3 -B "$file" --count) ;;
	esac
	want=$((want + n))
done
cp tests/real/{world,guest,qmp,volumes}.py tests/inside/parts.py "$PAYLOAD/"
if [ ${#packages[@]} -gt 0 ]; then
	tests/guest/extra.sh "$BUILD/debian" "$BUILD/extra" "${packages[@]}"
	cp -a "$BUILD/extra/root/." "$PAYLOAD/root/"
fi
if has zfs; then
	tests/guest/zfs.sh "$BUILD/debian" "$BUILD/zfs"
	cp -a "$BUILD/zfs/root/." "$PAYLOAD/root/"
fi
DESTDIR=$PAYLOAD/root cmake --install "$BUILD/release" --prefix /usr >/dev/null
cp "$BUILD/guest/tinybios.bin" tests/inside/run "$PAYLOAD/"
echo "${PARTS[@]}" >"$PAYLOAD/parts"
echo "${QMPCTL_ONLY:-}" >"$PAYLOAD/only"
cat >"$PAYLOAD/vm.json" <<'EOS'
{"name": "vm", "memory": "16M", "accel": "tcg", "agent": false, "balloon": false, "rng": false, "consoles": [],
 "firmware": {"type": "bios", "path": "/payload/tinybios.bin"}, "args": []}
EOS
truncate -s 512M "$WORK/payload.img"
mkfs.ext4 -q -d "$PAYLOAD" "$WORK/payload.img"

# ---- A run ----

SECONDS=0
boot_once
SECONDS=0
cp --sparse=always "$BUILD/booted.qcow2" "$WORK/disk.qcow2"
guest_start "$WORK/disk.qcow2" -loadvm booted
for size in "${disks[@]}"; do
	name=${size%:*}
	truncate -s "${size#*:}" "$WORK/$name.img"
	plug "$name" "$WORK/$name.img"
done
plug payload "$WORK/payload.img"
echo "p=/dev/disk/by-id/virtio-payload; until [ -e \$p ]; do sleep 0.2; done; mkdir -p /payload; mount \$p /payload; date -s @$(date +%s); /payload/run; systemctl poweroff" >&4
guest_says "$WORK/serial.txt" "(never)" || :
guest_end

if has units; then
	# This one is told by the guest's guest alone: its serial port, on the disk of a host that is off.
	want=$((want + 1))
	qemu-img convert -O raw "$WORK/disk.qcow2" "$WORK/disk.img"
	if [ "$(debugfs -R 'cat /var/tmp/serial.log' "$WORK/disk.img" 2>/dev/null | grep -c BYE)" = 2 ]; then
		echo "OK: the guest was powered off when the host went down"
	else
		echo "FAILED: the guest was not powered off when the host went down"
	fi | tee -a "$WORK/serial.txt"
	rm "$WORK/disk.img"
fi
ok=$(grep -ac '^OK: ' "$WORK/serial.txt") || :
if [ "$ok" != "$want" ] || grep -aq '^FAILED: ' "$WORK/serial.txt"; then
	echo "systemd.sh: $ok of $want; all that it said is in $WORK/serial.txt" >&2
	exit 1
fi
echo "systemd.sh: $ok of $want, in $SECONDS s"
