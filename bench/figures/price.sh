#!/usr/bin/env bash
#
# price.sh [BEFORE]
#
# What an issue costs: CPU time of the server's process (user and system) for
# batches of 200 users, a transaction each, with 0, 10 and 50 % users who have a
# unit already, in a campaign without issuances and in one with a million; WAL
# for an issue with its event; and perf's share by function.  CPU time tells two
# revisions apart on a machine that has other work, too.
#
# BEFORE is the directory of another revision, built; both are measured in turn
# (A B B A) and compared:
#
#	git worktree add /tmp/before REVISION && make -C /tmp/before tmp_install
#	bench/figures/price.sh /tmp/before
#
#	BENCH_PRICE_ROWS    issuances that a campaign has first; default "0 1000000"
#	BENCH_PRICE_SHARES  of users who have one, in percent; default "0 10 50"
#	BENCH_PRICE_ROUNDS  of forth and back; default 4
#	BENCH_PRICE_PERF    0: no profile
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

batches=100		# of 200 in a measurement
before=${1:-}

# The servers, one within the other; each one's environment is kept in a file.
if [ -z "${BENCH_PRICE_ENV:-}" ]; then
	BENCH_PRICE_ENV=$(mktemp -d "${TMPDIR:-/tmp}/coupon_price.XXXXXX")
	export BENCH_PRICE_ENV
	trap 'rm -rf "$BENCH_PRICE_ENV"' EXIT
	trap 'exit 130' INT TERM
	options=()
	for setting in "${settings[@]}"; do
		options+=(-c "$setting")
	done
	options+=(-c autovacuum=off)
	# shellcheck disable=SC2016 # for the inner shell to expand
	keep='declare -px PGHOST PGPORT PGUSER PGDATABASE PGPASSWORD PATH | sed s/-x/-gx/ >"$BENCH_PRICE_ENV/$0"; exec "$@"'
	run=("$0" "$@")
	[ -z "$before" ] || run=("$before/test/bin/with_server" "${options[@]}" bash -c "$keep" before "${run[@]}")
	"$top/test/bin/with_server" "${options[@]}" bash -c "$keep" now "${run[@]}"
	exit
fi

scratch=$BENCH_PRICE_ENV
failed_figures=0
if [ -z "$before" ]; then sides=(now); else sides=(now before); fi

# at SIDE: from here on that server is meant
at()
{
	# shellcheck disable=SC1090
	. "$scratch/$1"
}

# The number of a user is spread over the index, and so is what is taken from it.
set_up()
{
	psql -qX -v ON_ERROR_STOP=1 <<-'SQL'
		SET client_min_messages = warning;
		CREATE EXTENSION coupon;
		CREATE EXTENSION pg_walinspect;
		CREATE SCHEMA bench;
		CREATE TABLE bench.batch (n int PRIMARY KEY, users text[] NOT NULL);
		ALTER TABLE bench.batch ALTER users SET STORAGE PLAIN;
		CREATE FUNCTION bench.name(n bigint) RETURNS text IMMUTABLE LANGUAGE sql
			RETURN (hashint8extended(n, 0) & 1125899906842623)::text;
		CREATE PROCEDURE bench.fill(campaign bigint, upto bigint) LANGUAGE plpgsql AS $$
		BEGIN
			FOR n IN 0 .. upto - 1 BY 20000 LOOP
				PERFORM count(*) FROM coupon_issue_many(campaign, ARRAY(SELECT bench.name(i) FROM generate_series(n, n + 19999) i));
				COMMIT;
			END LOOP;
		END $$;
		-- from: the first user who has no unit yet
		CREATE PROCEDURE bench.prepare(batches int, start bigint, share int) LANGUAGE plpgsql AS $$
		BEGIN
			TRUNCATE bench.batch;
			INSERT INTO bench.batch
			SELECT b, array_agg(bench.name(CASE WHEN i % 100 < share THEN ((start - 1) * random())::bigint
			                                    ELSE start + b * 200 + i END))
			  FROM generate_series(0, batches - 1) b, generate_series(0, 199) i GROUP BY b;
		END $$;
		CREATE PROCEDURE bench.run(campaign bigint) LANGUAGE plpgsql AS $$
		DECLARE last int := (SELECT max(n) FROM bench.batch); these text[];
		BEGIN
			FOR b IN 0 .. last LOOP
				SELECT users INTO these FROM bench.batch WHERE n = b;
				PERFORM count(*) FROM coupon_issue_many(campaign, these);
				COMMIT;
			END LOOP;
		END $$;
	SQL
}

# fill SIDE ROWS: a new campaign with so many issuances
fill()
{
	say "$1" "SELECT coupon_campaign_create('rows $2', 3000000, policy => '$policy');"
	number[$1]=$said
	next[$1]=$(($2 > 0 ? $2 : 1))
	say "$1" "CALL bench.fill(${number[$1]}, $2);"
	say "$1" "SELECT coupon_issue(${number[$1]}, bench.name(0)); CHECKPOINT;"
	# the pages are written whole once
	measure_cpu "$1" 0
	measure_cpu "$1" 0
}

