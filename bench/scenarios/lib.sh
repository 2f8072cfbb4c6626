# shellcheck shell=bash disable=SC2034,SC2154
#
# Read by run.sh and by bench/figures/scenarios.sh, not run.
#
# A scenario has campaigns, sessions that come and go in stages, and what must
# hold in the end.  Sessions are pgbench clients; as pgbench knows no ramps, a
# ramp is up to 20 of them that start and end one after another.
#
# What the callers are told is counted apart, by answer: each call is wrapped
# in bench.told(answer), which calls an empty function of that name, and the
# server counts function calls (track_functions) without sessions meeting.
#
#	BENCH_SCALE     factor on the sources' durations, each stage 1 s at least
#	BENCH_SESSIONS  factor on the sources' sessions
#	BENCH_POOL      server connections of PgBouncer

# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=test/bin/common.sh
. "$top/test/bin/common.sh"

: "${BENCH_SCALE:=1}" "${BENCH_SESSIONS:=1}" "${BENCH_POOL:=20}"

settings+=(max_connections=600 track_functions=pl)
programs=$bench_dir/scenarios
answers=(accepted issued already_issued sold_out busy full closed paused not_open not_admitted
	waiting completed not_requested emitted failed rose wrong)
failed_scenarios=()

# scaled FACTOR NUMBER: at least 1
scaled()
{
	awk -v f="$1" -v n="$2" 'BEGIN { x = int(f * n + 0.5); print (x < 1 ? 1 : x) }'
}

end_scenarios()
{
	local pid

	for pid in "${players[@]}"; do
		kill "$pid" 2>/dev/null || true
	done
	clean_up
}

begin_scenarios()
{
	players=()
	trap end_scenarios EXIT
	[ "$(sql 'SHOW track_functions')" != none ] || die "the server needs track_functions = pl"
}

# ---- sessions ----

# scenario NAME TEXT: from here on, with nothing in the database
scenario()
{
	local answer whens=

	name=$1
	printf '\n%s: %s\n' "$1" "$2"
	drop_variants
	# earlier databases of this server have made the roles, and members of them
	sql "SET client_min_messages = error; CREATE EXTENSION coupon; CREATE SCHEMA bench" >/dev/null
	for answer in "${answers[@]}" other; do
		echo "CREATE FUNCTION bench.$answer() RETURNS integer LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';"
	done | psql -qXAt -v ON_ERROR_STOP=1
	for answer in "${answers[@]}"; do
		whens+=" WHEN ''$answer'' THEN bench.$answer()"
	done
	sql "CREATE FUNCTION bench.told(answer text) RETURNS integer LANGUAGE sql AS
		'SELECT CASE \$1 $whens ELSE bench.other() END'"
	rm -rf "$scratch/play"
	mkdir "$scratch/play"
	players=() clients_of=() scarce=() failures=0 calls_each=1 verdicts=pass
	protocol=prepared sampling=1 mix=()
	until [ "$(sql "SELECT count(DISTINCT backend_type) FROM pg_stat_activity WHERE datname = current_database()
		AND backend_type IN ('coupon issuer', 'coupon room worker')")" = 2 ] && is_true "SELECT workers > 0 FROM coupon_group_status()"; do
		sleep 0.05
	done
}

# campaign STOCK [POLICY]: prints its id
campaign()
{
	sql "SELECT coupon_campaign_create('sale', $1, policy => '${2:-$policy}')"
}

# through_pooler: the sessions from here on
through_pooler()
{
	[ -n "$pooler" ] || start_pooler "$BENCH_POOL"
	protocol=simple		# before 1.21 PgBouncer knows no prepared statements in this mode
	door=(PGHOST="$scratch/pooler" PGPORT=6432)
}

