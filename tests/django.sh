#!/bin/bash
# The Django tests with PostgreSQL: a cluster of their own in a scratch directory, on a local socket.
#
#	tests/django.sh [--long] [NAME...]    names of tests as for tests/mount/run.py; all of django and pg unless given
#
#	--long    also kills the server and the clients at random for some minutes (TXNFS_MINUTES=5)
#
# Installs what is missing, builds, and ends with the counts. As root, PostgreSQL runs as nobody.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

python=/usr/bin/python3
scratch=
server=()

give_up()
{
	echo "django.sh: $*" >&2
	exit 1
}

clean()
{
	[ -z "$scratch" ] || {
		"${server[@]}" "$bin/pg_ctl" -D "$scratch/data" -m immediate stop > /dev/null 2>&1
		rm -rf "$scratch"
	}
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

while [[ ${1:-} == -* ]]; do
	case $1 in
	--long) export TXNFS_LONG=1 ;;
	-h | --help)
		sed -nE '2,8s/^# ?//p' "$0"
		exit 0
		;;
	*)
		sed -nE '2,8s/^# ?//p' "$0" >&2
		exit 2
		;;
	esac
	shift
done

tools/deps.sh postgresql python3-psycopg2 python3-django python3-pil util-linux ||
	give_up "cannot go on without these packages"
log=$(mktemp)
if ! { cmake -B build && cmake --build build -j "$(nproc)" --target txnfs; } > "$log" 2>&1; then
	cat "$log"
	rm -f "$log"
	give_up "the build failed"
fi
rm -f "$log"

bin=$(pg_config --bindir 2> /dev/null) && [ -x "$bin/initdb" ] || {
	bin=$(find /usr/lib/postgresql -path '*/bin/initdb' -printf '%h\n' 2> /dev/null | sort -V | tail -n 1)
}
[ -x "$bin/initdb" ] || give_up "no initdb below /usr/lib/postgresql"

scratch=$(mktemp -d /tmp/txnfs-pg-XXXXXX)
if [ "$(id -u)" -eq 0 ]; then
	chown nobody: "$scratch"
	server=(setpriv --reuid=nobody --regid="$(id -g nobody)" --clear-groups --reset-env)
fi
"${server[@]}" "$bin/initdb" -D "$scratch/data" -U txnfs -A trust -N > "$scratch/log" 2>&1 ||
	{ cat "$scratch/log"; give_up "initdb failed"; }
# Durability is PostgreSQL's business here; its crashes are kills, which need no fsync.
"${server[@]}" "$bin/pg_ctl" -D "$scratch/data" -w -l "$scratch/data/log" \
	-o "-k $scratch -c listen_addresses= -c fsync=off -c max_connections=100" start > "$scratch/log" 2>&1 ||
	{ cat "$scratch/log" "$scratch/data/log"; give_up "PostgreSQL does not start"; }

export TXNFS_PG_SOCKET=$scratch TXNFS_PG_CTL="${server[*]} $bin/pg_ctl -D $scratch/data"
"$python" tests/mount/run.py --txnfs build/txnfs "${@:-django}"
