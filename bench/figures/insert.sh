#!/usr/bin/env bash
#
# coupon_issue beside the bare INSERT: how much of the ceiling of one commit
# per call is left with two indexes, a stock and an event.
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_server "$@"
failed_figures=0

declare -A required=([16]=0.90 [64]=0.80 [200]=0.75)
for clients in 16 64 200; do
	compare "$clients" coupon insert
	figure "coupon_issue / bare INSERT at $clients" "$(printf %.2f "$ratio")" at_least "${required[$clients]}" "$detail"
done
exit "$failed_figures"
