#!/bin/bash
# Proof by crashing: simulated power cuts at every change, faults at every call, kills and power cuts of the real thing.
#
#	tests/crash.sh [--long] [--seed S] [PART...]
#
# Parts (all of them, in this order, unless some are named):
#	points    every sequence of up to three operations, crashed at each change of the disk, and each recovery again
#	runs      long random histories, crashed at many of their changes
#	faults    an error from every call of the store, of the log and of malloc
#	kills     kill -9 of the daemon under transfers between accounts, of recoveries, of clients, of coordinators, of PostgreSQL
#	power     ext4, xfs and btrfs on a recorded disk, its power cut at flushes and between them
#	threads   what runs concurrently, under ThreadSanitizer
#
# Some ten minutes; with --long an hour or two. Installs what is missing, builds, and ends with a table of what was tried. What
# failed comes with the command that repeats it. ^C ends it, with the table so far.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

long=
parts=()
jobs=$(nproc)
python=/usr/bin/python3
seed=$((RANDOM << 30 | RANDOM << 15 | RANDOM))
scratch=$(mktemp -d)
table=()
failed=0
children=()

usage()
{
	sed -nE '2,17s/^# ?//p' "$0"
}

while [ $# -gt 0 ]; do
	case $1 in
	--long) long=1 ;;
	--seed)
		[[ ${2:-} =~ ^[0-9]+$ ]] || { usage >&2; exit 2; }
		seed=$2
		shift
		;;
	-h | --help)
		usage
		exit 0
		;;
	points | runs | faults | kills | power | threads) parts+=("$1") ;;
	*)
		usage >&2
		exit 2
		;;
	esac
	shift
