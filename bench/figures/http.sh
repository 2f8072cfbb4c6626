#!/usr/bin/env bash
#
# The HTTP front: what it issues beside other ways, what a call costs, and how it
# holds out at many connections.
#
#	BENCH_HTTP_FIGURES   some of: insert connections redis grouped cost polls
#	                     streams spike ramp users memory pile (flush: when named)
#	BENCH_HTTP_SCALE     factor on the durations of spike, ramp and users
#	BENCH_WAITING        tickets of the line that the streams are in
#	BENCH_STREAMS        of them that have a stream open
set -euo pipefail

export BENCH_SECONDS=${BENCH_SECONDS:-4} BENCH_PAIRS=${BENCH_PAIRS:-1}
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=test/bin/common.sh
. "$top/test/bin/common.sh"

: "${BENCH_HTTP_SCALE:=0.2}" "${BENCH_WAITING:=1000000}" "${BENCH_STREAMS:=10000}" "${BENCH_IDLE:=5000}"
settings+=(coupon.http_max_connections=12000 coupon.queue_memory=512MB coupon.request_depth=50000000)
need_server "$@"
ulimit -S -n "$(ulimit -H -n)"	# a file for each stream
failed_figures=0

# scaled NUMBER: of seconds
scaled()
{
	awk -v f="$BENCH_HTTP_SCALE" -v n="$1" 'BEGIN { print f * n }'
}

# load OPTION...: http_load; sets line, and p95 and others by name
load()
{
	line=$("$programs/http_load" "$@" | head -n 1)
	answers=$(said answers) rate=$(said rate) p50=$(said p50) p95=$(said p95) p99=$(said p99) slowest=$(said max)
}

# said NAME: its number in the line, 0 without it
said()
{
	sed -nE "s/(.* )?$1=([0-9.]+).*/\\2/p" <<<"$line" | grep . || echo 0
}

front_pids()
{
	sql "SELECT pid FROM pg_stat_activity WHERE backend_type = 'coupon front'"
}

# front_cpu: CPU time of the front's workers so far, in clock ticks
front_cpu()
{
	local pid

	for pid in $(front_pids); do
		sed 's/.*) //' "/proc/$pid/stat"
	done | awk '{ n += $12 + $13 } END { print n }'
}

# per_call TICKS CALLS: us
per_call()
{
	awk -v t="$1" -v n="$2" -v tck="$(getconf CLK_TCK)" 'BEGIN { printf "%.1f", n ? t * 1e6 / tck / n : 0 }'
}

figure_insert()
{
	local clients

	for clients in 64 200 1000@64; do
		compare "$clients" http insert
		figure "HTTP issue / bare INSERT at $clients" "$(printf %.2f "$ratio")" at_least \
			"$(case $clients in 64) echo 1.3 ;; 200) echo 1.5 ;; *) echo 2.5 ;; esac)" "$detail"
	done
	# the turn of one worker goes on while the other waits for its flush
	with_setting coupon.http_workers 2
	for clients in 64 200; do
		compare "$clients" http insert
		figure "the same by two workers at $clients" "$(printf %.2f "$ratio")" info - "$detail"
	done
	with_setting coupon.http_workers 1
}

figure_connections()
{
	local clients detail=
	declare -A sum

	for clients in 64 1000 5000 5000 1000 64; do
		cell checked_run http "$clients" "$BENCH_SECONDS"
		[ -z "$violations" ] || die "void, at $clients connections: $violations"
		sum[$clients]=$((${sum[$clients]:-0} + rate))
		detail+="${detail:+, }at $clients $rate"
	done
	for clients in 1000 5000; do
		figure "HTTP issue at $clients / at 64 connections" \
			"$(awk -v a="${sum[$clients]}" -v b="${sum[64]}" 'BEGIN { printf "%.2f", a / b }')" at_least \
			"$([ "$clients" = 1000 ] && echo 0.9 || echo 0.8)" "$detail"
	done
}

