#!/usr/bin/env bash
#
# Part growth: what a unit costs as things grow.
#
#	campaigns    10,000 are there, the calls go to one, 100, all of them
#	rows         issuances in the table before the run.  Users are numbers of
#	             one range, so that new ones fall between the old ones.
#	connections  10 and 1,000, all to the server itself; part issue has the rest
#
#	BENCH_GROWTH    which of them
#	BENCH_CAMPAIGNS, BENCH_ROWS, BENCH_CONNECTIONS
#	BENCH_GROWTH_SECONDS  of a run
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_server "$@"
: "${BENCH_CAMPAIGNS:=1 100 10000}" "${BENCH_ROWS:=0 1000 100000 10000000}" "${BENCH_CONNECTIONS:=10 1000}"
: "${BENCH_GROWTH_SECONDS:=4}"
most=${BENCH_CAMPAIGNS##* }

# shellcheck disable=SC2317
run_campaigns()
{
	local first

	prepare_variant "$1"
	first=$(cat "$scratch/campaign")
	sql "SELECT count(coupon_campaign_create('c' || i, 100000, policy => '$policy')) FROM generate_series(2, $most) i" >/dev/null
	printf '%s\n' "\\set c random($first, $((first + campaigns - 1)))" '\set u random(1, 1000000000000000)' \
		"SELECT ${call/($first,/(:c,};" >"$scratch/script.sql"
	sql CHECKPOINT
	measure "$1" 64 "$BENCH_GROWTH_SECONDS"
	violations=$(check_variant "$1" | head -n 5)
	[ "$rows" = "$calls" ] || violations+="${violations:+; }$calls calls issued $rows rows"
}

growth_campaigns()
{
	local campaigns

	for campaigns in $BENCH_CAMPAIGNS; do
		passes "$campaigns campaigns" 64 run_campaigns coupon grouped
	done
}

# fill TABLE ROWS: so many more, evenly spread over the range of users, each
# 10,000 a transaction
fill()
{
	local user="(((b * 10000 + g + random()) * (1e15 / $2))::bigint)" issue

	case $1 in
		ours)
			issue="PERFORM count(*) FROM coupon_issue_many($(cat "$scratch/campaign"),
				ARRAY(SELECT $user::text FROM generate_series(0, least(10000, $2 - b * 10000) - 1) g))"
			;;
		insert)
			issue="INSERT INTO bench.bare SELECT 1, u, u FROM (SELECT $user AS u
				FROM generate_series(0, least(10000, $2 - b * 10000) - 1) g) x ON CONFLICT DO NOTHING"
			;;
	esac
	sql "DO \$do\$ BEGIN FOR b IN 0 .. ($2 + 9999) / 10000 - 1 LOOP $issue; COMMIT; END LOOP; END \$do\$"
	sql "CHECKPOINT"
}

# shellcheck disable=SC2317
run_rows()
{
	measure "$1" 64 "$BENCH_GROWTH_SECONDS"
	[ "$rows" = "$calls" ] || violations="$calls calls issued $rows rows"
}

# The same table for ours, direct and grouped.
growth_rows()
{
	local table size there pass variant with

	for table in insert ours; do
		with=(insert)
		[ "$table" = insert ] || with=(coupon grouped)
		prepare_variant "${with[-1]}"
		cp "$scratch/script.sql" "$scratch/script.${with[-1]}"
		[ "$table" = insert ] || sed s/_grouped// "$scratch/script.grouped" >"$scratch/script.coupon"
		for size in $BENCH_ROWS; do
			there=$(variant_rows "${with[0]}")
			[ "$size" -le "$there" ] || fill "$table" $((size - there))
			for ((pass = 1; pass <= 2 * BENCH_PAIRS; pass++)); do
				for variant in $(pass_order "$pass" "${with[@]}"); do
					cp "$scratch/script.$variant" "$scratch/script.sql"
					cell run_rows "$variant"
					record "$size rows" "$pass" "$variant"
				done
			done
		done
		# all of it is looked at once: it takes its time
		isolated check_rows_of "$variant"
		[ -z "$violations" ] || { failed=1; echo "$table: $violations"; echo "check,1,$variant,,,,,,,0,,,,,\"\",\"${violations//[$'\n,"']/ }\"" >>"$results/$part.part.csv"; }
	done
}

# shellcheck disable=SC2317
check_rows_of()
{
	violations=$(check_variant "$1" | head -n 5)
}

# shellcheck disable=SC2317
run_connections()
{
	checked_run "$1" "$connections" "$BENCH_GROWTH_SECONDS"
}

growth_connections()
{
	local connections

	for connections in $BENCH_CONNECTIONS; do
		passes "$connections connections" "$connections" run_connections insert coupon grouped shards128 redis_always
	done
}

begin_part growth
for name in ${BENCH_GROWTH:-campaigns connections rows}; do
	"growth_$name"
done
end_part
