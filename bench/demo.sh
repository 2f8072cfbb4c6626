#!/usr/bin/env bash
#
# The demo: sales on a private server, from many connections by pgbench,
# and their events on an embedded Kafka broker (librdkafka's mock cluster).
#
#   sale   4 campaigns of 5,000 units; 5,000 users who each want all four;
#          from 64 connections, then, with fresh campaigns, from 200
#   spike  one campaign of 500 units; 2,000 users; 500 connections at once
#   http   one campaign of 10,000 units by the extension's own HTTP front, 200
#          connections
#   room   a waiting room for 50 in front of a campaign of 400 units; 500 users
#
# Run by "make demo".  Exits with 1 if any unit is lost or sold twice, any
# call fails or any event is missing on the broker.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [ -z "${COUPON_SERVER_LOG:-}" ]; then
	echo 'Starting a PostgreSQL server and a Kafka broker that nobody else uses'
	# shellcheck source=bench/http/lib.sh
	. "$here/http/lib.sh"
	port=$(free_port)
	export COUPON_HTTP=127.0.0.1:$port
	exec "$here/../test/bin/with_server" -c max_connections=600 -c "coupon.http_listen=$COUPON_HTTP" \
		-c coupon.http_role=coupon_service "$here/demo.sh"
fi

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

# The broker lives as long as its input is open; its first line is its address.
mkfifo "$logs/commands" "$logs/answers"
"$here/../tmp_kafka/bin/mock_broker" -b 1 -t coupon-issued:12 <"$logs/commands" >"$logs/answers" &
exec 7>"$logs/commands" 8<"$logs/answers"
IFS= read -r brokers <&8 || { echo 'demo: the Kafka broker does not start' >&2; exit 1; }

sql()
{
	psql -X -q -A -t -P pager=off -v ON_ERROR_STOP=1 -c "$1"
}

# 12345 -> 12,345
thousands()
{
	sed -E ':a; s/([0-9])([0-9]{3})($|[^0-9])/\1,\2\3/; ta' <<<"$1"
}

# ask SQL: the answer, one line, of the session that lives through a run
ask()
{
	echo "${1//[$'\t\n']/ };" >&"${DRIVER[1]}"
	IFS= read -r answer <&"${DRIVER[0]}"
}

# on_broker FIRST LAST: "events|copies" of units issued in these campaigns, as
# another client reads them
on_broker()
{
	kcat -C -e -q -o beginning -b "$brokers" -t coupon-issued -f '%h %s\n' 2>/dev/null |
		awk -v first="$1" -v last="$2" '
			/ce_type=coupon.issued,/ && match($0, /"campaign_id":[0-9]+/) {
				campaign = substr($0, RSTART + 14, RLENGTH - 14)
				if (campaign >= first && campaign <= last) { copies++; if (!seen[substr($0, 1, 40)]++) events++ }
			}
			END { print events + 0 "|" copies + 0 }'
}

# watch_sale PID: a line about the campaigns while process PID runs; on a
# terminal it stays in its place
watch_sale()
{
	local pid=$1 format='  %s\n' pause=0.25

	if [ -t 1 ]; then
		format='  %-76s\r'
		pause=0.2
	fi
	while kill -0 "$pid" 2>/dev/null; do
		ask "SELECT format('%s s: %s of %s issued, %s already issued, %s sold out, %s busy',
			to_char(extract(epoch FROM clock_timestamp()) - $opened, 'FM990.0'),
			to_char(sum(issued), 'FM999,990'), to_char(sum(stock), 'FM999,990'),
			to_char(sum(answered_already_issued), 'FM999,990'),
			to_char(sum(answered_sold_out), 'FM999,990'), sum(answered_busy))
			FROM coupon.campaign_status WHERE campaign_id BETWEEN $first AND $last"
		# shellcheck disable=SC2059
		printf "$format" "$answer"
		sleep "$pause"
	done
}

rows=()			# of the table: "label|value|value|value"
bad=0

# column VALUE...: appends one column to the table
column()
{
	local i=0 value

	for value in "$@"; do
		rows[i]+="|$value"
		i=$((i + 1))
	done
}

