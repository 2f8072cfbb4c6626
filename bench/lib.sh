# shellcheck shell=bash disable=SC2034
#
# Read by run.sh and by figures/, not run.
#
# A variant is one way to do the job: a ceiling (select1, insert), ours (coupon,
# grouped: coupon_issue_grouped, request: coupon_request; coupon_kafka and
# grouped_kafka with the publisher at work), or a peer of peers/ (redis_always
# and redis_everysec are named by appendfsync; pile is Redis everysec, Kafka,
# consumer, PostgreSQL, pile_always the same with the other).  prepare_variant
# gives it a fresh, empty state; measure runs it once and counts rows, not
# calls; check_variant says what is wrong afterwards.  One run is on one
# server, variants side by side.
#
# CLIENTS is a number of connections; 1000@64: through PgBouncer, which has 64
# to the server (Redis needs none, and is called directly).
#
#	BENCH_SECONDS   duration of one measured run
#	BENCH_PAIRS     number of forward and backward passes (A B ... B A)
#	BENCH_STOCK     units on offer, must outlast a run
#	BENCH_CODES     the same of the peers that have a row for each unit
#	BENCH_OTHERS    a run during which other work of the machine took more
#	                than this share of the CPU time is repeated (percent)
#	BENCH_RETRIES   how often
#	BENCH_PATIENCE  seconds to wait for a quiet machine before a run
#	BENCH_PILE_OPTIONS  of redis_load for the pile: -X linger.ms=5
#	BENCH_LIMIT     seconds beyond its duration after which a run is killed

bench_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$bench_dir/.." && pwd)
PATH=$PATH:/usr/sbin:/sbin	# not everybody has PgBouncer in the path
programs=$top/tmp_bench

: "${BENCH_SECONDS:=8}" "${BENCH_PAIRS:=2}" "${BENCH_STOCK:=50000000}"
: "${BENCH_CODES:=1000000}" "${BENCH_OTHERS:=10}" "${BENCH_RETRIES:=2}" "${BENCH_PATIENCE:=30}" "${BENCH_LIMIT:=90}" "${BENCH_PILE_OPTIONS:=}"

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
		warm_up
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

