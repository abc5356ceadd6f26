#!/bin/bash
# Searches for inputs that break the log's reader, the records' decoder, recovery, or the control language, with clang's
# libFuzzer, ASan and UBSan. Installs what it needs, builds in build/fuzz, ends with a table.
#
#	tests/fuzz.sh [--minutes M] [--target log|record|recovery|grammar] [--seed S] [--jobs J] [--merge]
#
#	--minutes M   for each target, default 2
#	--seed S      to begin the search in the same way again
#	--jobs J      processes, default: one for each processor
#	--merge       put what reaches new code into tests/fuzz/corpus
#
# Each finding is made small, put into tests/fuzz/crashes, from where tests/test_fuzz_corpus.c runs it each time, and
# printed with the command that repeats it.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

minutes=2
targets=(grammar record log recovery)
seed=$((RANDOM << 15 | RANDOM | 1))
jobs=$(nproc)
merge=
out=build/fuzz

usage()
{
	sed -nE '2,14s/^# ?//p' "$0"
}

give_up()
{
	echo "fuzz.sh: $*" >&2
	exit 1
}

number()
{
	[[ $2 =~ ^[1-9][0-9]*$ ]] || { echo "fuzz.sh: $1 needs a number above 0" >&2; exit 2; }
}

while [ $# -gt 0 ]; do
	case $1 in
	--minutes) minutes=${2-}; number "$1" "$minutes"; shift ;;
	--seed) seed=${2-}; number "$1" "$seed"; shift ;;
	--jobs) jobs=${2-}; number "$1" "$jobs"; shift ;;
	--target)
		[[ " ${targets[*]} " == *" ${2-} "* ]] || { usage >&2; exit 2; }
		targets=("$2")
		shift
		;;
	--merge) merge=1 ;;
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

tools/deps.sh clang libclang-rt-14-dev || give_up "cannot go on without these packages"
echo "== building in $out (the first time takes a minute or two)"
make -s -f tests/fuzz/Makefile OUT=$out TARGETS="${targets[*]}" -j "$jobs" || give_up "the build failed"

# The real disk of the target "recovery"; whatever a stopped run leaves there goes with it.
shm=/dev/shm
[ -w $shm ] || shm=${TMPDIR:-/tmp}
TXNFS_SHM=$(mktemp -d "$shm/txnfs-fuzz.XXXXXX")
export TXNFS_SHM
export ASAN_OPTIONS=detect_stack_use_after_return=0:abort_on_error=0:handle_abort=1
export UBSAN_OPTIONS=print_stacktrace=1
running=
findings=()
rows=()

