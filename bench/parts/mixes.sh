#!/usr/bin/env bash
#
# Part mixes: what is not a plain issue, in a closed loop.
#
#	sold out       a stock of 1; answers a second, beside SELECT 1 and beside the
#	               same answer without a function (answer)
#	duplicates     every user calls twice; calls a second
#	rollbacks      20 % of the transactions roll back (Redis: a second script
#	               gives the unit back); units a second that stay issued.
#	               Grouped calls cannot be rolled back.
#
#	polls          position polls a second (coupon), beside SELECT 1, with so
#	               many waiting
#	holds          a second, of random seats of examples/concert, beside issues
#	               of one campaign (coupon) in the same tables
#
#	BENCH_MIXES, BENCH_MIX_CLIENTS (64), BENCH_MIX_VARIANTS
#	BENCH_WAITING   "1000 1000000"
#	BENCH_CONCERTS  and dates of each, with 150 seats: 100 makes 1,500,000
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

settings+=(coupon.queue_memory=512MB)
need_server "$@"
: "${BENCH_WAITING:=1000 1000000}" "${BENCH_CONCERTS:=100}"
read -ra variants <<<"${BENCH_MIX_VARIANTS:-select1 answer coupon grouped shards128 codes_random hot redis_always redis_everysec}"
clients=${BENCH_MIX_CLIENTS:-64}

run_sold_out()
{
	prepare_variant "$1" 1
	measure "$1" "$clients" "$BENCH_SECONDS"
	violations=$(check_variant "$1" | head -n 5)
	answers_only "$1" && return
	[ "$rows" = 1 ] || violations+="${violations:+; }$rows sold of 1"
	rate=$(awk -v n="$calls" -v s="$seconds" 'BEGIN { printf "%.0f", n / s }')
}

run_duplicates()
{
	mix=twice
	prepare_variant "$1"
	printf '%s\n' '\set u random(1, 1000000000000000)' "SELECT $call;" "SELECT $call;" >"$scratch/script.sql"
	measure "$1" "$clients" "$BENCH_SECONDS"
	violations=$(check_variant "$1" | head -n 5)
	[ "$rows" = "$calls" ] || violations+="${violations:+; }$calls users, $rows rows"
	rate=$((2 * rate))
}

run_rollbacks()
{
	mix=rollback
	prepare_variant "$1"
	printf '%s\n' '\set u random(1, 1000000000000000)' '\set r random(1, 100)' \
		'BEGIN;' "SELECT $call;" '\if :r <= 20' 'ROLLBACK;' '\else' 'COMMIT;' '\endif' >"$scratch/script.sql"
	measure "$1" "$clients" "$BENCH_SECONDS"
	violations=$(check_variant "$1" | head -n 5)
	# of n calls 0.8 n stay, give or take
	awk -v n="$calls" -v r="$rows" 'BEGIN { d = r - 0.8 * n; exit d * d < 36 * 0.16 * n + 100 }' &&
		violations+="${violations:+; }$rows rows of $calls calls, a fifth rolled back"
	true
}

# poll_room WAITING: leaves poll.sql, which asks for one of eight of the last tenth
poll_room()
{
	local n=0 token

	sql "SELECT coupon_room_create('room $1', 1, idle_ttl => '1 day', session_ttl => '1 day')" >/dev/null
	sql "SELECT count(*) FROM generate_series(1, $1) g, coupon_queue_join('room $1', 'w' || g)" >/dev/null
	echo '\set n random(1, 8)' >"$scratch/poll.sql"
	for token in $(sql "SELECT room_id || '.' || number || '.' || replace(secret::text, '-', '') FROM coupon.ticket
		WHERE room_id = (SELECT room_id FROM coupon.room WHERE name = 'room $1') AND number > $1 * 0.9 LIMIT 8"); do
		n=$((n + 1))
		printf '%s\n' "\\if :n = $n" "SELECT coupon_queue_position('$token');" '\endif' >>"$scratch/poll.sql"
	done
}

run_poll()
{
	schema=public
	if [ "$1" = select1 ]; then
		echo 'SELECT 1;' >"$scratch/script.sql"
	else
		cp "$scratch/poll.sql" "$scratch/script.sql"
	fi
	# answers, of which no row tells
	measure select1 "$clients" "$BENCH_SECONDS"
}

mix_polls()
{
	local waiting

	prepare_variant coupon
	for waiting in $BENCH_WAITING; do
		poll_room "$waiting"
		sql CHECKPOINT
		passes "$waiting waiting" "$clients" run_poll select1 coupon
	done
}

run_hold()
{
	schema=public
	cp "$scratch/$1.sql" "$scratch/script.sql"
	measure coupon "$clients" "$BENCH_SECONDS"
	violations=$(sql "SELECT * FROM coupon_verify()" | head -n 5)
	# a seat that is held already is another's
	[ "$1" = hold ] || [ "$rows" = "$calls" ] || violations+="${violations:+; }$calls calls issued $rows rows"
}

mix_holds()
{
	local file schedules

	drop_variants
	sql "CREATE EXTENSION coupon"
	for file in sources/roles sources/http sources/api concert/schema concert/api; do
		psql -qXAt -f "$top/examples/$file.sql" >/dev/null 2>&1
	done
	psql -qXAt -f "$top/examples/concert/load.sql" -v concerts="$BENCH_CONCERTS" -v dates="$BENCH_CONCERTS" >"$scratch/log" 2>&1 ||
		die "load.sql: $(tail -n 3 "$scratch/log")"
	sql "SELECT count(coupon_campaign_require_room(campaign_id, NULL)) FROM concert.schedule" >/dev/null
	schedules=$(sql "SELECT count(*) FROM concert.schedule WHERE id = campaign_id AND seats = 150")
	[ "$schedules" = $((BENCH_CONCERTS * BENCH_CONCERTS)) ] || die "a schedule is not its campaign"
	printf '%s\n' '\set u random(1, 1000000000000000)' \
		"SELECT coupon_issue($(sql "SELECT coupon_campaign_create('beside', $BENCH_STOCK, policy => '$policy')"), :u::text);" >"$scratch/coupon.sql"
	printf '%s\n' '\set u random(1, 1000000000000000)' "\\set c random(1, $schedules)" '\set s random(1, 150)' \
		'SELECT coupon_hold(:c, :s, :u::text);' >"$scratch/hold.sql"
	sql "VACUUM ANALYZE"
	sql CHECKPOINT
	passes "holds of $((schedules * 150)) seats" "$clients" run_hold coupon hold
}

begin_part mixes
for name in ${BENCH_MIXES:-sold_out duplicates rollbacks polls holds}; do
	with=()
	for variant in "${variants[@]}"; do
		case "$name $variant" in
			'rollbacks grouped' | 'rollbacks select1' | 'rollbacks answer' | 'duplicates select1' | 'duplicates answer') ;;
			*) with+=("$variant") ;;
		esac
	done
	case $name in
		polls | holds) "mix_$name" ;;
		*) passes "${name//_/ }" "$clients" "run_$name" "${with[@]}" ;;
	esac
done
end_part