# within SECONDS COMMAND...: until it succeeds; 1 if it does not
within()
{
	local deadline=$((SECONDS + $1))
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

# ---- what peers need beside the server; all in the scratch directory ----

has_pooler()
{
	command -v pgbouncer >/dev/null
}

# start_pooler CONNECTIONS [SCHEMA]: PgBouncer, transaction mode; sets pooler
start_pooler()
{
	local dir=$scratch/pooler owner=()

	mkdir "$dir"
	# shellcheck disable=SC2016 # the quotes are PgBouncer's
	cat >"$dir/pgbouncer.ini" <<-END
		[databases]
		* = host=$PGHOST port=$PGPORT user=$(sql 'SELECT current_user') ${2:+connect_query='SET search_path = $2'}
		[pgbouncer]
		unix_socket_dir = $dir
		pidfile = $dir/pid
		listen_port = 6432
		auth_type = any
		pool_mode = transaction
		default_pool_size = $1
		max_client_conn = 3000
		listen_backlog = 2048
		client_login_timeout = 0
		query_wait_timeout = 0
		ignore_startup_parameters = extra_float_digits
		log_connections = 0
		log_disconnections = 0
	END
	# it refuses to run as root
	if [ "$(id -u)" = 0 ]; then
		owner=(setpriv --reuid="$(stat -c %u "$data")" --regid="$(stat -c %g "$data")" --clear-groups)
		chmod 711 "$scratch"
		chown -R "$(stat -c %u:%g "$data")" "$dir"
	fi
	chmod 700 "$dir"
	"${owner[@]}" pgbouncer -q "$dir/pgbouncer.ini" >"$scratch/pooler.log" 2>&1 &
	pooler=$!
	within 60 test -S "$dir/.s.PGSQL.6432" || die "PgBouncer does not start: $(tail -n 3 "$scratch/pooler.log" 2>&1)"
}

stop_pooler()
{
	[ -z "$pooler" ] || stop "$pooler"
	rm -rf "$scratch/pooler"
	pooler=
}

redis()
{
	redis-cli -s "$scratch/redis/socket" "$@"
}

# start_redis always|everysec: a Redis of our own; sets redis.  It never
# rewrites its file during a run, in its favour.
start_redis()
{
	mkdir "$scratch/redis"
	redis-server --port 0 --unixsocket "$scratch/redis/socket" --dir "$scratch/redis" --save '' \
		--appendonly yes --appendfsync "$1" --auto-aof-rewrite-percentage 0 --maxclients 4000 --tcp-backlog 2048 \
		>"$scratch/redis.log" 2>&1 &
	redis=$!
	wait_until 60 'Redis to start: ' redis PING
}

stop_redis()
{
	[ -z "$redis" ] || stop "$redis"
	rm -rf "$scratch/redis"
	redis=
}

# start_kafka: a real one if it can be had, else librdkafka's mock cluster; sets
# brokers and kafka
start_kafka()
{
	[ -z "$kafka" ] || return 0
	make -s -C "$top" kafka-programs >&2
	"$top/test/bin/kafka" available >/dev/null || "$top/test/bin/kafka" fetch >"$scratch/fetch.log" 2>&1 || true
	if "$top/test/bin/kafka" available >"$scratch/kafka.why"; then
		kafka=Kafka
		brokers=$(timeout 120 "$top/test/bin/kafka" start "$scratch/kafka") || die 'Kafka does not start'
	else
		kafka=mock
		mkfifo "$scratch/commands" "$scratch/answers"
		"$top/tmp_kafka/bin/mock_broker" -b 1 -t none:1 <"$scratch/commands" >"$scratch/answers" &
		exec 7>"$scratch/commands" 8<"$scratch/answers"
		IFS= read -r brokers <&8
	fi
}

stop_kafka()
{
	case $kafka in
		Kafka) "$top/test/bin/kafka" kill "$scratch/kafka" || true ;;
		mock) exec 7>&- ;;
	esac
	kafka=
}

# new_topic: of 12 partitions, empty; sets topic
new_topic()
{
	topic=bench-$(date +%s%N)
	if [ "$kafka" = Kafka ]; then
		"$top/tmp_kafka/bin/topics" "$brokers" create "$topic" 12
	else
		echo "topic $topic 12" >&7
		IFS= read -r _ <&8
	fi
}

# events_in TOPIC: by the ends of its partitions
events_in()
{
	local partition ends=()

	for partition in {0..11}; do
		ends+=(-t "$1:$partition:-1")
	done
	kcat -Q -b "$brokers" "${ends[@]}" 2>"$scratch/kcat.err" | awk '/offset/ { n += $NF } END { print n + 0 }'
}

# publishing on|off: events to Kafka
publishing()
{
	if [ "$1" = on ]; then
		sql "ALTER SYSTEM SET coupon.kafka_brokers = '$brokers'"
	else
		sql "ALTER SYSTEM RESET coupon.kafka_brokers"
	fi
	sql "SELECT pg_reload_conf()" >/dev/null
}

start_consumer()
{
	: >"$scratch/consumer"
	case $1 in
		pgq) psql -qX -c "SET search_path = peer_pgq" -c "CALL consume()" >"$scratch/consumer" 2>&1 & ;;
		*) "$programs/consumer" -b "$brokers" -k "$topic" -g "$topic" >"$scratch/consumer" 2>&1 & ;;
	esac
	consumer=$!
	[ "$1" = pgq ] || wait_until 30 'the consumer to get its partitions' grep -q ready "$scratch/consumer"
}

stop_consumer()
{
	[ -z "$consumer" ] || stop "$consumer"
	consumer=
}

