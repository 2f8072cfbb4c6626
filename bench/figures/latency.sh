#!/usr/bin/env bash
#
# Latency in an open loop: calls arrive at a fixed rate, and a late answer
# delays nobody else's arrival.  64 connections, ms.
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_server "$@"
failed_figures=0

for rate_wanted in ${BENCH_RATES:-2000 5000 10000}; do
	for variant in coupon insert ${BENCH_PEERS:-shards128 codes_random hot}; do
		prepare_variant "$variant"
		rm -f "$scratch"/log.*
		measure "$variant" 64 "$BENCH_SECONDS" -R "$rate_wanted" --log --log-prefix="$scratch/log"
		violations=$(check_variant "$variant" | head -n 5)
		[ -z "$violations" ] || die "void, $variant: $violations"
		percentiles
		figure "latency of $variant at $rate_wanted calls/s, p50 p95 p99 p99.9 ms" \
			"$p50 $p95 $p99 $p999" info - "$rate rows/s done"
	done
done
exit "$failed_figures"
