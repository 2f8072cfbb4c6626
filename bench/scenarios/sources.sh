# shellcheck shell=bash disable=SC2034,SC2154
#
# Read by run.sh and by bench/figures/scenarios.sh, not run.
#
# The scenarios of the source documents, with their numbers: sessions, ramps,
# think times, pollers, stocks, and what each asks for.  What the documents do
# not say is chosen on the hard side: without a think time a session calls
# again as soon as it has its answer.
#
#	NAME_scenario	one each; sets what lib.sh's play sets

all_scenarios=(
	000_one_coupon 000_lock_ramp 000_no_wait 000_two_coupons 000_lock_timeout
	000_enqueue 000_poll 000_store_failure 000_events
	003_basic 003_ramp
	004_smoke 004_load 004_stress 004_spike 004_spike_paced 004_spike_grouped 004_opening
)
# those through PgBouncer
pooled_scenarios=(000_enqueue 003_ramp 004_opening)

deadlocks()
{
	sql "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
}

percent_failed()
{
	awk -v e="$errors" -v c="$calls" 'BEGIN { print 100 * e / (e + c) }'
}

# ---- 000: one coupon service, three ways ----

# Its marks: lock 50-100 calls/s at 1-5 s; Redis 500-1,000 at 100-500 ms;
# Kafka 1,000 and more at 50-200 ms.  Asked for here: the higher rate, and at
# most the longer latency (1 s for the lock).

000_one_coupon_scenario()
{
	scenario "000 one coupon" "100 sessions, 100 units, 30 s, coupon_issue"
	scarce=("$(campaign 100)")
	sampling=0.1
	sessions "0:100 30:100" 0 issue -D campaign="${scarce[0]}" -D users=1000
	play
	require source "calls/s" "$rate" at_least 100
	require source "p95 ms" "$p95" at_most 1000
	conserve
}

000_lock_ramp_scenario()
{
	scenario "000 lock ramp" "0-100-300-500-0 sessions over 10, 30, 20, 10 s, 500 units, coupon_issue"
	scarce=("$(campaign 500)")
	sampling=0.1
	sessions "10:100 30:300 20:500 10:0" 0 issue -D campaign="${scarce[0]}" -D users=100000
	play
	require source "calls/s" "$rate" at_least 100
	require source "p95 ms" "$p95" at_most 1000
	conserve
}

# The optimistic way answers 423 instead of waiting: here busy, at once.
000_no_wait_scenario()
{
	scenario "000 no wait" "100 sessions, 50 units, 10 s, coupon_issue with coupon.sold_out_wait = 0"
	scarce=("$(campaign 50)")
	sampling=0.1
	door=(PGOPTIONS="-c coupon.sold_out_wait=0")
	sessions "0:100 10:100" 0 issue -D campaign="${scarce[0]}" -D users=1000
	play
	require source "p95 ms" "$p95" at_most 1000
	conserve
}

# A deadlock is an error, and there is none.
000_two_coupons_scenario()
{
	local before

	scenario "000 two coupons" "50 sessions, two coupons of 50 and 30 units at once, 30 s, coupon_issue in one transaction and in two"
	scarce=("$(campaign 50)" "$(campaign 30)")
	before=$(deadlocks)
	sampling=0.1 calls_each=2
	sessions "0:50 30:50" 0 two_together -f "$programs/two_apart.sql" -D campaign="${scarce[0]}"
	play
	require source "p95 ms" "$p95" at_most 1000
	require source "deadlocks" $(($(deadlocks) - before)) equal 0
	conserve
}