figure_redis()
{
	if [ -n "$(why_not redis_always)" ]; then
		figure 'HTTP issue / Redis Lua, appendfsync always, at 200' - info - "$(why_not redis_always | tr '\n' ' ')"
		return
	fi
	compare 200 http redis_always
	figure 'HTTP issue / Redis Lua, appendfsync always, at 200' "$(printf %.2f "$ratio")" at_least 0.5 "$detail"
}

figure_grouped()
{
	compare 64 http grouped
	figure 'HTTP issue / coupon_issue_grouped through pgbench at 64' "$(printf %.2f "$ratio")" at_least 1.3 "$detail"
}

# What an issue costs; and what a sold-out answer does, which is all of the
# front and a refusal, beside one for which nothing is asked.
figure_cost()
{
	local clients campaign before what pair detail='' cost_of_all=''
	declare -A sum=([sold_out]=0 [empty]=0)

	for clients in 64 1000; do
		cell checked_run http "$clients" "$BENCH_SECONDS"
		[ -z "$violations" ] || die "void, at $clients connections: $violations"
		figure "CPU time of the server for an HTTP issue at $clients, us" "$cost" at_most 25 "$rate/s"
	done
	campaign=$(sql "SELECT coupon_campaign_create('gone', 1)")
	sql "SELECT coupon_issue($campaign, 'first')" >/dev/null
	for ((pair = 1; pair <= BENCH_PAIRS; pair++)); do
		for what in sold_out empty empty sold_out; do
			settle
			before=$(front_cpu)
			if [ "$what" = empty ]; then
				load -c 64 -T "$BENCH_SECONDS" "$BENCH_HTTP" GET /healthz ''
			else
				load -c 64 -T "$BENCH_SECONDS" "$BENCH_HTTP" POST "/campaigns/$campaign/issues" '{"user_id":"%u"}'
				[ "$(said 409)" = "$answers" ] || die "void: $line"
				cost_of_all=$(per_call $(($(front_cpu) - before)) "$answers")
			fi
			sum[$what]=$((${sum[$what]} + rate))
			detail+="${detail:+, }$what $rate/s at $(per_call $(($(front_cpu) - before)) "$answers") us"
		done
	done
	figure 'sold-out answers / empty answers of the front at 64' \
		"$(awk -v a="${sum[sold_out]}" -v b="${sum[empty]}" 'BEGIN { printf "%.2f", a / b }')" at_least 0.8 "$detail"
	figure 'CPU time of the front for a sold-out answer, us' "$cost_of_all" at_most 10 "$detail"
}

# What the other hot calls cost, beside an answer for which nothing is asked.
figure_polls()
{
	local ticket request_id campaign before what method path body empty=1

	campaign=$(sql "SELECT coupon_campaign_create('asked', 50000000)")
	sql "SELECT coupon_room_create('polled', 1, idle_ttl => '1 day', session_ttl => '1 day')" >/dev/null
	sql "SELECT count(*) FROM generate_series(1, 10000) g, coupon_queue_join('polled', 'p' || g)" >/dev/null
	ticket=$(sql "SELECT room_id || '.' || number || '.' || replace(secret::text, '-', '') FROM coupon.ticket WHERE user_id = 'p5000'")
	request_id=$(sql "SELECT (coupon_request($campaign, 'asker')).request_id")
	while read -r what method path body; do
		settle
		before=$(front_cpu)
		load -c 64 -T "$BENCH_SECONDS" "$BENCH_HTTP" "$method" "$path" "$body"
		[ $(($(said 200) + $(said 201) + $(said 202))) = "$answers" ] || die "void: $line"
		[ "$what" = empty ] && empty=$rate
		figure "${what//_/ } / empty answers of the front at 64" "$(awk -v a="$rate" -v b="$empty" 'BEGIN { printf "%.2f", a / b }')" \
			info - "$rate/s at $(per_call $(($(front_cpu) - before)) "$answers") us of the front"
	done <<-END
		empty GET /healthz
		positions GET /rooms/polled/tickets/$ticket
		states_of_a_request GET /campaigns/$campaign/requests/$request_id
		statuses_of_a_campaign GET /campaigns/$campaign
		requests POST /campaigns/$campaign/requests {"user_id":"%u"}
		joins POST /rooms/polled/tickets {"user_id":"%u"}
	END
}

