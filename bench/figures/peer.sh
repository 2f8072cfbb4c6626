#!/usr/bin/env bash
#
# coupon_issue beside the best peer.  A short run of each shows which one that is.
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_server "$@"
failed_figures=0

for clients in 64 200; do
	best=0 best_peer=
	for peer in ${BENCH_PEERS:-shards32 shards128 codes codes_random advisory hot for_update optimistic}; do
		cell checked_run "$peer" "$clients" 3
		if [ -z "$violations" ] && [ "$rate" -gt "$best" ]; then
			best=$rate best_peer=$peer
		fi
	done
	compare "$clients" coupon "$best_peer"
	figure "coupon_issue / best peer ($best_peer) at $clients" "$(printf %.2f "$ratio")" at_least \
		"$([ "$clients" = 64 ] && echo 1.8 || echo 3)" "$detail"
done
exit "$failed_figures"
