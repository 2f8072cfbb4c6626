#!/usr/bin/env bash
#
# A sale on several nodes, on servers of its own:
#
#   - N nodes beside one, each with the same share of the CPUs (a cgroup's quota:
#     needs root; without it only the CPU time of an issue is compared), called by
#     way of a proxy, which like the clients has as much as it wants;
#   - messages between the nodes before low water;
#   - a call by way of the proxy beside a direct one;
#   - the last hundredth of a sale: how many calls are answered busy;
#   - kill -9 of a node: how long until the others sell as before.
#
#	CLUSTER_WARM=8     seconds until what is measured begins
#	CLUSTER_QUOTA=12    percent of one CPU that each node has
#	CLUSTER_ONLY=share    measure only N nodes beside one
#	CLUSTER_STOCK=100000    units of the sale that is sold to its end
set -euo pipefail
# shellcheck source=bench/lib/nodes.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/nodes.sh"
# shellcheck source=bench/lib/results.sh
. "$top/bench/lib/results.sh"

: "${CLUSTER_QUOTA:=12}" "${CLUSTER_WARM:=8}" "${CLUSTER_STOCK:=100000}" "${BENCH_SECONDS:=5}" "${BENCH_PAIRS:=1}"
failed_figures=0
nodes=() alone=()

nodes_begin
if [ ! -r "$("$PG_CONFIG" --sharedir)/extension/plproxy.control" ]; then
	echo 'cluster figures, skipped: plproxy is not installed for this PostgreSQL, -, info'
	exit 0
fi

# ---- the nodes' shares of the CPUs ----

groups=/sys/fs/cgroup/cpu accounts=/sys/fs/cgroup/cpuacct
[ ! -e /sys/fs/cgroup/cgroup.controllers ] || groups=/sys/fs/cgroup

# group NAME: cgroups of the node's processes, for its quota and its CPU time; 1 if there
# can be none
group()
{
	local path=$groups/coupon_$$_$1 postmaster pid

	mkdir "$path" 2>/dev/null || return 1
	if [ -e "$path/cpu.cfs_quota_us" ]; then
		echo 10000 >"$path/cpu.cfs_period_us"
		echo $((CLUSTER_QUOTA * 100)) >"$path/cpu.cfs_quota_us"
		mkdir "$accounts/coupon_$$_$1"
	elif ! echo "$((CLUSTER_QUOTA * 100)) 10000" >"$path/cpu.max" 2>/dev/null; then
		rmdir "$path"
		return 1
	fi
	postmaster=$(head -n 1 "$work/$1/postmaster.pid")
	# the sessions to come are the postmaster's children
	for pid in "$postmaster" $(<"/proc/$postmaster/task/$postmaster/children"); do
		echo "$pid" >"$path/cgroup.procs" 2>/dev/null || true
		[ ! -d "$accounts/coupon_$$_$1" ] || echo "$pid" >"$accounts/coupon_$$_$1/cgroup.procs" 2>/dev/null || true
	done
}

no_groups()
{
	local name

	for name; do
		[ -d "$groups/coupon_$$_$name" ] || continue
		stop_server "$name"
		rmdir "$groups/coupon_$$_$name" "$accounts/coupon_$$_$name" 2>/dev/null || true
	done
}
# shellcheck disable=SC2317 # by the trap
end()
{
	no_groups "${nodes[@]}" "${alone[@]}"
	finish "$1"
}
trap 'end $?' EXIT