# Many wait, some of them by an event stream; now and then the first one leaves.
figure_streams()
{
	local tokens round before took delays=() told worst cpu

	sql "SELECT coupon_room_create('hall', 1, idle_ttl => '1 day', session_ttl => '1 day')" >/dev/null
	sql "SELECT count(*) FROM generate_series(1, $BENCH_WAITING) g, coupon_queue_join('hall', 'w' || g)" >/dev/null
	tokens="SELECT room_id || '.' || number || '.' || replace(secret::text, '-', '') FROM coupon.ticket WHERE room_id = (SELECT room_id FROM coupon.room WHERE name = 'hall')"
	sql CHECKPOINT
	coproc streams { "$programs/http_streams" "$BENCH_HTTP" 2>&1; }
	# shellcheck disable=SC2154
	exec 3>&"${streams[1]}" 4<&"${streams[0]}"
	sql "SELECT '/rooms/hall/tickets/' || t FROM ($tokens AND number > 1000 AND number % ($BENCH_WAITING / $BENCH_STREAMS) = 0) x(t)" >&3
	echo >&3
	IFS= read -r -t 120 line <&4 || die 'the streams do not open'
	[[ $line == open* ]] || die "$line"
	sleep 2
	before=$(front_cpu) took=$EPOCHREALTIME
	for round in {1..10}; do
		sql "SELECT coupon_queue_leave(t, 'left') FROM ($tokens AND number = $round + 1) x(t)" >/dev/null
		echo mark >&3
		IFS= read -r -t 30 line <&4 || die 'the streams tell nothing'
		told=$(sed -E 's/told ([0-9]+) of ([0-9]+) .*/\1 \2/' <<<"$line")
		[ "${told% *}" = "${told#* }" ] || die "$line"
		delays+=("$(sed -E 's/.* p99 ([0-9]+) .*/\1/' <<<"$line")")
		sleep "0.$((RANDOM % 900 + 100))"
	done
	cpu=$(awk -v t=$(($(front_cpu) - before)) -v a="$took" -v b="$EPOCHREALTIME" -v tck="$(getconf CLK_TCK)" \
		'BEGIN { printf "%.1f", 100 * t / tck / (b - a) }')
	exec 3>&- 4<&-
	worst=$(printf '%s\n' "${delays[@]}" | sort -n | tail -n 1)
	figure "${told#* } open event streams, $BENCH_WAITING waiting: CPU of the front, percent of a core" "$cpu" at_most 25
	figure 'the same: p99 of the delay of a new position, ms, the worst of 10 moves' "$worst" at_most 1500 "${delays[*]}"
}

# outcome CAMPAIGN STOCK: errors, duplicates and units of what load did, under
# the title
outcome()
{
	local rows duplicates errors

	rows=$(sql "SELECT count(*) FROM coupon.issuance WHERE campaign_id = $1")
	duplicates=$(sql "SELECT count(*) FROM (SELECT FROM coupon.issuance WHERE campaign_id = $1 GROUP BY user_id HAVING count(*) > 1) x")
	errors=$((answers - $(said 200) - $(said 201) - $(said 409)))
	figure "$title: errors" "$errors" at_most 0 "$line"
	figure "$title: duplicates" "$duplicates" at_most 0
	figure "$title: units issued of $2, told issued $(said 201)" \
		"$([ "$rows" = "$2" ] && [ "$(said 201)" = "$2" ] && echo "$rows" || echo "$rows, not exact")" at_least "$2"
	[ -z "$(sql "SELECT * FROM coupon_verify($1)")" ] || die "void: coupon_verify"
}

