#!/usr/bin/env bash
#
# Part latency: an open loop, in which a late answer delays nobody else's
# arrival, at shares of what the variant issues at most; ms from when the call
# was due.  Also with a checkpoint in the middle.
#
#	BENCH_LATENCY_VARIANTS, BENCH_LATENCY_CLIENTS (64), BENCH_LATENCY_SECONDS (8)
#	BENCH_SHARES  percent of the most; "70c" with a checkpoint
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_server "$@"
read -ra variants <<<"${BENCH_LATENCY_VARIANTS:-insert coupon grouped shards128 codes_random redis_always redis_everysec}"
clients=${BENCH_LATENCY_CLIENTS:-64}
: "${BENCH_LATENCY_SECONDS:=8}"

# most VARIANT: its rate in a closed loop, from part issue or a short run
most()
{
	local rates

	rates=$(awk -F, -v c="$clients" -v v="$1" '$1 == c && $3 == v && $7 != "" { print $7 }' "$results/issue.runs.csv" 2>/dev/null | median)
	if [ -z "$rates" ]; then
		isolated checked_run "$1" "$clients" 3 >&2
		rates=$rate
	fi
	echo "${rates%.*}"
}

# shellcheck disable=SC2317
run()
{
	local checkpoint=

	prepare_variant "$1"
	rm -f "$scratch"/log.*
	case $share in
		*c)
			( sleep "$(awk -v s="$BENCH_LATENCY_SECONDS" 'BEGIN { print s / 2 }')"; sql CHECKPOINT ) &
			checkpoint=$!
			;;
	esac
	measure "$1" "$clients" "$BENCH_LATENCY_SECONDS" -R "$((${most_of[$1]} * ${share%c} / 100))" --log --log-prefix="$scratch/log"
	[ -z "$checkpoint" ] || wait "$checkpoint"
	percentiles
	note="due $((${most_of[$1]} * ${share%c} / 100)) calls/s"
	violations=$(check_variant "$1" | head -n 5)
	[ "$rows" = "$calls" ] || violations+="${violations:+; }$calls calls issued $rows rows"
}

begin_part latency
able "$clients" "${variants[@]}"
variants=("${present[@]}")
declare -A most_of
for variant in "${variants[@]}"; do
	most_of[$variant]=$(most "$variant")
	[ -n "${most_of[$variant]}" ] || die "no rate of $variant"
done
for share in ${BENCH_SHARES:-50 70 90 70c}; do
	case $share in
		# Redis has no checkpoint
		*c) with=(); for variant in "${variants[@]}"; do case $variant in redis_*) ;; *) with+=("$variant") ;; esac; done ;;
		*) with=("${variants[@]}") ;;
	esac
	passes "${share%c} %$([ "$share" = "${share%c}" ] || echo ' and a checkpoint')" "$clients" run "${with[@]}"
done
end_part
