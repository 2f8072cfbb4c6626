#!/usr/bin/env bash
#
# Part growth: what a unit costs as things grow.
#
#	campaigns    10,000 are there, the calls go to one, 100, all of them: warm,
#	             each has issued before; cold, nothing of it is in shared memory,
#	             for the few calls that it stays so
#	keys         the bytes of a user's key
#	rows         issuances in the table before the run.  Users are numbers of
#	             one range, so that new ones fall between the old ones.  A run
#	             begins with a checkpoint, so the first calls to a page write
#	             it to WAL whole, and is followed by one that does not.
#	connections  10 to 1,000, and 1,000 through PgBouncer
#
#	BENCH_GROWTH    which of them
#	BENCH_CAMPAIGNS, BENCH_KEYS, BENCH_ROWS, BENCH_CONNECTIONS
#	BENCH_GROWTH_SECONDS, BENCH_ROWS_SECONDS  of a run
#	                BENCH_ROWS=1000000:64,200 for other numbers of connections,
#	                and 1000000:64:coupon,grouped for other variants
#	BENCH_ROWS_VARIANTS
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_server "$@"
: "${BENCH_CAMPAIGNS:=1 100 10000}" "${BENCH_KEYS:=8 36 200}" "${BENCH_ROWS:=0 1000000 10000000}" "${BENCH_CONNECTIONS:=10 64 200 1000 1000@64}"
: "${BENCH_GROWTH_SECONDS:=4}" "${BENCH_ROWS_SECONDS:=10}" "${BENCH_ROWS_VARIANTS:=insert,coupon,grouped}"
most=${BENCH_CAMPAIGNS##* }
count_images=1

# Every call issues, and no law is violated.
check_run()
{
	violations=$(check_variant "$1" | head -n 5)
	[ "$rows" = "$calls" ] || violations+="${violations:+; }$calls calls issued $rows rows"
}

# run_campaigns VARIANT: $state is warm or cold
run_campaigns()
{
	local first duration=$BENCH_GROWTH_SECONDS

	prepare_variant "$1"
	first=$(cat "$scratch/campaign")
	sql "SELECT count(coupon_campaign_create('c' || i, 100000, policy => '$policy')) FROM generate_series(2, $most) i" >/dev/null
	printf '%s\n' "\\set c random($first, $((first + campaigns - 1)))" '\set u random(1, 1000000000000000)' \
		"SELECT ${call/($first,/(:c,};" >"$scratch/script.sql"
	if [ "$state" = warm ]; then
		# a transaction needs the maps of all campaigns that it uses at once
		sql "DO \$do\$ BEGIN
			FOR b IN 0 .. ($campaigns - 1) / 500 LOOP
				PERFORM coupon_issue($first + i, 'first') FROM generate_series(b * 500, least(b * 500 + 499, $campaigns - 1)) i;
				COMMIT;
			END LOOP;
		END \$do\$"
	else
		duration=$(((2 * campaigns + 2000) / 64))x
	fi
	sql CHECKPOINT
	measure "$1" 64 "$duration"
	check_run "$1"
}

growth_campaigns()
{
	local campaigns state

	for campaigns in $BENCH_CAMPAIGNS; do
		for state in cold warm; do
			passes "$campaigns campaigns $state" 64 run_campaigns coupon grouped
		done
	done
}

run_keys()
{
	local user

	prepare_variant "$1"
	# new users in no order; the short one is 48 bits, the long one differs early
	case $bytes in
		8) user="left(encode(int8send(:u::bigint << 13), 'base64'), 8)" ;;
		*) user="rpad(md5(:u::text), $bytes, '-0123456789')" ;;
	esac
	sed -i "s/:u::text);/$user);/; t; s/:u);/$user);/" "$scratch/script.sql"
	measure "$1" 64 "$BENCH_GROWTH_SECONDS"
	check_run "$1"
}

growth_keys()
{
	local bytes

	for bytes in $BENCH_KEYS; do
		passes "$bytes bytes" 64 run_keys insert coupon grouped
	done
}

# fill ROWS: fresh tables, ours and the bare one, of so many each, evenly spread
# over the range of users, 10,000 a transaction (the bare one only if it is one of
# those in with); leaves VARIANT.sql
fill()
{
	local users="SELECT (((b * 10000 + g + random()) * (1e15 / $1))::bigint) AS u FROM generate_series(0, least(10000, $1 - b * 10000) - 1) g" bare=''

	prepare_variant grouped
	create_bare
	cp "$scratch/script.sql" "$scratch/grouped.sql"
	sed s/_grouped// "$scratch/script.sql" >"$scratch/coupon.sql"
	[[ " ${with[*]} " == *" insert "* ]] || bare=--
	[ "$1" = 0 ] || PGOPTIONS='-c synchronous_commit=off' sql "DO \$do\$ BEGIN
		FOR b IN 0 .. ($1 + 9999) / 10000 - 1 LOOP
			PERFORM count(*) FROM coupon_issue_many($(cat "$scratch/campaign"), ARRAY(SELECT u::text FROM ($users) x));
			$bare INSERT INTO bench.bare SELECT 1, u, u FROM ($users) x ON CONFLICT DO NOTHING;
			COMMIT;
		END LOOP;
	END \$do\$"
	# as autovacuum would, in the middle of a run
	sql "VACUUM (ANALYZE) coupon.issuance, bench.bare"
}

run_rows()
{
	cp "$scratch/$1.sql" "$scratch/script.sql"
	schema=public
	[ -n "$running_on" ] || sql CHECKPOINT
	measure "$1" "$clients" "$BENCH_ROWS_SECONDS"
	[ "$rows" = "$calls" ] || violations="$calls calls issued $rows rows"
}

# All variants work on tables that are filled once for all runs of a size, since
# that takes long; what the runs add to a large table is little.  Those that begin
# empty are made anew each time.
growth_rows()
{
	local size all with clients running_on variant pass

	for size in $BENCH_ROWS; do
		IFS=: read -r size all with <<<"$size"
		IFS=, read -ra with <<<"${with:-$BENCH_ROWS_VARIANTS}"
		[ "$size" = 0 ] || fill "$size"
		for clients in $(tr , ' ' <<<"${all:-64}"); do
			able "$clients" "${with[@]}"
			for ((pass = 1; pass <= BENCH_PASSES; pass++)); do
				for variant in $(pass_order "$pass" "${present[@]}"); do
					[ "$size" != 0 ] || fill 0
					running_on=
					cell run_rows "$variant"
					record "$size rows at $clients" "$pass" "$variant"
					[ "$size" != 0 ] || continue
					running_on=1
					cell run_rows "$variant"
					record "$size rows at $clients without a checkpoint" "$pass" "$variant"
				done
			done
		done
		# all of it is looked at once: it takes its time
		isolated check_rows "$size"
		if [ -n "$violations" ]; then
			record "$size rows in the end" 1 grouped
		fi
	done
}

# of many millions, serials and users are not counted apart from their indexes
check_rows()
{
	if [ "$1" -le 1000000 ]; then
		violations=$(check_variant grouped | head -n 5)
	else
		violations=$(sql "SELECT * FROM coupon_verify() LIMIT 5")
	fi
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
		for ((pass = 1; pass <= BENCH_PASSES; pass++)); do
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
for name in ${BENCH_GROWTH:-campaigns keys rows connections}; do
	"growth_$name"
done
end_part
