# shellcheck shell=bash disable=SC2034,SC2154
#
# Read by lib.sh: one run: measured, checked, repeated when others disturbed it.

# CPU time so far, in clock ticks: of the machine, and of this server with what
# it has beside it.
cpu_machine()
{
	awk '/^cpu / { print $2 + $3 + $4 + $7 + $8 + $9 }' /proc/stat	# not idle, not iowait; stolen counts
}

cpu_server()
{
	local pid

	{
		sed 's/.*) //' "/proc/$postmaster/stat" | awk '{ print $12 + $13 + $14 + $15 }'
		for pid in $(<"/proc/$postmaster/task/$postmaster/children") $pooler $redis $consumer \
			$(cat "$scratch/kafka/kafka.pid" 2>/dev/null); do
			sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null | awk '{ print $12 + $13 }' || true
		done
	} | awk '{ n += $1 } END { print n }'
}

# Waits until the machine has little else to do.
settle()
{
	local before try

	for ((try = 0; try < 2 * BENCH_PATIENCE; try++)); do
		before=$(cpu_machine)
		sleep 0.5
		[ $(($(cpu_machine) - before)) -gt $((cores * $(getconf CLK_TCK) * BENCH_OTHERS / 200)) ] || return 0
	done
}

# load_of VARIANT CLIENTS [options of pgbench]: sets load, the command that calls
# it, and what its length must be
load_of()
{
	local variant=$1 where=$2 clients=${2%@*} log='' option options
	shift 2

	case $variant in
		redis_* | pile*)
			load=("$programs/redis_load" -s "$scratch/redis/socket" -d "$bench_dir/peers")
			# shellcheck disable=SC2206
			[ "$variant" = "${variant#pile}" ] || load+=(-b "$brokers" -k "$topic" $BENCH_PILE_OPTIONS)
			case $mix in
				twice) load+=(-2) ;;
				rollback) load+=(-x 20) ;;
			esac
			for option; do
				case $option in
					--log) ;;
					--log-prefix=*) log=${option#*=} ;;
					*) load+=("$option") ;;
				esac
			done
			[ -z "$log" ] || load+=(-L "$log")
			;;
		http*)
			http_options "$@"
			load=("$programs/http_load" "${options[@]}" "${http[@]}")
			;;
		*)
			# its clock runs while it connects, see below
			[ "$duration" = 0 ] || length=(-T $((duration + clients / 200 + ${connecting:-0})))
			load=(env PGOPTIONS="-c search_path=$schema" pgbench -n -f "$scratch/script.sql" -M prepared "$@")
			if [ "$clients" != "$where" ]; then
				# before 1.21 PgBouncer knows no prepared statements in this mode
				start_pooler "${where#*@}" "$schema"
				load=(env PGHOST="$scratch/pooler" PGPORT=6432 pgbench -n -f "$scratch/script.sql" -M simple "$@")
			fi
			;;
	esac
}

# What a run leaves behind for the record.
outcomes=(calls rows seconds rate latency cost client_cost wal images others p50 p95 p99 p999 note violations)

