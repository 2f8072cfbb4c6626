#!/usr/bin/env bash
#
# peers/check.sh [VARIANT]...: are the peers right?  Each sells a small stock
# to a crowd that comes twice: exactly the stock must be gone, nobody has two,
# a second call gets the first answer.  Ceilings and what is no peer in SQL are
# passed over.
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_server "$@"

if [ $# = 0 ]; then
	for peer in "$bench_dir"/peers/*.sql; do
		set -- "$@" "$(basename "$peer" .sql)"
	done
fi
status=0
for variant in "$@"; do
	case $variant in
		select1 | answer | insert | insert_rows | grouped | http* | common | shards | pgq | pile* | redis_*) continue ;;
	esac
	prepare_variant "$variant" 1000
	sed -i 's/random(1, [0-9]*)/random(1, 2000)/' "$scratch/script.sql"
	PGOPTIONS="-c search_path=$schema" pgbench -n -f "$scratch/script.sql" -M prepared -c 16 -j 2 -t 500 \
		>"$scratch/pgbench" 2>&1 || true
	wrong=$(check_variant "$variant"; grep -m 3 ERROR "$scratch/pgbench" || true)
	rows=$(variant_rows "$variant")
	# a sequence loses the units of duplicates
	[ "$rows" = 1000 ] || [ "$variant" = sequence ] || wrong+=" $rows units sold of 1000"
	if [ "$variant" != coupon ]; then
		again=$(sql "SET search_path = $schema;
			SELECT count(*) FROM (SELECT i AS i, issue(1, i.user_id) AS r FROM issuance i OFFSET 0) x
			 WHERE (r).status <> 'already_issued' OR (r).serial <> (i).serial OR (r).issued_at <> (i).issued_at")
		[ "$again" = 0 ] || wrong+=" $again second calls got another answer"
	fi
	if [ -n "$wrong" ]; then
		echo "$variant: $wrong"
		status=1
	else
		echo "$variant: sells exactly its stock, one each"
	fi
done
exit "$status"