# cpu NAME...: microseconds of CPU time that the nodes have had; to the clock's tick
# (10 ms a process) where there are no cgroups
cpu()
{
	local name pid

	for name; do
		if [ -r "$accounts/coupon_$$_$name/cpuacct.usage" ]; then
			awk '{ printf "%d\n", $1 / 1000 }' "$accounts/coupon_$$_$name/cpuacct.usage"
		elif [ -r "$groups/coupon_$$_$name/cpu.stat" ] && grep -q usage_usec "$groups/coupon_$$_$name/cpu.stat"; then
			awk '$1 == "usage_usec" { print $2 }' "$groups/coupon_$$_$name/cpu.stat"
		else
			pid=$(head -n 1 "$work/$name/postmaster.pid")
			# the postmaster knows what its children that are gone have had
			{
				sed 's/.*) //' "/proc/$pid/stat" | awk '{ print $12 + $13 + $14 + $15 }'
				for pid in $(<"/proc/$pid/task/$pid/children"); do
					sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null | awk '{ print $12 + $13 }' || true
				done
			} | awk -v tick="$(getconf CLK_TCK)" '{ print $1 * 1000000 / tick }'
		fi
	done | awk '{ n += $1 } END { printf "%d\n", n }'
}

# ---- calls ----

cat >"$work/issue.sql" <<'END'
\set user random(1, 1000000000000)
SELECT coupon_issue(:campaign, 'u' || :user);
END

# issued CAMPAIGN: on all nodes
issued()
{
	local name n=0

	for name in "${nodes[@]}"; do
		n=$((n + $(on "$name" "SELECT count(*) FROM coupon.issuance WHERE campaign_id = $1")))
	done
	echo "$n"
}

# counts CAMPAIGN NAME...: a line for each: units, when that was, WAL flushes
counts()
{
	local campaign=$1 name

	shift
	for name; do
		on "$name" "SELECT count(*) || ' ' || extract(epoch FROM clock_timestamp()) || ' ' || (SELECT wal_sync FROM pg_stat_wal)
			FROM coupon.issuance WHERE campaign_id = $campaign"
	done
}

# new_campaign UNITS: its id, once each node knows it
new_campaign()
{
	local id name

	id=$(on "${nodes[0]}" "SELECT coupon_cluster_create('figure ' || clock_timestamp(), $1)")
	for name in "${nodes[@]}"; do
		while [ "$(on "$name" "SELECT count(*) FROM coupon.transfer WHERE state IN ('cut', 'received')")" != 0 ] ||
			[ "$(on "$name" "SELECT count(*) FROM coupon.campaign WHERE campaign_id = $id")" != 1 ]; do
			sleep 0.05
		done
	done
	echo "$id"
}

settings=('coupon.cluster = on' 'shared_buffers = 128MB' 'max_wal_size = 4GB' 'checkpoint_timeout = 30min' 'autovacuum = off')

# ---- N nodes beside one ----

# Beside the nodes of a cluster as many servers that know nothing of each other, each of
# which has the same campaign: they are called in the same way, by way of the same proxy, which
# deals the users among them by the same hash. What more servers cost there is the machine's
# and PL/Proxy's: a session of the proxy has one at each server, and the servers share CPUs,
# their caches and the disk.

quota=$CLUSTER_QUOTA
new_alone()
{
	new_server "$1" "shared_preload_libraries = 'coupon'" "coupon.databases = 'postgres'" "max_worker_processes = 32" \
		"${settings[@]}" 'coupon.cluster = off'
	on "$1" 'CREATE EXTENSION coupon'
	on "$1" "SELECT coupon_campaign_create('figure', 50000000)" >/dev/null
	alone+=("$1")
}

# deal_alone: users among as many servers as there are
deal_alone()
{
	local name i=0 options=

	for name in "${alone[@]}"; do
		options+="${options:+, }p$i '$(conninfo "$name")'"
		i=$((i + 1))
	done
	[ "$(on proxy "SELECT count(*) FROM pg_database WHERE datname = 'alone'")" = 0 ] || on proxy 'DROP DATABASE alone'
	on proxy 'CREATE DATABASE alone'
	PGDATABASE=alone on proxy "CREATE EXTENSION plproxy;
		CREATE SERVER alone FOREIGN DATA WRAPPER plproxy OPTIONS ($options);
		CREATE USER MAPPING FOR PUBLIC SERVER alone;
		CREATE FUNCTION coupon_slot(user_id text) RETURNS integer LANGUAGE c IMMUTABLE AS '\$libdir/coupon', 'coupon_slot';
		CREATE TYPE answer AS (user_id text, status text, serial bigint, code text, issued_at timestamptz, expires_at timestamptz);
		CREATE FUNCTION coupon_issue(campaign_id bigint, user_id text, request_key text DEFAULT NULL) RETURNS answer
		LANGUAGE plproxy AS 'CLUSTER ''alone''; RUN ON public.coupon_slot(user_id); TARGET public.coupon_issue;'"
}