# measure VARIANT CLIENTS SECONDS|NUMBERx [options of pgbench]: one run, no
# preparation; 300x: each connection calls so often.  Sets calls, seconds,
# latency (ms), rows, rate (rows or answers a second), cost and client_cost (CPU
# time of the servers and of the load generator), wal (bytes) and images (those
# of them that are pages written whole; if count_images is set), others (percent
# of the CPU time that went to other work), rows_before (which were there
# already), returned (units, by Redis) and ended (when, in epoch seconds).  Costs
# (us) and bytes are for a call, or for a row where a call writes many; what the
# sessions cost to start is not in them.
measure()
{
	local variant=$1 where=$2 clients=${2%@*} duration=$3 machine server client length load lsn start_server start_client
	shift 3

	case $duration in
		*x) length=(-t "${duration%x}") duration=0 ;;
		*) length=(-T "$duration") ;;
	esac
	settle
	rows_before=$(variant_rows "$variant")
	load_of "$variant" "$where" "$@"

	start_server=0 start_client=0
	[ "${load[*]/pgbench/}" = "${load[*]}" ] || [ "$clients" != "$where" ] || cost_of_starting "$clients"
	lsn=$(sql "SELECT pg_current_wal_insert_lsn()")
	machine=$(cpu_machine) server=$(cpu_server) wall=$(date +%s.%N)
	TIMEFORMAT='%U %S'
	{
		time timeout -k 5 "$(awk -v d="$duration" -v l="$BENCH_LIMIT" 'BEGIN { print d + l }')" \
			"${load[@]}" -c "$clients" -j "$cores" "${length[@]}" >"$scratch/pgbench" 2>&1
	} 2>"$scratch/time" || die "$variant, $where connections: $(grep -m 1 -E 'ERROR|FATAL' "$scratch/pgbench" || tail -n 1 "$scratch/pgbench")"
	ended=$(date +%s.%N)
	! grep -E 'ERROR|FATAL|aborted' "$scratch/pgbench" >&2 || die "$variant: errors during the run"
	client=$(client_ticks)
	machine=$(($(cpu_machine) - machine)) server=$(($(cpu_server) - server))
	others=$(awk -v all="$machine" -v own=$((server + client)) -v tck="$(getconf CLK_TCK)" \
		-v cores="$cores" -v a="$wall" -v b="$(date +%s.%N)" \
		'BEGIN { x = 100 * (all - own) / (tck * cores * (b - a)); printf "%.1f", x < 0 ? 0 : x }')
	stop_pooler

	calls=$(awk '/number of transactions actually processed/ { sub("/.*", "", $6); print $6 }' "$scratch/pgbench")
	latency=$(awk '/^latency average/ { print $4 }' "$scratch/pgbench")
	rate=$(awk '/^tps/ { print $3 }' "$scratch/pgbench")
	returned=$(awk '/^issued/ { print $8 }' "$scratch/pgbench")
	seconds=$(awk -v n="$calls" -v r="$rate" 'BEGIN { printf "%.3f", r ? n / r : 0 }')
	# connecting took most of the time: once more, with time for that
	if awk -v s="$seconds" -v d="$duration" 'BEGIN { exit s >= d / 2 }'; then
		[ -z "${connecting:-}" ] || die "$variant, $where connections: they take more than $connecting s to connect"
		local connecting=$((10 + clients / 25))
		measure "$variant" "$where" "$duration" "$@"
		return
	fi
	rows=$(($(variant_rows "$variant") - rows_before))
	cost=$(us_for_each $((server - start_server))) client_cost=$(us_for_each $((client - start_client)))
	count_wal "$lsn"
	if ! answers_only "$variant"; then
		rate=$(awk -v n="$rows" -v s="$seconds" 'BEGIN { print s ? n / s : 0 }')
	fi
	rate=$(printf '%.0f' "$rate")
}

# CPU time of the load generator that time has noted
client_ticks()
{
	awk -v tck="$(getconf CLK_TCK)" '{ print int(($1 + $2) * tck) }' "$scratch/time"
}

# cost_of_starting CLIENTS: what so many sessions cost that come, ask once and go,
# which in a short run would be a good part of each call.  Sets start_server and
# start_client, clock ticks, once for each number of connections.
cost_of_starting()
{
	if [ ! -e "$scratch/starting.$1" ]; then
		echo 'SELECT 1;' >"$scratch/starting.sql"
		start_server=$(cpu_server)
		TIMEFORMAT='%U %S'
		{
			time pgbench -n -f "$scratch/starting.sql" -M prepared -c "$1" -j "$cores" -t 1 >"$scratch/log" 2>&1
		} 2>"$scratch/time" || die "$1 connections: $(tail -n 3 "$scratch/log")"
		echo "$(($(cpu_server) - start_server)) $(client_ticks)" >"$scratch/starting.$1"
	fi
	read -r start_server start_client <"$scratch/starting.$1"
}

# us_for_each TICKS: us of CPU time for a call, or for a row where there are more
us_for_each()
{
	awk -v own="$1" -v tck="$(getconf CLK_TCK)" -v n="$((rows > calls ? rows : calls))" 'BEGIN { printf "%.1f", (n && own > 0) ? own * 1e6 / tck / n : 0 }'
}

