# shellcheck shell=bash disable=SC2034,SC2154
#
# Read by lib.sh: the HTTP front as a variant.  http_load calls it directly, at
# any number of connections.

# free_port: of the loopback address, on which nobody listens
# shellcheck source=bench/http/lib.sh
. "$bench_dir/http/lib.sh"

# Sets what http_load calls: an issue.
prepare_http()
{
	http=("$BENCH_HTTP" POST "/campaigns/$(cat "$scratch/campaign")/issues" '{"user_id":"%u"}')
	wait_until 30 'the front' front_is_ready
}

front_is_ready()
{
	"$programs/http_load" -c 1 -n 1 "$BENCH_HTTP" GET /readyz '' | grep -q ' 200=1$'
}

# why_no_front: what is missing for it; nothing when it is there
why_no_front()
{
	[ -n "$(sql "SELECT pid FROM pg_stat_activity WHERE backend_type = 'coupon front'")" ] ||
		echo 'no front: coupon was built without libmicrohttpd and libjwt (Debian: libmicrohttpd-dev libjwt-dev)'
}

# http_options OPTION...: those of pgbench as http_load has them, in options
http_options()
{
	local option

	options=()
	for option; do
		case $option in
			--log) ;;
			--log-prefix=*) options+=(-L "${option#*=}") ;;
			*) options+=("$option") ;;
		esac
	done
}
