#!/usr/bin/env bash
#
# Publishing: beside a bare librdkafka producer, beside a sale, idle, under
# 1,500 issues a second, and under a held snapshot.  The broker is librdkafka's
# mock cluster on the same cores, or the one that BENCH_KAFKA names (with topics
# coupon-issued and bare of 12 partitions).
#
#	BENCH_EVENTS    events of a filled outbox
#	BENCH_LAG       seconds at 1,500 issues a second
#	BENCH_HELD      seconds that the snapshot is held at 800 issues a second
#	BENCH_PUBLISH   which of bare sale idle lag snapshot
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_server "$@"
failed_figures=0
: "${BENCH_EVENTS:=500000}" "${BENCH_LAG:=60}" "${BENCH_HELD:=120}"
: "${BENCH_PUBLISH:=bare sale idle lag snapshot}"

make -s -C "$top" kafka-programs
brokers=${BENCH_KAFKA:-}
if [ -z "$brokers" ]; then
	mkfifo "$scratch/commands" "$scratch/answers"
	"$top/tmp_kafka/bin/mock_broker" -b 1 -t coupon-issued:12 -t bare:12 <"$scratch/commands" >"$scratch/answers" &
	exec 7>"$scratch/commands" 8<"$scratch/answers"
	IFS= read -r brokers <&8
fi

# wait_for CONDITION on coupon_outbox_status
wait_for()
{
	until [ "$(sql "SELECT $1 FROM coupon_outbox_status()")" = t ]; do sleep 0.2; done
}

# fill and drain BENCH_EVENTS events; sets rate
drain()
{
	local start end

	publishing off
	wait_for "broker = 'off'"
	sql "SELECT count(*) FROM coupon_issue_many((SELECT max(campaign_id) FROM coupon.campaign),
		ARRAY(SELECT format('%s-%s', '$RANDOM$RANDOM', g) FROM generate_series(1, $BENCH_EVENTS) g))" >/dev/null
	sql CHECKPOINT
	settle
	start=$(date +%s.%N)
	publishing on
	wait_for 'unpublished = 0'
	end=$(sql "SELECT extract(epoch FROM last_ack_at) FROM coupon_outbox_status()")
	rate=$(awk -v n="$BENCH_EVENTS" -v a="$start" -v b="$end" 'BEGIN { printf "%.0f", n / (b - a) }')
}

bare()
{
	settle
	rate=$("$top/tmp_kafka/bin/producer" -b "$brokers" -t bare -n "$BENCH_EVENTS" -s "$payload" |
		awk '{ printf "%.0f", $NF }')
}

beside_bare()
{
	local pair a b detail=''

	prepare_variant coupon
	drain
	payload=110
	: >"$scratch/pairs"
	for ((pair = 1; pair <= BENCH_PAIRS; pair++)); do
		drain && a=$rate
		bare && b=$rate
		bare && b=$((b + rate))
		drain && a=$((a + rate))
		echo "$a $b" | awk '{ print $1 / $2 }' >>"$scratch/pairs"
		detail+="${detail:+, }$((a / 2)) / $((b / 2))"
	done
	figure "events/s from a filled outbox to delivered / a bare producer" "$(median <"$scratch/pairs")" at_least 0.5 "$detail"
}

beside_sale()
{
	local pair mode on off detail=''

	: >"$scratch/pairs"
	for ((pair = 1; pair <= BENCH_PAIRS; pair++)); do
		on=0 off=0
		for mode in on off off on; do
			prepare_variant coupon
			publishing "$mode"
			sleep 2
			measure coupon 64 "$BENCH_SECONDS"
			[ -z "$(sql 'SELECT * FROM coupon_verify()')" ] || die "void: coupon_verify"
			declare "$mode=$((${!mode} + rate))"
			detail+="${detail:+, }$mode $rate"
		done
		echo "$on $off" | awk '{ print $1 / $2 }' >>"$scratch/pairs"
	done
	figure "sale with publishing on / off, at 64" "$(median <"$scratch/pairs")" at_least 0.75 "$detail"
}