# endless DATABASE CLIENTS CAMPAIGN: issues until it is killed; sets load
endless()
{
	PGDATABASE=$1 pgbench -n -M prepared -c "$2" -j 2 -T 3600 -p "${port[proxy]}" -D "campaign=$3" -f "$work/issue.sql" \
		>"$work/pgbench.$1" 2>&1 9>&- &
	load=$!
}

# window KIND CAMPAIGN NAME...: adds to files of that kind and number of servers the issues a
# second, the CPU time of one and issues for each flush of the WAL
window()
{
	local kind=$1 campaign=$2 before used begun lasted
	shift 2

	counts "$campaign" "$@" >"$work/before"
	before=$(cpu "$@")
	begun=$(date +%s%N)
	sleep "$BENCH_SECONDS"
	used=$(($(cpu "$@") - before))
	lasted=$(($(date +%s%N) - begun))
	counts "$campaign" "$@" >"$work/after"
	# each server by its own clock: they are asked one after another
	paste "$work/before" "$work/after" | awk -v us="$used" -v s="$lasted" -v to="$work" -v of="$kind.$#" '
		{ rate += ($4 - $1) / ($5 - $2); issues += $4 - $1; flushes += $6 - $3 }
		END {
			if (rate == 0) exit 1
			printf "%.0f\n", rate >>(to "/rate." of)
			printf "%.1f\n", us / (rate * s / 1e9) >>(to "/cost." of)
			printf "%.2f\n", flushes ? issues / flushes : 0 >>(to "/group." of)
		}' || die "nothing was issued: $(head -n 3 "$work/pgbench.$kind")"
}

# of WHAT KIND.NUMBER: the median
of()
{
	median <"$work/$1.$2"
}