# start DELAY CLIENTS [pgbench option]...: one pgbench, in the background
start()
{
	local delay=$1 clients=$2 n=${#players[@]}
	shift 2

	(
		sleep "$delay"
		exec env "${door[@]}" pgbench -n -c "$clients" -j $((clients < 2 ? 1 : 2)) -M "$protocol" \
			-l --log-prefix="$scratch/play/log$n" --sampling-rate="$sampling" \
			-D process="$n" "$@" >"$scratch/play/out$n" 2>"$scratch/play/err$n"
	) &
	players+=($!)
	clients_of+=("$clients")
}

# steps STAGES: "seconds:sessions ..." as k6 has it, each stage a straight line
# from the sessions before to its own; prints delay, seconds, sessions a pgbench
steps()
{
	awk -v stages="$1" -v scale="$BENCH_SCALE" -v share="$BENCH_SESSIONS" 'BEGIN {
		n = split(stages, stage, " ")
		for (i = 1; i <= n; i++) {
			split(stage[i], s, ":")
			d = s[1] * scale
			if (s[1] > 0 && d < 1) d = 1
			begin[i] = t; length_[i] = d; from[i] = level
			t += d
			level = to[i] = s[2] > 0 && s[2] * share < 1 ? 1 : int(s[2] * share + 0.5)
			if (level > top) top = level
		}
		size = int((top + 19) / 20)
		for (low = 0; low < top; low += size) {
			high = low + size > top ? top : low + size
			middle = (low + high) / 2
			up = -1; down = t
			for (i = 1; i <= n; i++) {
				if (up < 0 && from[i] < middle && to[i] >= middle)
					up = begin[i] + length_[i] * (middle - from[i]) / (to[i] - from[i])
				else if (from[i] >= middle && to[i] < middle)
					down = begin[i] + length_[i] * (from[i] - middle) / (from[i] - to[i])
			}
			seconds = int(down - up + 0.5)
			if (seconds < 1) seconds = 1
			key = sprintf("%.2f %d", up, seconds)
			if (!(key in clients)) order[++m] = key
			clients[key] += high - low
		}
		for (k = 1; k <= m; k++) print order[k], clients[order[k]]
	}'
}

# sessions STAGES THINK PROGRAM [pgbench option]...: THINK seconds between a
# session's calls, 0: none.  Calls are then due at their times whether or not
# the one before is late (pgbench -R), and their latency counts from there.
sessions()
{
	local stages=$1 think=$2 program=$3 delay seconds clients due
	shift 3

	while read -r delay seconds clients <&3; do
		due=()
		[ "$think" = 0 ] || due=(-R "$(awk -v c="$clients" -v t="$think" 'BEGIN { print c / t }')")
		start "$delay" "$clients" -T "$seconds" -f "$programs/$program.sql" "${due[@]}" "$@"
	done 3< <(steps "$stages")
}

# ---- what happened ----

# told ANSWER...: how often the callers were told so
told()
{
	local answer n=0

	for answer; do
		n=$((n + ${count[$answer]:-0}))
	done
	echo "$n"
}

# is_told ANSWER: somebody has been, while the sessions are at it
is_told()
{
	is_true "SELECT calls > 0 FROM pg_stat_user_functions WHERE schemaname = 'bench' AND funcname = '$1'"
}

is_playing()
{
	local pid

	for pid in "${players[@]}"; do
		! kill -0 "$pid" 2>/dev/null || return 0
	done
	return 1
}

count_answers()
{
	local answer n

	declare -gA count=()
	while IFS='|' read -r answer n; do
		count[$answer]=$n
	done < <(sql "SELECT funcname, calls FROM pg_stat_user_functions WHERE schemaname = 'bench'")
}

