#!/usr/bin/env bash
#
# Part bulk: many units by one session: coupon_issue_many (many) beside INSERT ...
# SELECT of the same rows (insert_select), so many users a call; and the drain of
# a backlog of requests by its worker (drain) beside coupon_issue_many of as many.
#
#	BENCH_BULK     users of a call; 200 is what a batch of grouped calls has
#	BENCH_BACKLOG  requests that wait, 0: no drain
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_server "$@"
: "${BENCH_BACKLOG:=200000}"

run()
{
	prepare_variant "$1"
	measure "$1" 1 "$BENCH_SECONDS"
	violations=$(check_variant "$1" | head -n 5)
	[ "$rows" = $((calls * bulk)) ] || violations+="${violations:+; }$calls calls of $bulk issued $rows rows"
}

run_backlog()
{
	local server

	if [ "$1" = many ]; then
		prepare_variant many
		measure many 1 1x
	else
		prepare_variant request
		settle
		drain_requests "$(cat "$scratch/campaign")" "$bulk"
	fi
	violations=$(check_variant many | head -n 5)
	[ "$rows" = "$bulk" ] || violations+="${violations:+; }$rows rows of $bulk"
}

begin_part bulk
for bulk in ${BENCH_BULK:-200 10000 100000 1000000}; do
	passes "$bulk a call" 1 run insert_select many
done
if [ "$BENCH_BACKLOG" != 0 ]; then
	bulk=$BENCH_BACKLOG
	passes "backlog of $bulk" 1 run_backlog many drain
fi
end_part
