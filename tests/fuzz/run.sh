#!/bin/bash
# run.sh [SECONDS] [NAME...]: runs the fuzz harnesses one after the other, each for SECONDS (default 3600), and prints what
# each has done. NAME: json, spec, ... as in fuzz_NAME.c; default: all.
#
# What is found interesting is kept in build/fuzz/tests/fuzz/corpus/NAME and the next run goes on from there; an input that
# fails is written to build/fuzz/tests/fuzz/found/NAME. RUNS=N ends each after N executions, too. QMPCTL_BUILD names another
# folder than build/. The exit status is 1 where one has failed.
set -euo pipefail

cd "$(dirname "$0")/../.."
BUILD=${QMPCTL_BUILD:-$PWD/build}/fuzz
SECONDS_EACH=${1:-3600}
shift || :
case $SECONDS_EACH in *[!0-9]*) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;; esac

cmake --preset fuzz -B "$BUILD" -DQMPCTL_WERROR=ON >/dev/null
cmake --build "$BUILD" -- --quiet fuzz
cd "$BUILD/tests/fuzz"
python3 -B "$OLDPWD/tests/fuzz/seed.py" seeds

# Short stacks of allocations, a small quarantine, and of what is allocated the beginning alone is filled: three times the
# executions, and still enough to see a use after free. Inputs that take long are drawn less often than others: twice as many.
export ASAN_OPTIONS=${ASAN_OPTIONS:-malloc_context_size=4:quarantine_size_mb=8:max_malloc_fill_size=64:allocator_release_to_os_interval_ms=-1}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}

[ $# -gt 0 ] || set -- $(printf '%s\n' fuzz_* | sed 's/^fuzz_//')
failed=0
printf '%-10s %12s %8s %10s %8s  %s\n' harness executions seconds per-second corpus outcome
for name; do
	mkdir -p "corpus/$name" "found/$name"
	old=$OLDPWD/tests/fuzz/regressions/$name
	[ -d "$old" ] || old=
	start=$(date +%s) outcome=clean
	"./fuzz_$name" -max_total_time="$SECONDS_EACH" -runs="${RUNS:--1}" -max_len=8192 -timeout=10 -rss_limit_mb=2048 \
		-entropic_scale_per_exec_time=1 \
		-dict=seeds/words.dict -print_final_stats=1 -artifact_prefix="found/$name/" \
		"corpus/$name" "seeds/$name" $old >"$name.log" 2>&1 || { outcome="FAILED: see $PWD/$name.log"; failed=1; }
	took=$(($(date +%s) - start))
	n=$(sed -n 's/^stat::number_of_executed_units: *//p' "$name.log")
	printf '%-10s %12s %8s %10s %8s  %s\n' "$name" "${n:-?}" "$took" "$((${n:-0} / (took ? took : 1)))" \
		"$(find "corpus/$name" -type f | wc -l)" "$outcome"
done
exit $failed
