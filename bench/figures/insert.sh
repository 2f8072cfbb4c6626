#!/usr/bin/env bash
#
# coupon_issue beside the bare INSERT: how much of the ceiling of one commit
# per call is left with two indexes, a stock and an event.
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_server "$@"
failed_figures=0

for clients in 64 200; do
	compare "$clients" coupon insert
	figure "coupon_issue / bare INSERT at $clients" "$(printf %.2f "$ratio")" at_least \
		"$([ "$clients" = 64 ] && echo 0.70 || echo 0.60)" "$detail"
done
exit "$failed_figures"