# One transaction holds every unit for 10 s and rolls back.  Nobody runs into
# the lock timeout: who asks meanwhile is told busy, and the stock comes back.
000_lock_timeout_scenario()
{
	local held holder

	held=$(scaled "$BENCH_SCALE" 10)
	scenario "000 lock timeout" "100 sessions, lock_timeout 10 s, all 100 units held for $held s by a transaction that rolls back, coupon_issue"
	scarce=("$(campaign 100)")
	sql "CREATE TABLE bench.enough (yes boolean)" >/dev/null
	sql "BEGIN; SELECT count(*) FROM coupon_issue_many(${scarce[0]}, ARRAY(SELECT 'held ' || g FROM generate_series(1, 100) g));
		SELECT pg_sleep($held); DO 'BEGIN WHILE NOT EXISTS (SELECT FROM bench.enough) LOOP PERFORM pg_sleep(0.05); END LOOP; END'; ROLLBACK" >/dev/null &
	holder=$!
	until [ "$(sql "SELECT in_flight FROM coupon_status(${scarce[0]})")" = 100 ]; do sleep 0.02; done
	door=(PGOPTIONS="-c lock_timeout=10s")
	sampling=0.1
	start 0 "$(scaled "$BENCH_SESSIONS" 100)" -T $((held + $(scaled "$BENCH_SCALE" 5))) -f "$programs/issue.sql" -D campaign="${scarce[0]}" -D users=1000
	# until the first has been told, however slow the machine is
	until is_told busy || ! is_playing; do sleep 0.05; done
	sql "INSERT INTO bench.enough VALUES (true)" >/dev/null
	wait "$holder"
	play
	require law "told busy while the units were held" "$(($(told busy) > 0))" equal 1
	require source "slowest ms, of a lock timeout of 10,000" "$slowest" at_most 5000
	conserve
}

# One campaign of two is scarce: what cannot end well is refused at entry.
000_enqueue_scenario()
{
	scenario "000 enqueue" "0-200-800-1200 sessions over 15, 45, 30 s, 500 and unlimited units, coupon_request through PgBouncer"
	scarce=("$(campaign 500)")
	campaign 100000000 >/dev/null
	sampling=0.1
	through_pooler
	sessions "15:200 45:800 30:1200" 0 request_either -D campaign="${scarce[0]}" -D users=1000000000000
	play
	require source "calls/s" "$rate" at_least 1000
	require source "p95 ms" "$p95" at_most 500
	require source "accepted/s" "$(awk -v a="$(told accepted)" -v c="$calls" -v r="$rate" 'BEGIN { printf "%.0f", a / c * r }')" at_least 500
	conserve
}

# The line stands for the first half (the campaign is paused) and moves then.
# Others make requests all the time.
000_poll_scenario()
{
	local polled beside pollers half

	pollers=$(scaled "$BENCH_SESSIONS" 300)
	half=$(scaled "$BENCH_SCALE" 60)
	scenario "000 poll" "300 pollers every 2 s for 2 min, 100 requests/s beside, coupon_request_status_of"
	polled=$(campaign 1000)
	beside=$(campaign 100000000)
	sql "BEGIN; SELECT count(*) FROM generate_series(0, $pollers - 1) g, coupon_request($polled, 'user ' || g) WHERE g % 3 < 2;
		SELECT coupon_campaign_pause($polled); COMMIT" >/dev/null
	# both halves are at least as long as the pause between two polls
	[ "$half" -ge 2 ] || half=2
	start 0 "$pollers" -T $((2 * half)) -R "$(awk -v n="$pollers" 'BEGIN { print n / 2 }')" \
		-f "$programs/poll.sql" -D campaign="$polled" -D position=1000000000
	start 0 "$(scaled "$BENCH_SESSIONS" 20)" -T $((2 * half)) -R "$(scaled "$BENCH_SESSIONS" 100)" \
		-f "$programs/request.sql" -D campaign="$beside" -D users=1000000000000
	until is_told waiting || ! is_playing; do sleep 0.05; done
	sleep "$((half - 2))"
	sql "SELECT coupon_campaign_resume($polled)" >/dev/null
	# on a slow machine all pollers may have ended before the last decision
	until [ "$(sql "SELECT coalesce(sum(depth), 0) FROM coupon_request_queue($polled)")" = 0 ]; do sleep 0.05; done
	start 0 "$pollers" -t 1 -f "$programs/poll.sql" -D campaign="$polled" -D position=1000000000
	play
	require source "p95 ms" "$p95" at_most 500
	require law "polls told that the request waits, and later that it is done" "$(($(told waiting) > 0 && $(told completed) > 0))" equal 1
	conserve
}

