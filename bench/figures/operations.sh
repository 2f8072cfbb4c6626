#!/usr/bin/env bash
#
# What an operator does beside a sale: coupon_verify of one campaign of 10,000
# beside millions of other issuances, and dropping a campaign of millions while
# others issue, as many a second as BENCH_RATE says: their p99 from the moment
# that they wanted to begin, during the drop and before it.
#
#	BENCH_OTHER_ROWS  issuances beside the one that is verified
#	BENCH_DROP_ROWS   issuances of the campaign that is dropped
#	BENCH_RATE        calls a second meanwhile
#
# In short: BENCH_OTHER_ROWS=200000 BENCH_DROP_ROWS=100000 bench/figures/operations.sh
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_server "$@"
failed_figures=0

other_rows=${BENCH_OTHER_ROWS:-10000000}
drop_rows=${BENCH_DROP_ROWS:-3000000}
rate=${BENCH_RATE:-1000}
batch=10000

prepare_variant coupon
sale=$(cat "$scratch/campaign")

# fill ROWS: sets campaign, of which all units are issued and their events published
fill()
{
	campaign=$(sql "SELECT coupon_campaign_create('full', $1, policy => '$policy')")
	{
		echo "SET synchronous_commit = off;"
		for ((at = 0; at < $1; at += batch)); do
			echo "SELECT count(*) FROM coupon_issue_many($campaign, ARRAY(SELECT 'user-' || i FROM generate_series($at + 1, least($at + $batch, $1)) i));"
		done
	} | psql -qXAt -v ON_ERROR_STOP=1 >/dev/null
	sql "TRUNCATE coupon.outbox_0, coupon.outbox_1, coupon.outbox_2"
}

fill "$other_rows"
fill 10000
sql "VACUUM ANALYZE coupon.issuance"
for try in 1 2 3; do
	psql -qXAt -v ON_ERROR_STOP=1 -c '\timing on' -c "SELECT count(*) FROM coupon_verify($campaign)" >"$scratch/verify"
	[ "$(head -n 1 "$scratch/verify")" = 0 ] || die "void: coupon_verify finds something"
	awk '/^Time/ { print $2 / 1000 }' "$scratch/verify"
done >"$scratch/seconds"
figure "coupon_verify of a campaign of 10,000 beside $other_rows others, seconds" "$(printf %.3f "$(median <"$scratch/seconds")")" at_most 1

fill "$drop_rows"
sql "SELECT coupon_campaign_close($campaign)" >/dev/null
sql "CHECKPOINT"
printf '%s\n' '\set u random(1, 1000000000000000)' "SELECT coupon_issue($sale, :u::text);" >"$scratch/others.sql"
(cd "$scratch" && exec pgbench -n -c 8 -j 2 -R "$rate" -T 3600 -l --log-prefix=others -f others.sql >"$scratch/others.out" 2>&1) &
others=$!
sleep $((BENCH_SECONDS + 4))
began=$(date +%s.%N)
sql "CALL coupon_campaign_drop($campaign)"
ended=$(date +%s.%N)
stop "$others"

# p99 FROM TO: of the calls that ended in between, in ms
p99()
{
	awk -v from="$1" -v to="$2" '{ at = $5 + $6 / 1e6 } at >= from && at < to { print $3 / 1000 }' "$scratch"/others.* 2>/dev/null |
		sort -n | awk '{ x[NR] = $1 } END { print NR ? x[int(NR * 0.99) + (NR < 100)] : 0 }'
}
rm "$scratch/others.sql" "$scratch/others.out"
before=$(p99 "$(awk -v t="$began" -v s="$BENCH_SECONDS" 'BEGIN { printf "%.3f", t - s }')" "$began")
during=$(p99 "$began" "$ended")
seconds=$(awk -v a="$began" -v b="$ended" 'BEGIN { printf "%.1f", b - a }')
violations=$(sql "SELECT * FROM coupon_verify() LIMIT 5")
[ -z "$violations" ] || die "void: $violations"
[ "$(sql "SELECT count(*) FROM coupon.issuance WHERE campaign_id = $campaign")" = 0 ] || die "void: issuances are left"
figure "coupon_campaign_drop of $drop_rows issuances, seconds" "$seconds" at_most 60
figure "p99 of others at $rate/s, during the drop / before" "$(awk -v d="$during" -v b="$before" 'BEGIN { printf "%.2f", (b > 0) ? d / b : 99 }')" at_most 2 "$during ms, $before ms"
exit "$failed_figures"
