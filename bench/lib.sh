# shellcheck shell=bash disable=SC2034
#
# Read by run.sh and by figures/, not run.
#
# A variant is one way to do the job: a ceiling (select1, insert), coupon,
# grouped (coupon_issue_grouped), or a peer of peers/.  prepare_variant gives it a fresh, empty state;
# measure runs it once and counts rows, not calls; check_variant says what is
# wrong afterwards.  One run is on one server, variants side by side.
#
#	BENCH_SECONDS   duration of one measured run
#	BENCH_PAIRS     number of forward and backward passes (A B ... B A)
#	BENCH_STOCK     units on offer, must outlast a run
#	BENCH_OTHERS    a run during which other work of the machine took more
#	                than this share of the CPU time is repeated (percent)
#	BENCH_RETRIES   how often
#	BENCH_PATIENCE  seconds to wait for a quiet machine before a run

bench_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$bench_dir/.." && pwd)

: "${BENCH_SECONDS:=8}" "${BENCH_PAIRS:=2}" "${BENCH_STOCK:=50000000}"
: "${BENCH_CODES:=1000000}" "${BENCH_OTHERS:=10}" "${BENCH_RETRIES:=2}" "${BENCH_PATIENCE:=30}"

# The server's settings, part of every result.
settings=(
	fsync=on synchronous_commit=on full_page_writes=on
	shared_buffers=1GB max_wal_size=8GB min_wal_size=4GB checkpoint_timeout=30min
	max_connections=250 coupon.databases=postgres
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
	trap 'rm -rf "$scratch"' EXIT
	trap 'exit 130' INT TERM
	cores=$(nproc)
	data=$(sql "SHOW data_directory")
	postmaster=$(head -n 1 "$data/postmaster.pid")
	if [ "$BENCH_IN_SERVER" != warm ]; then
		ready_wal
		export BENCH_IN_SERVER=warm
	fi
}

sql()
{
	psql -qXAt -v ON_ERROR_STOP=1 -c "$1"
}

# Ready-made WAL segments: the first runs would pay for making them else.
ready_wal()
{
	sql "DO 'BEGIN FOR i IN 1..1500 LOOP PERFORM pg_logical_emit_message(false, \$s\$bench\$s\$, repeat(\$s\$x\$s\$, 1000000)); END LOOP; END'"
	sql "CHECKPOINT"
}

drop_variants()
{
	psql -qXAt -v ON_ERROR_STOP=1 <<'END'
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS coupon CASCADE;
SELECT format('DROP SCHEMA %I CASCADE', nspname) FROM pg_namespace WHERE nspname ~ '^(peer_|bench|concert)' \gexec
END
}

# prepare_variant VARIANT [STOCK]: nothing but an empty variant and its pgbench script.
prepare_variant()
{
	local variant=$1 stock=${2:-$BENCH_STOCK}

	drop_variants
	schema=public
	{
		case $variant in
			select1)
				echo 'SELECT 1;'
				;;
			insert)
				# The durability ceiling of one commit per call: one row, one unique
				# index, a random key, so that sessions do not meet on a page.
				schema=bench
				sql "CREATE SCHEMA bench; CREATE TABLE bench.bare
					(campaign_id bigint, serial bigint, user_id text, PRIMARY KEY (campaign_id, serial))"
				printf '%s\n' '\set u random(1, 1000000000000000)' \
					'INSERT INTO bare VALUES (1, :u, :u);'
				;;
			coupon | grouped)
				sql "CREATE EXTENSION coupon;
					SELECT coupon_campaign_create('bench', $stock, policy => '$policy')" >"$scratch/campaign"
				[ "$variant" = coupon ] || until [ "$(sql "SELECT workers > 0 FROM coupon_group_status()")" = t ]; do
					sleep 0.1
				done
				printf '%s\n' '\set u random(1, 1000000000000000)' \
					"SELECT coupon_issue$([ "$variant" = coupon ] || echo _grouped)($(cat "$scratch/campaign"), :u::text);"
				;;
			*)
				schema=peer_$variant
				case $variant in
					codes*) [ -n "${2:-}" ] || stock=$BENCH_CODES ;;
				esac
				psql -qX -v schema="$schema" -f "$bench_dir/peers/$variant.sql" >"$scratch/log" 2>&1 ||
					die "peers/$variant.sql: $(tail -n 3 "$scratch/log")"
				sql "SET search_path = $schema; SELECT setup($stock)" >/dev/null
				printf '%s\n' '\set u random(1, 1000000000000000)' 'SELECT issue(1, :u::text);'
				;;
		esac
	} >"$scratch/script.sql"
	sql "CHECKPOINT"
}

# Rows that the variant has issued (none: it only answers).
variant_rows()
{
	case $1 in
		select1) echo 0 ;;
		insert) sql "SELECT count(*) FROM bench.bare" ;;
		coupon | grouped) sql "SELECT count(*) FROM coupon.issuance" ;;
		*) sql "SELECT count(*) FROM peer_$1.issuance" ;;
	esac
}

