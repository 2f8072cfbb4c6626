#!/usr/bin/env bash
#
# coupon_issue_many of 10,000 users beside INSERT ... SELECT of the same rows
# into clones of the same tables (which have no triggers and no foreign key).
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_server "$@"
failed_figures=0

rounds=${BENCH_MANY_ROUNDS:-10}
prepare_variant coupon
campaign=$(cat "$scratch/campaign")
sql "CREATE SCHEMA bench;
	CREATE TABLE bench.issuance (LIKE coupon.issuance INCLUDING ALL);
	CREATE TABLE bench.outbox (LIKE coupon.outbox_0 INCLUDING ALL)"

# many N, insert_select N: the statement of the N-th 10,000 users
many()
{
	echo "SELECT count(*) FROM coupon_issue_many($campaign, (SELECT array_agg('user-' || i) FROM generate_series($1 * 10000, $1 * 10000 + 9999) i)) WHERE status = 'issued';"
}

insert_select()
{
	cat <<-END
		WITH i AS (
			INSERT INTO bench.issuance (campaign_id, serial, shard, nth, issued_at, user_id, state, policy)
			SELECT $campaign, $1 * 10000 + n, 0, 1, now(), u, 'issued', '$policy'
			  FROM unnest((SELECT array_agg('user-' || i) FROM generate_series($1 * 10000, $1 * 10000 + 9999) i)) WITH ORDINALITY AS x (u, n)
			RETURNING *
		), e AS (
			INSERT INTO bench.outbox (id, topic, key, type, payload)
			SELECT gen_random_uuid(), 'coupon-issued', user_id, 'coupon.issued',
			       json_build_object('campaign_id', campaign_id, 'user_id', user_id, 'serial', serial, 'policy', policy, 'issued_at', issued_at)
			  FROM i
			RETURNING 1
		)
		SELECT count(*) FROM e;
	END
}

# Two warm-up rounds, then A B B A on one connection.
{
	printf '%s\n' '\timing on'
	for ((round = 0; round < rounds + 2; round++)); do
		for what in many insert_select insert_select many; do
			printf '%s\n' "\\echo round $round $what"
			n=$((${n:-0} + 1))
			$what $n
		done
	done
} >"$scratch/many.sql"
settle
psql -qXAt -v ON_ERROR_STOP=1 -f "$scratch/many.sql" >"$scratch/many.out"
awk '
	/^round/ { round = $2; what = $3 }
	/^[0-9]+$/ { if ($1 != 10000) { print "rows: " $1 > "/dev/stderr"; exit 1 } }
	/^Time/ && round >= 2 { ms[round, what] += $2; rounds[round] = 1 }
	END { for (r in rounds) print ms[r, "insert_select"] / ms[r, "many"], ms[r, "many"] / 2, ms[r, "insert_select"] / 2 }
' "$scratch/many.out" >"$scratch/ratios" || die "a statement did not issue 10,000 rows"
violations=$(check_variant coupon | head -n 5)
[ -z "$violations" ] || die "void: $violations"
detail="many $(awk '{ print $2 }' "$scratch/ratios" | median) ms, INSERT ... SELECT $(awk '{ print $3 }' "$scratch/ratios" | median) ms"
sizes=$(sql "SELECT format('bytes a row: issuance %s and %s, event %s and %s', a.x, b.x, c.x, d.x) FROM
	(SELECT round(avg(pg_column_size(t.*))) AS x FROM (SELECT * FROM coupon.issuance LIMIT 1000) t) a,
	(SELECT round(avg(pg_column_size(t.*))) AS x FROM (SELECT * FROM bench.issuance LIMIT 1000) t) b,
	(SELECT round(avg(pg_column_size(t.*))) AS x FROM (SELECT * FROM coupon.outbox WHERE type = 'coupon.issued' LIMIT 1000) t) c,
	(SELECT round(avg(pg_column_size(t.*))) AS x FROM (SELECT * FROM bench.outbox LIMIT 1000) t) d")
figure "coupon_issue_many of 10,000 / INSERT ... SELECT" "$(printf %.2f "$(awk '{ print $1 }' "$scratch/ratios" | median)")" at_least 1.8 "$detail; $sizes"
exit "$failed_figures"
