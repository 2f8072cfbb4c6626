#!/usr/bin/env bash
#
# make bench-figures: figures the project must reach that are not of make bench or
# make bench-quick, one line each: figure, measured, required, pass | FAIL (or
# info).  Writes them to bench/results/latest/figures.txt.  Exit status 1 when one
# fails.
#
#	BENCH_FIGURES="wal memory ..." BENCH_SECONDS=8 BENCH_PAIRS=2 make bench-figures
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_server "$@"

results=${BENCH_RESULTS:-$bench_dir/results/latest}
mkdir -p "$results"
describe | sed 's/^/# /' | tee "$results/figures.txt"
status=0
for name in ${BENCH_FIGURES:-price wal memory statistics calls publish queues operations support scenarios http cluster}; do
	server=$BENCH_IN_SERVER
	case $name in
		queues | scenarios | http | cluster) server= ;;	# on one of its own, with other settings
		price) server= ;;						# or two
	esac
	BENCH_IN_SERVER=$server "$bench_dir/figures/$name.sh" | tee -a "$results/figures.txt" || status=1
done
exit "$status"
