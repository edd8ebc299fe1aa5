#!/bin/bash
# run.sh: all the tests. QUICK=1: only the fast ones, which need no QEMU.
#
# Two builds, warnings being errors: the release one is tested whole, with the installed QEMU and, where
# tests/setup.sh --qemu10 has put it or can, with QEMU 10; the one with AddressSanitizer and UBSan runs the fast
# tests and the short real ones, and each fuzz harness runs for some seconds. JOBS: how many at once; by default one more than
# there are processors, since many of them wait.
set -euo pipefail

cd "$(dirname "$0")/.."
BUILD=${QMPCTL_BUILD:-$PWD/build}
JOBS=${JOBS:-$(($(nproc) + 1))}
QUICK=${QUICK-}

tests/setup.sh --tests
qemu10=
debian=
if [ -z "$QUICK" ]; then
	tests/setup.sh --debian
	# Mostly of waiting for the network: beside the builds. Where it fails, the tests that need it say so.
	tests/guest/debian.sh "$BUILD/debian" &
	debian=$!
	tests/guest/build.sh "$BUILD/guest"
	tests/setup.sh --secure-boot || echo "run.sh: no signed boot loaders to be had here: the test of Secure Boot will fail" >&2
	qemu10=$(tests/setup.sh --qemu10) || { qemu10=; echo "run.sh: no QEMU 10 to be had here: its tests are left out" >&2; }
fi

for preset in release asan; do
	cmake --preset "$preset" -B "$BUILD/$preset" -DQMPCTL_WERROR=ON -DQMPCTL_QEMU10="$qemu10" \
		-DQMPCTL_GUEST_DIR="$BUILD/guest" -DQMPCTL_DEBIAN_DIR="$BUILD/debian" >/dev/null
	cmake --build "$BUILD/$preset" -- --quiet
done

[ -z "$debian" ] || wait "$debian" || :

only=()
asan=(-L '^(fast|quick)$')
if [ -n "$QUICK" ]; then
	only=(-L '^fast$')
	asan=("${only[@]}")
fi
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
# The first ctest that fails ends it, so that the closing line, which is the last one printed, tells the outcome.
if [ -z "$QUICK" ]; then
	cmake --preset fuzz -B "$BUILD/fuzz" -DQMPCTL_WERROR=ON >/dev/null
	cmake --build "$BUILD/fuzz" -- --quiet fuzz
	ctest --test-dir "$BUILD/fuzz" -j"$JOBS" --output-on-failure --no-tests=error -L '^fuzz$'
fi
ctest --test-dir "$BUILD/asan" -j"$JOBS" --output-on-failure --no-tests=error "${asan[@]}"
ctest --test-dir "$BUILD/release" -j"$JOBS" --output-on-failure --no-tests=error "${only[@]}"
