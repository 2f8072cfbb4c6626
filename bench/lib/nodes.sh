# shellcheck shell=bash
#
# Read by cluster.sh and figures/cluster.sh: several servers of one machine, in a
# directory of their own, which are gone when the script ends.  Each is called
# by its name; psql and the nodes themselves reach it by a socket that nobody
# else can.

# shellcheck source=test/bin/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../test/bin/common.sh"

declare -A port=()	# of each server

# nodes_begin: the directory, the installation
nodes_begin()
{
	local variable

	for variable in ${!PG@}; do
		[ "$variable" = PG_CONFIG ] || unset "$variable"
	done
	make_work_dir
	copy_install
	export PGHOST=$work PGUSER=postgres PGDATABASE=postgres HOME=$work
	cd "$work" || die "cannot enter $work"
}

# new_server NAME [setting]...: with a database "postgres", without extensions
new_server()
{
	local name=$1 setting

	shift
	as_server_user initdb -D "$work/$name" -U postgres --auth=trust --no-locale --encoding=UTF8 -N 9>&- >"$work/$name.initdb" 2>&1 || {
		cat "$work/$name.initdb" >&2
		die "initdb failed"
	}
	{
		echo "listen_addresses = ''"
		echo "unix_socket_directories = '$work'"
		echo "log_line_prefix = '%m [%p] %q%a '"
		echo "max_connections = 300"
		for setting; do
			echo "$setting"
		done
	} >>"$work/$name/postgresql.conf"
	# a socket is a file in a directory of ours, so any number will do
	port[$name]=$((5001 + ${#port[@]}))
	start_server "$name"
}

start_server()
{
	as_server_user pg_ctl -D "$work/$1" -s -w -l "$work/$1.log" -o "-p ${port[$1]}" start 9>&- >/dev/null 2>&1 || {
		tail -n 20 "$work/$1.log" >&2
		die "$1 does not start"
	}
}

stop_server()
{
	as_server_user pg_ctl -D "$work/$1" -s -m fast -w -t 30 stop 9>&- >/dev/null 2>&1 || true
}

# kill_server NAME: kill -9 of all its processes, as if the machine had failed
kill_server()
{
	local postmaster

	postmaster=$(head -n 1 "$work/$1/postmaster.pid")
	kill -STOP "$postmaster"
	# shellcheck disable=SC2046
	kill -KILL "$postmaster" $(cat "/proc/$postmaster/task/$postmaster/children") 2>/dev/null || true
	while kill -0 "$postmaster" 2>/dev/null; do
		sleep 0.02
	done
}

conninfo()
{
	echo "host=$work port=${port[$1]} dbname=postgres"
}

# on NAME SQL: what it answers
on()
{
	psql -X -q -A -t -P pager=off -v ON_ERROR_STOP=1 -p "${port[$1]}" -c "$2"
}

# new_node NAME NUMBER [setting]...: number 1 has all slots, others none
new_node()
{
	local name=$1 number=$2 map

	shift 2
	new_server "$name" "shared_preload_libraries = 'coupon'" "coupon.databases = 'postgres'" "max_worker_processes = 32" "$@"
	# the role that the workers of the other nodes connect as
	on "$name" 'CREATE EXTENSION coupon; CREATE ROLE coupon_node LOGIN IN ROLE coupon_admin'
	if [ "$number" = 1 ]; then
		on "$name" "SELECT coupon_node_found(1, '$name', '$(conninfo "$name")')" >/dev/null
	else
		map=$(on "${nodes[0]}" 'SELECT coupon_node_map()')
		on "$name" "SELECT coupon_node_join($number, '$name', '$(conninfo "$name")', \$\$$map\$\$)" >/dev/null
	fi
	nodes+=("$name")
}

# new_proxy NAME [setting]...
new_proxy()
{
	new_server "$@" "client_min_messages = warning"
	psql -X -q -v ON_ERROR_STOP=1 -p "${port[$1]}" -f "$top/examples/cluster/proxy.sql" >/dev/null
	on "$1" "SELECT coupon_cluster_connect('$(conninfo "${nodes[0]}")')" >/dev/null
}

# deal: the slots among all nodes, whose users are all strangers
deal()
{
	local name other

	for name in "${nodes[@]}"; do
		on "$name" "UPDATE coupon.slot SET node_id = 1 + slot % ${#nodes[@]}, version = version + 1" >/dev/null
	done
	for name in "${nodes[@]}"; do
		for other in "${nodes[@]}"; do
			on "$name" "SELECT coupon_node_learn(\$\$$(on "$other" 'SELECT coupon_node_map()')\$\$)" >/dev/null
		done
	done
	on proxy 'SELECT coupon_cluster_refresh()' >/dev/null
}