stop()
{
	[ -z "$running" ] || { kill -- "-$running" && wait "$running"; } 2> /dev/null
	rm -rf "$TXNFS_SHM"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Longest input, as the targets have it.
max_of()
{
	sed -nE 's/^[[:space:]]*\.max = ([0-9]+),$/\1/p' "tests/fuzz/$1.c"
}

# The last of what libFuzzer says of itself: runs and inputs in the corpus.
figures()
{
	sed -nE 's/^#([0-9]+):? .*corp: ([0-9]+).*/\1 \2/p' "$1" | tail -n 1
}

# Edges that a corpus reaches. What the search itself tells counts some of them again for each worker.
coverage()
{
	"$@" -runs=0 -close_fd_mask=2 2>&1 | sed -nE 's/^#[0-9]+[[:space:]]+DONE +cov: ([0-9]+).*/\1/p'
}

count_findings()
{
	find "$1" -type f | wc -l
}

search()
{
	local target=$1 dir=$out/$1 log=$out/$1/log start runs cov corpus
	local inputs=("$dir/work" "tests/fuzz/corpus/$target")

	[ ! -d "tests/fuzz/crashes/$target" ] || inputs+=("tests/fuzz/crashes/$target")
	rm -rf "$dir"
	mkdir -p "$dir/work" "$dir/found"
	echo "== $target: $minutes min, seed $seed"
	# In a session of its own: libFuzzer's workers do not end with it, but with their group.
	setsid "$out/fuzz_$target" -fork="$jobs" -ignore_crashes=1 -ignore_timeouts=1 -ignore_ooms=1 -seed="$seed" \
		-timeout=60 -rss_limit_mb=4096 -max_total_time=$((minutes * 60)) -max_len="$(max_of "$target")" \
		-close_fd_mask=2 -artifact_prefix="$dir/found/" "${inputs[@]}" > "$log" 2>&1 &
	running=$!
	start=$SECONDS
	while kill -0 "$running" 2> /dev/null; do
		sleep 5
		read -r runs corpus < <(figures "$log") || continue
		printf '%s: %ds, %s runs, corpus %s, %s findings\n' "$target" $((SECONDS - start)) "$runs" "$corpus" \
			"$(count_findings "$dir/found")"
	done
	wait "$running"
	running=
	read -r runs corpus < <(figures "$log") || {
		tail -n 20 "$log"
		give_up "$target did not run"
	}
	collect "$target"
	cov=$(coverage "$out/fuzz_$target" "$dir/work" "tests/fuzz/corpus/$target")
	[ -z "$merge" ] || add_to_corpus "$target"
	rows+=("$(printf '%-10s %10s %10s %8s %9s' "$target" "$runs" "$cov" "$corpus" "$new_findings")")
}

# What a failing input says, without what differs from run to run.
complaint()
{
	"$1" -timeout=60 "$2" 2>&1 | grep -aE "^(${3}: |SUMMARY: )" | head -n 1 |
		sed -E 's/0x[0-9a-f]+|[0-9]{3,}|txnfs-bytes\.[A-Za-z0-9]+//g' | cut -c 1-160
}

# One input for each complaint, made small, goes into the tree.
collect()
{
	local target=$1 dir=$out/$1 run=$out/fuzz_$1 keep=tests/fuzz/crashes/$1 found said small name
	local -A seen=()

	new_findings=0
	for found in "$dir"/found/*; do
		[ -f "$found" ] || continue
		said=$(complaint "$run" "$found" "$target")
		said=${said:-$target: a $(basename "$found" | cut -d - -f 1) that does not come again}
		[ -z "${seen[$said]-}" ] || continue
		seen[$said]=1
		new_findings=$((new_findings + 1))
		small=$dir/small
		cp "$found" "$small"
		"$run" -minimize_crash=1 -max_total_time=30 -timeout=60 -close_fd_mask=2 \
			-exact_artifact_path="$small.new" "$found" > "$dir/minimize" 2>&1
		if [ -s "$small.new" ] && [ "$(complaint "$run" "$small.new" "$target")" = "$said" ]; then
			mv "$small.new" "$small"
		fi
		mkdir -p "$keep"
		name=$keep/$(sha1sum < "$small" | cut -c 1-12)
		mv "$small" "$name"
		findings+=("$said" "    $run $name"
			"    TXNFS_INPUT=$target:$name build/tests/test_fuzz_corpus")
	done
}

# Edges alone decide what is new: the tree keeps a small set.
add_to_corpus()
{
	local target=$1 before after

	before=$(find "tests/fuzz/corpus/$target" -type f | wc -l)
	"$out/fuzz_$target" -merge=1 -use_counters=0 -max_len="$(max_of "$target")" -close_fd_mask=2 \
		"tests/fuzz/corpus/$target" "$out/$target/work" > "$out/$target/merge" 2>&1
	after=$(find "tests/fuzz/corpus/$target" -type f | wc -l)
	echo "$target: $((after - before)) inputs added to tests/fuzz/corpus/$target"
}

for target in "${targets[@]}"; do
	search "$target"
done

echo
printf '%-10s %10s %10s %8s %9s\n' target runs coverage corpus findings
printf '%s\n' "${rows[@]}"
if [ ${#findings[@]} -gt 0 ]; then
	echo
	echo "Findings, and how to repeat them:"
	printf '%s\n' "${findings[@]}"
	exit 1
fi
