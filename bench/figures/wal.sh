#!/usr/bin/env bash
#
# WAL per issue: issuance row, its index entries, event row and commit, without
# and with full-page images, for a policy without and with an expiry.
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_server "$@"
failed_figures=0

sql "SET client_min_messages = warning; CREATE EXTENSION IF NOT EXISTS pg_walinspect"

# Bytes of WAL for each row issued in one run.
run()
{
	local start end rows_before

	sql "CHECKPOINT"
	rows_before=$(variant_rows coupon)
	start=$(sql "SELECT pg_current_wal_insert_lsn()")
	pgbench -n -f "$scratch/script.sql" -M prepared -c 16 -j 2 -t 5000 >"$scratch/pgbench" 2>&1 ||
		die "pgbench: $(tail -n 3 "$scratch/pgbench")"
	end=$(sql "SELECT pg_current_wal_flush_lsn()")
	rows=$(($(variant_rows coupon) - rows_before))
	read -r records images <<<"$(sql "SELECT round(sum(record_size) / $rows) || ' ' || round(sum(fpi_size) / $rows)
		FROM pg_get_wal_stats('$start', '$end', true)")"
	parts=$(sql "SELECT string_agg(format('%s %s', \"resource_manager/record_type\", bytes), ', ' ORDER BY bytes DESC)
		FROM (SELECT \"resource_manager/record_type\", round(record_size / $rows) AS bytes
		        FROM pg_get_wal_stats('$start', '$end', true)) s WHERE bytes >= 1")
}

# The figure is for a policy without an expiry; an expiry adds an entry in a
# third index, and itself to policy and event.
for usage in '' ', "usage_period_days": 30'; do
	policy="{\"kind\": \"FIXED\", \"amount\": 5000$usage}"
	prepare_variant coupon
	name="WAL bytes per issue + event${usage:+, with an expiry}"
	how=at_most required=500
	[ -z "$usage" ] || how=info
	run
	figure "$name" "$records" "$how" "$required" "$parts"
	figure "$name: full-page images on top, empty tables" "$images" info -
	run
	figure "$name: the same after a checkpoint at 80,000 rows" "$records" "$how" "$required"
	figure "$name: full-page images on top of it" "$images" info - "80,000 calls right after a checkpoint"
	violations=$(check_variant coupon | head -n 5)
	[ -z "$violations" ] || die "void: $violations"
done

exit "$failed_figures"
