# shellcheck shell=bash
#
# Read by the scripts here and in bench/, not run.
#
# A script that starts servers calls make_work_dir first.  From then on a
# cleaner waits in the background for the script's end, however it comes
# (kill -9 too): it stops what was started and deletes the directory.

unset CDPATH	# with it cd says where it goes
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# What programs say is read: in English, with decimal points.
export LC_ALL=C.UTF-8 LANG=C.UTF-8
for variable in LANGUAGE "${!LC_@}"; do
	[ "$variable" = LC_ALL ] || unset "$variable"
done

die()
{
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# initdb and postgres refuse to run as root.
server_user=
if [ "$(id -u)" = 0 ]; then
	server_user=postgres
	id -u postgres >/dev/null 2>&1 || server_user=nobody
fi

as_server_user()
{
	if [ -z "$server_user" ]; then
		"$@"
	elif command -v setpriv >/dev/null; then
		setpriv --reuid="$server_user" --regid="$(id -g "$server_user")" --init-groups "$@"
	else
		runuser -u "$server_user" -- "$@"
	fi
}

# Processes that run a program of the work directory, or that inherited
# COUPON_WORK_DIR, which nobody but this script's children has.
work_processes()
{
	{
		find /proc/[0-9]*/exe -maxdepth 0 -lname "$work/*"
		grep -lsxzF "COUPON_WORK_DIR=$work" /proc/[0-9]*/environ
	} 2>/dev/null | cut -d / -f 3 | sort -u
}

# work_signal SIGNAL: to all of them, 1 if there is none
work_signal()
{
	local pids

	pids=$(work_processes)
	[ -n "$pids" ] || return 1
	# shellcheck disable=SC2086
	kill -"$1" $pids 2>/dev/null
	return 0
}

clean_work_dir()
{
	local pidfile try

	# An immediate shutdown of each server removes its shared memory.
	find "$work" -name postmaster.pid 2>/dev/null | while read -r pidfile; do
		kill -QUIT "$(head -n 1 "$pidfile")" 2>/dev/null
	done
	for try in {1..100}; do
		case $try in
			1) work_signal TERM || break ;;
			80) work_signal KILL || break ;;
			*) work_signal 0 || break ;;
		esac
		sleep 0.1
	done
	for try in 1 2 3; do
		rm -rf "$work" 2>/dev/null && break
		sleep 0.2
	done
}

# runs_programs DIRECTORY: can the server's user run programs that are there?
runs_programs()
{
	local status=0

	printf '#!/bin/sh\n' >"$1/program"
	chmod 755 "$1/program"
	as_server_user "$1/program" 2>/dev/null || status=$?
	rm "$1/program"
	return $status
}

# Sets work: a directory of the server's user, for nobody else.
make_work_dir()
{
	local base

	work=
	for base in "${TMPDIR:-/tmp}" /tmp /var/tmp; do
		# it will stand in connection strings and settings, unquoted
		[[ $base == /* && $base != *[!A-Za-z0-9/._+-]* ]] || continue
		work=$(mktemp -d "$base/coupon.XXXXXX") || continue
		[ -z "$server_user" ] || chown "$server_user:" "$work"
		# the path of a Unix socket has at most 107 bytes
		if [ ${#work} -le 60 ] && as_server_user test -w "$work" && runs_programs "$work"; then
			break
		fi
		rmdir "$work"
		work=
	done
	[ -n "$work" ] || die "cannot make a temporary directory that user ${server_user:-$(id -un)} can write to and run programs in (/tmp may be mounted noexec): name one by TMPDIR, with a short path of letters and digits"

	# The cleaner sees the end of its input when the last holder of
	# descriptor 9 is gone, so commands are run with 9>&-.
	mkfifo "$work/alive"
	(
		trap '' INT TERM HUP
		trap - EXIT
		set +e
		read -r _ <"$work/alive"
		clean_work_dir
	) >/dev/null 2>&1 &
	cleaner=$!
	exec 9>"$work/alive"
	trap 'finish $?' EXIT
	mkdir "$work/tmp"
	[ -z "$server_user" ] || chown "$server_user:" "$work/tmp"
	export COUPON_WORK_DIR=$work TMPDIR=$work/tmp
}

finish()
{
	exec 9>&-
	wait "$cleaner" || true
	exit "$1"
}

# copy_install [DIRECTORY]: the private installation into the work directory, so that
# a server's user can read it and a new build does not change it under them.
# Sets bindir and pgxs_dir, and PG_CONFIG for whoever builds something: the
# one of the copy, first in PATH, knows of no headers.
# shellcheck disable=SC2120 # most want it where the others are
copy_install()
{
	[ -r "$top/tmp_install/paths.sh" ] || make -s -C "$top" tmp_install >&2
	"$top/test/bin/alone" cp -a "$top/${1:-tmp_install}" "$work/pg"
	[ -z "$server_user" ] || chown -hR "$server_user:" "$work/pg"
	# shellcheck disable=SC2034
	libdir='' pgxs_dir=''
	# shellcheck source=/dev/null
	. "$work/pg/paths.sh"
	bindir=$work/pg$bindir
	export PATH=$bindir:$PATH PG_CONFIG
	[ -z "$libdir" ] || export LD_LIBRARY_PATH="$libdir${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
}
