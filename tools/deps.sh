#!/bin/bash
# Installs what building and testing txnfs needs, with apt-get. Does nothing when all is there.
#
#	tools/deps.sh [PACKAGE...]      these as well
set -euo pipefail

packages=(gcc libc6-dev make cmake pkg-config
	libfuse3-dev fuse3 libxxhash-dev uthash-dev libjansson-dev libcmocka-dev
	python3 acl attr patch "$@")

die()
{
	echo "deps.sh: $*" >&2
	exit 1
}

if ! command -v dpkg-query > /dev/null; then
	die "this is no Debian or Ubuntu; install with your package manager what corresponds to: ${packages[*]}"
fi

missing=()
for p in "${packages[@]}"; do
	status=$(dpkg-query -W -f '${db:Status-Status}' "$p" 2> /dev/null) || status=
	[ "$status" = installed ] || missing+=("$p")
done
[ ${#missing[@]} -eq 0 ] && exit 0

sudo=()
if [ "$(id -u)" -ne 0 ]; then
	command -v sudo > /dev/null || die "not root, and there is no sudo; as root: apt-get install ${missing[*]}"
	sudo=(sudo)
fi

echo "installing: ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt()
{
	if ! "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" \
		> "$log" 2>&1 < /dev/null; then
		cat "$log" >&2
		return 1
	fi
}
# The lists of packages may be old or absent; a failing update matters only if the packages cannot be had then.
apt update || echo "deps.sh: apt-get update failed; trying with the lists that are there" >&2
apt install -y --no-install-recommends "${missing[@]}" || die "apt-get could not install: ${missing[*]}"
