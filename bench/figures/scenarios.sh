#!/usr/bin/env bash
#
# The load of two source documents at their full number of sessions: the spike
# of 004 (whole: 50 s), at its own pace and without any think time, and the
# ramp of 003 to 2,000 sessions through PgBouncer (by default a fifth of its
# 5 minutes).  Latencies are of calls; connecting is not in them, the first
# call of each connection is.
#
#	BENCH_SPIKE_SCALE, BENCH_RAMP_SCALE   factors on the durations
set -euo pipefail
# shellcheck source=bench/scenarios/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scenarios/lib.sh"
# shellcheck source=bench/scenarios/sources.sh
. "$bench_dir/scenarios/sources.sh"

: "${BENCH_SPIKE_SCALE:=1}" "${BENCH_RAMP_SCALE:=0.2}"
need_server "$@"
failed_figures=0
begin_scenarios

# CPU time of the children that have ended, in clock ticks
cpu_children()
{
	sed 's/.*) //' "/proc/$$/stat" | awk '{ print $14 + $15 }'
}

# run SCENARIO SCALE: again when others were busy.  Sets what play sets, others
# (percent of the CPU time), first (p95 of the sessions' first calls) and broken
# (laws that do not hold)
run()
{
	local try machine own start

	for ((try = 0; ; try++)); do
		settle
		machine=$(cpu_machine) own=$(($(cpu_server) + $(cpu_children))) start=$EPOCHREALTIME
		BENCH_SCALE=$2 "$1_scenario" >"$scratch/told"
		machine=$(($(cpu_machine) - machine)) own=$(($(cpu_server) + $(cpu_children) - own))
		others=$(awk -v all="$machine" -v own="$own" -v tck="$(getconf CLK_TCK)" -v cores="$cores" \
			-v a="$start" -v b="$EPOCHREALTIME" \
			'BEGIN { x = 100 * (all - own) / (tck * cores * (b - a)); printf "%.0f", x < 0 ? 0 : x }')
		broken=$(grep -c '^  FAIL  law ' "$scratch/told" || true)
		if [ "$broken" != 0 ] || ! again "$try"; then
			break
		fi
	done
	grep '^  FAIL  law ' "$scratch/told" >&2 || true
	first=$(awk '!seen[FILENAME, $1]++ { print $3 / 1000 }' "$scratch"/play/log* | sort -n |
		awk '{ x[NR] = $1 } END { print x[int(NR * 0.95 + 0.999999)] }')
}

# report NAME LIMIT [DETAIL]
report()
{
	figure "$1: p95 ms" "$p95" at_most "$2" "p50 $p50, p99 $p99, slowest $slowest; $calls calls, $rate/s${3:-}; other work on the machine took $others % of the CPU time"
	figure "$1: errors" "$errors" at_most 0
	figure "$1: laws broken, of duplicates, exact stock, answers, events, coupon_verify" "$broken" at_most 0
}

run 004_spike_paced "$BENCH_SPIKE_SCALE"
report "spike of 004 to 500 sessions, 2 calls/s each" 50 "; first calls of a connection p95 $first"
run 004_spike "$BENCH_SPIKE_SCALE"
report "spike of 004 to 500 sessions without think time" 50
if has_pooler; then
	run 003_ramp "$BENCH_RAMP_SCALE"
	report "ramp of 003 to 2,000 sessions through PgBouncer, durations x $BENCH_RAMP_SCALE" 100
else
	die "no PgBouncer"
fi
exit "$failed_figures"
