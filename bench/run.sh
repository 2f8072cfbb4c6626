#!/usr/bin/env bash
#
# make bench: coupon beside its peers, doing equal work; on one private server,
# variants forward and backward (A B ... B A), each run from a fresh state and
# with a conservation check after it.  A violation voids the run and makes the
# exit status 1.
#
#	BENCH_PARTS     issue to_row latency sale mixes snapshot growth; see the
#	                head of parts/NAME.sh for what each measures and its own
#	                settings
#	BENCH_RESUME=1  parts that are complete, of the same commit, are kept
#	BENCH_SECONDS   of a run (5)
#	BENCH_PAIRS     forward and backward passes (1)
#	BENCH_RESULTS   directory, else bench/results/latest
#	BENCH_PART_LIMIT  seconds after which a part is given up (5400)
#
# Writes a PART.runs.csv each, and by report.pl and plot.sh tables, plots and what
# stands between the marks in doc/benchmarks.md.
set -euo pipefail

export BENCH_SECONDS=${BENCH_SECONDS:-5} BENCH_PAIRS=${BENCH_PAIRS:-1}
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

settings+=(coupon.request_depth=50000000 coupon.queue_memory=512MB)
need_server "$@"

results=${BENCH_RESULTS:-$bench_dir/results/latest}
mkdir -p "$results"
commit=$(commit_name)
asked=$(env | grep '^BENCH_' | grep -Ev '^BENCH_(IN_SERVER|HTTP)=' | sort | sed -E "s/=(.*)/='\1'/" | tr '\n' ' ')

status=0
for part in ${BENCH_PARTS:-issue to_row latency sale mixes snapshot growth}; do
	[ -x "$bench_dir/parts/$part.sh" ] || die "no part $part"
	if [ -n "${BENCH_RESUME:-}" ] && [ -e "$results/$part.runs.csv" ] &&
		grep -qxF "coupon: $commit" "$results/$part.machine.txt" 2>/dev/null
	then
		echo "$part: complete"
		continue
	fi
	began=$SECONDS
	publishing off		# as a part before may have left it
	describe >"$results/$part.machine.txt"
	echo "command: ${asked}make bench" >>"$results/$part.machine.txt"
	timeout --foreground -k 30 "${BENCH_PART_LIMIT:-5400}" "$bench_dir/parts/$part.sh" || status=1
	echo "took: $((SECONDS - began)) s" | tee -a "$results/$part.machine.txt"
done
document=()
[ "$results" != "$bench_dir/results/latest" ] || document=("$top/doc/benchmarks.md")
"$bench_dir/report.pl" "$results" "${document[@]}" || status=1
if command -v gnuplot >/dev/null; then
	"$bench_dir/plot.sh" "$results"
else
	echo "no plots: gnuplot is not installed"
fi
[ "$status" = 0 ] || echo "FAILED: a run was void or a part was not completed, see $results/*.runs.csv" >&2
exit "$status"
