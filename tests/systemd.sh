#!/bin/bash
# systemd.sh: what takes a whole Debian that has systemd, device-mapper and md, in one guest that it makes: the unit
# qmpctl@.service under a real systemd, and pools of LVM and of md arrays (tests/guest/pools.sh).
#
# The guest is tests/guest/debian.sh's, made once; each run brings the release build in and boots it under TCG: about five
# minutes, where nobody else wants the processors. It goes through what docs/units/qmpctl@.service.in promises, and prints a line
# for each. QMPCTL_BUILD names another folder than build/.
set -euo pipefail

cd "$(dirname "$0")/.."
BUILD=${QMPCTL_BUILD:-$PWD/build}
WANT=$((13 + $(grep -cE "^(check|refused) " tests/guest/pools.sh)))
WORK=$BUILD/systemd
PAYLOAD=$WORK/payload
STUCK=300
LONGEST=7200

[ "$(id -u)" = 0 ] || { echo "systemd.sh: making the guest's file system takes root" >&2; exit 1; }
tests/setup.sh --debian
tests/guest/build.sh "$BUILD/guest"
tests/guest/debian.sh "$BUILD/debian"
cmake --preset release -B "$BUILD/release" >/dev/null
cmake --build "$BUILD/release" -- --quiet

rm -rf "$WORK"
mkdir -p "$PAYLOAD"
DESTDIR=$PAYLOAD/root cmake --install "$BUILD/release" --prefix /usr >/dev/null
cp "$BUILD/guest/tinybios.bin" "$PAYLOAD/"
cat >"$PAYLOAD/a.json" <<'EOF'
{"name": "a", "memory": "16M", "accel": "tcg", "agent": false, "balloon": false, "rng": false, "consoles": [],
 "firmware": {"type": "bios", "path": "/payload/tinybios.bin"},
 "args": ["-chardev", "file,id=s,path=/var/tmp/serial.log,append=on", "-device", "isa-serial,chardev=s,iobase=0x3f8,irq=4"]}
EOF
# What runs in the guest, once it has booted. OK and FAILED lines are counted below.
cat >"$PAYLOAD/run" <<'EOF'
#!/bin/bash
cp -a /payload/root/. /
systemctl daemon-reload
check() { # WHAT EXPECTED CAME
	[ "$2" = "$3" ] && echo "OK: $1" || echo "FAILED: $1: expected \"$2\", came \"$3\""
}
active() { systemctl is-active qmpctl@a; }
keeper() { systemctl show -p MainPID --value qmpctl@a; }
qemu() { for p in /proc/[0-9]*; do case $(readlink "$p/exe") in */qemu-system-*) echo "${p#/proc/}" ;; esac; done; }
said() { for i in $(seq 3000); do [ "$(grep -c "$1" /var/tmp/serial.log)" = "$2" ] && break; sleep 0.2; done; grep -c "$1" /var/tmp/serial.log; }

rm -f /etc/qmpctl/vms/a.json /var/tmp/serial.log
qmpctl create a --spec /payload/a.json
systemctl start qmpctl@a
check "start returns when the VM is up" "0 active" "$? $(active)"
first=$(qemu)
check "the guest runs" 1 "$(said TINY-READY 1)"
systemctl restart qmpctl@a
check "restart takes the running VM over" "active $first" "$(active) $(qemu)"
old=$(keeper)
kill -9 "$old"
for i in $(seq 3000); do
	[ "$(active)" = active ] && [ "$(keeper)" != "$old" ] && break
	sleep 0.2
done
check "a keeper that was killed comes back to the same VM" "active $first" "$(active) $(qemu)"
systemctl stop qmpctl@a
check "stop leaves the guest running" "inactive $first" "$(active) $(qemu)"
systemctl start qmpctl@a
check "start takes it over" "active $first" "$(active) $(qemu)"
check "all that time the guest did not notice" 1 "$(said TINY-READY 1)"
qmpctl stop a
for i in $(seq 3000); do [ "$(active)" = inactive ] && break; sleep 0.2; done
check "qmpctl stop ends the service well" "inactive success " "$(active) $(systemctl show -p Result --value qmpctl@a) $(qemu)"
check "by the power button" 1 "$(said BYE 1)"
qmpctl disk add a size=4M
qmpctl set a limits.cpu=100 limits.memory=512M limits.pids=200 limits.io.bps-write=1000000
systemctl start qmpctl@a
check "it starts again" "active 2" "$(active) $(said TINY-READY 2)"
group=$(find /sys/fs/cgroup -name 'qmpctl-a-*')
check "in a control group of its own" "$(qemu)" "$(cat "$group/cgroup.procs")"
check "which holds it to its limits" "100000 100000 536870912 200 $(cat /sys/block/vda/dev) rbps=max wbps=1000000 riops=max wiops=max" \
	"$(cd "$group" && cat cpu.max memory.max pids.max io.max | tr '\n' ' ' | sed 's/ $//')"
