#!/usr/bin/env bash
#
# Part latency: an open loop, in which a late answer delays nobody else's
# arrival, at shares of what the variant issues at most; ms from when the call
# was due.  The most is measured before each run, since a machine's speed is not
# the same for long.
#
#	BENCH_LATENCY_VARIANTS, BENCH_LATENCY_CLIENTS (64), BENCH_LATENCY_SECONDS (8)
#	BENCH_SHARES  percent of the most; "70c" with a CHECKPOINT in the middle,
#	              which writes at once what the server's own would spread
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_server "$@"
read -ra variants <<<"${BENCH_LATENCY_VARIANTS:-insert coupon grouped http shards128 codes_random redis_always redis_everysec}"
clients=${BENCH_LATENCY_CLIENTS:-64}
: "${BENCH_LATENCY_SECONDS:=8}"

# due_at_share VARIANT: one run at the share of the most, which is measured right before
due_at_share()
{
	local checkpoint=''

	prepare_variant "$1"
	measure "$1" "$clients" 3
	due=$((rate * ${share%c} / 100))
	[ "$due" -gt 0 ] || die "no rate of $1"
	rm -f "$scratch"/log.*
	sql CHECKPOINT
	settle						# or measure would, while the time to the next one runs
	case $share in
		*c)
			( sleep "$(awk -v s="$BENCH_LATENCY_SECONDS" 'BEGIN { print s / 2 }')"; sql CHECKPOINT ) &
			checkpoint=$!
			;;
	esac
	measure "$1" "$clients" "$BENCH_LATENCY_SECONDS" -R "$due" --log --log-prefix="$scratch/log"
	[ -z "$checkpoint" ] || wait "$checkpoint"
	percentiles
	note="due $due calls/s"
}

run()
{
	local due try

	# a most that was measured in a fast moment is no most: that was no share of it
	for try in 1 2; do
		due_at_share "$1"
		awk -v r="$rate" -v d="$due" 'BEGIN { exit r >= 0.95 * d }' || break
		note+=", overloaded in both of two runs"
	done
	violations=$(check_variant "$1" | head -n 5)
	[ "$rows" = "$calls" ] || violations+="${violations:+; }$calls calls issued $rows rows"
}

begin_part latency
able "$clients" "${variants[@]}"
variants=("${present[@]}")
for share in ${BENCH_SHARES:-50 70 90 70c}; do
	case $share in
		# Redis has no checkpoint
		*c) with=(); for variant in "${variants[@]}"; do case $variant in redis_*) ;; *) with+=("$variant") ;; esac; done ;;
		*) with=("${variants[@]}") ;;
	esac
	passes "${share%c} %$([ "$share" = "${share%c}" ] || echo ' and a checkpoint')" "$clients" run "${with[@]}"
done
end_part
