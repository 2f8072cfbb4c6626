# shellcheck shell=bash disable=SC2034
#
# Read by run.sh and by figures/, not run.
#
# A variant is one way to do the job: a ceiling (select1, insert), ours (coupon,
# grouped: coupon_issue_grouped, request: coupon_request, http: the front;
# coupon_kafka, grouped_kafka and http_kafka with the publisher at work), or a peer of peers/ (redis_always
# and redis_everysec are named by appendfsync; pile is Redis everysec, Kafka,
# consumer, PostgreSQL, pile_always the same with the other).  prepare_variant
# gives it a fresh, empty state; measure runs it once and counts rows, not
# calls; check_variant says what is wrong afterwards.  One run is on one
# server, variants side by side.
#
# CLIENTS is a number of connections; 1000@64: through PgBouncer, which has 64
# to the server (Redis and HTTP need none, and are called directly).
#
#	BENCH_SECONDS   duration of one measured run
#	BENCH_PAIRS     number of forward and backward passes (A B ... B A)
#	BENCH_PASSES    of passes, forward, backward, ...; default two a pair
#	BENCH_STOCK     units on offer, must outlast a run
#	BENCH_CODES     the same of the peers that have a row for each unit
#	BENCH_OTHERS    a run during which other work of the machine took more
#	                than this share of the CPU time is repeated (percent)
#	BENCH_RETRIES   how often
#	BENCH_PATIENCE  seconds to wait for a quiet machine before a run
#	BENCH_PILE_OPTIONS  of redis_load for the pile: -X linger.ms=5
#	BENCH_WARM=0    buffers and WAL are not warmed up first
#	BENCH_PROGRAMS  where the load generators are, else tmp_bench
#	BENCH_LIMIT     seconds beyond its duration after which a run is killed

bench_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$bench_dir/.." && pwd)
PATH=$PATH:/usr/sbin:/sbin	# not everybody has PgBouncer in the path
programs=${BENCH_PROGRAMS:-$top/tmp_bench}

: "${BENCH_SECONDS:=8}" "${BENCH_PAIRS:=2}" "${BENCH_STOCK:=50000000}"
: "${BENCH_CODES:=1000000}" "${BENCH_OTHERS:=10}" "${BENCH_RETRIES:=2}" "${BENCH_PATIENCE:=30}" "${BENCH_LIMIT:=90}" "${BENCH_PILE_OPTIONS:=}"
: "${BENCH_PASSES:=$((2 * BENCH_PAIRS))}" "${BENCH_WARM:=1}"

# The server's settings, part of every result.
settings=(
	fsync=on synchronous_commit=on full_page_writes=on
	shared_buffers=1GB max_wal_size=8GB min_wal_size=4GB checkpoint_timeout=30min
	max_connections=1100 coupon.databases=postgres
)
policy='{"kind": "FIXED", "amount": 5000}'

die()
{
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# Runs the calling script again, beside a private server.
need_server()
{
	local setting options=()

	if [ -z "${BENCH_IN_SERVER:-}" ]; then
		BENCH_HTTP=127.0.0.1:$(free_port)
		export BENCH_HTTP
		settings+=(coupon.http_listen="$BENCH_HTTP" coupon.http_role=coupon_service)
		for setting in "${settings[@]}"; do
			options+=(-c "$setting")
		done
		BENCH_IN_SERVER=1 exec "$top/test/bin/with_server" "${options[@]}" "$0" "$@"
	fi
	scratch=$(mktemp -d "${TMPDIR:-/tmp}/coupon_bench.XXXXXX")
	pooler='' redis='' consumer='' kafka='' brokers='' mix=''
	trap clean_up EXIT
	trap 'exit 130' INT TERM
	ulimit -S -n 8192 2>/dev/null || ulimit -S -n "$(ulimit -H -n)"
	cores=$(nproc)
	data=$(sql "SHOW data_directory")
	postmaster=$(head -n 1 "$data/postmaster.pid")
	if [ "$BENCH_IN_SERVER" != warm ]; then
		[ "$BENCH_WARM" = 0 ] || warm_up
		export BENCH_IN_SERVER=warm
	fi
}

clean_up()
{
	stop_consumer
	stop_redis
	stop_pooler
	stop_kafka
	rm -rf "$scratch"
}

# stop PID: and waits, not for ever
stop()
{
	local try

	for try in {1..100}; do
		kill -"$([ "$try" -lt 80 ] && echo TERM || echo KILL)" "$1" 2>/dev/null || break
		sleep 0.05
	done
	wait "$1" 2>/dev/null || true
}

# within SECONDS COMMAND...: until it succeeds; 1 if it does not.  In a test, of
# which the machine may be loaded, SECONDS are as much longer as all its deadlines.
within()
{
	local deadline=$((SECONDS + $1 * ${PG_TEST_TIMEOUT_DEFAULT:-30} / 30))
	shift

	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $deadline ] || return 1
		sleep 0.05
	done
}

# wait_until SECONDS WHAT COMMAND...: or dies
wait_until()
{
	within "$1" "${@:3}" || die "waited too long: $2"
}

is_true()
{
	[ "$(sql "$1")" = t ]
}

sql()
{
	psql -qXAt -v ON_ERROR_STOP=1 -c "$1"
}

# Ready-made WAL segments, and shared_buffers that have been touched: the first
# runs would pay for both else.
warm_up()
{
	sql "CREATE TABLE bench_warm (filler text); ALTER TABLE bench_warm ALTER filler SET STORAGE PLAIN"
	sql "INSERT INTO bench_warm SELECT repeat('x', 8000) FROM generate_series(1, 180000)"
	sql "DROP TABLE bench_warm"
	sql "CHECKPOINT"
}

# shellcheck source=bench/lib/services.sh
. "$bench_dir/lib/services.sh"
# shellcheck source=bench/lib/variants.sh
. "$bench_dir/lib/variants.sh"
# shellcheck source=bench/lib/runs.sh
. "$bench_dir/lib/runs.sh"
# shellcheck source=bench/lib/http.sh
. "$bench_dir/lib/http.sh"
# shellcheck source=bench/lib/results.sh
. "$bench_dir/lib/results.sh"