# play: waits until all sessions have ended and the queue is empty.  Sets calls,
# rate, errors, p50, p95, p99, slowest (ms) and drained (s), and prints them.
play()
{
	local n status aborted processed failed

	calls=0 errors=0
	for n in "${!players[@]}"; do
		status=0
		wait "${players[n]}" || status=$?
		processed=$(awk '/^number of transactions actually processed/ { sub("/.*", "", $6); print $6 }' "$scratch/play/out$n")
		failed=$(awk '/^number of failed transactions/ { print $5 }' "$scratch/play/out$n")
		aborted=$(grep -c ' aborted ' "$scratch/play/err$n" || true)
		# a pgbench that ends early has lost all of its sessions
		[ -n "$processed" ] || aborted=${clients_of[n]}
		[ "$status" = 0 ] || [ "$aborted" != 0 ] || aborted=1
		calls=$((calls + ${processed:-0}))
		errors=$((errors + ${failed:-0} + aborted))
	done
	players=()
	stop_pooler
	door=()

	drained=$(date +%s.%N)
	until [ "$(sql "SELECT coalesce(sum(depth), 0) FROM coupon_request_queue()")" = 0 ]; do
		sleep 0.05
	done
	drained=$(awk -v a="$drained" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }')
	# the sessions' function counts are complete when they are gone
	until [ "$(sql "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")" = 0 ]; do
		sleep 0.05
	done
	count_answers
	measure_log
	if [ "$errors" != 0 ]; then
		cat "$scratch"/play/err* | grep -E 'ERROR|FATAL|failed|abort|could not' |
			sed -E 's/client [0-9]+/client/' | sort | uniq -c | sort -rn | head -n 5 >&2 || true
	fi
	printf '  calls %s, %s/s; latency p50 %s p95 %s p99 %s max %s ms\n' "$calls" "$rate" "$p50" "$p95" "$p99" "$slowest"
	print_answers
}