# why_not VARIANT [CLIENTS]: what is missing for it; nothing when it can run
why_not()
{
	case $1 in
		redis_* | pile*)
			[ -x "$programs/redis_load" ] || echo "no hiredis to build the load generator with (Debian: libhiredis-dev)"
			command -v redis-server >/dev/null || echo "no redis-server (Debian: redis-server)"
			;;
		pgq)
			[ "$(sql "SELECT count(*) FROM pg_available_extensions WHERE name = 'pgq'")" = 1 ] ||
				echo "no extension pgq (Debian: postgresql-$(sql "SELECT current_setting('server_version_num')::int / 10000")-pgq3)"
			;;
	esac
	case $1 in
		pile*) [ -x "$programs/consumer" ] || echo "no libpq to build the consumer with (Debian: libpq-dev)" ;;
	esac
	case $1-${2:-} in
		redis_* | pile*) ;;
		*@*) has_pooler || echo "no PgBouncer (Debian: pgbouncer)" ;;
	esac
}

# able CLIENTS VARIANT...: sets present, those that can run; says why others cannot
able()
{
	local variant why clients=$1
	shift

	present=()
	for variant; do
		why=$(why_not "$variant" "$clients")
		if [ -z "$why" ]; then
			present+=("$variant")
		else
			echo "$variant at $clients: skipped: ${why//$'\n'/, }"
		fi
	done
}

# ---- variants ----

drop_variants()
{
	stop_consumer
	stop_redis
	psql -qXAt -v ON_ERROR_STOP=1 <<'END'
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS coupon CASCADE;
DROP EXTENSION IF EXISTS pgq CASCADE;
SELECT format('DROP SCHEMA %I CASCADE', nspname) FROM pg_namespace WHERE nspname ~ '^(peer_|bench|concert)' \gexec
END
}

# load_peer NAME STOCK: the schema of peers/NAME.sql
load_peer()
{
	schema=peer_$1
	psql -qX -v schema="$schema" -f "$bench_dir/peers/$1.sql" >"$scratch/log" 2>&1 ||
		die "peers/$1.sql: $(tail -n 3 "$scratch/log")"
	sql "SET search_path = $schema; SELECT setup($2)" >/dev/null
}

# load_redis always|everysec STOCK
load_redis()
{
	start_redis "$1"
	redis HSET campaign:1 left "$2" policy "$policy" paused 0 >/dev/null
}

# worker_of VARIANT: in pg_stat_activity
worker_of()
{
	case $1 in
		grouped) echo 'coupon group' ;;
		request) echo 'coupon issuer' ;;
		*_kafka) echo 'coupon publisher' ;;
	esac
}

# prepare_ours VARIANT STOCK
prepare_ours()
{
	topic=coupon-issued
	case $1 in
		*_kafka) new_topic ;;
	esac
	sql "CREATE EXTENSION coupon;
		SELECT coupon_campaign_create('bench', $2, policy => '$policy', topic => '$topic')" >"$scratch/campaign"
	case $1 in
		grouped*) call=coupon_issue_grouped ;;
		request) call=coupon_request ;;
		*) call=coupon_issue ;;
	esac
	call+="($(cat "$scratch/campaign"), :u::text)"
	case $1 in
		*_kafka) wait_until 30 'the publisher' is_true "SELECT broker = 'up' AND unpublished = 0 FROM coupon_outbox_status()" ;;
		request) wait_until 30 'the issuer' is_true "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'coupon issuer'" ;;
	esac
	case $1 in
		grouped*) wait_until 30 'the group worker' is_true "SELECT workers > 0 FROM coupon_group_status()" ;;
	esac
}