# run NAME CONNECTIONS CAMPAIGNS UNITS USERS
run()
{
	local name=$1 clients=$2 campaigns=$3 units=$4 users=$5
	local wishes=$((campaigns * users)) each clicks pgbench status=0 check=ok
	local first last opened done_calls failed answers p50 p95 p99 rate
	local issued already sold_out busy paused other issuances sold_out_after events copies violations published

	# every client clicks as often; at least a tenth more clicks than wishes
	each=$(((wishes * 11 / 10 + clients - 1) / clients))
	clicks=$((each * clients))

	printf '\n%s: %s users, %s x %s units, %s connections, %s calls\n' "$name" \
		"$(thousands "$users")" "$campaigns" "$(thousands "$units")" "$clients" "$(thousands "$clicks")"

	read -r first last < <(sql "SELECT min(id) || ' ' || max(id) FROM (
		SELECT coupon_campaign_create('$name ' || g, $units) AS id FROM generate_series(1, $campaigns) g) c")
	sql "SELECT coupon_campaign_pause(c) FROM generate_series($first, $last) c" >/dev/null

	coproc DRIVER { psql -X -q -A -t -v ON_ERROR_STOP=1; }
	ask 'SELECT pg_advisory_lock(1)'
	rm -f "$logs"/log.* "$logs"/all
	pgbench -n -M prepared -c "$clients" -j "$(nproc)" -t $((each + 1)) -f "$here/demo/click.sql" \
		-l --log-prefix="$logs/log" \
		-D clients="$clients" -D clicks="$clicks" -D wishes="$wishes" -D users="$users" \
		-D first_campaign="$first" -D seed="$RANDOM" -D mine=0 >"$logs/out" 2>"$logs/err" &
	pgbench=$!

	# everybody is at the door: open
	answer=0
	while [ "$answer" != "$clients" ] && kill -0 "$pgbench" 2>/dev/null; do
		sleep 0.1
		ask "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
	done
	ask 'CHECKPOINT; SELECT 1'
	ask "SELECT count(coupon_campaign_resume(c)) FROM generate_series($first, $last) c"
	ask 'SELECT extract(epoch FROM clock_timestamp())'
	opened=$answer
	ask 'SELECT pg_advisory_unlock(1)'
	watch_sale "$pgbench"
	wait "$pgbench" || status=$?
	eval "exec ${DRIVER[1]}>&-"
	wait "$DRIVER_PID" || true

	# pgbench's log: client, number, latency in us, script, end in s and us;
	# each client's first line is the call before the opening
	cat "$logs"/log.* | awk 'seen[$1]++' >"$logs/all"
	done_calls=$(wc -l <"$logs/all")
	failed=$((clicks - done_calls))
	read -r p50 p95 p99 < <(cut -d ' ' -f 3 "$logs/all" | sort -n | awk '
		{ latency[NR] = $1 }
		function percentile(p,   i) { i = int(NR * p / 100 + 0.999999); return latency[i < 1 ? 1 : i] / 1000 }
		END { printf "%.1f %.1f %.1f\n", percentile(50), percentile(95), percentile(99) }')
	rate=$(awk -v opened="$opened" '
		{ end = $5 - opened + $6 / 1e6; if (end > last) last = end }
		END { printf "%.0f", (last > 0 ? NR / last : 0) }' "$logs/all")

	IFS='|' read -r issued already sold_out busy paused other < <(sql "
		SELECT sum(answered_issued), sum(answered_already_issued), sum(answered_sold_out), sum(answered_busy),
		       sum(answered_paused), sum(answered_not_open + answered_closed)
		  FROM coupon.campaign_status WHERE campaign_id BETWEEN $first AND $last")
	IFS='|' read -r issuances sold_out_after < <(sql "
		SELECT count(*), CASE WHEN count(*) = $campaigns * $units
		                      THEN to_char(extract(epoch FROM max(issued_at)) - $opened, 'FM990.00') || ' s' ELSE 'never' END
		  FROM coupon.issuance WHERE campaign_id BETWEEN $first AND $last")
	for _ in {1..200}; do
		[ "$(sql 'SELECT unpublished FROM coupon_outbox_status()')" != 0 ] || break
		sleep 0.05
	done
	published=$(sql "SELECT to_char(extract(epoch FROM last_ack_at) - extract(epoch FROM
			(SELECT max(issued_at) FROM coupon.issuance WHERE campaign_id BETWEEN $first AND $last)), 'FM990.00')
		FROM coupon_outbox_status()")
	IFS='|' read -r events copies < <(on_broker "$first" "$last")
	violations=$(sql "SELECT count(*) FROM generate_series($first, $last) c, LATERAL coupon_verify(c) v")

	# what must hold: each call answered, and one number told in four ways
	answers=$((issued + already + sold_out + busy))
	if [ "$failed" != 0 ] || [ "$status" != 0 ] || [ "$answers" != "$done_calls" ] ||
		[ "$paused" != "$clients" ] || [ "$other" != 0 ] ||
		[ "$issued" != $((campaigns * units)) ] || [ "$issuances" != "$issued" ] ||
		[ "$events" != "$issued" ] || [ "$violations" != 0 ]; then
		check=FAILED
		bad=1
		sort "$logs/err" | uniq -c | sed -n 1,10p >&2
	fi

	column "$name" "$clients" "$campaigns x $(thousands "$units")" "$(thousands "$users")" \
		"$(thousands "$clicks")" "$(thousands "$issued")" "$(thousands "$already")" "$(thousands "$sold_out")" \
		"$(thousands "$busy")" "$(thousands "$failed")" "$sold_out_after" "$(thousands "$rate")" \
		"$p50 ms" "$p95 ms" "$p99 ms" \
		"$(thousands "$issuances")" "$(thousands "$events")" "$((copies - events))" "$published s" "$violations" "$check"
}

# http CONNECTIONS UNITS: a sale over HTTP, without a process for each client
http()
{
	local clients=$1 units=$2 campaign line issuances events violations

	printf '\nhttp: %s units over HTTP, %s connections, %s calls\n' "$(thousands "$units")" "$clients" "$(thousands $((units + units / 10)))"
	if ! grep -q 'coupon front listens' "$COUPON_SERVER_LOG"; then
		echo '  skipped: coupon was built without libmicrohttpd and libjwt'
		return
	fi
	campaign=$(sql "SELECT coupon_campaign_create('over HTTP', $units)")
	line=$("$here/../tmp_bench/http_load" -c "$clients" -n $((units + units / 10)) "$COUPON_HTTP" \
		POST "/campaigns/$campaign/issues" '{"user_id":"%u"}' | head -n 1)
	IFS='|' read -r issuances violations < <(sql "SELECT count(*), (SELECT count(*) FROM coupon_verify($campaign))
		FROM coupon.issuance WHERE campaign_id = $campaign")
	for _ in {1..200}; do
		[ "$(sql 'SELECT unpublished FROM coupon_outbox_status()')" != 0 ] || break
		sleep 0.05
	done
	IFS='|' read -r events _ < <(on_broker "$campaign" "$campaign")
	sed -E 's/answers=([0-9]+) rate=([0-9]+) p50=([0-9.]+) p95=([0-9.]+) p99=([0-9.]+) .*/  \1 answers, \2 a second; p50 \3, p95 \4, p99 \5 ms/' <<<"$line"
	printf '  %s told issued (201), %s told sold out (409); %s issuances, %s events on the broker\n' \
		"$(sed -nE 's/.* 201=([0-9]+).*/\1/p' <<<"$line")" "$(sed -nE 's/.* 409=([0-9]+).*/\1/p' <<<"$line")" "$issuances" "$events"
	if [[ $line != *" 201=$units 409=$((units / 10))" ]] || [ "$issuances" != "$units" ] ||
		[ "$events" != "$units" ] || [ "$violations" != 0 ]; then
		echo "  FAILED: $line"
		bad=1
	fi
}

# room CAPACITY USERS UNITS: a sale behind a waiting room
room()
{
	local capacity=$1 users=$2 units=$3
	local campaign opened pgbench format='  %s\n' status=0
	local joined admitted left most seconds issued sold_out strangers visits furthest polls rose outside violations

	printf '\nroom: %s users, a waiting room for %s, %s units, %s connections\n' "$users" "$capacity" "$units" "$users"
	campaign=$(sql "SELECT coupon_campaign_create('behind a room', $units)")
	sql "CREATE SCHEMA demo; CREATE TABLE demo.visit (first bigint, polls bigint, rose bigint, has_left boolean)"
	sql "SELECT coupon_room_create('demo', $capacity)" >/dev/null
	sql "SELECT coupon_campaign_require_room($campaign, 'demo')" >/dev/null

	if grep -q 'coupon front listens' "$COUPON_SERVER_LOG"; then
		echo "  stand in line yourself: http://$COUPON_HTTP/rooms/demo"
	fi
	coproc DRIVER { psql -X -q -A -t -v ON_ERROR_STOP=1; }
	pgbench -n -M prepared -c "$users" -j "$(nproc)" -t 300 -f "$here/demo/room.sql" \
		-D campaign="$campaign" -D state=0 -D polls=0 -D rose=0 -D position=0 >"$logs/out" 2>"$logs/err" &
	pgbench=$!
	answer=0
	while [ "$answer" = 0 ] && kill -0 "$pgbench" 2>/dev/null; do
		sleep 0.05
		ask "SELECT joined FROM coupon.room_status WHERE name = 'demo'"
	done
	[ ! -t 1 ] || format='  %-76s\r'
	while kill -0 "$pgbench" 2>/dev/null; do
		ask "SELECT format('%s joined, %s wait, %s are in the room, %s have left; %s units issued', joined, waiting, admitted,
			joined - waiting - admitted, (SELECT issued FROM coupon_status($campaign)))
			FROM coupon.room_status WHERE name = 'demo'"
		# shellcheck disable=SC2059
		printf "$format" "$answer"
		sleep 0.25
	done
	wait "$pgbench" || status=$?
	eval "exec ${DRIVER[1]}>&-"
	wait "$DRIVER_PID" || true

	IFS='|' read -r joined admitted left seconds < <(sql "
		SELECT count(*), count(admitted_at), count(*) FILTER (WHERE reason = 'left'),
		       to_char(extract(epoch FROM max(ended_at) - min(joined_at)), 'FM990.0')
		  FROM coupon.ticket WHERE user_id NOT LIKE 'visitor-%'")
	most=$(sql "
		SELECT max(n) FROM (SELECT sum(one) OVER (ORDER BY at, one) AS n FROM (
			SELECT admitted_at, 1 FROM coupon.ticket UNION ALL SELECT ended_at, -1 FROM coupon.ticket) x(at, one)) y")
	IFS='|' read -r issued sold_out strangers violations < <(sql "
		SELECT s.issued, s.answered_sold_out, s.answered_not_admitted, (SELECT count(*) FROM coupon_verify($campaign))
		  FROM coupon_status($campaign) s")
	outside=$(sql "
		SELECT count(*) FROM coupon.issuance i WHERE campaign_id = $campaign AND NOT EXISTS (
			SELECT FROM coupon.ticket t WHERE t.user_id = i.user_id AND i.issued_at BETWEEN t.admitted_at AND t.ended_at)")
	IFS='|' read -r visits furthest polls rose < <(sql "
		SELECT count(*) FILTER (WHERE has_left), max(first), sum(polls), sum(rose) FROM demo.visit")
	printf '  %-76s\n' "$joined joined, $admitted were admitted, $left left, in $seconds s; at most $most of $capacity at once"
	printf '  %s\n' "the last in line began at position $furthest; of $(thousands "$polls") positions told, $rose rose" \
		"$issued units issued, $sold_out told sold out; issued to somebody without a session: $outside" \
		"$strangers of $users who went around the room were told not_admitted"
	if [ "$status" != 0 ] || [ -s "$logs/err" ] || [ "$joined" != "$users" ] || [ "$admitted" != "$users" ] || [ "$left" != "$users" ] ||
		[ "$visits" != "$users" ] || [ "$most" -gt "$capacity" ] || [ "$rose" != 0 ] || [ "$outside" != 0 ] ||
		[ "$issued" != "$units" ] || [ "$sold_out" != $((users - units)) ] || [ "$strangers" != "$users" ] || [ "$violations" != 0 ]; then
		echo '  FAILED'
		bad=1
		sort "$logs/err" | uniq -c | sed -n 1,10p >&2
	fi
}

column '' connections stock users calls '  issued' '  already issued' '  sold out' '  busy' '  errors' \
	'time to sell out' 'calls per second' 'latency p50' '  p95' '  p99' \
	'units issued' 'events on broker' '  published twice' '  last one after' 'coupon_verify rows' 'conservation'

sql "ALTER SYSTEM SET coupon.kafka_brokers = '$brokers'"
sql "SELECT pg_reload_conf()" >/dev/null
sql "CREATE EXTENSION coupon"
sql "SELECT format('%s, %s cores; fsync %s, synchronous_commit %s, full_page_writes %s',
	substring(version() FROM 'PostgreSQL [0-9.]+'), '$(nproc)', current_setting('fsync'),
	current_setting('synchronous_commit'), current_setting('full_page_writes'))"
echo 'Each unit issued is a commit of its own: an issuance row and an event row, on disk;'
echo 'a worker publishes the events to a Kafka broker, embedded here, as it goes on.'

if grep -q 'coupon front listens' "$COUPON_SERVER_LOG"; then
	echo "Watch it in a browser: http://$COUPON_HTTP/board"
fi

run sale 64 4 5000 5000
run sale 200 4 5000 5000
run spike 500 1 500 2000
http 200 10000
room 50 500 400

echo
printf '%s\n' "${rows[@]}" | awk -F '|' '
	{ printf "%-20s", $2; for (i = 3; i <= NF; i++) printf "%13s", $i; printf "\n" }'
cat <<'END'

calls, latency: of each call, as the client sees it; every connection calls
again as soon as it has its answer, and the clients run on the same cores.
Not counted: one call on each connection before the opening ("paused").
time to sell out: from the opening to the last unit.
events on broker: as kcat counts them, by id; the last one after: from the last
issue to the broker's acknowledgement of all events.
conservation: units issued = stock = events on the broker = answers "issued",
every call was answered, and coupon_verify finds no violation in the tables.
END
exit $bad