done
[ ${#parts[@]} -gt 0 ] || parts=(points runs faults kills power threads)

# shellcheck disable=SC2317 # called by the trap
finish()
{
	local line

	[ ${#children[@]} -eq 0 ] || kill "${children[@]}" 2> /dev/null
	wait
	rm -rf "$scratch"
	printf '\n%-10s %-7s %8s  %s\n' part result seconds "what was tried (seed $seed)"
	for line in "${table[@]}"; do
		IFS='|' read -r name result seconds what <<< "$line"
		printf '%-10s %-7s %8s  %s\n' "$name" "$result" "$seconds" "$what"
	done
	[ "$failed" -eq 0 ]
	exit
}
trap finish EXIT
trap 'failed=1; exit 130' INT
trap 'failed=1; exit 143' TERM HUP

# row NAME STATUS SECONDS WHAT
row()
{
	local result=ok

	if [ "$2" -eq 77 ]; then
		result=skipped
	elif [ "$2" -ne 0 ]; then
		result=FAILED
		failed=1
	fi
	table+=("$1|$result|$3|$4")
}

build()
{
	local dir=$1

	shift
	if ! { cmake -B "$dir" "$@" && cmake --build "$dir" -j "$jobs"; } > "$scratch/build" 2>&1; then
		cat "$scratch/build"
		echo "crash.sh: the build in $dir failed" >&2
		failed=1
		exit 1
	fi
}

# The numbers in the last line of each log that begins with "seed" or "all", added up, in the words of the first.
sum_up()
{
	awk '/^(seed [0-9]+|all): / { sub(/^(seed [0-9]+|all): /, ""); n = split($0, word, " ")
		if (!first) { first = 1; for (i = 1; i <= n; i++) text[i] = word[i]; count = n }
		for (i = 1; i <= n; i++) if (word[i] ~ /^[0-9]+$/) sum[i] += word[i] }
		END { for (i = 1; i <= count; i++) printf "%s%s", (i in sum) ? sum[i] : text[i], i < count ? " " : "\n" }' "$@"
}

# in_parts NAME PROGRAM: the program once for each core, each with its part of the work.
in_parts()
{
	local name=$1 i status=0 began=$SECONDS logs=() s

	shift
	for ((i = 0; i < jobs; i++)); do
		TXNFS_PART=$i/$jobs "$@" > "$scratch/$name.$i" 2> >(tee "$scratch/$name.$i.err" >&2) &
		children+=($!)
		logs+=("$scratch/$name.$i")
	done
	for i in "${children[@]}"; do
		wait "$i"
		s=$?
		[ $s -eq 0 ] || status=$s
	done
	children=()
	[ $status -eq 0 ] || grep -hE 'ERROR|FAILED|repeat' "${logs[@]}"
	row "$name" $status $((SECONDS - began)) "$(sum_up "${logs[@]}")"
}

# one NAME COMMAND...: its output is shown, and its last line with figures is the table's.
one()
{
	local name=$1 status began=$SECONDS

	shift
	"$@" 2>&1 | tee "$scratch/$name"
	status=${PIPESTATUS[0]}
	row "$name" "$status" $((SECONDS - began)) "$(figures "$name" < "$scratch/$name")"
}

figures()
{
	case $1 in
	kills) sed -nE 's/^((kill|coordinator|postgres)\.[a-z_]+) +(ok|FAIL) .*\((.*)\)$/\4/p' | paste -sd ';' ;;
	*) grep -E '[0-9]' | tail -n 1 ;;
	esac
}

points()
{
	export TXNFS_PROGRESS=1 TXNFS_SEED=$seed
	if [ -n "$long" ]; then
		# All sequences, with nothing kept that was not synced; then some with more pictures; then one operation in many ways.
		TXNFS_VARIANTS=1 TXNFS_IMAGES=1 TXNFS_AGAIN=400 in_parts points build/tests/test_crash_points
		TXNFS_SHARE=2000 in_parts points-more build/tests/test_crash_points
		TXNFS_VARIANTS=40 TXNFS_DEPTH=1 TXNFS_IMAGES=12 TXNFS_AGAIN=4 in_parts points-1 build/tests/test_crash_points
	else
		TXNFS_SHARE=2000 in_parts points build/tests/test_crash_points
	fi
}

runs()
{
	local i began=$SECONDS status=0

	export TXNFS_PROGRESS=1
	for ((i = 0; i < jobs; i++)); do
		TXNFS_SEED=$((seed + i * 1000000)) TXNFS_RUNS=$([ -n "$long" ] && echo 8000 || echo 800) \
			build/tests/test_crash_runs > "$scratch/runs.$i" 2> >(tee "$scratch/runs.$i.err" >&2) &
		children+=($!)
	done
	for i in "${children[@]}"; do
		wait "$i" || status=1
	done
	children=()
	[ $status -eq 0 ] || grep -hE 'ERROR|repeat' "$scratch"/runs.?
	row runs $status $((SECONDS - began)) "$(sum_up "$scratch"/runs.?)"
}

faults()
{
	[ -z "$long" ] || export TXNFS_LONG=1 TXNFS_PROGRESS=1
	export TXNFS_SEED=$seed
	in_parts faults build/tests/test_engine_faults
	in_parts allocations build/tests/test_engine_alloc
}

kills()
{
	[ -z "$long" ] || export TXNFS_DATABASE=all
	TXNFS_CYCLES=$([ -n "$long" ] && echo 1000 || echo 100) TXNFS_COORDINATOR=all \
		TXNFS_DATABASE_KILLS=$([ -n "$long" ] && echo 1000 || echo 50) \
		TXNFS_COORDINATOR_KILLS=$([ -n "$long" ] && echo 1000 || echo 100) one kills "$python" tests/mount/run.py --jobs "$jobs" \
		--txnfs build/txnfs --seed "$seed" kill coordinator.kill_anyone_at_every_step coordinator.kills_at_random_moments \
		postgres.kill_anyone_at_every_step postgres.kills_at_random_moments
}

power()
{
	local fs

	for fs in ext4 xfs btrfs; do
		if [ -n "$long" ]; then
			one "$fs" tests/power.sh --fs "$fs" --seed "$seed" --seconds 20 --images 400
		else
			one "$fs" tests/power.sh --fs "$fs" --seed "$seed" --seconds 5 --images 40
		fi
	done
}

threads()
{
	local units='engine_threads|engine_hard|engine_isolation|engine_kill|engine_model|engine_wait|member|wal|wal_crash|store_race|tx'

	build build/tsan -DTXNFS_SANITIZE=thread -DTXNFS_TESTS=ON
	export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1 TXNFS_SEED=$seed
	one tsan-units ctest --test-dir build/tsan -j "$jobs" --output-on-failure -R "^($units)\$"
	one tsan-mount "$python" tests/mount/run.py --quick --jobs "$jobs" --seed "$seed" --txnfs build/tsan/txnfs \
		basic views control crash fd isolation visible wait
}

tools/deps.sh || exit 1
build build -DTXNFS_SANITIZE= -DTXNFS_TESTS=ON
echo "seed $seed"
for part in "${parts[@]}"; do
	printf '\n== %s\n' "$part"
	"$part"
done
