# shellcheck shell=bash disable=SC2034,SC2154
#
# Read by lib.sh: a part of the benchmark, a line for each of its runs; figures; the record.

# begin_part NAME [COLUMNS to print]: sets results, failed
begin_part()
{
	results=${BENCH_RESULTS:-$bench_dir/results/latest}
	part=$1 failed=0
	mkdir -p "$results"
	rm -f "$results/$part.runs.csv" "$results/$part.skipped.txt"
	echo "condition,pass,variant,calls,rows,seconds,per_second,average_ms,server_cpu_us,client_cpu_us,wal_bytes,image_bytes,others_cpu_percent,p50,p95,p99,p999,note,violations" >"$results/$part.part.csv"
	printf '\n%-28s %4s %-14s %10s %10s %9s %6s %7s  %s\n' "$part" pass variant per_second average server client others check
}

# record CONDITION PASS VARIANT: the run that has just ended
record()
{
	if [ -n "$violations" ]; then
		failed=1
		rate=
	fi
	echo "$1,$2,$3,$calls,$rows,$seconds,$rate,$latency,$cost,$client_cost,$wal,$images,$others,$p50,$p95,$p99,$p999,\"${note//[,\"]/;}\",\"${violations//[$'\n,"']/ }\"" >>"$results/$part.part.csv"
	printf '%-28s %4s %-14s %10s %7s ms %6s us %3s us %5s %%  %s\n' "$1" "$2" "$3" "${rate:-void}" "${latency:--}" "${cost:--}" "${client_cost:--}" "$others" \
		"${violations:-ok}${p50:+, p50 $p50 p95 $p95 p99 $p99 p99.9 $p999 ms}${note:+, $note}"
}

# passes CONDITION CLIENTS COMMAND VARIANT...: of those that can run, forward and
# backward; the command is called with the variant
passes()
{
	local condition=$1 clients=$2 command=$3 pass variant
	shift 3

	able "$clients" "$@"
	for ((pass = 1; pass <= BENCH_PASSES; pass++)); do
		for variant in $(pass_order "$pass" "${present[@]}"); do
			cell "$command" "$variant"
			record "$condition" "$pass" "$variant"
		done
	done
}

# The part is complete: its file appears.
end_part()
{
	mv "$results/$part.part.csv" "$results/$part.runs.csv"
	exit "$failed"
}

# compare CLIENTS VARIANT_A VARIANT_B: checked runs A B B A, BENCH_PAIRS times.
# Sets ratio, the median over the pairs of A's rate to B's, and detail.
compare()
{
	local clients=$1 a=$2 b=$3 pair variant sum
	declare -A sum

	: >"$scratch/ratios"
	detail=
	for ((pair = 1; pair <= BENCH_PAIRS; pair++)); do
		sum[$a]=0 sum[$b]=0
		for variant in "$a" "$b" "$b" "$a"; do
			cell checked_run "$variant" "$clients" "$BENCH_SECONDS"
			[ -z "$violations" ] || die "void, $variant at $clients clients: $violations"
			sum[$variant]=$((${sum[$variant]} + rate))
			detail+="${detail:+, }$variant $rate"
		done
		echo "$((${sum[$a]})) $((${sum[$b]}))" | awk '{ print $1 / $2 }' >>"$scratch/ratios"
	done
	ratio=$(median <"$scratch/ratios")
}

# figure NAME MEASURED at_least|at_most|info REQUIRED [DETAIL]: one line of result
figure()
{
	local verdict

	verdict=$(awk -v m="$2" -v how="$3" -v r="$4" 'BEGIN {
		if (how == "info") print "info"
		else if (how == "at_least" ? m + 0 >= r + 0 : m + 0 <= r + 0) print "pass"
		else print "FAIL" }')
	case $3 in
		info) echo "$1, $2, -, info${5:+  # $5}" ;;
		*) echo "$1, $2, ${3/_/ } $4, $verdict${5:+  # $5}" ;;
	esac
	[ "$verdict" != FAIL ] || failed_figures=1
}

# median of the numbers on standard input
median()
{
	sort -n | awk '{ x[NR] = $1 } END { if (NR) print NR % 2 ? x[(NR + 1) / 2] : (x[NR / 2] + x[NR / 2 + 1]) / 2 }'
}

# The order of the variants in pass 1, 2, ...: forward, backward, ...
pass_order()
{
	local pass=$1 i
	shift

	if [ $((pass % 2)) = 1 ]; then
		echo "$@"
	else
		for ((i = $#; i > 0; i--)); do
			printf '%s ' "${!i}"
		done
	fi
}

# The commit, and whether anything but what a benchmark writes differs from it.
commit_name()
{
	local commit

	commit=$(git -C "$top" rev-parse --short HEAD 2>/dev/null) || { echo 'no git'; return; }
	git -C "$top" diff --quiet HEAD -- . ':!bench/results' ':!doc/benchmarks.md' || commit+=-dirty
	echo "$commit"
}

# Machine, versions and settings, for the record.
describe()
{
	echo "date: $(date -u +%Y-%m-%dT%H:%MZ)"
	echo "cpu: $(awk -F ': *' '/^model name/ { print $2; exit }' /proc/cpuinfo), $cores cores"
	echo "memory: $(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)"
	echo "kernel: $(uname -sr), data on $(df --output=fstype "$data" | tail -n 1)"
	echo "server: $(sql 'SELECT version()')"
	echo "client: $(pgbench --version), prepared protocol, Unix socket, $cores threads, on the same machine"
	echo "coupon: $(commit_name)"
	echo "settings: $(sql "SELECT string_agg(name || ' = ' || current_setting(name), ', ' ORDER BY name)
		FROM pg_settings WHERE source = 'configuration file'
		 AND name NOT IN ('port', 'unix_socket_directories', 'listen_addresses', 'log_line_prefix', 'config_file', 'TimeZone', 'log_timezone')
		 AND name !~ '^(lc_|default_text)'")"
	echo "duration: $BENCH_SECONDS s a run, $BENCH_PAIRS x forward and backward, fresh tables and CHECKPOINT before each"
}
