#!/usr/bin/env bash
#
# Part sale: the time until a stock of 20,000 is sold, to as many users.  Each
# connection calls as often, so the stock is what the calls add up to; every
# unit must go, and the next user must hear that it is sold out.
#
#	BENCH_SALE_STOCK, BENCH_SALE_CLIENTS, BENCH_SALE_VARIANTS
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_server "$@"
read -ra variants <<<"${BENCH_SALE_VARIANTS:-coupon grouped shards128 codes_random hot redis_always redis_everysec}"

run()
{
	local each=$(((${BENCH_SALE_STOCK:-20000} + ${clients%@*} - 1) / ${clients%@*})) next

	prepare_variant "$1" $((each * ${clients%@*}))
	measure "$1" "$clients" "${each}x"
	violations=$(check_variant "$1" | head -n 5)
	[ "$rows" = "$stock" ] || violations+="${violations:+; }$rows sold of $stock"
	note="$stock sold"
	if [ -n "$call" ]; then
		next=$(PGOPTIONS="-c search_path=$schema" sql "SELECT status FROM ${call/:u/0}")
		[ "$next" = sold_out ] || violations+="${violations:+; }the next user hears $next"
	fi
}

begin_part sale
for clients in ${BENCH_SALE_CLIENTS:-64 200}; do
	passes "$clients" "$clients" run "${variants[@]}"
done
end_part
