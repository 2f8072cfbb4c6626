# shellcheck shell=bash disable=SC2034,SC2154
#
# Read by run.sh and by bench/figures/, not run.
#
# Source 001 on examples/concert: its calls alone, its flow, its thresholds;
# what it never tested: everybody wants the same seats, sets of seats that
# overlap; and what holds cost.
#
# The source's sessions wait for an answer and then call again, how soon it
# does not say for the calls alone: here each is due every 200 ms, so 150
# sessions make 750 calls/s, and latency counts from when a call was due.  The
# flow has the source's 1 s at its end; its 10 s between polls, which are not
# measured, are 0.5 s here.
#
#	BENCH_CONCERTS	concerts, and dates of each
#	BENCH_CALLS	which calls

concert_scenarios=(001_calls 001_flow 001_same_ten 001_sets 001_holds)
all_scenarios+=("${concert_scenarios[@]}")
: "${BENCH_CONCERTS:=$(scaled "$BENCH_SESSIONS" 100)}"
: "${BENCH_CALLS:=concerts enqueue order schedules seats reservation pay}"
answers+=(ok held confirmed taken limit_reached)

example=$top/examples/concert

# concerts METHOD: fills the database, the room with that method
concerts()
{
	local file

	for file in ../sources/roles ../sources/http ../sources/api schema api; do
		psql -qXAt -f "$example/$file.sql" >/dev/null
	done
	psql -qXAt -f "$example/load.sql" -v concerts="$BENCH_CONCERTS" -v dates="$BENCH_CONCERTS" >"$scratch/load" 2>&1 ||
		die "load.sql: $(tail -n 3 "$scratch/load")"
	printf '  loaded: %s (concerts|schedules|seats|units|database)\n' \
		"$(grep INFO "$scratch/load" | tail -n 1 | sed 's/.*INFO: *//'); $(tail -n 1 "$scratch/load")"
	sql "SELECT coupon_room_alter('default', method => '$1', capacity => 1000000, session_ttl => '1 h', idle_ttl => '1 h')" >/dev/null
	sql "CHECKPOINT"
	psql -qXAt -v ON_ERROR_STOP=1 -f "$programs/concert.sql"
	sql "GRANT USAGE ON SCHEMA bench TO coupon_service"
	schedules=$((BENCH_CONCERTS * BENCH_CONCERTS)) seats=$((BENCH_CONCERTS * BENCH_CONCERTS * 150))
	numbers=(-D concerts="$BENCH_CONCERTS" -D schedules="$schedules" -D seats="$seats" -D token=none -D user=0 -D reservation=0)
}

# What other work of the machine takes of the CPU time, between the two: sets
# others (percent).
watch_others()
{
	settle
	share_machine=$(cpu_machine) share_own=$(cpu_own) share_start=$EPOCHREALTIME
}

tell_others()
{
	others=$(awk -v all=$(($(cpu_machine) - share_machine)) -v own=$(($(cpu_own) - share_own)) \
		-v tck="$(getconf CLK_TCK)" -v cores="$cores" -v a="$share_start" -v b="$EPOCHREALTIME" \
		'BEGIN { x = 100 * (all - own) / (tck * cores * (b - a)); printf "%.0f", x < 0 ? 0 : x }')
	printf '  other work on the machine took %s %% of the CPU time\n' "$others"
}

# this server, and the children of this shell that have ended
cpu_own()
{
	echo $(($(cpu_server) + $(sed 's/.*) //' "/proc/$$/stat" | awk '{ print $14 + $15 }')))
}

# call_times CYCLE: the latencies (us) of the last of every CYCLE transactions
# of a session, but for the first two: one makes a user, and what a connection
# does for the first time it plans; those of PostgREST live long
call_times()
{
	awk -v cycle="$1" '$2 > 2 && $2 % cycle == 0 { print $3 }' "$scratch"/play/log*
}

