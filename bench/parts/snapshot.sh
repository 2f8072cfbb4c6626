#!/usr/bin/env bash
#
# Part snapshot: somebody holds a snapshot (a dump, an analyst) while the sale
# goes on.  Rows a second before, over the whole time, and in its last quarter;
# the slope is in percent of "before" a minute.
#
#	BENCH_SNAPSHOT_BEFORE (10), BENCH_SNAPSHOT_HELD (40) seconds
#	BENCH_SNAPSHOT_VARIANTS, BENCH_SNAPSHOT_CLIENTS (64)
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_server "$@"
read -ra variants <<<"${BENCH_SNAPSHOT_VARIANTS:-insert coupon grouped shards128 codes_random}"
clients=${BENCH_SNAPSHOT_CLIENTS:-64}
before=${BENCH_SNAPSHOT_BEFORE:-10} held=${BENCH_SNAPSHOT_HELD:-40} warm=3

run()
{
	local holder

	prepare_variant "$1"
	settle						# or measure would, while the time to the snapshot runs
	(
		sleep $((warm + before))
		PGAPPNAME=holder psql -qXAt -c 'BEGIN ISOLATION LEVEL REPEATABLE READ' -c 'SELECT count(*) FROM pg_class' \
			-c "SELECT pg_sleep($((held + 30)))" >/dev/null 2>&1
	) &
	holder=$!
	measure "$1" "$clients" $((warm + before + held + 1)) -P 1
	sql "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'holder'" >"$scratch/holders"
	wait "$holder" || true
	[ -s "$scratch/holders" ] || die "no snapshot was held"
	violations=$(check_variant "$1" | head -n 5)
	[ "$rows" = "$calls" ] || violations+="${violations:+; }$calls calls issued $rows rows"
	awk -v v="$1" '/^progress/ { printf "%s,%.0f,%.0f\n", v, $2, $4 }' "$scratch/pgbench" >>"$results/snapshot.seconds.csv"
	awk -v w="$warm" -v b="$before" -v h="$held" '
		/^progress/ {
			t = $2 - w - b
			if (t > -b && t <= 0) { nb++; sb += $4 }
			if (t > 1 && t <= h) { n++; s += $4; st += t; stt += t * t; sty += t * $4 }
			if (t > 0.75 * h && t <= h) { ne++; se += $4 }
		}
		END {
			slope = (n * sty - st * s) / (n * stt - st * st)
			printf "%.0f %.0f %.0f %.1f\n", sb / nb, s / n, se / ne, 6000 * slope / (sb / nb)
		}' "$scratch/pgbench" >"$scratch/slope"
	note=$(cat "$scratch/slope")
}

begin_part snapshot
echo "variant,second,per_second" >"$results/snapshot.seconds.csv"
able "$clients" "${variants[@]}"
for variant in "${present[@]}"; do
	cell run "$variant"
	read -r rate_before rate_held rate_end slope <<<"${note:-0 0 0 0}"
	rate=$rate_before note=
	record before 1 "$variant"
	rate=$rate_held note="$slope % a minute"
	record held 1 "$variant"
	rate=$rate_end note="$(awk -v a="$rate_end" -v b="$rate_before" 'BEGIN { printf "%.2f", b ? a / b : 0 }') of before"
	record "end of held" 1 "$variant"
done
end_part