# count_wal LSN: what was written since then; sets wal and images
count_wal()
{
	local n=$((rows > calls ? rows : calls)) end

	wal='' images=''
	[ "$n" -gt 0 ] || return 0
	end=$(sql "SELECT pg_current_wal_flush_lsn()")
	wal=$(sql "SELECT round(greatest(0, '$end'::pg_lsn - '$1'::pg_lsn) / $n)")
	if [ -n "${count_images:-}" ]; then
		# since PostgreSQL 15
		images=$(sql "SET client_min_messages = error; CREATE EXTENSION IF NOT EXISTS pg_walinspect;
			SELECT round(coalesce(sum(fpi_size), 0) / $n) FROM pg_get_wal_stats('$1', '$end', true)" 2>/dev/null) || images=''
	fi
}

# drain_requests CAMPAIGN NUMBER: that many requests, made in one transaction, are decided.
# Sets rate, between the first and the last commit, and calls, rows, seconds, cost.
drain_requests()
{
	local before server deadline=$((SECONDS + BENCH_LIMIT + $2 / 5000))

	before=$(sql "SELECT count(*) FROM coupon.issuance")
	sql "SELECT count(*) FROM generate_series(1, $2) g, coupon_request($1, (hashint8extended(g::bigint, 0) & 1125899906842623)::text)" >/dev/null
	server=$(cpu_server)
	until is_true "SELECT coalesce(sum(depth), 0) = 0 FROM coupon_request_queue($1)"; do
		[ "$SECONDS" -lt "$deadline" ] || die "requests are left of $2 after $BENCH_LIMIT s"
		sleep 0.1
	done
	server=$(($(cpu_server) - server))
	calls=$2 rows=$(($(sql "SELECT count(*) FROM coupon.issuance") - before))
	read -r rate seconds < <(sql "SELECT round(n / s), round(s::numeric, 3) FROM
		(SELECT count(*) AS n, extract(epoch FROM max(decided_at) - min(decided_at)) AS s FROM coupon.request WHERE campaign_id = $1) x" | tr '|' ' ')
	cost=$(us_for_each "$server")
}

# percentiles: of the latencies that --log --log-prefix=$scratch/log left, but for
# those of the first second, in which sessions fill their caches, and of the
# last, in which sessions end; sets p50, p95, p99, p999 (ms)
percentiles()
{
	local log

	read -r p50 p95 p99 p999 < <(for log in "$scratch"/log.*; do
		awk -v s="$seconds" '{ line[NR] = $0 } END { n = int(NR / (s < 3 ? 3 : s)); for (i = n + 1; i <= NR - n; i++) print line[i] }' "$log"
	done | cut -d ' ' -f 3 | grep -x '[0-9]*' | LC_ALL=C sort -n | awk '
		{ x[NR] = $1 / 1000 }
		function at(share,   i) { i = int(NR * share + 0.999999); return x[i < 1 ? 1 : i] }
		END { printf "%.2f %.2f %.2f %.2f\n", at(0.5), at(0.95), at(0.99), at(0.999) }')
	rm -f "$scratch"/log.*
}

# again TRY: others disturbed the last run, and it may be repeated once more.
again()
{
	[ "$1" -lt "$BENCH_RETRIES" ] && awk -v o="$others" -v max="$BENCH_OTHERS" 'BEGIN { exit o <= max }'
}

forget_outcomes()
{
	local name

	for name in "${outcomes[@]}"; do
		printf -v "$name" ''
	done
	others=0
}

# isolated COMMAND...: in a shell of its own, whose failure (or that of what it
# has started) voids one run and no more.  What measure sets is kept.
isolated()
{
	local status name

	: >"$scratch/outcome"
	set +e
	(
		set -e
		trap 'stop_consumer; stop_redis; stop_pooler' EXIT
		forget_outcomes
		"$@"
		for name in "${outcomes[@]}"; do
			printf '%s=%q\n' "$name" "${!name}"
		done >"$scratch/outcome"
	) 2>"$scratch/errors"
	status=$?
	set -e
	cat "$scratch/errors" >&2
	forget_outcomes
	# shellcheck source=/dev/null
	. "$scratch/outcome"
	[ "$status" = 0 ] || violations=${violations:-failed: $(tail -n 1 "$scratch/errors" | cut -c 1-200)}
}

# checked_run VARIANT CLIENTS SECONDS [options]: from a fresh state
checked_run()
{
	prepare_variant "$1"
	measure "$@"
	violations=$(check_variant "$1" | head -n 5)
	if ! answers_only "$1" && [ "$rows" != "$calls" ]; then
		violations+="${violations:+; }$calls calls issued $rows rows"
	fi
}

# cell COMMAND...: again when others were busy.  Sets what measure sets, and
# violations.
cell()
{
	local try

	for ((try = 0; ; try++)); do
		isolated "$@"
		if [ -n "$violations" ] || ! again "$try"; then
			break
		fi
	done
}
