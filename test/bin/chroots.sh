# shellcheck shell=bash
#
# Read by the scripts that work on new machines, not run: chroots by debootstrap
# from this machine's package sources.  What has been fetched stays in
# tmp_fresh/, or in the directory that COUPON_FRESH_DIR names, for the next time.
# One script at a time works there.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
fresh=${COUPON_FRESH_DIR:-$top/tmp_fresh}

no_chroot()
{
	echo "no chroot: $*"
	exit 3
}

# need_chroots: makes $fresh this script's own; exit status 3, and why, where no
# chroot can be made
need_chroots()
{
	[ "$(id -u)" = 0 ] || no_chroot "not root"
	command -v debootstrap >/dev/null || no_chroot "no debootstrap (Debian: debootstrap)"
	command -v apt-get >/dev/null || no_chroot "no apt-get, whose package sources it needs"
	unshare --mount --pid --fork true 2>/dev/null || no_chroot "this machine lets nobody unshare namespaces"
	export PATH=$PATH:/usr/sbin:/sbin LC_ALL=C

	# unshare is deaf to anything else, and takes with it whoever lives there
	inhabited=
	trap '[ -z "$inhabited" ] || kill -KILL "$inhabited"' EXIT
	trap 'exit 1' INT TERM HUP

	mkdir -p "$fresh"
	exec 7>"$fresh/lock"
	flock -n 7 || no_chroot "another script is at work in $fresh"
}

# sources SUITE: lines for sources.list, those of this machine for another suite
sources()
{
	local codename site release component

	codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
	# shellcheck disable=SC2016 # for apt-get to expand
	apt-get indextargets --format '$(SITE) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' | sort -u |
		while read -r site release component; do
			case $release in
				"$codename") echo "deb $site $1 $component" ;;
				"$codename"-updates | "$codename"-security)
					[ "$1" = sid ] || echo "deb $site $1${release#"$codename"} $component"
					;;
			esac
		done
}

# base SUITE: sees to it that $fresh/SUITE.tar is there; 1 and why if it cannot
base()
{
	local suite=$1 mirror root

	[ ! -e "$fresh/$suite.tar" ] || return 0
	mirror=$(sources "$suite" | awk -v suite="$suite" '$3 == suite && $4 == "main" { print $2; exit }')
	[ -n "$mirror" ] || { echo "no package source of this machine has it"; return 1; }
	root=$(mktemp -d "$fresh/base.XXXXXX")
	mkdir -p "$fresh/packages-$suite"
	if ! debootstrap --variant=minbase --include=make,gcc,ca-certificates --cache-dir="$fresh/packages-$suite" \
		"$suite" "$root/root" "$mirror" >"$fresh/debootstrap-$suite.log" 2>&1
	then
		tail -n 1 "$fresh/debootstrap-$suite.log"
		rm -rf "$root"
		return 1
	fi
	rm -rf "$root"/root/var/lib/apt/lists/* "$root"/root/var/cache/apt/archives/*.deb
	# without an fsync for each file
	echo force-unsafe-io >"$root/root/etc/dpkg/dpkg.cfg.d/unsafe-io"
	tar -C "$root/root" -cf "$fresh/$suite.tar.new" .
	mv "$fresh/$suite.tar.new" "$fresh/$suite.tar"
	rm -rf "$root"
}

# make_root SUITE ROOT: a new machine of a suite whose base is there
make_root()
{
	local suite=$1 root=$2

	rm -rf "$root"
	mkdir -p "$root" "$fresh/packages-$suite/partial"
	tar -C "$root" -xf "$fresh/$suite.tar"
	cp /etc/resolv.conf /etc/hosts "$root/etc/"
	sources "$suite" >"$root/etc/apt/sources.list"
	rm -f "$root"/etc/apt/sources.list.d/*
	cp -a /etc/apt/trusted.gpg.d/. "$root/etc/apt/trusted.gpg.d/" 2>/dev/null || true
	# how this machine reaches its sources, and whether it minds old lists
	apt-config dump | grep -iE '^Acquire::([a-z:.-]*Proxy|Check-Valid-Until) ' >"$root/etc/apt/apt.conf.d/30sources" || true
	echo 'Acquire::Retries "5";' >"$root/etc/apt/apt.conf.d/30retries"
}

# live_in SUITE ROOT COMMAND...: runs it in there.  All that is mounted and all
# that runs in there is gone with the namespaces.
live_in()
{
	local suite=$1 root=$2 status=0

	shift 2
	# shellcheck disable=SC2016 # for the inner shell to expand
	unshare --mount --pid --fork --kill-child --propagation private bash -c '
		set -e
		root=$1
		mount -t proc proc "$root/proc"
		mount -t tmpfs -o mode=755 tmpfs "$root/run"
		mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
		mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
		mount --bind "$2" "$root/var/cache/apt/archives"
		shift 2
		exec chroot "$root" "$@"' \
		- "$root" "$fresh/packages-$suite" "$@" </dev/null &
	inhabited=$!
	wait "$inhabited" || status=$?
	inhabited=
	return $status
}
