#!/usr/bin/env bash
#
# make bench: coupon beside its peers, doing equal work; on one private server,
# variants forward and backward (A B ... B A), each run from a fresh state and
# with a conservation check after it.  A violation voids the run and makes the
# exit status 1.  A part that fails says so, and the others go on.
#
#	BENCH_PARTS     issue to_row bulk latency sale mixes snapshot growth profile;
#	                see the head of parts/NAME.sh for what each measures and its
#	                own settings
#	BENCH_RESUME=1  parts that are complete, of the same commit, are kept
#	BENCH_SECONDS   of a run (5)
#	BENCH_PAIRS     forward and backward passes (1)
#	BENCH_RESULTS   directory, else bench/results/latest
#	BENCH_LAST      figures.csv to compare with, else that of BENCH_RESULTS as it
#	                is committed, or as it is before the run
#	BENCH_PART_LIMIT  seconds after which a part is given up (5400)
#	BENCH_TIME      the same of all parts together; what there is by then is told
#	BENCH_QUICK     quick: the figures that matter, in 10 minutes (make bench-quick);
#	                full: all of the price of an issue, in 15.  Both are the parts
#	                above with settings of their own, each of which can be given,
#	                into bench/results/quick
#	BENCH_BEFORE    directory of another revision, built, beside which part price
#	                measures the CPU time of an issue (figures/price.sh)
#
# Writes a PART.runs.csv each, and by report.pl and plot.sh tables, plots and what
# stands between the marks in doc/benchmarks.md.
set -euo pipefail

if [ -z "${BENCH_ASKED+set}" ]; then
	BENCH_ASKED=$(env | grep '^BENCH_' | grep -Ev '^BENCH_(QUICK=quick|IN_SERVER=)' | sort | sed -E "s/=(.*)/='\1'/" | tr '\n' ' ')
	export BENCH_ASKED
fi
set -a
case ${BENCH_QUICK:-} in
	'') ;;
	quick)
		: "${BENCH_PASSES:=3}" "${BENCH_PARTS:=issue bulk to_row mixes latency profile growth}" "${BENCH_TIME:=900}"
		: "${BENCH_CLIENTS:=64:select1,insert,insert_rows,coupon,grouped,http 200:insert,coupon,grouped}"
		: "${BENCH_MIXES:=sold_out polls}" "${BENCH_WAITING:=1000}" "${BENCH_ROWS:=1000000}"
		;;
	full)
		: "${BENCH_PASSES:=2}" "${BENCH_PARTS:=issue bulk to_row mixes latency price profile growth}" "${BENCH_TIME:=1140}"
		: "${BENCH_CLIENTS:=16:insert,coupon 64:select1,insert,insert_rows,coupon,grouped,http 200:insert,coupon,grouped,http 1000@64:insert,grouped}"
		: "${BENCH_MIXES:=sold_out polls holds}" "${BENCH_ROWS:=0 1000000:64,200 10000000:64:coupon,grouped}"
		;;
	*)
		echo "BENCH_QUICK is quick or full" >&2
		exit 2
		;;
esac
if [ -n "${BENCH_QUICK:-}" ]; then
	: "${BENCH_SECONDS:=3}" "${BENCH_RESULTS:=${BASH_SOURCE[0]%/*}/results/quick}" 
	: "${BENCH_BULK:=200 10000}" "${BENCH_ROW_CLIENTS:=64}" "${BENCH_ROW_VARIANTS:=insert request}" "${BENCH_MIX_VARIANTS:=select1 answer coupon}"
	: "${BENCH_GROWTH:=rows}" "${BENCH_ROWS_SECONDS:=3}"
	: "${BENCH_SHARES:=70c}" "${BENCH_LATENCY_VARIANTS:=insert coupon grouped}" "${BENCH_LATENCY_SECONDS:=6}"
	: "${BENCH_PROFILE:=coupon:64 grouped:64 many:1}" "${BENCH_PATIENCE:=3}" "${BENCH_RETRIES:=1}"
	: "${BENCH_PRICE_ROWS:=1000000}" "${BENCH_PRICE_SHARES:=0}" "${BENCH_PRICE_PERF:=0}"
