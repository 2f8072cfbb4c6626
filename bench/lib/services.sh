# shellcheck shell=bash disable=SC2034,SC2154
#
# Read by lib.sh: what peers need beside the server, in the scratch directory.

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
		http*) why_no_front ;;
	esac
	case $1-${2:-} in
		redis_* | pile* | http*) ;;
		*@*) has_pooler || echo "no PgBouncer (Debian: pgbouncer)" ;;
	esac
}

# able CLIENTS VARIANT...: sets present, those that can run; says why others
# cannot, also for the report
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
			echo "$variant at $clients: skipped: ${why//$'\n'/, }" |
				tee -a "${results:-$scratch}/${part:-figures}.skipped.txt"
		fi
	done
}
