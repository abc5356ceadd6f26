#!/bin/bash
# Power cuts on real filesystems: a load runs on txnfs on ext4, xfs and btrfs, on a disk that records every write and flush.
# Images of what the disk may hold after a power cut are mounted, recovered and verified. Needs root and loop devices; without,
# it says so and exits with 77.
#
#	tests/power.sh [--fs ext4|xfs|btrfs]...   default: all three
#	               [--seconds S]              of load (10)
#	               [--images N]               for each filesystem (100)
#	               [--seed S]                 or TXNFS_SEED; default: a new one
#	               [--quick]                  ext4, 4 seconds, 25 images
#	               [--build DIR]              where it is built (build)
#	tests/power.sh --replay DIR:CUT:HOW       one image of a recording that was kept; a failure prints this line
#
# Exits with 1 when something that was promised was not there after a cut, or when the kernel could not mount an image.
set -uo pipefail

build=build
args=()
packages=()

usage()
{
	sed -nE '2,14s/^# ?//p' "$0"
}

need()
{
	case $1 in
	ext4) packages+=(e2fsprogs) ;;
	xfs) packages+=(xfsprogs) ;;
	btrfs) packages+=(btrfs-progs) ;;
	*)
		usage >&2
		exit 2
		;;
	esac
}

skip()
{
	echo "power.sh: skipped: $*"
	exit 77
}

while [ $# -gt 0 ]; do
	case $1 in
	--quick)
		args+=(--fs ext4 --seconds 4 --images 25)
		need ext4
		;;
	--fs | --seconds | --images | --seed | --build | --replay)
		[ $# -ge 2 ] || { usage >&2; exit 2; }
		value=$2
		case $1 in
		--fs) need "$value" ;;
		--build) build=$value ;;
		--replay) value=$(realpath -m "${value%%:*}"):${value#*:} ;;
		esac
		[ "$1" = --build ] || args+=("$1" "$value")
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
[ ${#packages[@]} -gt 0 ] || packages=(e2fsprogs xfsprogs btrfs-progs)
build=$(realpath -m "$build")
cd "$(dirname "$0")/.." || exit 1

[ "$(id -u)" -eq 0 ] || skip "mounting disk images needs root"
[ -c /dev/fuse ] || skip "there is no /dev/fuse"
[ -c /dev/loop-control ] || skip "there are no loop devices (/dev/loop-control)"
unshare --mount --pid --fork --mount-proc --propagation private true 2> /dev/null ||
	skip "mount and pid namespaces are not allowed here"

dir=$(mktemp -d "${TMPDIR:-/tmp}/txnfs-power.XXXXXX") || exit 1
child=

# The process that unshare waits for: the first one in the namespaces.
inner()
{
	local stat pid ppid

	for stat in /proc/[0-9]*/stat; do
		read -r pid _ _ ppid _ 2> /dev/null < "$stat" && [ "$ppid" = "$child" ] && echo "$pid"
	done
}

# All mounts are in the namespace and go with it: what is left is files. They are removed when it has gone: a mount whose
# place is removed while its namespace ends can keep its loop device for ever. The recording of a failure is kept.
finish()
{
	local status=$? pid

	if [ -n "$child" ]; then
		pid=$(inner)
		kill -KILL "${pid:-$child}" 2> /dev/null
		wait "$child" 2> /dev/null
	fi
	rm -rf "$dir/ram" "$dir/build.log"
	if [ "$status" -eq 1 ] && ! rmdir "$dir" 2> /dev/null; then
		echo "power.sh: the recording is kept in $dir"
	else
		rm -rf "$dir"
	fi
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

tools/deps.sh "${packages[@]}" || exit 1
if ! { cmake -B "$build" -DTXNFS_TESTS=ON && cmake --build "$build" -j "$(nproc)" --target txnfs recorder; } \
	> "$dir/build.log" 2>&1; then
	cat "$dir/build.log"
	echo "power.sh: the build in $build failed" >&2
	exit 1
fi
# When the script ends, however it ends, so does unshare, with it the namespaces, and with them every process, mount and
# loop device.
setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --mount-proc --propagation private \
	/usr/bin/python3 tests/power/power.py --dir "$dir" --txnfs "$build/txnfs" --recorder "$build/tests/recorder" \
	"${args[@]}" &
child=$!
wait "$child"
status=$?
child=
exit "$status"