fi
: "${BENCH_SECONDS:=5}" "${BENCH_PAIRS:=1}" "${BENCH_PART_LIMIT:=5400}" "${BENCH_TIME:=86400}"
set +a
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

settings+=(coupon.request_depth=50000000 coupon.queue_memory=512MB)
need_server "$@"

results=${BENCH_RESULTS:-$bench_dir/results/latest}
mkdir -p "$results"
results=$(cd "$results" && pwd)
export BENCH_RESULTS=$results
commit=$(commit_name)
if [ -z "${BENCH_LAST:-}" ]; then
	export BENCH_LAST=$scratch/last.csv
	git -C "$results" show HEAD:./figures.csv >"$BENCH_LAST" 2>/dev/null ||
		cp "$results/figures.csv" "$BENCH_LAST" 2>/dev/null || rm -f "$BENCH_LAST"
fi
# the quick one is all of one run
if [ -n "${BENCH_QUICK:-}" ] && [ -z "${BENCH_RESUME:-}" ]; then
	for part in "$bench_dir"/parts/*.sh price; do
		rm -f "$results/$(basename "$part" .sh)".*
	done
fi

# What a part has measured is told when it ends.
: >"$scratch/told"
tell()
{
	"$bench_dir/report.pl" "$results" >/dev/null || return
	grep -vxFf "$scratch/told" "$results/figures.csv" | sed 's/^/  /' || true
	cp "$results/figures.csv" "$scratch/told"
}

# run_part NAME: that of parts/, or price, which has servers of its own
run_part()
{
	local limit=$((BENCH_TIME - SECONDS))

	[ "$limit" -lt "$BENCH_PART_LIMIT" ] || limit=$BENCH_PART_LIMIT
	if [ "$limit" -le 0 ]; then
		echo "$1: not begun: $BENCH_TIME s are over"
		return 1
	fi
	limit=(timeout --foreground -k 30 "$limit")
	if [ "$1" != price ]; then
		"${limit[@]}" "$bench_dir/parts/$1.sh"
	elif [ -z "${BENCH_BEFORE:-}" ]; then
		echo "price: skipped: BENCH_BEFORE names no other revision"
	else
		BENCH_IN_SERVER='' "${limit[@]}" "$bench_dir/figures/price.sh" "$BENCH_BEFORE" | tee "$results/price.txt" ||
			grep -q ' now / before, ' "$results/price.txt"	# a figure that falls short is no failure
	fi
}

status=0
for part in ${BENCH_PARTS:-issue to_row bulk latency sale mixes snapshot growth profile}; do
	[ "$part" = price ] || [ -x "$bench_dir/parts/$part.sh" ] || die "no part $part"
	if [ -n "${BENCH_RESUME:-}" ] && [ -e "$results/$part.runs.csv" ] &&
		grep -qxF "coupon: $commit" "$results/$part.machine.txt" 2>/dev/null
	then
		echo "$part: complete"
		continue
	fi
	began=$SECONDS
	publishing off		# as a part before may have left it
	describe >"$results/$part.machine.txt"
	echo "command: ${BENCH_ASKED}make bench${BENCH_QUICK:+-quick}" >>"$results/$part.machine.txt"
	run_part "$part" || { status=1; echo "$part: FAILED"; }
	echo "took: $((SECONDS - began)) s" | tee -a "$results/$part.machine.txt"
	tell || status=1
done
document=()
if [ "$results" = "$bench_dir/results/latest" ]; then
	document=("$top/doc/benchmarks.md")
elif [ "$results" = "$bench_dir/results/quick" ]; then
	document=("$top/doc/benchmarks.md" quick)
fi
if [ -n "${BENCH_QUICK:-}" ]; then
	"$bench_dir/report.pl" "$results" "${document[@]}" >/dev/null || status=1
	printf '\n%s\n' "$(cat "$results/quick.md")"
else
	"$bench_dir/report.pl" "$results" "${document[@]}" || status=1
	if command -v gnuplot >/dev/null; then
		"$bench_dir/plot.sh" "$results"
	else
		echo "no plots: gnuplot is not installed"
	fi
fi
[ "$status" = 0 ] || echo "FAILED: a run was void or a part was not completed, see $results/*.runs.csv" >&2
exit "$status"
