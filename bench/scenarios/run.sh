#!/usr/bin/env bash
#
# make bench-scenarios: the load scenarios of the source documents on a private
# server, one after another: latency, answers by type, thresholds with pass or
# FAIL.  Exit status 1 when one fails.
#
#	run.sh [NAME]...	only these, as 004_spike
#	BENCH_SCALE=0.1		a tenth of the sources' durations (all of them: 20 minutes)
set -euo pipefail
# shellcheck source=bench/scenarios/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=bench/scenarios/sources.sh
. "$(dirname "${BASH_SOURCE[0]}")/sources.sh"
# shellcheck source=bench/scenarios/concert.sh
. "$(dirname "${BASH_SOURCE[0]}")/concert.sh"

need_server "$@"
begin_scenarios

[ $# != 0 ] || set -- "${all_scenarios[@]}"
for wanted; do
	case " ${all_scenarios[*]} " in
		*" $wanted "*) ;;
		*) die "no scenario $wanted; there are: ${all_scenarios[*]}" ;;
	esac
done
describe | grep -v '^duration: '
echo "durations x $BENCH_SCALE, sessions x $BENCH_SESSIONS, $BENCH_POOL server connections of PgBouncer"
for wanted; do
	case " ${pooled_scenarios[*]} " in
		*" $wanted "*)
			has_pooler || {
				printf '\n%s: skipped: no PgBouncer\n' "$wanted"
				continue
			}
			;;
	esac
	"${wanted}_scenario"
done

echo
if [ ${#failed_scenarios[@]} != 0 ]; then
	printf 'failed: %s\n' "${failed_scenarios[@]}"
	exit 1
fi
echo 'every threshold is met'
