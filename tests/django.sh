#!/bin/bash
# All Django tests, with SQLite and with PostgreSQL: a cluster of their own in a scratch directory, on a local socket.
#
#	tests/django.sh [--long] [NAME...]    names of tests as for tests/mount/run.py (django, pg.server_killed), with PostgreSQL
#
#	--long    the random search goes on for five minutes
#
# Installs what is missing, builds, and ends with the counts. As root, PostgreSQL runs as nobody.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

python=/usr/bin/python3
scratch=
keeper=
server=()

give_up()
{
	echo "django.sh: $*" >&2
	exit 1
}

# shellcheck disable=SC2317 # by trap
clean()
{
	[ -n "$scratch" ] || return
	touch "$scratch/end"
	"${server[@]}" "$bin/pg_ctl" -D "$scratch/data" -m immediate stop > /dev/null 2>&1
	[ -z "$keeper" ] || wait "$keeper"
	rm -rf "$scratch"
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

tools/deps.sh postgresql python3-psycopg2 python3-django python3-pil mypy util-linux ||
	give_up "cannot go on without these packages"
log=$(mktemp)
if ! { cmake -B build && cmake --build build -j "$(nproc)" --target txnfs; } > "$log" 2>&1; then
	cat "$log"
	rm -f "$log"
	give_up "the build failed"
fi
rm -f "$log"

# Where Debian has it: not in PATH.
bin=$(find /usr/lib/postgresql -path '*/bin/initdb' -printf '%h\n' 2> /dev/null | sort -V | tail -n 1)
[ -x "$bin/initdb" ] || give_up "no initdb below /usr/lib/postgresql"

scratch=$(mktemp -d /tmp/txnfs-pg-XXXXXX)
if [ "$(id -u)" -eq 0 ]; then
	chown nobody: "$scratch"
	server=(setpriv --reuid=nobody --regid="$(id -g nobody)" --clear-groups --reset-env)
fi
"${server[@]}" "$bin/initdb" -D "$scratch/data" -U txnfs -A trust -N > "$scratch/log" 2>&1 ||
	{ cat "$scratch/log"; give_up "initdb failed"; }
# Some tests end the server with SIGQUIT, as a crash: it comes back. Crashes are kills here, which need no fsync.
while [ ! -e "$scratch/end" ]; do
	"${server[@]}" "$bin/postgres" -D "$scratch/data" -k "$scratch" -c listen_addresses= -c fsync=off
done > "$scratch/log" 2>&1 &
keeper=$!
for _ in $(seq 100); do
	"$bin/pg_isready" -q -h "$scratch" && break
	kill -0 "$keeper" || break
	sleep 0.1
done
"$bin/pg_isready" -q -h "$scratch" || { tail -n 20 "$scratch/log"; give_up "PostgreSQL does not start"; }

export TXNFS_DJANGO=1
status=0
if [ $# -eq 0 ]; then
	echo "== types"
	(cd tools/python && mypy --cache-dir=/dev/null txnfs) || status=1
	echo "== SQLite"
	"$python" tests/mount/run.py django || status=1
	echo "== PostgreSQL"
fi
export TXNFS_PG_SOCKET=$scratch
if [ $# -gt 0 ]; then
	"$python" tests/mount/run.py --jobs 1 "$@" || status=1
else
	"$python" tests/mount/run.py django || status=1
	# These stop the server.
	"$python" tests/mount/run.py --jobs 1 pg || status=1
fi
exit $status
