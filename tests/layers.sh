#!/bin/bash
# Checks the rules of DESIGN.md, "Layers": includes point downwards and cross a folder through public headers only.
#
#	tests/layers.sh [ROOT]
#
# Prints each violation as FILE:LINE: WHAT; exits 1 when there are any.
set -euo pipefail

limit=600

# What a folder may include from the others; its own headers always.
may_include()
{
	case $1 in
	base) ;;
	wal) echo 'base/*.h' ;;
	txn) echo 'base/*.h wal/wal.h' ;;
	fusefs) echo 'base/*.h wal/wal.h txn/txn.h txn/store.h' ;;
	tools/lib) echo 'base/base.h' ;; # of which it uses what is inline: it is linked without the layers
	tools) echo 'base/*.h wal/wal.h txn/txn.h txn/store.h fusefs/fusefs.h' ;;
	esac
}

# One file's violations.
check_file()
{
	local folder=$1 file=$2 number path pattern ok lines

	while IFS=: read -r number path; do
		ok=
		for pattern in "$folder/*.h" $(may_include "$folder"); do
			# shellcheck disable=SC2053 # a pattern is meant
			[[ $path == $pattern && $path != *..* ]] && ok=1
		done
		[ -n "$ok" ] || echo "$file:$number: $folder/ must not include \"$path\""
	done < <(sed -nE '/^[[:space:]]*#[[:space:]]*include[[:space:]]*"/{=;s/.*"([^"]*)".*/\1/p}' "$file" | paste -d: - -)

	while IFS=: read -r number path; do
		case $folder:$path in
		fusefs:*) ;;
		*:fuse*.h | *:linux/fuse.h | *:fuse3/*) echo "$file:$number: <$path> belongs to fusefs/ alone" ;;
		esac
		case $file:$path in
		base/map.h:*) ;;
		*:uthash.h) echo "$file:$number: <uthash.h> is reached through base/map.h" ;;
		esac
	done < <(sed -nE '/^[[:space:]]*#[[:space:]]*include[[:space:]]*</{=;s/.*<([^>]*)>.*/\1/p}' "$file" | paste -d: - -)

	lines=$(wc -l < "$file")
	[ "$lines" -le $limit ] || echo "$file:$lines: $lines lines; $limit are the limit"
}

check_tree()
{
	local folder file found=

	for folder in base wal txn fusefs tools tools/lib; do
		for file in "$folder"/*.[ch]; do
			[ -e "$file" ] || continue
			found=1
			check_file "$folder" "$file"
		done
	done
	[ -n "$found" ] || echo ".: no sources here"
}

# The rules must catch what they are for: a tree that breaks each of them once.
self_test()
{
	local dir expected=10 got

	dir=$(mktemp -d)
	mkdir "$dir"/{base,wal,txn,fusefs,tools,tools/lib}
	printf '#include "wal/wal.h"\n' > "$dir/base/a.c"                # 1 upwards
	printf '#include "txn/txn.h"\n#include "base/b.h"\n' > "$dir/wal/a.c" # 2 upwards
	printf '#include "wal/private.h"\n#include "wal/wal.h"\n' > "$dir/txn/a.c" # 3 not public
	printf '#include <fuse_lowlevel.h>\n#include <linux/fuse.h>\n' > "$dir/txn/b.c" # 4, 5
	printf '#include "txn/../wal/private.h"\n' > "$dir/txn/c.c"      # 6 around the corner
	printf '#include <fuse_lowlevel.h>\n#include "txn/store.h"\n#include <uthash.h>\n' > "$dir/fusefs/a.c" # 7
	printf '#include "fusefs/fusefs.h"\n#include "fusefs/tx.h"\n' > "$dir/tools/a.c" # 8
	seq $((limit + 1)) > "$dir/tools/b.c"                            # 9
	printf '#include "tools/tools.h"\n#include "tools/lib/a.h"\n' > "$dir/tools/lib/a.c" # 10
	got=$(cd "$dir" && check_tree | wc -l)
	rm -rf "$dir"
	if [ "$got" -ne $expected ]; then
		echo "tests/layers.sh: its own check failed: $got of $expected violations found" >&2
		exit 1
	fi
}

self_test
cd "${1:-$(dirname "$0")/..}"
violations=$(check_tree)
if [ -n "$violations" ]; then
	echo "$violations"
	exit 1
fi
