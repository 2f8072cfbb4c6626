#!/usr/bin/env bash
#
# One session, 1,000,000 calls: 100,000 transactions of one call and 900
# statements of 1,000 calls.  Its private memory (RssAnon) and its memory
# contexts before and after.
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_server "$@"
failed_figures=0

prepare_variant coupon
campaign=$(cat "$scratch/campaign")

coproc session { psql -qXAt -v ON_ERROR_STOP=1 2>&1; }
# shellcheck disable=SC2154
exec 3>&"${session[1]}" 4<&"${session[0]}"

# send SQL, wait until it is done; answer is its last line
ask()
{
	local line

	printf '%s\n' "$1" '\echo -- done --' >&3
	answer=
	while read -r line <&4 && [ "$line" != "-- done --" ]; do
		answer=$line
	done
}

ask "SELECT pg_backend_pid();"
pid=$answer

calls()
{
	ask "SELECT format('SELECT coupon_issue($campaign, %L)', '$1-' || i) FROM generate_series(1, $2) i \\gexec"
	ask "SELECT format('SELECT count(coupon_issue($campaign, ''$1-%s-'' || i)) FROM generate_series(1, 1000) i', j) FROM generate_series(1, $3) j \\gexec"
}

memory()
{
	ask "SELECT sum(total_bytes) FROM pg_backend_memory_contexts;"
	contexts=$answer
	rss=$(awk '/^RssAnon/ { print $2 * 1024 }' "/proc/$pid/status")
}

# What a commit waits for does not matter here.
ask "SET synchronous_commit = off;"
calls warm 5000 20
memory
before_rss=$rss before_contexts=$contexts
calls full 100000 900
memory
ask '\q' || true
rows=$(variant_rows coupon)
[ "$rows" = 1025000 ] || die "void: $rows rows of 1025000"
violations=$(check_variant coupon | head -n 5)
[ -z "$violations" ] || die "void: $violations"
figure "backend memory growth over 1,000,000 calls, RssAnon bytes" $((rss - before_rss)) at_most 1048575 "$before_rss to $rss"
figure "backend memory growth over 1,000,000 calls, memory contexts, bytes" $((contexts - before_contexts)) at_most 1048575 "$before_contexts to $contexts"
exit "$failed_figures"
