#!/bin/bash
# Shows txnfs at work on a scratch directory: installs what is missing, builds, and checks each thing that it shows.
# Needs root, or a user who may run fusermount3 (and sudo when packages are missing). Leaves nothing but build/.
set -euo pipefail
cd "$(dirname "$0")/.."

bold="" dim="" plain=""
if [ -t 1 ]; then
	bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'
fi

die()
{
	echo "demo.sh: $*" >&2
	exit 1
}

# ---- building ---------------------------------------------------------------

echo "${bold}Building txnfs in build/ ...${plain}"
tools/deps.sh
log=$(mktemp)
if ! { cmake -B build && cmake --build build --target txnfs -j "$(nproc)"; } > "$log" 2>&1; then
	cat "$log"
	rm -f "$log"
	die "the build failed"
fi
rm -f "$log"
PATH=$PWD/build:$PATH

# ---- the stage --------------------------------------------------------------

dir=$(mktemp -d "${TMPDIR:-/tmp}/txnfs-demo.XXXXXX")
src=$dir/shop mnt=$dir/mnt
daemon=
declare -A shell_pid shell_in shell_out
mkdir "$src" "$mnt"

cleanup()
{
	local name

	set +e
	trap - EXIT
	cd /
	for name in "${!shell_pid[@]}"; do
		kill "${shell_pid[$name]}" 2> /dev/null
		wait "${shell_pid[$name]}" 2> /dev/null
	done
	if grep -q " $mnt fuse" /proc/self/mounts; then
		txnfs umount "$mnt" 2> /dev/null || txnfs umount -l "$mnt"
	fi
	[ -z "$daemon" ] || kill -9 "$daemon" 2> /dev/null
	rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say()
{
	printf '\n%s%s%s\n' "$bold" "$*" "$plain"
}

ok()
{
	echo "  ${dim}ok: $*$plain"
}

# check WHAT COMMAND...
check()
{
	local what=$1

	shift
	"$@" || die "not as promised: $what"
	ok "$what"
}

# until_true SECONDS COMMAND...: poll
until_true()
{
	local end=$((SECONDS + $1))

	shift
	until "$@" 2> /dev/null; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.02
	done
}

# Two shells side by side, like two terminals. Neither descends from the other: only then is one outside of the
# other's transaction.
start_shell()
{
	local name=$1 in out

	mkfifo "$dir/$name.in" "$dir/$name.out"
	(cd "$mnt" && exec bash --norc --noprofile < "$dir/$name.in" > "$dir/$name.out" 2>&1) &
	shell_pid[$name]=$!
	exec {in}> "$dir/$name.in" {out}< "$dir/$name.out"
	shell_in[$name]=$in
	shell_out[$name]=$out
}

stop_shell()
{
	local in=${shell_in[$1]} out=${shell_out[$1]}

	echo exit >&"$in"
	wait "${shell_pid[$1]}" || true
	exec {in}>&- {out}<&-
	unset "shell_pid[$1]" "shell_in[$1]" "shell_out[$1]"
	rm -f "$dir/$1.in" "$dir/$1.out"
}

# in_shell NAME COMMAND: show it, have that shell do it; what it printed is in $output, its status in $status
in_shell()
{
	local name=$1 line

	printf '%-6s $ %s\n' "$name" "$2"
	printf '{ %s\n} 2>&1; echo "@done $?"\n' "$2" >&"${shell_in[$name]}"
	output=
	while IFS= read -r -t 60 -u "${shell_out[$name]}" line; do
		if [[ $line == "@done "* ]]; then
			status=${line#@done }
			output=${output%$'\n'}
			return 0
		fi
		printf '         %s\n' "$line"
		output+=$line$'\n'
	done
	die "the shell \"$name\" gave no answer"
}

# must NAME COMMAND [OUTPUT]: it succeeds, and prints this
must()
{
	in_shell "$1" "$2"
	[ "$status" = 0 ] || die "\"$2\" failed"
	[ $# -lt 3 ] || [ "$output" = "$3" ] || die "\"$2\" should have printed: $3"
}

# here COMMAND: show it and do it in this process
here()
{
	printf '%-6s $ %s\n' "" "${1//$dir/DIR}"
	eval "$1"
}

# ---- the play ---------------------------------------------------------------

say "1. An ordinary directory with two accounts and a small shop, mounted"
mkdir "$src"/{orders,stock,reserved,payments}
echo 100 > "$src/account_a"
echo 20 > "$src/account_b"
echo 0 > "$src/stock/teapot"
echo 7 > "$src/stock/kettle"
here "ls $src"
here "txnfs mount $src $mnt"
check "the mount shows the same files" diff -r -x .txnfs "$src" "$mnt"
start_shell clerk
start_shell other

say "2. A transfer that commits: another process sees nothing of it until then"
must clerk "echo begin > .txn/ctl"
must clerk "echo 70 > account_a"
must other "cat account_a account_b" $'100\n20'
must clerk "echo 50 > account_b"
must clerk "cat account_a account_b" $'70\n50'
must other "cat account_a account_b" $'100\n20'
ok "clerk sees the transfer, other sees the old balances"
must clerk "echo commit > .txn/ctl"
must other "cat account_a account_b" $'70\n50'
ok "after the commit everyone sees it"

say "3. A transfer that rolls back"
must clerk "echo begin > .txn/ctl"
must clerk "echo 0 > account_a; echo 120 > account_b"
must clerk "echo 'a note' > note"
must other "ls note 2> /dev/null; cat account_a account_b" $'70\n50'
must clerk "echo rollback > .txn/ctl"
must clerk "ls; cat account_a account_b" $'account_a\naccount_b\norders\npayments\nreserved\nstock\n70\n50'
check "nothing of it is left" diff -r -x .txnfs "$src" "$mnt"

say "4. An order: when the item is out of stock, back to the savepoint and on with the substitute"
must clerk "echo begin > .txn/ctl"
must clerk "echo 'item=teapot price=30' > orders/1001"
must clerk "echo 'savepoint after_order' > .txn/ctl"
must clerk "echo teapot > reserved/1001; echo \$((\$(cat stock/teapot) - 1)) > stock/teapot"
must clerk "cat stock/teapot" "-1"
echo "  ${dim}minus one: it is out of stock$plain"
must clerk "echo 'rollback to after_order' > .txn/ctl"
must clerk "cat stock/teapot; ls reserved; cat orders/1001" $'0\nitem=teapot price=30'
ok "the reservation is undone, the order is still there"
must clerk "echo 'item=kettle price=30' > orders/1001"
must clerk "echo kettle > reserved/1001; echo \$((\$(cat stock/kettle) - 1)) > stock/kettle"
must clerk "echo 'savepoint after_inventory' > .txn/ctl"
must clerk "echo 'from=account_a amount=30' > payments/1001; echo 40 > account_a; echo 80 > account_b"
must other "ls orders reserved payments | grep -c 1001; cat stock/kettle account_a" $'0\n7\n70'
ok "other sees no order, no reservation, no payment yet"
must clerk "echo commit > .txn/ctl"
must other "cat orders/1001 reserved/1001 payments/1001 stock/teapot stock/kettle account_a account_b" \
	$'item=kettle price=30\nkettle\nfrom=account_a amount=30\n0\n6\n40\n80'
ok "after the commit it is all there at once"
stop_shell clerk
stop_shell other
here "txnfs umount $mnt"
check "the files lie in the plain directory" grep -qx 6 "$src/stock/kettle"

say "5. kill -9 of the daemon in the middle of a transaction"
echo "  ${dim}(in the foreground this time, so that its process is known)$plain"
here "txnfs mount -f $src $mnt & daemon=\$!"
disown "$daemon"
until_true 30 mountpoint -q "$mnt" || die "the mount did not come up"
start_shell clerk
must clerk "echo begin > .txn/ctl; echo 'paid in full' > payments/1001; echo commit > .txn/ctl"
cp -a "$mnt" "$dir/committed"
must clerk "echo begin > .txn/ctl"
must clerk "echo 0 > account_a; echo 0 > account_b; rm orders/1001; mv stock warehouse; echo lost > lost"
must clerk "ls" $'account_a\naccount_b\nlost\norders\npayments\nreserved\nwarehouse'
here "kill -9 $daemon"
until_true 30 test ! -e "/proc/$daemon" || die "the daemon did not die"
daemon=
in_shell clerk "echo commit > .txn/ctl"
check "the commit fails" [ "$status" != 0 ]
stop_shell clerk
here "txnfs umount $mnt"
here "txnfs mount $src $mnt"
here "ls $mnt; cat $mnt/account_a $mnt/account_b $mnt/payments/1001"
check "nothing of the broken transaction is left, and all that was committed is there" \
	diff -r --no-dereference "$dir/committed" "$mnt"
here "txnfs umount $mnt"
check "the same holds in the plain directory" diff -r --no-dereference -x .txnfs "$dir/committed" "$src"
here "txnfs check $src"

say "All as promised."