. /payload/pools.sh
EOF
chmod +x "$PAYLOAD/run"
cp tests/guest/pools.sh "$PAYLOAD/"
more=()
for size in lvm:512M md0:64M md1:64M; do
	name=${size%:*}
	truncate -s "${size#*:}" "$WORK/$name.img"
	more+=(-drive "file=$WORK/$name.img,format=raw,if=none,id=$name" -device "virtio-blk-pci,drive=$name,serial=$name")
done

# The last ones: where many others want the processors, nothing of it is late.
CMDLINE='root=/dev/vda rw console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off nokaslr no_timer_check'
CMDLINE+=' systemd.default_timeout_start_sec=1800 udev.event_timeout=1800'

progress() { # what grows while the guest works: what it has said, and its time of a processor, in pieces of five seconds
	stat -c %s "$WORK/serial.txt"
	awk -v hz="$(getconf CLK_TCK)" '{sub(/.*\) /, ""); print int(($12 + $13) / hz / 5)}' "/proc/$GUEST/stat" 2>/dev/null || :
}

shown=0
show() { # the checks that have come since the last time
	local lines
	lines=$(tr -d '\r' <"$WORK/serial.txt" | grep -aE '^(OK|FAILED): ') || return 0
	tail -n "+$((shown + 1))" <<<"$lines" | sed "s/^/$(printf '%4d s  ' "$SECONDS")/"
	shown=$(wc -l <<<"$lines")
}

# Until it has ended. It is ended when it makes no progress for STUCK seconds, or has not ended after LONGEST.
watch_guest() {
	local before= now since=$SECONDS
	while kill -0 "$GUEST" 2>/dev/null; do
		now=$(progress)
		[ "$now" = "$before" ] || { before=$now since=$SECONDS; }
		if [ $((SECONDS - since)) -ge "$STUCK" ]; then
			echo "systemd.sh: the guest makes no progress for $STUCK s; it is ended" >&2
			kill "$GUEST"
			break
		fi
		if [ "$SECONDS" -ge "$LONGEST" ]; then
			echo "systemd.sh: the guest has not ended within $LONGEST s; it is ended" >&2
			kill "$GUEST"
			break
		fi
		show
		sleep 1
	done
	wait "$GUEST" || :
	show
}

truncate -s 64M "$WORK/payload.img"
mkfs.ext4 -q -L payload -d "$PAYLOAD" "$WORK/payload.img"
qemu-img create -q -f qcow2 -F raw -b "$BUILD/debian/disk.img" "$WORK/disk.qcow2"
: >"$WORK/serial.txt"
qemu-system-x86_64 -accel tcg -smp 2 -cpu max -m 1024 -display none -nodefaults -no-reboot \
	-kernel "$BUILD/debian/vmlinuz" -initrd "$BUILD/debian/initrd.img" \
	-append "$CMDLINE" \
	-drive "file=$WORK/disk.qcow2,format=qcow2,if=none,id=root" -device virtio-blk-pci,drive=root \
	-drive "file=$WORK/payload.img,format=raw,if=virtio" "${more[@]}" \
	-serial "file:$WORK/serial.txt" &
GUEST=$!
trap 'kill "$GUEST" 2>/dev/null || :' EXIT
watch_guest
trap - EXIT

# The last one is told by the guest's guest alone: its serial port, on the disk of a host that is off.
qemu-img convert -O raw "$WORK/disk.qcow2" "$WORK/disk.img"
if [ "$(debugfs -R 'cat /var/tmp/serial.log' "$WORK/disk.img" 2>/dev/null | grep -c BYE)" = 2 ]; then
	echo "OK: the guest was powered off when the host went down" | tee -a "$WORK/serial.txt"
else
	echo "FAILED: the guest was not powered off when the host went down" | tee -a "$WORK/serial.txt"
fi
ok=$(grep -ac '^OK: ' "$WORK/serial.txt") || :
if [ "$ok" != "$WANT" ] || grep -aq '^FAILED: ' "$WORK/serial.txt"; then
	echo "systemd.sh: $ok of $WANT; all that it said is in $WORK/serial.txt" >&2
	exit 1
fi
