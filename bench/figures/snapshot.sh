#!/usr/bin/env bash
#
# A snapshot held for 60 s (a dump, an analyst) beside the load: no counter
# row, no dead row versions to walk.  The sharded counter rows for comparison.
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_server "$@"
failed_figures=0

before=${BENCH_SNAPSHOT_BEFORE:-30} held=${BENCH_SNAPSHOT_HELD:-60}
for variant in coupon shards32; do
	prepare_variant "$variant"
	settle
	PGOPTIONS="-c search_path=$schema" pgbench -n -f "$scratch/script.sql" -M prepared -c 64 -j "$cores" \
		-T $((10 + before + held + 1)) -P 1 >"$scratch/pgbench" 2>&1 &
	load_pid=$!
	sleep $((10 + before))
	psql -qXAt -v ON_ERROR_STOP=1 >/dev/null <<-END
		BEGIN ISOLATION LEVEL REPEATABLE READ;
		SELECT count(*) FROM pg_class;
		SELECT pg_sleep($held);
		COMMIT;
	END
	wait "$load_pid" || die "pgbench: $(tail -n 3 "$scratch/pgbench")"
	violations=$(check_variant "$variant" | head -n 5)
	[ -z "$violations" ] || die "void, $variant: $violations"
	read -r ratio detail <<<"$(awk -v b="$before" -v h="$held" '
		/^progress/ {
			t = $2 + 0
			if (t > 10 && t <= 10 + b) { nb++; sb += $4 }
			if (t > 10 + b + 1 && t <= 10 + b + h) { nh++; sh += $4 }
			if (t > 10 + b + h - 20 && t <= 10 + b + h) { nl++; sl += $4 }
		}
		END { printf "%.2f before %.0f, held %.0f, last 20 s %.0f", (sh / nh) / (sb / nb), sb / nb, sh / nh, sl / nl }' "$scratch/pgbench")"
	if [ "$variant" = coupon ]; then
		figure "TPS with a snapshot held ${held} s / before it, at 64" "$ratio" at_least 0.95 "$detail"
	else
		figure "the same for peer $variant" "$ratio" info - "$detail"
	fi
done
exit "$failed_figures"