figure_spike()
{
	local campaign pause title stages

	stages=$(scaled 10):500,$(scaled 30):500,$(scaled 10):0
	for pause in 500 0; do
		title="spike of 004 over HTTP$([ "$pause" = 500 ] && echo ', 2 calls/s each' || echo ' without think time')"
		campaign=$(sql "SELECT coupon_campaign_create('spike $pause', 500)")
		settle
		load -r "$stages" -z "$pause" -u 2000 "$BENCH_HTTP" POST "/campaigns/$campaign/issues" '{"user_id":"u%u"}'
		figure "$title: p95 ms" "$p95" at_most 20 "p50 $p50, p99 $p99, slowest $slowest; $answers calls, $rate/s, durations x $BENCH_HTTP_SCALE"
		outcome "$campaign" 500
	done
}

figure_ramp()
{
	local campaign errors

	campaign=$(sql "SELECT coupon_campaign_create('ramp', 50000)")
	settle
	load -r "$(scaled 60):500,$(scaled 60):1000,$(scaled 60):2000,$(scaled 120):0" -z 1000 -u 100000 \
		"$BENCH_HTTP" POST "/campaigns/$campaign/requests" '{"user_id":"u%u"}'
	errors=$((answers - $(said 200) - $(said 202) - $(said 409)))
	figure 'ramp of 003 to 2,000 clients over HTTP: p95 ms' "$p95" at_most 50 "p50 $p50, p99 $p99, slowest $slowest; $answers calls, $rate/s, durations x $BENCH_HTTP_SCALE"
	figure 'the same: failures' "$errors" at_most 0 "$line"
	wait_until 60 'the requests to be decided' is_true "SELECT coalesce(sum(depth), 0) = 0 FROM coupon_request_queue($campaign)"
	[ -z "$(sql "SELECT * FROM coupon_verify($campaign)")" ] || die "void: coupon_verify"
}

# 5,000 users, ever more, four kinds of 5,000 coupons
figure_users()
{
	local kind campaigns=() loads=() worst=0 failures=0 all=0 rows

	for kind in 1 2 3 4; do
		campaigns+=("$(sql "SELECT coupon_campaign_create('kind $kind', 5000)")")
	done
	settle
	for kind in 1 2 3 4; do
		"$programs/http_load" -r "$(scaled 60):1250" -z 1000 -u 5000 "$BENCH_HTTP" \
			POST "/campaigns/${campaigns[kind - 1]}/issues" '{"user_id":"u%u"}' >"$scratch/users$kind" &
		loads+=($!)
	done
	wait "${loads[@]}"
	for kind in 1 2 3 4; do
		line=$(head -n 1 "$scratch/users$kind")
		worst=$(printf '%s\n' "$worst" "$(said p95)" | sort -g | tail -n 1)
		failures=$((failures + $(said answers) - $(said 200) - $(said 201) - $(said 409)))
		all=$((all + $(said 201)))
	done
	rows=$(sql "SELECT count(*) FROM coupon.issuance WHERE campaign_id BETWEEN ${campaigns[0]} AND ${campaigns[3]}")
	figure '5,000 users of 002 over HTTP, four kinds of 5,000: p95 ms of the worst kind' "$worst" at_most 50 "$all issued; durations x $BENCH_HTTP_SCALE"
	figure 'the same: failures' "$failures" at_most 0
	figure 'the same: issued in the database but not so answered, or otherwise' $((rows > all ? rows - all : all - rows)) at_most 0
	[ -z "$(sql "SELECT * FROM coupon_verify()")" ] || die "void: coupon_verify"
}

# front_memory: bytes of private memory of the front
front_memory()
{
	local pid

	for pid in $(front_pids); do
		awk '/^RssAnon/ { print $2 * 1024 }' "/proc/$pid/status"
	done | awk '{ n += $1 } END { print n }'
}

