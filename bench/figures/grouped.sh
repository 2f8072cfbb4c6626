#!/usr/bin/env bash
#
# coupon_issue_grouped: beside the bare INSERT, with many connections, with a
# full table, and how long a caller waits while a checkpoint runs.
#
#	BENCH_GROUPED   parts to do: insert clients latency rows
#	BENCH_ROWS      issuances in the full table
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_server "$@"
failed_figures=0
: "${BENCH_GROUPED:=insert clients latency rows}" "${BENCH_ROWS:=10000000}"

beside_insert()
{
	compare 16 grouped insert
	figure "grouped / bare INSERT at 16" "$(printf %.2f "$ratio")" info - "$detail"
	compare 64 grouped insert
	figure "grouped / bare INSERT at 64" "$(printf %.2f "$ratio")" at_least 1.2 "$detail"
	compare 200 grouped insert
	figure "grouped / bare INSERT at 200" "$(printf %.2f "$ratio")" at_least 1.3 "$detail"
}

# checked CLIENTS: a run of the variant as it is; sets rate
checked()
{
	local try

	for ((try = 0; ; try++)); do
		measure grouped "$1" "$BENCH_SECONDS"
		[ "$calls" -gt 0 ] || die "no call was done at $1 clients: the machine is too busy"
		[ "$rows" = "$calls" ] || die "void, grouped at $1 clients: $calls calls issued $rows rows"
		again "$try" || break
	done
	violations=$(check_variant grouped | head -n 5)
	[ -z "$violations" ] || die "void, grouped at $1 clients: $violations"
}

with_clients()
{
	local pair clients few many

	detail=
	: >"$scratch/ratios"
	for ((pair = 1; pair <= BENCH_PAIRS; pair++)); do
		few=0 many=0
		for clients in 64 200 200 64; do
			prepare_variant grouped
			checked "$clients"
			if [ "$clients" = 64 ]; then few=$((few + rate)); else many=$((many + rate)); fi
			detail+="${detail:+, }$clients: $rate"
		done
		awk -v a="$many" -v b="$few" 'BEGIN { print a / b }' >>"$scratch/ratios"
	done
	figure "grouped at 200 / at 64 connections" "$(printf %.2f "$(median <"$scratch/ratios")")" at_least 0.85 "$detail"
}

# Calls arrive at 70 % of what the closed loop did a moment before.
waiting()
{
	local offered

	prepare_variant grouped
	checked 64
	offered=$((rate * 70 / 100))
	prepare_variant grouped
	rm -f "$scratch"/log.*
	(
		sleep "$(awk -v s="$BENCH_SECONDS" 'BEGIN { print s / 3 }')"
		sql CHECKPOINT
	) &
	measure grouped 64 "$BENCH_SECONDS" -R "$offered" --log --log-prefix="$scratch/log"
	wait
	violations=$(check_variant grouped | head -n 5)
	[ -z "$violations" ] || die "void, grouped at $offered calls/s: $violations"
	percentiles
	figure "grouped p99.9 at 70 % load, 64 connections, with a checkpoint, ms" "$p999" at_most 20 \
		"$offered calls/s, p50 $p50, p95 $p95, p99 $p99"
}

fill()
{
	sql "SELECT count(*) FROM generate_series(1, $BENCH_ROWS, 10000) at, LATERAL coupon_issue_many($(cat "$scratch/campaign"),
		ARRAY(SELECT 'filled ' || g FROM generate_series(at, least(at + 9999, $BENCH_ROWS)) g)) i" >/dev/null
	sql "VACUUM (ANALYZE) coupon.issuance"
	sql CHECKPOINT
}

# Empty, full, full, empty; the table is filled once.
with_rows()
{
	local empty=0 full=0 state

	detail=
	for state in empty full full empty; do
		if [ "$state" = empty ] || [ "$full" = 0 ]; then
			prepare_variant grouped
		fi
		if [ "$state" = full ] && [ "$full" = 0 ]; then
			fill
		fi
		checked 64
		if [ "$state" = empty ]; then empty=$((empty + rate)); else full=$((full + rate)); fi
		detail+="${detail:+, }$state $rate"
	done
	figure "grouped with $BENCH_ROWS issuances / in an empty table" \
		"$(awk -v a="$full" -v b="$empty" 'BEGIN { printf "%.2f", a / b }')" at_least 0.8 "$detail"
}

for part in $BENCH_GROUPED; do
	case $part in
		insert) beside_insert ;;
		clients) with_clients ;;
		latency) waiting ;;
		rows) with_rows ;;
		*) die "unknown part $part" ;;
	esac
done
exit "$failed_figures"
