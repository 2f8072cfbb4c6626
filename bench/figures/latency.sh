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
		figure "latency of $variant at $rate_wanted calls/s, p50 p95 p99 p99.9 ms" \
			"$(cat "$scratch"/log.* | awk '{ print $3 }' | sort -n | awk '
				{ x[NR] = $1 / 1000 }
				END {
					n = split("0.5 0.95 0.99 0.999", q, " ")
					for (i = 1; i <= n; i++) { k = int(NR * q[i]); if (k < 1) k = 1; printf "%s%.2f", (i == 1 ? "" : " "), x[k] }
				}')" info - "$rate rows/s done"
	done
done
exit "$failed_figures"
