#!/bin/bash
# A lower folder never includes a higher one, and only qmpctl/ prints. Usage: check-layers.sh SOURCE_DIR
set -u
cd "$1" || exit 2
bad=0
forbid() { # FOLDER PATTERN WHAT
	local found
	found=$(grep -nE "$2" "$1"/*.[ch] 2>/dev/null)
	[ -z "$found" ] || { echo "$1/: $3:"; echo "$found"; bad=1; }
}
[ -f proto/qmp.h ] && [ -f launcher/vm.h ] && [ -f images/header.h ] || { echo "the folders are not where they were"; exit 2; }
forbid proto '#include "(launcher|images|qmpctl)/' 'includes a higher folder'
forbid launcher '#include "(images|qmpctl)/' 'includes a higher folder'
forbid images '#include "qmpctl/' 'includes a higher folder'
for folder in proto launcher images; do
	forbid "$folder" '(^|[^a-z_])(printf|puts|putchar|perror) *\(|fprintf *\( *(stderr|stdout)' 'prints'
done
exit $bad
