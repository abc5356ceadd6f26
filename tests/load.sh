#!/bin/bash
# Load: sixteen processes of all kinds on one mount, with sums, names and a watchdog to tell whether all is well.
#
#	tests/load.sh [--minutes M] [--tsan] [--seed S] [--txnfs PATH]
#
# Without --minutes an hour, under ThreadSanitizer (--tsan) ten minutes. Ends with a table; exit status 0: all was well.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

usage()
{
	sed -nE '2,6s/^# ?//p' "$0"
}

minutes=
tsan=
txnfs=
args=()
while [ $# -gt 0 ]; do
	case $1 in
	--minutes | --seed | --txnfs)
		[ $# -ge 2 ] || { usage >&2; exit 2; }
		case $1 in
		--minutes) minutes=$2 ;;
		--seed) args+=(--seed "$2") ;;
		--txnfs) txnfs=$2 ;;
		esac
		shift
		;;
	--tsan) tsan=1 ;;
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
minutes=${minutes:-${tsan:+10}}
minutes=${minutes:-60}
[[ $minutes =~ ^[0-9]+(\.[0-9]+)?$ ]] || { usage >&2; exit 2; }
seconds=$(awk "BEGIN { print $minutes * 60 }")

if [ -z "$txnfs" ]; then
	tools/deps.sh || exit 1
	build=build${tsan:+/tsan}
	log=$(mktemp)
	if ! { cmake -B "$build" -DTXNFS_SANITIZE="${tsan:+thread}" && cmake --build "$build" -j "$(nproc)" --target txnfs; } \
		> "$log" 2>&1; then
		cat "$log"
		rm -f "$log"
		echo "load.sh: the build in $build failed" >&2
		exit 1
	fi
	rm -f "$log"
	txnfs=$build/txnfs
fi
export TSAN_OPTIONS="halt_on_error=0 exitcode=66 ${TSAN_OPTIONS:-}"
# In namespaces of its own, so that no process and no mount is left behind, however it ends.
own=()
[ "$(id -u)" -ne 0 ] ||
	own=(setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --mount-proc --propagation private)
exec "${own[@]}" /usr/bin/python3 tests/mount/load.py --txnfs "$txnfs" --seconds "$seconds" "${args[@]}"
