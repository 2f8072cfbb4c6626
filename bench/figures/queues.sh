#!/usr/bin/env bash
#
# The queues: accepting requests beside the bare INSERT, draining a backlog
# beside coupon_issue_many and under a held snapshot, position polls beside
# SELECT 1, joins with many and with few waiting, and how long a request takes
# on an idle system.
#
#	BENCH_QUEUES   which of requests drain snapshot latency rooms
#	BENCH_BACKLOG  requests that are drained
#	BENCH_WAITING  tickets that wait
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

settings+=(coupon.request_depth=50000000 coupon.queue_memory=512MB)
need_server "$@"
failed_figures=0
: "${BENCH_QUEUES:=requests drain snapshot latency rooms}" "${BENCH_BACKLOG:=200000}" "${BENCH_WAITING:=1000000}"

# run SCRIPT CLIENTS [options]: sets rate
run()
{
	settle
	pgbench -n -f "$1" -M prepared -c "$2" -j "$cores" -T "$BENCH_SECONDS" "${@:3}" >"$scratch/pgbench" 2>&1 ||
		die "pgbench: $(tail -n 3 "$scratch/pgbench")"
	! grep -E 'ERROR|FATAL|aborted' "$scratch/pgbench" >&2 || die "errors during the run"
	rate=$(awk '/^tps/ { printf "%.0f", $3 }' "$scratch/pgbench")
}

# pairs NAME AT_LEAST A B CLIENTS: scripts A B B A
pairs()
{
	local pair script sum_a sum_b

	: >"$scratch/ratios"
	detail=
	for ((pair = 1; pair <= BENCH_PAIRS; pair++)); do
		sum_a=0 sum_b=0
		for script in "$3" "$4" "$4" "$3"; do
			run "$scratch/$script" "$5"
			if [ "$script" = "$3" ]; then sum_a=$((sum_a + rate)); else sum_b=$((sum_b + rate)); fi
			detail+="${detail:+, }${script%.sql} $rate"
			drained
		done
		echo "$sum_a $sum_b" | awk '{ print $1 / $2 }' >>"$scratch/ratios"
	done
	figure "$1" "$(printf '%.2f' "$(median <"$scratch/ratios")")" at_least "$2" "$detail"
}

drained()
{
	until [ "$(sql "SELECT coalesce(sum(depth), 0) FROM coupon_request_queue()")" = 0 ]; do sleep 0.2; done
}

# drain: decides a backlog; prints requests a second, by the first and the last commit
drain()
{
	local campaign

	campaign=$(sql "SELECT coupon_campaign_create('drain', 100000000)")
	psql -qXAt -c "SELECT count(*) FROM generate_series(1, $BENCH_BACKLOG) g, coupon_request($campaign, 'd' || g)" >/dev/null
	drained
	sql "SELECT round(count(*) / extract(epoch FROM max(decided_at) - min(decided_at))) FROM coupon.request WHERE campaign_id = $campaign"
}

prepare_variant coupon
campaign=$(cat "$scratch/campaign")
sql "CREATE SCHEMA bench; CREATE TABLE bench.bare (campaign_id bigint, serial bigint, user_id text, PRIMARY KEY (campaign_id, serial))"
printf '%s\n' '\set u random(1, 1000000000000000)' 'INSERT INTO bench.bare VALUES (1, :u, :u);' >"$scratch/insert.sql"
printf '%s\n' '\set u random(1, 1000000000000000)' "SELECT coupon_request($campaign, :u::text);" >"$scratch/request.sql"
printf '%s\n' 'SELECT 1;' >"$scratch/select1.sql"

until [ "$(sql "SELECT count(*) FROM pg_stat_activity WHERE backend_type IN ('coupon issuer', 'coupon room worker')")" = 2 ]; do sleep 0.1; done

figure_requests()
{
	pairs "requests accepted / bare INSERT at 64, issuers at work" 0.7 request.sql insert.sql 64
}