# prepare_variant VARIANT [STOCK]: nothing but an empty variant and its pgbench
# script.  Sets schema, stock, and call, the SQL expression that issues to :u.
prepare_variant()
{
	local variant=$1

	stock=${2:-$BENCH_STOCK}
	drop_variants
	schema=public call='' returned=
	case $variant in
		select1)
			echo 'SELECT 1;' >"$scratch/script.sql"
			;;
		insert)
			# The durability ceiling of one commit per call: one row, one unique
			# index, a random key, so that sessions do not meet on a page.
			schema=bench
			sql "CREATE SCHEMA bench; CREATE TABLE bench.bare
				(campaign_id bigint, serial bigint, user_id text, PRIMARY KEY (campaign_id, serial))"
			printf '%s\n' '\set u random(1, 1000000000000000)' \
				'INSERT INTO bare VALUES (1, :u, :u);' >"$scratch/script.sql"
			;;
		coupon | grouped | request | *_kafka)
			prepare_ours "$variant" "$stock"
			;;
		redis_*)
			load_redis "${variant#redis_}" "$stock"
			;;
		pile*)
			load_peer pile "$stock"
			load_redis "$([ "$variant" = pile ] && echo everysec || echo "${variant#pile_}")" "$stock"
			new_topic
			start_consumer pile
			;;
		pgq)
			load_peer pgq "$stock"
			call="pgq.insert_event('coupon-issue', 'issue', :u::text)"
			start_consumer pgq
			;;
		*)
			case $variant in
				codes*) [ -n "${2:-}" ] || stock=$BENCH_CODES ;;
			esac
			load_peer "$variant" "$stock"
			call="issue(1, :u::text)"
			;;
	esac
	[ -z "$call" ] || printf '%s\n' '\set u random(1, 1000000000000000)' "SELECT $call;" >"$scratch/script.sql"
	sql "CHECKPOINT"
}

# Rows that the variant has issued (none: it only answers).
variant_rows()
{
	case $1 in
		select1) echo 0 ;;
		insert) sql "SELECT count(*) FROM bench.bare" ;;
		coupon | grouped | request | *_kafka) sql "SELECT count(*) FROM coupon.issuance" ;;
		redis_*) redis HLEN users:1 ;;
		pile*) sql "SELECT count(*) FROM peer_pile.issuance" ;;
		*) sql "SELECT count(*) FROM peer_$1.issuance" ;;
	esac
}

# check_redis [queue]: stock, users, serials and events must agree
check_redis()
{
	local left back users events serials

	left=$(redis HGET campaign:1 left) back=$(redis LLEN returned:1)
	users=$(redis HLEN users:1) events=$(redis LLEN queue:1)
	serials=$(redis HVALS users:1 | LC_ALL=C sort -u | grep -c .)
	[ $((left + back + users)) = "$stock" ] || echo "stock $stock, left $left, returned $back, sold $users"
	[ "$serials" = "$users" ] || echo "$users sold, $serials serials"
	# an event for an issue, and two for one that was returned
	[ "${1:-}" != queue ] || [ "$events" = $((users + 2 * ${returned:-0})) ] ||
		echo "$users sold, ${returned:-0} returned, $events events"
}

