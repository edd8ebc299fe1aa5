#!/bin/bash
# quickstart.sh: installs what is missing, builds qmpctl, and takes a real Linux guest through its whole life, each
# command echoed. Everything happens in a private folder that is removed at the end. About a minute.
set -euo pipefail

TOP=$(cd "$(dirname "$0")/.." && pwd)
BUILD=${QMPCTL_BUILD:-$TOP/build}
GUEST=$BUILD/guest
ROOT=$(mktemp -d "${TMPDIR:-/tmp}/qmpctl-quickstart.XXXXXX")

finish() {
	local status=$? pid
	trap - EXIT
	if [ "$status" != 0 ]; then
		echo
		echo "FAILED. What the guest and qmpctl wrote:"
		find "$ROOT" -name '*log*' -type f -size +0 -exec tail -v -n 20 {} + 2>/dev/null || :
	fi
	if [ -n "${QMPCTL-}" ] && [ -x "$QMPCTL" ]; then
		"$QMPCTL" --root "$ROOT" kill demo >/dev/null 2>&1 || :
	fi
	# Whatever of this run is left, known by the folder's name that it carries.
	for pid in $(grep -slzxF "QMPCTL_QUICKSTART=$ROOT" /proc/[0-9]*/environ | tr -dc '0-9\n'); do
		kill -9 "$pid" 2>/dev/null || :
	done
	rm -rf "$ROOT"
	exit "$status"
}

bold=; plain=
if [ -t 1 ]; then bold=$'\e[1m'; plain=$'\e[0m'; fi
title() { echo; echo "$bold== $*$plain"; }
# Runs qmpctl with its arguments, echoed as one would type them, and shows what it prints.
q() {
	local word line=
	for word in "$@"; do
		case $word in *[!A-Za-z0-9_./=,:-]*) line+=" '$word'" ;; *) line+=" $word" ;; esac
	done
	echo "$bold\$ qmpctl$line$plain"
	"$QMPCTL" --root "$ROOT" "$@" | tee "$ROOT/last"
}
# What the last q printed must say (or must not say) so.
says() { grep -qE -e "$1" "$ROOT/last" || { echo "expected in the output: $1"; exit 1; }; }
says_not() { ! grep -qE -e "$1" "$ROOT/last" || { echo "not expected in the output: $1"; exit 1; }; }

title "What is needed"
"$TOP/tests/setup.sh" --tests

title "Building"
(cd "$TOP" && cmake --preset release -B "$BUILD/release" >/dev/null && cmake --build "$BUILD/release" -- --quiet)
"$TOP/tests/guest/build.sh" "$GUEST"
QMPCTL=$BUILD/release/qmpctl/qmpctl
export QMPCTL_QUICKSTART=$ROOT
trap finish EXIT
trap 'exit 130' INT TERM
echo "$QMPCTL: $("$QMPCTL" --version)"

title "A VM with a disk and a network card (in $ROOT)"
# TCG: a Linux guest comes up under it everywhere, also where KVM is a nested one.
q create demo --memory 256M --accel tcg --kernel "$GUEST/vmlinuz" --initrd "$GUEST/initrd.img" \
	--cmdline 'console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off nokaslr no_timer_check test.qga' \
	--disk size=1G,format=qcow2 --nic user
q start demo
q wait demo --for console=GUEST-READY --timeout 120
q status demo
says running

title "A disk and a network card more, while it runs"
q disk add demo size=64M
q wait demo --for 'console=UEVENT add block' --timeout 30
q nic add demo user
q wait demo --for 'console=UEVENT add net' --timeout 30
q disk list demo
says vda
says vdb
q nic list demo
says net0
says net1

title "And gone again, when the guest has let go of them"
q disk remove demo vdb
q wait demo --for 'console=UEVENT remove block' --timeout 30
q nic remove demo net1
q wait demo --for 'console=UEVENT remove net' --timeout 30
q disk list demo
says_not vdb
q nic list demo
says_not net1

title "Off by its power button, which the guest hears"
q qmp demo system_powerdown
q wait demo --for stopped --timeout 60
q status demo
says guest-shutdown
q logs demo
says GUEST-READY
says 'UEVENT add block'
says 'UEVENT remove net'
says GUEST-OFF

title "Again, with the guest agent, which runs inside, and powers off"
q start demo
q wait demo --for agent --timeout 120
q agent demo guest-get-vcpus
says logical-id
q stop demo
says 'guest agent'
q status demo
says stopped
q delete demo

echo
echo "All of it worked."
