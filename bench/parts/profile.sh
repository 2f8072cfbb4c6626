#!/usr/bin/env bash
#
# Part profile: where the CPU time of a variant goes, by perf: the share of each
# function of the server's processes, and of who calls them.  Needs perf, and leave
# to look at all of the machine (root, or kernel.perf_event_paranoid below 1).
#
#	BENCH_PROFILE  VARIANT:CONNECTIONS; many:1 is 10,000 users a call
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_server "$@"
bulk=10000

# sampled SECONDS: the whole machine, a moment after the start of a run
sampled()
{
	sleep 0.5
	perf record -q -a -F 1999 -o "$scratch/perf" -- sleep "$1" >"$scratch/perf.log" 2>&1
}

run()
{
	local profiler length

	length=$(awk -v s="$BENCH_SECONDS" 'BEGIN { print (s > 1 ? s - 1 : 0.3) }')
	prepare_variant "$1"
	settle
	sampled "$length" &
	profiler=$!
	measure "$1" "$clients" "$BENCH_SECONDS"
	wait "$profiler" || die "perf: $(tail -n 1 "$scratch/perf.log")"
	# a line for each process' name and function
	perf report -i "$scratch/perf" --stdio --no-children -F overhead,comm,sym -t '|' 2>/dev/null |
		awk -F '|' -v v="$1 at $clients" '/^ *[0-9]/ {
			gsub(/%| /, "", $1); gsub(/^ +| +$/, "", $2); sub(/^ *\[.\] /, "", $3); sub(/ +$/, "", $3)
			if ($2 ~ /^swapper/) { idle += $1; next }
			gsub(/,/, ";", $3); share[$2 "," $3] += $1; all += $1
		}
		END { for (x in share) printf "%s,%.2f,%s\n", v, 100 * share[x] / all, x }' >>"$results/profile.functions.csv"
	violations=$(check_variant "$1" | head -n 5)
}

begin_part profile
echo 'variant,share,process,function' >"$results/profile.functions.csv"
if ! perf record -q -a -o "$scratch/perf" -- true >"$scratch/perf.log" 2>&1; then
	echo "profile: skipped: no perf that may look at all of the machine: $(tail -n 1 "$scratch/perf.log")" |
		tee "$results/profile.skipped.txt"
	end_part
fi
for what in ${BENCH_PROFILE:-insert:64 coupon:64 grouped:64 http:64 many:1}; do
	clients=${what#*:}
	able "$clients" "${what%:*}"
	for variant in "${present[@]}"; do
		cell run "$variant"
		record "$clients" 1 "$variant"
	done
done
end_part