# Prints what violates a law; nothing when all is well.
check_variant()
{
	local rows events

	case $1 in
		select1 | insert)
			;;
		coupon | grouped | request | *_kafka)
			sql "SELECT * FROM coupon_verify();
				SELECT format('%s issuances, %s serials, %s users', n, serials, users)
				  FROM (SELECT count(*) AS n, count(DISTINCT (campaign_id, serial)) AS serials,
				               count(DISTINCT (campaign_id, user_id)) AS users FROM coupon.issuance) i
				 WHERE n <> serials OR n <> users;
				SELECT format('stock %s, issued %s, in flight %s, remaining %s', s.stock, s.issued, s.in_flight, s.remaining)
				  FROM coupon.campaign c, coupon_status(c.campaign_id) s
				 WHERE s.issued <> (SELECT count(*) FROM coupon.issuance i WHERE i.campaign_id = c.campaign_id)
				    OR s.in_flight <> 0 OR s.stock <> s.issued + s.remaining"
			case $1 in
				*_kafka)
					# and the event that tells of the campaign
					rows=$(variant_rows "$1") events=$(events_in "$topic")
					[ "$events" -gt "$rows" ] || echo "$rows issuances, $events events in Kafka"
					;;
				*)
					sql "SELECT format('%s issuances, %s events', n, events)
						FROM (SELECT count(*) AS n FROM coupon.issuance) i,
						     (SELECT count(*) AS events FROM coupon.outbox WHERE type = 'coupon.issued') o
						WHERE n <> events"
					;;
			esac
			;;
		redis_*)
			check_redis queue
			;;
		pile*)
			check_redis
			sql "SET search_path = peer_pile; SELECT \"check\"()"
			rows=$(variant_rows "$1") events=$(events_in "$topic")
			[ "$(redis HLEN users:1) $events" = "$rows $rows" ] ||
				echo "$(redis HLEN users:1) sold in Redis, $events events in Kafka, $rows rows"
			;;
		*)
			sql "SET search_path = peer_$1; SELECT \"check\"()"
			;;
	esac
}

# CPU time so far, in clock ticks: of the machine, and of this server with what
# it has beside it.
cpu_machine()
{
	awk '/^cpu / { print $2 + $3 + $4 + $7 + $8 + $9 }' /proc/stat	# not idle, not iowait; stolen counts
}

cpu_server()
{
	local pid

	{
		sed 's/.*) //' "/proc/$postmaster/stat" | awk '{ print $12 + $13 + $14 + $15 }'
		for pid in $(<"/proc/$postmaster/task/$postmaster/children") $pooler $redis $consumer \
			$(cat "$scratch/kafka/kafka.pid" 2>/dev/null); do
			sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null | awk '{ print $12 + $13 }' || true
		done
	} | awk '{ n += $1 } END { print n }'
}

# Waits until the machine has little else to do.
settle()
{
	local before try

	for ((try = 0; try < 2 * BENCH_PATIENCE; try++)); do
		before=$(cpu_machine)
		sleep 0.5
		[ $(($(cpu_machine) - before)) -gt $((cores * $(getconf CLK_TCK) * BENCH_OTHERS / 200)) ] || return 0
	done
}

