#!/bin/bash
# Installs what is missing, builds, runs all tests, and ends with the counts.
#
#	tests/run.sh                 everything
#	tests/run.sh [--asan] NAME   one test: a unit (txn), a mount test or a group of them (basic.transfer_commits,
#	                             posix), layers, bench, or power; --asan: in the build with ASan and UBSan
#
# Each failed test comes with the command that repeats it. tests/crash.sh and tests/fuzz.sh are the long searches.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

jobs=$(nproc)
# The same histories each time, so that what fails is what changed; tests/long.sh searches with new ones.
export TXNFS_SEED=${TXNFS_SEED:-20261120}
python=/usr/bin/python3 # not what a version manager may have put before it
passed=0
failed=0
skipped=0
again=()
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

step()
{
	printf '\n== %s\n' "$*"
}

give_up()
{
	echo "run.sh: $*" >&2
	exit 1
}

usage()
{
	sed -nE '2,8s/^# ?//p' "$0"
}

# build DIRECTORY CMAKE-OPTION...
build()
{
	local dir=$1 log=$scratch/build

	shift
	if ! { cmake -B "$dir" "$@" && cmake --build "$dir" -j "$jobs"; } > "$log" 2>&1; then
		cat "$log"
		give_up "the build in $dir failed"
	fi
}

build_plain()
{
	build build -DTXNFS_SANITIZE= -DTXNFS_TESTS=ON
}

build_asan()
{
	build build/asan -DTXNFS_SANITIZE=address,undefined -DTXNFS_TESTS=ON
	export ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1:abort_on_error=0
	export UBSAN_OPTIONS=print_stacktrace=1
	export TXNFS_LESS=16 # of what is repeated for its number
}

count()
{
	passed=$((passed + $1))
	failed=$((failed + $2))
	skipped=$((skipped + $3))
}

run_layers()
{
	if tests/layers.sh; then
		echo "layers ok"
		count 1 0 0
	else
		count 0 1 0
		again+=("tests/layers.sh")
	fi
}

# The benchmark itself is a command of its own: tests/bench.sh.
run_bench()
{
	if tests/bench.sh --self-test; then
		count 1 0 0
	else
		count 0 1 0
		again+=("tests/bench.sh --self-test")
	fi
}

# run_units DIRECTORY AGAIN-OPTION [REGEX]
run_units()
{
	local dir=$1 option=$2 regex=${3:-.} log=$scratch/units name bad total
	local names=()

	ctest --test-dir "$dir" -j "$jobs" --output-on-failure -R "$regex" 2>&1 | tee "$log" |
		grep -vE '^(Internal ctest|Test project|$)|^ *Start '
	# "98% tests passed, 1 tests failed out of 60"
	total=$(sed -nE 's/.*tests failed out of ([0-9]+).*/\1/p' "$log")
	mapfile -t names < <(sed -nE '/The following tests FAILED:/,$s/^[[:space:]]*[0-9]+ - ([^ ]+) \(.*/\1/p' "$log")
	if [ -z "$total" ]; then
		echo "run.sh: there are no unit tests in $dir"
		count 0 1 0
		again+=("ctest --test-dir $dir")
		return
	fi
	bad=${#names[@]}
	count $((total - bad)) "$bad" 0
	for name in "${names[@]}"; do
		again+=("tests/run.sh $option$name")
	done
}

# run_mounts AGAIN-OPTION RUN.PY-ARGUMENT...
run_mounts()
{
	local option=$1 log=$scratch/mounts last name
	local names=()

	shift
	if [ ! -c /dev/fuse ]; then
		echo "FAIL: there is no /dev/fuse, so nothing can be mounted: load the module (modprobe fuse), or give the" \
			"container the device and the right to mount"
		count 0 1 0
		again+=("tests/run.sh")
		return
	fi
	"$python" tests/mount/run.py "$@" 2>&1 | tee "$log"
	last=$(tail -n 1 "$log")
	if [[ $last =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed,\ ([0-9]+)\ skipped$ ]]; then
		count "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}" "${BASH_REMATCH[3]}"
	else
		echo "run.sh: tests/mount/run.py did not end properly"
		count 0 1 0
		again+=("$python tests/mount/run.py $*")
	fi
	read -ra names < <(sed -nE 's/^failed: //p' "$log" | tail -n 1)
	for name in "${names[@]}"; do
		again+=("tests/run.sh $option$name")
	done
}

run_power()
{
	tests/power.sh --quick --seed "$TXNFS_SEED"
	case $? in
	0) count 1 0 0 ;;
	77) count 0 0 1 ;;
	*)
		count 0 1 0
		again+=("tests/run.sh power")
		;;
	esac
}

finish()
{
	echo
	if [ ${#again[@]} -gt 0 ]; then
		echo "To repeat what failed:"
		printf '  %s\n' "${again[@]}"
	fi
	[ "$skipped" -eq 0 ] || echo "$skipped skipped"
	echo "$passed passed, $failed failed"
	[ "$failed" -eq 0 ]
	exit
}

run_one()
{
	local option=$1 dir=$2 name=$3

	if [ "$name" = layers ] || [ "$name" = bench ] || [ "$name" = power ]; then
		"run_$name"
		finish
	fi
	# A module's unit and a file of mount tests may have the same name: both are meant then.
	if ctest --test-dir "$dir" -N -R "^$name\$" | grep -q 'Total Tests: [1-9]'; then
		run_units "$dir" "$option" "^$name\$"
		[ -e "tests/mount/test_$name.py" ] || finish
	fi
	run_mounts "$option" --txnfs "$dir/txnfs" "$name"
	finish
}

asan=
name=
while [ $# -gt 0 ]; do
	case $1 in
	--asan) asan=1 ;;
	-h | --help)
		usage
		exit 0
		;;
	-*)
		usage >&2
		exit 2
		;;
	*)
		[ -z "$name" ] || { usage >&2; exit 2; }
		name=$1
		;;
	esac
	shift
done

step "what must be installed"
tools/deps.sh python3-pip python3-django python3-pil || give_up "cannot go on without these packages"

if [ -n "$name" ]; then
	step "building"
	if [ -n "$asan" ]; then
		build_asan
		run_one "--asan " build/asan "$name"
	fi
	build_plain
	run_one "" build "$name"
fi

if [ -z "$asan" ]; then
	step "layers"
	run_layers
	run_bench
	step "building in build"
	build_plain
	step "units"
	run_units build ""
	step "on real mounts"
	run_mounts ""
	step "power cuts on a recorded disk"
	run_power
fi
step "building in build/asan (ASan, UBSan)"
build_asan
step "units under ASan and UBSan"
run_units build/asan "--asan "
step "on real mounts under ASan and UBSan"
run_mounts "--asan " --quick --txnfs build/asan/txnfs
finish
