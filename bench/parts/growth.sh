#!/usr/bin/env bash
#
# Part growth: what a unit costs as things grow.
#
#	campaigns    10,000 are there, the calls go to one, 100, all of them, each
#	             of which has issued before
#	rows         issuances in the table before the run.  Users are numbers of
#	             one range, so that new ones fall between the old ones.  A run
#	             begins with a checkpoint, so the first calls to a page write
#	             it to WAL whole, and is long enough for what comes after that.
#	connections  10 to 1,000, and 1,000 through PgBouncer
#
#	BENCH_GROWTH    which of them
#	BENCH_CAMPAIGNS, BENCH_ROWS, BENCH_CONNECTIONS
#	BENCH_GROWTH_SECONDS, BENCH_ROWS_SECONDS  of a run
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_server "$@"
: "${BENCH_CAMPAIGNS:=1 100 10000}" "${BENCH_ROWS:=0 1000 100000 10000000}" "${BENCH_CONNECTIONS:=10 64 200 1000 1000@64}"
: "${BENCH_GROWTH_SECONDS:=4}" "${BENCH_ROWS_SECONDS:=20}"
most=${BENCH_CAMPAIGNS##* }

run_campaigns()
{
	local first

	prepare_variant "$1"
	first=$(cat "$scratch/campaign")
	sql "SELECT count(coupon_campaign_create('c' || i, 100000, policy => '$policy')) FROM generate_series(2, $most) i" >/dev/null
	printf '%s\n' "\\set c random($first, $((first + campaigns - 1)))" '\set u random(1, 1000000000000000)' \
		"SELECT ${call/($first,/(:c,};" >"$scratch/script.sql"
	sql "SELECT count(coupon_issue($first + i, 'first')) FROM generate_series(0, $campaigns - 1) i" >/dev/null
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

# fill TABLE ROWS: a fresh one of so many, evenly spread over the range of users,
# 10,000 a transaction; leaves script.VARIANT
fill()
{
	local user="(((b * 10000 + g + random()) * (1e15 / $2))::bigint)" issue relation

	case $1 in
		ours)
			prepare_variant grouped
			cp "$scratch/script.sql" "$scratch/script.grouped"
			sed s/_grouped// "$scratch/script.grouped" >"$scratch/script.coupon"
			relation=coupon.issuance
			issue="PERFORM count(*) FROM coupon_issue_many($(cat "$scratch/campaign"),
				ARRAY(SELECT $user::text FROM generate_series(0, least(10000, $2 - b * 10000) - 1) g))"
			;;
		insert)
			prepare_variant insert
			cp "$scratch/script.sql" "$scratch/script.insert"
			relation=bench.bare
			issue="INSERT INTO bench.bare SELECT 1, u, u FROM (SELECT $user AS u
				FROM generate_series(0, least(10000, $2 - b * 10000) - 1) g) x ON CONFLICT DO NOTHING"
			;;
	esac
	[ "$2" = 0 ] || sql "DO \$do\$ BEGIN FOR b IN 0 .. ($2 + 9999) / 10000 - 1 LOOP $issue; COMMIT; END LOOP; END \$do\$"
	# as autovacuum would, in the middle of a run
	sql "VACUUM (ANALYZE) $relation"
}

run_rows()
{
	large "$size" || fill "$table" "$size"
	cp "$scratch/script.$1" "$scratch/script.sql"
	sql CHECKPOINT
	measure "$1" 64 "$BENCH_ROWS_SECONDS"
	large "$size" || check_rows_of "$1"
	[ "$rows" = "$calls" ] || violations+="${violations:+; }$calls calls issued $rows rows"
}

# What the runs add to a large table is little, and to fill it takes long.
large()
{
	[ "$1" -ge 1000000 ]
}

# of a size, those of one pass
rows_pass()
{
	local variant

	for variant in $(pass_order "$pass" "${with[@]}"); do
		cell run_rows "$variant"
		record "$size rows" "$pass" "$variant"
	done
}

# small FIRST LAST: the passes of the sizes that are filled for each run
small()
{
	local pass size

	for ((pass = $1; pass <= $2; pass++)); do
		for size in $BENCH_ROWS; do
			large "$size" || rows_pass
		done
	done
}

# The small ones come before and after the large one, which is filled once, since
# that takes so long that the machine may not be what it was.  Ours has one table,
# direct and grouped.
growth_rows()
{
	local table size pass with

	for table in insert ours; do
		with=(insert)
		[ "$table" = insert ] || with=(coupon grouped)
		small 1 "$BENCH_PAIRS"
		for size in $BENCH_ROWS; do
			large "$size" || continue
			fill "$table" "$size"
			for ((pass = 1; pass <= 2 * BENCH_PAIRS; pass++)); do
				rows_pass
			done
			# all of it is looked at once: it takes its time
			isolated check_rows_of "${with[-1]}"
			[ -z "$violations" ] || { failed=1; echo "$table: $violations"; echo "check,1,${with[-1]},,,,,,,0,,,,,\"\",\"${violations//[$'\n,"']/ }\"" >>"$results/$part.part.csv"; }
		done
		small $((BENCH_PAIRS + 1)) $((2 * BENCH_PAIRS))
	done
}

check_rows_of()
{
	violations=$(check_variant "$1" | head -n 5)
}

run_connections()
{
	checked_run "$1" "$connections" "$BENCH_GROWTH_SECONDS"
}

# One variant after another: what is compared are its own connections.
growth_connections()
{
	local variant pass connections

	for variant in insert coupon grouped shards128 redis_always; do
		for ((pass = 1; pass <= 2 * BENCH_PAIRS; pass++)); do
			# shellcheck disable=SC2086
			for connections in $(pass_order "$pass" $BENCH_CONNECTIONS); do
				able "$connections" "$variant"
				[ ${#present[@]} = 0 ] && continue
				cell run_connections "$variant"
				record "$connections connections" "$pass" "$variant"
			done
		done
	done
}

begin_part growth
for name in ${BENCH_GROWTH:-campaigns connections rows}; do
	"growth_$name"
done
end_part
