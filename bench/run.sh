#!/usr/bin/env bash
#
# make bench: coupon beside the classic alternatives, doing equal work.
#
# Every variant is measured at each number of connections, in the order
# A B ... B A, from fresh tables, with a conservation check after each run; a
# violation voids the figure and makes the exit status 1.  Writes
# bench/results/latest/: issue.md, issue.csv, runs.csv, machine.txt, issue.svg.
#
#	BENCH_CLIENTS="16 64 200" BENCH_VARIANTS="..." BENCH_SECONDS=8 BENCH_PAIRS=2
#	BENCH_RESULTS=directory make bench
#
# Takes about 13 minutes for each of BENCH_PAIRS.
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_server "$@"

read -ra clients_list <<<"${BENCH_CLIENTS:-16 64 200}"
read -ra variants <<<"${BENCH_VARIANTS:-select1 insert coupon shards128 shards32 codes_random codes advisory hot for_update optimistic sequence}"
results=${BENCH_RESULTS:-$bench_dir/results/latest}
mkdir -p "$results"
describe | tee "$results/machine.txt"
echo "command: BENCH_CLIENTS='${clients_list[*]}' BENCH_VARIANTS='${variants[*]}' BENCH_SECONDS=$BENCH_SECONDS BENCH_PAIRS=$BENCH_PAIRS make bench" |
	tee -a "$results/machine.txt"

failed=0
"$bench_dir/peers/check.sh" "${variants[@]}" || failed=1

echo
echo "clients,pass,variant,calls,rows,seconds,per_second,average_ms,server_cpu_us,others_cpu_percent,violations" >"$results/runs.csv"
printf '%7s %4s %-13s %10s %10s %10s %8s  %s\n' clients pass variant rows/s average cpu/call others check
for clients in "${clients_list[@]}"; do
	for ((pass = 1; pass <= 2 * BENCH_PAIRS; pass++)); do
		for variant in $(pass_order "$pass" "${variants[@]}"); do
			cell "$variant" "$clients" "$BENCH_SECONDS"
			if [ -n "$violations" ]; then
				failed=1
				rate=
			fi
			echo "$clients,$pass,$variant,$calls,$rows,$seconds,$rate,$latency,$cost,$others,\"${violations//[$'\n"']/ }\"" >>"$results/runs.csv"
			printf '%7s %4s %-13s %10s %7s ms %7s us %6s %%  %s\n' "$clients" "$pass" "$variant" "${rate:-void}" "$latency" "$cost" "$others" "${violations:-ok}"
		done
	done
done

# A ratio is taken within a pass; medians are over passes.
awk -F, -v OFS=, '
	function median(list,    x, n, i, j, t) {
		n = split(list, x, " ")
		for (i = 2; i <= n; i++)
			for (j = i; j > 1 && x[j - 1] + 0 > x[j] + 0; j--) { t = x[j]; x[j] = x[j - 1]; x[j - 1] = t }
		lowest = x[1]; highest = x[n]
		return n == 0 ? "" : n % 2 ? x[(n + 1) / 2] : (x[n / 2] + x[n / 2 + 1]) / 2
	}
	NR > 1 {
		if (!(($1, $3) in seen)) { seen[$1, $3] = 1; order[++cells] = $1 SUBSEP $3 }
		if ($2 > passes) passes = $2
		if ($7 != "") { rate[$1, $2, $3] = $7; rates[$1, $3] = rates[$1, $3] " " $7; ms[$1, $3] = ms[$1, $3] " " $8; us[$1, $3] = us[$1, $3] " " $9 }
		else void[$1, $3] = 1
	}
	END {
		print "clients", "variant", "per_second", "lowest", "highest", "average_ms", "server_cpu_us", "of_bare_insert", "coupon_is_times"
		for (c = 1; c <= cells; c++) {
			split(order[c], key, SUBSEP)
			if (void[key[1], key[2]]) { print key[1], key[2], "void", "", "", "", "", "", ""; continue }
			of = times = ""
			for (p = 1; p <= passes; p++) {
				r = rate[key[1], p, key[2]]
				if (r && rate[key[1], p, "insert"]) of = of " " r / rate[key[1], p, "insert"]
				if (r && rate[key[1], p, "coupon"]) times = times " " rate[key[1], p, "coupon"] / r
			}
			of = median(of); times = median(times); average = median(ms[key[1], key[2]]); cpu = median(us[key[1], key[2]]); m = median(rates[key[1], key[2]])
			printf "%s,%s,%.0f,%.0f,%.0f,%.3f,%.1f,%s,%s\n", key[1], key[2], m, lowest, highest, average, cpu,
				of == "" ? "" : sprintf("%.2f", of), times == "" ? "" : sprintf("%.2f", times)
		}
	}' "$results/runs.csv" >"$results/issue.csv"

{
	echo "# Units issued a second"
	echo
	echo "Median of the runs (lowest - highest). Ceilings: \`select1\` is \`SELECT 1\` (answers, no row), \`insert\` one row with one unique index on a random key."
	echo "\`sequence\` is not equal work: it loses a unit with every rollback and every duplicate."
	echo
	awk -F, '
		NR > 1 {
			if (!($1 in c)) { c[$1] = 1; clients[++n] = $1 }
			if (!($2 in v)) { v[$2] = 1; variants[++m] = $2 }
			cell[$1, $2] = $3 == "void" ? "**void**" : $3 " (" $4 " - " $5 ")"
			ratio[$1, $2] = $9
		}
		END {
			head = "| variant |"; line = "|---|"
			for (i = 1; i <= n; i++) { head = head " " clients[i] " clients | coupon is x |"; line = line "---:|---:|" }
			print head; print line
			for (j = 1; j <= m; j++) {
				row = "| " variants[j] " |"
				for (i = 1; i <= n; i++) row = row " " cell[clients[i], variants[j]] " | " ratio[clients[i], variants[j]] " |"
				print row
			}
		}' "$results/issue.csv"
	echo
	sed 's/^/- /' "$results/machine.txt"
	awk -F, 'NR > 1 { n++; sum += $10; if ($10 > most) most = $10 }
		END { printf "- other work of the machine: %.1f %% of the CPU time on average, %.1f %% at most in one of %d runs\n", sum / n, most, n }' "$results/runs.csv"
} >"$results/issue.md"
echo
sed -n '/^|/p' "$results/issue.md"

if command -v gnuplot >/dev/null; then
	"$bench_dir/plot.sh" "$results"
else
	echo "no plot: gnuplot is not installed"
fi
[ "$failed" = 0 ] || echo "FAILED: a law was violated, see $results/runs.csv" >&2
exit "$failed"