# flow_times FILE: call, latency, and the session's how manyth flow, as the
# comment of concert_flow.sql says
flow_times()
{
	sort -s -k 1,1n -k 2,2n "$@" | awk '
		BEGIN { split("enqueue order - concerts schedules seats reservation pay -", call) }
		NR == 1 || $1 != client { client = $1; step = flow = 1 }
		{ if (step == 8 && $3 >= 1e6) step = 9		# no payment
		  if (call[step] != "-") print call[step], $3, flow
		  if (step == 9) flow++
		  step = step == 3 && $3 >= 5e5 ? 2 : step % 9 + 1 }'
}

# summarize: of latencies in us: number, average, p95, p99, maximum in ms
summarize()
{
	LC_ALL=C sort -n | awk '
		{ x[NR] = $1; sum += $1 }
		function percentile(p,   i) { i = int(NR * p / 100 + 0.999999); return x[i < 1 ? 1 : i] / 1000 }
		END { printf "%d %.2f %.2f %.2f %.2f\n", NR, NR ? sum / NR / 1000 : 0, percentile(95), percentile(99), percentile(100) }'
}

# thresholds CALL: of latencies on standard input
thresholds()
{
	local n average p95 p99 slowest

	read -r n average p95 p99 slowest < <(summarize)
	printf '  %s: %s calls, average %s p95 %s p99 %s max %s ms\n' "$1" "$n" "$average" "$p95" "$p99" "$slowest"
	require law "$1: calls that were made" "$n" at_least 1
	require source "$1: average ms" "$average" at_most 50
	require source "$1: p99 ms" "$p99" at_most 200
	[ "${2:-}" = flow ] || require figure "$1: average ms" "$average" at_most 5
	require figure "$1: p99 ms" "$p99" at_most 20
}

# Refusals that are no failures: another was first.
concert_failures()
{
	local answer n=$errors

	for answer in "${answers[@]}" other; do
		case $answer in
			ok | taken) ;;
			*) n=$((n + ${count[$answer]:-0})) ;;
		esac
	done
	echo "$n"
}

concert_conserve()
{
	require law "failures" "$(concert_failures)" equal 0
	require law "seats that are sold or held twice" "$(sql "SELECT count(*) FROM (SELECT FROM coupon.issuance GROUP BY campaign_id, serial HAVING count(*) > 1) x")" equal 0
	require law "payments, as many as seats are sold" "$(sql "SELECT count(*) FROM concert.payment WHERE state = 'PAID'")" equal \
		"$(sql "SELECT count(*) FROM coupon.issuance WHERE state = 'issued'")"
	require law "events, one a payment" "$(sql "SELECT count(*) FROM coupon.outbox WHERE type = 'payment.completed'")" equal \
		"$(sql "SELECT count(*) FROM concert.payment")"
	require law "tickets that ended by payment" "$(sql "SELECT count(*) FROM coupon.ticket WHERE reason = 'paid'")" equal \
		"$(sql "SELECT count(*) FROM concert.payment")"
	require law "coupon_verify rows" "$(sql "SELECT count(*) FROM coupon_verify()")" equal 0
}