# wait_for_lost: waits until all sessions have lost the server.  Sets calls:
# those with an answer.
wait_for_lost()
{
	wait "${players[@]}" || true
	calls=$(cat "$scratch"/play/log* | wc -l)
	players=()
	rm "$scratch"/play/*
}

print_answers()
{
	local answer line=

	for answer in ok accepted issued held confirmed already_issued taken limit_reached sold_out busy; do
		[ -z "${count[$answer]:-}" ] || line+="${answer//_/ } ${count[$answer]}, "
	done
	for answer in full closed paused not_open not_admitted; do
		[ -z "${count[$answer]:-}" ] || line+="refused (${answer//_/ }) ${count[$answer]}, "
	done
	for answer in waiting completed not_requested emitted failed rose wrong other; do
		[ -z "${count[$answer]:-}" ] || line+="${answer//_/ } ${count[$answer]}, "
	done
	echo "  ${line}errors $errors"
}

# pgbench's log: client, number, latency in us, script, end in s and us, ...
measure_log()
{
	local logs=("$scratch"/play/log*)

	[ -e "${logs[0]}" ] || die "$name: no call was made: $(cat "$scratch"/play/err* | head -n 3)"
	read -r p50 p95 p99 slowest < <(cat "${logs[@]}" | cut -d ' ' -f 3 | grep -x '[0-9]*' | LC_ALL=C sort -n | awk '
		{ x[NR] = $1 }
		function percentile(p,   i) { i = int(NR * p / 100 + 0.999999); return x[i < 1 ? 1 : i] / 1000 }
		END { printf "%.1f %.1f %.1f %.1f\n", percentile(50), percentile(95), percentile(99), percentile(100) }')
	rate=$(cat "${logs[@]}" | awk -v n="$calls" '
		{ end = $5 + $6 / 1e6; begin = end - $3 / 1e6
		  if (NR == 1 || begin < first) first = begin
		  if (end > last) last = end }
		END { printf "%.0f", (last > first ? n / (last - first) : 0) }')
}

# require law|source|figure WHAT MEASURED at_least|at_most|equal LIMIT
#	law: no load and no machine excuses it; source: what the source document
#	asks for; figure: what this project asks of itself, on a machine with
#	nothing else to do
require()
{
	local verdict

	verdict=$(awk -v m="$3" -v how="$4" -v r="$5" 'BEGIN {
		print (how == "at_least" ? m + 0 >= r + 0 : how == "at_most" ? m + 0 <= r + 0 : m "" == r "") ? "pass" : "FAIL" }')
	printf '  %s  %-6s  %s: %s (%s)\n' "$verdict" "$1" "$2" "$3" "${4/_/ } $5"
	if [ "$verdict" = FAIL ]; then
		verdicts=FAIL
		case " ${failed_scenarios[*]} " in *" $name "*) ;; *) failed_scenarios+=("$name") ;; esac
	fi
}

# conserve: what must hold after any scenario, from the tables
conserve()
{
	local line answered

	answered=$(IFS=+; echo $((${count[*]:-0})))
	require law "errors" "$errors" equal 0
	require law "answers, $calls_each a call" "$answered" equal $((calls * calls_each))
	require law "wrong answers" "$(told rose wrong other failed)" equal 0
	require law "duplicates" "$(sql "SELECT count(*) FROM (SELECT FROM coupon.issuance GROUP BY campaign_id, user_id HAVING count(*) > 1) x")" equal 0
	require law "issued, oversold" "$(sql "SELECT count(*) FROM coupon.campaign_status WHERE issued > stock OR in_flight <> 0 OR issued + remaining <> stock")" equal 0
	if [ "$(told accepted)" = 0 ]; then
		require law "issuances, as many as were told so" "$(sql "SELECT count(*) FROM coupon.issuance")" equal "$(told issued)"
	fi
	if [ "$(told accepted)" != 0 ]; then
		require law "requests that ended, of those accepted" \
			"$(sql "SELECT count(decided_at) FROM coupon.request")" equal "$(sql "SELECT count(*) FROM coupon.request")"
		require source "percent of the accepted that ended in success" \
			"$(sql "SELECT round(100.0 * count(*) FILTER (WHERE outcome = 'issued') / count(*), 1) FROM coupon.request")" at_least 70
		require law "issuances, as many as requests were issued" \
			"$(sql "SELECT count(*) FROM coupon.issuance")" equal \
			"$(sql "SELECT count(*) FROM coupon.request WHERE outcome = 'issued'")"
	fi
	require law "events, one an issuance" "$(sql "SELECT count(*) FROM coupon.outbox WHERE type = 'coupon.issued'")" equal \
		"$(sql "SELECT count(*) FROM coupon.issuance")"
	[ ${#scarce[@]} = 0 ] || sell_rest
	require law "coupon_verify rows" "$(sql "SELECT count(*) FROM coupon_verify()")" equal 0
}

# How much of the stock is asked for depends on the machine.  What nobody has
# had is to be had still, and nobody was told otherwise (but by a queue that
# others filled up).
sell_rest()
{
	local campaigns left

	campaigns=$(IFS=,; echo "${scarce[*]}")
	left=$(sql "SELECT sum(remaining) FROM coupon.campaign_status WHERE campaign_id IN ($campaigns)")
	if [ ${#scarce[@]} = 1 ] && [ "$(told accepted)" = 0 ] && [ "$(told sold_out)" != 0 ]; then
		require law "units left, though users were told that it is sold out" "$left" equal 0
	fi
	printf '  units that nobody asked for: %s\n' "$left"
	sql "SELECT count(*) FROM coupon.campaign_status s, coupon_issue_many(s.campaign_id,
			ARRAY(SELECT 'rest ' || g FROM generate_series(1, s.remaining + 1) g)) WHERE s.campaign_id IN ($campaigns)" >/dev/null
	require law "stock that is issued, of what was on offer" \
		"$(sql "SELECT count(*) FROM coupon.issuance WHERE campaign_id IN ($campaigns)")" equal \
		"$(sql "SELECT sum(stock) FROM coupon.campaign_status WHERE campaign_id IN ($campaigns)")"
}
