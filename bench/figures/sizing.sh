#!/usr/bin/env bash
#
# What a sale takes, as doc/operations.md counts it: bytes in tables and
# indexes for each issuance, event, request, ticket and unit with a label, and
# bytes of WAL, for users whose ids are UUIDs (36 bytes).  In full-grown tables,
# of SIZING_ROWS rows, without a publisher.
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

settings+=(coupon.databases='' coupon.request_depth=100000000 coupon.queue_memory=256MB)
need_server "$@"

rows=${SIZING_ROWS:-200000}
sql "SET client_min_messages = warning; DROP EXTENSION IF EXISTS coupon CASCADE; DROP TABLE IF EXISTS bench_user" 2>/dev/null
sql "CREATE EXTENSION coupon;
	CREATE TABLE bench_user AS SELECT i, gen_random_uuid()::text AS u FROM generate_series(1, $rows) i;
	CREATE INDEX ON bench_user (i); ANALYZE bench_user"

# size RELATION...: bytes of tables, without and with their indexes
size()
{
	local list

	list=$(printf "'%s'," "$@")
	sql "SELECT sum(pg_relation_size(r)) || ' ' || sum(pg_total_relation_size(r)) FROM unnest(ARRAY[${list%,}]::regclass[]) r"
}

# per WHAT TABLE BYTES NUMBER
each()
{
	local table all

	read -r table all <<<"$(size "${@:3}")"
	figure "$1, bytes" $((all / $2)) info - "table $((table / $2)), indexes $(((all - table) / $2))"
}

# in_batches SIZE QUERY: for users :from to :to, each batch a transaction; sets wal
in_batches()
{
	local start

	sql 'CHECKPOINT'
	start=$(sql 'SELECT pg_current_wal_insert_lsn()')
	sql "SELECT format(\$f\$$2\$f\$, i, i + $1 - 1) FROM generate_series(1, $rows, $1) i" >"$scratch/batches.sql"
	PGOPTIONS='-c synchronous_commit=off' psql -qXAt -v ON_ERROR_STOP=1 -f "$scratch/batches.sql" >/dev/null
	wal=$(($(sql "SELECT pg_current_wal_insert_lsn() - '$start'") / rows))
}

sql "SELECT coupon_campaign_create('sizing', 2 * $rows, policy => '$policy')" >"$scratch/campaign"
users="(SELECT array_agg(u) FROM bench_user WHERE i BETWEEN %s AND %s)"
in_batches 1000 "SELECT count(*) FROM coupon_issue_many($(cat "$scratch/campaign"), $users);"
each 'an issuance' "$rows" coupon.issuance
each 'its event, until it is published' "$rows" coupon.outbox_0 coupon.outbox_1 coupon.outbox_2
figure 'WAL of an issuance with its event, in batches of 1,000, full-page images included' "$wal" info -

sql "SELECT coupon_campaign_create('asked for', $rows, policy => '$policy')" >"$scratch/campaign"
in_batches 1000 "SELECT count(*) FROM bench_user, coupon_request($(cat "$scratch/campaign"), u) WHERE i BETWEEN %s AND %s;"
each 'a request that waits' "$rows" coupon.request_0 coupon.request_1
figure 'WAL of a request' "$wal" info -

sql "SELECT coupon_room_create('sizing', 1000)" >/dev/null
in_batches 1000 "SELECT count(*) FROM bench_user, coupon_queue_join('sizing', u) WHERE i BETWEEN %s AND %s;"
each 'a ticket' "$rows" coupon.ticket_0 coupon.ticket_1
figure 'WAL of a ticket' "$wal" info -

sql "SELECT coupon_campaign_create('coded', 0)" >"$scratch/campaign"
in_batches 10000 "SELECT coupon_codes_generate($(cat "$scratch/campaign"), NULL, %2\$s - %1\$s + 1);"
each 'a unit with a code of 16 characters' "$rows" coupon.unit
figure 'WAL of such a unit' "$wal" info -

sql "SELECT name || ', bytes, ' || allocated_size || ', -, info' FROM pg_shmem_allocations WHERE name LIKE 'coupon%' ORDER BY allocated_size DESC" |
	sed 's/^/shared memory: /'