001_calls_scenario()
{
	local call cycle number=0

	scenario "001 calls" "each call alone, 0-50-150-50-0 sessions, 15 s a stage, a call of each session every 200 ms"
	concerts passthrough
	for call in concerts enqueue order schedules seats reservation pay; do
		number=$((number + 1))
		[[ " $BENCH_CALLS " == *" $call "* ]] || continue
		rm -f "$scratch"/play/*
		players=() clients_of=()
		sql "SELECT pg_stat_reset()" >/dev/null
		cycle=1
		watch_others
		if [ "$call" = pay ]; then
			cycle=2
			sessions "15:50 15:150 15:50 15:0" 0.2 concert_pay "${numbers[@]}" -D ready=0
		else
			sessions "15:50 15:150 15:50 15:0" 0.2 concert_call "${numbers[@]}" -D ready=0 -D call="$number"
		fi
		play
		tell_others
		thresholds "$call" < <(call_times "$cycle")
		require law "$call: failures" "$(concert_failures)" equal 0
	done
	concert_conserve
}

001_flow_scenario()
{
	local call

	scenario "001 flow" "join, poll, concerts, schedules, seats, reserve, pay, 0-50-150-50-0 sessions, 30 s a stage, 1 s after each flow"
	concerts fifo
	watch_others
	sessions "30:50 30:150 30:50 30:0" 0 concert_flow "${numbers[@]}" -D step=0 -D place=0
	play
	tell_others
	for log in "$scratch"/play/log*; do
		flow_times "$log"
	done >"$scratch/flow"
	for call in enqueue order concerts schedules seats reservation pay; do
		thresholds "$call" flow < <(awk -v c="$call" '$1 == c && $3 > 1 { print $2 }' "$scratch/flow")
	done
	thresholds "any call" flow < <(awk '$3 > 1 { print $2 }' "$scratch/flow")
	printf '  the first calls of the connections: %s (number, average, p95, p99, max ms)\n' \
		"$(awk '$3 == 1 { print $2 }' "$scratch/flow" | summarize)"
	concert_conserve
	require law "calls in the log, as many as were answered" "$(wc -l <"$scratch/flow")" equal "$(told ok taken)"
}

# one_schedule SEATS PER_USER: a campaign of labelled seats, prints its id
one_schedule()
{
	sql "SELECT c FROM coupon_campaign_create('schedule', 0, per_user_limit => $2) c,
		coupon_units_import(c, ARRAY(SELECT 'seat ' || n FROM generate_series(1, $1) n))"
}

001_same_ten_scenario()
{
	local campaign other users seconds

	users=$(scaled "$BENCH_SESSIONS" 300)
	scenario "001 same ten" "300 users, 150 seats, each wants seat 1, 2, ... 10 and then any, holds it and pays"
	campaign=$(one_schedule $((users / 2)) 1)
	other=$(one_schedule "$users" 1)
	sql "CREATE TABLE bench.start AS SELECT clock_timestamp() + interval '5 s' AS at" >/dev/null
	watch_others
	sql "UPDATE bench.start SET at = clock_timestamp() + interval '5 s'" >/dev/null
	start 0 "$users" -t 200 -f "$programs/concert_same_ten.sql" -D campaign="$campaign" -D other="$other" -D ready=0 -D seat=0 -D try=0
	play
	tell_others
	# from the first call to the last answer
	seconds=$(cat "$scratch"/play/log* | awk '$2 > 1 && $3 > 20 { end = $5 + $6 / 1e6; begin = end - $3 / 1e6
		if (!n++ || begin < first) first = begin
		if (end > last) last = end } END { printf "%.2f", last - first }')
	require law "errors, deadlocks among them" "$errors" equal 0
	require law "seats sold" "$(sql "SELECT count(*) FROM coupon.issuance WHERE campaign_id = $campaign AND state = 'issued'")" equal $((users / 2))
	require law "each to another user" "$(sql "SELECT count(DISTINCT user_id) FROM coupon.issuance WHERE campaign_id = $campaign")" equal $((users / 2))
	require law "confirmations that were told" "$(told confirmed)" equal $((users / 2))
	require law "users who were told sold out" "$(told sold_out)" equal $((users - users / 2))
	require law "wrong answers" "$(told wrong failed other)" equal 0
	require law "coupon_verify rows" "$(sql "SELECT count(*) FROM coupon_verify()")" equal 0
	require figure "s until it is sold out" "$seconds" at_most 1
}

001_sets_scenario()
{
	local campaign

	scenario "001 sets" "50 users, 40 seats, sets of four in any order, all or none, given back and kept, 10 s"
	campaign=$(one_schedule 40 4)
	start 0 "$(scaled "$BENCH_SESSIONS" 50)" -T "$(scaled "$BENCH_SCALE" 10)" -f "$programs/concert_sets.sql" -D campaign="$campaign" -D kept=0
	play
	require law "errors, deadlocks among them" "$errors" equal 0
	require law "sets that were held" "$(told held)" at_least 1
	require law "users with a part of a set" "$(sql "SELECT count(*) FROM (SELECT FROM coupon.issuance GROUP BY user_id HAVING count(*) <> 4) x")" equal 0
	require law "wrong answers" "$(told wrong failed other)" equal 0
	require law "stock = issued + held + remaining" "$(sql "SELECT issued + held + remaining FROM coupon_status($campaign)")" equal 40
	require law "coupon_verify rows" "$(sql "SELECT count(*) FROM coupon_verify()")" equal 0
}

# Rows per second, side by side: A B B A.
001_holds_scenario()
{
	local campaign variant clients duration before seconds rate
	declare -A rows=()

	scenario "001 holds" "64 sessions, coupon_hold of random seats beside coupon_issue of one campaign, twice each; then every schedule is touched"
	concerts passthrough
	sql "SELECT count(coupon_campaign_require_room(campaign_id, NULL)) FROM concert.schedule" >/dev/null
	campaign=$(campaign 100000000)
	echo "SELECT coupon_issue($campaign, :user);" | sed '1i \\\\set user random(1, 1000000000000000)' >"$scratch/issue.sql"
	cat >"$scratch/hold.sql" <<-'END'
		\set user random(1, 1000000000000000)
		\set schedule random(1, :schedules)
		\set seat random(1, 150)
		SELECT coupon_hold(:schedule, :seat, :user);
	END
	[ "$(sql "SELECT count(*) FROM concert.schedule WHERE id = campaign_id AND seats = 150")" = "$schedules" ] || die "a schedule is not its campaign"
	clients=$(scaled "$BENCH_SESSIONS" 64) duration=$(scaled "$BENCH_SCALE" 8)
	[ "$duration" -ge 3 ] || duration=3
	for variant in issue hold hold issue; do
		settle
		before=$(sql "SELECT count(*) FROM coupon.issuance")
		pgbench -n -c "$clients" -j 2 -M prepared -T "$duration" -f "$scratch/$variant.sql" -D schedules="$schedules" >"$scratch/play/out" 2>&1 ||
			die "$variant: $(tail -n 3 "$scratch/play/out")"
		seconds=$(awk '/^tps/ { t = $3 } /^number of transactions actually/ { n = $6 } END { print (n > 0 ? n / t : 1) }' "$scratch/play/out")
		rate=$(awk -v a="$before" -v b="$(sql "SELECT count(*) FROM coupon.issuance")" -v s="$seconds" 'BEGIN { printf "%.0f", (b - a) / s }')
		printf '  %s: %s/s\n' "$variant" "$rate"
		rows[$variant]=$((${rows[$variant]:-0} + rate))
	done
	require figure "holds a second to issuances" "$(awk -v h="${rows[hold]}" -v i="${rows[issue]}" 'BEGIN { printf "%.2f", h / i }')" at_least 0.8
	require law "all schedules in shared memory at once" "$(sql "SELECT count(*) FROM concert.schedule s, coupon_status(s.campaign_id) c WHERE c.stock = s.seats AND c.issued + c.held + c.in_flight + c.remaining = c.stock")" equal "$schedules"
	printf '  shared memory of all maps: %s, whatever is touched (coupon.stock_map_memory = %s)\n' \
		"$(sql "SELECT pg_size_pretty(allocated_size) FROM pg_shmem_allocations WHERE name = 'coupon stock maps'")" "$(sql "SHOW coupon.stock_map_memory")"
	require law "coupon_verify rows" "$(sql "SELECT count(*) FROM coupon_verify()")" equal 0
}