# The store goes down in the middle (an immediate shutdown, as a crash) and
# comes back: what callers were told has happened, and the rest ends too.
000_store_failure_scenario()
{
	local campaign clients acknowledged before rows down

	clients=$(scaled "$BENCH_SESSIONS" 100)
	before=$(scaled "$BENCH_SCALE" 5)
	scenario "000 store failure" "100 sessions, the server crashes after $before s and comes back, coupon_request"
	campaign=$(campaign 100000000)
	start 0 "$clients" -T 600 -f "$programs/request.sql" -D campaign="$campaign" -D users=1000000000000000
	until [ "$(sql "SELECT count(*) FROM coupon.request")" -gt 0 ]; do sleep 0.05; done
	sleep "$before"
	down=$(date +%s.%N)
	as_server_user pg_ctl -s -D "$data" -m immediate -w -t 180 -l "${COUPON_SERVER_LOG:?}" restart >/dev/null
	until sql "SELECT coupon_request_queue()" >/dev/null 2>&1; do sleep 0.05; done
	down=$(awk -v a="$down" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }')
	wait_for_lost
	acknowledged=$calls
	printf '  acknowledged %s requests before the crash; %s s until the server answered again\n' "$acknowledged" "$down"
	rows=$(sql "SELECT count(*) FROM coupon.request")
	require law "acknowledged requests that are lost" $((acknowledged > rows ? acknowledged - rows : 0)) equal 0
	require law "requests beyond the acknowledged, at most one a session" $((rows > acknowledged ? rows - acknowledged : 0)) at_most "$clients"

	sessions "0:100 5:100" 0 request -D campaign="$campaign" -D users=1000000000000000
	play
	conserve
}

# Appending them is here; order in a partition, the broker's shutdown and
# rebalancing are tested with the brokers.
000_events_scenario()
{
	scenario "000 events" "1,000 events/s of 50 sessions for 30 s, keyed by user, coupon_emit"
	start 0 50 -T "$(scaled "$BENCH_SCALE" 30)" -R 1000 -f "$programs/event.sql" -D number=0
	play
	require source "events/s" "$rate" at_least 900
	require source "p95 ms" "$p95" at_most 200
	require law "events, one a call" "$(sql "SELECT count(*) FROM coupon.outbox WHERE type = 'order.placed'")" equal "$calls"
	require law "events out of their user's order" "$(sql "
		SELECT count(*) FROM (SELECT (payload->>'number')::int AS number, row_number() OVER (PARTITION BY key ORDER BY id) AS place
		FROM coupon.outbox WHERE type = 'order.placed') x WHERE number <> place")" equal 0
	conserve
}

# ---- 003: ramp to 2,000 users ----

policy_003='{"kind": "FIXED", "amount": 1000, "min_order_amount": 5000, "usage_period_days": 30}'

003_basic_scenario()
{
	local campaign

	scenario "003 basic" "50 sessions, 1 s think time, 30 s, coupon_request"
	campaign=$(campaign 100000 "$policy_003")
	sessions "0:50 30:50" 1 request -D campaign="$campaign" -D users=100000
	play
	require source "p95 ms" "$p95" at_most 500
	require source "percent failed" "$(percent_failed)" at_most 1
	conserve
}

