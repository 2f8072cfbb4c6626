#!/usr/bin/env bash
#
# The queues: draining a backlog under a held snapshot, how long a request takes on
# an idle system, joins with many and with few waiting.  (Requests beside the
# bare INSERT, the drain, position polls: parts to_row, bulk and mixes.)
#
#	BENCH_QUEUES   which of snapshot latency rooms
#	BENCH_BACKLOG  requests that are drained
#	BENCH_WAITING  tickets that wait
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

settings+=(coupon.request_depth=50000000 coupon.queue_memory=512MB)
need_server "$@"
failed_figures=0
: "${BENCH_QUEUES:=snapshot latency rooms}" "${BENCH_BACKLOG:=200000}" "${BENCH_WAITING:=1000000}"

# run SCRIPT CLIENTS [options]: sets rate
run()
{
	settle
	pgbench -n -f "$1" -M prepared -c "$2" -j "$cores" -T "$BENCH_SECONDS" "${@:3}" >"$scratch/pgbench" 2>&1 ||
		die "pgbench: $(tail -n 3 "$scratch/pgbench")"
	! grep -E 'ERROR|FATAL|aborted' "$scratch/pgbench" >&2 || die "errors during the run"
	rate=$(awk '/^tps/ { printf "%.0f", $3 }' "$scratch/pgbench")
}

drained()
{
	until [ "$(sql "SELECT coalesce(sum(depth), 0) FROM coupon_request_queue()")" = 0 ]; do sleep 0.2; done
}

# backlog: the rate of its drain
backlog()
{
	drain_requests "$(sql "SELECT coupon_campaign_create('drain', 100000000)")" "$BENCH_BACKLOG"
}

prepare_variant request

figure_snapshot()
{
	: >"$scratch/ratios"
	detail=
	for ((pair = 1; pair <= BENCH_PAIRS; pair++)); do
		backlog; free_rate=$rate
		psql -qXAt >/dev/null <<-END &
			BEGIN ISOLATION LEVEL REPEATABLE READ;
			SELECT count(*) FROM pg_class;
			SELECT pg_sleep(${BENCH_SNAPSHOT_HELD:-60});
		END
		holder=$!
		held_rate=
		end=$((SECONDS + ${BENCH_SNAPSHOT_HELD:-60} - 5))
		while [ "$SECONDS" -lt "$end" ]; do backlog; held_rate=$rate; done
		kill "$holder" 2>/dev/null || true
		wait "$holder" 2>/dev/null || true
		backlog; after_rate=$rate
		echo "$held_rate $free_rate $after_rate" | awk '{ print $1 * 2 / ($2 + $3) }' >>"$scratch/ratios"
		detail+="${detail:+, }without $free_rate, at the end of the snapshot $held_rate, after it $after_rate"
	done
	figure "drain with a snapshot held ${BENCH_SNAPSHOT_HELD:-60} s / without" "$(printf '%.2f' "$(median <"$scratch/ratios")")" at_least 0.95 "$detail"
}

figure_latency()
{
	# how long a request takes, one at a time
	sql "SELECT coupon_campaign_create('idle', 100000)" >"$scratch/campaign"
	printf '%s\n' '\set u random(1, 1000000000000000)' "SELECT coupon_request($(cat "$scratch/campaign"), :u::text);" '\sleep 10 ms' >"$scratch/idle.sql"
	sql CHECKPOINT
	BENCH_SECONDS=15 run "$scratch/idle.sql" 1
	drained
	read -r p50 p99 <<<"$(sql "SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY ms) || ' ' || percentile_disc(0.99) WITHIN GROUP (ORDER BY ms)
		FROM (SELECT round((1000 * extract(epoch FROM decided_at - requested_at))::numeric, 1) AS ms FROM coupon.request WHERE campaign_id = $(cat "$scratch/campaign")) x")"
	figure "ms from accepted to decided on an idle system, p50" "$p50" at_most 5
	figure "the same, p99" "$p99" at_most 25
}

# few wait, then many: A B B A
figure_rooms()
{
	local waiting pair detail=''
	declare -A sum

	for waiting in 1000 "$BENCH_WAITING"; do
		sql "SELECT coupon_room_create('room $waiting', 1, idle_ttl => '1 day', session_ttl => '1 day')" >/dev/null
		psql -qXAt -c "SELECT count(*) FROM generate_series(1, $waiting) g, coupon_queue_join('room $waiting', 'w' || g)" >/dev/null
		printf '%s\n' '\set u random(1, 1000000000000000)' "SELECT coupon_queue_join('room $waiting', :u::text);" >"$scratch/join_$waiting.sql"
	done
	: >"$scratch/ratios"
	for ((pair = 1; pair <= BENCH_PAIRS; pair++)); do
		sum=()
		for waiting in "$BENCH_WAITING" 1000 1000 "$BENCH_WAITING"; do
			run "$scratch/join_$waiting.sql" 64
			sum[$waiting]=$((${sum[$waiting]:-0} + rate))
			detail+="${detail:+, }$waiting $rate"
		done
		echo "${sum[$BENCH_WAITING]} ${sum[1000]}" | awk '{ print $1 / $2 }' >>"$scratch/ratios"
	done
	figure "joins with $BENCH_WAITING waiting / with 1000 at 64" "$(printf '%.2f' "$(median <"$scratch/ratios")")" at_least 0.9 "$detail"
}

for part in $BENCH_QUEUES; do
	"figure_$part"
done
violations=$(check_variant coupon | grep -v 'issuances' | head -n 5 || true)
[ -z "$violations" ] || die "void: $violations"
exit "$failed_figures"
