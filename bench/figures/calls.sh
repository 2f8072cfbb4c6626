#!/usr/bin/env bash
#
# What a call costs by how it is written, in alternating runs of one session: by a
# user that is text with the functions for bigint and uuid beside that for text
# and without them, prepared and parsed each time; with a request_key and without.
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_server "$@"
failed_figures=0

# us FILE MODE: microseconds of a call
us()
{
	pgbench -n -M "$2" -c 1 -T "$BENCH_SECONDS" -f "$1" 2>"$scratch/log" |
		awk '/^latency average/ { print $4 * 1000; found = 1 } END { exit !found }' ||
		die "pgbench: $(tail -n 3 "$scratch/log")"
}

# overloads hide|show: the functions for users of other types
overloads()
{
	local type

	for type in bigint uuid; do
		case $1 in
			hide) sql "ALTER FUNCTION coupon_issue(bigint, $type, text) RENAME TO hidden_$type" ;;
			show) sql "ALTER FUNCTION hidden_$type(bigint, $type, text) RENAME TO coupon_issue" ;;
		esac
	done
}

# compare NAME CONDITION REQUIRED WHAT MODE: median of the ratios other / one, of which
# each pair gives one
compare()
{
	local pair what detail=''
	declare -A sum

	: >"$scratch/ratios"
	for ((pair = 1; pair <= BENCH_PAIRS; pair++)); do
		sum=([one]=0 [other]=0)
		for what in one other other one; do
			if [ "$4" = overloads ]; then
				[ "$what" = one ] || overloads hide
				us "$scratch/issue.sql" "$5" >"$scratch/us"
				[ "$what" = one ] || overloads show
			else
				us "$scratch/$what.sql" "$5" >"$scratch/us"
			fi
			sum[$what]=$(awk -v sum="${sum[$what]}" '{ print sum + $1 }' "$scratch/us")
			detail+="${detail:+, }$what $(cat "$scratch/us") us"
		done
		echo "${sum[other]} ${sum[one]}" | awk '{ print $1 / $2 }' >>"$scratch/ratios"
	done
	figure "$1" "$(printf %.3f "$(median <"$scratch/ratios")")" "$2" "$3" "$detail"
}

prepare_variant coupon
sold_out=$(sql "SELECT coupon_campaign_create('sold out', 0)")
campaign=$(sql "SELECT coupon_campaign_create('keys', 50000000)")
echo "SELECT status FROM coupon_issue($sold_out, 'u');" >"$scratch/issue.sql"
printf '%s\n' '\set u random(1, 2000000000)' "SELECT status FROM coupon_issue($campaign, :u::text, :u::text);" >"$scratch/one.sql"
printf '%s\n' '\set u random(1, 2000000000)' "SELECT status FROM coupon_issue($campaign, :u::text);" >"$scratch/other.sql"
compare 'a sold-out answer, prepared: without the functions for other users / with them' at_least 0.97 overloads prepared
compare 'the same, parsed each time' info - overloads simple
compare 'coupon_issue without a key / with one, one session' at_least 0.5 keys prepared
exit "$failed_figures"