# Users 1 to 100,000; the stock runs out on the way.
003_ramp_scenario()
{
	scenario "003 ramp" "0-500-1000-2000-0 sessions over 1, 1, 1, 2 min, 1 s think time, coupon_request through PgBouncer"
	scarce=("$(campaign "$(awk -v a="$BENCH_SCALE" -v b="$BENCH_SESSIONS" 'BEGIN { print int(50000 * a * b) + 1 }')" "$policy_003")")
	through_pooler
	sessions "60:500 60:1000 60:2000 120:0" 1 request -D campaign="${scarce[0]}" -D users=100000
	play
	require source "p95 ms" "$p95" at_most 2000
	require source "percent failed" "$(percent_failed)" at_most 5
	require source "s until all is decided, after the last call" "$drained" at_most 10
	require figure "p95 ms" "$p95" at_most 100
	conserve
}

# ---- 004: spike ----

# 500 units, or so many that they are sold out when shortened
spike_stock()
{
	awk -v a="$BENCH_SCALE" -v b="$BENCH_SESSIONS" 'BEGIN { n = int(500 * a * b) + 1; print (n < 500 ? n : 500) }'
}

004_smoke_scenario()
{
	scenario "004 smoke" "10 sessions, 30 s, coupon_request"
	scarce=("$(campaign "$(spike_stock)")")
	sampling=0.1
	sessions "0:10 30:10" 0 request_stock -D campaign="${scarce[0]}" -D users=100000
	play
	require source "p95 ms" "$p95" at_most 1000
	conserve
}

004_load_scenario()
{
	scenario "004 load" "0-50-100-0 sessions over 2 min, coupon_request"
	scarce=("$(campaign "$(spike_stock)")")
	sampling=0.1
	sessions "40:50 40:100 40:0" 0 request_stock -D campaign="${scarce[0]}" -D users=100000
	play
	require source "p95 ms" "$p95" at_most 1000
	require source "percent failed" "$(percent_failed)" at_most 5
	conserve
}

004_stress_scenario()
{
	scenario "004 stress" "0-100-200-300-0 sessions over 5 min, coupon_request"
	scarce=("$(campaign "$(spike_stock)")")
	sampling=0.1
	sessions "75:100 75:200 75:300 75:0" 0 request_stock -D campaign="${scarce[0]}" -D users=1000000
	play
	require source "p95 ms" "$p95" at_most 1000
	conserve
}

# spike THINK PROGRAM
spike()
{
	scarce=("$(campaign "$(spike_stock)")")
	sessions "10:500 30:500 10:0" "$1" "$2" -D campaign="${scarce[0]}" -D users=2000
	play
	require source "p95 ms" "$p95" at_most 2000
	require figure "p95 ms" "$p95" at_most 50
	conserve
}

004_spike_scenario()
{
	scenario "004 spike" "0 to 500 sessions in 10 s, held 30 s, down in 10 s, 500 units, coupon_request"
	sampling=0.1
	spike 0 request_stock
}

# As the source's sessions went in its rehearsal: 50 of them made 1,000 calls in 10 s.
004_spike_paced_scenario()
{
	scenario "004 spike, paced" "the same, each session 2 calls/s"
	spike 0.5 request_stock
}

004_spike_grouped_scenario()
{
	scenario "004 spike, grouped" "the same without think time, decided at once, coupon_issue_grouped"
	sampling=0.1
	spike 0 issue_grouped
}

# The real event: 2,000 users within 5 s, each clicks twice.
004_opening_scenario()
{
	local users seconds

	users=$(scaled "$BENCH_SESSIONS" 2000)
	seconds=$(scaled "$BENCH_SCALE" 5)
	scenario "004 opening" "2,000 users within 5 s, two clicks each, 500 units, coupon_request through PgBouncer"
	scarce=("$(campaign "$(scaled "$BENCH_SESSIONS" 500)")")
	through_pooler
	start 0 "$users" -t 2 -R "$((2 * users / seconds))" -f "$programs/opening.sql" -D campaign="${scarce[0]}"
	play
	require law "clicks that were answered" "$calls" equal $((2 * users))
	require source "p95 ms" "$p95" at_most 2000
	conserve
}
