#!/bin/bash
# Benchmarks: txnfs and what one would use instead, side by side in one run.
#
#	tests/bench.sh                   everything; takes an hour or more
#	               [--quick]         small sizes, under 5 minutes: to see whether something got slower, not for publishing
#	               [--group NAME]... commit, small, plain, large, sqlite, recovery, many, git, flat
#	               [--case NAME]...  as commit.new.10, or all that begin so: commit.new; --list shows them
#	               [--rounds N]      5
#	               [--seed N]        of contents, places and the order in each round (1)
#	               [--json FILE]     all samples, medians, ratios and goals
#	               [--fs FS]         ext4, xfs or btrfs in an image on a loop device (ext4), or here: what --dir is on
#	               [--dir DIR]       where images and files go, on the disk to be measured (build/bench)
#	               [--txnfs PROGRAM] instead of the one that is built in build/speed
#	               [--self-test]     of the arithmetic and the pictures; installs and builds nothing
#
# Installs peers and tools, builds, and runs each case in rounds, in which all take their turns in random order. Shows medians and
# ratios, the client's and the daemon's processor time, and the daemon's peak of memory; a chart per group goes to build/bench.
# Without root there are no disk images, and peers that need one are skipped. Exits with 1 when something failed, not when
# a target was missed.
set -uo pipefail

here=$PWD
cd "$(dirname "$0")/.." || exit 1
out=$PWD/build/bench
python=(/usr/bin/python3 -B tests/bench/bench.py)
args=()
dir=
txnfs=
only=

usage()
{
	sed -nE '2,19s/^# ?//p' tests/bench.sh
}

absolute()
{
	case $1 in
	/*) echo "$1" ;;
	*) echo "$here/$1" ;;
	esac
}

while [ $# -gt 0 ]; do
	case $1 in
	--quick) args+=("$1") ;;
	--list | --self-test)
		args+=("$1")
		only=1
		;;
	--group | --case | --rounds | --seed | --fs | --json | --dir | --txnfs)
		[ $# -ge 2 ] || { usage >&2; exit 2; }
		case $1 in
		--dir) dir=$(absolute "$2") ;;
		--txnfs) txnfs=$(absolute "$2") ;;
		--json) args+=("$1" "$(absolute "$2")") ;;
		*) args+=("$1" "$2") ;;
		esac
		shift
		;;
	-h | --help)
		usage
		exit 0
		;;
	*)
		usage >&2
		exit 2
		;;
	esac
	shift
done

[ -z "$only" ] || exec "${python[@]}" "${args[@]}"

[ -c /dev/fuse ] || { echo "bench.sh: there is no /dev/fuse, so nothing can be mounted: modprobe fuse" >&2; exit 1; }
if [ ! -r /dev/fuse ] || [ ! -w /dev/fuse ]; then
	echo "bench.sh: $(id -un) may not open /dev/fuse, so nothing can be mounted: run it as root, or (root) chmod 666 /dev/fuse" >&2
	exit 1
fi
tools/deps.sh git tar fio bindfs liblmdb-dev libsqlite3-dev e2fsprogs xfsprogs btrfs-progs util-linux || exit 1
mkdir -p "$out" "${dir:=$out}" || exit 1
# What a killed run has left: nobody holds its lock any more.
for old in "$dir"/scratch.*/lock; do
	[ ! -e "$old" ] || flock -n "$old" rm -rf --one-file-system "${old%/lock}"
done
dir=$(mktemp -d "$dir/scratch.XXXXXX") || exit 1
exec {lock}> "$dir/lock"
flock "$lock"
child=

# The process that unshare waits for: the first one in the namespaces.
inner()
{
	local stat pid ppid

	for stat in /proc/[0-9]*/stat; do
		read -r pid _ _ ppid _ 2> /dev/null < "$stat" && [ "$ppid" = "$child" ] && echo "$pid"
	done
}

# With the namespaces go every process, mount and loop device; then the files can go. The driver cleans up by itself when it is
# asked to end, which is all there is without root.
finish()
{
	local pid

	if [ -n "$child" ]; then
		pid=$(inner)
		kill -TERM "${pid:-$child}" 2> /dev/null
		wait "$child" 2> /dev/null
	fi
	rm -rf --one-file-system "$dir"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

log=$dir/build.log
if ! { cmake -B build/speed -DTXNFS_TESTS=OFF -DTXNFS_BENCH=ON -DTXNFS_SANITIZE= -DCMAKE_BUILD_TYPE=RelWithDebInfo &&
	cmake --build build/speed -j "$(nproc)"; } > "$log" 2>&1; then
	cat "$log"
	echo "bench.sh: the build in build/speed failed" >&2
	exit 1
fi

own=()
if [ "$(id -u)" -eq 0 ] && unshare --mount --pid --fork --mount-proc --propagation private true 2> /dev/null; then
	own=(setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --mount-proc --propagation private)
fi
"${own[@]}" "${python[@]}" --txnfs "${txnfs:-$PWD/build/speed/txnfs}" --tools "$PWD/build/speed/tests/bench" --dir "$dir" \
	--out "$out" "${args[@]}" {lock}>&- &
child=$!
wait "$child"
status=$?
child=
exit "$status"
