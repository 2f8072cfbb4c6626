#!/usr/bin/env bash
#
# Part mixes: what is not a plain issue, in a closed loop.
#
#	sold out       a stock of 1; answers a second
#	duplicates     every user calls twice; calls a second
#	rollbacks      20 % of the transactions roll back (Redis: a second script
#	               gives the unit back); units a second that stay issued.
#	               Grouped calls cannot be rolled back.
#
#	BENCH_MIXES, BENCH_MIX_CLIENTS (64), BENCH_MIX_VARIANTS
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_server "$@"
read -ra variants <<<"${BENCH_MIX_VARIANTS:-coupon grouped shards128 codes_random hot redis_always redis_everysec}"
clients=${BENCH_MIX_CLIENTS:-64}

run_sold_out()
{
	prepare_variant "$1" 1
	measure "$1" "$clients" "$BENCH_SECONDS"
	violations=$(check_variant "$1" | head -n 5)
	[ "$rows" = 1 ] || violations+="${violations:+; }$rows sold of 1"
	rate=$(awk -v n="$calls" -v s="$seconds" 'BEGIN { printf "%.0f", n / s }')
}

run_duplicates()
{
	mix=twice
	prepare_variant "$1"
	printf '%s\n' '\set u random(1, 1000000000000000)' "SELECT $call;" "SELECT $call;" >"$scratch/script.sql"
	measure "$1" "$clients" "$BENCH_SECONDS"
	violations=$(check_variant "$1" | head -n 5)
	[ "$rows" = "$calls" ] || violations+="${violations:+; }$calls users, $rows rows"
	rate=$((2 * rate))
}

run_rollbacks()
{
	mix=rollback
	prepare_variant "$1"
	printf '%s\n' '\set u random(1, 1000000000000000)' '\set r random(1, 100)' \
		'BEGIN;' "SELECT $call;" '\if :r <= 20' 'ROLLBACK;' '\else' 'COMMIT;' '\endif' >"$scratch/script.sql"
	measure "$1" "$clients" "$BENCH_SECONDS"
	violations=$(check_variant "$1" | head -n 5)
	# of n calls 0.8 n stay, give or take
	awk -v n="$calls" -v r="$rows" 'BEGIN { d = r - 0.8 * n; exit d * d < 36 * 0.16 * n + 100 }' &&
		violations+="${violations:+; }$rows rows of $calls calls, a fifth rolled back"
	true
}

begin_part mixes
for name in ${BENCH_MIXES:-sold_out duplicates rollbacks}; do
	with=()
	for variant in "${variants[@]}"; do
		[ "$name $variant" = 'rollbacks grouped' ] || with+=("$variant")
	done
	passes "${name//_/ }" "$clients" "run_$name" "${with[@]}"
done
end_part
