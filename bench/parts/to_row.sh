#!/usr/bin/env bash
#
# Part to_row: from the call to the row in PostgreSQL and the event, sustained.
# The time is from the first call to the last row (and event), so what a queue
# puts off is paid for.
#
#	insert                        a row, and no event
#	coupon, grouped, http         row and event row with the answer
#	*_kafka                       and the event acknowledged by Kafka
#	request                       coupon_request, decided by its worker
#	pgq                           event in a PgQ queue, decided by its consumer
#	pile, pile_always             Redis, then Kafka, then the consumer's row;
#	                              the event is the message to the consumer
#
#	BENCH_ROW_CLIENTS, BENCH_ROW_VARIANTS
#	BENCH_ROW_SECONDS  of calling, for each run
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

settings+=(coupon.request_depth=50000000 coupon.queue_memory=512MB)
need_server "$@"
read -ra variants <<<"${BENCH_ROW_VARIANTS:-insert coupon grouped http request pgq coupon_kafka grouped_kafka http_kafka pile_always pile}"
row_seconds=${BENCH_ROW_SECONDS:-$BENCH_SECONDS}

# undone VARIANT: calls that have no row, or no event in Kafka, yet
undone()
{
	case $1 in
		insert | coupon | grouped | http) echo 0 ;;
		*_kafka) sql "SELECT unpublished FROM coupon_outbox_status()" ;;
		request) sql "SELECT coalesce(sum(depth), 0) FROM coupon_request_queue()" ;;
		pgq) sql "SELECT $calls - issued - refused FROM peer_pgq.counter" ;;
		pile*) echo $((calls - $(awk '/^messages/ { n = $2 } END { print n + 0 }' "$scratch/consumer"))) ;;
	esac
}

# done_at VARIANT: the time of the last of them
done_at()
{
	case $1 in
		insert | coupon | grouped | http) echo "$ended" ;;
		*_kafka) sql "SELECT greatest(extract(epoch FROM last_ack_at), $ended) FROM coupon_outbox_status()" ;;
		request) sql "SELECT greatest(extract(epoch FROM max(decided_at)), $ended) FROM coupon.request" ;;
		pgq) sql "SELECT greatest(extract(epoch FROM max(issued_at)), $ended) FROM peer_pgq.issuance" ;;
		pile*) awk -v e="$ended" '/^messages/ { t = $NF } END { printf "%.3f", (t > e ? t : e) }' "$scratch/consumer" ;;
	esac
}

run()
{
	local deadline last behind

	case $1 in
		*_kafka) publishing on ;;
		*) publishing off ;;
	esac
	prepare_variant "$1"
	measure "$1" "$clients" "$BENCH_ROW_SECONDS"
	deadline=$((SECONDS + BENCH_LIMIT))
	behind=$(undone "$1")
	until [ "$(undone "$1")" = 0 ]; do
		[ "$SECONDS" -lt "$deadline" ] || die "$1: $(undone "$1") calls are without a row after $BENCH_LIMIT s"
		[ -z "$consumer" ] || kill -0 "$consumer" 2>/dev/null || die "the consumer: $(tail -n 1 "$scratch/consumer")"
		sleep 0.05
	done
	# the consumer tells of it a moment later
	case $1 in
		pile*)
			sleep 0.3
			;;
	esac
	last=$(done_at "$1")
	stop_consumer
	rows=$(($(variant_rows "$1") - rows_before))
	note="last one $(awk -v a="$ended" -v b="$last" 'BEGIN { printf "%.2f", b - a }') s after the last call; $behind behind then"
	case $1 in
		pile*) note+="; call to row $(sed -n 's/^age_ms //p' "$scratch/consumer") ms" ;;
	esac
	rate=$(awk -v n="$rows" -v s="$seconds" -v a="$ended" -v b="$last" 'BEGIN { printf "%.0f", n / (s + b - a) }')
	seconds=$(awk -v s="$seconds" -v a="$ended" -v b="$last" 'BEGIN { printf "%.3f", s + b - a }')
	violations=$(check_variant "$1" | head -n 5)
	[ "$rows" = "$calls" ] || violations+="${violations:+; }$calls calls, $rows rows"
}

# Kafka is started for those who need it, and gets warm.
with_kafka=
for variant in "${variants[@]}"; do
	case $variant in
		*_kafka | pile*) with_kafka=1 ;;
	esac
done
begin_part to_row
if [ -n "$with_kafka" ]; then
	start_kafka
	echo "broker: $kafka$([ "$kafka" = Kafka ] || echo " cluster of librdkafka, on the same cores ($(cat "$scratch/kafka.why"))")" | tee "$results/broker.txt"
	BENCH_ROW_SECONDS=3 clients=16
	able 16 "${variants[@]}"
	for variant in "${present[@]}"; do
		case $variant in
			*_kafka | pile) isolated run "$variant" ;;
		esac
	done
fi

BENCH_ROW_SECONDS=$row_seconds
for clients in ${BENCH_ROW_CLIENTS:-64 200 1000@64}; do
	passes "$clients" "$clients" run "${variants[@]}"
done
end_part