# A session of each side lasts: a new one maps the shared memory page by page.
declare -A in out pid
open_session()
{
	mkfifo "$scratch/$1.in" "$scratch/$1.out"
	psql -qXAt -v ON_ERROR_STOP=1 <"$scratch/$1.in" >"$scratch/$1.out" &
	exec {fd}>"$scratch/$1.in"
	in[$1]=$fd
	exec {fd}<"$scratch/$1.out"
	out[$1]=$fd
	say "$1" "SELECT pg_backend_pid();"
	pid[$1]=$said
}

# say SIDE SQL: in its session; sets said to the last line of the answer
say()
{
	local line

	printf '%s\n' "$2" '\echo =end=' >&"${in[$1]}"
	said=
	while read -r line <&"${out[$1]}"; do
		[ "$line" != =end= ] || return 0
		said=$line
	done
	die "the session $1 has ended"
}

# measure_cpu SIDE SHARE [PERF]: sets cpu, us for a user; profiles with PERF
measure_cpu()
{
	local side=$1 start

	say "$side" "CALL bench.prepare($batches, ${next[$side]}, $2);"
	next[$side]=$((next[$side] + batches * 200))
	if [ -n "${3:-}" ]; then
		perf record -q -F 4000 -o "$scratch/perf" -p "${pid[$side]}" >/dev/null 2>&1 &
		profiler=$!
		sleep 2
	fi
	start=$(cut -d' ' -f1 "/proc/${pid[$side]}/schedstat")
	say "$side" "CALL bench.run(${number[$side]});"
	cpu=$(cut -d' ' -f1 "/proc/${pid[$side]}/schedstat" | awk -v a="$start" -v n=$((batches * 200)) '{ print ($1 - a) / 1000 / n }')
	if [ -n "${3:-}" ]; then
		kill -INT "$profiler"
		wait "$profiler" || true
	fi
}

# WAL of an issue and its event, without full-page images
measure_wal()
{
	local from start to

	psql -qX -v ON_ERROR_STOP=1 -c "CALL bench.prepare(50, $2, 0)"
	from=$(sql "SELECT pg_current_wal_insert_lsn()")
	sql "CALL bench.run($1)"
	to=$(sql "SELECT pg_current_wal_flush_lsn()")
	wal=$(sql "SELECT round(sum(record_size) / 10000) FROM pg_get_wal_stats('$from', '$to', true)")
	wal_parts=$(sql "SELECT string_agg(format('%s %s', \"resource_manager/record_type\", round(record_size / 10000)), ', ' ORDER BY record_size DESC)
		FROM pg_get_wal_stats('$from', '$to', true) WHERE record_size >= 10000")
}

for side in "${sides[@]}"; do
	at "$side"
	set_up
	open_session "$side"
done

declare -A number next
for rows in ${BENCH_PRICE_ROWS:-0 1000000}; do
	for side in "${sides[@]}"; do
		fill "$side" "$rows"
	done
	for share in ${BENCH_PRICE_SHARES:-0 10 50}; do
		for side in "${sides[@]}"; do : >"$scratch/cpu.$side"; done
		: >"$scratch/ratios"
		for ((round = 0; round < ${BENCH_PRICE_ROUNDS:-4}; round++)); do
			order=("${sides[@]}")
			[ -z "$before" ] || order=(now before before now)
			declare -A sum=([now]=0 [before]=0)
			for side in "${order[@]}"; do
				measure_cpu "$side" "$share"
				echo "$cpu" >>"$scratch/cpu.$side"
				sum[$side]=$(awk -v a="${sum[$side]}" -v b="$cpu" 'BEGIN { print a + b }')
			done
			echo "${sum[now]} ${sum[before]}" >>"$scratch/ratios"
		done
		name="CPU for a user in batches of 200 of whom $share % have a unit with $rows issuances"
		detail="lowest $(sort -n "$scratch/cpu.now" | head -n 1)"
		[ -z "$before" ] || detail+="; before $(median <"$scratch/cpu.before"), lowest $(sort -n "$scratch/cpu.before" | head -n 1)"
		figure "$name us" "$(printf %.2f "$(median <"$scratch/cpu.now")")" info - "$detail"
		if [ -n "$before" ]; then
			ratio=$(awk '{ print $1 / $2 }' "$scratch/ratios" | median)
			how=info required=-
			[ "$share-$rows" != 0-1000000 ] || how=at_most required=0.65
			figure "$name now / before" "$(printf %.2f "$ratio")" "$how" "$required"
		fi
	done
	at now
	measure_wal "${number[now]}" "${next[now]}"
	next[now]=$((next[now] + 10000))
	how=info required=-
	[ "$rows" = 0 ] || how=at_most required=500
	figure "WAL bytes of an issue and its event in batches of 200 with $rows issuances" "$wal" "$how" "$required" "$wal_parts"
	if [ "$rows" != 0 ] && [ "${BENCH_PRICE_PERF:-1}" = 1 ] && command -v perf >/dev/null; then
		for side in "${sides[@]}"; do
			measure_cpu "$side" 0 perf
			printf '# perf, %s: share by function\n' "$side"
			perf report -i "$scratch/perf" --stdio --percent-limit 0.7 2>/dev/null | grep -v '^#' | grep . | head -n "${BENCH_PRICE_LINES:-40}" || true
		done
	fi
done

for side in "${sides[@]}"; do
	fd=${in[$side]}
	exec {fd}>&-
	at "$side"
	violations=$(sql "SELECT * FROM coupon_verify()" | head -n 5)
	[ -z "$violations" ] || die "void, $side: $violations"
done
exit "$failed_figures"
