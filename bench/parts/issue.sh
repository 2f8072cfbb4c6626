#!/usr/bin/env bash
#
# Part issue: the most that each variant issues, in a closed loop, at each
# number of connections; first whether the peers are right at all.
#
#	BENCH_CLIENTS   numbers of connections, CLIENTS@POOL through PgBouncer
#	BENCH_VARIANTS
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_server "$@"
read -ra variants <<<"${BENCH_VARIANTS:-select1 insert coupon grouped http shards128 codes_random hot optimistic advisory redis_always redis_everysec}"

right=0
"$bench_dir/peers/check.sh" "${variants[@]}" || right=1

run()
{
	checked_run "$1" "$clients" "$BENCH_SECONDS"
}

begin_part issue
for clients in ${BENCH_CLIENTS:-16 64 200 1000@64}; do
	passes "$clients" "$clients" run "${variants[@]}"
done
[ "$right" = 0 ] || failed=1
end_part