# measure VARIANT CLIENTS SECONDS|NUMBERx [options of pgbench]: one run, no
# preparation; 300x: each connection calls so often.  Sets calls, seconds,
# latency (ms), rows, rate (rows or answers a second), cost (the server's CPU
# time for a call, us), others (percent of the CPU time that went to other
# work), returned (units, by Redis) and ended (when, in epoch seconds).
measure()
{
	local variant=$1 where=$2 clients=${2%@*} duration=$3 before machine server client length load option log=''
	shift 3

	case $duration in
		*x) length=(-t "${duration%x}") duration=0 ;;
		*) length=(-T "$duration") ;;
	esac
	settle
	before=$(variant_rows "$variant")
	case $variant in
		redis_* | pile*)
			load=("$programs/redis_load" -s "$scratch/redis/socket" -d "$bench_dir/peers")
			# shellcheck disable=SC2206
			[ "$variant" = "${variant#pile}" ] || load+=(-b "$brokers" -k "$topic" $BENCH_PILE_OPTIONS)
			case $mix in
				twice) load+=(-2) ;;
				rollback) load+=(-x 20) ;;
			esac
			for option; do
				case $option in
					--log) ;;
					--log-prefix=*) log=${option#*=} ;;
					*) load+=("$option") ;;
				esac
			done
			[ -z "$log" ] || load+=(-L "$log")
			;;
		*)
			# its clock runs while it connects, see below
			[ "$duration" = 0 ] || length=(-T $((duration + clients / 200 + ${connecting:-0})))
			load=(env PGOPTIONS="-c search_path=$schema" pgbench -n -f "$scratch/script.sql" -M prepared "$@")
			if [ "$clients" != "$where" ]; then
				# before 1.21 PgBouncer knows no prepared statements in this mode
				start_pooler "${where#*@}" "$schema"
				load=(env PGHOST="$scratch/pooler" PGPORT=6432 pgbench -n -f "$scratch/script.sql" -M simple "$@")
			fi
			;;
	esac

	machine=$(cpu_machine) server=$(cpu_server) wall=$(date +%s.%N)
	TIMEFORMAT='%U %S'
	{
		time timeout -k 5 "$(awk -v d="$duration" -v l="$BENCH_LIMIT" 'BEGIN { print d + l }')" \
			"${load[@]}" -c "$clients" -j "$cores" "${length[@]}" >"$scratch/pgbench" 2>&1
	} 2>"$scratch/time" || die "$variant, $where connections: $(tail -n 3 "$scratch/pgbench")"
	ended=$(date +%s.%N)
	! grep -E 'ERROR|FATAL|aborted' "$scratch/pgbench" >&2 || die "$variant: errors during the run"
	client=$(awk -v tck="$(getconf CLK_TCK)" '{ print int(($1 + $2) * tck) }' "$scratch/time")
	machine=$(($(cpu_machine) - machine)) server=$(($(cpu_server) - server))
	others=$(awk -v all="$machine" -v own=$((server + client)) -v tck="$(getconf CLK_TCK)" \
		-v cores="$cores" -v a="$wall" -v b="$(date +%s.%N)" \
		'BEGIN { x = 100 * (all - own) / (tck * cores * (b - a)); printf "%.1f", x < 0 ? 0 : x }')
	stop_pooler

	calls=$(awk '/number of transactions actually processed/ { sub("/.*", "", $6); print $6 }' "$scratch/pgbench")
	latency=$(awk '/^latency average/ { print $4 }' "$scratch/pgbench")
	rate=$(awk '/^tps/ { print $3 }' "$scratch/pgbench")
	returned=$(awk '/^issued/ { print $8 }' "$scratch/pgbench")
	cost=$(awk -v own="$server" -v tck="$(getconf CLK_TCK)" -v n="$calls" 'BEGIN { printf "%.1f", n ? own * 1e6 / tck / n : 0 }')
	seconds=$(awk -v n="$calls" -v r="$rate" 'BEGIN { printf "%.3f", r ? n / r : 0 }')
	# connecting took most of the time: once more, with time for that
	if awk -v s="$seconds" -v d="$duration" 'BEGIN { exit s >= d / 2 }'; then
		[ -z "${connecting:-}" ] || die "$variant, $where connections: they take more than $connecting s to connect"
		local connecting=$((10 + clients / 25))
		measure "$variant" "$where" "$duration" "$@"
		return
	fi
	rows=$(($(variant_rows "$variant") - before))
	if [ "$variant" != select1 ]; then
		rate=$(awk -v n="$rows" -v s="$seconds" 'BEGIN { print s ? n / s : 0 }')
	fi
	rate=$(printf '%.0f' "$rate")
}

