#!/usr/bin/env bash
#
# A random campaign among 10,000 beside one campaign, the 10,000 being there
# both times and nothing of them in shared memory when a run begins.
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_server "$@"
failed_figures=0

campaigns=${BENCH_CAMPAIGNS:-10000}

# run WHAT: sets rate
run()
{
	prepare_variant coupon
	first=$(cat "$scratch/campaign")
	sql "SELECT count(coupon_campaign_create('c' || i, 100000, policy => '$policy')) FROM generate_series(2, $campaigns) i" >/dev/null
	if [ "$1" = random ]; then
		printf '%s\n' "\\set c random($first, $((first + campaigns - 1)))" '\set u random(1, 1000000000000000)' \
			'SELECT coupon_issue(:c, :u::text);' >"$scratch/script.sql"
	fi
	sql "CHECKPOINT"
	measure coupon 64 "$BENCH_SECONDS"
	violations=$(check_variant coupon | head -n 5)
	[ -z "$violations" ] || die "void, $1: $violations"
	[ "$rows" = "$calls" ] || die "void, $1: $calls calls issued $rows rows"
}

: >"$scratch/ratios"
detail=
for ((pair = 1; pair <= BENCH_PAIRS; pair++)); do
	declare -A sum=([random]=0 [one]=0)
	for what in random one one random; do
		for ((try = 0; ; try++)); do
			run "$what"
			again "$try" || break
		done
		sum[$what]=$((sum[$what] + rate))
		detail+="${detail:+, }$what $rate"
	done
	echo "${sum[random]} ${sum[one]}" | awk '{ print $1 / $2 }' >>"$scratch/ratios"
done
figure "random campaign among $campaigns / one campaign, at 64" "$(printf %.2f "$(median <"$scratch/ratios")")" at_least 0.8 "$detail"
exit "$failed_figures"