figure_drain()
{
	sql "CHECKPOINT"
	drain >/dev/null
	: >"$scratch/ratios"
	detail=
	for ((pair = 1; pair <= BENCH_PAIRS; pair++)); do
		many=$(sql "SELECT coupon_campaign_create('many', 100000000)")
		sql "SELECT count(*) FROM coupon_issue_many($many, ARRAY['warm'])" >/dev/null
		ms=$(psql -qXAt -c '\timing on' -c "SELECT count(*) FROM coupon_issue_many($many, (SELECT array_agg('m' || g) FROM generate_series(1, $BENCH_BACKLOG) g))" | awk '/^Time/ { print $2 }')
		many_rate=$(awk -v n="$BENCH_BACKLOG" -v ms="$ms" 'BEGIN { printf "%.0f", n * 1000 / ms }')
		drain_rate=$(drain)
		echo "$drain_rate $many_rate" | awk '{ print $1 / $2 }' >>"$scratch/ratios"
		detail+="${detail:+, }drain $drain_rate, many $many_rate"
	done
	figure "drain of $BENCH_BACKLOG requests / coupon_issue_many" "$(printf '%.2f' "$(median <"$scratch/ratios")")" at_least 0.5 "$detail"
}

figure_snapshot()
{
	: >"$scratch/ratios"
	detail=
	for ((pair = 1; pair <= BENCH_PAIRS; pair++)); do
		free_rate=$(drain)
		psql -qXAt >/dev/null <<-END &
			BEGIN ISOLATION LEVEL REPEATABLE READ;
			SELECT count(*) FROM pg_class;
			SELECT pg_sleep(${BENCH_SNAPSHOT_HELD:-60});
		END
		holder=$!
		held_rate=
		end=$((SECONDS + ${BENCH_SNAPSHOT_HELD:-60} - 5))
		while [ "$SECONDS" -lt "$end" ]; do held_rate=$(drain); done
		kill "$holder" 2>/dev/null || true
		wait "$holder" 2>/dev/null || true
		after_rate=$(drain)
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

figure_rooms()
{
	# rooms: few wait, then many
	for waiting in 1000 "$BENCH_WAITING"; do
		sql "SELECT coupon_room_create('room $waiting', 1, idle_ttl => '1 day', session_ttl => '1 day')" >/dev/null
		psql -qXAt -c "SELECT count(*) FROM generate_series(1, $waiting) g, coupon_queue_join('room $waiting', 'w' || g)" >/dev/null
		sql "CREATE TABLE bench.token_$waiting AS SELECT row_number() OVER ()::int AS n, room_id || '.' || number || '.' || replace(secret::text, '-', '') AS token
			FROM coupon.ticket WHERE room_id = (SELECT room_id FROM coupon.room WHERE name = 'room $waiting') AND number > $waiting * 0.9 AND number % ($waiting / 1000) = 0"
		n=0
		echo '\set n random(1, 8)' >"$scratch/poll_$waiting.sql"
		for token in $(sql "SELECT token FROM bench.token_$waiting ORDER BY n LIMIT 8"); do
			n=$((n + 1))
			printf '%s\n' "\\if :n = $n" "SELECT coupon_queue_position('$token');" '\endif' >>"$scratch/poll_$waiting.sql"
		done
		printf '%s\n' '\set u random(1, 1000000000000000)' "SELECT coupon_queue_join('room $waiting', :u::text);" >"$scratch/join_$waiting.sql"
		pairs "position poll / SELECT 1 at 64, $waiting waiting" 0.7 "poll_$waiting.sql" select1.sql 64
	done
	pairs "joins with $BENCH_WAITING waiting / with 1000 at 64" 0.9 "join_$BENCH_WAITING.sql" join_1000.sql 64
}

for part in $BENCH_QUEUES; do
	"figure_$part"
done
violations=$(check_variant coupon | grep -v 'issuances' | head -n 5 || true)
[ -z "$violations" ] || die "void: $violations"
exit "$failed_figures"
