#!/usr/bin/env bash
#
# Support: a user's list over 10,000 campaigns, without and with an index on
# user_id; what such an index costs an issue; coupon_health() beside all of them.
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_server "$@"
failed_figures=0

campaigns=${BENCH_SUPPORT_CAMPAIGNS:-10000} others=${BENCH_SUPPORT_OTHERS:-50} rounds=${BENCH_SUPPORT_ROUNDS:-4}

prepare_variant coupon
sql "SET client_min_messages = warning;
	SELECT count(coupon_campaign_create('support ' || g, $others + 2)) FROM generate_series(1, $campaigns) g;" >/dev/null
first=$(sql "SELECT max(campaign_id) - $campaigns + 1 FROM coupon.campaign")
for ((from = first; from < first + campaigns; from += 1000)); do
	sql "SELECT count(*) FROM generate_series($from, $from + least(999, $first + $campaigns - $from - 1)) c,
		LATERAL (SELECT count(*) FROM coupon_issue_many(c, ARRAY(SELECT 'user-' || c || '-' || u FROM generate_series(1, $others) u)) OFFSET 0) i" >/dev/null
done
sql "SELECT count(coupon_issue(c, 'vip')) FROM generate_series($first, $first + $campaigns - 1, greatest(1, $campaigns / 20)) c" >/dev/null
sql "VACUUM ANALYZE coupon.issuance, coupon.campaign, coupon.shard"
settle

# milliseconds STATEMENT: the median of 21 calls in a session that has made some
milliseconds()
{
	{
		printf '%s;\n' "$1" "$1" "$1" "$1" "$1" "$1"
		printf '%s\n' '\timing on'
		for _ in {1..21}; do printf '%s;\n' "$1"; done
	} | psql -qXAt -v ON_ERROR_STOP=1 | awk '/^Time: / { print $2 }' | median
}

index()
{
	sql "DROP INDEX IF EXISTS coupon.issuance_user_idx" 2>/dev/null
	[ "$1" = none ] || sql "CREATE INDEX issuance_user_idx ON coupon.issuance USING $1 (user_id)"
}

list="SELECT count(*) FROM coupon_user_issuances('vip')"
[ "$(sql "$list")" = "$(sql "SELECT count(*) FROM coupon.issuance WHERE user_id = 'vip'")" ] || die "void: the list is not the table's"
rows=$(sql "SELECT count(*) FROM coupon.issuance")
figure "ms for a user's list over $campaigns campaigns, without an index on user_id" "$(milliseconds "$list")" info - "$rows issuances, 20 of the user's"
index hash
figure "ms for a user's list over $campaigns campaigns, with one" "$(milliseconds "$list")" at_most 5 "USING hash"
index none
figure "ms for coupon_health() beside $campaigns campaigns" "$(milliseconds "SELECT count(*) FROM coupon_health()")" at_most 50 ""

# What an index costs: 10,000 issues to users in no order, A B C C B A.
n=0
issue()
{
	local start end

	index "$1"
	sql "CHECKPOINT"
	start=$(sql "SELECT pg_current_wal_insert_lsn()")
	n=$((n + 1))
	# shellcheck disable=SC2016 # quotes of SQL
	printf '\\timing on\nSELECT count(*) FROM coupon_issue_many(%s, (SELECT array_agg(md5(%s || $$-$$ || i)) FROM generate_series(1, 10000) i)) WHERE status = $$issued$$;\n' \
		"$(cat "$scratch/campaign")" "$n" | psql -qXAt -v ON_ERROR_STOP=1 >"$scratch/issue"
	grep -qx 10000 "$scratch/issue" || die "void: 10,000 users were not issued"
	end=$(sql "SELECT pg_current_wal_insert_lsn()")
	echo "$(awk '/^Time: / { print $2 / 10 }' "$scratch/issue") $(sql "SELECT round(('$end'::pg_lsn - '$start'::pg_lsn) / 10000)")" >>"$scratch/cost.$1"
}
for ((round = 0; round < rounds; round++)); do
	for kind in none hash btree btree hash none; do
		issue "$kind"
	done
done
cost()
{
	awk -v c="$2" '{ print $c }' "$scratch/cost.$1" | median
}
for kind in hash btree; do
	figure "time of an issue in a batch with an index on user_id ($kind) / without" \
		"$(awk -v a="$(cost "$kind" 1)" -v b="$(cost none 1)" 'BEGIN { printf "%.2f", a / b }')" info - \
		"us an issue: $(cost none 1) without, $(cost "$kind" 1) with; bytes of WAL with full-page images: $(cost none 2) without, $(cost "$kind" 2) with"
done
index none
violations=$(check_variant coupon | head -n 5)
[ -z "$violations" ] || die "void: $violations"
exit "$failed_figures"
