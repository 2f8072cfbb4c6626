#!/usr/bin/env bash
#
# Part issue: the most that each variant issues, in a closed loop, at each
# number of connections; first whether the peers are right at all.
#
#	BENCH_CLIENTS   numbers of connections, CLIENTS@POOL through PgBouncer;
#	                200:insert,coupon at which only these are measured
#	BENCH_VARIANTS
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_server "$@"
read -ra variants <<<"${BENCH_VARIANTS:-select1 insert coupon grouped http shards128 codes_random hot optimistic advisory redis_always redis_everysec}"

# variants_at CLIENTS[:VARIANT,...]: sets with
variants_at()
{
	with=("${variants[@]}")
	[ "$1" = "${1#*:}" ] || IFS=, read -ra with <<<"${1#*:}"
}

right=0
all=()
for clients in ${BENCH_CLIENTS:=16 64 200 1000@64}; do
	variants_at "$clients"
	all+=("${with[@]}")
done
mapfile -t all < <(printf '%s\n' "${all[@]}" | awk '!seen[$0]++')
"$bench_dir/peers/check.sh" "${all[@]}" || right=1

run()
{
	checked_run "$1" "$clients" "$BENCH_SECONDS"
}

begin_part issue
for clients in $BENCH_CLIENTS; do
	variants_at "$clients"
	clients=${clients%:*}
	passes "$clients" "$clients" run "${with[@]}"
done
[ "$right" = 0 ] || failed=1
end_part
