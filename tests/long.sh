#!/bin/bash
# The longer search: random histories, kills and crashes with a new seed in each round, for as long as you like.
#
#	tests/long.sh [MINUTES]      default 30; ^C ends it
#
# Needs what tests/run.sh has built. Prints each round's seed; a failed round prints how to repeat it and ends the search.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

minutes=${1:-30}
[[ $minutes =~ ^[0-9]+$ ]] || { sed -nE '2,6s/^# ?//p' "$0" >&2; exit 2; }
[ -x build/txnfs ] || { echo "long.sh: build/txnfs is missing: run tests/run.sh first" >&2; exit 1; }
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# round COMMAND...: quiet when it passes
round()
{
	if "$@" > "$log" 2>&1; then
		passed=$((passed + 1))
		return
	fi
	tail -n 60 "$log"
	echo "failed: TXNFS_SEED=$TXNFS_SEED $*"
	echo "$passed passed, 1 failed"
	exit 1
}

passed=0
end=$((SECONDS + minutes * 60))
while [ $SECONDS -lt $end ]; do
	TXNFS_SEED=$((RANDOM << 30 | RANDOM << 15 | RANDOM))
	export TXNFS_SEED
	printf 'seed %s, %d min left\n' "$TXNFS_SEED" $(((end - SECONDS + 59) / 60))
	for unit in engine_model engine_sweep engine_threads engine_kill ws extent rec wal_crash; do
		[ ! -x "build/tests/test_$unit" ] || round "build/tests/test_$unit"
	done
	round /usr/bin/python3 tests/mount/run.py --jobs "$(nproc)" --seed "$TXNFS_SEED" model crash
done
echo "$passed passed, 0 failed"
