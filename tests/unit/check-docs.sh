#!/bin/bash
# Every test is named in docs/testing.md, and every module in the table of docs/architecture.md. Usage: check-docs.sh SOURCE_DIR
set -u
cd "$1" || exit 2
bad=0
missing() { echo "$1 does not name $2"; bad=1; }
names() { # PATTERN: the part that * stands for
	local file
	for file in $1; do
		[ -f "$file" ] || { echo "no $1 here" >&2; exit 2; }
		file=${file##*/}
		file=${file%.*}
		echo "${file#test_}"
	done
}
tests=docs/testing.md
for name in $(names 'tests/unit/test_*.c'); do grep -q "\`unit-$name\`" $tests || missing $tests "unit-$name"; done
for name in $(names 'tests/real/test_*.py'); do grep -q "\`test_$name.py\`" $tests || missing $tests "test_$name.py"; done
for name in $(names 'tests/debian/test_*.py'); do grep -q "\`test_$name.py\`" $tests || missing $tests "test_$name.py"; done
for name in $(names 'tests/chaos/test_*.py'); do grep -q "\`chaos-${name//_/-}\`" $tests || missing $tests "chaos-$name"; done
for name in $(names 'tests/fuzz/fuzz_*.c'); do grep -q "\`${name#fuzz_}\`" $tests || missing $tests "the harness ${name#fuzz_}"; done
modules=docs/architecture.md
for folder in launcher images qmpctl; do
	mapfile -t rows < <(sed -nE "s#^\| ($folder/[^|]*) \|.*#\1#p" $modules | sed "s#$folder/##g; s/, /\n/g")
	for name in $(names "$folder/*.c"); do
		known=
		for row in "${rows[@]}"; do
			case $name in $row) known=1 ;; esac # a row may end with *
		done
		[ "$known" ] || [ "$name" = main ] || missing $modules "$folder/$name"
	done
done
exit $bad