figure_memory()
{
	local before after holder

	load -c 64 -t 20 "$BENCH_HTTP" GET /healthz ''
	before=$(front_memory)
	"$programs/http_load" -c "$BENCH_IDLE" -t 1 -H 30 "$BENCH_HTTP" GET /healthz '' >"$scratch/idle" &
	holder=$!
	wait_until 60 'the connections' grep -q ' 200=' "$scratch/idle"
	after=$(front_memory)
	kill "$holder"
	wait "$holder" 2>/dev/null || true
	figure 'memory of the front for an idle connection, bytes' $(((after - before) / BENCH_IDLE)) at_most 8192 "$BENCH_IDLE connections, each after a call"
}

# with_setting NAME VALUE: the server from here on
with_setting()
{
	sql "ALTER SYSTEM SET $1 = $2"
	as_server_user pg_ctl -s -D "$data" -m fast -w -t 120 -l "${COUPON_SERVER_LOG:?}" restart >/dev/null
	postmaster=$(head -n 1 "$data/postmaster.pid")
}

# What is gained by a flush that overlaps the next turn: by a second worker, and
# at most by answers that are held back, which nobody waits for here at all.
figure_flush()
{
	local clients what
	declare -A sum detail=()

	for clients in 64 200 1000; do
		for what in 1 2 off off 2 1; do
			with_setting coupon.http_workers "$([ "$what" = 2 ] && echo 2 || echo 1)"
			with_setting synchronous_commit "$([ "$what" = off ] && echo off || echo on)"
			cell checked_run http "$clients" "$BENCH_SECONDS"
			[ -z "$violations" ] || die "void, at $clients connections: $violations"
			sum[$clients $what]=$((${sum[$clients $what]:-0} + rate))
			detail[$what]+="$rate/s at $cost us, "
		done
		for what in 2 off; do
			figure "HTTP issue $([ "$what" = 2 ] && echo 'by two workers' || echo 'without waiting for the flush') / by one that waits, at $clients" \
				"$(awk -v a="${sum[$clients $what]}" -v b="${sum[$clients 1]}" 'BEGIN { printf "%.2f", a / b }')" info - \
				"${detail[$what]}one ${detail[1]}"
		done
		detail=()
	done
	with_setting coupon.http_workers 1
	with_setting synchronous_commit on
}

# To the row and the event in Kafka, beside Redis, Kafka and a consumer.
figure_pile()
{
	local clients peer

	if ! BENCH_RESULTS=$scratch/to_row BENCH_ROW_VARIANTS='http_kafka pile_always pile' BENCH_SECONDS=3 BENCH_PAIRS=1 \
		BENCH_ROW_CLIENTS='64 200 1000@64' "$bench_dir/parts/to_row.sh" >"$scratch/to_row.out"; then
		cat "$scratch/to_row.out" >&2
		die 'part to_row failed'
	fi
	cat "$scratch/to_row.out" >&2
	for clients in 64 200 1000@64; do
		for peer in pile_always pile; do
			read -r ratio detail <<<"$(awk -F, -v c="$clients" -v peer="$peer" '
				$1 == c && $3 == "http_kafka" { a += $7; list = list " http_kafka " $7 "," }
				$1 == c && $3 == peer { b += $7; list = list " " peer " " $7 "," }
				END { printf "%.2f %s", b ? a / b : 0, list }' "$scratch/to_row/to_row.runs.csv")"
			figure "HTTP issue with events in $(sed -n 's/^broker: \(Kafka\|mock\).*/\1/p' "$scratch/to_row.out") / the $peer, to row and event, at $clients" \
				"$ratio" at_least 2 "$detail"
		done
	done
}

prepare_variant http
for name in ${BENCH_HTTP_FIGURES:-insert connections redis grouped cost polls streams spike ramp users memory pile}; do
	case $name in
		polls | streams | spike | ramp | users | memory) prepare_variant http ;;
	esac
	"figure_$name"
done
exit "$failed_figures"
