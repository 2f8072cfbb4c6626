#!/usr/bin/env bash
#
# After sell-out: answers a second beside SELECT 1, and what 100,000 of them
# leave behind: no transaction id, no WAL.
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_server "$@"
failed_figures=0

prepare_variant coupon 1
campaign=$(cat "$scratch/campaign")
sql "SELECT coupon_issue($campaign, 'first')" >/dev/null
cp "$scratch/script.sql" "$scratch/sold_out.sql"
echo 'SELECT 1;' >"$scratch/select1.sql"

: >"$scratch/ratios"
detail=
for ((pair = 1; pair <= BENCH_PAIRS; pair++)); do
	declare -A answers=([sold_out]=0 [select1]=0)
	for what in sold_out select1 select1 sold_out; do
		cp "$scratch/$what.sql" "$scratch/script.sql"
		for ((try = 0; ; try++)); do
			measure select1 64 "$BENCH_SECONDS"
			again "$try" || break
		done
		answers[$what]=$((answers[$what] + rate))
		detail+="${detail:+, }$what $rate"
	done
	echo "${answers[sold_out]} ${answers[select1]}" | awk '{ print $1 / $2 }' >>"$scratch/ratios"
done
figure "sold-out answers / SELECT 1 at 64" "$(printf %.2f "$(median <"$scratch/ratios")")" at_least 0.9 "$detail"

# The checkpointer and autovacuum write WAL of their own: quiet them, and leave
# out the record of running transactions that the background writer makes.
sql "SET client_min_messages = warning; CREATE EXTENSION IF NOT EXISTS pg_walinspect"
psql -qX -c "ALTER SYSTEM SET autovacuum = off" -c "SELECT pg_reload_conf()" -c "CHECKPOINT" >/dev/null
sleep 1
read -r xid lsn <<<"$(sql "SELECT pg_snapshot_xmax(pg_current_snapshot()) || ' ' || pg_current_wal_insert_lsn()")"
cp "$scratch/sold_out.sql" "$scratch/script.sql"
pgbench -n -f "$scratch/script.sql" -M prepared -c 10 -j 2 -t 10000 >"$scratch/pgbench" 2>&1
grep -q '100000/100000' "$scratch/pgbench" || die "not 100,000 answers"
read -r xid_after lsn_after <<<"$(sql "SELECT pg_snapshot_xmax(pg_current_snapshot()) || ' ' || pg_current_wal_insert_lsn()")"
wal=0
if [ "$lsn_after" != "$lsn" ]; then
	wal=$(sql "SELECT coalesce(sum(record_length), 0) FROM pg_get_wal_records_info('$lsn', '$lsn_after')
		WHERE record_type <> 'RUNNING_XACTS'")
fi
psql -qX -c "ALTER SYSTEM RESET autovacuum" -c "SELECT pg_reload_conf()" >/dev/null
figure "transaction ids used by 100,000 sold-out answers" "$((xid_after - xid))" at_most 0
figure "WAL bytes used by 100,000 sold-out answers" "$wal" at_most 0
sold=$(sql "SELECT count(*) FROM coupon.issuance")
figure "units sold of 1" "$sold" at_most 1
exit "$failed_figures"