for n in 1 2 4; do
	while [ ${#nodes[@]} -lt "$n" ]; do
		new_node "n$((${#nodes[@]} + 1))" $((${#nodes[@]} + 1)) "${settings[@]}"
		[ -n "${port[proxy]:-}" ] || new_proxy proxy
		group "${nodes[-1]}" || quota=
		new_alone "s${#nodes[@]}"
		group "${alone[-1]}" || quota=
	done
	deal
	deal_alone
	campaign=$(new_campaign 50000000)
	# each session has to come first, at each server, which costs as much as 100 issues
	endless postgres $((6 * n)) "$campaign"
	cluster_load=$load
	sleep "$CLUSTER_WARM"
	kill -STOP "$cluster_load"
	endless alone $((6 * n)) 1
	sleep "$CLUSTER_WARM"
	# one has the machine while the other stands still
	for ((pair = 1; pair <= BENCH_PAIRS; pair++)); do
		window alone 1 "${alone[@]}"
		kill -STOP "$load"
		kill -CONT "$cluster_load"
		sleep 0.5
		window postgres "$campaign" "${nodes[@]}"
		window postgres "$campaign" "${nodes[@]}"
		kill -STOP "$cluster_load"
		kill -CONT "$load"
		sleep 0.5
		window alone 1 "${alone[@]}"
	done
	kill -CONT "$cluster_load"
	kill "$load" "$cluster_load"
	wait "$load" 2>/dev/null || true
	wait "$cluster_load" 2>/dev/null || true
done
ratio()
{
	awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'
}
# compared WHAT A B
compared()
{
	ratio "$(of "$1" "$2")" "$(of "$1" "$3")"
}
if [ -n "$quota" ]; then
	for n in 2 4; do
		figure "issues a second, $n nodes / 1" "$(compared rate "postgres.$n" postgres.1)" at_least "$([ "$n" = 2 ] && echo 1.8 || echo 3.5)" \
			"$(of rate "postgres.$n") / $(of rate postgres.1), each node $quota % of a CPU"
		figure "issues a second, $n servers without a cluster / 1" "$(compared rate "alone.$n" alone.1)" info - "$(of rate "alone.$n") / $(of rate alone.1)"
	done
else
	figure "issues a second, 4 nodes / 1" - info 'no cgroup can be made here: needs root'
fi
figure "CPU time of an issue on a node, 4 nodes / 1" "$(compared cost postgres.4 postgres.1)" at_most 1.1 "$(of cost postgres.4) us / $(of cost postgres.1) us"
figure "CPU time of an issue, 4 servers without a cluster / 1" "$(compared cost alone.4 alone.1)" info - "$(of cost alone.4) us / $(of cost alone.1) us"
figure "the first of these two / the second: what the cluster adds" "$(ratio "$(compared cost postgres.4 postgres.1)" "$(compared cost alone.4 alone.1)")" at_most 1.1
for n in 1 4; do
	figure "CPU time of an issue, $n in a cluster / without" "$(compared cost "postgres.$n" "alone.$n")" info - \
		"issues for each flush of the WAL: $(of group "postgres.$n"), $(of group "alone.$n")"
done
no_groups "${alone[@]}"
[ "${CLUSTER_ONLY:-}" != share ] || exit "$failed_figures"

# ---- messages before low water ----

for name in "${nodes[@]}"; do
	on "$name" "ALTER ROLE coupon_node SET log_statement = 'all'"
	# the worker connects anew
	on "$name" "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'coupon_node'" >/dev/null
done
campaign=$(new_campaign 40000)
for name in "${nodes[@]}"; do
	wc -l <"$work/$name.log" >"$work/$name.lines"
done
pgbench -n -M prepared -c 8 -j 2 -t 2500 -p "${port[proxy]}" -D "campaign=$campaign" -f "$work/issue.sql" >/dev/null 2>&1 9>&-
messages=0
for name in "${nodes[@]}"; do
	messages=$((messages + $(tail -n "+$(($(<"$work/$name.lines") + 1))" "$work/$name.log" | grep -c 'coupon_node@' || true)))
done
figure "messages between nodes while 20,000 of 40,000 units are sold" "$messages" at_most 0

no_groups "${nodes[@]}"
nodes=()

# ---- three nodes, as fast as they are ----

for name in a b c; do
	new_node "$name" $((${#nodes[@]} + 1)) "${settings[@]}"
done
new_proxy proxy3
port[proxy]=${port[proxy3]}
deal
campaign=$(new_campaign 50000000)

# p50 SERVER: of calls for users at home at node a, us
cat >"$work/home.sql" <<'END'
\set i random(1, 1000)
SELECT coupon_issue(:campaign, (SELECT user_id FROM home WHERE n = :i));
END
for name in a proxy; do
	on "$name" "CREATE TABLE home (n int PRIMARY KEY, user_id text);
		INSERT INTO home SELECT row_number() OVER (), u FROM (SELECT 'home-' || g AS u FROM generate_series(1, 10000) g) x
		 WHERE coupon_slot(u) % 3 = 0 LIMIT 1000; ANALYZE home" >/dev/null
done
p50()
{
	rm -f "$work"/log.*
	pgbench -n -M prepared -c 1 -t 2000 -p "${port[$1]}" -D "campaign=$campaign" -f "$work/home.sql" -l --log-prefix="$work/log" >/dev/null 2>&1 9>&-
	awk '{ print $3 }' "$work"/log.* | median
}
p50 a >/dev/null
p50 proxy >/dev/null
for ((pair = 1; pair <= 2 * BENCH_PAIRS; pair++)); do
	awk -v p="$(p50 proxy)" -v d="$(p50 a)" 'BEGIN { print (p - d) / 1000 }' >>"$work/added"
done
figure "ms that a proxied call takes longer, p50" "$(printf %.3f "$(median <"$work/added")")" at_most 0.5 "differences $(paste -sd ' ' "$work/added")"

# ---- the last hundredth ----

campaign=$(new_campaign "$CLUSTER_STOCK")
on proxy "CREATE TABLE answer (status text)"
cat >"$work/last.sql" <<'END'
\set user random(1, 1000000000000)
INSERT INTO answer SELECT status FROM coupon_issue(:campaign, 'u' || :user);
END
last=$((CLUSTER_STOCK / 100))
pgbench -n -M prepared -c 16 -j 2 -t $(((CLUSTER_STOCK - last) / 16)) -p "${port[proxy]}" -D "campaign=$campaign" -f "$work/issue.sql" >/dev/null 2>&1 9>&-
pgbench -n -M prepared -c 16 -j 2 -T 120 -p "${port[proxy]}" -D "campaign=$campaign" -f "$work/last.sql" >/dev/null 2>&1 9>&- &
load=$!
deadline=$((SECONDS + 120))
until [ "$(issued "$campaign")" = "$CLUSTER_STOCK" ] || [ $SECONDS -ge $deadline ]; do
	sleep 0.02
done
kill "$load"
wait "$load" 2>/dev/null || true
IFS='|' read -r busy calls < <(on proxy "SELECT count(*) FILTER (WHERE status = 'busy'), count(*) FILTER (WHERE status <> 'sold_out') FROM answer")
figure "percent of calls for the last $last units that are answered busy" \
	"$(awk -v b="$busy" -v n="$calls" 'BEGIN { printf "%.2f", n ? 100 * b / n : 100 }')" at_most 5 "$busy of $calls"
figure "units unsold of $CLUSTER_STOCK, 3 nodes" "$((CLUSTER_STOCK - $(issued "$campaign")))" at_most 0

# ---- a node is killed ----

campaign=$(new_campaign 50000000)
# users at home at a and c, so that what is measured is not the errors of b's
cat >"$work/others.sql" <<'END'
\set i random(1, 1000000)
SELECT coupon_issue(:campaign, (SELECT 'o' || u FROM (SELECT :i::bigint * 1000 + g AS u FROM generate_series(0, 99) g) x
	WHERE coupon_slot('o' || u) % 3 <> 1 LIMIT 1));
END
rm -f "$work"/log.*
pgbench -n -M prepared -c 8 -j 2 -T 20 -p "${port[proxy]}" -D "campaign=$campaign" -f "$work/others.sql" -l --log-prefix="$work/log" >/dev/null 2>&1 9>&- &
load=$!
sleep 8
killed=$(date +%s%N)
kill_server b
wait "$load" || true
# the first 200 ms from which on four fifths of the median rate before are reached again
back=$(cat "$work"/log.* | awk -v killed="$killed" '
	{ slot = int(($5 * 1e6 + $6 - killed / 1000) / 200000 + 1000) - 1000; n[slot]++ }
	END {
		for (i = -30; i < -1; i++) before[++m] = n[i] + 0
		for (i = 1; i <= m; i++) for (j = i + 1; j <= m; j++) if (before[j] < before[i]) { x = before[i]; before[i] = before[j]; before[j] = x }
		for (i = 0; i < 50; i++) if (n[i] >= 0.8 * before[int((m + 1) / 2)]) break
		printf "%.1f", i * 0.2
	}')
figure "s from kill -9 of a node to the others' normal rate" "$back" at_most 2
on a "SELECT count(*) FROM coupon_verify($campaign)" >"$work/verify"
figure "violations that coupon_verify finds" "$(<"$work/verify")" at_most 0
exit "$failed_figures"