# Prints what violates a law; nothing when all is well.
check_variant()
{
	case $1 in
		select1 | insert)
			;;
		coupon | grouped)
			sql "SELECT * FROM coupon_verify();
				SELECT format('%s issuances, %s serials, %s users, %s events', n, serials, users, events)
				  FROM (SELECT count(*) AS n, count(DISTINCT (campaign_id, serial)) AS serials,
				               count(DISTINCT (campaign_id, user_id)) AS users FROM coupon.issuance) i,
				       (SELECT count(*) AS events FROM coupon.outbox WHERE type = 'coupon.issued') o
				 WHERE n <> serials OR n <> users OR n <> events;
				SELECT format('stock %s, issued %s, in flight %s, remaining %s', s.stock, s.issued, s.in_flight, s.remaining)
				  FROM coupon.campaign c, coupon_status(c.campaign_id) s
				 WHERE s.issued <> (SELECT count(*) FROM coupon.issuance i WHERE i.campaign_id = c.campaign_id)
				    OR s.in_flight <> 0 OR s.stock <> s.issued + s.remaining"
			;;
		*)
			sql "SET search_path = peer_$1; SELECT \"check\"()"
			;;
	esac
}

# CPU time so far, in clock ticks: of the machine, and of this server.
cpu_machine()
{
	awk '/^cpu / { print $2 + $3 + $4 + $7 + $8 + $9 }' /proc/stat	# not idle, not iowait; stolen counts
}

cpu_server()
{
	local pid

	{
		sed 's/.*) //' "/proc/$postmaster/stat" | awk '{ print $12 + $13 + $14 + $15 }'
		for pid in $(<"/proc/$postmaster/task/$postmaster/children"); do
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

# measure VARIANT CLIENTS SECONDS [pgbench options]: one run, no preparation.
# Sets calls, seconds, latency (ms), rows, rate (rows or answers a second), cost
# (the server's CPU time for a call, us) and others (percent of the CPU time
# that went to other work).
measure()
{
	local variant=$1 clients=$2 duration=$3 before machine server client
	shift 3

	settle
	before=$(variant_rows "$variant")
	machine=$(cpu_machine) server=$(cpu_server)
	TIMEFORMAT='%U %S'
	{
		time PGOPTIONS="-c search_path=$schema" pgbench -n -f "$scratch/script.sql" -M prepared \
			-c "$clients" -j "$cores" -T "$duration" "$@" >"$scratch/pgbench" 2>&1
	} 2>"$scratch/time" || die "pgbench ($variant): $(tail -n 3 "$scratch/pgbench")"
	! grep -E 'ERROR|FATAL|aborted' "$scratch/pgbench" >&2 || die "$variant: errors during the run"
	client=$(awk -v tck="$(getconf CLK_TCK)" '{ print int(($1 + $2) * tck) }' "$scratch/time")
	machine=$(($(cpu_machine) - machine)) server=$(($(cpu_server) - server))
	others=$(awk -v all="$machine" -v own=$((server + client)) -v tck="$(getconf CLK_TCK)" \
		-v cores="$cores" -v s="$duration" \
		'BEGIN { x = 100 * (all - own) / (tck * cores * s); printf "%.1f", x < 0 ? 0 : x }')

	calls=$(awk '/number of transactions actually processed/ { sub("/.*", "", $6); print $6 }' "$scratch/pgbench")
	latency=$(awk '/^latency average/ { print $4 }' "$scratch/pgbench")
	rate=$(awk '/^tps/ { print $3 }' "$scratch/pgbench")
	cost=$(awk -v own="$server" -v tck="$(getconf CLK_TCK)" -v n="$calls" 'BEGIN { printf "%.1f", own * 1e6 / tck / n }')
	seconds=$(awk -v n="$calls" -v r="$rate" 'BEGIN { printf "%.3f", n / r }')
	rows=$(($(variant_rows "$variant") - before))
	if [ "$variant" != select1 ]; then
		rate=$(awk -v n="$rows" -v s="$seconds" 'BEGIN { print n / s }')
	fi
	rate=$(printf '%.0f' "$rate")
}

# again TRY: others disturbed the last run, and it may be repeated once more.
again()
{
	[ "$1" -lt "$BENCH_RETRIES" ] && awk -v o="$others" -v max="$BENCH_OTHERS" 'BEGIN { exit o <= max }'
}

# cell VARIANT CLIENTS SECONDS: a checked run from a fresh state, again when
# others were busy.  Sets what measure sets, and violations.
cell()
{
	local try

	for ((try = 0; ; try++)); do
		prepare_variant "$1"
		measure "$1" "$2" "$3"
		violations=$(check_variant "$1" | head -n 5)
		if [ "$1" != select1 ] && [ "$rows" != "$calls" ]; then
			violations+="${violations:+; }$calls calls issued $rows rows"
		fi
		[ -z "$violations" ] && again "$try" || break
	done
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
			cell "$variant" "$clients" "$BENCH_SECONDS"
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

# Machine, versions and settings, for the record.
describe()
{
	echo "date: $(date -u +%Y-%m-%dT%H:%MZ)"
	echo "cpu: $(awk -F ': *' '/^model name/ { print $2; exit }' /proc/cpuinfo), $cores cores"
	echo "memory: $(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)"
	echo "kernel: $(uname -sr), data on $(df --output=fstype "$data" | tail -n 1)"
	echo "server: $(sql 'SELECT version()')"
	echo "client: $(pgbench --version), prepared protocol, Unix socket, $cores threads, on the same machine"
	echo "coupon: $(git -C "$top" describe --always --dirty 2>/dev/null || echo 'no git')"
	echo "settings: $(sql "SELECT string_agg(name || ' = ' || current_setting(name), ', ' ORDER BY name)
		FROM pg_settings WHERE source = 'configuration file'
		 AND name NOT IN ('port', 'unix_socket_directories', 'listen_addresses', 'log_line_prefix', 'config_file', 'TimeZone', 'log_timezone')
		 AND name !~ '^(lc_|default_text)'")"
	echo "duration: $BENCH_SECONDS s a run, $BENCH_PAIRS x forward and backward, fresh tables and CHECKPOINT before each"
}
