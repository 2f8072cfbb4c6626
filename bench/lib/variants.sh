# shellcheck shell=bash disable=SC2034,SC2154
#
# Read by lib.sh: the variants: made, counted, checked.

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
	# roles of another variant may be there already
	sql "SET client_min_messages = error; CREATE EXTENSION coupon;
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
		http*) prepare_http ;;
		grouped*) wait_until 30 'the group worker' is_true "SELECT workers > 0 FROM coupon_group_status()" ;;
	esac
}

# The durability ceiling of one commit per call: one row, one unique index, a
# random key, so that sessions do not meet on a page.  Leaves insert.sql.
create_bare()
{
	sql "CREATE SCHEMA IF NOT EXISTS bench; CREATE TABLE bench.bare
		(campaign_id bigint, serial bigint, user_id text, PRIMARY KEY (campaign_id, serial))"
	printf '%s\n' '\set u random(1, 1000000000000000)' \
		'INSERT INTO bench.bare VALUES (1, :u, :u);' >"$scratch/insert.sql"
}

# What only answers, so that there is no row to count.
answers_only()
{
	[ "$1" = select1 ] || [ "$1" = answer ]
}

# Clones of our tables, which have no triggers and no foreign key.
clone_tables()
{
	sql "CREATE SCHEMA bench;
		CREATE TABLE bench.issuance (LIKE coupon.issuance INCLUDING ALL);
		CREATE TABLE bench.outbox (LIKE coupon.outbox_0 INCLUDING ALL)"
}

# rows_into_clones VALUES: the statement that writes a row and its event for each
rows_into_clones()
{
	cat <<-END
		WITH i AS (
			INSERT INTO bench.issuance (campaign_id, serial, shard, nth, issued_at, user_id, state, policy)
			$1
			RETURNING *
		), e AS (
			INSERT INTO bench.outbox (id, topic, key, type, payload)
			SELECT gen_random_uuid(), 'coupon-issued', user_id, 'coupon.issued',
			       json_build_object('campaign_id', campaign_id, 'user_id', user_id, 'serial', serial, 'policy', policy, 'issued_at', issued_at)
			  FROM i
			RETURNING 1
		)
		SELECT count(*) FROM e;
	END
}

# prepare_bulk many|insert_select: each call is one of $bulk new users, in no
# order; many: coupon_issue_many, insert_select: the same rows into clones of the
# same tables.  The seed is not for show: the hash of a bigint alone has 32 bits, of which calls would soon share some.
prepare_bulk()
{
	local campaign users="(SELECT array_agg((hashint8extended(:n::bigint + i, :n::bigint) & 1125899906842623)::text) FROM generate_series(1, $bulk) i)"

	prepare_ours coupon "$stock"
	call=''
	campaign=$(cat "$scratch/campaign")
	clone_tables
	{
		echo "\\set n random(1, 1000000000) * 1000000"
		if [ "$1" = many ]; then
			echo "SELECT count(*) FROM coupon_issue_many($campaign, $users) WHERE status = 'issued';"
		else
			rows_into_clones "SELECT $campaign, :n::bigint + n, 0, 1, now(), u, 'issued', '$policy' FROM unnest($users) WITH ORDINALITY AS x (u, n)"
		fi
	} >"$scratch/script.sql"
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
		answer)
			# what coupon_issue answers, and no function
			printf '%s\n' '\set u random(1, 1000000000000000)' \
				"SELECT ROW(:u::text, 'sold_out', NULL::bigint, NULL::text, NULL::timestamptz, NULL::timestamptz);" >"$scratch/script.sql"
			;;
		insert_rows)
			prepare_ours coupon 1
			call=''
			clone_tables
			{
				echo '\set u random(1, 1000000000000000)'
				rows_into_clones "VALUES (1, :u::bigint, 0, 1, now(), :u::text, 'issued', '$policy')"
			} >"$scratch/script.sql"
			;;
		insert)
			create_bare
			cp "$scratch/insert.sql" "$scratch/script.sql"
			;;
		many | insert_select)
			prepare_bulk "$variant"
			;;
		coupon | grouped | request | http | *_kafka)
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
		select1 | answer) echo 0 ;;
		insert) sql "SELECT count(*) FROM bench.bare" ;;
		insert_select | insert_rows) sql "SELECT count(*) FROM bench.issuance" ;;
		coupon | grouped | request | http | many | *_kafka) sql "SELECT count(*) FROM coupon.issuance" ;;
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
		select1 | answer | insert | insert_select | insert_rows)
			;;
		coupon | grouped | request | http | many | *_kafka)
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