# From just before the commit to the consumer that waits for it.
idle()
{
	local n p50 p99

	prepare_variant coupon
	publishing on
	wait_for "broker = 'up' AND unpublished = 0"
	timeout 45 kcat -C -u -q -X fetch.wait.max.ms=2 -X fetch.error.backoff.ms=1 -o end -b "$brokers" -t bare \
		-f '%s\n' 2>/dev/null | perl -MTime::HiRes=time -ne '
			$| = 1; print time, " $_"' >"$scratch/arrivals" &
	sleep 3
	settle
	perl -MTime::HiRes=time -e '
		$| = 1;
		for (1 .. 400) { printf "SELECT coupon_emit(%s, %s, %s, %s);\n", "\x27bare\x27", "\x27k$_\x27", "\x27t\x27", sprintf("\x27{\"t\": %.6f}\x27", time);
			select undef, undef, undef, 0.02 + rand(0.04) }' | psql -qXAt >/dev/null
	sleep 0.5
	kill "$(jobs -p %?kcat)" 2>/dev/null || true
	wait %?kcat 2>/dev/null || true
	read -r n p50 p99 < <(perl -ne '/^([\d.]+) .*"t": ?([\d.]+)/ and push @x, 1000 * ($1 - $2);
		END { @x = sort { $a <=> $b } @x; printf "%d %.1f %.1f\n", scalar(@x), $x[@x / 2], $x[@x * 0.99] }' "$scratch/arrivals")
	figure "commit to consumer on an idle system, p50 ms" "$p50" at_most 15 "$n events, linger 5 ms"
	figure "the same, p99 ms" "$p99" at_most 50
}

# sample SECONDS: while pgbench runs, the largest age and size
sample()
{
	local i

	for ((i = 0; i < $1; i++)); do
		sql "SELECT coalesce(extract(epoch FROM oldest_age), 0), size_bytes FROM coupon_outbox_status()" | tr '|' ' '
		sleep 1
	done | awk '{ if ($1 > age) age = $1; if ($2 > size) size = $2 } END { printf "%.2f %.1f\n", age, size / 1048576 }'
}

# sale_at RATE SECONDS CLIENTS: sets age and size
sale_at()
{
	local load

	pgbench -n -f "$scratch/script.sql" -M prepared -c "$3" -j "$cores" -T "$2" -R "$1" >"$scratch/pgbench" 2>&1 &
	load=$!
	read -r age size < <(sample $(($2 - 2)))
	wait "$load"
}

lag()
{
	prepare_variant coupon
	publishing on
	sleep 2
	sale_at 1500 "$BENCH_LAG" 64
	figure "largest lag at 1,500 issues/s for $BENCH_LAG s, s" "$age" at_most 1 \
		"$(awk '/^tps/ { print $3 }' "$scratch/pgbench") issues/s, outbox at most $size MB"
}

# At 800 events a second, and at full speed.  Free, held, held, free: each drain
# leaves a larger table behind.
under_snapshot()
{
	local free=0 held=0 i

	prepare_variant coupon
	publishing on
	sleep 2
	drain
	for ((i = 0; i < 2; i++)); do drain; free=$((free + rate)); done
	coproc HOLDER { psql -qXAt; }
	echo 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class;' >&"${HOLDER[1]}"
	IFS= read -r _ <&"${HOLDER[0]}"
	wait_for 'size_bytes < 1048576'
	sale_at 800 "$BENCH_HELD" 16
	for ((i = 0; i < 4; i++)); do drain; held=$((held + rate)); done
	echo 'COMMIT; \q' >&"${HOLDER[1]}"
	for ((i = 0; i < 2; i++)); do drain; free=$((free + rate)); done
	figure "publishing speed with a snapshot held / without" "$(awk -v a="$held" -v b="$free" 'BEGIN { printf "%.2f", a / b }')" at_least 0.95 \
		"held $((held / 4)), without $((free / 4)) events/s"
	figure "outbox at most, in $BENCH_HELD s at 800 issues/s under the snapshot, MB" "$size" at_most 32 "largest lag $age s"
}

for part in $BENCH_PUBLISH; do
	case $part in
		bare) beside_bare ;;
		sale) beside_sale ;;
		idle) idle ;;
		lag) lag ;;
		snapshot) under_snapshot ;;
		*) die "unknown part $part" ;;
	esac
done
exit "$failed_figures"