# percentiles: of the latencies that --log --log-prefix=$scratch/log left, but for
# those of the first second, in which sessions fill their caches, and of the
# last, in which sessions end; sets p50, p95, p99, p999 (ms)
percentiles()
{
	local log

	read -r p50 p95 p99 p999 < <(for log in "$scratch"/log.*; do
		awk -v s="$seconds" '{ line[NR] = $0 } END { n = int(NR / (s < 3 ? 3 : s)); for (i = n + 1; i <= NR - n; i++) print line[i] }' "$log"
	done | cut -d ' ' -f 3 | grep -x '[0-9]*' | LC_ALL=C sort -n | awk '
		{ x[NR] = $1 / 1000 }
		function at(share,   i) { i = int(NR * share + 0.999999); return x[i < 1 ? 1 : i] }
		END { printf "%.2f %.2f %.2f %.2f\n", at(0.5), at(0.95), at(0.99), at(0.999) }')
	rm -f "$scratch"/log.*
}

# again TRY: others disturbed the last run, and it may be repeated once more.
again()
{
	[ "$1" -lt "$BENCH_RETRIES" ] && awk -v o="$others" -v max="$BENCH_OTHERS" 'BEGIN { exit o <= max }'
}

# isolated COMMAND...: in a shell of its own, whose failure (or that of what it
# has started) voids one run and no more.  What measure sets is kept.
isolated()
{
	local status name

	: >"$scratch/outcome"
	set +e
	(
		set -e
		trap 'stop_consumer; stop_redis; stop_pooler' EXIT
		calls='' rows='' seconds='' rate='' latency='' cost='' others=0 p50='' p95='' p99='' p999='' note='' violations=''
		"$@"
		for name in calls rows seconds rate latency cost others p50 p95 p99 p999 note violations; do
			printf '%s=%q\n' "$name" "${!name}"
		done >"$scratch/outcome"
	) 2>"$scratch/errors"
	status=$?
	set -e
	cat "$scratch/errors" >&2
	calls='' rows='' seconds='' rate='' latency='' cost='' others=0 p50='' p95='' p99='' p999='' note='' violations=''
	# shellcheck source=/dev/null
	. "$scratch/outcome"
	[ "$status" = 0 ] || violations=${violations:-failed: $(tail -n 1 "$scratch/errors" | cut -c 1-200)}
}

# checked_run VARIANT CLIENTS SECONDS [options]: from a fresh state
checked_run()
{
	prepare_variant "$1"
	measure "$@"
	violations=$(check_variant "$1" | head -n 5)
	if [ "$1" != select1 ] && [ "$rows" != "$calls" ]; then
		violations+="${violations:+; }$calls calls issued $rows rows"
	fi
}

# cell COMMAND...: again when others were busy.  Sets what measure sets, and
# violations.
cell()
{
	local try

	for ((try = 0; ; try++)); do
		isolated "$@"
		if [ -n "$violations" ] || ! again "$try"; then
			break
		fi
	done
}

# ---- a part of the benchmark: its runs, a line each ----

# begin_part NAME [COLUMNS to print]: sets results, failed
begin_part()
{
	results=${BENCH_RESULTS:-$bench_dir/results/latest}
	part=$1 failed=0
	mkdir -p "$results"
	rm -f "$results/$part.runs.csv"
	echo "condition,pass,variant,calls,rows,seconds,per_second,average_ms,server_cpu_us,others_cpu_percent,p50,p95,p99,p999,note,violations" >"$results/$part.part.csv"
	printf '\n%-22s %4s %-15s %10s %10s %10s %7s  %s\n' "$part" pass variant per_second average cpu/call others check
}

# record CONDITION PASS VARIANT: the run that has just ended
record()
{
	if [ -n "$violations" ]; then
		failed=1
		rate=
	fi
	echo "$1,$2,$3,$calls,$rows,$seconds,$rate,$latency,$cost,$others,$p50,$p95,$p99,$p999,\"${note//[,\"]/;}\",\"${violations//[$'\n,"']/ }\"" >>"$results/$part.part.csv"
	printf '%-22s %4s %-15s %10s %7s ms %7s us %5s %%  %s\n' "$1" "$2" "$3" "${rate:-void}" "${latency:--}" "${cost:--}" "$others" \
		"${violations:-ok}${p50:+, p50 $p50 p95 $p95 p99 $p99 p99.9 $p999 ms}${note:+, $note}"
}

# passes CONDITION CLIENTS COMMAND VARIANT...: of those that can run, forward and
# backward; the command is called with the variant
passes()
{
	local condition=$1 clients=$2 command=$3 pass variant
	shift 3

	able "$clients" "$@"
	for ((pass = 1; pass <= 2 * BENCH_PAIRS; pass++)); do
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
